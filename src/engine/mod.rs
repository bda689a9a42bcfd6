//! The local inference engine: a BERT sequence classifier on the CPU, in plain Rust, on the caller's thread.
//!
//! [`Encoder`] takes token ids and gives logits. It runs any post-layer-norm BERT with learned positions, GELU, a pooler
//! over the first token and a linear head, or two: a second one tells languages apart (Devlin et al., 2019, <https://arxiv.org/abs/1810.04805>). Since only the first
//! token reaches the pooler, the last layer computes keys and values for every token but queries, the output projection
//! and the feed-forward block for the first token alone.
//!
//! Matrices that are stored at 8 bits are multiplied at 8 bits: the rows of token vectors are quantised on the way, each with
//! a step and a zero of its own (Jacob et al., 2018, <https://arxiv.org/abs/1712.05877>), and sums are whole numbers. All
//! others are widened to f32. The word embeddings stay as they are stored (f32, f16, bf16, int8 with a scale per row or 4
//! bits with a scale per group) and are widened row by row. README.md beside this file says where the time goes.

mod bytes;
mod config;
mod encoder;
pub mod kernels;
mod packed;
#[cfg(any(test, feature = "train"))]
pub(crate) mod quantize;
mod rows;
mod source;
mod tensors;

pub(crate) use bytes::{Owner, Shared};
pub use config::{ConfigError, EncoderConfig};
pub use encoder::{Encoder, Scratch};
pub use kernels::Isa;
pub(crate) use packed::{Places, Sections};
#[cfg(feature = "train")]
pub(crate) use rows::GROUP;
#[cfg(feature = "data")]
pub(crate) use tensors::SCALE_SUFFIX;
pub use tensors::{TensorFile, WeightsError};
