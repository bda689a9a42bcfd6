//! Softmax attention within each message of a batch.

use super::{dot, values, with_values};
use crate::engine::kernels;
use candle_core::{CpuStorage, CustomOp3, D, Device, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};
use std::sync::Arc;

/// Where the messages of a batch lie among its tokens, one after the other without padding.
#[derive(Clone, Debug)]
pub(in crate::model) struct Lengths {
    of: Arc<[usize]>,
    /// For devices that want rectangles; see [`Padding`].
    padding: Option<Padding>,
}

/// Index tensors between tokens one after the other and `messages x most` of them.
#[derive(Clone, Debug)]
struct Padding {
    most: usize,
    /// The token for each place of the rectangle; any token where there is none.
    place: Tensor,
    /// 0 for a token, a large negative number for padding; `messages x 1 x 1 x most`.
    mask: Tensor,
    /// The place of each token in the rectangle.
    back: Tensor,
}

impl Lengths {
    pub(in crate::model) fn new(of: Vec<usize>, device: &Device) -> Result<Self> {
        let padding = if device.is_cpu() { None } else { Some(Padding::new(&of, device)?) };
        Ok(Lengths { of: of.into(), padding })
    }

    /// The tokens of each message.
    pub(in crate::model) fn of(&self) -> &[usize] {
        &self.of
    }
}

impl Padding {
    fn new(lengths: &[usize], device: &Device) -> Result<Self> {
        let most = lengths.iter().copied().max().unwrap_or(0);
        let (mut place, mut mask, mut back) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for (message, &length) in lengths.iter().enumerate() {
            for t in 0..most {
                place.push((first + t.min(length - 1)) as u32);
                mask.push(if t < length { 0.0f32 } else { -1e9 });
            }
            back.extend((0..length).map(|t| (message * most + t) as u32));
            first += length;
        }
        Ok(Padding {
            most,
            place: Tensor::new(place, device)?,
            mask: Tensor::from_vec(mask, (lengths.len(), 1, 1, most), device)?,
            back: Tensor::new(back, device)?,
        })
    }
}

/// Attention of every row of `query` over the rows of `key` and `value` that belong to the same message.
///
/// `key` and `value` are `tokens x hidden`; `query` is the same, or `messages x hidden` for the first tokens alone.
pub(in crate::model) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    lengths: &Lengths,
) -> Result<Tensor> {
    match &lengths.padding {
        None => {
            let op = Attention { heads, lengths: Arc::clone(&lengths.of) };
            query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)
        }
        Some(padding) => primitive(query, key, value, heads, lengths.of.len(), padding),
    }
}

fn primitive(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: usize,
    messages: usize,
    padding: &Padding,
) -> Result<Tensor> {
    let (tokens, h) = key.dims2()?;
    let all = query.dim(0)? == tokens;
    let split = |x: &Tensor, rows: usize| -> Result<Tensor> {
        x.reshape((messages, rows, heads, h / heads))?.transpose(1, 2)?.contiguous()
    };
    let rectangle = |x: &Tensor| split(&x.index_select(&padding.place, 0)?, padding.most);
    let rows = if all { padding.most } else { 1 };
    let query = if all { rectangle(query)? } else { split(query, 1)? };
    let scores = (query.matmul(&rectangle(key)?.t()?.contiguous()?)? * (1.0 / ((h / heads) as f64).sqrt()))?;
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&padding.mask)?, D::Minus1)?;
    let context = weights.matmul(&rectangle(value)?)?.transpose(1, 2)?.contiguous()?.reshape((messages * rows, h))?;
    if all { context.index_select(&padding.back, 0) } else { Ok(context) }
}

struct Attention {
    heads: usize,
    lengths: Arc<[usize]>,
}

/// The rows of one message in `query`, and in `key` and `value`.
struct Span {
    query: std::ops::Range<usize>,
    key: std::ops::Range<usize>,
}

/// What both passes work on.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    /// Width of a row.
    hidden: usize,
    heads: usize,
    lengths: &'a [usize],
}

impl<'a> Inputs<'a> {
    #[inline(always)]
    fn spans(self) -> impl Iterator<Item = Span> + 'a {
        let all = self.query.len() == self.key.len();
        let mut first = 0;
        self.lengths.iter().enumerate().map(move |(message, &length)| {
            let key = first..first + length;
            first += length;
            Span { query: if all { key.clone() } else { message..message + 1 }, key }
        })
    }

    /// The width of a head: `WIDTH`, or with 0 whatever it is. A width known beforehand takes half the time.
    #[inline(always)]
    fn width<const WIDTH: usize>(self) -> usize {
        if WIDTH == 0 { self.hidden / self.heads } else { WIDTH }
    }
}

/// Softmax over the keys of a message, for one row of queries and one head.
#[inline(always)]
fn attend<S: Simd>(simd: S, query: &[f32], keys: &[f32], hidden: usize, head: usize, weights: &mut [f32]) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut highest = f32::NEG_INFINITY;
    for (weight, key) in weights.iter_mut().zip(keys.chunks_exact(hidden)) {
        *weight = dot(simd, query, &key[head..][..query.len()]) * scale;
        highest = highest.max(*weight);
    }
    weights.iter_mut().for_each(|weight| *weight -= highest);
    kernels::exp(weights);
    let total: f32 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
}

/// `WIDTH` as in [`Inputs::width`].
struct Forward<'a, const WIDTH: usize>(Inputs<'a>);

struct Backward<'a, const WIDTH: usize> {
    inputs: Inputs<'a>,
    gradient: &'a [f32],
}

