//! The report as one page.

use super::{
    plots::{self, BAD, GOOD},
    suspects::{Suspect, Suspects},
};
use crate::cli::{
    Failure,
    measured::Measured,
    one_line,
    page::{
        html::Page,
        plots::{Colour, PALETTE},
    },
};
use intentgate::eval::{
    Evaluation, LabelMetrics, Metrics, Training, WorstError,
    tables::{percent, setting},
};
use std::{cmp::Reverse, collections::BTreeSet};

/// Most labels in the confusion matrix, and rows of a table that are shown at once.
const SHOWN: usize = 20;

/// The page.
pub fn page(measured: &Measured, suspects: Option<&Suspects>) -> Result<String, Failure> {
    let Measured { evaluation, training, .. } = measured;
    let mut page = Page::new("Evaluation of a message classifier");
    summary(&mut page, measured);
    if let Some(training) = training.as_ref().filter(|training| !training.epochs.is_empty()) {
        learning(&mut page, training)?;
    }
    labels(&mut page, measured)?;
    confused(&mut page, evaluation);
    out_of_scope(&mut page, measured)?;
    confidence(&mut page, evaluation)?;
    languages(&mut page, measured);
    robustness(&mut page, evaluation);
    errors(&mut page, evaluation);
    if let Some(suspects) = suspects {
        suspected(&mut page, suspects);
    }
    cost(&mut page, measured);
    if let Some(training) = training {
        settings(&mut page, measured, training);
    }
    definitions(&mut page);
    Ok(page.finish())
}

