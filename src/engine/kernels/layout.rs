//! Linear layers in the packed layout.

use super::{
    buffer::{Buffer, Part},
    simd::LANES,
};
use crate::engine::rows::Rows;

/// Inputs and outputs are padded to this: a row of bytes is whole cache lines, and tiles of 16 outputs come in fours.
pub(super) const PADDING: usize = 64;
/// Inputs in one of [`Quads`](super::simd::Quads).
pub(super) const QUAD: usize = 4;

/// Where the values of a token lie in a padded row: in `groups` of `width` values, each filled up to `padded` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Side {
    groups: usize,
    width: usize,
    padded: usize,
    row: usize,
}

impl Side {
    /// The results of a last layer: whole vectors, but no input of another layer.
    pub(crate) fn last(width: usize) -> Self {
        Side { groups: 1, width, padded: width, row: width.next_multiple_of(LANES) }
    }

    /// `width` values one after the other.
    pub(crate) fn plain(width: usize) -> Self {
        Side { groups: 1, width, padded: width, row: width.next_multiple_of(PADDING) }
    }

    /// Attention heads, each in whole vectors.
    pub(crate) fn heads(heads: usize, width: usize) -> Self {
        let padded = width.next_multiple_of(LANES);
        Side { groups: heads, width, padded, row: (heads * padded).next_multiple_of(PADDING) }
    }

    /// Values without padding.
    pub(crate) fn len(self) -> usize {
        self.groups * self.width
    }

    /// Values in a padded row.
    pub(crate) fn row(self) -> usize {
        self.row
    }

    /// From the start of a head to that of the next.
    pub(crate) fn head(self) -> usize {
        self.padded
    }

    fn place(self, value: usize) -> usize {
        value / self.width * self.padded + value % self.width
    }

    /// Puts values in their places in a padded row.
    fn spread<T: Copy>(self, values: &[T], row: &mut [T]) {
        for (group, values) in row.chunks_mut(self.padded).zip(values.chunks_exact(self.width)) {
            group[..self.width].copy_from_slice(values);
        }
    }
}

/// Writes the weights of output `at` into its panel, `UNIT` inputs side by side.
fn spread_row<T: Copy, const UNIT: usize>(row: &[T], at: usize, panels: &mut [T]) {
    let panel = &mut panels[at / LANES * LANES * row.len()..][..LANES * row.len()];
    let lines = panel.as_chunks_mut::<UNIT>().0.chunks_exact_mut(LANES);
    for (line, weights) in lines.zip(row.as_chunks::<UNIT>().0) {
        line[at % LANES] = *weights;
    }
}

/// A linear layer, its weight cut into panels of 16 outputs.
///
/// A panel of f32 holds 16 weights for each input; one of int8 four times 16 for each four inputs, which is what both a
/// vector instruction and a row of a tile take. A row of int8 has its own scale.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) bias: Buffer<f32>,
    pub(super) weights: Weights,
}

#[derive(Debug)]
pub(super) enum Weights {
    F32(Buffer<f32>),
    Int8(Int8),
}

/// Int8 weights.
#[derive(Debug)]
pub(super) struct Int8 {
    pub(super) quads: Buffer<i8>,
    pub(super) scales: Buffer<f32>,
    /// The sum of the weights of each output: what a step of a row's zero takes from its product.
    pub(super) totals: Buffer<f32>,
}

impl Linear {
    /// Packs matrices of `outputs.len()` rows and `inputs.len()` columns, with their biases. Their results lie behind one
    /// another, each in a padded row. Int8 matrices stay int8, if all are.
    pub(crate) fn pack(matrices: &[(Rows, Vec<f32>)], inputs: Side, outputs: Side) -> Self {
        let (width, all) = (inputs.row(), matrices.len() * outputs.row());
        let mut bias = Buffer::zeros(all);
        for ((_, values), bias) in matrices.iter().zip(bias.room(all).chunks_exact_mut(outputs.row())) {
            values.iter().enumerate().for_each(|(output, &value)| bias[outputs.place(output)] = value);
        }
        let int8: Option<Vec<_>> = matrices.iter().map(|(rows, _)| rows.int8()).collect();
        let weights = if let Some(int8) = int8 {
            let mut quads = Buffer::zeros(all * width);
            let (mut scales, mut totals) = (Buffer::zeros(all), Buffer::zeros(all));
            let (mut row, mut padded) = (vec![0; inputs.len()], vec![0; width]);
            for (n, (values, row_scales)) in int8.into_iter().enumerate() {
                for (output, (bytes, scale)) in values.chunks_exact(inputs.len()).zip(row_scales).enumerate() {
                    let at = n * outputs.row() + outputs.place(output);
                    row.iter_mut().zip(bytes).for_each(|(value, &byte)| *value = byte as i8);
                    inputs.spread(&row, &mut padded);
                    spread_row::<_, QUAD>(&padded, at, quads.room(all * width));
                    scales.room(all)[at] = scale;
                    totals.room(all)[at] = row.iter().map(|&value| i32::from(value)).sum::<i32>() as f32;
                }
            }
            Weights::Int8(Int8 { quads, scales, totals })
        } else {
            let mut panels = Buffer::zeros(all * width);
            let (mut row, mut padded) = (vec![0.0; inputs.len()], vec![0.0; width]);
            for (n, (rows, _)) in matrices.iter().enumerate() {
                for output in 0..outputs.len() {
                    rows.copy(output, &mut row);
                    inputs.spread(&row, &mut padded);
                    spread_row::<_, 1>(&padded, n * outputs.row() + outputs.place(output), panels.room(all * width));
                }
            }
            Weights::F32(panels)
        };
        Linear { inputs: width, outputs: all, bias, weights }
    }

    /// A layer of `matrices` matrices that are all zeros, to be filled through [`Linear::parts`].
    pub(crate) fn zeros(is_int8: bool, matrices: usize, inputs: Side, outputs: Side) -> Self {
        let (width, all) = (inputs.row(), matrices * outputs.row());
        let weights = if is_int8 {
            let (scales, totals) = (Buffer::zeros(all), Buffer::zeros(all));
            Weights::Int8(Int8 { quads: Buffer::zeros(all * width), scales, totals })
        } else {
            Weights::F32(Buffer::zeros(all * width))
        };
        Linear { inputs: width, outputs: all, bias: Buffer::zeros(all), weights }
    }

    /// The arrays that a product reads.
    pub(crate) fn parts(&mut self) -> Vec<&mut dyn Part> {
        match &mut self.weights {
            Weights::F32(panels) => vec![panels, &mut self.bias],
            Weights::Int8(Int8 { quads, scales, totals }) => vec![quads, scales, totals, &mut self.bias],
        }
    }

    /// What is added to each value of a row of the result.
    pub(crate) fn bias(&self) -> &[f32] {
        self.bias.as_slice()
    }

    /// Values in a row of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Whether the input is to be quantised.
    pub(crate) fn is_int8(&self) -> bool {
        matches!(self.weights, Weights::Int8(_))
    }
}

/// From the start of a row of f32 to that of the next. Rows that are whole pages apart would all compete for the same few
/// lines of the first-level cache, which makes a product with 1,024 outputs three times slower.
pub(crate) fn stride(row: usize) -> usize {
    if (row * size_of::<f32>()).is_multiple_of(4096) { row + LANES } else { row }
}
