//! Where candle computes.

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DeviceKind {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
}

#[cfg(feature = "train")]
impl DeviceKind {
    pub(super) fn device(self) -> Result<candle_core::Device, super::Failure> {
        match self {
            DeviceKind::Cpu => Ok(candle_core::Device::Cpu),
            DeviceKind::Cuda if cfg!(feature = "cuda") => {
                // Products of f32 on the tensor cores: operands rounded to 10 bits (TF32), sums in f32.
                candle_core::cuda::set_gemm_reduced_precision_f32(true);
                Ok(candle_core::Device::new_cuda(0)?)
            }
            DeviceKind::Cuda => Err("this program was built without the feature `cuda`".into()),
        }
    }
}
