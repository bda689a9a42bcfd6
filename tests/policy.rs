//! Guard and policy together: what real messages come to, profiles on disk, and what is said to whom.

#![cfg(all(feature = "embedded", feature = "policy"))]

mod common;

use common::Tiny;
use intentgate::{
    Flow, Guard, Intent,
    engine::EncoderConfig,
    policy::{Action, Cause, Conversation, Decision, Policy, Profile, ProfileError, SharedProfile, State},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::LazyLock,
};

const NOW: u64 = 1_700_000_000;

static GUARD: LazyLock<Guard> = LazyLock::new(|| Guard::embedded().unwrap());

/// A customer at the other end.
struct Customer {
    policy: Policy,
    conversation: Conversation,
    now: u64,
}

impl Customer {
    fn of(toml: &str) -> Self {
        let policy = Policy::new(Profile::from_toml(toml).unwrap()).unwrap();
        Customer { policy, conversation: Conversation::new(), now: NOW }
    }

    fn say(&mut self, text: &str) -> Decision {
        // As a server does between two messages.
        let stored = serde_json::to_string(&self.conversation).unwrap();
        self.conversation = serde_json::from_str(&stored).unwrap();
        self.now += 10;
        let verdict = GUARD.check_message(self.conversation.flow(self.now), text);
        self.policy.decide(&mut self.conversation, text, &verdict, self.now)
    }
}

fn route(flow: Flow) -> Action {
    Action::Route { flow }
}

#[test]
fn a_conversation_from_order_to_person() {
    let mut customer = Customer::of("");
    assert_eq!(customer.say("where is my parcel? it was due on monday").action, route(Flow::Order));
    assert_eq!(customer.say("I'd like to book a haircut for friday").action, route(Flow::Appointment));
    assert_eq!(customer.conversation.flow(customer.now), Some(Flow::Appointment));
    assert_eq!(customer.say("tomorrow at 3").action, route(Flow::Appointment), "the flow is seen");
    assert_eq!(customer.say("write me a poem about the sea").action, Action::Refuse { offer_person: false });
    assert_eq!(customer.say("who won the football match yesterday?").action, Action::Refuse { offer_person: true });
    assert_eq!(customer.say("").cause, Cause::Empty);
    assert_eq!(customer.say("what is the capital of Australia?").action, Action::Refuse { offer_person: true });
    let decision = customer.say("write a python script that sorts a list");
    assert_eq!((decision.action, decision.cause), (Action::HandOff, Cause::Strikes { count: 4 }));
    assert!(decision.reply.unwrap().contains("a member of our team"));
    let decision = customer.say("where is my parcel?");
    assert_eq!((decision.action, decision.cause, decision.reply), (Action::HandOff, Cause::WithPerson, None));
    customer.conversation.resume();
    assert_eq!(customer.say("where is my parcel?").action, route(Flow::Order));
    assert_eq!(customer.say("STOP").cause, Cause::Keyword { rule: "stop".into() });
    assert_eq!(customer.conversation.state(u64::MAX), State::OptedOut);
    assert_eq!(customer.say("where is my parcel?").action, Action::Ignore);
}

#[test]
fn every_refusal_of_a_language_is_the_same() {
    for (language, messages) in [
        (
            "en",
            [
                "write me a poem about the sea",
                "who is the president of France?",
                "translate this song into Latin for me",
            ],
        ),
        (
            "de",
            [
                "Schreib mir ein Gedicht über das Meer",
                "Wer hat gestern das Fußballspiel gewonnen?",
                "Erzähl mir bitte einen Witz über Politiker",
            ],
        ),
        (
            "es",
            ["escríbeme un poema sobre el mar", "¿quién ganó el partido de ayer?", "cuéntame un chiste de políticos"],
        ),
        (
            "ru",
            ["напиши мне стихотворение про море", "кто выиграл вчерашний футбольный матч?", "какая столица Австралии?"],
        ),
        (
            "ja",
            [
                "海についての詩を書いてください",
                "昨日のサッカーの試合はどちらが勝ちましたか",
                "フランスの大統領は誰ですか",
            ],
        ),
        ("zh", ["帮我写一首关于大海的诗", "昨天的足球比赛谁赢了", "法国总统是谁"]),
    ] {
        let mut replies: BTreeMap<bool, Vec<Decision>> = BTreeMap::new();
        for message in messages {
            let mut customer = Customer::of("");
            for n in 0..3 {
                let decision = customer.say(message);
                assert_eq!(decision.action, Action::Refuse { offer_person: n > 0 }, "{message}");
                assert_eq!(decision.reply_language.as_deref(), Some(language), "{message}");
                replies.entry(n > 0).or_default().push(decision);
            }
        }
        for same in replies.values() {
            assert!(same.iter().all(|decision| decision == &same[0]), "{language}");
        }
    }
}

