//! The measures themselves, by their textbook definitions.

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Bins of confidence in calibration measures.
const BINS: usize = 15;

/// One row after the guard has seen it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// The true class.
    pub gold: usize,
    /// The final class, after thresholds.
    pub predicted: usize,
    /// The most probable in-scope class, whether the message is refused or not; `None` for an empty message.
    pub best: Option<usize>,
    /// The highest calibrated probability, before thresholds.
    pub confidence: f32,
    /// Whether the class with that probability is the true one.
    pub hit: bool,
    pub oos_score: f32,
}

/// Measures of one set of rows. A measure is `None` where the set has nothing to measure it on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Rows.
    pub rows: usize,
    /// Share of rows with the right final label.
    pub accuracy: f64,
    /// Mean F1 of the labels that occur in the set.
    pub macro_f1: f64,
    /// Share of in-scope rows with the right final label; a refusal is an error.
    pub in_scope_accuracy: Option<f64>,
    /// Share of in-scope rows that are refused.
    pub false_refusal_rate: Option<f64>,
    /// Share of out-of-scope rows that are refused.
    pub oos_recall: Option<f64>,
    /// Area under the ROC curve of the OOS score: the chance that an out-of-scope row scores above an in-scope one.
    pub oos_auroc: Option<f64>,
    /// Mean gap between confidence and accuracy over 15 equal bins of confidence, weighted by rows.
    pub expected_calibration_error: f64,
    /// By label.
    pub labels: BTreeMap<String, LabelMetrics>,
}

/// Measures of one label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelMetrics {
    /// Of the rows given this label, the share that deserve it; `None` when none was given it.
    pub precision: Option<f64>,
    /// Of the rows that deserve this label, the share given it; `None` when there are none.
    pub recall: Option<f64>,
    /// Harmonic mean of both, 0 when either is 0 or missing.
    pub f1: f64,
    /// Rows that deserve it.
    pub support: usize,
}

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Rows in the bin.
    pub rows: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// The share of them whose most probable class is right.
    pub accuracy: f64,
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Metrics {
    pub(super) fn measure(outcomes: &[&Outcome], labels: &[String], oos: usize) -> Self {
        let confusion = confusion(outcomes, labels.len());
        let by_label: BTreeMap<String, LabelMetrics> = labels
            .iter()
            .enumerate()
            .map(|(class, label)| {
                let hits = confusion[[class, class]];
                let support = confusion.row(class).sum();
                let precision = share(hits, confusion.column(class).sum());
                let recall = share(hits, support);
                let f1 = match (precision, recall) {
                    (Some(p), Some(r)) if p + r > 0.0 => 2.0 * p * r / (p + r),
                    _ => 0.0,
                };
                (label.clone(), LabelMetrics { precision, recall, f1, support })
            })
            .collect();
        let present: Vec<f64> = by_label.values().filter(|label| label.support > 0).map(|label| label.f1).collect();
        let (refusable, answerable): (Vec<&Outcome>, Vec<&Outcome>) = outcomes.iter().partition(|o| o.gold == oos);
        let count = |of: &[&Outcome], what: &dyn Fn(&Outcome) -> bool| of.iter().filter(|o| what(o)).count();
        let scores = |of: &[&Outcome]| of.iter().map(|o| o.oos_score).collect::<Vec<f32>>();
        let confident: Vec<(f32, bool)> = outcomes.iter().map(|o| (o.confidence, o.hit)).collect();
        Metrics {
            rows: outcomes.len(),
            accuracy: share(count(outcomes, &|o| o.predicted == o.gold), outcomes.len()).unwrap_or(0.0),
            macro_f1: present.iter().sum::<f64>() / present.len().max(1) as f64,
            in_scope_accuracy: share(count(&answerable, &|o| o.predicted == o.gold), answerable.len()),
            false_refusal_rate: share(count(&answerable, &|o| o.predicted == oos), answerable.len()),
            oos_recall: share(count(&refusable, &|o| o.predicted == oos), refusable.len()),
            oos_auroc: area_under_roc(&scores(&refusable), &scores(&answerable)),
            expected_calibration_error: expected_calibration_error(&confident),
            labels: by_label,
        }
    }
}

/// Rows by true class (down) and final class (across).
pub(super) fn confusion(outcomes: &[&Outcome], classes: usize) -> Array2<usize> {
    let mut counts = Array2::zeros((classes, classes));
    for outcome in outcomes {
        counts[[outcome.gold, outcome.predicted]] += 1;
    }
    counts
}

