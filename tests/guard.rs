//! The guard on a tiny model: loading, broken files, sharing, and what any message must give.

mod common;

use common::Tiny;
use intentgate::{
    Bundle, Flow, Guard, LoadError, Reason, SharedGuard,
    engine::{Encoder, EncoderConfig, Isa, Scratch, TensorFile},
    guard::{Backend, PackedError},
};
use proptest::prelude::*;
use safetensors::{Dtype, tensor::TensorView};
use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

fn guard() -> Guard {
    Guard::from_bundle(&Tiny::default().bundle()).unwrap()
}

#[test]
fn directory_bytes_and_bundle_give_the_same_guard() {
    for (four_bit, eight_bit) in [(false, None), (true, Some(".layer."))] {
        let bundle = Tiny { four_bit, eight_bit, ..Tiny::default() }.bundle();
        let dir = tempfile::tempdir().unwrap();
        common::write(&bundle, dir.path());
        let packed = bundle.pack().unwrap();
        let text = "where is my order?";
        let guard = Guard::from_bundle(&bundle).unwrap();
        let expected = guard.logits(Some(Flow::Order), text);
        assert_eq!(Guard::from_dir(dir.path()).unwrap().logits(Some(Flow::Order), text), expected);
        assert_eq!(Guard::from_bytes(packed).unwrap().logits(Some(Flow::Order), text), expected);
        assert_ne!(guard.logits(None, text), expected, "the flow is seen");
    }
}

#[test]
fn four_bit_embeddings_change_logits_little() {
    let four_bit = Guard::from_bundle(&Tiny { four_bit: true, ..Tiny::default() }.bundle()).unwrap();
    for text in ["where is my order?", "tomorrow", "pup e f"] {
        let (exact, four_bit) = (guard().logits(None, text), four_bit.logits(None, text));
        assert_ne!(four_bit, exact);
        for (x, y) in four_bit.iter().zip(exact) {
            assert!((x - y).abs() < 0.1, "{text}: {x} {y}");
        }
    }
}

#[test]
fn every_instruction_set_agrees() {
    // A byte that is rounded the other way moves logits by a little.
    for (tiny, tolerance) in [(Tiny::default(), 1e-4), (Tiny { eight_bit: Some(".layer."), ..Tiny::default() }, 0.01)] {
        let bundle = tiny.bundle();
        let reference = Guard::from_bundle_for(&bundle, Isa::available()[0]).unwrap();
        for isa in Isa::available() {
            let guard = Guard::from_bundle_for(&bundle, isa).unwrap();
            for text in ["?", "where is my order tomorrow 123", &"a b c ".repeat(50)] {
                for (x, y) in guard.logits(None, text).iter().zip(reference.logits(None, text)) {
                    assert!((x - y).abs() < tolerance, "{isa}: {x} {y}");
                }
            }
        }
    }
}

#[test]
fn eight_bit_layers_change_logits_little() {
    // All of a layer, and each input of the layers that share one.
    for part in [".layer.", ".query", ".key", "pooler"] {
        let eight_bit = Guard::from_bundle(&Tiny { eight_bit: Some(part), ..Tiny::default() }.bundle()).unwrap();
        for text in ["where is my order?", "tomorrow", "pup e f"] {
            let (exact, eight_bit) = (guard().logits(None, text), eight_bit.logits(None, text));
            assert_ne!(eight_bit, exact, "{part}");
            for (x, y) in eight_bit.iter().zip(exact) {
                assert!((x - y).abs() < 0.05, "{part} {text}: {x} {y}");
            }
        }
    }
}

