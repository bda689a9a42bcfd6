//! `intentgate pack`.

use super::{Failure, ModelArguments};
use clap::Args;
use intentgate::Guard;
use std::{path::PathBuf, process::ExitCode};

/// Pack a model directory into one file, for `include_bytes!` and `Guard::from_bytes`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let bytes = arguments.model.bundle()?.pack()?;
    super::write(&arguments.out, &bytes)?;
    let size = bytes.len() as f64 / 1e6;
    let guard = Guard::from_bytes(bytes)?;
    eprintln!("{}: model {}, {:.1} MB", arguments.out.display(), guard.config().model_version, size);
    Ok(ExitCode::SUCCESS)
}
