//! What a merchant sets: the profile of a business.

use super::{
    Policy,
    profile_error::{Invalid, ProfileError},
};
use crate::label::Flow;
use serde::{Deserialize, Deserializer, Serialize, de};
use std::{collections::BTreeMap, fmt, fs, path::Path};

/// The profile of a business, from a TOML file.
///
/// Keys that are left out keep their defaults; unknown keys are errors. This is the default, with what each key means:
#[doc = concat!("```toml\n", include_str!("profile.toml"), "```")]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// BCP 47 code of the language of replies while the customer's is not known.
    pub language: String,
    /// The flows that the bot serves; at least one.
    pub intents: Vec<Flow>,
    /// What becomes of a message about anything else in the business.
    pub disabled_intent: DisabledIntent,
    /// Two served flows closer to each other than this are asked about, 0 to 1; 0 never asks.
    pub ask_back_margin: f32,
    /// From so many out-of-scope messages in a row on, the refusal offers a person; 0 = never.
    pub offer_person_after: u32,
    /// At so many out-of-scope messages in a row a person takes over; above `offer_person_after`, or 0 = never.
    pub hand_off_after: u32,
    /// Seconds without a message until active flow and strikes are forgotten; at least 1.
    pub idle_seconds: u64,
    /// Seconds without a message until a conversation goes from a person back to the bot; at least 1.
    pub person_seconds: u64,
    /// What happens when the guard cannot answer.
    pub fail_mode: FailMode,
    /// Whether the ready-made words for a person, "stop" and "start" count.
    pub ready_made_keywords: bool,
    /// Words that decide alone when they are the whole message.
    pub keywords: Vec<Keyword>,
    /// What goes to a person wherever it is mentioned.
    pub topics: Vec<Topic>,
    /// OOS scores, 0 to 1, above which a message for a flow is refused, in place of those of the model.
    pub thresholds: PerFlow<Option<f32>>,
    /// What to do with messages that are no text.
    pub media: Media,
    /// Texts in place of the ready-made ones, by BCP 47 code.
    pub texts: BTreeMap<String, Texts>,
}

/// What becomes of a message about a flow that the bot does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledIntent {
    /// It counts as out of scope, strikes included.
    Refuse,
    /// It goes to a person.
    HandOff,
}

/// What happens when the guard cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailMode {
    /// A person takes over.
    Closed,
    /// Everything goes to this flow.
    Open(Flow),
}

/// What a keyword, a button or a list row asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Go to a flow.
    Route(Flow),
    /// Get a person.
    HandOff,
    /// Hear nothing more from the bot.
    OptOut,
    /// Hear from it again.
    OptIn,
}

/// Words that decide alone when they are the whole message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyword {
    /// The name in decisions and audit records.
    pub name: String,
    /// What the customer asks for with them.
    pub action: Command,
    /// The words or phrases.
    pub words: Words,
}

/// What goes to a person wherever it is mentioned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    /// The name in decisions and audit records.
    pub name: String,
    /// The words or phrases; one with `*` at its end may have any ending.
    pub words: Words,
}

/// Words or phrases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Words {
    /// Whatever the language of the message.
    All(Vec<String>),
    /// By BCP 47 code, for messages in that language, in a related one, or in one that is not known.
    ByLanguage(BTreeMap<String, Vec<String>>),
}

/// One value for each flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerFlow<T: Default> {
    /// For [`Flow::Order`].
    pub order: T,
    /// For [`Flow::Appointment`].
    pub appointment: T,
    /// For [`Flow::Faq`].
    pub faq: T,
    /// For [`Flow::ShoppingGuide`].
    pub shopping_guide: T,
}

impl<T: Default> PerFlow<T> {
    /// The value for `flow`.
    pub fn get(&self, flow: Flow) -> &T {
        match flow {
            Flow::Order => &self.order,
            Flow::Appointment => &self.appointment,
            Flow::Faq => &self.faq,
            Flow::ShoppingGuide => &self.shopping_guide,
        }
    }
}

