//! Takes out of a text what could name a person, an account or an order.

use regex::{Captures, Regex};
use std::{borrow::Cow, sync::LazyLock};

/// What people put between the digits of one number: blanks, punctuation, invisible characters, and what makes a digit a
/// keycap. No comma and no colon, so that "2, 3 or 4" and "10:30" stay.
const BETWEEN: &str = concat!(
    r"[\s.\-/()_+·•*'－．＋（）・\u{ad}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{2010}-\u{2015}",
    r"\u{2060}-\u{2069}\u{20e3}\u{2212}\u{feff}\u{fe0f}]{0,3}"
);

/// Brands of payment cards; none that is a common word in a language of ours.
const BRANDS: &str =
    "visa|master ?card|maestro|american express|amex|diners club|jcb|union ?pay|rupay|girocard|银联|銀聯";

/// What stands before the name on a card.
const HOLDER: &str = concat!(
    "(?:card ?holder|name on (?:the |my )?card|karteninhaber(?:in)?|titular de (?:la|mi) tarjeta|",
    "titulaire de (?:la|ma) carte|titular do cartão|intestatario della carta|持卡人|カード名義)",
    "(?:'s)?(?: name)?(?:\\s?(?:is|ist|es|est|é|è|是|は))?[\\s:：]*"
);

/// Patterns and what takes their place, in the order in which they are applied: an address first, since it may hold digits.
///
/// No pattern can match inside a placeholder, across one, or because of one: there are no word boundaries, and every
/// repetition takes all there is. So redacting twice changes nothing. Of a pattern with groups, the first one stays, and
/// the second is what is taken out, if it is there.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let at = "[@＠﹫]";
    let part = r"[^\s<>@＠﹫]";
    let name = r"\p{L}[\p{L}\p{M}'’.-]*";
    let iban = "[a-z]{2}[0-9]{2}(?:[ -]?[a-z0-9]{4}(?:[ -]?[0-9]{4}){2}|(?:[ -]?[0-9]{4}){2}[ -]?[0-9]{3})";
    [
        (r"(?i)(?:[a-z][a-z0-9+]*://|www\.)[^\s<>]*".to_owned(), "<url>"),
        // With blanks around the sign only where a domain follows.
        (format!(r"{part}*\s{at}\s{part}+\.{part}+|{part}*(?:{at}{part}*)+"), "<email>"),
        // Domains without a scheme, where a path follows.
        (r"(?i)[a-z0-9-]+(?:\.[a-z0-9-]+)+/[^\s<>]*".to_owned(), "<url>"),
        (format!("(?i){iban}(?:[ -]?[a-z]{{0,3}}[0-9][a-z0-9]*)*"), "<iban>"),
        (
            format!(
                r"(?i)(?:{BRANDS})(?:[\s:#.x•*-]|card|number|no|nr|ending|in|with){{0,12}}\p{{N}}(?:{BETWEEN}\p{{N}})*"
            ),
            "<card>",
        ),
        (format!("(?i)({HOLDER})({name}(?: {name}){{0,2}})?"), "<name>"),
        (format!(r"[+(]?[A-Za-z]*\p{{N}}(?:(?:{BETWEEN}|[A-Za-z]+)\p{{N}}){{3,}}[A-Za-z]*"), "<number>"),
    ]
    .into_iter()
    .filter_map(|(pattern, placeholder)| Some((Regex::new(&pattern).ok()?, placeholder)))
    .collect()
});

