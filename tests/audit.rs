//! The audit log from one end to the other: records of real verdicts into a log, and the log through the command.
#![cfg(all(feature = "policy", feature = "cli"))]

mod common;

use intentgate::{
    Flow, Guard,
    audit::{self, Event, Flush, Key, Log, LogOptions, Lost, Recorder, TextPolicy},
    policy::{Action, Cause, Decision},
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime},
};

const HOSTILE: &str = "<script>alert('x')</script> & \"<img src=x onerror=alert(1)>";

fn intentgate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_intentgate")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn guard(seed: u64) -> Guard {
    Guard::from_bundle(&common::Tiny { seed, ..common::Tiny::default() }.bundle()).unwrap()
}

/// Writes a day of messages.
fn write_log(dir: &Path, guard: &Guard, messages: &[&str], policy: TextPolicy) -> Log {
    let options = LogOptions { flush: Flush::OnDemand, ..LogOptions::default() };
    let (mut log, torn) = Log::open(dir, options).unwrap();
    assert_eq!(torn, None);
    let recorder = Recorder::new(Key::new(b"a secret of the server").unwrap(), policy);
    for (n, message) in messages.iter().enumerate() {
        let verdict = guard.check(message);
        let (action, cause) = if verdict.in_scope() {
            (Action::Route { flow: Flow::Order }, Cause::Confident)
        } else {
            (Action::Refuse { offer_person: false }, Cause::OutOfScope)
        };
        let decision = Decision { action, cause, reply: None, reply_language: None };
        let record = recorder.record(&Event {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_000_000 + 600 * n as u64),
            conversation: "+4915112345678",
            flow: None,
            text: message,
            verdict: Some(&verdict),
            decision: &decision,
            guard: guard.config(),
            profile: None,
            micros: Some(140),
        });
        log.append(&record).unwrap();
    }
    log.flush().unwrap();
    log
}

fn only_file(dir: &Path) -> std::path::PathBuf {
    let files = audit::files(&[dir]).unwrap();
    assert_eq!(files.len(), 1);
    files[0].clone()
}

#[test]
fn a_report_shows_what_is_in_the_log_and_what_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    let messages = [&["where is my order", HOSTILE, ""][..], &["ok"; 99]].concat();
    let mut log = write_log(&log_dir, &guard(1), &messages, TextPolicy::Keep);
    // On the day of the records: another one has a file of its own.
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_796_061_300);
    log.append_lost(Lost { time: time.into(), lost: 7 }).unwrap();
    drop(log);
    // A gap, names that a model or a forger could have put there, and a broken line.
    let file = only_file(&log_dir);
    let mut lines = fs::read_to_string(&file).unwrap();
    let forged = lines.lines().nth(1).unwrap().replace("\"seq\":2", "\"seq\":107");
    let forged = forged.replace("\"language\":\"", "\"language\":\"<b>\\u001b[31m");
    lines += &forged.replace("\"model_version\":\"", "\"model_version\":\"<i>");
    lines += "\n{\"v\":1,\"seq\":108,\"<u>\":\n";
    fs::write(&file, lines).unwrap();

    let (html, json) = (dir.path().join("report.html"), dir.path().join("report.json"));
    let arguments = ["audit", "report", path(&log_dir), "--near", "1", "--html", path(&html), "--json", path(&json)];
    let output = intentgate(&arguments);
    assert_eq!(output.status.code(), Some(1), "a line cannot be read");
    let printed = text(&output.stdout);
    assert!(printed.contains("103 messages from 2026-11-30T") && !printed.contains('\u{1b}'), "{printed}");
    assert!(printed.contains("missing 3, lost 7, out of order 0, unreadable 1"), "{printed}");

    let report: Value = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
    assert_eq!((&report["actions"]["messages"], &report["verdicts"]), (&103.into(), &102.into()));
    assert_eq!(report["integrity"]["findings"].as_array().unwrap().len(), 3);
    assert!(report["integrity"]["findings"][2]["place"].as_str().unwrap().ends_with(".jsonl:105"));
    assert_eq!(report["near_threshold"], 102);

    let page = fs::read_to_string(&html).unwrap();
    for tag in ["<script", "<img", "<b>\u{1b}", "<b> [31m", "<i>", "<u>", "http://", "https://", "src=", "url("] {
        let allowed = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "").replace("&lt;img src=x", "");
        assert!(!allowed.contains(tag), "{tag}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;&lt;img"));
    assert!(page.matches("<figure").count() == 4 && page.matches("</svg>").count() > 4);
    assert_eq!(page.matches('\u{1b}').count(), 0);
    assert!(!page.contains("4915112345678"));
}

#[test]
fn an_empty_log_and_a_missing_one_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let output = intentgate(&["audit", "report", path(dir.path())]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("there is no audit log in it"));
    fs::write(dir.path().join("audit-2026-11-30-0001.jsonl"), "").unwrap();
    let html = dir.path().join("report.html");
    let output = intentgate(&["audit", "report", path(dir.path()), "--html", path(&html)]);
    assert!(output.status.success() && text(&output.stdout).contains("no records"));
    assert!(fs::read_to_string(html).unwrap().contains("no records"));
}