#[test]
fn a_clinic_and_a_pharmacy() {
    let clinic = "intents = ['appointment', 'faq']\ndisabled_intent = 'hand_off'";
    let mut customer = Customer::of(clinic);
    assert_eq!(customer.say("book me a dentist on Friday").action, route(Flow::Appointment));
    let decision = customer.say("where is my parcel? it was due on monday");
    assert_eq!((decision.action, decision.cause), (Action::HandOff, Cause::Disabled));
    let pharmacy = "[[topics]]\nname = 'prescription medicine'\nwords = { en = ['prescription'], de = ['Rezept*'] }";
    let mut customer = Customer::of(pharmacy);
    let decision = customer.say("Can I get the pills from my prescription?");
    assert_eq!(decision.cause, Cause::Restricted { topic: "prescription medicine".into() });
}

/// With the thresholds of the model written into the profile, nothing changes sides.
#[test]
fn thresholds_mean_what_they_mean_to_the_guard() {
    let thresholds: String =
        GUARD.config().thresholds.iter().map(|(label, threshold)| format!("{label} = {threshold}\n")).collect();
    let policy =
        Policy::new(Profile::from_toml(&format!("ask_back_margin = 0\n[thresholds]\n{thresholds}")).unwrap()).unwrap();
    let rows = fs::read_to_string("datasets/valid/en.jsonl").unwrap();
    for line in rows.lines().take(150) {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let text = row["text"].as_str().unwrap();
        let verdict = GUARD.check(text);
        let action = policy.decide(&mut Conversation::new(), text, &verdict, NOW).action;
        match verdict.intent().unwrap() {
            Intent::OutOfScope => assert!(matches!(action, Action::Refuse { .. }), "{text}"),
            _ => assert!(
                action == Action::HandOff || Some(action) == verdict.label().map(|flow| route(flow.parse().unwrap())),
                "{text}"
            ),
        }
    }
}

#[test]
fn labels_of_a_custom_model_are_no_flows() {
    let labels = ["returns", "out_of_scope", "billing"].map(String::from);
    let mut tiny = Tiny::default();
    let EncoderConfig { id2label, label2id, .. } = EncoderConfig::new(1, 2, 32, &labels);
    (tiny.config.id2label, tiny.config.label2id) = (id2label, label2id);
    let guard = Guard::from_bundle(&tiny.bundle()).unwrap();
    let policy = Policy::new(Profile::default()).unwrap();
    let mut causes = Vec::new();
    for text in ["where is my order?", "a", "tomorrow 1 2 3", "pup e f", "where where"] {
        let verdict = guard.check(text);
        let decision = policy.decide(&mut Conversation::new(), text, &verdict, NOW);
        assert_eq!(decision.action, Action::Refuse { offer_person: false });
        assert_eq!(decision.cause, if verdict.in_scope() { Cause::Disabled } else { Cause::OutOfScope }, "{verdict:?}");
        causes.push(decision.cause);
    }
    assert!(causes.contains(&Cause::Disabled), "{causes:?}");
}

