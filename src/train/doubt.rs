//! Rows whose label is probably wrong, by confident learning (Northcutt et al., 2021, <https://arxiv.org/abs/1911.00068>).
//!
//! Each row gets probabilities from a softmax regression that has not seen it, on the vectors of an encoder that was not
//! fitted to the rows: a fine-tuned model has learned the wrong labels by heart. A row is suspect where another label is
//! more probable than it usually is for rows of that label, and more than the row's own.

use super::{
    Encoding, Observer, TrainError, base, labels,
    regression::{self, regress, scores},
};
use crate::{
    data::Row,
    engine::{EncoderConfig, TensorFile},
    guard::{Bundle, LoadError},
    model::{Batch, Classifier},
    tokenizer::{self, Tokenizer},
};
use candle_core::Device;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FOLDS: usize = 5;
const BATCH: usize = 64;
const MAX_TOKENS: usize = 96;
const DECAY: f32 = 1e-4;

/// What confident learning makes of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Doubt {
    /// Rows that were looked at.
    pub rows: usize,
    /// Share of those that could be judged whose probable label is the one they have, 0 to 1: where this is low, suspects
    /// mean little.
    pub agreement: f64,
    /// Share of suspects among all rows, 0 to 1: an estimate of the share of wrong labels that counts false alarms too.
    pub estimated_noise: f64,
    /// The most suspect first.
    pub suspects: Vec<Suspect>,
}

/// A row whose label is probably wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suspect {
    /// `file:line`.
    pub place: String,
    /// The message.
    pub text: String,
    /// What the row says.
    pub label: String,
    /// What it should probably say.
    pub suggested: String,
    /// Probability of the row's label, 0 to 1.
    pub probability: f32,
    /// Probability of the suggested label.
    pub suggested_probability: f32,
}

/// Looks for wrong labels in `rows` with the encoder in `base`. `observer` hears how many rows have been embedded.
///
/// # Errors
/// [`TrainError`], when there are fewer rows than folds or fewer than two labels, the base does not load, or the observer
/// asks to stop.
pub fn doubt(base: &Bundle<'_>, rows: &[Row], observer: &mut dyn Observer) -> Result<Doubt, TrainError> {
    let all: Vec<&Row> = rows.iter().collect();
    let labels = labels(&all, &all)?;
    if rows.len() < FOLDS {
        return Err(TrainError::NoRows("look at: too few"));
    }
    let gold: Vec<usize> =
        rows.iter().map(|row| labels.iter().position(|label| *label == row.label).unwrap_or(0)).collect();
    let inputs = vectors(base, rows, observer)?;
    let folds = folds(rows);
    let mut probabilities = vec![Vec::new(); rows.len()];
    for fold in 0..FOLDS {
        let (fit, rest): (Vec<usize>, Vec<usize>) = (0..rows.len()).partition(|&row| folds[row] != fold);
        let of = |rows: &[usize]| rows.iter().map(|&row| inputs[row].clone()).collect::<Vec<_>>();
        let weights = regress(&of(&fit), &fit.iter().map(|&row| gold[row]).collect::<Vec<_>>(), labels.len(), DECAY);
        // A label that is in this fold alone cannot be judged.
        for row in rest.into_iter().filter(|&row| fit.iter().any(|&other| gold[other] == gold[row])) {
            probabilities[row] = scores(&weights, &inputs[row]);
        }
    }
    let judged: Vec<usize> = (0..rows.len()).filter(|&row| !probabilities[row].is_empty()).collect();
    let agreement =
        judged.iter().filter(|&&row| probabilities[row].iter().all(|x| *x <= probabilities[row][gold[row]])).count();
    let suspects: Vec<Suspect> = suspects(&probabilities, &gold, labels.len())
        .into_iter()
        .map(|(row, suggested)| Suspect {
            place: rows[row].origin.to_string(),
            text: rows[row].text.clone(),
            label: rows[row].label.clone(),
            suggested: labels[suggested].clone(),
            probability: probabilities[row][gold[row]],
            suggested_probability: probabilities[row][suggested],
        })
        .collect();
    Ok(Doubt {
        rows: rows.len(),
        agreement: agreement as f64 / judged.len().max(1) as f64,
        estimated_noise: suspects.len() as f64 / rows.len() as f64,
        suspects,
    })
}

