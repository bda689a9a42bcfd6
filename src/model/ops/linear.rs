//! `x * weightᵀ + bias`.

use super::{values, with_values};
#[cfg(target_arch = "x86_64")]
use crate::engine::kernels::amx::{Amx, Matrix, Sum};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};

/// `x * weightᵀ + bias` for `x` of `rows x inputs` and `weight` of `outputs x inputs`.
///
/// On a CPU with a tile unit the operands are rounded to bf16, as mixed-precision training does, and sums are f32.
pub(in crate::model) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    #[cfg(target_arch = "x86_64")]
    if x.device().is_cpu()
        && let Some(amx) = Amx::detect()
    {
        return x.contiguous()?.apply_op3(&weight.contiguous()?, &bias.contiguous()?, Tiled(amx));
    }
    primitive(x, weight, bias)
}

fn primitive(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    x.matmul(&weight.t()?)?.broadcast_add(bias)
}

#[cfg(target_arch = "x86_64")]
struct Tiled(Amx);

#[cfg(target_arch = "x86_64")]
impl CustomOp3 for Tiled {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outputs, inputs) = weight_layout.shape().dims2()?;
        let rows = x_layout.shape().elem_count() / inputs.max(1);
        let mut out = vec![0.0; rows * outputs];
        let x = Matrix { values: values(x, x_layout)?, columns: inputs, sum: Sum::Columns };
        let weight = Matrix { values: values(weight, weight_layout)?, columns: inputs, sum: Sum::Columns };
        self.0.multiply(x, weight, Some(values(bias, bias_layout)?), &mut out);
        Ok((CpuStorage::F32(out), Shape::from((rows, outputs))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let rows = x.elem_count() / inputs.max(1);
        let (x_gradient, weight_gradient, bias_gradient) =
            with_values([x, weight, gradient], |[x, weight, gradient]| {
                let mut x_gradient = vec![0.0; rows * inputs];
                let by = |values, columns, sum| Matrix { values, columns, sum };
                self.0.multiply(
                    by(gradient, outputs, Sum::Columns),
                    by(weight, inputs, Sum::Rows),
                    None,
                    &mut x_gradient,
                );
                let mut weight_gradient = vec![0.0; outputs * inputs];
                self.0.multiply(by(gradient, outputs, Sum::Rows), by(x, inputs, Sum::Rows), None, &mut weight_gradient);
                (x_gradient, weight_gradient, Arch::new().dispatch(SumRows { matrix: gradient, columns: outputs }))
            })?;
        let device = x.device();
        Ok((
            Some(Tensor::from_vec(x_gradient, x.shape(), device)?),
            Some(Tensor::from_vec(weight_gradient, (outputs, inputs), device)?),
            Some(Tensor::from_vec(bias_gradient, outputs, device)?),
        ))
    }
}

/// The sum of the rows of a matrix.
struct SumRows<'a> {
    matrix: &'a [f32],
    columns: usize,
}

impl WithSimd for SumRows<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Vec<f32> {
        let mut sums = vec![0.0; self.columns];
        for row in self.matrix.chunks_exact(self.columns) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{agree, variables},
        *,
    };

    #[test]
    fn equals_the_primitive_but_for_rounding() {
        for (rows, inputs, outputs) in [(1, 32, 5), (7, 48, 33), (70, 64, 96)] {
            let inputs = variables(&[&[rows, inputs], &[outputs, inputs], &[outputs]], 3);
            let [x, weight, bias] = &inputs[..] else { unreachable!() };
            agree(&inputs, 0.01, || linear(x, weight, bias), || primitive(x, weight, bias));
        }
    }
}
