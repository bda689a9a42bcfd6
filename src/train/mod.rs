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
mod embedding_cache;
mod optimizer;
mod probe;
mod vocabulary;

pub use augment::Augment;
pub use base::base_from_dir;
#[cfg(feature = "hub")]
pub use base::fetch_base;
pub use probe::probe;
pub use vocabulary::{VocabularyError, VocabularyReport, prune, texts};

use crate::{
    data::{Row, fingerprint},
    engine::{EncoderConfig, TensorFile},
    guard::{Bundle, FILES, Guard, GuardConfig, LoadError, head_and_tail},
    model::{Batch, Classifier, Dtype, LoadClassifierError, encode_weights},
    text,
    tokenizer::{self, Tokenizer, TokenizerError},
};
use candle_core::{D, Device, Tensor};
use checkpoint::{Checkpoint, State};
use optimizer::{AdamW, Gradient, Rates};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The label that means out of scope where no other is named.
pub const OOS_LABEL: &str = "out_of_scope";
/// Share of groups held out where no validation rows are given.
const VALID_SHARE: f64 = 0.1;
/// Messages in one batch outside training.
const EVALUATION_BATCH: usize = 128;
/// Messages that one thread takes of a batch.
const SHARD: usize = 16;
/// Time between checkpoints within an epoch.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(180);

/// Settings of a training run. The defaults are those of the shipped model.
#[derive(Clone, Debug, PartialEq)]
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
            layers: 3,
            hidden_size: 192,
            epochs: 7,
            batch_size: 32,
            learning_rate: 1e-3,
            word_learning_rate: 1e-3,
            warmup: 0.06,
            weight_decay: 0.01,
            clip: 1.0,
            dropout: 0.1,
            label_smoothing: 0.05,
            augment: 0.5,
            patience: 3,
            max_tokens: 96,
            seed: 1,
            dtype: Dtype::F16,
        }
    }
}

/// What to train, from what, to where.
#[derive(Debug)]
pub struct Job<'a> {
    /// Rows to fit.
    pub rows: &'a [Row],
    /// Rows for early stopping and calibration; a tenth of the groups of `rows` is held out if there are none.
    pub valid: &'a [Row],
    /// The `tokenizer.json`, when there is no base encoder.
    pub tokenizer: &'a [u8],
    /// A model directory's files to start from, instead of fresh weights. Its `guard` is not used.
    pub base: Option<&'a Bundle<'a>>,
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
    /// Asked after every step; `true` makes the run write a checkpoint and return [`TrainError::Interrupted`].
    fn should_stop(&self) -> bool;
}

