//! Distillation: a small encoder that puts texts where large ones put them.
//!
//! The student learns, through a linear projection for each teacher, to point where the teacher's embedding points once
//! the mean of all embeddings is taken away (they sit in a narrow cone), by the cosine, and to keep the similarities of the
//! texts of a batch (Reimers and Gurevych, 2020, <https://arxiv.org/abs/2004.09813>; Tung and Mori, 2019,
//! <https://arxiv.org/abs/1907.09682>). Of a teacher that is a classifier it learns the labels as well, with a head of its
//! own. Texts are roughened now and then, the target stays that of the clean text. Word embeddings begin as what the first
//! teacher makes of each vocabulary piece, cut to the principal components.

use super::{
    Augment, Epoch, Observer, TrainError,
    checkpoint::{self, Checkpoint},
    corpus::Text,
    embedding_cache::EmbeddingCache,
    fit::{self, Objective, Schedule},
    soft_labels::{self, SoftLabels},
    vocabulary,
};
use crate::{
    engine::{EncoderConfig, TensorFile},
    guard::{Bundle, FILES, LoadError, head_and_tail},
    label::Flow,
    model::{Batch, Classifier, Dtype, Teacher, encode_weights},
    text,
    tokenizer::{self, Tokenizer},
};
use candle_core::{D, Device, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What was measured on the texts held out, beside the model.
const MEASURES: &str = "distillation.json";
/// Most texts that are held out to measure on.
const HELD_OUT: usize = 2000;
/// Held out of every so many texts, where there are few.
const HELD_OUT_SHARE: usize = 50;
/// How much the similarities within a batch count beside the cosines.
const SIMILARITY_WEIGHT: f64 = 1.0;
/// How much the labels of a classifier count beside the cosines.
const LABELS_WEIGHT: f64 = 1.0;
/// Standard deviation of the first word embeddings.
const WORD_DEVIATION: f64 = 0.05;

/// Settings of a distillation. The defaults are those of the shipped base encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DistillOptions {
    /// Transformer layers.
    pub layers: usize,
    /// Hidden size.
    pub hidden_size: usize,
    /// Passes over the texts.
    pub epochs: usize,
    /// Texts in a step.
    pub batch_size: usize,
    /// Highest learning rate of the encoder and the projections.
    pub learning_rate: f64,
    /// Highest learning rate of the word embeddings; 0 freezes them.
    pub word_learning_rate: f64,
    /// Share of all steps over which the rate rises.
    pub warmup: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient.
    pub clip: f64,
    /// Share of texts that are roughened anew in every epoch: typos, lost accents and punctuation, emoji, Hindi in Latin
    /// letters.
    pub augment: f64,
    /// Most tokens of a text.
    pub max_tokens: usize,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for DistillOptions {
    fn default() -> Self {
        DistillOptions {
            layers: 2,
            hidden_size: 256,
            epochs: 4,
            batch_size: 128,
            learning_rate: 1e-3,
            word_learning_rate: 1e-3,
            warmup: 0.05,
            weight_decay: 0.01,
            clip: 1.0,
            augment: 0.3,
            max_tokens: 64,
            seed: 1,
        }
    }
}

/// What to distil, from which texts, to where.
pub struct DistillJob<'a> {
    /// The encoders to learn from; the first gives the word embeddings.
    pub teachers: &'a [Teacher],
    /// The texts.
    pub texts: &'a [Text],
    /// The student's `tokenizer.json`; not used with a base, which has its own.
    pub tokenizer: &'a [u8],
    /// An encoder to go on from, instead of one with the first teacher's words: its shape goes before that of the options.
    pub base: Option<&'a Bundle<'a>>,
    /// Directory for the teachers' embeddings, kept for the next run.
    pub cache: &'a Path,
    /// The model directory to write, without a `guard.json`.
    pub out: &'a Path,
    /// Settings.
    pub options: DistillOptions,
    /// Where to compute.
    pub device: Device,
    /// Whether to go on from the checkpoint of an interrupted run.
    pub resume: bool,
}

