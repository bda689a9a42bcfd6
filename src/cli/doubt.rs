//! `intentgate doubt`.

use super::{
    Failure,
    train::{DEFAULT_BASE, INTERRUPTED, Progress, model_dir},
};
use clap::Args;
use intentgate::{data, train};
use std::{path::PathBuf, process::ExitCode};

/// Find rows whose label is probably wrong.
///
/// Confident learning: each row is judged by a softmax regression that has not seen it, on the vectors of a base encoder.
/// The most suspect rows come first; read them before you believe it. `intentgate report --suspects` shows the JSON.
#[derive(Args)]
pub struct Arguments {
    /// Rows to look at: .jsonl, .csv or .tsv files, or directories of them
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// The encoder; one that was not fitted to these rows
    #[arg(long, value_name = "DIR|hf:ID", default_value = DEFAULT_BASE)]
    base: String,
    /// Most rows to print
    #[arg(long, default_value_t = 40)]
    most: usize,
    /// Write all of them as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::hold_candle_to_one_thread()?;
    let rows = data::load(&arguments.data)?;
    let base = train::base_from_dir(&model_dir(&arguments.base)?)?;
    let mut progress = Progress::start("reading", "", 1.0)?;
    let result = train::doubt(&base, &rows, &mut progress);
    let doubt = match result {
        Err(train::TrainError::Stopped) => return Ok(INTERRUPTED.into()),
        other => other?,
    };
    progress.finish();
    for suspect in doubt.suspects.iter().take(arguments.most) {
        println!(
            "{}: {} ({:.2}), rather {} ({:.2}): {}",
            suspect.place,
            suspect.label,
            suspect.probability,
            suspect.suggested,
            suspect.suggested_probability,
            super::one_line(&suspect.text)
        );
    }
    eprintln!(
        "{} of {} rows are suspect ({:.1} %); the judge agrees with {:.1} % of the labels",
        doubt.suspects.len(),
        doubt.rows,
        100.0 * doubt.estimated_noise,
        100.0 * doubt.agreement
    );
    if let Some(path) = &arguments.json {
        super::write(path, serde_json::to_string_pretty(&doubt)? + "\n")?;
    }
    Ok(ExitCode::SUCCESS)
}
