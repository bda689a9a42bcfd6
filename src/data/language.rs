//! The scripts that a language is written in, for finding rows that stand in the wrong file.

use unicode_script::{Script, UnicodeScript};

/// A language and its scripts.
#[derive(Clone, Copy, Debug)]
pub struct Language {
    /// BCP 47 code.
    pub code: &'static str,
    /// English name.
    pub name: &'static str,
    /// Scripts of ordinary text. Latin letters may appear in any language: names, chat spellings, code.
    scripts: &'static [Script],
}

const LATIN: &[Script] = &[Script::Latin];
const LANGUAGES: &[Language] = &[
    Language { code: "ar", name: "Arabic", scripts: &[Script::Arabic] },
    Language { code: "de", name: "German", scripts: LATIN },
    Language { code: "en", name: "English", scripts: LATIN },
    Language { code: "es", name: "Spanish", scripts: LATIN },
    Language { code: "fr", name: "French", scripts: LATIN },
    Language { code: "hi", name: "Hindi", scripts: &[Script::Devanagari] },
    Language { code: "hi-Latn", name: "Hinglish", scripts: LATIN },
    Language { code: "id", name: "Indonesian", scripts: LATIN },
    Language { code: "it", name: "Italian", scripts: LATIN },
    Language { code: "ja", name: "Japanese", scripts: &[Script::Hiragana, Script::Katakana, Script::Han] },
    Language { code: "ko", name: "Korean", scripts: &[Script::Hangul, Script::Han] },
    Language { code: "ms", name: "Malay", scripts: LATIN },
    Language { code: "nl", name: "Dutch", scripts: LATIN },
    Language { code: "pl", name: "Polish", scripts: LATIN },
    Language { code: "pt", name: "Portuguese", scripts: LATIN },
    Language { code: "ru", name: "Russian", scripts: &[Script::Cyrillic] },
    Language { code: "th", name: "Thai", scripts: &[Script::Thai] },
    Language { code: "tr", name: "Turkish", scripts: LATIN },
    Language { code: "vi", name: "Vietnamese", scripts: LATIN },
    Language { code: "zh", name: "Chinese, simplified", scripts: &[Script::Han] },
    Language { code: "zh-Hant", name: "Chinese, traditional, with Cantonese", scripts: &[Script::Han] },
];

/// The language with this code, if its scripts are known here.
pub fn language(code: &str) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.code == code)
}

/// How the letters of a text fit a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Most letters are of the language's scripts, or there is no letter.
    Own,
    /// Most are Latin, in a language of another script: a chat spelling, a brand, code.
    Latin,
    /// Most are of a script that the language is not written in.
    Foreign,
}

impl Language {
    /// Whether words are not divided by spaces.
    pub(crate) fn is_unspaced(&self) -> bool {
        self.scripts.iter().any(|script| matches!(script, Script::Han | Script::Thai)) && self.code != "ko"
    }

    pub(super) fn fit(&self, text: &str) -> Fit {
        let (mut own, mut latin, mut foreign) = (0, 0, 0);
        for c in text.chars().filter(|c| c.is_alphabetic()) {
            match c.script() {
                script if self.scripts.contains(&script) => own += 1,
                Script::Latin => latin += 1,
                Script::Common | Script::Inherited => {}
                _ => foreign += 1,
            }
        }
        if foreign > own + latin {
            Fit::Foreign
        } else if latin > own {
            Fit::Latin
        } else {
            Fit::Own
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_tell_the_script() {
        let fit = |code: &str, text: &str| language(code).unwrap().fit(text);
        assert_eq!(fit("hi", "मेरा order कहाँ है"), Fit::Own);
        assert_eq!(fit("hi", "mera order kahan hai"), Fit::Latin);
        assert_eq!(fit("hi-Latn", "मेरा ऑर्डर कहाँ है"), Fit::Foreign);
        assert_eq!(fit("ja", "これはいくらですか"), Fit::Own);
        assert_eq!(fit("es", "你好，我的订单呢"), Fit::Foreign);
        assert_eq!(fit("zh", "iPhone 15 有货吗"), Fit::Latin);
        assert_eq!(fit("th", "12345 👍"), Fit::Own);
    }
}
