//! Products for training: bf16 operands, f32 sums.
//!
//! An operand is packed into tiles first, a pair of neighbours along the summed dimension
//! to a 32-bit word; a tile of the left operand has an output row in each row, one of the right operand an output column
//! in each column.

use super::{Amx, SIDE, configure, release};
use pulp::{Arch, Simd, WithSimd};
use std::arch::asm;

/// Values of the summed dimension in one tile.
const DEPTH: usize = 2 * SIDE;

type Tile = [[u32; SIDE]; SIDE];

/// Which dimension of a row-major matrix a product sums over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Columns,
    Rows,
}

/// A matrix in row-major order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub values: &'a [f32],
    pub columns: usize,
    /// The dimension that the product sums over; the other one is that of the result.
    pub sum: Sum,
}

impl Matrix<'_> {
    fn rows(&self) -> usize {
        self.values.len() / self.columns.max(1)
    }

    /// The size of the dimension that the result keeps, and of the one that is summed.
    fn sizes(&self) -> (usize, usize) {
        match self.sum {
            Sum::Columns => (self.rows(), self.columns),
            Sum::Rows => (self.columns, self.rows()),
        }
    }
}

impl Amx {
    /// `out = left * rightᵀ + bias`, in the sense that `out[i][j]` sums `left(i, k) * right(j, k)` over `k`. `out` is
    /// row-major; `bias`, if given, has a value for each of its columns.
    pub(crate) fn multiply(self, left: Matrix<'_>, right: Matrix<'_>, bias: Option<&[f32]>, out: &mut [f32]) {
        let ((rows, depth), (columns, depth_right)) = (left.sizes(), right.sizes());
        assert!(depth == depth_right && out.len() == rows * columns && bias.is_none_or(|bias| bias.len() == columns));
        if out.is_empty() {
            return;
        }
        // Without any depth the tiles are of zeros, and the bias is left.
        let steps = depth.div_ceil(DEPTH).max(1);
        let simd = Arch::new();
        // Two tiles each way are computed together, so that every tile that is loaded serves two products.
        let left = simd.dispatch(Pack { matrix: left, transposed: left.sum == Sum::Rows, steps });
        let right = simd.dispatch(Pack { matrix: right, transposed: right.sum == Sum::Columns, steps });
        let mut block = [[0.0f32; DEPTH]; DEPTH];
        configure(self);
        for (j, right) in right.chunks_exact(2 * steps).enumerate() {
            for (i, left) in left.chunks_exact(2 * steps).enumerate() {
                product(left, right, steps, &mut block);
                let out = &mut out[i * DEPTH * columns..];
                simd.dispatch(Finish { block: &block, bias, out, columns, first: j * DEPTH });
            }
        }
        release(self);
    }
}

/// Adds the bias to a block of sums and writes what is not padding to its place from column `first` on.
struct Finish<'a> {
    block: &'a [[f32; DEPTH]; DEPTH],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
    columns: usize,
    first: usize,
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Finish { block, bias, out, columns, first } = self;
        let width = DEPTH.min(columns - first);
        for (sums, out) in block.iter().zip(out.chunks_exact_mut(columns)) {
            let out = &mut out[first..][..width];
            match bias {
                Some(bias) => {
                    let bias = &bias[first..][..width];
                    out.iter_mut().zip(sums).zip(bias).for_each(|((out, sum), bias)| *out = sum + bias);
                }
                None => out.copy_from_slice(&sums[..width]),
            }
        }
    }
}

/// An f32 whose upper half is rounded to nearest even; the lower half is to be dropped.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff + ((bits >> 16) & 1))
}

#[inline(always)]
fn bf16(x: f32) -> u32 {
    rounded(x) >> 16
}

#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    bf16(low) | (bf16(high) << 16)
}

/// Packs an operand: `steps` tiles for every 16 of the kept dimension, which is padded with zeros to a multiple of 32.
/// `transposed` tells whether words that lie in a row of the matrix belong into a column of a tile, or the reverse.
struct Pack<'a> {
    matrix: Matrix<'a>,
    transposed: bool,
    steps: usize,
}

