//! Products of rows with linear layers, and the bytes that an int8 product reads.

use super::{
    buffer::Buffer,
    layout::{Int8, Linear, PADDING, QUAD, stride},
    simd::{Kernel, LANES, Quads, Simd},
};

/// Quads in a cache line of a row.
const QUADS: usize = PADDING / QUAD;

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
