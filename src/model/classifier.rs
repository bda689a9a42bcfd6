//! The trainable BERT classifier.

use super::{
    EmbeddingTable, WORD_EMBEDDINGS,
    ops::{self, Lengths},
};
use crate::engine::{EncoderConfig, TensorFile, WeightsError};
use candle_core::{Device, Result, Tensor, Var};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};

/// Messages of one training or evaluation step, one after the other without padding.
#[derive(Debug)]
pub struct Batch {
    /// The distinct token ids of the batch.
    pub(crate) rows: Vec<u32>,
    /// An index into `rows` for each token.
    ids: Tensor,
    /// The place of each token in its message.
    positions: Tensor,
    /// The first token of each message.
    firsts: Tensor,
    lengths: Lengths,
}

impl Batch {
    /// Gathers messages of token ids. None of them may be empty.
    ///
    /// # Errors
    /// Candle's, when the tensors cannot be made on the device.
    pub fn new<'a>(messages: impl Iterator<Item = &'a [u32]>, device: &Device) -> Result<Self> {
        let mut rows = Vec::new();
        let mut index: HashMap<u32, u32> = HashMap::new();
        let (mut ids, mut positions, mut firsts, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for message in messages {
            firsts.push(ids.len() as u32);
            lengths.push(message.len());
            for (position, &id) in (0u32..).zip(message) {
                positions.push(position);
                ids.push(*index.entry(id).or_insert_with(|| {
                    rows.push(id);
                    rows.len() as u32 - 1
                }));
            }
        }
        Ok(Batch {
            rows,
            ids: Tensor::new(ids, device)?,
            positions: Tensor::new(positions, device)?,
            firsts: Tensor::new(firsts, device)?,
            lengths: Lengths::new(lengths, device)?,
        })
    }

    /// The mean of the token vectors of each message, as a matrix to multiply them with, `messages x tokens`.
    fn means(&self) -> Result<Tensor> {
        let lengths = self.lengths.of();
        let tokens: usize = lengths.iter().sum();
        let mut values = vec![0.0f32; lengths.len() * tokens];
        let mut first = 0;
        for (row, &length) in values.chunks_exact_mut(tokens.max(1)).zip(lengths) {
            row[first..first + length].fill(1.0 / length as f32);
            first += length;
        }
        Tensor::from_vec(values, (lengths.len(), tokens), self.ids.device())
    }
}

/// What stands for a message after the last layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The vector of the first token, through the pooler: what the engine runs.
    #[default]
    First,
    /// The mean of all token vectors, as in the e5 family; the pooler is left out.
    Mean,
}

/// A BERT sequence classifier whose weights are candle variables, except the word embeddings.
#[derive(Debug)]
pub struct Classifier {
    config: EncoderConfig,
    device: Device,
    /// What the head sees.
    pub pooling: Pooling,
    /// By their standard names.
    variables: BTreeMap<String, Var>,
    /// The word embeddings.
    pub words: EmbeddingTable,
}

/// Begins the names of layers that serve training alone.
pub(super) const PROJECTION: &str = "projection.";
const LANGUAGE: &str = "language";

/// Seeded dropout; `None` where nothing is dropped.
type Dropout<'a> = Option<&'a mut ChaCha8Rng>;

