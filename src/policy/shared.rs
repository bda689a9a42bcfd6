//! A profile that can be replaced while messages are being decided.

use super::{Policy, Profile, ProfileError};
use arc_swap::ArcSwap;
use std::{path::Path, sync::Arc};

/// The [`Policy`] of a profile behind one pointer that [`SharedProfile::reload`] swaps.
///
/// Readers take no lock. A decision in flight finishes under the profile it began with.
///
/// ```no_run
/// use intentgate::policy::{Profile, SharedProfile};
///
/// let shared = SharedProfile::new(Profile::from_file("shop.toml")?)?;
/// let policy = shared.current();
/// if let Err(error) = shared.reload("shop.toml") {
///     eprintln!("still on the profile of before: {error}");
/// }
/// # Ok::<(), intentgate::policy::ProfileError>(())
/// ```
#[derive(Debug)]
pub struct SharedProfile(ArcSwap<Policy>);

impl SharedProfile {
    /// Shares the policy of `profile`.
    ///
    /// # Errors
    /// [`ProfileError`] as from [`Policy::new`].
    pub fn new(profile: Profile) -> Result<Self, ProfileError> {
        Ok(SharedProfile(ArcSwap::from_pointee(Policy::new(profile)?)))
    }

    /// The policy in use now; hold it to decide several messages under the same profile.
    pub fn current(&self) -> Arc<Policy> {
        self.0.load_full()
    }

    /// Reads and checks a profile, and swaps it in. Conversations go on under it with their next message.
    ///
    /// # Errors
    /// [`ProfileError`] as from [`Profile::from_file`]; the profile in use then stays.
    pub fn reload(&self, path: impl AsRef<Path>) -> Result<(), ProfileError> {
        self.replace(Profile::from_file(path)?)?;
        Ok(())
    }

    /// Swaps in a profile in memory and returns the policy of the old one.
    ///
    /// # Errors
    /// [`ProfileError`] as from [`Policy::new`]; the profile in use then stays.
    pub fn replace(&self, profile: Profile) -> Result<Arc<Policy>, ProfileError> {
        Ok(self.0.swap(Arc::new(Policy::new(profile)?)))
    }
}
