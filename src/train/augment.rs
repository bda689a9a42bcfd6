//! Small changes to a message that leave its label alone: what thumbs, keyboards and habits do to text.

use crate::{
    data::{Origin, Row},
    eval::Perturbation,
    label::Flow,
    text,
};
use rand::{Rng, RngExt, seq::IndexedRandom};

/// A message in words, not in one or two, keeps its meaning when a flow is added.
const ENOUGH_FOR_A_FLOW: usize = 24;

/// Changes a share of the rows at random: a typo, lost accents or punctuation, other digits, a greeting or an emoji
/// more, or the flow that fits the label.
///
/// Case is not among the changes: normalisation takes it away.
#[derive(Clone, Copy, Debug)]
pub struct Augment {
    share: f64,
    changes: &'static [Change],
}

type Change = fn(&mut Row, &mut dyn Rng);

const CHANGES: &[Change] = &[
    typo,
    typo,
    typo,
    drop_accents,
    drop_punctuation,
    other_digits,
    greet,
    add_emoji,
    add_flow,
    add_flow,
    in_latin_letters,
];
/// What changes the spelling alone.
const SPELLING: &[Change] = &[typo, typo, drop_accents, drop_punctuation, add_emoji, in_latin_letters];

impl Augment {
    /// Changes this share of rows, 0 to 1.
    pub fn new(share: f64) -> Self {
        Augment { share, changes: CHANGES }
    }

    /// Changes the spelling of this share of texts, nothing that adds to what is said.
    pub(super) fn spelling(share: f64) -> Self {
        Augment { share, changes: SPELLING }
    }

    /// A changed copy of a text without a label.
    pub(super) fn apply_to_text(&self, text: &str, rng: &mut impl Rng) -> Option<String> {
        let origin = Origin { file: std::path::Path::new("").into(), line: 0 };
        let row = Row { text: text.into(), label: String::new(), lang: None, context: None, group: None, origin };
        self.apply(&row, rng).map(|row| row.text)
    }

    /// A changed copy of `row`, or `None` where it stays as it is.
    pub fn apply(&self, row: &Row, rng: &mut impl Rng) -> Option<Row> {
        if !rng.random_bool(self.share) {
            return None;
        }
        let mut changed = row.clone();
        for _ in 0..rng.random_range(1..=2) {
            if let Some(change) = self.changes.choose(rng) {
                change(&mut changed, rng);
            }
        }
        Some(changed)
    }
}

/// Two letters swapped, one lost, or one doubled.
fn typo(row: &mut Row, rng: &mut dyn Rng) {
    let mut chars: Vec<char> = row.text.chars().collect();
    if chars.len() < 6 {
        return;
    }
    let at = rng.random_range(1..chars.len() - 1);
    // Elsewhere than between plain letters a slip can change what is said: an order number, a Han character.
    if !(chars[at].is_alphabetic() && chars[at + 1].is_alphabetic() && (chars[at] as u32) < 0x1000) {
        return;
    }
    match rng.random_range(0..3) {
        0 => chars.swap(at, at + 1),
        1 => {
            chars.remove(at);
        }
        _ => chars.insert(at, chars[at]),
    }
    row.text = chars.into_iter().collect();
}

/// Latin, Greek and Cyrillic letters lose their accents.
fn drop_accents(row: &mut Row, _: &mut dyn Rng) {
    row.text = Perturbation::Accents.apply(&row.text, 0);
}

/// Hindi as it is typed without a Hindi keyboard.
fn in_latin_letters(row: &mut Row, _: &mut dyn Rng) {
    let latin = text::romanize(&row.text);
    if latin != row.text && row.lang.as_deref() == Some("hi") {
        row.lang = Some("hi-Latn".into());
    }
    row.text = latin;
}

fn drop_punctuation(row: &mut Row, _: &mut dyn Rng) {
    let kept: String = row
        .text
        .chars()
        .filter(|c| !matches!(c, '.' | ',' | '!' | '?' | '¿' | '¡' | '？' | '！' | '。' | '，' | '؟' | '،' | '।'))
        .collect();
    if kept.chars().any(char::is_alphanumeric) {
        row.text = kept;
    }
}

/// Every digit becomes another one, in messages that are more than a number.
fn other_digits(row: &mut Row, rng: &mut dyn Rng) {
    if row.text.chars().filter(|c| c.is_alphabetic()).count() < 8 || row.label == super::OOS_LABEL {
        return;
    }
    row.text = row.text.chars().map(|c| if matches!(c, '1'..='9') { rng.random_range('1'..='9') } else { c }).collect();
}

