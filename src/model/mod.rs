//! The encoder in candle: trainable, and as a reference for the engine.
//!
//! [`Classifier`] is written with differentiable operations only: candle's fused `LayerNorm` and `softmax_last_dim` have
//! no gradient and say nothing about it. Its word embeddings are not a candle variable but an [`EmbeddingTable`], of which
//! a batch takes just the rows it uses, so that neither the gradient nor the optimiser walks the whole table.
//!
//! [`Reference`] is candle-transformers' own `BertModel` with the pooler and head on top, as a guard's backend.
//! [`Teacher`] is a large sentence encoder, frozen.

mod classifier;
mod embedding;
mod ops;
mod reference;
mod teacher;
mod weights;

pub use classifier::{Batch, Classifier, LoadClassifierError, Pooling};
pub use embedding::EmbeddingTable;
pub use reference::Reference;
pub use teacher::Teacher;
pub use weights::{Dtype, encode_weights};

/// The word embedding table under its standard name.
pub(crate) const WORD_EMBEDDINGS: &str = "bert.embeddings.word_embeddings.weight";