#[test]
fn rows_for_the_annotator_are_rows() {
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    let messages = ["where is my order", "where is my order", "tomorrow?", "abc", " "];
    drop(write_log(&log_dir, &guard(1), &messages, TextPolicy::Keep));
    let (out, corrections) = (dir.path().join("rows.jsonl"), dir.path().join("corrected.csv"));
    fs::write(&corrections, "seq,label\n2,faq\n4,out_of_scope\n77,faq\n").unwrap();
    let corrections = path(&corrections);
    let arguments = ["audit", "export", path(&log_dir), "--out", path(&out), "--near", "1"];
    let output = intentgate(&[&arguments[..], &["--corrections", corrections]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("2 corrected rows, 1 near the threshold"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("left out 1: the same text and flow"), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("left out 1: corrections of records"), "{}", text(&output.stderr));
    let rows = intentgate::data::load(&[&out]).unwrap();
    let labels: Vec<(&str, &str)> = rows.iter().map(|row| (row.text.as_str(), row.label.as_str())).collect();
    assert_eq!(labels[..2], [("where is my order", "faq"), ("abc", "out_of_scope")]);
    assert_eq!(labels[2].0, "tomorrow?");
    assert!(rows.iter().all(|row| row.group.as_ref().is_some_and(|group| group.len() == 32)));

    fs::write(corrections, "1,ordr\n").unwrap();
    let output = intentgate(&[&arguments[..], &["--corrections", corrections]].concat());
    assert!(text(&output.stderr).contains("record 1 is corrected to \"ordr\""), "{}", text(&output.stderr));

    let omitted = dir.path().join("omitted");
    drop(write_log(&omitted, &guard(1), &messages, TextPolicy::Omit));
    let output = intentgate(&["audit", "export", path(&omitted), "--out", path(&out), "--near", "1"]);
    assert!(text(&output.stderr).contains("left out 4: their text was not kept"), "{}", text(&output.stderr));
    let both = [arguments[2], path(&omitted)];
    let output = intentgate(&["audit", "export", both[0], both[1], "--out", path(&out), "--corrections", corrections]);
    assert!(text(&output.stderr).contains("corrections are of one log"), "{}", text(&output.stderr));
}

#[test]
fn a_replay_with_the_same_model_changes_nothing_and_with_another_says_what() {
    let dir = tempfile::tempdir().unwrap();
    let log_dir = dir.path().join("log");
    let messages: Vec<String> = (0..40).map(|n| format!("where is {} order {}", "ab".repeat(n % 9), n % 4)).collect();
    let messages: Vec<&str> = messages.iter().map(String::as_str).collect();
    drop(write_log(&log_dir, &guard(1), &messages, TextPolicy::Keep));
    let replay = |seed: u64| -> Value {
        let model = dir.path().join(format!("model{seed}"));
        fs::create_dir_all(&model).unwrap();
        common::write(&common::Tiny { seed, ..common::Tiny::default() }.bundle(), &model);
        let output = intentgate(&["audit", "replay", path(&log_dir), "--model", path(&model), "--list", "3", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let same = replay(1);
    assert_eq!((&same["replayed"], &same["same"]), (&40.into(), &40.into()));
    assert_eq!(same["out_of_scope_from"], same["out_of_scope_to"]);
    let other = (2..20).map(replay).find(|other| other["same"] != 40).expect("a model that says something else");
    let changed: u64 = other["changes"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|to| to.as_object().unwrap().values().map(|count| count.as_u64().unwrap()))
        .sum();
    assert_eq!(changed + other["same"].as_u64().unwrap(), 40);
    assert_eq!(other["listed"].as_array().unwrap().len() as u64, changed.min(3));
}

#[test]
fn a_replay_by_another_profile_goes_through_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let (log_dir, profile) = (dir.path().join("log"), dir.path().join("shop.toml"));
    drop(write_log(&log_dir, &guard(1), &["menu", "prescription", "menu"], TextPolicy::Keep));
    let rules = "[[keywords]]\nname = 'menu'\naction = { route = 'faq' }\nwords = ['menu']\n\
                 [[topics]]\nname = 'medicine'\nwords = ['prescription']\n";
    fs::write(&profile, rules).unwrap();
    let model = dir.path().join("model");
    fs::create_dir_all(&model).unwrap();
    common::write(&common::Tiny { seed: 1, ..common::Tiny::default() }.bundle(), &model);
    let arguments = ["audit", "replay", path(&log_dir), "--model", path(&model), "--profile", path(&profile), "--json"];
    let report: Value = serde_json::from_slice(&intentgate(&arguments).stdout).unwrap();
    assert_eq!((&report["same"], &report["same_action"]), (&3.into(), &0.into()), "{report}");
    let moved = |to: &str| -> u64 {
        report["actions"].as_object().unwrap().values().filter_map(|moves| moves[to].as_u64()).sum()
    };
    // The person keeps the conversation.
    assert_eq!((moved("route faq"), moved("hand off")), (1, 2), "{report}");

    fs::write(&profile, "intents = []").unwrap();
    let output = intentgate(&arguments);
    assert!(text(&output.stderr).contains("shop.toml:1"), "{}", text(&output.stderr));
}
