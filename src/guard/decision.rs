//! From logits to a decision: temperature, energy, thresholds. All of it is plain arithmetic on `guard.json`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the `guard.json` layout that this crate writes and reads.
pub(crate) const FORMAT: u32 = 1;
/// The refusal threshold of a label that has none of its own.
pub(crate) const DEFAULT_THRESHOLD: f32 = 0.5;

/// Why a `guard.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuardConfigError {
    /// The file is no JSON or lacks a field.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value out of its range.
    #[error("{field} is {value}, expected {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: String,
    },
}

/// `guard.json`: calibration, thresholds and provenance of a model. Made by training, edited by whoever runs the bot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardConfig {
    /// Layout of this file; 1.
    pub format: u32,
    /// Goes into every verdict and audit record.
    pub model_version: String,
    /// The label of messages that the bot must not answer, if the model has one.
    pub oos_label: Option<String>,
    /// Logits are divided by this before the softmax (Guo et al., 2017, <https://arxiv.org/abs/1706.04599>).
    pub temperature: f32,
    /// For the best in-scope label of a message: the message is refused when its OOS score is above this, 0 to 1.
    /// A label that is not named has 0.5.
    pub thresholds: BTreeMap<String, f32>,
    /// A verdict whose label is not ahead of all others by this probability is [`Reason::LowMargin`](super::Reason::LowMargin).
    pub min_margin: f32,
    /// Where a message is far from everything in the training data.
    pub energy: EnergyGate,
    /// Most tokens read in one pass, special tokens included. A longer message is read in windows.
    pub max_tokens: usize,
    /// BCP 47 codes of the languages in the training data.
    #[serde(default)]
    pub languages: Vec<String>,
    /// Hash of the training and validation rows.
    #[serde(default)]
    pub dataset_hash: String,
    /// The seed of the training run.
    #[serde(default)]
    pub seed: u64,
    /// Name and version of the program that trained the model.
    #[serde(default)]
    pub created_by: String,
}

/// A soft gate on the energy `-ln Σ exp(logit / temperature)` (Liu et al., 2020, <https://arxiv.org/abs/2010.03759>).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnergyGate {
    /// The energy at which a message is as likely far as not.
    pub threshold: f32,
    /// The energy over which that turns; above 0.
    pub scale: f32,
}

impl EnergyGate {
    /// How far a message of this energy is from anything known, 0 to 1.
    pub fn far(self, energy: f32) -> f32 {
        1.0 / (1.0 + ((self.threshold - energy) / self.scale).exp())
    }
}

impl GuardConfig {
    /// Reads a `guard.json`.
    ///
    /// # Errors
    /// [`GuardConfigError`] when it is broken or a value is out of range.
    pub fn from_json(json: &[u8]) -> Result<Self, GuardConfigError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// Checks every value, given the labels of the model.
    ///
    /// # Errors
    /// [`GuardConfigError::Value`] with the first field that is out of range.
    pub fn check(&self, labels: &[String]) -> Result<(), GuardConfigError> {
        let expect = |ok: bool, field: &'static str, value: String, expected: &str| {
            if ok { Ok(()) } else { Err(GuardConfigError::Value { field, value, expected: expected.to_owned() }) }
        };
        let one_of = || format!("one of the labels {labels:?}");
        expect(self.format == FORMAT, "format", self.format.to_string(), &FORMAT.to_string())?;
        expect(labels.len() >= 2, "id2label", labels.len().to_string(), "two labels or more")?;
        expect(
            labels.len() <= usize::from(u16::MAX),
            "id2label",
            labels.len().to_string(),
            "fewer than 65,536 labels",
        )?;
        if let Some(oos) = &self.oos_label {
            expect(labels.contains(oos), "oos_label", oos.clone(), &one_of())?;
        }
        let positive = |x: f32| x.is_finite() && x > 0.0;
        expect(positive(self.temperature), "temperature", self.temperature.to_string(), "a number above 0")?;
        expect((0.0..=1.0).contains(&self.min_margin), "min_margin", self.min_margin.to_string(), "0 to 1")?;
        expect(
            self.energy.threshold.is_finite(),
            "energy.threshold",
            self.energy.threshold.to_string(),
            "a finite number",
        )?;
        expect(positive(self.energy.scale), "energy.scale", self.energy.scale.to_string(), "a number above 0")?;
        expect(self.max_tokens >= 8, "max_tokens", self.max_tokens.to_string(), "8 or more")?;
        for (label, threshold) in &self.thresholds {
            expect(labels.contains(label), "thresholds", label.clone(), &one_of())?;
            expect((0.0..=1.0).contains(threshold), "thresholds", format!("{label}: {threshold}"), "0 to 1")?;
        }
        Ok(())
    }
}

