//! A matrix in the number format of its file, widened to f32 a row at a time.

use super::bytes::Shared;
use half::{bf16, f16};

/// Neighbours in a row of a 4-bit matrix that share a scale.
pub(crate) const GROUP: usize = 32;

/// How the values of a matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    /// With an f32 scale for each row.
    I8,
    /// Two values a byte, the first in its low half, `q + 8` for `q` in -8..=7; with an f16 scale for each [`GROUP`].
    I4,
}

impl Format {
    /// Every format, in the order of their numbers in packed files.
    pub(crate) const ALL: [Format; 5] = [Format::F32, Format::F16, Format::BF16, Format::I8, Format::I4];

    /// Bytes of `values` values.
    pub(crate) fn bytes(self, values: usize) -> usize {
        match self {
            Format::F32 => 4 * values,
            Format::F16 | Format::BF16 => 2 * values,
            Format::I8 => values,
            Format::I4 => values / 2,
        }
    }

    /// Bytes of the scales of `rows` rows of `width` values.
    pub(crate) fn scale_bytes(self, rows: usize, width: usize) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 0,
            Format::I8 => 4 * rows,
            Format::I4 => 2 * rows * (width / GROUP),
        }
    }
}

/// A matrix, read where it lies; numbers are little-endian.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) format: Format,
    pub(crate) values: Shared,
    pub(crate) scales: Shared,
}

impl Rows {
    pub(crate) fn from_f32(values: &[f32]) -> Self {
        Rows { format: Format::F32, values: Shared::new(bytes_of(values)), scales: Shared::default() }
    }

    #[cfg(test)]
    pub(crate) fn from_int8(values: &[i8], scales: &[f32]) -> Self {
        let values = Shared::new(values.iter().map(|&value| value as u8).collect());
        Rows { format: Format::I8, values, scales: Shared::new(bytes_of(scales)) }
    }

    /// The values and scales of an int8 matrix, a scale for each row.
    pub(crate) fn int8(&self) -> Option<(&[u8], impl Iterator<Item = f32>)> {
        let scales = self.scales.as_slice().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        (self.format == Format::I8).then_some((self.values.as_slice(), scales))
    }

    /// Widens row `row` into `out`, whose length is the width of the matrix. Beyond the last row all is zero.
    pub(crate) fn copy(&self, row: usize, out: &mut [f32]) {
        let part = |bytes: usize| row * bytes..(row + 1) * bytes;
        let scales = self.format.scale_bytes(1, out.len());
        let (Some(values), Some(scales)) =
            (self.values.as_slice().get(part(self.format.bytes(out.len()))), self.scales.as_slice().get(part(scales)))
        else {
            return out.fill(0.0);
        };
        match self.format {
            Format::F32 => widen(values, out, f32::from_le_bytes),
            Format::F16 => widen(values, out, |bytes| half_to_f32(u16::from_le_bytes(bytes))),
            Format::BF16 => widen(values, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Format::I8 => {
                let scale = scales.first_chunk().map_or(0.0, |&bytes| f32::from_le_bytes(bytes));
                widen(values, out, |[byte]| f32::from(byte as i8) * scale);
            }
            Format::I4 => {
                let groups = out.as_chunks_mut::<GROUP>().0.iter_mut().zip(values.as_chunks::<{ GROUP / 2 }>().0);
                for ((group, values), &scale) in groups.zip(scales.as_chunks().0) {
                    let scale = half_to_f32(u16::from_le_bytes(scale));
                    // Eight halves of a word, each shifted by a constant: the form that compiles to vectors best.
                    for (out, &bytes) in group.as_chunks_mut::<8>().0.iter_mut().zip(values.as_chunks().0) {
                        let word = u32::from_le_bytes(bytes);
                        for (i, out) in out.iter_mut().enumerate() {
                            *out = ((word >> (4 * i) & 15) as i32 - 8) as f32 * scale;
                        }
                    }
                }
            }
        }
    }

    /// Whether no value is a NaN or an infinity.
    pub(crate) fn is_finite(&self) -> bool {
        let (values, scales) = (self.values.as_slice(), self.scales.as_slice());
        match self.format {
            Format::F32 => all(values, |bytes| f32::from_le_bytes(bytes).is_finite()),
            Format::F16 => all(values, |bytes| f16::from_le_bytes(bytes).is_finite()),
            Format::BF16 => all(values, |bytes| bf16::from_le_bytes(bytes).is_finite()),
            Format::I8 => all(scales, |bytes| f32::from_le_bytes(bytes).is_finite()),
            Format::I4 => all(scales, |bytes| f16::from_le_bytes(bytes).is_finite()),
        }
    }
}

/// What `f16::to_f32` says of a finite number, inlined: that one asks at every call what the machine can do.
#[inline(always)]
fn half_to_f32(bits: u16) -> f32 {
    // Exponent and fraction in the places they have in f32, where they are worth 2^112 times less.
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * SCALE;
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn all<const N: usize>(bytes: &[u8], is_finite: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks().0.iter().all(|&bytes| is_finite(bytes))
}

fn widen<const N: usize>(values: &[u8], out: &mut [f32], f32_of: impl Fn([u8; N]) -> f32) {
    for (out, &bytes) in out.iter_mut().zip(values.as_chunks().0) {
        *out = f32_of(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_widens_to_what_it_is() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            if half.is_finite() {
                assert_eq!(half_to_f32(bits).to_bits(), half.to_f32().to_bits(), "{half}");
            }
        }
    }

    #[test]
    fn beyond_the_last_row_all_is_zero() {
        let rows = Rows::from_f32(&[1.0, 2.0]);
        let mut out = [7.0; 2];
        rows.copy(1, &mut out);
        assert_eq!(out, [0.0; 2]);
    }
}
