//! What the policy remembers of a conversation between two messages.

use crate::label::Flow;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The version of the stored form that this crate writes and reads.
const VERSION: u32 = 1;

/// The state of one conversation. The caller keeps it, in memory or serialised, and passes it with each message.
///
/// ```
/// use intentgate::policy::Conversation;
///
/// let json = serde_json::to_string(&Conversation::new())?;
/// assert_eq!(serde_json::from_str::<Conversation>(&json)?, Conversation::new());
/// assert!(serde_json::from_str::<Conversation>(&json.replace("\"version\":1", "\"version\":2")).is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    version: Version,
    pub(super) state: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flow: Option<Flow>,
    #[serde(default)]
    pub(super) strikes: u32,
    /// The flows of the question that was just asked back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) asked: Option<[Flow; 2]>,
    /// That of the last message whose language was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) language: Option<Box<str>>,
    last_activity: u64,
    expires_at: u64,
}

/// Who answers the customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The bot.
    WithBot,
    /// A person.
    WithPerson,
    /// Nobody: the customer asked to be left alone.
    OptedOut,
}

impl Conversation {
    /// A conversation without any message.
    pub fn new() -> Self {
        Conversation {
            version: Version,
            state: State::WithBot,
            flow: None,
            strikes: 0,
            asked: None,
            language: None,
            last_activity: 0,
            expires_at: 0,
        }
    }

    /// The flow that the bot is in, for [`Guard::check_message`](crate::Guard::check_message); `now` in Unix seconds.
    pub fn flow(&self, now: u64) -> Option<Flow> {
        self.flow.filter(|_| !self.has_expired(now))
    }

    /// Who answers a message that arrives `now`, in Unix seconds.
    pub fn state(&self, now: u64) -> State {
        if self.has_expired(now) { State::WithBot } else { self.state }
    }

    /// Out-of-scope messages in a row.
    pub fn strikes(&self) -> u32 {
        self.strikes
    }

    /// BCP 47 code of the last message whose language was known.
    pub fn language(&self) -> Option<&str> {
        self.language.as_deref()
    }

    /// When the last message came, in Unix seconds; 0 before the first one.
    pub fn last_activity(&self) -> u64 {
        self.last_activity
    }

    /// Gives the conversation back to the bot, from a person or after the customer opted out, with no flow and no strikes.
    pub fn resume(&mut self) {
        self.enter(State::WithBot);
    }

    /// Nothing of what the bot was about is left in another state. Only the language stays.
    pub(super) fn enter(&mut self, state: State) {
        (self.state, self.flow, self.strikes, self.asked) = (state, None, 0, None);
    }

    /// Forgets what is too old. Someone who opted out stays opted out.
    pub(super) fn expire(&mut self, now: u64) {
        if self.has_expired(now) {
            self.resume();
        }
    }

    fn has_expired(&self, now: u64) -> bool {
        now >= self.expires_at && self.state != State::OptedOut
    }

    /// Notes a message at `now`. A clock that was set back does no harm: only the last message counts.
    pub(super) fn touch(&mut self, now: u64, seconds: u64) {
        self.last_activity = now;
        self.expires_at = now.saturating_add(seconds);
    }
}

impl Default for Conversation {
    fn default() -> Self {
        Self::new()
    }
}

/// The number 1 in the stored form, and nothing in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            VERSION => Ok(Version),
            other => Err(de::Error::custom(format_args!("a conversation of version {other}, expected {VERSION}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small() {
        assert!(size_of::<Conversation>() <= 64);
    }

    #[test]
    fn versions_are_told_apart() {
        let json = serde_json::to_value(Conversation::new()).unwrap();
        assert_eq!(json["version"], 1);
        for version in [serde_json::json!(0), serde_json::json!(2), serde_json::json!("1"), serde_json::Value::Null] {
            let mut other = json.clone();
            other["version"] = version;
            assert!(serde_json::from_value::<Conversation>(other).is_err());
        }
        let error = serde_json::from_str::<Conversation>(r#"{"version":7,"state":"new"}"#).unwrap_err().to_string();
        assert!(error.contains("version 7, expected 1"), "{error}");
        assert!(serde_json::from_str::<Conversation>("{}").unwrap_err().to_string().contains("version"));
    }

    #[test]
    fn flow_and_person_expire_and_opting_out_does_not() {
        let mut conversation = Conversation { flow: Some(Flow::Order), strikes: 1, ..Conversation::new() };
        conversation.touch(1000, 60);
        assert_eq!((conversation.flow(1059), conversation.flow(1060)), (Some(Flow::Order), None));
        assert_eq!(conversation.flow(5), Some(Flow::Order), "the clock was set back");
        conversation.state = State::WithPerson;
        assert_eq!((conversation.state(1059), conversation.state(1060)), (State::WithPerson, State::WithBot));
        conversation.expire(1060);
        assert_eq!((conversation.state, conversation.strikes), (State::WithBot, 0));
        conversation.enter(State::OptedOut);
        conversation.expire(u64::MAX);
        assert_eq!(conversation.state(u64::MAX), State::OptedOut);
        conversation.touch(u64::MAX, 60);
    }
}
