//! `intentgate eval` and `intentgate card`.

use super::{Failure, ModelArguments, backend::BackendArguments, bench::Record};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    Guard, GuardConfig, data,
    eval::{self, Evaluation, LongEvaluation, LongKind, Metrics, Perturbation, Probe, tables},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Where the texts of `--long` begin.
const LONG_SEED: u64 = 1;

/// Measure a model on labelled rows.
///
/// Prints accuracy, macro-F1, false refusals, out-of-scope recall, AUROC of the out-of-scope score and expected
/// calibration error, over all and by language; precision and recall by label; the confusion matrix; and the most
/// confident errors.
#[derive(Args)]
pub struct Arguments {
    /// .jsonl, .csv or .tsv files, or directories of them
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    data: Vec<PathBuf>,
    #[command(flatten)]
    model: ModelArguments,
    /// Write the evaluation as JSON to FILE
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Most errors to print
    #[arg(long, default_value_t = 20)]
    errors: usize,
    /// Measure long messages as well: requests hidden in the middle or told after a story, built from the rows and, where
    /// files are named, from the long messages in them
    #[arg(long, value_name = "PATH", num_args = 0..)]
    long: Option<Vec<PathBuf>>,
    #[command(flatten)]
    backend: BackendArguments,
    /// Measure the same rows once more with typos, other case, look-alike letters, emoji between letters and the like
    #[arg(long)]
    perturbed: bool,
}