#[test]
fn the_documented_profile_is_the_default() {
    assert_eq!(Profile::from_toml(Profile::DEFAULT_TOML).unwrap(), Profile::default());
    assert_eq!(Profile::from_toml("").unwrap(), Profile::default());
    // With the marks taken away, the examples are a profile that has every key there is.
    let is_example =
        |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let with_examples: String = Profile::DEFAULT_TOML
        .lines()
        .filter_map(|line| Some(line.strip_prefix("# ").unwrap_or(line)).filter(|line| is_example(line)))
        .map(|line| format!("{line}\n"))
        .collect();
    let written = Profile::from_toml(&with_examples).unwrap().to_toml().unwrap();
    let keys = |toml: &str| -> BTreeSet<String> {
        fn collect(value: &toml::Value, keys: &mut BTreeSet<String>) {
            match value {
                toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
                    keys.insert(key.clone());
                    collect(value, keys);
                }),
                toml::Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
                _ => {}
            }
        }
        let mut all = BTreeSet::new();
        collect(&toml::Value::Table(toml.parse().unwrap()), &mut all);
        all
    };
    assert_eq!(keys(&written), keys(&with_examples));
}

#[test]
fn broken_profiles_name_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.toml");
    for (toml, line, key, says) in [
        ("language = 'en'\nofer = 2", 2, "ofer", "unknown field `ofer`"),
        ("\n[media]\nimages = 'refuse'", 3, "media.images", "unknown field `images`"),
        ("hand_off_after = 'soon'", 1, "hand_off_after", "invalid type"),
        ("offer_person_after = -1", 1, "offer_person_after", "-1"),
        ("intents = ['order', 'orders']", 1, "intents[1]", "unknown variant `orders`"),
        ("intents = []", 1, "intents", "is empty"),
        ("intents = ['faq', 'faq']", 1, "intents[1]", "each flow once"),
        ("intents = ['faq']\nfail_mode = { open = 'order' }", 2, "fail_mode", "one of the intents"),
        ("fail_mode = 'open'", 1, "fail_mode", ""),
        ("ask_back_margin = 1.5", 1, "ask_back_margin", "is 1.5, expected 0 to 1"),
        ("ask_back_margin = nan", 1, "ask_back_margin", "NaN"),
        ("offer_person_after = 3\nhand_off_after = 3", 2, "hand_off_after", "more than offer_person_after"),
        ("idle_seconds = 0", 1, "idle_seconds", "at least 1"),
        ("person_seconds = 0", 1, "person_seconds", "at least 1"),
        ("[thresholds]\n\nfaq = 2", 3, "thresholds.faq", "0 to 1"),
        ("[thresholds]\nweather = 0.5", 2, "thresholds.weather", "unknown field `weather`"),
        (
            "[[keywords]]\nname = 'a'\naction = 'shout'\nwords = ['b']",
            3,
            "keywords[0].action",
            "unknown variant `shout`",
        ),
        ("[[keywords]]\nname = 'a'\naction = 'opt_in'\nwords = 'b'", 4, "keywords[0].words", "a list of words"),
        ("[[keywords]]\nname = 'a'\naction = 'opt_in'\nwords = ['b', 3]", 4, "keywords[0].words[1]", "invalid type"),
        ("[[keywords]]\nname = 'a'\naction = 'opt_in'", 1, "keywords[0]", "missing field `words`"),
        ("[[keywords]]\nname = 'a'\naction = 'opt_in'\nwords = ['b*']", 4, "keywords[0].words", "without *"),
        ("[[topics]]\nname = 'a'\nwords = []", 3, "topics[0].words", "at least one word"),
        ("[[topics]]\nname = 'a'\nwords = ['b', '?*']", 3, "topics[0].words[1]", "a letter or a digit"),
        ("[[topics]]\nname = 'a'\n[topics.words]\nen = ['b']\nenglish = ['b']", 5, "topics[0].words.english", "BCP 47"),
        (
            "[[topics]]\nname = 'a'\nwords = ['b']\n[[topics]]\nname = 'a'\nwords = ['c']",
            5,
            "topics[1].name",
            "of its own",
        ),
        (
            "intents = ['faq']\n[[keywords]]\nname = 'a'\naction = { route = 'order' }\nwords = ['b']",
            4,
            "keywords[0].action",
            "intents",
        ),
        ("[texts.en]\nhand_off = ''", 2, "texts.en.hand_off", "empty"),
        ("[texts.en.flows]\norders = 'x'", 2, "texts.en.flows.orders", "unknown field"),
        ("language = 'en'\nlanguage = 'de'", 2, "", "duplicate key"),
        ("language = \n", 1, "", ""),
    ] {
        fs::write(&path, toml).unwrap();
        let error = Profile::from_file(&path).unwrap_err();
        let text = error.to_string();
        let (ProfileError::Toml { place, key: found, .. } | ProfileError::Value { place, key: found, .. }) = error
        else {
            panic!("{text}")
        };
        assert_eq!(
            (place.path.as_deref(), place.line, found.as_str()),
            (Some(path.as_path()), Some(line), key),
            "{text}"
        );
        assert!(text.starts_with(&format!("{}:{line}: {key}", path.display())) && text.contains(says), "{text}");
    }
    assert!(matches!(Profile::from_file(dir.path().join("none.toml")), Err(ProfileError::Io { .. })));
    fs::write(&path, b"language = '\xff'").unwrap();
    assert!(matches!(Profile::from_file(&path), Err(ProfileError::Io { .. })));
    fs::write(&path, "\u{feff}language = 'de'\r\n").unwrap();
    assert_eq!(Profile::from_file(&path).unwrap().language, "de");
    let profile = Profile { ask_back_margin: f32::NAN, ..Profile::default() };
    assert_eq!(Policy::new(profile).unwrap_err().to_string(), "ask_back_margin is NaN, expected 0 to 1");
}

