//! `config.json` in the Hugging Face layout, as far as inference needs it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Why a `config.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is no JSON or lacks a field.
    #[error("not a BERT config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A field has a value that this engine cannot run.
    #[error("unsupported config.json: {0}")]
    Unsupported(String),
}

/// The shape of a `BertForSequenceClassification`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Always `BertForSequenceClassification` in what we write.
    #[serde(default)]
    pub architectures: Vec<String>,
    /// Always `bert`.
    pub model_type: String,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Width of every token vector.
    pub hidden_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward block.
    pub intermediate_size: usize,
    /// Always `gelu`, the exact one with the error function.
    pub hidden_act: String,
    /// Dropout on token vectors while training.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention probabilities while training.
    pub attention_probs_dropout_prob: f64,
    /// Most tokens in one pass, special tokens included.
    pub max_position_embeddings: usize,
    /// Rows of the token type table; only row 0 is used.
    pub type_vocab_size: usize,
    /// Standard deviation of freshly initialised weights.
    #[serde(default = "initializer_range")]
    pub initializer_range: f64,
    /// Added to the variance in layer norm.
    pub layer_norm_eps: f64,
    /// Id of `<pad>`.
    pub pad_token_id: u32,
    /// Label names by class index.
    #[serde(default)]
    pub id2label: BTreeMap<usize, String>,
    /// Class index by label name.
    #[serde(default)]
    pub label2id: BTreeMap<String, usize>,
}

fn initializer_range() -> f64 {
    0.02
}

impl EncoderConfig {
    /// A shape with everything else at our defaults; heads are 32 wide.
    pub fn new(vocab_size: usize, layers: usize, hidden_size: usize, labels: &[String]) -> Self {
        EncoderConfig {
            architectures: vec!["BertForSequenceClassification".into()],
            model_type: "bert".into(),
            vocab_size,
            hidden_size,
            num_hidden_layers: layers,
            num_attention_heads: (hidden_size / 32).max(1),
            intermediate_size: 4 * hidden_size,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            max_position_embeddings: 128,
            type_vocab_size: 1,
            initializer_range: initializer_range(),
            layer_norm_eps: 1e-12,
            pad_token_id: 1,
            id2label: labels.iter().cloned().enumerate().collect(),
            label2id: labels.iter().cloned().zip(0..).collect(),
        }
    }

    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] when a field is missing or describes a model that the engine cannot run.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: EncoderConfig = serde_json::from_slice(json)?;
        config.check()?;
        Ok(config)
    }

    /// The same encoder with a head for other labels.
    #[cfg(feature = "train")]
    pub(crate) fn with_labels(mut self, labels: &[String]) -> Self {
        let ours = Self::new(self.vocab_size, self.num_hidden_layers, self.hidden_size, labels);
        (self.architectures, self.id2label, self.label2id) = (ours.architectures, ours.id2label, ours.label2id);
        self
    }

    /// The label names in class order.
    pub fn labels(&self) -> Vec<String> {
        self.id2label.values().cloned().collect()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |why: String| Err(ConfigError::Unsupported(why));
        if self.model_type != "bert" {
            return refuse(format!("model_type {:?}, expected \"bert\"", self.model_type));
        }
        if self.hidden_act != "gelu" {
            return refuse(format!("hidden_act {:?}, expected \"gelu\"", self.hidden_act));
        }
        // Generous bounds that keep every size computed from these fields far from overflow.
        for (name, value, most) in [
            ("vocab_size", self.vocab_size, 1 << 21),
            ("hidden_size", self.hidden_size, 1 << 13),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 7),
            ("num_attention_heads", self.num_attention_heads, 1 << 8),
            ("intermediate_size", self.intermediate_size, 1 << 15),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 14),
            ("type_vocab_size", self.type_vocab_size, 1 << 8),
        ] {
            if value == 0 || value > most {
                return refuse(format!("{name} is {value}, expected 1 to {most}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return refuse(format!(
                "hidden_size {} is not a multiple of num_attention_heads {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        if self.max_position_embeddings < 8 {
            return refuse(format!("max_position_embeddings is {}, expected 8 or more", self.max_position_embeddings));
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps < 1.0) {
            return refuse(format!("layer_norm_eps is {}", self.layer_norm_eps));
        }
        if self.id2label.keys().copied().ne(0..self.id2label.len()) {
            return refuse("id2label does not count from 0".into());
        }
        Ok(())
    }
}
