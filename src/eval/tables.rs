//! Evaluations as Markdown, for model cards and the README; and putting generated text between marks in a file.

use super::{Evaluation, Metrics};
use std::{collections::BTreeMap, fmt::Write as _};

/// A share as a percentage with one decimal, or a dash.
pub fn percent(share: impl Into<Option<f64>>) -> String {
    share.into().map_or("–".into(), |share| format!("{:.1}", 100.0 * share))
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
    let mut out = String::from("| label | precision % | recall % | F1 % | rows |\n|---|---:|---:|---:|---:|");
    for label in &evaluation.labels {
        let Some(m) = evaluation.overall.labels.get(label) else { continue };
        let (precision, recall) = (percent(m.precision), percent(m.recall));
        let _ = write!(out, "\n| {label} | {precision} | {recall} | {} | {} |", percent(m.f1), m.support);
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
        let _ = write!(out, " {label} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(evaluation.labels.len()));
    for (label, row) in evaluation.labels.iter().zip(&evaluation.confusion) {
        let _ = write!(out, "\n| {label} |");
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
    let open = format!("<!-- generated: {name} -->");
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
