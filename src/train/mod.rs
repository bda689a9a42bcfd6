//! Fitting a classifier to labelled rows, and everything a model directory needs around it.
//!
//! [`train`] runs AdamW (Loshchilov and Hutter, 2019, <https://arxiv.org/abs/1711.05101>) with linear warm-up and cosine
//! decay over augmented rows, stops early on validation accuracy, calibrates on the validation rows and writes a model
//! directory. On one machine and the CPU, the same rows, options and seed give the same weights. An interrupted run leaves
//! a checkpoint and [`Job::resume`] goes on from it, step for step as if nothing had happened.

mod augment;
mod base;
mod calibrate;
mod checkpoint;
mod classification;
mod corpus;
mod distill;
mod doubt;
mod embedding_cache;
mod fit;
mod joined;
mod oos_scores;
mod optimizer;
mod probe;
mod readiness;
mod regression;
mod search;
mod soft_labels;
mod split;
mod teacher;
mod vocabulary;

pub use crate::eval::Epoch;
pub use augment::Augment;
pub use base::base_from_dir;
#[cfg(feature = "hub")]
pub use base::fetch_base;
pub use corpus::{Text, corpus_texts, texts};
pub use distill::{DistillJob, DistillOptions, Distilled, HeldOut, default_cache, distill};
pub use doubt::{Doubt, Suspect, doubt};
pub use oos_scores::{OosScore, oos_scores};
pub use probe::probe;
pub use readiness::{LabelAt, Warning};
pub use search::{candidates, search};
pub use teacher::teacher_for;
pub use vocabulary::{VocabularyError, VocabularyReport, prune};

use crate::{
    data::{Origin, Row, fingerprint},
    engine::{EncoderConfig, GROUP, TensorFile},
    eval::{TRAINING, Training},
    export::{TOKENIZER_CONFIG, tokenizer_config},
    guard::{Bundle, FILES, Guard, GuardConfig, LoadError, head_and_tail},
    label::Flow,
    model::{Classifier, Dtype, LoadClassifierError, Teacher, encode_weights},
    text,
    tokenizer::{self, Tokenizer, TokenizerError},
};
use candle_core::Device;
use checkpoint::Checkpoint;
use classification::Classification;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

/// The label that means out of scope where no other is named.
pub const OOS_LABEL: &str = "out_of_scope";

/// Settings of a training run. The defaults are those of the shipped model; [`Options::preset`] fits them to fewer rows.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Options {
    /// Transformer layers, when there is no base encoder.
    pub layers: usize,
    /// Hidden size, when there is no base encoder.
    pub hidden_size: usize,
    /// Most passes over the rows.
    pub epochs: usize,
    /// Messages in a step.
    pub batch_size: usize,
    /// Highest learning rate of the encoder and head.
    pub learning_rate: f64,
    /// Highest learning rate of the word embeddings; 0 freezes them.
    pub word_learning_rate: f64,
    /// Share of all steps over which the rate rises.
    pub warmup: f64,
    /// Decoupled weight decay of matrices; biases, norms and embeddings have none.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient.
    pub clip: f64,
    /// Dropout on token vectors.
    pub dropout: f64,
    /// Probability mass given to all labels alike.
    pub label_smoothing: f64,
    /// Share of rows that are changed anew in every epoch, see [`Augment`].
    pub augment: f64,
    /// Probability with which a token of a message is hidden behind `<unk>`, so that no single word decides (Iyyer et al.,
    /// 2015, <https://aclanthology.org/P15-1162/>).
    pub word_dropout: f64,
    /// Stretches of long messages beside the rows of an epoch, as a share of them, as the guard's windows cut a message: from
    /// the long rows of a language, or else from short ones joined. Only where there is an out-of-scope label.
    pub joined: f64,
    /// Epochs without a better validation accuracy before training stops.
    pub patience: usize,
    /// Most tokens of a message.
    pub max_tokens: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// The number format of the weights that are written.
    pub dtype: Dtype,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            layers: 2,
            hidden_size: 256,
            epochs: 4,
            batch_size: 64,
            learning_rate: 5e-4,
            word_learning_rate: 5e-4,
            warmup: 0.06,
            weight_decay: 0.01,
            clip: 1.0,
            dropout: 0.0,
            label_smoothing: 0.0,
            augment: 0.5,
            word_dropout: 0.1,
            joined: 0.1,
            patience: 3,
            max_tokens: 96,
            seed: 1,
            dtype: Dtype::F16,
        }
    }
}

