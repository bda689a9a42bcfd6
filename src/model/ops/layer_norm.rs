//! Layer norm over the last dimension.

use super::{dot, values, with_values};
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` over the last dimension.
pub(in crate::model) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    if x.device().is_cpu() {
        x.contiguous()?.apply_op3(weight, bias, LayerNorm { epsilon: epsilon as f32 })
    } else {
        primitive(x, weight, bias, epsilon)
    }
}

fn primitive(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let scaled = centred.broadcast_div(&(variance + epsilon)?.sqrt()?)?;
    scaled.broadcast_mul(weight)?.broadcast_add(bias)
}

#[derive(Clone, Copy)]
struct LayerNorm {
    epsilon: f32,
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    gradient: &'a [f32],
    epsilon: f32,
}

/// Mean and reciprocal deviation of a row.
#[inline(always)]
fn moments<S: Simd>(simd: S, row: &[f32], epsilon: f32) -> (f32, f32) {
    let count = row.len() as f32;
    let (vectors, rest) = S::as_simd_f32s(row);
    let sum = vectors.iter().fold(simd.splat_f32s(0.0), |sum, &x| simd.add_f32s(sum, x));
    let mean = (simd.reduce_sum_f32s(sum) + rest.iter().sum::<f32>()) / count;
    let center = simd.splat_f32s(mean);
    let squares = vectors.iter().fold(simd.splat_f32s(0.0), |sum, &x| {
        let from = simd.sub_f32s(x, center);
        simd.mul_add_e_f32s(from, from, sum)
    });
    let squares = simd.reduce_sum_f32s(squares) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    (mean, 1.0 / (squares / count + epsilon).sqrt())
}

impl WithSimd for Forward<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Forward { x, weight, bias, epsilon } = self;
        let width = weight.len();
        let mut out = vec![0.0; x.len()];
        for (row, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (center, scale) = moments(simd, row, epsilon);
            for (((out, x), weight), bias) in out.iter_mut().zip(row).zip(weight).zip(bias) {
                *out = (x - center) * scale * weight + bias;
            }
        }
        out
    }
}

impl WithSimd for Backward<'_> {
    /// Gradients of `x`, weight and bias.
    type Output = (Vec<f32>, Vec<f32>, Vec<f32>);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Backward { x, weight, gradient, epsilon } = self;
        let width = weight.len();
        let mut x_gradient = vec![0.0; x.len()];
        let (mut weight_gradient, mut bias_gradient) = (vec![0.0; width], vec![0.0; width]);
        let (mut weighted, mut normal) = (vec![0.0; width], vec![0.0; width]);
        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
        for ((x, gradient), out) in rows.zip(x_gradient.chunks_exact_mut(width)) {
            let out = &mut out[..width];
            let (x, gradient) = (&x[..width], &gradient[..width]);
            let (center, scale) = moments(simd, x, epsilon);
            weighted.iter_mut().zip(gradient).zip(weight).for_each(|((out, g), w)| *out = g * w);
            normal.iter_mut().zip(x).for_each(|(out, x)| *out = (x - center) * scale);
            let mean_gradient = dot(simd, gradient, weight) / width as f32;
            let mean_product = dot(simd, &weighted, &normal) / width as f32;
            for i in 0..width {
                out[i] = scale * (weighted[i] - mean_gradient - normal[i] * mean_product);
                weight_gradient[i] += gradient[i] * normal[i];
                bias_gradient[i] += gradient[i];
            }
        }
        (x_gradient, weight_gradient, bias_gradient)
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer norm"
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
        let (x, weight, bias) = (values(x, x_layout)?, values(weight, weight_layout)?, values(bias, bias_layout)?);
        let out = Arch::new().dispatch(Forward { x, weight, bias, epsilon: self.epsilon });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _bias: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (x_gradient, weight_gradient, bias_gradient) =
            with_values([x, weight, gradient], |[x, weight, gradient]| {
                Arch::new().dispatch(Backward { x, weight, gradient, epsilon: self.epsilon })
            })?;
        let (width, device) = (weight.elem_count(), x.device());
        Ok((
            Some(Tensor::from_vec(x_gradient, x.shape(), device)?),
            Some(Tensor::from_vec(weight_gradient, width, device)?),
            Some(Tensor::from_vec(bias_gradient, width, device)?),
        ))
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
        for width in [5, 32, 192] {
            let inputs = variables(&[&[9, width], &[width], &[width]], 1);
            let [x, weight, bias] = &inputs[..] else { unreachable!() };
            agree(&inputs, 1e-4, || layer_norm(x, weight, bias, 1e-12), || primitive(x, weight, bias, 1e-12));
        }
    }
}
