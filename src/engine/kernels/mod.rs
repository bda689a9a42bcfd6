//! The inner loops, compiled once per instruction set and chosen once at run time.
//!
//! Each instruction set has a file of its own with the same functions; [`Isa`] is the token that says which the machine
//! has. What need not be written by hand is safe Rust in `generic`, compiled anew for each. This is the only module
//! with `unsafe` code: loads and stores through pointers, and calls of functions that need an instruction set, each
//! after the check for it.

#![allow(unsafe_code)]

#[cfg(all(feature = "train", target_arch = "x86_64"))]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
mod portable;

use std::fmt;

pub(crate) use generic::Linear;
#[cfg(feature = "train")]
pub(crate) use generic::{GeluGradient, exp};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best instruction set of this machine.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Isa(Kind::Portable))
    }

    /// Every instruction set that this machine can run, slowest first. Never empty.
    pub fn available() -> Vec<Self> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut sets = vec![Isa(Kind::Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Isa(Kind::Avx2));
            }
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                sets.push(Isa(Kind::Avx512));
            }
        }
        sets
    }

    /// `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// `out = x * weightᵀ + bias` for the rows of `x` (`tokens` by `layer.inputs`); `out` is `tokens` by `layer.outputs`.
    pub(crate) fn linear(self, layer: &Linear, x: &[f32], out: &mut [f32]) {
        match self.0 {
            Kind::Portable => portable::linear(layer, x, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` pushes `Avx2` only after the CPU reported avx2 and fma, and nothing else makes one.
            Kind::Avx2 => unsafe { avx2::linear(layer, x, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `available` pushes `Avx512` only after the CPU reported avx512f and avx512vl.
            Kind::Avx512 => unsafe { avx512::linear(layer, x, out) },
        }
    }

    /// The exact GELU (with the error function), in place.
    pub(crate) fn gelu(self, x: &mut [f32]) {
        match self.0 {
            Kind::Portable => portable::gelu(x),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `linear`.
            Kind::Avx2 => unsafe { avx2::gelu(x) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `linear`.
            Kind::Avx512 => unsafe { avx512::gelu(x) },
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matrix(rows: usize, width: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-2.0f32..2.0, rows * width)
    }

    proptest! {
        #[test]
        fn linear_equals_the_naive_product(
            (inputs, outputs, tokens, weight, bias, x) in (1usize..40, 1usize..70, 0usize..20).prop_flat_map(|(i, o, t)| {
                (Just(i), Just(o), Just(t), matrix(o, i), matrix(1, o), matrix(t, i))
            })
        ) {
            let layer = Linear::pack(&weight, &bias, inputs);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; tokens * outputs];
                isa.linear(&layer, &x, &mut out);
                for t in 0..tokens {
                    for o in 0..outputs {
                        let sum: f64 = (0..inputs).map(|i| f64::from(x[t * inputs + i]) * f64::from(weight[o * inputs + i])).sum();
                        let expected = sum + f64::from(bias[o]);
                        prop_assert!((f64::from(out[t * outputs + o]) - expected).abs() < 1e-4, "{isa} token {t} output {o}");
                    }
                }
            }
        }

        #[test]
        fn gelu_is_close_everywhere(x in prop::collection::vec(-12.0f32..12.0, 1..50)) {
            for isa in Isa::available() {
                let mut out = x.clone();
                isa.gelu(&mut out);
                for (&x, &y) in x.iter().zip(&out) {
                    let x = f64::from(x);
                    prop_assert!((f64::from(y) - 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))).abs() < 2e-6, "{isa} gelu({x}) = {y}");
                }
            }
        }
    }

    /// The error function by its Maclaurin series, or its limit where the series is slow.
    fn erf(x: f64) -> f64 {
        if x.abs() > 5.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-17 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn names_the_instruction_sets_under_test() {
        let names: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
        println!("kernels tested on: {}", names.join(", "));
        assert_eq!(Isa::detect(), *Isa::available().last().unwrap());
    }
}
