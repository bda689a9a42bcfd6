//! The forward pass.

use super::{
    config::EncoderConfig,
    kernels::{AttentionScratch, Buffer, Input, Isa, Linear, Norm, Part, Scale, Side, TILE_ROWS, join, stride},
    rows::Rows,
    source::{Checkpoint, Source},
    tensors::{TensorFile, WeightsError},
};
use std::ops::Range;

/// Weights of a BERT sequence classifier, ready to run. Shared between threads without locks.
#[derive(Debug)]
pub struct Encoder {
    hidden: Side,
    heads: usize,
    labels: usize,
    words: Rows,
    vocabulary: usize,
    /// Position embeddings with row 0 of the token type table added, in padded rows.
    positions: Buffer<f32>,
    longest: usize,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    pooler: Linear,
    /// The heads: labels, then languages, where the file has a head that tells them apart.
    classifier: Linear,
    outputs: usize,
    isa: Isa,
}

#[derive(Debug)]
struct Layer {
    query: Linear,
    key_value: Linear,
    attention_output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    output_norm: Norm,
}

/// Memory for one forward pass; grows to the longest message and is then reused without allocation.
#[derive(Debug, Default)]
pub struct Scratch {
    hidden: Activations,
    context: Activations,
    wide: Activations,
    query: Buffer<f32>,
    key_value: Buffer<f32>,
    projected: Buffer<f32>,
    attention: AttentionScratch,
    /// The rows of each message that has any.
    messages: Vec<Range<usize>>,
    remainder: Remainder,
}

/// Rows of token vectors, and the same as bytes for int8 layers.
#[derive(Debug, Default)]
struct Activations {
    values: Buffer<f32>,
    bytes: Buffer<u8>,
    scales: Vec<Scale>,
}

impl Activations {
    /// The first `rows` rows of `width` values as the input of `layers`, quantised if one of them is int8.
    fn input(&mut self, isa: Isa, layers: &[&Linear], rows: usize, width: usize) -> Input<'_> {
        let values = self.values.room(rows * stride(width));
        if !layers.iter().any(|layer| layer.is_int8()) {
            return Input { values, bytes: &[], scales: &[] };
        }
        let bytes = self.bytes.room(rows.next_multiple_of(TILE_ROWS) * width);
        if self.scales.len() < rows {
            self.scales.resize(rows, Scale::default());
        }
        let scales = &mut self.scales[..rows];
        isa.quantize(values, width, bytes, scales);
        Input { values, bytes, scales }
    }
}

/// What the bytes of an input leave of its values, as bytes once more: two of them are as good as f32.
#[derive(Debug, Default)]
struct Remainder {
    rows: Activations,
    products: Buffer<f32>,
}

impl Remainder {
    /// Adds what is missing from the results of an int8 layer for rows of `width` values.
    fn add(&mut self, isa: Isa, layer: &Linear, x: Input<'_>, width: usize, out: &mut [f32]) {
        let Remainder { rows, products } = self;
        let left = rows.values.room(x.scales.len() * stride(width)).chunks_exact_mut(stride(width));
        let values = x.values.chunks_exact(stride(width));
        for (((left, values), bytes), scale) in left.zip(values).zip(x.bytes.chunks_exact(width)).zip(x.scales) {
            for ((left, value), &byte) in left.iter_mut().zip(values).zip(bytes) {
                *left = value - scale.step * (f32::from(byte) - scale.zero);
            }
        }
        let products = products.room(out.len());
        isa.linear(layer, rows.input(isa, &[layer], x.scales.len(), width), products);
        let row = stride(layer.outputs());
        for (out, products) in out.chunks_exact_mut(row).zip(products.chunks_exact(row)) {
            // The bias is in both.
            for ((out, product), bias) in out.iter_mut().zip(products).zip(layer.bias()) {
                *out += product - bias;
            }
        }
    }
}

/// How a layer is to be computed.
struct Pass<'a> {
    isa: Isa,
    /// Where to keep what is left of an input, if that counts.
    remainder: Option<&'a mut Remainder>,
}

