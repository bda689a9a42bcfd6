//! Long messages: overlapping windows of tokens, and one row of logits from those of all windows.
//!
//! In one pass over a long text a single sentence is lost, and a text cut to its ends hides what stands in its middle.
//! So every token of a long message is read, in windows about as long as the longer messages of the training data, and
//! [`combine`] asks of them what most of the message is about, and whether some window surely says otherwise:
//!
//! - **Most windows are in scope.** One window that is surely out of scope answers: a general request inside business
//!   text is still a general request. Otherwise the in-scope windows answer together.
//! - **Most windows are out of scope.** A customer may tell a story and then ask. The very end answers if it is in scope,
//!   elsewhere a window must be all but certain: a long story has many windows, and one of them always looks a little
//!   like business. Otherwise the out-of-scope windows answer together.
//!
//! Windows that answer together are averaged as probabilities (the linear opinion pool; Stone, 1961,
//! <https://doi.org/10.1214/aoms/1177704873>) and as energies. The mean of their logits would not do: windows with
//! different labels cancel out, and the message looks far from everything known although none of its windows does.
//!
//! The constants were chosen on `datasets/long/valid.jsonl` with rows of `datasets/valid` hidden in it (see `intentgate eval
//! --long`): for the highest mean of the four shares that are right.

use super::Backend;
use std::{iter, ops::Range};

/// Tokens of a window, special tokens included, where the model reads that many in one pass. In a longer one a short
/// request drowns in its surroundings, with shorter ones there are more windows to be wrong about.
const WINDOW: usize = 48;
/// Tokens that a window shares with the one before it, so that a short request is whole in one of them.
const OVERLAP: usize = 16;
/// Tokens of an additional window at the very end, special tokens included: a request after a story is short.
const END: usize = 24;
/// Most windows, besides the one at the end. They hold 4,096 characters of any script, at a token per character and with
/// a flow; of a text with more tokens the middle is not read. Even.
const MAX_WINDOWS: usize = 144;
/// Windows in one pass.
const PACK: usize = 2;
/// Probability of being out of scope with which one window speaks against a message that is mostly in scope.
const SURELY_OUT: f32 = 0.85;
/// Probability of being in scope with which one window speaks for a message that is mostly out of scope.
const SURELY_IN: f32 = 0.995;
/// The same for the window at the end.
const END_IN: f32 = 0.9;

/// Memory that [`logits`] works in.
#[derive(Default)]
pub(super) struct Scratch {
    ids: Vec<u32>,
    lengths: Vec<usize>,
    of_pack: Vec<f32>,
    rows: Vec<f32>,
    languages: Vec<f32>,
}

/// What [`logits`] has to know of a model.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// How many labels; the logits of languages follow theirs.
    pub(super) labels: usize,
    /// Most tokens in one pass, 8 or more.
    pub(super) max_tokens: usize,
    /// The out-of-scope class, if there is one.
    pub(super) oos: Option<usize>,
    /// Logits are divided by this before the softmax.
    pub(super) temperature: f32,
}

/// One row of logits for `ids`, which are `head` special tokens, the text, and one special token.
pub(super) fn logits(
    backend: &dyn Backend,
    limits: Limits,
    ids: &[u32],
    head: usize,
    scratch: &mut Scratch,
    logits: &mut [f32],
) {
    if ids.len() <= limits.max_tokens {
        return backend.logits(ids, logits);
    }
    let Scratch { ids: window, lengths, of_pack, rows, languages } = scratch;
    let (head, text) = ids.split_at(head);
    let (text, tail) = text.split_at(text.len() - 1);
    rows.clear();
    languages.clear();
    languages.resize(logits.len() - limits.labels, 0.0);
    let outputs = logits.len();
    let mut ranges = ranges(text.len(), limits.max_tokens, head.len() + tail.len()).peekable();
    while ranges.peek().is_some() {
        window.clear();
        lengths.clear();
        for range in ranges.by_ref().take(PACK) {
            lengths.push(head.len() + range.len() + tail.len());
            window.extend(head.iter().chain(&text[range]).chain(tail));
        }
        of_pack.clear();
        of_pack.resize(lengths.len() * outputs, 0.0);
        backend.logits_batch(window, lengths, of_pack);
        for row in of_pack.chunks_exact(outputs) {
            let (labels, of_window) = row.split_at(limits.labels);
            rows.extend_from_slice(labels);
            languages.iter_mut().zip(of_window).for_each(|(sum, logit)| *sum += logit);
        }
    }
    // The language is that of the whole: the mean over the windows.
    let windows = (rows.len() / limits.labels) as f32;
    let (labels, of_languages) = logits.split_at_mut(limits.labels);
    combine(rows, limits, labels);
    of_languages.iter_mut().zip(languages).for_each(|(logit, sum)| *logit = *sum / windows);
}

