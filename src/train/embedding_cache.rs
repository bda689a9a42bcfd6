//! Embeddings of a frozen encoder on disk, so that no text is run through it twice.
//!
//! The file is a header (magic, a hash of the encoder, the width) and records of a text's hash and its embedding in half
//! precision. Records are appended as they are made: an interrupted run goes on where it stopped, and a torn last record
//! is dropped. Only the index is held in memory; vectors are read where they lie, which the system's page cache makes as
//! cheap as a mapping, without the unsafe code of one.

use super::{Observer, TrainError};
use crate::{
    data::{FNV_OFFSET, fnv1a},
    label::Flow,
    model::Teacher,
};
use half::f16;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"igembed1";
const HEADER: usize = 8 + 8 + 4;
/// Tokens that are run through the encoder together: enough to pay for packing its weights, few enough for the cache.
const BATCH_TOKENS: usize = 1024;

/// Embeddings by text.
#[derive(Debug)]
pub(super) struct EmbeddingCache {
    store: Store,
    width: usize,
    /// The place of each record, by the hash of its text.
    index: HashMap<u64, u32>,
}

#[derive(Debug)]
enum Store {
    File(File, PathBuf),
    Memory(Vec<f16>),
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    fnv1a(FNV_OFFSET, bytes)
}

/// What identifies a text: a flow makes another one of it only for an encoder that heeds flows.
fn key(teacher: &Teacher, flow: Option<Flow>, text: &str) -> u64 {
    match flow.filter(|_| teacher.heeds_flows()) {
        Some(flow) => fnv1a(hash(flow.name().as_bytes()), text.as_bytes()),
        None => hash(text.as_bytes()),
    }
}

impl EmbeddingCache {
    /// A cache in memory only.
    pub(super) fn in_memory(width: usize) -> Self {
        EmbeddingCache { store: Store::Memory(Vec::new()), width, index: HashMap::new() }
    }

