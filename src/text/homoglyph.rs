//! Look-alike letters: a word that mixes scripts to slip past a filter is brought back to one script.

/// Latin letters with the Cyrillic, Greek and Armenian letters that look the same in common fonts.
pub(crate) const LOOK_ALIKES: &[(char, &[char])] = &[
    ('a', &['а', 'α']),
    // NFKC has turned a lunate ϲ into this.
    ('c', &['с', 'ς']),
    ('d', &['ԁ']),
    ('e', &['е']),
    ('g', &['ց']),
    ('h', &['һ', 'հ']),
    ('i', &['і', 'ι']),
    ('j', &['ј', 'ϳ']),
    ('l', &['ӏ']),
    ('n', &['ո']),
    ('o', &['о', 'ο', 'օ']),
    ('p', &['р', 'ρ']),
    ('q', &['ԛ', 'զ']),
    ('s', &['ѕ']),
    ('u', &['υ', 'ս']),
    ('v', &['ѵ', 'ν']),
    ('w', &['ԝ']),
    ('x', &['х', 'χ']),
    ('y', &['у', 'ү', 'γ']),
    ('A', &['А', 'Α']),
    ('B', &['В', 'Β']),
    ('C', &['С']),
    ('E', &['Е', 'Ε']),
    ('H', &['Н', 'Η']),
    ('I', &['І', 'Ι']),
    ('J', &['Ј']),
    ('K', &['К', 'Κ']),
    ('M', &['М', 'Μ']),
    ('N', &['Ν']),
    ('O', &['О', 'Ο', 'Օ']),
    ('P', &['Р', 'Ρ']),
    ('Q', &['Ԛ']),
    ('S', &['Ѕ', 'Տ']),
    ('T', &['Т', 'Τ']),
    ('U', &['Ս']),
    ('V', &['Ѵ']),
    ('W', &['Ԝ']),
    ('X', &['Х', 'Χ']),
    ('Y', &['У', 'Υ']),
    ('Z', &['Ζ']),
];

/// Small capitals and letter-like phonetic signs of Latin script with the letters they are read as.
const STYLED: &[(char, char)] = &[
    ('ᴀ', 'a'),
    ('ɑ', 'a'),
    ('Ɑ', 'a'),
    ('ʙ', 'b'),
    ('ᴄ', 'c'),
    ('ᴅ', 'd'),
    ('ᴇ', 'e'),
    ('ꜰ', 'f'),
    ('ɢ', 'g'),
    ('ɡ', 'g'),
    ('Ɡ', 'g'),
    ('ʜ', 'h'),
    ('ɪ', 'i'),
    ('Ɪ', 'i'),
    ('ᴊ', 'j'),
    ('ᴋ', 'k'),
    ('ʟ', 'l'),
    ('ᴍ', 'm'),
    ('ɴ', 'n'),
    ('ᴏ', 'o'),
    ('ᴘ', 'p'),
    ('ʀ', 'r'),
    ('Ʀ', 'r'),
    ('ꜱ', 's'),
    ('ᴛ', 't'),
    ('ᴜ', 'u'),
    ('ᴠ', 'v'),
    ('ᴡ', 'w'),
    ('ʏ', 'y'),
    ('ᴢ', 'z'),
];

/// The plain letter of a small capital or of a white-on-black letter (🅐, 🅰), any other character as it is.
pub(super) fn plain(c: char) -> char {
    match c {
        '\u{1f150}'..='\u{1f169}' => ('a'..='z').nth(c as usize - 0x1f150).unwrap_or(c),
        '\u{1f170}'..='\u{1f189}' => ('a'..='z').nth(c as usize - 0x1f170).unwrap_or(c),
        'Ʀ' | '\u{250}'..='\u{2af}' | '\u{1d00}'..='\u{1d2b}' | 'Ɑ' | '\u{a730}'..='\u{a7ae}' => {
            STYLED.iter().find(|&&(styled, _)| styled == c).map_or(c, |&(_, plain)| plain)
        }
        _ => c,
    }
}

/// Rewrites every word of mixed script in place, where each of its foreign letters has a twin in the word's main script.
///
/// The main script is the one with more letters, Latin on a tie. Words of one script are never touched, so ordinary
/// Russian or Greek text stays as it is, and so does a mixture with letters that look like nothing in the other script.
pub(super) fn fold_words(text: &mut [char]) {
    for word in text.split_mut(|c| !c.is_alphabetic()) {
        let latin = word.iter().filter(|&&c| is_latin(c)).count();
        let other = word.iter().filter(|&&c| is_look_alike_script(c)).count();
        if latin == 0 || other == 0 {
            continue;
        }
        // Letters of the main script stand for themselves; a foreign one without a twin leaves the word alone.
        let rewrite = |c: char| match latin >= other {
            true if is_look_alike_script(c) => to_latin(c),
            false if is_latin(c) => to_cyrillic(c),
            _ => Some(c),
        };
        if word.iter().all(|&c| rewrite(c).is_some()) {
            word.iter_mut().for_each(|c| *c = rewrite(*c).unwrap_or(*c));
        }
    }
}

fn is_latin(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}')
}

fn is_look_alike_script(c: char) -> bool {
    matches!(c, '\u{370}'..='\u{52f}' | '\u{531}'..='\u{58f}')
}

fn to_latin(c: char) -> Option<char> {
    LOOK_ALIKES.iter().find(|(_, twins)| twins.contains(&c)).map(|&(latin, _)| latin)
}

/// The first twin in each row that is Cyrillic: mixed Greek words are too rare to guess about.
fn to_cyrillic(c: char) -> Option<char> {
    let (_, twins) = LOOK_ALIKES.iter().find(|&&(latin, _)| latin == c)?;
    twins.iter().copied().find(|&c| ('\u{400}'..='\u{52f}').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(text: &str) -> String {
        let mut chars: Vec<char> = text.chars().collect();
        fold_words(&mut chars);
        chars.into_iter().collect()
    }

    #[test]
    fn mixed_words_become_one_script() {
        assert_eq!(fold("іgnоrе ВANK"), "ignore BANK");
        assert_eq!(fold("зaкaз"), "заказ");
    }

    #[test]
    fn honest_words_stay() {
        for text in ["где мой заказ", "πού είναι", "SMSка", "wi-fi роутер", "naïve"] {
            assert_eq!(fold(text), text);
        }
    }

    #[test]
    fn every_twin_maps_back_to_one_letter() {
        for (i, (_, twins)) in LOOK_ALIKES.iter().enumerate() {
            for twin in *twins {
                let rows: Vec<usize> = (0..LOOK_ALIKES.len()).filter(|&j| LOOK_ALIKES[j].1.contains(twin)).collect();
                assert_eq!(rows, [i], "{twin}");
                assert!(unicode_normalization::is_nfkc(twin.encode_utf8(&mut [0; 4])), "{twin} never arrives");
            }
        }
    }
}
