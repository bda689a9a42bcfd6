//! The forward pass.

use super::{
    config::EncoderConfig,
    kernels::{Isa, Linear},
    tensors::{Rows, TensorFile, WeightsError},
};

/// Weights of a BERT sequence classifier, ready to run. Shared between threads without locks.
#[derive(Debug)]
pub struct Encoder {
    hidden: usize,
    heads: usize,
    labels: usize,
    epsilon: f32,
    words: Rows,
    vocabulary: usize,
    /// Position embeddings with row 0 of the token type table added.
    positions: Vec<f32>,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    pooler: Linear,
    classifier: Linear,
    /// The head that tells languages apart, where the file has one.
    language: Option<Linear>,
    isa: Isa,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// Memory for one forward pass; grows to the longest message and is then reused without allocation.
#[derive(Debug, Default)]
pub struct Scratch {
    hidden: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    scores: Vec<f32>,
    context: Vec<f32>,
    projected: Vec<f32>,
    wide: Vec<f32>,
}

/// The first `len` values of a scratch buffer, grown if need be. What they hold is of an earlier pass.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Encoder {
    /// Reads the weights of a `BertForSequenceClassification` with the standard tensor names.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor is missing, has another shape than `config` says, or holds a NaN or an infinity.
    pub fn load(config: &EncoderConfig, file: &TensorFile<'_>) -> Result<Self, WeightsError> {
        Self::load_for(config, file, Isa::detect())
    }

