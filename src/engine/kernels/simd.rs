//! The operations that the kernels are written in, 16 values at a time whatever the registers of the machine.

/// How many values a vector has: one register of AVX-512, two of AVX2.
pub(crate) const LANES: usize = 16;

/// Four inputs for each of 16 outputs: what one step of an int8 product reads.
pub(crate) type Quads = [i8; 64];

/// An instruction set. A value of such a type is proof that the machine has it, which makes the methods safe.
///
/// After the traits of the same purpose in memchr and pulp: methods are always inlined into a function that has been
/// compiled for the instruction set (see [`Kernel`]), and the intrinsics into that.
pub(crate) trait Simd: Copy {
    /// 16 numbers of type f32.
    type F: Copy;
    /// 16 numbers of type i32.
    type I: Copy;
    /// [`Quads`], loaded.
    type W: Copy;
    /// Most rows that an int8 product takes at once with all sums in registers.
    const ROWS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, from: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F, to: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once where the machine can.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger one, and `b` if one of them is NaN: a value that must not be lost goes there.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller one, and `b` if one of them is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn abs(self, x: Self::F) -> Self::F;
    /// `1 / x` to a relative error of 1e-6, for normal `x`.
    fn reciprocal(self, x: Self::F) -> Self::F;
    /// `2^n` for whole `n` in -126..=127.
    fn power_of_two(self, n: Self::F) -> Self::F;
    /// The sum of all lanes.
    fn sum(self, x: Self::F) -> f32;
    /// The largest of all lanes.
    fn largest(self, x: Self::F) -> f32;
    /// Rounds to the nearest whole number, for values in -0.5..255.5. A NaN becomes any byte.
    fn to_bytes(self, x: Self::F) -> [u8; LANES];
    /// Makes columns of rows.
    fn transpose(self, rows: &mut [[f32; LANES]; LANES]);

    fn zeros(self) -> Self::I;
    fn load_i32(self, from: &[i32; LANES]) -> Self::I;
    fn add_i32(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_f32(self, x: Self::I) -> Self::F;
    /// The same four bytes for every lane.
    fn splat_bytes(self, bytes: [u8; 4]) -> Self::I;
    fn load_quads(self, from: &Quads) -> Self::W;
    /// Adds to each lane of `sums` the product of its four inputs, unsigned in `x`, with its four weights.
    fn dot(self, sums: Self::I, x: Self::I, weights: Self::W) -> Self::I;
}

/// Code that is compiled anew for every instruction set.
pub(crate) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}