/// What [`decide`] found, by class index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decision {
    /// The winning class; `None` when the model has no out-of-scope class and the message is refused.
    pub(crate) class: Option<usize>,
    /// By how much the probability of the winning class is above all others; 0 where a threshold made another one win.
    pub(crate) margin: f32,
    /// 0 to 1, higher the further out of scope.
    pub(crate) oos_score: f32,
    /// Whether the energy alone was enough to refuse.
    pub(crate) far: bool,
    /// By how much the log-odds would have to change for another class to win.
    pub(crate) distance: f32,
}

/// Turns `logits` into calibrated probabilities in place, and decides.
///
/// `oos` is the out-of-scope class, if there is one, and `thresholds` has one value per class. The OOS score is the
/// probability that the message is out of scope by its class or far from anything known, taken as independent. Logits
/// that are not finite are refused as far: a broken model must not let anything through.
pub(crate) fn decide(config: &GuardConfig, oos: Option<usize>, thresholds: &[f32], logits: &mut [f32]) -> Decision {
    let highest = logits.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    if logits.iter().any(|logit| !logit.is_finite()) {
        let uniform = 1.0 / logits.len() as f32;
        logits.fill(uniform);
        return Decision { class: oos, margin: 0.0, oos_score: 1.0, far: true, distance: f32::INFINITY };
    }
    let mut total = 0.0;
    for logit in logits.iter_mut() {
        *logit = ((*logit - highest) / config.temperature).exp();
        total += *logit;
    }
    let energy = -(highest / config.temperature + total.ln());
    let scores = logits;
    scores.iter_mut().for_each(|score| *score /= total);

    let by_class = oos.map_or(0.0, |class| scores[class]);
    let far = config.energy.far(energy);
    let oos_score = 1.0 - (1.0 - by_class) * (1.0 - far);
    let best_but = |left_out: Option<usize>| {
        (0..scores.len()).filter(|&class| Some(class) != left_out).max_by(|&a, &b| scores[a].total_cmp(&scores[b]))
    };
    let best = best_but(oos);
    let class = best.filter(|&class| oos_score <= thresholds[class]).or(oos);
    let winner = class.or_else(|| best_but(None));
    let score = |class: Option<usize>| class.map_or(0.0, |class| scores[class]);
    let margin = (score(winner) - score(best_but(winner))).max(0.0);
    // Between in scope and out of it, and between the two best in-scope classes.
    let mut distance = best.map_or(f32::INFINITY, |best| (log_odds(oos_score) - log_odds(thresholds[best])).abs());
    if class != oos {
        let second = (0..scores.len()).filter(|&other| Some(other) != oos && Some(other) != best).map(|n| scores[n]);
        distance = distance.min((score(best) / second.fold(f32::MIN_POSITIVE, f32::max)).ln());
    }
    Decision { class, margin, oos_score, far: far > 0.5 && class == oos, distance }
}

