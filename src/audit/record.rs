//! One decision, as the log keeps it.

use super::{ConversationKey, Key, Timestamp, redact};
use crate::{
    guard::{GuardConfig, Reason, Verdict},
    label::Flow,
    policy::{Action, Cause, Decision, Profile},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::SystemTime};

/// What a record keeps of the customer's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextPolicy {
    /// Nothing.
    #[default]
    Omit,
    /// The text as [`redact`] leaves it.
    Redact,
    /// The text as it is.
    Keep,
}

/// One message, what the guard said of it, and what was decided.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When the decision was made.
    pub time: SystemTime,
    /// What names the conversation to the server, such as a phone number. The record holds a keyed hash of it.
    pub conversation: &'a str,
    /// The flow the bot was in.
    pub flow: Option<Flow>,
    /// The message.
    pub text: &'a str,
    /// What the guard said; `None` where it was not asked or could not answer.
    pub verdict: Option<&'a Verdict>,
    /// What was decided.
    pub decision: &'a Decision,
    /// The configuration of the guard that was or would have been asked: [`Guard::config`](crate::Guard::config). Behind a
    /// [`SharedGuard`](crate::SharedGuard), that of the guard held in [`current`](crate::SharedGuard::current).
    pub guard: &'a GuardConfig,
    /// The profile by which it was decided, whose thresholds overrule those of the guard:
    /// [`Policy::profile`](crate::policy::Policy::profile).
    pub profile: Option<&'a Profile>,
    /// How long it took from message to decision, in microseconds.
    pub micros: Option<u32>,
}

/// Makes records: hashes who wrote, and keeps of the text what may be kept.
#[derive(Clone, Debug)]
pub struct Recorder {
    key: Key,
    text: TextPolicy,
}

impl Recorder {
    /// Conversations are hashed with `key`.
    pub fn new(key: Key, text: TextPolicy) -> Self {
        Recorder { key, text }
    }

    /// The record of an event.
    pub fn record(&self, event: &Event<'_>) -> Record {
        let profile_thresholds = event.profile.and_then(thresholds);
        Record {
            time: event.time.into(),
            conversation: self.key.conversation(event.conversation),
            flow: event.flow,
            text: match self.text {
                TextPolicy::Omit => None,
                TextPolicy::Redact => Some(redact(event.text).into_owned()),
                TextPolicy::Keep => Some(event.text.to_owned()),
            },
            redacted: self.text == TextPolicy::Redact,
            verdict: event.verdict.map(|verdict| RecordedVerdict::new(verdict, profile_thresholds.as_ref())),
            decision: RecordedDecision { action: event.decision.action, cause: event.decision.cause.clone() },
            thresholds: event.guard.thresholds.clone(),
            profile_thresholds,
            model_version: event.verdict.map_or(&*event.guard.model_version, Verdict::model_version).to_owned(),
            micros: event.micros,
        }
    }
}

/// The thresholds of a profile by label, if it has any.
fn thresholds(profile: &Profile) -> Option<BTreeMap<String, f32>> {
    let by_label = |flow: Flow| Some((flow.name().to_owned(), (*profile.thresholds.get(flow))?));
    let thresholds: BTreeMap<String, f32> = Flow::ALL.into_iter().filter_map(by_label).collect();
    (!thresholds.is_empty()).then_some(thresholds)
}

/// One decision. A [`Log`](super::Log) writes it as one line of JSON, with the format version `v` and a sequence number
/// `seq` before its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When.
    pub time: Timestamp,
    /// Which conversation.
    pub conversation: ConversationKey,
    /// The flow the bot was in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow: Option<Flow>,
    /// The message, where text is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether `text` went through [`redact`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redacted: bool,
    /// What the guard said, if it was asked and could answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<RecordedVerdict>,
    /// What was decided.
    pub decision: RecordedDecision,
    /// Refusal thresholds of the model by label, 0 to 1; a label that is not named has 0.5.
    pub thresholds: BTreeMap<String, f32>,
    /// Thresholds by which the policy overruled them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_thresholds: Option<BTreeMap<String, f32>>,
    /// The model in use.
    pub model_version: String,
    /// From message to decision, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micros: Option<u32>,
}

impl Record {
    /// How far the OOS score is above the refusal threshold, -1 to 1; at 0 the guard could as well have said the opposite.
    pub fn distance(&self) -> Option<f32> {
        let verdict = self.verdict.as_ref()?;
        Some(verdict.oos_score - verdict.threshold?)
    }
}

/// A [`Verdict`] in a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedVerdict {
    /// The final label; `None` for an empty message.
    pub intent: Option<String>,
    /// Calibrated probabilities before thresholds, which add up to 1; empty for an empty message.
    pub scores: BTreeMap<String, f32>,
    /// 0 to 1.
    pub oos_score: f32,
    /// The threshold to which `oos_score` is to be compared: that of the most probable in-scope label.
    pub threshold: Option<f32>,
    /// 0 to 1.
    pub margin: f32,
    /// Why.
    pub reason: Reason,
    /// BCP 47 code, `mul` or `und`.
    pub language: String,
}

