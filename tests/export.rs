//! What can be known of an ONNX file without a runtime: it parses, holds every weight, and its graph hangs together.
//! `benches/peers` runs it and compares logits.
#![cfg(feature = "data")]

mod common;

use common::Tiny;
use intentgate::{
    Bundle, Guard, LoadError,
    engine::{EncoderConfig, TensorFile, WeightsError},
    export::{ExportError, LastLayer, onnx, transformers},
};
use std::collections::{BTreeMap, HashSet};

/// The fields of a protobuf message in order.
struct Fields<'a>(Vec<(u64, Value<'a>)>);

#[derive(Clone, Copy)]
enum Value<'a> {
    Int(i64),
    Bytes(&'a [u8]),
    Float(f32),
}

impl<'a> Fields<'a> {
    fn parse(mut rest: &'a [u8]) -> Self {
        let mut fields = Vec::new();
        while !rest.is_empty() {
            let key = varint(&mut rest);
            let value = match key & 7 {
                0 => Value::Int(varint(&mut rest) as i64),
                2 => {
                    let length = varint(&mut rest) as usize;
                    Value::Bytes(rest.split_off(..length).unwrap())
                }
                5 => Value::Float(f32::from_le_bytes(rest.split_off(..4).unwrap().try_into().unwrap())),
                other => panic!("wire type {other}"),
            };
            fields.push((key >> 3, value));
        }
        Fields(fields)
    }

    fn all(&self, field: u64) -> impl Iterator<Item = Value<'a>> {
        self.0.iter().filter(move |(number, _)| *number == field).map(|&(_, value)| value)
    }

    fn ints(&self, field: u64) -> Vec<i64> {
        self.all(field).map(|value| if let Value::Int(int) = value { int } else { panic!("no int") }).collect()
    }

    fn bytes(&self, field: u64) -> Vec<&'a [u8]> {
        self.all(field).map(|value| if let Value::Bytes(bytes) = value { bytes } else { panic!("no bytes") }).collect()
    }

    fn strings(&self, field: u64) -> Vec<&'a str> {
        self.bytes(field).into_iter().map(|bytes| str::from_utf8(bytes).unwrap()).collect()
    }

    fn messages(&self, field: u64) -> Vec<Fields<'a>> {
        self.bytes(field).into_iter().map(Fields::parse).collect()
    }

    fn message(&self, field: u64) -> Fields<'a> {
        Fields::parse(self.bytes(field)[0])
    }
}

fn varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for n in 0.. {
        let byte = *rest.split_off_first().unwrap();
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// Shape and values of each float initialiser.
type Initializers = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn initializers(graph: &Fields<'_>) -> Initializers {
    graph
        .messages(5)
        .iter()
        .filter(|tensor| tensor.ints(2) == [1])
        .map(|tensor| {
            let shape = tensor.ints(1).into_iter().map(|size| size as usize).collect();
            let values = tensor.bytes(9)[0].as_chunks().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
            (tensor.strings(8)[0].to_owned(), (shape, values))
        })
        .collect()
}

/// Every tensor of `weights` with its size and values; matrices of linear layers turned.
fn assert_weights(found: &Initializers, weights: &TensorFile<'_>) {
    for name in weights.names().into_iter().filter(|name| !name.ends_with(".scale")) {
        let shape = weights.shape(name).unwrap();
        let values = weights.read(name, &shape).unwrap();
        let (exported, exported_values) = &found[name];
        assert_eq!(exported_values.len(), values.len(), "{name}");
        if let (&[outputs, inputs], false) = (&shape[..], name.contains("embeddings")) {
            assert_eq!(exported, &[inputs, outputs], "{name}");
            for (i, value) in values.iter().enumerate() {
                assert_eq!(exported_values[i % inputs * outputs + i / inputs], *value, "{name} {i}");
            }
        } else {
            assert_eq!((exported, exported_values), (&shape, &values), "{name}");
        }
    }
}

/// Every input of a node is there before it, every name is given once, and nothing is computed for nobody.
fn assert_graph(graph: &Fields<'_>, outputs: &[&str]) {
    let mut known: HashSet<&str> = HashSet::from(["input_ids"]);
    let mut unread: HashSet<&str> = HashSet::new();
    for tensor in graph.messages(5) {
        assert!(known.insert(tensor.strings(8)[0]));
        unread.insert(tensor.strings(8)[0]);
    }
    for node in graph.messages(1) {
        for input in node.strings(1) {
            assert!(known.contains(input), "{input} is read before it is there");
            unread.remove(input);
        }
        for output in node.strings(2) {
            assert!(known.insert(output), "{output} is there twice");
            unread.insert(output);
        }
    }
    assert_eq!(unread, outputs.iter().copied().collect());
    let names = |field| -> Vec<&str> { graph.messages(field).iter().map(|value| value.strings(1)[0]).collect() };
    assert_eq!(names(11), ["input_ids"]);
    assert_eq!(names(12), outputs);
}

/// The sizes of a declared input or output, free dimensions by name.
fn shape(value: &Fields<'_>) -> Vec<String> {
    let shape = value.message(2).message(1).message(2);
    let size = |dimension: &Fields<'_>| match dimension.ints(1)[..] {
        [size] => size.to_string(),
        _ => dimension.strings(2)[0].to_owned(),
    };
    shape.messages(1).iter().map(size).collect()
}