/// A greeting in front, in the language of the row.
fn greet(row: &mut Row, rng: &mut dyn Rng) {
    let greetings: &[&str] = match row.lang.as_deref().unwrap_or_default() {
        "en" => &["hi", "hello,", "hey", "good morning", "Hi there,", "excuse me"],
        "es" => &["hola", "buenas", "buenos días,", "hola buenas tardes", "oye"],
        "pt" => &["oi", "olá,", "bom dia", "boa tarde,", "oii tudo bem?"],
        "id" => &["halo", "kak", "permisi", "siang kak", "min"],
        "ms" => &["hi", "salam", "assalamualaikum", "hello boss", "tanya sikit"],
        "ar" => &["السلام عليكم", "مرحبا", "هلا", "مساء الخير", "لو سمحت"],
        "hi" => &["नमस्ते", "हेलो", "भैया", "नमस्कार जी", "सुनिए"],
        "hi-Latn" => &["hi", "hello bhaiya", "namaste", "suno", "hello ji"],
        "zh" => &["你好", "您好，", "在吗", "hi", "亲"],
        "zh-Hant" => &["你好", "您好，", "唔該", "哈囉", "請問"],
        "fr" => &["bonjour", "bonsoir,", "salut", "coucou", "bjr"],
        "de" => &["hallo", "guten Tag,", "moin", "hi", "servus"],
        "it" => &["ciao", "buongiorno,", "salve", "buonasera", "scusate"],
        "nl" => &["hoi", "hallo,", "goedemiddag", "hey", "dag"],
        "pl" => &["cześć", "dzień dobry,", "hej", "witam", "dobry wieczór"],
        "tr" => &["merhaba", "selam", "iyi günler,", "kolay gelsin", "slm"],
        "ru" => &["здравствуйте", "добрый день,", "привет", "доброго времени", "алло"],
        "vi" => &["chào shop", "alo", "shop ơi", "ad ơi", "xin chào,"],
        "th" => &["สวัสดีค่ะ", "สวัสดีครับ", "หวัดดี", "แอดมินคะ", "ฮัลโหล"],
        "ja" => &["こんにちは", "すみません、", "お世話になります。", "どうも", "はじめまして、"],
        "ko" => &["안녕하세요", "저기요", "안녕하세용", "문의드려요", "여보세요"],
        _ => return,
    };
    if let Some(greeting) = greetings.choose(rng) {
        row.text = format!("{greeting} {}", row.text);
    }
}

fn add_emoji(row: &mut Row, rng: &mut dyn Rng) {
    if let Some(emoji) = ["🙏", "😊", "😭", "🙄", "👀", "❤️", "😅", "🤔", "😡", "✨"].choose(rng) {
        row.text = format!("{} {emoji}", row.text);
    }
}

/// A whole request means the same inside its own flow, and out of scope stays so in any.
fn add_flow(row: &mut Row, rng: &mut dyn Rng) {
    if row.context.is_none() && length_in_letters(&row.text) >= ENOUGH_FOR_A_FLOW {
        row.context = match row.label.parse() {
            Ok(flow) => Some(flow),
            Err(_) if row.label == super::OOS_LABEL => Flow::ALL.choose(rng).copied(),
            Err(_) => None,
        };
    }
}

/// How long a text is, where a Han character or a syllable says about as much as three letters.
pub(super) fn length_in_letters(text: &str) -> usize {
    text.chars().map(|c| if (c as u32) < 0x2e80 { 1 } else { 3 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;

    fn row(text: &str, label: &str) -> Row {
        let origin = Origin { file: std::path::Path::new("x").into(), line: 1 };
        Row { text: text.into(), label: label.into(), lang: Some("en".into()), context: None, group: None, origin }
    }

    #[test]
    fn bare_numbers_and_short_answers_keep_what_they_say() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        let mut number = row("A10293", "order");
        other_digits(&mut number, &mut rng);
        add_flow(&mut number, &mut rng);
        assert_eq!((number.text.as_str(), number.context), ("A10293", None));
        let mut request = row("where is my parcel, it was due on monday", "order");
        add_flow(&mut request, &mut rng);
        assert_eq!(request.context, Some(Flow::Order), "only the flow of its own label");
        let mut accents = row("où est ma commande? мой заказ ещё", "order");
        drop_accents(&mut accents, &mut rng);
        assert_eq!(accents.text, "ou est ma commande? мой заказ еще");
    }

    proptest! {
        #[test]
        fn the_label_stays_and_text_is_never_lost(text in "\\PC{1,60}", seed in any::<u64>()) {
            prop_assume!(!crate::text::normalize(&text).is_empty());
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            if let Some(changed) = Augment::new(1.0).apply(&row(&text, "faq"), &mut rng) {
                prop_assert_eq!(&changed.label, "faq");
                prop_assert!(!crate::text::normalize(&changed.text).is_empty());
            }
        }
    }
}
