//! The loops themselves, in safe Rust, inlined into the functions of every instruction set.

/// Outputs that are computed together; the last panel is padded with zeros.
const PANEL: usize = 16;
/// Tokens that are computed together, so that a weight is loaded once for all of them.
const TOKENS: usize = 4;

/// A linear layer, its weight cut into panels of [`PANEL`] outputs, each stored input by input.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    panels: Vec<[f32; PANEL]>,
    bias: Vec<f32>,
}

impl Linear {
    /// Packs `weight`, `bias.len()` rows of `inputs` values.
    pub(crate) fn pack(weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        let mut panels = vec![[0.0; PANEL]; outputs.div_ceil(PANEL) * inputs];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            let panel = &mut panels[output / PANEL * inputs..][..inputs];
            for (slot, &value) in panel.iter_mut().zip(row) {
                slot[output % PANEL] = value;
            }
        }
        Linear { inputs, outputs, panels, bias: bias.to_vec() }
    }
}

/// `a * b + c`, fused where the instruction set has it (elsewhere a fused product would be a slow library call).
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
pub(super) fn linear<const FMA: bool>(layer: &Linear, x: &[f32], out: &mut [f32]) {
    let &Linear { inputs, outputs, .. } = layer;
    for (x, out) in x.chunks(TOKENS * inputs).zip(out.chunks_mut(TOKENS * outputs)) {
        if x.len() == TOKENS * inputs {
            block::<FMA, TOKENS>(layer, x, out);
        } else {
            for (x, out) in x.chunks_exact(inputs).zip(out.chunks_exact_mut(outputs)) {
                block::<FMA, 1>(layer, x, out);
            }
        }
    }
}

/// The product for exactly `N` tokens.
#[inline(always)]
fn block<const FMA: bool, const N: usize>(layer: &Linear, x: &[f32], out: &mut [f32]) {
    let &Linear { inputs, outputs, .. } = layer;
    let rows: [&[f32]; N] = std::array::from_fn(|token| &x[token * inputs..][..inputs]);
    for (p, panel) in layer.panels.chunks_exact(inputs).enumerate() {
        let mut sums = [[0.0f32; PANEL]; N];
        for (i, weights) in panel.iter().enumerate() {
            for (sums, row) in sums.iter_mut().zip(rows) {
                let x = row[i];
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = multiply_add::<FMA>(x, weight, *sum);
                }
            }
        }
        let from = p * PANEL;
        let to = outputs.min(from + PANEL);
        for (token, sums) in sums.iter().enumerate() {
            let out = &mut out[token * outputs..][from..to];
            for ((out, sum), bias) in out.iter_mut().zip(sums).zip(&layer.bias[from..to]) {
                *out = sum + bias;
            }
        }
    }
}

#[inline(always)]
pub(super) fn gelu<const FMA: bool>(x: &mut [f32]) {
    for x in x {
        *x = 0.5 * *x * (1.0 + erf::<FMA>(*x * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// The error function to 3e-7, by formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions (1964).
#[inline(always)]
fn erf<const FMA: bool>(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / multiply_add::<FMA>(0.327_591_1, a, 1.0);
    let mut poly = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        poly = multiply_add::<FMA>(poly, t, c);
    }
    (1.0 - poly * t * exp_of_negative::<FMA>(-a * a)).copysign(x)
}

/// `e^x` for `x <= 0` to a relative error of 2e-7: a power of two by its exponent bits, the rest by a polynomial.
#[inline(always)]
fn exp_of_negative<const FMA: bool>(x: f32) -> f32 {
    let x = x.max(-87.0);
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer without a library call.
    const ROUND: f32 = 12_582_912.0;
    let n = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUND) - ROUND;
    // ln 2 in two parts, so that the remainder keeps its low bits.
    let r = multiply_add::<FMA>(n, 2.121_944_4e-4, multiply_add::<FMA>(n, -0.693_359_4, x));
    let mut poly = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        poly = multiply_add::<FMA>(poly, r, c);
    }
    poly * f32::from_bits(((n as i32 + 127) << 23) as u32)
}
