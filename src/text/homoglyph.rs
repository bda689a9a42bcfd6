//! Look-alike letters: a word that mixes scripts to slip past a filter is brought back to one script.

/// Latin letters with the Cyrillic and Greek letters that look the same in common fonts.
const LOOK_ALIKES: &[(char, &[char])] = &[
    ('a', &['а', 'α']),
    ('c', &['с', 'ϲ']),
    ('d', &['ԁ']),
    ('e', &['е']),
    ('h', &['һ']),
    ('i', &['і', 'ι']),
    ('j', &['ј', 'ϳ']),
    ('o', &['о', 'ο', 'օ']),
    ('p', &['р', 'ρ']),
    ('s', &['ѕ']),
    ('u', &['υ', 'ս']),
    ('v', &['ѵ', 'ν']),
    ('w', &['ԝ']),
    ('x', &['х', 'χ']),
    ('y', &['у', 'ү', 'γ']),
    ('A', &['А', 'Α']),
    ('B', &['В', 'Β']),
    ('C', &['С', 'Ϲ']),
    ('E', &['Е', 'Ε']),
    ('H', &['Н', 'Η']),
    ('I', &['І', 'Ι']),
    ('J', &['Ј']),
    ('K', &['К', 'Κ']),
    ('M', &['М', 'Μ']),
    ('N', &['Ν']),
    ('O', &['О', 'Ο']),
    ('P', &['Р', 'Ρ']),
    ('S', &['Ѕ']),
    ('T', &['Т', 'Τ']),
    ('X', &['Х', 'Χ']),
    ('Y', &['У', 'Υ']),
    ('Z', &['Ζ']),
];

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
            }
        }
    }
}
