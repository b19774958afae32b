//! Signals as events: termination ends the machine, SIGPWR presses its power button, SIGUSR1 asks for
//! metrics and SIGUSR2 for the configuration to be read again.

// UNSAFETY: the kernel is asked through a pointer how a signal is handled, and a signal handler is
// installed.
#![expect(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use signal_hook::low_level;
use tracing::error;

use super::end::{End, Ending};
use super::terminal;
use crate::bus::Interrupt;
use crate::kvm::IrqLine;

/// "Power failure": the signal container managers send to have a guest shut down in order.
const SIGPWR: i32 = 30;

/// What signals asked for, and the event loop does next.
#[derive(Debug, Default)]
pub(super) struct Requests {
    metrics: AtomicBool,
    reload: AtomicBool,
}

impl Requests {
    /// Whether metrics were asked for since the last call.
    pub(super) fn take_metrics(&self) -> bool {
        self.metrics.swap(false, Ordering::Relaxed)
    }

    /// Whether the configuration was to be read again since the last call.
    pub(super) fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}

/// Turns the signals of the process into requests to the machine.
pub(super) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    ending: Arc<Ending>,
    power_button: Option<Arc<IrqLine>>,
    requests: Arc<Requests>,
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(super) fn new(
        ending: Arc<Ending>,
        power_button: Option<Arc<IrqLine>>,
        requests: Arc<Requests>,
    ) -> std::io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        // Whoever starts us with hang-ups or interrupts ignored, as nohup and a shell's `&` do, means
        // it.
        let ends = [SIGHUP, SIGINT, SIGQUIT].into_iter().filter(|&signal| !is_ignored(signal));
        let ends: Vec<i32> = ends.chain([SIGTERM]).collect();
        end_at_once_when_repeated(&ends)?;
        let caught = ends.into_iter().chain([SIGPWR, SIGXFSZ, SIGUSR1, SIGUSR2]);
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, caught)?;
        Ok(Self { delivery, ending, power_button, requests })
    }
}

/// Has the second of `signals` end the process there and then: whoever repeats himself does not want
/// to wait for what an orderly end waits for.
fn end_at_once_when_repeated(signals: &[i32]) -> std::io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for &signal in signals {
        let asked = asked.clone();
        let end = move || {
            if asked.swap(true, Ordering::SeqCst) {
                terminal::restore_in_handler();
                low_level::exit(signal.saturating_add(128));
            }
        };
        // SAFETY: the handler swaps an atomic, and makes the system calls tcgetpgrp, tcsetattr and
        // _exit, all of which may be made in a handler; it neither allocates nor waits for a lock.
        unsafe { low_level::register(signal, end)? };
    }
    Ok(())
}

/// Whether the process was started with `signal` ignored (sigaction(2)).
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: without a new action sigaction only writes one whole `struct sigaction`, which there is
    // room for; the handler is read only when it said that it did.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

impl MutEventSubscriber for Signals {
    fn init(&mut self, ops: &mut EventOps) {
        let fd = self.delivery.get_read().as_raw_fd();
        if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
            error!("cannot wait for signals: {e}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        for signal in self.delivery.pending() {
            match signal {
                SIGPWR => self.power_button.iter().for_each(|button| button.trigger()),
                SIGUSR1 => self.requests.metrics.store(true, Ordering::Relaxed),
                SIGUSR2 => self.requests.reload.store(true, Ordering::Relaxed),
                // A write beyond the limit of file sizes fails as well, and the device says so.
                SIGXFSZ => {}
                number => self.ending.set(End::Signal(number)),
            }
        }
    }
}
