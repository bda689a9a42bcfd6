//! Token ids from a normalised message, equal to those of the `tokenizers` crate on the same `tokenizer.json`.
//!
//! The only model is Unigram (Kudo, 2018, <https://arxiv.org/abs/1804.10959>) behind a Metaspace pre-tokenizer, as in
//! XLM-RoBERTa and multilingual-e5: the text is cut before every space, and each word is segmented into the pieces with
//! the highest total log probability. Input is what [`text::normalize`](crate::text::normalize) returns, which the
//! normaliser in the file leaves as it is.
//!
//! Special tokens are put in by [`Tokenizer::encode`] alone. A customer who types `<s>` or `</s>` has typed plain text.

mod packed;
mod trie;

use crate::label::Flow;
use serde::Deserialize;
use std::borrow::Cow;
use trie::Trie;

/// The sign that SentencePiece writes for a space.
const METASPACE: char = '▁';
/// What an unknown character costs below the lowest score of the vocabulary, as SentencePiece sets it.
const UNKNOWN_PENALTY: f64 = 10.0;
/// More pieces than any vocabulary in use; a file that claims more is broken.
const MAX_VOCABULARY: usize = 1 << 21;

/// Why a `tokenizer.json` cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is no JSON, or not of the shape that the `tokenizers` crate writes.
    #[error("not a tokenizer.json: {0}")]
    Json(#[from] serde_json::Error),
    /// The file describes a tokenizer of another kind.
    #[error("unsupported tokenizer: {0}")]
    Unsupported(String),
    /// A token that the encoder needs is missing.
    #[error("special token {0:?} is missing")]
    MissingSpecial(&'static str),
    /// The vocabulary contradicts itself.
    #[error("broken vocabulary: {0}")]
    Vocabulary(String),
}

/// A Unigram tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    trie: Trie,
    scores: Vec<f64>,
    unknown: u32,
    unknown_score: f64,
    start: u32,
    end: u32,
    padding: u32,
    flows: [Option<u32>; 4],
    vocabulary_size: usize,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    pre_tokenizer: Option<serde_json::Value>,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    unk_id: Option<u32>,
    #[serde(borrow)]
    vocab: Vec<(Piece<'a>, f64)>,
    #[serde(default)]
    byte_fallback: bool,
}

/// A piece of the vocabulary: part of the file, unless it is written with escapes.
#[derive(Debug, Deserialize)]
struct Piece<'a>(#[serde(borrow)] Cow<'a, str>);

/// Memory that [`Tokenizer::encode`] works in; reuse it to avoid allocation.
#[derive(Debug, Default)]
pub struct Scratch {
    word: String,
    best: Vec<Node>,
}

