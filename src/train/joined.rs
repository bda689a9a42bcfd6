//! Rows joined to stretches of a long message, as the guard's windows cut them.
//!
//! Short messages say one thing. A window of a long one holds several, the first and the last of them cut, and must be
//! told apart by the rules for long messages: a general request among business is out of scope, business at the end of a
//! story is in scope.

use super::augment::length_in_letters;
use crate::data::Row;
use rand::{Rng, RngExt, seq::IndexedRandom};
use std::collections::BTreeMap;

/// How long a stretch is, in letters.
const LENGTH: usize = 190;

/// Rows of each language outside any flow: those in scope and those out of it.
pub(super) struct Joiner<'a> {
    rows: Vec<&'a Row>,
    languages: BTreeMap<&'a str, [Vec<&'a Row>; 2]>,
}

impl<'a> Joiner<'a> {
    /// `None` where there are not rows of both kinds.
    pub(super) fn new(rows: &[&'a Row], oos_label: &str) -> Option<Self> {
        let mut languages: BTreeMap<&str, [Vec<&Row>; 2]> = BTreeMap::new();
        for &row in rows.iter().filter(|row| row.context.is_none()) {
            let kinds = languages.entry(row.lang.as_deref().unwrap_or_default()).or_default();
            kinds[usize::from(row.label == oos_label)].push(row);
        }
        languages.retain(|_, kinds| kinds.iter().all(|rows| !rows.is_empty()));
        let rows: Vec<&Row> = languages.values().flatten().flatten().copied().collect();
        (!rows.is_empty()).then_some(Joiner { rows, languages })
    }

    /// A stretch of a long message, with its label.
    pub(super) fn join(&self, rng: &mut impl Rng) -> Option<Row> {
        let first = *self.rows.choose(rng)?;
        let [inside, outside] = self.languages.get(first.lang.as_deref().unwrap_or_default())?;
        let kind = rng.random_range(0..20);
        let mut rows = Vec::new();
        let mut length = 0;
        let around = if kind < 13 { inside } else { outside };
        let same = kind < 4;
        while length < LENGTH {
            let row = *around.choose(rng)?;
            // Business of one label, or of several.
            if same && rows.first().is_some_and(|first: &&Row| first.label != row.label) && rng.random_bool(0.9) {
                continue;
            }
            length += length_in_letters(&row.text);
            rows.push(row);
        }
        let (label, whole) = match kind {
            0..8 => (most_frequent(&rows), None),
            // A general request among business.
            8..13 => {
                let (request, at) = (*outside.choose(rng)?, rng.random_range(0..rows.len()));
                rows[at] = request;
                (request.label.clone(), Some(at))
            }
            13..17 => (rows[0].label.clone(), None),
            // Business at the end of a story.
            _ => {
                let (request, at) = (*inside.choose(rng)?, rows.len() - 1);
                rows[at] = request;
                (request.label.clone(), Some(at))
            }
        };
        let last = rows.len() - 1;
        let mut texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
        if whole != Some(0) {
            texts[0] = cut(texts[0], rng, |text, at| &text[at..]);
        }
        if whole != Some(last) {
            texts[last] = cut(texts[last], rng, |text, at| &text[..at]);
        }
        Some(Row { text: texts.join(" "), label, ..first.clone() })
    }
}

/// A part of a text, as `part` takes it at a random place.
fn cut<'t>(text: &'t str, rng: &mut impl Rng, part: impl Fn(&'t str, usize) -> &'t str) -> &'t str {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    places.choose(rng).map_or(text, |&at| part(text, at))
}

fn most_frequent(rows: &[&Row]) -> String {
    let count = |label: &str| rows.iter().filter(|row| row.label == label).count();
    rows.iter().max_by_key(|row| count(&row.label)).map(|row| row.label.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Origin;
    use rand::SeedableRng;

    fn rows() -> Vec<Row> {
        let row = |text: &str, label: &str, lang: &str| Row {
            text: text.into(),
            label: label.into(),
            lang: Some(lang.into()),
            context: None,
            group: None,
            origin: Origin { file: std::path::Path::new("x").into(), line: 1 },
        };
        let mut rows = Vec::new();
        for n in 0..6 {
            rows.push(row(&format!("where is my order number {n}"), "order", "en"));
            rows.push(row(&format!("write me {n} poems please"), "out", "en"));
            rows.push(row(&format!("wo bleibt paket {n}"), "order", "de"));
        }
        rows
    }

    #[test]
    fn stretches_are_of_one_language_and_say_what_their_label_says() {
        let rows = rows();
        let joiner = Joiner::new(&rows.iter().collect::<Vec<_>>(), "out").unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut labels = BTreeMap::new();
        for _ in 0..200 {
            let row = joiner.join(&mut rng).unwrap();
            assert_eq!(row.lang.as_deref(), Some("en"), "German has no row out of scope");
            assert!(!row.text.contains("paket") && length_in_letters(&row.text) >= LENGTH / 2, "{}", row.text);
            let whole = if row.label == "out" { "poems please" } else { "where is my order number" };
            assert!(row.text.contains(whole), "{}: {}", row.label, row.text);
            *labels.entry(row.label).or_insert(0) += 1;
        }
        assert!(labels.values().all(|&count| count > 40), "{labels:?}");
        assert!(Joiner::new(&rows.iter().collect::<Vec<_>>(), "none").is_none());
    }
}
