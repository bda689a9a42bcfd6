//! What would spoil a training run, found in the rows before it starts.

use super::{
    Observer, TrainError,
    split::{ENOUGH_ROWS, hold_out},
};
use crate::{
    data::{Origin, Row},
    label::Flow,
    text,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

/// Share of validation rows that may be training rows too: public sets have some; more is a mistake.
const MOST_OVERLAP: f64 = 0.05;
/// A label with this many times the rows of another is worth a warning.
const IMBALANCE: usize = 100;
/// A message names this many of a kind.
const MOST_NAMED: usize = 10;

/// A label and a row that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelAt {
    /// The label.
    pub label: String,
    /// The row.
    pub origin: Origin,
}

impl LabelAt {
    fn of(row: &Row) -> Self {
        LabelAt { label: row.label.clone(), origin: row.origin.clone() }
    }
}

impl fmt::Display for LabelAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({})", self.label, self.origin)
    }
}

/// Something in the rows that does not keep a model from being trained, but that may make it worse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// Some texts stand in training and in validation rows, with the same flow.
    #[error(
        "{count} {split} rows are left out: their text and context are in the other rows too, the first {first} as {twin}"
    )]
    Overlap {
        /// Rows that are left out.
        count: usize,
        /// Of which rows: `training` where validation rows were given, `validation` where they are held out.
        split: &'static str,
        /// The first row that is left out.
        first: Origin,
        /// A row of the other split with its text and context.
        twin: Origin,
    },
    /// Some texts have more than one label in the training rows, with the same flow.
    #[error(
        "{count} training rows have the text and context of one with another label, the first {second} that of {first}"
    )]
    TwoLabels {
        /// Rows whose label is not that of the first row with their text.
        count: usize,
        /// The first row with the first such text.
        first: LabelAt,
        /// The first one after it with another label.
        second: LabelAt,
    },
    /// Some labels have fewer than 5 rows; none of them is held out for validation.
    #[error("labels with fewer than {ENOUGH_ROWS} rows are hard to learn: {}", named(.0, |(label, rows)| format!("{label:?} ({rows})")))]
    FewRows(Vec<(String, usize)>),
    /// The most frequent label has over 100 times the rows of the rarest.
    #[error("label {:?} has {} rows, {:?} {}: the rarer one may be drowned out", most.0, most.1, least.0, least.1)]
    Imbalance {
        /// The most frequent label and its rows.
        most: (String, usize),
        /// The rarest.
        least: (String, usize),
    },
}

/// The first of `items`, and how many more there are.
pub(super) fn named<T>(items: &[T], name: impl Fn(&T) -> String) -> String {
    let names: Vec<String> = items.iter().take(MOST_NAMED).map(name).collect();
    let more = items.len() - names.len();
    names.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// What makes two rows the same to a model.
type Key = (String, Option<Flow>);

fn key(row: &Row) -> Key {
    (text::normalize(&row.text), row.context)
}

/// Training rows, validation rows and labels.
type Split<'a> = (Vec<&'a Row>, Vec<&'a Row>, Vec<String>);

/// Rows that a run may begin with, and their labels; validation rows are held out if none are given. Warnings go to
/// the observer.
pub(super) fn split_rows<'a>(
    rows: &'a [Row],
    valid: &'a [Row],
    seed: u64,
    observer: &mut dyn Observer,
) -> Result<Split<'a>, TrainError> {
    check_spelling(rows.iter().chain(valid))?;
    check_labels(rows, observer)?;
    warn_of_two_labels(rows, observer);
    let (train, valid, split, twins) = if valid.is_empty() {
        let (train, valid) = hold_out(rows, seed);
        // Where groups share texts, taking them out of the few validation rows loses less.
        let (valid, twins) = without_twins(valid, &train);
        (train, valid, "validation", twins)
    } else {
        let (train, valid): (Vec<&Row>, Vec<&Row>) = (rows.iter().collect(), valid.iter().collect());
        check_overlap(&valid, &train)?;
        let (train, twins) = without_twins(train, &valid);
        (train, valid, "training", twins)
    };
    if let Some((row, twin)) = twins.first() {
        let (first, twin) = (row.origin.clone(), twin.origin.clone());
        observer.warn(&Warning::Overlap { count: twins.len(), split, first, twin });
    }
    let Some(first) = valid.first() else { return Err(TrainError::NothingToHoldOut) };
    let labels = super::labels(&train, &valid)?;
    if valid.iter().all(|row| row.label == first.label) {
        return Err(TrainError::OneValidLabel(first.label.clone()));
    }
    Ok((train, valid, labels))
}

/// The rows whose text and context none of `others` has, and the rest, each with the first of `others` that has them.
fn without_twins<'a>(rows: Vec<&'a Row>, others: &[&'a Row]) -> (Vec<&'a Row>, Vec<(&'a Row, &'a Row)>) {
    let others: HashMap<Key, &Row> = others.iter().rev().map(|row| (key(row), *row)).collect();
    let (mut without, mut twins) = (Vec::new(), Vec::new());
    for row in rows {
        match others.get(&key(row)) {
            Some(twin) => twins.push((row, *twin)),
            None => without.push(row),
        }
    }
    (without, twins)
}

