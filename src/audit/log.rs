//! The log on disk: JSON Lines in files that are only ever appended to.

use super::{
    FORMAT, Record, Timestamp,
    file_name::{self, FileName},
    line::{self, LineError, Lost},
    line_file::LineFile,
};
use serde::Serialize;
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

/// When records have to be on the disk and not only with the operating system. Either survives a killed process; the
/// disk alone survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// Before [`Log::append`] returns. Some milliseconds each, on common disks.
    #[default]
    EveryRecord,
    /// Whenever so many have been written, and when the [queue](super::queue) is empty.
    Every(u32),
    /// When [`Log::flush`] is called, and when a file is full.
    OnDemand,
}

/// How a [`Log`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// A file that would grow beyond this gets a successor. In bytes; 64 MiB by default, about 100,000 records.
    pub max_file_bytes: u64,
    /// When to wait for the disk.
    pub flush: Flush,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { max_file_bytes: 64 << 20, flush: Flush::default() }
    }
}

/// Why a log cannot be opened or written to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A file or directory cannot be created or read.
    #[error("cannot open the audit log {}: {source}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another log, in this process or another, has the directory open.
    #[error("another process writes the audit log in {}", .0.display())]
    Locked(PathBuf),
    /// The newest file is of another version of the format. Move it away, or use the program that wrote it.
    #[error("{}: format version {found}, this program writes {FORMAT}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The disk is full ([`io::ErrorKind::StorageFull`]), or something else kept a line from being written. The log has
    /// no part of that line, and can be used on.
    #[error("cannot write to {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What [`Log::open`] found behind the last line end, and removed: a record that was never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornLine {
    /// The file.
    pub file: PathBuf,
    /// Bytes removed.
    pub bytes: u64,
}

/// An audit log, the only one that writes to its directory.
///
/// When [`append`](Log::append) has returned a sequence number, the whole line is written: it is there after a `kill -9`.
/// The log reads no clock: a file ends with the UTC day of its records, or when it is full.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use intentgate::audit::{Log, LogOptions};
///
/// let (log, torn) = Log::open(dir.path(), LogOptions::default())?;
/// if let Some(torn) = torn {
///     eprintln!("{}: {} bytes of an unfinished record removed", torn.file.display(), torn.bytes);
/// }
/// assert_eq!(log.last_seq(), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    options: LogOptions,
    /// Held for as long as the log is open.
    _lock: File,
    current: Option<Current>,
    last_seq: u64,
    /// Records written since the disk was last waited for.
    unsynced: u32,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Current {
    name: FileName,
    path: PathBuf,
    lines: LineFile<File>,
}

impl Current {
    fn open(path: PathBuf, name: FileName, len: u64, options: &mut OpenOptions) -> Result<Self, LogError> {
        match options.append(true).open(&path) {
            Ok(file) => Ok(Current { name, path, lines: LineFile::new(file, len) }),
            Err(source) => Err(LogError::Open { path, source }),
        }
    }

    fn failed(&self, source: io::Error) -> LogError {
        LogError::Write { path: self.path.clone(), source }
    }
}

