//! Lines of a log: records, and notes of records that were lost.

use super::{Record, Timestamp};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead};

/// The version of the lines that this crate writes and reads: their field `v`.
pub const FORMAT: u32 = 1;
/// Longer lines are not read. A record of the longest message that the channel allows has a hundredth of it.
const LONGEST: usize = 1 << 22;

/// What one line says.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// One more than that of the line before, counted from 1 and through all the files of a log.
    pub seq: u64,
    /// What.
    pub entry: Entry,
}

/// A record, or the place of some that are lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// A decision.
    Record(Box<Record>),
    /// Records that could not be written.
    Lost(Lost),
}

/// Decisions of which there is no record: the queue or the disk was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The time of the next record that could be written.
    pub time: Timestamp,
    /// How many.
    pub lost: u64,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The line is no JSON, or lacks a field.
    #[error("{0}")]
    Json(String),
    /// The line is of another version of the format.
    #[error("format version {0}, expected {FORMAT}")]
    Version(u32),
    /// The line has no end: whoever wrote it was interrupted, or is still writing.
    #[error("cut off")]
    CutOff,
    /// The line is longer than 4 MiB.
    #[error("longer than {LONGEST} bytes")]
    TooLong,
}

/// The fields that come before all others.
#[derive(Deserialize)]
struct Head {
    v: u32,
    seq: Option<u64>,
    lost: Option<serde::de::IgnoredAny>,
}

/// Appends a line to `buffer`, its end included.
pub(super) fn write(buffer: &mut Vec<u8>, seq: u64, entry: &impl Serialize) -> io::Result<()> {
    #[derive(Serialize)]
    struct Numbered<'a, T> {
        v: u32,
        seq: u64,
        #[serde(flatten)]
        entry: &'a T,
    }
    serde_json::to_writer(&mut *buffer, &Numbered { v: FORMAT, seq, entry })?;
    buffer.push(b'\n');
    Ok(())
}

fn json(error: serde_json::Error) -> LineError {
    LineError::Json(error.to_string())
}

/// The sequence number of a line, and whether it is a note of lost records.
pub(super) fn head(line: &[u8]) -> Result<(u64, bool), LineError> {
    let head: Head = serde_json::from_slice(line).map_err(json)?;
    if head.v != FORMAT {
        return Err(LineError::Version(head.v));
    }
    let seq = head.seq.ok_or_else(|| LineError::Json("missing field `seq`".into()))?;
    Ok((seq, head.lost.is_some()))
}

fn parse(line: &[u8]) -> Result<Line, LineError> {
    let (seq, lost) = head(line)?;
    let entry = if lost {
        Entry::Lost(serde_json::from_slice(line).map_err(json)?)
    } else {
        Entry::Record(serde_json::from_slice(line).map_err(json)?)
    };
    Ok(Line { seq, entry })
}

/// Reads the lines of one file one by one. Blank lines are skipped; a bad line is an error of its own and reading goes on
/// after it.
pub struct Reader<R> {
    input: R,
    buffer: Vec<u8>,
    line: usize,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Reader { input, buffer: Vec::new(), line: 0 }
    }

    /// The line read last, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Reads up to the next line end, but keeps no more of it than the longest line has.
    fn read(&mut self) -> io::Result<Option<Result<(), LineError>>> {
        self.buffer.clear();
        self.line += 1;
        let mut limited = io::Read::take(&mut self.input, LONGEST as u64);
        if limited.read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        if self.buffer.ends_with(b"\n") {
            return Ok(Some(Ok(())));
        }
        if self.buffer.len() < LONGEST {
            return Ok(Some(Err(LineError::CutOff)));
        }
        self.input.skip_until(b'\n')?;
        Ok(Some(Err(LineError::TooLong)))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = io::Result<Result<Line, LineError>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            return match self.read().transpose()? {
                Ok(Ok(())) if self.buffer.trim_ascii().is_empty() => continue,
                Ok(whole) => Some(Ok(whole.and_then(|()| parse(self.buffer.trim_ascii_end())))),
                Err(error) => Some(Err(error)),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::record::tests::record, *};
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Vec<Result<Line, LineError>> {
        Reader::new(bytes).map(Result::unwrap).collect()
    }

    #[test]
    fn records_and_losses_are_told_apart() {
        let mut bytes = Vec::new();
        write(&mut bytes, 1, &record(5, "a\nb")).unwrap();
        write(&mut bytes, 2, &Lost { time: Timestamp::from_unix_ms(6), lost: 3 }).unwrap();
        assert!(bytes.starts_with(br#"{"v":1,"seq":1,"time":"1970-01-01T00:00:00.005Z","conversation":""#));
        let lines = read(&bytes);
        assert_eq!(lines[0], Ok(Line { seq: 1, entry: Entry::Record(Box::new(record(5, "a\nb"))) }));
        assert!(matches!(&lines[1], Ok(Line { seq: 2, entry: Entry::Lost(lost) }) if lost.lost == 3));
    }

    #[test]
    fn a_bad_line_is_named_and_reading_goes_on() {
        let mut bytes = b"\n{\"v\":2,\"new\":true}\n{\"v\":1,\"seq\":4}\n\xff\n".to_vec();
        bytes.extend(std::iter::repeat_n(b'x', LONGEST + 5));
        bytes.push(b'\n');
        write(&mut bytes, 5, &record(1, "a")).unwrap();
        bytes.extend(br#"{"v":1,"seq":6,"lost":"#);
        let mut reader = Reader::new(&bytes[..]);
        let mut found = Vec::new();
        while let Some(line) = reader.next() {
            found.push((reader.line(), line.unwrap()));
        }
        assert_eq!(found[0], (2, Err(LineError::Version(2))));
        assert!(matches!(&found[1], (3, Err(LineError::Json(why))) if why.contains("missing field")));
        assert!(matches!(found[2], (4, Err(LineError::Json(_)))));
        assert_eq!(found[3], (5, Err(LineError::TooLong)));
        assert!(matches!(found[4], (6, Ok(Line { seq: 5, .. }))));
        assert_eq!(found[5], (7, Err(LineError::CutOff)));
        assert_eq!(found.len(), 6);
    }

    proptest! {
        #[test]
        fn any_bytes_give_lines_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let lines = bytes.split(|&b| b == b'\n').collect::<Vec<_>>();
            let (last, whole) = lines.split_last().unwrap();
            let expected = whole.iter().filter(|line| !line.trim_ascii().is_empty()).count() + usize::from(!last.is_empty());
            prop_assert_eq!(read(&bytes).len(), expected);
        }
    }
}
