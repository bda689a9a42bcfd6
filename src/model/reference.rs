//! candle-transformers' `BertModel` as a guard's backend: what the engine is measured against.

use crate::{
    engine::{EncoderConfig, TensorFile},
    guard::{Backend, LoadError},
};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use candle_transformers::models::bert::{BertModel, Config};
use std::{collections::HashMap, iter};

/// Messages in one pass on a GPU, so that padding and attention fit its memory.
const GPU_BATCH: usize = 256;

/// A BERT classifier in candle: on the CPU in f32, one message at a time, without padding; on a GPU in batches.
pub struct Reference {
    bert: BertModel,
    pooler: Linear,
    classifier: Linear,
    language: Option<Linear>,
    languages: usize,
}

impl Reference {
    /// Reads the same tensors as the engine, widened to f32.
    ///
    /// # Errors
    /// [`LoadError::Weights`] when a tensor cannot be read, [`LoadError::Backend`] when candle refuses the model.
    pub fn load(config: &EncoderConfig, file: &TensorFile<'_>, device: &Device) -> Result<Self, LoadError> {
        let mut tensors = HashMap::new();
        for name in file.names() {
            let shape = file.shape(name).unwrap_or_default();
            if name.ends_with(".weight") || name.ends_with(".bias") {
                let values = file.read(name, &shape)?;
                tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, device).map_err(refused)?);
            }
        }
        let languages = file.shape("language.weight").map_or(0, |shape| shape[0]);
        Self::build(config, languages, VarBuilder::from_tensors(tensors, DType::F32, device)).map_err(refused)
    }

    fn build(config: &EncoderConfig, languages: usize, vb: VarBuilder<'_>) -> candle_core::Result<Self> {
        let bert: Config =
            serde_json::to_value(config).and_then(serde_json::from_value).map_err(candle_core::Error::wrap)?;
        let h = config.hidden_size;
        Ok(Reference {
            bert: BertModel::load(vb.pp("bert"), &bert)?,
            pooler: linear(h, h, vb.pp("bert.pooler.dense"))?,
            classifier: linear(h, config.id2label.len(), vb.pp("classifier"))?,
            language: (languages > 0).then(|| linear(h, languages, vb.pp("language"))).transpose()?,
            languages,
        })
    }

    /// Logits of labels and languages, one message after the other. Messages are padded to the length of the longest.
    fn forward(&self, messages: &[&[u32]]) -> candle_core::Result<Vec<f32>> {
        let most = messages.iter().map(|message| message.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for message in messages {
            let padding = iter::repeat_n(0, most - message.len());
            ids.extend(message.iter().copied().chain(padding.clone()));
            mask.extend(iter::repeat_n(1u32, message.len()).chain(padding));
        }
        let rectangle = |values| Tensor::from_vec(values, (messages.len(), most), &self.bert.device);
        let (ids, mask) = (rectangle(ids)?, rectangle(mask)?);
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let pooled = self.pooler.forward(&hidden.i((.., 0))?.contiguous()?)?.tanh()?;
        let mut logits = self.classifier.forward(&pooled)?;
        if let Some(head) = &self.language {
            logits = Tensor::cat(&[logits, head.forward(&pooled)?], 1)?;
        }
        logits.flatten_all()?.to_vec1()
    }
}

fn refused(error: candle_core::Error) -> LoadError {
    LoadError::Backend(error.to_string())
}

impl Backend for Reference {
    fn logits(&self, ids: &[u32], logits: &mut [f32]) {
        self.logits_batch(ids, &[ids.len()], logits);
    }

    fn logits_batch(&self, mut ids: &[u32], lengths: &[usize], logits: &mut [f32]) {
        let messages: Vec<&[u32]> = lengths.iter().filter_map(|&length| ids.split_off(..length)).collect();
        let outputs = logits.len() / lengths.len().max(1);
        for (messages, logits) in messages.chunks(self.batch()).zip(logits.chunks_mut((self.batch() * outputs).max(1)))
        {
            match self.forward(messages) {
                Ok(values) => logits.iter_mut().zip(values).for_each(|(logit, value)| *logit = value),
                Err(_) => logits.fill(f32::NAN),
            }
        }
    }

    fn languages(&self) -> usize {
        self.languages
    }

    fn batch(&self) -> usize {
        // On the CPU padding costs more than company saves.
        if self.bert.device.is_cpu() { 1 } else { GPU_BATCH }
    }

    fn name(&self) -> String {
        if self.bert.device.is_cpu() { "candle f32".into() } else { "candle cuda tf32".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Classifier, Dtype, encode_weights};

    #[test]
    fn company_and_padding_change_nothing() {
        let labels = ["a", "b", "c"].map(String::from);
        let config = EncoderConfig { initializer_range: 0.2, ..EncoderConfig::new(50, 2, 32, &labels) };
        let mut classifier = Classifier::new(&config, 1, &Device::Cpu).unwrap();
        classifier.add_language_head(4, 1).unwrap();
        let weights = encode_weights(&classifier, Dtype::F32).unwrap();
        let reference = Reference::load(&config, &TensorFile::parse(&weights).unwrap(), &Device::Cpu).unwrap();
        let messages = [&[0, 7, 9, 2][..], &[0, 2], &[0, 5, 6, 8, 13, 2]];
        let together = reference.forward(&messages).unwrap();
        assert_eq!(together.len(), 3 * (3 + 4));
        let mut alone = vec![0.0; together.len()];
        reference.logits_batch(&messages.concat(), &messages.map(<[u32]>::len), &mut alone);
        for (a, b) in together.iter().zip(&alone) {
            assert!((a - b).abs() < 1e-5, "{together:?} {alone:?}");
        }
    }
}
