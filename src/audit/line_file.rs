//! A file that whole lines are added to, or nothing.

use std::{
    fs::File,
    io::{self, Write},
};

/// What a [`LineFile`] writes to. Tests have one that fills up.
pub(super) trait Storage: Write {
    /// Cuts the file to its first `len` bytes; the next write goes there.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// Returns once everything written has reached the disk.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file opened for appending.
impl Storage for File {
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

#[derive(Debug)]
pub(super) struct LineFile<S> {
    storage: S,
    /// Bytes of whole lines.
    len: u64,
    /// Whether there may be a part of a line behind them.
    torn: bool,
}

impl<S: Storage> LineFile<S> {
    /// Goes on after the first `len` bytes of `storage`.
    pub(super) fn new(storage: S, len: u64) -> Self {
        LineFile { storage, len, torn: false }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes a line and, if asked to, waits for the disk. After an error, the line counts as not written, and what there
    /// is of it is removed: at once, or before the next line where that fails as well.
    pub(super) fn append(&mut self, line: &[u8], sync: bool) -> io::Result<()> {
        self.repair()?;
        self.torn = true;
        let written = self.storage.write_all(line).and_then(|()| if sync { self.storage.sync() } else { Ok(()) });
        match written {
            Ok(()) => {
                self.len += line.len() as u64;
                self.torn = false;
            }
            // The first error says more than what this may add; the next call tries again.
            Err(_) => drop(self.repair()),
        }
        written
    }

    /// Removes what stands behind the whole lines.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.torn = true;
        self.sync()
    }

    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.repair()?;
        self.storage.sync()
    }

    fn repair(&mut self) -> io::Result<()> {
        if self.torn {
            self.storage.truncate(self.len)?;
            self.torn = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A disk with room for so many bytes.
    #[derive(Default)]
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        broken: bool,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A full disk takes what it can, then nothing.
            let taken = bytes.len().min(self.room.saturating_sub(self.bytes.len()));
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Storage for Disk {
        fn truncate(&mut self, len: u64) -> io::Result<()> {
            if self.broken {
                return Err(io::ErrorKind::Other.into());
            }
            self.bytes.truncate(len as usize);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            if self.broken { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }

    proptest! {
        #[test]
        fn only_acknowledged_lines_are_there(
            steps in prop::collection::vec((0usize..40, 0usize..400, any::<bool>(), any::<bool>()), 1..40)
        ) {
            let mut file = LineFile::new(Disk::default(), 0);
            let mut acknowledged = Vec::new();
            for (n, (length, room, broken, sync)) in steps.into_iter().enumerate() {
                (file.storage.room, file.storage.broken) = (room, broken);
                let line = format!("{n}{}\n", "x".repeat(length));
                if file.append(line.as_bytes(), sync).is_ok() {
                    acknowledged.extend(line.as_bytes());
                }
                prop_assert_eq!(file.len(), acknowledged.len() as u64);
                prop_assert!(file.storage.bytes.starts_with(&acknowledged));
                prop_assert!(file.storage.bytes == acknowledged || file.torn, "a torn line is known");
            }
            (file.storage.room, file.storage.broken) = (100_000, false);
            prop_assert!(file.append(b"last\n", true).is_ok(), "room again");
            acknowledged.extend(b"last\n");
            prop_assert_eq!(file.storage.bytes, acknowledged);
        }
    }
}