fn check_overlap(valid: &[&Row], train: &[&Row]) -> Result<(), TrainError> {
    let (_, twins) = without_twins(valid.to_vec(), train);
    match twins.first() {
        Some((row, twin)) if twins.len() as f64 > MOST_OVERLAP * valid.len() as f64 => {
            let (count, of) = (twins.len(), valid.len());
            Err(TrainError::Overlap { count, of, valid: row.origin.clone(), train: twin.origin.clone() })
        }
        _ => Ok(()),
    }
}

/// Labels that differ in nothing but case are most likely one label.
fn check_spelling<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<(), TrainError> {
    let mut spellings: BTreeMap<String, BTreeMap<&str, &Row>> = BTreeMap::new();
    for row in rows {
        spellings.entry(row.label.to_lowercase()).or_default().entry(&row.label).or_insert(row);
    }
    let alike = spellings.values().filter(|rows| rows.len() > 1).flat_map(|rows| rows.values());
    let alike: Vec<LabelAt> = alike.map(|row| LabelAt::of(row)).collect();
    if alike.is_empty() { Ok(()) } else { Err(TrainError::AlikeLabels(alike)) }
}

fn check_labels(rows: &[Row], observer: &mut dyn Observer) -> Result<(), TrainError> {
    let mut labels: BTreeMap<&str, (usize, &Row)> = BTreeMap::new();
    for row in rows {
        labels.entry(&row.label).or_insert((0, row)).0 += 1;
    }
    let by_rows = |(label, (rows, _)): (&&str, &(usize, _))| ((*label).to_owned(), *rows);
    let least = labels.iter().min_by_key(|(_, (rows, _))| rows).map(by_rows);
    let most = labels.iter().max_by_key(|(_, (rows, _))| rows).map(by_rows);
    let (Some(least), Some(most)) = (least, most) else { return Err(TrainError::NoRows("fit")) };
    if labels.len() == 1 {
        return Err(TrainError::OneLabel(most.0));
    }
    let texts = rows.iter().map(|row| text::normalize(&row.text)).collect::<HashSet<_>>().len();
    if labels.len() > texts {
        return Err(TrainError::MoreLabelsThanTexts { labels: labels.len(), texts });
    }
    let single: Vec<LabelAt> =
        labels.values().filter(|(rows, _)| *rows == 1).map(|(_, row)| LabelAt::of(row)).collect();
    if !single.is_empty() {
        return Err(TrainError::SingleRows(single));
    }
    let few: Vec<_> = labels.iter().filter(|(_, (rows, _))| *rows < ENOUGH_ROWS).map(by_rows).collect();
    if !few.is_empty() {
        observer.warn(&Warning::FewRows(few));
    }
    if most.1 > IMBALANCE * least.1 {
        observer.warn(&Warning::Imbalance { most, least });
    }
    Ok(())
}

