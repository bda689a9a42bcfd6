//! Finds keywords and topics in a message. All rules are compiled once; a message is looked at once for all of them.

use super::{
    language,
    profile::{Command, Profile, Words},
    profile_error::Invalid,
};
use crate::text;
use aho_corasick::AhoCorasick;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use unicode_normalization::char::is_combining_mark;

/// The keywords and topics of a profile.
#[derive(Debug)]
pub(super) struct Keywords {
    rules: Vec<Rule>,
    /// The rules that have this text as a keyword, first rule first.
    whole: HashMap<Box<str>, Vec<Use>>,
    topics: Vec<String>,
    /// Finds the words of all topics, which `uses` says more about.
    finder: AhoCorasick,
    uses: Vec<TopicUse>,
}

/// What a keyword stands for.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) command: Command,
}

/// A word of a rule or topic.
#[derive(Debug)]
struct Use {
    /// Of which rule or topic.
    owner: usize,
    /// For messages in which language only.
    language: Option<Box<str>>,
}

#[derive(Debug)]
struct TopicUse {
    word: Use,
    any_ending: bool,
}

/// The ready-made control words, by language.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadyMade {
    person: BTreeMap<String, Vec<String>>,
    stop: BTreeMap<String, Vec<String>>,
    start: BTreeMap<String, Vec<String>>,
}

impl Use {
    fn counts(&self, message: Option<&str>) -> bool {
        match (&self.language, message) {
            (Some(language), Some(message)) => language::related(language, message),
            _ => true,
        }
    }
}

impl Keywords {
    pub(super) fn new(profile: &Profile) -> Result<Self, Invalid> {
        let mut rules = Vec::new();
        let mut whole: HashMap<Box<str>, Vec<Use>> = HashMap::new();
        for (n, keyword) in profile.keywords.iter().enumerate() {
            let key = format!("keywords[{n}].words");
            for word in words(&keyword.words, &key)? {
                if word.any_ending {
                    return Err(Invalid::new(
                        key,
                        format_args!("\"{}*\"", word.canonical),
                        "whole messages, without *",
                    ));
                }
                let language = word.language.map(Into::into);
                whole.entry(word.canonical.into()).or_default().push(Use { owner: n, language });
            }
            rules.push(Rule { name: keyword.name.clone(), command: keyword.action });
        }
        if profile.ready_made_keywords {
            let ready_made: ReadyMade = toml::from_str(include_str!("keywords.toml"))
                .map_err(|error| Invalid::new("keywords.toml", error, "words by rule and language"))?;
            for (name, command, words) in [
                ("person", Command::HandOff, ready_made.person),
                ("stop", Command::OptOut, ready_made.stop),
                ("start", Command::OptIn, ready_made.start),
            ] {
                // A word that stands alone says nothing about its language, so these count in all of them.
                for word in words.values().flatten() {
                    let word = Canonical::new(word).into_string();
                    whole.entry(word.into()).or_default().push(Use { owner: rules.len(), language: None });
                }
                rules.push(Rule { name: name.into(), command });
            }
        }
        let (mut patterns, mut uses) = (Vec::new(), Vec::new());
        for (n, topic) in profile.topics.iter().enumerate() {
            for word in words(&topic.words, &format!("topics[{n}].words"))? {
                let language = word.language.map(Into::into);
                uses.push(TopicUse { word: Use { owner: n, language }, any_ending: word.any_ending });
                patterns.push(word.canonical);
            }
        }
        let finder = AhoCorasick::new(&patterns)
            .map_err(|error| Invalid::new("topics", error, "as many as can be searched for"))?;
        let topics = profile.topics.iter().map(|topic| topic.name.clone()).collect();
        Ok(Keywords { rules, whole, topics, finder, uses })
    }

    /// The rule that has the whole message as a keyword; `language` is that of the message, where it is known.
    pub(super) fn rule(&self, message: &Canonical, language: Option<&str>) -> Option<&Rule> {
        let uses = self.whole.get(message.as_str())?;
        uses.iter().find(|word| word.counts(language)).map(|word| &self.rules[word.owner])
    }

    /// The first topic that is mentioned in the message.
    pub(super) fn topic(&self, Canonical(message): &Canonical, language: Option<&str>) -> Option<&str> {
        self.finder
            .find_overlapping_iter(message)
            .filter(|found| {
                let TopicUse { word, any_ending } = &self.uses[found.pattern().as_usize()];
                word.counts(language)
                    && is_boundary(message, found.start())
                    && (*any_ending || takes_endings(&message[found.range()]) || is_boundary(message, found.end()))
            })
            .map(|found| self.uses[found.pattern().as_usize()].word.owner)
            .min()
            .map(|topic| self.topics[topic].as_str())
    }
}

