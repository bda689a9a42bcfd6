//! The model card of anyone's labels.

use super::{
    Evaluation, Training,
    tables::{MANY_LABELS, MARK, cell},
};
use crate::guard::GuardConfig;

const USE: &str = "\
## Use

```rust
let guard = intentgate::Guard::from_dir(\"path/to/this/directory\")?;
let verdict = guard.check(\"where is my order\");
println!(\"{:?} {:.2}\", verdict.label(), verdict.confidence());
```

```sh
intentgate classify --model path/to/this/directory \"where is my order\"
```";

const FIGURES: &str = "\
## Figures

Measured by `intentgate eval`; every figure is in evaluation.json beside this file, and `intentgate report` draws it. \
In-scope accuracy counts a refusal as an error; false refusals are the in-scope rows that are refused; OOS recall is the \
share of out-of-scope rows that are refused; ECE is the mean gap between confidence and accuracy.";

const THRESHOLDS: &str = "\
## Thresholds

A message is refused when its out-of-scope (OOS) score is above the threshold of its most probable in-scope label. \
`intentgate tune` sets thresholds for a false refusal rate of your choice.";

const LIMITS: &str = "\
## Limits

- It knows what its training rows know. On messages of another kind, trade or language than theirs the figures above \
do not hold: measure it on rows of your own with `intentgate eval`.
- Figures on few rows are rough, and those of labels with a handful of training rows are the least certain.
- Confidence and thresholds were fitted to the validation rows; where customers ask for other things than those do, \
both drift.
- It is no moderation filter and detects no emergency. What must never be answered wrongly needs a rule or a \
person behind it.";

