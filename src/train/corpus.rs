//! Text to learn from without labels.

use crate::{
    data::{self, DataError},
    label::Flow,
    text,
};
use flate2::read::MultiGzDecoder;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// A text, with the flow it arrives in where that is known.
pub type Text = (Option<Flow>, String);

/// The texts of a file: lines of a text file (`.gz` is unpacked), or the rows of a dataset with their flows.
///
/// # Errors
/// [`DataError`] when the file cannot be read or a row is broken.
pub fn texts(path: &Path) -> Result<Vec<Text>, DataError> {
    let io_error = |source| DataError::Io { path: path.into(), source };
    if data::is_dataset(path) {
        return data::rows(path)
            .map_err(io_error)?
            .map(|row| {
                let row = row.map_err(io_error)?.map_err(|first| DataError::Rows { first, count: 1 })?;
                Ok((row.context, row.text))
            })
            .collect();
    }
    let file = fs::File::open(path).map_err(io_error)?;
    let is_packed = path.extension().is_some_and(|extension| extension == "gz");
    let input: Box<dyn Read> = if is_packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let lines = BufReader::new(input).lines().map(|line| Ok((None, line?)));
    lines.collect::<io::Result<_>>().map_err(io_error)
}

/// [`texts`] to distil from: of a text file at most `most`, chosen at random among those that show anything; all rows of a
/// dataset.
///
/// # Errors
/// As [`texts`].
pub fn corpus_texts(path: &Path, most: usize, seed: u64) -> Result<Vec<Text>, DataError> {
    let mut texts = texts(path)?;
    if !data::is_dataset(path) {
        texts.retain(|(_, text)| !text::normalize(text).is_empty());
        texts.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        texts.truncate(most);
    }
    Ok(texts)
}
