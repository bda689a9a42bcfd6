//! Named tensors from a safetensors file, checked and widened to f32.

use super::{
    bytes::Shared,
    rows::{Format, GROUP, Rows},
};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

/// Appended to a tensor's name: the f32 scale of each row of an int8 tensor, or the f16 scales of the groups of a 4-bit
/// matrix.
pub(crate) const SCALE_SUFFIX: &str = ".scale";

/// Why a weights file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file is not in the safetensors format, or cut short.
    #[error("not a safetensors file: {0}")]
    Format(#[from] SafeTensorError),
    /// A tensor that the configuration asks for is not there.
    #[error("tensor {0:?} is missing")]
    Missing(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name:?} has shape {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor is stored in a number format that is not read here.
    #[error("tensor {name:?} is stored as {dtype}, expected F32, F16, BF16, I8 with F32 scales or U8 with F16 scales")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its number format.
        dtype: String,
    },
    /// A 4-bit matrix has rows that do not divide into groups.
    #[error("tensor {name:?} is stored at 4 bits in rows of {width} values, which is not a multiple of {GROUP}")]
    GroupWidth {
        /// The tensor.
        name: String,
        /// Values in a row.
        width: usize,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("tensor {0:?} holds a value that is not finite")]
    NotFinite(String),
}

/// A parsed safetensors file. Nothing is copied until a tensor is asked for.
///
/// Beside the usual number formats it reads two of ours. `NAME` of type I8 has one f32 scale per row in `NAME.scale`. A
/// matrix at 4 bits is `NAME` of type U8 and shape `[rows, width / 2]` with f16 scales of shape `[rows, width / 32]` in
/// `NAME.scale`, one per group of 32 neighbours: a byte holds two values, the first in its low half, and a half is
/// `q + 8` for the value `scale * q`, `q` in -8..=7.
#[derive(Debug)]
pub struct TensorFile<'a>(SafeTensors<'a>);

