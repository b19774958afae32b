//! The guest's console is as large as the user's terminal, also when that changes.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::termios::{isatty, tcgetwinsize};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;
use tracing::{debug, error};

use crate::bus::lock;
use crate::config::CONSOLE_NAME;
use crate::devices::virtio::{Change, MmioTransport};
use crate::machine::Machine;

/// Tells the virtio console the size of the terminal on standard input.
pub(in super::super) struct SizeEvents {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
    console: Arc<Mutex<MmioTransport>>,
}

impl SizeEvents {
    /// Follows the size from now on; `None` when standard input is no terminal, or the machine has
    /// no virtio console.
    ///
    /// # Errors
    /// The handler of the signal cannot be installed.
    pub(in super::super) fn new(machine: &Machine) -> io::Result<Option<Self>> {
        let console = machine.devices().iter().rfind(|device| device.name() == CONSOLE_NAME);
        let Some(console) = console.filter(|_| isatty(rustix::stdio::stdin())) else {
            return Ok(None);
        };
        let (read, write) = UnixStream::pair()?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, [SIGWINCH])?;
        let events = Self { delivery, console: console.transport().clone() };
        events.tell();
        Ok(Some(events))
    }

    fn tell(&self) {
        // Fails for a terminal that is gone.
        let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) else { return };
        let change = Change::ConsoleSize { columns: size.ws_col, rows: size.ws_row };
        match lock(&self.console).update(&change) {
            Ok(()) => debug!("console: {} columns, {} rows", size.ws_col, size.ws_row),
            Err(e) => error!("size of the console: {e}"),
        }
    }
}

impl MutEventSubscriber for SizeEvents {
    fn init(&mut self, ops: &mut EventOps) {
        let fd = self.delivery.get_read().as_raw_fd();
        if let Err(e) = ops.add(Events::new_raw(fd, EventSet::IN)) {
            error!("cannot wait for the size of the terminal: {e}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if self.delivery.pending().count() > 0 {
            self.tell();
        }
    }
}
