//! `guard.json` from the logits of validation rows: temperature, energy gate, refusal thresholds.

use crate::guard::{EnergyGate, GuardConfig};
use ndarray::Array2;
use std::collections::BTreeMap;

/// Share of in-scope validation rows beyond the energy gate, for a model with an out-of-scope class.
const BEYOND_GATE: f64 = 0.001;
/// The same for a model without one, whose only defence the gate is.
const BEYOND_GATE_ALONE: f64 = 0.05;
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
    let share = if oos.is_some() { BEYOND_GATE } else { BEYOND_GATE_ALONE };
    guard.energy = energy_gate(&energies, gold, oos, share);
    if let Some(oos) = oos {
        let rows: Vec<Candidate> = (0..gold.len())
            .map(|row| {
                let scores: Vec<f64> =
                    logits.row(row).iter().map(|z| (z / temperature + energies[row]).exp()).collect();
                let far = f64::from(guard.energy.far(energies[row] as f32));
                let class = (0..labels.len()).filter(|&c| c != oos).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                Candidate {
                    class: class.unwrap_or(0),
                    oos_score: 1.0 - (1.0 - scores[oos]) * (1.0 - far),
                    refuse: gold[row] == oos,
                }
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

/// A gate that the given share of in-scope rows is beyond, a quarter of their spread wide.
fn energy_gate(energies: &[f64], gold: &[usize], oos: Option<usize>, share: f64) -> EnergyGate {
    let mut known: Vec<f64> =
        energies.iter().zip(gold).filter(|&(_, &gold)| Some(gold) != oos).map(|(&e, _)| e).collect();
    if known.is_empty() {
        known = energies.to_vec();
    }
    known.sort_by(f64::total_cmp);
    let at = ((1.0 - share) * known.len() as f64) as usize;
    let mean = known.iter().sum::<f64>() / known.len() as f64;
    let variance = known.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / known.len() as f64;
    EnergyGate {
        threshold: known[at.min(known.len() - 1)] as f32,
        // A model that gives every row the same energy still needs a gate of some width.
        scale: (0.25 * variance.sqrt()).max(1e-3) as f32,
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
