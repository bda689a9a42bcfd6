//! Kernels for any CPU: what the target guarantees, no run-time check.

use super::generic::{self, Linear};

pub(super) fn linear(layer: &Linear, x: &[f32], out: &mut [f32]) {
    generic::linear::<false>(layer, x, out);
}

pub(super) fn gelu(x: &mut [f32]) {
    generic::gelu::<false>(x);
}
