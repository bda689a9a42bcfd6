//! Evaluations as Markdown, for model cards and the README; and putting generated text between marks in a file.

use super::{Evaluation, LabelMetrics, Metrics, Training};
use std::{collections::BTreeMap, fmt::Write as _};

/// How a mark begins that [`fill`] fills.
pub const MARK: &str = "<!-- generated:";

/// From so many labels on, a table of all of them, or a matrix, is no longer read.
pub(super) const MANY_LABELS: usize = 20;

/// A share as a percentage with one decimal, or a dash.
pub fn percent(share: impl Into<Option<f64>>) -> String {
    share.into().map_or("–".into(), |share| format!("{:.1}", 100.0 * share))
}

/// A text that stays within its cell of a table, and is read as it is: labels and messages are anyone's.
pub fn cell(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '|' | '\\' | '`' | '*' | '[' | ']' => out.extend(['\\', c]),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
        out
    })
}

fn auroc(value: Option<f64>) -> String {
    value.map_or("–".into(), |value| format!("{value:.4}"))
}

/// One row of measures for all rows, rows with a flow, and each language.
pub fn languages(evaluation: &Evaluation) -> String {
    let mut out = String::from(
        "| rows of | rows | accuracy % | macro-F1 % | in-scope accuracy % | false refusals % | OOS recall % | OOS AUROC | ECE |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|",
    );
    let mut line = |name: &str, m: &Metrics| {
        let _ = write!(
            out,
            "\n| {name} | {} | {} | {} | {} | {} | {} | {} | {:.3} |",
            m.rows,
            percent(m.accuracy),
            percent(m.macro_f1),
            percent(m.in_scope_accuracy),
            percent(m.false_refusal_rate),
            percent(m.oos_recall),
            auroc(m.oos_auroc),
            m.expected_calibration_error
        );
    };
    line("**all**", &evaluation.overall);
    if let Some(with_flow) = &evaluation.with_flow {
        line("with a flow", with_flow);
    }
    for (code, metrics) in &evaluation.languages {
        line(code, metrics);
    }
    out.push('\n');
    out
}

/// Precision, recall and F1 of every label.
pub fn labels(evaluation: &Evaluation) -> String {
    let all = evaluation.labels.iter().filter_map(|label| Some((label, evaluation.overall.labels.get(label)?)));
    label_table(all)
}

/// The same of the 20 labels with the lowest F1 among those that occur in the rows.
pub fn worst_labels(evaluation: &Evaluation) -> String {
    let mut labels: Vec<(&String, &LabelMetrics)> =
        evaluation.overall.labels.iter().filter(|(_, metrics)| metrics.support > 0).collect();
    labels.sort_by(|a, b| a.1.f1.total_cmp(&b.1.f1));
    label_table(labels.into_iter().take(MANY_LABELS))
}

fn label_table<'a>(labels: impl Iterator<Item = (&'a String, &'a LabelMetrics)>) -> String {
    let mut out = String::from("| label | precision % | recall % | F1 % | rows |\n|---|---:|---:|---:|---:|");
    for (label, m) in labels {
        let (label, precision, recall) = (cell(label), percent(m.precision), percent(m.recall));
        let _ = write!(out, "\n| {label} | {precision} | {recall} | {} | {} |", percent(m.f1), m.support);
    }
    out.push('\n');
    out
}

/// The pairs of labels that are confused most often, each with one of the messages.
pub fn confused(evaluation: &Evaluation) -> String {
    let mut out = String::from("| true label | given label | rows | for example |\n|---|---|---:|---|");
    for pair in &evaluation.confused {
        let (label, given) = (cell(&pair.label), cell(&pair.predicted));
        let example = pair.examples.first().map(|text| cell(text)).unwrap_or_default();
        let _ = write!(out, "\n| {label} | {given} | {} | {example} |", pair.rows);
    }
    out.push('\n');
    out
}

/// What the thresholds trade.
pub fn thresholds(evaluation: &Evaluation) -> String {
    let (m, curves) = (&evaluation.overall, &evaluation.curves);
    let mut out = String::from("| thresholds | % |\n|---|---:|");
    for (name, share) in [
        ("in-scope accuracy with those of the model", m.in_scope_accuracy),
        ("in-scope accuracy without any", curves.in_scope_accuracy_unrefused),
        ("false refusals with those of the model", m.false_refusal_rate),
        ("false refusals with one that has 95 % OOS recall", curves.false_refusal_at_95_recall),
        ("OOS recall with those of the model", m.oos_recall),
        ("OOS recall with one that has 95.5 % in-scope accuracy", curves.oos_recall_at_955_accuracy),
    ] {
        let _ = write!(out, "\n| {name} | {} |", percent(share));
    }
    out.push('\n');
    out
}

/// How a model was trained.
pub fn training(training: &Training) -> String {
    let mut out = String::from("| setting | value |\n|---|---:|");
    let kept = training.epochs.iter().rfind(|epoch| epoch.best);
    let base = training.base.as_ref().map_or("none: fresh weights".to_owned(), |base| format!("hash {base}"));
    let run = [
        ("base encoder", base),
        ("teacher beside the labels", if training.teacher { "yes" } else { "no" }.to_owned()),
        ("epochs run", training.epochs.len().to_string()),
        ("epoch kept", kept.map_or("\u{2013}".to_owned(), |epoch| epoch.epoch.to_string())),
        ("its validation score", kept.map_or("\u{2013}".to_owned(), |epoch| format!("{:.4}", epoch.score))),
        ("validation rows", training.valid_rows.to_string()),
        ("seconds", format!("{:.0}", training.seconds)),
    ];
    let options = training.options.iter().map(|(name, value)| (name.replace('_', " "), setting(value)));
    for (name, value) in run.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(options) {
        let _ = write!(out, "\n| {} | {} |", cell(&name), cell(&value));
    }
    out.push('\n');
    out
}

