//! What another model would have said of the messages in a log.

use super::{Record, top::Top};
use crate::guard::Guard;
use serde::Serialize;
use std::collections::BTreeMap;

/// A message of which the other model says something else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// `file:line`.
    pub place: String,
    /// The label in the log.
    pub from: String,
    /// The label by the other model.
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
    pub changes: BTreeMap<String, BTreeMap<String, u64>>,
    /// Some of those that change, the furthest moved OOS score first.
    pub listed: Vec<Change>,
}

/// Takes records in, one after the other, and makes a [`ReplayReport`] of them.
#[derive(Debug)]
pub struct Replay<'a> {
    guard: &'a Guard,
    report: ReplayReport,
    listed: Top<Change>,
}

impl<'a> Replay<'a> {
    /// Asks `guard`, and lists at most so many changes.
    pub fn new(guard: &'a Guard, list: usize) -> Self {
        let report = ReplayReport { model_version: guard.config().model_version.clone(), ..ReplayReport::default() };
        Replay { guard, report, listed: Top::new(list) }
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
            return report.same += 1;
        }
        *report.changes.entry(from.to_owned()).or_default().entry(to.to_owned()).or_default() += 1;
        let (oos_score_from, oos_score_to) = (before.oos_score, verdict.oos_score());
        self.listed.add(-(oos_score_to - oos_score_from).abs(), || Change {
            place: place(),
            from: from.to_owned(),
            to: to.to_owned(),
            oos_score_from,
            oos_score_to,
            text: text.clone(),
        });
    }

    /// What would change.
    pub fn finish(self) -> ReplayReport {
        ReplayReport { listed: self.listed.into_sorted(), ..self.report }
    }
}
