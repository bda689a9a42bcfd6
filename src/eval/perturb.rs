//! How well a guard reads text that was roughened, by slips and habits or to slip past a filter.

use super::{EvalError, Evaluation, evaluate, random::SplitMix64};
use crate::{
    data::{FNV_OFFSET, Row, fnv1a},
    guard::Guard,
    text::LOOK_ALIKES,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, ops::Range};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// A kind of change to a message that leaves what it says, and so its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Perturbation {
    /// One or two slips: two letters swapped, one lost or one doubled, inside words of alphabetic scripts.
    Typos,
    /// All in capitals, every word with a capital, or capitals at random.
    Case,
    /// Latin, Greek and Cyrillic letters without their accents; `й` stays, and so do the marks of other scripts.
    Accents,
    /// Characters without width between a third of the letters.
    ZeroWidth,
    /// A letter in up to three Latin words replaced by one of another script that looks the same.
    Homoglyphs,
    /// ASCII letters in one of the full-width and mathematical alphabets of Unicode.
    LetterForms,
    /// An emoji between any two letters of a word.
    Emoji,
    /// No punctuation, except between digits.
    Punctuation,
}

impl Perturbation {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Typos,
        Self::Case,
        Self::Accents,
        Self::ZeroWidth,
        Self::Homoglyphs,
        Self::LetterForms,
        Self::Emoji,
        Self::Punctuation,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Typos => "typos",
            Self::Case => "case",
            Self::Accents => "accents",
            Self::ZeroWidth => "zero_width",
            Self::Homoglyphs => "homoglyphs",
            Self::LetterForms => "letter_forms",
            Self::Emoji => "emoji",
            Self::Punctuation => "punctuation",
        }
    }

    /// Changes `text`; the same text and seed always give the same result. Text that has no place for a change stays.
    pub fn apply(self, text: &str, seed: u64) -> String {
        // By text, so that a row is changed alike whatever stands beside it.
        let mut random = SplitMix64(fnv1a(FNV_OFFSET ^ seed, text.as_bytes()));
        match self {
            Self::Typos => typos(text, &mut random),
            Self::Case => case(text, &mut random),
            Self::Accents => drop_accents(text),
            Self::ZeroWidth => zero_width(text, &mut random),
            Self::Homoglyphs => homoglyphs(text, &mut random),
            Self::LetterForms => letter_forms(text, &mut random),
            Self::Emoji => emoji(text, &mut random),
            Self::Punctuation => drop_punctuation(text),
        }
    }
}

impl fmt::Display for Perturbation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What became of the measures on rows changed by one [`Perturbation`]. Differences are to the rows as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perturbed {
    /// Rows with another text; the rest is measured as it is.
    pub changed_rows: usize,
    /// Share of all rows with the right final label.
    pub accuracy: f64,
    /// Its difference, negative where the guard does worse.
    pub accuracy_difference: f64,
    /// Share of in-scope rows that are refused, if there are in-scope rows.
    pub false_refusal_rate: Option<f64>,
    /// Its difference, positive where the guard does worse.
    pub false_refusal_difference: Option<f64>,
    /// Share of out-of-scope rows that are refused, if there are such rows.
    pub oos_recall: Option<f64>,
    /// Its difference, negative where the guard does worse.
    pub oos_recall_difference: Option<f64>,
}

/// Measures `guard` on `rows` once more for each [`Perturbation`], by name. `clean` is the evaluation of the rows as they
/// are; `progress` is called after each row with the number done, of `rows.len()` for each kind.
///
/// # Errors
/// As [`evaluate`].
pub fn evaluate_perturbed(
    guard: &Guard,
    rows: &[Row],
    clean: &Evaluation,
    seed: u64,
    mut progress: impl FnMut(usize),
) -> Result<BTreeMap<String, Perturbed>, EvalError> {
    let difference = |now: Option<f64>, before: Option<f64>| Some(now? - before?);
    let before = &clean.overall;
    let mut results = BTreeMap::new();
    for (kind, perturbation) in Perturbation::ALL.into_iter().enumerate() {
        let perturbed: Vec<Row> =
            rows.iter().map(|row| Row { text: perturbation.apply(&row.text, seed), ..row.clone() }).collect();
        let now = evaluate(guard, &perturbed, |done| progress(kind * rows.len() + done))?.overall;
        let result = Perturbed {
            changed_rows: rows.iter().zip(&perturbed).filter(|(row, changed)| row.text != changed.text).count(),
            accuracy: now.accuracy,
            accuracy_difference: now.accuracy - before.accuracy,
            false_refusal_rate: now.false_refusal_rate,
            false_refusal_difference: difference(now.false_refusal_rate, before.false_refusal_rate),
            oos_recall: now.oos_recall,
            oos_recall_difference: difference(now.oos_recall, before.oos_recall),
        };
        results.insert(perturbation.name().to_owned(), result);
    }
    Ok(results)
}