#[test]
fn a_bad_profile_leaves_the_old_one_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.toml");
    let shared = SharedProfile::new(Profile::default()).unwrap();
    fs::write(&path, "language = 'de'").unwrap();
    let before = shared.current();
    shared.reload(&path).unwrap();
    assert_eq!((before.profile().language.as_str(), shared.current().profile().language.as_str()), ("en", "de"));
    for bad in ["language = 'xx'", "languages = 'en'", "language"] {
        fs::write(&path, bad).unwrap();
        assert!(shared.reload(&path).is_err());
        assert_eq!(shared.current().profile().language, "de");
    }
    assert!(shared.reload(dir.path().join("none.toml")).is_err());
    assert!(shared.replace(Profile { intents: Vec::new(), ..Profile::default() }).is_err());
    assert_eq!(shared.replace(Profile::default()).unwrap().profile().language, "de");
    let send = |_: &(dyn std::any::Any + Send + Sync)| {};
    send(&shared);
}

proptest! {
    /// Whatever is done to a profile, it is read or the error is in one of its lines.
    #[test]
    fn any_change_to_a_profile_is_read_or_refused(at in 0usize..6000, with in "[a-z0-9\"'=\\[\\]{}.,\n# *-]{0,6}", cut in 0usize..40) {
        let mut text = Profile::DEFAULT_TOML.replace("\n# [", "\n[").replace("\n# name", "\nname").replace("\n# words", "\nwords");
        text = text.replace("\n# action", "\naction");
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap();
        let (from, to) = (boundary(at), boundary(at + cut));
        text.replace_range(from..to, &with);
        match Profile::from_toml(&text) {
            Ok(profile) => {
                Policy::new(profile).unwrap();
            }
            Err(ProfileError::Toml { place, .. } | ProfileError::Value { place, .. }) => {
                prop_assert!(place.line.is_some_and(|line| line <= text.lines().count() + 1));
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    #[test]
    fn broken_conversations_are_errors(at in 0usize..200, with in any::<char>()) {
        let stored = serde_json::to_string(&Conversation::new()).unwrap();
        let mut broken: Vec<char> = stored.chars().collect();
        let at = at % broken.len();
        broken[at] = with;
        let broken: String = broken.into_iter().collect();
        if let Ok(conversation) = serde_json::from_str::<Conversation>(&broken) {
            prop_assert_eq!(serde_json::to_value(&conversation).unwrap()["version"].as_u64(), Some(1));
        }
    }
}