/// The same model with all of its int8 matrices widened to f32.
fn widened(bundle: &Bundle<'_>) -> Bundle<'static> {
    let file = TensorFile::parse(&bundle.weights).unwrap();
    let names: Vec<&str> = file.names().into_iter().filter(|name| !name.ends_with(".scale")).collect();
    let tensors: Vec<(&str, Vec<usize>, Vec<u8>)> = names
        .into_iter()
        .map(|name| {
            let shape = file.shape(name).unwrap();
            let values = file.read(name, &shape).unwrap();
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    let weights = safetensors::serialize(views, None).unwrap();
    let [config, tokenizer, guard] =
        [&bundle.config, &bundle.tokenizer, &bundle.guard].map(|file| Cow::Owned(file.to_vec()));
    Bundle { config, weights: weights.into(), tokenizer, guard }
}

#[test]
fn precise_logits_are_those_of_f32() {
    let bundle = Tiny { eight_bit: Some("dense"), gain: 1.0, ..Tiny::default() }.bundle();
    let exact = Guard::from_bundle(&widened(&bundle)).unwrap();
    let config = EncoderConfig::from_json(&bundle.config).unwrap();
    let file = TensorFile::parse(&bundle.weights).unwrap();
    for isa in Isa::available() {
        let encoder = Encoder::load_for(&config, &file, isa).unwrap();
        let scratch = &mut Scratch::default();
        for text in ["where is my order?", "tomorrow", "pup e f"] {
            let (ids, mut logits) = (exact.token_ids(None, text), vec![0.0; 5]);
            assert!(encoder.precise_logits(&ids, scratch, &mut logits));
            for (x, y) in logits.iter().zip(exact.logits(None, text)) {
                assert!((x - y).abs() < 1e-3, "{isa} {text}: {x} {y}");
            }
        }
    }
    let plain = Tiny::default().bundle();
    let encoder = Encoder::load(&config, &TensorFile::parse(&plain.weights).unwrap()).unwrap();
    assert!(!encoder.precise_logits(&[0, 2], &mut Scratch::default(), &mut [0.0; 5]), "it is f32 already");
}

#[test]
fn verdicts_near_a_border_are_those_of_f32() {
    let bundle = Tiny { eight_bit: Some("dense"), gain: 1.0, ..Tiny::default() }.bundle();
    let (fast, exact) = (Guard::from_bundle(&bundle).unwrap(), Guard::from_bundle(&widened(&bundle)).unwrap());
    let mut differed = 0;
    for n in 0..2000 {
        let text = format!("where {n} is {} order {}", n * 7919 % 1231, n % 17);
        differed += usize::from(fast.check(&text).label() != exact.check(&text).label());
    }
    assert_eq!(differed, 0);
}

#[test]
fn empty_messages_have_their_own_verdict() {
    for text in ["", " \t\n", "\u{200b}\u{feff}", "\u{e0041}"] {
        let verdict = guard().check(text);
        assert_eq!((verdict.label(), verdict.reason(), verdict.in_scope()), (None, Reason::Empty, false), "{text:?}");
    }
}

/// Answers out of scope to ids with a question mark, else order; counts its calls.
#[derive(Clone, Default)]
struct QuestionMark(Arc<AtomicUsize>);

impl Backend for QuestionMark {
    fn logits(&self, ids: &[u32], logits: &mut [f32]) {
        assert!((4..=48).contains(&ids.len()), "{}", ids.len());
        let special = |id: &u32| [0, 2].contains(id);
        assert!(special(&ids[0]) && special(&ids[ids.len() - 1]) && !ids[1..ids.len() - 1].iter().any(special));
        self.0.fetch_add(1, Relaxed);
        logits.fill(0.0);
        logits[if ids.contains(&35) { 4 } else { 0 }] = 9.0;
    }

    fn name(&self) -> String {
        "question mark".into()
    }
}

impl QuestionMark {
    /// With passes of 48 tokens, as windows have in a real model.
    fn guard(&self) -> Guard {
        let mut tiny = Tiny::default();
        tiny.config.max_position_embeddings = 48;
        let mut bundle = tiny.bundle();
        edit(&mut bundle.guard, "\"max_tokens\":24", "\"max_tokens\":48");
        Guard::with_backend(&bundle, |_, _| Ok(Box::new(self.clone()))).unwrap()
    }
}

#[test]
fn long_messages_are_read_in_windows_and_bounded() {
    let backend = QuestionMark::default();
    let guard = backend.guard();
    let check = |flow, text: &str| {
        backend.0.store(0, Relaxed);
        (guard.check_message(flow, text).label().map(str::to_owned), backend.0.load(Relaxed))
    };
    assert_eq!(check(None, "a b c"), (Some("order".into()), 1));
    for place in 0..=80 {
        let text = format!("{}? {}", "a b ".repeat(place), "a b ".repeat(80 - place));
        for flow in [None, Some(Flow::Faq)] {
            let (label, windows) = check(flow, &text);
            assert_eq!(label.as_deref(), Some("out_of_scope"), "{place}");
            assert!((8..40).contains(&windows), "{windows}");
        }
    }
    let (label, windows) = check(Some(Flow::Faq), &"a b c d ".repeat(125_000));
    assert_eq!(label.as_deref(), Some("order"));
    assert!(windows <= 145, "{windows}");
}

#[cfg(feature = "data")]
#[test]
fn long_messages_of_a_sure_model_get_what_they_must() {
    use intentgate::{data::RowReader, eval};

    let lines: String = (0..60)
        .map(|n| {
            // Business is longer than the window at the end, so that nothing else is in it.
            let (text, label) =
                if n % 2 == 0 { ("a b ".repeat(12), "order") } else { ("is a b ?".into(), "out_of_scope") };
            format!("{{\"text\":\"{text}\",\"label\":\"{label}\",\"lang\":\"en\"}}\n")
        })
        .collect();
    let rows: Vec<_> =
        RowReader::new(lines.as_bytes(), "rows.jsonl".as_ref()).map(|row| row.unwrap().unwrap()).collect();
    let guard = QuestionMark::default().guard();
    let long = eval::evaluate_long(&guard, &rows, &[], 1, |_, _| ()).unwrap();
    assert_eq!(long.overall.len(), 6);
    for (kind, recall) in &long.overall {
        assert_eq!((recall.right, recall.right_label), (recall.texts, recall.texts), "{kind}");
        assert!(recall.alone.is_none_or(|alone| alone == recall.texts));
    }
    assert_eq!(long.languages["en"], long.overall);

    let mut evaluation = eval::evaluate(&guard, &rows, |_| ()).unwrap();
    let without = serde_json::to_string(&evaluation).unwrap();
    assert!(!without.contains("\"long\"") && serde_json::from_str::<eval::Evaluation>(&without).is_ok());
    evaluation.long = Some(long);
    let json = serde_json::to_string(&evaluation).unwrap();
    assert_eq!(serde_json::from_str::<eval::Evaluation>(&json).unwrap().long, evaluation.long);
}

#[test]
fn a_batch_is_its_messages_one_by_one() {
    let long = "a b c ".repeat(50);
    let few =
        [(None, "where is my order"), (Some(Flow::Appointment), "tomorrow"), (None, " "), (None, &long), (None, "?")];
    let messages: Vec<_> = few.into_iter().cycle().take(83).collect();
    let guards = [Tiny::default(), Tiny { eight_bit: Some(".layer."), ..Tiny::default() }];
    for guard in guards.map(|tiny| Guard::from_bundle(&tiny.bundle()).unwrap()) {
        let verdicts = guard.check_batch(messages.clone());
        assert_eq!(verdicts.len(), messages.len());
        for (verdict, &(flow, text)) in verdicts.iter().zip(&messages) {
            let alone = guard.check_message(flow, text);
            assert_eq!((verdict.label(), verdict.reason()), (alone.label(), alone.reason()), "{text}");
            for ((_, x), (_, y)) in verdict.scores().zip(alone.scores()) {
                assert!((x - y).abs() < 1e-5, "{text}: {x} {y}");
            }
        }
    }
}

#[test]
fn the_messages_of_a_batch_may_come_from_the_guard_itself() {
    let guard = guard();
    let texts = ["where is my order", "tomorrow", "?"];
    let messages = texts.iter().filter(|text| guard.check(text).label().is_some()).map(|&text| (None, text));
    let labels: Vec<_> = guard.check_batch(messages).iter().map(|verdict| verdict.label().map(str::to_owned)).collect();
    assert_eq!(labels, texts.map(|text| guard.check(text).label().map(str::to_owned)));
}

/// Loads `tiny` with one file replaced and returns the error.
fn refused(change: impl FnOnce(&mut Bundle<'static>)) -> LoadError {
    let mut bundle = Tiny::default().bundle();
    change(&mut bundle);
    Guard::from_bundle(&bundle).expect_err("a broken model loaded")
}

fn edit(file: &mut Cow<'static, [u8]>, from: &str, to: &str) {
    let text = String::from_utf8(file.to_vec()).unwrap();
    assert!(text.contains(from), "{from}");
    *file = Cow::Owned(text.replace(from, to).into_bytes());
}

#[test]
fn files_that_do_not_fit_are_named() {
    assert!(matches!(refused(|b| edit(&mut b.config, "\"bert\"", "\"gpt2\"")), LoadError::Config(_)));
    assert!(matches!(
        refused(|b| edit(&mut b.config, "\"hidden_size\":32", "\"hidden_size\":64")),
        LoadError::Weights(_)
    ));
    assert!(matches!(
        refused(|b| edit(&mut b.config, "\"hidden_size\":32", "\"hidden_size\":33")),
        LoadError::Config(_)
    ));
    assert!(matches!(
        refused(|b| edit(&mut b.config, "\"vocab_size\":39", "\"vocab_size\":38")),
        LoadError::Mismatch(_)
    ));
    assert!(matches!(
        refused(|b| edit(&mut b.config, "\"num_hidden_layers\":2", "\"num_hidden_layers\":9")),
        LoadError::Weights(_)
    ));
    assert!(matches!(
        refused(|b| edit(&mut b.guard, "\"max_tokens\":24", "\"max_tokens\":25")),
        LoadError::Mismatch(_)
    ));
    assert!(matches!(refused(|b| edit(&mut b.guard, "\"format\":1", "\"format\":7")), LoadError::Guard(_)));
    assert!(matches!(refused(|b| edit(&mut b.guard, "out_of_scope", "elsewhere")), LoadError::Guard(_)));
    assert!(matches!(refused(|b| edit(&mut b.tokenizer, "Unigram", "BPE")), LoadError::Tokenizer(_)));
    let missing = Guard::from_dir("no/such/dir").expect_err("nothing there");
    assert!(matches!(&missing, LoadError::Io { path, .. } if path.ends_with("config.json")), "{missing}");
}

#[test]
fn weights_that_overflow_are_found_by_the_probe() {
    for isa in Isa::available() {
        for eight_bit in [None, Some(".layer.")] {
            let tiny = Tiny { gain: 1e30, eight_bit, ..Tiny::default() };
            let loaded = Guard::from_bundle_for(&tiny.bundle(), isa);
            assert!(matches!(loaded, Err(LoadError::Backend(_))), "{isa} {eight_bit:?}");
        }
    }
    let tiny = Tiny { gain: f32::NAN, ..Tiny::default() };
    assert!(matches!(Guard::from_bundle(&tiny.bundle()), Err(LoadError::Weights(_))));
}

#[test]
fn a_failed_reload_changes_nothing_and_a_good_one_swaps() {
    let shared = Arc::new(SharedGuard::new(guard()));
    let before = shared.current();
    let dir = tempfile::tempdir().unwrap();
    let other = Tiny { seed: 99, ..Tiny::default() }.bundle();
    common::write(&other, dir.path());
    std::fs::write(dir.path().join("model.safetensors"), &other.weights[..other.weights.len() - 1]).unwrap();
    assert!(shared.reload(dir.path()).is_err());
    assert!(Arc::ptr_eq(&before, &shared.current()));

    common::write(&other, dir.path());
    let text = "where is my order?";
    let (old, new) = (before.logits(None, text), Guard::from_bundle(&other).unwrap().logits(None, text));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    let seen = shared.current().logits(None, text);
                    assert!(seen == old || seen == new, "a mixture of two models");
                }
            });
        }
        shared.reload(dir.path()).unwrap();
    });
    assert_eq!(shared.current().logits(None, text), new);
}