/// Of the changes to the rows, so that models can be compared.
const PERTURBATION_SEED: u64 = 1;

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let guard = arguments.backend.guard(&arguments.model)?;
    let rows = data::load(&arguments.data)?;
    let bar = super::progress_bar(rows.len(), "evaluating");
    let mut evaluation = eval::evaluate(&guard, &rows, |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    if let Some(cost) = &mut evaluation.cost {
        cost.bytes = arguments.model.size();
    }
    if arguments.perturbed {
        let bar = super::progress_bar(rows.len() * Perturbation::ALL.len(), "evaluating changed rows");
        let progress = |done| bar.set_position(done as u64);
        evaluation.perturbed = Some(eval::evaluate_perturbed(&guard, &rows, &evaluation, PERTURBATION_SEED, progress)?);
        bar.finish_and_clear();
    }
    if let Some(long) = &arguments.long {
        let long = data::load(long)?;
        let bar = super::progress_bar(0, "long messages");
        evaluation.long = Some(eval::evaluate_long(&guard, &rows, &long, LONG_SEED, |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?);
        bar.finish_and_clear();
    }
    print(&evaluation, arguments.errors);
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&evaluation)? + "\n";
        super::write(path, json)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(evaluation: &Evaluation, most_errors: usize) {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.4}"));
    println!("model {} on {}\n", evaluation.model_version, evaluation.backend);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "rows of",
        "rows",
        "accuracy %",
        "macro-F1 %",
        "in-scope acc. %",
        "false refusal %",
        "OOS recall %",
        "OOS AUROC",
        "ECE",
    ]);
    let mut line = |name: &str, m: &Metrics| {
        table.add_row([
            name.to_owned(),
            m.rows.to_string(),
            tables::percent(m.accuracy),
            tables::percent(m.macro_f1),
            tables::percent(m.in_scope_accuracy),
            tables::percent(m.false_refusal_rate),
            tables::percent(m.oos_recall),
            number(m.oos_auroc),
            format!("{:.3}", m.expected_calibration_error),
        ]);
    };
    line("all", &evaluation.overall);
    if let Some(with_flow) = &evaluation.with_flow {
        line("with a flow", with_flow);
    }
    for (code, metrics) in &evaluation.languages {
        line(code, metrics);
    }
    println!("{table}");
    let curves = &evaluation.curves;
    println!(
        "without refusals {} % of the in-scope rows get the right label; false refusals at 95 % OOS recall: {} %; \
         OOS recall at 95.5 % in-scope accuracy: {} %\n",
        tables::percent(curves.in_scope_accuracy_unrefused),
        tables::percent(curves.false_refusal_at_95_recall),
        tables::percent(curves.oos_recall_at_955_accuracy)
    );

    let mut table = Table::new();
    let said = evaluation.labels.iter().map(String::as_str);
    let header = ["label", "precision %", "recall %", "F1 %", "rows"];
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.into_iter().chain(["│ said:"]).chain(said));
    for (label, counts) in evaluation.labels.iter().zip(&evaluation.confusion) {
        let Some(m) = evaluation.overall.labels.get(label) else { continue };
        let mut line =
            vec![label.clone(), tables::percent(m.precision), tables::percent(m.recall), tables::percent(m.f1)];
        line.extend([m.support.to_string(), String::new()]);
        line.extend(counts.iter().map(usize::to_string));
        table.add_row(line);
    }
    // A matrix of 150 labels is for the JSON file.
    if evaluation.labels.len() <= 12 {
        println!("{table}");
    }
    if let Some(perturbed) = &evaluation.perturbed {
        let mut table = Table::new();
        let header = [
            "changed by",
            "rows changed",
            "accuracy %",
            "change",
            "false refusal %",
            "change",
            "OOS recall %",
            "change",
        ];
        table.load_style(UTF8_FULL_CONDENSED).set_header(header);
        let points = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:+.1}", 100.0 * share));
        let m = &evaluation.overall;
        table.add_row([
            "nothing".to_owned(),
            "0".to_owned(),
            tables::percent(m.accuracy),
            String::new(),
            tables::percent(m.false_refusal_rate),
            String::new(),
            tables::percent(m.oos_recall),
            String::new(),
        ]);
        for (name, m) in perturbed {
            table.add_row([
                name.clone(),
                m.changed_rows.to_string(),
                tables::percent(m.accuracy),
                points(Some(m.accuracy_difference)),
                tables::percent(m.false_refusal_rate),
                points(m.false_refusal_difference),
                tables::percent(m.oos_recall),
                points(m.oos_recall_difference),
            ]);
        }
        println!("\n{table}");
    }
    if let Some(long) = &evaluation.long {
        print_long(long);
    }
    if most_errors > 0 && !evaluation.worst_errors.is_empty() {
        println!("\nMost confident errors:");
        for error in evaluation.worst_errors.iter().take(most_errors) {
            let flow = error.context.as_ref().map_or(String::new(), |flow| format!(" in flow {flow}"));
            println!(
                "  {:.2} {} for {}{flow}: {} ({})",
                error.confidence,
                error.predicted,
                error.label,
                super::one_line(&error.text),
                error.place
            );
        }
    }
}

/// A line for all languages and for each: by kind, the share of long messages that got what they must get.
fn print_long(long: &LongEvaluation) {
    let mut table = Table::new();
    let kinds: Vec<LongKind> = long.overall.keys().copied().collect();
    let header = kinds.iter().map(|kind| format!("{kind} %"));
    table.load_style(UTF8_FULL_CONDENSED).set_header(["long messages".to_owned()].into_iter().chain(header));
    let mut line = |name: &str, share: &dyn Fn(LongKind) -> Option<f64>| {
        table.add_row([name.to_owned()].into_iter().chain(kinds.iter().map(|&kind| tables::percent(share(kind)))));
    };
    line("all", &|kind| long.overall.get(&kind).map(|recall| recall.recall()));
    line("all, the very label", &|kind| long.overall.get(&kind).map(|recall| recall.label_recall()));
    line("all, the row alone", &|kind| long.overall.get(&kind).and_then(|recall| recall.alone_recall()));
    for (code, by_kind) in &long.languages {
        line(code, &|kind| by_kind.get(&kind).map(|recall| recall.recall()));
    }
    println!("\n{table}");
}

