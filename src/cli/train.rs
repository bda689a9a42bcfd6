//! `intentgate train`.

use super::{Failure, device::DeviceKind};
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use intentgate::{
    Bundle, data,
    model::Dtype,
    train::{self, Epoch, Job, Observer, Options, Preset, TrainError, Warning},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

/// Exit code of a run that Ctrl-C has stopped, as shells have it.
pub(super) const INTERRUPTED: u8 = 130;
/// Where the base encoder lies in this project.
pub(super) const DEFAULT_BASE: &str = "models/base";

/// Train a guard from labelled rows.
///
/// Writes a model directory: config.json, model.safetensors, tokenizer.json, tokenizer_config.json and guard.json
/// (temperature and thresholds, calibrated on the validation rows). Ctrl-C leaves a checkpoint in DIR/.checkpoint, from which --resume goes on.
#[derive(Args)]
#[command(after_help = "Example, the shipped model:
  intentgate train --data datasets/train datasets/long/train.jsonl --valid datasets/valid --out models/guard --dtype int4

Labels of your own, and the class of messages to refuse:
  intentgate train --data my-intents.csv --oos-label other --out my-model")]
pub struct Arguments {
    /// Rows to fit: .jsonl, .csv or .tsv files, or directories of them
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    /// Rows for early stopping and calibration [default: about a tenth of --data, by group and label]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    valid: Vec<PathBuf>,
    /// The model directory to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Start from this encoder; `none` for fresh weights [default: models/base, if it is there]
    #[arg(long, value_name = "DIR|hf:ID|none")]
    base: Option<String>,
    /// Vocabulary for fresh weights [default: that of the model inside this program]
    #[arg(long, value_name = "FILE", conflicts_with = "base")]
    tokenizer: Option<PathBuf>,
    /// The label of messages that must not be answered [default: out_of_scope, if rows have it]
    #[arg(long, value_name = "LABEL")]
    oos_label: Option<String>,
    /// Go on from the checkpoint of an interrupted run with the same arguments
    #[arg(long)]
    resume: bool,
    /// Where to compute
    #[arg(long, default_value = "cpu")]
    device: DeviceKind,
    /// Number format of the weights: f32, f16, int8, or int4 (int8 with word embeddings at 4 bits)
    #[arg(long, default_value = "f16")]
    dtype: Dtype,
    #[arg(long, default_value_t = Options::default().seed)]
    seed: u64,
    /// How long to train; `best` tries several settings on the validation rows as well
    #[arg(long, default_value = "standard")]
    preset: PresetKind,
    /// A larger encoder to learn from as well: a classifier that `train` made with the same labels, or any other encoder,
    /// which is fitted to the rows first (slow; see --teacher-epochs)
    #[arg(long, value_name = "DIR|hf:ID")]
    teacher: Option<String>,
    /// Settings to try on the validation rows, the best of which is kept; 1 tries none but those given [default: 1, or 4 for
    /// --preset best]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=6))]
    search: Option<u8>,
    /// Most passes over the rows [default: by preset and number of rows, 4 to 40]
    #[arg(long, help_heading = "Recipe")]
    epochs: Option<usize>,
    /// Passes over the rows in which a teacher is fitted to them
    #[arg(long, default_value_t = 3, help_heading = "Recipe")]
    teacher_epochs: usize,
    /// Messages in a step
    #[arg(long, default_value_t = Options::default().batch_size, help_heading = "Recipe")]
    batch_size: usize,
    /// Highest learning rate of encoder and head
    #[arg(long, default_value_t = Options::default().learning_rate, help_heading = "Recipe")]
    learning_rate: f64,
    /// Highest learning rate of the word embeddings; 0 freezes them
    #[arg(long, default_value_t = Options::default().word_learning_rate, help_heading = "Recipe")]
    word_learning_rate: f64,
    /// Share of steps over which the learning rate rises
    #[arg(long, default_value_t = Options::default().warmup, help_heading = "Recipe")]
    warmup: f64,
    #[arg(long, default_value_t = Options::default().weight_decay, help_heading = "Recipe")]
    weight_decay: f64,
    /// Largest norm of the gradient
    #[arg(long, default_value_t = Options::default().clip, help_heading = "Recipe")]
    clip: f64,
    #[arg(long, default_value_t = Options::default().dropout, help_heading = "Recipe")]
    dropout: f64,
    #[arg(long, default_value_t = Options::default().label_smoothing, help_heading = "Recipe")]
    label_smoothing: f64,
    /// Share of rows changed anew in every epoch: typos, accents, punctuation, digits, greetings, emoji, flows
    #[arg(long, default_value_t = Options::default().augment, help_heading = "Recipe")]
    augment: f64,
    /// Probability with which a token is hidden behind <unk>
    #[arg(long, default_value_t = Options::default().word_dropout, help_heading = "Recipe")]
    word_dropout: f64,
    /// Stretches of long messages beside the rows of an epoch, as a share of them: cut from long rows, or joined from short ones
    #[arg(long, default_value_t = Options::default().joined, help_heading = "Recipe")]
    joined: f64,
    /// Epochs without a better validation accuracy before training stops [default: a third of --epochs, at least 3]
    #[arg(long, help_heading = "Recipe")]
    patience: Option<usize>,
    /// Most tokens of a message
    #[arg(long, default_value_t = Options::default().max_tokens, help_heading = "Recipe")]
    max_tokens: usize,
    /// Transformer layers, for fresh weights
    #[arg(long, default_value_t = Options::default().layers, help_heading = "Recipe")]
    layers: usize,
    /// Hidden size, for fresh weights
    #[arg(long, default_value_t = Options::default().hidden_size, help_heading = "Recipe")]
    hidden_size: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PresetKind {
    /// A third of the steps
    Fast,
    /// Enough for a good model
    Standard,
    /// Twice the steps, and a search over settings
    Best,
}

impl From<PresetKind> for Preset {
    fn from(kind: PresetKind) -> Self {
        match kind {
            PresetKind::Fast => Preset::Fast,
            PresetKind::Standard => Preset::Standard,
            PresetKind::Best => Preset::Best,
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    super::hold_candle_to_one_thread()?;
    let rows = data::load(&arguments.data)?;
    let valid = if arguments.valid.is_empty() { Vec::new() } else { data::load(&arguments.valid)? };
    if valid.is_empty() && !arguments.valid.is_empty() {
        return Err(TrainError::NoRows("validate on").into());
    }
    let name = match arguments.base.as_deref() {
        Some("none") => None,
        None if arguments.tokenizer.is_none() && Path::new(DEFAULT_BASE).join("config.json").exists() => {
            Some(DEFAULT_BASE)
        }
        other => other,
    };
    let base = name.map(base).transpose()?;
    let tokenizer = match (&arguments.tokenizer, &base) {
        (Some(path), _) => fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        (None, Some(base)) => base.tokenizer.to_vec(),
        (None, None) => default_tokenizer()?,
    };
    let device = arguments.device.device()?;
    let mut job = Job {
        rows: &rows,
        valid: &valid,
        tokenizer: &tokenizer,
        base: base.as_ref(),
        teacher: None,
        oos_label: arguments.oos_label.as_deref(),
        out: &arguments.out,
        options: options(arguments, rows.len()),
        device,
        resume: arguments.resume,
    };
    let from = name.map_or("fresh weights".to_owned(), |name| format!("from {name}"));
    eprintln!("{} rows to fit, {} to validate on, {from}", rows.len(), valid.len());
    let mut progress = Progress::start("training", "validation accuracy %", 100.0)?;
    let teacher = match &arguments.teacher {
        Some(name) => {
            let result = train::teacher_for(&job, &model_dir(name)?, arguments.teacher_epochs, &mut progress);
            let Some(teacher) = progress.unless_interrupted(result)? else { return Ok(INTERRUPTED.into()) };
            Some(teacher)
        }
        None => None,
    };
    job.teacher = teacher.as_ref();
    let tries = arguments.search.unwrap_or(if arguments.preset == PresetKind::Best { 4 } else { 1 });
    let candidates = train::candidates(&job.options);
    let result = match tries {
        1 => train::train(&job, &mut progress),
        tries => train::search(&job, &candidates[..candidates.len().min(tries.into())], &mut progress),
    };
    let Some(trained) = progress.unless_interrupted(result)? else { return Ok(INTERRUPTED.into()) };
    let seconds = progress.finish();
    let config = trained.guard.config();
    let best = trained.epochs.iter().rev().find(|epoch| epoch.best);
    eprintln!(
        "{}: model {}, validation accuracy {:.2} %, {:.0} s",
        arguments.out.display(),
        config.model_version,
        100.0 * best.map_or(0.0, |epoch| epoch.score),
        seconds
    );
    Ok(ExitCode::SUCCESS)
}

fn options(arguments: &Arguments, rows: usize) -> Options {
    let preset = Options::preset(arguments.preset.into(), rows);
    let Options { epochs, patience, .. } = preset.clone().with_epochs(arguments.epochs.unwrap_or(preset.epochs));
    Options {
        layers: arguments.layers,
        hidden_size: arguments.hidden_size,
        epochs,
        batch_size: arguments.batch_size,
        learning_rate: arguments.learning_rate,
        word_learning_rate: arguments.word_learning_rate,
        warmup: arguments.warmup,
        weight_decay: arguments.weight_decay,
        clip: arguments.clip,
        dropout: arguments.dropout,
        label_smoothing: arguments.label_smoothing,
        augment: arguments.augment,
        word_dropout: arguments.word_dropout,
        joined: arguments.joined,
        patience: arguments.patience.unwrap_or(patience),
        max_tokens: arguments.max_tokens,
        seed: arguments.seed,
        dtype: arguments.dtype,
    }
}

fn base(name: &str) -> Result<Bundle<'static>, Failure> {
    Ok(train::base_from_dir(&model_dir(name)?)?)
}

/// The directory of a model: `name` itself, or what is fetched for `hf:` and a repository on the Hugging Face hub.
pub(super) fn model_dir(name: &str) -> Result<PathBuf, Failure> {
    match name.strip_prefix("hf:") {
        Some(id) => hub(id),
        None => Ok(PathBuf::from(name)),
    }
}

#[cfg(feature = "hub")]
fn hub(id: &str) -> Result<PathBuf, Failure> {
    Ok(train::fetch_base(id)?)
}

#[cfg(not(feature = "hub"))]
fn hub(id: &str) -> Result<PathBuf, Failure> {
    Err(format!("cannot fetch {id}: this program was built without the feature `hub`").into())
}

#[cfg(feature = "embedded")]
pub(super) fn default_tokenizer() -> Result<Vec<u8>, Failure> {
    Ok(Bundle::embedded().tokenizer.into_owned())
}

#[cfg(not(feature = "embedded"))]
pub(super) fn default_tokenizer() -> Result<Vec<u8>, Failure> {
    Err("this program was built without a model: name a vocabulary with --tokenizer".into())
}

/// Draws a training run, and stops it on Ctrl-C.
pub(super) struct Progress {
    bar: ProgressBar,
    /// What the score of an epoch is, and by what to multiply it.
    score: (&'static str, f64),
    stop: Arc<AtomicBool>,
    began: Instant,
    /// Running mean, for a steady display.
    loss: Option<f32>,
}

impl Progress {
    pub(super) fn start(what: &str, score: &'static str, times: f64) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let signal = Arc::clone(&stop);
        ctrlc::set_handler(move || {
            if signal.swap(true, Ordering::Relaxed) {
                // Asked twice: do not wait for the checkpoint.
                std::process::exit(INTERRUPTED.into());
            }
            eprintln!("\nstopping after this step; once more to stop at once");
        })?;
        let bar = super::progress_bar(0, what);
        Ok(Progress { bar, score: (score, times), stop, began: Instant::now(), loss: None })
    }

    /// What came of the run; `None`, with a word on how to go on, where Ctrl-C stopped it.
    pub(super) fn unless_interrupted<T>(&self, result: Result<T, TrainError>) -> Result<Option<T>, TrainError> {
        match result {
            Err(error @ TrainError::Interrupted(_)) => {
                self.bar.abandon();
                eprintln!("{error}; go on with the same command and --resume");
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Through the bar where there is one, so that it is not torn; plainly into a log.
    fn line(&self, line: &str) {
        if self.bar.is_hidden() { eprintln!("{line}") } else { self.bar.println(line) }
    }

    /// Takes the bar away; returns the seconds since the start.
    pub(super) fn finish(&self) -> f64 {
        self.bar.finish_and_clear();
        self.began.elapsed().as_secs_f64()
    }
}

impl Observer for Progress {
    fn step(&mut self, step: usize, of: usize, loss: f32, learning_rate: f64) {
        let mean = self.loss.map_or(loss, |mean| 0.98 * mean + 0.02 * loss);
        self.loss = Some(mean);
        self.bar.set_length(of as u64);
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("loss {mean:.3} rate {learning_rate:.1e}"));
    }

    fn trial(&mut self, number: usize, of: usize, options: &Options) {
        let Options { learning_rate, word_dropout, augment, .. } = options;
        self.line(&format!(
            "trial {number} of {of}: learning rate {learning_rate:.1e}, word dropout {word_dropout:.2}, augment {augment:.2}"
        ));
    }

    fn embedded(&mut self, done: usize, of: usize) {
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message("texts embedded by the teacher");
    }

    fn epoch(&mut self, epoch: &Epoch) {
        let mark = if epoch.best { " *" } else { "" };
        let (what, times) = self.score;
        let line = format!(
            "epoch {}: loss {:.4}, {what} {:.4}, {:.0} s{mark}",
            epoch.epoch,
            epoch.loss,
            times * epoch.score,
            self.began.elapsed().as_secs_f64()
        );
        self.line(&line);
    }

    fn warn(&mut self, warning: &Warning) {
        self.line(&format!("warning: {warning}"));
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