impl Pass<'_> {
    fn linear(&mut self, layer: &Linear, x: Input<'_>, width: usize, out: &mut [f32]) {
        self.isa.linear(layer, x, out);
        if let Some(remainder) = self.remainder.as_mut().filter(|_| layer.is_int8()) {
            remainder.add(self.isa, layer, x, width, out);
        }
    }
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
        let mut encoder = Self::assemble(config, isa, Checkpoint { config, file })?;
        join(encoder.parts());
        Ok(encoder)
    }

    /// Puts an encoder together from the parts that `source` gives.
    pub(super) fn assemble<S: Source>(config: &EncoderConfig, isa: Isa, mut source: S) -> Result<Self, S::Error> {
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        let hidden = Side::plain(width);
        let wide = Side::plain(config.intermediate_size);
        let of_heads = Side::heads(heads, width / heads);
        let embedding_norm = source.norm("bert.embeddings.LayerNorm", hidden)?;
        let layers = (0..config.num_hidden_layers)
            .map(|n| {
                let layer = format!("bert.encoder.layer.{n}");
                let attention = |name: &str| format!("{layer}.attention.{name}");
                Ok(Layer {
                    key_value: source.linear(&[&attention("self.key"), &attention("self.value")], hidden, of_heads)?,
                    query: source.linear(&[&attention("self.query")], hidden, of_heads)?,
                    attention_output: source.linear(&[&attention("output.dense")], of_heads, hidden)?,
                    attention_norm: source.norm(&attention("output.LayerNorm"), hidden)?,
                    up: source.linear(&[&format!("{layer}.intermediate.dense")], hidden, wide)?,
                    down: source.linear(&[&format!("{layer}.output.dense")], wide, hidden)?,
                    output_norm: source.norm(&format!("{layer}.output.LayerNorm"), hidden)?,
                })
            })
            .collect::<Result<_, S::Error>>()?;
        let pooler = source.linear(&["bert.pooler.dense"], hidden, hidden)?;
        let (classifier, outputs) = source.heads(hidden)?;
        Ok(Encoder {
            hidden,
            heads,
            labels: config.id2label.len(),
            words: source.words()?,
            vocabulary: config.vocab_size,
            longest: config.max_position_embeddings,
            positions: source.positions(hidden)?,
            embedding_norm,
            layers,
            pooler,
            classifier,
            outputs,
            isa,
        })
    }

    /// All that is read for every message, in this order.
    pub(super) fn parts(&mut self) -> Vec<&mut dyn Part> {
        let mut parts: Vec<&mut dyn Part> = Vec::new();
        parts.extend(self.embedding_norm.parts());
        for layer in &mut self.layers {
            parts.extend(layer.key_value.parts());
            parts.extend(layer.query.parts());
            parts.extend(layer.attention_output.parts());
            parts.extend(layer.attention_norm.parts());
            parts.extend(layer.up.parts());
            parts.extend(layer.down.parts());
            parts.extend(layer.output_norm.parts());
        }
        parts.extend(self.pooler.parts());
        parts.extend(self.classifier.parts());
        // Last, since a message reads as many rows as it has tokens.
        parts.push(&mut self.positions);
        parts
    }

    /// The linear layers, in the order in which [`Source`]s are asked for them.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let of_layers = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.key_value, &layer.query, &layer.attention_output, &layer.up, &layer.down]);
        of_layers.chain([&self.pooler, &self.classifier])
    }

    /// Bytes that the parts of an encoder of this shape have at least.
    pub(super) fn least_bytes(config: &EncoderConfig) -> usize {
        let (width, wide) = (config.hidden_size, config.intermediate_size);
        config.num_hidden_layers * (4 * width * width + 2 * width * wide) + 4 * config.max_position_embeddings * width
    }

    /// The table of word embeddings.
    pub(super) fn words(&self) -> &Rows {
        &self.words
    }

    /// How many logits a message has: one per label, then one per language.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many languages the model tells apart; 0 without a language head.
    pub fn languages(&self) -> usize {
        self.outputs - self.labels
    }

    /// Logits of one message, one per label and then one per language.
    ///
    /// `ids` are the token ids with special tokens, `1..=max_position_embeddings` of them, each below `vocab_size`; an id
    /// or a position beyond that is read as the last one there is. Without any id every logit is NaN. `logits` takes as
    /// many values as it has room for.
    pub fn logits(&self, ids: &[u32], scratch: &mut Scratch, logits: &mut [f32]) {
        self.logits_batch(ids, &[ids.len()], scratch, logits);
    }

    /// Logits of several messages in one pass, in which a weight that is read serves all of them.
    ///
    /// `ids` holds the messages one behind the other, each as for [`Encoder::logits`], and `lengths` how many tokens each
    /// has, together as many as there are. `logits` is cut into as many equal rows as there are messages.
    pub fn logits_batch(&self, ids: &[u32], lengths: &[usize], scratch: &mut Scratch, logits: &mut [f32]) {
        self.forward(ids, lengths, false, scratch, logits);
    }

    /// [`Encoder::logits`] with the inputs of int8 layers at 16 bits instead of 8, to about 0.001 those of an engine that
    /// widens all weights to f32; in twice the time. `false`, and nothing written, for a model that has no such layer.
    pub fn precise_logits(&self, ids: &[u32], scratch: &mut Scratch, logits: &mut [f32]) -> bool {
        let is_int8 = self.linears().any(Linear::is_int8);
        if is_int8 {
            self.forward(ids, &[ids.len()], true, scratch, logits);
        }
        is_int8
    }

    fn forward(&self, ids: &[u32], lengths: &[usize], precise: bool, scratch: &mut Scratch, logits: &mut [f32]) {
        logits.fill(f32::NAN);
        let Some(wanted) = logits.len().checked_div(lengths.len()).filter(|&wanted| wanted > 0) else { return };
        let (isa, row) = (self.isa, self.hidden.row());
        scratch.messages.clear();
        let mut start = 0;
        for &length in lengths {
            let end = ids.len().min(start + length);
            scratch.messages.extend((start < end).then_some(start..end));
            start = end;
        }
        if scratch.messages.is_empty() {
            return;
        }
        self.embed(ids, scratch);
        for (n, layer) in self.layers.iter().enumerate() {
            self.run_layer(layer, n + 1 == self.layers.len(), precise, scratch);
        }
        let Scratch { hidden, context, projected, messages, remainder, .. } = scratch;
        let mut pass = Pass { isa, remainder: precise.then_some(remainder) };
        let pooled = context.values.room(messages.len() * stride(row));
        pass.linear(&self.pooler, hidden.input(isa, &[&self.pooler], messages.len(), row), row, pooled);
        isa.tanh(pooled);
        let outputs = stride(self.classifier.outputs());
        let out = projected.room(messages.len() * outputs);
        isa.linear(&self.classifier, Input { values: pooled, bytes: &[], scales: &[] }, out);
        let rows = logits.chunks_exact_mut(wanted).zip(lengths).filter(|&(_, &length)| length > 0);
        for ((logits, _), out) in rows.zip(out.chunks_exact(outputs)) {
            logits.iter_mut().zip(&out[..self.outputs]).for_each(|(logit, &value)| *logit = value);
        }
    }

    fn embed(&self, ids: &[u32], scratch: &mut Scratch) {
        let (width, row) = (self.hidden.len(), self.hidden.row());
        let hidden = scratch.hidden.values.room(ids.len() * stride(row));
        for message in &scratch.messages {
            let rows = hidden[message.start * stride(row)..].chunks_exact_mut(stride(row));
            for (n, (hidden, &id)) in rows.zip(&ids[message.clone()]).enumerate() {
                let (hidden, padding) = hidden.split_at_mut(width);
                self.words.copy((id as usize).min(self.vocabulary - 1), hidden);
                add(hidden, &self.positions.as_slice()[n.min(self.longest - 1) * row..][..width]);
                padding.fill(0.0);
            }
        }
        self.isa.add_normalize(&self.embedding_norm, width, &[], hidden);
    }

    /// One transformer layer over all messages in `scratch.hidden`. The last one leaves a row for each message there, that
    /// of its first token, which is all that the pooler reads.
    fn run_layer(&self, layer: &Layer, last: bool, precise: bool, scratch: &mut Scratch) {
        let (isa, width, row) = (self.isa, self.hidden.len(), self.hidden.row());
        let Scratch { hidden, context, wide, query, key_value, projected, attention, messages, remainder } = scratch;
        let mut pass = Pass { isa, remainder: precise.then_some(remainder) };
        let tokens = messages.last().map_or(0, |message| message.end);
        let wanted = if last { messages.len() } else { tokens };
        let (single, pair) = (stride(layer.query.outputs()), stride(layer.key_value.outputs()));
        let key_value = key_value.room(tokens * pair);
        let query = query.room(wanted * single);
        let input = hidden.input(isa, &[&layer.key_value, &layer.query], tokens, row);
        pass.linear(&layer.key_value, input, row, key_value);
        if !last {
            pass.linear(&layer.query, input, row, query);
        } else if let [_] = messages[..] {
            pass.linear(&layer.query, input.first(1, row), row, query);
        } else {
            let hidden_rows = hidden.values.room(tokens * stride(row));
            for (n, message) in messages.iter().enumerate() {
                hidden_rows
                    .copy_within(message.start * stride(row)..(message.start + 1) * stride(row), n * stride(row));
            }
            pass.linear(&layer.query, hidden.input(isa, &[&layer.query], wanted, row), row, query);
        }
        let attended = context.values.room(wanted * single);
        for (n, message) in messages.iter().enumerate() {
            let queries = if last { n..n + 1 } else { message.clone() };
            let queries = queries.start * single..queries.end * single;
            let key_value = &key_value[message.start * pair..message.end * pair];
            let heads = (self.heads, width / self.heads);
            isa.attend(heads, &query[queries.clone()], key_value, attention, &mut attended[queries]);
        }

        let projected = projected.room(wanted * stride(row));
        let input = context.input(isa, &[&layer.attention_output], wanted, layer.query.outputs());
        pass.linear(&layer.attention_output, input, layer.query.outputs(), projected);
        isa.add_normalize(&layer.attention_norm, width, projected, hidden.values.room(wanted * stride(row)));
        let up = wide.values.room(wanted * stride(layer.up.outputs()));
        pass.linear(&layer.up, hidden.input(isa, &[&layer.up], wanted, row), row, up);
        if layer.down.is_int8() && !precise {
            isa.coarse_gelu(up);
        } else {
            isa.gelu(up);
        }
        pass.linear(
            &layer.down,
            wide.input(isa, &[&layer.down], wanted, layer.up.outputs()),
            layer.up.outputs(),
            projected,
        );
        isa.add_normalize(&layer.output_norm, width, projected, hidden.values.room(wanted * stride(row)));
    }
}

fn add(row: &mut [f32], other: &[f32]) {
    for (x, y) in row.iter_mut().zip(other) {
        *x += y;
    }
}
