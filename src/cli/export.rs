//! `intentgate export`.

use super::{Failure, ModelArguments};
use clap::Args;
use intentgate::{
    Guard,
    engine::{Encoder, EncoderConfig, Scratch, TensorFile},
    export::{LastLayer, onnx},
};
use serde::Serialize;
use std::{
    io::{self, BufRead},
    path::PathBuf,
    process::ExitCode,
};

/// Write the network of a model as an ONNX file, for other runtimes.
///
/// The graph goes from token ids to logits, in f32. Normalising, tokenising, reading long messages in windows, temperature
/// and thresholds are not in it.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The file to write
    #[arg(long, value_name = "FILE", required_unless_present = "ids")]
    onnx: Option<PathBuf>,
    /// Compute in the last layer only what the first token needs: the same logits for less work, but tools that fuse
    /// attention no longer know its pattern there
    #[arg(long)]
    first_token: bool,
    /// Print token ids and logits of each line of stdin as JSON: what other runtimes should get and give
    #[arg(long, hide = true)]
    ids: bool,
}

#[derive(Serialize)]
struct Pass {
    ids: Vec<u32>,
    logits: Vec<f32>,
    language_logits: Vec<f32>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let bundle = arguments.model.bundle()?;
    let (config, weights) = (EncoderConfig::from_json(&bundle.config)?, TensorFile::parse(&bundle.weights)?);
    if let Some(path) = &arguments.onnx {
        let last_layer = if arguments.first_token { LastLayer::FirstToken } else { LastLayer::AllTokens };
        let file = onnx(&config, &weights, last_layer)?;
        super::write(path, &file)?;
        eprintln!("{}: {:.1} MB", path.display(), file.len() as f64 / 1e6);
    }
    if arguments.ids {
        let (guard, encoder) = (Guard::from_bundle(&bundle)?, Encoder::load(&config, &weights)?);
        let mut scratch = Scratch::default();
        for line in io::stdin().lock().lines() {
            let ids = guard.token_ids(None, &line?);
            let mut logits = vec![0.0; guard.labels().len() + encoder.languages()];
            encoder.logits(&ids, &mut scratch, &mut logits);
            let language_logits = logits.split_off(guard.labels().len());
            super::print_json(&Pass { ids, logits, language_logits }, false)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
