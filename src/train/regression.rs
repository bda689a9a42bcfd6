//! Softmax regression on fixed vectors.

use crate::{data::Row, label::Flow};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const EPOCHS: usize = 40;

/// Vectors of rows as inputs: standardised by the first `fitted` of them, with the flow and a constant at the end.
pub(super) fn inputs<'a>(
    mut vectors: Vec<Vec<f32>>,
    rows: impl IntoIterator<Item = &'a Row>,
    fitted: usize,
) -> Vec<Vec<f32>> {
    standardize(&mut vectors, fitted);
    for (vector, row) in vectors.iter_mut().zip(rows) {
        vector.extend(Flow::ALL.map(|flow| f32::from(row.context == Some(flow))));
        vector.push(1.0);
    }
    vectors
}

/// Mean 0 and deviation 1 in every dimension, measured on the first `count` vectors.
fn standardize(vectors: &mut [Vec<f32>], count: usize) {
    let width = vectors.first().map_or(0, Vec::len);
    for dimension in 0..width {
        let values = || vectors[..count].iter().map(|vector| f64::from(vector[dimension]));
        let mean = values().sum::<f64>() / count as f64;
        let deviation = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / count as f64).sqrt().max(1e-9);
        for vector in vectors.iter_mut() {
            vector[dimension] = ((f64::from(vector[dimension]) - mean) / deviation) as f32;
        }
    }
}

/// Softmax regression by stochastic gradient descent with a falling rate; one row of weights per class.
pub(super) fn regress(inputs: &[Vec<f32>], gold: &[usize], classes: usize, decay: f32) -> Vec<Vec<f32>> {
    let width = inputs.first().map_or(0, Vec::len);
    let mut weights = vec![vec![0.0f32; width]; classes];
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for epoch in 0..EPOCHS {
        order.shuffle(&mut rng);
        let rate = 0.005 * (1.0 - epoch as f32 / EPOCHS as f32);
        for &row in &order {
            let scores = scores(&weights, &inputs[row]);
            for (class, (weights, score)) in weights.iter_mut().zip(scores).enumerate() {
                let error = score - f32::from(class == gold[row]);
                for (weight, x) in weights.iter_mut().zip(&inputs[row]) {
                    *weight -= rate * (error * x + decay * *weight);
                }
            }
        }
    }
    weights
}

pub(super) fn scores(weights: &[Vec<f32>], input: &[f32]) -> Vec<f32> {
    let logits: Vec<f32> =
        weights.iter().map(|weights| weights.iter().zip(input).map(|(weight, x)| weight * x).sum()).collect();
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - highest).exp()).sum();
    logits.iter().map(|logit| (logit - highest).exp() / total).collect()
}

pub(super) fn argmax(scores: &[f32]) -> usize {
    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_separates_what_a_line_can() {
        let inputs: Vec<Vec<f32>> =
            (0..300).map(|n| vec![(n as f32 * 0.7).sin(), (n as f32 * 1.3).cos(), 1.0]).collect();
        let gold: Vec<usize> = inputs.iter().map(|x| usize::from(2.0 * x[0] - x[1] > 0.2)).collect();
        let weights = regress(&inputs, &gold, 2, 0.0);
        let hits = inputs.iter().zip(&gold).filter(|(x, gold)| argmax(&scores(&weights, x)) == **gold).count();
        assert!(hits > 285, "{hits} of 300");
    }
}