/// A message that is no text. One with a caption is best decided by [`Policy::decide`] on the caption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MediaKind {
    /// A photo.
    Image,
    /// A film.
    Video,
    /// Speech.
    Voice,
    /// A sticker or a reaction.
    Sticker,
    /// A place on the map.
    Location,
    /// Somebody's contact.
    Contact,
    /// A file.
    Document,
    /// Anything else.
    Unknown,
}

/// What the bot does with a message that it does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaAction {
    /// Route it to the flow that the bot is in; outside a served flow, as [`MediaAction::Refuse`].
    ActiveFlow,
    /// Ask for text. This is no strike.
    Refuse,
    /// Give it to a person.
    HandOff,
    /// Do nothing.
    Ignore,
}

/// What to do with each [`MediaKind`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Media {
    /// For [`MediaKind::Image`], such as the photo of a damaged parcel.
    pub image: MediaAction,
    /// For [`MediaKind::Video`].
    pub video: MediaAction,
    /// For [`MediaKind::Voice`].
    pub voice: MediaAction,
    /// For [`MediaKind::Sticker`].
    pub sticker: MediaAction,
    /// For [`MediaKind::Location`], such as a place of delivery.
    pub location: MediaAction,
    /// For [`MediaKind::Contact`].
    pub contact: MediaAction,
    /// For [`MediaKind::Document`].
    pub document: MediaAction,
    /// For [`MediaKind::Unknown`], and for replies with an unknown id.
    pub unknown: MediaAction,
}

impl Media {
    /// What to do with `kind`.
    pub fn get(&self, kind: MediaKind) -> MediaAction {
        match kind {
            MediaKind::Image => self.image,
            MediaKind::Video => self.video,
            MediaKind::Voice => self.voice,
            MediaKind::Sticker => self.sticker,
            MediaKind::Location => self.location,
            MediaKind::Contact => self.contact,
            MediaKind::Document => self.document,
            MediaKind::Unknown => self.unknown,
        }
    }
}

/// What the bot says in one language. In a profile, what is left out stays ready-made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Texts {
    /// The uniform refusal.
    pub refusal: Option<String>,
    /// The same with the offer of a person.
    pub refusal_with_offer: Option<String>,
    /// A person takes over.
    pub hand_off: Option<String>,
    /// Which of two flows is meant; names them by `{first}` and `{second}`.
    pub ask_back: Option<String>,
    /// The bot reads only text.
    pub text_only: Option<String>,
    /// What the flows are called in `ask_back`.
    pub flows: PerFlow<Option<String>>,
}

impl Default for Profile {
    fn default() -> Self {
        Profile {
            language: "en".into(),
            intents: Flow::ALL.to_vec(),
            disabled_intent: DisabledIntent::Refuse,
            ask_back_margin: 0.2,
            offer_person_after: 2,
            hand_off_after: 4,
            idle_seconds: 30 * 60,
            person_seconds: 24 * 60 * 60,
            fail_mode: FailMode::Closed,
            ready_made_keywords: true,
            keywords: Vec::new(),
            topics: Vec::new(),
            thresholds: PerFlow::default(),
            media: Media::default(),
            texts: BTreeMap::new(),
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Media {
            image: MediaAction::ActiveFlow,
            video: MediaAction::ActiveFlow,
            voice: MediaAction::Refuse,
            sticker: MediaAction::Ignore,
            location: MediaAction::ActiveFlow,
            contact: MediaAction::Refuse,
            document: MediaAction::ActiveFlow,
            unknown: MediaAction::Refuse,
        }
    }
}

impl Profile {
    /// The default as a commented TOML file, to begin a profile from.
    pub const DEFAULT_TOML: &str = include_str!("profile.toml");

