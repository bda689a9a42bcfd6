//! Writing weights: safetensors in f32, f16, int8 with a scale per row, or int8 with word embeddings at 4 bits.

use super::{Classifier, WORD_EMBEDDINGS, classifier::PROJECTION};
use crate::engine::{
    GROUP, SCALE_SUFFIX,
    quantize::{quantize_groups, quantize_rows},
};
use half::f16;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::{BTreeMap, HashMap};

/// The number format that weights are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value; what the rest of the world loads.
    #[default]
    F16,
    /// 1 byte a value in every matrix, with an f32 scale per row; vectors stay f32. A quarter of the size.
    Int8,
    /// As `Int8`, but the word embeddings at 4 bits a value, with an f16 scale per group of 32 in a row. The hidden size
    /// must be a multiple of 32.
    Int4,
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Dtype::F32),
            "f16" => Ok(Dtype::F16),
            "int8" => Ok(Dtype::Int8),
            "int4" => Ok(Dtype::Int4),
            _ => Err(format!("unknown number format {name:?}: use f32, f16, int8 or int4")),
        }
    }
}

/// The classifier as a safetensors file under the standard names.
///
/// # Errors
/// Candle's, when a variable cannot be read back from its device; a message, when [`Dtype::Int4`] does not fit the hidden
/// size.
pub fn encode_weights(classifier: &Classifier, dtype: Dtype) -> candle_core::Result<Vec<u8>> {
    let width = classifier.words.width();
    if dtype == Dtype::Int4 && !width.is_multiple_of(GROUP) {
        candle_core::bail!("int4 needs a hidden size that is a multiple of {GROUP}, this one is {width}");
    }
    let mut stored: BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut put = |name: &str, mut shape: Vec<usize>, values: &[f32]| {
        let f32_bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (kind, bytes) = match dtype {
            Dtype::F16 => (Stored::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
            Dtype::Int4 if name == WORD_EMBEDDINGS => {
                let (quantized, scales) = quantize_groups(values, width);
                let scales = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                let scale = (Stored::F16, vec![shape[0], width / GROUP], scales);
                stored.insert(format!("{name}{SCALE_SUFFIX}"), scale);
                shape[1] = width / 2;
                (Stored::U8, quantized)
            }
            Dtype::Int8 | Dtype::Int4 if shape.len() == 2 => {
                let (quantized, scales) = quantize_rows(values, shape[1]);
                let scale = (Stored::F32, vec![shape[0]], f32_bytes(&scales));
                stored.insert(format!("{name}{SCALE_SUFFIX}"), scale);
                (Stored::I8, quantized.into_iter().map(|q| q as u8).collect())
            }
            Dtype::F32 | Dtype::Int8 | Dtype::Int4 => (Stored::F32, f32_bytes(values)),
        };
        stored.insert(name.to_owned(), (kind, shape, bytes));
    };
    for (name, variable) in classifier.variables().iter().filter(|(name, _)| !name.starts_with(PROJECTION)) {
        put(name, variable.dims().to_vec(), &variable.flatten_all()?.to_vec1::<f32>()?);
    }
    put(WORD_EMBEDDINGS, vec![classifier.words.values().len() / width, width], classifier.words.values());
    let views = stored
        .iter()
        .map(|(name, (kind, shape, bytes))| Ok((name, TensorView::new(*kind, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(candle_core::Error::wrap)?;
    // Readers of plain tensors may refuse a file that does not say which framework's they are; ours alone reads the others.
    let is_plain = matches!(dtype, Dtype::F32 | Dtype::F16);
    let metadata = is_plain.then(|| HashMap::from([("format".to_owned(), "pt".to_owned())]));
    safetensors::serialize(views, metadata).map_err(candle_core::Error::wrap)
}
