//! Named tensors from a safetensors file, checked and widened to f32.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

/// Appended to a tensor's name: the f32 scale of each row of an int8 tensor, or the f16 scales of the groups of a 4-bit
/// matrix.
pub(crate) const SCALE_SUFFIX: &str = ".scale";
/// Neighbours in a row of a 4-bit matrix that share a scale.
pub(crate) const GROUP: usize = 32;

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
    #[error("tensor {name:?} is stored as {dtype}, expected F32, F16, BF16, or I8 or U8 with scales")]
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
/// `q + 8` for the value `scale * q`, `q` in -8..=7. A U8 tensor of one dimension is a packed file.
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
        let rows = match view.dtype() {
            Dtype::F32 => Rows::F32(words(view.data(), f32::from_le_bytes)),
            Dtype::F16 => Rows::F16(words(view.data(), f16::from_le_bytes)),
            Dtype::BF16 => Rows::BF16(words(view.data(), bf16::from_le_bytes)),
            Dtype::I8 => {
                let count = shape[..shape.len().saturating_sub(1)].iter().product();
                let scale = self.read(&format!("{name}{SCALE_SUFFIX}"), &[count])?;
                Rows::I8(view.data().iter().map(|&byte| byte as i8).collect(), scale)
            }
            Dtype::U8 if shape.len() == 2 => {
                let (count, width) = (shape[0], shape[1]);
                if !width.is_multiple_of(GROUP) {
                    return Err(WeightsError::GroupWidth { name: name.to_owned(), width });
                }
                let scales = self.read(&format!("{name}{SCALE_SUFFIX}"), &[count, width / GROUP])?;
                Rows::I4(view.data().to_vec(), scales)
            }
            dtype => return Err(WeightsError::Dtype { name: name.to_owned(), dtype: format!("{dtype:?}") }),
        };
        if rows.is_finite() { Ok(rows) } else { Err(WeightsError::NotFinite(name.to_owned())) }
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, WeightsError> {
        let view = self.0.tensor(name).map_err(|_| WeightsError::Missing(name.to_owned()))?;
        let found = values_shape(&view);
        if found != shape {
            return Err(WeightsError::Shape { name: name.to_owned(), found, expected: shape.to_vec() });
        }
        Ok(view)
    }

    /// The bytes of a tensor of type U8: a file packed beside the weights.
    pub(crate) fn blob(&self, name: &str) -> Result<&[u8], WeightsError> {
        let view = self.0.tensor(name).map_err(|_| WeightsError::Missing(name.to_owned()))?;
        match view.dtype() {
            Dtype::U8 => Ok(view.data()),
            dtype => Err(WeightsError::Dtype { name: name.to_owned(), dtype: format!("{dtype:?}") }),
        }
    }

    /// Every tensor with its name, for writing it elsewhere.
    pub(crate) fn views(&self) -> impl Iterator<Item = (&str, TensorView<'_>)> {
        self.0.names().into_iter().filter_map(|name| Some((name, self.0.tensor(name).ok()?)))
    }
}

/// A matrix in the number format of the file, scales widened.
#[derive(Debug)]
pub(crate) enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I8(Vec<i8>, Vec<f32>),
    I4(Vec<u8>, Vec<f32>),
}

impl Rows {
    /// Widens row `row` into `out`, whose length is the width of the matrix.
    pub(crate) fn copy(&self, row: usize, out: &mut [f32]) {
        let range = row * out.len()..(row + 1) * out.len();
        match self {
            Rows::F32(values) => out.copy_from_slice(&values[range]),
            Rows::F16(values) => widen(&values[range], out, f16::to_f32),
            Rows::BF16(values) => widen(&values[range], out, bf16::to_f32),
            Rows::I8(values, scale) => {
                let scale = scale[row];
                widen(&values[range], out, |value| f32::from(value) * scale);
            }
            Rows::I4(values, scales) => {
                let (groups, _) = out.as_chunks_mut::<GROUP>();
                let (values, _) = values[range.start / 2..range.end / 2].as_chunks::<{ GROUP / 2 }>();
                let scales = &scales[range.start / GROUP..];
                for ((group, values), scale) in groups.iter_mut().zip(values).zip(scales) {
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

    fn is_finite(&self) -> bool {
        match self {
            Rows::F32(values) => values.iter().all(|value| value.is_finite()),
            Rows::F16(values) => values.iter().all(|value| value.is_finite()),
            Rows::BF16(values) => values.iter().all(|value| value.is_finite()),
            // `read` has checked the scales.
            Rows::I8(..) | Rows::I4(..) => true,
        }
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

fn words<T, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&word| from(word)).collect()
}

fn widen<T: Copy>(values: &[T], out: &mut [f32], f32_of: impl Fn(T) -> f32) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = f32_of(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
