//! A tiny model with random weights, for tests that are about the machinery.

// Each test file uses a part of this.
#![allow(dead_code)]

use half::f16;
use intentgate::{Bundle, engine::EncoderConfig};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use std::{borrow::Cow, collections::BTreeMap};

pub const LABELS: [&str; 5] = ["order", "appointment", "faq", "shopping_guide", "out_of_scope"];

/// Pieces: special tokens, the flows, then letters and a few words.
const PIECES: &[&str] = &[
    "<s>",
    "<pad>",
    "</s>",
    "<unk>",
    "<flow:order>",
    "<flow:appointment>",
    "<flow:faq>",
    "<flow:shopping_guide>",
    "▁",
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "i",
    "k",
    "l",
    "m",
    "n",
    "o",
    "p",
    "r",
    "s",
    "t",
    "u",
    "w",
    "y",
    "▁where",
    "▁is",
    "▁my",
    "▁order",
    "▁tomorrow",
    "?",
    "1",
    "2",
    "3",
];

pub struct Tiny {
    pub config: EncoderConfig,
    pub seed: u64,
    /// Multiplies every weight.
    pub gain: f32,
    /// Stores the word embeddings at 4 bits, with steps of an eighth of the gain.
    pub four_bit: bool,
    /// Stores the matrices with this in their names at 8 bits, with steps of a 127th of the gain.
    pub eight_bit: Option<&'static str>,
}

impl Default for Tiny {
    fn default() -> Self {
        let mut config = EncoderConfig::new(PIECES.len(), 2, 32, &LABELS.map(String::from));
        config.num_attention_heads = 2;
        config.max_position_embeddings = 24;
        Tiny { config, seed: 1, gain: 0.3, four_bit: false, eight_bit: None }
    }
}

impl Tiny {
    pub fn bundle(&self) -> Bundle<'static> {
        Bundle {
            config: owned(serde_json::to_vec(&self.config).unwrap()),
            weights: owned(self.weights()),
            tokenizer: owned(tokenizer()),
            guard: owned(guard_json()),
        }
    }

    /// Random weights of every tensor of the shape.
    pub fn weights(&self) -> Vec<u8> {
        let c = &self.config;
        let (h, wide) = (c.hidden_size, c.intermediate_size);
        let mut shapes: Vec<(String, Vec<usize>)> = vec![
            ("bert.embeddings.word_embeddings.weight".into(), vec![c.vocab_size, h]),
            ("bert.embeddings.position_embeddings.weight".into(), vec![c.max_position_embeddings, h]),
            ("bert.embeddings.token_type_embeddings.weight".into(), vec![c.type_vocab_size, h]),
        ];
        let mut linear = |name: String, outputs: usize, inputs: usize| {
            shapes.push((format!("{name}.weight"), vec![outputs, inputs]));
            shapes.push((format!("{name}.bias"), vec![outputs]));
        };
        for n in 0..c.num_hidden_layers {
            let layer = format!("bert.encoder.layer.{n}");
            for part in ["self.query", "self.key", "self.value", "output.dense"] {
                linear(format!("{layer}.attention.{part}"), h, h);
            }
            linear(format!("{layer}.intermediate.dense"), wide, h);
            linear(format!("{layer}.output.dense"), h, wide);
        }
        linear("bert.pooler.dense".into(), h, h);
        linear("classifier".into(), c.id2label.len(), h);
        let mut norm = |name: String| {
            shapes.push((format!("{name}.weight"), vec![h]));
            shapes.push((format!("{name}.bias"), vec![h]));
        };
        norm("bert.embeddings.LayerNorm".into());
        for n in 0..c.num_hidden_layers {
            norm(format!("bert.encoder.layer.{n}.attention.output.LayerNorm"));
            norm(format!("bert.encoder.layer.{n}.output.LayerNorm"));
        }
        // A small linear congruential generator: the values only have to be all over the place.
        let mut state = self.seed;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> = BTreeMap::new();
        for (name, shape) in shapes {
            let mut values: Vec<f32> = (0..shape.iter().product()).map(|_| random()).collect();
            if self.four_bit && name.ends_with("word_embeddings.weight") {
                let halves: Vec<u8> =
                    values.iter().map(|x| (x * 8.0).round().clamp(-8.0, 7.0) as i8 as u8 ^ 8).collect();
                let bytes = halves.chunks(2).map(|pair| (pair[0] & 15) | pair[1] << 4).collect();
                let scales = f16::from_f32(self.gain / 8.0).to_le_bytes().repeat(values.len() / 32);
                tensors.insert(format!("{name}.scale"), (Dtype::F16, vec![shape[0], shape[1] / 32], scales));
                tensors.insert(name, (Dtype::U8, vec![shape[0], shape[1] / 2], bytes));
            } else if shape.len() == 2 && self.eight_bit.is_some_and(|part| name.contains(part)) {
                let bytes = values.iter().map(|x| (x * 127.0).round().clamp(-127.0, 127.0) as i8 as u8).collect();
                let scales = (self.gain / 127.0).to_le_bytes().repeat(shape[0]);
                tensors.insert(format!("{name}.scale"), (Dtype::F32, vec![shape[0]], scales));
                tensors.insert(name, (Dtype::I8, shape, bytes));
            } else {
                values.iter_mut().for_each(|x| *x *= self.gain);
                let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
                tensors.insert(name, (Dtype::F32, shape, bytes));
            }
        }
        let views = tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        safetensors::serialize(views, None).unwrap()
    }
}

fn owned(bytes: Vec<u8>) -> Cow<'static, [u8]> {
    Cow::Owned(bytes)
}

fn tokenizer() -> Vec<u8> {
    let added: Vec<_> = PIECES[..8]
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let vocab: Vec<_> = PIECES
        .iter()
        .enumerate()
        .map(|(id, piece)| json!([piece, if id < 8 { -1000.0 } else { -2.0 - id as f64 * 0.1 }]))
        .collect();
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    serde_json::to_vec(&json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": metaspace, "post_processor": null, "decoder": metaspace,
        "model": { "type": "Unigram", "unk_id": 3, "byte_fallback": false, "vocab": vocab },
    }))
    .unwrap()
}

pub fn guard_json() -> Vec<u8> {
    serde_json::to_vec(&json!({
        "format": 1, "model_version": "tiny", "oos_label": "out_of_scope", "temperature": 1.0, "thresholds": {},
        "min_margin": 0.1, "energy": { "threshold": 100.0, "scale": 1.0 }, "max_tokens": 24,
    }))
    .unwrap()
}

/// Writes the model as a directory.
pub fn write(bundle: &Bundle<'_>, dir: &std::path::Path) {
    let files = [&bundle.config, &bundle.weights, &bundle.tokenizer, &bundle.guard];
    for (name, bytes) in intentgate::guard::FILES.iter().zip(files) {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