/// The chance that a random positive scores above a random negative, ties counted half (the Mann-Whitney statistic).
/// `None` when either side is empty.
pub fn area_under_roc(positive: &[f32], negative: &[f32]) -> Option<f64> {
    if positive.is_empty() || negative.is_empty() {
        return None;
    }
    let mut all: Vec<(f32, bool)> =
        positive.iter().map(|&s| (s, true)).chain(negative.iter().map(|&s| (s, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut rank_sum = 0.0;
    let mut below = 0;
    for tied in all.chunk_by(|a, b| a.0 == b.0) {
        // Ranks count from 1; equal scores share their mean rank.
        let mean_rank = below as f64 + (tied.len() + 1) as f64 / 2.0;
        rank_sum += mean_rank * tied.iter().filter(|(_, positive)| *positive).count() as f64;
        below += tied.len();
    }
    let (p, n) = (positive.len() as f64, negative.len() as f64);
    Some((rank_sum - p * (p + 1.0) / 2.0) / (p * n))
}

/// Expected calibration error (Naeini et al., 2015; Guo et al., 2017) of `(confidence, correct)` pairs, over 15 bins.
pub fn expected_calibration_error(predictions: &[(f32, bool)]) -> f64 {
    let bins = bins(predictions);
    let rows = predictions.len().max(1) as f64;
    bins.iter().map(|bin| bin.rows as f64 / rows * (bin.confidence - bin.accuracy).abs()).sum()
}

pub(super) fn calibration(outcomes: &[&Outcome]) -> Vec<Calibration> {
    bins(&outcomes.iter().map(|o| (o.confidence, o.hit)).collect::<Vec<_>>())
}

/// The bins that are not empty, by rising confidence.
fn bins(predictions: &[(f32, bool)]) -> Vec<Calibration> {
    let mut sums = [(0usize, 0.0f64, 0usize); BINS];
    for &(confidence, correct) in predictions {
        let bin = &mut sums[((confidence * BINS as f32) as usize).min(BINS - 1)];
        *bin = (bin.0 + 1, bin.1 + f64::from(confidence), bin.2 + usize::from(correct));
    }
    sums.into_iter()
        .filter(|&(rows, ..)| rows > 0)
        .map(|(rows, confidence, hits)| Calibration {
            rows,
            confidence: confidence / rows as f64,
            accuracy: hits as f64 / rows as f64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome(gold: usize, predicted: usize) -> Outcome {
        Outcome {
            gold,
            predicted,
            best: Some(predicted % 2),
            confidence: 0.9,
            hit: gold == predicted,
            oos_score: f32::from(predicted == 2),
        }
    }

    #[test]
    fn counts_by_hand() {
        let labels = ["a", "b", "oos"].map(String::from);
        let outcomes = [outcome(0, 0), outcome(0, 1), outcome(1, 1), outcome(1, 2), outcome(2, 2), outcome(2, 0)];
        let m = Metrics::measure(&outcomes.iter().collect::<Vec<_>>(), &labels, 2);
        assert_eq!((m.rows, m.accuracy), (6, 0.5));
        assert_eq!((m.in_scope_accuracy, m.false_refusal_rate, m.oos_recall), (Some(0.5), Some(0.25), Some(0.5)));
        assert_eq!(m.oos_auroc, Some(0.625));
        assert_eq!((m.labels["a"].precision, m.labels["a"].recall, m.labels["a"].f1), (Some(0.5), Some(0.5), 0.5));
        assert!((m.expected_calibration_error - 0.4).abs() < 1e-6);
    }

    #[test]
    fn nothing_to_measure_is_none() {
        let labels = ["a", "oos"].map(String::from);
        let only_in_scope = [outcome(0, 0)];
        let m = Metrics::measure(&only_in_scope.iter().collect::<Vec<_>>(), &labels, 1);
        assert_eq!((m.oos_recall, m.oos_auroc, m.labels["oos"].recall), (None, None, None));
        assert_eq!(m.macro_f1, 1.0, "labels that do not occur are left out");
    }

    proptest! {
        #[test]
        fn auroc_equals_counting_pairs(positive in prop::collection::vec(0u8..6, 1..20), negative in prop::collection::vec(0u8..6, 1..20)) {
            let scores = |of: &[u8]| of.iter().map(|&s| f32::from(s)).collect::<Vec<_>>();
            let mut wins = 0.0;
            for p in &positive {
                for n in &negative {
                    wins += match p.cmp(n) {
                        std::cmp::Ordering::Greater => 1.0,
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Less => 0.0,
                    };
                }
            }
            let expected = wins / (positive.len() * negative.len()) as f64;
            let found = area_under_roc(&scores(&positive), &scores(&negative)).unwrap();
            prop_assert!((found - expected).abs() < 1e-9);
        }
    }
}
