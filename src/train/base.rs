//! Encoders to start from: a directory in the Hugging Face layout, or a repository on the hub.

use crate::{
    guard::{Bundle, FILES, LoadError},
    label::Flow,
    tokenizer::{Tokenizer, TokenizerError},
};
use std::{borrow::Cow, fs, path::Path};

/// Reads `config.json`, `model.safetensors` and `tokenizer.json` of a directory. It needs no `guard.json`.
///
/// # Errors
/// [`LoadError::Io`].
pub fn base_from_dir(dir: &Path) -> Result<Bundle<'static>, LoadError> {
    let read = |name: &str| {
        let path = dir.join(name);
        fs::read(&path).map(Cow::Owned).map_err(|source| LoadError::Io { path, source })
    };
    Ok(Bundle { config: read(FILES[0])?, weights: read(FILES[1])?, tokenizer: read(FILES[2])?, guard: Cow::default() })
}

/// A `tokenizer.json` that has the flow tokens: the same if it has them, else with those that are missing at the end.
pub(super) fn with_flow_tokens(json: &[u8]) -> Result<Cow<'_, [u8]>, TokenizerError> {
    let tokenizer = Tokenizer::from_json(json)?;
    if Flow::ALL.iter().all(|&flow| tokenizer.flow_token(flow).is_some()) {
        return Ok(Cow::Borrowed(json));
    }
    let mut file: serde_json::Value = serde_json::from_slice(json)?;
    let missing = Flow::ALL.into_iter().filter(|&flow| tokenizer.flow_token(flow).is_none());
    for (id, flow) in (tokenizer.vocabulary_size()..).zip(missing) {
        if let Some(added) = file["added_tokens"].as_array_mut() {
            added.push(super::vocabulary::added_token(id, flow.token()));
        }
    }
    Ok(Cow::Owned(serde_json::to_vec(&file)?))
}

/// Fetches those files of a model on the Hugging Face hub, such as `intfloat/multilingual-e5-small`, into the hub's own
/// cache, and returns the directory they lie in. Files that are in the cache are not fetched again.
///
/// # Errors
/// [`LoadError::Hub`], also when there is no network.
#[cfg(feature = "hub")]
pub fn fetch_base(id: &str) -> Result<std::path::PathBuf, LoadError> {
    let failed = |why: String| LoadError::Hub { id: id.to_owned(), why };
    let (owner, name) = id.split_once('/').ok_or_else(|| failed("expected OWNER/NAME".into()))?;
    let client = hf_hub::HFClientSync::new().map_err(|error| failed(error.to_string()))?;
    let repository = client.model(owner, name);
    let mut dir = Err(failed("no file".into()));
    for file in &FILES[..3] {
        let path =
            repository.download_file().filename(*file).send().map_err(|error| failed(format!("{file}: {error}")))?;
        dir = path.parent().map(Path::to_path_buf).ok_or_else(|| failed(format!("{file} has no directory")));
    }
    dir
}
