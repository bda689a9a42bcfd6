//! What the HTML pages of the command share.

pub mod html;
pub mod plots;