/// A word of a profile.
struct Word<'a> {
    canonical: String,
    language: Option<&'a str>,
    any_ending: bool,
}

/// All words of a rule or topic, which stand under `key` in the profile.
fn words<'a>(words: &'a Words, key: &str) -> Result<Vec<Word<'a>>, Invalid> {
    let lists: Vec<(Option<&str>, String, &Vec<String>)> = match words {
        Words::All(words) => vec![(None, key.to_owned(), words)],
        Words::ByLanguage(lists) => {
            lists.iter().map(|(code, words)| (Some(code.as_str()), format!("{key}.{code}"), words)).collect()
        }
    };
    let mut all = Vec::new();
    for (language, key, words) in lists {
        if let Some(code) = language.filter(|code| !language::is_code(code)) {
            return Err(Invalid::new(key, format_args!("for {code:?}"), "a BCP 47 code, such as pt-BR"));
        }
        for (n, word) in words.iter().enumerate() {
            let (word, any_ending) = word.strip_suffix('*').map_or((word.as_str(), false), |word| (word, true));
            let canonical = Canonical::new(word).into_string();
            if canonical.is_empty() {
                return Err(Invalid::new(
                    format!("{key}[{n}]"),
                    format_args!("{word:?}"),
                    "a letter or a digit at least",
                ));
            }
            all.push(Word { canonical, language, any_ending });
        }
    }
    if all.is_empty() { Err(Invalid::new(key, "empty", "at least one word")) } else { Ok(all) }
}

/// A message or word as they are compared: normalised, with a space in place of everything that is not part of a word.
#[derive(Debug)]
pub(super) struct Canonical(String);

