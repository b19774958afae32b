//! The wish to end early: SIGINT or SIGTERM.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

/// What becomes readable when the user wants no more.
pub(super) struct Interrupt {
    reader: PipeReader,
}

impl Interrupt {
    /// From here on the two signals end nothing by themselves.
    ///
    /// # Errors
    /// They cannot be caught.
    pub(super) fn catch() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        pipe::register(SIGINT, writer.try_clone()?)?;
        pipe::register(SIGTERM, writer)?;
        Ok(Self { reader })
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