/// Suspect rows, of those that have probabilities, with the label each should probably have; those with the largest gap
/// between both probabilities first.
fn suspects(probabilities: &[Vec<f32>], gold: &[usize], classes: usize) -> Vec<(usize, usize)> {
    // How probable a label usually is for the rows that have it.
    let mut usual = vec![(0.0f64, 0usize); classes];
    for (row, &class) in probabilities.iter().zip(gold).filter(|(row, _)| !row.is_empty()) {
        usual[class] = (usual[class].0 + f64::from(row[class]), usual[class].1 + 1);
    }
    let usual: Vec<f32> = usual.into_iter().map(|(sum, rows)| (sum / rows.max(1) as f64) as f32).collect();
    let mut found: Vec<(f32, usize, usize)> = Vec::new();
    for (row, (p, &own)) in probabilities.iter().zip(gold).enumerate().filter(|(_, (p, _))| !p.is_empty()) {
        let others = (0..classes).filter(|&class| class != own && p[class] >= usual[class] && p[class] > p[own]);
        if let Some(other) = others.max_by(|&a, &b| p[a].total_cmp(&p[b])) {
            found.push((p[other] - p[own], row, other));
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, row, other)| (row, other)).collect()
}

/// The fold of each row: rows of a group, or with the same text, share one. The groups of a label are dealt out one by one,
/// so that a small label is in every fold.
fn folds(rows: &[Row]) -> Vec<usize> {
    let group = |row: &Row| row.group.clone().unwrap_or_else(|| row.text.clone());
    let label_of: BTreeMap<String, &str> = rows.iter().map(|row| (group(row), row.label.as_str())).collect();
    let mut groups: Vec<(String, &str)> = label_of.into_iter().collect();
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    groups.sort_by_key(|&(_, label)| label);
    let folds: BTreeMap<String, usize> =
        groups.into_iter().enumerate().map(|(n, (group, _))| (group, n % FOLDS)).collect();
    rows.iter().map(|row| folds[&group(row)]).collect()
}

/// What the encoder makes of each row, standardised, with the flow and a constant as further inputs.
fn vectors(base: &Bundle<'_>, rows: &[Row], observer: &mut dyn Observer) -> Result<Vec<Vec<f32>>, TrainError> {
    let config = EncoderConfig::from_json(&base.config).map_err(LoadError::from)?;
    let file = TensorFile::parse(&base.weights).map_err(LoadError::from)?;
    let json = base::with_flow_tokens(&base.tokenizer)?;
    let tokenizer = Tokenizer::from_json(&json)?;
    let mut classifier = Classifier::load(&config, &file, 0, &Device::Cpu)?;
    classifier.grow_vocabulary(config.vocab_size.max(tokenizer.vocabulary_size()));
    let encoding = Encoding { tokenizer: &tokenizer, max_tokens: MAX_TOKENS.min(config.max_position_embeddings) };
    let scratch = &mut tokenizer::Scratch::default();
    // The flow is an input of its own below.
    let mut ids: Vec<(usize, Vec<u32>)> =
        rows.iter().map(|row| encoding.ids(None, &row.text, scratch)).enumerate().collect();
    ids.sort_by_key(|(_, ids)| ids.len());
    let mut vectors = vec![Vec::new(); rows.len()];
    let mut done = 0;
    for chunk in ids.chunks(BATCH) {
        let batch = Batch::new(chunk.iter().map(|(_, ids)| ids.as_slice()), &Device::Cpu)?;
        for ((row, _), vector) in chunk.iter().zip(classifier.embed(&batch)?.to_vec2::<f32>()?) {
            vectors[*row] = vector;
        }
        done += chunk.len();
        observer.embedded(done, rows.len());
        if observer.should_stop() {
            return Err(TrainError::Stopped);
        }
    }
    Ok(regression::inputs(vectors, rows, rows.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_errors_are_found_and_named() {
        // Four classes, of which the third is always less sure of itself; every 21st label, of each class in turn, is turned
        // into the next.
        let sure = [0.9f32, 0.8, 0.5, 0.85];
        let truth: Vec<usize> = (0..800).map(|n| n % 4).collect();
        let planted = |n: usize| n % 21 == 7;
        let gold: Vec<usize> =
            truth.iter().enumerate().map(|(n, &t)| if planted(n) { (t + 1) % 4 } else { t }).collect();
        let probabilities: Vec<Vec<f32>> = truth
            .iter()
            .enumerate()
            .map(|(n, &t)| {
                let p = sure[t] + 0.05 * ((n * 37 % 11) as f32 / 11.0);
                (0..4).map(|class| if class == t { p } else { (1.0 - p) / 3.0 }).collect()
            })
            .collect();
        let found = suspects(&probabilities, &gold, 4);
        let rows: Vec<usize> = found.iter().map(|&(row, _)| row).collect();
        assert!(rows.iter().all(|&row| planted(row)), "nothing else is suspect");
        assert!(rows.len() >= 30, "{} of 38", rows.len());
        assert!(found.iter().all(|&(row, suggested)| suggested == truth[row]));
        let gap = |&(row, suggested): &(usize, usize)| probabilities[row][suggested] - probabilities[row][gold[row]];
        assert!(found.is_sorted_by(|a, b| gap(a) >= gap(b)), "the most suspect first");
    }
}
