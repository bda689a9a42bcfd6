//! How the measures change with the threshold: what a report draws.

use super::metrics::Outcome;
use serde::{Deserialize, Serialize};

/// Bins of the OOS score.
const BINS: usize = 50;
/// Most points of a curve.
const POINTS: usize = 100;
/// The in-scope accuracy at which the literature on CLINC150 compares OOS recall.
const COMPARED_AT: f64 = 0.955;

/// Curves over all rows. Shares are from 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curves {
    /// In-scope rows by OOS score, in equal bins from 0 to 1.
    pub in_scope_oos_scores: Vec<usize>,
    /// Out-of-scope rows likewise.
    pub out_of_scope_oos_scores: Vec<usize>,
    /// Errors among the most confident rows (Geifman and El-Yaniv, 2017, <https://arxiv.org/abs/1705.08500>).
    pub risk_coverage: Vec<RiskCoverage>,
    /// The mean risk over all coverages.
    pub area_under_risk_coverage: f64,
    /// What one threshold of the OOS score for all labels would do, by rising false refusals; empty without rows of both
    /// sides.
    pub thresholds: Vec<Threshold>,
    /// Share of in-scope rows whose most probable in-scope label is right, whether they are refused or not.
    pub in_scope_accuracy_unrefused: Option<f64>,
    /// The lowest false refusal rate at which 95 % of the out-of-scope rows are refused.
    pub false_refusal_at_95_recall: Option<f64>,
    /// The highest OOS recall at which 95.5 % of the in-scope rows still get the right label, a refusal being an error;
    /// `None` where no threshold is that good.
    pub oos_recall_at_955_accuracy: Option<f64>,
}

/// A point of the risk-coverage curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RiskCoverage {
    /// Share of rows, the most confident ones.
    pub coverage: f64,
    /// Share of them whose most probable label is wrong.
    pub risk: f64,
}

/// What a threshold of the OOS score does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Rows with a higher score are refused.
    pub oos_score: f32,
    /// Share of in-scope rows that are refused.
    pub false_refusal_rate: f64,
    /// Share of out-of-scope rows that are refused.
    pub oos_recall: f64,
    /// Share of in-scope rows with the right label; a refusal is an error.
    pub in_scope_accuracy: f64,
}

impl Curves {
    pub(super) fn new(outcomes: &[Outcome], oos: usize) -> Self {
        let (outside, inside): (Vec<&Outcome>, Vec<&Outcome>) = outcomes.iter().partition(|o| o.gold == oos);
        let (risk_coverage, area_under_risk_coverage) = risk_coverage(outcomes);
        let all = thresholds(&outside, &inside);
        let at = |keep: &dyn Fn(&&Threshold) -> bool| all.iter().filter(keep).copied().collect::<Vec<_>>();
        let unrefused = inside.iter().filter(|o| o.best == Some(o.gold)).count();
        Curves {
            in_scope_oos_scores: histogram(&inside),
            out_of_scope_oos_scores: histogram(&outside),
            risk_coverage,
            area_under_risk_coverage,
            in_scope_accuracy_unrefused: (!inside.is_empty()).then(|| unrefused as f64 / inside.len() as f64),
            false_refusal_at_95_recall: at(&|t| t.oos_recall >= 0.95).first().map(|t| t.false_refusal_rate),
            oos_recall_at_955_accuracy: at(&|t| t.in_scope_accuracy >= COMPARED_AT).last().map(|t| t.oos_recall),
            thresholds: thin(all),
        }
    }
}

fn histogram(outcomes: &[&Outcome]) -> Vec<usize> {
    let mut bins = vec![0; BINS];
    for outcome in outcomes {
        bins[((outcome.oos_score * BINS as f32) as usize).min(BINS - 1)] += 1;
    }
    bins
}

fn risk_coverage(outcomes: &[Outcome]) -> (Vec<RiskCoverage>, f64) {
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let mut wrong = 0;
    let curve: Vec<RiskCoverage> = (1..)
        .zip(sorted)
        .map(|(rows, outcome)| {
            wrong += usize::from(!outcome.hit);
            RiskCoverage { coverage: rows as f64 / outcomes.len() as f64, risk: wrong as f64 / rows as f64 }
        })
        .collect();
    let area = curve.iter().map(|point| point.risk).sum::<f64>() / curve.len().max(1) as f64;
    (thin(curve), area)
}