    /// Like [`Encoder::load`], with the kernels of the given instruction set: for tests and benchmarks.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn load_for(config: &EncoderConfig, file: &TensorFile<'_>, isa: Isa) -> Result<Self, WeightsError> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let labels = config.id2label.len();
        let linear = |name: &str, outputs: usize, inputs: usize| -> Result<Linear, WeightsError> {
            let weight = file.read(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = file.read(&format!("{name}.bias"), &[outputs])?;
            Ok(Linear::pack(&weight, &bias, inputs))
        };
        let norm = |name: &str| -> Result<Norm, WeightsError> {
            Ok(Norm {
                weight: file.read(&format!("{name}.weight"), &[hidden])?,
                bias: file.read(&format!("{name}.bias"), &[hidden])?,
            })
        };
        let table = |name: &str, rows: usize| file.read(&format!("bert.embeddings.{name}.weight"), &[rows, hidden]);
        let mut positions = table("position_embeddings", config.max_position_embeddings)?;
        let types = table("token_type_embeddings", config.type_vocab_size)?;
        for row in positions.chunks_exact_mut(hidden) {
            add(row, &types[..hidden]);
        }
        let layers = (0..config.num_hidden_layers)
            .map(|n| {
                let layer = format!("bert.encoder.layer.{n}");
                Ok(Layer {
                    query: linear(&format!("{layer}.attention.self.query"), hidden, hidden)?,
                    key: linear(&format!("{layer}.attention.self.key"), hidden, hidden)?,
                    value: linear(&format!("{layer}.attention.self.value"), hidden, hidden)?,
                    attention_output: linear(&format!("{layer}.attention.output.dense"), hidden, hidden)?,
                    attention_norm: norm(&format!("{layer}.attention.output.LayerNorm"))?,
                    up: linear(&format!("{layer}.intermediate.dense"), wide, hidden)?,
                    down: linear(&format!("{layer}.output.dense"), hidden, wide)?,
                    output_norm: norm(&format!("{layer}.output.LayerNorm"))?,
                })
            })
            .collect::<Result<_, WeightsError>>()?;
        let language = match file.shape("language.weight").as_deref() {
            Some(&[languages, _]) => Some(linear("language", languages, hidden)?),
            _ => None,
        };
        Ok(Encoder {
            hidden,
            heads: config.num_attention_heads,
            labels,
            epsilon: config.layer_norm_eps as f32,
            words: file.rows("bert.embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?,
            vocabulary: config.vocab_size,
            positions,
            embedding_norm: norm("bert.embeddings.LayerNorm")?,
            layers,
            pooler: linear("bert.pooler.dense", hidden, hidden)?,
            classifier: linear("classifier", labels, hidden)?,
            language,
            isa,
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many languages the model tells apart; 0 without a language head.
    pub fn languages(&self) -> usize {
        self.language.as_ref().map_or(0, |head| head.outputs)
    }

    /// Logits of one message, one per label and then one per language.
    ///
    /// `ids` are the token ids with special tokens, `1..=max_position_embeddings` of them, each below `vocab_size`; an id
    /// or a position beyond that is read as the last one there is. Without any id every logit is NaN. `logits` takes as
    /// many values as it has room for.
    pub fn logits(&self, ids: &[u32], scratch: &mut Scratch, logits: &mut [f32]) {
        if ids.is_empty() {
            logits.fill(f32::NAN);
            return;
        }
        self.embed(ids, room(&mut scratch.hidden, ids.len() * self.hidden));
        for (n, layer) in self.layers.iter().enumerate() {
            let last = n + 1 == self.layers.len();
            self.run_layer(layer, ids.len(), if last { 1 } else { ids.len() }, scratch);
        }
        let pooled = room(&mut scratch.projected, self.hidden);
        self.isa.linear(&self.pooler, &scratch.hidden[..self.hidden], pooled);
        for x in pooled.iter_mut() {
            *x = x.tanh();
        }
        let out = room(&mut scratch.wide, self.labels + self.languages());
        let (labels, languages) = out.split_at_mut(self.labels);
        self.isa.linear(&self.classifier, pooled, labels);
        if let Some(head) = &self.language {
            self.isa.linear(head, pooled, languages);
        }
        for (logit, &value) in logits.iter_mut().zip(&*out) {
            *logit = value;
        }
    }

    fn embed(&self, ids: &[u32], hidden: &mut [f32]) {
        let last_position = self.positions.len() / self.hidden - 1;
        for (t, (row, &id)) in hidden.chunks_exact_mut(self.hidden).zip(ids).enumerate() {
            self.words.copy((id as usize).min(self.vocabulary - 1), row);
            add(row, &self.positions[t.min(last_position) * self.hidden..][..self.hidden]);
            self.normalize(&self.embedding_norm, row);
        }
    }

    /// One transformer layer over `tokens` rows of `scratch.hidden`, written back for the first `wanted` of them.
    fn run_layer(&self, layer: &Layer, tokens: usize, wanted: usize, scratch: &mut Scratch) {
        let (h, isa) = (self.hidden, self.isa);
        let Scratch { hidden, query, key, value, scores, context, projected, wide } = scratch;
        let hidden = room(hidden, tokens * h);
        let key = room(key, tokens * h);
        let value = room(value, tokens * h);
        isa.linear(&layer.key, hidden, key);
        isa.linear(&layer.value, hidden, value);
        let hidden = &mut hidden[..wanted * h];
        let query = room(query, wanted * h);
        isa.linear(&layer.query, hidden, query);
        let context = room(context, wanted * h);
        self.attend(query, key, value, room(scores, tokens), context);

        let projected = room(projected, wanted * h);
        isa.linear(&layer.attention_output, context, projected);
        self.add_and_normalize(&layer.attention_norm, projected, hidden);
        let wide = room(wide, wanted * layer.up.outputs);
        isa.linear(&layer.up, hidden, wide);
        isa.gelu(wide);
        isa.linear(&layer.down, wide, projected);
        self.add_and_normalize(&layer.output_norm, projected, hidden);
    }

    /// Softmax attention, head by head: `context` for every row of `query` over all rows of `key` and `value`.
    fn attend(&self, query: &[f32], key: &[f32], value: &[f32], scores: &mut [f32], context: &mut [f32]) {
        let (h, width) = (self.hidden, self.hidden / self.heads);
        let scale = 1.0 / (width as f32).sqrt();
        for (query, context) in query.chunks_exact(h).zip(context.chunks_exact_mut(h)) {
            for head in (0..h).step_by(width) {
                let query = &query[head..][..width];
                let mut highest = f32::NEG_INFINITY;
                for (score, key) in scores.iter_mut().zip(key.chunks_exact(h)) {
                    *score = dot(query, &key[head..][..width]) * scale;
                    highest = highest.max(*score);
                }
                let mut total = 0.0;
                for score in scores.iter_mut() {
                    *score = (*score - highest).exp();
                    total += *score;
                }
                let context = &mut context[head..][..width];
                context.fill(0.0);
                for (&score, value) in scores.iter().zip(value.chunks_exact(h)) {
                    for (context, value) in context.iter_mut().zip(&value[head..][..width]) {
                        *context += score / total * value;
                    }
                }
            }
        }
    }

    /// `hidden = norm(hidden + update)`, row by row.
    fn add_and_normalize(&self, norm: &Norm, update: &[f32], hidden: &mut [f32]) {
        for (row, update) in hidden.chunks_exact_mut(self.hidden).zip(update.chunks_exact(self.hidden)) {
            add(row, update);
            self.normalize(norm, row);
        }
    }

    fn normalize(&self, norm: &Norm, row: &mut [f32]) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / row.len() as f32;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, weight), bias) in row.iter_mut().zip(&norm.weight).zip(&norm.bias) {
            *x = (*x - mean) * scale * weight + bias;
        }
    }
}

fn add(row: &mut [f32], other: &[f32]) {
    for (x, y) in row.iter_mut().zip(other) {
        *x += y;
    }
}

/// A dot product in eight running sums, which the compiler can keep in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += x * y;
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}
