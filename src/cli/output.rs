//! What commands about images and containers print, and whoever has read enough of it.

use std::io::{self, ErrorKind, Write};

use thiserror::Error;

/// Nobody reads what a command prints any more: it ends as programs in a pipe do, by SIGPIPE.
#[derive(Debug, Error)]
#[error("nobody reads what is printed")]
pub(super) struct Unread;

/// Prints what was asked for.
///
/// # Errors
/// [`Unread`], or there is no room for it.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).map_err(unwritten)
}

/// The error of a command whose output could not be written.
pub(super) fn unwritten(error: io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => Unread.into(),
        _ => anyhow::Error::new(error).context("write to standard output"),
    }
}
