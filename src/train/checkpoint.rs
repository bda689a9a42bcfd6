//! What an interrupted run needs to go on, in one file that is replaced as a whole.

use super::{
    Epoch, TrainError,
    optimizer::{AdamW, Moments},
};
use crate::{
    engine::TensorFile,
    guard::LoadError,
    model::{Classifier, Dtype, encode_weights},
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Of an interrupted run, in the model directory.
pub(super) const DIR: &str = ".checkpoint";
const WORDS: &str = "words";

/// How far a run has come.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    pub epochs: Vec<Epoch>,
    pub step_in_epoch: usize,
    pub loss_in_epoch: f64,
    /// Optimiser steps so far.
    steps: usize,
    /// What the run is about; a checkpoint of another run is refused.
    run: String,
}

impl State {
    /// Epochs since the best one.
    pub(super) fn since_best(&self) -> usize {
        self.epochs.iter().rev().take_while(|epoch| !epoch.best).count()
    }
}

/// The files of a run in progress, in the directory `.checkpoint` of the model directory.
#[derive(Debug)]
pub(super) struct Checkpoint {
    dir: PathBuf,
    run: String,
}

impl Checkpoint {
    pub(super) fn new(out: &Path, run: String) -> Self {
        Checkpoint { dir: out.join(DIR), run }
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    fn last(&self) -> PathBuf {
        self.dir.join("last.safetensors")
    }

    fn best(&self) -> PathBuf {
        self.dir.join("best.safetensors")
    }

    pub(super) fn save(&self, classifier: &Classifier, optimizer: &AdamW, state: &State) -> Result<(), TrainError> {
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for (name, variable) in classifier.variables() {
            tensors.insert(name.clone(), variable.as_detached_tensor());
        }
        let cpu = &candle_core::Device::Cpu;
        let mut put =
            |name: String, values: &[f32]| Ok::<_, TrainError>(tensors.insert(name, Tensor::new(values, cpu)?));
        put(WORDS.into(), classifier.words.values())?;
        let words = (WORDS, &optimizer.words);
        for (name, moments) in optimizer.variables.iter().map(|(name, m)| (name.as_str(), m)).chain([words]) {
            put(format!("{name}.first_moment"), &moments.first)?;
            put(format!("{name}.second_moment"), &moments.second)?;
        }
        let state = State { steps: optimizer.steps, run: self.run.clone(), ..state.clone() };
        let state =
            HashMap::from([("state".to_owned(), serde_json::to_string(&state).map_err(candle_core::Error::wrap)?)]);
        let bytes = safetensors::serialize(tensors, Some(state)).map_err(candle_core::Error::wrap)?;
        write(&self.last(), &bytes)
    }

    /// Puts a saved run back into `classifier` and `optimizer`.
    pub(super) fn load(&self, classifier: &mut Classifier, optimizer: &mut AdamW) -> Result<State, TrainError> {
        let path = self.last();
        let refuse = |why: String| TrainError::Resume { path: path.clone(), why };
        let bytes = fs::read(&path).map_err(|error| refuse(error.to_string()))?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| refuse(error.to_string()))?;
        let state = header.metadata().as_ref().and_then(|entries| entries.get("state"));
        let state: State = state
            .ok_or_else(|| refuse("it holds no state".into()))
            .and_then(|json| serde_json::from_str(json).map_err(|error| refuse(error.to_string())))?;
        if state.run != self.run {
            return Err(refuse("it belongs to a run with other data or options".into()));
        }
        let file = TensorFile::parse(&bytes).map_err(|error| refuse(error.to_string()))?;
        let device = classifier.device().clone();
        let read = |name: &str, shape: &[usize]| file.read(name, shape).map_err(|error| refuse(error.to_string()));
        let moments = |name: &str, len: usize| -> Result<Moments, TrainError> {
            Ok(Moments {
                first: read(&format!("{name}.first_moment"), &[len])?,
                second: read(&format!("{name}.second_moment"), &[len])?,
            })
        };
        for (name, variable) in classifier.variables() {
            let shape = variable.dims();
            variable.set(&Tensor::from_vec(read(name, shape)?, shape, &device)?)?;
            optimizer.variables.insert(name.clone(), moments(name, variable.elem_count())?);
        }
        let len = classifier.words.values().len();
        classifier.words.replace(read(WORDS, &[len])?);
        optimizer.words = moments(WORDS, len)?;
        optimizer.steps = state.steps;
        Ok(state)
    }

    /// Keeps the weights of the best epoch so far.
    pub(super) fn save_best(&self, classifier: &Classifier) -> Result<(), TrainError> {
        write(&self.best(), &encode_weights(classifier, Dtype::F32)?)
    }

    pub(super) fn load_best(&self, classifier: &mut Classifier) -> Result<(), TrainError> {
        let path = self.best();
        let bytes = fs::read(&path).map_err(|source| TrainError::Io { path, source })?;
        let file = TensorFile::parse(&bytes).map_err(LoadError::from)?;
        let config = classifier.config().clone();
        let device = classifier.device().clone();
        let best = Classifier::load(&config, &file, 0, &device)?;
        for (name, variable) in classifier.variables() {
            if let Some(value) = best.variables().get(name) {
                variable.set(value)?;
            }
        }
        classifier.words.replace(best.words.values().to_vec());
        Ok(())
    }

    /// Clears up after a finished run.
    pub(super) fn remove(&self) {
        // The model is written; a leftover checkpoint does no harm.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes a file beside its place and moves it there, so that a reader never sees half of it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let failed = |source| TrainError::Io { path: path.into(), source };
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}
