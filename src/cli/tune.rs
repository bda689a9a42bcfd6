//! `intentgate tune`.

use super::{Failure, ModelArguments};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    Guard,
    data::{self, Row, fingerprint},
    eval::{OperatingPoint, OperatingPoints, tables::percent, with_thresholds},
};
use serde::Serialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// False-refusal rates of the table.
const BUDGETS: [f64; 9] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.10, 0.15, 0.20];

/// Choose between refusing customers and answering out-of-scope messages.
///
/// A message is refused when its out-of-scope score is above the threshold of its best in-scope label. Without
/// --max-false-refusal, prints the most out-of-scope messages that thresholds can refuse for several shares of customers
/// refused by mistake: with one threshold for all labels, and with one for each (labels with fewer than 40 rows share one).
/// With it, prints the thresholds of that point, one for each label, and the messages that change sides. Nothing is written
/// without --write or --out. Thresholds are numbers in guard.json; you may edit them by hand, too.
///
/// All the rows of --data are used. They must be validation rows: labelled messages that the model was not trained on, and
/// not your test set, which after tuning would no longer tell how good the guard is. Expect a little less on new messages
/// than on the rows tuned on.
#[derive(Args)]
#[command(after_help = "Examples:
  intentgate tune --data datasets/valid
  intentgate tune --data datasets/valid --max-false-refusal 0.02 --model my-model --write
  intentgate tune --data datasets/valid --max-false-refusal 0.02
                 --out my-guard.json       # for the model inside this program")]
pub struct Arguments {
    /// .jsonl, .csv or .tsv files with validation rows, or directories of them; never a test set
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// The share of in-scope messages that may be refused, 0 to 1: 0.02 is one customer in fifty
    #[arg(long, value_name = "SHARE", value_parser = share)]
    max_false_refusal: Option<f64>,
    /// Write the thresholds into guard.json of the model directory; its other fields stay as they are
    #[arg(long, requires_all = ["model", "max_false_refusal"], conflicts_with = "out")]
    write: bool,
    /// Write guard.json with the thresholds to FILE, or into a directory
    #[arg(long, value_name = "FILE", requires = "max_false_refusal")]
    out: Option<PathBuf>,
    /// Most messages to list of those that change sides, each way
    #[arg(long, default_value_t = 30)]
    most: usize,
    /// Everything as one JSON object
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    number.ok_or_else(|| "expected a share from 0 to 1, such as 0.02 for 2 %".to_owned())
}

#[derive(Serialize)]
struct Report<'a> {
    model_version: &'a str,
    data_hash: String,
    rows: usize,
    in_scope: usize,
    out_of_scope: usize,
    current: OperatingPoint,
    points: Vec<Choice>,
    chosen: Option<Chosen<'a>>,
}

#[derive(Serialize)]
struct Choice {
    max_false_refusal: f64,
    common: OperatingPoint,
    per_label: OperatingPoint,
}

#[derive(Serialize)]
struct Chosen<'a> {
    max_false_refusal: f64,
    #[serde(flatten)]
    point: OperatingPoint,
    now_refused: Changes<'a>,
    now_accepted: Changes<'a>,
}

/// Messages that change sides, the clearest first.
#[derive(Serialize)]
struct Changes<'a> {
    count: usize,
    out_of_scope: usize,
    messages: Vec<Message<'a>>,
}

