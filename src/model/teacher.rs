//! A sentence encoder to learn from or to compare with.

use super::{Batch, Classifier, Pooling};
use crate::{
    engine::{EncoderConfig, TensorFile},
    guard::LoadError,
    label::Flow,
    text,
    tokenizer::{self, Tokenizer},
};
use candle_core::{Device, Tensor};
use std::{fmt, fs, path::Path};
use unicode_normalization::UnicodeNormalization;

/// What multilingual-e5 wants in front of a text.
const PREFIX: &str = "query: ";
/// Most tokens of a text; the rest is left out.
const MAX_TOKENS: usize = 128;

/// A frozen encoder: a bare `BertModel` of the e5 family (`query: ` in front, mean over all tokens), or a classifier that
/// `train` made of one (the pooled vector, in which its labels stand out, and its head). Embeddings have length 1.
pub struct Teacher {
    encoder: Classifier,
    tokenizer: Tokenizer,
    fingerprint: u64,
}

impl Teacher {
    /// Loads `config.json`, `model.safetensors` and `tokenizer.json` of a directory in the Hugging Face layout.
    ///
    /// # Errors
    /// [`LoadError`] names the file that cannot be read or used.
    pub fn from_dir(dir: &Path, device: &Device) -> Result<Self, LoadError> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read(&path).map_err(|source| LoadError::Io { path, source })
        };
        let refused = |error: &dyn std::fmt::Display| LoadError::Backend(format!("{}: {error}", dir.display()));
        let mut config = EncoderConfig::from_json(&read("config.json")?)?;
        let tokenizer = Tokenizer::from_json(&read("tokenizer.json")?)?;
        let weights = read("model.safetensors")?;
        let file = TensorFile::parse(&weights)?;
        let pooling = if file.contains("classifier.weight") { Pooling::First } else { Pooling::Mean };
        if pooling == Pooling::Mean {
            config = config.with_labels(&[]);
        }
        let mut encoder = Classifier::load(&config, &file, 0, device).map_err(|error| refused(&error))?;
        encoder.pooling = pooling;
        Ok(Teacher { encoder, tokenizer, fingerprint: fingerprint(&weights) })
    }

    /// Whether the flow that a message arrives in changes its embedding.
    pub fn heeds_flows(&self) -> bool {
        self.encoder.pooling == Pooling::First
    }

    /// The labels that a classifier tells apart; none for a bare encoder.
    pub fn labels(&self) -> Vec<String> {
        self.encoder.config().labels()
    }

    /// A number that tells these weights from others.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The length of an embedding.
    pub fn width(&self) -> usize {
        self.encoder.config().hidden_size
    }

    /// The token ids of a text, for sorting texts by length.
    pub fn token_ids(&self, flow: Option<Flow>, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        let scratch = &mut tokenizer::Scratch::default();
        if self.heeds_flows() {
            self.tokenizer.encode(flow, &text::normalize(text), scratch, &mut ids);
        } else {
            let text: String = PREFIX.chars().chain(text.nfkc()).collect();
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            self.tokenizer.encode(None, &text, scratch, &mut ids);
        }
        ids.truncate(MAX_TOKENS.min(self.encoder.config().max_position_embeddings));
        ids
    }

    /// Embeddings of texts given by their token ids, `texts x width`, each of length 1.
    ///
    /// # Errors
    /// Candle's.
    pub fn embed(&self, texts: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let pooled = self.pooled(texts)?;
        pooled.broadcast_div(&lengths(&pooled)?)?.to_vec2()
    }

    /// The mean length of the pooled vectors of texts, which embeddings have lost.
    pub(crate) fn mean_length(&self, texts: &[&[u32]]) -> candle_core::Result<f32> {
        lengths(&self.pooled(texts)?)?.mean_all()?.to_scalar()
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        self.encoder.device()
    }

    /// Logits of a classifier, `texts x labels`, from its pooled vectors, `texts x width`.
    pub(crate) fn head(&self, pooled: &Tensor) -> candle_core::Result<Tensor> {
        self.encoder.head(pooled, None)
    }

    fn pooled(&self, texts: &[&[u32]]) -> candle_core::Result<Tensor> {
        self.encoder.embed(&Batch::new(texts.iter().copied(), self.encoder.device())?)
    }
}

impl fmt::Debug for Teacher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teacher").field("labels", &self.labels()).field("width", &self.width()).finish_non_exhaustive()
    }
}

/// `rows x 1`.
fn lengths(rows: &Tensor) -> candle_core::Result<Tensor> {
    rows.sqr()?.sum_keepdim(1)?.sqrt()
}

/// FNV-1a over whole words, which is enough to tell files apart and does not dawdle over 100 MB.
fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let words = words.iter().map(|&word| u64::from_le_bytes(word));
    let rest = rest.iter().map(|&byte| u64::from(byte));
    words.chain(rest).fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3))
}
