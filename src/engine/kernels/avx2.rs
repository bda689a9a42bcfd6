//! Kernels for x86-64 with AVX2 and FMA.

use super::generic::{self, Linear, PANEL};
use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};

/// Tokens that are computed together, so that a weight is loaded once for all of them; their sums stay in registers.
const TOKENS: usize = 4;

#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
fn block<const N: usize>(layer: &Linear, x: &[f32], out: &mut [f32]) {
    let rows: [&[f32]; N] = std::array::from_fn(|token| &x[token * layer.inputs..][..layer.inputs]);
    for (p, panel) in layer.panels().enumerate() {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for (i, weights) in panel.iter().enumerate() {
            let (low, high) = weights.split_at(PANEL / 2);
            // SAFETY: `low` and `high` are 8 values each, which is what an unaligned load of 256 bits reads.
            let (low, high) = unsafe { (_mm256_loadu_ps(low.as_ptr()), _mm256_loadu_ps(high.as_ptr())) };
            for token in 0..N {
                let x = _mm256_set1_ps(rows[token][i]);
                let [sum_low, sum_high] = sums[token];
                sums[token] = [_mm256_fmadd_ps(x, low, sum_low), _mm256_fmadd_ps(x, high, sum_high)];
            }
        }
        for ([low, high], out) in sums.into_iter().zip(out.chunks_exact_mut(layer.outputs)) {
            let mut stored = [0.0; PANEL];
            let (stored_low, stored_high) = stored.split_at_mut(PANEL / 2);
            // SAFETY: `stored_low` and `stored_high` are 8 values each, which is what an unaligned store of 256 bits writes.
            unsafe {
                _mm256_storeu_ps(stored_low.as_mut_ptr(), low);
                _mm256_storeu_ps(stored_high.as_mut_ptr(), high);
            }
            layer.finish(p, &stored, out);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) fn gelu(x: &mut [f32]) {
    generic::gelu::<true>(x);
}
