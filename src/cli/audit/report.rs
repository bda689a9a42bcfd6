//! `intentgate audit report`.

use super::{
    super::{one_line, progress_bar, write},
    Failure, html,
};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    audit::report::{Actions, Report, ReportOptions, Reporter},
    eval::{Evaluation, tables::percent},
};
use std::{fs, path::PathBuf, process::ExitCode};

/// The measurements of the model inside this program.
#[cfg(feature = "embedded")]
const EVALUATION: Option<&str> = Some(include_str!("../../../models/guard/evaluation.json"));
#[cfg(not(feature = "embedded"))]
const EVALUATION: Option<&str> = None;

/// Report over audit logs: volume, refusals and hand-offs by day and language, drift, what to review, what is missing.
///
/// Prints tables; --html writes the same with plots and definitions into one page that needs nothing else, --json every
/// figure. Logs are read line by line, so that they may be of any length. The exit code is 1 when lines cannot be read.
#[derive(Args)]
#[command(after_help = "Examples:
  intentgate audit report /var/log/bot-audit --html report.html
  intentgate audit report logs/*/audit-2026-11-*.jsonl --json november.json")]
pub struct Arguments {
    /// Directories of audit logs, or files of them
    #[arg(value_name = "LOG", required = true)]
    logs: Vec<PathBuf>,
    /// Compare with the `evaluation.json` of the model in use [default: that of the model inside this program]
    #[arg(long, value_name = "FILE")]
    evaluation: Option<PathBuf>,
    /// How close an out-of-scope score is to its threshold where it is near
    #[arg(long, value_name = "DISTANCE", default_value = "0.1", value_parser = super::near)]
    near: f32,
    /// Most items to list of each kind
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
    /// Write every figure as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with plots to FILE
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let evaluation: Option<Evaluation> = match (&arguments.evaluation, EVALUATION) {
        (Some(path), _) => {
            let json = fs::read(path).map_err(|error| super::cannot_read(path, &error))?;
            Some(serde_json::from_slice(&json).map_err(|error| format!("{}: {error}", path.display()))?)
        }
        (None, Some(json)) => Some(serde_json::from_str(json)?),
        (None, None) => None,
    };
    let files = super::files(&arguments.logs)?;
    let bar = progress_bar(files.len(), "reading files");
    let mut reporter = Reporter::new(ReportOptions { near: arguments.near, list: arguments.list });
    for path in &files {
        reporter.begin(path);
        super::each_line(path, |line, read| {
            reporter.add(line, read);
            Ok(())
        })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    let report = reporter.finish(evaluation.as_ref());
    if let Some(path) = &arguments.json {
        write(path, &(serde_json::to_string_pretty(&report)? + "\n"))?;
    }
    if let Some(path) = &arguments.html {
        write(path, &html::page(&report)?)?;
    }
    print(&report);
    Ok(if report.integrity.unreadable > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header).add_rows(rows);
    table
}

pub fn share(part: u64, of: u64) -> String {
    percent((of > 0).then(|| part as f64 / of as f64))
}

/// Messages, their share of `all`, and what share of them got each action.
pub fn by_action(name: &str, actions: &Actions, all: u64) -> [String; 8] {
    let [route, ask_back, refuse, hand_off, ignore] = actions.counts().map(|count| share(count, actions.messages));
    let messages = actions.messages;
    [name.to_owned(), messages.to_string(), share(messages, all), route, ask_back, refuse, hand_off, ignore]
}

pub const BY_ACTION: [&str; 7] = ["messages", "share %", "route %", "ask back %", "refuse %", "hand off %", "ignore %"];

/// What a population stability index is usually taken to say.
pub fn shift(psi: f64) -> &'static str {
    match psi {
        _ if psi < 0.1 => "no shift",
        _ if psi < 0.25 => "some shift",
        _ => "a clear shift",
    }
}

fn print(report: &Report) {
    let (Some(first), Some(last)) = (report.first, report.last) else {
        println!("no records");
        return print_integrity(report);
    };
    let models: Vec<String> = report.models.iter().map(|(name, count)| format!("{name} ({count})")).collect();
    println!("{} messages from {first} to {last}; models: {}", report.actions.messages, models.join(", "));
    if report.overruled > 0 {
        println!("for {} of them, a profile overruled the thresholds of the model", report.overruled);
    }
    let all = report.actions.messages;
    let [messages, of_all, route, ask_back, refuse, hand_off, ignore] = BY_ACTION;
    let header = |name| [name, messages, of_all, route, ask_back, refuse, hand_off, ignore];
    let total = by_action("all", &report.actions, all);
    let days = report.days.iter().map(|(day, actions)| by_action(day, actions, all));
    println!("{}", table(header("day"), [total].into_iter().chain(days)));
    let languages = report.languages.iter().map(|(code, figures)| by_action(code, &figures.actions, all));
    println!("{}", table(header("language"), languages));

    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        let row = |(name, count): (&String, &u64)| [name.clone(), count.to_string(), share(*count, all)];
        counts.iter().map(row).collect::<Vec<_>>()
    };
    println!("{}", table(["intent", "messages", "share %"], counts(&report.intents)));
    println!("{}", table(["cause of the decision", "messages", "share %"], counts(&report.causes)));

    println!("mean OOS score {:.3}", report.mean_oos_score);
    if let Some(stability) = &report.stability {
        println!(
            "OOS score from {}..{} ({:.3}) to {}..{} ({:.3}): {}, PSI {:.3}",
            stability.first.from,
            stability.first.to,
            stability.first.mean_oos_score,
            stability.last.from,
            stability.last.to,
            stability.last.mean_oos_score,
            shift(stability.oos_score_psi),
            stability.oos_score_psi
        );
    }
    if let Some(drift) = &report.drift {
        println!("against the evaluation of model {}:", drift.model_version);
        if drift.other_models > 0 {
            println!("  {} messages were decided by other models", drift.other_models);
        }
        println!("  labels: {}, PSI {:.3}", shift(drift.label_psi), drift.label_psi);
        println!("  confidence: {}, PSI {:.3}", shift(drift.confidence_psi), drift.confidence_psi);
        println!(
            "  most probable label right: {} % on test rows, an estimated {} % here",
            percent(drift.accuracy),
            percent(drift.estimated_accuracy)
        );
        let row = |share: &intentgate::audit::report::Share| {
            [share.name.clone(), percent(share.expected), percent(share.found)]
        };
        println!("{}", table(["label", "test rows %", "log %"], drift.labels.iter().map(row)));
    }

    if report.near_threshold > 0 {
        println!(
            "{} messages ({} %) within {} of the threshold; the nearest:",
            report.near_threshold,
            share(report.near_threshold, report.verdicts),
            report.near
        );
        for near in &report.review {
            println!(
                "  {:.3} of {:.3} {} {} {}: {} ({} seq {})",
                near.oos_score,
                near.threshold,
                near.language,
                near.intent.as_deref().unwrap_or("-"),
                near.action,
                one_line(near.text.as_deref().unwrap_or("(no text)")),
                near.place,
                near.seq
            );
        }
    }
    if !report.repeated.is_empty() {
        println!("conversations with three refused messages or more:");
        for repeated in &report.repeated {
            let least = repeated.at_least;
            let most = if repeated.at_most > least { format!(" to {}", repeated.at_most) } else { String::new() };
            println!("  {} {least}{most}", repeated.conversation);
        }
    }
    print_integrity(report);
}

fn print_integrity(report: &Report) {
    let integrity = &report.integrity;
    println!(
        "log: {} files, {} lines; missing {}, lost {}, out of order {}, unreadable {}",
        integrity.files,
        integrity.lines,
        integrity.missing,
        integrity.lost,
        integrity.out_of_order,
        integrity.unreadable
    );
    for finding in &integrity.findings {
        println!("  {}: {}", finding.place, one_line(&finding.what));
    }
}