impl Classifier {
    /// Fresh weights: normal with the configuration's standard deviation, biases 0, layer norms 1.
    ///
    /// # Errors
    /// Candle's, when the tensors cannot be made on the device.
    pub fn new(config: &EncoderConfig, seed: u64, device: &Device) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut classifier = Classifier::without_words(config, &mut rng, device)?;
        let count = config.vocab_size * config.hidden_size;
        classifier.words.replace(initial_values(WORD_EMBEDDINGS, count, config.initializer_range, &mut rng));
        Ok(classifier)
    }

    /// Fresh weights but for the word embeddings, of which a large encoder has too many to draw them for nothing.
    fn without_words(config: &EncoderConfig, rng: &mut ChaCha8Rng, device: &Device) -> Result<Self> {
        let mut variables = BTreeMap::new();
        for (name, shape) in shapes(config) {
            let count = shape.iter().product();
            let values = initial_values(&name, count, config.initializer_range, rng);
            variables.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, device)?)?);
        }
        let words = EmbeddingTable::new(Vec::new(), config.hidden_size);
        Ok(Classifier { config: config.clone(), device: device.clone(), pooling: Pooling::First, variables, words })
    }

    /// Weights from a safetensors file; the pooler and the head are fresh where the file has none, or the head has
    /// another number of labels. Names may lack the leading `bert.`, as in files of a bare `BertModel`.
    ///
    /// # Errors
    /// [`WeightsError`] as the engine's loader, or candle's, as a message, when the device fails.
    pub fn load(
        config: &EncoderConfig,
        file: &TensorFile<'_>,
        seed: u64,
        device: &Device,
    ) -> std::result::Result<Self, LoadClassifierError> {
        let mut classifier = Classifier::without_words(config, &mut ChaCha8Rng::seed_from_u64(seed), device)?;
        let labels = config.id2label.len();
        let stored = |name: &str| match name.strip_prefix("bert.") {
            Some(bare) if !file.contains(name) && file.contains(bare) => bare.to_owned(),
            _ => name.to_owned(),
        };
        for (name, variable) in &classifier.variables {
            let stored = stored(name);
            let head = name.starts_with("classifier.") && file.shape(&stored).is_none_or(|shape| shape[0] != labels);
            if head || (name.starts_with("bert.pooler.") && !file.contains(&stored)) {
                continue;
            }
            let shape = variable.dims();
            variable.set(&Tensor::from_vec(file.read(&stored, shape)?, shape, device)?)?;
        }
        let shape = [config.vocab_size, config.hidden_size];
        classifier.words.replace(file.read(&stored(WORD_EMBEDDINGS), &shape)?);
        Ok(classifier)
    }

    /// Forgets the head, for other labels that happen to be as many.
    pub(crate) fn forget_head(&mut self, seed: u64) -> Result<()> {
        self.add_linear("classifier", self.config.id2label.len(), self.config.initializer_range, seed)
    }

    /// Adds a linear layer from the pooled vector to the embeddings of teacher `n`, `width` long. It is not stored.
    pub(crate) fn add_projection(&mut self, n: usize, width: usize, seed: u64) -> Result<()> {
        let deviation = 1.0 / (self.config.hidden_size as f64).sqrt();
        self.add_linear(&format!("{PROJECTION}{n}"), width, deviation, seed ^ (n as u64 + 1))
    }

    /// Adds a head over the pooled vector that tells `languages` apart.
    pub(crate) fn add_language_head(&mut self, languages: usize, seed: u64) -> Result<()> {
        self.add_linear(LANGUAGE, languages, self.config.initializer_range, seed ^ 0x1a46)
    }

    fn add_linear(&mut self, name: &str, outputs: usize, deviation: f64, seed: u64) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for (part, shape) in [("weight", vec![outputs, self.config.hidden_size]), ("bias", vec![outputs])] {
            let name = format!("{name}.{part}");
            let values = initial_values(&name, shape.iter().product(), deviation, &mut rng);
            self.variables.insert(name, Var::from_tensor(&Tensor::from_vec(values, shape, &self.device)?)?);
        }
        Ok(())
    }

    /// Logits of the languages, `messages x languages`, from pooled vectors; `None` without a language head.
    pub(crate) fn languages(&self, pooled: &Tensor) -> Option<Result<Tensor>> {
        self.variables.contains_key(&format!("{LANGUAGE}.weight")).then(|| self.linear(LANGUAGE, pooled))
    }

    /// Pooled vectors through the projection for teacher `n`.
    pub(crate) fn project(&self, n: usize, pooled: &Tensor) -> Result<Tensor> {
        self.linear(&format!("{PROJECTION}{n}"), pooled)
    }

    /// Adds rows of zeros to the word embeddings, for tokens that the file did not have.
    pub(crate) fn grow_vocabulary(&mut self, size: usize) {
        self.config.vocab_size = size;
        self.words.grow(size);
    }

    /// The shape.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// The device of the variables.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Every variable by its standard name; the word embeddings are not among them.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// What the head sees of each message, `messages x hidden`. `words` are the embeddings of `batch.rows`; `dropout` is
    /// given while training.
    pub(crate) fn pooled(&self, batch: &Batch, words: &Tensor, mut dropout: Dropout<'_>) -> Result<Tensor> {
        let words = words.index_select(&batch.ids, 0)?;
        let positions = self.get("bert.embeddings.position_embeddings.weight")?.index_select(&batch.positions, 0)?;
        let types = self.get("bert.embeddings.token_type_embeddings.weight")?.narrow(0, 0, 1)?;
        let hidden = (words + positions)?.broadcast_add(&types)?;
        let hidden = self.layer_norm("bert.embeddings.LayerNorm", &hidden)?;
        let mut hidden = self.drop(hidden, &mut dropout)?;
        let layers = self.config.num_hidden_layers;
        for n in 0..layers {
            // Where only the first token is pooled, the last layer computes only that.
            let only_first = n + 1 == layers && self.pooling == Pooling::First;
            hidden = self.layer(n, &hidden, only_first.then_some(&batch.firsts), &batch.lengths, &mut dropout)?;
        }
        match self.pooling {
            Pooling::First => self.linear("bert.pooler.dense", &hidden)?.tanh(),
            Pooling::Mean => batch.means()?.matmul(&hidden),
        }
    }

    /// Logits, `messages x labels`, from pooled vectors.
    pub(crate) fn head(&self, pooled: &Tensor, mut dropout: Dropout<'_>) -> Result<Tensor> {
        self.linear("classifier", &self.drop(pooled.clone(), &mut dropout)?)
    }

    /// Pooled vectors of a batch outside training, `messages x hidden`.
    ///
    /// # Errors
    /// Candle's.
    pub fn embed(&self, batch: &Batch) -> Result<Tensor> {
        let words = self.words.gather(&batch.rows, &self.device)?;
        self.pooled(batch, &words.as_detached_tensor(), None)
    }

    /// Logits of a batch outside training.
    ///
    /// # Errors
    /// Candle's.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor> {
        self.head(&self.embed(batch)?, None)
    }

    /// One layer; with `queried`, for those tokens alone.
    fn layer(
        &self,
        n: usize,
        hidden: &Tensor,
        queried: Option<&Tensor>,
        lengths: &Lengths,
        dropout: &mut Dropout<'_>,
    ) -> Result<Tensor> {
        let layer = format!("bert.encoder.layer.{n}");
        let queries = match queried {
            Some(tokens) => &hidden.index_select(tokens, 0)?,
            None => hidden,
        };
        let query = self.linear(&format!("{layer}.attention.self.query"), queries)?;
        let key = self.linear(&format!("{layer}.attention.self.key"), hidden)?;
        let value = self.linear(&format!("{layer}.attention.self.value"), hidden)?;
        let context = ops::attention(&query, &key, &value, self.config.num_attention_heads, lengths)?;
        let attended = self.linear(&format!("{layer}.attention.output.dense"), &context)?;
        let attended = (self.drop(attended, dropout)? + queries)?;
        let attended = self.layer_norm(&format!("{layer}.attention.output.LayerNorm"), &attended)?;
        let wide = ops::gelu(&self.linear(&format!("{layer}.intermediate.dense"), &attended)?)?;
        let output = self.linear(&format!("{layer}.output.dense"), &wide)?;
        let output = (self.drop(output, dropout)? + attended)?;
        self.layer_norm(&format!("{layer}.output.LayerNorm"), &output)
    }

    fn get(&self, name: &str) -> Result<&Var> {
        self.variables.get(name).ok_or_else(|| candle_core::Error::Msg(format!("no variable {name:?}")))
    }

    fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?)
    }

    fn layer_norm(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (self.get(&format!("{name}.weight"))?, self.get(&format!("{name}.bias"))?);
        ops::layer_norm(x, weight, bias, self.config.layer_norm_eps)
    }

    /// Zeroes a share of the values and scales up the rest. Candle's own dropout cannot be seeded on the CPU.
    fn drop(&self, x: Tensor, dropout: &mut Dropout<'_>) -> Result<Tensor> {
        let rate = self.config.hidden_dropout_prob as f32;
        let Some(rng) = dropout.as_mut().filter(|_| rate > 0.0) else { return Ok(x) };
        let border = (rate * 256.0) as u8;
        let scale = 256.0 / (256.0 - f32::from(border));
        let mut bytes = vec![0u8; x.elem_count()];
        rng.fill_bytes(&mut bytes);
        let mask: Vec<f32> = bytes.into_iter().map(|byte| if byte < border { 0.0 } else { scale }).collect();
        let mask = Tensor::from_vec(mask, x.dims(), &self.device)?;
        x * mask
    }
}

