//! The loop that every kind of training shares: batches, shards, the schedule, early stopping and checkpoints.

use super::{
    Epoch, Observer, TrainError,
    checkpoint::{Checkpoint, State},
    optimizer::{AdamW, Gradient, Rates},
};
use crate::model::{Batch, Classifier};
use candle_core::Tensor;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// Messages that one thread takes of a batch.
const SHARD: usize = 32;
/// Time between checkpoints within an epoch.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(180);

/// What a run is to learn.
pub(super) trait Objective: Sync {
    /// A message ready for the encoder, with its target.
    type Example: Sync;

    /// The batches of an epoch, the same whenever asked for it.
    fn batches(&self, epoch: usize) -> Result<Vec<Vec<Self::Example>>, TrainError>;

    /// Batches in an epoch, before they are made.
    fn batches_per_epoch(&self) -> usize;

    /// The token ids of an example.
    fn ids<'e>(&self, example: &'e Self::Example) -> &'e [u32];

    /// How much an example counts in the loss of its batch.
    fn weight(&self, example: &Self::Example) -> f32;

    /// The loss of a part of a batch whose weights add up to `total`, from its pooled vectors.
    fn loss(
        &self,
        classifier: &Classifier,
        pooled: &Tensor,
        examples: &[Self::Example],
        total: f32,
        rng: &mut ChaCha8Rng,
    ) -> candle_core::Result<Tensor>;

    /// The score for early stopping, higher is better.
    fn score(&self, classifier: &Classifier) -> Result<f64, TrainError>;
}

/// How long and how fast to learn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Schedule {
    pub epochs: usize,
    pub patience: usize,
    pub learning_rate: f64,
    pub word_learning_rate: f64,
    pub warmup: f64,
    pub weight_decay: f64,
    pub clip: f64,
    pub seed: u64,
}

/// Fits `classifier` and leaves it as it was after its best epoch.
pub(super) fn fit<O: Objective>(
    objective: &O,
    schedule: &Schedule,
    classifier: &mut Classifier,
    checkpoint: &Checkpoint,
    resume: bool,
    observer: &mut dyn Observer,
) -> Result<Vec<Epoch>, TrainError> {
    let mut optimizer = AdamW::new(classifier);
    let mut state = State::default();
    if resume {
        state = checkpoint.load(classifier, &mut optimizer)?;
    }
    let steps_per_epoch = objective.batches_per_epoch();
    let steps = steps_per_epoch * schedule.epochs;
    let mut saved = Instant::now();
    while state.epochs.len() < schedule.epochs && state.since_best() < schedule.patience {
        let epoch = state.epochs.len();
        let batches = objective.batches(epoch)?;
        while state.step_in_epoch < batches.len() {
            let step = epoch * steps_per_epoch + state.step_in_epoch;
            let rate = rate(step, steps, schedule.warmup);
            let (loss, gradient) = gradient(objective, classifier, &batches[state.step_in_epoch], step, schedule.seed)?;
            if !loss.is_finite() {
                return Err(TrainError::Diverged(loss, step));
            }
            let rates = Rates {
                encoder: rate * schedule.learning_rate,
                words: rate * schedule.word_learning_rate,
                weight_decay: schedule.weight_decay,
                clip: schedule.clip,
            };
            optimizer.step(classifier, &gradient, rates)?;
            state.step_in_epoch += 1;
            state.loss_in_epoch += f64::from(loss);
            observer.step(step + 1, steps, loss, rate * schedule.learning_rate);
            if observer.should_stop() {
                checkpoint.save(classifier, &optimizer, &state)?;
                return Err(TrainError::Interrupted(checkpoint.path().into()));
            }
            if saved.elapsed() > CHECKPOINT_EVERY {
                checkpoint.save(classifier, &optimizer, &state)?;
                saved = Instant::now();
            }
        }
        let score = objective.score(classifier)?;
        let best = state.epochs.iter().all(|before| score > before.score);
        let loss = state.loss_in_epoch / batches.len().max(1) as f64;
        state.epochs.push(Epoch { epoch: epoch + 1, loss, score, best });
        (state.step_in_epoch, state.loss_in_epoch) = (0, 0.0);
        if best {
            checkpoint.save_best(classifier)?;
        }
        checkpoint.save(classifier, &optimizer, &state)?;
        saved = Instant::now();
        observer.epoch(&state.epochs[epoch]);
    }
    checkpoint.load_best(classifier)?;
    Ok(state.epochs)
}

