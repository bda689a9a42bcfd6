//! Names of log files: `audit-2026-11-30-0001.jsonl`, by the UTC day of the first record and the file's number on it.

use super::Timestamp;
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileName {
    /// Midnight.
    pub(super) day: Timestamp,
    /// Counted from 1.
    pub(super) number: u32,
}

impl FileName {
    fn parse(name: &str) -> Option<Self> {
        let (date, number) = name.strip_prefix("audit-")?.strip_suffix(".jsonl")?.split_at_checked(10)?;
        let name = FileName {
            day: Timestamp::parse(&format!("{date}T00:00:00Z"))?,
            number: number.strip_prefix('-')?.parse().ok()?,
        };
        Some(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audit-{}-{:04}.jsonl", self.day.date(), self.number)
    }
}

/// The log files in a directory, oldest first. Files of other names are left alone.
pub(super) fn in_directory(dir: &Path) -> io::Result<Vec<(FileName, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = entry.file_name().to_str().and_then(FileName::parse) {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The files of logs, in the order in which they were written: of each path that is a directory, the log files in it; other
/// paths as they are.
///
/// # Errors
/// Names the path that cannot be read, or the directory without a log file, as [`io::ErrorKind::NotFound`].
pub fn files(paths: &[impl AsRef<Path>]) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let mut all = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let failed = |error| (path.to_owned(), error);
        if fs::metadata(path).map_err(failed)?.is_dir() {
            let found = in_directory(path).map_err(failed)?;
            if found.is_empty() {
                return Err(failed(io::Error::new(io::ErrorKind::NotFound, "there is no audit log in it")));
            }
            all.extend(found.into_iter().map(|(_, path)| path));
        } else {
            all.push(path.to_owned());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_day_and_number() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["audit-2026-11-30-9999.jsonl", "audit-2026-11-30-10000.jsonl", "audit-2026-12-01-0001.jsonl"];
        let others =
            ["audit-2026-13-01-0001.jsonl", "audit-2026-11-30.jsonl", "audit.lock", "audit-aaaaéaaaaaa-1.jsonl"];
        for name in names.iter().rev().chain(&others) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let found = files(&[dir.path()]).unwrap();
        assert_eq!(found, names.map(|name| dir.path().join(name)));
        assert_eq!(FileName::parse(names[2]).unwrap().to_string(), names[2]);
        let named = dir.path().join("audit.lock");
        assert_eq!(files(&[&named]).unwrap(), [named], "a file is taken as it is named");
        let (path, error) = files(&[dir.path().join("none")]).unwrap_err();
        assert!(path.ends_with("none") && error.kind() == io::ErrorKind::NotFound);
    }
}
