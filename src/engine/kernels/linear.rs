//! Linear layers in the packed layout, and their products.

use super::{
    buffer::{Buffer, Part},
    simd::{Kernel, LANES, Quads, Simd},
};
use crate::engine::tensors::Rows;

/// Inputs and outputs are padded to this: a row of bytes is whole cache lines, and tiles of 16 outputs come in fours.
const PADDING: usize = 64;
/// Inputs in one of [`Quads`].
const QUAD: usize = 4;
/// Quads in a cache line of a row.
const QUADS: usize = PADDING / QUAD;

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
        let int8: Option<Vec<_>> = matrices
            .iter()
            .map(|(rows, _)| if let Rows::I8(values, scales) = rows { Some((values, scales)) } else { None })
            .collect();
        let weights = if let Some(int8) = int8 {
            let mut quads = Buffer::zeros(all * width);
            let (mut scales, mut totals) = (Buffer::zeros(all), Buffer::zeros(all));
            let mut padded = vec![0; width];
            for (n, (values, row_scales)) in int8.into_iter().enumerate() {
                for (output, (row, scale)) in values.chunks_exact(inputs.len()).zip(row_scales).enumerate() {
                    let at = n * outputs.row() + outputs.place(output);
                    inputs.spread(row, &mut padded);
                    spread_row::<_, QUAD>(&padded, at, quads.room(all * width));
                    scales.room(all)[at] = *scale;
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

    /// The arrays that a product reads.
    pub(crate) fn parts(&mut self) -> Vec<&mut dyn Part> {
        match &mut self.weights {
            Weights::F32(panels) => vec![panels, &mut self.bias],
            Weights::Int8(Int8 { quads, scales, totals }) => vec![quads, scales, totals, &mut self.bias],
        }
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

/// A byte of a row is worth `step * (byte - zero)`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scale {
    pub(crate) step: f32,
    /// A whole number, 0 to 255.
    pub(crate) zero: f32,
}

/// The rows that a layer is given.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// As many rows as there are scales or more, or else all; a [`stride`] apart.
    pub(crate) values: &'a [f32],
    /// The same as bytes, in whole tiles of 16 rows; used by int8 layers.
    pub(crate) bytes: &'a [u8],
    /// How to read each row of bytes.
    pub(crate) scales: &'a [Scale],
}

impl Input<'_> {
    /// The first rows, of `width` values each.
    pub(crate) fn first(self, rows: usize, width: usize) -> Self {
        Input {
            values: &self.values[..rows * stride(width)],
            scales: &self.scales[..rows.min(self.scales.len())],
            ..self
        }
    }
}

pub(super) struct F32Product<'a> {
    pub(super) layer: &'a Linear,
    pub(super) panels: &'a Buffer<f32>,
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

/// Calls `$function::<S, N, …>` for a number of rows that is known only at run time.
macro_rules! for_rows {
    ($rows:expr, $function:ident $arguments:tt, $($n:literal $($parameter:literal)?),*) => {
        match $rows {
            $($n => $function::<_, $n $(, $parameter)?> $arguments,)*
            _ => unreachable!("blocks have at most 16 rows"),
        }
    };
}

/// How many rows the next block takes, so that blocks of at most `most` are about equal.
#[inline(always)]
fn next_block(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most))
}

impl Kernel for F32Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let F32Product { layer, panels, mut x, mut out } = self;
        let (in_stride, out_stride) = (stride(layer.inputs), stride(layer.outputs));
        while !x.is_empty() {
            let rows = next_block(x.len() / in_stride, S::ROWS.min(8));
            let (block, rest) = x.split_at(rows * in_stride);
            let (block_out, rest_out) = out.split_at_mut(rows * out_stride);
            for_rows!(rows, f32_block(simd, layer, panels, block, block_out), 1 4, 2 2, 3 2, 4 1, 5 1, 6 1, 7 1, 8 1);
            (x, out) = (rest, rest_out);
        }
    }
}

#[inline(always)]
fn f32_block<S: Simd, const N: usize, const SUMS: usize>(
    simd: S,
    layer: &Linear,
    panels: &Buffer<f32>,
    x: &[f32],
    out: &mut [f32],
) {
    let rows: [&[[f32; LANES]]; N] =
        std::array::from_fn(|n| x[n * stride(layer.inputs)..][..layer.inputs].as_chunks().0);
    let bias = layer.bias.as_slice().as_chunks::<LANES>().0;
    let panels = panels.as_slice().as_chunks::<LANES>().0.chunks_exact(layer.inputs);
    for (p, (panel, bias)) in panels.zip(bias).enumerate() {
        let mut sums = [[simd.splat(0.0); SUMS]; N];
        for (i, weights) in panel.as_chunks::<LANES>().0.iter().enumerate() {
            let x: [&[f32; LANES]; N] = std::array::from_fn(|n| &rows[n][i]);
            for i in (0..LANES).step_by(SUMS) {
                for s in 0..SUMS {
                    let weights = simd.load(&weights[i + s]);
                    for n in 0..N {
                        sums[n][s] = simd.mul_add(simd.splat(x[n][i + s]), weights, sums[n][s]);
                    }
                }
            }
        }
        for (n, sums) in sums.into_iter().enumerate() {
            let sum = sums.into_iter().fold(simd.load(bias), |sum, other| simd.add(sum, other));
            simd.store(sum, &mut out[n * stride(layer.outputs)..].as_chunks_mut().0[p]);
        }
    }
}

