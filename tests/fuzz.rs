//! Hostile input: a model, a tokenizer and rows, each changed at random, must give an error or something sound.
//!
//! `PROPTEST_CASES=1000000 cargo test --release --test fuzz` runs as many of each as an audit may want.

mod common;

use common::Tiny;
use intentgate::{
    Bundle, Guard,
    tokenizer::{Scratch, Tokenizer},
};
use proptest::prelude::*;
use std::sync::LazyLock;

/// A change to bytes; a place is a share of their length.
#[derive(Clone, Debug)]
enum Edit {
    Set(f64, u8),
    /// Puts a number where a length, an offset or a count may stand.
    Number(f64, u64),
    Insert(f64, Vec<u8>),
    Remove(f64, usize),
    /// Copies a part over another one.
    Copy(f64, f64, usize),
    Cut(f64),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let place = 0.0..1.0f64;
    let number = prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), (0u32..64).prop_map(|bit| 1 << bit)];
    let edit = prop_oneof![
        4 => (place.clone(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        2 => (place.clone(), number).prop_map(|(at, number)| Edit::Number(at, number)),
        1 => (place.clone(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (place.clone(), 1usize..40).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (place.clone(), place.clone(), 1usize..40).prop_map(|(from, to, count)| Edit::Copy(from, to, count)),
        1 => place.prop_map(Edit::Cut),
    ];
    prop::collection::vec(edit, 1..5)
}

/// Half of the places lie in the first tenth, where headers are.
fn place(at: f64, len: usize) -> usize {
    let at = if at < 0.5 { at / 5.0 } else { 2.0 * at - 1.0 };
    ((at * len as f64) as usize).min(len)
}

fn changed(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        let len = bytes.len();
        match edit {
            Edit::Set(at, byte) => {
                if let Some(place) = bytes.get_mut(place(*at, len)) {
                    *place = *byte;
                }
            }
            Edit::Number(at, number) => {
                if let Some(place) = bytes[place(*at, len)..].first_chunk_mut() {
                    *place = number.to_le_bytes();
                }
            }
            Edit::Insert(at, more) => {
                let at = place(*at, len);
                bytes.splice(at..at, more.iter().copied());
            }
            Edit::Remove(at, count) => {
                let at = place(*at, len);
                bytes.drain(at..len.min(at + count));
            }
            Edit::Copy(from, to, count) => {
                let (from, to) = (place(*from, len), place(*to, len));
                let count = (*count).min(len - from.max(to));
                bytes.copy_within(from..from + count, to);
            }
            Edit::Cut(at) => bytes.truncate(place(*at, len)),
        }
    }
    bytes
}

static MODELS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let tiny = [
        Tiny::default(),
        Tiny { four_bit: true, ..Tiny::default() },
        Tiny { eight_bit: Some(".layer."), ..Tiny::default() },
    ];
    tiny.iter().map(|tiny| tiny.bundle().pack().unwrap()).collect()
});

/// Puts the checksums of a packed model right, so that what lies behind them is put to the test.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    const TABLE: usize = 16;
    const HEADER: usize = TABLE + 6 * 24;
    if bytes.len() < HEADER {
        return bytes;
    }
    for entry in (TABLE..HEADER).step_by(24) {
        let number = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
        let (start, length) = (number(entry), number(entry + 8));
        let section = start.checked_add(length).and_then(|end| bytes.get(start..end));
        let checksum = crc32fast::hash(section.unwrap_or_default());
        bytes[entry + 16..entry + 20].copy_from_slice(&checksum.to_le_bytes());
    }
    let checksum = crc32fast::hash(&bytes[TABLE..HEADER]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn is_sound(guard: &Guard) -> Result<(), TestCaseError> {
    for text in ["where is my order", "", "e\u{301}😀 ẞ", &"a b c ".repeat(60)] {
        let verdict = guard.check(text);
        let sum: f32 = verdict.scores().map(|(_, score)| score).sum();
        prop_assert!(verdict.label().is_none() || (sum - 1.0).abs() < 1e-3, "{verdict:?}");
        prop_assert!((0.0..=1.0).contains(&verdict.oos_score()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_changed_packed_model_is_an_error_or_a_sound_guard(model in 0usize..3, edits in edits()) {
        if let Ok(guard) = Guard::from_bytes(sealed(changed(&MODELS[model], &edits))) {
            is_sound(&guard)?;
        }
    }

    #[test]
    fn a_changed_file_of_a_model_is_an_error_or_a_sound_guard(file in 0usize..4, edits in edits()) {
        let mut bundle: Bundle<'static> = Tiny::default().bundle();
        let bytes = [&mut bundle.config, &mut bundle.tokenizer, &mut bundle.guard, &mut bundle.weights].into_iter().nth(file).unwrap();
        *bytes = changed(bytes, &edits).into();
        if let Ok(guard) = Guard::from_bundle(&bundle) {
            is_sound(&guard)?;
        }
    }

    #[test]
    fn a_changed_tokenizer_is_an_error_or_gives_ids_of_its_vocabulary(edits in edits(), text in any::<String>()) {
        if let Ok(tokenizer) = Tokenizer::from_json(&changed(&Tiny::default().bundle().tokenizer, &edits)) {
            let mut ids = Vec::new();
            tokenizer.encode(None, &text, &mut Scratch::default(), &mut ids);
            prop_assert!(ids.len() >= 2 && ids.len() <= text.chars().count() + 3);
            prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
        }
    }

    #[cfg(feature = "data")]
    #[test]
    fn changed_rows_are_rows_or_errors_with_their_line(edits in edits()) {
        use intentgate::data::RowReader;
        let lines = "{\"text\": \"where is my order\", \"label\": \"order\", \"lang\": \"en\", \"context\": \"faq\"}\n\
            {\"text\": \"caf\u{e9} \\u00e9 \\ud83d\\ude00\", \"label\": \"faq\", \"group\": \"en/x/1\"}\n\n".repeat(5);
        let bytes = changed(lines.as_bytes(), &edits);
        let most = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
        let mut last = 0;
        for row in RowReader::new(&bytes[..], "rows.jsonl".as_ref()) {
            let line = match row.expect("memory can be read") {
                Ok(row) => row.origin.line,
                Err(error) => error.origin.line,
            };
            prop_assert!(line > last && line <= most, "line {line} after {last} of {most}");
            last = line;
        }
    }

    #[cfg(feature = "data")]
    #[test]
    fn changed_records_are_rows_or_errors_with_their_line(edits in edits(), separator in prop_oneof![Just(','), Just('\t')]) {
        use intentgate::data::DelimitedReader;
        let header = ["id", "text", "label", "context"].join(&separator.to_string());
        let row = ["7", "\"where is\r\nmy \"\"order\"\"\"", "order", "faq"].join(&separator.to_string());
        let bytes = changed(format!("{header}\r\n{}", format!("{row}\r\n\r\n").repeat(5)).as_bytes(), &edits);
        let most = bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 1;
        let Ok(rows) = DelimitedReader::new(bytes, separator as u8, "rows.csv".as_ref()) else { return Ok(()) };
        let mut last = 0;
        for row in rows {
            let line = row.map_or_else(|error| error.origin.line, |row| row.origin.line);
            prop_assert!(line > last && line <= most, "line {line} after {last} of {most}");
            last = line;
        }
    }
}
