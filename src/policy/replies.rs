//! What the bot says: the ready-made texts with those of the profile over them.

use super::{
    language,
    profile::{Profile, Texts},
    profile_error::Invalid,
};
use crate::label::Flow;
use std::collections::BTreeMap;

/// The texts of every language that has any.
#[derive(Debug)]
pub(super) struct Replies {
    languages: Vec<Language>,
    /// Where in `languages` that of the profile is.
    default: usize,
}

/// All the texts of one language.
#[derive(Debug)]
pub(super) struct Language {
    /// BCP 47.
    pub(super) code: String,
    pub(super) refusal: String,
    pub(super) refusal_with_offer: String,
    pub(super) hand_off: String,
    pub(super) text_only: String,
    ask_back: String,
    /// In the order of [`Flow::ALL`].
    flows: [String; 4],
}

impl Language {
    /// The question which of two flows is meant.
    pub(super) fn ask_back(&self, [first, second]: [Flow; 2]) -> String {
        let name = |flow: Flow| &self.flows[flow as usize];
        self.ask_back.replace("{first}", name(first)).replace("{second}", name(second))
    }
}

impl Replies {
    pub(super) fn new(profile: &Profile) -> Result<Self, Invalid> {
        let ready_made: BTreeMap<String, Texts> = toml::from_str(include_str!("replies.toml"))
            .map_err(|error| Invalid::new("replies.toml", error, "texts by language"))?;
        let mut codes: Vec<&String> = ready_made.keys().collect();
        for code in profile.texts.keys() {
            let twice = profile.texts.keys().filter(|other| language::same(other, code)).count() > 1;
            if twice || !language::is_code(code) {
                let value = if twice { "there twice" } else { "no code of a language" };
                return Err(Invalid::new(format!("texts.{code}"), value, "a BCP 47 code, such as pt-BR, once"));
            }
            if !codes.iter().any(|other| language::same(other, code)) {
                codes.push(code);
            }
        }
        let languages = codes
            .into_iter()
            .map(|code| {
                let sources = language::fallbacks(code)
                    .flat_map(|code| [find(&profile.texts, code), find(&ready_made, code)])
                    .flatten();
                complete(code, &sources.collect::<Vec<_>>())
            })
            .collect::<Result<Vec<_>, _>>()?;
        let default = position(&languages, &profile.language)
            .ok_or_else(|| Invalid::new("language", format_args!("{:?}", profile.language), "a language with texts"))?;
        Ok(Replies { languages, default })
    }

    /// The texts for a code, or for what it falls back to.
    pub(super) fn language(&self, code: &str) -> Option<&Language> {
        position(&self.languages, code).map(|n| &self.languages[n])
    }

    /// The texts of the profile's own language.
    pub(super) fn default_language(&self) -> &Language {
        &self.languages[self.default]
    }
}

fn find<'a>(texts: &'a BTreeMap<String, Texts>, code: &str) -> Option<&'a Texts> {
    texts.iter().find(|(other, _)| language::same(other, code)).map(|(_, texts)| texts)
}

fn position(languages: &[Language], code: &str) -> Option<usize> {
    language::fallbacks(code)
        .find_map(|code| languages.iter().position(|language| language::same(&language.code, code)))
}