/// A letter that is not a mark and, as in the scripts below U+1000, not a whole syllable or word.
fn is_plain_letter(c: char) -> bool {
    c < '\u{1000}' && is_base_letter(c)
}

fn is_base_letter(c: char) -> bool {
    c.is_alphabetic() && !is_combining_mark(c)
}

fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}') && c.is_alphabetic()
}

fn typos(text: &str, random: &mut SplitMix64) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..1 + random.below(2) {
        let places: Vec<usize> =
            (1..chars.len()).filter(|&i| is_plain_letter(chars[i - 1]) && is_plain_letter(chars[i])).collect();
        let Some(at) = random.choose(&places) else { break };
        match random.below(3) {
            0 => chars.swap(at - 1, at),
            1 => drop(chars.remove(at)),
            _ => chars.insert(at, chars[at]),
        }
    }
    chars.into_iter().collect()
}

fn case(text: &str, random: &mut SplitMix64) -> String {
    let kind = random.below(3);
    let mut before = ' ';
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let upper = match kind {
            0 => true,
            1 => !before.is_alphanumeric() && !is_combining_mark(before),
            _ => random.below(2) == 0,
        };
        match upper {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        before = c;
    }
    out
}

fn drop_accents(text: &str) -> String {
    let mut base = ' ';
    text.nfd()
        .filter(|&c| {
            if !is_combining_mark(c) {
                base = c;
                return true;
            }
            let is_short_i = c == '\u{306}' && matches!(base, 'и' | 'И');
            is_short_i || !(base < '\u{530}' && base.is_alphabetic())
        })
        // These have no mark to drop, but a plain letter all the same on a keyboard without them.
        .map(|c| match c {
            'đ' => 'd',
            'Đ' => 'D',
            'ł' => 'l',
            'Ł' => 'L',
            'ı' => 'i',
            c => c,
        })
        .nfc()
        .collect()
}

/// Every place between two letters gets what `fill` says, if anything.
fn between_letters(text: &str, mut fill: impl FnMut() -> Option<&'static str>) -> String {
    let mut letter_before = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if letter_before && is_base_letter(c) {
            out.extend(fill());
        }
        letter_before = c.is_alphabetic() || letter_before && is_combining_mark(c);
        out.push(c);
    }
    out
}

fn zero_width(text: &str, random: &mut SplitMix64) -> String {
    let invisible = ["\u{200b}", "\u{2060}", "\u{feff}", "\u{ad}"];
    between_letters(text, || (random.below(3) == 0).then(|| random.choose(&invisible))?)
}

fn emoji(text: &str, random: &mut SplitMix64) -> String {
    let emoji = random.choose(&["😀", "❤\u{fe0f}", "⭐", "🔥", "👍🏽"]);
    between_letters(text, || emoji)
}

fn homoglyphs(text: &str, random: &mut SplitMix64) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut end = 0;
    for word in chars.chunk_by(|a, b| a.is_alphabetic() == b.is_alphabetic()) {
        end += word.len();
        if word.len() > 1 && word.iter().all(|&c| is_latin(c)) {
            words.push(end - word.len()..end);
        }
    }
    for _ in 0..3 {
        if words.is_empty() {
            break;
        }
        let word = words.swap_remove(random.below(words.len()));
        let twins: Vec<(usize, char)> = word
            .flat_map(|at| {
                let twins = LOOK_ALIKES.iter().find(|(letter, _)| *letter == chars[at]).map_or(&[][..], |(_, t)| t);
                twins.iter().map(move |&twin| (at, twin))
            })
            .collect();
        if let Some((at, twin)) = random.choose(&twins) {
            chars[at] = twin;
        }
    }
    chars.into_iter().collect()
}

