//! The guard: one call from a message to a verdict.

mod bundle;
mod decision;
mod packed;
mod shared;
mod verdict;
mod windows;

pub use bundle::{Bundle, FILES, LoadError};
#[cfg(feature = "data")]
pub(crate) use decision::DEFAULT_THRESHOLD;
pub use decision::{EnergyGate, GuardConfig, GuardConfigError};
pub use packed::PackedError;
pub use shared::SharedGuard;
pub use verdict::{Reason, Verdict};

use crate::{
    engine::{self, Encoder, EncoderConfig, Isa, TensorFile},
    label::Flow,
    text,
    tokenizer::{self, Tokenizer},
};
use std::{cell::RefCell, fmt, path::Path, sync::Arc};
use verdict::Model;

/// Computes logits from token ids: the part of a [`Guard`] that can be exchanged.
///
/// The local [`Encoder`] is one; the candle model of the `train` feature is another, as the reference.
pub trait Backend: Send + Sync {
    /// Writes one logit per label and then one for each of [`Backend::languages`]. `ids` holds 1 to
    /// `max_position_embeddings` token ids.
    ///
    /// A backend that fails writes NaN: the guard then refuses, with [`Reason::FarFromKnown`].
    fn logits(&self, ids: &[u32], logits: &mut [f32]);

    /// The same for several messages at once: `ids` holds them one behind the other, `lengths` how many ids each has, and
    /// `logits` is cut into as many equal rows.
    fn logits_batch(&self, ids: &[u32], lengths: &[usize], logits: &mut [f32]) {
        let mut rest = ids;
        let wanted = logits.len() / lengths.len().max(1);
        for (&length, logits) in lengths.iter().zip(logits.chunks_exact_mut(wanted.max(1))) {
            let (message, others) = rest.split_at(length);
            self.logits(message, logits);
            rest = others;
        }
    }

    /// Writes the same more precisely than [`Backend::logits`] does; `false`, and nothing written, if it cannot.
    fn precise_logits(&self, _ids: &[u32], _logits: &mut [f32]) -> bool {
        false
    }

    /// How many languages it tells apart, 0 if it does not.
    fn languages(&self) -> usize {
        0
    }

    /// How many messages it wants at once: 1, unless only many keep it busy, as a GPU.
    fn batch(&self) -> usize {
        1
    }

    /// Its name in benchmark records, such as `native avx512`.
    fn name(&self) -> String;
}

/// Tokens from which on a pack of messages is run, for each message that the backend wants at once: more of them would not
/// be faster on a CPU, but push the weights out of the cache.
const PACK: usize = 64;
/// Log-odds from a border within which a verdict is computed again, precisely: about twice what 8 bits change in 99 of 100
/// messages. On real messages every fiftieth is that close.
const CLOSE: f32 = 0.15;

thread_local! {
    /// One per thread, so that `check` needs neither a lock nor an allocation once it is warm.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    static ENGINE_SCRATCH: RefCell<engine::Scratch> = RefCell::default();
}

#[derive(Default)]
struct Scratch {
    text: text::Scratch,
    normal: String,
    tokenizer: tokenizer::Scratch,
    ids: Vec<u32>,
    logits: Vec<f32>,
    windows: windows::Scratch,
}

/// Messages that wait for a pass together.
#[derive(Default)]
struct Pack {
    ids: Vec<u32>,
    /// Tokens of each message.
    lengths: Vec<usize>,
    logits: Vec<f32>,
}

impl Backend for Encoder {
    fn logits(&self, ids: &[u32], logits: &mut [f32]) {
        ENGINE_SCRATCH.with_borrow_mut(|scratch| self.logits(ids, scratch, logits));
    }

    fn logits_batch(&self, ids: &[u32], lengths: &[usize], logits: &mut [f32]) {
        ENGINE_SCRATCH.with_borrow_mut(|scratch| self.logits_batch(ids, lengths, scratch, logits));
    }

    fn precise_logits(&self, ids: &[u32], logits: &mut [f32]) -> bool {
        ENGINE_SCRATCH.with_borrow_mut(|scratch| self.precise_logits(ids, scratch, logits))
    }

