//! AVX-512 with VNNI: one register is 16 values, one instruction four int8 products in each of 16 lanes.

use super::simd::{Kernel, LANES, Quads, Simd};
use std::arch::x86_64::*;

/// Proof that the machine has the features that [`run`] is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Runs a kernel compiled for AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi2")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx512(()))
}

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("bmi2")
}

macro_rules! methods {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: $kind),*) -> $result {
                // SAFETY: `self` exists, so the machine has the instructions; loads and stores go through references to
                // arrays of just the size of a register.
                unsafe { $body }
            }
        )*
    };
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type W = __m512i;
    const ROWS: usize = 16;

    methods! {
        fn splat(x: f32) -> __m512 { _mm512_set1_ps(x) }
        fn load(from: &[f32; LANES]) -> __m512 { _mm512_loadu_ps(from.as_ptr()) }
        fn store(x: __m512, to: &mut [f32; LANES]) -> () { _mm512_storeu_ps(to.as_mut_ptr(), x) }
        fn add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        fn sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        fn mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        fn max(a: __m512, b: __m512) -> __m512 { _mm512_max_ps(a, b) }
        fn min(a: __m512, b: __m512) -> __m512 { _mm512_min_ps(a, b) }
        fn abs(x: __m512) -> __m512 { _mm512_abs_ps(x) }
        fn reciprocal(x: __m512) -> __m512 {{
            // 14 bits, doubled by one step of Newton's method.
            let guess = _mm512_rcp14_ps(x);
            _mm512_mul_ps(guess, _mm512_fnmadd_ps(x, guess, _mm512_set1_ps(2.0)))
        }}
        fn power_of_two(n: __m512) -> __m512 { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
        fn sum(x: __m512) -> f32 { _mm512_reduce_add_ps(x) }
        fn largest(x: __m512) -> f32 { _mm512_reduce_max_ps(x) }
        fn to_bytes(x: __m512) -> [u8; LANES] {{
            let mut bytes = [0; LANES];
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
            bytes
        }}
        fn zeros() -> __m512i { _mm512_setzero_si512() }
        fn load_i32(from: &[i32; LANES]) -> __m512i { _mm512_loadu_si512(from.as_ptr().cast()) }
        fn add_i32(a: __m512i, b: __m512i) -> __m512i { _mm512_add_epi32(a, b) }
        fn to_f32(x: __m512i) -> __m512 { _mm512_cvtepi32_ps(x) }
        fn splat_bytes(bytes: [u8; 4]) -> __m512i { _mm512_set1_epi32(i32::from_ne_bytes(bytes)) }
        fn load_quads(from: &Quads) -> __m512i { _mm512_loadu_si512(from.as_ptr().cast()) }
        fn dot(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i { _mm512_dpbusd_epi32(sums, x, weights) }
        fn transpose(rows: &mut [[f32; LANES]; LANES]) -> () {{
            let mut r = [_mm512_setzero_ps(); LANES];
            for i in 0..LANES {
                r[i] = _mm512_loadu_ps(rows[i].as_ptr());
            }
            // Neighbours of 1, 2, 4 and 8 rows change places in turn.
            for i in (0..LANES).step_by(2) {
                (r[i], r[i + 1]) = (_mm512_unpacklo_ps(r[i], r[i + 1]), _mm512_unpackhi_ps(r[i], r[i + 1]));
            }
            let mut s = r;
            for i in (0..LANES).step_by(4) {
                s[i] = _mm512_shuffle_ps::<0x44>(r[i], r[i + 2]);
                s[i + 1] = _mm512_shuffle_ps::<0xee>(r[i], r[i + 2]);
                s[i + 2] = _mm512_shuffle_ps::<0x44>(r[i + 1], r[i + 3]);
                s[i + 3] = _mm512_shuffle_ps::<0xee>(r[i + 1], r[i + 3]);
            }
            for i in (0..LANES).step_by(8) {
                for j in i..i + 4 {
                    r[j] = _mm512_shuffle_f32x4::<0x88>(s[j], s[j + 4]);
                    r[j + 4] = _mm512_shuffle_f32x4::<0xdd>(s[j], s[j + 4]);
                }
            }
            for i in 0..8 {
                _mm512_storeu_ps(rows[i].as_mut_ptr(), _mm512_shuffle_f32x4::<0x88>(r[i], r[i + 8]));
                _mm512_storeu_ps(rows[i + 8].as_mut_ptr(), _mm512_shuffle_f32x4::<0xdd>(r[i], r[i + 8]));
            }
        }}
    }
}
