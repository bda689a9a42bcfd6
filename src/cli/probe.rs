//! `intentgate probe`.

use super::Failure;
use candle_core::Device;
use clap::Args;
use indicatif::ProgressBar;
use intentgate::{
    data,
    eval::tables,
    model::Teacher,
    train::{self, Epoch, Observer},
};
use std::{path::PathBuf, process::ExitCode};

/// Measure a linear layer on a frozen sentence encoder: the yardstick for a test set.
///
/// Fits softmax regression to the encoder's embeddings of --data, chooses the weight decay on --valid and measures on
/// --test. A guard that is not better than this has learned little; a test set on which this is perfect is too easy.
#[derive(Args)]
pub struct Arguments {
    /// The encoder, in the Hugging Face layout, such as multilingual-e5-small
    #[arg(long, value_name = "DIR")]
    teacher: PathBuf,
    /// Rows to fit
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Rows to choose the weight decay on
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    valid: Vec<PathBuf>,
    /// Rows to measure on
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    test: Vec<PathBuf>,
    /// Keep embeddings in FILE, and take from it those that are there
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Write the result as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::hold_candle_to_one_thread()?;
    let teacher = Teacher::from_dir(&arguments.teacher, &Device::Cpu)?;
    let [rows, valid, test] = [&arguments.data, &arguments.valid, &arguments.test].map(|paths| data::load(paths));
    let mut progress = Progress(super::progress_bar(0, "embedding"));
    let probe = train::probe(&teacher, &rows?, &valid?, &test?, arguments.cache.as_deref(), &mut progress)?;
    progress.0.finish_and_clear();
    println!("accuracy {} % of {} rows, fitted to {}", tables::percent(probe.accuracy), probe.rows, probe.train_rows);
    println!(
        "with a flow {} %, OOS AUROC {:.4}",
        tables::percent(probe.with_flow),
        probe.oos_auroc.unwrap_or(f64::NAN)
    );
    for (code, accuracy) in &probe.languages {
        println!("  {code:<8} {} %", tables::percent(*accuracy));
    }
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&probe)? + "\n";
        super::write(path, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

struct Progress(ProgressBar);

impl Observer for Progress {
    fn step(&mut self, _: usize, _: usize, _: f32, _: f64) {}

    fn embedded(&mut self, done: usize, of: usize) {
        self.0.set_length(of as u64);
        self.0.set_position(done as u64);
    }

    fn epoch(&mut self, _: &Epoch) {}

    fn should_stop(&self) -> bool {
        false
    }
}
