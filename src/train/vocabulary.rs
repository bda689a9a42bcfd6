//! A small vocabulary cut from a large one, by what our languages use of it.

use crate::{
    label::Flow,
    text,
    tokenizer::{self, Tokenizer, TokenizerError},
};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The special tokens that come first, before those of the flows.
const SPECIAL: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
/// Log probability of special tokens in the file, so low that no text is ever segmented into one.
const NEVER: f64 = -1000.0;

/// Why a vocabulary cannot be cut.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// The tokenizer to cut from cannot be used.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The characters of the texts alone are more than the size asked for.
    #[error("{characters} characters and {special} special tokens do not fit into {size} pieces")]
    TooSmall {
        /// Characters that must be kept.
        characters: usize,
        /// Special tokens.
        special: usize,
        /// Pieces asked for.
        size: usize,
    },
}

/// What was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VocabularyReport {
    /// Pieces in the new vocabulary, special tokens included.
    pub pieces: usize,
    /// Pieces of one character among them.
    pub characters: usize,
    /// Mean tokens of a text with the large vocabulary.
    pub tokens_before: f64,
    /// Mean tokens of a text with the new one.
    pub tokens_after: f64,
    /// Share of tokens that are `<unk>` with the new one.
    pub unknown: f64,
}

/// The pieces of a `tokenizer.json` with their scores, in order of token id.
pub(super) fn pieces(tokenizer_json: &[u8]) -> Result<Vec<(String, f64)>, TokenizerError> {
    let file: Value = serde_json::from_slice(tokenizer_json)?;
    Ok(serde_json::from_value(file["model"]["vocab"].clone())?)
}

/// Cuts the vocabulary of a Unigram `tokenizer.json` to `size` pieces and adds the flow tokens.
///
/// Each member of `corpora` is the texts of one file. A character is kept if the large vocabulary has a piece for it and
/// it occurs in the texts; the other places go to the pieces used most, where every file counts by the square root of
/// its length, so that a language with little text is not squeezed out. Scores stay as they are. The new normaliser adds
/// lower-casing: text must be segmented as [`text::normalize`] leaves it.
///
/// # Errors
/// [`VocabularyError`].
pub fn prune(
    tokenizer_json: &[u8],
    corpora: &[Vec<String>],
    size: usize,
) -> Result<(Vec<u8>, VocabularyReport), VocabularyError> {
    let large = Tokenizer::from_json(tokenizer_json)?;
    let vocab = pieces(tokenizer_json)?;
    let corpora: Vec<Vec<String>> =
        corpora.iter().map(|texts| texts.iter().map(|text| text::normalize(text)).collect()).collect();

    let mut use_of = vec![0.0f64; vocab.len()];
    let mut characters: HashSet<char> = HashSet::from(['▁']);
    let mut report = VocabularyReport::default();
    let count_of_texts = corpora.iter().map(Vec::len).sum::<usize>().max(1) as f64;
    for texts in &corpora {
        let mut counts = vec![0usize; vocab.len()];
        let mut total = 0usize;
        segment(&large, texts, |ids| {
            total += ids.len();
            ids.iter().for_each(|&id| counts[id as usize] += 1);
        });
        characters.extend(texts.iter().flat_map(|text| text.chars()));
        report.tokens_before += total as f64 / count_of_texts;
        let weight = 1.0 / (total.max(1) as f64).sqrt();
        use_of.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count as f64 * weight);
    }

    let single = |piece: &str| {
        let mut chars = piece.chars();
        chars.next().filter(|_| chars.next().is_none())
    };
    let is_special = |piece: &str| SPECIAL.contains(&piece) || Flow::ALL.iter().any(|flow| flow.token() == piece);
    let mut kept: Vec<usize> = Vec::new();
    let mut rest: Vec<usize> = Vec::new();
    for (id, (piece, _)) in vocab.iter().enumerate().filter(|(_, (piece, _))| !is_special(piece)) {
        if single(piece).is_some_and(|c| characters.contains(&c)) {
            kept.push(id);
        } else if use_of[id] > 0.0 {
            rest.push(id);
        }
    }
    report.characters = kept.len();
    let special = SPECIAL.len() + Flow::ALL.len();
    let room = size.checked_sub(special + kept.len()).ok_or(VocabularyError::TooSmall {
        characters: kept.len(),
        special,
        size,
    })?;
    rest.sort_by(|&a, &b| use_of[b].total_cmp(&use_of[a]).then(a.cmp(&b)));
    rest.truncate(room);
    kept.append(&mut rest);
    // The large vocabulary is in order of score; keeping it makes the file readable.
    kept.sort_unstable();

    let specials: Vec<&str> = SPECIAL.into_iter().chain(Flow::ALL.map(Flow::token)).collect();
    let mut pieces: Vec<(&str, f64)> = specials.iter().map(|&token| (token, NEVER)).collect();
    pieces.extend(kept.iter().map(|&id| (vocab[id].0.as_str(), vocab[id].1)));
    report.pieces = pieces.len();
    let json = tokenizer_file(&specials, &pieces);
    let small = Tokenizer::from_json(json.as_bytes())?;
    let (mut tokens, mut unknown) = (0usize, 0usize);
    for texts in &corpora {
        segment(&small, texts, |ids| {
            tokens += ids.len();
            unknown += ids.iter().filter(|&&id| id == small.unknown()).count();
        });
    }
    report.tokens_after = tokens as f64 / count_of_texts;
    report.unknown = unknown as f64 / tokens.max(1) as f64;
    Ok((json.into_bytes(), report))
}

