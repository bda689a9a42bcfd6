//! A model directory with what was measured of it.

use super::Failure;
use intentgate::{
    GuardConfig,
    eval::{Evaluation, Training},
};
use std::{fs, path::Path};

pub struct Measured {
    pub config: GuardConfig,
    pub evaluation: Evaluation,
    pub training: Option<Training>,
}

impl Measured {
    /// `evaluation` is a file [default: `evaluation.json` in the directory].
    pub fn read(dir: &Path, evaluation: Option<&Path>) -> Result<Self, Failure> {
        let path = evaluation.map_or_else(|| dir.join("evaluation.json"), Path::to_owned);
        let (named, file) = (dir.display(), path.display());
        let make = format!("`intentgate eval --model {named} --data ROWS --json {file}` makes it");
        let config = GuardConfig::from_json(&read(&dir.join("guard.json"))?)?;
        if !path.exists() {
            return Err(format!("there is no {file}: {make}").into());
        }
        let evaluation: Evaluation = json(&path)?;
        if evaluation.model_version != config.model_version {
            let (measured, is) = (&evaluation.model_version, &config.model_version);
            return Err(format!("{file} is of model {measured}, {named}/guard.json of {is}: {make} anew").into());
        }
        let (labels, matrix) = (evaluation.labels.len(), &evaluation.confusion);
        if matrix.len() != labels || matrix.iter().any(|row| row.len() != labels) {
            return Err(format!("{file}: the confusion matrix does not have a row and a column for every label").into());
        }
        Ok(Measured { config, evaluation, training: Training::of_model(dir) })
    }

    pub fn out_of_scope_rows(&self) -> usize {
        let label = self.config.oos_label.as_deref().unwrap_or("out_of_scope");
        let row = self.evaluation.labels.iter().position(|known| known == label);
        row.and_then(|row| self.evaluation.confusion.get(row)).map_or(0, |row| row.iter().sum())
    }
}

pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    Ok(fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?)
}

pub fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    Ok(serde_json::from_slice(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?)
}