/// How long to train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// A third of the steps, for a first look.
    Fast,
    /// Enough for a good model.
    #[default]
    Standard,
    /// Twice the steps; the command also searches, see [`search`].
    Best,
}

impl Preset {
    /// Batches to see in all.
    fn steps(self) -> usize {
        match self {
            Preset::Fast => 2_000,
            Preset::Standard => 6_000,
            Preset::Best => 12_000,
        }
    }
}

/// Within these bounds the fewer rows there are, the more often each is seen.
const EPOCHS: std::ops::RangeInclusive<usize> = 4..=40;

impl Options {
    /// The settings for so many rows.
    pub fn preset(preset: Preset, rows: usize) -> Self {
        let options = Options::default();
        let batches = rows.div_ceil(options.batch_size).max(1);
        let epochs = ((preset.steps() + batches / 2) / batches).clamp(*EPOCHS.start(), *EPOCHS.end());
        options.with_epochs(epochs)
    }

    /// These settings for so many epochs at most, with the patience that fits them.
    pub fn with_epochs(self, epochs: usize) -> Self {
        // A long run has its best epochs at the end, where the learning rate is low.
        Options { epochs, patience: (epochs / 3).max(Options::default().patience), ..self }
    }

    fn schedule(&self) -> fit::Schedule {
        fit::Schedule {
            epochs: self.epochs,
            patience: self.patience,
            learning_rate: self.learning_rate,
            word_learning_rate: self.word_learning_rate,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            clip: self.clip,
            seed: self.seed,
        }
    }
}

/// What to train, from what, to where.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    /// Rows to fit.
    pub rows: &'a [Row],
    /// Rows for early stopping and calibration; about a tenth of the rows of each label, in
    /// whole groups, is held out if there are none.
    pub valid: &'a [Row],
    /// The `tokenizer.json`, when there is no base encoder.
    pub tokenizer: &'a [u8],
    /// A model directory's files to start from, instead of fresh weights. Its `guard` is not used.
    pub base: Option<&'a Bundle<'a>>,
    /// A larger classifier with the labels of the rows, whose opinion of each row counts as much as the row's label.
    pub teacher: Option<&'a Teacher>,
    /// The label of messages that the bot must not answer. `None` takes [`OOS_LABEL`] if rows have it.
    pub oos_label: Option<&'a str>,
    /// The model directory to write.
    pub out: &'a Path,
    /// Settings.
    pub options: Options,
    /// Where to compute.
    pub device: Device,
    /// Whether to go on from the checkpoint of an interrupted run.
    pub resume: bool,
}

/// News from a training run, for whoever draws the progress bar.
pub trait Observer {
    /// A step was taken; `loss` is that of its batch.
    fn step(&mut self, step: usize, of: usize, loss: f32, learning_rate: f64);
    /// An epoch is over.
    fn epoch(&mut self, epoch: &Epoch);
    /// So many texts of all have been run through a teacher.
    fn embedded(&mut self, _done: usize, _of: usize) {}
    /// The next of several settings is tried.
    fn trial(&mut self, _number: usize, _of: usize, _options: &Options) {}
    /// Something in the rows may make the model worse than it need be.
    fn warn(&mut self, _warning: &Warning) {}
    /// Asked after every step; `true` makes the run write a checkpoint and return [`TrainError::Interrupted`].
    fn should_stop(&self) -> bool;
}

/// What a training run came to.
#[derive(Debug)]
pub struct Trained {
    /// The guard, as loaded from the directory that was written.
    pub guard: Guard,
    /// Every epoch.
    pub epochs: Vec<Epoch>,
}

