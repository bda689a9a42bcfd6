//! What `train` learns: the label of each message.

use super::{
    Augment, Encoding, Options, TrainError,
    fit::{self, Objective},
    joined::Joiner,
    soft_labels,
};
use crate::{
    data::Row,
    label::Flow,
    model::{Batch, Classifier},
    tokenizer,
};
use candle_core::{D, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::iter;

/// Messages in one batch outside training.
const EVALUATION_BATCH: usize = 128;

/// One message ready for the encoder.
pub(super) struct Example {
    ids: Vec<u32>,
    label: usize,
    /// An index into the languages of the rows.
    language: Option<usize>,
    /// The row it was made of, if it was made of one.
    row: Option<usize>,
}

/// How much a teacher's labels count where there is a teacher; the rest is for those of the rows.
const TEACHER_WEIGHT: f32 = 0.5;

/// How much the language of a message counts in the loss beside its label.
const LANGUAGE_WEIGHT: f64 = 0.15;

/// Cross entropy with smoothed labels, weighted by class, over augmented rows; and that of their languages.
pub(super) struct Classification<'a> {
    options: &'a Options,
    labels: &'a [String],
    languages: &'a [String],
    /// Of each class in the loss.
    weights: Vec<f32>,
    encoding: &'a Encoding<'a>,
    rows: &'a [&'a Row],
    /// Makes stretches of long messages, where there is an out-of-scope label.
    joiner: Option<Joiner<'a>>,
    /// A teacher's logits for each row.
    teacher: Option<Vec<Vec<f32>>>,
    valid: Vec<Example>,
}

impl<'a> Classification<'a> {
    #[expect(clippy::too_many_arguments, reason = "what a run is made of")]
    pub(super) fn new(
        options: &'a Options,
        labels: &'a [String],
        oos_label: Option<&str>,
        languages: &'a [String],
        encoding: &'a Encoding<'a>,
        rows: &'a [&'a Row],
        valid: &[&Row],
        weights: Vec<f32>,
        teacher: Option<Vec<Vec<f32>>>,
    ) -> Self {
        let joiner = oos_label.and_then(|oos| Joiner::new(rows, oos));
        let mut objective =
            Classification { options, labels, languages, weights, encoding, rows, joiner, teacher, valid: Vec::new() };
        let scratch = &mut tokenizer::Scratch::default();
        objective.valid = valid.iter().map(|row| objective.example(row, scratch)).collect();
        objective.valid.sort_by_key(|example| example.ids.len());
        objective
    }

    /// How many stretches of long messages an epoch has beside the rows.
    fn joined(&self) -> usize {
        if self.joiner.is_some() { (self.rows.len() as f64 * self.options.joined) as usize } else { 0 }
    }

    fn example(&self, row: &Row, scratch: &mut tokenizer::Scratch) -> Example {
        let label = self.labels.iter().position(|label| *label == row.label).unwrap_or(0);
        let language = self.languages.iter().position(|code| Some(code) == row.lang.as_ref());
        Example { ids: self.encoding.ids(row.context, &row.text, scratch), label, language, row: None }
    }
}

impl Classification<'_> {
    /// Special tokens stay as they are: they begin and end a message, and flows have ids of their own.
    fn hide_words(&self, example: &mut Example, rng: &mut ChaCha8Rng) {
        let tokenizer = self.encoding.tokenizer;
        let flows = Flow::ALL.map(|flow| tokenizer.flow_token(flow));
        let last = example.ids.len().saturating_sub(1);
        for id in example.ids[..last].iter_mut().skip(1).filter(|id| !flows.contains(&Some(**id))) {
            if rng.random_bool(self.options.word_dropout) {
                *id = tokenizer.unknown();
            }
        }
    }
}

