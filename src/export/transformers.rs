//! A model directory for Python's `transformers`.

use crate::{
    engine::{EncoderConfig, SCALE_SUFFIX, TensorFile, WeightsError},
    guard::{Bundle, FILES, GuardConfig, LoadError},
};
use safetensors::tensor::{Dtype, TensorView};
use std::{borrow::Cow, collections::HashMap};

/// How `transformers` is to read the `tokenizer.json` beside it.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// A file of the directory: its name, and what it holds.
pub type TransformersFile<'a> = (&'static str, Cow<'a, [u8]>);

/// The files of a directory that `AutoModelForSequenceClassification` and `AutoTokenizer` of `transformers` load, and
/// [`Guard::from_dir`](crate::Guard::from_dir) as well.
///
/// Weights are widened to f32: no other program reads ours at 8 or 4 bits. They keep their names, and so do the tensors of a
/// language head, of which `transformers` says that it does not use them. `tokenizer_config.json` makes `AutoTokenizer` take
/// `tokenizer.json` as it is, cut at `max_tokens`. The other files stay as they are.
///
/// # Errors
/// [`LoadError`] names the file that is broken or does not fit the others.
pub fn transformers<'a>(bundle: &'a Bundle<'_>) -> Result<Vec<TransformersFile<'a>>, LoadError> {
    EncoderConfig::from_json(&bundle.config)?;
    let guard = GuardConfig::from_json(&bundle.guard)?;
    let [config, weights, tokenizer, guard_json] = FILES;
    Ok(vec![
        (config, Cow::Borrowed(&*bundle.config)),
        (weights, widened(&bundle.weights)?.into()),
        (tokenizer, Cow::Borrowed(&*bundle.tokenizer)),
        (TOKENIZER_CONFIG, tokenizer_config(guard.max_tokens).into()),
        (guard_json, Cow::Borrowed(&*bundle.guard)),
    ])
}

/// The same tensors in f32.
fn widened(weights: &[u8]) -> Result<Vec<u8>, WeightsError> {
    let file = TensorFile::parse(weights)?;
    let is_scale = |name: &str| name.strip_suffix(SCALE_SUFFIX).is_some_and(|of| file.contains(of));
    let tensors = file
        .names()
        .into_iter()
        .filter(|name| !is_scale(name))
        .map(|name| {
            let shape = file.shape(name).unwrap_or_default();
            let bytes: Vec<u8> = file.read(name, &shape)?.iter().flat_map(|value| value.to_le_bytes()).collect();
            Ok((name, shape, bytes))
        })
        .collect::<Result<Vec<_>, WeightsError>>()?;
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, WeightsError>>()?;
    // Older releases refuse a file without it.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// Without it, `AutoTokenizer` would put BERT's own normaliser and WordPiece in the place of what `tokenizer.json` says.
pub(crate) fn tokenizer_config(max_tokens: usize) -> Vec<u8> {
    let json = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    });
    format!("{json:#}\n").into_bytes()
}
