//! Dataset files: finding them, and reading all their rows.

use super::{
    delimited::DelimitedReader,
    jsonl::RowReader,
    row::{Row, RowError},
};
use std::{
    fs,
    io::{self, BufReader},
    iter,
    path::{Path, PathBuf},
};

/// Extensions of dataset files.
const DATASETS: &[&str] = &["jsonl", "csv", "tsv"];

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
    /// A directory has no dataset file in it.
    #[error("no .jsonl, .csv or .tsv file in {}", .0.display())]
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

/// The `.jsonl`, `.csv` and `.tsv` files at `paths`: files as they are, directories searched through, in alphabetical
/// order.
///
/// # Errors
/// [`DataError::Io`] and [`DataError::NoFiles`].
pub fn files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    files_with(is_dataset, paths)
}

/// Like [`files`], for unlabelled text: `.txt` and `.gz` files too.
///
/// # Errors
/// As [`files`].
pub fn corpus_files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    files_with(|path| is_dataset(path) || has_extension(path, &["txt", "gz"]), paths)
}

/// Whether a file holds rows, by its name.
pub(crate) fn is_dataset(path: &Path) -> bool {
    has_extension(path, DATASETS)
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|found| extensions.iter().any(|extension| found.eq_ignore_ascii_case(extension)))
}

fn files_with(wanted: impl Fn(&Path) -> bool, paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let before = found.len();
        walk(path, true, &wanted, &mut found).map_err(|source| DataError::Io { path: path.into(), source })?;
        if found.len() == before {
            return Err(DataError::NoFiles(path.into()));
        }
    }
    Ok(found)
}

fn walk(path: &Path, named: bool, wanted: &impl Fn(&Path) -> bool, found: &mut Vec<PathBuf>) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        let mut entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        entries.iter().try_for_each(|entry| walk(entry, false, wanted, found))
    } else {
        if named || wanted(path) {
            found.push(path.into());
        }
        Ok(())
    }
}

type Rows = Box<dyn Iterator<Item = io::Result<Result<Row, RowError>>>>;

/// The rows of a file and what is no row in it, in order: comma-separated values in `.csv`, tab-separated ones in `.tsv`,
/// JSON Lines in any other.
pub(crate) fn rows(path: &Path) -> io::Result<Rows> {
    let separator = match () {
        () if has_extension(path, &["csv"]) => b',',
        () if has_extension(path, &["tsv"]) => b'\t',
        () => return Ok(Box::new(RowReader::new(BufReader::new(fs::File::open(path)?), path))),
    };
    Ok(match DelimitedReader::new(fs::read(path)?, separator, path) {
        Ok(reader) => Box::new(reader.map(Ok)),
        Err(error) => Box::new(iter::once(Ok(Err(error)))),
    })
}

/// Reads every row at `paths` and keeps the bad lines apart.
///
/// # Errors
/// [`DataError::Io`] and [`DataError::NoFiles`].
pub fn load_lenient(paths: &[impl AsRef<Path>]) -> Result<(Vec<Row>, Vec<RowError>), DataError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for path in files(paths)? {
        let io_error = |source| DataError::Io { path: path.clone(), source };
        for row in rows(&path).map_err(io_error)? {
            match row.map_err(io_error)? {
                Ok(row) => good.push(row),
                Err(error) => bad.push(error),
            }
        }
    }
    Ok((good, bad))
}

/// Reads every row at `paths`, files or directories of `.jsonl`, `.csv` and `.tsv` files.
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

    #[test]
    fn directories_are_searched_for_every_kind_of_dataset() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("more")).unwrap();
        for (name, content) in [
            ("a.jsonl", "{\"text\":\"one\",\"label\":\"a\"}\n"),
            ("b.csv", "label,text\nb,\"two, too\"\n"),
            ("more/c.TSV", "Intent\tQuery\nc\tthree, four\n"),
        ] {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let rows = load(&[dir.path()]).unwrap();
        let pairs: Vec<_> = rows.iter().map(|row| (row.text.as_str(), row.label.as_str())).collect();
        assert_eq!(pairs, [("one", "a"), ("two, too", "b"), ("three, four", "c")]);
        fs::write(dir.path().join("b.csv"), "id;text;label\n1;x;y\n").unwrap();
        let (rows, errors) = load_lenient(&[dir.path()]).unwrap();
        assert_eq!((rows.len(), errors.len()), (2, 1), "the other files are read all the same");
        assert!(errors[0].to_string().contains("b.csv:1: no column is named text or"), "{}", errors[0]);
        assert!(errors[0].to_string().ends_with("the columns are [\"id;text;label\"], separated by ','"));
    }
}