/// Write the model card of a model directory from its guard.json and evaluation.json, and the figures of a README.
///
/// The card is DIR/README.md. What stands between generated marks in the README is replaced; nothing is typed by hand.
#[derive(Args)]
pub struct CardArguments {
    /// Model directory
    #[arg(long, value_name = "DIR", default_value = "models/guard")]
    model: PathBuf,
    /// A file with generated marks to fill as well
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// The result of `intentgate probe --json` on the same rows, for the table beside it
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// Benchmark records made by `intentgate bench --json`, for the speed table
    #[arg(long, value_name = "FILE", num_args = 0..)]
    bench: Vec<PathBuf>,
}

pub fn card(arguments: &CardArguments) -> Result<ExitCode, Failure> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    let dir = &arguments.model;
    let guard = GuardConfig::from_json(&read(&dir.join("guard.json"))?)?;
    let evaluation: Evaluation = serde_json::from_slice(&read(&dir.join("evaluation.json"))?)
        .map_err(|error| format!("{}: {error}", dir.join("evaluation.json").display()))?;
    if evaluation.model_version != guard.model_version {
        let (measured, is) = (&evaluation.model_version, &guard.model_version);
        return Err(
            format!("evaluation.json is of model {measured}, guard.json of {is}: run `intentgate eval` first").into()
        );
    }
    let size = super::model_size(dir);
    let speed = arguments
        .bench
        .iter()
        .map(|path| Ok(serde_json::from_slice(&read(path)?)?))
        .collect::<Result<Vec<Record>, Failure>>()?;
    let about = about(&guard, &Guard::from_dir(dir)?, size);
    let mut sections = vec![
        ("model", about),
        ("languages", tables::languages(&evaluation)),
        ("labels", tables::labels(&evaluation)),
        ("confusion", tables::confusion(&evaluation)),
        ("language head", tables::language_head(&evaluation)),
    ];
    sections.extend(tables::perturbed(&evaluation).map(|table| ("perturbed", table)));
    sections.extend(tables::long(&evaluation).map(|table| ("long", table)));
    if let Some(path) = &arguments.probe {
        let probe: Probe =
            serde_json::from_slice(&read(path)?).map_err(|error| format!("{}: {error}", path.display()))?;
        if probe.rows != evaluation.overall.rows {
            return Err(format!(
                "{}: measured on {} rows, evaluation.json on {}",
                path.display(),
                probe.rows,
                evaluation.overall.rows
            )
            .into());
        }
        sections.push(("probe", tables::beside(&evaluation, probe.accuracy, &probe.languages)));
    }
    if !speed.is_empty() {
        sections.push(("speed", super::bench::markdown(&speed)));
    }
    let files = std::iter::once(dir.join("README.md")).chain(arguments.readme.clone());
    for path in files {
        let mut document = String::from_utf8(read(&path)?)?;
        for (name, content) in &sections {
            document = tables::fill(&document, name, content).unwrap_or(document);
        }
        super::write(&path, document)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn about(config: &GuardConfig, guard: &Guard, size: u64) -> String {
    let thresholds: Vec<String> = config.thresholds.iter().map(|(label, t)| format!("{label} {t}")).collect();
    [
        ("version", config.model_version.clone()),
        ("labels", guard.labels().join(", ")),
        ("languages", config.languages.join(", ")),
        ("size on disk", format!("{:.1} MB", size as f64 / 1e6)),
        ("vocabulary", format!("{} pieces", guard.tokenizer().vocabulary_size())),
        ("most tokens read in one pass", config.max_tokens.to_string()),
        ("temperature", format!("{:.3}", config.temperature)),
        ("refusal thresholds", thresholds.join(", ")),
        ("hash of training and validation rows", config.dataset_hash.clone()),
        ("seed", config.seed.to_string()),
        ("made by", config.created_by.clone()),
    ]
    .iter()
    .fold("| | |\n|---|---|".to_owned(), |table, (name, value)| format!("{table}\n| {name} | {value} |"))
}