/// How near the student comes to one teacher, on texts that it did not learn from.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HeldOut {
    /// Texts held out.
    pub texts: usize,
    /// Mean cosine to the teacher's centred embeddings, -1 to 1.
    pub cosine: f64,
    /// Share of texts whose embedding is nearest to the teacher's of the same text, among all held out.
    pub retrieval: f64,
}

/// What a distillation came to.
#[derive(Debug)]
pub struct Distilled {
    /// Every epoch.
    pub epochs: Vec<Epoch>,
    /// By teacher.
    pub held_out: Vec<HeldOut>,
}

/// Distils a base encoder and writes its directory.
///
/// # Errors
/// [`TrainError`]. Options and files are checked before the first step.
pub fn distill(job: &DistillJob<'_>, observer: &mut dyn Observer) -> Result<Distilled, TrainError> {
    let options = &job.options;
    check(job)?;
    let json = job.base.map_or(job.tokenizer, |base| &base.tokenizer);
    let tokenizer = Tokenizer::from_json(json)?;
    for dir in [job.out, job.cache] {
        fs::create_dir_all(dir).map_err(|source| TrainError::Io { path: dir.into(), source })?;
    }
    let pieces: Vec<String> = vocabulary::pieces(json)?.into_iter().map(|(piece, _)| piece).collect();
    let mut targets = Vec::new();
    for teacher in job.teachers {
        let path = job.cache.join(format!("{:016x}.embeddings", teacher.fingerprint()));
        let mut cache = EmbeddingCache::open(&path, teacher.fingerprint(), teacher.width())?;
        let words = if targets.is_empty() && job.base.is_none() { &pieces[..] } else { &[] };
        let texts = job.texts.iter().map(|(flow, text)| (*flow, text.as_str()));
        cache.fill(teacher, texts.chain(words.iter().map(|piece| (None, bare(piece)))), observer)?;
        targets.push(Target::new(teacher, cache, job.texts)?);
    }

    let classifier = job.teachers.iter().position(|teacher| !teacher.labels().is_empty());
    let labels = classifier.map(|n| job.teachers[n].labels()).unwrap_or_default();
    let mut student = match job.base {
        Some(base) => {
            let config = EncoderConfig::from_json(&base.config).map_err(LoadError::from)?.with_labels(&labels);
            Classifier::load(
                &config,
                &TensorFile::parse(&base.weights).map_err(LoadError::from)?,
                options.seed,
                &job.device,
            )?
        }
        None => {
            let (vocabulary, layers, width) = (tokenizer.vocabulary_size(), options.layers, options.hidden_size);
            let mut config = EncoderConfig::new(vocabulary, layers, width, &labels);
            if labels.is_empty() {
                config.architectures = vec!["BertModel".into()];
            }
            config.max_position_embeddings = config.max_position_embeddings.max(options.max_tokens);
            config.pad_token_id = tokenizer.padding();
            config.hidden_dropout_prob = 0.0;
            let mut student = Classifier::new(&config, options.seed, &job.device)?;
            initialise_words(&mut student, &targets[0], &pieces)?;
            student
        }
    };
    for (n, target) in targets.iter().enumerate() {
        student.add_projection(n, target.mean.len(), options.seed)?;
    }

    let texts: Vec<(Option<Flow>, &str)> = job.texts.iter().map(|(flow, text)| (*flow, text.as_str())).collect();
    let labels =
        classifier.map(|n| Ok::<_, TrainError>((n, SoftLabels::new(&job.teachers[n], &texts)?))).transpose()?;
    let (held_out, fitted) = hold_out(job.texts.len(), options.seed);
    let objective =
        Distillation { options, texts: job.texts, tokenizer: &tokenizer, targets: &targets, labels, held_out, fitted };
    let schedule = Schedule {
        epochs: options.epochs,
        patience: options.epochs,
        learning_rate: options.learning_rate,
        word_learning_rate: options.word_learning_rate,
        warmup: options.warmup,
        weight_decay: options.weight_decay,
        clip: options.clip,
        seed: options.seed,
    };
    let run = format!("{options:?} {} texts {:?}", job.texts.len(), targets.iter().map(|t| t.id).collect::<Vec<_>>());
    let checkpoint = Checkpoint::new(job.out, run);
    let epochs = fit::fit(&objective, &schedule, &mut student, &checkpoint, job.resume, observer)?;
    let held_out = objective.measure(&student)?;

    let weights = encode_weights(&student, Dtype::F16)?;
    let files = [super::json(student.config()), weights, json.to_vec()];
    for (name, bytes) in FILES.iter().zip(files) {
        checkpoint::write(&job.out.join(name), &bytes)?;
    }
    checkpoint::write(&job.out.join(MEASURES), &super::json(&held_out))?;
    checkpoint.remove();
    Ok(Distilled { epochs, held_out })
}