/// Takes each text of a language from the first of `sources` that has it.
fn complete(code: &str, sources: &[&Texts]) -> Result<Language, Invalid> {
    let text = |name: &str, field: fn(&Texts) -> &Option<String>, parts: &[&str]| {
        let text = sources.iter().find_map(|texts| field(texts).as_deref());
        let invalid =
            |value: &dyn std::fmt::Display, expected| Invalid::new(format!("texts.{code}.{name}"), value, expected);
        match text {
            None => Err(invalid(&"not there", "a text, for there is no ready-made one".to_owned())),
            Some(text) if text.trim().is_empty() => Err(invalid(&"empty", "a text".to_owned())),
            Some(text) => match parts.iter().find(|part| !text.contains(**part)) {
                Some(part) => Err(invalid(&format_args!("{text:?}"), format!("a text with {part}"))),
                None => Ok(text.to_owned()),
            },
        }
    };
    Ok(Language {
        refusal: text("refusal", |texts| &texts.refusal, &[])?,
        refusal_with_offer: text("refusal_with_offer", |texts| &texts.refusal_with_offer, &[])?,
        hand_off: text("hand_off", |texts| &texts.hand_off, &[])?,
        text_only: text("text_only", |texts| &texts.text_only, &[])?,
        ask_back: text("ask_back", |texts| &texts.ask_back, &["{first}", "{second}"])?,
        flows: [
            text("flows.order", |texts| &texts.flows.order, &[])?,
            text("flows.appointment", |texts| &texts.flows.appointment, &[])?,
            text("flows.faq", |texts| &texts.flows.faq, &[])?,
            text("flows.shopping_guide", |texts| &texts.flows.shopping_guide, &[])?,
        ],
        code: code.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ProfileError;
    use std::collections::BTreeSet;

    fn replies(toml: &str) -> Replies {
        Replies::new(&Profile::from_toml(toml).unwrap()).unwrap()
    }

    #[test]
    fn every_shipped_language_has_its_own_texts() {
        let replies = replies("");
        let codes: Vec<&str> = replies.languages.iter().map(|language| language.code.as_str()).collect();
        assert_eq!(
            codes,
            [
                "ar", "de", "en", "es", "fr", "hi", "hi-Latn", "id", "it", "ja", "ko", "ms", "nl", "pl", "pt", "ru",
                "th", "tr", "vi", "zh", "zh-Hant"
            ]
        );
        let fields: [fn(&Language) -> &String; 5] =
            [|l| &l.refusal, |l| &l.refusal_with_offer, |l| &l.hand_off, |l| &l.text_only, |l| &l.ask_back];
        for field in fields {
            let texts: BTreeSet<&String> = replies.languages.iter().map(field).collect();
            assert_eq!(texts.len(), codes.len(), "two languages say the same");
        }
        for language in &replies.languages {
            assert!(language.refusal_with_offer.starts_with(&language.refusal), "{}", language.code);
            for first in Flow::ALL {
                for second in Flow::ALL {
                    let question = language.ask_back([first, second]);
                    assert!(
                        question.contains(&language.flows[first as usize]) && !question.contains('{'),
                        "{question}"
                    );
                    assert!(question.contains(&language.flows[second as usize]), "{question}");
                }
            }
        }
    }

    #[test]
    fn codes_fall_back() {
        let replies = replies("language = 'pt-BR'");
        for (code, found) in [
            ("pt-BR", "pt"),
            ("zh-TW", "zh-Hant"),
            ("zh_CN", "zh"),
            ("hi-Latn", "hi-Latn"),
            ("hi-IN", "hi"),
            ("EN", "en"),
        ] {
            assert_eq!(replies.language(code).map(|language| language.code.as_str()), Some(found), "{code}");
        }
        assert!(["und", "mul", "sv", ""].iter().all(|code| replies.language(code).is_none()));
        assert_eq!(replies.default_language().code, "pt");
    }

    #[test]
    fn own_texts_stand_over_the_ready_made_ones_of_the_region_and_the_language() {
        let replies =
            replies("[texts.pt]\nrefusal = 'Não'\n[texts.pt-BR]\nhand_off = 'Já vai'\n[texts.pt.flows]\nfaq = 'F'");
        let (pt, br) = (replies.language("pt").unwrap(), replies.language("pt_br").unwrap());
        assert_eq!((br.code.as_str(), br.refusal.as_str(), br.hand_off.as_str()), ("pt-BR", "Não", "Já vai"));
        assert_eq!((&pt.text_only, pt.flows[2].as_str()), (&br.text_only, "F"));
        assert_ne!(pt.hand_off, br.hand_off);
    }

    #[test]
    fn texts_that_say_nothing_are_errors() {
        for (toml, found) in [
            ("[texts.en]\nrefusal = ' '", "line 2: texts.en.refusal is empty"),
            ("[texts.en]\nask_back = 'What?'", "line 2: texts.en.ask_back is \"What?\", expected a text with {first}"),
            ("[texts.sv]\nrefusal = 'Nej'", "line 1: texts.sv.refusal_with_offer is not there"),
            ("[texts.english]\nrefusal = 'No'", "line 1: texts.english is no code"),
            ("[texts.en]\n[texts.EN]", "texts.EN is there twice"),
            ("language = 'sv'", "line 1: language is \"sv\""),
        ] {
            match Profile::from_toml(toml) {
                Err(error @ ProfileError::Value { .. }) => {
                    assert!(error.to_string().contains(found), "{error}");
                }
                other => panic!("{toml}: {other:?}"),
            }
        }
    }
}