/// Why [`Classifier::load`] failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadClassifierError {
    /// The file does not fit the configuration.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// Every tensor of the model but the word embeddings, with its shape.
fn shapes(config: &EncoderConfig) -> Vec<(String, Vec<usize>)> {
    let (h, wide) = (config.hidden_size, config.intermediate_size);
    let mut shapes = vec![
        ("bert.embeddings.position_embeddings.weight".to_owned(), vec![config.max_position_embeddings, h]),
        ("bert.embeddings.token_type_embeddings.weight".to_owned(), vec![config.type_vocab_size, h]),
    ];
    let mut add = |name: String, shape: &[usize]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), vec![shape[0]]));
    };
    add("bert.embeddings.LayerNorm".into(), &[h]);
    for n in 0..config.num_hidden_layers {
        let layer = format!("bert.encoder.layer.{n}");
        for part in ["query", "key", "value"] {
            add(format!("{layer}.attention.self.{part}"), &[h, h]);
        }
        add(format!("{layer}.attention.output.dense"), &[h, h]);
        add(format!("{layer}.attention.output.LayerNorm"), &[h]);
        add(format!("{layer}.intermediate.dense"), &[wide, h]);
        add(format!("{layer}.output.dense"), &[h, wide]);
        add(format!("{layer}.output.LayerNorm"), &[h]);
    }
    add("bert.pooler.dense".into(), &[h, h]);
    if !config.id2label.is_empty() {
        add("classifier".into(), &[config.id2label.len(), h]);
    }
    shapes
}