fn log_odds(probability: f32) -> f32 {
    (probability / (1.0 - probability)).ln()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn config() -> GuardConfig {
        GuardConfig {
            format: FORMAT,
            model_version: "test".into(),
            oos_label: Some("out".into()),
            temperature: 1.5,
            thresholds: BTreeMap::new(),
            min_margin: 0.1,
            energy: EnergyGate { threshold: 0.0, scale: 0.2 },
            max_tokens: 64,
            languages: Vec::new(),
            dataset_hash: String::new(),
            seed: 0,
            created_by: String::new(),
        }
    }

    fn run(oos: Option<usize>, thresholds: &[f32], logits: &[f32]) -> (Decision, Vec<f32>) {
        let mut scores = logits.to_vec();
        (decide(&config(), oos, thresholds, &mut scores), scores)
    }

    #[test]
    fn thresholds_move_the_border() {
        let logits = [4.0, 0.0, 4.2];
        assert_eq!(run(Some(2), &[0.5, 0.5, 0.5], &logits).0.class, Some(2));
        assert_eq!(run(Some(2), &[0.7, 0.5, 0.5], &logits).0.class, Some(0), "the merchant accepts more");
        assert_eq!(run(Some(2), &[0.5, 0.9, 0.9], &logits).0.class, Some(2), "another label's threshold");
    }

    #[test]
    fn far_messages_are_refused_with_and_without_a_class() {
        let far = [-9.0, -9.1, -9.2];
        let (decision, _) = run(None, &[0.5; 3], &far);
        assert!(decision.class.is_none() && decision.far && decision.oos_score > 0.99);
        let (decision, _) = run(Some(1), &[0.5; 3], &far);
        assert!(decision.class == Some(1) && decision.far);
        let (decision, _) = run(None, &[0.5; 3], &[9.0, 1.0, 0.0]);
        assert!(decision.class == Some(0) && !decision.far && decision.margin > 0.9);
    }

    #[test]
    fn the_distance_is_that_to_the_nearest_border() {
        let distance = |thresholds: [f32; 3], logits: [f32; 3]| run(Some(2), &thresholds, &logits).0.distance;
        // The temperature is 1.5, and the gate on energy far away.
        assert!((distance([0.5; 3], [40.0, 0.0, 37.0]) - 2.0).abs() < 1e-3);
        assert!((distance([0.5; 3], [40.0, 39.7, 0.0]) - 0.2).abs() < 1e-3, "another flow");
        assert!((distance([0.5; 3], [30.0, 29.7, 40.0])).abs() > 3.0, "refused whichever flow it is");
        assert!(distance([1.0; 3], [40.0, 0.0, 37.0]) > 20.0, "nothing is refused");
    }

    #[test]
    fn broken_logits_are_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (decision, scores) = run(Some(2), &[1.0; 3], &[bad, 9.0, 0.0]);
            assert_eq!((decision.class, decision.oos_score, decision.far), (Some(2), 1.0, true));
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn bad_values_are_named() {
        let labels = ["a".to_owned(), "out".to_owned()];
        let refuse = |change: fn(&mut GuardConfig), field: &str| {
            let mut bad = config();
            change(&mut bad);
            match bad.check(&labels) {
                Err(GuardConfigError::Value { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        };
        assert!(config().check(&labels).is_ok());
        refuse(|c| c.format = 2, "format");
        refuse(|c| c.oos_label = Some("x".into()), "oos_label");
        refuse(|c| c.temperature = 0.0, "temperature");
        refuse(|c| c.temperature = f32::NAN, "temperature");
        refuse(|c| c.energy.scale = -1.0, "energy.scale");
        refuse(|c| c.min_margin = 2.0, "min_margin");
        refuse(|c| c.max_tokens = 1, "max_tokens");
        refuse(|c| c.thresholds = [("b".to_owned(), 0.5)].into(), "thresholds");
        refuse(|c| c.thresholds = [("a".to_owned(), 1.5)].into(), "thresholds");
    }

    proptest! {
        #[test]
        fn scores_are_a_distribution_and_the_oos_score_is_monotone(
            logits in prop::collection::vec(-30.0f32..30.0, 2..12), lift in 0.1f32..5.0
        ) {
            let thresholds = vec![0.5; logits.len()];
            let (decision, scores) = run(Some(0), &thresholds, &logits);
            prop_assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-4);
            prop_assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)));
            prop_assert!((0.0..=1.0).contains(&decision.oos_score) && (0.0..=1.0).contains(&decision.margin));
            // With the energy held by a gate out of reach, a higher out-of-scope logit never lowers the score.
            let mut config = config();
            config.energy.threshold = 1e6;
            let mut lifted = logits.clone();
            lifted[0] += lift;
            let mut plain = logits.clone();
            let before = decide(&config, Some(0), &thresholds, &mut plain);
            let after = decide(&config, Some(0), &thresholds, &mut lifted);
            prop_assert!(after.oos_score >= before.oos_score - 1e-6);
        }
    }
}
