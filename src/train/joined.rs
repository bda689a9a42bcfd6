//! Stretches of long messages, as the guard's windows cut them.
//!
//! Short messages say one thing. A window of a long one holds several, the first and the last of them cut, and must be
//! told apart by the rules for long messages: a general request among business is out of scope, business at the end of a
//! story is in scope. Stretches are cut from the long rows of a language, or else joined from short ones.

use super::augment::length_in_letters;
use crate::data::Row;
use rand::{Rng, RngExt, seq::IndexedRandom};
use std::collections::BTreeMap;

/// How long a stretch is, in letters.
const LENGTH: usize = 190;
/// A row from which stretches are cut has so many letters or more.
const LONG: usize = 4 * LENGTH;

/// Makes stretches from the rows outside any flow.
pub(super) struct Joiner<'a> {
    rows: Vec<&'a Row>,
    /// By language, what is in scope and what is out of it.
    languages: BTreeMap<&'a str, [Source<'a>; 2]>,
}

#[derive(Default)]
struct Source<'a> {
    short: Vec<&'a Row>,
    long: Vec<&'a Row>,
}

impl<'a> Joiner<'a> {
    /// `None` where there are not rows of both kinds.
    pub(super) fn new(rows: &[&'a Row], oos_label: &str) -> Option<Self> {
        let mut languages: BTreeMap<&str, [Source<'_>; 2]> = BTreeMap::new();
        for &row in rows.iter().filter(|row| row.context.is_none()) {
            let kinds = languages.entry(row.lang.as_deref().unwrap_or_default()).or_default();
            let source = &mut kinds[usize::from(row.label == oos_label)];
            if length_in_letters(&row.text) < LONG { source.short.push(row) } else { source.long.push(row) }
        }
        languages.retain(|_, kinds| kinds.iter().all(|source| !source.short.is_empty()));
        let rows: Vec<&Row> = languages.values().flatten().flat_map(|source| &source.short).copied().collect();
        (!rows.is_empty()).then_some(Joiner { rows, languages })
    }

    /// A stretch of a long message, with its label.
    pub(super) fn join(&self, rng: &mut impl Rng) -> Option<Row> {
        let first = *self.rows.choose(rng)?;
        let [inside, outside] = self.languages.get(first.lang.as_deref().unwrap_or_default())?;
        let kind = rng.random_range(0..20);
        let around = if kind < 13 { inside } else { outside };
        let (mut parts, mut label) = around.stretch(rng)?;
        let planted = match kind {
            8..13 => Some((*outside.short.choose(rng)?, rng.random_range(0..=parts.len()))),
            17.. => Some((*inside.short.choose(rng)?, parts.len())),
            _ => None,
        };
        if let Some((row, at)) = planted {
            parts.insert(at, &row.text);
            label = &row.label;
        }
        Some(Row { text: parts.join(" "), label: label.to_owned(), ..first.clone() })
    }
}

impl<'a> Source<'a> {
    /// Text of about the length of a window in parts, and its label.
    fn stretch(&self, rng: &mut impl Rng) -> Option<(Vec<&'a str>, &'a str)> {
        if let Some(row) = self.long.choose(rng) {
            let starts: Vec<usize> = row.text.char_indices().map(|(at, _)| at).collect();
            let text = &row.text[*starts[..starts.len() - starts.len() / 8].choose(rng)?..];
            let mut length = 0;
            let end = text.char_indices().find(|&(at, c)| {
                length += length_in_letters(&text[at..at + c.len_utf8()]);
                length > LENGTH
            });
            let text = &text[..end.map_or(text.len(), |(at, _)| at)];
            // Between words, where there are any.
            let middle = cut(text, rng, |_, at| at).unwrap_or_default();
            let middle = text[middle..].find(' ').map_or(middle, |space| middle + space);
            return Some((vec![&text[..middle], text[middle..].trim_start()], &row.label));
        }
        // Of one label, or of several.
        let same = rng.random_bool(0.5);
        let (mut rows, mut length) = (Vec::<&Row>::new(), 0);
        while length < LENGTH {
            let row = *self.short.choose(rng)?;
            if same && rows.first().is_some_and(|first| first.label != row.label) && rng.random_bool(0.9) {
                continue;
            }
            length += length_in_letters(&row.text);
            rows.push(row);
        }
        let label = most_frequent(&rows);
        let mut parts: Vec<&str> = rows.into_iter().map(|row| row.text.as_str()).collect();
        let last = parts.len() - 1;
        parts[0] = cut(parts[0], rng, |text, at| &text[at..])?;
        parts[last] = cut(parts[last], rng, |text, at| &text[..at])?;
        Some((parts, label))
    }
}

/// Cuts a text at a random place; `None` for an empty one.
fn cut<'t, T>(text: &'t str, rng: &mut impl Rng, part: impl Fn(&'t str, usize) -> T) -> Option<T> {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    places.choose(rng).map(|&at| part(text, at))
}

fn most_frequent<'a>(rows: &[&'a Row]) -> &'a str {
    let count = |label: &str| rows.iter().filter(|row| row.label == label).count();
    rows.iter().max_by_key(|row| count(&row.label)).map(|row| row.label.as_str()).unwrap_or_default()
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

    #[test]
    fn long_rows_are_cut() {
        let mut rows = rows();
        let long = |sentence: &str, row: &Row| Row { text: sentence.repeat(1 + LONG / sentence.len()), ..row.clone() };
        rows.push(long("the lamp that I ordered is still not here. ", &rows[0]));
        rows.push(long("once upon a time there was a fox. ", &rows[1]));
        let joiner = Joiner::new(&rows.iter().collect::<Vec<_>>(), "out").unwrap();
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut kinds = BTreeMap::new();
        for _ in 0..300 {
            let Row { text, label, .. } = joiner.join(&mut rng).unwrap();
            assert!(length_in_letters(&text) < 2 * LENGTH, "{text}");
            let has = |words: &str| text.contains(words);
            let found = (has("lamp"), has("fox"), has("poems please"), has("where is my order number"));
            assert_eq!(label == "out", found.2 || (found.1 && !found.3), "{label}: {text}");
            assert!(!found.3 || text.rfind("fox") < text.find("where"), "{text}");
            *kinds.entry(found).or_insert(0) += 1;
        }
        assert_eq!(kinds.len(), 4, "{kinds:?}");
    }
}
