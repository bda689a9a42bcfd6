//! What the guard says about one message.

use super::decision::{self, DEFAULT_THRESHOLD, GuardConfig};
use crate::label::Intent;
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};
use std::{fmt, sync::Arc};

/// Label of messages refused by a model that has no out-of-scope class of its own.
const REFUSED: &str = "out_of_scope";

/// Why the verdict is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// One label is clearly ahead.
    Confident,
    /// The label is hardly ahead of another, or a threshold decided against the most probable one: a bot may ask back.
    LowMargin,
    /// The message resembles nothing in the training data, and is refused for that.
    FarFromKnown,
    /// There is no visible character in the message.
    Empty,
}

/// The parts of a model that verdicts refer to, shared by all of them.
#[derive(Debug)]
pub(super) struct Model {
    config: GuardConfig,
    labels: Vec<String>,
    /// Refusal threshold of each class.
    thresholds: Vec<f32>,
    /// The out-of-scope class.
    oos: Option<usize>,
}

impl Model {
    pub(super) fn new(config: GuardConfig, labels: Vec<String>) -> Self {
        let thresholds =
            labels.iter().map(|label| config.thresholds.get(label).copied().unwrap_or(DEFAULT_THRESHOLD)).collect();
        let oos = config.oos_label.as_ref().and_then(|oos| labels.iter().position(|label| label == oos));
        Model { config, labels, thresholds, oos }
    }

    pub(super) fn labels(&self) -> &[String] {
        &self.labels
    }

    pub(super) fn config(&self) -> &GuardConfig {
        &self.config
    }

    pub(super) fn oos(&self) -> Option<usize> {
        self.oos
    }
}

/// Calibrated probabilities, on the stack while there are few labels.
#[derive(Clone, Debug)]
enum Scores {
    Few { values: [f32; 8], len: u8 },
    Many(Box<[f32]>),
}

impl Scores {
    fn new(scores: &[f32]) -> Self {
        let mut values = [0.0; 8];
        match values.get_mut(..scores.len()) {
            Some(room) => {
                room.copy_from_slice(scores);
                Scores::Few { values, len: scores.len() as u8 }
            }
            None => Scores::Many(scores.into()),
        }
    }

    fn as_slice(&self) -> &[f32] {
        match self {
            Scores::Few { values, len } => &values[..usize::from(*len)],
            Scores::Many(values) => values,
        }
    }
}

/// The guard's answer for one message.
///
/// Serialises to the fields of `intentgate classify --json` without `text`.
#[derive(Clone)]
pub struct Verdict {
    model: Arc<Model>,
    /// Calibrated, before thresholds; empty for an empty message.
    scores: Scores,
    class: Option<u16>,
    margin: f32,
    oos_score: f32,
    reason: Reason,
    language: Language,
    /// See [`decision::Decision::distance`].
    distance: f32,
}

/// What the language head says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Language {
    /// An index into the languages of `guard.json`.
    Known(u16),
    Mixed,
    Unknown,
}

/// The probability from which on a language is taken as known.
const KNOWN: f32 = 0.6;
/// Two languages that share this much of the probability make a mixture.
const MIXED: f32 = 0.9;

impl Language {
    fn decide(logits: &[f32]) -> Self {
        let best_but = |left_out: Option<usize>| {
            (0..logits.len()).filter(|&n| Some(n) != left_out).max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
        };
        let Some(best) = best_but(None) else { return Language::Unknown };
        let total: f32 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
        let share = |n: usize| (logits[n] - logits[best]).exp() / total;
        if share(best) >= KNOWN {
            Language::Known(best as u16)
        } else if best_but(Some(best)).is_some_and(|second| share(best) + share(second) >= MIXED) {
            Language::Mixed
        } else {
            Language::Unknown
        }
    }
}

impl Verdict {
    /// Decides on the logits of the labels, which are overwritten, and of the languages, which follow them.
    pub(super) fn decide(model: Arc<Model>, logits: &mut [f32]) -> Self {
        let (logits, languages) = logits.split_at_mut(model.labels.len());
        let language = Language::decide(languages);
        let decision = decision::decide(&model.config, model.oos, &model.thresholds, logits);
        let reason = if decision.far {
            Reason::FarFromKnown
        } else if decision.margin < model.config.min_margin {
            Reason::LowMargin
        } else {
            Reason::Confident
        };
        Verdict {
            scores: Scores::new(logits),
            class: decision.class.map(|class| class as u16),
            margin: decision.margin,
            oos_score: decision.oos_score,
            reason,
            language,
            distance: decision.distance,
            model,
        }
    }

    pub(super) fn empty(model: Arc<Model>) -> Self {
        Verdict {
            model,
            scores: Scores::new(&[]),
            class: None,
            margin: 0.0,
            oos_score: 0.0,
            reason: Reason::Empty,
            language: Language::Unknown,
            distance: f32::INFINITY,
        }
    }

    /// The label after thresholds; `None` for an empty message.
    ///
    /// A model without an out-of-scope class says `out_of_scope` of messages it refuses.
    pub fn label(&self) -> Option<&str> {
        match (self.reason, self.class) {
            (Reason::Empty, _) => None,
            (_, Some(class)) => Some(&self.model.labels[usize::from(class)]),
            (_, None) => Some(REFUSED),
        }
    }

    /// The label as one of the five business intents; `None` for an empty message.
    pub fn intent(&self) -> Option<Intent> {
        if self.reason == Reason::Empty {
            None
        } else if self.is_refused() {
            Some(Intent::OutOfScope)
        } else {
            self.label().map(Intent::from_label)
        }
    }

    /// Whether the bot may answer. False for an empty message, which [`Verdict::reason`] tells apart.
    pub fn in_scope(&self) -> bool {
        self.reason != Reason::Empty && !self.is_refused()
    }