fn check(job: &DistillJob<'_>) -> Result<(), TrainError> {
    let options = &job.options;
    let refuse = |why: String| Err(TrainError::Option(why));
    for (name, value) in [("layers", options.layers), ("epochs", options.epochs), ("batch size", options.batch_size)] {
        if value == 0 {
            return refuse(format!("{name} is 0"));
        }
    }
    if job.teachers.is_empty() {
        return refuse("there is no teacher".into());
    }
    if options.hidden_size == 0 || !options.hidden_size.is_multiple_of(32) {
        return refuse(format!("hidden size {} is not a multiple of 32", options.hidden_size));
    }
    if job.base.is_none() && options.hidden_size > job.teachers[0].width() {
        let (student, teacher) = (options.hidden_size, job.teachers[0].width());
        return refuse(format!("hidden size {student} is larger than that of the first teacher, {teacher}"));
    }
    if options.max_tokens < 8 {
        return refuse(format!("max tokens is {}, expected 8 or more", options.max_tokens));
    }
    if !(0.0..=1.0).contains(&options.augment) {
        return refuse(format!("augment is {}, expected 0 to 1", options.augment));
    }
    if job.texts.len() < 2 * HELD_OUT_SHARE {
        return Err(TrainError::NoRows("distil"));
    }
    Ok(())
}

/// A piece as a text of its own.
fn bare(piece: &str) -> &str {
    piece.trim_start_matches('▁')
}

/// The texts to measure on and those to learn from.
fn hold_out(count: usize, seed: u64) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let fitted = order.split_off((count / HELD_OUT_SHARE).min(HELD_OUT));
    (order, fitted)
}

/// The embeddings of one teacher.
struct Target<'a> {
    id: u64,
    teacher: &'a Teacher,
    cache: EmbeddingCache,
    /// Of the embeddings of all texts.
    mean: Vec<f32>,
    /// The place of each text in the cache.
    places: Vec<u32>,
}

impl<'a> Target<'a> {
    fn new(teacher: &'a Teacher, cache: EmbeddingCache, texts: &[Text]) -> Result<Self, TrainError> {
        let places: Vec<u32> = texts.iter().filter_map(|(flow, text)| cache.place(teacher, *flow, text)).collect();
        let mut sums = vec![0.0f64; teacher.width()];
        for &place in &places {
            sums.iter_mut().zip(cache.read(place)?).for_each(|(sum, x)| *sum += f64::from(x));
        }
        let mean = sums.into_iter().map(|sum| (sum / places.len() as f64) as f32).collect();
        Ok(Target { id: teacher.fingerprint(), teacher, cache, mean, places })
    }

    /// Where to point for a text: its embedding less the mean, of length 1.
    fn direction(&self, mut values: Vec<f32>) -> Vec<f32> {
        values.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x -= mean);
        let length = values.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
        values.iter_mut().for_each(|x| *x /= length);
        values
    }
}

