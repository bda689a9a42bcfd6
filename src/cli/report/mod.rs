//! `intentgate report`: an evaluation as one page.

mod html;
mod plots;
mod suspects;

use super::{
    Failure,
    measured::{self, Measured},
    write,
};
use clap::Args;
use std::{path::PathBuf, process::ExitCode};
use suspects::Suspects;

/// Write an evaluation as one HTML page with plots, which needs nothing else.
///
/// Shows what `intentgate eval --json` measured and, where the files are there, how the model was trained and which
/// training rows are probably labelled wrongly.
#[derive(Args)]
#[command(after_help = "Example:
  intentgate eval --model my-model --data test.jsonl --json my-model/evaluation.json
  intentgate report --model my-model --html report.html")]
pub struct Arguments {
    /// Model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The result of `intentgate eval --json` [default: DIR/evaluation.json]
    #[arg(long, value_name = "FILE")]
    evaluation: Option<PathBuf>,
    /// The result of `intentgate doubt --json`
    #[arg(long, value_name = "FILE")]
    suspects: Option<PathBuf>,
    /// The page to write
    #[arg(long, value_name = "FILE")]
    html: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let measured = Measured::read(&arguments.model, arguments.evaluation.as_deref())?;
    let suspects = arguments.suspects.as_deref().map(measured::json::<Suspects>).transpose()?;
    write(&arguments.html, html::page(&measured, suspects.as_ref())?)?;
    Ok(ExitCode::SUCCESS)
}
