//! Training on a toy problem, interrupting it, and candle against the engine.
#![cfg(feature = "train")]

mod common;

use candle_core::Device;
use common::Tiny;
use intentgate::{
    Bundle, Flow, Guard,
    data::{Origin, Row},
    model::{Dtype, Reference, Teacher},
    train::{
        DistillJob, DistillOptions, Distilled, Epoch, Job, Observer, Options, Preset, Text, TrainError, base_from_dir,
        candidates, distill, search, teacher_for, train,
    },
};
use std::{fs, path::Path, sync::LazyLock};

fn row(text: &str, label: &str) -> Row {
    let origin = Origin { file: Path::new("toy").into(), line: 1 };
    Row { text: text.into(), label: label.into(), lang: Some("en".into()), context: None, group: None, origin }
}

/// What is said at the start of a message decides; the rest is noise.
fn toy() -> Vec<Row> {
    rows_with(&["a", "b c", "d", "e f", "g", "h i", "k", "l m", "n", "o p", "r s", "t u", "w", "y a"])
}

/// The same with other noise, to validate on.
static VALID: LazyLock<Vec<Row>> = LazyLock::new(|| rows_with(&["b", "c a", "e", "f d"]));

fn rows_with(noise: &[&str]) -> Vec<Row> {
    noise
        .iter()
        .flat_map(|noise| {
            [
                row(&format!("where is my order {noise}"), "order"),
                row(&format!("tomorrow {noise}"), "appointment"),
                row(&format!("pup {noise}"), "out_of_scope"),
            ]
        })
        .collect()
}

fn options() -> Options {
    Options {
        layers: 2,
        hidden_size: 32,
        epochs: 40,
        batch_size: 6,
        learning_rate: 3e-3,
        word_learning_rate: 1e-2,
        patience: 40,
        augment: 0.2,
        dropout: 0.0,
        max_tokens: 24,
        ..Options::default()
    }
}

/// Stops after this many steps.
struct StopAfter(usize, usize);

impl Observer for StopAfter {
    fn step(&mut self, _: usize, _: usize, _: f32, _: f64) {
        self.1 += 1;
    }
    fn epoch(&mut self, _: &Epoch) {}
    fn should_stop(&self) -> bool {
        self.1 >= self.0
    }
}

fn job<'a>(rows: &'a [Row], tiny: &'a Bundle<'a>, out: &'a Path) -> Job<'a> {
    Job {
        rows,
        valid: &VALID,
        tokenizer: &tiny.tokenizer,
        base: None,
        teacher: None,
        oos_label: None,
        out,
        options: options(),
        device: Device::Cpu,
        resume: false,
    }
}

fn weights(dir: &Path) -> Vec<u8> {
    fs::read(dir.join("model.safetensors")).unwrap()
}

#[test]
fn learns_repeats_and_resumes_exactly() {
    let (rows, tiny) = (toy(), Tiny::default().bundle());
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let run = |dir: &Path, stop: usize, resume: bool| {
        train(&Job { resume, ..job(&rows, &tiny, dir) }, &mut StopAfter(stop, 0))
    };
    let trained = run(dirs[0].path(), usize::MAX, false).unwrap();
    assert!(trained.epochs.iter().any(|epoch| epoch.score > 0.95), "{:?}", trained.epochs);
    for (text, label) in [("where is my order", "order"), ("tomorrow w", "appointment"), ("pup d", "out_of_scope")] {
        assert_eq!(trained.guard.check(text).label(), Some(label), "{text}");
    }
    run(dirs[1].path(), usize::MAX, false).unwrap();
    assert_eq!(weights(dirs[0].path()), weights(dirs[1].path()), "the same seed gives the same weights");

    // Stopped in the middle of an epoch, twice.
    assert!(matches!(run(dirs[2].path(), 10, false), Err(TrainError::Interrupted(_))));
    assert!(matches!(run(dirs[2].path(), 13, true), Err(TrainError::Interrupted(_))));
    run(dirs[2].path(), usize::MAX, true).unwrap();
    assert_eq!(weights(dirs[0].path()), weights(dirs[2].path()), "as if nothing had happened");
    assert!(!dirs[2].path().join(".checkpoint").exists());
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let (rows, tiny, dir) = (toy(), Tiny::default().bundle(), tempfile::tempdir().unwrap());
    let resume = |options: Options| {
        train(&Job { resume: true, options, ..job(&rows, &tiny, dir.path()) }, &mut StopAfter(usize::MAX, 0))
    };
    assert!(matches!(resume(options()), Err(TrainError::Resume { .. })), "nothing to resume");
    let interrupted = train(&job(&rows, &tiny, dir.path()), &mut StopAfter(2, 0));
    assert!(matches!(interrupted, Err(TrainError::Interrupted(_))));
    assert!(matches!(resume(Options { seed: 5, ..options() }), Err(TrainError::Resume { .. })), "another seed");
}

