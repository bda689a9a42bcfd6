//! `guard.json` from the logits of validation rows: temperature, energy gate, refusal thresholds.

use crate::{
    eval::area_under_roc,
    guard::{EnergyGate, GuardConfig},
};
use ndarray::Array2;
use std::collections::BTreeMap;

/// An energy gate, by the share of in-scope validation rows beyond it and its width in deviations of their energies.
type Gate = (f64, f64);
/// The gate of a model with an out-of-scope class that it serves well enough: for what is like nothing at all.
const NARROW_GATE: Gate = (0.001, 0.25);
/// That of a model without such a class, whose only defence it is.
const LONE_GATE: Gate = (0.05, 0.25);
/// Wider gates help a class that has seen too little; these are tried.
const SHARES: [f64; 6] = [0.003, 0.01, 0.03, 0.1, 0.2, 0.4];
const WIDTHS: [f64; 4] = [0.25, 0.5, 1.0, 2.0];
/// By how much AUROC a gate must be better to be preferred: less than that is chance.
const WORTH: f64 = 0.001;
/// Out-of-scope validation rows that it takes to prefer a gate.
const ENOUGH_OOS_ROWS: usize = 30;
/// A label with fewer validation rows takes the threshold of all labels together.
const ENOUGH_ROWS: usize = 40;
/// Where refusal thresholds may lie.
const THRESHOLDS: std::ops::RangeInclusive<f64> = 0.3..=0.7;

/// A configuration that changes nothing, to load a model with before it is calibrated.
pub(super) fn uncalibrated() -> GuardConfig {
    GuardConfig {
        format: 1,
        model_version: "uncalibrated".into(),
        oos_label: None,
        temperature: 1.0,
        thresholds: BTreeMap::new(),
        min_margin: 0.2,
        energy: EnergyGate { threshold: 1e6, scale: 1.0 },
        max_tokens: 8,
        languages: Vec::new(),
        dataset_hash: String::new(),
        seed: 0,
        created_by: format!("intentgate {}", env!("CARGO_PKG_VERSION")),
    }
}

/// Fills in temperature, energy gate and thresholds of `guard`. `gold` is the true class of each row of `logits`.
pub(super) fn calibrate(mut guard: GuardConfig, labels: &[String], logits: &[Vec<f32>], gold: &[usize]) -> GuardConfig {
    let oos = guard.oos_label.as_ref().and_then(|oos| labels.iter().position(|label| label == oos));
    let logits = Array2::from_shape_fn((logits.len(), labels.len()), |(row, class)| f64::from(logits[row][class]));
    let temperature = temperature(&logits, gold);
    guard.temperature = temperature as f32;
    let energies: Vec<f64> = logits.outer_iter().map(|row| -log_sum_exp(row.iter().map(|z| z / temperature))).collect();
    let known: Vec<f64> = energies.iter().zip(gold).filter(|&(_, &gold)| Some(gold) != oos).map(|(&e, _)| e).collect();
    let known = Energies::new(if known.is_empty() { energies.clone() } else { known });
    guard.energy = known.gate(LONE_GATE);
    if let Some(oos) = oos {
        let scores = Array2::from_shape_fn(logits.dim(), |(row, class)| {
            (logits[[row, class]] / temperature + energies[row]).exp()
        });
        let refuse: Vec<bool> = gold.iter().map(|&gold| gold == oos).collect();
        let oos_scores = |gate: EnergyGate| -> Vec<f64> {
            let far = |row: usize| f64::from(gate.far(energies[row] as f32));
            (0..gold.len()).map(|row| 1.0 - (1.0 - scores[[row, oos]]) * (1.0 - far(row))).collect()
        };
        guard.energy = best_gate(&known, &refuse, &oos_scores);
        let rows: Vec<Candidate> = oos_scores(guard.energy)
            .into_iter()
            .enumerate()
            .map(|(row, oos_score)| {
                let score = |class: usize| scores[[row, class]];
                let class = (0..labels.len()).filter(|&c| c != oos).max_by(|&a, &b| score(a).total_cmp(&score(b)));
                Candidate { class: class.unwrap_or(0), oos_score, refuse: refuse[row] }
            })
            .collect();
        let all = threshold(&rows.iter().collect::<Vec<_>>());
        for (class, label) in labels.iter().enumerate().filter(|&(class, _)| class != oos) {
            let own: Vec<&Candidate> = rows.iter().filter(|row| row.class == class).collect();
            let value = if own.len() < ENOUGH_ROWS { all } else { threshold(&own) };
            guard.thresholds.insert(label.clone(), ((value * 1000.0).round() / 1000.0) as f32);
        }
    }
    guard
}

fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let highest = values.clone().fold(f64::NEG_INFINITY, f64::max);
    highest + values.map(|value| (value - highest).exp()).sum::<f64>().ln()
}

