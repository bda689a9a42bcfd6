//! What a training run leaves behind for reports: `training.json`.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

/// The file's name in a model directory.
pub const TRAINING: &str = "training.json";

/// One epoch of a training run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over its steps.
    pub loss: f64,
    /// What early stopping looks at, higher is better: in training the accuracy of the most probable label on the validation
    /// rows, in distillation the mean cosine of held-out texts to the teachers.
    pub score: f64,
    /// Whether no epoch before was better.
    pub best: bool,
}

/// How a model was trained, and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// The settings by name.
    pub options: BTreeMap<String, serde_json::Value>,
    /// Training rows by label.
    pub labels: BTreeMap<String, usize>,
    /// Training rows by BCP 47 code; `und` for rows without one.
    pub languages: BTreeMap<String, usize>,
    /// Validation rows.
    pub valid_rows: usize,
    /// Hash of the weights that it started from, if any.
    pub base: Option<String>,
    /// Whether a teacher's opinion counted beside the labels.
    pub teacher: bool,
    /// How long the last stretch of training took, in seconds: all of it where it was not interrupted.
    pub seconds: f64,
}

impl Training {
    /// Reads the record beside a model; `None` where there is none that can be read.
    pub fn of_model(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join(TRAINING)).ok()?).ok()
    }
}
