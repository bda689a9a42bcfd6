//! A byte trie in flat arrays, built once, for all vocabulary pieces that begin a text.

use super::packed::take;

/// No piece ends at this node.
const NONE: u32 = u32::MAX;

/// Nodes in breadth-first order; the children of a node are neighbours, sorted by their byte.
#[derive(Debug)]
pub(super) struct Trie {
    /// Children of the root by byte: most searches end here.
    root: [u32; 256],
    byte: Vec<u8>,
    piece: Vec<u32>,
    /// Children of node `n` are the nodes `first[n]..first[n + 1]`.
    first: Vec<u32>,
}

impl Trie {
    /// Builds the trie of `(piece, id)`; of equal pieces the last wins, as in a map. Pieces are not empty.
    pub(super) fn build(mut pieces: Vec<(&[u8], u32)>) -> Self {
        // By the first 16 bytes as a number, which compares faster than memory, and hardly ever leaves a tie.
        pieces.sort_by_cached_key(|&(piece, _)| {
            let mut head = [0; 16];
            let length = piece.len().min(16);
            head[..length].copy_from_slice(&piece[..length]);
            (u128::from_be_bytes(head), piece)
        });
        let (mut byte, mut piece, mut first) = (vec![0], vec![NONE], Vec::new());
        // Each node stands for the range of pieces that share its prefix.
        let mut queue = std::collections::VecDeque::from([(0, pieces.len(), 0)]);
        while let Some((mut low, high, depth)) = queue.pop_front() {
            first.push(byte.len() as u32);
            while low < high && pieces[low].0.len() == depth {
                low += 1;
            }
            while low < high {
                let head = pieces[low].0[depth];
                let end =
                    pieces[low..high].iter().position(|(piece, _)| piece[depth] != head).map_or(high, |n| low + n);
                byte.push(head);
                // Pieces that end here come before longer ones.
                let here = pieces[low..end].iter().take_while(|(piece, _)| piece.len() == depth + 1).last();
                piece.push(here.map_or(NONE, |&(_, id)| id));
                queue.push_back((low, end, depth + 1));
                low = end;
            }
        }
        first.push(byte.len() as u32);
        Self::new(byte, piece, first)
    }

    fn new(byte: Vec<u8>, piece: Vec<u32>, first: Vec<u32>) -> Self {
        let mut root = [NONE; 256];
        for child in first[0]..first[1] {
            root[byte[child as usize] as usize] = child;
        }
        Trie { root, byte, piece, first }
    }

    pub(super) fn nodes(&self) -> usize {
        self.byte.len()
    }

    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        bytes.extend(self.first.iter().chain(&self.piece).flat_map(|number| number.to_le_bytes()));
        bytes.extend(&self.byte);
    }

    /// Reads what [`Trie::write`] wrote, the end of `rest`; `pieces` is one more than the largest id.
    pub(super) fn read(rest: &mut &[u8], nodes: usize, pieces: u32) -> Result<Self, &'static str> {
        let mut numbers = |count: usize| -> Result<Vec<u32>, &'static str> {
            let bytes = take(rest, count.saturating_mul(4))?;
            Ok(bytes.as_chunks().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect())
        };
        let (first, piece) = (numbers(nodes.saturating_add(1))?, numbers(nodes)?);
        let byte = take(rest, nodes)?.to_vec();
        if !rest.is_empty() {
            return Err("there are bytes behind the trie");
        }
        // Children lie behind their parent, which ends every search, and before the end.
        let in_order = first.is_sorted() && first.last().is_some_and(|&end| end as usize <= nodes);
        if nodes == 0 || !in_order || first[..nodes].iter().zip(0..).any(|(&first, node)| first <= node) {
            return Err("the nodes of the trie are out of order");
        }
        if piece.iter().any(|&id| id != NONE && id >= pieces) {
            return Err("the trie has a piece beyond the vocabulary");
        }
        Ok(Self::new(byte, piece, first))
    }

    /// Calls `found(length, id)` for every piece that begins `text`, shortest first.
    #[inline]
    pub(super) fn prefixes(&self, text: &[u8], mut found: impl FnMut(usize, u32)) {
        let Some((&head, tail)) = text.split_first() else { return };
        let mut node = self.root[head as usize];
        let mut length = 1;
        let mut tail = tail.iter();
        while node != NONE {
            let id = self.piece[node as usize];
            if id != NONE {
                found(length, id);
            }
            let Some(&next) = tail.next() else { return };
            let from = self.first[node as usize] as usize;
            let children = &self.byte[from..self.first[node as usize + 1] as usize];
            node = children.binary_search(&next).map_or(NONE, |at| (from + at) as u32);
            length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_linear_search_finds(pieces in prop::collection::vec("[a-cé]{1,4}", 0..40), text in "[a-cé]{0,8}") {
            let trie = Trie::build((0..).zip(&pieces).map(|(id, piece)| (piece.as_bytes(), id)).collect());
            let mut found = Vec::new();
            trie.prefixes(text.as_bytes(), |length, id| found.push((length, id)));
            let expected: Vec<(usize, u32)> = (1..=text.len())
                .filter_map(|n| {
                    let id = pieces.iter().rposition(|piece| piece.as_bytes() == &text.as_bytes()[..n])?;
                    Some((n, id as u32))
                })
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