/// Every threshold that tells rows apart, from the highest down: refusals grow.
fn thresholds(outside: &[&Outcome], inside: &[&Outcome]) -> Vec<Threshold> {
    if outside.is_empty() || inside.is_empty() {
        return Vec::new();
    }
    // Whether it is out of scope, and whether an answer would be right.
    let mut rows: Vec<(f32, bool, bool)> = outside.iter().map(|o| (o.oos_score, true, false)).collect();
    rows.extend(inside.iter().map(|o| (o.oos_score, false, o.best == Some(o.gold))));
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut refused_outside, mut refused_inside) = (0, 0);
    let mut right = inside.iter().filter(|o| o.best == Some(o.gold)).count();
    let mut points = Vec::new();
    let mut groups = rows.chunk_by(|a, b| a.0 == b.0).peekable();
    points.push((1.0, refused_inside, refused_outside, right));
    while let Some(group) = groups.next() {
        for &(_, out, would_be_right) in group {
            if out {
                refused_outside += 1
            } else {
                refused_inside += 1
            }
            right -= usize::from(would_be_right);
        }
        points.push((groups.peek().map_or(0.0, |next| next[0].0), refused_inside, refused_outside, right));
    }
    let share = |part: usize, of: usize| part as f64 / of as f64;
    points
        .into_iter()
        .map(|(oos_score, refused_inside, refused_outside, right)| Threshold {
            oos_score,
            false_refusal_rate: share(refused_inside, inside.len()),
            oos_recall: share(refused_outside, outside.len()),
            in_scope_accuracy: share(right, inside.len()),
        })
        .collect()
}

/// At most so many points, evenly taken, the first and the last among them.
fn thin<T: Copy>(curve: Vec<T>) -> Vec<T> {
    if curve.len() <= POINTS {
        return curve;
    }
    (0..POINTS).map(|n| curve[n * (curve.len() - 1) / (POINTS - 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcome(gold: usize, best: usize, oos_score: f32, hit: bool) -> Outcome {
        Outcome { gold, predicted: best, best: Some(best), confidence: 1.0 - oos_score, hit, oos_score }
    }

    #[test]
    fn a_guard_that_tells_all_apart_has_nothing_to_trade() {
        let rows: Vec<Outcome> = (0..40)
            .map(|n| if n % 4 == 0 { outcome(2, 0, 0.9, false) } else { outcome(n % 2, n % 2, 0.01 * n as f32, true) })
            .collect();
        let curves = Curves::new(&rows, 2);
        assert_eq!(curves.false_refusal_at_95_recall, Some(0.0));
        assert_eq!(curves.oos_recall_at_955_accuracy, Some(1.0));
        assert_eq!(curves.in_scope_accuracy_unrefused, Some(1.0));
        assert_eq!((curves.out_of_scope_oos_scores[45], curves.in_scope_oos_scores.iter().sum::<usize>()), (10, 30));
    }

    proptest! {
        #[test]
        fn curves_agree_with_counting(
            rows in prop::collection::vec((0..3usize, 0..2usize, 0..=20u8, any::<bool>()), 1..300)
        ) {
            let rows: Vec<Outcome> =
                rows.into_iter().map(|(gold, best, score, hit)| outcome(gold, best, f32::from(score) / 20.0, hit)).collect();
            let curves = Curves::new(&rows, 2);
            let inside = rows.iter().filter(|o| o.gold != 2).count() as f64;
            for t in &curves.thresholds {
                // The lowest threshold is below every score: all are refused there.
                let refused = |o: &&Outcome| o.oos_score > t.oos_score || (t.false_refusal_rate == 1.0 && t.oos_recall == 1.0);
                let false_refusals = rows.iter().filter(|o| o.gold != 2).filter(refused).count() as f64;
                let right = rows.iter().filter(|o| o.gold != 2 && o.best == Some(o.gold)).filter(|o| !refused(o)).count();
                prop_assert!((t.false_refusal_rate - false_refusals / inside).abs() < 1e-9);
                prop_assert!((t.in_scope_accuracy - right as f64 / inside).abs() < 1e-9);
            }
            prop_assert!(curves.thresholds.is_sorted_by(|a, b| a.oos_recall <= b.oos_recall));
            let errors = rows.iter().filter(|o| !o.hit).count() as f64 / rows.len() as f64;
            prop_assert!((curves.risk_coverage.last().unwrap().risk - errors).abs() < 1e-9);
        }
    }
}
