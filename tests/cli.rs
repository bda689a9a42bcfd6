//! The command as a user meets it: what goes to stdout, what to stderr, and the exit code.
#![cfg(feature = "cli")]

mod common;

use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

fn intentgate(arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_intentgate"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that fails early does not read its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    common::write(&common::Tiny::default().bundle(), dir.path());
    dir
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_line_is_answered_in_order() {
    let model = model();
    let input = b"where is my order\n\n\xff\xfe broken\nlast without newline";
    let output = intentgate(&["classify", "--json", "--model", path(model.path())], input);
    assert!(output.status.success(), "{}", stderr(&output));
    let answers = objects(&output);
    let texts: Vec<&str> = answers.iter().map(|answer| answer["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["where is my order", "", "\u{fffd}\u{fffd} broken", "last without newline"]);
    assert!(answers[1]["intent"].is_null() && answers[1]["reason"] == "empty");
    let keys = "confidence in_scope intent language margin model_version oos_score reason scores text";
    for answer in &answers {
        let mut found: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found.join(" "), keys);
    }
    let sum: f64 = answers[0]["scores"].as_object().unwrap().values().map(|score| score.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-4);
}

#[test]
fn malformed_rows_are_answered_in_their_place() {
    let model = model();
    let rows = "{\"text\":\"tomorrow\",\"context\":\"appointment\"}\nnot json\n{\"text\":\"\\ud800\"}\n{\"text\":\"a\",\"context\":\"chat\"}\n{\"text\":\"b\"}\n";
    let output = intentgate(&["classify", "--jsonl", "--json", "--model", path(model.path())], rows.as_bytes());
    assert_eq!(output.status.code(), Some(1));
    let answers = objects(&output);
    let failed: Vec<Option<u64>> =
        answers.iter().map(|answer| answer["error"].as_str().and(answer["line"].as_u64())).collect();
    assert_eq!(failed, [None, Some(2), Some(3), Some(4), None]);
    assert!(stderr(&output).contains("-:4: unknown flow \"chat\""));
}

#[test]
fn a_message_of_4096_characters_is_answered() {
    let model = model();
    let long = "where is my order ".repeat(228);
    let output = intentgate(&["classify", "--json", "--model", path(model.path()), &long[..4096]], b"");
    assert_eq!(objects(&output).len(), 1);
}

#[test]
fn errors_go_to_stderr_with_a_code() {
    let output = intentgate(&["classify", "--model", "no/such/model", "hi"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && stderr(&output).contains("no/such/model/config.json"), "{}", stderr(&output));
    let output = intentgate(&["classify", "--context", "chat", "hi"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("unknown flow"), "{}", stderr(&output));

    let model = model();
    let weights = model.path().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let output = intentgate(&["classify", "--model", path(model.path()), "hi"], b"");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("model.safetensors"), "{}", stderr(&output));
}

#[test]
fn a_packed_model_answers_like_its_directory() {
    let model = model();
    let packed = model.path().join("tiny.guard");
    let output = intentgate(&["pack", "--model", path(model.path()), "--out", path(&packed)], b"");
    assert!(output.status.success(), "{}", stderr(&output));
    let answer =
        |model: &Path| intentgate(&["classify", "--json", "--model", path(model), "where is my order"], b"").stdout;
    assert_eq!(answer(&packed), answer(model.path()));
}

#[test]
fn an_exported_model_comes_with_what_to_compare() {
    let model = model();
    let file = model.path().join("tiny.onnx");
    let export = ["export", "--model", path(model.path()), "--onnx", path(&file)];
    assert!(intentgate(&export, b"").status.success());
    let all_tokens = fs::read(&file).unwrap();
    assert!(intentgate(&[&export[..], &["--first-token"]].concat(), b"").status.success());
    assert_ne!(fs::read(&file).unwrap(), all_tokens);
    let output = intentgate(&["export", "--model", path(model.path()), "--ids"], b"where is my order\ntomorrow");
    let passes = objects(&output);
    assert_eq!((passes.len(), &passes[0]["ids"]), (2, &serde_json::json!([0, 30, 31, 32, 33, 2])));
    assert_eq!(passes[1]["logits"].as_array().unwrap().len(), common::LABELS.len());
    assert_eq!(intentgate(&["export"], b"").status.code(), Some(2));
}

#[test]
fn data_check_fails_on_errors_and_fills_a_datasheet() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("en.jsonl");
    let sheet = dir.path().join("README.md");
    let marks = "<!-- generated: counts --><!-- /generated --><!-- generated: sameness --><!-- /generated -->";
    fs::write(&sheet, marks).unwrap();
    fs::write(&file, "{\"text\":\"hi\",\"label\":\"faq\",\"lang\":\"en\"}\n").unwrap();
    let output = intentgate(&["data", "check", path(&file), "--update", path(&sheet)], b"");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(fs::read_to_string(&sheet).unwrap().contains("| English (en) | 1 |"));
    fs::write(&file, "{\"text\":\"hi\",\"label\":\"greeting\",\"lang\":\"en\"}\n{\n").unwrap();
    let output = intentgate(&["data", "check", path(&file), "--json"], b"");
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["findings"].as_array().unwrap().len(), 2);
}

#[test]
fn evaluation_and_benchmark_print_json() {
    let model = model();
    let rows = model.path().join("rows.jsonl");
    fs::write(&rows, "{\"text\":\"where is my order\",\"label\":\"order\",\"lang\":\"en\"}\n{\"text\":\"a b c\",\"label\":\"out_of_scope\",\"context\":\"faq\"}\n").unwrap();
    let json = model.path().join("evaluation.json");
    let output =
        intentgate(&["eval", "--data", path(&rows), "--model", path(model.path()), "--json", path(&json)], b"");
    assert!(output.status.success(), "{}", stderr(&output));
    let evaluation: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!((&evaluation["overall"]["rows"], &evaluation["languages"]["en"]["rows"]), (&2.into(), &1.into()));
    assert!(evaluation.get("perturbed").is_none());
    let eval = ["eval", "--perturbed", "--data", path(&rows), "--model", path(model.path()), "--json", path(&json)];
    let output = intentgate(&eval, b"");
    assert!(String::from_utf8_lossy(&output.stdout).contains("homoglyphs"), "{}", stderr(&output));
    let evaluation: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!(evaluation["perturbed"]["case"]["accuracy_difference"], 0.0, "case means nothing");
    assert_eq!(evaluation["perturbed"]["emoji"]["changed_rows"], 1, "single letters have no place for emoji");
    let output =
        intentgate(&["bench", "--json", "--seconds", "0", "--data", path(&rows), "--model", path(model.path())], b"");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        ["p50_us", "p90_us", "p99_us", "p999_us", "max_us", "messages_per_second"]
            .iter()
            .all(|key| record[key].is_f64()),
        "{record}"
    );
    let output = intentgate(&["eval", "--long", "--data", path(&rows), "--model", path(model.path())], b"");
    assert!(!output.status.success() && stderr(&output).contains("long messages need 20 in-scope"));
    fs::write(&rows, "{\"text\":\"x\",\"label\":\"weather\"}\n").unwrap();
    let output = intentgate(&["eval", "--data", path(&rows), "--model", path(model.path())], b"");
    assert!(!output.status.success() && stderr(&output).contains("rows.jsonl:1: the model has no label \"weather\""));
}