/// The temperature with the lowest negative log likelihood, by golden section search on its logarithm, in which the
/// likelihood has one minimum.
fn temperature(logits: &Array2<f64>, gold: &[usize]) -> f64 {
    let loss = |log_temperature: f64| -> f64 {
        let t = log_temperature.exp();
        logits.outer_iter().zip(gold).map(|(row, &gold)| log_sum_exp(row.iter().map(|z| z / t)) - row[gold] / t).sum()
    };
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-3.0, 3.0);
    for _ in 0..60 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if loss(a) < loss(b) {
            high = b;
        } else {
            low = a;
        }
    }
    (0.5f64 * (low + high)).exp()
}

/// The narrow gate, or the one that tells rows out of scope apart better by far enough.
fn best_gate(known: &Energies, refuse: &[bool], oos_scores: &dyn Fn(EnergyGate) -> Vec<f64>) -> EnergyGate {
    let auroc = |gate: EnergyGate| {
        let (mut outside, mut inside) = (Vec::new(), Vec::new());
        for (score, &refuse) in oos_scores(gate).into_iter().zip(refuse) {
            if refuse { outside.push(score as f32) } else { inside.push(score as f32) }
        }
        if outside.len() < ENOUGH_OOS_ROWS { None } else { area_under_roc(&outside, &inside) }
    };
    let narrow = known.gate(NARROW_GATE);
    let gates = SHARES.iter().flat_map(|&share| WIDTHS.map(|width| known.gate((share, width))));
    let mut best = (narrow, auroc(narrow).unwrap_or(1.0) + WORTH);
    for gate in gates {
        if let Some(auroc) = auroc(gate).filter(|&auroc| auroc > best.1) {
            best = (gate, auroc);
        }
    }
    best.0
}

/// The energies of in-scope rows, from the nearest to the furthest.
struct Energies {
    sorted: Vec<f64>,
    deviation: f64,
}

impl Energies {
    fn new(mut sorted: Vec<f64>) -> Self {
        sorted.sort_by(f64::total_cmp);
        let rows = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / rows;
        let deviation = (sorted.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / rows).sqrt();
        Energies { sorted, deviation }
    }

    fn gate(&self, (share, width): Gate) -> EnergyGate {
        let at = ((1.0 - share) * self.sorted.len() as f64) as usize;
        EnergyGate {
            threshold: self.sorted[at.min(self.sorted.len() - 1)] as f32,
            // A model that gives every row the same energy still needs a gate of some width.
            scale: (width * self.deviation).max(1e-3) as f32,
        }
    }
}

/// A row by its best in-scope class.
struct Candidate {
    class: usize,
    oos_score: f64,
    refuse: bool,
}

/// The threshold with the fewest wrong refusals and wrong acceptances together, halfway between the scores beside it;
/// of several, the one nearest to a half. It stays within [`THRESHOLDS`]: beyond that a verdict would go against a clear
/// majority of the probability because of a few rows.
fn threshold(rows: &[&Candidate]) -> f64 {
    let mut scores: Vec<(f64, bool)> = rows.iter().map(|row| (row.oos_score, row.refuse)).collect();
    scores.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Everything is refused at first: each acceptance, from the lowest score up, mends or makes an error.
    let mut errors = scores.iter().filter(|(_, refuse)| !refuse).count();
    let mut best = (usize::MAX, 0.5f64);
    for i in 0..=scores.len() {
        let below = if i == 0 { 0.0 } else { scores[i - 1].0 }.max(*THRESHOLDS.start());
        let above = scores.get(i).map_or(1.0, |score| score.0).min(*THRESHOLDS.end());
        let candidate = if (below..=above).contains(&0.5) { 0.5 } else { 0.5 * (below + above) };
        let nearer = (candidate - 0.5).abs() < (best.1 - 0.5).abs();
        if below <= above && (errors < best.0 || (errors == best.0 && nearer)) {
            best = (errors, candidate);
        }
        if let Some(&(_, refuse)) = scores.get(i) {
            errors = if refuse { errors + 1 } else { errors - 1 };
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn overconfident_logits_get_a_temperature_above_one() {
        // Right three times in four at a confidence of nearly 1: calibrated is ln 3 = 20 / T.
        let logits = vec![vec![20.0, 0.0]; 400];
        let gold: Vec<usize> = (0..400).map(|n| usize::from(n % 4 == 0)).collect();
        let labels = ["a".to_owned(), "b".to_owned()];
        let guard = calibrate(uncalibrated(), &labels, &logits, &gold);
        assert!((guard.temperature - 20.0 / 3f32.ln()).abs() < 0.05, "{}", guard.temperature);
        assert!(guard.check(&labels).is_ok() && guard.thresholds.is_empty());
    }

    proptest! {
        #[test]
        fn no_threshold_makes_fewer_errors(scores in prop::collection::vec((0.0f64..1.0, any::<bool>()), 1..30)) {
            let rows: Vec<Candidate> =
                scores.iter().map(|&(oos_score, refuse)| Candidate { class: 0, oos_score, refuse }).collect();
            let errors = |t: f64| scores.iter().filter(|&&(score, refuse)| (score > t) != refuse).count();
            let found = errors(threshold(&rows.iter().collect::<Vec<_>>()));
            let fewest = (300..=700).map(|n| errors(f64::from(n) / 1000.0)).min().unwrap();
            prop_assert!(found <= fewest);
        }
    }
}