impl Log {
    /// Opens the log in a directory, which is created where it is missing. What a killed process left of an unfinished line
    /// is removed, and returned.
    ///
    /// The newest file is read once from start to end.
    ///
    /// # Errors
    /// [`LogError`], but not [`LogError::Write`].
    pub fn open(dir: impl AsRef<Path>, options: LogOptions) -> Result<(Self, Option<TornLine>), LogError> {
        let dir = dir.as_ref();
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::Open { path, source }
        };
        fs::create_dir_all(dir).map_err(failed(dir))?;
        let lock_path = dir.join("audit.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(failed(&lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => LogError::Locked(dir.to_owned()),
            TryLockError::Error(source) => LogError::Open { path: lock_path.clone(), source },
        })?;

        let mut log = Log {
            dir: dir.to_owned(),
            options,
            _lock: lock,
            current: None,
            last_seq: 0,
            unsynced: 0,
            buffer: Vec::new(),
        };
        let mut torn = None;
        for (name, path) in file_name::in_directory(dir).map_err(failed(dir))?.into_iter().rev() {
            let scan = Scan::read(&path)?;
            if log.current.is_none() {
                let mut current = Current::open(path.clone(), name, scan.whole, &mut OpenOptions::new())?;
                if scan.torn > 0 {
                    current.lines.cut().map_err(failed(&path))?;
                    torn = Some(TornLine { file: path, bytes: scan.torn });
                }
                log.current = Some(current);
            }
            // A file may have been begun and never written to: then the one before knows the number.
            if let Some(seq) = scan.last_seq {
                log.last_seq = seq;
                break;
            }
        }
        Ok((log, torn))
    }

    /// Writes a record and returns its sequence number, counted from 1. How far it then is on its way to the disk is for
    /// [`LogOptions::flush`] to say.
    ///
    /// # Errors
    /// [`LogError::Write`] or [`LogError::Open`], where a new file is due. The record is then not in the log, its number
    /// goes to the next one, and the log can be used on.
    pub fn append(&mut self, record: &Record) -> Result<u64, LogError> {
        self.write(record.time, record)
    }

    /// Notes that records could not be written; what became of them is for the caller to know.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_lost(&mut self, lost: Lost) -> Result<u64, LogError> {
        self.write(lost.time, &lost)
    }

    /// Waits until every record has reached the disk.
    ///
    /// # Errors
    /// [`LogError::Write`].
    pub fn flush(&mut self) -> Result<(), LogError> {
        if let Some(current) = &mut self.current
            && self.unsynced > 0
        {
            current.lines.sync().map_err(|source| current.failed(source))?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// The number of the last record, 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// There is nothing to write for the moment.
    pub(super) fn idle(&mut self) -> Result<(), LogError> {
        if matches!(self.options.flush, Flush::Every(_)) { self.flush() } else { Ok(()) }
    }

    fn write(&mut self, time: Timestamp, entry: &impl Serialize) -> Result<u64, LogError> {
        let seq = self.last_seq + 1;
        self.buffer.clear();
        line::write(&mut self.buffer, seq, entry)
            .map_err(|source| LogError::Write { path: self.dir.clone(), source })?;
        let sync = match self.options.flush {
            Flush::EveryRecord => true,
            Flush::Every(records) => self.unsynced + 1 >= records,
            Flush::OnDemand => false,
        };
        let (day, len) = (time.start_of_day(), self.buffer.len() as u64);
        let has_room = |current: &&mut Current| {
            let full = current.lines.len() > 0 && current.lines.len() + len > self.options.max_file_bytes;
            day <= current.name.day && !full
        };
        let current = match self.current.as_mut().filter(has_room) {
            Some(current) => current,
            None => {
                let next = self.next_file(day)?;
                self.current.insert(next)
            }
        };
        current.lines.append(&self.buffer, sync).map_err(|source| current.failed(source))?;
        self.unsynced = if sync { 0 } else { self.unsynced.saturating_add(1) };
        self.last_seq = seq;
        Ok(seq)
    }

    /// Ends the current file, and begins the one for a record of this day. A record of an earlier day than the file's, as
    /// they come when clocks are set back, does not end it.
    fn next_file(&mut self, day: Timestamp) -> Result<Current, LogError> {
        let name = match &mut self.current {
            Some(current) => {
                current.lines.sync().map_err(|source| current.failed(source))?;
                self.unsynced = 0;
                match current.name {
                    last if day > last.day => FileName { day, number: 1 },
                    last => FileName { number: last.number.saturating_add(1), ..last },
                }
            }
            None => FileName { day, number: 1 },
        };
        let current = Current::open(self.dir.join(name.to_string()), name, 0, OpenOptions::new().create_new(true))?;
        // The name has to survive a power cut as well as the lines.
        #[cfg(unix)]
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|source| current.failed(source))?;
        Ok(current)
    }
}

/// What a file holds.
struct Scan {
    /// The number of its last line that can be read.
    last_seq: Option<u64>,
    /// Bytes up to the last line end.
    whole: u64,
    /// Bytes behind it.
    torn: u64,
}

