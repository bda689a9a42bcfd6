//! Message normalisation: what the tokenizer sees instead of what was typed.
//!
//! [`normalize`] is a fixed pipeline, the same in training and at run time:
//!
//! 1. **Hygiene.** Zero-width, bidirectional-control, tag, variation-selector and other invisible characters go, as do
//!    control characters that are not white space. `ZWJ` stays inside emoji sequences and after an Indic virama, `ZWNJ`
//!    stays between letters of Arabic script (Persian, Urdu) and of Indic scripts, where they change the word.
//! 2. **NFKC** (Unicode Standard Annex #15): full-width, mathematical, circled and presentation forms become plain letters.
//!    So do the small capitals and the white-on-black letters, which NFKC leaves alone.
//! 3. **Spelled-out words.** A message in which single letters alternate with pictographs at least three times
//!    (`w😀r😀i😀t😀e`), or with any of these and `. - _ * · •` at least four times (`w-r-i-t-e`, for letters of Latin, Greek
//!    and Cyrillic script), has such words written without what stands between their letters: the shorter ones too, down
//!    to two gaps, or to one pictograph. Longer pieces (`ok👍thanks`), arrows, digits (`A-1-2`), sizes (`S-M-L-XL`),
//!    abbreviations and initials of up to four letters (`U.S.A.`) stay as they are, and so does `w r i t e`: Korean has
//!    words of one letter.
//! 4. **Homoglyphs.** A word that mixes Latin with Cyrillic, Greek or Armenian look-alikes is written in one script
//!    (after the idea of Unicode Technical Standard #39, with a table of our own).
//! 5. **Case.** Every character is lower-cased by its own mapping; a dot left over a Turkish `İ` goes; NFKC again.
//! 6. **Runs.** White space of any kind becomes one space and is trimmed; a character typed more than three times in a
//!    row is kept three times (digits excepted), and at most four combining marks stay on a letter.
//!
//! The result is a fixed point: normalising it again changes nothing, and neither does the normaliser inside
//! our `tokenizer.json` (NFKC, lower case, white space), so that Python users of the same file see the same pieces.

mod homoglyph;
mod plain;
#[cfg(feature = "train")]
mod romanize;
mod spelled;

#[cfg(feature = "data")]
pub(crate) use homoglyph::LOOK_ALIKES;
#[cfg(feature = "train")]
pub(crate) use romanize::romanize;

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// Longest run of one character (digits excepted) that survives normalisation.
const MAX_RUN: usize = 3;
/// Most combining marks in a row that survive; Thai, Hindi and Vietnamese need up to three.
const MAX_MARKS: usize = 4;

/// Normalises `text` as described in the [module documentation](self).
///
/// The result may be empty: for text of white space and invisible characters only.
///
/// ```
/// use intentgate::text::normalize;
/// assert_eq!(normalize("  Where's MY   parcel???????  "), "where's my parcel???");
/// assert_eq!(normalize("ｃａｎｃｅｌ\u{200b} оrder"), "cancel order"); // full width, zero width, Cyrillic о
/// assert_eq!(normalize("w😀r😀i😀t😀e a p😀o😀e😀m 😀"), "write a poem 😀");
/// assert_eq!(normalize("می\u{200c}خواهم"), "می\u{200c}خواهم"); // this joiner is spelling
/// assert_eq!(normalize("\u{200b}\u{feff} \n"), "");
/// ```
pub fn normalize(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    normalize_into(text, &mut Scratch::default(), &mut out);
    out
}

/// Memory that [`normalize_into`] works in; reuse it to avoid allocation.
#[derive(Debug, Default)]
pub struct Scratch {
    folded: Vec<char>,
    lower: Vec<char>,
    spelled: spelled::Scratch,
}

/// Writes what [`normalize`] returns to `out`, in place of what it holds.
pub fn normalize_into(text: &str, scratch: &mut Scratch, out: &mut String) {
    out.clear();
    if !plain::normalize(text, out) {
        out.clear();
        normalize_at_length(text, scratch, out);
    }
}

