//! How good a guard is on labelled rows, over all and for each language.

mod card;
mod curves;
mod long;
mod metrics;
mod operating_points;
mod perturb;
mod random;
pub mod tables;
mod training;

pub use card::card;
pub use curves::{Curves, RiskCoverage, Threshold};
pub use long::{LongEvaluation, LongKind, LongRecall, evaluate_long};
pub use metrics::{Calibration, LabelMetrics, Metrics, area_under_roc, expected_calibration_error};
pub use operating_points::{OperatingPoint, OperatingPoints, with_thresholds};
pub use perturb::{Perturbation, Perturbed, evaluate_perturbed};
pub use training::{Epoch, TRAINING, Training};

use crate::{
    data::{Origin, Row, fingerprint},
    guard::{Guard, Reason, Verdict},
};
use metrics::Outcome;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Instant};

/// Errors that [`evaluate`] keeps for reading.
const WORST: usize = 40;

/// Pairs of confused labels that [`evaluate`] keeps.
const CONFUSED: usize = 20;
/// Messages that it keeps of each pair.
const EXAMPLES: usize = 3;

/// Why an evaluation is not possible.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// There is nothing to measure.
    #[error("no rows to evaluate")]
    NoRows,
    /// No language has enough rows to build long messages of.
    #[error("long messages need {0} in-scope and {0} out-of-scope rows of one language, without a flow")]
    TooFewRows(usize),
    /// The model has never heard of a row's label.
    #[error("{origin}: the model has no label {label:?}; it has {known}")]
    UnknownLabel {
        /// The row.
        origin: Origin,
        /// Its label.
        label: String,
        /// The labels of the model.
        known: String,
    },
    /// Refusals cannot be weighed against each other.
    #[error("there are {in_scope} rows in scope and {out_of_scope} out of scope; some of both are needed")]
    OneSided {
        /// Rows in scope.
        in_scope: usize,
        /// Rows out of scope.
        out_of_scope: usize,
    },
}

fn unknown_label(row: &Row, labels: &[String]) -> EvalError {
    EvalError::UnknownLabel { origin: row.origin.clone(), label: row.label.clone(), known: labels.join(", ") }
}

/// What [`evaluate`] measured; `evaluation.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Evaluation {
    /// The model.
    pub model_version: String,
    /// What computed the logits.
    pub backend: String,
    /// Hash of the rows, as [`fingerprint`] computes it.
    pub data_hash: String,
    /// All rows together.
    pub overall: Metrics,
    /// Rows with a flow, if there are any.
    pub with_flow: Option<Metrics>,
    /// By BCP 47 code; `und` for rows without one.
    pub languages: BTreeMap<String, Metrics>,
    /// How well the language head does, by BCP 47 code; empty for a model without one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub language_head: BTreeMap<String, LanguageMetrics>,
    /// Label names, in the order of the confusion matrix.
    pub labels: Vec<String>,
    /// Rows by true label (down) and final label (across).
    pub confusion: Vec<Vec<usize>>,
    /// Reliability of the calibrated probabilities, in bins of confidence.
    pub calibration: Vec<Calibration>,
    /// What the thresholds trade.
    #[serde(default)]
    pub curves: Curves,
    /// The pairs of labels that are confused most often first.
    #[serde(default)]
    pub confused: Vec<ConfusedPair>,
    /// The most confident errors first.
    pub worst_errors: Vec<WorstError>,
    /// What a message and the model take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// By name of the [`Perturbation`], where [`evaluate_perturbed`] was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perturbed: Option<BTreeMap<String, Perturbed>>,
    /// Long messages built from the rows, where [`evaluate_long`] was run as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub long: Option<LongEvaluation>,
}

/// A label that was given for another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfusedPair {
    /// What the rows say.
    pub label: String,
    /// What the guard says.
    pub predicted: String,
    /// How often.
    pub rows: usize,
    /// Some of the messages, the most confident errors first.
    pub examples: Vec<String>,
}

