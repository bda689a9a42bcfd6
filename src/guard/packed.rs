//! A model in one file that is ready as it is: nothing to parse but two small JSON texts, nothing to build.
//!
//! The layout, numbers little-endian: the magic bytes, the version of the layout as a u32, a CRC-32 of the table, and the
//! table: for each of [`SECTIONS`] in their order its first byte in the file and its length as u64, its CRC-32 and four
//! zero bytes. Sections begin at multiples of 64 bytes, which a mapped file keeps in memory; zeros fill the gaps.

use super::{Bundle, Guard, GuardConfig, LoadError};
use crate::{
    engine::{Encoder, EncoderConfig, Isa, Owner, Places, Sections, Shared, TensorFile},
    tokenizer::Tokenizer,
};
use std::{ops::Range, sync::Arc};

const MAGIC: &[u8; 8] = b"intgate\n";
/// The version of the layout that this crate writes and reads.
const VERSION: u32 = 1;
const SECTIONS: [&str; 6] = ["config", "guard", "tokenizer", "shape", "weights", "words"];
const TABLE: usize = 16;
const ENTRY: usize = 24;
const HEADER: usize = TABLE + SECTIONS.len() * ENTRY;
const ALIGNMENT: usize = 64;

/// Why bytes are no packed model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// It begins otherwise than a packed model.
    #[error("no model packed by `intentgate pack`")]
    Magic,
    /// It was packed by another version of the crate.
    #[error("packed in layout {found}, this version reads {VERSION}: pack the model directory anew")]
    Version {
        /// The layout's version.
        found: u32,
    },
    /// Bytes are missing, or were changed after packing.
    #[error("the {section} is cut short or was changed")]
    Damaged {
        /// The part of the file.
        section: &'static str,
    },
    /// A part contradicts itself or the others.
    #[error("broken {section}: {why}")]
    Section {
        /// The part of the file.
        section: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// Packs a model.
pub(super) fn pack(bundle: &Bundle<'_>) -> Result<Vec<u8>, LoadError> {
    // Whatever loads from the files loads from the pack.
    Guard::from_bundle(bundle)?;
    let config = EncoderConfig::from_json(&bundle.config)?;
    let tokenizer = Tokenizer::from_json(&bundle.tokenizer)?.to_bytes();
    let encoder = Encoder::load(&config, &TensorFile::parse(&bundle.weights)?)?;
    let Sections { shape, weights, words } = encoder.into_sections();
    Ok(write([&bundle.config, &bundle.guard, &tokenizer, &shape, &weights, &words]))
}

/// Loads a packed model.
pub(super) fn load(owner: Owner, isa: Isa) -> Result<Guard, LoadError> {
    let [config, guard, tokenizer, shape, weights, words] = read((*owner).as_ref())?;
    let bytes = |place: &Range<usize>| Shared::part(&owner, place.clone());
    let config = EncoderConfig::from_json(bytes(&config).as_slice())?;
    let guard = GuardConfig::from_json(bytes(&guard).as_slice())?;
    let broken = |section, why: &str| PackedError::Section { section, why: why.to_owned() };
    let tokenizer = Tokenizer::from_bytes(bytes(&tokenizer).as_slice()).map_err(|why| broken("tokenizer", why))?;
    Guard::assemble(&config, tokenizer, guard, || {
        let encoder = Encoder::from_sections(&config, &owner, Places { shape, weights, words }, isa)
            .map_err(|why| broken("weights", why))?;
        Ok(Box::new(encoder))
    })
}

fn write(sections: [&[u8]; SECTIONS.len()]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut end = HEADER;
    for section in sections {
        let start = end.next_multiple_of(ALIGNMENT);
        end = start + section.len();
        table.extend((start as u64).to_le_bytes());
        table.extend((section.len() as u64).to_le_bytes());
        table.extend(crc32fast::hash(section).to_le_bytes());
        table.extend([0; 4]);
    }
    let mut file = Vec::with_capacity(end);
    file.extend(MAGIC);
    file.extend(VERSION.to_le_bytes());
    file.extend(crc32fast::hash(&table).to_le_bytes());
    file.extend(table);
    for section in sections {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(section);
    }
    file
}

/// Where the sections lie, once header and checksums are found right.
fn read(file: &[u8]) -> Result<[Range<usize>; SECTIONS.len()], PackedError> {
    let damaged = |section| PackedError::Damaged { section };
    let Some(rest) = file.strip_prefix(MAGIC) else { return Err(PackedError::Magic) };
    let (version, rest) = rest.split_first_chunk().ok_or(damaged("header"))?;
    let version = u32::from_le_bytes(*version);
    if version != VERSION {
        return Err(PackedError::Version { found: version });
    }
    let (checksum, rest) = rest.split_first_chunk().ok_or(damaged("header"))?;
    let table = rest.get(..HEADER - TABLE).ok_or(damaged("header"))?;
    if crc32fast::hash(table) != u32::from_le_bytes(*checksum) {
        return Err(damaged("header"));
    }
    let mut places = [const { 0..0 }; SECTIONS.len()];
    for ((place, entry), section) in places.iter_mut().zip(table.as_chunks::<ENTRY>().0).zip(SECTIONS) {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| entry[at + i]));
        let checksum = u32::from_le_bytes(std::array::from_fn(|i| entry[16 + i]));
        let start = usize::try_from(number(0)).map_err(|_| damaged(section))?;
        let end = usize::try_from(number(8)).ok().and_then(|length| start.checked_add(length));
        *place = start..end.ok_or(damaged(section))?;
        let bytes = file.get(place.clone()).ok_or(damaged(section))?;
        if crc32fast::hash(bytes) != checksum {
            return Err(damaged(section));
        }
    }
    Ok(places)
}

/// What keeps the bytes of a packed model.
pub(super) fn owner(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Owner {
    Arc::new(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Vec<u8> {
        write([b"{}", b"guard", b"", b"shape", &[7; 200], &[8; 3]])
    }

    #[test]
    fn sections_come_back_aligned() {
        let file = file();
        let places = read(&file).unwrap();
        assert_eq!(&file[places[1].clone()], b"guard");
        assert!(places.iter().all(|place| place.start.is_multiple_of(ALIGNMENT)));
        assert_eq!(places[4].len(), 200);
    }

    #[test]
    fn every_changed_byte_that_counts_and_every_cut_is_found() {
        let file = file();
        let places = read(&file).unwrap();
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 0x10;
            let counts = at < HEADER || places.iter().any(|place| place.contains(&at));
            assert_eq!(read(&changed).is_err(), counts, "byte {at}");
            assert!(read(&file[..at]).is_err(), "cut at {at}");
        }
        let mut newer = file.clone();
        newer[8] = 9;
        assert_eq!(read(&newer), Err(PackedError::Version { found: 9 }));
    }
}
