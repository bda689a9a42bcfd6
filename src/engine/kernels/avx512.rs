//! Kernels for x86-64 with AVX-512.

use super::generic::{self, Linear};

#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) fn linear(layer: &Linear, x: &[f32], out: &mut [f32]) {
    generic::linear::<true>(layer, x, out);
}

#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) fn gelu(x: &mut [f32]) {
    generic::gelu::<true>(x);
}
