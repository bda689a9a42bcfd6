//! The four files of a model, from a directory or from the binary itself.

use super::{
    decision::GuardConfigError,
    packed::{self, PackedError},
};
use crate::{
    engine::{ConfigError, WeightsError},
    tokenizer::TokenizerError,
};
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
    /// A packed model is broken.
    #[error("packed model: {0}")]
    Packed(#[from] PackedError),
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
    /// `model.safetensors`: weights under the standard names, in a number format that [`TensorFile`](crate::engine::TensorFile) reads.
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

    /// Packs the model into one file for [`Guard::from_bytes`](super::Guard::from_bytes).
    ///
    /// # Errors
    /// As [`Guard::from_bundle`](super::Guard::from_bundle).
    pub fn pack(&self) -> Result<Vec<u8>, LoadError> {
        packed::pack(self)
    }
}
