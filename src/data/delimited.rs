//! Rows of comma- or tab-separated values.

use super::row::{Fields, Origin, Row, RowError, RowErrorKind};
use csv::ByteRecord;
use std::{io::Cursor, path::Path};

/// Names of the column with the text; the first of them that a file has counts.
const TEXT: &[&str] = &["text", "utterance", "query", "message", "sentence"];
/// The same for the label.
const LABEL: &[&str] = &["label", "intent", "category"];

/// Reads rows of separated values one by one, quoted as in RFC 4180. The first record names the columns, in any case and
/// order: `text` (or `utterance`, `query`, `message`, `sentence`), `label` (or `intent`, `category`), and if they are there
/// `lang`, `context` and `group`; others are ignored. Blank records are skipped; a bad record is an error of its own and
/// reading goes on after it.
pub struct DelimitedReader {
    records: csv::Reader<Cursor<Vec<u8>>>,
    record: ByteRecord,
    separator: u8,
    columns: Columns,
    /// Of the record; `start` is its first byte.
    origin: Origin,
    start: usize,
}

/// Where a record has what.
#[derive(Default)]
struct Columns {
    count: usize,
    text: usize,
    label: usize,
    lang: Option<usize>,
    context: Option<usize>,
    group: Option<usize>,
}

impl DelimitedReader {
    /// Reads the content of a file, with fields separated by the byte `separator`; `file` is for messages.
    ///
    /// # Errors
    /// No row can be read if the header is broken, or names no text or no label.
    pub fn new(mut content: Vec<u8>, separator: u8, file: &Path) -> Result<Self, RowError> {
        if content.starts_with("\u{feff}".as_bytes()) {
            content.drain(..3);
        }
        // Records of any length: how many fields are right is for us to say.
        let mut builder = csv::ReaderBuilder::new();
        let builder = builder.delimiter(separator).has_headers(false).flexible(true);
        let mut reader = DelimitedReader {
            records: builder.from_reader(Cursor::new(content)),
            record: ByteRecord::new(),
            separator,
            columns: Columns::default(),
            origin: Origin { file: file.into(), line: 1 },
            start: 0,
        };
        let header = reader.advance().unwrap_or(Ok(()));
        match header.and_then(|()| reader.header()) {
            Ok(columns) => Ok(DelimitedReader { columns, ..reader }),
            Err(kind) => Err(RowError { origin: reader.origin, kind }),
        }
    }

    fn header(&self) -> Result<Columns, RowErrorKind> {
        let names = self.record.iter().map(|name| str::from_utf8(name).map(|name| name.trim().to_owned()));
        let columns: Vec<String> = names.collect::<Result<_, _>>().map_err(|_| RowErrorKind::Utf8)?;
        let column = |name: &str| columns.iter().position(|column| column.to_lowercase() == name);
        let one_of = |wanted: &'static [&'static str]| {
            wanted.iter().find_map(|name| column(name)).ok_or_else(|| RowErrorKind::NoColumn {
                wanted,
                columns: columns.clone(),
                separator: self.separator.into(),
            })
        };
        Ok(Columns {
            count: columns.len(),
            text: one_of(TEXT)?,
            label: one_of(LABEL)?,
            lang: column("lang"),
            context: column("context"),
            group: column("group"),
        })
    }

    /// Goes to the next record that is not blank; `None` at the end.
    fn advance(&mut self) -> Option<Result<(), RowErrorKind>> {
        loop {
            let from = self.records.position().byte() as usize;
            // Reading bytes and seeking in memory cannot fail: any encoding and any number of fields will do.
            if !self.records.read_byte_record(&mut self.record).unwrap_or(false) {
                return None;
            }
            let content = self.records.get_ref().get_ref();
            let written = &content[from..self.records.position().byte() as usize];
            let start = from + written.iter().take_while(|byte| is_line_end(byte)).count();
            self.origin.line += line_ends(&content[self.start..=start]);
            self.start = start;
            if !is_well_quoted(&content[start..from + written.len()], &self.record, self.separator) {
                // A stray quote takes in all lines up to the next one, so the line after this one is where to go on.
                let line = content[start..].iter().take_while(|byte| !is_line_end(byte)).count();
                let mut next = self.records.position().clone();
                next.set_byte((start + line) as u64);
                let _ = self.records.seek(next);
                return Some(Err(RowErrorKind::Quotes));
            }
            if self.record.iter().any(|field| !field.trim_ascii().is_empty()) {
                return Some(Ok(()));
            }
        }
    }

    fn row(&self) -> Result<Row, RowErrorKind> {
        let Columns { count, text, label, lang, context, group } = self.columns;
        if self.record.len() != count {
            return Err(RowErrorKind::FieldCount { found: self.record.len(), expected: count });
        }
        let field = |column: usize| {
            let field = str::from_utf8(self.record.get(column).unwrap_or_default());
            field.map(String::from).map_err(|_| RowErrorKind::Utf8)
        };
        let fields = Fields {
            text: field(text)?,
            label: field(label)?,
            lang: lang.map(field).transpose()?,
            context: context.map(field).transpose()?,
            group: group.map(field).transpose()?,
        };
        fields.row(self.origin.clone())
    }
}

