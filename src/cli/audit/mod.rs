//! `intentgate audit`.

mod export;
mod html;
mod plots;
mod replay;
mod report;

use super::Failure;
use clap::Subcommand;
use intentgate::audit::{self, Line, LineError, Reader};
use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Subcommand)]
pub enum Command {
    Report(report::Arguments),
    Export(export::Arguments),
    Replay(replay::Arguments),
}

pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Report(arguments) => report::run(arguments),
        Command::Export(arguments) => export::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
    }
}

/// The files of the logs.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    audit::files(paths).map_err(|(path, error)| cannot_read(&path, &error).into())
}

/// Calls `each` with the number and the content of every line, one at a time.
fn each_line(
    path: &Path,
    mut each: impl FnMut(usize, Result<Line, LineError>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut reader = Reader::new(BufReader::new(File::open(path).map_err(|error| cannot_read(path, &error))?));
    while let Some(line) = reader.next() {
        each(reader.line(), line.map_err(|error| cannot_read(path, &error))?)?;
    }
    Ok(())
}

fn cannot_read(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("cannot read {}: {error}", path.display())
}

fn near(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|near| (0.0..=1.0).contains(near));
    number.ok_or_else(|| "expected a distance from 0 to 1, such as 0.1".to_owned())
}
