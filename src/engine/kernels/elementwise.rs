//! Layer norm, GELU and the hyperbolic tangent.

use super::{
    layout::stride,
    simd::{Kernel, LANES, Simd},
};

/// Sums of a row that are computed side by side; a padded row is a multiple of so many vectors.
const SUMS: usize = 4;

/// `hidden = norm(hidden + update)` for rows a [`stride`] apart (Ba et al., 2016, <https://arxiv.org/abs/1607.06450>).
pub(super) struct AddNormalize<'a> {
    /// Empty to add nothing.
    pub(super) update: &'a [f32],
    pub(super) hidden: &'a mut [f32],
    /// Values in a row; what pads it stays zero.
    pub(super) width: usize,
    /// One row each, zero where rows are padded.
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
}

impl Kernel for AddNormalize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let row = self.weight.len();
        let (weight, bias) = (self.weight.as_chunks::<LANES>().0, self.bias.as_chunks::<LANES>().0);
        // Values past the width are off the mean too, but do not count.
        let (whole, rest) = (self.width / LANES, self.width % LANES);
        let mut counts = [0.0; LANES];
        counts[..rest].fill(1.0);
        let counts = simd.load(&counts);
        let mut updates = self.update.chunks_exact(stride(row));
        for hidden in self.hidden.chunks_exact_mut(stride(row)) {
            let hidden = hidden[..row].as_chunks_mut::<LANES>().0;
            // Several sums at once, so that one need not wait for the other.
            let mut sums = [simd.splat(0.0); SUMS];
            let update = updates.next().map_or(&[][..], |update| update[..row].as_chunks::<{ SUMS * LANES }>().0);
            for (n, four) in hidden.as_chunks_mut::<SUMS>().0.iter_mut().enumerate() {
                let update = update.get(n).map(|update| update.as_chunks::<LANES>().0);
                for (i, (x, sum)) in four.iter_mut().zip(&mut sums).enumerate() {
                    let mut added = simd.load(x);
                    if let Some(update) = update {
                        added = simd.add(added, simd.load(&update[i]));
                        simd.store(added, x);
                    }
                    *sum = simd.add(*sum, added);
                }
            }
            let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
            let mean = simd.sum(sum) / self.width as f32;
            let mean_lanes = simd.splat(mean);
            let mut squares = [simd.splat(0.0); SUMS];
            let (fours, rest_of_fours) = hidden[..whole].as_chunks::<SUMS>();
            for four in fours {
                for (x, squares) in four.iter().zip(&mut squares) {
                    let off = simd.sub(simd.load(x), mean_lanes);
                    *squares = simd.mul_add(off, off, *squares);
                }
            }
            for x in rest_of_fours {
                let off = simd.sub(simd.load(x), mean_lanes);
                squares[0] = simd.mul_add(off, off, squares[0]);
            }
            if rest > 0 {
                let off = simd.mul(simd.sub(simd.load(&hidden[whole]), mean_lanes), counts);
                squares[1] = simd.mul_add(off, off, squares[1]);
            }
            let squares = simd.add(simd.add(squares[0], squares[1]), simd.add(squares[2], squares[3]));
            let variance = simd.sum(squares) / self.width as f32;
            let scale = simd.splat(1.0 / (variance + self.epsilon).sqrt());
            for ((x, weight), bias) in hidden.iter_mut().zip(weight).zip(bias) {
                let off = simd.mul(simd.sub(simd.load(x), mean_lanes), scale);
                simd.store(simd.mul_add(off, simd.load(weight), simd.load(bias)), x);
            }
        }
    }
}

/// The exact GELU, with the error function, in place (Hendrycks and Gimpel, 2016, <https://arxiv.org/abs/1606.08415>).
pub(super) struct Gelu<'a>(pub(super) &'a mut [f32]);

