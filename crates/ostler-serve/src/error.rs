//! Errors of any type: those of adapters, and the sources of this crate's own.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// An error of any type. `?` and `into()` make it of other errors and of texts.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// An error of any type that clones share.
///
/// It is a source of [`CallError`](crate::CallError), which is `Clone`. `source()` returns the
/// error itself, so `downcast_ref` finds, for example, an [`io::Error`](std::io::Error).
#[derive(Clone)]
pub struct SharedError(Arc<dyn Error + Send + Sync>);

impl SharedError {
    /// Shares an error or a text.
    pub fn new(error: impl Into<BoxError>) -> Self {
        Self(Arc::from(error.into()))
    }
}

/// It is no error itself, or `source()` would return it instead of the error within.
impl Deref for SharedError {
    type Target = dyn Error + Send + Sync;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Errors are equal if their texts are.
impl PartialEq for SharedError {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Debug for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