impl Scan {
    /// Lines that cannot be read stay where they are, for the report to name; only another version is an error.
    fn read(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError::Open { path: path.to_owned(), source };
        let mut input = BufReader::new(File::open(path).map_err(failed)?);
        let mut scan = Scan { last_seq: None, whole: 0, torn: 0 };
        let mut buffer = Vec::new();
        loop {
            buffer.clear();
            let bytes = input.read_until(b'\n', &mut buffer).map_err(failed)? as u64;
            if !buffer.ends_with(b"\n") {
                scan.torn = bytes;
                return Ok(scan);
            }
            scan.whole += bytes;
            match line::head(&buffer) {
                Ok((seq, _)) => scan.last_seq = Some(seq),
                Err(LineError::Version(found)) => return Err(LogError::Version { path: path.to_owned(), found }),
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Entry, files, line::Reader, record::tests::record},
        *,
    };

    const DAY_MS: u64 = 86_400_000;

    fn open(dir: &Path, max_file_bytes: u64) -> (Log, Option<TornLine>) {
        Log::open(dir, LogOptions { max_file_bytes, flush: Flush::OnDemand }).unwrap()
    }

    /// Names of the files, and the numbers in them.
    fn contents(dir: &Path) -> Vec<(String, Vec<u64>)> {
        let read = |path: PathBuf| {
            let lines = Reader::new(BufReader::new(File::open(&path).unwrap()));
            let numbers = lines.map(|line| line.unwrap().unwrap().seq).collect();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), numbers)
        };
        files(&[dir]).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn files_end_with_the_day_and_when_they_are_full() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, torn) = open(dir.path(), 1000);
        assert_eq!(torn, None);
        for day in [0, 0, 0, 1, 0] {
            log.append(&record(day * DAY_MS + 5, "x")).unwrap();
        }
        drop(log);
        // The number and the file go on after a restart, also where the clock stands before the last record.
        let (mut log, _) = open(dir.path(), 1000);
        assert_eq!(log.append(&record(9, &"long".repeat(1000))).unwrap(), 6);
        assert_eq!(log.append(&record(3 * DAY_MS, "x")).unwrap(), 7);
        let expected = [
            ("audit-1970-01-01-0001.jsonl", vec![1, 2]),
            ("audit-1970-01-01-0002.jsonl", vec![3]),
            ("audit-1970-01-02-0001.jsonl", vec![4, 5]),
            ("audit-1970-01-02-0002.jsonl", vec![6]),
            ("audit-1970-01-04-0001.jsonl", vec![7]),
        ];
        assert_eq!(contents(dir.path()), expected.map(|(name, seqs)| (name.to_owned(), seqs)));
    }

    #[test]
    fn a_torn_line_is_dropped_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 1 << 20);
        log.append(&record(1, "x")).unwrap();
        drop(log);
        let file = dir.path().join("audit-1970-01-01-0001.jsonl");
        let mut bytes = fs::read(&file).unwrap();
        // A bad line that has an end is evidence, and stays.
        bytes.extend(b"broken\n");
        let whole = bytes.len();
        bytes.extend(br#"{"v":1,"seq":2,"#);
        fs::write(&file, &bytes).unwrap();
        let (mut log, torn) = open(dir.path(), 1 << 20);
        assert_eq!(torn, Some(TornLine { file: file.clone(), bytes: 15 }));
        assert_eq!(fs::read(&file).unwrap(), bytes[..whole]);
        assert_eq!(log.append(&record(1, "y")).unwrap(), 2);
        let lines: Vec<_> = Reader::new(&fs::read(&file).unwrap()[..]).map(Result::unwrap).collect();
        assert!(lines[0].is_ok() && lines[1].is_err() && lines[2].as_ref().unwrap().seq == 2);
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn the_number_is_found_behind_files_that_were_never_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 1 << 20);
        log.append(&record(1, "x")).unwrap();
        drop(log);
        fs::write(dir.path().join("audit-1970-01-02-0001.jsonl"), "{\"v\":1").unwrap();
        let (mut log, torn) = open(dir.path(), 1 << 20);
        assert_eq!(torn.unwrap().bytes, 6);
        assert_eq!(log.append(&record(DAY_MS, "x")).unwrap(), 2);
    }

    #[test]
    fn another_process_and_another_version_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = open(dir.path(), 1 << 20);
        log.append(&record(1, "x")).unwrap();
        assert!(matches!(Log::open(dir.path(), LogOptions::default()), Err(LogError::Locked(at)) if at == dir.path()));
        drop(log);
        let file = dir.path().join("audit-1970-01-01-0001.jsonl");
        let newer = fs::read_to_string(&file).unwrap().replace("\"v\":1", "\"v\":2") + "{\"v\":2,";
        fs::write(&file, &newer).unwrap();
        let error = Log::open(dir.path(), LogOptions::default()).unwrap_err();
        assert!(matches!(error, LogError::Version { found: 2, .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), newer, "nothing is changed");
        fs::remove_file(&file).unwrap();
        fs::write(dir.path().join("plain"), "").unwrap();
        assert!(matches!(Log::open(dir.path().join("plain"), LogOptions::default()), Err(LogError::Open { .. })));
    }

    #[test]
    fn a_log_whose_directory_is_gone_can_be_used_once_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("log");
        let (mut log, _) = open(&at, 1);
        log.append(&record(1, "x")).unwrap();
        fs::rename(&at, dir.path().join("away")).unwrap();
        assert!(matches!(log.append(&record(2, "x")), Err(LogError::Open { .. })));
        fs::rename(dir.path().join("away"), &at).unwrap();
        assert_eq!(log.append(&record(3, "x")).unwrap(), 2);
        assert_eq!(log.append_lost(Lost { time: Timestamp::from_unix_ms(4), lost: 1 }).unwrap(), 3);
        log.flush().unwrap();
        let last = fs::read(at.join("audit-1970-01-01-0003.jsonl")).unwrap();
        let line = Reader::new(&last[..]).next().unwrap().unwrap().unwrap();
        assert!(matches!(line.entry, Entry::Lost(Lost { lost: 1, .. })));
    }
}
