//! The user's terminal: raw while a guest owns it, and given back as it was.

use std::io::{Stdin, stdin};
use std::sync::Mutex;

use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr,
};

use crate::bus::lock;

/// What the terminal was before; also for the panic hook, which owns no guard.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal in raw mode. Dropping it, or a panic, restores what was before.
pub(crate) struct RawTerminal(());

impl RawTerminal {
    /// Puts the terminal on standard input into raw mode; `None` when there is none, or when
    /// this process is not in its foreground and would be stopped for touching it.
    pub(crate) fn enter() -> Option<Self> {
        let input = stdin();
        if !isatty(&input) || tcgetpgrp(&input).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(&input).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Messages of this process still want their line ends translated.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        debug_assert!(!raw.local_modes.contains(LocalModes::ECHO));
        *lock(&SAVED) = Some(before);
        restore_on_panic();
        tcsetattr(&input, OptionalActions::Now, &raw).ok()?;
        Some(Self(()))
    }
}

/// Whether standard input is this process's terminal while another is in its foreground: reading
/// from it would stop this process, and the guest with it.
pub(super) fn in_background() -> bool {
    // Fails for what is no terminal of this session, which stops nobody.
    tcgetpgrp(rustix::stdio::stdin())
        .is_ok_and(|foreground| foreground != rustix::process::getpgrp())
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore(&stdin());
    }
}

/// In the background the terminal belongs to somebody else, who set it up as he wants it.
fn restore(input: &Stdin) {
    if let Some(before) = lock(&SAVED).take()
        && !in_background()
    {
        // What cannot be restored is a terminal that is gone.
        let _ = tcsetattr(input, OptionalActions::Now, &before);
    }
}

/// As dropping the guard, for a signal handler: it does not wait for whoever is at it already.
pub(super) fn restore_in_handler() {
    let Ok(saved) = SAVED.try_lock() else { return };
    if let Some(before) = &*saved
        && !in_background()
    {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, before);
    }
}

fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore(&stdin());
        report(panic);
    }));
}