fn warn_of_two_labels(rows: &[Row], observer: &mut dyn Observer) {
    let mut seen: HashMap<Key, &Row> = HashMap::new();
    let differing: Vec<_> = rows
        .iter()
        .map(|row| (*seen.entry(key(row)).or_insert(row), row))
        .filter(|(first, row)| first.label != row.label)
        .collect();
    if let Some((first, second)) = differing.first() {
        let (first, second) = (LabelAt::of(first), LabelAt::of(second));
        observer.warn(&Warning::TwoLabels { count: differing.len(), first, second });
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Epoch, *};
    use std::{path::Path, sync::Arc};

    /// Keeps what it is warned of.
    #[derive(Default)]
    struct Warned(Vec<Warning>);

    impl Observer for Warned {
        fn step(&mut self, _: usize, _: usize, _: f32, _: f64) {}
        fn epoch(&mut self, _: &Epoch) {}
        fn warn(&mut self, warning: &Warning) {
            self.0.push(warning.clone());
        }
        fn should_stop(&self) -> bool {
            false
        }
    }

    /// Rows of texts and labels, in the lines of a file.
    fn rows<T: AsRef<str>>(file: &str, of: impl IntoIterator<Item = (T, &'static str)>) -> Vec<Row> {
        let file: Arc<Path> = Path::new(file).into();
        let row = |(line, (text, label)): (usize, (T, &str))| Row {
            text: text.as_ref().into(),
            label: label.into(),
            lang: None,
            context: None,
            group: None,
            origin: Origin { file: Arc::clone(&file), line: line + 1 },
        };
        of.into_iter().enumerate().map(row).collect()
    }

    /// So many rows of a label, in a file of its name; the texts are numbered from `from` on.
    fn many(label: &'static str, from: usize, count: usize) -> Vec<Row> {
        rows(label, (from..from + count).map(|n| (format!("{label} {n}"), label)))
    }

    fn error(train: &[Row], valid: &[Row]) -> TrainError {
        split_rows(train, valid, 1, &mut Warned::default()).expect_err("accepted")
    }

    fn warnings(train: &[Row], valid: &[Row]) -> (usize, usize, Vec<Warning>) {
        let mut warned = Warned::default();
        let (train, valid, _) = split_rows(train, valid, 1, &mut warned).unwrap();
        (train.len(), valid.len(), warned.0)
    }

    #[test]
    fn labels_that_cannot_be_learned_are_refused() {
        assert!(matches!(error(&[], &[]), TrainError::NoRows("fit")));
        assert!(matches!(error(&many("a", 0, 9), &[]), TrainError::OneLabel(label) if label == "a"));
        let single = [many("a", 0, 9), many("b", 0, 1), many("c", 0, 1)].concat();
        let message = error(&single, &[]).to_string();
        assert!(message.contains(r#": "b" (b:1), "c" (c:1)"#), "{message}");
        let slips = rows("x", [("1", "Refund"), ("2", "refund"), ("3", "faq")]);
        assert!(matches!(error(&slips[1..], &slips[..1]), TrainError::AlikeLabels(labels) if labels.len() == 2));
        let swapped = rows("x", [("faq", "hi"), ("faq", "where are you"), ("order", "where is it")]);
        assert!(matches!(error(&swapped, &[]), TrainError::MoreLabelsThanTexts { labels: 3, texts: 2 }));
        assert!(matches!(error(&[many("a", 0, 4), many("b", 0, 4)].concat(), &[]), TrainError::NothingToHoldOut));
    }

    #[test]
    fn validation_rows_must_be_of_the_labels_and_of_more_than_one() {
        let train = [many("a", 0, 20), many("b", 0, 20)].concat();
        let unknown = [many("a", 30, 2), many("c", 0, 1)].concat();
        assert!(matches!(error(&train, &unknown), TrainError::UnknownLabel { place, .. } if place == "c:1"));
        assert!(matches!(error(&train, &many("b", 30, 5)), TrainError::OneValidLabel(label) if label == "b"));
        let tiny = [many("a", 0, 20), many("b", 0, 4)].concat();
        assert!(matches!(error(&tiny, &[]), TrainError::OneValidLabel(label) if label == "a"));
    }

    #[test]
    fn a_few_shared_texts_are_left_out_of_training_and_many_are_refused() {
        let train = [many("a", 0, 50), many("b", 0, 50)].concat();
        let mut valid = [many("a", 60, 20), many("b", 60, 20)].concat();
        valid[7].text = " A 3".into();
        valid[9].text = "b  4".into();
        let (train_rows, valid_rows, warned) = warnings(&train, &valid);
        assert_eq!((train_rows, valid_rows), (98, 40));
        let [Warning::Overlap { count: 2, split: "training", first, twin }] = &warned[..] else { panic!("{warned:?}") };
        assert_eq!((first.to_string(), twin.to_string()), ("a:4".into(), "a:8".into()));
        valid[9].context = Some(Flow::Order);
        assert_eq!(warnings(&train, &valid).0, 99, "another flow, another row");
        let message = error(&train, &[valid, train[..3].to_vec()].concat()).to_string();
        assert!(message.starts_with("4 of 43 validation rows"), "{message}");
    }

    #[test]
    fn groups_that_share_texts_lose_validation_rows() {
        let mut train = [many("a", 0, 100), many("b", 0, 100)].concat();
        for (n, row) in train.iter_mut().enumerate() {
            row.group = Some(format!("conversation {}", n / 4));
            if n % 4 == 0 {
                row.text = "thanks".into();
            }
        }
        let (train_rows, valid_rows, warned) = warnings(&train, &[]);
        let [Warning::TwoLabels { count: 25, .. }, Warning::Overlap { count, split: "validation", .. }] = &warned[..]
        else {
            panic!("{warned:?}")
        };
        assert_eq!((train_rows + valid_rows + count, valid_rows), (200, 3 * count));
    }

    #[test]
    fn odd_labels_are_accepted_with_a_warning() {
        let train = [many("a", 0, 405), many("b", 0, 4), many("c", 0, 9)].concat();
        let (_, _, warned) = warnings(&train, &[]);
        let (most, least) = (("a".to_owned(), 405), ("b".to_owned(), 4));
        assert_eq!(warned, [Warning::FewRows(vec![least.clone()]), Warning::Imbalance { most, least }]);
        let twice = [many("a", 0, 9), many("b", 0, 9), rows("x", [("A  3", "b"), ("a 3", "b")])].concat();
        let (_, _, warned) = warnings(&twice, &[]);
        assert_eq!(
            warned[0].to_string(),
            r#"2 training rows have the text and context of one with another label, the first "b" (x:1) that of "a" (a:4)"#
        );
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(named(&[1, 2], i32::to_string), "1, 2");
        assert!(named(&[0; 12], i32::to_string).ends_with(", 0 and 2 more"));
    }
}
