//! Named tensors from a safetensors file, checked and widened to f32.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};

/// Appended to a tensor's name: the f32 scale of each row of an int8 tensor.
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
    #[error("tensor {name:?} is stored as {dtype}, expected F32, F16, BF16 or I8 with a scale")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its number format.
        dtype: String,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("tensor {0:?} holds a value that is not finite")]
    NotFinite(String),
}

/// A parsed safetensors file. Nothing is copied until a tensor is asked for.
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

    /// The shape of a tensor, if the file has it.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensor(name).ok().map(|view| view.shape().to_vec())
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
            dtype => return Err(WeightsError::Dtype { name: name.to_owned(), dtype: format!("{dtype:?}") }),
        };
        if rows.is_finite() { Ok(rows) } else { Err(WeightsError::NotFinite(name.to_owned())) }
    }

    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>, WeightsError> {
        let view = self.0.tensor(name).map_err(|_| WeightsError::Missing(name.to_owned()))?;
        if view.shape() != shape {
            return Err(WeightsError::Shape {
                name: name.to_owned(),
                found: view.shape().to_vec(),
                expected: shape.to_vec(),
            });
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

/// A matrix in the number format of the file.
#[derive(Debug)]
pub(crate) enum Rows {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    I8(Vec<i8>, Vec<f32>),
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
        }
    }

    fn is_finite(&self) -> bool {
        match self {
            Rows::F32(values) => values.iter().all(|value| value.is_finite()),
            Rows::F16(values) => values.iter().all(|value| value.is_finite()),
            Rows::BF16(values) => values.iter().all(|value| value.is_finite()),
            // `read` has checked the scales.
            Rows::I8(..) => true,
        }
    }
}

fn words<T, const N: usize>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&word| from(word)).collect()
}

fn widen<T: Copy>(values: &[T], out: &mut [f32], f32_of: impl Fn(T) -> f32) {
    for (out, &value) in out.iter_mut().zip(values) {
        *out = f32_of(value);
    }
}