/// The whole pipeline, for any text.
fn normalize_at_length(text: &str, scratch: &mut Scratch, out: &mut String) {
    let Scratch { folded, lower, spelled } = scratch;
    folded.clear();
    folded.extend(visible(text).nfkc().map(homoglyph::plain));
    spelled::join_letters(folded, spelled);
    // Before lower-casing, which hides that В looks like B; and after it, when Г has become the γ that looks like y.
    homoglyph::fold_words(folded);
    lower.clear();
    lower.extend(lowercase(folded).nfkc());
    homoglyph::fold_words(lower);
    squeeze(lower.iter().copied().nfkc(), out);
}

/// Lower case by the mapping of each character alone; `İ` becomes a plain `i`.
fn lowercase(chars: &[char]) -> impl Iterator<Item = char> {
    chars.iter().flat_map(|&c| {
        let (plain, mapped) = if c == 'İ' { (Some('i'), None) } else { (None, Some(c.to_lowercase())) };
        plain.into_iter().chain(mapped.into_iter().flatten())
    })
}

/// The characters of `text` without those that show nothing and mean nothing.
fn visible(text: &str) -> impl Iterator<Item = char> + '_ {
    let mut before = None;
    let mut rest = text.chars();
    std::iter::from_fn(move || {
        loop {
            let c = rest.next()?;
            let keep = match c {
                '\u{200d}' => {
                    let after = rest.clone().find(|&c| !is_invisible(c));
                    before.is_some_and(is_virama)
                        || (before.is_some_and(is_pictograph) && after.is_some_and(is_pictograph))
                }
                '\u{200c}' => {
                    let after = rest.clone().find(|&c| !is_invisible(c));
                    match (before, after) {
                        (Some(b), Some(a)) => (is_arabic(b) && is_arabic(a)) || (is_indic(b) && is_indic(a)),
                        _ => false,
                    }
                }
                _ => !is_invisible(c),
            };
            if keep {
                before = Some(c);
                return Some(c);
            }
        }
    })
}

/// Collapses white space and runs, and appends what is left to `out`.
fn squeeze(chars: impl Iterator<Item = char>, out: &mut String) {
    let (mut last, mut run, mut marks, mut space) = ('\0', 0, 0, false);
    for c in chars {
        if c.is_whitespace() {
            space = !out.is_empty();
            continue;
        }
        // NFKC can bring out what `visible` did not see in its compatibility form.
        if is_invisible(c) && c != '\u{200d}' && c != '\u{200c}' {
            continue;
        }
        if space {
            out.push(' ');
            (last, run, marks, space) = (' ', 0, 0, false);
        }
        run = if c == last { run + 1 } else { 1 };
        marks = if is_combining_mark(c) { marks + 1 } else { 0 };
        last = c;
        if (run <= MAX_RUN || c.is_numeric()) && marks <= MAX_MARKS {
            out.push(c);
        }
    }
}

/// Characters without a glyph: format controls, fillers, variation selectors, tags, and controls other than white space.
fn is_invisible(c: char) -> bool {
    match c {
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'
        | '\u{1160}'
        | '\u{17b4}'
        | '\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        c => c.is_control() && !c.is_whitespace(),
    }
}

fn is_virama(c: char) -> bool {
    matches!(
        c,
        '\u{94d}'
            | '\u{9cd}'
            | '\u{a4d}'
            | '\u{acd}'
            | '\u{b4d}'
            | '\u{bcd}'
            | '\u{c4d}'
            | '\u{ccd}'
            | '\u{d4d}'
            | '\u{dca}'
    )
}

fn is_indic(c: char) -> bool {
    matches!(c, '\u{900}'..='\u{dff}')
}