/// Puts placeholders in the place of numbers, addresses and payment cards:
///
/// - `<number>`: four digits or more, of any script, also with blanks, punctuation or letters between them: phone, card
///   and order numbers, dates, long prices;
/// - `<email>`: e-mail addresses and `@names`;
/// - `<url>`: links;
/// - `<iban>`: what looks like an IBAN;
/// - `<card>`: the brand of a payment card and the digits next to it;
/// - `<name>`: up to three words after "card holder" and its like.
///
/// Names and street addresses elsewhere in a text stay, and numbers written as words; leave the text out where that is
/// too much. Redacting a redacted text changes nothing.
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    for (pattern, placeholder) in RULES.iter() {
        let replaced = pattern.replace_all(&text, |found: &Captures<'_>| match (found.get(1), found.get(2)) {
            (Some(before), Some(_)) => format!("{}{}", before.as_str(), placeholder),
            // The words before a name, and no name.
            (Some(before), None) => before.as_str().to_owned(),
            _ => (*placeholder).to_owned(),
        });
        if let Cow::Owned(replaced) = replaced {
            text = Cow::Owned(replaced);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(RULES.len(), 7);
    }

    #[test]
    fn what_names_someone_is_taken_out() {
        for (text, redacted) in [
            ("call me at +49 (151) 123-456 78 please", "call me at <number> please"),
            ("01.23.45.67.89", "<number>"),
            ("order A10293 and 1Z999AA10123456784", "order <number> and <number>"),
            ("订单12345号", "订单<number>号"),
            ("رقم ٠١٢٣٤٥٦٧٨٩", "رقم <number>"),
            ("नंबर ९८७६५ ४३२१०", "नंबर <number>"),
            ("โทร ๐๘๑-๒๓๔-๕๖๗๘", "โทร <number>"),
            ("電話 ０３－１２３４－５６７８", "電話 <number>"),
            ("1️⃣2️⃣3️⃣4️⃣", "<number>\u{fe0f}\u{20e3}"),
            ("12\u{200b}34", "<number>"),
            ("write to jane.doe+x@shop.example.org.", "write to <email>"),
            ("jane @ shop.example", "<email>"),
            ("ich bin @jane_d", "ich bin <email>"),
            ("see https://x.example/track?id=9 or www.y.example, x.example/a", "see <url> or <url> <url>"),
            ("DE89 3704 0044 0532 0130 00 danke", "<iban> danke"),
            ("gb29nwbk60161331926819", "<iban>"),
            ("my Visa card ending in 42", "my <card>"),
            ("mastercard 5105 1051 0510 5100", "<card>"),
            ("card holder: Maria del Carmen, thanks", "card holder: <name>, thanks"),
            ("cardholder name is bob miller", "cardholder name is <name>"),
        ] {
            assert_eq!(redact(text), redacted, "{text}");
        }
    }

    #[test]
    fn what_names_nobody_stays() {
        for text in [
            "table for 4 at 10:30 on friday",
            "2, 3 or 4 of them, under 500",
            "do you take visa?",
            "card holder name?",
            "an iphone15 plus case with name",
            "is the iphone 15 better than the a52?",
            "明天下午3点可以吗",
            "3 < 4 > 2",
            "",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    /// Texts of the pieces that rules look at, so that they meet and overlap.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[0-9]{1,5}",
            "[٠-٩०-९๐-๙０-９²½①]{1,4}",
            "[ .\\-/()_+@<>:,'*\\u200b]{1,3}",
            "[a-zA-Z]{1,4}",
            "\\PC{1,3}",
            prop::sample::select(vec![
                "visa",
                "card holder ",
                "DE89",
                "http://",
                "www.",
                "x.example/",
                "@",
                "＠",
                " @ ",
                "<number>",
                "<card>",
                "card",
                "持卡人",
                "jane@x.example",
                "is ",
                "3704 0044"
            ])
            .prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn no_number_and_no_address_survives_and_twice_is_once(text in text()) {
            let redacted = redact(&text);
            let mut digits = 0;
            for c in redacted.chars() {
                digits = if c.is_numeric() { digits + 1 } else { 0 };
                prop_assert!(digits < 4 && !['@', '＠', '﹫'].contains(&c), "{text:?} -> {redacted:?}");
            }
            prop_assert_eq!(redact(&redacted), redacted.clone());
        }
    }
}
