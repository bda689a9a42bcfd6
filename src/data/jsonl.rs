//! Rows of JSON Lines.

use super::row::{Fields, Origin, Row, RowError, RowErrorKind};
use std::{
    io::{self, BufRead},
    path::Path,
};

/// Reads rows of JSON Lines one by one. Blank lines are skipped; a bad line is an error of its own and reading goes on
/// after it.
pub struct RowReader<R> {
    input: R,
    origin: Origin,
    line: Vec<u8>,
}

impl<R: BufRead> RowReader<R> {
    /// Reads from `input`; `file` is for messages.
    pub fn new(input: R, file: &Path) -> Self {
        RowReader { input, origin: Origin { file: file.into(), line: 0 }, line: Vec::new() }
    }

    fn parse(&self) -> Result<Row, RowErrorKind> {
        let line = str::from_utf8(&self.line).map_err(|_| RowErrorKind::Utf8)?;
        // Editors of some systems put a byte order mark at the head of a file.
        let line = line.strip_prefix('\u{feff}').filter(|_| self.origin.line == 1).unwrap_or(line);
        if line.trim_start().starts_with('[') {
            return Err(RowErrorKind::JsonArray);
        }
        let fields: Fields = serde_json::from_str(line).map_err(|error| RowErrorKind::Json(error.to_string()))?;
        fields.row(self.origin.clone())
    }
}

impl<R: BufRead> Iterator for RowReader<R> {
    type Item = io::Result<Result<Row, RowError>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.line.clear();
            self.origin.line += 1;
            match self.input.read_until(b'\n', &mut self.line) {
                Ok(0) => return None,
                Ok(_) if self.line.trim_ascii().is_empty() => {}
                Ok(_) => {
                    return Some(Ok(self.parse().map_err(|kind| RowError { origin: self.origin.clone(), kind })));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flow, text};
    use proptest::prelude::*;

    fn read(lines: &[u8]) -> Vec<Result<Row, RowError>> {
        RowReader::new(lines, Path::new("x.jsonl")).map(Result::unwrap).collect()
    }

    #[test]
    fn every_bad_line_is_named_and_none_is_lost() {
        let mut lines = Vec::from(
            b"{\"text\":\"hi\",\"label\":\"faq\",\"context\":\"order\",\"source\":\"x\"}\n\n{\"text\":\"hi\"\n\
              {\"text\":\"\\ud83d half\",\"label\":\"faq\"}\n{\"text\":\" \\u200b\",\"label\":\"faq\"}\n\
              {\"text\":\"hi\",\"label\":\" \"}\n{\"text\":\"hi\",\"label\":\"faq\",\"context\":\"chat\"}\n{\"text\":\""
                .as_slice(),
        );
        lines.extend(b"\xff\",\"label\":\"faq\"}\n{\"text\":\"last\",\"label\":\"faq\"}");
        let rows = read(&lines);
        assert_eq!(rows[0].as_ref().unwrap().context, Some(Flow::Order));
        assert_eq!(rows.last().unwrap().as_ref().unwrap().text, "last");
        let errors: Vec<_> = rows.into_iter().filter_map(Result::err).collect();
        let lines: Vec<_> = errors.iter().map(|error| error.origin.line).collect();
        assert_eq!(lines, [3, 4, 5, 6, 7, 8]);
        assert!(matches!(errors[1].kind, RowErrorKind::Json(_)), "half a surrogate pair");
        assert_eq!(errors[2].kind, RowErrorKind::EmptyText);
        assert_eq!(errors[3].kind, RowErrorKind::EmptyLabel);
        assert_eq!(errors[4].to_string().split(": ").next(), Some("x.jsonl:7"));
        assert_eq!(errors[5].kind, RowErrorKind::Utf8);
    }

    #[test]
    fn a_mark_at_the_head_is_skipped_and_an_array_is_named() {
        let marked = "\u{feff}{\"text\":\"hi\",\"label\":\" faq \",\"lang\":\"\",\"group\":\"\"}";
        let row = read(marked.as_bytes()).pop().unwrap().unwrap();
        assert_eq!((row.label.as_str(), row.lang, row.group), ("faq", None, None));
        let array = read(b"\n [\n{\"text\":\"hi\",\"label\":\"faq\"}\n]");
        assert!(matches!(&array[0], Err(error) if error.kind == RowErrorKind::JsonArray && error.origin.line == 2));
        assert!(array[1].is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_give_rows_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
            prop_assert_eq!(read(&bytes).len(), lines);
        }

        #[test]
        fn any_text_survives_json(text in "\\PC{1,40}", label in "[a-z_]{1,9}") {
            prop_assume!(!text::normalize(&text).is_empty());
            let line = serde_json::json!({ "text": text, "label": label }).to_string();
            let row = read(line.as_bytes()).pop().unwrap().unwrap();
            prop_assert_eq!((row.text, row.label), (text, label));
        }
    }
}
