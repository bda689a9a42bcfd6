//! The inner loops, compiled once per instruction set and chosen once at run time.
//!
//! Kernels are written in terms of `Simd`, a vector of 16 values, and compiled anew for each instruction set; one file
//! per set says what its vectors are. Products on tiles have loops of their own. [`Isa`] is the token that says what the
//! machine has. This is the only module with `unsafe` code: intrinsics, each behind the proof that the machine has them,
//! calls of functions compiled for an instruction set after the check for it, the assembly of the tile unit, and the view
//! of a buffer as numbers.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod buffer;
mod elementwise;
#[cfg(feature = "train")]
mod gradient;
mod layout;
mod portable;
mod product;
mod simd;

pub(crate) use attention::Scratch as AttentionScratch;
pub(crate) use buffer::{Buffer, Part, bytes_of, fill, join};
#[cfg(feature = "train")]
pub(crate) use gradient::{GeluGradient, exp};
pub(crate) use layout::{Linear, Side, stride};
pub(crate) use product::{Input, Scale};

use attention::Attend;
use elementwise::{AddNormalize, CoarseGelu, Gelu, Tanh};
use layout::Weights;
use product::{F32Product, Int8Product, Quantize};
use simd::Kernel;
use std::fmt;

/// Rows from which on a product on tiles is faster than one on vectors.
#[cfg(target_arch = "x86_64")]
const ROWS_FOR_TILES: usize = 4;
/// Rows in a tile: a buffer of bytes is made of whole tiles.
pub(crate) const TILE_ROWS: usize = 16;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Amx(amx::Amx),
}

/// A norm's weight and bias, one padded row each.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Buffer<f32>,
    pub(crate) bias: Buffer<f32>,
    pub(crate) epsilon: f32,
}