/// Sets every word embedding to the principal components of what the teacher makes of the piece.
fn initialise_words(student: &mut Classifier, target: &Target<'_>, pieces: &[String]) -> Result<(), TrainError> {
    let (width, hidden) = (target.mean.len(), student.config().hidden_size);
    let mut vectors = DMatrix::<f64>::zeros(pieces.len(), width);
    for (n, piece) in pieces.iter().enumerate() {
        if let Some(place) = target.cache.place(target.teacher, None, bare(piece)) {
            for (i, x) in target.cache.read(place)?.into_iter().enumerate() {
                vectors[(n, i)] = f64::from(x);
            }
        }
    }
    let mean = vectors.row_mean();
    vectors.row_iter_mut().for_each(|mut row| row -= &mean);
    let covariance = vectors.transpose() * &vectors;
    let SymmetricEigen { eigenvalues, eigenvectors } = SymmetricEigen::new(covariance);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|&a, &b| eigenvalues[b].total_cmp(&eigenvalues[a]));
    let components = eigenvectors.select_columns(&order[..hidden]);
    let mut words = vectors * components;
    let deviation = (words.norm_squared() / words.len() as f64).sqrt().max(1e-12);
    words *= WORD_DEVIATION / deviation;
    // Column-major storage of the transpose is the rows one after the other.
    let mut values: Vec<f32> = words.transpose().iter().map(|&x| x as f32).collect();
    // The flow tokens are no words: they begin small, as what fine-tuning makes of them.
    let mut rng = ChaCha8Rng::seed_from_u64(student.config().vocab_size as u64);
    for (row, piece) in values.chunks_exact_mut(hidden).zip(pieces) {
        if Flow::ALL.iter().any(|flow| flow.token() == piece) {
            row.iter_mut().for_each(|x| *x = rng.random_range(-0.02..0.02));
        }
    }
    values.resize(student.config().vocab_size * hidden, 0.0);
    student.words.replace(values);
    Ok(())
}

struct Distillation<'a> {
    options: &'a DistillOptions,
    texts: &'a [Text],
    tokenizer: &'a Tokenizer,
    targets: &'a [Target<'a>],
    /// Those of the first teacher that is a classifier, and which it is.
    labels: Option<(usize, SoftLabels<'a>)>,
    held_out: Vec<usize>,
    fitted: Vec<usize>,
}

/// A text ready for the encoder.
struct Example {
    ids: Vec<u32>,
    text: usize,
}

impl Distillation<'_> {
    fn example(&self, text: usize, roughened: Option<&str>, scratch: &mut tokenizer::Scratch) -> Example {
        let (flow, clean) = &self.texts[text];
        let mut ids = Vec::new();
        self.tokenizer.encode(*flow, &text::normalize(roughened.unwrap_or(clean)), scratch, &mut ids);
        head_and_tail(&mut ids, self.options.max_tokens);
        Example { ids, text }
    }

    /// The teacher's embeddings of the examples.
    fn embeddings(&self, target: &Target<'_>, examples: &[Example]) -> candle_core::Result<Vec<Vec<f32>>> {
        let read = |example: &Example| target.cache.read(target.places[example.text]);
        examples.iter().map(|example| read(example).map_err(candle_core::Error::wrap)).collect()
    }

    /// Where the teacher points for each example, `examples x width`.
    fn directions(target: &Target<'_>, embeddings: Vec<Vec<f32>>, device: &Device) -> candle_core::Result<Tensor> {
        let shape = (embeddings.len(), target.mean.len());
        let values: Vec<f32> = embeddings.into_iter().flat_map(|values| target.direction(values)).collect();
        Tensor::from_vec(values, shape, device)
    }

    /// Nearness to each teacher on the texts held out.
    fn measure(&self, student: &Classifier) -> Result<Vec<HeldOut>, TrainError> {
        let scratch = &mut tokenizer::Scratch::default();
        let mut examples: Vec<Example> = self.held_out.iter().map(|&text| self.example(text, None, scratch)).collect();
        examples.sort_by_key(|example| example.ids.len());
        let (mut ours, mut theirs) = (vec![Vec::new(); self.targets.len()], vec![Vec::new(); self.targets.len()]);
        for chunk in examples.chunks(self.options.batch_size) {
            let batch = Batch::new(chunk.iter().map(|example| example.ids.as_slice()), student.device())?;
            let pooled = student.embed(&batch)?;
            for (n, target) in self.targets.iter().enumerate() {
                ours[n].push(unit(&student.project(n, &pooled)?)?);
                theirs[n].push(Self::directions(target, self.embeddings(target, chunk)?, student.device())?);
            }
        }
        let mut measured = Vec::new();
        for (ours, theirs) in ours.into_iter().zip(theirs) {
            let (ours, theirs) = (Tensor::cat(&ours, 0)?, Tensor::cat(&theirs, 0)?);
            let nearest: Vec<u32> = ours.matmul(&theirs.t()?)?.argmax(D::Minus1)?.to_vec1()?;
            let own = (0..).zip(&nearest).filter(|(text, nearest)| text == *nearest).count();
            measured.push(HeldOut {
                texts: nearest.len(),
                cosine: f64::from((ours * theirs)?.sum(1)?.mean_all()?.to_scalar::<f32>()?),
                retrieval: own as f64 / nearest.len().max(1) as f64,
            });
        }
        Ok(measured)
    }
}

