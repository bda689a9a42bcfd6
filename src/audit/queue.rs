//! A bounded queue between the threads that answer customers and the one that writes the log.

use super::{Log, LogError, Lost, Record};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
    mpsc::{self, Receiver, SyncSender, TryRecvError},
};

/// A queue for up to `capacity` records, at least one. It takes about 300 bytes for each at once, and 1 kB when it is full
/// of records with a short text.
///
/// The library starts no thread: hand the [`Writer`] to one of yours, and a clone of the [`Sender`] to everyone who
/// answers customers.
///
/// ```
/// use intentgate::audit::{self, Log, LogOptions, Flush};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// let options = LogOptions { flush: Flush::Every(100), ..LogOptions::default() };
/// let (mut log, _) = Log::open(dir.path(), options)?;
/// let (sender, writer) = audit::queue(10_000);
/// let thread = std::thread::spawn(move || writer.run(&mut log, |error| eprintln!("{error}")));
/// // ... sender.record(recorder.record(&event)); ...
/// drop(sender);                       // the writer ends when it has written everything
/// let summary = thread.join().map_err(|_| "the writer panicked")?;
/// assert_eq!((summary.written, summary.lost), (0, 0));
/// # Ok(())
/// # }
/// ```
pub fn queue(capacity: usize) -> (Sender, Writer) {
    let (sender, receiver) = mpsc::sync_channel(capacity.max(1));
    let lost = Arc::new(AtomicU64::new(0));
    (Sender { records: sender, lost: Arc::clone(&lost) }, Writer { records: receiver, lost })
}

/// The end that records go into. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Sender {
    records: SyncSender<Record>,
    lost: Arc<AtomicU64>,
}

