//! Rows for the annotator: messages that a model should learn from next.

use super::{ConversationKey, Record, Timestamp};
use crate::label::Flow;
use serde::Serialize;
use std::{collections::HashMap, collections::HashSet, io, io::BufRead};

/// Why a corrections file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CorrectionsError {
    /// It cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A line is not `seq,label`.
    #[error("line {line}: expected the number of a record, a comma and a label")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// Two lines are about one record.
    #[error("line {line}: record {seq} is corrected twice")]
    Twice {
        /// Counted from 1.
        line: usize,
        /// The record.
        seq: u64,
    },
}

/// Reads what a reviewer corrected: one line `seq,label` for each record, with or without a heading `seq,label`.
///
/// # Errors
/// [`CorrectionsError`].
pub fn read_corrections(input: impl BufRead) -> Result<HashMap<u64, String>, CorrectionsError> {
    let mut corrections = HashMap::new();
    for (n, text) in input.lines().enumerate() {
        let (line, text) = (n + 1, text?);
        if text.trim().is_empty() || (line == 1 && text.trim() == "seq,label") {
            continue;
        }
        let (seq, label) = text
            .split_once(',')
            .and_then(|(seq, label)| Some((seq.trim().parse().ok()?, label.trim())))
            .filter(|(_, label)| !label.is_empty())
            .ok_or(CorrectionsError::Line { line })?;
        if corrections.insert(seq, label.to_owned()).is_some() {
            return Err(CorrectionsError::Twice { line, seq });
        }
    }
    Ok(corrections)
}

/// Why a row is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Review {
    /// A reviewer gave it its label.
    Corrected,
    /// It is near the threshold. The label is what the guard said, and waits for someone to look at it.
    NearThreshold,
}

/// A dataset row, with where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReviewRow<'a> {
    /// The message, as the log has it.
    pub text: &'a str,
    /// The label.
    pub label: &'a str,
    /// BCP 47 code, where the guard is sure of the language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lang: Option<&'a str>,
    /// The flow the bot was in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<Flow>,
    /// Messages of one conversation stay in one split.
    pub group: ConversationKey,
    /// Why.
    pub review: Review,
    /// What the guard said.
    pub guard: Option<&'a str>,
    /// Whether the text is redacted: placeholders are to be filled with made-up numbers and addresses.
    pub redacted: bool,
    /// The record.
    pub seq: u64,
    /// When.
    pub time: Timestamp,
}

/// Why a record that should be a row is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LeftOut {
    /// Its text was not kept.
    NoText,
    /// Its text has no visible character, and so no label.
    Empty,
    /// The same text with the same flow is a row already.
    Duplicate,
}

/// Chooses rows. Texts that were chosen are remembered as hashes, 8 bytes each.
#[derive(Debug)]
pub struct Rows {
    near: f32,
    corrections: HashMap<u64, String>,
    chosen: HashSet<u64>,
}

impl Rows {
    /// A message is near the threshold when its OOS score is this close to it, 0 to 1.
    pub fn new(near: f32, corrections: HashMap<u64, String>) -> Self {
        Rows { near, corrections, chosen: HashSet::new() }
    }

    /// The correction of a record, if there is one.
    pub fn correction(&self, seq: u64) -> Option<&str> {
        self.corrections.get(&seq).map(String::as_str)
    }

    /// The row of a record if it belongs to the `wanted`; corrected ones go before near ones, so that the label a person
    /// gave wins where the same text occurs twice.
    pub fn choose<'a>(
        &'a mut self,
        seq: u64,
        record: &'a Record,
        wanted: Review,
    ) -> Option<Result<ReviewRow<'a>, LeftOut>> {
        let verdict = record.verdict.as_ref();
        let guard = verdict.and_then(|verdict| verdict.intent.as_deref());
        let (label, review) = match self.corrections.get(&seq) {
            Some(label) => (Some(label.as_str()), Review::Corrected),
            None if record.distance().is_some_and(|distance| distance.abs() <= self.near) => {
                (guard, Review::NearThreshold)
            }
            None => return None,
        };
        if review != wanted {
            return None;
        }
        let Some(text) = record.text.as_deref() else { return Some(Err(LeftOut::NoText)) };
        let Some(label) = label.filter(|_| !crate::text::normalize(text).is_empty()) else {
            return Some(Err(LeftOut::Empty));
        };
        let flow = record.flow.map_or("", Flow::name);
        let hash = crate::data::fnv1a(crate::data::fnv1a(crate::data::FNV_OFFSET, flow.as_bytes()), text.as_bytes());
        if !self.chosen.insert(hash) {
            return Some(Err(LeftOut::Duplicate));
        }
        Some(Ok(ReviewRow {
            text,
            label,
            lang: verdict.map(|verdict| verdict.language.as_str()).filter(|code| !matches!(*code, "und" | "mul")),
            context: record.flow,
            group: record.conversation,
            review,
            guard,
            redacted: record.redacted,
            seq,
            time: record.time,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::record, *};
    use proptest::prelude::*;

    #[test]
    fn near_and_corrected_records_become_rows() {
        let mut rows = Rows::new(0.1, read_corrections(&b"seq,label\n3, faq\n\n9,order\n"[..]).unwrap());
        let clear = record(1, "a clear one");
        let mut near = record(2, "a near one");
        near.verdict.as_mut().unwrap().oos_score = 0.45;
        assert_eq!(rows.choose(1, &clear, Review::NearThreshold), None);
        let row = rows.choose(2, &near, Review::NearThreshold).unwrap().unwrap();
        assert_eq!((row.label, row.lang, row.review), ("order", Some("en"), Review::NearThreshold));
        let json = serde_json::to_string(&row).unwrap();
        let read =
            crate::data::RowReader::new(json.as_bytes(), std::path::Path::new("x")).next().unwrap().unwrap().unwrap();
        assert_eq!(
            (read.text, read.label, read.group),
            ("a near one".into(), "order".into(), Some(near.conversation.to_string()))
        );

        assert_eq!(rows.choose(3, &clear, Review::NearThreshold), None);
        let row = rows.choose(3, &clear, Review::Corrected).unwrap().unwrap();
        assert_eq!((row.label, row.guard), ("faq", Some("order")));
        assert_eq!(rows.choose(4, &near, Review::NearThreshold), Some(Err(LeftOut::Duplicate)));
        near.flow = Some(Flow::Faq);
        assert!(rows.choose(4, &near, Review::NearThreshold).unwrap().is_ok(), "another flow is another row");
        near.text = None;
        assert_eq!(rows.choose(5, &near, Review::NearThreshold), Some(Err(LeftOut::NoText)));
        near.text = Some(" \u{200b}".into());
        assert_eq!(rows.choose(6, &near, Review::NearThreshold), Some(Err(LeftOut::Empty)));
    }

    #[test]
    fn bad_corrections_are_named_by_line() {
        let error = |text: &str| read_corrections(text.as_bytes()).unwrap_err();
        assert!(matches!(error("seq,label\n1,faq\nx,faq"), CorrectionsError::Line { line: 3 }));
        assert!(matches!(error("1,"), CorrectionsError::Line { line: 1 }));
        assert!(matches!(error("1,faq\n1,order"), CorrectionsError::Twice { line: 2, seq: 1 }));
    }

    proptest! {
        #[test]
        fn any_corrections_are_read_or_refused(text in "[0-9a-z, \n\r\u{e9}]{0,60}") {
            if let Ok(corrections) = read_corrections(text.as_bytes()) {
                prop_assert!(corrections.values().all(|label| !label.trim().is_empty()));
            }
        }
    }
}