/// The windows of a text of `tokens` tokens, in order, and then the one at the end. `special` tokens are added to each.
fn ranges(tokens: usize, max_tokens: usize, special: usize) -> impl Iterator<Item = Range<usize>> {
    let room = WINDOW.min(max_tokens) - special;
    let step = room - OVERLAP.min(room / 2);
    let all = tokens.saturating_sub(room).div_ceil(step) + 1;
    let left_out = all.saturating_sub(MAX_WINDOWS);
    (0..all - left_out)
        .map(move |n| if n < MAX_WINDOWS / 2 { n } else { n + left_out })
        .map(move |n| (n * step).min(tokens.saturating_sub(room)))
        .map(move |start| start..(start + room).min(tokens))
        .chain(iter::once(tokens.saturating_sub(END.min(max_tokens) - special)..tokens))
}

/// One row of logits from the `rows` of all windows, the one at the end last; see the [module documentation](self).
///
/// Logits that are not finite in any window are not finite in the result, which is then refused.
fn combine(rows: &[f32], limits: Limits, logits: &mut [f32]) {
    if rows.iter().any(|logit| !logit.is_finite()) {
        return logits.fill(f32::NAN);
    }
    let (temperature, classes) = (limits.temperature, logits.len());
    let windows = || rows.chunks_exact(classes);
    let Some(oos) = limits.oos else {
        return pool(windows(), temperature, logits);
    };
    let out = |row: &&[f32]| (row[oos] / temperature - log_sum_exp(row, temperature)).exp();
    let mostly_out = 2 * windows().filter(|row| out(row) > 0.5).count() > windows().len();
    let answer = if mostly_out {
        let end = windows().next_back().filter(|row| 1.0 - out(row) >= END_IN);
        let best = || windows().min_by(|a, b| out(a).total_cmp(&out(b))).filter(|row| 1.0 - out(row) >= SURELY_IN);
        end.or_else(best)
    } else {
        windows().max_by(|a, b| out(a).total_cmp(&out(b))).filter(|row| out(row) >= SURELY_OUT)
    };
    match answer {
        Some(row) => logits.copy_from_slice(row),
        None => pool(windows().filter(|row| (out(row) > 0.5) == mostly_out), temperature, logits),
    }
}

/// Writes logits whose probabilities and energy, at this temperature, are the means of those of `rows`.
fn pool<'a>(rows: impl Iterator<Item = &'a [f32]>, temperature: f32, logits: &mut [f32]) {
    let (mut count, mut total) = (0.0, 0.0);
    logits.fill(0.0);
    for row in rows {
        let sum = log_sum_exp(row, temperature);
        for (probability, logit) in logits.iter_mut().zip(row) {
            *probability += (logit / temperature - sum).exp();
        }
        total += sum;
        count += 1.0;
    }
    for logit in logits {
        // A probability that has underflowed has no finite logit.
        *logit = temperature * ((*logit / count).max(f32::MIN_POSITIVE).ln() + total / count);
    }
}

