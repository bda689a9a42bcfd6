//! Pairs of texts that are nearly the same, by the Jaccard similarity of their character n-grams.
//!
//! Candidates come from prefix filtering (Chaudhuri, Ganti and Kaushik, 2006): two sets that are similar enough must share
//! one of their rarest members, so only those are indexed.

use std::collections::{HashMap, HashSet};

/// Length of the n-grams. Long enough that short function words do not count, short enough for Chinese.
const GRAM: usize = 3;

/// The distinct n-grams of a text, with a mark at both ends, as hashes.
fn grams(text: &str) -> HashSet<u64> {
    let chars: Vec<char> = std::iter::once('\u{2}').chain(text.chars()).chain(std::iter::once('\u{3}')).collect();
    let hash = |gram: &[char]| gram.iter().fold(0, |hash: u64, &c| (hash << 21) | u64::from(c));
    if chars.len() < GRAM { HashSet::from([hash(&chars)]) } else { chars.windows(GRAM).map(hash).collect() }
}

/// Every pair `(i, j, similarity)` with `i < j`, a similarity of at least `threshold`, and `wanted(i, j)`.
pub(super) fn similar_pairs(
    texts: &[String],
    threshold: f64,
    wanted: impl Fn(usize, usize) -> bool,
) -> Vec<(usize, usize, f64)> {
    let sets: Vec<HashSet<u64>> = texts.iter().map(|text| grams(text)).collect();
    let mut frequency: HashMap<u64, usize> = HashMap::new();
    for gram in sets.iter().flatten() {
        *frequency.entry(*gram).or_default() += 1;
    }
    let mut index: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut pairs = Vec::new();
    for (j, set) in sets.iter().enumerate() {
        let mut rarest: Vec<u64> = set.iter().copied().collect();
        rarest.sort_unstable_by_key(|gram| (frequency[gram], *gram));
        rarest.truncate(set.len() - (threshold * set.len() as f64).ceil() as usize + 1);
        let mut candidates: Vec<usize> =
            rarest.iter().filter_map(|gram| index.get(gram)).flatten().copied().filter(|&i| wanted(i, j)).collect();
        candidates.sort_unstable();
        candidates.dedup();
        for i in candidates {
            let common = set.intersection(&sets[i]).count() as f64;
            let similarity = common / (set.len() as f64 + sets[i].len() as f64 - common);
            if similarity >= threshold {
                pairs.push((i, j, similarity));
            }
        }
        for gram in rarest {
            index.entry(gram).or_default().push(j);
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_every_pair_that_a_full_comparison_finds(texts in prop::collection::vec("[ab]{0,9}", 0..24)) {
            let found: Vec<(usize, usize)> = similar_pairs(&texts, 0.6, |_, _| true).into_iter().map(|(i, j, _)| (i, j)).collect();
            let mut expected = Vec::new();
            for j in 0..texts.len() {
                for i in 0..j {
                    let (a, b) = (grams(&texts[i]), grams(&texts[j]));
                    if a.intersection(&b).count() as f64 >= 0.6 * a.union(&b).count() as f64 {
                        expected.push((i, j));
                    }
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