/// The best way to reach one byte position of a word.
#[derive(Clone, Copy, Debug)]
struct Node {
    score: f64,
    /// Where the last piece begins; `u32::MAX` while nothing ends here.
    from: u32,
    id: u32,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError`] when the file is not a Unigram tokenizer with a Metaspace pre-tokenizer and the special tokens
    /// `<s>`, `</s>` and `<pad>`.
    pub fn from_json(json: &[u8]) -> Result<Self, TokenizerError> {
        let file: File = serde_json::from_slice(json)?;
        if file.model.kind.as_deref() != Some("Unigram") {
            return Err(TokenizerError::Unsupported(format!("model type {:?}, expected \"Unigram\"", file.model.kind)));
        }
        if file.model.byte_fallback {
            return Err(TokenizerError::Unsupported("byte fallback".into()));
        }
        check_pre_tokenizer(file.pre_tokenizer.as_ref())?;
        let vocab = file.model.vocab;
        if vocab.is_empty() || vocab.len() > MAX_VOCABULARY {
            return Err(TokenizerError::Vocabulary(format!("{} pieces", vocab.len())));
        }
        let unknown = file.model.unk_id.ok_or(TokenizerError::MissingSpecial("<unk>"))?;
        if unknown as usize >= vocab.len() {
            return Err(TokenizerError::Vocabulary(format!("unk_id {unknown} of {} pieces", vocab.len())));
        }
        if let Some((piece, _)) = vocab.iter().find(|(_, score)| !score.is_finite()) {
            return Err(TokenizerError::Vocabulary(format!("piece {:?} has no finite score", piece.0)));
        }
        let mut special = vec![false; vocab.len()];
        let mut vocabulary_size = vocab.len();
        for token in &file.added_tokens {
            if token.id as usize >= MAX_VOCABULARY {
                return Err(TokenizerError::Vocabulary(format!("token {:?} has id {}", token.content, token.id)));
            }
            vocabulary_size = vocabulary_size.max(token.id as usize + 1);
            if let Some(special) = special.get_mut(token.id as usize) {
                *special = true;
            }
        }
        let id_of = |content: &str| file.added_tokens.iter().find(|t| t.content == content).map(|t| t.id);
        let need = |content: &'static str| id_of(content).ok_or(TokenizerError::MissingSpecial(content));
        let lowest = vocab.iter().map(|&(_, score)| score).fold(f64::INFINITY, f64::min);
        let pieces: Vec<(&[u8], u32)> = (0u32..)
            .zip(&vocab)
            .filter(|&(id, (piece, _))| !special[id as usize] && id != unknown && !piece.0.is_empty())
            .map(|(id, (piece, _))| (piece.0.as_bytes(), id))
            .collect();
        Ok(Tokenizer {
            trie: Trie::build(pieces),
            unknown,
            unknown_score: lowest - UNKNOWN_PENALTY,
            start: need("<s>")?,
            end: need("</s>")?,
            padding: need("<pad>")?,
            flows: Flow::ALL.map(|flow| id_of(flow.token())),
            vocabulary_size,
            scores: vocab.into_iter().map(|(_, score)| score).collect(),
        })
    }

    /// The ids of `<s> [flow] text </s>`, appended to `ids`. `text` is a normalised message.
    ///
    /// A flow without a token in the vocabulary (as in a foreign base encoder) is left out.
    pub fn encode(&self, flow: Option<Flow>, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        ids.push(self.start);
        ids.extend(flow.and_then(|flow| self.flow_token(flow)));
        self.pieces(text, scratch, ids);
        ids.push(self.end);
    }

    /// The ids of the text alone, without special tokens, appended to `ids`.
    pub fn pieces(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { word, best } = scratch;
        word.clear();
        if !text.starts_with([' ', METASPACE]) {
            word.push(METASPACE);
        }
        for c in text.chars() {
            let c = if c == ' ' { METASPACE } else { c };
            if c == METASPACE && !word.is_empty() {
                self.segment(word, best, ids);
                word.clear();
            }
            word.push(c);
        }
        self.segment(word, best, ids);
    }

    /// Viterbi search for the best segmentation of one word.
    fn segment(&self, word: &str, best: &mut Vec<Node>, ids: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        best.clear();
        best.resize(bytes.len() + 1, Node { score: 0.0, from: u32::MAX, id: 0 });
        for (at, c) in word.char_indices() {
            let so_far = best[at].score;
            let width = c.len_utf8();
            let mut whole_character = false;
            let mut offer = |end: usize, score: f64, id: u32| {
                let node = &mut best[end];
                if node.from == u32::MAX || score > node.score {
                    *node = Node { score, from: at as u32, id };
                }
            };
            self.trie.prefixes(&bytes[at..], |length, id| {
                whole_character |= length == width;
                offer(at + length, self.scores[id as usize] + so_far, id);
            });
            if !whole_character {
                offer(at + width, self.unknown_score + so_far, self.unknown);
            }
        }
        let first = ids.len();
        let mut end = bytes.len();
        while end > 0 {
            let node = best[end];
            // A run of unknown characters is one token.
            if node.id != self.unknown || ids.len() == first || ids.last() != Some(&self.unknown) {
                ids.push(node.id);
            }
            end = node.from as usize;
        }
        ids[first..].reverse();
    }

    /// The id of the flow's special token, if the vocabulary has one.
    pub fn flow_token(&self, flow: Flow) -> Option<u32> {
        self.flows[flow as usize]
    }

    /// The id of `<pad>`.
    pub fn padding(&self) -> u32 {
        self.padding
    }

    /// The id of `<unk>`.
    pub fn unknown(&self) -> u32 {
        self.unknown
    }

    /// One more than the largest id.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }
}

/// Accepts a Metaspace pre-tokenizer that puts a sign before the first word, alone or after a split at white space.
fn check_pre_tokenizer(value: Option<&serde_json::Value>) -> Result<(), TokenizerError> {
    let unsupported = || {
        TokenizerError::Unsupported(format!(
            "pre-tokenizer {}, expected Metaspace with prepend_scheme \"always\"",
            value.map_or_else(|| "null".to_owned(), ToString::to_string)
        ))
    };
    let steps = match value {
        Some(value) if value["type"] == "Sequence" => {
            value["pretokenizers"].as_array().ok_or_else(unsupported)?.as_slice()
        }
        Some(value) => std::slice::from_ref(value),
        None => return Err(unsupported()),
    };
    let mut metaspace = false;
    for step in steps {
        if step["type"] == "Metaspace" {
            let always = step["prepend_scheme"] == "always" || step["add_prefix_space"] == true;
            metaspace = always && step["replacement"] == "▁" && step["split"] != false;
        } else if step["type"] != "WhitespaceSplit" {
            return Err(unsupported());
        }
    }
    if metaspace { Ok(()) } else { Err(unsupported()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn tiny() -> Tokenizer {
        let json = r#"{"added_tokens":[{"id":0,"content":"<s>"},{"id":1,"content":"<pad>"},{"id":2,"content":"</s>"},{"id":3,"content":"<unk>"},{"id":12,"content":"<flow:order>"}],
            "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
            "model":{"type":"Unigram","unk_id":3,"vocab":[["<s>",0],["<pad>",0],["</s>",0],["<unk>",0],
            ["▁",-3],["▁ab",-2],["a",-4],["b",-4],["ab",-5],["<",-6],["s",-6],[">",-6]]}}"#;
        Tokenizer::from_json(json.as_bytes()).unwrap()
    }

    fn encode(flow: Option<Flow>, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        tiny().encode(flow, text, &mut Scratch::default(), &mut ids);
        ids
    }

    #[test]
    fn best_path_flow_and_unknown_runs() {
        assert_eq!(encode(None, "ab ba"), [0, 5, 4, 7, 6, 2]);
        assert_eq!(encode(Some(Flow::Order), "ab"), [0, 12, 5, 2]);
        assert_eq!(encode(Some(Flow::Faq), "ab"), [0, 5, 2], "no token for this flow");
        assert_eq!(encode(None, "éöxab"), [0, 4, 3, 8, 2], "three unknown characters, one token");
    }

    #[test]
    fn typed_special_tokens_are_plain_text() {
        assert_eq!(encode(None, "<s>"), [0, 4, 9, 10, 11, 2]);
    }

    #[test]
    fn other_tokenizers_are_refused() {
        let broken = |json: &str| Tokenizer::from_json(json.as_bytes()).unwrap_err();
        assert!(matches!(broken("{"), TokenizerError::Json(_)));
        let bpe = r#"{"pre_tokenizer":null,"model":{"type":"BPE","vocab":[]}}"#;
        assert!(matches!(broken(bpe), TokenizerError::Unsupported(_)));
        let no_space = r#"{"pre_tokenizer":null,"model":{"type":"Unigram","unk_id":0,"vocab":[["a",0]]}}"#;
        assert!(matches!(broken(no_space), TokenizerError::Unsupported(_)));
        let pre = r#""pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always"}"#;
        let unk = format!(r#"{{{pre},"model":{{"type":"Unigram","unk_id":7,"vocab":[["a",0]]}}}}"#);
        assert!(matches!(broken(&unk), TokenizerError::Vocabulary(_)));
        let special = format!(r#"{{{pre},"model":{{"type":"Unigram","unk_id":0,"vocab":[["a",0]]}}}}"#);
        assert!(matches!(broken(&special), TokenizerError::MissingSpecial("<s>")));
    }
}
