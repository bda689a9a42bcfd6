//! `intentgate eval`.

use super::{Failure, ModelArguments, backend::BackendArguments};
use clap::Args;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    data,
    eval::{self, Evaluation, LongEvaluation, LongKind, Metrics, Perturbation, tables},
};
use std::{path::PathBuf, process::ExitCode};

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
