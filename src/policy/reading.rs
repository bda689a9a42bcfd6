//! What the policy reads out of a verdict.

use crate::{
    guard::{Reason, Verdict},
    label::{Flow, Intent},
};

/// The part of a verdict that decisions depend on. Apart from [`Verdict`] so that tests can make up any.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reading<'a> {
    pub(super) best: Best,
    /// Probability of each flow, in the order of [`Flow::ALL`]; 0 where the model has no such label.
    pub(super) flows: [f32; 4],
    /// Whether the model's own threshold lets the message pass.
    pub(super) in_scope: bool,
    pub(super) oos_score: f32,
    /// BCP 47 code, where the guard is sure.
    pub(super) language: Option<&'a str>,
}

/// The most probable label that is not the out-of-scope one, whatever the thresholds say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Best {
    /// The message has no visible character.
    Nothing,
    Flow(Flow),
    /// A label of a custom model.
    Custom,
}

impl<'a> From<&'a Verdict> for Reading<'a> {
    fn from(verdict: &'a Verdict) -> Self {
        let in_scope = verdict.in_scope() && verdict.intent() != Some(Intent::OutOfScope);
        let mut flows = [0.0; 4];
        for (label, score) in verdict.scores() {
            if let Some(flow) = flow(label) {
                flows[flow as usize] = score;
            }
        }
        Reading {
            best: match verdict.best_in_scope() {
                _ if verdict.reason() == Reason::Empty => Best::Nothing,
                Some((label, _)) => flow(label).map_or(Best::Custom, Best::Flow),
                None => Best::Custom,
            },
            flows,
            in_scope,
            oos_score: verdict.oos_score(),
            language: Some(verdict.language()).filter(|code| !matches!(*code, "und" | "mul")),
        }
    }
}

/// The flow with this label. [`str::parse`] would allocate for labels of others.
fn flow(label: &str) -> Option<Flow> {
    Flow::ALL.into_iter().find(|flow| flow.name() == label)
}