    /// Opens or creates a file. `encoder` identifies the weights that made the embeddings.
    pub(super) fn open(path: &Path, encoder: u64, width: usize) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Io { path: path.into(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let mut header = Vec::from(MAGIC);
        header.extend(encoder.to_le_bytes());
        header.extend((width as u32).to_le_bytes());
        let mut index = HashMap::new();
        let mut reader = BufReader::with_capacity(1 << 20, &file);
        let mut found = vec![0; HEADER];
        if reader.read_exact(&mut found).is_err() {
            file.set_len(0).and_then(|()| (&file).write_all(&header)).map_err(failed)?;
        } else if found != header {
            let why = "it holds embeddings of another encoder".to_owned();
            return Err(TrainError::Resume { path: path.into(), why });
        } else {
            let mut record = vec![0; 8 + 2 * width];
            while reader.read_exact(&mut record).is_ok() {
                let key = record[..8].iter().rev().fold(0, |key, &byte| (key << 8) | u64::from(byte));
                let place = index.len() as u32;
                index.insert(key, place);
            }
        }
        file.set_len((HEADER + index.len() * (8 + 2 * width)) as u64).map_err(failed)?;
        Ok(EmbeddingCache { store: Store::File(file, path.into()), width, index })
    }

    /// The place of a text's embedding, if it is there.
    pub(super) fn place(&self, teacher: &Teacher, flow: Option<Flow>, text: &str) -> Option<u32> {
        self.index.get(&key(teacher, flow, text)).copied()
    }

    /// The embedding at a place.
    pub(super) fn read(&self, place: u32) -> Result<Vec<f32>, TrainError> {
        match &self.store {
            Store::Memory(values) => {
                Ok(values[place as usize * self.width..][..self.width].iter().map(|x| x.to_f32()).collect())
            }
            Store::File(file, path) => {
                let mut bytes = vec![0; 2 * self.width];
                let at = HEADER + place as usize * (8 + 2 * self.width) + 8;
                read_exact_at(file, &mut bytes, at as u64)
                    .map_err(|source| TrainError::Io { path: path.clone(), source })?;
                Ok(bytes.as_chunks().0.iter().map(|&pair| f16::from_le_bytes(pair).to_f32()).collect())
            }
        }
    }

    fn put(&mut self, key: u64, vector: &[f32]) -> Result<(), TrainError> {
        if self.index.contains_key(&key) {
            return Ok(());
        }
        let vector = vector.iter().take(self.width).map(|&x| f16::from_f32(x));
        match &mut self.store {
            Store::Memory(values) => values.extend(vector),
            Store::File(file, path) => {
                let mut record = key.to_le_bytes().to_vec();
                record.extend(vector.flat_map(f16::to_le_bytes));
                file.write_all(&record).map_err(|source| TrainError::Io { path: path.clone(), source })?;
            }
        }
        self.index.insert(key, self.index.len() as u32);
        Ok(())
    }

    /// Embeds the texts that are not there yet; messages of similar length together, shared among threads. `observer` hears
    /// how many are done and may stop it: what is embedded by then stays in the file.
    pub(super) fn fill<'a>(
        &mut self,
        teacher: &Teacher,
        texts: impl Iterator<Item = (Option<Flow>, &'a str)>,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let mut all = 0;
        let mut missing: Vec<(u64, Vec<u32>)> = Vec::new();
        for (flow, text) in texts {
            all += 1;
            let key = key(teacher, flow, text);
            if !self.index.contains_key(&key) {
                missing.push((key, teacher.token_ids(flow, text)));
            }
        }
        missing.sort_by_key(|(_, ids)| ids.len());
        let mut batches: Vec<&[(u64, Vec<u32>)]> = Vec::new();
        let mut rest = &missing[..];
        while let Some((_, ids)) = rest.first() {
            let (batch, others) = rest.split_at((BATCH_TOKENS / ids.len()).clamp(1, rest.len()));
            batches.push(batch);
            rest = others;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut done = all - missing.len();
        // Several batches for each thread, so that none waits long for another.
        for round in batches.chunks(8 * threads) {
            let work = |batch: &[(u64, Vec<u32>)]| {
                teacher.embed(&batch.iter().map(|(_, ids)| ids.as_slice()).collect::<Vec<_>>())
            };
            let results: Vec<Vec<_>> = std::thread::scope(|scope| {
                let of = |thread: usize| round.iter().skip(thread).step_by(threads);
                let running: Vec<_> = (0..threads)
                    .map(|thread| scope.spawn(move || of(thread).map(|batch| (*batch, work(batch))).collect()))
                    .collect();
                let panicked = |_| vec![(&[][..], Err(candle_core::Error::Msg("an embedding thread panicked".into())))];
                running.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
            });
            for (batch, vectors) in results.into_iter().flatten() {
                for ((key, _), vector) in batch.iter().zip(vectors?) {
                    self.put(*key, &vector)?;
                }
                done += batch.len();
            }
            observer.embedded(done, all);
            if observer.should_stop() {
                let path = if let Store::File(_, path) = &self.store { path.clone() } else { PathBuf::new() };
                return Err(TrainError::Interrupted(path));
            }
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    use std::io::{Seek, SeekFrom};
    // The two calls are not one: elsewhere readers take turns.
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock();
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn survives_reopening_and_a_torn_record_but_not_another_encoder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let mut cache = EmbeddingCache::open(&path, 7, 2).unwrap();
        cache.put(1, &[0.5, -1.0]).unwrap();
        cache.put(2, &[0.25, 2.0]).unwrap();
        assert_eq!(cache.read(1).unwrap(), [0.25, 2.0]);
        drop(cache);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut cache = EmbeddingCache::open(&path, 7, 2).unwrap();
        assert_eq!((cache.read(0).unwrap(), cache.index.len()), (vec![0.5, -1.0], 1));
        cache.put(2, &[0.25, 2.0]).unwrap();
        drop(cache);
        assert_eq!(fs::read(&path).unwrap(), bytes, "the torn record is written anew");
        assert!(matches!(EmbeddingCache::open(&path, 8, 2), Err(TrainError::Resume { .. })));
    }
}
