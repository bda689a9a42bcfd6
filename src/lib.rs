#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_code)]
#![warn(missing_docs, rustdoc::broken_intra_doc_links)]

#[cfg(feature = "policy")]
pub mod audit;
#[cfg(feature = "data")]
pub mod data;
pub mod engine;
#[cfg(feature = "data")]
pub mod eval;
#[cfg(feature = "data")]
pub mod export;
pub mod guard;
mod label;
#[cfg(feature = "train")]
pub mod model;
#[cfg(feature = "policy")]
pub mod policy;
pub mod text;
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;

pub use guard::{Bundle, Guard, GuardConfig, LoadError, Reason, SharedGuard, Verdict};
pub use label::{Flow, Intent, UnknownFlow};
