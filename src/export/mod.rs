//! Models for other runtimes: ONNX files, and directories for Python's `transformers`.
//!
//! [`transformers`] writes a model directory with plain f32 weights. [`onnx`] writes the network of a model directory as a graph of standard operators (opset 17), from token ids to logits.
//! What stands around the network is not in the file: normalising and tokenising a message, reading a long one in windows,
//! temperature and thresholds.

mod protobuf;
mod transformers;

#[cfg(feature = "train")]
pub(crate) use transformers::{TOKENIZER_CONFIG, tokenizer_config};
pub use transformers::{TransformersFile, transformers};

use crate::engine::{EncoderConfig, TensorFile, WeightsError};
use protobuf::Message;

/// LayerNormalization came with this version of the operator set.
const OPSET: i64 = 17;
/// The version of the file format that belongs to [`OPSET`].
const IR_VERSION: i64 = 8;
/// No protobuf parser takes a longer file.
const MOST_BYTES: usize = i32::MAX as usize;
/// Kept free below [`MOST_BYTES`] for names and nodes, of which 128 layers have less.
const GRAPH_BYTES: usize = 1 << 21;

/// Field numbers of the messages in `onnx.proto3`, and values of its enumerations.
mod field {
    pub mod model {
        pub const IR_VERSION: u64 = 1;
        pub const PRODUCER_NAME: u64 = 2;
        pub const PRODUCER_VERSION: u64 = 3;
        pub const GRAPH: u64 = 7;
        pub const OPSET_IMPORT: u64 = 8;
        pub const METADATA: u64 = 14;
    }
    pub mod opset {
        pub const VERSION: u64 = 2;
    }
    pub mod metadata {
        pub const KEY: u64 = 1;
        pub const VALUE: u64 = 2;
    }
    pub mod graph {
        pub const NODE: u64 = 1;
        pub const NAME: u64 = 2;
        pub const INITIALIZER: u64 = 5;
        pub const INPUT: u64 = 11;
        pub const OUTPUT: u64 = 12;
    }
    pub mod node {
        pub const INPUT: u64 = 1;
        pub const OUTPUT: u64 = 2;
        pub const NAME: u64 = 3;
        pub const OPERATOR: u64 = 4;
        pub const ATTRIBUTE: u64 = 5;
    }
    pub mod attribute {
        pub const NAME: u64 = 1;
        pub const FLOAT: u64 = 2;
        pub const INT: u64 = 3;
        pub const INTS: u64 = 8;
        pub const TYPE: u64 = 20;
        pub const TYPE_FLOAT: i64 = 1;
        pub const TYPE_INT: i64 = 2;
        pub const TYPE_INTS: i64 = 7;
    }
    pub mod tensor {
        pub const DIMENSION: u64 = 1;
        pub const DATA_TYPE: u64 = 2;
        pub const NAME: u64 = 8;
        pub const RAW_DATA: u64 = 9;
        pub const FLOAT: i64 = 1;
        pub const INT64: i64 = 7;
    }
    pub mod value {
        pub const NAME: u64 = 1;
        pub const TYPE: u64 = 2;
        pub const TENSOR_TYPE: u64 = 1;
        pub const ELEMENT_TYPE: u64 = 1;
        pub const SHAPE: u64 = 2;
        pub const DIMENSION: u64 = 1;
        pub const SIZE: u64 = 1;
        pub const PARAMETER: u64 = 2;
    }
}

/// Why a model cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// A tensor is missing or does not fit the configuration.
    #[error("model.safetensors: {0}")]
    Weights(#[from] WeightsError),
    /// In f32 the weights pass the limit of the ONNX format.
    #[error("the weights take more than 2 GiB in f32, which no ONNX file can hold")]
    TooLarge,
}

/// For which tokens the last layer is computed. Logits are the same, since only the first token reaches the pooler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastLayer {
    /// For all, as other exporters do: tools that fuse attention know the pattern.
    #[default]
    AllTokens,
    /// Keys and values for all, the rest for the first alone: less work where attention is not fused.
    FirstToken,
}

