//! What computes the logits of a command: `--backend` and `--device`.

use super::{Failure, ModelArguments, device::DeviceKind};
use clap::{Args, ValueEnum};
use intentgate::Guard;

/// What computes, and where.
#[derive(Args)]
pub(super) struct BackendArguments {
    /// What computes [default: native, with --device cuda candle]
    #[arg(long)]
    backend: Option<BackendKind>,
    /// Where candle computes. A GPU gets messages in batches, and answers come batch by batch
    #[arg(long, default_value = "cpu")]
    device: DeviceKind,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendKind {
    /// The engine of this crate
    Native,
    /// candle-transformers' BertModel, f32
    Candle,
}

impl BackendArguments {
    pub(super) fn guard(&self, model: &ModelArguments) -> Result<Guard, Failure> {
        match (self.backend, self.device) {
            (Some(BackendKind::Native), DeviceKind::Cuda) => {
                Err("the native engine computes on the CPU alone: use --backend candle with --device cuda".into())
            }
            (None | Some(BackendKind::Native), DeviceKind::Cpu) => Ok(model.guard()?),
            (Some(BackendKind::Candle), _) | (None, DeviceKind::Cuda) => candle(model, self.device),
        }
    }
}

#[cfg(feature = "train")]
fn candle(model: &ModelArguments, device: DeviceKind) -> Result<Guard, Failure> {
    super::hold_candle_to_one_thread()?;
    let device = device.device()?;
    Ok(Guard::with_backend(&model.bundle()?, |config, weights| {
        Ok(Box::new(intentgate::model::Reference::load(config, weights, &device)?))
    })?)
}

#[cfg(not(feature = "train"))]
fn candle(_: &ModelArguments, _: DeviceKind) -> Result<Guard, Failure> {
    Err("this program was built without candle: build it with the feature `train`".into())
}
