//! `intentgate distill`.

use super::{
    Failure,
    device::DeviceKind,
    train::{INTERRUPTED, Progress, default_tokenizer},
};
use clap::Args;
use intentgate::{
    data,
    model::Teacher,
    train::{self, DistillJob, DistillOptions, Text},
};
use std::{fs, path::PathBuf, process::ExitCode};

/// Distil a small base encoder from large ones.
///
/// Writes config.json, model.safetensors and tokenizer.json, from which `intentgate train --base DIR` starts. What the
/// teachers make of the texts is computed once and kept in --cache. Ctrl-C leaves a checkpoint in DIR/.checkpoint, from
/// which --resume goes on.
#[derive(Args)]
#[command(after_help = "Example:
  intentgate distill --teacher multilingual-e5-small --corpus corpus datasets/train --out my-base")]
pub struct Arguments {
    /// Encoders to learn from: BERT models of the e5 family, or classifiers made by `intentgate train --base` from one
    #[arg(long, value_name = "DIR|hf:ID", required = true, num_args = 1..)]
    teacher: Vec<String>,
    /// Texts: .txt, .gz, .jsonl, .csv or .tsv files, or directories of them
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// The model directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Most lines of a text file, chosen at random; datasets are read whole
    #[arg(long, default_value_t = 20_000)]
    lines: usize,
    /// Go on from this encoder, of its shape and with its vocabulary [default: fresh, with the first teacher's words]
    #[arg(long, value_name = "DIR|hf:ID", conflicts_with_all = ["tokenizer", "layers", "hidden_size"])]
    base: Option<String>,
    /// The student's vocabulary [default: that of the model inside this program]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Where the teachers' embeddings are kept [default: DIR/.embeddings]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Go on from the checkpoint of an interrupted run with the same arguments
    #[arg(long)]
    resume: bool,
    /// Where to compute
    #[arg(long, default_value = "cpu")]
    device: DeviceKind,
    #[arg(long, default_value_t = DistillOptions::default().seed)]
    seed: u64,
    /// Transformer layers
    #[arg(long, default_value_t = DistillOptions::default().layers, help_heading = "Recipe")]
    layers: usize,
    /// Hidden size
    #[arg(long, default_value_t = DistillOptions::default().hidden_size, help_heading = "Recipe")]
    hidden_size: usize,
    /// Passes over the texts
    #[arg(long, default_value_t = DistillOptions::default().epochs, help_heading = "Recipe")]
    epochs: usize,
    /// Texts in a step
    #[arg(long, default_value_t = DistillOptions::default().batch_size, help_heading = "Recipe")]
    batch_size: usize,
    /// Highest learning rate of encoder and projections
    #[arg(long, default_value_t = DistillOptions::default().learning_rate, help_heading = "Recipe")]
    learning_rate: f64,
    /// Highest learning rate of the word embeddings; 0 freezes them
    #[arg(long, default_value_t = DistillOptions::default().word_learning_rate, help_heading = "Recipe")]
    word_learning_rate: f64,
    /// Share of texts roughened anew in every epoch
    #[arg(long, default_value_t = DistillOptions::default().augment, help_heading = "Recipe")]
    augment: f64,
    /// Most tokens of a text
    #[arg(long, default_value_t = DistillOptions::default().max_tokens, help_heading = "Recipe")]
    max_tokens: usize,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::hold_candle_to_one_thread()?;
    let device = arguments.device.device()?;
    let files = data::corpus_files(&arguments.corpus)?;
    let mut texts: Vec<Text> = Vec::new();
    for file in &files {
        texts.extend(train::corpus_texts(file, arguments.lines, arguments.seed)?);
    }
    let teachers = arguments
        .teacher
        .iter()
        .map(|name| Ok(Teacher::from_dir(&super::train::model_dir(name)?, &device)?))
        .collect::<Result<Vec<_>, Failure>>()?;
    let tokenizer = match &arguments.tokenizer {
        Some(path) => fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        None => default_tokenizer()?,
    };
    let base = match &arguments.base {
        Some(name) => Some(train::base_from_dir(&super::train::model_dir(name)?)?),
        None => None,
    };
    let cache = arguments.cache.clone().unwrap_or_else(|| train::default_cache(&arguments.out));
    let job = DistillJob {
        teachers: &teachers,
        texts: &texts,
        tokenizer: &tokenizer,
        base: base.as_ref(),
        cache: &cache,
        out: &arguments.out,
        options: DistillOptions {
            layers: arguments.layers,
            hidden_size: arguments.hidden_size,
            epochs: arguments.epochs,
            batch_size: arguments.batch_size,
            learning_rate: arguments.learning_rate,
            word_learning_rate: arguments.word_learning_rate,
            augment: arguments.augment,
            max_tokens: arguments.max_tokens,
            seed: arguments.seed,
            ..DistillOptions::default()
        },
        device,
        resume: arguments.resume,
    };
    eprintln!("{} texts of {} files", texts.len(), files.len());
    let mut progress = Progress::start("distilling", "cosine of held-out texts", 1.0)?;
    let result = train::distill(&job, &mut progress);
    let Some(distilled) = progress.unless_interrupted(result)? else { return Ok(INTERRUPTED.into()) };
    let seconds = progress.finish();
    for (teacher, held_out) in arguments.teacher.iter().zip(&distilled.held_out) {
        eprintln!(
            "{teacher}: cosine {:.4}, nearest to the teacher's own {:.1} % of {} held-out texts",
            held_out.cosine,
            100.0 * held_out.retrieval,
            held_out.texts
        );
    }
    eprintln!("{}: {seconds:.0} s", arguments.out.display());
    Ok(ExitCode::SUCCESS)
}
