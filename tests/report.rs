//! `intentgate report` and `intentgate card` on a model whose labels and rows are hostile.
#![cfg(feature = "cli")]

mod common;

use intentgate::engine::EncoderConfig;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

const HOSTILE: &str = "<script>alert('x')</script> & \"|<!-- /generated -->";

fn intentgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_intentgate")).args(arguments).output().unwrap()
}

fn succeed(arguments: &[&str]) {
    let output = intentgate(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A model with these labels, measured on a few rows of each in the given languages.
fn measured(labels: &[&str], languages: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut tiny = common::Tiny::default();
    let labels: Vec<String> = labels.iter().map(|label| label.to_string()).collect();
    let shape = EncoderConfig::new(tiny.config.vocab_size, 2, 32, &labels);
    (tiny.config.id2label, tiny.config.label2id) = (shape.id2label, shape.label2id);
    let mut bundle = tiny.bundle();
    let mut guard: Value = serde_json::from_slice(&bundle.guard).unwrap();
    guard["oos_label"] =
        if labels.iter().any(|label| label == "out_of_scope") { "out_of_scope".into() } else { Value::Null };
    bundle.guard = serde_json::to_vec(&guard).unwrap().into();
    common::write(&bundle, dir.path());
    let rows: String = (0..4 * labels.len())
        .map(|n| {
            let lang = languages[n % languages.len()];
            json!({ "text": format!("where {HOSTILE} is \u{1b} {n}"), "label": labels[n % labels.len()], "lang": lang })
                .to_string()
                + "\n"
        })
        .collect();
    fs::write(dir.path().join("rows.jsonl"), rows).unwrap();
    let (rows, json) = (dir.path().join("rows.jsonl"), dir.path().join("evaluation.json"));
    succeed(&["eval", "--model", path(dir.path()), "--data", path(&rows), "--json", path(&json)]);
    dir
}

fn report(dir: &Path, more: &[&str]) -> String {
    let html = dir.join("report.html");
    succeed(&[&["report", "--model", path(dir), "--html", path(&html)], more].concat());
    fs::read_to_string(html).unwrap()
}

fn headings(page: &str) -> Vec<&str> {
    page.split("<h2>").skip(1).filter_map(|rest| rest.split("</h2>").next()).collect()
}

#[test]
fn nothing_from_the_data_becomes_part_of_the_page() {
    let dir = measured(&[HOSTILE, "out_of_scope"], &["<b>en", "de"]);
    let training = json!({
        "epochs": [{ "epoch": 1, "loss": 0.7, "score": 0.5, "best": true }], "options": { HOSTILE: HOSTILE },
        "labels": { HOSTILE: 5 }, "languages": { "de": 5 }, "valid_rows": 3, "base": HOSTILE, "teacher": true,
        "seconds": 9.0,
    });
    fs::write(dir.path().join("training.json"), training.to_string()).unwrap();
    let suspects = dir.path().join("suspects.json");
    let suspect = json!({ "place": HOSTILE, "text": HOSTILE, "label": HOSTILE, "more": 1 });
    fs::write(&suspects, json!({ "suspects": [suspect] }).to_string()).unwrap();
    let page = report(dir.path(), &["--suspects", path(&suspects)]);
    let allowed = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for tag in ["<script", "alert('", "<b>en", "\u{1b}", "http://", "https://", "src=", "url(", "<!--"] {
        assert!(!allowed.contains(tag), "{tag}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;|"));
    let all = [
        "Learning curves",
        "Labels",
        "Most confused labels",
        "Refusals",
        "Confidence",
        "Languages",
        "Most confident errors",
        "Suspected label errors",
        "Time and size",
        "Training run",
        "Definitions",
    ];
    assert_eq!(headings(&page), all);

    succeed(&["card", "--model", path(dir.path())]);
    let card = fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(
        !card.contains("<script")
            && card.contains("| &lt;script>alert('x')&lt;/script> &amp; \"\\|&lt;!-- /generated --> |")
    );
    assert!(card.matches("<!-- generated:").count() == card.matches("<!-- /generated -->").count());
    succeed(&["card", "--model", path(dir.path())]);
    assert_eq!(fs::read_to_string(dir.path().join("README.md")).unwrap(), card);
}

#[test]
fn what_was_not_measured_is_left_out() {
    let labels: Vec<String> = (0..25).map(|n| format!("label {n}")).collect();
    let dir = measured(&labels.iter().map(String::as_str).collect::<Vec<_>>(), &["en"]);
    let page = report(dir.path(), &[]);
    let some =
        ["Labels", "Most confused labels", "Confidence", "Most confident errors", "Time and size", "Definitions"];
    assert_eq!(headings(&page), some);
    assert!(page.contains("Of the 26 labels, only those that are confused most often."));
    succeed(&["card", "--model", path(dir.path())]);
    let card = fs::read_to_string(dir.path().join("README.md")).unwrap();
    assert!(card.contains("worst labels -->") && !card.contains("generated: training"));
}

#[test]
fn what_is_missing_is_named_and_no_ones_readme_is_lost() {
    let dir = measured(&["a", "out_of_scope"], &["en"]);
    fs::write(dir.path().join("README.md"), "my notes").unwrap();
    let output = intentgate(&["card", "--model", path(dir.path())]);
    assert!(!output.status.success() && stderr(&output).contains("README.md is not a card"), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(dir.path().join("README.md")).unwrap(), "my notes");

    fs::remove_file(dir.path().join("evaluation.json")).unwrap();
    let html = dir.path().join("report.html");
    let output = intentgate(&["report", "--model", path(dir.path()), "--html", path(&html)]);
    assert!(!output.status.success() && stderr(&output).contains("intentgate eval --model"), "{}", stderr(&output));
    assert!(!html.exists());
}