#[derive(Serialize)]
struct Message<'a> {
    label: &'a str,
    oos_score: f32,
    text: &'a str,
    context: Option<&'static str>,
    place: String,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let target = target(arguments)?;
    let bundle = arguments.model.bundle()?;
    let guard = Guard::from_bundle(&bundle)?;
    let rows = data::load(&arguments.data)?;
    if rows.iter().any(|row| row.origin.file.components().any(|part| part.as_os_str() == "test")) {
        eprintln!("warning: these look like test rows; after tuning on them they no longer tell how good the guard is");
    }
    let bar = super::progress_bar(rows.len(), "measuring");
    let points = OperatingPoints::measure(&guard, &rows, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();

    let current = points.at(&guard.config().thresholds);
    let (in_scope, out_of_scope) = points.rows();
    let report = Report {
        model_version: &guard.config().model_version,
        data_hash: fingerprint(&rows),
        rows: rows.len(),
        in_scope,
        out_of_scope,
        points: BUDGETS
            .map(|budget| Choice {
                max_false_refusal: budget,
                common: points.common(budget),
                per_label: points.per_label(budget),
            })
            .into(),
        chosen: arguments.max_false_refusal.map(|budget| {
            let point = points.per_label(budget);
            let (before, after) = (points.refused(&current.thresholds), points.refused(&point.thresholds));
            let changes = |refused: bool| {
                let changed = |&row: &usize| before[row] != after[row] && after[row] == refused;
                changes(&guard, &rows, &points, (0..rows.len()).filter(changed).collect(), refused, arguments.most)
            };
            Chosen { max_false_refusal: budget, now_refused: changes(true), now_accepted: changes(false), point }
        }),
        current,
    };
    if arguments.json {
        super::print_json(&report, true)?;
    } else {
        print(&report, &arguments.data);
    }
    match (&report.chosen, target) {
        (Some(chosen), Some(path)) => {
            write(&path, &with_thresholds(&bundle.guard, &chosen.point.thresholds)?)?;
            eprintln!("wrote {}", path.display());
        }
        (Some(_), None) => eprintln!(
            "nothing is written: --write puts the thresholds into the model directory, --out FILE into another file"
        ),
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The file to write, known before the work begins.
fn target(arguments: &Arguments) -> Result<Option<PathBuf>, Failure> {
    let path = match (&arguments.out, &arguments.model.model) {
        (Some(path), _) => path,
        (None, Some(dir)) if arguments.write && dir.is_file() => {
            return Err(format!("{} is one file, not a directory: use --out, then pack again", dir.display()).into());
        }
        (None, Some(dir)) if arguments.write => dir,
        _ => return Ok(None),
    };
    Ok(Some(if path.is_dir() { path.join("guard.json") } else { path.clone() }))
}

/// Writes beside the file and moves it there, so that a bot that loads it meanwhile never reads half.
fn write(path: &Path, json: &str) -> Result<(), String> {
    let partial = path.with_extension("partial");
    fs::write(&partial, json)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn changes<'a>(
    guard: &Guard,
    rows: &'a [Row],
    points: &OperatingPoints,
    mut changed: Vec<usize>,
    refused: bool,
    most: usize,
) -> Changes<'a> {
    let scores: Vec<f32> = points.oos_scores().collect();
    changed.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    if refused {
        changed.reverse();
    }
    let oos = guard.config().oos_label.as_deref().unwrap_or("out_of_scope");
    Changes {
        count: changed.len(),
        out_of_scope: changed.iter().filter(|&&row| rows[row].label == oos).count(),
        messages: changed
            .iter()
            .take(most)
            .map(|&n| Message {
                label: &rows[n].label,
                oos_score: scores[n],
                text: &rows[n].text,
                context: rows[n].context.map(intentgate::Flow::name),
                place: rows[n].origin.to_string(),
            })
            .collect(),
    }
}

fn print(report: &Report<'_>, paths: &[PathBuf]) {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    println!(
        "model {} on all {} rows of {}: {} in scope, {} out of scope\n",
        report.model_version,
        report.rows,
        paths.join(" "),
        report.in_scope,
        report.out_of_scope
    );
    let measures = |point: &OperatingPoint| [point.false_refusal_rate, point.oos_recall, point.accuracy].map(percent);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "false refusals,\nat most %",
        "one threshold\nfor all",
        "false\nrefusals %",
        "OOS\nrecall %",
        "\naccuracy %",
        "│ one for\n│ each",
        "false\nrefusals %",
        "OOS\nrecall %",
        "\naccuracy %",
    ]);
    for choice in &report.points {
        let threshold = choice.common.thresholds.values().next().map(f32::to_string);
        let mut line = vec![percent(choice.max_false_refusal), threshold.unwrap_or_default()];
        line.extend(measures(&choice.common));
        line.push("│".to_owned());
        line.extend(measures(&choice.per_label));
        table.add_row(line);
    }
    let mut line = vec!["now".to_owned()];
    line.extend([""; 4].map(String::from));
    line.push("│".to_owned());
    line.extend(measures(&report.current));
    table.add_row(line);
    println!("{table}");

    let Some(chosen) = &report.chosen else { return };
    println!("\nThresholds for at most {} % false refusals:", percent(chosen.max_false_refusal));
    for (label, threshold) in &chosen.point.thresholds {
        println!("  {label} {threshold} (now {})", report.current.thresholds[label]);
    }
    for ((name, now), after) in
        ["false refusals", "OOS recall", "accuracy"].iter().zip(measures(&report.current)).zip(measures(&chosen.point))
    {
        println!("  {name} {after} % (now {now} %)");
    }
    for (name, changes) in [("refused", &chosen.now_refused), ("accepted", &chosen.now_accepted)] {
        println!("\nNow {name}: {}, of them {} out of scope", changes.count, changes.out_of_scope);
        for message in &changes.messages {
            let flow = message.context.map_or(String::new(), |flow| format!(" in flow {flow}"));
            let text = super::one_line(message.text);
            println!("  {:.2} {}{flow}: {text} ({})", message.oos_score, message.label, message.place);
        }
        if changes.count > changes.messages.len() {
            println!("  and {} more", changes.count - changes.messages.len());
        }
    }
}