impl Iterator for DelimitedReader {
    type Item = Result<Row, RowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.advance()?.and_then(|()| self.row());
        Some(row.map_err(|kind| RowError { origin: self.origin.clone(), kind }))
    }
}

fn is_line_end(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Line ends of any system: LF, CR and CR LF.
fn line_ends(bytes: &[u8]) -> usize {
    let lf = bytes.iter().filter(|&&byte| byte == b'\n').count();
    lf + bytes.windows(2).filter(|pair| pair[0] == b'\r' && pair[1] != b'\n').count()
}

/// Whether quotes are where RFC 4180 has them: around a whole field, and twice inside. The `csv` crate makes fields of any
/// bytes; they are right if, written down again, they give the bytes of the record.
fn is_well_quoted(mut written: &[u8], record: &ByteRecord, separator: u8) -> bool {
    for (n, field) in record.iter().enumerate() {
        let mut expected = if n == 0 { Vec::new() } else { vec![separator] };
        if written[expected.len().min(written.len())..].starts_with(b"\"") {
            expected.push(b'"');
            expected.extend(field.iter().flat_map(|&byte| std::iter::repeat_n(byte, 1 + usize::from(byte == b'"'))));
            expected.push(b'"');
        } else {
            expected.extend(field);
        }
        match written.strip_prefix(&expected[..]) {
            Some(rest) => written = rest,
            None => return false,
        }
    }
    written.iter().all(is_line_end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Flow, text};
    use csv::{QuoteStyle, Terminator, WriterBuilder};
    use proptest::prelude::*;

    fn reader(content: impl Into<Vec<u8>>) -> Result<DelimitedReader, RowError> {
        DelimitedReader::new(content.into(), b',', Path::new("x.csv"))
    }

    fn read(content: impl Into<Vec<u8>>) -> Vec<Result<Row, RowError>> {
        reader(content).unwrap().collect()
    }

    #[test]
    fn columns_are_found_by_any_of_their_names() {
        let row =
            read("\u{feff}id, Intent ,TEXT,context,lang,query,group\r\n7, faq ,\"a \"\"b\"\",\nc\",order,,x,g\r\n")
                .pop()
                .unwrap()
                .unwrap();
        assert_eq!((row.text.as_str(), row.label.as_str()), ("a \"b\",\nc", "faq"));
        assert_eq!((row.context, row.lang, row.group.as_deref()), (Some(Flow::Order), None, Some("g")));
        assert_eq!(row.origin.line, 2);
    }

    #[test]
    fn a_header_without_text_or_label_is_refused_with_the_names_there_are() {
        let error = |content: &str| reader(content).map(|_| ()).unwrap_err();
        let kind = error("\n\nText;Label\nhi;faq").kind;
        assert!(
            matches!(kind, RowErrorKind::NoColumn { wanted, columns, .. } if wanted == TEXT && columns == ["Text;Label"])
        );
        assert!(matches!(error("text,tag\nhi,faq").kind, RowErrorKind::NoColumn { wanted, .. } if wanted == LABEL));
        assert!(error("").to_string().starts_with("x.csv:1: no column is named text or utterance or"));
        assert_eq!(error("\n\"text,label\nhi,faq\n").kind, RowErrorKind::Quotes);
        assert_eq!(error("\n\"text,label\nhi,faq\n").origin.line, 2);
        assert_eq!(reader(*b"\xff\xfet\0e\0x\0t\0").map(|_| ()).unwrap_err().kind, RowErrorKind::Utf8);
    }

    #[test]
    fn every_bad_record_is_named_and_none_is_lost() {
        let content = b"text,label,context\n\n\"two\nlines\",faq,\n,,\nhi,faq\nhi, you,faq,\n \xe2\x80\x8b,faq,\nhi, ,\nhi,faq,chat\n\
            \xff,faq,\n\"swallows,faq,\nkept,faq,\n\"broken\" quotes,faq,\n5\" pipe,faq,\r\nmac,faq,\rlast,faq,\n\"open,faq,\nend,faq,";
        let rows = read(*content);
        let (good, bad): (Vec<_>, Vec<_>) = rows.into_iter().partition(Result::is_ok);
        let good: Vec<_> = good.into_iter().map(|row| row.map(|row| (row.origin.line, row.text)).unwrap()).collect();
        let expected = [(3, "two\nlines"), (13, "kept"), (15, "5\" pipe"), (16, "mac"), (17, "last"), (19, "end")];
        assert_eq!(good, expected.map(|(line, text)| (line, text.to_owned())));
        let bad: Vec<_> =
            bad.into_iter().map(|row| row.unwrap_err()).map(|error| (error.origin.line, error.kind)).collect();
        assert!(matches!(bad[4], (10, RowErrorKind::Context(_))), "{bad:?}");
        let others: Vec<_> = bad.into_iter().filter(|(line, _)| *line != 10).collect();
        assert_eq!(
            others,
            [
                (6, RowErrorKind::FieldCount { found: 2, expected: 3 }),
                (7, RowErrorKind::FieldCount { found: 4, expected: 3 }),
                (8, RowErrorKind::EmptyText),
                (9, RowErrorKind::EmptyLabel),
                (11, RowErrorKind::Utf8),
                (12, RowErrorKind::Quotes),
                (14, RowErrorKind::Quotes),
                (18, RowErrorKind::Quotes),
            ]
        );
    }

    #[test]
    fn a_long_text_is_one_row() {
        let long = "where is my order, please\n".repeat(50_000);
        let rows = read(format!("text,label\n\"{long}\",order\nhi,faq\n"));
        assert_eq!(rows[0].as_ref().unwrap().text, long);
        assert_eq!(rows[1].as_ref().unwrap().origin.line, 50_003);
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read(
            rows in prop::collection::vec(("[a\"\n\r,\t é]{1,12}", "[a-z\"]{1,9}"), 1..6),
            style in prop_oneof![Just(QuoteStyle::Always), Just(QuoteStyle::Necessary)],
            separator in prop_oneof![Just(b','), Just(b'\t')],
            end in prop_oneof![Just(Terminator::CRLF), Just(Terminator::Any(b'\n')), Just(Terminator::Any(b'\r'))],
        ) {
            prop_assume!(rows.iter().all(|(text, _)| !text::normalize(text).is_empty()));
            let mut writer = WriterBuilder::new().delimiter(separator).quote_style(style).terminator(end).from_writer(Vec::new());
            for (text, label) in [&("text".into(), "label".into())].into_iter().chain(&rows) {
                writer.write_record([text, label]).unwrap();
            }
            let content = writer.into_inner().unwrap();
            let read = DelimitedReader::new(content, separator, Path::new("x")).unwrap().map(|row| row.unwrap());
            prop_assert_eq!(read.map(|row| (row.text, row.label)).collect::<Vec<_>>(), rows);
        }

        #[test]
        fn any_bytes_give_rows_or_errors(bytes in prop::collection::vec(prop_oneof![3 => any::<u8>(), 7 => prop::sample::select(&b"a,\"\n\r"[..])], 0..200)) {
            let mut content = b"text,label\n".to_vec();
            content.extend(&bytes);
            let lines = line_ends(&content) + 1;
            let mut last = 1;
            for row in reader(content).unwrap() {
                let line = row.map_or_else(|error| error.origin.line, |row| row.origin.line);
                prop_assert!(line > last && line <= lines, "line {line} after {last} of {lines}");
                last = line;
            }
        }
    }
}
