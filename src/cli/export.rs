//! `intentgate export`.

use super::{Failure, ModelArguments};
use clap::Args;
use intentgate::{
    Guard,
    engine::{Encoder, EncoderConfig, Scratch, TensorFile},
    export::{LastLayer, onnx, transformers},
};
use serde::Serialize;
use std::{
    fs,
    io::{self, BufRead},
    path::PathBuf,
    process::ExitCode,
};

/// Write a model for other runtimes: an ONNX file, or a directory for Python's transformers.
///
/// Both go from token ids to logits, in f32. Normalising beyond what tokenizer.json does, reading long messages in windows,
/// temperature and thresholds are not in them.
///
/// The ONNX graph (opset 17) has one input, `input_ids`, int64 [batch, sequence]: token ids with special tokens, as
/// tokenizer.json gives them, both dimensions free, sequence at most max_position_embeddings of config.json. There is no
/// mask, so the messages of a batch must have as many tokens. Outputs are `logits`, float [batch, labels], and, where the
/// model tells languages apart, `language_logits`, float [batch, languages]. The metadata entry `labels` names the labels
/// in order, as JSON.
///
/// The directory holds what AutoModelForSequenceClassification and AutoTokenizer load, and is a model directory for
/// --model too. Probabilities are softmax(logits / temperature), with the temperature in guard.json.
#[derive(Args)]
#[command(after_help = "Examples:
  intentgate export --model my-model --onnx my.onnx
  intentgate export --model my-model --transformers my-model-f32")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The ONNX file to write
    #[arg(long, value_name = "FILE", required_unless_present_any = ["transformers", "ids"])]
    onnx: Option<PathBuf>,
    /// The directory for transformers to write
    #[arg(long, value_name = "DIR")]
    transformers: Option<PathBuf>,
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
    if let Some(dir) = &arguments.transformers {
        fs::create_dir_all(dir).map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
        for (name, content) in transformers(&bundle)? {
            super::write(&dir.join(name), content)?;
        }
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
