//! What the bot does with a verdict: the merchant's rules, and the state of a conversation.

mod decision;

pub use decision::{Action, Cause, Decision};