impl Canonical {
    pub(super) fn new(text: &str) -> Self {
        let normal = text::normalize(text);
        let mut words = String::with_capacity(normal.len());
        for c in normal.chars() {
            // Lower case makes an i of the I that Turkish has for both.
            let c = if c == 'ı' { 'i' } else { c };
            let in_word = words.chars().next_back().is_some_and(|last| last != ' ');
            if is_word(c) || (in_word && is_inside_word(c)) {
                words.push(c);
            } else if in_word {
                words.push(' ');
            }
        }
        words.truncate(words.trim_end().len());
        Canonical(words)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn into_string(self) -> String {
        self.0
    }
}

fn is_word(c: char) -> bool {
    // "18+", "5%" and "B&B" are other words than "18", "5" and "B B".
    c.is_alphanumeric() || matches!(c, '+' | '%' | '&')
}

/// Marks on letters, and joiners that are spelling. Those of emoji do not follow a letter.
fn is_inside_word(c: char) -> bool {
    is_combining_mark(c) || matches!(c, '\u{200c}' | '\u{200d}')
}

/// Whether a word may begin or end at `at`: anywhere in scripts without spaces.
fn is_boundary(text: &str, at: usize) -> bool {
    let (Some(before), Some(after)) = (text[..at].chars().next_back(), text[at..].chars().next()) else { return true };
    before == ' ' || after == ' ' || is_unspaced(before) || is_unspaced(after)
}

/// Korean writes particles onto its nouns.
fn takes_endings(word: &str) -> bool {
    word.chars().next_back().is_some_and(|last| ('\u{ac00}'..='\u{d7a3}').contains(&last))
}

/// Han, kana, Thai, Lao, Burmese and Khmer.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3005}'..='\u{3007}')
        || matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}')
        || matches!(c, '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keywords(toml: &str) -> Keywords {
        Keywords::new(&Profile::from_toml(toml).unwrap()).unwrap()
    }

    fn command(keywords: &Keywords, text: &str) -> Option<Command> {
        keywords.rule(&Canonical::new(text), None).map(|rule| rule.command)
    }

    fn topic<'a>(keywords: &'a Keywords, text: &str, language: Option<&str>) -> Option<&'a str> {
        keywords.topic(&Canonical::new(text), language)
    }

    #[test]
    fn control_words_of_every_language_stand_for_one_thing() {
        let ready_made: BTreeMap<String, BTreeMap<String, Vec<String>>> =
            toml::from_str(include_str!("keywords.toml")).unwrap();
        let keywords = keywords("");
        for (name, expected) in [("person", Command::HandOff), ("stop", Command::OptOut), ("start", Command::OptIn)] {
            assert_eq!(ready_made[name].len(), 21);
            for (language, words) in &ready_made[name] {
                for word in words {
                    for text in [word.clone(), word.to_uppercase(), format!("  {word} !! 🙏"), format!("“{word}”.")]
                    {
                        assert_eq!(command(&keywords, &text), Some(expected), "{language}: {text}");
                    }
                    assert_eq!(command(&keywords, &format!("{word} 8841 {word}")), None, "{language}: {word}");
                }
            }
        }
        assert!(ready_made["stop"].values().all(|words| words.contains(&"stop".to_owned())));
    }

    #[test]
    fn the_ready_made_offer_names_a_ready_made_keyword() {
        #[derive(Deserialize)]
        struct Offer {
            refusal_with_offer: String,
        }
        let offers: BTreeMap<String, Offer> = toml::from_str(include_str!("replies.toml")).unwrap();
        let keywords = keywords("");
        for (language, Offer { refusal_with_offer }) in offers {
            let quoted = refusal_with_offer.split(['“', '”', '„', '«', '»', '「', '」', '‘', '’']).nth(1).unwrap();
            assert_eq!(command(&keywords, quoted), Some(Command::HandOff), "{language}: {quoted}");
        }
    }

    #[test]
    fn disguises_do_not_matter_and_business_is_no_control_word() {
        let keywords = keywords("");
        for text in ["ＳＴＯＰ", "s\u{200b}top", "stоp", "Stop.\n", "STOP!!! 😡", "👩\u{200d}🍳 stop 👩\u{200d}🍳"]
        {
            assert_eq!(command(&keywords, text), Some(Command::OptOut), "{text}");
        }
        for text in
            ["stop my order", "stop order 8841", "agent 007 dvd", "is the travel agent in?", "don't stop", "", "🛑"]
        {
            assert_eq!(command(&keywords, text), None, "{text}");
        }
        assert_eq!(command(&keywords, "don’t message me"), Some(Command::OptOut));
    }

    #[test]
    fn topics_are_whole_words_or_phrases_where_there_are_spaces() {
        let keywords = keywords(
            "[[topics]]\nname = 'medicine'\nwords = ['antibiotic*', 'sleeping pill', '18+', '处方药', 'ยานอนหลับ', 'rx', '처방약']\n\
             [[topics]]\nname = 'weapon'\nwords = { de = ['Gift'], en = ['poison'] }",
        );
        for text in [
            "do you have ANTIBIOTICS?",
            "a (sleeping-pill) please",
            "sleeping\npill",
            "films 18+?",
            "我想买处方药可以吗",
            "有rx吗",
            "มียานอนหลับไหม",
            "처방약은 있어요?",
            "ａntіbiоtiс",
        ] {
            assert_eq!(topic(&keywords, text, None), Some("medicine"), "{text}");
        }
        for text in
            ["sleeping pillow", "18 roses", "2018+", "proantibiotic", "marx", "한처방약", "", "sleeping, and a pill"]
        {
            assert_eq!(topic(&keywords, text, None), None, "{text}");
        }
        let gift = |language| topic(&keywords, "a gift for my dad", language);
        assert_eq!((gift(Some("en")), gift(Some("de")), gift(None)), (None, Some("weapon"), Some("weapon")));
        assert_eq!(topic(&keywords, "rx or poison", None), Some("medicine"), "the first in the profile");
    }

    #[test]
    fn own_keywords_win_and_ready_made_ones_can_go() {
        let own = "[[keywords]]\nname = 'x'\naction = { route = 'faq' }\nwords = { de = ['agent'] }";
        let with = keywords(own);
        let rule = |language| with.rule(&Canonical::new("Agent"), language).map(|rule| rule.name.as_str());
        assert_eq!((rule(Some("de")), rule(Some("en"))), (Some("x"), Some("person")));
        let without = keywords(&format!("ready_made_keywords = false\n{own}"));
        assert_eq!(
            (command(&without, "stop"), command(&without, "agent")),
            (None, Some(Command::Route(crate::Flow::Faq)))
        );
    }

    proptest! {
        #[test]
        fn any_text_is_searched(text in any::<String>(), word in "[a-cä你ก한 ]{1,3}") {
            prop_assume!(!Canonical::new(&word).as_str().is_empty());
            let toml = format!("ready_made_keywords = false\n[[topics]]\nname = 't'\nwords = ['{word}']");
            let keywords = keywords(&toml);
            topic(&keywords, &text, None);
            prop_assert_eq!(topic(&keywords, &format!("{text} {word}. {text}"), None), Some("t"));
        }

        #[test]
        fn canonical_text_is_a_fixed_point(text in any::<String>()) {
            let once = Canonical::new(&text);
            prop_assert_eq!(Canonical::new(once.as_str()).into_string(), once.as_str());
            prop_assert!(!once.as_str().contains("  ") && once.as_str().trim() == once.as_str());
        }
    }
}
