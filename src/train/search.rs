//! A small search over the settings that matter, on validation rows alone.

use super::{Epoch, Job, Observer, Options, TrainError, Trained, checkpoint, train};
use crate::{
    eval::TRAINING,
    guard::{FILES, Guard},
};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Where trials lie while the search runs.
const TRIALS: &str = ".search";
/// What a finished trial came to.
const RESULT: &str = "trial.json";

#[derive(Serialize, Deserialize)]
struct Finished {
    /// The settings, as text, so that the trials of another search are not taken for these.
    options: String,
    trained: Vec<Epoch>,
}

/// The settings that [`search`] tries: those given, then with another learning rate, and with more or less noise on the
/// rows. The most promising come first.
pub fn candidates(options: &Options) -> Vec<Options> {
    let with = |rate: f64, noise: f64| Options {
        learning_rate: (options.learning_rate * rate).min(1.0),
        word_learning_rate: (options.word_learning_rate * rate).min(1.0),
        word_dropout: (options.word_dropout * noise).min(0.9),
        augment: (options.augment * noise).min(1.0),
        ..options.clone()
    };
    vec![with(1.0, 1.0), with(2.0, 1.0), with(1.0, 0.5), with(2.0, 0.5), with(0.5, 1.0), with(1.0, 1.5)]
}

/// Trains with each of `candidates` and keeps the model with the best score on the validation rows; of equals the first.
///
/// With [`Job::resume`] finished trials are not repeated and the interrupted one goes on.
///
/// # Errors
/// As [`train`].
pub fn search(job: &Job<'_>, candidates: &[Options], observer: &mut dyn Observer) -> Result<Trained, TrainError> {
    let trials = job.out.join(TRIALS);
    let mut best: Option<(f64, usize, Vec<Epoch>)> = None;
    for (number, options) in candidates.iter().enumerate() {
        let out = trials.join(number.to_string());
        let result = out.join(RESULT);
        let settings = format!("{options:?}");
        let before = if job.resume { read(&result).filter(|before| before.options == settings) } else { None };
        let epochs = match before {
            Some(finished) => finished.trained,
            None => {
                observer.trial(number + 1, candidates.len(), options);
                let resume = job.resume && out.join(checkpoint::DIR).exists();
                let trained = train(&Job { out: &out, options: options.clone(), resume, ..job.clone() }, observer)?;
                let finished = Finished { options: settings, trained: trained.epochs };
                checkpoint::write(&result, &super::json(&finished))?;
                finished.trained
            }
        };
        let score = epochs.iter().map(|epoch| epoch.score).fold(f64::NEG_INFINITY, f64::max);
        if best.as_ref().is_none_or(|(highest, ..)| score > *highest) {
            best = Some((score, number, epochs));
        }
    }
    let Some((_, number, epochs)) = best else { return Err(TrainError::Option("there are no settings to try".into())) };
    let from = trials.join(number.to_string());
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| TrainError::Io { path, source }
    };
    for name in FILES.into_iter().chain([TRAINING]) {
        let path = from.join(name);
        checkpoint::write(&job.out.join(name), &fs::read(&path).map_err(io(&path))?)?;
    }
    fs::remove_dir_all(&trials).map_err(io(&trials))?;
    Ok(Trained { guard: Guard::from_dir(job.out)?, epochs })
}

fn read(path: &Path) -> Option<Finished> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_begin_with_what_was_asked_for_and_differ() {
        let candidates = candidates(&Options::default());
        assert_eq!(candidates[0], Options::default());
        for (n, options) in candidates.iter().enumerate() {
            assert!(super::super::check_options(options).is_ok());
            assert!(!candidates[..n].contains(options));
        }
    }
}