#[test]
fn hopeless_jobs_are_refused_before_the_first_step() {
    let (rows, tiny, dir) = (toy(), Tiny::default().bundle(), tempfile::tempdir().unwrap());
    let refused = |job: Job<'_>| train(&job, &mut StopAfter(0, 0)).expect_err("trained");
    let base = || job(&rows, &tiny, dir.path());
    assert!(matches!(refused(Job { rows: &[], ..base() }), TrainError::NoRows("fit")));
    let same = [row("a", "faq"), row("b", "faq")];
    assert!(
        matches!(refused(Job { rows: &same, valid: &same, ..base() }), TrainError::OneLabel(label) if label == "faq")
    );
    assert!(
        matches!(refused(Job { valid: &same, ..base() }), TrainError::UnknownLabel { label, .. } if label == "faq")
    );
    assert!(matches!(refused(Job { oos_label: Some("chat"), ..base() }), TrainError::NoOosRows { .. }));
    for options in [
        Options { epochs: 0, ..options() },
        Options { hidden_size: 33, ..options() },
        Options { dropout: 1.5, ..options() },
        Options { learning_rate: f64::NAN, ..options() },
    ] {
        assert!(matches!(refused(Job { options, ..base() }), TrainError::Option(_)));
    }
    assert!(matches!(refused(Job { tokenizer: b"{}", ..base() }), TrainError::Tokenizer(_)));
}

#[test]
fn without_validation_rows_some_groups_are_held_out() {
    let (rows, tiny, dir) = (toy(), Tiny::default().bundle(), tempfile::tempdir().unwrap());
    let options = Options { epochs: 1, dtype: Dtype::Int8, ..options() };
    let trained =
        train(&Job { valid: &[], options, ..job(&rows, &tiny, dir.path()) }, &mut StopAfter(usize::MAX, 0)).unwrap();
    assert_eq!(trained.epochs.len(), 1);
}

#[test]
fn training_goes_on_from_a_model_directory() {
    let (rows, dir) = (toy(), tempfile::tempdir().unwrap());
    let base = Tiny::default().bundle();
    let job = Job { base: Some(&base), options: Options { epochs: 2, ..options() }, ..job(&rows, &base, dir.path()) };
    let trained = train(&job, &mut StopAfter(usize::MAX, 0)).unwrap();
    assert_eq!(
        trained.guard.labels(),
        ["order", "appointment", "out_of_scope"],
        "a new head for the labels of the rows"
    );
}

