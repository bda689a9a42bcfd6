//! Labelled messages: JSON Lines, CSV or TSV in, checked rows out.
//!
//! A row has a `text` and a `label`, and optionally `lang` (BCP 47), `context` (the flow the bot is in) and `group` (rows of
//! one group must stay in one split). In JSON Lines ([`RowReader`]) it is one object on one line, in CSV and TSV
//! ([`DelimitedReader`]) one record below a header. Other fields are ignored.

pub mod check;
mod delimited;
mod files;
mod jsonl;
mod language;
mod neighbours;
pub mod review;
mod row;

pub use delimited::DelimitedReader;
pub use files::{DataError, corpus_files, files, load, load_lenient};
#[cfg(feature = "train")]
pub(crate) use files::{is_dataset, rows};
pub use jsonl::RowReader;
pub use language::{Language, language};
pub use row::{Origin, Row, RowError, RowErrorKind};

/// A hash of what the rows teach: texts, labels and flows in order, as 16 hexadecimal digits (FNV-1a, 64 bit).
pub fn fingerprint<'a>(rows: impl IntoIterator<Item = &'a Row>) -> String {
    let mut hash = FNV_OFFSET;
    let mut eat = |bytes: &[u8]| hash = fnv1a(fnv1a(hash, bytes), &[0xff]);
    for row in rows {
        eat(row.text.as_bytes());
        eat(row.label.as_bytes());
        eat(row.context.map_or("", crate::Flow::name).as_bytes());
    }
    format!("{hash:016x}")
}

/// Where an FNV-1a hash begins.
pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bit, of `bytes` after what gave `hash`.
pub(crate) fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
