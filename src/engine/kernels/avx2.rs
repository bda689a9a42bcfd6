//! AVX2 with FMA: a vector is two registers. With AVX-VNNI, which processors without AVX-512 have, int8 products take one
//! instruction here too.

use super::simd::{Kernel, LANES, Quads, Simd};
use std::arch::x86_64::*;

/// Proof that the machine has the features that [`run`] (or [`run_vnni`] with `VNNI`) is compiled for.
#[derive(Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>(());

/// Runs a kernel compiled for AVX2.
#[target_feature(enable = "avx2,fma")]
pub(super) fn run<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<false>(()))
}

/// Runs a kernel compiled for AVX2 with AVX-VNNI.
#[target_feature(enable = "avx2,fma,avxvnni")]
pub(super) fn run_vnni<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Avx2::<true>(()))
}

pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

pub(super) fn has_vnni() -> bool {
    is_available() && is_x86_feature_detected!("avxvnni")
}

macro_rules! methods {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name(self, $($argument: $kind),*) -> $result {
                // SAFETY: `self` exists, so the machine has the instructions; loads and stores go through references to
                // arrays of just the size of two registers.
                unsafe { $body }
            }
        )*
    };
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type W = [__m256i; 2];
    const ROWS: usize = 4;

    methods! {
        fn splat(x: f32) -> [__m256; 2] { [_mm256_set1_ps(x); 2] }
        fn load(from: &[f32; LANES]) -> [__m256; 2] {
            [_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())]
        }
        fn store(x: [__m256; 2], to: &mut [f32; LANES]) -> () {{
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to[8..].as_mut_ptr(), x[1]);
        }}
        fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }
        fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }
        fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }
        fn mul_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
        }
        fn min(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
            [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
        }
        fn abs(x: [__m256; 2]) -> [__m256; 2] {{
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, x[0]), _mm256_andnot_ps(sign, x[1])]
        }}
        fn reciprocal(x: [__m256; 2]) -> [__m256; 2] {{
            // 12 bits, doubled by one step of Newton's method.
            let (two, guess) = (_mm256_set1_ps(2.0), [_mm256_rcp_ps(x[0]), _mm256_rcp_ps(x[1])]);
            [
                _mm256_mul_ps(guess[0], _mm256_fnmadd_ps(x[0], guess[0], two)),
                _mm256_mul_ps(guess[1], _mm256_fnmadd_ps(x[1], guess[1], two)),
            ]
        }}
        fn power_of_two(n: [__m256; 2]) -> [__m256; 2] {{
            let bias = _mm256_set1_epi32(127);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[0]), bias))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(n[1]), bias))),
            ]
        }}
        fn sum(x: [__m256; 2]) -> f32 {{
            let x = _mm256_add_ps(x[0], x[1]);
            let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
        }}
        fn largest(x: [__m256; 2]) -> f32 {{
            let x = _mm256_max_ps(x[0], x[1]);
            let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
        }}
        fn to_bytes(x: [__m256; 2]) -> [u8; LANES] {{
            let mut bytes = [0; LANES];
            let words = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1]));
            // Packing works within halves of a register: bring the quarters into order.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let packed = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed);
            bytes
        }}
        fn zeros() -> [__m256i; 2] { [_mm256_setzero_si256(); 2] }
        fn load_i32(from: &[i32; LANES]) -> [__m256i; 2] {
            [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from[8..].as_ptr().cast())]
        }
        fn add_i32(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])]
        }
        fn to_f32(x: [__m256i; 2]) -> [__m256; 2] { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
        fn splat_bytes(bytes: [u8; 4]) -> [__m256i; 2] { [_mm256_set1_epi32(i32::from_ne_bytes(bytes)); 2] }
        fn load_quads(from: &Quads) -> [__m256i; 2] {
            [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from[32..].as_ptr().cast())]
        }
        fn dot(sums: [__m256i; 2], x: [__m256i; 2], weights: [__m256i; 2]) -> [__m256i; 2] {{
            let mut sums = sums;
            for ((sum, &x), &weights) in sums.iter_mut().zip(&x).zip(&weights) {
                *sum = if VNNI {
                    _mm256_dpbusd_avx_epi32(*sum, x, weights)
                } else {
                    // Bytes of even and odd place widened to 16 bits apart: `maddubs` on the bytes would saturate.
                    let even = _mm256_madd_epi16(
                        _mm256_and_si256(x, _mm256_set1_epi16(255)),
                        _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(weights)),
                    );
                    let odd = _mm256_madd_epi16(_mm256_srli_epi16::<8>(x), _mm256_srai_epi16::<8>(weights));
                    _mm256_add_epi32(_mm256_add_epi32(*sum, even), odd)
                };
            }
            sums
        }}
        fn transpose(rows: &mut [[f32; LANES]; LANES]) -> () {{
            // Four squares of 8 by 8, the two off the diagonal changing places.
            for (a, b) in [((0, 0), (0, 0)), ((8, 8), (8, 8)), ((0, 8), (8, 0))] {
                let (first, second) = (transposed(rows, a.0, a.1), transposed(rows, b.0, b.1));
                for i in 0..8 {
                    _mm256_storeu_ps(rows[a.1 + i][a.0..a.0 + 8].as_mut_ptr(), first[i]);
                    _mm256_storeu_ps(rows[b.1 + i][b.0..b.0 + 8].as_mut_ptr(), second[i]);
                }
            }
        }}
    }
}

/// The square of 8 by 8 values that begins in row `top` and column `left`, its columns made rows.
#[inline(always)]
unsafe fn transposed(rows: &[[f32; LANES]; LANES], top: usize, left: usize) -> [__m256; 8] {
    // SAFETY: the caller has AVX2, and a row of a square is 8 values inside a row of 16.
    unsafe {
        let mut r = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            r[i] = _mm256_loadu_ps(rows[top + i][left..left + 8].as_ptr());
        }
        for i in (0..8).step_by(2) {
            (r[i], r[i + 1]) = (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
        }
        let mut s = r;
        for i in (0..8).step_by(4) {
            s[i] = _mm256_shuffle_ps::<0x44>(r[i], r[i + 2]);
            s[i + 1] = _mm256_shuffle_ps::<0xee>(r[i], r[i + 2]);
            s[i + 2] = _mm256_shuffle_ps::<0x44>(r[i + 1], r[i + 3]);
            s[i + 3] = _mm256_shuffle_ps::<0xee>(r[i + 1], r[i + 3]);
        }
        for i in 0..4 {
            r[i] = _mm256_permute2f128_ps::<0x20>(s[i], s[i + 4]);
            r[i + 4] = _mm256_permute2f128_ps::<0x31>(s[i], s[i + 4]);
        }
        r
    }
}