    /// The most probable label but the out-of-scope one, and the threshold of the OOS score for it; `None` for an empty
    /// message.
    #[cfg(feature = "policy")]
    pub(crate) fn best_in_scope(&self) -> Option<(&str, f32)> {
        let scores = self.scores.as_slice();
        let classes = (0..scores.len()).filter(|&class| Some(class) != self.model.oos);
        let best = classes.max_by(|&a, &b| scores[a].total_cmp(&scores[b]))?;
        Some((&self.model.labels[best], self.model.thresholds[best]))
    }

    /// By how much the log-odds would have to change for another label to win.
    pub(super) fn distance(&self) -> f32 {
        self.distance
    }

    fn is_refused(&self) -> bool {
        self.class.map(usize::from) == self.model.oos
    }

    /// Calibrated probability of every label, in the order of the model's classes, before thresholds. Empty for an empty
    /// message, else the values add up to 1.
    pub fn scores(&self) -> impl Iterator<Item = (&str, f32)> {
        self.model.labels.iter().map(String::as_str).zip(self.scores.as_slice().iter().copied())
    }

    /// Calibrated probability of [`Verdict::label`], 0 to 1; the OOS score where the model has no class for the refusal.
    pub fn confidence(&self) -> f32 {
        match self.class {
            Some(class) => self.scores.as_slice()[usize::from(class)],
            None => self.oos_score,
        }
    }

    /// By how much the probability of [`Verdict::label`] is above that of every other label, 0 to 1; 0 where a threshold
    /// decided against the most probable label.
    pub fn margin(&self) -> f32 {
        self.margin
    }

    /// How far out of scope the message is, 0 to 1. Thresholds in `guard.json` are on this scale.
    pub fn oos_score(&self) -> f32 {
        self.oos_score
    }

    /// Why the verdict is what it is.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// BCP 47 code of the message's language, `mul` for a mixture of two, `und` when it is not clear. A number, a name or
    /// an emoji is of no language.
    ///
    /// Always `und` with a model that has no language head.
    pub fn language(&self) -> &str {
        match self.language {
            Language::Known(n) => self.model.config.languages.get(usize::from(n)).map_or("und", String::as_str),
            Language::Mixed => "mul",
            Language::Unknown => "und",
        }
    }

    /// The version of the model that decided.
    pub fn model_version(&self) -> &str {
        &self.model.config.model_version
    }
}

impl fmt::Debug for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdict")
            .field("label", &self.label())
            .field("reason", &self.reason)
            .field("margin", &self.margin)
            .field("oos_score", &self.oos_score)
            .field("scores", &self.scores().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        struct Scores<'a>(&'a Verdict);
        impl Serialize for Scores<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.scores())
            }
        }
        let mut map = serializer.serialize_map(Some(9))?;
        map.serialize_entry("intent", &self.label())?;
        map.serialize_entry("in_scope", &self.in_scope())?;
        map.serialize_entry("confidence", &self.confidence())?;
        map.serialize_entry("margin", &self.margin)?;
        map.serialize_entry("oos_score", &self.oos_score)?;
        map.serialize_entry("reason", &self.reason)?;
        map.serialize_entry("language", self.language())?;
        map.serialize_entry("model_version", self.model_version())?;
        map.serialize_entry("scores", &Scores(self))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(oos: Option<&str>, labels: &[&str]) -> Arc<Model> {
        let config = GuardConfig { oos_label: oos.map(Into::into), ..decision::tests::config() };
        Arc::new(Model::new(config, labels.iter().map(|&label| label.into()).collect()))
    }

    #[test]
    fn a_verdict_reads_as_json() {
        let verdict = Verdict::decide(model(Some("out_of_scope"), &["order", "out_of_scope"]), &mut [6.0, 1.0]);
        let json = serde_json::to_value(&verdict).unwrap();
        assert_eq!(json["intent"], "order");
        assert_eq!(json["in_scope"], true);
        assert_eq!(json["reason"], "confident");
        assert!(json["scores"]["order"].as_f64().unwrap() > 0.9);
        assert_eq!(verdict.intent(), Some(Intent::Order));
    }

    #[test]
    fn empty_has_no_label_and_is_not_refused() {
        let verdict = Verdict::empty(model(None, &["a", "b"]));
        assert_eq!((verdict.label(), verdict.intent(), verdict.in_scope()), (None, None, false));
        assert_eq!(verdict.scores().count(), 0);
        let json = serde_json::to_value(&verdict).unwrap();
        assert!(json["intent"].is_null() && json["reason"] == "empty" && json["confidence"] == 0.0);
    }

    #[test]
    fn foreign_labels_many_classes_and_refusal_without_a_class() {
        let names: Vec<String> = (0..150).map(|n| format!("intent {n}")).collect();
        let labels: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut logits = vec![0.0; 150];
        logits[77] = 20.0;
        let verdict = Verdict::decide(model(None, &labels), &mut logits.clone());
        assert_eq!((verdict.label(), verdict.intent()), (Some("intent 77"), Some(Intent::Custom)));
        assert!(verdict.in_scope() && verdict.scores().count() == 150);
        let verdict = Verdict::decide(model(None, &labels), &mut vec![-50.0; 150]);
        assert_eq!((verdict.label(), verdict.intent()), (Some("out_of_scope"), Some(Intent::OutOfScope)));
        assert!(!verdict.in_scope() && verdict.reason() == Reason::FarFromKnown && verdict.confidence() > 0.5);
    }

    #[test]
    fn close_labels_say_so() {
        let verdict = Verdict::decide(model(None, &["a", "b"]), &mut [5.0, 4.95]);
        assert_eq!((verdict.reason(), verdict.label()), (Reason::LowMargin, Some("a")));
    }
}
