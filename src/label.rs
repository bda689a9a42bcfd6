//! The five business labels and the flows a bot can be in.

use std::{fmt, str::FromStr};

/// What a message is about, as the label guide in `datasets/README.md` defines it.
///
/// A guard retrained for other labels answers [`Intent::Custom`] for those; read the name with
/// [`Verdict::label`](crate::Verdict::label).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Intent {
    /// A purchase the customer is making or has made.
    Order,
    /// Booking a time, seat, room, vehicle or person.
    Appointment,
    /// A question about the business that is not tied to the customer's own order or booking; courtesies.
    Faq,
    /// Help with choosing goods.
    ShoppingGuide,
    /// Everything else: the bot must not answer this.
    OutOfScope,
    /// A label of the user's own.
    Custom,
}

impl Intent {
    /// The label in datasets, model files and JSON; `None` for [`Intent::Custom`].
    pub fn label(self) -> Option<&'static str> {
        Some(match self {
            Intent::Order => "order",
            Intent::Appointment => "appointment",
            Intent::Faq => "faq",
            Intent::ShoppingGuide => "shopping_guide",
            Intent::OutOfScope => "out_of_scope",
            Intent::Custom => return None,
        })
    }

    /// The intent with this label, [`Intent::Custom`] when it is none of the five.
    pub fn from_label(label: &str) -> Self {
        match label {
            "order" => Intent::Order,
            "appointment" => Intent::Appointment,
            "faq" => Intent::Faq,
            "shopping_guide" => Intent::ShoppingGuide,
            "out_of_scope" => Intent::OutOfScope,
            _ => Intent::Custom,
        }
    }
}

/// The business flow the bot is in when a message arrives, so that "tomorrow at 3" can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// The bot is handling an order.
    Order,
    /// The bot is arranging an appointment.
    Appointment,
    /// The bot is answering a question about the business.
    Faq,
    /// The bot is helping to choose goods.
    ShoppingGuide,
}

impl Flow {
    /// Every flow, in the order of their tokens.
    pub const ALL: [Flow; 4] = [Flow::Order, Flow::Appointment, Flow::Faq, Flow::ShoppingGuide];

    /// The name in datasets and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Flow::Order => "order",
            Flow::Appointment => "appointment",
            Flow::Faq => "faq",
            Flow::ShoppingGuide => "shopping_guide",
        }
    }

    /// The special token that stands after `<s>` when the bot is in this flow.
    pub fn token(self) -> &'static str {
        match self {
            Flow::Order => "<flow:order>",
            Flow::Appointment => "<flow:appointment>",
            Flow::Faq => "<flow:faq>",
            Flow::ShoppingGuide => "<flow:shopping_guide>",
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no [`Flow`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown flow {0:?}: use order, appointment, faq or shopping_guide")]
pub struct UnknownFlow(pub String);

impl FromStr for Flow {
    type Err = UnknownFlow;

    fn from_str(name: &str) -> Result<Self, UnknownFlow> {
        Flow::ALL.into_iter().find(|flow| flow.name() == name).ok_or_else(|| UnknownFlow(name.to_owned()))
    }
}
