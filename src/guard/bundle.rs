//! The four files of a model, from a directory, from one packed file, or from the binary itself.

use super::decision::GuardConfigError;
use crate::{
    engine::{ConfigError, TensorFile, WeightsError},
    tokenizer::TokenizerError,
};
use safetensors::{Dtype, tensor::TensorView};
use std::{
    borrow::Cow,
    fs, io,
    path::{Path, PathBuf},
};

/// The files of a model directory, in the order of the fields of [`Bundle`].
pub const FILES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer.json", "guard.json"];

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `config.json` is broken or describes another kind of model.
    #[error("config.json: {0}")]
    Config(#[from] ConfigError),
    /// The weights are broken or do not fit `config.json`.
    #[error("model.safetensors: {0}")]
    Weights(#[from] WeightsError),
    /// `tokenizer.json` is broken or of another kind.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// `guard.json` is broken.
    #[error("guard.json: {0}")]
    Guard(#[from] GuardConfigError),
    /// The files do not belong together.
    #[error("the files of the model do not fit together: {0}")]
    Mismatch(String),
    /// A model cannot be fetched from the Hugging Face hub.
    #[error("cannot fetch {id:?} from the Hugging Face hub: {why}")]
    Hub {
        /// `OWNER/NAME`.
        id: String,
        /// Why.
        why: String,
    },
    /// The model loads but gives no usable answer, or its backend cannot be built.
    #[error("the model does not work: {0}")]
    Backend(String),
}

/// The contents of a model's files.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    /// `config.json`: the shape, in the Hugging Face layout.
    pub config: Cow<'a, [u8]>,
    /// `model.safetensors`: weights under the standard names, in a number format that [`TensorFile`] reads.
    pub weights: Cow<'a, [u8]>,
    /// `tokenizer.json`, as the `tokenizers` crate writes it.
    pub tokenizer: Cow<'a, [u8]>,
    /// `guard.json`: see [`GuardConfig`](super::GuardConfig).
    pub guard: Cow<'a, [u8]>,
}

impl<'a> Bundle<'a> {
    /// The shipped model.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Bundle<'static> {
        Bundle {
            config: Cow::Borrowed(include_bytes!("../../models/guard/config.json")),
            weights: Cow::Borrowed(include_bytes!("../../models/guard/model.safetensors")),
            tokenizer: Cow::Borrowed(include_bytes!("../../models/guard/tokenizer.json")),
            guard: Cow::Borrowed(include_bytes!("../../models/guard/guard.json")),
        }
    }

    /// Reads the four files of a model directory.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Bundle<'static>, LoadError> {
        let [config, weights, tokenizer, guard] = FILES.map(|name| {
            let path = dir.as_ref().join(name);
            fs::read(&path).map(Cow::Owned).map_err(|source| LoadError::Io { path, source })
        });
        Ok(Bundle { config: config?, weights: weights?, tokenizer: tokenizer?, guard: guard? })
    }

    /// Reads a packed model: a safetensors file with the other three files inside it as U8 tensors.
    ///
    /// # Errors
    /// [`LoadError::Weights`] when the bytes are no safetensors file or one of the files is not in it.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, LoadError> {
        let file = TensorFile::parse(bytes)?;
        let blob = |name: &str| file.blob(name).map(|bytes| Cow::Owned(bytes.to_vec()));
        Ok(Bundle {
            config: blob(FILES[0])?,
            tokenizer: blob(FILES[2])?,
            guard: blob(FILES[3])?,
            weights: Cow::Borrowed(bytes),
        })
    }

    /// Packs the model into one file for [`Bundle::from_bytes`].
    ///
    /// # Errors
    /// [`LoadError::Weights`] when the weights are no safetensors file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, LoadError> {
        let file = TensorFile::parse(&self.weights)?;
        let others = [(FILES[0], &self.config), (FILES[2], &self.tokenizer), (FILES[3], &self.guard)];
        let mut tensors: Vec<(&str, TensorView<'_>)> = file.views().filter(|(name, _)| !FILES.contains(name)).collect();
        for (name, bytes) in others {
            let view = TensorView::new(Dtype::U8, vec![bytes.len()], bytes).map_err(WeightsError::from)?;
            tensors.push((name, view));
        }
        Ok(safetensors::serialize(tensors, None).map_err(WeightsError::from)?)
    }
}
