//! `intentgate data`.

use super::Failure;
use clap::{Args, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use intentgate::{
    data::{self, check, review},
    eval::tables,
};
use std::{collections::BTreeSet, fs, path::PathBuf, process::ExitCode};

#[derive(Subcommand)]
pub enum Command {
    Check(CheckArguments),
}

/// Check rows: labels, languages, scripts, duplicates, near-duplicates across splits, sameness.
///
/// Errors make the exit code 1: lines that are no rows, labels not in the list, the wrong language or script, the same
/// text twice with the same context, groups or near-duplicates (Jaccard similarity of character trigrams of 0.7 or more)
/// in two splits. The split of a file is its directory if that is train, valid or test. Everything else is a warning.
#[derive(Args)]
pub struct CheckArguments {
    /// .jsonl, .csv or .tsv files, or directories of them
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// Allowed labels; `any` allows all
    #[arg(long, value_delimiter = ',', default_value = "order,appointment,faq,shopping_guide,out_of_scope")]
    labels: Vec<String>,
    /// The whole report as JSON
    #[arg(long)]
    json: bool,
    /// Write the tables into a Markdown file, between its `<!-- generated: ... -->` marks
    #[arg(long, value_name = "FILE")]
    update: Option<PathBuf>,
    /// Directory of second readings, for the table of agreement in the Markdown file
    #[arg(long, value_name = "DIR", requires = "update")]
    review: Option<PathBuf>,
    /// Most findings to print of each kind
    #[arg(long, default_value_t = 50)]
    most: usize,
}

pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    let Command::Check(arguments) = command;
    let (rows, unreadable) = data::load_lenient(&arguments.paths)?;
    let labels = if arguments.labels == ["any"] { &[][..] } else { &arguments.labels };
    let report = check::check(&rows, &unreadable, labels);
    if arguments.json {
        super::print_json(&report, true)?;
    } else {
        print(&report, arguments.most);
    }
    if let Some(path) = &arguments.update {
        let mut tables = vec![("counts", check::counts_table(&report)), ("sameness", check::sameness_table(&report))];
        if let Some(dir) = &arguments.review {
            tables.push(("agreement", review::agreement_table(&review::load_readings(dir)?)));
        }
        let mut document =
            fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for (name, table) in tables {
            document = tables::fill(&document, name, &table)
                .ok_or_else(|| format!("{}: there are no marks for {name}", path.display()))?;
        }
        super::write(path, document)?;
    }
    Ok(if report.errors() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &check::Report, most: usize) {
    let labels: BTreeSet<&String> = report.languages.values().flat_map(|counts| counts.labels.keys()).collect();
    let splits: BTreeSet<&String> = report.languages.values().flat_map(|counts| counts.splits.keys()).collect();
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let names = labels.iter().chain(&splits).map(|name| name.as_str());
    table.set_header(["language"].into_iter().chain(names).chain(["with flow", "rows"]));
    for (code, counts) in &report.languages {
        let mut line = vec![code.clone()];
        line.extend(labels.iter().map(|label| counts.labels.get(*label).copied().unwrap_or(0).to_string()));
        line.extend(splits.iter().map(|split| counts.splits.get(*split).copied().unwrap_or(0).to_string()));
        line.extend([counts.with_flow.to_string(), counts.rows().to_string()]);
        table.add_row(line);
    }
    println!("{table}");
    for (severity, name) in [(check::Severity::Error, "error"), (check::Severity::Warning, "warning")] {
        let findings: Vec<_> = report.findings.iter().filter(|finding| finding.severity == severity).collect();
        for finding in findings.iter().take(most) {
            println!("{name}: {}: {}", finding.place, finding.message);
        }
        if findings.len() > most {
            println!("{name}: and {} more", findings.len() - most);
        }
    }
    println!("{} rows, {} errors, {} warnings", report.rows, report.errors(), report.findings.len() - report.errors());
}