impl Sender {
    /// Passes a record on. Never waits: where the queue is full or the writer has ended, the record is lost, the answer is
    /// `false`, and the loss is counted. The writer notes it in the log with the next record that it writes.
    pub fn record(&self, record: Record) -> bool {
        let sent = self.records.try_send(record).is_ok();
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Lost records that the log does not know of yet.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// The end that records come out of.
#[derive(Debug)]
pub struct Writer {
    records: Receiver<Record>,
    lost: Arc<AtomicU64>,
}

/// What a [`Writer`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Records written.
    pub written: u64,
    /// Records lost: the queue or the disk was full.
    pub lost: u64,
    /// Those of them that the log does not know of, since the disk was still full at the end.
    pub unreported: u64,
}

impl Writer {
    /// Writes records until every [`Sender`] is gone and the queue is empty, then waits for the disk.
    ///
    /// A record that cannot be written is lost and counted like one that found the queue full, and `on_error` gets the
    /// error; the writer goes on.
    pub fn run(self, log: &mut Log, mut on_error: impl FnMut(&LogError)) -> Summary {
        let mut summary = Summary::default();
        let mut last = None;
        while let Some(record) = self.next(log, &mut on_error) {
            last = Some(record.time);
            summary.lost += self.note_lost(log, record.time, &mut on_error);
            match log.append(&record) {
                Ok(_) => summary.written += 1,
                Err(error) => {
                    on_error(&error);
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        if let Some(time) = last {
            summary.lost += self.note_lost(log, time, &mut on_error);
        }
        if let Err(error) = log.flush() {
            on_error(&error);
        }
        summary.unreported = self.lost.load(Ordering::Relaxed);
        summary.lost += summary.unreported;
        summary
    }

    /// The next record, if there is going to be one.
    fn next(&self, log: &mut Log, on_error: &mut impl FnMut(&LogError)) -> Option<Record> {
        match self.records.try_recv() {
            Ok(record) => Some(record),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => {
                if let Err(error) = log.idle() {
                    on_error(&error);
                }
                self.records.recv().ok()
            }
        }
    }

    /// Writes down what was lost since the last time, and returns how many records that were.
    fn note_lost(&self, log: &mut Log, time: super::Timestamp, on_error: &mut impl FnMut(&LogError)) -> u64 {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost == 0 {
            return 0;
        }
        match log.append_lost(Lost { time, lost }) {
            Ok(_) => lost,
            Err(error) => {
                on_error(&error);
                self.lost.fetch_add(lost, Ordering::Relaxed);
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Entry, Flush, LogOptions, files, line::Reader, record::tests::record},
        *,
    };
    use std::{fs, path::Path, thread};

    fn entries(dir: &Path) -> Vec<Entry> {
        let read = |path| {
            let bytes = fs::read(path).unwrap();
            Reader::new(&bytes[..]).map(|line| line.unwrap().unwrap().entry).collect::<Vec<_>>()
        };
        files(&[dir]).unwrap().into_iter().flat_map(read).collect()
    }

    fn open(dir: &Path, max_file_bytes: u64) -> Log {
        Log::open(dir, LogOptions { max_file_bytes, flush: Flush::Every(10) }).unwrap().0
    }

    #[test]
    fn what_finds_the_queue_full_is_counted_and_noted_before_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 1 << 20);
        let (sender, writer) = queue(3);
        let sent: Vec<bool> = (0..5).map(|n| sender.record(record(n, "x"))).collect();
        assert_eq!((sent, sender.lost()), (vec![true, true, true, false, false], 2));
        drop(sender);
        let summary = writer.run(&mut log, |error| panic!("{error}"));
        assert_eq!(summary, Summary { written: 3, lost: 2, unreported: 0 });
        let entries = entries(dir.path());
        assert!(matches!(entries[0], Entry::Lost(Lost { lost: 2, .. })));
        assert_eq!(entries[1..], [0, 1, 2].map(|n| Entry::Record(Box::new(record(n, "x")))));
    }

    #[test]
    fn what_the_disk_refuses_is_counted_and_noted_once_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let (at, away) = (dir.path().join("log"), dir.path().join("away"));
        // Each record wants a file of its own, and gets none while the directory is away.
        let mut log = open(&at, 1);
        log.append(&record(0, "x")).unwrap();
        fs::rename(&at, &away).unwrap();
        let (sender, writer) = queue(10);
        for n in 1..5 {
            assert!(sender.record(record(n, "x")));
        }
        drop(sender);
        let mut errors = 0;
        let summary = writer.run(&mut log, |error| {
            assert!(matches!(error, LogError::Open { .. }));
            errors += 1;
            if errors == 3 {
                fs::rename(&away, &at).unwrap();
            }
        });
        // Record 1 fails, then the note of it, then record 2; from then on there is room.
        assert_eq!(summary, Summary { written: 2, lost: 2, unreported: 0 });
        let kinds: Vec<_> = entries(&at)
            .iter()
            .map(|entry| match entry {
                Entry::Record(record) => record.time.unix_ms(),
                Entry::Lost(lost) => 100 + lost.lost,
            })
            .collect();
        assert_eq!(kinds, [0, 102, 3, 4]);
    }

    #[test]
    fn every_record_of_every_thread_is_written_or_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path(), 1 << 16);
        let (sender, writer) = queue(50);
        let writer = thread::spawn(move || writer.run(&mut log, |error| panic!("{error}")));
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || (0..500).filter(|&n| sender.record(record(n, "x"))).count() as u64)
            })
            .collect();
        drop(sender);
        let sent: u64 = senders.into_iter().map(|thread| thread.join().unwrap()).sum();
        let summary = writer.join().unwrap();
        assert_eq!(summary, Summary { written: sent, lost: 1500 - sent, unreported: 0 });
        let (mut records, mut lost) = (0, 0);
        for entry in entries(dir.path()) {
            match entry {
                Entry::Record(_) => records += 1,
                Entry::Lost(note) => lost += note.lost,
            }
        }
        assert_eq!((records, lost), (sent, 1500 - sent));
    }
}
