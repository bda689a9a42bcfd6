//! Softmax attention over the tokens of one message (Vaswani et al., 2017, <https://arxiv.org/abs/1706.03762>).

use super::{
    buffer::Buffer,
    elementwise::exp,
    layout::{Side, stride},
    simd::{Kernel, LANES, Simd},
};

/// Most queries that are computed together, so that a key is loaded once for all of them.
const TOGETHER: usize = 8;

/// Memory that [`Attend`] works in.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The keys of one head, token by token along the lanes.
    keys: Buffer<f32>,
    /// Scores of [`TOGETHER`] queries.
    scores: Buffer<f32>,
}

/// `out` for every row of `query` over all rows of `key_value`, head by head.
pub(super) struct Attend<'a> {
    pub(super) side: Side,
    pub(super) heads: usize,
    /// What scores are multiplied by.
    pub(super) scale: f32,
    /// Rows of `side.row()` values, a [`stride`] apart.
    pub(super) query: &'a [f32],
    /// A key and a value in each row, `side.row()` values each; a [`stride`] apart.
    pub(super) key_value: &'a [f32],
    pub(super) scratch: &'a mut Scratch,
    /// Like `query`.
    pub(super) out: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Attend { side, heads, scale, query, key_value, scratch, out } = self;
        let (row, width) = (side.row(), side.head());
        let (pair, single) = (stride(2 * row), stride(row));
        let tokens = key_value.len() / pair;
        let blocks = tokens.div_ceil(LANES);
        let keys = scratch.keys.room(blocks * width * LANES);
        let scores = scratch.scores.room(TOGETHER * blocks * LANES);
        out.chunks_exact_mut(single).for_each(|out| out[heads * width..].fill(0.0));
        for head in 0..heads {
            let at = head * width;
            transpose_keys(simd, key_value, pair, at..at + width, keys);
            let values = Values { rows: key_value, stride: pair, at: row + at, width };
            let (mut query, mut out) = (query, &mut *out);
            while !query.is_empty() {
                let queries = match query.len() / single {
                    8.. if S::ROWS > 4 => 8,
                    4.. => 4,
                    _ => 1,
                };
                let (these, rest) = query.split_at(queries * single);
                let (these_out, rest_out) = out.split_at_mut(queries * single);
                match queries {
                    8 => attend::<S, 8>(simd, scale, these, single, at, keys, values, scores, these_out),
                    4 => attend::<S, 4>(simd, scale, these, single, at, keys, values, scores, these_out),
                    _ => attend::<S, 1>(simd, scale, these, single, at, keys, values, scores, these_out),
                }
                (query, out) = (rest, rest_out);
            }
        }
    }
}

/// The part of a head in rows of keys and values.
#[derive(Clone, Copy)]
struct Values<'a> {
    rows: &'a [f32],
    stride: usize,
    at: usize,
    width: usize,
}

/// Writes the keys of a head as squares of 16 dimensions by 16 tokens.
#[inline(always)]
fn transpose_keys<S: Simd>(simd: S, key_value: &[f32], stride: usize, head: std::ops::Range<usize>, keys: &mut [f32]) {
    let mut squares = keys.as_chunks_mut::<LANES>().0.as_chunks_mut::<LANES>().0.iter_mut();
    for tokens in key_value.chunks(LANES * stride) {
        for dimension in head.clone().step_by(LANES) {
            let Some(square) = squares.next() else { return };
            let mut rows = square.iter_mut();
            for (token, key) in tokens.chunks_exact(stride).zip(rows.by_ref()) {
                key.copy_from_slice(&token[dimension..][..LANES]);
            }
            rows.for_each(|key| key.fill(0.0));
            simd.transpose(square);
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "one level of the loops above")]
fn attend<S: Simd, const N: usize>(
    simd: S,
    scale: f32,
    query: &[f32],
    single: usize,
    at: usize,
    keys: &[f32],
    values: Values<'_>,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let Values { rows, stride, at: value_at, width } = values;
    let tokens = rows.len() / stride;
    let blocks = tokens.div_ceil(LANES);
    let mut queries = [&[][..]; N];
    for (n, queries) in queries.iter_mut().enumerate() {
        *queries = query[n * single + at..][..width].as_chunks::<LANES>().0;
    }
    let scores: &mut [[f32; LANES]] = scores.as_chunks_mut().0;
    let mut highest = [simd.splat(f32::NEG_INFINITY); N];
    let scale = simd.splat(scale);
    for (block, keys) in keys.as_chunks::<LANES>().0.chunks_exact(width).enumerate() {
        let mut sums = [simd.splat(0.0); N];
        for (square, keys) in keys.as_chunks::<LANES>().0.iter().enumerate() {
            let mut of_square = [&[0.0; LANES]; N];
            for n in 0..N {
                of_square[n] = &queries[n][square];
            }
            for d in 0..LANES {
                let keys = simd.load(&keys[d]);
                for n in 0..N {
                    sums[n] = simd.mul_add(simd.splat(of_square[n][d]), keys, sums[n]);
                }
            }
        }
        // Lanes past the last token get no weight.
        let mut mask = [0.0; LANES];
        mask[LANES.min(tokens - block * LANES)..].fill(f32::NEG_INFINITY);
        let mask = simd.load(&mask);
        for n in 0..N {
            let sum = simd.mul_add(sums[n], scale, mask);
            highest[n] = simd.max(highest[n], sum);
            simd.store(sum, &mut scores[n * blocks + block]);
        }
    }
    let mut share = [0.0; N];
    for n in 0..N {
        let highest = simd.splat(simd.largest(highest[n]));
        let mut total = simd.splat(0.0);
        for score in &mut scores[n * blocks..][..blocks] {
            let weight = exp(simd, simd.sub(simd.load(score), highest));
            total = simd.add(total, weight);
            simd.store(weight, score);
        }
        share[n] = 1.0 / simd.sum(total);
    }
    for dimension in (0..width).step_by(LANES) {
        let mut sums = [simd.splat(0.0); N];
        for (block, rows) in rows.chunks(LANES * stride).enumerate() {
            let mut weights = [&[0.0; LANES]; N];
            for n in 0..N {
                weights[n] = &scores[n * blocks + block];
            }
            for (token, row) in rows.chunks_exact(stride).take(LANES).enumerate() {
                let Some(value) = row[value_at + dimension..].first_chunk() else { return };
                let value = simd.load(value);
                for n in 0..N {
                    sums[n] = simd.mul_add(simd.splat(weights[n][token % LANES]), value, sums[n]);
                }
            }
        }
        for n in 0..N {
            if let Some(out) = out[n * single + at + dimension..].first_chunk_mut() {
                simd.store(simd.mul(sums[n], simd.splat(share[n])), out);
            }
        }
    }
}
