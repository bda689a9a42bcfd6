//! What the bot is to do with one message, and why.

use crate::label::Flow;
use serde::{Deserialize, Serialize};

/// What the bot does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// Hand the message to this flow.
    Route {
        /// The flow that answers.
        flow: Flow,
    },
    /// Ask which of two flows the customer means, most probable first.
    AskBack {
        /// The flows to choose from.
        between: [Flow; 2],
    },
    /// Send the uniform refusal and nothing else.
    Refuse {
        /// Whether the reply also offers a person.
        offer_person: bool,
    },
    /// A person takes over.
    HandOff,
    /// Send nothing, such as after the customer asked to be left alone.
    Ignore,
}

/// Why a decision is what it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The guard is confident of an enabled intent.
    Confident,
    /// Two intents are close to each other.
    LowMargin,
    /// The guard says out of scope.
    OutOfScope,
    /// An intent of the business that this bot does not serve.
    Disabled,
    /// So many out-of-scope messages came in a row.
    Strikes {
        /// Messages in a row, this one counted.
        count: u32,
    },
    /// A keyword that always wins.
    Keyword {
        /// The rule's name in the profile.
        rule: String,
    },
    /// A topic that goes to a person.
    Restricted {
        /// The topic's name in the profile.
        topic: String,
    },
    /// A button or list reply with an id that the caller's map knows.
    Structured,
    /// A message without text, or of a type that the bot does not read.
    Unsupported,
    /// No visible character in the message.
    Empty,
    /// The guard could not answer.
    GuardFailed,
    /// A person has had the conversation since an earlier message.
    WithPerson,
    /// The customer asked to be left alone and has not come back.
    OptedOut,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    #[serde(flatten)]
    pub action: Action,
    /// Why.
    #[serde(flatten)]
    pub cause: Cause,
    /// What to send to the customer, in the customer's language, where the policy has words of its own: refusals, offers
    /// and announcements of a person, and questions back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// BCP 47 code of the language of `reply`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_language: Option<String>,
}
