//! Writing weights: safetensors in f32, f16 or int8 with a scale per row.

use super::{Classifier, WORD_EMBEDDINGS, classifier::PROJECTION};
use crate::engine::SCALE_SUFFIX;
use half::f16;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::BTreeMap;

/// The number format that weights are stored in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value; what the rest of the world loads.
    #[default]
    F16,
    /// 1 byte a value in every matrix, with an f32 scale per row; vectors stay f32. A quarter of the size.
    Int8,
}

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Dtype::F32),
            "f16" => Ok(Dtype::F16),
            "int8" => Ok(Dtype::Int8),
            _ => Err(format!("unknown number format {name:?}: use f32, f16 or int8")),
        }
    }
}

/// Symmetric int8 quantisation: each row is `scale * q` with `q` in -127..=127. Returns the values and one scale per row.
pub fn quantize_rows(values: &[f32], width: usize) -> (Vec<i8>, Vec<f32>) {
    values
        .chunks(width.max(1))
        .map(|row| {
            let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
            let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
            (row.iter().map(move |x| (x / scale).round() as i8), scale)
        })
        .fold((Vec::with_capacity(values.len()), Vec::new()), |(mut quantized, mut scales), (row, scale)| {
            quantized.extend(row);
            scales.push(scale);
            (quantized, scales)
        })
}

/// The classifier as a safetensors file under the standard names.
///
/// # Errors
/// Candle's, when a variable cannot be read back from its device.
pub fn encode_weights(classifier: &Classifier, dtype: Dtype) -> candle_core::Result<Vec<u8>> {
    let mut stored: BTreeMap<String, (Stored, Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut put = |name: &str, shape: Vec<usize>, values: &[f32]| {
        let f32_bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (kind, bytes) = match dtype {
            Dtype::F16 => (Stored::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
            Dtype::Int8 if shape.len() == 2 => {
                let (quantized, scales) = quantize_rows(values, shape[1]);
                let scale = (Stored::F32, vec![shape[0]], f32_bytes(&scales));
                stored.insert(format!("{name}{SCALE_SUFFIX}"), scale);
                (Stored::I8, quantized.into_iter().map(|q| q as u8).collect())
            }
            Dtype::F32 | Dtype::Int8 => (Stored::F32, f32_bytes(values)),
        };
        stored.insert(name.to_owned(), (kind, shape, bytes));
    };
    for (name, variable) in classifier.variables().iter().filter(|(name, _)| !name.starts_with(PROJECTION)) {
        put(name, variable.dims().to_vec(), &variable.flatten_all()?.to_vec1::<f32>()?);
    }
    let width = classifier.words.width();
    put(WORD_EMBEDDINGS, vec![classifier.words.values().len() / width, width], classifier.words.values());
    let views = stored
        .iter()
        .map(|(name, (kind, shape, bytes))| Ok((name, TensorView::new(*kind, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(candle_core::Error::wrap)?;
    safetensors::serialize(views, None).map_err(candle_core::Error::wrap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantised_rows_are_within_half_a_step(values in prop::collection::vec(-3.0f32..3.0, 1..60), width in 1usize..9) {
            let (quantized, scales) = quantize_rows(&values, width);
            for (i, (&x, &q)) in values.iter().zip(&quantized).enumerate() {
                let scale = scales[i / width];
                prop_assert!((x - f32::from(q) * scale).abs() <= 0.5001 * scale);
            }
        }
    }
}
