//! A labelled message, and what can be wrong with one.

use crate::{label::Flow, text};
use serde::Deserialize;
use std::{fmt, path::Path, sync::Arc};

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file; `-` for standard input.
    pub file: Arc<Path>,
    /// The line, counted from 1; the first one of a row over several lines.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One labelled message.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The message as it was typed. It has a visible character.
    pub text: String,
    /// The label, without space around it; not empty.
    pub label: String,
    /// BCP 47 code of the language.
    pub lang: Option<String>,
    /// The flow the bot is in.
    pub context: Option<Flow>,
    /// Rows of one group stay in one split.
    pub group: Option<String>,
    /// Where the row was read.
    pub origin: Origin,
}

/// A row as it is written, before anything is checked.
#[derive(Deserialize)]
pub(super) struct Fields {
    pub text: String,
    pub label: String,
    pub lang: Option<String>,
    pub context: Option<String>,
    pub group: Option<String>,
}

impl Fields {
    pub fn row(self, origin: Origin) -> Result<Row, RowErrorKind> {
        // Files with columns write "nothing" as an empty field.
        let some = |field: Option<String>| field.filter(|field| !field.trim().is_empty());
        if text::normalize(&self.text).is_empty() {
            return Err(RowErrorKind::EmptyText);
        }
        let label = self.label.trim();
        if label.is_empty() {
            return Err(RowErrorKind::EmptyLabel);
        }
        Ok(Row {
            label: label.to_owned(),
            text: self.text,
            lang: some(self.lang),
            context: some(self.context).map(|context| context.trim().parse()).transpose()?,
            group: some(self.group),
            origin,
        })
    }
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowErrorKind {
    /// The row is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// The line is no JSON object, lacks `text` or `label`, or holds half a surrogate pair.
    #[error("{0}")]
    Json(String),
    /// The line begins a JSON array.
    #[error("a JSON array; expected one object on each line, as `jq -c '.[]'` makes them of an array")]
    JsonArray,
    /// No column of a CSV or TSV file has a name for text or for labels, so none of its rows can be read.
    #[error("no column is named {}; the columns are {columns:?}, separated by {separator:?}", wanted.join(" or "))]
    NoColumn {
        /// Names that would do.
        wanted: &'static [&'static str],
        /// The columns there are.
        columns: Vec<String>,
        /// What separates columns.
        separator: char,
    },
    /// A record of a CSV or TSV file has more or fewer fields than the header.
    #[error("{found} fields, but the header has {expected}; a text with a separator or a line end in it needs quotes")]
    FieldCount {
        /// Fields of the record.
        found: usize,
        /// Fields of the header.
        expected: usize,
    },
    /// A field of a CSV or TSV file begins with a quote that is not closed at the end of the field.
    #[error("a quote is not closed at the end of its field; a quote inside a quoted field is written twice")]
    Quotes,
    /// The text has no visible character.
    #[error("empty text")]
    EmptyText,
    /// The label is empty.
    #[error("empty label")]
    EmptyLabel,
    /// The context names no flow.
    #[error("{0}")]
    Context(#[from] crate::UnknownFlow),
}

/// What is no row, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {kind}")]
pub struct RowError {
    /// Where.
    pub origin: Origin,
    /// What.
    #[source]
    pub kind: RowErrorKind,
}