/// Why a model cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// There are no rows to fit, or none to validate on.
    #[error("no rows to {0}")]
    NoRows(&'static str),
    /// There is nothing to tell apart.
    #[error("every row has the label {0:?}; training needs two labels or more")]
    OneLabel(String),
    /// The validation rows cannot tell whether labels are told apart.
    #[error("every validation row has the label {0:?}; add rows of a second label, at least 5 where they are held out")]
    OneValidLabel(String),
    /// Some labels have one training row, from which nothing can be learned.
    #[error("labels with a single row: {}; add rows or take these out", readiness::named(.0, LabelAt::to_string))]
    SingleRows(Vec<LabelAt>),
    /// Some labels differ only in case.
    #[error("labels that differ only in case: {}; write them alike", readiness::named(.0, LabelAt::to_string))]
    AlikeLabels(Vec<LabelAt>),
    /// There are more labels than texts, as when the two are swapped.
    #[error("there are {labels} labels and {texts} texts: are text and label swapped?")]
    MoreLabelsThanTexts {
        /// Distinct labels.
        labels: usize,
        /// Distinct texts.
        texts: usize,
    },
    /// No validation rows are given and none can be held out.
    #[error(
        "no rows can be held out for validation: that takes 5 rows of a label, and groups that are no more than a third \
         of them; add rows or give validation rows"
    )]
    NothingToHoldOut,
    /// More than 5 % of the validation rows are training rows too, so that they would measure what was learned by heart.
    #[error(
        "{count} of {of} validation rows have the text and context of a training row, the first {valid} that of {train}: \
         take them out of one of the two, or give no validation rows and some are held out"
    )]
    Overlap {
        /// Validation rows with a training row of the same text and context.
        count: usize,
        /// All validation rows.
        of: usize,
        /// The first such validation row.
        valid: Origin,
        /// Its training row.
        train: Origin,
    },
    /// No row has the label named as out of scope.
    #[error("no training row has the out-of-scope label {label:?}; the labels are {labels}")]
    NoOosRows {
        /// The label asked for.
        label: String,
        /// The labels there are.
        labels: String,
    },
    /// A validation row has a label that no training row has.
    #[error("{place}: no training row has the label {label:?}")]
    UnknownLabel {
        /// The row.
        place: String,
        /// Its label.
        label: String,
    },
    /// The teacher tells other labels apart than the rows have.
    #[error("the teacher's labels are not those of the rows: {labels:?}")]
    Teacher {
        /// The teacher's.
        labels: Vec<String>,
    },
    /// An option has a value out of its range.
    #[error("{0}")]
    Option(String),
    /// The tokenizer cannot be used.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The base encoder cannot be used, or the model that was written does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file cannot be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing to resume, or it belongs to another run.
    #[error("cannot resume from {}: {why}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The loss is no number any more; a lower learning rate may help.
    #[error("the loss became {0} at step {1}: try a lower learning rate")]
    Diverged(f32, usize),
    /// The observer asked to stop. Nothing is lost: the checkpoint holds the run.
    #[error("interrupted; the checkpoint is in {}", .0.display())]
    Interrupted(PathBuf),
    /// The observer asked to stop, and there is nothing that could go on later.
    #[error("stopped")]
    Stopped,
    /// The tensor library failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}

impl From<LoadClassifierError> for TrainError {
    fn from(error: LoadClassifierError) -> Self {
        match error {
            LoadClassifierError::Weights(error) => TrainError::Load(error.into()),
            LoadClassifierError::Candle(error) => TrainError::Candle(error),
        }
    }
}