/// The bytes of an ONNX file with the classifier that `config` and `weights` make up.
///
/// The input is `input_ids`, int64 `[batch, sequence]`: token ids with special tokens, at most `max_position_embeddings` in
/// a row. There is no mask, so the messages of a batch must have as many tokens. Outputs are `logits` `[batch, labels]` and,
/// where the weights have a head for it, `language_logits` `[batch, languages]`. Label names are in the file's metadata
/// under `labels`, as JSON.
///
/// Weights are widened to f32 and keep their names. The matrices of linear layers are turned, to `[inputs, outputs]`, as
/// MatMul takes them and tools that quantise want them.
///
/// # Errors
/// [`ExportError`] when a tensor is missing or does not fit, or when the file would pass 2 GiB.
///
/// ```
/// # #[cfg(feature = "embedded")] {
/// use intentgate::{Bundle, engine::{EncoderConfig, TensorFile}, export::{LastLayer, onnx}};
///
/// let bundle = Bundle::embedded();
/// let (config, weights) = (EncoderConfig::from_json(&bundle.config)?, TensorFile::parse(&bundle.weights)?);
/// let file = onnx(&config, &weights, LastLayer::AllTokens)?;
/// # assert!(file.len() > 4 * config.vocab_size * config.hidden_size);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn onnx(config: &EncoderConfig, weights: &TensorFile<'_>, last_layer: LastLayer) -> Result<Vec<u8>, ExportError> {
    let mut graph = Graph { config, weights, nodes: Vec::new(), initializers: Vec::new(), bytes: GRAPH_BYTES };
    let pooled = graph.encoder(last_layer)?;
    let mut heads = vec![("classifier", "logits", config.id2label.len())];
    if let Some(&[languages, _]) = weights.shape("language.weight").as_deref() {
        heads.push(("language", "language_logits", languages));
    }
    for &(head, output, rows) in &heads {
        graph.linear(head, &pooled, config.hidden_size, rows, output)?;
    }
    let outputs = heads
        .into_iter()
        .map(|(_, output, rows)| value_info(output, field::tensor::FLOAT, [free_dimension("batch"), dimension(rows)]));
    let input = [free_dimension("batch"), free_dimension("sequence")];
    let labels = serde_json::to_string(&config.labels()).unwrap_or_default();
    let file = Message::default()
        .int(field::model::IR_VERSION, IR_VERSION)
        .bytes(field::model::PRODUCER_NAME, env!("CARGO_PKG_NAME"))
        .bytes(field::model::PRODUCER_VERSION, env!("CARGO_PKG_VERSION"))
        .message(
            field::model::GRAPH,
            Message::default()
                .messages(field::graph::NODE, graph.nodes)
                .bytes(field::graph::NAME, "BertForSequenceClassification")
                .messages(field::graph::INITIALIZER, graph.initializers)
                .message(field::graph::INPUT, value_info("input_ids", field::tensor::INT64, input))
                .messages(field::graph::OUTPUT, outputs),
        )
        .message(field::model::OPSET_IMPORT, Message::default().int(field::opset::VERSION, OPSET))
        .message(
            field::model::METADATA,
            Message::default().bytes(field::metadata::KEY, "labels").bytes(field::metadata::VALUE, labels),
        )
        .into_bytes();
    if file.len() > MOST_BYTES { Err(ExportError::TooLarge) } else { Ok(file) }
}

/// Nodes in the order of computation. A node has the name of its output.
struct Graph<'a> {
    config: &'a EncoderConfig,
    weights: &'a TensorFile<'a>,
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    /// What the file will take.
    bytes: usize,
}

