//! What went wrong, in one sentence for the person at the host.

use std::fmt::Display;
use std::io;

use vmm_protocol::Refusal;
use vmm_protocol::archive::CopyError;

/// Why something asked for was not done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Refusal,
    pub(crate) what: String,
}

impl Failure {
    /// A failure of this kind.
    pub(crate) fn new(kind: Refusal, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        Self::new(Refusal::Other, error.to_string())
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    /// `what` is what was tried, with its object.
    fn context(self, what: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl Display) -> Result<T, Failure> {
        self.map_err(|error| {
            let error: io::Error = error.into();
            Failure::new(Refusal::Other, format!("{what}: {error}"))
        })
    }
}
