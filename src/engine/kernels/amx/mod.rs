//! The tile unit (AMX) of recent Intel CPUs: 8 registers of 16 rows of 64 bytes.
//!
//! Instructions are written in assembly because the intrinsics are not stable yet. Registers are configured before a
//! product and given back after it.

#[cfg(feature = "train")]
mod bf16;
mod int8;

#[cfg(feature = "train")]
pub(crate) use bf16::{Matrix, Sum};
pub(super) use int8::Product;

use std::{arch::asm, sync::OnceLock};

/// Rows of a tile, and 32-bit words in a row.
const SIDE: usize = 16;

/// The tile unit, permitted by the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amx(());

impl Amx {
    /// The unit, where CPU and operating system have it. Asks the latter for permission once per process.
    pub(crate) fn detect() -> Option<Self> {
        static PERMITTED: OnceLock<bool> = OnceLock::new();
        PERMITTED.get_or_init(|| has_instructions() && ask_permission()).then_some(Amx(()))
    }
}

/// Tile shapes: 8 tiles of 16 rows and 64 bytes.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static SHAPES: Shapes = Shapes {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

#[inline(always)]
fn configure(_: Amx) {
    // SAFETY: an `Amx` exists, so the instructions do and are permitted; `SHAPES` is the 64 bytes that are read, a valid
    // configuration of palette 1.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const SHAPES, options(nostack, readonly)) }
}

#[inline(always)]
fn release(_: Amx) {
    // SAFETY: an `Amx` exists; the tiles are not used after this.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

fn has_instructions() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const TILE: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    const INT8: u32 = 1 << 25;
    if __cpuid_count(0, 0).eax < 7 {
        return false;
    }
    __cpuid_count(7, 0).edx & (TILE | BF16 | INT8) == TILE | BF16 | INT8
}

/// Linux keeps the large tile registers from a process until it asks for them.
#[cfg(target_os = "linux")]
fn ask_permission() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: the system call reads no memory of ours; it clobbers what is declared.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _, out("r11") _,
            options(nostack)
        );
    }
    result == 0
}

#[cfg(not(target_os = "linux"))]
fn ask_permission() -> bool {
    false
}
