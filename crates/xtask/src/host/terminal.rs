//! Our terminal in raw mode: every key goes inside, and it is given back as it was.

use std::io;
use std::os::fd::AsFd;
use std::process;
use std::thread;

use anyhow::{Context, Result};
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

/// Rows and columns of the terminal on our standard input.
///
/// # Errors
/// Standard input is no terminal.
pub(crate) fn size() -> Result<(u16, u16)> {
    let size = tcgetwinsize(stdin()).context("standard input is not a terminal")?;
    Ok((size.ws_row, size.ws_col))
}

/// Whether both our standard input and our standard output are terminals.
pub(crate) fn is_interactive() -> bool {
    isatty(stdin()) && isatty(io::stdout().as_fd())
}

/// The terminal in raw mode; dropping it restores the mode.
pub(crate) struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Sets raw mode.
    ///
    /// # Errors
    /// Standard input is no terminal.
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(stdin()).context("read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin(), OptionalActions::Drain, &raw).context("set the terminal's mode")?;
        Ok(Self { before })
    }

    /// Calls `tell` with rows and columns whenever the size changes. Signals that end us restore
    /// the mode first from now on.
    ///
    /// # Errors
    /// The signals cannot be watched.
    pub(crate) fn on_resize(&self, tell: impl Fn(u16, u16) + Send + 'static) -> Result<()> {
        let mut signals = Signals::new([SIGWINCH, SIGTERM, SIGHUP, SIGINT])?;
        let before = self.before.clone();
        thread::spawn(move || {
            for signal in signals.forever() {
                if signal != SIGWINCH {
                    restore(&before);
                    process::exit(128 + signal);
                }
                if let Ok((rows, columns)) = size() {
                    tell(rows, columns);
                }
            }
        });
        Ok(())
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(mode: &Termios) {
    // The terminal may be gone; there is nobody left to tell.
    let _ = tcsetattr(stdin(), OptionalActions::Drain, mode);
}