fn initial_values(name: &str, count: usize, deviation: f64, rng: &mut ChaCha8Rng) -> Vec<f32> {
    if name.ends_with(".bias") {
        return vec![0.0; count];
    }
    if name.ends_with("LayerNorm.weight") {
        return vec![1.0; count];
    }
    (0..count).map(|_| (normal(rng) * deviation) as f32).collect()
}

/// A standard normal number, by the method of Box and Muller.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, DType};

    fn tiny() -> EncoderConfig {
        let labels = ["a", "b", "c"].map(String::from);
        EncoderConfig { initializer_range: 0.2, ..EncoderConfig::new(50, 3, 64, &labels) }
    }

    #[test]
    fn every_variable_gets_a_gradient() {
        let classifier = Classifier::new(&tiny(), 1, &Device::Cpu).unwrap();
        let batch =
            Batch::new([&[0, 7, 9, 2][..], &[0, 11, 2], &[0, 5, 6, 8, 13, 2]].into_iter(), &Device::Cpu).unwrap();
        let words = classifier.words.gather(&batch.rows, &Device::Cpu).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let pooled = classifier.pooled(&batch, &words, Some(&mut rng)).unwrap();
        let logits = classifier.head(&pooled, Some(&mut rng)).unwrap();
        // Cross entropy against a class for each message: a plain sum would hide what softmax takes away.
        let targets = Tensor::new(&[[1f32, 0., 0.], [0., 1., 0.], [0., 0., 1.]], &Device::Cpu).unwrap();
        let loss = (candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap() * targets).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        for (name, variable) in classifier.variables.iter().map(|(n, v)| (n.as_str(), v)).chain([("words", &words)]) {
            let gradient = gradients.get(variable).unwrap_or_else(|| panic!("{name} has no gradient"));
            let values: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
            assert!(values.iter().all(|x| x.is_finite()), "{name}");
            // A bias added to every key shifts all scores of a query alike, which softmax does not see.
            if !name.ends_with("self.key.bias") {
                assert!(values.iter().any(|x| x.abs() > 1e-7), "{name} has a gradient of zero");
            }
        }
    }

    #[test]
    fn company_changes_nothing() {
        let classifier = Classifier::new(&tiny(), 2, &Device::Cpu).unwrap();
        let messages = [vec![0, 7, 9, 2], vec![0, 2], vec![0, 5, 6, 8, 13, 2]];
        let logits = |messages: &[Vec<u32>]| -> Vec<Vec<f32>> {
            classifier
                .logits(&Batch::new(messages.iter().map(Vec::as_slice), &Device::Cpu).unwrap())
                .unwrap()
                .to_vec2()
                .unwrap()
        };
        for (message, together) in messages.iter().zip(logits(&messages)) {
            for (alone, together) in logits(std::slice::from_ref(message))[0].iter().zip(together) {
                assert!((alone - together).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn dropout_keeps_the_mean() {
        let classifier = Classifier::new(&tiny(), 3, &Device::Cpu).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let ones = Tensor::ones(100_000, DType::F32, &Device::Cpu).unwrap();
        let dropped = classifier.drop(ones, &mut Some(&mut rng)).unwrap();
        let mean: f32 = dropped.mean_all().unwrap().to_scalar().unwrap();
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }
}