impl Graph<'_> {
    /// From `input_ids` to the pooled first token, whose name it returns.
    ///
    /// Operators and the order of their operands are those of PyTorch's exporter wherever runtimes look for patterns to
    /// fuse: attention, GELU, a sum before a layer norm.
    fn encoder(&mut self, last_layer: LastLayer) -> Result<String, ExportError> {
        let EncoderConfig { hidden_size: width, num_attention_heads: heads, .. } = *self.config;
        self.integers("zero", &[1], &[0]);
        self.integers("first", &[], &[0]);
        self.integers("split_heads", &[4], &[0, 0, heads as i64, (width / heads) as i64]);
        self.integers("join_heads", &[3], &[0, 0, width as i64]);
        self.float("head_scale", ((width / heads) as f32).sqrt());
        self.float("square_root_of_two", std::f32::consts::SQRT_2);
        self.float("half", 0.5);
        self.float("unit", 1.0);
        let mut hidden = self.embeddings()?;
        for n in 0..self.config.num_hidden_layers {
            let first_token = last_layer == LastLayer::FirstToken && n + 1 == self.config.num_hidden_layers;
            hidden = self.layer(n, &hidden, first_token)?;
        }
        self.node("Gather", &[&hidden, "first"], "first_token", [int("axis", 1)]);
        self.linear("bert.pooler.dense", "first_token", width, width, "pooler")?;
        Ok(self.node("Tanh", &["pooler"], "pooled", []))
    }

    fn embeddings(&mut self) -> Result<String, ExportError> {
        let EncoderConfig { hidden_size: width, .. } = *self.config;
        let words = self.table("word_embeddings", self.config.vocab_size)?;
        let positions = self.table("position_embeddings", self.config.max_position_embeddings)?;
        let types = self.table("token_type_embeddings", self.config.type_vocab_size)?;
        self.node("Gather", &[&words, "input_ids"], "words", []);
        self.node("Shape", &["input_ids"], "length", [int("start", 1), int("end", 2)]);
        self.node("Slice", &[&positions, "zero", "length", "zero"], "positions", []);
        self.node("Gather", &[&types, "first"], "type", []);
        self.node("Add", &["words", "type"], "words_and_type", []);
        self.node("Add", &["words_and_type", "positions"], "embedded", []);
        self.norm("bert.embeddings.LayerNorm", "embedded", width, "embeddings")
    }

    /// Layer `n` over `hidden`.
    fn layer(&mut self, n: usize, hidden: &str, first_token: bool) -> Result<String, ExportError> {
        let EncoderConfig { hidden_size: width, intermediate_size: wide, .. } = *self.config;
        let layer = format!("bert.encoder.layer.{n}");
        let at = |name: &str| format!("layer.{n}.{name}");
        // The rows that the layer computes.
        let rows = if first_token {
            self.node("Gather", &[hidden, "zero"], &at("first_token"), [int("axis", 1)])
        } else {
            hidden.to_owned()
        };
        let mut heads = Vec::new();
        for (name, from, order) in
            [("query", rows.as_str(), [0, 2, 1, 3]), ("key", hidden, [0, 2, 3, 1]), ("value", hidden, [0, 2, 1, 3])]
        {
            let all = self.linear(&format!("{layer}.attention.self.{name}"), from, width, width, &at(name))?;
            let split = self.node("Reshape", &[&all, "split_heads"], &at(&format!("{name}.split")), []);
            heads.push(self.node("Transpose", &[&split], &at(&format!("{name}.heads")), [ints("perm", &order)]));
        }
        let products = self.node("MatMul", &[&heads[0], &heads[1]], &at("products"), []);
        let scores = self.node("Div", &[&products, "head_scale"], &at("scores"), []);
        let shares = self.node("Softmax", &[&scores], &at("shares"), [int("axis", -1)]);
        let context = self.node("MatMul", &[&shares, &heads[2]], &at("context"), []);
        let context = self.node("Transpose", &[&context], &at("context.tokens"), [ints("perm", &[0, 2, 1, 3])]);
        let context = self.node("Reshape", &[&context, "join_heads"], &at("context.joined"), []);
        let output = format!("{layer}.attention.output");
        let attended = self.linear(&format!("{output}.dense"), &context, width, width, &at("attention"))?;
        let sum = self.node("Add", &[&attended, &rows], &at("attention.sum"), []);
        let attended = self.norm(&format!("{output}.LayerNorm"), &sum, width, &at("attention.norm"))?;

        let up = self.linear(&format!("{layer}.intermediate.dense"), &attended, width, wide, &at("up"))?;
        let scaled = self.node("Div", &[&up, "square_root_of_two"], &at("gelu.scaled"), []);
        let erf = self.node("Erf", &[&scaled], &at("gelu.erf"), []);
        let share = self.node("Add", &[&erf, "unit"], &at("gelu.share"), []);
        let twice = self.node("Mul", &[&up, &share], &at("gelu.twice"), []);
        let gelu = self.node("Mul", &[&twice, "half"], &at("gelu"), []);
        let down = self.linear(&format!("{layer}.output.dense"), &gelu, wide, width, &at("down"))?;
        let sum = self.node("Add", &[&down, &attended], &at("sum"), []);
        self.norm(&format!("{layer}.output.LayerNorm"), &sum, width, &at("output"))
    }

    /// A product with the turned weights of a linear layer, and its bias. All methods from here return the name of their
    /// output, or of the initialiser.
    fn linear(
        &mut self,
        name: &str,
        input: &str,
        inputs: usize,
        outputs: usize,
        output: &str,
    ) -> Result<String, ExportError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        self.reserve(inputs * outputs)?;
        let rows = self.weights.read(&weight, &[outputs, inputs])?;
        let mut columns = vec![0.0; rows.len()];
        for (n, row) in rows.chunks_exact(inputs).enumerate() {
            for (value, to) in row.iter().zip(columns[n..].iter_mut().step_by(outputs)) {
                *to = *value;
            }
        }
        self.floats(&weight, &[inputs, outputs], &columns);
        self.tensor(&bias, &[outputs])?;
        let product = self.node("MatMul", &[input, &weight], &format!("{output}.product"), []);
        Ok(self.node("Add", &[&bias, &product], output, []))
    }

    fn norm(&mut self, name: &str, input: &str, width: usize, output: &str) -> Result<String, ExportError> {
        let weight = self.tensor(&format!("{name}.weight"), &[width])?;
        let bias = self.tensor(&format!("{name}.bias"), &[width])?;
        let epsilon = float("epsilon", self.config.layer_norm_eps as f32);
        Ok(self.node("LayerNormalization", &[input, &weight, &bias], output, [int("axis", -1), epsilon]))
    }

    fn table(&mut self, name: &str, rows: usize) -> Result<String, ExportError> {
        self.tensor(&format!("bert.embeddings.{name}.weight"), &[rows, self.config.hidden_size])
    }

    /// A tensor of the model as it is.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<String, ExportError> {
        self.reserve(shape.iter().product())?;
        let values = self.weights.read(name, shape)?;
        self.floats(name, shape, &values);
        Ok(name.to_owned())
    }

    /// Makes room for values before they are widened, so that a model that is too large fails early.
    fn reserve(&mut self, values: usize) -> Result<(), ExportError> {
        self.bytes += size_of::<f32>() * values;
        if self.bytes > MOST_BYTES { Err(ExportError::TooLarge) } else { Ok(()) }
    }

    fn float(&mut self, name: &str, value: f32) {
        self.floats(name, &[], &[value]);
    }

    fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializers.push(tensor(name, field::tensor::FLOAT, shape, &bytes));
    }

    fn integers(&mut self, name: &str, shape: &[usize], values: &[i64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializers.push(tensor(name, field::tensor::INT64, shape, &bytes));
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: impl IntoIterator<Item = Message>,
    ) -> String {
        let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(field::node::INPUT, input));
        self.nodes.push(
            node.bytes(field::node::OUTPUT, output)
                .bytes(field::node::NAME, output)
                .bytes(field::node::OPERATOR, operator)
                .messages(field::node::ATTRIBUTE, attributes),
        );
        output.to_owned()
    }
}