pub(super) struct Int8Product<'a> {
    pub(super) layer: &'a Linear,
    pub(super) weights: &'a Int8,
    pub(super) x: &'a [u8],
    pub(super) scales: &'a [Scale],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Int8Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Int8Product { layer, weights, x, mut scales, mut out } = self;
        let mut x = &x[..scales.len() * layer.inputs];
        while !x.is_empty() {
            let rows = next_block(scales.len(), S::ROWS);
            let (block, rest) = x.split_at(rows * layer.inputs);
            let (block_scales, rest_scales) = scales.split_at(rows);
            let (block_out, rest_out) = out.split_at_mut(rows * stride(layer.outputs));
            // With few rows the sums are split up, so that one need not wait for the other.
            if S::ROWS > 4 {
                for_rows!(
                    rows,
                    int8_block(simd, layer, weights, block, block_scales, block_out),
                    1 8, 2 4, 3 4, 4 2, 5 2, 6 2, 7 2, 8 1, 9 1, 10 1, 11 1, 12 1, 13 1, 14 1, 15 1, 16 1
                );
            } else {
                for_rows!(rows, int8_block(simd, layer, weights, block, block_scales, block_out), 1 4, 2 2, 3 1, 4 1);
            }
            (x, scales, out) = (rest, rest_scales, rest_out);
        }
    }
}

#[inline(always)]
fn int8_block<S: Simd, const N: usize, const SUMS: usize>(
    simd: S,
    layer: &Linear,
    weights: &Int8,
    x: &[u8],
    scales: &[Scale],
    out: &mut [f32],
) {
    let rows: [&[[u8; PADDING]]; N] = std::array::from_fn(|n| x[n * layer.inputs..][..layer.inputs].as_chunks().0);
    let panels = weights.quads.as_slice().as_chunks::<{ size_of::<Quads>() }>().0.chunks_exact(layer.inputs / QUAD);
    for (p, panel) in panels.enumerate() {
        let mut sums = [[simd.zeros(); SUMS]; N];
        for (i, quads) in panel.as_chunks::<QUADS>().0.iter().enumerate() {
            let x: [&[[u8; QUAD]]; N] = std::array::from_fn(|n| rows[n][i].as_chunks().0);
            for q in (0..QUADS).step_by(SUMS) {
                for s in 0..SUMS {
                    let quads = simd.load_quads(&quads[q + s]);
                    for n in 0..N {
                        sums[n][s] = simd.dot(sums[n][s], simd.splat_bytes(x[n][q + s]), quads);
                    }
                }
            }
        }
        for n in 0..N {
            let sum = sums[n][1..].iter().fold(sums[n][0], |sum, &other| simd.add_i32(sum, other));
            finish(simd, layer, weights, p, sum, scales[n], &mut out[n * stride(layer.outputs)..]);
        }
    }
}

/// Turns the sums of a panel into a row's results: scales and bias.
#[inline(always)]
pub(super) fn finish<S: Simd>(
    simd: S,
    layer: &Linear,
    weights: &Int8,
    panel: usize,
    sums: S::I,
    scale: Scale,
    out: &mut [f32],
) {
    let totals = simd.load(&weights.totals.as_slice().as_chunks().0[panel]);
    let sums = simd.mul_add(totals, simd.splat(-scale.zero), simd.to_f32(sums));
    let scales = simd.mul(simd.load(&weights.scales.as_slice().as_chunks().0[panel]), simd.splat(scale.step));
    let bias = simd.load(&layer.bias.as_slice().as_chunks().0[panel]);
    simd.store(simd.mul_add(sums, scales, bias), &mut out.as_chunks_mut().0[panel]);
}

/// Makes bytes of rows of `width` values, a [`stride`] apart: 256 steps from the smallest to the largest value of a row, one
/// of them zero.
pub(super) struct Quantize<'a> {
    pub(super) values: &'a [f32],
    pub(super) width: usize,
    pub(super) bytes: &'a mut [u8],
    pub(super) scales: &'a mut [Scale],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.values.chunks_exact(stride(self.width)).zip(self.bytes.chunks_exact_mut(self.width));
        let nothing = simd.splat(0.0);
        for ((values, bytes), scale) in rows.zip(self.scales) {
            let values = values[..self.width].as_chunks::<LANES>().0;
            let [mut low, mut high, mut broken] = [[nothing; 2]; 3];
            for pair in values.as_chunks::<2>().0 {
                for (i, x) in pair.iter().enumerate() {
                    let x = simd.load(x);
                    low[i] = simd.min(low[i], x);
                    high[i] = simd.max(high[i], x);
                    // Comparisons may lose what is not finite, sums do not.
                    broken[i] = simd.mul_add(x, nothing, broken[i]);
                }
            }
            let largest = simd.largest(simd.max(high[0], high[1]));
            let smallest = -simd.largest(simd.sub(nothing, simd.min(low[0], low[1])));
            // One step is left for the zero to be a whole number. A row of zeros, or of values too small to divide by, is
            // zeros.
            let step = ((largest - smallest) / 254.0).max(1e-30);
            let zero = (-smallest / step).ceil();
            *scale = Scale { step: step + simd.sum(simd.add(broken[0], broken[1])), zero };
            let (inverse, zero) = (simd.splat(1.0 / step), simd.splat(zero));
            for (x, bytes) in values.iter().zip(bytes.as_chunks_mut().0) {
                *bytes = simd.to_bytes(simd.mul_add(simd.load(x), inverse, zero));
            }
        }
    }
}
