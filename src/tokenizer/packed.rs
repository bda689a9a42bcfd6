//! A tokenizer as bytes that need no parsing: numbers as u32, scores as f64, then the trie; all little-endian.

use super::{MAX_VOCABULARY, Tokenizer, trie::Trie};
use crate::label::Flow;

/// A flow without a token.
const NONE: u32 = u32::MAX;

impl Tokenizer {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let flows = self.flows.map(|id| id.unwrap_or(NONE));
        let numbers = [
            self.vocabulary_size as u32,
            self.scores.len() as u32,
            self.trie.nodes() as u32,
            self.unknown,
            self.start,
            self.end,
            self.padding,
        ];
        let mut bytes: Vec<u8> = numbers.into_iter().chain(flows).flat_map(u32::to_le_bytes).collect();
        bytes.extend([self.unknown_score].iter().chain(&self.scores).flat_map(|score| score.to_le_bytes()));
        self.trie.write(&mut bytes);
        bytes
    }

    /// Reads what [`Tokenizer::to_bytes`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let [vocabulary_size, pieces, nodes, unknown, start, end, padding] = numbers(&mut rest)?;
        let flows: [u32; Flow::ALL.len()] = numbers(&mut rest)?;
        if vocabulary_size as usize > MAX_VOCABULARY || pieces > vocabulary_size {
            return Err("it has more pieces than can be");
        }
        let ids = [unknown, start, end, padding].into_iter().chain(flows.into_iter().filter(|&id| id != NONE));
        if unknown >= pieces || ids.into_iter().any(|id| id >= vocabulary_size) {
            return Err("a special token is beyond the vocabulary");
        }
        let scores = take(&mut rest, 8 * (pieces as usize + 1))?.as_chunks().0.iter();
        let mut scores = scores.map(|&bytes| f64::from_le_bytes(bytes));
        let unknown_score = scores.next().unwrap_or_default();
        let scores: Vec<f64> = scores.collect();
        if !unknown_score.is_finite() || !scores.iter().all(|score| score.is_finite()) {
            return Err("a score is not finite");
        }
        Ok(Tokenizer {
            trie: Trie::read(&mut rest, nodes as usize, pieces)?,
            scores,
            unknown,
            unknown_score,
            start,
            end,
            padding,
            flows: flows.map(|id| (id != NONE).then_some(id)),
            vocabulary_size: vocabulary_size as usize,
        })
    }
}

fn numbers<const N: usize>(rest: &mut &[u8]) -> Result<[u32; N], &'static str> {
    let (numbers, _) = take(rest, 4 * N)?.as_chunks();
    Ok(std::array::from_fn(|n| u32::from_le_bytes(numbers[n])))
}

/// The next `count` bytes.
pub(super) fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], &'static str> {
    rest.split_off(..count).ok_or("it is cut short")
}

#[cfg(test)]
mod tests {
    use super::super::{Scratch, tests::tiny};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_back_as_it_was(text in "[ab<s>é ]{0,20}") {
            let back = Tokenizer::from_bytes(&tiny().to_bytes()).unwrap();
            let ids = |tokenizer: &Tokenizer| {
                let mut ids = Vec::new();
                tokenizer.encode(Some(Flow::Order), &text, &mut Scratch::default(), &mut ids);
                ids
            };
            prop_assert_eq!(ids(&back), ids(&tiny()));
        }

        #[test]
        fn changed_bytes_give_an_error_or_ids_of_the_vocabulary(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>(), text in "[ab<s>é ]{0,20}"
        ) {
            let mut bytes = tiny().to_bytes();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            prop_assert!(Tokenizer::from_bytes(&bytes[..cut.index(bytes.len())]).is_err());
            if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) {
                let mut ids = Vec::new();
                tokenizer.encode(Some(Flow::Order), &text, &mut Scratch::default(), &mut ids);
                prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
            }
        }
    }
}
