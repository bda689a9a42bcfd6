//! A sentence encoder to learn from or to compare with: any BERT that candle-transformers loads, mean pooled.

use crate::{
    guard::LoadError,
    tokenizer::{self, Tokenizer},
};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use std::{fs, path::Path};
use unicode_normalization::UnicodeNormalization;

/// What multilingual-e5 wants in front of a text.
const PREFIX: &str = "query: ";
/// Most tokens of a text; the rest is left out.
const MAX_TOKENS: usize = 256;

/// A frozen encoder of the e5 family: `query: ` in front, mean over all tokens, length 1.
pub struct Teacher {
    bert: BertModel,
    tokenizer: Tokenizer,
    width: usize,
    device: Device,
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
        let refused = |error: candle_core::Error| LoadError::Backend(format!("{}: {error}", dir.display()));
        let config: Config = serde_json::from_slice(&read("config.json")?)
            .map_err(|error| LoadError::Backend(format!("{}: {error}", dir.join("config.json").display())))?;
        let tokenizer = Tokenizer::from_json(&read("tokenizer.json")?)?;
        let weights = read("model.safetensors")?;
        let fingerprint = fingerprint(&weights);
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, device);
        let bert = weights.and_then(|weights| BertModel::load(weights, &config)).map_err(refused)?;
        Ok(Teacher { bert, tokenizer, width: config.hidden_size, device: device.clone(), fingerprint })
    }

    /// A number that tells these weights from others.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The length of an embedding.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The token ids of a text, for sorting texts by length.
    pub fn token_ids(&self, text: &str) -> Vec<u32> {
        let text: String = PREFIX.chars().chain(text.nfkc()).collect();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut ids = Vec::new();
        self.tokenizer.encode(None, &text, &mut tokenizer::Scratch::default(), &mut ids);
        ids.truncate(MAX_TOKENS);
        ids
    }

    /// Embeddings of texts given by their token ids, `texts x width`, each of length 1.
    ///
    /// # Errors
    /// Candle's.
    pub fn embed(&self, texts: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let tokens = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for text in texts {
            ids.extend((0..tokens).map(|t| text.get(t).copied().unwrap_or(self.tokenizer.padding())));
            mask.extend((0..tokens).map(|t| f32::from(t < text.len())));
        }
        let shape = (texts.len(), tokens);
        let ids = Tensor::from_vec(ids, shape, &self.device)?;
        let mask = Tensor::from_vec(mask, shape, &self.device)?;
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let sum = hidden.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?;
        // The mean and the sum have the same direction.
        sum.broadcast_div(&sum.sqr()?.sum_keepdim(1)?.sqrt()?)?.to_vec2()
    }
}

/// FNV-1a over whole words, which is enough to tell files apart and does not dawdle over 100 MB.
fn fingerprint(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let words = words.iter().map(|&word| u64::from_le_bytes(word));
    let rest = rest.iter().map(|&byte| u64::from(byte));
    words.chain(rest).fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x100_0000_01b3))
}