fn letter_forms(text: &str, random: &mut SplitMix64) -> String {
    // Where the alphabet has its A and its a: full width; bold, bold script, bold fraktur, sans-serif bold, monospace.
    let forms = [
        (0xff21, 0xff41),
        (0x1d400, 0x1d41a),
        (0x1d4d0, 0x1d4ea),
        (0x1d56c, 0x1d586),
        (0x1d5d4, 0x1d5ee),
        (0x1d670, 0x1d68a),
    ];
    let (upper, lower) = random.choose(&forms).unwrap_or(forms[0]);
    text.chars()
        .map(|c| {
            let code = match c {
                'A'..='Z' => upper + (c as u32 - 'A' as u32),
                'a'..='z' => lower + (c as u32 - 'a' as u32),
                _ => return c,
            };
            char::from_u32(code).unwrap_or(c)
        })
        .collect()
}

fn drop_punctuation(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let is_digit = |at: Option<usize>| at.and_then(|at| chars.get(at)).is_some_and(|c| c.is_numeric());
    let kept: String = (0..chars.len())
        .filter(|&i| !is_punctuation(chars[i]) || is_digit(i.checked_sub(1)) && is_digit(Some(i + 1)))
        .map(|i| chars[i])
        .collect();
    if kept.chars().any(char::is_alphanumeric) { kept } else { text.into() }
}

fn is_punctuation(c: char) -> bool {
    ".,!?;:'\"()-…–—¿¡‘’“”„«»。，！？；：、「」（）～؟،؛।".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::normalize;
    use proptest::prelude::*;

    #[test]
    fn changes_are_what_they_are_called() {
        use Perturbation::*;
        let apply = |kind: Perturbation, text: &str| kind.apply(text, 1);
        assert_eq!(apply(Accents, "où est-il? ещё мой đơn hàng Ώρα"), "ou est-il? еще мой don hang Ωρα");
        assert_eq!(apply(Accents, "नमस्ते น้ำ"), "नमस्ते น้ำ");
        assert_eq!(apply(Punctuation, "¿Dónde está? It's 3:30, no. 7-A"), "Dónde está Its 3:30 no 7A");
        assert_eq!(apply(Punctuation, "???"), "???");
        assert_eq!(apply(Homoglyphs, "где мой заказ 5"), "где мой заказ 5");
        assert_ne!(apply(Homoglyphs, "where is it"), "where is it");
        assert_eq!(apply(Typos, "A10293 你好"), "A10293 你好");
        assert_ne!(apply(Typos, "where is it"), "where is it");
        let spelled = apply(Emoji, "write 5");
        assert_eq!(spelled.chars().filter(char::is_ascii).collect::<String>(), "write 5");
        assert!(spelled.chars().count() >= 11 && spelled.ends_with("e 5"), "{spelled}");
    }

    proptest! {
        /// What normalisation takes away of a disguise, it takes away wholly.
        #[test]
        fn latin_text_comes_back_from_its_disguises(text in "([A-Za-zÀ-ÖØ-öø-ÿ]{0,12}[ .,!?'0-9-]{0,3}){0,8}", seed in any::<u64>()) {
            for kind in [Perturbation::ZeroWidth, Perturbation::Homoglyphs, Perturbation::LetterForms] {
                let changed = kind.apply(&text, seed);
                prop_assert_eq!(normalize(&changed), normalize(&text), "{} {:?}", kind, changed);
            }
        }

        #[test]
        fn any_text_is_changed_alike_and_never_lost(text in any::<String>(), seed in any::<u64>()) {
            for kind in Perturbation::ALL {
                let changed = kind.apply(&text, seed);
                prop_assert_eq!(&changed, &kind.apply(&text, seed));
                prop_assert_eq!(normalize(&changed).is_empty(), normalize(&text).is_empty());
            }
        }
    }
}
