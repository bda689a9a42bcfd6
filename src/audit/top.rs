//! The few items with the lowest rank among any number of them.

use std::{cmp::Ordering, collections::BinaryHeap};

#[derive(Debug)]
pub(super) struct Top<T> {
    heap: BinaryHeap<Ranked<T>>,
    most: usize,
    seen: u64,
}

#[derive(Debug)]
struct Ranked<T> {
    rank: f32,
    /// Of two of the same rank, the one that came first stays.
    order: u64,
    item: T,
}

impl<T> Top<T> {
    pub(super) fn new(most: usize) -> Self {
        Top { heap: BinaryHeap::new(), most, seen: 0 }
    }

    /// `item` is made only where it is kept, for now.
    pub(super) fn add(&mut self, rank: f32, item: impl FnOnce() -> T) {
        self.seen += 1;
        let full = self.heap.len() >= self.most;
        if full && self.heap.peek().is_none_or(|worst| rank.total_cmp(&worst.rank).is_ge()) {
            return;
        }
        if full {
            self.heap.pop();
        }
        self.heap.push(Ranked { rank, order: self.seen, item: item() });
    }

    /// How many were added.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Lowest rank first.
    pub(super) fn into_sorted(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|ranked| ranked.item).collect()
    }
}

impl<T> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.total_cmp(&other.rank).then(self.order.cmp(&other.order))
    }
}

impl<T> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for Ranked<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_start_of_the_sorted_list(ranks in prop::collection::vec(-4i8..4, 0..40), most in 0usize..10) {
            let mut top = Top::new(most);
            for (n, &rank) in ranks.iter().enumerate() {
                top.add(f32::from(rank), || n);
            }
            let mut sorted: Vec<usize> = (0..ranks.len()).collect();
            sorted.sort_by_key(|&n| ranks[n]);
            sorted.truncate(most);
            prop_assert_eq!(top.seen(), ranks.len() as u64);
            prop_assert_eq!(top.into_sorted(), sorted);
        }
    }
}
