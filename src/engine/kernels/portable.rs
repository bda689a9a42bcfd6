//! Any CPU: plain loops, compiled for what the target guarantees.

use super::simd::{Kernel, LANES, Quads, Simd};

#[derive(Clone, Copy)]
pub(super) struct Portable;

pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable)
}

type F = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn each<T: Copy, R>(x: [T; LANES], y: [T; LANES], of: impl Fn(T, T) -> R) -> [R; LANES] {
    std::array::from_fn(|i| of(x[i], y[i]))
}

impl Simd for Portable {
    type F = F;
    type I = I;
    type W = Quads;
    const ROWS: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> F {
        *from
    }
    #[inline(always)]
    fn store(self, x: F, to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: F, b: F) -> F {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F, b: F) -> F {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F, b: F) -> F {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn mul_add(self, a: F, b: F, c: F) -> F {
        // A fused product would be a slow library call here.
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: F, b: F) -> F {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F, b: F) -> F {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, x: F) -> F {
        x.map(f32::abs)
    }
    #[inline(always)]
    fn reciprocal(self, x: F) -> F {
        x.map(|x| 1.0 / x)
    }
    #[inline(always)]
    fn power_of_two(self, n: F) -> F {
        n.map(|n| f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    fn sum(self, x: F) -> f32 {
        let mut sums = [0.0; 4];
        for four in x.as_chunks::<4>().0 {
            sums.iter_mut().zip(four).for_each(|(sum, x)| *sum += x);
        }
        sums.iter().sum()
    }
    #[inline(always)]
    fn largest(self, x: F) -> f32 {
        x.iter().fold(f32::NEG_INFINITY, |a, &b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn to_bytes(self, x: F) -> [u8; LANES] {
        // Adding this leaves no bits for a fraction, which rounds without a library call.
        const ROUND: f32 = 1.5 * (1u32 << 23) as f32;
        x.map(|x| ((x + ROUND).to_bits() & 255) as u8)
    }
    #[inline(always)]
    fn transpose(self, rows: &mut [[f32; LANES]; LANES]) {
        let from = *rows;
        for (i, row) in rows.iter_mut().enumerate() {
            row.iter_mut().zip(&from).for_each(|(x, from)| *x = from[i]);
        }
    }
    #[inline(always)]
    fn zeros(self) -> I {
        [0; LANES]
    }
    #[inline(always)]
    fn load_i32(self, from: &[i32; LANES]) -> I {
        *from
    }
    #[inline(always)]
    fn add_i32(self, a: I, b: I) -> I {
        each(a, b, i32::wrapping_add)
    }
    #[inline(always)]
    fn to_f32(self, x: I) -> F {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn splat_bytes(self, bytes: [u8; 4]) -> I {
        [i32::from_le_bytes(bytes); LANES]
    }
    #[inline(always)]
    fn load_quads(self, from: &Quads) -> Quads {
        *from
    }
    #[inline(always)]
    fn dot(self, mut sums: I, x: I, weights: Quads) -> I {
        let x = x[0].to_le_bytes().map(i32::from);
        for (sum, weights) in sums.iter_mut().zip(weights.as_chunks::<4>().0) {
            *sum += x.iter().zip(weights).map(|(x, &w)| x * i32::from(w)).sum::<i32>();
        }
        sums
    }
}
