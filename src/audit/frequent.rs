//! The most frequent of any number of keys, in bounded memory.

use std::{collections::HashMap, hash::Hash};

/// Counts keys; when there are too many of them, takes the same number off each and forgets those that are left with
/// nothing (Misra and Gries, 1982). What is taken off in all is how far a count may be too low.
#[derive(Debug)]
pub(super) struct Frequent<K> {
    counts: HashMap<K, u64>,
    most: usize,
    taken: u64,
}

impl<K: Hash + Eq + Ord + Copy> Frequent<K> {
    /// Keeps at most twice `most` keys, which is at least 1.
    pub(super) fn new(most: usize) -> Self {
        Frequent { counts: HashMap::new(), most: most.max(1), taken: 0 }
    }

    pub(super) fn add(&mut self, key: K) {
        *self.counts.entry(key).or_default() += 1;
        if self.counts.len() > 2 * self.most {
            let mut counts: Vec<u64> = self.counts.values().copied().collect();
            let (_, &mut last, _) = counts.select_nth_unstable_by(self.most, |a, b| b.cmp(a));
            self.taken += last;
            self.counts.retain(|_, count| {
                *count = count.saturating_sub(last);
                *count > 0
            });
        }
    }

    /// Keys with the least and the most that their count can be, the most frequent first.
    pub(super) fn top(&self, list: usize) -> Vec<(K, u64, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|(&key, &count)| (key, count, count + self.taken)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        all.truncate(list);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn counts_are_within_their_bounds(keys in prop::collection::vec(0u8..60, 0..600), most in 1usize..20) {
            let mut frequent = Frequent::new(most);
            let mut exact = HashMap::<u8, u64>::new();
            for key in keys {
                frequent.add(key);
                *exact.entry(key).or_default() += 1;
                prop_assert!(frequent.counts.len() <= 2 * most);
            }
            for (key, least, at_most) in frequent.top(100) {
                prop_assert!((least..=at_most).contains(&exact[&key]));
            }
            // Whoever is more frequent than the error cannot be missing.
            for (key, count) in exact {
                prop_assert!(count <= frequent.taken || frequent.counts.contains_key(&key));
            }
        }
    }
}