fn segment(tokenizer: &Tokenizer, texts: &[String], mut each: impl FnMut(&[u32])) {
    let (mut scratch, mut ids) = (tokenizer::Scratch::default(), Vec::new());
    for text in texts {
        ids.clear();
        tokenizer.pieces(text, &mut scratch, &mut ids);
        each(&ids);
    }
}

/// A special token in `added_tokens`.
pub(super) fn added_token(id: usize, token: &str) -> Value {
    json!({ "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true })
}

/// The file as the `tokenizers` crate reads it, one piece per line.
fn tokenizer_file(specials: &[&str], pieces: &[(&str, f64)]) -> String {
    let added: Vec<Value> = specials.iter().enumerate().map(|(id, token)| added_token(id, token)).collect();
    let special = |id: u32| json!({ "id": SPECIAL[id as usize], "ids": [id], "tokens": [SPECIAL[id as usize]] });
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let head = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFKC" },
            { "type": "Lowercase" },
            { "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " },
            { "type": "Strip", "strip_left": true, "strip_right": true },
        ] },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "</s>", "type_id": 0 } },
            ],
            "pair": [
                { "SpecialToken": { "id": "<s>", "type_id": 0 } },
                { "Sequence": { "id": "A", "type_id": 0 } },
                { "SpecialToken": { "id": "</s>", "type_id": 0 } },
                { "Sequence": { "id": "B", "type_id": 0 } },
                { "SpecialToken": { "id": "</s>", "type_id": 0 } },
            ],
            "special_tokens": { "<s>": special(0), "</s>": special(2) },
        },
        "decoder": metaspace,
    });
    let lines: Vec<String> =
        pieces.iter().map(|(piece, score)| json!([piece, (score * 1e4).round() / 1e4]).to_string()).collect();
    // `head` ends in a brace, which the model goes before.
    let head = head.to_string();
    let model = r#""model":{"type":"Unigram","unk_id":3,"byte_fallback":false,"vocab":["#;
    format!("{},{model}\n{}\n]}}}}\n", &head[..head.len() - 1], lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: &str = r#"{"added_tokens":[{"id":0,"content":"<s>"},{"id":1,"content":"<pad>"},{"id":2,"content":"</s>"},{"id":3,"content":"<unk>"}],
        "pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
        "model":{"type":"Unigram","unk_id":3,"vocab":[["<s>",0],["<pad>",0],["</s>",0],["<unk>",0],
        ["▁",-2],["▁hello",-3],["▁Hello",-3],["h",-9],["e",-9],["l",-9],["o",-9],["q",-9],["▁he",-5],["▁never",-4],["ç",-9]]}}"#;

    #[test]
    fn keeps_characters_in_use_then_the_most_frequent_pieces() {
        let corpus = vec![vec!["Hello HELLO".to_owned(), "he".to_owned(), "oleh".to_owned()]];
        let (json, report) = prune(LARGE.as_bytes(), &corpus, 14).unwrap();
        let file: Value = serde_json::from_slice(&json).unwrap();
        let pieces: Vec<&str> =
            file["model"]["vocab"].as_array().unwrap().iter().filter_map(|p| p[0].as_str()).collect();
        assert_eq!(pieces[8..], ["▁", "▁hello", "h", "e", "l", "o"]);
        assert_eq!((report.pieces, report.characters, report.unknown), (14, 5, 0.0));
        let small = Tokenizer::from_json(&json).unwrap();
        assert_eq!(small.flow_token(Flow::ShoppingGuide), Some(7));
        assert!(matches!(prune(LARGE.as_bytes(), &corpus, 12), Err(VocabularyError::TooSmall { characters: 5, .. })));
    }
}
