//! `intentgate card`.

use super::{
    Failure,
    bench::Record,
    measured::{Measured, json, read},
};
use clap::Args;
use intentgate::{
    Guard, GuardConfig,
    eval::{Probe, card, tables},
};
use std::{path::PathBuf, process::ExitCode};

/// Write the model card of a model directory from its guard.json and evaluation.json, and the figures of a README.
///
/// The card is DIR/README.md; where there is none, a complete one is made. What stands between generated marks in it is
/// replaced, and only that; nothing of it is typed by hand.
#[derive(Args)]
pub struct Arguments {
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

pub fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let dir = &arguments.model;
    let Measured { config, evaluation, training } = Measured::read(dir, None)?;
    let guard = Guard::from_dir(dir)?;
    let speed = arguments.bench.iter().map(|path| json(path)).collect::<Result<Vec<Record>, Failure>>()?;
    let mut sections = vec![
        ("model", about(&config, &guard, super::model_size(dir))),
        ("languages", tables::languages(&evaluation)),
        ("labels", tables::labels(&evaluation)),
        ("worst labels", tables::worst_labels(&evaluation)),
        ("confusion", tables::confusion(&evaluation)),
        ("confused", tables::confused(&evaluation)),
        ("thresholds", tables::thresholds(&evaluation)),
        ("language head", tables::language_head(&evaluation)),
    ];
    if let Some(training) = &training {
        sections.push(("training", tables::training(training)));
        sections.push(("training labels", tables::training_labels(training)));
        sections.push(("training languages", tables::training_languages(training)));
    }
    sections.extend(tables::perturbed(&evaluation).map(|table| ("perturbed", table)));
    sections.extend(tables::long(&evaluation).map(|table| ("long", table)));
    if let Some(path) = &arguments.probe {
        let probe: Probe = json(path)?;
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
    let own = dir.join("README.md");
    let mut documents = vec![if own.exists() {
        let document = String::from_utf8(read(&own)?)?;
        if !document.contains(tables::MARK) {
            return Err(format!("{} is not a card: it has no `{} NAME -->`", own.display(), tables::MARK).into());
        }
        (own, document)
    } else {
        (own, card(&config, &evaluation, training.as_ref()))
    }];
    if let Some(path) = &arguments.readme {
        documents.push((path.clone(), String::from_utf8(read(path)?)?));
    }
    for (path, mut document) in documents {
        for (name, content) in &sections {
            document = tables::fill(&document, name, content).unwrap_or(document);
        }
        super::write(&path, document)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn about(config: &GuardConfig, guard: &Guard, size: u64) -> String {
    let mut thresholds: Vec<String> = config.thresholds.iter().map(|(label, t)| format!("{label} {t}")).collect();
    if let Some(t) = config.thresholds.values().next()
        && config.thresholds.values().all(|other| other == t)
    {
        thresholds = vec![format!("{t} for every label")];
    }
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
    .filter(|(_, value)| !value.is_empty())
    .fold("| | |\n|---|---|".to_owned(), |table, (name, value)| {
        format!("{table}\n| {name} | {} |", tables::cell(value))
    })
}