/// One epoch of a training run.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Epoch {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean loss over its steps.
    pub loss: f64,
    /// Accuracy of the most probable label on the validation rows.
    pub valid_accuracy: f64,
    /// Whether no epoch before was better.
    pub best: bool,
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
    let (rows, valid) = hold_out(job);
    let labels = labels(&rows, &valid)?;
    let oos_label = oos_label(job.oos_label, &labels)?;
    fs::create_dir_all(job.out).map_err(|source| TrainError::Io { path: job.out.into(), source })?;

    let tokenizer_json = job.base.map_or(job.tokenizer, |base| &base.tokenizer);
    let tokenizer = Tokenizer::from_json(tokenizer_json)?;
    let mut classifier = start(job, &tokenizer, &labels)?;
    let encoder = Encoding {
        tokenizer: &tokenizer,
        max_tokens: options.max_tokens.min(classifier.config().max_position_embeddings),
    };
    let run = Run {
        options,
        labels: &labels,
        weights: class_weights(&rows, &labels),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        checkpoint: Checkpoint::new(job.out, fingerprint_of(&rows, &valid, options, classifier.config())),
    };
    let epochs = run.fit(&mut classifier, &encoder, &rows, &valid, job.resume, observer)?;

    let guard = GuardConfig {
        oos_label,
        max_tokens: encoder.max_tokens,
        languages: languages(&rows),
        dataset_hash: fingerprint(rows.iter().chain(&valid).copied()),
        seed: options.seed,
        ..calibrate::uncalibrated()
    };
    let mut bundle = Bundle {
        config: json(classifier.config()).into(),
        weights: encode_weights(&classifier, options.dtype)?.into(),
        tokenizer: tokenizer_json.into(),
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
    run.checkpoint.remove();
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

/// Training and validation rows; validation rows are whole groups taken from the training rows if none are given.
fn hold_out<'a>(job: &Job<'a>) -> (Vec<&'a Row>, Vec<&'a Row>) {
    if !job.valid.is_empty() {
        return (job.rows.iter().collect(), job.valid.iter().collect());
    }
    let mut chosen: BTreeMap<&str, bool> = BTreeMap::new();
    let mut rng = ChaCha8Rng::seed_from_u64(job.options.seed);
    job.rows.iter().partition(|row| {
        !*chosen.entry(row.group.as_deref().unwrap_or(&row.text)).or_insert_with(|| rng.random_bool(VALID_SHARE))
    })
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
    let mut config = match job.base {
        Some(base) => EncoderConfig::from_json(&base.config).map_err(LoadError::from)?.with_labels(labels),
        None => {
            let mut config = EncoderConfig::new(tokenizer.vocabulary_size(), layers, hidden_size, labels);
            config.max_position_embeddings = config.max_position_embeddings.max(max_tokens);
            config.pad_token_id = tokenizer.padding();
            config
        }
    };
    if tokenizer.vocabulary_size() > config.vocab_size {
        let (ids, rows) = (tokenizer.vocabulary_size(), config.vocab_size);
        return Err(LoadError::Mismatch(format!("the tokenizer has {ids} ids, the base {rows} embeddings")).into());
    }
    config.hidden_dropout_prob = dropout;
    Ok(match job.base {
        Some(base) => {
            let file = TensorFile::parse(&base.weights).map_err(LoadError::from)?;
            Classifier::load(&config, &file, seed, &job.device)?
        }
        None => Classifier::new(&config, seed, &job.device)?,
    })
}

/// Rare labels count more, by the square root of how rare they are.
fn class_weights(rows: &[&Row], labels: &[String]) -> Vec<f32> {
    let mean = rows.len() as f32 / labels.len() as f32;
    let count = |label: &String| rows.iter().filter(|row| row.label == *label).count();
    labels.iter().map(|label| (mean / count(label) as f32).sqrt().clamp(0.25, 4.0)).collect()
}

fn languages(rows: &[&Row]) -> Vec<String> {
    let mut languages: Vec<String> = rows.iter().filter_map(|row| row.lang.clone()).collect();
    languages.sort();
    languages.dedup();
    languages
}

/// What must be the same for a checkpoint to fit a run.
fn fingerprint_of(rows: &[&Row], valid: &[&Row], options: &Options, config: &EncoderConfig) -> String {
    let data = fingerprint(rows.iter().chain(valid).copied());
    format!("{data} {options:?} {config:?}")
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
    fn ids(&self, row: &Row, text: &str, scratch: &mut tokenizer::Scratch) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer.encode(row.context, &text::normalize(text), scratch, &mut ids);
        head_and_tail(&mut ids, self.max_tokens);
        ids
    }
}

/// One message ready for the encoder.
struct Example {
    ids: Vec<u32>,
    label: usize,
}

/// What stays the same over a run.
struct Run<'a> {
    options: &'a Options,
    labels: &'a [String],
    weights: Vec<f32>,
    threads: usize,
    checkpoint: Checkpoint,
}

