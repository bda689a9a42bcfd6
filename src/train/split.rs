//! Validation rows taken from the training rows.

use crate::{data::Row, text};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

/// Share of a label's rows that is held out.
const SHARE: f64 = 0.1;
/// Largest share of a label's rows that is held out where its groups are large.
const MOST: f64 = 1.0 / 3.0;
/// A label with fewer rows than this keeps them all in training.
pub(super) const ENOUGH_ROWS: usize = 5;

/// Training and validation rows, each in the order of `rows`. Validation rows are whole groups chosen at random, about a
/// tenth of the rows of every label and never more than a third. Rows without a group form one with rows of the same text.
///
/// Rare labels choose first, so that groups with many labels go where they are needed (after Sechidis, Tsoumakas and
/// Vlahavas, 2011, <https://doi.org/10.1007/978-3-642-23808-6_10>).
pub(super) fn hold_out(rows: &[Row], seed: u64) -> (Vec<&Row>, Vec<&Row>) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbers: HashMap<(bool, Cow<'_, str>), usize> = HashMap::new();
    let mut groups: Vec<BTreeMap<&str, usize>> = Vec::new();
    let mut group_of = Vec::with_capacity(rows.len());
    for row in rows {
        let key = match &row.group {
            Some(group) => (true, Cow::from(group)),
            None => (false, text::normalize(&row.text).into()),
        };
        let group = *numbers.entry(key).or_insert(groups.len());
        if group == groups.len() {
            groups.push(BTreeMap::new());
        }
        *groups[group].entry(&row.label).or_default() += 1;
        *counts.entry(&row.label).or_default() += 1;
        group_of.push(group);
    }

    let mut shuffled: Vec<usize> = (0..groups.len()).collect();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let mut groups_of: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for group in shuffled {
        for &label in groups[group].keys() {
            groups_of.entry(label).or_default().push(group);
        }
    }

    let wanted = |label: &str| (counts[label] as f64 * SHARE).round().max(1.0) as usize;
    let most = |label: &str| if counts[label] < ENOUGH_ROWS { 0 } else { (counts[label] as f64 * MOST) as usize };
    let mut rarest: Vec<&str> = counts.keys().copied().collect();
    rarest.sort_by_key(|label| counts[label]);
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    let mut is_held = vec![false; groups.len()];
    for label in rarest {
        for &group in &groups_of[label] {
            let so_far = |label: &str| held.get(label).copied().unwrap_or(0);
            if so_far(label) >= wanted(label) {
                break;
            }
            if !is_held[group] && groups[group].iter().all(|(label, rows)| so_far(label) + rows <= most(label)) {
                is_held[group] = true;
                for (&label, rows) in &groups[group] {
                    *held.entry(label).or_default() += rows;
                }
            }
        }
    }
    let (mut train, mut valid) = (Vec::new(), Vec::new());
    for (row, group) in rows.iter().zip(group_of) {
        if is_held[group] { valid.push(row) } else { train.push(row) }
    }
    (train, valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;
    use proptest::prelude::*;
    use std::{collections::HashSet, path::Path};

    /// Rows of these labels and groups, every text another.
    fn rows(of: impl IntoIterator<Item = (String, Option<String>)>) -> Vec<Row> {
        let file = Path::new("x").into();
        let row = |(line, (label, group))| Row {
            text: format!("text {line}"),
            label,
            lang: None,
            context: None,
            group,
            origin: Origin { file: std::sync::Arc::clone(&file), line },
        };
        of.into_iter().enumerate().map(row).collect()
    }

    fn count(rows: &[&Row], label: &str) -> usize {
        rows.iter().filter(|row| row.label == label).count()
    }

    #[test]
    fn a_tenth_of_every_label_and_one_of_five() {
        let sizes = [("a", 4), ("b", 5), ("c", 14), ("d", 100), ("e", 1000)];
        let many = (0..150).flat_map(|label| (0..5).map(move |_| (format!("label {label}"), None)));
        let rows = rows(sizes.iter().flat_map(|&(label, n)| (0..n).map(move |_| (label.to_owned(), None))).chain(many));
        let (_, valid) = hold_out(&rows, 1);
        assert_eq!(sizes.map(|(label, _)| count(&valid, label)), [0, 1, 1, 10, 100]);
        assert!((0..150).all(|label| count(&valid, &format!("label {label}")) == 1));
        assert_ne!(valid, hold_out(&rows, 2).1, "another seed, other rows");
    }

    #[test]
    fn the_same_text_is_one_group() {
        let mut rows = rows((0..40).map(|_| ("a".to_owned(), None)));
        for row in &mut rows {
            row.text = format!("{} TEXT", row.origin.line % 20);
        }
        rows[0].text.make_ascii_lowercase();
        let (train, valid) = hold_out(&rows, 1);
        assert_eq!(valid.len(), 4);
        let texts: HashSet<String> = train.iter().map(|row| text::normalize(&row.text)).collect();
        assert!(valid.iter().all(|row| !texts.contains(&text::normalize(&row.text))));
    }

    proptest! {
        #[test]
        fn groups_stay_whole_and_every_label_stays_in_training(
            rows in prop::collection::vec(("[a-e]", prop::option::of("[a-z]")), 0..200).prop_map(rows),
            seed: u64,
        ) {
            let (train, valid) = hold_out(&rows, seed);
            prop_assert_eq!(train.len() + valid.len(), rows.len());
            prop_assert!(train.is_sorted_by_key(|row| row.origin.line) && valid.is_sorted_by_key(|row| row.origin.line));
            let groups: HashSet<_> = train.iter().filter_map(|row| row.group.as_ref()).collect();
            prop_assert!(valid.iter().filter_map(|row| row.group.as_ref()).all(|group| !groups.contains(group)));
            for row in &rows {
                let (train, valid) = (count(&train, &row.label), count(&valid, &row.label));
                prop_assert!(2 * valid <= train && (train + valid >= ENOUGH_ROWS || valid == 0));
            }
        }

        #[test]
        fn rows_without_groups_are_split_exactly(rows in prop::collection::vec("[a-e]", 0..200)) {
            let rows = rows_of(rows);
            let (train, valid) = hold_out(&rows, 1);
            for row in &rows {
                let (train, valid) = (count(&train, &row.label), count(&valid, &row.label));
                let all = train + valid;
                prop_assert_eq!(valid, if all < 5 { 0 } else { (all as f64 / 10.0).round().max(1.0) as usize });
            }
        }
    }

    fn rows_of(labels: Vec<String>) -> Vec<Row> {
        rows(labels.into_iter().map(|label| (label, None)))
    }
}