#[test]
fn guards_can_be_shared() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Guard>();
    shareable::<SharedGuard>();
    shareable::<intentgate::Verdict>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_message_gets_a_sound_verdict(text in any::<String>(), flow in prop::option::of(0usize..4)) {
        let verdict = guard().check_message(flow.map(|n| Flow::ALL[n]), &text);
        let sum: f32 = verdict.scores().map(|(_, score)| score).sum();
        if verdict.reason() == Reason::Empty {
            prop_assert_eq!(sum, 0.0);
        } else {
            prop_assert!((sum - 1.0).abs() < 1e-4);
            prop_assert!(verdict.label().is_some());
            prop_assert_eq!(verdict.in_scope(), verdict.label() != Some("out_of_scope"));
        }
    }
}

#[test]
fn a_packed_model_cut_or_changed_anywhere_is_an_error() {
    let packed = Tiny { four_bit: true, ..Tiny::default() }.bundle().pack().unwrap();
    let error = |bytes: &[u8]| Guard::from_bytes(bytes.to_vec()).unwrap_err();
    assert!(matches!(error(b"{}"), LoadError::Packed(PackedError::Magic)));
    for part in 1..50 {
        let at = packed.len() * part / 50;
        assert!(matches!(error(&packed[..at]), LoadError::Packed(PackedError::Damaged { .. })), "cut at {at}");
    }
    let last = packed.len() - 1;
    let mut changed = packed.clone();
    changed[last] ^= 1;
    assert!(matches!(error(&changed), LoadError::Packed(PackedError::Damaged { section: "words" })));
}