/// `ln Σ exp(logit / temperature)`, the negative energy.
fn log_sum_exp(row: &[f32], temperature: f32) -> f32 {
    let highest = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    highest / temperature + row.iter().map(|logit| ((logit - highest) / temperature).exp()).sum::<f32>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { labels: 3, max_tokens: 96, oos: Some(2), temperature: 1.3 };
    const ORDER: [f32; 3] = [9.0, 0.0, 0.0];
    const FAQ: [f32; 3] = [0.0, 9.0, 0.0];
    const OUT: [f32; 3] = [0.0, 0.0, 5.0];
    const LIKELY_OUT: [f32; 3] = [1.0, 0.0, 2.0];
    const LIKELY_ORDER: [f32; 3] = [4.5, 0.0, 1.0];

    fn combined(rows: &[[f32; 3]], limits: Limits) -> [f32; 3] {
        let mut logits = [0.0; 3];
        combine(rows.as_flattened(), limits, &mut logits);
        logits
    }

    /// `row` 40 times, with `other` in place `at`.
    fn among(row: [f32; 3], other: [f32; 3], at: usize) -> Vec<[f32; 3]> {
        let mut rows = vec![row; 40];
        rows[at] = other;
        rows
    }

    fn close(a: [f32; 3], b: [f32; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
    }

    #[test]
    fn a_hidden_request_answers_if_it_is_sure() {
        for at in [0, 20, 39] {
            assert_eq!(combined(&among(ORDER, OUT, at), LIMITS), OUT);
            assert!(close(combined(&among(ORDER, LIKELY_OUT, at), LIMITS), ORDER), "a doubtful window is left out");
        }
    }

    #[test]
    fn business_after_a_story_answers_and_elsewhere_if_it_is_certain() {
        for at in [0, 20, 39] {
            assert_eq!(combined(&among(OUT, ORDER, at), LIMITS), ORDER);
        }
        assert_eq!(combined(&among(OUT, LIKELY_ORDER, 39), LIMITS), LIKELY_ORDER);
        assert!(close(combined(&among(OUT, LIKELY_ORDER, 20), LIMITS), OUT));
        let mut rows = among(OUT, LIKELY_ORDER, 39);
        rows[3] = FAQ;
        assert_eq!(combined(&rows, LIMITS), LIKELY_ORDER, "the end before the rest");
    }

    #[test]
    fn windows_of_different_labels_are_not_far_from_everything() {
        let mixed = combined(&[ORDER, FAQ, ORDER, FAQ, ORDER], LIMITS);
        assert!((log_sum_exp(&mixed, 1.3) - log_sum_exp(&ORDER, 1.3)).abs() < 1e-3);
        assert!(mixed[0] > mixed[1] && mixed[1] > mixed[2]);
        let without_a_class = Limits { oos: None, ..LIMITS };
        assert!(close(combined(&[OUT; 9], without_a_class), OUT));
    }

    proptest! {
        #[test]
        fn every_token_is_in_a_window_in_order(tokens in 6usize..6000, max_tokens in 8usize..200, special in 2usize..4) {
            prop_assume!(tokens + special > max_tokens);
            let ranges: Vec<_> = ranges(tokens, max_tokens, special).collect();
            let (end, windows) = ranges.split_last().unwrap();
            prop_assert!(windows.len() <= MAX_WINDOWS);
            prop_assert!(ranges.iter().all(|range| !range.is_empty() && range.len() + special <= max_tokens.min(WINDOW)));
            prop_assert_eq!((windows[0].start, windows[windows.len() - 1].end, end.end), (0, tokens, tokens));
            let gaps = windows.windows(2).filter(|pair| pair[1].start > pair[0].end).count();
            prop_assert!(windows.windows(2).all(|pair| pair[0].start < pair[1].start));
            prop_assert!(gaps == 0 || (gaps == 1 && windows.len() == MAX_WINDOWS));
            // The longest message of a channel, at a token per character.
            prop_assert!(gaps == 0 || max_tokens < WINDOW || tokens > 4097);
        }

        #[test]
        fn any_rows_give_finite_logits_and_a_broken_window_none(
            mut rows in prop::collection::vec(prop::array::uniform3(-200.0f32..200.0), 1..50),
            broken in any::<prop::sample::Index>(), oos in prop::option::of(0usize..3)
        ) {
            let limits = Limits { oos, ..LIMITS };
            prop_assert!(combined(&rows, limits).iter().all(|logit| logit.is_finite()));
            let at = broken.index(rows.len());
            rows[at][1] = f32::NAN;
            prop_assert!(combined(&rows, limits).iter().all(|logit| logit.is_nan()));
        }
    }
}