/// What a message and the model take, as measured beside the evaluation; `intentgate bench` measures time with more care.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Median time from message to verdict, in microseconds.
    pub p50_us: f64,
    /// 99th percentile of it.
    pub p99_us: f64,
    /// Size of the model's files, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

impl Cost {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((share * times.len() as f64) as usize).min(times.len() - 1)];
        Cost { p50_us: at(0.5), p99_us: at(0.99), bytes: None }
    }
}

/// What the language head says of the rows of one language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LanguageMetrics {
    /// Rows of the language.
    pub rows: usize,
    /// Share of them that it names right.
    pub recall: f64,
    /// Share of the rows of which it names this language that are of it.
    pub precision: f64,
    /// Share of its rows of which it says `und` or `mul`.
    pub undecided: f64,
}

/// A row that the guard got wrong.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorstError {
    /// `file:line`.
    pub place: String,
    /// The message.
    pub text: String,
    /// The flow, if any.
    pub context: Option<String>,
    /// What the row says.
    pub label: String,
    /// What the guard says.
    pub predicted: String,
    /// With what confidence.
    pub confidence: f32,
}

/// What a linear probe reaches on test rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Training rows.
    pub train_rows: usize,
    /// Test rows.
    pub rows: usize,
    /// Share of test rows whose most probable label is right.
    pub accuracy: f64,
    /// Area under the ROC curve of the probability of the out-of-scope label.
    pub oos_auroc: Option<f64>,
    /// Accuracy on rows with a flow.
    pub with_flow: Option<f64>,
    /// Accuracy by language.
    pub languages: BTreeMap<String, f64>,
}

/// Runs `guard` over `rows`. `progress` is called after each row with the number done.
///
/// # Errors
/// [`EvalError`] when there are no rows or one has a label that the model does not know. A model without an
/// out-of-scope class knows `out_of_scope` all the same, as what it says of messages it refuses.
pub fn evaluate(guard: &Guard, rows: &[Row], mut progress: impl FnMut(usize)) -> Result<Evaluation, EvalError> {
    if rows.is_empty() {
        return Err(EvalError::NoRows);
    }
    let mut labels = guard.labels().to_vec();
    let oos = guard.config().oos_label.clone().unwrap_or_else(|| {
        labels.push("out_of_scope".into());
        "out_of_scope".into()
    });
    let index = |label: &str| labels.iter().position(|known| known == label);
    let oos = index(&oos).unwrap_or(labels.len() - 1);
    let mut outcomes = Vec::with_capacity(rows.len());
    let mut said_languages = Vec::with_capacity(rows.len());
    let mut errors = Vec::new();
    let mut times = Vec::with_capacity(rows.len());
    let verdicts = rows.chunks(guard.batch()).flat_map(|rows| {
        let began = Instant::now();
        let verdicts = guard.check_batch(rows.iter().map(|row| (row.context, row.text.as_str())));
        // In a batch every message takes its share.
        let time = began.elapsed().as_secs_f64() * 1e6 / rows.len() as f64;
        verdicts.into_iter().map(move |verdict| (verdict, time))
    });
    for (n, (row, (verdict, time))) in rows.iter().zip(verdicts).enumerate() {
        let gold = index(&row.label).ok_or_else(|| unknown_label(row, &labels))?;
        times.push(time);
        // An empty message gets no answer from the bot; it counts as refused.
        let predicted = verdict.label().and_then(index).unwrap_or(oos);
        outcomes.push(outcome(gold, predicted, oos, &verdict));
        said_languages.push(verdict.language().to_owned());
        if predicted != gold {
            errors.push(WorstError {
                place: row.origin.to_string(),
                text: row.text.clone(),
                context: row.context.map(|flow| flow.to_string()),
                label: row.label.clone(),
                predicted: labels[predicted].clone(),
                confidence: verdict.confidence(),
            });
        }
        progress(n + 1);
    }
    errors.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    let confused = confused(&errors);
    errors.truncate(WORST);
    let measure = |keep: &dyn Fn(&Row) -> bool| {
        let kept: Vec<&Outcome> = rows.iter().zip(&outcomes).filter(|(row, _)| keep(row)).map(|(_, o)| o).collect();
        Metrics::measure(&kept, &labels, oos)
    };
    let codes: std::collections::BTreeSet<&str> = rows.iter().map(lang).collect();
    let all: Vec<&Outcome> = outcomes.iter().collect();
    Ok(Evaluation {
        model_version: guard.config().model_version.clone(),
        backend: guard.backend(),
        data_hash: fingerprint(rows),
        overall: measure(&|_| true),
        with_flow: rows.iter().any(|row| row.context.is_some()).then(|| measure(&|row| row.context.is_some())),
        languages: codes.into_iter().map(|code| (code.to_owned(), measure(&|row| lang(row) == code))).collect(),
        language_head: language_head(rows, &said_languages),
        confusion: metrics::confusion(&all, labels.len()).outer_iter().map(|row| row.to_vec()).collect(),
        calibration: metrics::calibration(&all),
        curves: Curves::new(&outcomes, oos),
        confused,
        cost: Some(Cost::new(times)),
        worst_errors: errors,
        perturbed: None,
        long: None,
        labels,
    })
}

