//! What the bot does with a verdict: the merchant's rules, and the state of a conversation.
//!
//! A [`Profile`] says what a business serves. [`Policy`] is compiled from it and turns each message into a [`Decision`]; what
//! it has to remember from one message to the next is in a [`Conversation`], which the caller keeps. Nothing here reads a
//! clock or a network.

mod conversation;
mod decide;
mod decision;
mod keywords;
mod language;
mod profile;
mod profile_error;
mod reading;
mod replies;
mod shared;

pub use conversation::{Conversation, State};
pub use decide::Policy;
pub use decision::{Action, Cause, Decision};
pub use profile::{
    Command, DisabledIntent, FailMode, Keyword, Media, MediaAction, MediaKind, PerFlow, Profile, Texts, Topic, Words,
};
pub use profile_error::{Place, ProfileError};
pub use shared::SharedProfile;
