//! The exact GELU (with the error function).

use super::{values, with_values};
use crate::engine::{Isa, kernels::GeluGradient};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use pulp::Arch;

/// `x * Φ(x)` with the normal distribution function `Φ` (Hendrycks and Gimpel, 2016, <https://arxiv.org/abs/1606.08415>).
pub(in crate::model) fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { x.contiguous()?.apply_op1(Gelu) } else { x.gelu_erf() }
}

struct Gelu;

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = values(x, layout)?.to_vec();
        Isa::detect().gelu(&mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _out: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let values = with_values([x, gradient], |[x, gradient]| {
            let mut out = gradient.to_vec();
            Arch::new().dispatch(GeluGradient { x, gradient: &mut out });
            out
        })?;
        Ok(Some(Tensor::from_vec(values, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{agree, variables},
        *,
    };

    #[test]
    fn equals_the_primitive() {
        let inputs = variables(&[&[40, 17]], 2);
        let x = (inputs[0].as_tensor() * 3.0).unwrap();
        agree(&inputs, 1e-5, || gelu(&(inputs[0].as_tensor() * 3.0)?), || (inputs[0].as_tensor() * 3.0)?.gelu_erf());
        assert_eq!(gelu(&x).unwrap().dims(), x.dims());
    }
}