/// The 95 % interval of a share of so many rows (Wilson, 1927).
fn interval(share: f64, rows: usize) -> (f64, f64) {
    const Z: f64 = 1.96;
    let rows = rows.max(1) as f64;
    let middle = share + Z * Z / (2.0 * rows);
    let half = Z * (share * (1.0 - share) / rows + Z * Z / (4.0 * rows * rows)).sqrt();
    let scale = 1.0 + Z * Z / rows;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

fn summary(page: &mut Page, measured: &Measured) {
    let Measured { config, evaluation, training, .. } = measured;
    let (m, curves) = (&evaluation.overall, &evaluation.curves);
    let trained = training.as_ref().map(|training| {
        format!(
            "Trained on {} rows; training and validation rows have the hash {}",
            rows(training),
            config.dataset_hash
        )
    });
    let lines = [
        format!("Model {}, run by {}", evaluation.model_version, evaluation.backend),
        format!("Measured on {} rows with the hash {}", m.rows, evaluation.data_hash),
        trained.unwrap_or_default(),
        format!("Made by intentgate {}", env!("CARGO_PKG_VERSION")),
    ];
    page.about(lines.iter().map(String::as_str).filter(|line| !line.is_empty()));

    let outside = measured.out_of_scope_rows();
    let mut tiles = Vec::new();
    let mut share = |name, share: Option<f64>, rows: usize| {
        if let Some(share) = share {
            let (low, high) = interval(share, rows);
            let between = format!("{} to {} %", percent(low), percent(high));
            tiles.push((format!("{} %", percent(share)), name, between));
        }
    };
    share("accuracy", Some(m.accuracy), m.rows);
    share("in-scope accuracy", m.in_scope_accuracy.filter(|_| outside > 0), m.rows - outside);
    share("false refusals", m.false_refusal_rate, m.rows - outside);
    share("OOS recall", m.oos_recall, outside);
    let mut plain = |value: Option<String>, name| tiles.extend(value.map(|value| (value, name, String::new())));
    plain(m.oos_auroc.map(|auroc| format!("{auroc:.4}")), "OOS AUROC");
    let share = |share: Option<f64>| share.map(|share| format!("{} %", percent(share)));
    plain(share(curves.false_refusal_at_95_recall), "false refusals at 95 % OOS recall");
    plain(share(curves.oos_recall_at_955_accuracy), "OOS recall at 95.5 % in-scope accuracy");
    plain(share(Some(m.macro_f1)), "macro-F1");
    plain(Some(format!("{:.3}", m.expected_calibration_error)), "expected calibration error");
    plain(evaluation.cost.map(|cost| time(cost.p50_us)), "median time of a message");
    plain(evaluation.cost.and_then(|cost| cost.bytes).map(megabytes), "size of the model");
    page.tiles(tiles);
    page.paragraph("A range below a figure is its 95 % interval for so many rows. Definitions are at the end.");
}

fn rows(training: &Training) -> usize {
    training.labels.values().sum()
}

fn time(microseconds: f64) -> String {
    if microseconds < 1000.0 {
        format!("{microseconds:.0} \u{b5}s")
    } else {
        format!("{:.1} ms", microseconds / 1000.0)
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn learning(page: &mut Page, training: &Training) -> Result<(), Failure> {
    page.heading("Learning curves");
    let epochs = &training.epochs;
    page.pair(|page| {
        let svg = plots::epochs(epochs, "training loss", |epoch| epoch.loss)?;
        page.figure(&svg, &[], "Mean loss over the steps of an epoch, changed rows and penalties included.");
        let svg = plots::epochs(epochs, "validation score", |epoch| epoch.score)?;
        let caption = "What early stopping looks at: the accuracy of the most probable label on the validation \
                       rows. A dot is an epoch better than all before; the last dot is the model that was kept.";
        page.figure(&svg, &[], caption);
        Ok(())
    })
}

/// A heading as [`Page::table`] takes it, and what stands below it.
type Column<'a, R> = (&'a str, Box<dyn Fn(&R) -> String + 'a>);

fn table<R>(page: &mut Page, columns: &[Column<'_, R>], rows: &[R]) {
    let cells = rows.iter().map(|row| columns.iter().map(|(_, cell)| cell(row)).collect::<Vec<_>>());
    page.table(columns.iter().map(|(name, _)| *name), cells);
}

/// The first rows of a table, and the others folded away.
fn long_table<R>(page: &mut Page, columns: &[Column<'_, R>], rows: &[R]) {
    let (shown, folded) = rows.split_at(SHOWN.min(rows.len()));
    table(page, columns, shown);
    if !folded.is_empty() {
        page.folded(&format!("{} more", folded.len()), |page| table(page, columns, folded));
    }
}

fn labels(page: &mut Page, measured: &Measured) -> Result<(), Failure> {
    let Measured { evaluation, training, .. } = measured;
    page.heading("Labels");
    let shown = shown_labels(&evaluation.confusion);
    let which = if shown.len() < evaluation.labels.len() {
        format!(" Of the {} labels, only those that are confused most often.", evaluation.labels.len())
    } else {
        String::new()
    };
    let caption = format!(
        "Confusion matrix: rows by true label (down) and final label (across), after thresholds; the shade is \
         the square root of the share of the true label's rows.{which}"
    );
    let legend = [(&PALETTE[GOOD], "right"), (&PALETTE[BAD], "wrong")];
    if !shown.is_empty() {
        page.figure(&plots::confusion(evaluation, &shown)?, &legend, &caption);
    }

    let mut rows: Vec<(usize, &String, &LabelMetrics)> = (0..)
        .zip(&evaluation.labels)
        .filter_map(|(n, label)| Some((n, label, evaluation.overall.labels.get(label)?)))
        .filter(|(_, _, metrics)| metrics.support > 0)
        .collect();
    rows.sort_by(|a, b| a.2.f1.total_cmp(&b.2.f1));
    page.paragraph("The labels that occur in these rows, the lowest F1 first.");
    let mistaken = |&(label, ..): &(usize, &String, &LabelMetrics)| {
        let given = evaluation.confusion[label].iter().enumerate().filter(|&(given, _)| given != label);
        let (given, &count) = given.max_by_key(|(_, count)| **count)?;
        (count > 0).then(|| format!("{} ({count})", evaluation.labels[given]))
    };
    let mut columns: Vec<Column<'_, (usize, &String, &LabelMetrics)>> = vec![
        ("label", Box::new(|row| row.1.clone())),
        ("#rows", Box::new(|row| row.2.support.to_string())),
        ("#precision %", Box::new(|row| percent(row.2.precision))),
        ("#recall %", Box::new(|row| percent(row.2.recall))),
        ("#F1 %", Box::new(|row| percent(row.2.f1))),
        ("mostly mistaken for", Box::new(move |row| mistaken(row).unwrap_or_default())),
    ];
    if let Some(training) = training {
        let trained = |label: &str| training.labels.get(label).copied().unwrap_or(0).to_string();
        columns.push(("#training rows", Box::new(move |row| trained(row.1))));
    }
    long_table(page, &columns, &rows);
    Ok(())
}

/// All labels, or those in the most confused pairs, in their order.
fn shown_labels(confusion: &[Vec<usize>]) -> Vec<usize> {
    if confusion.len() <= SHOWN {
        return (0..confusion.len()).collect();
    }
    let mut pairs: Vec<(usize, usize, usize)> = Vec::new();
    for (label, row) in confusion.iter().enumerate() {
        pairs.extend(row.iter().enumerate().filter(|&(given, _)| given != label).map(|(given, &n)| (n, label, given)));
    }
    pairs.sort_by_key(|pair| Reverse(pair.0));
    let mut shown = BTreeSet::new();
    for (_, label, given) in pairs.into_iter().filter(|pair| pair.0 > 0) {
        for label in [label, given] {
            if shown.len() < SHOWN {
                shown.insert(label);
            }
        }
    }
    shown.into_iter().collect()
}

fn confused(page: &mut Page, evaluation: &Evaluation) {
    if evaluation.confused.is_empty() {
        return;
    }
    page.heading("Most confused labels");
    page.paragraph(
        "A label given for another one, the most frequent pair first, with its share of the true \
                    label's rows and its most confident errors.",
    );
    let rows = evaluation.confused.iter().map(|pair| {
        let support = evaluation.overall.labels.get(&pair.label).map_or(0, |metrics| metrics.support);
        let share = (support > 0).then(|| pair.rows as f64 / support as f64);
        let examples: Vec<String> = pair.examples.iter().map(|text| one_line(text)).collect();
        [pair.label.clone(), pair.predicted.clone(), pair.rows.to_string(), percent(share), examples.join("\n")]
    });
    page.table(["true label", "given label", "#rows", "#share %", "\"examples"], rows);
}

fn out_of_scope(page: &mut Page, measured: &Measured) -> Result<(), Failure> {
    let Measured { config, evaluation, .. } = measured;
    let (m, curves) = (&evaluation.overall, &evaluation.curves);
    let (Some(refused), Some(recall)) = (m.false_refusal_rate, m.oos_recall) else { return Ok(()) };
    if curves.thresholds.is_empty() {
        return Ok(());
    }
    page.heading("Refusals");
    let mut thresholds: Vec<f32> = config.thresholds.values().copied().collect();
    thresholds.sort_by(f32::total_cmp);
    thresholds.dedup();
    let ends: Vec<f32> = [thresholds.first(), thresholds.last()].into_iter().flatten().copied().collect();
    let lines = match thresholds[..] {
        [] => String::new(),
        [one] => format!(" The line is the threshold, {one}."),
        [low, .., high] => format!(" The lines are the lowest and the highest threshold of a label, {low} and {high}."),
    };
    let caption = format!("Rows by out-of-scope score; a row above the threshold of its best label is refused.{lines}");
    let legend = [(&PALETTE[GOOD], "in scope"), (&PALETTE[BAD], "out of scope")];
    page.figure(&plots::oos_scores(curves, &ends)?, &legend, &caption);
    let accuracy = m.in_scope_accuracy.unwrap_or_default();
    page.pair(|page| {
        let legend: [(&Colour, &str); 2] =
            [(&PALETTE[GOOD], "one threshold for all labels"), (&PALETTE[BAD], "the thresholds of this model")];
        let caption = format!(
            "False refusals against OOS recall: what each threshold would do. The model stands at {} % and {} %.",
            percent(refused),
            percent(recall)
        );
        page.figure(&plots::false_refusals(curves, (refused, recall))?, &legend, &caption);
        let caption = format!(
            "OOS recall against in-scope accuracy, where a refusal is an error. The model stands at {} % and {} %; \
             without refusals, {} % would be right.",
            percent(recall),
            percent(accuracy),
            percent(curves.in_scope_accuracy_unrefused)
        );
        page.figure(&plots::in_scope_accuracy(&curves.thresholds, (recall, accuracy))?, &legend, &caption);
        Ok(())
    })
}

fn confidence(page: &mut Page, evaluation: &Evaluation) -> Result<(), Failure> {
    let (bins, curves) = (&evaluation.calibration, &evaluation.curves);
    page.heading("Confidence");
    page.pair(|page| {
        let caption = format!(
            "Reliability: how often the most probable label is right, by its probability, with 95 % intervals; a \
             confidence that is what it says keeps to the dashed line. Expected calibration error: {:.3}.",
            evaluation.overall.expected_calibration_error
        );
        page.figure(&plots::reliability(bins, interval)?, &[], &caption);
        if !curves.risk_coverage.is_empty() {
            let caption = format!(
                "Risk and coverage: how often the most probable label is wrong when only the most confident rows \
                 are kept. Mean over all coverages: {:.4}.",
                curves.area_under_risk_coverage
            );
            page.figure(&plots::risk_coverage(curves)?, &[], &caption);
        }
        Ok(())
    })
}

fn languages(page: &mut Page, measured: &Measured) {
    let Measured { evaluation, training, .. } = measured;
    if evaluation.languages.len() < 2 {
        return;
    }
    page.heading("Languages");
    let mut rows: Vec<(&str, &Metrics)> =
        evaluation.languages.iter().map(|(code, metrics)| (code.as_str(), metrics)).collect();
    rows.sort_by(|a, b| a.1.accuracy.total_cmp(&b.1.accuracy));
    let mut columns: Vec<Column<'_, (&str, &Metrics)>> = vec![
        ("language", Box::new(|row| row.0.to_owned())),
        ("#rows", Box::new(|row| row.1.rows.to_string())),
        ("#accuracy %", Box::new(|row| percent(row.1.accuracy))),
        ("#95 % interval", Box::new(|row| between(row.1.accuracy, row.1.rows))),
        ("#macro-F1 %", Box::new(|row| percent(row.1.macro_f1))),
        ("#ECE", Box::new(|row| format!("{:.3}", row.1.expected_calibration_error))),
    ];
    if evaluation.overall.oos_auroc.is_some() {
        columns.extend::<[Column<'_, (&str, &Metrics)>; 4]>([
            ("#in-scope accuracy %", Box::new(|row| percent(row.1.in_scope_accuracy))),
            ("#false refusals %", Box::new(|row| percent(row.1.false_refusal_rate))),
            ("#OOS recall %", Box::new(|row| percent(row.1.oos_recall))),
            ("#OOS AUROC", Box::new(|row| row.1.oos_auroc.map_or("\u{2013}".into(), |auroc| format!("{auroc:.4}")))),
        ]);
    }
    if let Some(training) = training {
        let trained = |code: &str| training.languages.get(code).copied().unwrap_or(0).to_string();
        columns.push(("#training rows", Box::new(move |row| trained(row.0))));
    }
    page.paragraph("The lowest accuracy first; und stands for rows without a language.");
    table(page, &columns, &rows);
    if !evaluation.language_head.is_empty() {
        page.paragraph("What the model says of the language of a message; undecided is und or mul, a mixture.");
        let rows = evaluation.language_head.iter().map(|(code, m)| {
            [code.clone(), m.rows.to_string(), percent(m.recall), percent(m.precision), percent(m.undecided)]
        });
        page.table(["language", "#rows", "#named right %", "#precision %", "#undecided %"], rows);
    }
}

/// The interval of a share as a table has it.
fn between(share: f64, rows: usize) -> String {
    let (low, high) = interval(share, rows);
    format!("{} \u{2013} {}", percent(low), percent(high))
}

fn robustness(page: &mut Page, evaluation: &Evaluation) {
    if let Some(perturbed) = &evaluation.perturbed {
        page.heading("Roughened messages");
        page.paragraph("The same rows, changed; a difference is in percentage points to the clean rows.");
        let points = |share: Option<f64>| share.map_or("\u{2013}".to_owned(), |share| format!("{:+.1}", 100.0 * share));
        let rows = perturbed.iter().map(|(name, m)| {
            [
                name.replace('_', " "),
                m.changed_rows.to_string(),
                percent(m.accuracy),
                points(Some(m.accuracy_difference)),
                percent(m.false_refusal_rate),
                points(m.false_refusal_difference),
                percent(m.oos_recall),
                points(m.oos_recall_difference),
            ]
        });
        let header = [
            "changed by",
            "#rows changed",
            "#accuracy %",
            "#difference",
            "#false refusals %",
            "#difference",
            "#OOS recall %",
            "#difference",
        ];
        page.table(header, rows);
    }
    if let Some(long) = &evaluation.long {
        page.heading("Long messages");
        page.paragraph("Made of the rows: right is what is refused or let through as it must be.");
        let rows = long
            .overall
            .iter()
            .map(|(kind, m)| [kind.to_string(), m.texts.to_string(), percent(m.recall()), percent(m.alone_recall())]);
        page.table(["long message", "#texts", "#right %", "#the short row alone %"], rows);
    }
}

fn errors(page: &mut Page, evaluation: &Evaluation) {
    if evaluation.worst_errors.is_empty() {
        return;
    }
    page.heading("Most confident errors");
    page.paragraph("Either the model is wrong, or the row is: the first thing to read.");
    let mut columns: Vec<Column<'_, WorstError>> = vec![
        ("#confidence", Box::new(|error| format!("{:.2}", error.confidence))),
        ("true label", Box::new(|error| error.label.clone())),
        ("given label", Box::new(|error| error.predicted.clone())),
        ("\"text", Box::new(|error| error.text.clone())),
        ("/place", Box::new(|error| error.place.clone())),
    ];
    if evaluation.worst_errors.iter().any(|error| error.context.is_some()) {
        columns.insert(3, ("flow", Box::new(|error| error.context.clone().unwrap_or_default())));
    }
    long_table(page, &columns, &evaluation.worst_errors);
}

fn suspected(page: &mut Page, suspects: &Suspects) {
    page.heading("Suspected label errors");
    let of = suspects.rows.map_or(String::new(), |rows| format!(" of {rows}"));
    let noise = suspects
        .estimated_noise
        .map_or(String::new(), |noise| format!(" An estimated {} % of the labels are wrong.", percent(noise)));
    page.paragraph(&format!(
        "Training rows whose label is doubted by models that were not trained on them: {}{of}, the most suspect \
         first.{noise}",
        suspects.suspects.len()
    ));
    let columns: [Column<'_, _>; 4] = [
        ("label", Box::new(|suspect: &Suspect| suspect.label.clone())),
        ("suggested", Box::new(|suspect| suspect.suggested.clone())),
        ("\"text", Box::new(|suspect| suspect.text.clone())),
        ("/place", Box::new(|suspect| suspect.place.clone())),
    ];
    long_table(page, &columns, &suspects.suspects);
}

fn cost(page: &mut Page, measured: &Measured) {
    let Some(cost) = measured.evaluation.cost else { return };
    page.heading("Time and size");
    page.paragraph(
        "From message to verdict, one at a time on one core, beside the evaluation; intentgate bench \
                    measures with more care.",
    );
    let mut rows =
        vec![["median time".to_owned(), time(cost.p50_us)], ["99th percentile".to_owned(), time(cost.p99_us)]];
    rows.extend(cost.bytes.map(|bytes| ["size of the model's files".to_owned(), megabytes(bytes)]));
    page.table(["", "#"], rows);
}

fn settings(page: &mut Page, measured: &Measured, training: &Training) {
    page.heading("Training run");
    let from = match &training.base {
        Some(base) => format!("the encoder with the hash {base}"),
        None => "fresh weights".to_owned(),
    };
    let teacher = if training.teacher { ", with a teacher's opinion beside the labels" } else { "" };
    page.paragraph(&format!(
        "From {from}{teacher}, on {} rows, with {} for early stopping and calibration; {:.0} seconds, {} epochs; \
         made by {}.",
        rows(training),
        training.valid_rows,
        training.seconds,
        training.epochs.len(),
        measured.config.created_by
    ));
    let rows = training.options.iter().map(|(name, value)| [name.replace('_', " "), setting(value)]);
    page.table(["setting", "#value"], rows);
}

fn definitions(page: &mut Page) {
    page.heading("Definitions");
    page.definitions([
        ("Accuracy", "Share of rows with the right final label, after thresholds."),
        ("In scope, out of scope (OOS)", "Messages that the bot may answer, and those that it must refuse."),
        ("In-scope accuracy", "Share of in-scope rows with the right final label; a refusal is an error."),
        ("False refusals", "Share of in-scope rows that are refused."),
        ("OOS recall", "Share of out-of-scope rows that are refused."),
        (
            "OOS score",
            "From 0 (clearly in scope) to 1 (clearly not). A message is refused when its score is above the \
             threshold of its most probable in-scope label.",
        ),
        (
            "OOS AUROC",
            "Area under the ROC curve of the OOS score: the chance that an out-of-scope row scores above an \
             in-scope one.",
        ),
        ("Precision", "Of the rows given a label, the share that deserve it."),
        ("Recall", "Of the rows that deserve a label, the share that are given it."),
        ("F1, macro-F1", "Harmonic mean of precision and recall; its mean over the labels that occur in the rows."),
        ("Confidence", "The highest of the calibrated label probabilities, before thresholds, from 0 to 1."),
        (
            "Expected calibration error (ECE)",
            "Mean gap between confidence and accuracy over 15 equal bins of confidence, weighted by rows.",
        ),
        (
            "95 % interval",
            "Wilson's interval of a share: how far it may be off for want of rows. It knows nothing of labels that are \
             wrong, nor of rows unlike those of real customers.",
        ),
    ]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn of_many_labels_those_of_the_most_confused_pairs_are_shown() {
        let mut confusion = vec![vec![0; 60]; 60];
        (0..60).for_each(|label| confusion[label][label] = 9);
        assert_eq!(shown_labels(&confusion), Vec::<usize>::new());
        (0..30).for_each(|label| confusion[label][label + 30] = 1 + label);
        let expected: Vec<usize> = (20..30).chain(50..60).collect();
        assert_eq!(shown_labels(&confusion), expected);
    }

    proptest! {
        #[test]
        fn an_interval_holds_its_share_and_narrows_with_rows(hits in 0..=50usize, more in 2..100usize) {
            let (low, high) = interval(hits as f64 / 50.0, 50);
            prop_assert!((0.0..=hits as f64 / 50.0 + 1e-9).contains(&low));
            prop_assert!((hits as f64 / 50.0 - 1e-9..=1.0).contains(&high));
            let narrow = interval(hits as f64 / 50.0, 50 * more);
            prop_assert!(narrow.1 - narrow.0 < high - low);
        }
    }
}
