//! The word embedding table on the host.

use crate::engine::quantize::round_trip_groups;
use candle_core::{Device, Result, Tensor, Var};

/// A table of `rows x width`. A batch takes the rows it uses out as one small variable, so that neither the gradient nor
/// the optimiser walks the whole table.
#[derive(Clone, Debug)]
pub struct EmbeddingTable {
    width: usize,
    values: Vec<f32>,
    /// Whether a batch sees the rows as they are once stored at 4 bits: training then learns to live with the rounding
    /// (its gradient passes through, Bengio et al., 2013, <https://arxiv.org/abs/1308.3432>).
    pub(crate) four_bit: bool,
}

impl EmbeddingTable {
    /// A table of these values, row after row.
    pub fn new(values: Vec<f32>, width: usize) -> Self {
        EmbeddingTable { width, values, four_bit: false }
    }

    /// Puts other values in the place of these.
    pub(crate) fn replace(&mut self, values: Vec<f32>) {
        self.values = values;
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
        let row = |&id: &u32| &self.values[id as usize * self.width..][..self.width];
        let mut rows: Vec<f32> = ids.iter().flat_map(row).copied().collect();
        if self.four_bit {
            round_trip_groups(&mut rows, self.width);
        }
        Var::from_tensor(&Tensor::from_vec(rows, (ids.len(), self.width), device)?)
    }

    /// Adds rows of zeros up to `rows` in all.
    pub(crate) fn grow(&mut self, rows: usize) {
        self.values.resize(rows * self.width, 0.0);
    }

    pub(crate) fn row_mut(&mut self, id: u32) -> &mut [f32] {
        &mut self.values[id as usize * self.width..][..self.width]
    }
}
