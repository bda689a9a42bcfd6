//! What training needs of GELU and softmax, in loops that `pulp` compiles for the instruction set.

/// The error function to 3e-7, by formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions (1964).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (0.327_591_1 * a + 1.0);
    let mut poly = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        poly = poly * t + c;
    }
    (1.0 - poly * t * exp_of_negative(-a * a)).copysign(x)
}

/// `e^x` for `x <= 0` to a relative error of 2e-7: a power of two by its exponent bits, the rest by a polynomial.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    let x = x.max(-87.0);
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer without a library call.
    const ROUND: f32 = 12_582_912.0;
    let n = (x * std::f32::consts::LOG2_E + ROUND) - ROUND;
    // ln 2 in two parts, so that the remainder keeps its low bits.
    let r = n * 2.121_944_4e-4 + (n * -0.693_359_4 + x);
    let mut poly = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        poly = poly * r + c;
    }
    poly * f32::from_bits(((n as i32 + 127) << 23) as u32)
}

/// Multiplies `gradient` by the derivative of the exact GELU at `x`.
pub(crate) struct GeluGradient<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) gradient: &'a mut [f32],
}

impl pulp::WithSimd for GeluGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        const DENSITY: f32 = 0.398_942_3;
        for (gradient, &x) in self.gradient.iter_mut().zip(self.x) {
            let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
            *gradient *= below + x * DENSITY * exp_of_negative(-0.5 * x * x);
        }
    }
}

/// `e^x` for every `x <= 0`, in place.
#[inline(always)]
pub(crate) fn exp(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = exp_of_negative(*x));
}