    fn languages(&self) -> usize {
        self.languages()
    }

    fn name(&self) -> String {
        format!("native {}", self.isa())
    }
}

/// Labels messages. Cheap to share: every method takes `&self`, from as many threads as there are.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use intentgate::{Flow, Guard};
///
/// let guard = Guard::embedded()?;
/// let verdict = guard.check("where is my parcel? it was due on monday");
/// assert_eq!(verdict.label(), Some("order"));
/// let verdict = guard.check_in(Flow::Appointment, "tomorrow at 3");
/// assert!(verdict.in_scope());
/// # }
/// # Ok::<(), intentgate::LoadError>(())
/// ```
pub struct Guard {
    tokenizer: Tokenizer,
    backend: Box<dyn Backend>,
    model: Arc<Model>,
    max_tokens: usize,
}

impl Guard {
    /// The guard shipped with this crate, trained from the project's own datasets.
    ///
    /// # Errors
    /// None in a released crate; the signature is that of the other constructors.
    #[cfg(feature = "embedded")]
    pub fn embedded() -> Result<Self, LoadError> {
        Self::from_bundle(&Bundle::embedded())
    }

    /// Loads a model directory: `config.json`, `model.safetensors`, `tokenizer.json` and `guard.json`.
    ///
    /// # Errors
    /// [`LoadError`] names the file that cannot be read or does not fit the others.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Self, LoadError> {
        Self::from_bundle(&Bundle::from_dir(dir)?)
    }

    /// Loads a model packed into one file by `intentgate pack` or [`Bundle::pack`]: in a few milliseconds, since nothing
    /// has to be parsed or built.
    ///
    /// The word embeddings, most of the file, stay where they are: in a `Vec<u8>`, in `include_bytes!`, or in a mapped file
    /// (`memmap2::Mmap`, say), which must not change while the guard is in use.
    ///
    /// # Errors
    /// [`LoadError::Packed`] when the bytes are cut short, were changed, or are of another layout.
    pub fn from_bytes(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Result<Self, LoadError> {
        packed::load(packed::owner(bytes), Isa::detect())
    }

    /// Loads a model from its four files in memory.
    ///
    /// # Errors
    /// [`LoadError`] names the file that is broken or does not fit the others.
    pub fn from_bundle(bundle: &Bundle<'_>) -> Result<Self, LoadError> {
        Self::from_bundle_for(bundle, Isa::detect())
    }

    /// Like [`Guard::from_bundle`], with the kernels of the given instruction set: for tests and benchmarks.
    ///
    /// # Errors
    /// As [`Guard::from_bundle`].
    pub fn from_bundle_for(bundle: &Bundle<'_>, isa: Isa) -> Result<Self, LoadError> {
        Self::with_backend(bundle, |config, weights| Ok(Box::new(Encoder::load_for(config, weights, isa)?)))
    }

    /// Loads a model whose logits come from a backend of the caller's.
    ///
    /// # Errors
    /// As [`Guard::from_bundle`], and whatever `build` returns.
    pub fn with_backend(
        bundle: &Bundle<'_>,
        build: impl FnOnce(&EncoderConfig, &TensorFile<'_>) -> Result<Box<dyn Backend>, LoadError>,
    ) -> Result<Self, LoadError> {
        let config = EncoderConfig::from_json(&bundle.config)?;
        let tokenizer = Tokenizer::from_json(&bundle.tokenizer)?;
        let guard = GuardConfig::from_json(&bundle.guard)?;
        Self::assemble(&config, tokenizer, guard, || build(&config, &TensorFile::parse(&bundle.weights)?))
    }

    /// Puts a guard together, if its parts fit each other.
    fn assemble(
        config: &EncoderConfig,
        tokenizer: Tokenizer,
        guard: GuardConfig,
        build: impl FnOnce() -> Result<Box<dyn Backend>, LoadError>,
    ) -> Result<Self, LoadError> {
        let labels = config.labels();
        guard.check(&labels)?;
        if tokenizer.vocabulary_size() > config.vocab_size {
            return Err(LoadError::Mismatch(format!(
                "the tokenizer has ids up to {}, config.json only {} embeddings",
                tokenizer.vocabulary_size() - 1,
                config.vocab_size
            )));
        }
        let max_tokens = guard.max_tokens;
        if max_tokens > config.max_position_embeddings {
            return Err(LoadError::Mismatch(format!(
                "guard.json has max_tokens {max_tokens}, config.json only {} positions",
                config.max_position_embeddings
            )));
        }
        let backend = build()?;
        let languages = backend.languages();
        if languages > 0 && languages != guard.languages.len() {
            return Err(LoadError::Mismatch(format!(
                "guard.json names {} languages, the model tells {languages} apart",
                guard.languages.len()
            )));
        }
        let guard = Guard { tokenizer, backend, model: Arc::new(Model::new(guard, labels)), max_tokens };
        guard.probe()?;
        Ok(guard)
    }

    /// Runs one message, so that weights which overflow are found before the guard is put to work.
    fn probe(&self) -> Result<(), LoadError> {
        let logits = self.logits(None, "hello, where is my order?");
        if logits.iter().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(LoadError::Backend(format!("a probe message gets the logits {logits:?}")))
        }
    }

    /// Labels a message that arrives outside any flow.
    ///
    /// Any text is fine. A message with more than `max_tokens` tokens (see `guard.json`) is read in overlapping windows,
    /// so that a general request is found in the middle of business text, and business at the end of a story. All of it
    /// is read up to 4,096 tokens, beyond that the first and the last half of so many. Text without any visible character
    /// has no label and [`Reason::Empty`].
    pub fn check(&self, text: &str) -> Verdict {
        self.check_message(None, text)
    }

    /// Labels a message that arrives while the bot is in a flow.
    pub fn check_in(&self, flow: Flow, text: &str) -> Verdict {
        self.check_message(Some(flow), text)
    }

    /// Labels many messages, each with the flow the bot is in, if any. Verdicts come in the order of the messages, and are
    /// those of [`Guard::check_message`] but for rounding in the last digits.
    ///
    /// Short messages are packed into one pass, in which a weight that is read serves all of them.
    pub fn check_batch<'a>(&self, messages: impl IntoIterator<Item = (Option<Flow>, &'a str)>) -> Vec<Verdict> {
        let (mut pack, mut verdicts) = (Pack::default(), Vec::new());
        let full = PACK.saturating_mul(self.batch());
        for (flow, text) in messages {
            // Borrowed anew for each message: the iterator may use a guard itself.
            SCRATCH.with_borrow_mut(|scratch| {
                self.encode(flow, text, scratch);
                let length = scratch.ids.len();
                if (1..=self.max_tokens.min(full)).contains(&length) {
                    pack.ids.extend_from_slice(&scratch.ids);
                    pack.lengths.push(length);
                    if pack.ids.len() >= full {
                        self.check_pack(&mut pack, &mut verdicts);
                    }
                } else {
                    // In its place: after those that are waiting.
                    self.check_pack(&mut pack, &mut verdicts);
                    verdicts.push(self.check_encoded(flow, scratch));
                }
            });
        }
        self.check_pack(&mut pack, &mut verdicts);
        verdicts
    }

    /// How many messages [`Guard::check_batch`] should get at least: 1, unless the backend is one that computes many at
    /// once.
    pub fn batch(&self) -> usize {
        self.backend.batch().max(1)
    }

    /// Labels the messages that are waiting.
    fn check_pack(&self, Pack { ids, lengths, logits }: &mut Pack, verdicts: &mut Vec<Verdict>) {
        let outputs = self.outputs();
        logits.clear();
        logits.resize(lengths.len() * outputs, 0.0);
        self.backend.logits_batch(ids, lengths, logits);
        let mut rest = &ids[..];
        for (logits, &length) in logits.chunks_exact_mut(outputs).zip(&*lengths) {
            let (message, others) = rest.split_at(length);
            verdicts.push(self.decide(message, logits));
            rest = others;
        }
        ids.clear();
        lengths.clear();
    }

    /// Labels a message; `flow` is `None` outside any flow.
    pub fn check_message(&self, flow: Option<Flow>, text: &str) -> Verdict {
        SCRATCH.with_borrow_mut(|scratch| {
            self.encode(flow, text, scratch);
            self.check_encoded(flow, scratch)
        })
    }

    /// Leaves the message's token ids in `scratch`; none, where it has no visible character.
    fn encode(&self, flow: Option<Flow>, text: &str, scratch: &mut Scratch) {
        let Scratch { text: scratch, normal, tokenizer, ids, .. } = scratch;
        text::normalize_into(text, scratch, normal);
        ids.clear();
        if !normal.is_empty() {
            self.tokenizer.encode(flow, normal, tokenizer, ids);
        }
    }

    /// Labels the message whose token ids are in `scratch`.
    fn check_encoded(&self, flow: Option<Flow>, Scratch { ids, logits, windows, .. }: &mut Scratch) -> Verdict {
        if ids.is_empty() {
            return Verdict::empty(Arc::clone(&self.model));
        }
        logits.clear();
        logits.resize(self.outputs(), 0.0);
        self.run(flow, ids, windows, logits);
        self.decide(ids, logits)
    }

    /// The verdict on a message with these logits, which are computed again if that could change it. Those of a long
    /// message are not: they are of many windows.
    fn decide(&self, ids: &[u32], logits: &mut [f32]) -> Verdict {
        let verdict = Verdict::decide(Arc::clone(&self.model), logits);
        let doubtful = verdict.distance() < CLOSE && ids.len() <= self.max_tokens;
        if doubtful && self.backend.precise_logits(ids, logits) {
            Verdict::decide(Arc::clone(&self.model), logits)
        } else {
            verdict
        }
    }

    fn run(&self, flow: Option<Flow>, ids: &[u32], scratch: &mut windows::Scratch, logits: &mut [f32]) {
        let head = 1 + usize::from(flow.and_then(|flow| self.tokenizer.flow_token(flow)).is_some());
        let limits = windows::Limits {
            labels: self.model.labels().len(),
            max_tokens: self.max_tokens,
            oos: self.model.oos(),
            temperature: self.config().temperature,
        };
        windows::logits(&*self.backend, limits, ids, head, scratch, logits);
    }

    /// Raw logits of a message, in the order of [`Guard::labels`]: for evaluation and export checks. Those of a long
    /// message are put together from its windows.
    pub fn logits(&self, flow: Option<Flow>, text: &str) -> Vec<f32> {
        let ids = self.token_ids(flow, text);
        let mut logits = vec![0.0; self.outputs()];
        self.run(flow, &ids, &mut windows::Scratch::default(), &mut logits);
        logits.truncate(self.model.labels().len());
        logits
    }

    /// Logits that the backend writes: labels, then languages.
    fn outputs(&self) -> usize {
        self.model.labels().len() + self.backend.languages()
    }

    /// The token ids of a message. The encoder gets them as they are, or in windows where they are more than `max_tokens`.
    pub fn token_ids(&self, flow: Option<Flow>, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        self.tokenizer.encode(flow, &text::normalize(text), &mut tokenizer::Scratch::default(), &mut ids);
        ids
    }

    /// The label names, in the order of the model's classes.
    pub fn labels(&self) -> &[String] {
        self.model.labels()
    }

    /// Calibration, thresholds and provenance, as in `guard.json`.
    pub fn config(&self) -> &GuardConfig {
        self.model.config()
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What computes the logits, such as `native avx512`.
    pub fn backend(&self) -> String {
        self.backend.name()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("model_version", &self.config().model_version)
            .field("labels", &self.labels())
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

/// Cuts `ids` to `most` by taking out its middle: a request stands at the start or the end of a message far more often.
#[cfg(feature = "train")]
pub(crate) fn head_and_tail(ids: &mut Vec<u32>, most: usize) {
    if ids.len() > most {
        let head = most.div_ceil(2);
        ids.drain(head..ids.len() - (most - head));
    }
}
