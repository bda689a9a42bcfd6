//! The operations of the encoder with their gradients.
//!
//! On the CPU each is one pass over memory of its own, several times faster than candle's primitives; on other devices it
//! is composed of primitives. Both compute the same, which the tests check in values and gradients.

mod attention;
mod gelu;
mod layer_norm;
mod linear;

pub(super) use attention::{Lengths, attention};
pub(super) use gelu::gelu;
pub(super) use layer_norm::layer_norm;
pub(super) use linear::linear;

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};
use pulp::Simd;

/// The values of a contiguous f32 tensor on the CPU.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&all[from..to]),
        None => Err(candle_core::Error::RequiresContiguous { op: "encoder op" }),
    }
}

/// Calls `work` with the values of tensors on the CPU.
fn with_values<const N: usize, R>(tensors: [&Tensor; N], work: impl FnOnce([&[f32]; N]) -> R) -> Result<R> {
    let tensors: Vec<Tensor> = tensors.iter().map(|tensor| tensor.contiguous()).collect::<Result<_>>()?;
    let storages: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&storages) {
        match &**storage {
            Storage::Cpu(storage) => *slice = values(storage, layout)?,
            _ => return Err(candle_core::Error::Msg("the tensor is not on the CPU".into())),
        }
    }
    Ok(work(slices))
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let products = a.iter().zip(b).fold(simd.splat_f32s(0.0), |sum, (&x, &y)| simd.mul_add_e_f32s(x, y, sum));
    simd.reduce_sum_f32s(products) + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Result, Tensor, Var};
    use rand::{RngExt, SeedableRng};

    /// Pseudo-random variables of the given shapes.
    pub(super) fn variables(shapes: &[&[usize]], seed: u64) -> Vec<Var> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        shapes
            .iter()
            .map(|&shape| {
                let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.random_range(-1.5..1.5)).collect();
                Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
            })
            .collect()
    }

    /// Two ways to compute the same must agree in values and in the gradients of all inputs.
    pub(super) fn agree(
        inputs: &[Var],
        tolerance: f32,
        one: impl Fn() -> Result<Tensor>,
        two: impl Fn() -> Result<Tensor>,
    ) {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let run = |compute: &dyn Fn() -> Result<Tensor>| {
            let out = compute().unwrap();
            // A weighted sum: every output has a gradient of its own.
            let weights: Vec<f32> = (0..out.elem_count()).map(|i| ((i * 37 % 11) as f32 - 5.0) / 5.0).collect();
            let weights = Tensor::from_vec(weights, out.shape(), &Device::Cpu).unwrap();
            let gradients = (&out * weights).unwrap().sum_all().unwrap().backward().unwrap();
            let mut all = vec![("value".to_owned(), flat(&out))];
            for (n, input) in inputs.iter().enumerate() {
                all.push((format!("gradient {n}"), flat(gradients.get(input).expect("a gradient"))));
            }
            all
        };
        for ((name, a), (_, b)) in run(&one).into_iter().zip(run(&two)) {
            assert_eq!(a.len(), b.len(), "{name}");
            let scale = b.iter().fold(1.0f32, |m, x| m.max(x.abs()));
            for (i, (a, b)) in a.iter().zip(&b).enumerate() {
                assert!((a - b).abs() <= tolerance * scale, "{name}[{i}]: {a} {b}");
            }
        }
    }
}