/// Rows scaled to length 1.
fn unit(rows: &Tensor) -> candle_core::Result<Tensor> {
    rows.broadcast_div(&(rows.sqr()?.sum_keepdim(1)? + 1e-12)?.sqrt()?)
}

impl Objective for Distillation<'_> {
    type Example = Example;

    fn batches_per_epoch(&self) -> usize {
        self.fitted.len().div_ceil(self.options.batch_size)
    }

    fn batches(&self, epoch: usize) -> Result<Vec<Vec<Example>>, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(1 + epoch as u64);
        let scratch = &mut tokenizer::Scratch::default();
        let augment = Augment::spelling(self.options.augment);
        let examples = self
            .fitted
            .iter()
            .map(|&text| {
                let roughened = augment.apply_to_text(&self.texts[text].1, &mut rng);
                self.example(text, roughened.as_deref(), scratch)
            })
            .collect();
        Ok(fit::batches(examples, self.options.batch_size, |example: &Example| example.ids.len(), &mut rng))
    }

    fn ids<'e>(&self, example: &'e Example) -> &'e [u32] {
        &example.ids
    }

    fn weight(&self, _: &Example) -> f32 {
        1.0
    }

    fn loss(
        &self,
        student: &Classifier,
        pooled: &Tensor,
        examples: &[Example],
        total: f32,
        _: &mut ChaCha8Rng,
    ) -> candle_core::Result<Tensor> {
        let count = examples.len() as f64;
        let mut loss = Tensor::zeros((), candle_core::DType::F32, student.device())?;
        for (n, target) in self.targets.iter().enumerate() {
            let embeddings = self.embeddings(target, examples)?;
            if let Some((_, labels)) = self.labels.as_ref().filter(|(of, _)| *of == n) {
                let theirs = labels.logits(&embeddings, student.device())?;
                let divergence = soft_labels::divergence(&theirs, &student.head(pooled, None)?)?;
                loss = (loss + (divergence.sum_all()? * LABELS_WEIGHT)?)?;
            }
            let theirs = Self::directions(target, embeddings, student.device())?;
            let ours = unit(&student.project(n, pooled)?)?;
            let cosines = (&ours * &theirs)?.sum_all()?;
            let difference = (ours.matmul(&ours.t()?)? - theirs.matmul(&theirs.t()?)?)?;
            // The mean over all pairs, which counts as much as the texts that it is of.
            let similarity = (difference.sqr()?.sum_all()? * (SIMILARITY_WEIGHT / count))?;
            loss = (loss + ((count - cosines)? + similarity)?)?;
        }
        loss / (f64::from(total) * self.targets.len() as f64)
    }

    fn score(&self, student: &Classifier) -> Result<f64, TrainError> {
        let measured = self.measure(student)?;
        Ok(measured.iter().map(|held_out| held_out.cosine).sum::<f64>() / measured.len() as f64)
    }
}

/// Where `distill` keeps embeddings if it is told no other place.
pub fn default_cache(out: &Path) -> PathBuf {
    out.join(".embeddings")
}
