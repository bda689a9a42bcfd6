//! What refusal thresholds can reach: out-of-scope recall for a budget of false refusals.
//!
//! A message whose best in-scope label is L is refused when its OOS score is above the threshold of L. Every threshold
//! that matters lies between two neighbouring scores of measured rows, so the rows of a label give a list of [`Cut`]s.
//! One threshold for all labels is a cut through all rows. A threshold for each label is a knapsack: it is filled by
//! Lagrange multipliers (Everett, 1963, <https://doi.org/10.1287/opre.11.3.399>), that is with one price of a false
//! refusal for all labels, lowered until the budget is spent.

use super::{EvalError, unknown_label};
use crate::{
    data::Row,
    guard::{DEFAULT_THRESHOLD, Guard, GuardConfig, GuardConfigError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Labels that are the best one of fewer rows share a threshold, as in training.
const ENOUGH_ROWS: usize = 40;

/// Thresholds by label, and what they do to the measured rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// The threshold of every in-scope label, 0 to 1.
    pub thresholds: BTreeMap<String, f32>,
    /// Share of in-scope rows that are refused.
    pub false_refusal_rate: f64,
    /// Share of out-of-scope rows that are refused.
    pub oos_recall: f64,
    /// Share of rows with the right final label.
    pub accuracy: f64,
}

/// A row as thresholds see it.
#[derive(Clone, Copy, Debug)]
struct ScoredRow {
    /// The true class; `None` out of scope.
    gold: Option<usize>,
    /// The best in-scope class; `None` for an empty message, which is refused whatever the thresholds.
    best: Option<usize>,
    oos_score: f32,
}

/// A threshold, and the rows it refuses of those it is for.
#[derive(Clone, Copy, Debug)]
struct Cut {
    threshold: f32,
    in_scope: usize,
    out_of_scope: usize,
}

impl Cut {
    /// Out-of-scope rows refused for one false refusal more, from here to `to`.
    fn gain(&self, to: &Cut) -> f64 {
        (to.out_of_scope - self.out_of_scope) as f64 / (to.in_scope - self.in_scope) as f64
    }
}

/// From one corner of a label's curve to the next.
#[derive(Clone, Copy, Debug)]
struct Step {
    gain: f64,
    curve: usize,
    to: usize,
}

/// The operating points of a guard on measured rows.
///
/// The rows must be like those of a validation set: on training rows a guard looks better than it is, and a test set that
/// has been tuned on no longer tells how good the guard is.
#[derive(Clone, Debug)]
pub struct OperatingPoints {
    rows: Vec<ScoredRow>,
    /// All labels of the model; `None` for the one that is out of scope.
    labels: Vec<Option<String>>,
    /// Cuts through all rows.
    common: Vec<Cut>,
    /// Cuts through the rows of one label, or of the labels that share a threshold.
    curves: Vec<Vec<Cut>>,
    /// The curve of each class.
    curve_of: Vec<usize>,
    /// Steps on all curves, the most rewarding first.
    steps: Vec<Step>,
}

impl OperatingPoints {
    /// Runs `guard` over `rows`. `progress` is called after each row with the number done.
    ///
    /// # Errors
    /// [`EvalError`] when a row has a label that the model does not know, or when no row is in scope or none out of it.
    /// Rows labelled `out_of_scope` are out of scope for a model without such a class.
    pub fn measure(guard: &Guard, rows: &[Row], mut progress: impl FnMut(usize)) -> Result<Self, EvalError> {
        let labels = guard.labels();
        let oos = guard.config().oos_label.as_deref();
        let mut scored = Vec::with_capacity(rows.len());
        for (n, row) in rows.iter().enumerate() {
            let gold = if row.label == oos.unwrap_or("out_of_scope") {
                None
            } else {
                let known = labels.iter().position(|label| *label == row.label);
                Some(known.ok_or_else(|| unknown_label(row, labels))?)
            };
            let verdict = guard.check_message(row.context, &row.text);
            let in_scope = verdict.scores().enumerate().filter(|(_, (label, _))| Some(*label) != oos);
            let best = in_scope.max_by(|(_, (_, a)), (_, (_, b))| a.total_cmp(b)).map(|(class, _)| class);
            scored.push(ScoredRow { gold, best, oos_score: verdict.oos_score() });
            progress(n + 1);
        }
        Self::new(scored, labels.iter().map(|label| (Some(label.as_str()) != oos).then(|| label.clone())).collect())
    }

    fn new(rows: Vec<ScoredRow>, labels: Vec<Option<String>>) -> Result<Self, EvalError> {
        let in_scope = rows.iter().filter(|row| row.gold.is_some()).count();
        if in_scope == 0 || in_scope == rows.len() {
            return Err(EvalError::OneSided { in_scope, out_of_scope: rows.len() - in_scope });
        }
        let count = |class: usize| rows.iter().filter(|row| row.best == Some(class)).count();
        let mut classes: Vec<(usize, usize)> =
            (0..labels.len()).filter(|&class| labels[class].is_some()).map(|class| (count(class), class)).collect();
        classes.sort_unstable();
        // Curve 0 is of the labels with few rows; where these are few together, of the next larger ones as well.
        let mut curve_of = vec![0; labels.len()];
        let (mut shared, mut curves) = (0, 0);
        for (n, &(rows, class)) in classes.iter().enumerate() {
            if rows < ENOUGH_ROWS || (n > 0 && curves == 0 && shared < ENOUGH_ROWS) {
                shared += rows;
            } else {
                curves += 1;
                curve_of[class] = curves;
            }
        }
        let cuts_of = |keep: &dyn Fn(usize) -> bool| {
            cuts(rows.iter().filter(|row| row.best.is_some_and(keep)).map(|row| (row.oos_score, row.gold.is_some())))
        };
        let common = cuts_of(&|_| true);
        let curves: Vec<Vec<Cut>> = (0..=curves).map(|curve| cuts_of(&|class| curve_of[class] == curve)).collect();
        let mut steps: Vec<Step> = curves.iter().enumerate().flat_map(|(n, cuts)| steps(n, cuts)).collect();
        // Stable: the steps of a curve, of falling gain, stay in order.
        steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        Ok(OperatingPoints { rows, labels, common, curves, curve_of, steps })
    }

    /// Rows in scope and rows out of scope.
    pub fn rows(&self) -> (usize, usize) {
        let in_scope = self.rows.iter().filter(|row| row.gold.is_some()).count();
        (in_scope, self.rows.len() - in_scope)
    }

    /// The OOS score of each row, 0 to 1.
    pub fn oos_scores(&self) -> impl Iterator<Item = f32> {
        self.rows.iter().map(|row| row.oos_score)
    }

    /// Whether each row is refused with these thresholds; a label that is not named has 0.5, as in `guard.json`.
    pub fn refused(&self, thresholds: &BTreeMap<String, f32>) -> Vec<bool> {
        let thresholds = self.by_class(thresholds);
        self.rows.iter().map(|row| row.best.is_none_or(|class| row.oos_score > thresholds[class])).collect()
    }

    /// What these thresholds do; a label that is not named has 0.5, as in `guard.json`.
    pub fn at(&self, thresholds: &BTreeMap<String, f32>) -> OperatingPoint {
        self.point(&self.by_class(thresholds))
    }

    /// The most out-of-scope rows refused by one threshold for all labels that refuses at most this share of in-scope
    /// rows, 0 to 1.
    pub fn common(&self, max_false_refusal: f64) -> OperatingPoint {
        let cut = within(&self.common, self.budget(max_false_refusal));
        self.point(&vec![self.common[cut].threshold; self.labels.len()])
    }

    /// The most out-of-scope rows refused by a threshold for each label, together refusing at most this share of
    /// in-scope rows, 0 to 1. Labels with fewer than 40 rows share a threshold. Never worse than
    /// [`OperatingPoints::common`], and with a larger share never worse than with a smaller one.
    pub fn per_label(&self, max_false_refusal: f64) -> OperatingPoint {
        let budget = self.budget(max_false_refusal);
        let mut room = budget;
        let mut at = vec![0; self.curves.len()];
        for step in &self.steps {
            let (cuts, at) = (&self.curves[step.curve][..=step.to], &mut at[step.curve]);
            let from = cuts[*at].in_scope;
            // The last step goes as far as the budget does.
            *at = within(cuts, from + room);
            room -= cuts[*at].in_scope - from;
            if *at < step.to {
                break;
            }
        }
        let refused: usize = self.curves.iter().zip(&at).map(|(cuts, &at)| cuts[at].out_of_scope).sum();
        // Corners of the curves can be far apart; a cut of all labels at once may use the budget better.
        if refused < self.common[within(&self.common, budget)].out_of_scope {
            return self.common(max_false_refusal);
        }
        let thresholds: Vec<f32> = self.curve_of.iter().map(|&curve| self.curves[curve][at[curve]].threshold).collect();
        self.point(&thresholds)
    }

    /// How many in-scope rows thresholds may refuse, beside those that are refused in any case.
    fn budget(&self, max_false_refusal: f64) -> usize {
        let in_any_case = self.rows.iter().filter(|row| row.gold.is_some() && row.best.is_none()).count();
        // 29 % of 100 rows are 29, whatever floating point says.
        ((max_false_refusal * self.rows().0 as f64 + 1e-9) as usize).saturating_sub(in_any_case)
    }

    fn by_class(&self, thresholds: &BTreeMap<String, f32>) -> Vec<f32> {
        let of = |label: &Option<String>| label.as_ref().and_then(|label| thresholds.get(label)).copied();
        self.labels.iter().map(|label| of(label).unwrap_or(DEFAULT_THRESHOLD)).collect()
    }

    fn point(&self, by_class: &[f32]) -> OperatingPoint {
        let named = self.labels.iter().zip(by_class);
        let thresholds = named.filter_map(|(label, &threshold)| Some((label.clone()?, threshold))).collect();
        let (in_scope, out_of_scope) = self.rows();
        let (mut false_refusals, mut right_refusals, mut right_answers) = (0, 0, 0);
        for (row, refused) in self.rows.iter().zip(self.refused(&thresholds)) {
            false_refusals += usize::from(refused && row.gold.is_some());
            right_refusals += usize::from(refused && row.gold.is_none());
            right_answers += usize::from(!refused && row.gold == row.best);
        }
        OperatingPoint {
            thresholds,
            false_refusal_rate: false_refusals as f64 / in_scope as f64,
            oos_recall: right_refusals as f64 / out_of_scope as f64,
            accuracy: (right_refusals + right_answers) as f64 / self.rows.len() as f64,
        }
    }
}

/// The cuts through rows of `(OOS score, in scope)` that no other cut beats: from the highest threshold, which refuses no
/// row in scope, down, with ever more refusals on both sides.
fn cuts(rows: impl Iterator<Item = (f32, bool)>) -> Vec<Cut> {
    let mut rows: Vec<(f32, bool)> = rows.collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    let highest = rows.first().map_or(0.0, |row| row.0);
    let mut cut = Cut { threshold: between(highest, 1.0), in_scope: 0, out_of_scope: 0 };
    let mut cuts = vec![cut];
    let mut ties = rows.chunk_by(|a, b| a.0 == b.0).peekable();
    while let Some(tied) = ties.next() {
        let score = tied[0].0;
        // No threshold refuses a score of 0.
        if score <= 0.0 {
            break;
        }
        cut.threshold = between(ties.peek().map_or(0.0, |next| next[0].0), score);
        cut.in_scope += tied.iter().filter(|row| row.1).count();
        cut.out_of_scope += tied.iter().filter(|row| !row.1).count();
        if let Some(last) = cuts.last_mut()
            && cut.out_of_scope > last.out_of_scope
        {
            if cut.in_scope == last.in_scope {
                *last = cut;
            } else {
                cuts.push(cut);
            }
        }
    }
    cuts
}

/// A threshold from `low` to below `high`: halfway, with as few decimals as keep it there, three at least.
fn between(low: f32, high: f32) -> f32 {
    let half = 0.5 * (f64::from(low) + f64::from(high));
    let rounded = (3..10).map(|decimals| {
        let scale = 10f64.powi(decimals);
        ((half * scale).round() / scale) as f32
    });
    rounded.into_iter().find(|threshold| (low..high).contains(threshold)).unwrap_or(low)
}

/// The index of the last cut that refuses at most `budget` in-scope rows.
fn within(cuts: &[Cut], budget: usize) -> usize {
    cuts.partition_point(|cut| cut.in_scope <= budget).saturating_sub(1)
}

/// The steps between the corners of the upper concave hull of a curve, of falling gain.
fn steps(curve: usize, cuts: &[Cut]) -> Vec<Step> {
    let mut corners: Vec<usize> = Vec::new();
    for to in 0..cuts.len() {
        while let [.., a, b] = corners[..]
            && cuts[a].gain(&cuts[b]) <= cuts[b].gain(&cuts[to])
        {
            corners.pop();
        }
        corners.push(to);
    }
    corners.windows(2).map(|pair| Step { gain: cuts[pair[0]].gain(&cuts[pair[1]]), curve, to: pair[1] }).collect()
}

/// The text of a `guard.json` with other thresholds. All other fields keep their values, those unknown to this crate too.
///
/// # Errors
/// [`GuardConfigError::Json`] when `guard_json` is no `guard.json`.
pub fn with_thresholds(guard_json: &[u8], thresholds: &BTreeMap<String, f32>) -> Result<String, GuardConfigError> {
    #[derive(Serialize, Deserialize)]
    struct File {
        #[serde(flatten)]
        config: GuardConfig,
        #[serde(flatten)]
        unknown: Map<String, Value>,
    }
    let mut file: File = serde_json::from_slice(guard_json)?;
    file.config.thresholds.clone_from(thresholds);
    Ok(serde_json::to_string_pretty(&file)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLASSES: usize = 4;

    /// Class 3 is out of scope. Scores are coarse, for ties, and reach both ends.
    fn points(rows: &[(Option<usize>, Option<usize>, u8)]) -> OperatingPoints {
        let rows = rows.iter().map(|&(gold, best, score)| ScoredRow { gold, best, oos_score: f32::from(score) / 50.0 });
        let labels = (0..CLASSES).map(|class| (class < 3).then(|| format!("label {class}"))).collect();
        OperatingPoints::new(rows.collect(), labels).unwrap()
    }

    prop_compose! {
        fn any_rows()(
            // Out-of-scope rows score higher, more so under some labels than under others.
            rows in prop::collection::vec((prop::option::weighted(0.6, 0..3usize), 0..3usize, 0..=40u8), 1..400),
            empty in 0..3usize,
        ) -> Vec<(Option<usize>, Option<usize>, u8)> {
            let mut rows: Vec<_> = rows
                .into_iter()
                .map(|(gold, best, score)| (gold, Some(best), if gold.is_none() { score + 5 * best as u8 } else { score }))
                .collect();
            rows.extend([(Some(0), Some(0), 10), (None, Some(1), 40)]);
            rows.extend(vec![(None, None, 0); empty]);
            rows
        }
    }

    proptest! {
        #[test]
        fn recall_grows_within_the_budget(rows in any_rows(), mut budgets in prop::collection::vec(0.0..=1.0f64, 2..12)) {
            budgets.extend([0.0, 1.0]);
            budgets.sort_by(f64::total_cmp);
            let points = points(&rows);
            let (mut common_before, mut per_label_before) = (0.0, 0.0);
            for &budget in &budgets {
                let (common, per_label) = (points.common(budget), points.per_label(budget));
                prop_assert!(common.false_refusal_rate <= budget + 1e-9 && per_label.false_refusal_rate <= budget + 1e-9);
                prop_assert!(common.oos_recall >= common_before && per_label.oos_recall >= per_label_before);
                prop_assert!(per_label.oos_recall >= common.oos_recall);
                prop_assert!(per_label.thresholds.values().all(|threshold| (0.0..=1.0).contains(threshold)));
                prop_assert_eq!(&points.at(&per_label.thresholds), &per_label);
                (common_before, per_label_before) = (common.oos_recall, per_label.oos_recall);
            }
        }

        #[test]
        fn no_common_threshold_refuses_more(rows in any_rows(), threshold in 0.0..=1.0f32) {
            let points = points(&rows);
            let other = points.at(&(0..3).map(|class| (format!("label {class}"), threshold)).collect());
            prop_assert!(points.common(other.false_refusal_rate).oos_recall >= other.oos_recall);
        }

        #[test]
        fn no_thresholds_at_all_win_at_a_corner(rows in any_rows(), a in 0..60u8, b in 0..60u8, c in 0..60u8) {
            // Where the sweep has just spent its budget it is optimal (Everett), given labels with rows enough.
            let points = points(&rows);
            prop_assume!((0..3).all(|class| rows.iter().filter(|row| row.1 == Some(class)).count() >= ENOUGH_ROWS));
            let any = [a, b, c].map(|score| (f32::from(score) + 0.5) / 61.0);
            let other = points.at(&(0..3).map(|class| (format!("label {class}"), any[class])).collect());
            let mut spent = 0;
            let mut at = vec![0; points.curves.len()];
            for step in &points.steps {
                let cuts = &points.curves[step.curve];
                spent += cuts[step.to].in_scope - cuts[at[step.curve]].in_scope;
                at[step.curve] = step.to;
                let rate = spent as f64 / points.rows().0 as f64;
                if other.false_refusal_rate <= rate {
                    prop_assert!(points.per_label(rate).oos_recall >= other.oos_recall);
                }
            }
        }

        #[test]
        fn a_threshold_lies_between_its_scores(low in 0.0..1.0f32, gap in 1..1000u32) {
            for high in [f32::from_bits(low.to_bits() + gap), low + gap as f32 / 1000.0] {
                prop_assert!((low..high).contains(&between(low, high)));
            }
        }
    }

    #[test]
    fn labels_get_thresholds_of_their_own_and_small_ones_share() {
        // Under label 0 rows in scope score up to 0.4 and others from 0.6, under label 1 it is 0.1 and 0.3: no common
        // threshold tells them apart. Label 2 has no row, so it shares with the smallest.
        let of_0 = (0..25).flat_map(|n| [(Some(0), Some(0), n % 21), (None, Some(0), 30 + n % 20)]);
        let of_1 = (0..26).flat_map(|n| [(Some(1), Some(1), n % 6), (None, Some(1), 15 + n % 5)]);
        let points = points(&of_0.chain(of_1).collect::<Vec<_>>());
        let point = points.per_label(0.0);
        assert!(points.common(0.0).oos_recall < 1.0);
        assert_eq!((point.oos_recall, point.false_refusal_rate, point.accuracy), (1.0, 0.0, 1.0));
        assert_eq!(point.thresholds.into_values().collect::<Vec<_>>(), [0.5, 0.2, 0.5]);
    }

    #[test]
    fn a_set_with_one_side_is_refused() {
        let row = ScoredRow { gold: None, best: Some(0), oos_score: 0.5 };
        let labels = vec![Some("a".to_owned()), Some("b".to_owned())];
        assert!(matches!(
            OperatingPoints::new(vec![row], labels),
            Err(EvalError::OneSided { in_scope: 0, out_of_scope: 1 })
        ));
    }

    #[test]
    fn only_the_thresholds_change() {
        let old = r#"{"format": 1, "model_version": "m", "oos_label": null, "temperature": 1.3233055, "thresholds": {"a": 0.5},
            "min_margin": 0.2, "energy": {"threshold": -1.8204122, "scale": 0.07692043}, "max_tokens": 96}"#;
        let old = serde_json::to_string_pretty(&GuardConfig::from_json(old.as_bytes()).unwrap()).unwrap() + "\n";
        let new = with_thresholds(old.as_bytes(), &[("a".to_owned(), 0.664)].into()).unwrap();
        assert_eq!(new, old.replace("\"a\": 0.5", "\"a\": 0.664"));
        let annotated = old.replacen('{', "{\"note\": [\"ours\"],", 1);
        let new: Value =
            serde_json::from_str(&with_thresholds(annotated.as_bytes(), &BTreeMap::new()).unwrap()).unwrap();
        assert_eq!((&new["note"][0], &new["thresholds"]), (&"ours".into(), &serde_json::json!({})));
    }
}
