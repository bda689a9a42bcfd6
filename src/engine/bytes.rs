//! Bytes that are read where they lie.

use std::{fmt, ops::Range, sync::Arc};

/// Whatever keeps bytes in one place: a vector, a static array, a mapped file.
pub(crate) type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A part of bytes that others may share.
#[derive(Clone)]
pub(crate) struct Shared {
    owner: Owner,
    range: Range<usize>,
}

impl Shared {
    /// All of the bytes.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Shared { range: 0..bytes.len(), owner: Arc::new(bytes) }
    }

    /// Some of the bytes of `owner`; none if it has fewer.
    pub(crate) fn part(owner: &Owner, range: Range<usize>) -> Self {
        Shared { owner: Arc::clone(owner), range }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        (*self.owner).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared::new(Vec::new())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shared bytes", self.range.len())
    }
}
