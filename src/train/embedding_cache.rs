//! Embeddings of a frozen encoder on disk, so that no text is run through it twice.
//!
//! The file is a header (magic, a hash of the encoder, the width) and records of a text's hash and its embedding in half
//! precision. Records are appended as they are made: an interrupted run goes on where it stopped, and a torn last record
//! is dropped.

use super::TrainError;
use crate::data::{FNV_OFFSET, fnv1a};
use half::f16;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"igembed1";
const HEADER: usize = 8 + 8 + 4;

/// Embeddings by text.
#[derive(Debug)]
pub(super) struct EmbeddingCache {
    file: Option<(File, PathBuf)>,
    width: usize,
    vectors: HashMap<u64, Vec<f16>>,
}

pub(super) fn hash(bytes: &[u8]) -> u64 {
    fnv1a(FNV_OFFSET, bytes)
}

impl EmbeddingCache {
    /// A cache in memory only.
    pub(super) fn in_memory(width: usize) -> Self {
        EmbeddingCache { file: None, width, vectors: HashMap::new() }
    }

    /// Opens or creates a file. `encoder` identifies the weights that made the embeddings.
    pub(super) fn open(path: &Path, encoder: u64, width: usize) -> Result<Self, TrainError> {
        let failed = |source| TrainError::Io { path: path.into(), source };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let mut header = Vec::from(MAGIC);
        header.extend(encoder.to_le_bytes());
        header.extend((width as u32).to_le_bytes());
        if bytes.len() < HEADER {
            file.set_len(0).and_then(|()| file.write_all(&header)).map_err(failed)?;
            bytes = header;
        } else if bytes[..HEADER] != header {
            let why = "it holds embeddings of another encoder".to_owned();
            return Err(TrainError::Resume { path: path.into(), why });
        }
        let record = 8 + 2 * width;
        let mut vectors = HashMap::new();
        let mut whole = HEADER;
        for chunk in bytes[HEADER..].chunks_exact(record) {
            let (key, vector) = chunk.split_at(8);
            let key = key.iter().rev().fold(0, |key, &byte| (key << 8) | u64::from(byte));
            vectors.insert(key, vector.as_chunks().0.iter().map(|&pair| f16::from_le_bytes(pair)).collect());
            whole += record;
        }
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0))).map_err(failed)?;
        Ok(EmbeddingCache { file: Some((file, path.into())), width, vectors })
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.vectors.contains_key(&hash(text.as_bytes()))
    }

    /// The embedding of a text that was put in.
    pub(super) fn get(&self, text: &str) -> Option<Vec<f32>> {
        Some(self.vectors.get(&hash(text.as_bytes()))?.iter().map(|x| x.to_f32()).collect())
    }

    pub(super) fn put(&mut self, text: &str, vector: &[f32]) -> Result<(), TrainError> {
        let key = hash(text.as_bytes());
        let vector: Vec<f16> = vector.iter().take(self.width).map(|&x| f16::from_f32(x)).collect();
        if let Some((file, path)) = &mut self.file {
            let mut record = key.to_le_bytes().to_vec();
            record.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
            file.write_all(&record).map_err(|source| TrainError::Io { path: path.clone(), source })?;
        }
        self.vectors.insert(key, vector);
        Ok(())
    }
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
        cache.put("a", &[0.5, -1.0]).unwrap();
        cache.put("b", &[0.25, 2.0]).unwrap();
        drop(cache);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let mut cache = EmbeddingCache::open(&path, 7, 2).unwrap();
        assert_eq!((cache.get("a"), cache.get("b")), (Some(vec![0.5, -1.0]), None));
        cache.put("b", &[0.25, 2.0]).unwrap();
        drop(cache);
        assert_eq!(fs::read(&path).unwrap(), bytes, "the torn record is written anew");
        assert!(matches!(EmbeddingCache::open(&path, 8, 2), Err(TrainError::Resume { .. })));
    }
}