/// Loss and gradient of a batch.
///
/// The batch is cut into shards of a fixed size, which as many threads as there are share, and their gradients are
/// added up in order: the result does not depend on the number of threads.
fn gradient<O: Objective>(
    objective: &O,
    classifier: &Classifier,
    examples: &[O::Example],
    step: usize,
    seed: u64,
) -> Result<(f32, Gradient), TrainError> {
    let total: f32 = examples.iter().map(|example| objective.weight(example)).sum();
    let on_cpu = classifier.device().is_cpu();
    let shards: Vec<&[O::Example]> = examples.chunks(if on_cpu { SHARD } else { examples.len() }).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut loss, mut gradient) = (0.0, Gradient::default());
    for (round, shards) in shards.chunks(threads).enumerate() {
        let work = |(n, shard): (usize, &&[O::Example])| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x9e37_79b9_7f4a_7c15);
            rng.set_stream(((step as u64) << 16) + (round * threads + n) as u64);
            shard_gradient(objective, classifier, shard, total, &mut rng)
        };
        let results: Vec<candle_core::Result<(f32, Gradient)>> = std::thread::scope(|scope| {
            let running: Vec<_> =
                shards.iter().enumerate().skip(1).map(|shard| scope.spawn(move || work(shard))).collect();
            let first = shards.iter().enumerate().next().map(work);
            let panicked = |_| Err(candle_core::Error::Msg("a training thread panicked".into()));
            first.into_iter().chain(running.into_iter().map(|thread| thread.join().unwrap_or_else(panicked))).collect()
        });
        for result in results {
            let (shard_loss, shard_gradient) = result?;
            loss += shard_loss;
            gradient.add(shard_gradient);
        }
    }
    Ok((loss, gradient))
}

fn shard_gradient<O: Objective>(
    objective: &O,
    classifier: &Classifier,
    examples: &[O::Example],
    total: f32,
    rng: &mut ChaCha8Rng,
) -> candle_core::Result<(f32, Gradient)> {
    let device = classifier.device();
    let batch = Batch::new(examples.iter().map(|example| objective.ids(example)), device)?;
    let words = classifier.words.gather(&batch.rows, device)?;
    let pooled = classifier.pooled(&batch, &words, Some(rng))?;
    let loss = objective.loss(classifier, &pooled, examples, total, rng)?;
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

/// Cuts the examples of an epoch into batches: shuffled, but messages of similar length together.
pub(super) fn batches<E>(
    mut examples: Vec<E>,
    size: usize,
    length: impl Fn(&E) -> usize,
    rng: &mut ChaCha8Rng,
) -> Vec<Vec<E>> {
    examples.shuffle(rng);
    for pool in examples.chunks_mut(32 * size) {
        pool.sort_by_key(&length);
    }
    let mut batches: Vec<Vec<E>> = Vec::new();
    let mut examples = examples.into_iter().peekable();
    while examples.peek().is_some() {
        batches.push(examples.by_ref().take(size).collect());
    }
    batches.shuffle(rng);
    batches
}

/// The factor on the learning rate: up in a line over the warm-up, then down along a cosine to 0.
fn rate(step: usize, steps: usize, warmup: f64) -> f64 {
    let warm = (warmup * steps as f64).max(1.0);
    let at = (step + 1) as f64;
    if at <= warm {
        return at / warm;
    }
    let progress = (at - warm) / (steps as f64 - warm).max(1.0);
    0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}