impl WithSimd for Pack<'_> {
    type Output = Vec<Tile>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<Tile> {
        let Pack { matrix, transposed, steps } = self;
        let (kept, depth) = matrix.sizes();
        let mut tiles = vec![[[0u32; SIDE]; SIDE]; kept.div_ceil(DEPTH) * 2 * steps];
        let (columns, values) = (matrix.columns, matrix.values);
        let zeros = [0.0f32; SIDE];
        for (n, tile) in tiles.iter_mut().enumerate() {
            let (at, from) = (n / steps * SIDE, n % steps * DEPTH);
            if at >= kept || from >= depth {
                continue;
            }
            match matrix.sum {
                Sum::Columns => {
                    let width = DEPTH.min(depth - from);
                    for (words, row) in tile.iter_mut().zip(values[at * columns..].chunks_exact(columns)) {
                        let row = &row[from..][..width];
                        if let Ok(row) = <&[f32; DEPTH]>::try_from(row) {
                            // Rounded first, joined then: loops that the compiler vectorises, which it does not in one.
                            let rounded = row.map(rounded);
                            for (word, [low, high]) in words.iter_mut().zip(rounded.as_chunks::<2>().0) {
                                let both = u64::from(*low) | (u64::from(*high) << 32);
                                *word = ((both >> 16) & 0xffff | (both >> 32) & 0xffff_0000) as u32;
                            }
                        } else {
                            for (word, pair_of) in words.iter_mut().zip(row.chunks(2)) {
                                *word = pair(pair_of[0], pair_of.get(1).copied().unwrap_or(0.0));
                            }
                        }
                    }
                }
                Sum::Rows => {
                    let width = SIDE.min(kept - at);
                    for (words, rows) in tile.iter_mut().zip(values[from * columns..].chunks(2 * columns)) {
                        let low = &rows[at..][..width];
                        let high = rows.get(columns + at..columns + at + width).unwrap_or(&zeros[..width]);
                        if let (Ok(low), Ok(high)) = (<&[f32; SIDE]>::try_from(low), <&[f32; SIDE]>::try_from(high)) {
                            for ((word, &low), &high) in words.iter_mut().zip(low).zip(high) {
                                *word = pair(low, high);
                            }
                        } else {
                            for ((word, &low), &high) in words.iter_mut().zip(low).zip(high) {
                                *word = pair(low, high);
                            }
                        }
                    }
                }
            }
            if transposed {
                let copy = *tile;
                for (i, row) in tile.iter_mut().enumerate() {
                    for (word, column) in row.iter_mut().zip(&copy) {
                        *word = column[i];
                    }
                }
            }
        }
        tiles
    }
}

/// The product of two rows of tiles with two columns of tiles, `steps` tiles long each, one after the other.
fn product(left: &[Tile], right: &[Tile], steps: usize, out: &mut [[f32; DEPTH]; DEPTH]) {
    assert!(steps > 0 && left.len() == 2 * steps && right.len() == 2 * steps);
    // SAFETY: an `Amx` exists and `configure` has run on this thread. Each operand pointer walks over `steps` tiles of
    // 1,024 bytes that the assertion says are there; the four results are 16 rows of 64 bytes each, 128 bytes apart,
    // inside the 32 rows of 128 bytes of `out`.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left0} + {stride}*1]",
            "tileloadd tmm6, [{right0} + {stride}*1]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{right1} + {stride}*1]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{left1} + {stride}*1]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left0}, 1024",
            "add {left1}, 1024",
            "add {right0}, 1024",
            "add {right1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "add {stride}, 64",
            "tilestored [{out} + {stride}*1], tmm0",
            "tilestored [{out} + {stride}*1 + 64], tmm1",
            "tilestored [{out} + {stride}*1 + 2048], tmm2",
            "tilestored [{out} + {stride}*1 + 2112], tmm3",
            left0 = inout(reg) left.as_ptr() => _,
            left1 = inout(reg) left[steps..].as_ptr() => _,
            right0 = inout(reg) right.as_ptr() => _,
            right1 = inout(reg) right[steps..].as_ptr() => _,
            steps = inout(reg) steps => _,
            stride = inout(reg) 64usize => _,
            out = in(reg) out.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(matrix: Matrix<'_>, kept: usize, k: usize) -> f32 {
        match matrix.sum {
            Sum::Columns => matrix.values[kept * matrix.columns + k],
            Sum::Rows => matrix.values[k * matrix.columns + kept],
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_product_of_rounded_values(
            (m, n, k, seed) in (1usize..70, 1usize..70, 1usize..100, any::<u32>()),
            (left_rows, right_rows, with_bias) in any::<(bool, bool, bool)>(),
        ) {
            let Some(amx) = Amx::detect() else {
                println!("no AMX here");
                return Ok(());
            };
            let mut state = seed | 1;
            let mut random = |count: usize| -> Vec<f32> {
                (0..count).map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 23) as f32 - 1.0
                }).collect()
            };
            let (left, right, bias) = (random(m * k), random(n * k), random(n));
            let of = |values, kept: usize, rows: bool| {
                Matrix { values, columns: if rows { kept } else { k }, sum: if rows { Sum::Rows } else { Sum::Columns } }
            };
            let (left, right) = (of(&left, m, left_rows), of(&right, n, right_rows));
            let mut out = vec![f32::NAN; m * n];
            amx.multiply(left, right, with_bias.then_some(&bias), &mut out);
            let rounded = |x: f32| f64::from(f32::from_bits(bf16(x) << 16));
            for i in 0..m {
                for j in 0..n {
                    let sum: f64 = (0..k).map(|k| rounded(at(left, i, k)) * rounded(at(right, j, k))).sum();
                    let expected = sum + if with_bias { f64::from(bias[j]) } else { 0.0 };
                    prop_assert!((f64::from(out[i * n + j]) - expected).abs() < 1e-4, "{i} {j}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_and_keeps_what_is_not_finite() {
        for (x, bits) in
            [(1.0, 0x3f80), (-2.5, 0xc020), (f32::INFINITY, 0x7f80), (1.0039062, 0x3f80), (1.0117188, 0x3f82)]
        {
            assert_eq!(bf16(x), bits, "{x}");
        }
        assert!(f32::from_bits(bf16(f32::NAN) << 16).is_nan());
    }
}