impl Kernel for Gelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (vectors, rest) = self.0.as_chunks_mut::<LANES>();
        for x in vectors {
            simd.store(gelu(simd, simd.load(x)), x);
        }
        let mut last = [0.0; LANES];
        last[..rest.len()].copy_from_slice(rest);
        simd.store(gelu(simd, simd.load(&last)), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// `x` times the share of a normal distribution below `x`: what is above `|x|` is a polynomial times `e^(-x²/2)`, by formula
/// 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions (1964), to 3e-7.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::F) -> S::F {
    let splat = |x: f32| simd.splat(x);
    let a = simd.abs(x);
    let z = simd.mul(a, splat(std::f32::consts::FRAC_1_SQRT_2));
    let t = simd.reciprocal(simd.mul_add(z, splat(0.327_591_1), splat(1.0)));
    let mut poly = splat(0.5 * 1.061_405_4);
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        poly = simd.mul_add(poly, t, splat(0.5 * c));
    }
    let above = simd.mul(simd.mul(poly, t), exp(simd, simd.mul(simd.mul(z, z), splat(-1.0))));
    // max(x, 0) - |x| * above
    simd.sub(simd.max(splat(0.0), x), simd.mul(a, above))
}

/// GELU to 1.5e-4, in place: for what becomes bytes, whose steps are a hundred times larger.
pub(super) struct CoarseGelu<'a>(pub(super) &'a mut [f32]);

/// Values beyond this have a GELU of 0 or of themselves, within the tolerance.
const COARSE_END: f32 = 4.0;
/// `a` times the share of a normal distribution above `a`, as a polynomial of `a / 2 - 1`, highest power first: its Chebyshev
/// series on 0 to 4, cut off at the power of 8.
const COARSE: [f32; 9] =
    [0.01851911, -0.08454493, 0.02292287, 0.24358234, -0.304_754_3, 0.01231068, 0.217_945_4, -0.17138292, 0.04546216];

impl Kernel for CoarseGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for lanes in self.0.as_chunks_mut::<LANES>().0 {
            let x = simd.load(lanes);
            // -min(|x|, end)
            let a = simd.max(simd.splat(-COARSE_END), simd.sub(simd.splat(0.0), simd.abs(x)));
            let v = simd.mul_add(a, simd.splat(-2.0 / COARSE_END), simd.splat(-1.0));
            let mut above = simd.splat(COARSE[0]);
            for &c in &COARSE[1..] {
                above = simd.mul_add(above, v, simd.splat(c));
            }
            simd.store(simd.sub(simd.max(simd.splat(0.0), x), above), lanes);
        }
    }
}

/// The hyperbolic tangent of whole vectors, in place.
pub(super) struct Tanh<'a>(pub(super) &'a mut [f32]);

impl Kernel for Tanh<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let zero = simd.splat(0.0);
        for lanes in self.0.as_chunks_mut::<LANES>().0 {
            let x = simd.load(lanes);
            // One of the two is 1, the other at most 1: nothing overflows.
            let above = exp(simd, simd.mul(simd.sub(zero, simd.max(zero, x)), simd.splat(2.0)));
            let below = exp(simd, simd.mul(simd.sub(x, simd.max(zero, x)), simd.splat(2.0)));
            let tanh = simd.mul(simd.sub(below, above), simd.reciprocal(simd.add(below, above)));
            simd.store(tanh, lanes);
        }
    }
}

/// `e^x` for `x <= 0` to a relative error of 2e-7: a power of two, the rest by a polynomial.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::F) -> S::F {
    let splat = |x: f32| simd.splat(x);
    let x = simd.max(splat(-87.0), x);
    // Adding and taking away 1.5 * 2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    let n = simd.sub(simd.mul_add(x, splat(std::f32::consts::LOG2_E), splat(ROUND)), splat(ROUND));
    // ln 2 in two parts, so that the remainder keeps its low bits.
    let r = simd.mul_add(n, splat(2.121_944_4e-4), simd.mul_add(n, splat(-0.693_359_4), x));
    let mut poly = splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        poly = simd.mul_add(poly, r, splat(c));
    }
    simd.mul(poly, simd.power_of_two(n))
}