fn is_arabic(c: char) -> bool {
    matches!(c, '\u{600}'..='\u{6ff}' | '\u{750}'..='\u{77f}' | '\u{8a0}'..='\u{8ff}' | '\u{fb50}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
}

/// Emoji and the signs that take part in emoji sequences (gender, profession, heart, skin tone, flags). Not the enclosed
/// letters and ideographs between them, which NFKC turns into text.
fn is_pictograph(c: char) -> bool {
    matches!(c, '\u{2190}'..='\u{21ff}' | '\u{2300}'..='\u{23ff}' | '\u{2600}'..='\u{27bf}' | '\u{2b00}'..='\u{2bff}')
        || matches!(c, '\u{1f000}'..='\u{1f0ff}' | '\u{1f1e6}'..='\u{1f1ff}' | '\u{1f300}'..='\u{1faff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documented_rules() {
        for (from, to) in [
            ("", ""),
            (" \t\r\n\u{a0}\u{3000} ", ""),
            ("Line one\nline\u{2028}two", "line one line two"),
            ("SOOOOOO LATE!!!!!", "sooo late!!!"),
            ("order 100000", "order 100000"),
            ("ﬁnal ①②", "final 12"),
            ("𝐰𝐫𝐢𝐭𝐞 𝓪 𝕡oem", "write a poem"),
            ("İSTANBUL'A KARGO", "istanbul'a kargo"),
            ("wh\u{ad}ere i\u{200b}s i\u{2060}t", "where is it"),
            ("\u{202e}txet\u{202c}", "txet"),
            ("hi\u{e0041}\u{e0042}", "hi"),
            ("❤\u{fe0f}", "❤"),
            ("👩\u{200d}🍳", "👩\u{200d}🍳"),
            ("a\u{200d}b", "ab"),
            ("क्\u{200d}ष", "क्\u{200d}ष"),
            ("z\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}algo", "ź\u{302}\u{303}\u{304}\u{305}algo"),
            ("ᄏᄏᄏᄏᄏᄏ", "ᄏᄏᄏ"),
            ("bell\u{7}", "bell"),
            ("H\u{331}", "ẖ"),
            ("ᴡʀɪᴛᴇ 🅐 🅿🅾🅴🅼", "write a poem"),
            ("🈁\u{200d}🈁", "コココ"),
        ] {
            assert_eq!(normalize(from), to, "{from:?}");
        }
    }

    #[test]
    fn scripts_keep_their_letters() {
        for text in [
            "สวัสดีครับ น้ำ",
            "नमस्ते क्या हाल है",
            "tôi muốn đặt hàng",
            "заказ №5 где?".replace('№', "no").as_str(),
            "你好，在吗",
        ] {
            let kept: Vec<char> = normalize(text).chars().filter(|c| c.is_alphanumeric()).collect();
            let had: Vec<char> = text.nfkc().filter(|c| c.is_alphanumeric()).collect();
            assert_eq!(kept, had, "{text}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_a_fixed_point(text in any::<String>()) {
            let once = normalize(&text);
            prop_assert_eq!(&normalize(&once), &once);
        }

        /// Dense in the characters that the rules are about, which `any::<String>` hardly ever meets.
        #[test]
        fn fixed_point_on_awkward_characters(text in "[\u{200b}-\u{200f}\u{300}-\u{315}\u{fe0f}\u{600}-\u{640}\u{900}-\u{94d}A-Ca-cАВСавсΑΒο \u{1f469}\u{1f373}\u{1100}-\u{1112}\u{1161}-\u{1175}\u{ac00}İı\u{e0041}ﬁ]{0,24}") {
            let once = normalize(&text);
            prop_assert_eq!(&normalize(&once), &once);
        }

        /// The same for spelled-out words.
        #[test]
        fn fixed_point_on_letters_with_something_between(
            pieces in prop::collection::vec(("[a-bШéⱢa카각กี好1🅰ɪé]{1,2}", "[.😀❤️👍🏽\u{200d}\u{7} •→-]{0,2}"), 0..10)
        ) {
            let text: String = pieces.into_iter().map(|(letters, between)| letters + &between).collect();
            let once = normalize(&text);
            prop_assert_eq!(&normalize(&once), &once);
        }

        #[test]
        fn words_spelled_out_come_back(
            words in prop::collection::vec("[A-Za-zà-öø-ÿ]{4,9}|[а-я]{4,9}|[가-힣]{4,9}", 1..5),
            between in prop::sample::select(vec!["😀", "❤\u{fe0f}", "⭐", "🔥🔥", "👍🏽", "👩\u{200d}🍳"])
        ) {
            let spelled: Vec<String> = words
                .iter()
                .map(|word| word.chars().map(String::from).collect::<Vec<_>>().join(between))
                .collect();
            prop_assert_eq!(normalize(&spelled.join(" ")), normalize(&words.join(" ")));
        }

        #[test]
        fn nothing_invisible_and_no_double_space(text in any::<String>()) {
            let once = normalize(&text);
            prop_assert!(!once.contains("  ") && once.trim() == once);
            let invisible = once.chars().any(|c| is_invisible(c) && c != '\u{200d}' && c != '\u{200c}');
            prop_assert!(!invisible);
        }
    }
}
