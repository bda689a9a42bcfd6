//! AdamW over named variables, with clipping over the whole gradient; candle's own has no schedule and no clipping.

use crate::model::{Batch, Classifier, embedding::AdamStep};
use candle_core::{Result, Tensor, Var, backprop::GradStore};
use std::collections::BTreeMap;

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.98;
const EPSILON: f64 = 1e-8;

/// Settings of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub encoder: f64,
    pub words: f64,
    pub weight_decay: f64,
    pub clip: f64,
}

/// Moments of every variable but the word embeddings, which keep their own.
#[derive(Debug)]
pub(super) struct AdamW {
    pub(super) moments: BTreeMap<String, (Tensor, Tensor)>,
    pub(super) steps: usize,
}

impl AdamW {
    pub(super) fn new(classifier: &Classifier) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, variable) in classifier.variables() {
            moments.insert(name.clone(), (variable.zeros_like()?, variable.zeros_like()?));
        }
        Ok(AdamW { moments, steps: 0 })
    }

    /// Updates every variable, and the rows of the word embeddings that `words` holds for `batch`.
    pub(super) fn step(
        &mut self,
        classifier: &mut Classifier,
        batch: &Batch,
        words: &Var,
        gradients: &GradStore,
        rates: Rates,
    ) -> Result<()> {
        self.steps += 1;
        let mut squares = 0.0;
        for variable in classifier.variables().values().chain([words]) {
            if let Some(gradient) = gradients.get(variable) {
                squares += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let norm = squares.sqrt();
        let clip = if norm > rates.clip { rates.clip / norm } else { 1.0 };
        let correct1 = 1.0 - BETA1.powi(self.steps as i32);
        let correct2 = 1.0 - BETA2.powi(self.steps as i32);
        for (name, variable) in classifier.variables() {
            let (Some(gradient), Some((m, v))) = (gradients.get(variable), self.moments.get_mut(name)) else {
                continue;
            };
            let gradient = (gradient * clip)?;
            *m = ((&*m * BETA1)? + (&gradient * (1.0 - BETA1))?)?;
            *v = ((&*v * BETA2)? + (gradient.sqr()? * (1.0 - BETA2))?)?;
            let update = ((&*m / correct1)? / ((&*v / correct2)?.sqrt()? + EPSILON)?)?;
            let decay = if is_decayed(name) { rates.weight_decay } else { 0.0 };
            let kept = (variable.as_tensor() * (1.0 - rates.encoder * decay))?;
            variable.set(&(kept - (update * rates.encoder)?)?)?;
        }
        if let Some(gradient) = gradients.get(words).filter(|_| rates.words > 0.0) {
            let adam = AdamStep {
                learning_rate: rates.words,
                beta1: BETA1,
                beta2: BETA2,
                epsilon: EPSILON,
                step: self.steps,
                clip,
            };
            classifier.words.update(&batch.rows, gradient, adam)?;
        }
        Ok(())
    }
}

/// Matrices of linear layers are pulled towards zero; biases, norms and embeddings are not.
fn is_decayed(name: &str) -> bool {
    name.ends_with(".weight") && !name.contains("LayerNorm") && !name.contains("embeddings")
}
