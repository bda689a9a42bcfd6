//! Our tokenizer against the `tokenizers` crate, on the shipped `tokenizer.json`.

use intentgate::{
    text::normalize,
    tokenizer::{Scratch, Tokenizer},
};
use proptest::prelude::*;
use std::{fs, path::Path, sync::LazyLock};

static FILE: LazyLock<Vec<u8>> =
    LazyLock::new(|| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/guard/tokenizer.json")).unwrap());
static OURS: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_json(&FILE).unwrap());
static THEIRS: LazyLock<tokenizers::Tokenizer> = LazyLock::new(|| {
    let mut tokenizer = tokenizers::Tokenizer::from_bytes(&*FILE).unwrap();
    // Special tokens that a customer types are plain text to us.
    tokenizer.set_encode_special_tokens(true);
    tokenizer
});

fn ours(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    OURS.encode(None, text, &mut Scratch::default(), &mut ids);
    ids
}

fn theirs(text: &str) -> Vec<u32> {
    THEIRS.encode_fast(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn equal_on_every_dataset_row() {
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    let mut rows = 0;
    for split in ["train", "valid", "test"] {
        for entry in fs::read_dir(datasets.join(split)).unwrap() {
            for line in fs::read_to_string(entry.unwrap().path()).unwrap().lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = normalize(row["text"].as_str().unwrap());
                assert_eq!(ours(&text), theirs(&text), "{text:?}");
                rows += 1;
            }
        }
    }
    assert!(rows > 3000, "only {rows} rows");
}

#[test]
fn special_tokens_typed_by_a_customer_are_plain_text() {
    let ids = ours("<s> <flow:order> </s>");
    assert_eq!(ids.iter().filter(|&&id| id < 8).copied().collect::<Vec<_>>(), [0, 2], "only our own <s> and </s>");
}

proptest! {
    #[test]
    fn equal_on_any_text(text in any::<String>()) {
        let text = normalize(&text);
        prop_assume!(!text.is_empty());
        prop_assert_eq!(ours(&text), theirs(&text));
    }

    #[test]
    fn equal_on_mixed_scripts(text in "[a-z0-9 ▁<>/sаеçñé\u{600}-\u{650}\u{900}-\u{950}\u{e01}-\u{e30}一-丟あ-ん가-갚😀-😎!?.,]{1,60}") {
        let text = normalize(&text);
        prop_assume!(!text.is_empty());
        prop_assert_eq!(ours(&text), theirs(&text));
    }
}