#[test]
fn a_search_keeps_the_best_settings_and_goes_on_where_it_stopped() {
    let (rows, tiny, dir) = (toy(), Tiny::default().bundle(), tempfile::tempdir().unwrap());
    // A rate of 0 learns nothing.
    let idle = Options { epochs: 2, learning_rate: 0.0, word_learning_rate: 0.0, ..options() };
    let settings = [idle, Options { epochs: 12, ..options() }];
    let run = |resume: bool, stop: usize| {
        let base = job(&rows, &tiny, dir.path());
        search(&Job { resume, ..base }, &settings, &mut StopAfter(stop, 0))
    };
    // In the second trial.
    assert!(matches!(run(false, 20), Err(TrainError::Interrupted(_))));
    let trained = run(true, usize::MAX).unwrap();
    assert_eq!(trained.epochs.len(), 12);
    assert_eq!(Guard::from_dir(dir.path()).unwrap().config(), trained.guard.config());
    assert!(!dir.path().join(".search").exists());
    assert_eq!(candidates(&options())[0], options());
}

#[test]
fn a_teacher_needs_the_labels_of_the_rows_or_is_fitted_to_them() {
    let (rows, tiny) = (toy(), Tiny::default().bundle());
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    train(&job(&rows, &tiny, dirs[0].path()), &mut StopAfter(usize::MAX, 0)).unwrap();
    let base = job(&rows, &tiny, dirs[1].path());
    let teacher = teacher_for(&base, dirs[0].path(), 1, &mut StopAfter(usize::MAX, 0)).unwrap();
    assert_eq!(teacher.labels(), ["order", "appointment", "out_of_scope"]);
    let trained = train(&Job { teacher: Some(&teacher), ..base.clone() }, &mut StopAfter(usize::MAX, 0)).unwrap();
    assert_eq!(trained.guard.check("where is my order").label(), Some("order"));
    let others = [row("a", "x"), row("b", "y"), row("c", "x"), row("d", "y")];
    let valid = [row("e", "x"), row("f", "y")];
    let refused =
        train(&Job { rows: &others, valid: &valid, teacher: Some(&teacher), ..base.clone() }, &mut StopAfter(1, 0));
    assert!(matches!(refused, Err(TrainError::Teacher { .. })));
    // One with other labels is fitted to the rows.
    let job = Job { rows: &others, valid: &valid, ..base };
    let fitted = teacher_for(&job, dirs[0].path(), 1, &mut StopAfter(usize::MAX, 0)).unwrap();
    assert_eq!(fitted.labels(), ["x", "y"]);
}

#[test]
fn the_fewer_rows_the_more_epochs() {
    let epochs = [100, 10_000, 40_000, 150_000].map(|rows| Options::preset(Preset::Standard, rows).epochs);
    assert!(epochs.is_sorted_by(|a, b| a >= b) && epochs[0] > epochs[3], "{epochs:?}");
    assert_eq!(Options::preset(Preset::Standard, 142_057), Options::default(), "the shipped recipe");
    assert!(Options::preset(Preset::Fast, 10_000).epochs < Options::preset(Preset::Best, 10_000).epochs);
}

fn candle(bundle: &Bundle<'_>) -> Guard {
    Guard::with_backend(bundle, |config, weights| Ok(Box::new(Reference::load(config, weights, &Device::Cpu)?)))
        .unwrap()
}

#[test]
fn the_engine_equals_candle_transformers() {
    let bundle = Tiny::default().bundle();
    let (native, candle) = (Guard::from_bundle(&bundle).unwrap(), candle(&bundle));
    for flow in [None, Some(Flow::Order)] {
        for text in ["a", "where is my order?", "tomorrow", "日本", &"where is my order 123 ".repeat(9)] {
            for (x, y) in native.logits(flow, text).iter().zip(candle.logits(flow, text)) {
                assert!((x - y).abs() < 1e-4, "{text}: {x} {y}");
            }
        }
    }
}