/// Trains a model and writes its directory.
///
/// # Errors
/// [`TrainError`]. Rows, labels, options and files are checked before the first step.
pub fn train(job: &Job<'_>, observer: &mut dyn Observer) -> Result<Trained, TrainError> {
    let options = &job.options;
    check_options(options)?;
    let began = Instant::now();
    let (rows, valid, labels) = readiness::split_rows(job.rows, job.valid, options.seed, observer)?;
    let oos_label = oos_label(job.oos_label, &labels)?;
    fs::create_dir_all(job.out).map_err(|source| TrainError::Io { path: job.out.into(), source })?;

    let tokenizer_json = match job.base {
        Some(base) => base::with_flow_tokens(&base.tokenizer)?,
        None => job.tokenizer.into(),
    };
    let tokenizer = Tokenizer::from_json(&tokenizer_json)?;
    let mut classifier = start(job, &tokenizer, &labels)?;
    let languages = languages(&rows);
    if languages.len() > 1 {
        classifier.add_language_head(languages.len(), options.seed)?;
    }
    let hidden_size = classifier.config().hidden_size;
    if options.dtype == Dtype::Int4 && !hidden_size.is_multiple_of(GROUP) {
        let why = format!("int4 needs a hidden size that is a multiple of {GROUP}, that of the base is {hidden_size}");
        return Err(TrainError::Option(why));
    }
    let encoder = Encoding {
        tokenizer: &tokenizer,
        max_tokens: options.max_tokens.min(classifier.config().max_position_embeddings),
    };
    let checkpoint = Checkpoint::new(job.out, fingerprint_of(&rows, &valid, job, classifier.config()));
    let weights = class_weights(&rows, &labels);
    let teacher = match job.teacher {
        Some(teacher) if teacher.labels() != labels => return Err(TrainError::Teacher { labels: teacher.labels() }),
        Some(teacher) => Some(soft_labels::of_rows(teacher, &rows, observer)?),
        None => None,
    };
    let objective = Classification::new(
        options,
        &labels,
        oos_label.as_deref(),
        &languages,
        &encoder,
        &rows,
        &valid,
        weights,
        teacher,
    );
    let epochs = fit::fit(&objective, &options.schedule(), &mut classifier, &checkpoint, job.resume, observer)?;

    let guard = GuardConfig {
        oos_label,
        max_tokens: encoder.max_tokens,
        languages,
        dataset_hash: fingerprint(rows.iter().chain(&valid).copied()),
        seed: options.seed,
        ..calibrate::uncalibrated()
    };
    let mut bundle = Bundle {
        config: json(classifier.config()).into(),
        weights: encode_weights(&classifier, options.dtype)?.into(),
        tokenizer: tokenizer_json,
        guard: json(&guard).into(),
    };
    // Calibration sees what users will run: the stored weights on the engine, not the variables of the training run.
    let plain = Guard::from_bundle(&bundle)?;
    let (logits, gold): (Vec<_>, Vec<_>) = valid
        .iter()
        .map(|row| (plain.logits(row.context, &row.text), labels.iter().position(|l| *l == row.label).unwrap_or(0)))
        .unzip();
    let mut calibrated = calibrate::calibrate(guard, &labels, &logits, &gold);
    calibrated.model_version = format!("{}+{}", env!("CARGO_PKG_VERSION"), short_hash(&bundle.weights));
    bundle.guard = json(&calibrated).into();
    let guard = Guard::from_bundle(&bundle)?;
    for (name, bytes) in FILES.iter().zip([&bundle.config, &bundle.weights, &bundle.tokenizer, &bundle.guard]) {
        checkpoint::write(&job.out.join(name), bytes)?;
    }
    checkpoint::write(&job.out.join(TOKENIZER_CONFIG), &tokenizer_config(guard.config().max_tokens))?;
    let training = Training {
        epochs: epochs.clone(),
        options: serde_json::from_slice(&json(options)).unwrap_or_default(),
        labels: counts(&rows, |row| &row.label),
        languages: counts(&rows, |row| row.lang.as_deref().unwrap_or("und")),
        valid_rows: valid.len(),
        base: job.base.map(|base| short_hash(&base.weights)),
        teacher: job.teacher.is_some(),
        seconds: began.elapsed().as_secs_f64().round(),
    };
    checkpoint::write(&job.out.join(TRAINING), &json(&training))?;
    checkpoint.remove();
    Ok(Trained { guard, epochs })
}

fn check_options(options: &Options) -> Result<(), TrainError> {
    let refuse = |why: String| Err(TrainError::Option(why));
    for (name, value) in [
        ("layers", options.layers),
        ("hidden size", options.hidden_size),
        ("epochs", options.epochs),
        ("batch size", options.batch_size),
    ] {
        if value == 0 {
            return refuse(format!("{name} is 0"));
        }
    }
    if !options.hidden_size.is_multiple_of(32) {
        return refuse(format!("hidden size {} is not a multiple of 32", options.hidden_size));
    }
    if options.max_tokens < 8 {
        return refuse(format!("max tokens is {}, expected 8 or more", options.max_tokens));
    }
    for (name, value, most) in [
        ("learning rate", options.learning_rate, 1.0),
        ("word learning rate", options.word_learning_rate, 1.0),
        ("warm-up", options.warmup, 1.0),
        ("weight decay", options.weight_decay, 1.0),
        ("dropout", options.dropout, 0.9),
        ("label smoothing", options.label_smoothing, 0.9),
        ("augment", options.augment, 1.0),
        ("word dropout", options.word_dropout, 0.9),
        ("joined", options.joined, 1.0),
    ] {
        if !(0.0..=most).contains(&value) {
            return refuse(format!("{name} is {value}, expected 0 to {most}"));
        }
    }
    if options.clip.is_nan() || options.clip <= 0.0 {
        return refuse(format!("gradient clip is {}, expected more than 0", options.clip));
    }
    Ok(())
}

/// The labels of the training rows: ours in their own order, others by name.
fn labels(rows: &[&Row], valid: &[&Row]) -> Result<Vec<String>, TrainError> {
    let Some(first) = rows.first() else { return Err(TrainError::NoRows("fit")) };
    if valid.is_empty() {
        return Err(TrainError::NoRows("validate on"));
    }
    let mut labels: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
    let ours = ["order", "appointment", "faq", "shopping_guide", OOS_LABEL];
    labels.sort_by_cached_key(|label| {
        (ours.iter().position(|known| known == label).unwrap_or(ours.len()), label.clone())
    });
    labels.dedup();
    if labels.len() < 2 {
        return Err(TrainError::OneLabel(first.label.clone()));
    }
    match valid.iter().find(|row| !labels.contains(&row.label)) {
        Some(row) => Err(TrainError::UnknownLabel { place: row.origin.to_string(), label: row.label.clone() }),
        None => Ok(labels),
    }
}