impl<'a> TensorFile<'a> {
    /// Reads the header and checks that every tensor lies inside `bytes`.
    ///
    /// # Errors
    /// [`WeightsError::Format`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WeightsError> {
        Ok(TensorFile(SafeTensors::deserialize(bytes)?))
    }

    /// Whether the file has a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.tensor(name).is_ok()
    }

    /// The names of all tensors, in no particular order.
    pub fn names(&self) -> Vec<&str> {
        self.0.names()
    }

    /// The shape of a tensor as it is read, if the file has it: that of a 4-bit matrix counts values, not bytes.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensor(name).ok().map(|view| values_shape(&view))
    }

    /// The tensor as f32 in row-major order.
    ///
    /// # Errors
    /// Any [`WeightsError`] but `Format`.
    pub fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        let rows = self.rows(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        if let Some(&width) = shape.last().filter(|&&width| width > 0) {
            for (row, out) in values.chunks_exact_mut(width).enumerate() {
                rows.copy(row, out);
            }
        }
        Ok(values)
    }

    /// The tensor as it is stored, for reading a row at a time. A row runs along the last dimension.
    ///
    /// # Errors
    /// Any [`WeightsError`] but `Format`.
    pub(crate) fn rows(&self, name: &str, shape: &[usize]) -> Result<Rows, WeightsError> {
        let view = self.view(name, shape)?;
        let format = match view.dtype() {
            Dtype::F32 => Format::F32,
            Dtype::F16 => Format::F16,
            Dtype::BF16 => Format::BF16,
            Dtype::I8 => Format::I8,
            Dtype::U8 if shape.len() == 2 => Format::I4,
            dtype => return Err(WeightsError::Dtype { name: name.to_owned(), dtype: format!("{dtype:?}") }),
        };
        let width = shape.last().copied().unwrap_or(1);
        let count = shape[..shape.len().saturating_sub(1)].iter().product();
        let scales = match format {
            Format::F32 | Format::F16 | Format::BF16 => &[][..],
            Format::I8 => self.scales(name, &[count], Dtype::F32)?,
            Format::I4 if !width.is_multiple_of(GROUP) => {
                return Err(WeightsError::GroupWidth { name: name.to_owned(), width });
            }
            Format::I4 => self.scales(name, &[count, width / GROUP], Dtype::F16)?,
        };
        let rows = Rows { format, values: Shared::new(view.data().to_vec()), scales: Shared::new(scales.to_vec()) };
        if rows.is_finite() {
            Ok(rows)
        } else {
            let culprit = if scales.is_empty() { "" } else { SCALE_SUFFIX };
            Err(WeightsError::NotFinite(format!("{name}{culprit}")))
        }
    }

    fn scales(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<&[u8], WeightsError> {
        let name = format!("{name}{SCALE_SUFFIX}");
        let view = self.view(&name, shape)?;
        if view.dtype() == dtype {
            Ok(view.data())
        } else {
            Err(WeightsError::Dtype { name, dtype: format!("{:?}", view.dtype()) })
        }
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, WeightsError> {
        let view = self.0.tensor(name).map_err(|_| WeightsError::Missing(name.to_owned()))?;
        let found = values_shape(&view);
        if found != shape {
            return Err(WeightsError::Shape { name: name.to_owned(), found, expected: shape.to_vec() });
        }
        Ok(view)
    }
}

fn values_shape(view: &TensorView<'_>) -> Vec<usize> {
    let mut shape = view.shape().to_vec();
    if let (Dtype::U8, [_, width]) = (view.dtype(), &mut shape[..]) {
        // Beside a dimension of 0 any other can be written into a file.
        *width = width.saturating_mul(2);
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Two rows of `bytes` bytes, with scales for `groups` groups a row.
    fn four_bit(bytes: usize, scale: f16, groups: usize) -> Vec<u8> {
        let values: Vec<u8> = (0..2 * bytes).map(|i| (i * 37) as u8).collect();
        let scales = scale.to_le_bytes().repeat(2 * groups);
        let tensors = [
            ("a", TensorView::new(Dtype::U8, vec![2, bytes], &values).unwrap()),
            ("a.scale", TensorView::new(Dtype::F16, vec![2, groups], &scales).unwrap()),
        ];
        safetensors::serialize(tensors, None).unwrap()
    }

    #[test]
    fn a_byte_holds_two_values_low_half_first() {
        let bytes = four_bit(32, f16::from_f32(-0.5), 2);
        let file = TensorFile::parse(&bytes).unwrap();
        assert_eq!(file.shape("a"), Some(vec![2, 64]));
        let values = file.read("a", &[2, 64]).unwrap();
        for (i, value) in values.iter().enumerate() {
            let byte = (i / 2 * 37) as u8;
            let half = if i % 2 == 0 { byte % 16 } else { byte / 16 };
            assert_eq!(*value, -0.5 * (f32::from(half) - 8.0), "{i}");
        }
    }

    #[test]
    fn four_bit_matrices_that_do_not_fit_are_refused() {
        let error = |bytes: &[u8], shape: &[usize]| TensorFile::parse(bytes).unwrap().rows("a", shape).unwrap_err();
        let good = four_bit(32, f16::ONE, 2);
        assert!(matches!(error(&good, &[2, 32]), WeightsError::Shape { found, .. } if found == [2, 64]));
        assert!(matches!(error(&good, &[2, 128]), WeightsError::Shape { found, .. } if found == [2, 64]));
        assert!(matches!(error(&good, &[128]), WeightsError::Shape { .. }));
        let error_of = |bytes, scale, groups| error(&four_bit(bytes, scale, groups), &[2, 2 * bytes]);
        assert!(matches!(error_of(24, f16::ONE, 1), WeightsError::GroupWidth { width: 48, .. }));
        assert!(matches!(error_of(32, f16::ONE, 1), WeightsError::Shape { name, .. } if name == "a.scale"));
        for bad in [f16::NAN, f16::NEG_INFINITY] {
            assert!(matches!(error_of(32, bad, 2), WeightsError::NotFinite(name) if name == "a.scale"));
        }
    }
}