    /// Reads a profile.
    ///
    /// # Errors
    /// [`ProfileError`] with line and key when the text is no TOML, has an unknown key, or a value that cannot be used.
    pub fn from_toml(text: &str) -> Result<Self, ProfileError> {
        let profile: Profile = toml::from_str(text).map_err(|error| ProfileError::toml(text, &error))?;
        match Policy::build(profile) {
            Ok(policy) => Ok(policy.into_profile()),
            Err(invalid) => Err(invalid.in_toml(text)),
        }
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    /// [`ProfileError::Io`], and as [`Profile::from_toml`], with the name of the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ProfileError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| ProfileError::Io { path: path.to_owned(), source })?;
        Self::from_toml(&text).map_err(|error| error.in_file(path))
    }

    /// Writes the profile, with all its keys and without comments.
    ///
    /// # Errors
    /// [`ProfileError::Value`] when a value is more than TOML can hold, such as seconds above `i64::MAX`.
    pub fn to_toml(&self) -> Result<String, ProfileError> {
        toml::to_string(self).map_err(|error| Invalid::new("profile", error, "what TOML can hold").into())
    }

    /// Whether the bot serves `flow`.
    pub fn serves(&self, flow: Flow) -> bool {
        self.intents.contains(&flow)
    }

    /// Checks the values that stand for themselves; words and texts are checked where they are compiled.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let expect = |ok: bool, key: &str, value: &dyn fmt::Display, expected: &str| {
            if ok { Ok(()) } else { Err(Invalid::new(key, value, expected)) }
        };
        expect(!self.intents.is_empty(), "intents", &"empty", "at least one flow")?;
        for (n, flow) in self.intents.iter().enumerate() {
            expect(!self.intents[..n].contains(flow), &format!("intents[{n}]"), flow, "each flow once")?;
        }
        let served =
            |flow: Flow, key: &str| expect(self.serves(flow), key, &flow, "one of the intents of this profile");
        if let FailMode::Open(flow) = self.fail_mode {
            served(flow, "fail_mode")?;
        }
        for (n, keyword) in self.keywords.iter().enumerate() {
            if let Command::Route(flow) = keyword.action {
                served(flow, &format!("keywords[{n}].action"))?;
            }
        }
        let zero_to_one = |x: f32, key: &str| expect((0.0..=1.0).contains(&x), key, &x, "0 to 1");
        zero_to_one(self.ask_back_margin, "ask_back_margin")?;
        for flow in Flow::ALL {
            if let Some(threshold) = *self.thresholds.get(flow) {
                zero_to_one(threshold, &format!("thresholds.{flow}"))?;
            }
        }
        expect(
            self.hand_off_after == 0 || self.hand_off_after > self.offer_person_after,
            "hand_off_after",
            &self.hand_off_after,
            "more than offer_person_after, or 0",
        )?;
        expect(self.idle_seconds > 0, "idle_seconds", &self.idle_seconds, "at least 1")?;
        expect(self.person_seconds > 0, "person_seconds", &self.person_seconds, "at least 1")?;
        unique("keywords", self.keywords.iter().map(|keyword| &keyword.name))?;
        unique("topics", self.topics.iter().map(|topic| &topic.name))
    }
}

/// Audit records tell rules apart by their names.
fn unique<'a>(list: &str, names: impl Iterator<Item = &'a String> + Clone) -> Result<(), Invalid> {
    for (n, name) in names.clone().enumerate() {
        if name.trim().is_empty() || names.clone().take(n).any(|other| other == name) {
            return Err(Invalid::new(format!("{list}[{n}].name"), format_args!("{name:?}"), "a name of its own"));
        }
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Words {
    /// By hand, because an untagged enum would forget where in the file an error is, and what it was.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of words, or lists of words by language")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Words, A::Error> {
                Deserialize::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Words::All)
            }

            fn visit_map<A: de::MapAccess<'de>>(self, table: A) -> Result<Words, A::Error> {
                Deserialize::deserialize(de::value::MapAccessDeserializer::new(table)).map(Words::ByLanguage)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
