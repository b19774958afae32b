//! Signals as events: termination ends the machine, SIGPWR presses its power button.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use tracing::error;

use super::end::{End, Ending};
use crate::bus::Interrupt;
use crate::kvm::IrqLine;

/// "Power failure": the signal container managers send to have a guest shut down in order.
const SIGPWR: i32 = 30;

/// Turns the signals of the process into requests to the machine.
pub(super) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    ending: Arc<Ending>,
    power_button: Option<Arc<IrqLine>>,
}

impl Signals {
    /// Catches the signals from now on.
    ///
    /// # Errors
    /// A handler cannot be installed.
    pub(super) fn new(
        ending: Arc<Ending>,
        power_button: Option<Arc<IrqLine>>,
    ) -> std::io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let caught = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPWR, SIGXFSZ];
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, caught)?;
        Ok(Self { delivery, ending, power_button })
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
                // A write beyond the limit of file sizes fails as well, and the device says so.
                SIGXFSZ => {}
                number => self.ending.set(End::Signal(number)),
            }
        }
    }
}
