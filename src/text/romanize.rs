//! Hindi in Latin letters, as it is typed on phones.

/// Writes the Devanagari letters of `text` in Latin ones by the rules of everyday typing: no marks, the inherent vowel left
/// out at the end of a word. Other characters stay as they are.
pub(crate) fn romanize(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    for (i, &c) in chars.iter().enumerate() {
        let next = chars.get(i + 1).copied().filter(|&c| c != NUKTA).or_else(|| chars.get(i + 2).copied());
        if let Some(consonant) = consonant(c, chars.get(i + 1) == Some(&NUKTA)) {
            out.push_str(consonant);
            // A vowel sign or a virama takes the place of the inherent vowel, and the end of a word swallows it.
            let last = !next.is_some_and(|next| ('\u{900}'..='\u{963}').contains(&next));
            if !last && next.is_some_and(|next| !is_sign(next)) {
                out.push('a');
            }
        } else if let Some(vowel) = vowel(c) {
            out.push_str(vowel);
        } else if !matches!(c, VIRAMA | NUKTA) {
            out.push(c);
        }
    }
    out
}

const VIRAMA: char = '\u{94d}';
const NUKTA: char = '\u{93c}';

fn is_sign(c: char) -> bool {
    matches!(c, '\u{93e}'..='\u{94d}')
}

fn consonant(c: char, nukta: bool) -> Option<&'static str> {
    Some(match c {
        'क' => "k",
        'ख' => "kh",
        'ग' => "g",
        'घ' => "gh",
        'ङ' | 'ञ' | 'ण' | 'न' => "n",
        'च' => "ch",
        'छ' => "chh",
        'ज' if nukta => "z",
        'ज' => "j",
        'झ' => "jh",
        'ट' | 'त' => "t",
        'ठ' | 'थ' => "th",
        'ड' if nukta => "r",
        'ढ' if nukta => "rh",
        'ड' | 'द' => "d",
        'ढ' | 'ध' => "dh",
        'प' => "p",
        'फ' if nukta => "f",
        'फ' => "ph",
        'ब' => "b",
        'भ' => "bh",
        'म' => "m",
        'य' => "y",
        'र' => "r",
        'ल' | 'ळ' => "l",
        'व' => "v",
        'श' | 'ष' => "sh",
        'स' => "s",
        'ह' => "h",
        '\u{958}' => "q",
        '\u{95b}' => "z",
        '\u{95c}' => "r",
        '\u{95d}' => "rh",
        '\u{95e}' => "f",
        _ => return None,
    })
}

fn vowel(c: char) -> Option<&'static str> {
    Some(match c {
        'अ' => "a",
        'आ' | 'ा' => "a",
        'इ' | 'ि' => "i",
        'ई' | 'ी' => "i",
        'उ' | 'ु' | 'ऊ' | 'ू' => "u",
        'ऋ' | 'ृ' => "ri",
        'ए' | 'े' => "e",
        'ऐ' | 'ै' => "ai",
        'ओ' | 'ो' | 'ऑ' | 'ॉ' => "o",
        'औ' | 'ौ' => "au",
        'ं' | 'ँ' => "n",
        'ः' => "h",
        '।' => ".",
        '०' => "0",
        '१' => "1",
        '२' => "2",
        '३' => "3",
        '४' => "4",
        '५' => "5",
        '६' => "6",
        '७' => "7",
        '८' => "8",
        '९' => "9",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_people_type_it() {
        for (from, to) in [
            ("मेरा ऑर्डर कब आएगा?", "mera ordar kab aega?"),
            ("नमस्ते", "namaste"),
            ("हाँ, ठीक है", "han, thik hai"),
            ("ज़रूरी", "zaruri"),
            ("कल 3 बजे", "kal 3 baje"),
            ("where is it", "where is it"),
        ] {
            assert_eq!(romanize(from), to);
        }
    }
}
