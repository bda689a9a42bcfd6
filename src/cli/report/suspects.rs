//! What `intentgate doubt --json` says of training rows.

use serde::Deserialize;

/// Rows whose label is probably wrong. Fields that the page does not show are passed over.
#[derive(Deserialize)]
pub struct Suspects {
    /// Rows that were looked at.
    pub rows: Option<usize>,
    /// Estimated share of them whose label is wrong, 0 to 1.
    pub estimated_noise: Option<f64>,
    /// The most suspect first.
    pub suspects: Vec<Suspect>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Suspect {
    /// `file:line`.
    pub place: String,
    pub text: String,
    pub label: String,
    /// The label that the row should probably have.
    pub suggested: String,
}
