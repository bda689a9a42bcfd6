//! The word embedding table on the host, updated row by row.

use candle_core::{Device, Result, Tensor, Var};

/// A table of `rows x width` with the Adam moments of every row.
///
/// A training step takes the rows its batch uses out as one small variable ([`EmbeddingTable::gather`]) and puts the
/// gradient of that variable back ([`EmbeddingTable::update`]): "lazy" Adam, in which a row that a batch does not use
/// keeps its value and its moments.
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    width: usize,
    pub(crate) values: Vec<f32>,
    pub(crate) first_moment: Vec<f32>,
    pub(crate) second_moment: Vec<f32>,
}

/// One step of Adam on a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamStep {
    pub(crate) learning_rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    /// Counted from 1, for the bias correction.
    pub(crate) step: usize,
    /// The gradient is multiplied by this first.
    pub(crate) clip: f64,
}

impl EmbeddingTable {
    /// A table of these values, row after row.
    pub fn new(values: Vec<f32>, width: usize) -> Self {
        let zeros = vec![0.0; values.len()];
        EmbeddingTable { width, values, first_moment: zeros.clone(), second_moment: zeros }
    }

    /// Values in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The values, row after row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The given rows as a variable of `ids.len() x width`.
    pub(crate) fn gather(&self, ids: &[u32], device: &Device) -> Result<Var> {
        let rows: Vec<f32> = ids.iter().flat_map(|&id| self.row(id)).copied().collect();
        Var::from_tensor(&Tensor::from_vec(rows, (ids.len(), self.width), device)?)
    }

    fn row(&self, id: u32) -> &[f32] {
        &self.values[id as usize * self.width..][..self.width]
    }

    /// Updates the given rows with the gradient of what [`EmbeddingTable::gather`] returned for them.
    pub(crate) fn update(&mut self, ids: &[u32], gradient: &Tensor, adam: AdamStep) -> Result<()> {
        let gradient: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
        let (beta1, beta2) = (adam.beta1 as f32, adam.beta2 as f32);
        let correct1 = 1.0 - adam.beta1.powi(adam.step as i32) as f32;
        let correct2 = 1.0 - adam.beta2.powi(adam.step as i32) as f32;
        let (rate, epsilon, clip) = (adam.learning_rate as f32, adam.epsilon as f32, adam.clip as f32);
        for (&id, gradient) in ids.iter().zip(gradient.chunks_exact(self.width)) {
            let range = id as usize * self.width..(id as usize + 1) * self.width;
            let rows = self.values[range.clone()]
                .iter_mut()
                .zip(&mut self.first_moment[range.clone()])
                .zip(&mut self.second_moment[range]);
            for (((value, m), v), g) in rows.zip(gradient) {
                let g = g * clip;
                *m = beta1 * *m + (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *value -= rate * (*m / correct1) / ((*v / correct2).sqrt() + epsilon);
            }
        }
        Ok(())
    }
}