/// A setting as it is read, without the quotes of JSON.
pub fn setting(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Training rows by label; of more than 20 labels, the 20 with the fewest.
pub fn training_labels(training: &Training) -> String {
    let mut labels: Vec<(&String, &usize)> = training.labels.iter().collect();
    if labels.len() > MANY_LABELS {
        labels.sort_by_key(|(_, rows)| **rows);
        labels.truncate(MANY_LABELS);
    }
    row_table("label", labels, training.labels.values().sum())
}

/// Training rows by language.
pub fn training_languages(training: &Training) -> String {
    row_table("language", training.languages.iter().collect(), training.languages.values().sum())
}

fn row_table(name: &str, counts: Vec<(&String, &usize)>, all: usize) -> String {
    let mut out = format!("| {name} | training rows |\n|---|---:|\n| **all** | {all} |");
    for (name, rows) in counts {
        let _ = write!(out, "\n| {} | {rows} |", cell(name));
    }
    out.push('\n');
    out
}

/// What the language head says, by language.
pub fn language_head(evaluation: &Evaluation) -> String {
    let mut out =
        String::from("| language | rows | named right % | precision % | undecided % |\n|---|---:|---:|---:|---:|");
    for (code, m) in &evaluation.language_head {
        let (right, precision, undecided) = (percent(m.recall), percent(m.precision), percent(m.undecided));
        let _ = write!(out, "\n| {code} | {} | {right} | {precision} | {undecided} |", m.rows);
    }
    out.push('\n');
    out
}

/// The same rows roughened in several ways, beside the clean ones.
pub fn perturbed(evaluation: &Evaluation) -> Option<String> {
    let points = |share: Option<f64>| share.map_or("–".to_owned(), |share| format!("{:+.1}", 100.0 * share));
    let mut out = String::from(
        "| changed by | rows changed | accuracy % | change | false refusals % | change | OOS recall % | change |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|",
    );
    for (name, m) in evaluation.perturbed.as_ref()? {
        let _ = write!(
            out,
            "\n| {} | {} | {} | {} | {} | {} | {} | {} |",
            name.replace('_', " "),
            m.changed_rows,
            percent(m.accuracy),
            points(Some(m.accuracy_difference)),
            percent(m.false_refusal_rate),
            points(m.false_refusal_difference),
            percent(m.oos_recall),
            points(m.oos_recall_difference)
        );
    }
    out.push('\n');
    Some(out)
}

/// Long messages made of the rows.
pub fn long(evaluation: &Evaluation) -> Option<String> {
    let mut out = String::from("| long message | texts | right % | the short row alone % |\n|---|---:|---:|---:|");
    for (kind, m) in &evaluation.long.as_ref()?.overall {
        let (right, alone) = (percent(m.recall()), percent(m.alone_recall()));
        let _ = write!(out, "\n| {} | {} | {right} | {alone} |", kind, m.texts);
    }
    out.push('\n');
    Some(out)
}

/// The confusion matrix: true label down, final label across.
pub fn confusion(evaluation: &Evaluation) -> String {
    let mut out = String::from("| true \\ said |");
    for label in &evaluation.labels {
        let _ = write!(out, " {} |", cell(label));
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(evaluation.labels.len()));
    for (label, row) in evaluation.labels.iter().zip(&evaluation.confusion) {
        let _ = write!(out, "\n| {} |", cell(label));
        for count in row {
            let _ = write!(out, " {count} |");
        }
    }
    out.push('\n');
    out
}

/// Accuracy by language beside that of another model on the same rows, given overall and by language.
pub fn beside(evaluation: &Evaluation, overall: f64, languages: &BTreeMap<String, f64>) -> String {
    let mut out = String::from("| rows of | guard % | linear probe % |\n|---|---:|---:|");
    let _ = write!(out, "\n| **all** | {} | {} |", percent(evaluation.overall.accuracy), percent(overall));
    for (code, metrics) in &evaluation.languages {
        let other = languages.get(code).copied();
        let _ = write!(out, "\n| {code} | {} | {} |", percent(metrics.accuracy), percent(other));
    }
    out.push('\n');
    out
}

/// Replaces what stands between `<!-- generated: NAME -->` and `<!-- /generated -->` in a Markdown text.
///
/// `None` when the marks are not there.
pub fn fill(document: &str, name: &str, content: &str) -> Option<String> {
    let open = format!("{MARK} {name} -->");
    let from = document.find(&open)? + open.len();
    let to = from + document[from..].find("<!-- /generated -->")?;
    Some(format!("{}\n{}\n{}", &document[..from], content.trim(), &document[to..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_changes_only_its_own_part_and_can_be_repeated() {
        let document =
            "a\n<!-- generated: x -->\nold\n<!-- /generated -->\nb\n<!-- generated: y --><!-- /generated -->\n";
        let filled = fill(document, "x", "| new |\n").unwrap();
        assert_eq!(
            filled,
            "a\n<!-- generated: x -->\n| new |\n<!-- /generated -->\nb\n<!-- generated: y --><!-- /generated -->\n"
        );
        assert_eq!(fill(&filled, "x", "| new |").unwrap(), filled);
        assert_eq!(fill(document, "z", ""), None);
    }
}
