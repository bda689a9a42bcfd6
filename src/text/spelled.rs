//! Words spelled out letter by letter with something between the letters, as "w😀r😀i😀t😀e", to slip past a filter.

use super::is_pictograph;
use std::ops::Range;
use unicode_normalization::char::is_combining_mark;

/// Gaps with pictographs in a word from which on it counts as spelled out.
const PICTOGRAPH_GAPS: usize = 3;
/// Gaps of any kind. One more than `R.S.V.P.` and `ش.ذ.م.م.` have.
const GAPS: usize = 4;

/// Memory that [`join_letters`] works in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    words: Vec<Spelled>,
    /// The gaps of all words, in order.
    gaps: Vec<Range<usize>>,
}

/// Single letters, each parted from the next by a gap.
#[derive(Clone, Copy, Debug, Default)]
struct Spelled {
    gaps: usize,
    pictographs: usize,
}

impl Spelled {
    fn is_certain(&self) -> bool {
        self.pictographs >= PICTOGRAPH_GAPS || self.gaps >= GAPS
    }

    /// Short words prove nothing alone; beside a certain one, only what may be `p.m.` is left.
    fn is_likely(&self) -> bool {
        self.gaps >= 2 || self.pictographs > 0
    }
}

/// Takes the gaps out of words that are spelled out letter by letter, where at least one word of the text certainly is.
///
/// The result never has such a word: letters that were joined are no longer single.
pub(super) fn join_letters(text: &mut Vec<char>, Scratch { words, gaps }: &mut Scratch) {
    words.clear();
    gaps.clear();
    let mut word = Spelled::default();
    let mut letter_before: Option<Range<usize>> = None;
    let mut at = 0;
    while at < text.len() {
        if !text[at].is_alphanumeric() {
            at += 1;
            continue;
        }
        let piece = at..text[at..].iter().position(|&c| !is_in_piece(c)).map_or(text.len(), |length| at + length);
        at = piece.end;
        let letter = is_single_letter(&text[piece.clone()]).then_some(piece);
        let gap = match (&letter_before, &letter) {
            (Some(before), Some(letter)) => gap(text, before, letter),
            _ => None,
        };
        match gap {
            Some((gap, is_pictograph)) => {
                gaps.push(gap);
                word.gaps += 1;
                word.pictographs += usize::from(is_pictograph);
            }
            None if word.gaps > 0 => words.push(std::mem::take(&mut word)),
            None => {}
        }
        letter_before = letter;
    }
    words.push(word);
    if !words.iter().any(Spelled::is_certain) {
        return;
    }
    let mut likely = words.iter().flat_map(|word| std::iter::repeat_n(word.is_likely(), word.gaps));
    gaps.retain(|_| likely.next().unwrap_or(false));
    let mut gaps = gaps.iter().peekable();
    let mut at = 0;
    text.retain(|_| {
        gaps.next_if(|gap| gap.end <= at);
        at += 1;
        !gaps.peek().is_some_and(|gap| gap.contains(&(at - 1)))
    });
}

/// What parts two letters, and whether it is pictographs; `None` if it is more than a gap within a word.
fn gap(text: &[char], before: &Range<usize>, after: &Range<usize>) -> Option<(Range<usize>, bool)> {
    let gap = before.end..after.start;
    match &text[gap.clone()] {
        [c] if is_mark_between_letters(*c) => {
            let takes_marks = |letter: &Range<usize>| is_european(text[letter.start]);
            (takes_marks(before) && takes_marks(after)).then_some((gap, false))
        }
        between => between.iter().all(|&c| c == '\u{200d}' || is_picture(c)).then_some((gap, true)),
    }
}

fn is_mark_between_letters(c: char) -> bool {
    matches!(c, '.' | '-' | '_' | '*' | '·' | '•' | '\u{2010}' | '–')
}

/// Arrows are left out: "A→B→C→D" is a way.
fn is_picture(c: char) -> bool {
    is_pictograph(c)
        && !matches!(c, '\u{2190}'..='\u{21ff}' | '\u{2794}' | '\u{2798}'..='\u{27be}' | '\u{2b00}'..='\u{2b11}')
}

fn is_in_piece(c: char) -> bool {
    c.is_alphanumeric() || is_combining_mark(c) || c == '\u{200d}'
}

/// Whether a piece is one letter with its marks. Conjoining jamo are not: joined, they would make one syllable.
fn is_single_letter(piece: &[char]) -> bool {
    piece.split_first().is_some_and(|(&first, marks)| {
        first.is_alphabetic()
            && !is_combining_mark(first)
            && !matches!(first, '\u{1100}'..='\u{11ff}')
            && marks.iter().all(|&c| is_combining_mark(c) || c == '\u{200d}')
    })
}

/// Latin, Greek or Cyrillic, judged by the lower case that the letter will have.
fn is_european(c: char) -> bool {
    c.to_lowercase().all(|c| matches!(c, 'a'..='\u{52f}' | '\u{1e00}'..='\u{1fff}'))
}

#[cfg(test)]
mod tests {
    use crate::text::normalize;

    #[test]
    fn spelled_out_words_are_joined() {
        for (from, to) in [
            ("w😀r😀i😀t😀e", "write"),
            ("😀w❤\u{fe0f}r❤\u{fe0f}i❤\u{fe0f}t❤\u{fe0f}e😀", "😀write😀"),
            ("w⭐h🔥🔥a👍🏽t i👩\u{200d}🍳s this", "what is this"),
            ("w.r.i.t.e a p.o.e.m at 3 p.m", "write a poem at 3 p.m"),
            ("W-R-I-T-E!", "write!"),
            ("н😀а😀п😀и😀ш😀и", "напиши"),
            ("é_c_r_i_s", "écris"),
            ("क\u{93f}😀स\u{940}😀क\u{93e}😀म", "क\u{93f}स\u{940}क\u{93e}म"),
            // The letters are looked at together only once they are.
            ("i·g·n·о·r·e", "ignore"),
        ] {
            assert_eq!(normalize(from), to, "{from:?}");
        }
    }

    #[test]
    fn honest_text_stays() {
        for text in [
            "i❤you",
            "i❤u",
            "hi😀",
            "love❤you",
            "ok👍thanks",
            "ok👍ok👍ok👍ok",
            "👩\u{200d}👩\u{200d}👧\u{200d}👦",
            "a→b→c→d→e",
            "a➡b➡c➡d➡e",
            "e.g. i.e. u.s.a. p.m. r.s.v.p.",
            "j.r.r. tolkien",
            "a-1-2 a-1-b-2-c-3-d",
            "order a-b-c-d1-e",
            "xs-s-m-l-xl",
            "s/m/l/x/y/z",
            "ش.ذ.م.م.",
            "ا.ب.ت.ث.ج.ح",
            "나 좀 더 볼 게",
            "w r i t e",
            "1⭐2⭐3⭐4⭐5",
            "x....y....z",
        ] {
            let stays = text.replace("....", "...");
            assert_eq!(normalize(text), stays, "{text:?}");
        }
    }
}
