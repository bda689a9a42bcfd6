//! Reading rows, with errors that name file and line.

use crate::{label::Flow, text};
use serde::Deserialize;
use std::{
    fmt, fs,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a row stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The file; `-` for standard input.
    pub file: Arc<Path>,
    /// The line, counted from 1.
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
    /// The label; not empty.
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

#[derive(Deserialize)]
struct Fields {
    text: String,
    label: String,
    lang: Option<String>,
    context: Option<String>,
    group: Option<String>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowErrorKind {
    /// The line is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// The line is no JSON object, lacks `text` or `label`, or holds half a surrogate pair.
    #[error("{0}")]
    Json(String),
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

/// A line that is no row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {kind}")]
pub struct RowError {
    /// Where.
    pub origin: Origin,
    /// What.
    #[source]
    pub kind: RowErrorKind,
}

/// Why data cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory has no `.jsonl` file in it.
    #[error("no .jsonl file in {}", .0.display())]
    NoFiles(PathBuf),
    /// Some lines are no rows; the first of them, and how many there are.
    #[error("{first}{}", more(*.count))]
    Rows {
        /// The first bad line.
        first: RowError,
        /// How many bad lines there are.
        count: usize,
    },
}

fn more(count: usize) -> String {
    if count > 1 { format!(" (and {} more bad lines)", count - 1) } else { String::new() }
}

/// Reads rows one by one. Blank lines are skipped; a bad line is an error of its own and reading goes on after it.
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
        let fields: Fields = serde_json::from_str(line).map_err(|error| RowErrorKind::Json(error.to_string()))?;
        if text::normalize(&fields.text).is_empty() {
            return Err(RowErrorKind::EmptyText);
        }
        if fields.label.trim().is_empty() {
            return Err(RowErrorKind::EmptyLabel);
        }
        Ok(Row {
            context: fields.context.filter(|context| !context.is_empty()).map(|context| context.parse()).transpose()?,
            text: fields.text,
            label: fields.label,
            lang: fields.lang,
            group: fields.group,
            origin: self.origin.clone(),
        })
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

/// The `.jsonl` files at `paths`: files as they are, directories searched through, in alphabetical order.
///
/// # Errors
/// [`DataError::Io`] and [`DataError::NoFiles`].
pub fn files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    files_with(&["jsonl"], paths)
}

/// Like [`files`], for unlabelled text: `.jsonl`, `.txt` and `.gz` files.
///
/// # Errors
/// As [`files`].
pub fn corpus_files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    files_with(&["jsonl", "txt", "gz"], paths)
}

fn files_with(extensions: &[&str], paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let before = found.len();
        walk(path, true, extensions, &mut found).map_err(|source| DataError::Io { path: path.into(), source })?;
        if found.len() == before {
            return Err(DataError::NoFiles(path.into()));
        }
    }
    Ok(found)
}

fn walk(path: &Path, named: bool, extensions: &[&str], found: &mut Vec<PathBuf>) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| walk(entry, false, extensions, found))
    } else {
        if named || path.extension().is_some_and(|found| extensions.iter().any(|extension| found == *extension)) {
            found.push(path.into());
        }
        Ok(())
    }
}

/// Reads every row at `paths` and keeps the bad lines apart.
///
/// # Errors
/// [`DataError::Io`] and [`DataError::NoFiles`].
pub fn load_lenient(paths: &[impl AsRef<Path>]) -> Result<(Vec<Row>, Vec<RowError>), DataError> {
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        let io_error = |source| DataError::Io { path: path.clone(), source };
        let input = BufReader::new(fs::File::open(&path).map_err(io_error)?);
        for row in RowReader::new(input, &path) {
            match row.map_err(io_error)? {
                Ok(row) => rows.push(row),
                Err(error) => errors.push(error),
            }
        }
    }
    Ok((rows, errors))
}

/// Reads every row at `paths`, files or directories of `.jsonl` files.
///
/// # Errors
/// [`DataError`]; a single bad line is enough.
pub fn load(paths: &[impl AsRef<Path>]) -> Result<Vec<Row>, DataError> {
    let (rows, errors) = load_lenient(paths)?;
    let count = errors.len();
    match errors.into_iter().next() {
        Some(first) => Err(DataError::Rows { first, count }),
        None => Ok(rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn loading_stops_at_bad_lines_and_counts_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.jsonl"), "{\"text\":\"x\",\"label\":\"a\"}\n[]\n{}\n").unwrap();
        fs::write(dir.path().join("notes.txt"), "not data").unwrap();
        let error = load(&[dir.path()]).unwrap_err();
        assert!(matches!(&error, DataError::Rows { first, count: 2 } if first.origin.line == 2), "{error}");
        assert!(error.to_string().contains("a.jsonl:2: ") && error.to_string().ends_with("(and 1 more bad lines)"));
        assert!(matches!(load(&[dir.path().join("none")]), Err(DataError::Io { .. })));
        fs::remove_file(dir.path().join("a.jsonl")).unwrap();
        assert!(matches!(load(&[dir.path()]), Err(DataError::NoFiles(_))));
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