impl<const WIDTH: usize> WithSimd for Forward<'_, WIDTH> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let inputs = self.0;
        let Inputs { query, key, value, hidden: h, .. } = inputs;
        let width = inputs.width::<WIDTH>();
        let mut out = vec![0.0; query.len()];
        let mut weights = Vec::new();
        for span in inputs.spans() {
            weights.resize(span.key.len(), 0.0);
            let range = span.key.start * h..span.key.end * h;
            let (keys, values) = (&key[range.clone()], &value[range]);
            for row in span.query {
                for head in (0..h).step_by(width) {
                    attend(simd, &query[row * h + head..][..width], keys, h, head, &mut weights);
                    let out = &mut out[row * h + head..][..width];
                    for (&weight, value) in weights.iter().zip(values.chunks_exact(h)) {
                        add_scaled(simd, out, weight, &value[head..][..width]);
                    }
                }
            }
        }
        out
    }
}

impl<const WIDTH: usize> WithSimd for Backward<'_, WIDTH> {
    /// Gradients of query, key and value.
    type Output = [Vec<f32>; 3];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 3] {
        let Backward { inputs, gradient } = self;
        let Inputs { query, key, value, hidden: h, .. } = inputs;
        let width = inputs.width::<WIDTH>();
        let scale = 1.0 / (width as f32).sqrt();
        let (mut query_gradient, mut key_gradient) = (vec![0.0; query.len()], vec![0.0; key.len()]);
        let mut value_gradient = vec![0.0; value.len()];
        let (mut weights, mut weight_gradients) = (Vec::new(), Vec::new());
        for span in inputs.spans() {
            weights.resize(span.key.len(), 0.0);
            weight_gradients.resize(span.key.len(), 0.0);
            let range = span.key.start * h..span.key.end * h;
            let (keys, values) = (&key[range.clone()], &value[range.clone()]);
            let key_gradient = &mut key_gradient[range.clone()];
            let value_gradient = &mut value_gradient[range];
            for row in span.query {
                for head in (0..h).step_by(width) {
                    let query = &query[row * h + head..][..width];
                    let gradient = &gradient[row * h + head..][..width];
                    attend(simd, query, keys, h, head, &mut weights);
                    for (of, value) in weight_gradients.iter_mut().zip(values.chunks_exact(h)) {
                        *of = dot(simd, gradient, &value[head..][..width]);
                    }
                    let mean = dot(simd, &weights, &weight_gradients);
                    let query_gradient = &mut query_gradient[row * h + head..][..width];
                    for (at, (&weight, &of)) in weights.iter().zip(&weight_gradients).enumerate() {
                        let score_gradient = weight * (of - mean) * scale;
                        let at = at * h + head;
                        add_scaled(simd, query_gradient, score_gradient, &keys[at..][..width]);
                        add_scaled(simd, &mut key_gradient[at..][..width], score_gradient, query);
                        add_scaled(simd, &mut value_gradient[at..][..width], weight, gradient);
                    }
                }
            }
        }
        [query_gradient, key_gradient, value_gradient]
    }
}

#[inline(always)]
fn add_scaled<S: Simd>(simd: S, sum: &mut [f32], factor: f32, x: &[f32]) {
    let ((sum, sum_rest), (x, x_rest)) = (S::as_mut_simd_f32s(sum), S::as_simd_f32s(x));
    let factors = simd.splat_f32s(factor);
    sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum = simd.mul_add_e_f32s(factors, x, *sum));
    sum_rest.iter_mut().zip(x_rest).for_each(|(sum, x)| *sum += factor * x);
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let inputs = Inputs {
            query: values(query, query_layout)?,
            key: values(key, key_layout)?,
            value: values(value, value_layout)?,
            hidden: key_layout.shape().dims2()?.1,
            heads: self.heads,
            lengths: &self.lengths,
        };
        let out = match inputs.width::<0>() {
            32 => Arch::new().dispatch(Forward::<32>(inputs)),
            _ => Arch::new().dispatch(Forward::<0>(inputs)),
        };
        Ok((CpuStorage::F32(out), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _out: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, hidden) = key.dims2()?;
        let [q, k, v] = with_values([query, key, value, gradient], |[query, key, value, gradient]| {
            let inputs = Inputs { query, key, value, hidden, heads: self.heads, lengths: &self.lengths };
            match inputs.width::<0>() {
                32 => Arch::new().dispatch(Backward::<32> { inputs, gradient }),
                _ => Arch::new().dispatch(Backward::<0> { inputs, gradient }),
            }
        })?;
        let of = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((of(q, query)?, of(k, key)?, of(v, value)?))
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{agree, variables},
        *,
    };

    #[test]
    fn equals_the_primitive_for_all_and_for_first_tokens() {
        let lengths = vec![3, 1, 7, 2];
        let (tokens, heads) = (13, 3);
        let padding = Padding::new(&lengths, &Device::Cpu).unwrap();
        let lengths = Lengths::new(lengths, &Device::Cpu).unwrap();
        for (rows, h) in [(tokens, 48), (4, 48), (tokens, 96), (4, 96)] {
            let inputs = variables(&[&[rows, h], &[tokens, h], &[tokens, h]], 5);
            let [query, key, value] = &inputs[..] else { unreachable!() };
            agree(
                &inputs,
                1e-5,
                || attention(query, key, value, heads, &lengths),
                || primitive(query, key, value, heads, 4, &padding),
            );
        }
    }
}
