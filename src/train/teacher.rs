//! A teacher with the labels of the rows, fitted to them if it has others or none.

use super::{Job, Observer, Options, TrainError, base_from_dir, checkpoint, labels, train};
use crate::{
    guard::FILES,
    model::{Dtype, Teacher},
};
use std::path::Path;

/// Where a fitted teacher lies in the model directory.
const DIR: &str = ".teacher";
/// Highest learning rate of a large encoder, which a higher one would throw off.
const LEARNING_RATE: f64 = 1e-4;

/// The encoder in `dir` as a [`Job::teacher`]: as it is if it is a classifier with the labels of the rows, else fitted to
/// them in so many epochs.
///
/// The fitted one stays in `.teacher` in the model directory; with [`Job::resume`] it is taken from there, or its training
/// goes on.
///
/// # Errors
/// As [`train`].
pub fn teacher_for(
    job: &Job<'_>,
    dir: &Path,
    epochs: usize,
    observer: &mut dyn Observer,
) -> Result<Teacher, TrainError> {
    let teacher = Teacher::from_dir(dir, &job.device)?;
    let rows: Vec<_> = job.rows.iter().collect();
    if teacher.labels() == labels(&rows, &rows)? {
        return Ok(teacher);
    }
    let out = job.out.join(DIR);
    let has = |name: &str| job.resume && out.join(name).exists();
    if !has(FILES[3]) {
        let base = base_from_dir(dir)?;
        let options = Options {
            epochs,
            learning_rate: LEARNING_RATE,
            word_learning_rate: LEARNING_RATE,
            dtype: Dtype::F16,
            ..job.options.clone()
        };
        let fit =
            Job { base: Some(&base), teacher: None, out: &out, options, resume: has(checkpoint::DIR), ..job.clone() };
        train(&fit, observer)?;
    }
    Ok(Teacher::from_dir(&out, &job.device)?)
}
