//! Products for inference: unsigned bytes with int8 weights, i32 sums.

use super::{Amx, SIDE, configure, release};
use crate::engine::kernels::{
    layout::{Int8, Linear, stride},
    product::{Scale, finish},
    simd::{Kernel, LANES, Simd},
};
use std::arch::asm;

/// Bytes of a tile.
const TILE: usize = 1024;
/// Inputs in one tile.
const DEPTH: usize = 64;

type Sums = [[i32; LANES]; SIDE];

/// The product of int8 rows with a layer; `x` is whole tiles of 16 rows, `scales` and `out` are of the rows that count.
pub(in crate::engine::kernels) struct Product<'a> {
    pub(in crate::engine::kernels) amx: Amx,
    pub(in crate::engine::kernels) layer: &'a Linear,
    pub(in crate::engine::kernels) weights: &'a Int8,
    pub(in crate::engine::kernels) x: &'a [u8],
    pub(in crate::engine::kernels) scales: &'a [Scale],
    pub(in crate::engine::kernels) out: &'a mut [f32],
}

impl Kernel for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Product { amx, layer, weights, x, scales, out } = self;
        let (inputs, outputs) = (layer.inputs, layer.outputs);
        let panel_bytes = inputs * LANES;
        let quads = weights.quads.as_slice();
        let rows = scales.len();
        // Two sets of sums: while the tiles work on one, the other becomes results.
        let mut sums = [[[[0; LANES]; SIDE]; 4]; 2];
        configure(amx);
        for first in (0..rows).step_by(2 * SIDE) {
            let x = &x[first * inputs..];
            let (scales, out) = (&scales[first..], &mut out[first * stride(outputs)..]);
            // Four tiles of sums: two by two where there are rows for it, else four panels for one.
            let tall = scales.len() > SIDE;
            let panels = if tall { 2 } else { 4 };
            let steps = outputs / LANES / panels;
            for n in 0..=steps {
                if n < steps {
                    let quads = &quads[n * panels * panel_bytes..][..panels * panel_bytes];
                    if tall {
                        two_by_two(amx, x, inputs, quads, &mut sums[n % 2]);
                    } else {
                        one_by_four(amx, x, inputs, quads, &mut sums[n % 2]);
                    }
                }
                let Some(done) = n.checked_sub(1) else { continue };
                for (i, sums) in sums[done % 2].iter().enumerate() {
                    let (panel, row) = if tall { (i % 2, i / 2 * SIDE) } else { (i, 0) };
                    write(
                        simd,
                        layer,
                        weights,
                        done * panels + panel,
                        sums,
                        &scales[row..],
                        &mut out[row * stride(outputs)..],
                    );
                }
            }
        }
        release(amx);
    }
}

/// Finishes a tile of sums, for the rows that count.
#[inline(always)]
fn write<S: Simd>(
    simd: S,
    layer: &Linear,
    weights: &Int8,
    panel: usize,
    sums: &Sums,
    scales: &[Scale],
    out: &mut [f32],
) {
    for ((sums, scale), out) in sums.iter().zip(scales).zip(out.chunks_exact_mut(stride(layer.outputs))) {
        finish(simd, layer, weights, panel, simd.load_i32(sums), *scale, out);
    }
}

/// The products of one tile of rows with four neighbouring panels of weights.
#[inline(always)]
fn one_by_four(_: Amx, x: &[u8], inputs: usize, panels: &[i8], sums: &mut [Sums; 4]) {
    let steps = inputs / DEPTH;
    assert!(steps > 0 && x.len() >= SIDE * inputs && panels.len() == 4 * steps * TILE);
    // SAFETY: an `Amx` exists and `configure` has run on this thread. `x` walks over 16 rows, `inputs` bytes apart and
    // `steps` times 64 bytes long, and each panel over `steps` tiles, as the assertion says; the four results are a tile
    // each, one behind the other.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x} + {row}*1]",
            "tileloadd tmm5, [{panel0} + {line}*1]",
            "tdpbusd tmm0, tmm4, tmm5",
            "tileloadd tmm6, [{panel1} + {line}*1]",
            "tdpbusd tmm1, tmm4, tmm6",
            "tileloadd tmm7, [{panel2} + {line}*1]",
            "tdpbusd tmm2, tmm4, tmm7",
            "tileloadd tmm5, [{panel3} + {line}*1]",
            "tdpbusd tmm3, tmm4, tmm5",
            "add {x}, 64",
            "add {panel0}, 1024",
            "add {panel1}, 1024",
            "add {panel2}, 1024",
            "add {panel3}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}*1], tmm0",
            "tilestored [{out} + {line}*1 + 1024], tmm1",
            "tilestored [{out} + {line}*1 + 2048], tmm2",
            "tilestored [{out} + {line}*1 + 3072], tmm3",
            x = inout(reg) x.as_ptr() => _,
            row = in(reg) inputs,
            panel0 = inout(reg) panels.as_ptr() => _,
            panel1 = inout(reg) panels[steps * TILE..].as_ptr() => _,
            panel2 = inout(reg) panels[2 * steps * TILE..].as_ptr() => _,
            panel3 = inout(reg) panels[3 * steps * TILE..].as_ptr() => _,
            line = in(reg) 64usize,
            steps = inout(reg) steps => _,
            out = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// The products of two tiles of rows with two neighbouring panels of weights: the first rows, then the second.
#[inline(always)]
fn two_by_two(_: Amx, x: &[u8], inputs: usize, panels: &[i8], sums: &mut [Sums; 4]) {
    let steps = inputs / DEPTH;
    assert!(steps > 0 && x.len() >= 2 * SIDE * inputs && panels.len() == 2 * steps * TILE);
    // SAFETY: as in `one_by_four`, with 32 rows and two panels.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{x0} + {row}*1]",
            "tileloadd tmm6, [{panel0} + {line}*1]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{panel1} + {line}*1]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x1} + {row}*1]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {x0}, 64",
            "add {x1}, 64",
            "add {panel0}, 1024",
            "add {panel1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{out} + {line}*1], tmm0",
            "tilestored [{out} + {line}*1 + 1024], tmm1",
            "tilestored [{out} + {line}*1 + 2048], tmm2",
            "tilestored [{out} + {line}*1 + 3072], tmm3",
            x0 = inout(reg) x.as_ptr() => _,
            x1 = inout(reg) x[SIDE * inputs..].as_ptr() => _,
            row = in(reg) inputs,
            panel0 = inout(reg) panels.as_ptr() => _,
            panel1 = inout(reg) panels[steps * TILE..].as_ptr() => _,
            line = in(reg) 64usize,
            steps = inout(reg) steps => _,
            out = in(reg) sums.as_mut_ptr(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}