#[test]
fn a_file_holds_every_weight_and_a_graph_that_hangs_together() {
    for tiny in [Tiny::default(), Tiny { four_bit: true, eight_bit: Some("dense"), ..Tiny::default() }] {
        let bytes = tiny.weights();
        let weights = TensorFile::parse(&bytes).unwrap();
        for (last_layer, gathers) in [(LastLayer::AllTokens, 3), (LastLayer::FirstToken, 4)] {
            let file = onnx(&tiny.config, &weights, last_layer).unwrap();
            let model = Fields::parse(&file);
            assert_eq!((model.ints(1), model.message(8).ints(2)), (vec![8], vec![17]));
            let labels: Vec<String> = serde_json::from_str(model.message(14).strings(2)[0]).unwrap();
            assert_eq!(labels, common::LABELS);
            let graph = model.message(7);
            assert_weights(&initializers(&graph), &weights);
            assert_graph(&graph, &["logits"]);
            let input = &graph.messages(11)[0];
            assert_eq!(
                (input.message(2).message(1).ints(1), shape(input)),
                (vec![7], vec!["batch".into(), "sequence".into()])
            );
            assert_eq!(shape(&graph.messages(12)[0]), ["batch", "5"]);
            let nodes = graph.messages(1);
            let count = |operator: &str| nodes.iter().filter(|node| node.strings(4) == [operator]).count();
            assert_eq!((count("LayerNormalization"), count("Softmax"), count("Gather")), (5, 2, gathers));
            let norm = nodes.iter().find(|node| node.strings(4) == ["LayerNormalization"]).unwrap();
            let epsilon = norm.messages(5).iter().find_map(|attribute| match attribute.all(2).next() {
                Some(Value::Float(epsilon)) => Some(epsilon),
                _ => None,
            });
            assert_eq!(epsilon, Some(tiny.config.layer_norm_eps as f32));
        }
    }
}

#[test]
#[cfg(feature = "embedded")]
fn the_shipped_guard_has_a_second_output_for_the_language() {
    let bundle = intentgate::Bundle::embedded();
    let config = EncoderConfig::from_json(&bundle.config).unwrap();
    let weights = TensorFile::parse(&bundle.weights).unwrap();
    let file = onnx(&config, &weights, LastLayer::AllTokens).unwrap();
    let graph = Fields::parse(&file).message(7);
    assert_weights(&initializers(&graph), &weights);
    assert_graph(&graph, &["logits", "language_logits"]);
    let languages = weights.shape("language.bias").unwrap()[0];
    assert_eq!(shape(&graph.messages(12)[1]), ["batch".to_owned(), languages.to_string()]);
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let tiny = Tiny::default();
    let bytes = tiny.weights();
    let weights = TensorFile::parse(&bytes).unwrap();
    let error = |change: fn(&mut EncoderConfig)| {
        let mut config = tiny.config.clone();
        change(&mut config);
        onnx(&config, &weights, LastLayer::AllTokens).unwrap_err()
    };
    let narrow = error(|config| config.intermediate_size = 8);
    assert!(matches!(narrow, ExportError::Weights(WeightsError::Shape { .. })), "{narrow}");
    let deep = error(|config| config.num_hidden_layers = 3);
    assert!(matches!(deep, ExportError::Weights(WeightsError::Missing(_))), "{deep}");
    // Found before anything is read or widened.
    let huge = error(|config| config.vocab_size = 1 << 25);
    assert!(matches!(huge, ExportError::TooLarge), "{huge}");
}

#[test]
fn a_directory_for_transformers_has_plain_weights_and_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    for tiny in [Tiny::default(), Tiny { four_bit: true, eight_bit: Some("dense"), ..Tiny::default() }] {
        let bundle = tiny.bundle();
        for (name, content) in transformers(&bundle).unwrap() {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let plain = Bundle::from_dir(dir.path()).unwrap();
        let (ours, theirs) = (TensorFile::parse(&bundle.weights).unwrap(), TensorFile::parse(&plain.weights).unwrap());
        for name in theirs.names() {
            let shape = theirs.shape(name).unwrap();
            assert!(!name.ends_with(".scale"), "{name}");
            assert_eq!(ours.read(name, &shape).unwrap(), theirs.read(name, &shape).unwrap(), "{name}");
        }
        let scales = ours.names().into_iter().filter(|name| name.ends_with(".scale")).count();
        assert_eq!(theirs.names().len() + scales, ours.names().len());
        assert_eq!(plain.config, bundle.config);
        // At 8 bits the engine rounds more than the weights.
        let text = "where is my order?";
        let (ours, theirs) = (Guard::from_bundle(&bundle).unwrap(), Guard::from_bundle(&plain).unwrap());
        for (a, b) in ours.logits(None, text).iter().zip(theirs.logits(None, text)) {
            assert!((a - b).abs() < 0.15, "{a} {b}");
        }
        let json = std::fs::read(dir.path().join("tokenizer_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(config["model_max_length"], ours.config().max_tokens);
    }
}

#[test]
fn a_broken_model_is_refused() {
    let bundle = Tiny::default().bundle();
    let error = transformers(&Bundle { weights: b"nothing"[..].into(), ..bundle.clone() }).unwrap_err();
    assert!(matches!(error, LoadError::Weights(WeightsError::Format(_))), "{error}");
    let error = transformers(&Bundle { guard: b"{}"[..].into(), ..bundle }).unwrap_err();
    assert!(matches!(error, LoadError::Guard(_)), "{error}");
}