fn tensor(name: &str, data_type: i64, shape: &[usize], bytes: &[u8]) -> Message {
    Message::default()
        .ints(field::tensor::DIMENSION, shape.iter().map(|&size| size as i64))
        .int(field::tensor::DATA_TYPE, data_type)
        .bytes(field::tensor::NAME, name)
        .bytes(field::tensor::RAW_DATA, bytes)
}

fn int(name: &str, value: i64) -> Message {
    attribute(name, field::attribute::TYPE_INT).int(field::attribute::INT, value)
}

fn ints(name: &str, values: &[i64]) -> Message {
    attribute(name, field::attribute::TYPE_INTS).ints(field::attribute::INTS, values.iter().copied())
}

fn float(name: &str, value: f32) -> Message {
    attribute(name, field::attribute::TYPE_FLOAT).float(field::attribute::FLOAT, value)
}

fn attribute(name: &str, kind: i64) -> Message {
    Message::default().bytes(field::attribute::NAME, name).int(field::attribute::TYPE, kind)
}

/// The declaration of an input or output.
fn value_info(name: &str, data_type: i64, dimensions: [Message; 2]) -> Message {
    let shape = Message::default().messages(field::value::DIMENSION, dimensions);
    let tensor_type = Message::default().int(field::value::ELEMENT_TYPE, data_type).message(field::value::SHAPE, shape);
    Message::default()
        .bytes(field::value::NAME, name)
        .message(field::value::TYPE, Message::default().message(field::value::TENSOR_TYPE, tensor_type))
}

fn dimension(size: usize) -> Message {
    Message::default().int(field::value::SIZE, size as i64)
}

/// A dimension that is known when the model runs.
fn free_dimension(name: &str) -> Message {
    Message::default().bytes(field::value::PARAMETER, name)
}
