//! candle-transformers' `BertModel` as a guard's backend: what the engine is measured against.

use crate::{
    engine::{EncoderConfig, TensorFile},
    guard::{Backend, LoadError},
};
use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear};
use candle_transformers::models::bert::{BertModel, Config};
use std::collections::HashMap;

/// A BERT classifier in candle f32, one message at a time, without padding.
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

    fn forward(&self, ids: &[u32]) -> candle_core::Result<Vec<f32>> {
        let ids = Tensor::new(ids, &self.bert.device)?.unsqueeze(0)?;
        let hidden = self.bert.forward(&ids, &ids.zeros_like()?, None)?;
        let pooled = self.pooler.forward(&hidden.i((.., 0))?.contiguous()?)?.tanh()?;
        let mut logits: Vec<f32> = self.classifier.forward(&pooled)?.i(0)?.to_vec1()?;
        if let Some(head) = &self.language {
            logits.extend(head.forward(&pooled)?.i(0)?.to_vec1::<f32>()?);
        }
        Ok(logits)
    }
}

fn refused(error: candle_core::Error) -> LoadError {
    LoadError::Backend(error.to_string())
}

impl Backend for Reference {
    fn logits(&self, ids: &[u32], logits: &mut [f32]) {
        match self.forward(ids) {
            Ok(values) => {
                for (logit, value) in logits.iter_mut().zip(values) {
                    *logit = value;
                }
            }
            Err(_) => logits.fill(f32::NAN),
        }
    }

    fn languages(&self) -> usize {
        self.languages
    }

    fn name(&self) -> String {
        "candle f32".into()
    }
}