impl Objective for Classification<'_> {
    type Example = Example;

    fn batches_per_epoch(&self) -> usize {
        (self.rows.len() + self.joined()).div_ceil(self.options.batch_size)
    }

    fn batches(&self, epoch: usize) -> Result<Vec<Vec<Example>>, TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(1 + epoch as u64);
        let scratch = &mut tokenizer::Scratch::default();
        let augment = Augment::new(self.options.augment);
        let mut examples: Vec<Example> = self
            .rows
            .iter()
            .enumerate()
            .map(|(n, row)| {
                let changed = augment.apply(row, &mut rng);
                Example { row: Some(n), ..self.example(changed.as_ref().unwrap_or(row), scratch) }
            })
            .collect();
        let joined = iter::repeat_with(|| self.joiner.as_ref()?.join(&mut rng)).take(self.joined()).flatten();
        examples.extend(joined.collect::<Vec<_>>().iter().map(|row| self.example(row, scratch)));
        if self.options.word_dropout > 0.0 {
            examples.iter_mut().for_each(|example| self.hide_words(example, &mut rng));
        }
        Ok(fit::batches(examples, self.options.batch_size, |example| example.ids.len(), &mut rng))
    }

    fn ids<'e>(&self, example: &'e Example) -> &'e [u32] {
        &example.ids
    }

    fn weight(&self, example: &Example) -> f32 {
        self.weights[example.label]
    }

    fn loss(
        &self,
        classifier: &Classifier,
        pooled: &Tensor,
        examples: &[Example],
        total: f32,
        rng: &mut ChaCha8Rng,
    ) -> candle_core::Result<Tensor> {
        let logits = classifier.head(pooled, Some(rng))?;
        let classes = self.labels.len();
        let smooth = self.options.label_smoothing as f32;
        let taught = |example: &Example| self.teacher.is_some() && example.row.is_some();
        let mut targets = Vec::with_capacity(examples.len() * classes);
        for example in examples {
            let own = if taught(example) { 1.0 - TEACHER_WEIGHT } else { 1.0 };
            let weight = own * self.weights[example.label] / total;
            targets.extend((0..classes).map(|class| {
                let hit = if class == example.label { 1.0 - smooth } else { 0.0 };
                weight * (hit + smooth / classes as f32)
            }));
        }
        let targets = Tensor::from_vec(targets, (examples.len(), classes), logits.device())?;
        let mut loss = (candle_nn::ops::log_softmax(&logits, D::Minus1)? * targets)?.sum_all()?.neg()?;
        if let Some(teacher) = &self.teacher {
            let taught =
                (0u32..).zip(examples).filter_map(|(place, example)| Some((place, example.row?, example.label)));
            let (mut places, mut theirs, mut weights) = (Vec::new(), Vec::new(), Vec::new());
            for (place, row, label) in taught {
                places.push(place);
                theirs.extend_from_slice(&teacher[row]);
                weights.push(self.weights[label] / total * TEACHER_WEIGHT);
            }
            if !places.is_empty() {
                let theirs = Tensor::from_vec(theirs, (places.len(), classes), logits.device())?;
                let ours = logits.index_select(&Tensor::new(places, logits.device())?, 0)?;
                let divergence = soft_labels::divergence(&theirs, &ours)?;
                loss = (loss + (divergence * Tensor::new(weights, logits.device())?)?.sum_all()?)?;
            }
        }
        let Some(logits) = classifier.languages(pooled) else { return Ok(loss) };
        let mut targets = vec![0.0f32; examples.len() * self.languages.len()];
        for (row, example) in targets.chunks_exact_mut(self.languages.len()).zip(examples) {
            if let Some(language) = example.language {
                row[language] = self.weights[example.label] / total;
            }
        }
        let targets = Tensor::from_vec(targets, (examples.len(), self.languages.len()), pooled.device())?;
        let languages = (candle_nn::ops::log_softmax(&logits?, D::Minus1)? * targets)?.sum_all()?;
        loss - (languages * LANGUAGE_WEIGHT)?
    }

    fn score(&self, classifier: &Classifier) -> Result<f64, TrainError> {
        let mut hits = 0;
        for chunk in self.valid.chunks(EVALUATION_BATCH) {
            let batch = Batch::new(chunk.iter().map(|example| example.ids.as_slice()), classifier.device())?;
            let said: Vec<u32> = classifier.logits(&batch)?.argmax(D::Minus1)?.to_vec1()?;
            hits += chunk.iter().zip(said).filter(|(example, said)| example.label == *said as usize).count();
        }
        Ok(hits as f64 / self.valid.len().max(1) as f64)
    }
}
