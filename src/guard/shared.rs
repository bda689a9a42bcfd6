//! A guard that can be replaced while messages are being checked.

use super::{Bundle, Guard, LoadError, Verdict};
use crate::label::Flow;
use arc_swap::ArcSwap;
use std::{path::Path, sync::Arc};

/// A [`Guard`] behind one pointer that [`SharedGuard::reload`] swaps.
///
/// Readers take no lock. A call in flight finishes on the model it began with.
///
/// ```no_run
/// use intentgate::{Guard, SharedGuard};
///
/// let shared = SharedGuard::new(Guard::from_dir("models/guard")?);
/// let verdict = shared.check("can I move my haircut to friday");
/// if let Err(error) = shared.reload("models/next") {
///     eprintln!("still on {}: {error}", shared.current().config().model_version);
/// }
/// # Ok::<(), intentgate::LoadError>(())
/// ```
#[derive(Debug)]
pub struct SharedGuard(ArcSwap<Guard>);

impl SharedGuard {
    /// Shares `guard`.
    pub fn new(guard: Guard) -> Self {
        SharedGuard(ArcSwap::from_pointee(guard))
    }

    /// The guard in use now; hold it to check several messages with the same model.
    pub fn current(&self) -> Arc<Guard> {
        self.0.load_full()
    }

    /// [`Guard::check`] with the guard in use now.
    pub fn check(&self, text: &str) -> Verdict {
        self.0.load().check(text)
    }

    /// [`Guard::check_in`] with the guard in use now.
    pub fn check_in(&self, flow: Flow, text: &str) -> Verdict {
        self.0.load().check_in(flow, text)
    }

    /// Loads a model directory, tries it on a message, and swaps it in.
    ///
    /// # Errors
    /// [`LoadError`] as from [`Guard::from_dir`]; the guard in use then stays.
    pub fn reload(&self, dir: impl AsRef<Path>) -> Result<(), LoadError> {
        self.reload_bundle(&Bundle::from_dir(dir)?)
    }

    /// [`SharedGuard::reload`] from files in memory.
    ///
    /// # Errors
    /// [`LoadError`] as from [`Guard::from_bundle`]; the guard in use then stays.
    pub fn reload_bundle(&self, bundle: &Bundle<'_>) -> Result<(), LoadError> {
        self.replace(Guard::from_bundle(bundle)?);
        Ok(())
    }

    /// Swaps in a guard that is already loaded and returns the old one.
    pub fn replace(&self, guard: Guard) -> Arc<Guard> {
        self.0.swap(Arc::new(guard))
    }
}