#[test]
fn tuned_thresholds_do_what_was_promised() {
    let model = model();
    let rows = model.path().join("rows.jsonl");
    let letters = ["a", "b", "c", "d", "e", "f", "where", "is", "my", "order", "tomorrow"];
    let lines: String = (0..120)
        .map(|n| {
            let text = [letters[n % 11], letters[n / 11], letters[n * n % 7]].join(" ");
            let label = if n % 3 == 0 { "out_of_scope" } else { common::LABELS[n % 4] };
            format!("{{\"text\":\"{text} {}\",\"label\":\"{label}\"}}\n", "?".repeat(n % 4))
        })
        .collect();
    fs::write(&rows, lines).unwrap();
    let guard = model.path().join("guard.json");
    let before: Value = serde_json::from_slice(&fs::read(&guard).unwrap()).unwrap();
    let tune = ["tune", "--data", path(&rows), "--model", path(model.path()), "--max-false-refusal", "0.1"];
    let run = |more: &[&str]| {
        let output = intentgate(&[&tune[..], more].concat(), b"");
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    let output = run(&["--most", "1"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("80 in scope, 40 out of scope") && said.contains("Now refused:"), "{said}");
    assert!(stderr(&output).contains("nothing is written"));
    assert_eq!(serde_json::from_slice::<Value>(&fs::read(&guard).unwrap()).unwrap(), before);

    let other = model.path().join("other.json");
    let report: Value = serde_json::from_slice(&run(&["--json", "--out", path(&other)]).stdout).unwrap();
    let chosen = &report["chosen"];
    assert_eq!(report["points"].as_array().unwrap().len(), 9);
    let moved = ["now_refused", "now_accepted"].map(|side| chosen[side]["count"].as_u64().unwrap());
    assert!(moved[0] + moved[1] > 0 && chosen["false_refusal_rate"].as_f64().unwrap() <= 0.1, "{chosen}");

    run(&["--write"]);
    assert_eq!(fs::read(&guard).unwrap(), fs::read(&other).unwrap());
    let mut after: Value = serde_json::from_slice(&fs::read(&guard).unwrap()).unwrap();
    assert_eq!(after["thresholds"], chosen["thresholds"]);
    for (key, value) in before.as_object().unwrap().iter().filter(|(key, _)| *key != "thresholds") {
        assert_eq!(after[key].take(), *value, "{key}");
    }
    let json = model.path().join("evaluation.json");
    intentgate(&["eval", "--data", path(&rows), "--model", path(model.path()), "--json", path(&json)], b"");
    let evaluation: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    for measure in ["false_refusal_rate", "oos_recall", "accuracy"] {
        assert_eq!(evaluation["overall"][measure], chosen[measure], "{measure}");
    }
    for wrong in [&["--max-false-refusal", "2"][..], &["--write"]] {
        let output = intentgate(&[&["tune", "--data", path(&rows)], wrong].concat(), b"");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[cfg(feature = "train")]
#[test]
fn a_model_trained_from_rows_classifies() {
    let dir = model();
    let rows: String = (0..8)
        .flat_map(|n| [format!("where is my order {n}\torder"), format!("pup {n}\tout_of_scope")])
        .map(|line| {
            let (text, label) = line.split_once('\t').unwrap();
            format!("{{\"text\":\"{text}\",\"label\":\"{label}\"}}\n")
        })
        .chain(["{\"text\":\"pup 1\",\"label\":\"order\"}".to_owned()])
        .collect();
    let data = dir.path().join("rows.jsonl");
    fs::write(&data, rows).unwrap();
    let valid = dir.path().join("valid.csv");
    fs::write(&valid, "utterance,intent\nwhere is my order,order\npup x,out_of_scope\npup a,out_of_scope\n").unwrap();
    let out = dir.path().join("trained");
    let tokenizer = dir.path().join("tokenizer.json");
    let train =
        ["train", "--data", path(&data), "--valid", path(&valid), "--tokenizer", path(&tokenizer), "--out", path(&out)];
    let shape = ["--hidden-size", "32", "--layers", "1", "--epochs", "1", "--max-tokens", "16"];
    let output = intentgate(&[&train[..], &shape[..]].concat(), b"");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(output.stdout.is_empty() && stderr(&output).contains("epoch 1: loss"));
    assert!(stderr(&output).contains("warning: 1 training rows have the text"), "{}", stderr(&output));
    let output = intentgate(&["classify", "--json", "--model", path(&out), "where is my order"], b"");
    assert_eq!(objects(&output)[0]["scores"].as_object().unwrap().len(), 2);
    let output =
        intentgate(&["train", "--data", "none.jsonl", "--out", path(&out), "--tokenizer", path(&tokenizer)], b"");
    assert!(!output.status.success() && stderr(&output).contains("none.jsonl"));
}