#[test]
fn the_trained_classifier_equals_the_engine_in_every_number_format() {
    let (rows, tiny) = (toy(), Tiny::default().bundle());
    let mut guards = Vec::new();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::Int8, Dtype::Int4] {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { epochs: 3, dtype, ..options() };
        train(&Job { options, ..job(&rows, &tiny, dir.path()) }, &mut StopAfter(usize::MAX, 0)).unwrap();
        let bundle = Bundle::from_dir(dir.path()).unwrap();
        guards.push((Guard::from_bundle(&bundle).unwrap(), candle(&bundle)));
    }
    for text in ["where is my order k", "tomorrow", "pup e f"] {
        let exact = guards[0].0.logits(None, text);
        // With int8 weights the engine computes at 8 bits, and candle does not.
        let engine = [1e-4, 1e-4, 0.02, 0.02];
        for (((native, candle), tolerance), engine) in guards.iter().zip([1e-4, 0.01, 0.15, 1.0]).zip(engine) {
            for ((x, y), exact) in native.logits(None, text).iter().zip(candle.logits(None, text)).zip(&exact) {
                assert!((x - y).abs() < engine, "{text}: {x} {y}");
                assert!((x - exact).abs() < tolerance, "{text}: {x} {exact}");
            }
        }
    }
}

#[test]
fn a_student_nears_its_teacher_resumes_exactly_and_is_a_base() {
    let (rows, tiny) = (toy(), Tiny::default().bundle());
    let teacher = tempfile::tempdir().unwrap();
    common::write(&tiny, teacher.path());
    let teachers = [Teacher::from_dir(teacher.path(), &Device::Cpu).unwrap()];
    let words = ["where is", "my order", "tomorrow", "a b", "pup", "c d e", "kilo 12", "is it"];
    let texts: Vec<Text> = words
        .iter()
        .flat_map(|a| words.map(|b| words.map(|c| format!("{a} {b} {c}"))).into_iter().flatten())
        .flat_map(|text| [(None, text.clone()), (Some(Flow::Order), text)])
        .collect();
    let cache = tempfile::tempdir().unwrap();
    let run_from =
        |base: Option<&Bundle<'_>>, out: &Path, stop: usize, resume: bool| -> Result<Distilled, TrainError> {
            let epochs = if base.is_some() { 2 } else { 6 };
            let options =
                DistillOptions { layers: 1, hidden_size: 32, epochs, batch_size: 16, ..DistillOptions::default() };
            let job = DistillJob {
                teachers: &teachers,
                texts: &texts,
                tokenizer: &tiny.tokenizer,
                base,
                cache: cache.path(),
                out,
                options,
                device: Device::Cpu,
                resume,
            };
            distill(&job, &mut StopAfter(stop, 0))
        };
    let run = |out: &Path, stop: usize, resume: bool| run_from(None, out, stop, resume);
    let dirs: Vec<_> = (0..2).map(|_| tempfile::tempdir().unwrap()).collect();
    let distilled = run(dirs[0].path(), usize::MAX, false).unwrap();
    let scores: Vec<f64> = distilled.epochs.iter().map(|epoch| epoch.score).collect();
    assert!(scores.last() > scores.first(), "{scores:?}");
    assert!(distilled.held_out[0].cosine > 0.3 && distilled.held_out[0].texts > 0, "{:?}", distilled.held_out);

    assert!(matches!(run(dirs[1].path(), 11, false), Err(TrainError::Interrupted(_))));
    run(dirs[1].path(), usize::MAX, true).unwrap();
    assert_eq!(weights(dirs[0].path()), weights(dirs[1].path()), "as if nothing had happened");

    let base = base_from_dir(dirs[0].path()).unwrap();
    let further = tempfile::tempdir().unwrap();
    let first = run_from(Some(&base), further.path(), usize::MAX, false).unwrap().epochs[0].score;
    assert!(first > scores[0], "goes on from the base: {first} after one epoch, {scores:?} from nothing");

    let out = tempfile::tempdir().unwrap();
    let job = Job { base: Some(&base), options: Options { epochs: 1, ..options() }, ..job(&rows, &base, out.path()) };
    assert_eq!(train(&job, &mut StopAfter(usize::MAX, 0)).unwrap().guard.labels().len(), 3);
}