impl RecordedVerdict {
    fn new(verdict: &Verdict, profile: Option<&BTreeMap<String, f32>>) -> Self {
        let threshold = verdict
            .best_in_scope()
            .map(|(label, threshold)| profile.and_then(|profile| profile.get(label)).copied().unwrap_or(threshold));
        RecordedVerdict {
            intent: verdict.label().map(str::to_owned),
            scores: verdict.scores().map(|(label, score)| (label.to_owned(), score)).collect(),
            oos_score: verdict.oos_score(),
            threshold,
            margin: verdict.margin(),
            reason: verdict.reason(),
            language: verdict.language().to_owned(),
        }
    }
}

/// What a record keeps of a [`Decision`]: all but the words of the reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedDecision {
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record for tests of what is done with records.
    pub(crate) fn record(ms: u64, text: &str) -> Record {
        Record {
            time: Timestamp::from_unix_ms(ms),
            conversation: Key::new(&[7; 16]).unwrap().conversation("someone"),
            flow: None,
            text: Some(text.to_owned()),
            redacted: false,
            verdict: Some(RecordedVerdict {
                intent: Some("order".into()),
                scores: [("order".to_owned(), 0.9), ("out_of_scope".to_owned(), 0.1)].into(),
                oos_score: 0.1,
                threshold: Some(0.5),
                margin: 0.8,
                reason: Reason::Confident,
                language: "en".into(),
            }),
            decision: RecordedDecision { action: Action::Route { flow: Flow::Order }, cause: Cause::Confident },
            thresholds: [("order".to_owned(), 0.5)].into(),
            profile_thresholds: None,
            model_version: "test".into(),
            micros: Some(140),
        }
    }

    #[cfg(feature = "embedded")]
    #[test]
    fn a_record_holds_the_verdict_and_not_the_customer() {
        let guard = crate::Guard::embedded().unwrap();
        let text = "where is my order 88410 bought with jane@x.example";
        let verdict = guard.check(text);
        let decision = Decision {
            action: Action::Route { flow: Flow::Order },
            cause: Cause::Confident,
            reply: Some("words".into()),
            reply_language: None,
        };
        let profile = Profile::from_toml("thresholds.order = 0.9").unwrap();
        let event = Event {
            time: SystemTime::UNIX_EPOCH,
            conversation: "+4915112345678",
            flow: None,
            text,
            verdict: Some(&verdict),
            decision: &decision,
            guard: guard.config(),
            profile: Some(&profile),
            micros: None,
        };
        let record = |policy| Recorder::new(Key::new(&[1; 16]).unwrap(), policy).record(&event);
        let redacted = record(TextPolicy::Redact);
        assert_eq!(redacted.text.as_deref(), Some("where is my order <number> bought with <email>"));
        let kept = redacted.verdict.as_ref().unwrap();
        assert_eq!((kept.intent.as_deref(), kept.threshold), (Some("order"), Some(0.9)));
        assert!((kept.scores.values().sum::<f32>() - 1.0).abs() < 1e-4);
        assert_eq!(redacted.distance(), Some(verdict.oos_score() - 0.9));
        assert_eq!(record(TextPolicy::Keep).text.as_deref(), Some(text));
        let omitted = serde_json::to_string(&record(TextPolicy::Omit)).unwrap();
        for secret in ["88410", "jane", "4915112345678", "words", "redacted"] {
            assert!(!omitted.contains(secret), "{omitted}");
        }

        let unasked = Recorder::new(Key::new(&[1; 16]).unwrap(), TextPolicy::Omit).record(&Event {
            verdict: None,
            profile: None,
            ..event
        });
        assert_eq!((unasked.verdict, unasked.model_version), (None, guard.config().model_version.clone()));
        let empty = guard.check(" ");
        let record = Recorder::new(Key::new(&[1; 16]).unwrap(), TextPolicy::Keep).record(&Event {
            verdict: Some(&empty),
            text: " ",
            ..event
        });
        assert_eq!((record.distance(), record.verdict.unwrap().intent), (None, None));
    }

    proptest! {
        #[test]
        fn a_record_survives_json(ms in 0u64..4_000_000_000_000, text in "\\PC{0,40}", score in 0f32..=1.0, count: u32, reason in 0..4usize) {
            let mut record = record(ms, &text);
            record.flow = Some(Flow::Faq);
            record.decision.cause = Cause::Strikes { count };
            record.decision.action = Action::AskBack { between: [Flow::Order, Flow::ShoppingGuide] };
            let verdict = record.verdict.as_mut().unwrap();
            verdict.oos_score = score;
            verdict.reason = [Reason::Confident, Reason::LowMargin, Reason::FarFromKnown, Reason::Empty][reason];
            let line = serde_json::to_string(&record).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), record);
        }
    }
}