impl Run<'_> {
    fn fit(
        &self,
        classifier: &mut Classifier,
        encoding: &Encoding<'_>,
        rows: &[&Row],
        valid: &[&Row],
        resume: bool,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Epoch>, TrainError> {
        let mut optimizer = AdamW::new(classifier);
        let mut state = State::default();
        if resume {
            state = self.checkpoint.load(classifier, &mut optimizer)?;
        }
        let scratch = &mut tokenizer::Scratch::default();
        let valid: Vec<Example> =
            valid.iter().map(|row| self.example(row, encoding.ids(row, &row.text, scratch))).collect();
        let augment = Augment::new(self.options.augment);
        let steps_per_epoch = rows.len().div_ceil(self.options.batch_size);
        let steps = steps_per_epoch * self.options.epochs;
        let mut saved = Instant::now();
        while state.epochs.len() < self.options.epochs && state.since_best() < self.options.patience {
            let epoch = state.epochs.len();
            let batches = self.batches(rows, encoding, &augment, epoch);
            while state.step_in_epoch < batches.len() {
                let step = epoch * steps_per_epoch + state.step_in_epoch;
                let rate = schedule(step, steps, self.options.warmup);
                let loss = self.step(classifier, &mut optimizer, &batches[state.step_in_epoch], step, rate)?;
                if !loss.is_finite() {
                    return Err(TrainError::Diverged(loss, step));
                }
                state.step_in_epoch += 1;
                state.loss_in_epoch += f64::from(loss);
                observer.step(step + 1, steps, loss, rate * self.options.learning_rate);
                if observer.should_stop() {
                    self.checkpoint.save(classifier, &optimizer, &state)?;
                    return Err(TrainError::Interrupted(self.checkpoint.path().into()));
                }
                if saved.elapsed() > CHECKPOINT_EVERY {
                    self.checkpoint.save(classifier, &optimizer, &state)?;
                    saved = Instant::now();
                }
            }
            let valid_accuracy = accuracy(classifier, &valid)?;
            let best = state.epochs.iter().all(|before| valid_accuracy > before.valid_accuracy);
            let loss = state.loss_in_epoch / batches.len().max(1) as f64;
            state.epochs.push(Epoch { epoch: epoch + 1, loss, valid_accuracy, best });
            (state.step_in_epoch, state.loss_in_epoch) = (0, 0.0);
            if best {
                self.checkpoint.save_best(classifier)?;
            }
            self.checkpoint.save(classifier, &optimizer, &state)?;
            saved = Instant::now();
            observer.epoch(&state.epochs[epoch]);
        }
        self.checkpoint.load_best(classifier)?;
        Ok(state.epochs)
    }

    fn example(&self, row: &Row, ids: Vec<u32>) -> Example {
        Example { ids, label: self.labels.iter().position(|label| *label == row.label).unwrap_or(0) }
    }

    /// The batches of an epoch: rows augmented and shuffled anew, and messages of similar length together.
    fn batches(&self, rows: &[&Row], encoding: &Encoding<'_>, augment: &Augment, epoch: usize) -> Vec<Vec<Example>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(1 + epoch as u64);
        let scratch = &mut tokenizer::Scratch::default();
        let mut examples: Vec<Example> = rows
            .iter()
            .map(|row| {
                let changed = augment.apply(row, &mut rng);
                let row = changed.as_ref().unwrap_or(row);
                self.example(row, encoding.ids(row, &row.text, scratch))
            })
            .collect();
        examples.shuffle(&mut rng);
        let size = self.options.batch_size;
        for pool in examples.chunks_mut(32 * size) {
            pool.sort_by_key(|example| example.ids.len());
        }
        let mut batches: Vec<Vec<Example>> = Vec::new();
        let mut examples = examples.into_iter().peekable();
        while examples.peek().is_some() {
            batches.push(examples.by_ref().take(size).collect());
        }
        batches.shuffle(&mut rng);
        batches
    }

    /// One step; returns the loss.
    ///
    /// The batch is cut into shards of a fixed size, which as many threads as there are share, and their gradients are
    /// added up in order: the result does not depend on the number of threads.
    fn step(
        &self,
        classifier: &mut Classifier,
        optimizer: &mut AdamW,
        examples: &[Example],
        step: usize,
        rate: f64,
    ) -> Result<f32, TrainError> {
        let options = self.options;
        let total: f32 = examples.iter().map(|example| self.weights[example.label]).sum();
        let size = if classifier.device().is_cpu() { SHARD } else { examples.len() };
        let shards: Vec<&[Example]> = examples.chunks(size).collect();
        let model = &*classifier;
        let mut results: Vec<candle_core::Result<(f32, Gradient)>> = Vec::new();
        for (round, shards) in shards.chunks(self.threads).enumerate() {
            let work = |(n, shard): (usize, &&[Example])| {
                let mut rng = ChaCha8Rng::seed_from_u64(options.seed ^ 0x9e37_79b9_7f4a_7c15);
                rng.set_stream(((step as u64) << 16) + (round * self.threads + n) as u64);
                self.gradient(model, shard, total, &mut rng)
            };
            results.extend(std::thread::scope(|scope| {
                let threads: Vec<_> =
                    shards.iter().enumerate().skip(1).map(|shard| scope.spawn(move || work(shard))).collect();
                let first = shards.iter().enumerate().next().map(work);
                let rest = threads.into_iter().map(|thread| {
                    thread.join().unwrap_or_else(|_| Err(candle_core::Error::Msg("a training thread panicked".into())))
                });
                first.into_iter().chain(rest).collect::<Vec<_>>()
            }));
        }
        let (mut loss, mut gradient) = (0.0, Gradient::default());
        for result in results {
            let (shard_loss, shard_gradient) = result?;
            loss += shard_loss;
            gradient.add(shard_gradient);
        }
        let rates = Rates {
            encoder: rate * options.learning_rate,
            words: rate * options.word_learning_rate,
            weight_decay: options.weight_decay,
            clip: options.clip,
        };
        optimizer.step(classifier, &gradient, rates)?;
        Ok(loss)
    }

    /// Loss and gradient of a part of a batch, whose class weights add up to `total`.
    fn gradient(
        &self,
        classifier: &Classifier,
        examples: &[Example],
        total: f32,
        rng: &mut ChaCha8Rng,
    ) -> candle_core::Result<(f32, Gradient)> {
        let device = classifier.device();
        let batch = Batch::new(examples.iter().map(|example| example.ids.as_slice()), device)?;
        let words = classifier.words.gather(&batch.rows, device)?;
        let logits = classifier.forward(&batch, &words, Some(rng))?;
        let loss = self.loss(&logits, examples, total, device)?;
        let store = loss.backward()?;
        let mut gradient = Gradient::default();
        for (name, variable) in classifier.variables() {
            if let Some(values) = store.get(variable) {
                gradient.variables.insert(name.clone(), values.flatten_all()?.to_vec1()?);
            }
        }
        if let Some(values) = store.get(&words) {
            gradient.words.extend(batch.rows.iter().copied().zip(values.to_vec2::<f32>()?));
        }
        Ok((loss.to_scalar()?, gradient))
    }

    /// Cross entropy with smoothed labels, weighted by class.
    fn loss(&self, logits: &Tensor, examples: &[Example], total: f32, device: &Device) -> candle_core::Result<Tensor> {
        let classes = self.labels.len();
        let smooth = self.options.label_smoothing as f32;
        let mut targets = Vec::with_capacity(examples.len() * classes);
        for example in examples {
            let weight = self.weights[example.label] / total;
            targets.extend((0..classes).map(|class| {
                let hit = if class == example.label { 1.0 - smooth } else { 0.0 };
                weight * (hit + smooth / classes as f32)
            }));
        }
        let targets = Tensor::from_vec(targets, (examples.len(), classes), device)?;
        (candle_nn::ops::log_softmax(logits, D::Minus1)? * targets)?.sum_all()?.neg()
    }
}

/// The factor on the learning rate: up in a line over the warm-up, then down along a cosine to 0.
fn schedule(step: usize, steps: usize, warmup: f64) -> f64 {
    let warm = (warmup * steps as f64).max(1.0);
    let at = (step + 1) as f64;
    if at <= warm {
        return at / warm;
    }
    let progress = (at - warm) / (steps as f64 - warm).max(1.0);
    0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}

fn accuracy(classifier: &Classifier, examples: &[Example]) -> Result<f64, TrainError> {
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|example| example.ids.len());
    let mut hits = 0;
    for chunk in order.chunks(EVALUATION_BATCH) {
        let batch = Batch::new(chunk.iter().map(|example| example.ids.as_slice()), classifier.device())?;
        let logits = classifier.logits(&batch)?;
        let said: Vec<u32> = logits.argmax(D::Minus1)?.to_vec1()?;
        hits += chunk.iter().zip(said).filter(|(example, said)| example.label == *said as usize).count();
    }
    Ok(hits as f64 / examples.len() as f64)
}