/// A card in Markdown whose figures are still to be filled in, see [`tables::fill`](super::tables::fill); it has no
/// mark for what was not measured.
pub fn card(config: &GuardConfig, evaluation: &Evaluation, training: Option<&Training>) -> String {
    let mark = |name: &str| format!("{MARK} {name} -->\n<!-- /generated -->");
    let many = evaluation.labels.len() > MANY_LABELS;
    let refused = match &config.oos_label {
        Some(label) => format!("one of them, {}, is for messages that a bot must not answer", cell(label)),
        None => "a message that fits none of them is refused as out_of_scope".to_owned(),
    };
    let mut parts = vec![
        "# Message classifier".to_owned(),
        format!(
            "Gives a customer's message one of the labels below; {refused}. A BERT sequence classifier, made by \
             [intentgate](https://github.com/intentgate/intentgate)."
        ),
        mark("model"),
        USE.to_owned(),
        "## Data".to_owned(),
    ];
    match training {
        Some(_) => {
            if many {
                parts.push(format!("Of the labels, only the {MANY_LABELS} with the fewest rows:"));
            }
            parts.extend([mark("training labels"), mark("training languages")]);
            parts.extend(["## Training".to_owned(), mark("training")]);
        }
        None => parts.push("Not recorded: there was no training.json beside the model.".to_owned()),
    }
    parts.extend([FIGURES.to_owned(), mark("languages")]);
    if many {
        parts.push(format!("The {MANY_LABELS} labels with the lowest F1, and the most confused pairs:"));
        parts.extend([mark("worst labels"), mark("confused")]);
    } else {
        parts.extend([mark("labels"), "Rows by true label (down) and given label (across):".to_owned()]);
        parts.extend([mark("confusion")]);
    }
    if !evaluation.language_head.is_empty() {
        parts.extend(["What it says of the language of a message:".to_owned(), mark("language head")]);
    }
    if evaluation.perturbed.is_some() {
        parts.extend(["The same rows roughened; changes are in percentage points:".to_owned(), mark("perturbed")]);
    }
    if evaluation.long.is_some() {
        parts.extend(["Long messages made of the rows:".to_owned(), mark("long")]);
    }
    parts.extend([THRESHOLDS.to_owned(), mark("thresholds"), LIMITS.to_owned()]);
    parts.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Epoch, Metrics, tables};
    use std::collections::BTreeMap;

    #[test]
    fn the_card_of_hostile_labels_is_filled_to_the_last_mark() {
        let label = "a|b <!-- /generated -->\n<script>";
        let config = GuardConfig { oos_label: Some(label.into()), ..config() };
        let evaluation = evaluation(&[label, "b"]);
        let training = Training {
            epochs: vec![Epoch { epoch: 1, loss: 1.0, score: 0.5, best: true }],
            options: BTreeMap::from([("dtype".to_owned(), "f16".into())]),
            labels: BTreeMap::from([(label.to_owned(), 3), ("b".to_owned(), 4)]),
            languages: BTreeMap::from([("en".to_owned(), 7)]),
            valid_rows: 2,
            base: None,
            teacher: false,
            seconds: 1.0,
        };
        let sections = [
            ("training", tables::training(&training)),
            ("training labels", tables::training_labels(&training)),
            ("training languages", tables::training_languages(&training)),
            ("model", tables::cell(label)),
            ("languages", tables::languages(&evaluation)),
            ("labels", tables::labels(&evaluation)),
            ("confusion", tables::confusion(&evaluation)),
            ("thresholds", tables::thresholds(&evaluation)),
        ];
        let once = |document: String| {
            sections.iter().fold(document, |document, (name, table)| tables::fill(&document, name, table).unwrap())
        };
        let filled = once(card(&config, &evaluation, Some(&training)));
        assert_eq!(filled.matches(MARK).count(), sections.len());
        assert!(!filled.contains(&format!("{MARK} model -->\n<!--")) && !filled.contains("<script"));
        assert!(filled.contains("| a\\|b &lt;!-- /generated --> &lt;script> | 3 |"), "{filled}");
        assert_eq!(once(filled.clone()), filled);
    }

    #[test]
    fn of_many_labels_the_worst_are_shown() {
        let labels: Vec<String> = (0..30).map(|n| format!("l{n}")).collect();
        let evaluation = evaluation(&labels.iter().map(String::as_str).collect::<Vec<_>>());
        let text = card(&config(), &evaluation, None);
        assert!(text.contains("worst labels -->") && text.contains("confused -->") && !text.contains("confusion -->"));
        assert!(text.contains("Not recorded"));
        assert_eq!(tables::worst_labels(&evaluation).lines().count(), 2 + MANY_LABELS);
    }

    fn config() -> GuardConfig {
        GuardConfig::from_json(
            br#"{"format":1,"model_version":"1","oos_label":null,"temperature":1,"thresholds":{},"min_margin":0,
                "energy":{"threshold":0,"scale":1},"max_tokens":8}"#,
        )
        .unwrap()
    }

    fn evaluation(labels: &[&str]) -> Evaluation {
        let metrics = |label: &&str| {
            (label.to_string(), crate::eval::LabelMetrics { precision: None, recall: Some(0.5), f1: 0.5, support: 2 })
        };
        let n = labels.len();
        Evaluation {
            model_version: "1".into(),
            backend: String::new(),
            data_hash: String::new(),
            overall: Metrics {
                rows: 2 * n,
                accuracy: 0.5,
                macro_f1: 0.5,
                in_scope_accuracy: None,
                false_refusal_rate: None,
                oos_recall: None,
                oos_auroc: None,
                expected_calibration_error: 0.0,
                labels: labels.iter().map(metrics).collect(),
            },
            with_flow: None,
            languages: BTreeMap::new(),
            language_head: BTreeMap::new(),
            labels: labels.iter().map(|label| label.to_string()).collect(),
            confusion: vec![vec![1; n]; n],
            calibration: Vec::new(),
            curves: Default::default(),
            confused: Vec::new(),
            worst_errors: Vec::new(),
            cost: None,
            perturbed: None,
            long: None,
        }
    }
}