impl Norm {
    /// The arrays that a forward pass reads.
    pub(crate) fn parts(&mut self) -> [&mut dyn Part; 2] {
        [&mut self.weight, &mut self.bias]
    }
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Isa(Kind::Portable))
    }

    /// Every instruction set that this machine can run, slowest first. Never empty.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut sets = vec![Isa(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if avx2::is_available() {
                sets.push(Isa(Kind::Avx2));
            }
            if avx2::has_vnni() {
                sets.push(Isa(Kind::AvxVnni));
            }
            if avx512::is_available() {
                sets.push(Isa(Kind::Avx512));
                sets.extend(amx::Amx::detect().map(|amx| Isa(Kind::Amx(amx))));
            }
        }
        sets
    }

    /// `portable`, `avx2`, `avx-vnni`, `avx512` (with VNNI) or `amx` (with AVX-512).
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(_) => "amx",
        }
    }

    fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Portable => portable::run(kernel),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` makes an `Avx2` only after `avx2::is_available`, and nothing else does.
            Kind::Avx2 => unsafe { avx2::run(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` makes an `AvxVnni` only after `avx2::has_vnni`.
            Kind::AvxVnni => unsafe { avx2::run_vnni(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` makes these only after `avx512::is_available`.
            Kind::Avx512 | Kind::Amx(_) => unsafe { avx512::run(kernel) },
        }
    }

    /// The layer's results for the rows of `x`: as many as there are scales in an int8 layer, or else values.
    pub(crate) fn linear(self, layer: &Linear, x: Input<'_>, out: &mut [f32]) {
        match &layer.weights {
            Weights::F32(panels) => self.run(F32Product { layer, panels, x: x.values, out }),
            Weights::Int8(weights) => {
                let Input { bytes: x, scales, .. } = x;
                #[cfg(target_arch = "x86_64")]
                if let Kind::Amx(amx) = self.0
                    && scales.len() >= ROWS_FOR_TILES
                {
                    return self.run(amx::Product { amx, layer, weights, x, scales, out });
                }
                self.run(Int8Product { layer, weights, x, scales, out });
            }
        }
    }

    /// Bytes and a scale for each row of `width` values, a [`stride`] apart; rows of bytes have none between them.
    pub(crate) fn quantize(self, values: &[f32], width: usize, bytes: &mut [u8], scales: &mut [Scale]) {
        self.run(Quantize { values, width, bytes, scales });
    }

    /// `hidden = norm(hidden + update)` for rows with `width` values that count. An empty `update` adds nothing.
    pub(crate) fn add_normalize(self, norm: &Norm, width: usize, update: &[f32], hidden: &mut [f32]) {
        let (weight, bias) = (norm.weight.as_slice(), norm.bias.as_slice());
        self.run(AddNormalize { update, hidden, width, weight, bias, epsilon: norm.epsilon });
    }

    /// The exact GELU (with the error function), in place.
    pub(crate) fn gelu(self, x: &mut [f32]) {
        self.run(Gelu(x));
    }

    /// GELU to 1.5e-4 for values that will be quantised, in place; the length is a multiple of 16.
    pub(crate) fn coarse_gelu(self, x: &mut [f32]) {
        self.run(CoarseGelu(x));
    }

    /// The hyperbolic tangent, in place; the length is a multiple of 16.
    pub(crate) fn tanh(self, x: &mut [f32]) {
        self.run(Tanh(x));
    }

    /// Softmax attention of `heads` heads of `width` values for every row of `query` over all rows of `key_value`.
    pub(crate) fn attend(
        self,
        (heads, width): (usize, usize),
        query: &[f32],
        key_value: &[f32],
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let scale = 1.0 / (width as f32).sqrt();
        self.run(Attend { side: Side::heads(heads, width), heads, scale, query, key_value, scratch, out });
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{quantize::quantize_rows, rows::Rows};
    use proptest::prelude::*;

    fn matrix(rows: usize, width: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-2.0f32..2.0, rows * width)
    }

    /// Rows with zeros where they are padded, and whole tiles of bytes of them.
    fn padded(isa: Isa, x: &[f32], side: Side, tokens: usize) -> (Vec<f32>, Vec<u8>, Vec<Scale>) {
        let mut rows = vec![0.0; tokens * stride(side.row())];
        for (row, x) in rows.chunks_exact_mut(stride(side.row())).zip(x.chunks_exact(side.len())) {
            row[..side.len()].copy_from_slice(x);
        }
        let mut bytes = vec![0; tokens.next_multiple_of(TILE_ROWS) * side.row()];
        let mut scales = vec![Scale::default(); tokens];
        isa.quantize(&rows, side.row(), &mut bytes, &mut scales);
        (rows, bytes, scales)
    }

    proptest! {
        #[test]
        fn products_equal_the_naive_ones(
            (inputs, outputs, tokens, weight, bias, x) in (1usize..150, prop_oneof![9 => 1usize..70, 1 => Just(512)], 1usize..70).prop_flat_map(|(i, o, t)| {
                (Just(i), Just(o), Just(t), matrix(2 * o, i), matrix(1, 2 * o), matrix(t, i))
            })
        ) {
            let (side_in, side_out) = (Side::plain(inputs), Side::plain(outputs));
            let (int8, scales) = quantize_rows(&weight, inputs);
            let widened: Vec<f32> = int8.iter().enumerate().map(|(n, &q)| f32::from(q) * scales[n / inputs]).collect();
            let halves = |of: &dyn Fn(std::ops::Range<usize>) -> Rows| {
                [0..outputs, outputs..2 * outputs].map(|rows| (of(rows.clone()), bias[rows].to_vec()))
            };
            let layers = [
                Linear::pack(&halves(&|rows| Rows::from_f32(&weight[rows.start * inputs..rows.end * inputs])), side_in, side_out),
                Linear::pack(
                    &halves(&|rows| Rows::from_int8(&int8[rows.start * inputs..rows.end * inputs], &scales[rows])),
                    side_in,
                    side_out,
                ),
            ];
            for isa in Isa::available() {
                let (values, bytes, x_scales) = padded(isa, &x, side_in, tokens);
                for layer in &layers {
                    let mut out = vec![f32::NAN; tokens * stride(2 * side_out.row())];
                    isa.linear(layer, Input { values: &values, bytes: &bytes, scales: &x_scales }, &mut out);
                    for t in 0..tokens {
                        for o in 0..2 * outputs {
                            let value = |i: usize| if layer.is_int8() {
                                let q = f64::from(bytes[t * side_in.row() + i]) - f64::from(x_scales[t].zero);
                                q * f64::from(x_scales[t].step) * f64::from(widened[o * inputs + i])
                            } else {
                                f64::from(x[t * inputs + i]) * f64::from(weight[o * inputs + i])
                            };
                            let expected = (0..inputs).map(value).sum::<f64>() + f64::from(bias[o]);
                            let found = out[t * stride(2 * side_out.row()) + o / outputs * side_out.row() + o % outputs];
                            prop_assert!((f64::from(found) - expected).abs() < 1e-3, "{isa} token {t} output {o}: {found}, not {expected}");
                        }
                    }
                }
            }
        }

        #[test]
        fn quantised_rows_are_within_half_a_step(tokens in 1usize..5, x in matrix(5, 70), power in -30i32..30) {
            let side = Side::plain(70);
            let x: Vec<f32> = x[..tokens * 70].iter().map(|x| x * 10f32.powi(power)).collect();
            for isa in Isa::available() {
                let (_, bytes, scales) = padded(isa, &x, side, tokens);
                for (t, row) in x.chunks(70).enumerate() {
                    for (i, &x) in row.iter().enumerate() {
                        let Scale { step, zero } = scales[t];
                        let back = (f32::from(bytes[t * side.row() + i]) - zero) * step;
                        prop_assert!((back - x).abs() <= 0.501 * step, "{isa}: {x} became {back}");
                    }
                }
            }
        }

        #[test]
        fn gelu_is_close_everywhere(x in prop::collection::vec(-12.0f32..12.0, 1..50)) {
            for isa in Isa::available() {
                let mut out = x.clone();
                isa.gelu(&mut out);
                for (&x, &y) in x.iter().zip(&out) {
                    prop_assert!((f64::from(y) - exact_gelu(x)).abs() < 2e-6, "{isa} gelu({x}) = {y}");
                }
                let mut out: Vec<f32> = x.iter().copied().cycle().take(64).collect();
                isa.coarse_gelu(&mut out);
                for (&x, &y) in x.iter().cycle().zip(&out) {
                    prop_assert!((f64::from(y) - exact_gelu(x)).abs() < 1.5e-4, "{isa} coarse gelu({x}) = {y}");
                }
            }
        }

        #[test]
        fn tanh_is_close_everywhere(x in prop::array::uniform16(-20.0f32..20.0), power in -6i32..1) {
            let x = x.map(|x| x * 10f32.powi(power));
            for isa in Isa::available() {
                let mut out = x;
                isa.tanh(&mut out);
                for (x, y) in x.into_iter().zip(out) {
                    prop_assert!((y - x.tanh()).abs() < 1e-6, "{isa} tanh({x}) = {y}");
                }
            }
        }

        #[test]
        fn norm_equals_the_naive_one(
            (width, x, update, weight, bias) in (1usize..150)
                .prop_flat_map(|w| (Just(w), matrix(3, w), matrix(3, w), matrix(1, w), matrix(1, w)))
        ) {
            let side = Side::plain(width);
            let rows = |x: &[f32]| -> Vec<f32> {
                let zeros = vec![0.0; side.row() - width];
                x.chunks(width).flat_map(|row| [row, &zeros].concat()).collect()
            };
            let buffer = |x: &[f32]| {
                let mut buffer = Buffer::zeros(side.row());
                buffer.room(width).copy_from_slice(x);
                buffer
            };
            let norm = Norm { weight: buffer(&weight), bias: buffer(&bias), epsilon: 1e-5 };
            for isa in Isa::available() {
                for update in [&update[..], &[]] {
                    let mut hidden = rows(&x);
                    isa.add_normalize(&norm, width, &rows(update), &mut hidden);
                    for (t, row) in x.chunks(width).enumerate() {
                        let sum: Vec<f64> = row.iter().enumerate()
                            .map(|(i, &x)| f64::from(x) + update.get(t * width + i).map_or(0.0, |&x| f64::from(x))).collect();
                        let mean = sum.iter().sum::<f64>() / width as f64;
                        let variance = sum.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                        for i in 0..side.row() {
                            let expected = sum.get(i).map_or(0.0, |x| {
                                (x - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + f64::from(bias[i])
                            });
                            let found = f64::from(hidden[t * side.row() + i]);
                            prop_assert!((found - expected).abs() < 1e-3, "{isa} {t} {i}: {found}, not {expected}");
                        }
                    }
                }
            }
        }

        #[test]
        fn attention_equals_the_naive_one(
            (heads, width, tokens, wanted, query, key_value) in (1usize..5, 1usize..40, 1usize..40, 1usize..40)
                .prop_flat_map(|(h, w, t, q)| (Just(h), Just(w), Just(t), Just(q.min(t)), matrix(q, h * w), matrix(t, 2 * h * w)))
        ) {
            let side = Side::heads(heads, width);
            let mut queries = vec![0.0; wanted * side.row()];
            let mut keys = vec![0.0; tokens * 2 * side.row()];
            let at = |head: usize, d: usize| head * side.head() + d;
            for head in 0..heads {
                for d in 0..width {
                    for t in 0..wanted {
                        queries[t * side.row() + at(head, d)] = query[t * heads * width + head * width + d];
                    }
                    for t in 0..2 * tokens {
                        keys[t * side.row() + at(head, d)] = key_value[t * heads * width + head * width + d];
                    }
                }
            }
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; wanted * side.row()];
                isa.attend((heads, width), &queries, &keys, &mut AttentionScratch::default(), &mut out);
                prop_assert!(out.iter().all(|x| x.is_finite()));
                for t in 0..wanted {
                    for head in 0..heads {
                        let key = |s: usize, d: usize| f64::from(keys[2 * s * side.row() + at(head, d)]);
                        let value = |s: usize, d: usize| f64::from(keys[(2 * s + 1) * side.row() + at(head, d)]);
                        let score = |s: usize| (0..width).map(|d| f64::from(queries[t * side.row() + at(head, d)]) * key(s, d)).sum::<f64>() / (width as f64).sqrt();
                        let weights: Vec<f64> = (0..tokens).map(|s| score(s).exp()).collect();
                        for d in 0..width {
                            let expected = (0..tokens).map(|s| weights[s] * value(s, d)).sum::<f64>() / weights.iter().sum::<f64>();
                            let found = f64::from(out[t * side.row() + at(head, d)]);
                            prop_assert!((found - expected).abs() < 1e-4, "{isa} {t} {head} {d}: {found}, not {expected}");
                        }
                    }
                }
            }
        }
    }

    fn exact_gelu(x: f32) -> f64 {
        let x = f64::from(x);
        0.5 * x * (1.0 + erf(x / 2f64.sqrt()))
    }

    /// The error function by its Maclaurin series, or its limit where the series is slow.
    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn names_the_instruction_sets_under_test() {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        println!("kernels tested on: {}", names.join(", "));
        assert_eq!(Isa::detect(), *Isa::available().last().unwrap());
    }
}