fn oos_label(asked: Option<&str>, labels: &[String]) -> Result<Option<String>, TrainError> {
    let label = asked.unwrap_or(OOS_LABEL);
    if labels.iter().any(|known| known == label) {
        Ok(Some(label.to_owned()))
    } else if asked.is_none() {
        Ok(None)
    } else {
        Err(TrainError::NoOosRows { label: label.to_owned(), labels: labels.join(", ") })
    }
}

fn start(job: &Job<'_>, tokenizer: &Tokenizer, labels: &[String]) -> Result<Classifier, TrainError> {
    let Options { layers, hidden_size, seed, dropout, max_tokens, .. } = job.options;
    let base_config =
        job.base.map(|base| EncoderConfig::from_json(&base.config)).transpose().map_err(LoadError::from)?;
    let knows_labels = base_config.as_ref().is_some_and(|config| config.labels() == labels);
    let mut config = match base_config {
        Some(config) => config.with_labels(labels),
        None => {
            let mut config = EncoderConfig::new(tokenizer.vocabulary_size(), layers, hidden_size, labels);
            config.max_position_embeddings = config.max_position_embeddings.max(max_tokens);
            config.pad_token_id = tokenizer.padding();
            config
        }
    };
    // A base of other hands has no flow tokens: they are added.
    if tokenizer.vocabulary_size() > config.vocab_size + Flow::ALL.len() {
        let (ids, rows) = (tokenizer.vocabulary_size(), config.vocab_size);
        return Err(LoadError::Mismatch(format!("the tokenizer has {ids} ids, the base {rows} embeddings")).into());
    }
    config.hidden_dropout_prob = dropout;
    let mut classifier = match job.base {
        Some(base) => {
            let file = TensorFile::parse(&base.weights).map_err(LoadError::from)?;
            Classifier::load(&config, &file, seed, &job.device)?
        }
        None => Classifier::new(&config, seed, &job.device)?,
    };
    if !knows_labels {
        classifier.forget_head(seed)?;
    }
    classifier.grow_vocabulary(config.vocab_size.max(tokenizer.vocabulary_size()));
    classifier.words.four_bit = job.options.dtype == Dtype::Int4;
    Ok(classifier)
}

/// Rare labels count more, by the square root of how rare they are.
fn class_weights(rows: &[&Row], labels: &[String]) -> Vec<f32> {
    let mean = rows.len() as f32 / labels.len() as f32;
    let count = |label: &String| rows.iter().filter(|row| row.label == *label).count();
    labels.iter().map(|label| (mean / count(label) as f32).sqrt().clamp(0.25, 4.0)).collect()
}

fn counts<'a>(rows: &[&'a Row], of: impl Fn(&'a Row) -> &'a str) -> BTreeMap<String, usize> {
    rows.iter().fold(BTreeMap::new(), |mut counts, row| {
        *counts.entry(of(row).to_owned()).or_default() += 1;
        counts
    })
}

fn languages(rows: &[&Row]) -> Vec<String> {
    let mut languages: Vec<String> = rows.iter().filter_map(|row| row.lang.clone()).collect();
    languages.sort();
    languages.dedup();
    languages
}

/// What must be the same for a checkpoint to fit a run.
fn fingerprint_of(rows: &[&Row], valid: &[&Row], job: &Job<'_>, config: &EncoderConfig) -> String {
    let data = fingerprint(rows.iter().chain(valid).copied());
    format!("{data} {:?} {config:?} {:?}", job.options, job.teacher.map(Teacher::fingerprint))
}

fn short_hash(bytes: &[u8]) -> String {
    format!("{:08x}", embedding_cache::hash(bytes) >> 32)
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// Messages to token ids, cut as the guard cuts them.
struct Encoding<'a> {
    tokenizer: &'a Tokenizer,
    max_tokens: usize,
}

impl Encoding<'_> {
    fn ids(&self, flow: Option<Flow>, text: &str, scratch: &mut tokenizer::Scratch) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer.encode(flow, &text::normalize(text), scratch, &mut ids);
        head_and_tail(&mut ids, self.max_tokens);
        ids
    }
}
