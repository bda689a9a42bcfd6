//! AdamW with clipping over the whole gradient and rates that the caller schedules; candle's own has neither.
//!
//! Values and moments are updated on the host in one pass: a few million parameters take less time there than the dozen
//! tensor operations of a formula would.

use crate::model::Classifier;
use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.98;
const EPSILON: f32 = 1e-8;

/// Settings of one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub encoder: f64,
    pub words: f64,
    pub weight_decay: f64,
    pub clip: f64,
}

/// The gradient of a step.
#[derive(Debug, Default)]
pub(super) struct Gradient {
    /// By variable; added up over the shards of a batch.
    pub variables: BTreeMap<String, Vec<f32>>,
    /// By row of the word embeddings, only for the rows that the batch uses.
    pub words: BTreeMap<u32, Vec<f32>>,
}

impl Gradient {
    pub(super) fn add(&mut self, other: Gradient) {
        let sum = |into: &mut Vec<f32>, from: Vec<f32>| {
            if into.is_empty() {
                *into = from;
            } else {
                into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
            }
        };
        for (name, values) in other.variables {
            sum(self.variables.entry(name).or_default(), values);
        }
        for (row, values) in other.words {
            sum(self.words.entry(row).or_default(), values);
        }
    }

    fn norm(&self) -> f64 {
        let values = self.variables.values().chain(self.words.values()).flatten();
        values.map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt()
    }
}

/// Running means of the gradient and of its square.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub first: Vec<f32>,
    pub second: Vec<f32>,
}

impl Moments {
    pub(super) fn new(len: usize) -> Self {
        Moments { first: vec![0.0; len], second: vec![0.0; len] }
    }
}

/// The state of the optimiser.
#[derive(Debug)]
pub(super) struct AdamW {
    pub variables: BTreeMap<String, Moments>,
    /// Of the word embeddings. A row that no batch uses keeps its value and its moments ("lazy" Adam).
    pub words: Moments,
    pub steps: usize,
}

impl AdamW {
    pub(super) fn new(classifier: &Classifier) -> Self {
        let variables = classifier.variables().iter();
        AdamW {
            variables: variables.map(|(name, variable)| (name.clone(), Moments::new(variable.elem_count()))).collect(),
            words: Moments::new(classifier.words.values().len()),
            steps: 0,
        }
    }

    /// Updates the variables and embedding rows that `gradient` names.
    pub(super) fn step(&mut self, classifier: &mut Classifier, gradient: &Gradient, rates: Rates) -> Result<()> {
        self.steps += 1;
        let norm = gradient.norm();
        let update = Update {
            clip: if norm > rates.clip { (rates.clip / norm) as f32 } else { 1.0 },
            correct1: 1.0 - BETA1.powi(self.steps as i32),
            correct2: 1.0 - BETA2.powi(self.steps as i32),
        };
        for (name, variable) in classifier.variables() {
            let (Some(gradient), Some(moments)) = (gradient.variables.get(name), self.variables.get_mut(name)) else {
                continue;
            };
            let mut values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
            let decay = if is_decayed(name) { rates.weight_decay } else { 0.0 };
            let kept = (1.0 - rates.encoder * decay) as f32;
            values.iter_mut().for_each(|value| *value *= kept);
            update.apply(&mut values, &mut moments.first, &mut moments.second, gradient, rates.encoder as f32);
            variable.set(&Tensor::from_vec(values, variable.dims(), classifier.device())?)?;
        }
        if rates.words > 0.0 {
            let width = classifier.words.width();
            for (&row, gradient) in &gradient.words {
                let range = row as usize * width..(row as usize + 1) * width;
                let Moments { first, second } = &mut self.words;
                let values = classifier.words.row_mut(row);
                update.apply(values, &mut first[range.clone()], &mut second[range], gradient, rates.words as f32);
            }
        }
        Ok(())
    }
}

/// One step of Adam, the same for every parameter.
#[derive(Clone, Copy, Debug)]
struct Update {
    clip: f32,
    correct1: f32,
    correct2: f32,
}

impl Update {
    fn apply(self, values: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], rate: f32) {
        for (((value, m), v), g) in values.iter_mut().zip(first).zip(second).zip(gradient) {
            let g = g * self.clip;
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            *value -= rate * (*m / self.correct1) / ((*v / self.correct2).sqrt() + EPSILON);
        }
    }
}

/// Matrices of linear layers are pulled towards zero; biases, norms and embeddings are not.
fn is_decayed(name: &str) -> bool {
    name.ends_with(".weight") && !name.contains("LayerNorm") && !name.contains("embeddings")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EncoderConfig;
    use candle_core::Device;

    #[test]
    fn a_step_moves_against_the_gradient_by_the_rate_and_only_where_there_is_one() {
        let labels = ["a", "b"].map(String::from);
        let mut classifier = Classifier::new(&EncoderConfig::new(9, 1, 32, &labels), 1, &Device::Cpu).unwrap();
        let mut optimizer = AdamW::new(&classifier);
        let before = classifier.words.values().to_vec();
        let bias = |c: &Classifier| c.variables()["classifier.bias"].to_vec1::<f32>().unwrap();
        let gradient = Gradient {
            variables: [("classifier.bias".to_owned(), vec![3.0, -4.0])].into(),
            words: [(2, vec![12.0; 32])].into(),
        };
        let rates = Rates { encoder: 0.01, words: 0.1, weight_decay: 0.0, clip: 1.0 };
        optimizer.step(&mut classifier, &gradient, rates).unwrap();
        // The first step of Adam is the rate times the sign, whatever the size.
        assert!((bias(&classifier)[0] + 0.01).abs() < 1e-5 && (bias(&classifier)[1] - 0.01).abs() < 1e-5);
        for (i, (before, after)) in before.iter().zip(classifier.words.values()).enumerate() {
            let moved = if i / 32 == 2 { 0.1 } else { 0.0 };
            assert!((before - after - moved).abs() < 1e-5, "row {}", i / 32);
        }
        assert!((gradient.norm() - (25.0 + 32.0 * 144.0f64).sqrt()).abs() < 1e-9);
    }
}