/// `errors` are all of them, the most confident first.
fn confused(errors: &[WorstError]) -> Vec<ConfusedPair> {
    let mut pairs: BTreeMap<(&str, &str), Vec<&WorstError>> = BTreeMap::new();
    for error in errors {
        pairs.entry((&error.label, &error.predicted)).or_default().push(error);
    }
    let mut pairs: Vec<_> = pairs.into_iter().collect();
    pairs.sort_by_key(|(_, errors)| std::cmp::Reverse(errors.len()));
    pairs
        .into_iter()
        .take(CONFUSED)
        .map(|((label, predicted), errors)| ConfusedPair {
            label: label.to_owned(),
            predicted: predicted.to_owned(),
            rows: errors.len(),
            examples: errors.iter().take(EXAMPLES).map(|error| error.text.clone()).collect(),
        })
        .collect()
}

fn language_head(rows: &[Row], said: &[String]) -> BTreeMap<String, LanguageMetrics> {
    const UNDECIDED: [&str; 2] = ["und", "mul"];
    let mut metrics: BTreeMap<String, LanguageMetrics> = BTreeMap::new();
    if said.iter().all(|code| code == "und") {
        return metrics;
    }
    let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
    for code in rows.iter().map(lang).collect::<std::collections::BTreeSet<_>>() {
        let of: Vec<&str> =
            rows.iter().zip(said).filter(|(row, _)| lang(row) == code).map(|(_, said)| said.as_str()).collect();
        let right = of.iter().filter(|said| **said == code).count();
        metrics.insert(
            code.to_owned(),
            LanguageMetrics {
                rows: of.len(),
                recall: share(right, of.len()),
                precision: share(right, said.iter().filter(|said| *said == code).count()),
                undecided: share(of.iter().filter(|said| UNDECIDED.contains(said)).count(), of.len()),
            },
        );
    }
    metrics
}

fn lang(row: &Row) -> &str {
    row.lang.as_deref().unwrap_or("und")
}

fn outcome(gold: usize, predicted: usize, oos: usize, verdict: &Verdict) -> Outcome {
    let scores = || verdict.scores().map(|(_, score)| score).enumerate();
    let highest = |a: &(usize, f32), b: &(usize, f32)| a.1.total_cmp(&b.1);
    let (top, confidence) = scores().max_by(highest).unwrap_or((oos, 0.0));
    let best = scores().filter(|&(class, _)| class != oos).max_by(highest).map(|(class, _)| class);
    let oos_score = if verdict.reason() == Reason::Empty { 1.0 } else { verdict.oos_score() };
    Outcome { gold, predicted, best, confidence, hit: top == gold, oos_score }
}
