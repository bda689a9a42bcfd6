//! What another model would have said of the messages in a log, and what another profile would have done with them.

use super::{ConversationKey, Record, top::Top};
use crate::{
    guard::Guard,
    policy::{Action, Conversation, Policy},
};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// How many messages go from one thing to another.
pub type Moves = BTreeMap<String, BTreeMap<String, u64>>;

/// A message that gets another label, or with a profile another action.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// `file:line`.
    pub place: String,
    /// The label or action in the log.
    pub from: String,
    /// The label or action now.
    pub to: String,
    /// The OOS score in the log.
    pub oos_score_from: f32,
    /// The OOS score by the other model.
    pub oos_score_to: f32,
    /// The text, as the log has it.
    pub text: String,
}

/// How a log would read with another model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplayReport {
    /// The other model.
    pub model_version: String,
    /// Records in the log.
    pub records: u64,
    /// Left out: no verdict, since the guard was not asked.
    pub without_verdict: u64,
    /// Left out: no text was kept.
    pub without_text: u64,
    /// Replayed.
    pub replayed: u64,
    /// Those of them whose text is redacted, so that even the same model may say something else.
    pub redacted: u64,
    /// Those that get the same label.
    pub same: u64,
    /// Out of scope in the log.
    pub out_of_scope_from: u64,
    /// Out of scope by the other model.
    pub out_of_scope_to: u64,
    /// How many go from one label to another. `-` stands for no label.
    pub changes: Moves,
    /// Those with the same action, if there is a profile.
    pub same_action: Option<u64>,
    /// How many go from one action to another, if there is a profile.
    pub actions: Moves,
    /// Some of those that change, the furthest moved OOS score first.
    pub listed: Vec<Change>,
}

/// Takes records in, one after the other, and makes a [`ReplayReport`] of them.
#[derive(Debug)]
pub struct Replay<'a> {
    guard: &'a Guard,
    policy: Option<&'a Policy>,
    /// Every conversation as it would stand.
    conversations: HashMap<ConversationKey, Conversation>,
    report: ReplayReport,
    listed: Top<Change>,
}

impl<'a> Replay<'a> {
    /// Asks `guard`, decides by `policy` if there is one, and lists at most so many changes.
    ///
    /// A policy goes through each conversation from its first message on, so records must come in their order. The guard is
    /// asked in the flow in which the bot really was.
    pub fn new(guard: &'a Guard, policy: Option<&'a Policy>, list: usize) -> Self {
        let report = ReplayReport {
            model_version: guard.config().model_version.clone(),
            same_action: policy.map(|_| 0),
            ..ReplayReport::default()
        };
        Replay { guard, policy, conversations: HashMap::new(), report, listed: Top::new(list) }
    }

    /// Takes in the record that stands at `place`.
    pub fn add(&mut self, record: &Record, place: impl FnOnce() -> String) {
        let report = &mut self.report;
        report.records += 1;
        let Some(before) = &record.verdict else { return report.without_verdict += 1 };
        let Some(text) = &record.text else { return report.without_text += 1 };
        report.replayed += 1;
        report.redacted += u64::from(record.redacted);
        let verdict = self.guard.check_message(record.flow, text);
        let (from, to) = (before.intent.as_deref().unwrap_or("-"), verdict.label().unwrap_or("-"));
        let oos = self.guard.config().oos_label.as_deref().unwrap_or("out_of_scope");
        report.out_of_scope_from += u64::from(from == oos);
        report.out_of_scope_to += u64::from(to == oos);
        if from == to {
            report.same += 1;
        } else {
            count(&mut report.changes, from, to);
        }
        let (mut from, mut to) = (from.to_owned(), to.to_owned());
        if let (Some(policy), Some(same)) = (self.policy, &mut report.same_action) {
            let conversation = self.conversations.entry(record.conversation).or_default();
            let decision = policy.decide(conversation, text, &verdict, record.time.unix_ms() / 1000);
            (from, to) = (action(record.decision.action), action(decision.action));
            if from == to {
                *same += 1;
            } else {
                count(&mut report.actions, &from, &to);
            }
        }
        if from != to {
            let (oos_score_from, oos_score_to) = (before.oos_score, verdict.oos_score());
            self.listed.add(-(oos_score_to - oos_score_from).abs(), || Change {
                place: place(),
                from,
                to,
                oos_score_from,
                oos_score_to,
                text: text.clone(),
            });
        }
    }

    /// What would change.
    pub fn finish(self) -> ReplayReport {
        ReplayReport { listed: self.listed.into_sorted(), ..self.report }
    }
}

fn count(moves: &mut Moves, from: &str, to: &str) {
    *moves.entry(from.to_owned()).or_default().entry(to.to_owned()).or_default() += 1;
}

/// An action in a word or two.
fn action(action: Action) -> String {
    match action {
        Action::Route { flow } => format!("route {flow}"),
        Action::AskBack { between: [first, second] } => format!("ask {first} or {second}"),
        Action::Refuse { offer_person: false } => "refuse".to_owned(),
        Action::Refuse { offer_person: true } => "refuse, offer a person".to_owned(),
        Action::HandOff => "hand off".to_owned(),
        Action::Ignore => "ignore".to_owned(),
    }
}
