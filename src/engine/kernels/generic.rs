//! The packed layout, and loops in safe Rust that every instruction set compiles for itself.

/// Outputs that are computed together; the last panel is padded with zeros.
pub(super) const PANEL: usize = 16;
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

/// One value of `x` times a row of a panel, added to `sums`.
#[inline(always)]
fn accumulate<const FMA: bool>(x: f32, weights: &[f32; PANEL], sums: &mut [f32; PANEL]) {
    for (sum, &weight) in sums.iter_mut().zip(weights) {
        *sum = multiply_add::<FMA>(x, weight, *sum);
    }
}

impl Linear {
    /// The panels in order, each with one row of [`PANEL`] weights per input.
    pub(super) fn panels(&self) -> impl Iterator<Item = &[[f32; PANEL]]> {
        self.panels.chunks_exact(self.inputs)
    }

    /// Adds the bias to the sums of a panel and writes what is not padding to its place in a token's row of outputs.
    #[inline(always)]
    pub(super) fn finish(&self, panel: usize, sums: &[f32; PANEL], out: &mut [f32]) {
        let range = panel * PANEL..self.outputs.min((panel + 1) * PANEL);
        for ((out, sum), bias) in out[range.clone()].iter_mut().zip(sums).zip(&self.bias[range]) {
            *out = sum + bias;
        }
    }
}

#[inline(always)]
pub(super) fn linear<const FMA: bool>(layer: &Linear, x: &[f32], out: &mut [f32]) {
    for (x, out) in x.chunks_exact(layer.inputs).zip(out.chunks_exact_mut(layer.outputs)) {
        for (p, panel) in layer.panels().enumerate() {
            let mut sums = [0.0; PANEL];
            for (&x, weights) in x.iter().zip(panel) {
                accumulate::<FMA>(x, weights, &mut sums);
            }
            layer.finish(p, &sums, out);
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

/// Multiplies `gradient` by the derivative of the exact GELU at `x`.
#[cfg(feature = "train")]
pub(crate) struct GeluGradient<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) gradient: &'a mut [f32],
}

#[cfg(feature = "train")]
impl pulp::WithSimd for GeluGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        const DENSITY: f32 = 0.398_942_3;
        for (gradient, &x) in self.gradient.iter_mut().zip(self.x) {
            let below = 0.5 * (1.0 + erf::<false>(x * std::f32::consts::FRAC_1_SQRT_2));
            *gradient *= below + x * DENSITY * exp_of_negative::<false>(-0.5 * x * x);
        }
    }
}

/// `e^x` for every `x <= 0`, in place.
#[cfg(feature = "train")]
#[inline(always)]
pub(crate) fn exp(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = exp_of_negative::<false>(*x));
}
