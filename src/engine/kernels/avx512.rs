//! Kernels for x86-64 with AVX-512.

use super::generic::{self, Linear, PANEL};
use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

/// Tokens that are computed together, so that a weight is loaded once for all of them; their sums stay in registers.
const TOKENS: usize = 8;

#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) fn linear(layer: &Linear, x: &[f32], out: &mut [f32]) {
    let (inputs, outputs) = (layer.inputs, layer.outputs);
    let mut x = x.chunks_exact(TOKENS * inputs);
    let mut out = out.chunks_exact_mut(TOKENS * outputs);
    for (x, out) in x.by_ref().zip(out.by_ref()) {
        block::<TOKENS>(layer, x, out);
    }
    for (x, out) in x.remainder().chunks_exact(inputs).zip(out.into_remainder().chunks_exact_mut(outputs)) {
        block::<1>(layer, x, out);
    }
}

/// The product for exactly `N` tokens.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn block<const N: usize>(layer: &Linear, x: &[f32], out: &mut [f32]) {
    let rows: [&[f32]; N] = std::array::from_fn(|token| &x[token * layer.inputs..][..layer.inputs]);
    for (p, panel) in layer.panels().enumerate() {
        let mut sums = [_mm512_setzero_ps(); N];
        for (i, weights) in panel.iter().enumerate() {
            // SAFETY: `weights` is an array of 16 values, which is what an unaligned load of 512 bits reads.
            let weights = unsafe { _mm512_loadu_ps(weights.as_ptr()) };
            for token in 0..N {
                sums[token] = _mm512_fmadd_ps(_mm512_set1_ps(rows[token][i]), weights, sums[token]);
            }
        }
        for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(layer.outputs)) {
            let mut stored = [0.0; PANEL];
            // SAFETY: `stored` is an array of 16 values, which is what an unaligned store of 512 bits writes.
            unsafe { _mm512_storeu_ps(stored.as_mut_ptr(), sum) };
            layer.finish(p, &stored, out);
        }
    }
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) fn gelu(x: &mut [f32]) {
    generic::gelu::<true>(x);
}
