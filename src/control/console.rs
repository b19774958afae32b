//! The serial console on standard input and output.

mod escape;
mod input;
mod output;

use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use tracing::{error, warn};
use vmm_sys_util::eventfd::EventFd;

use self::input::{Input, Typed};
use self::output::Output;
use super::end::{End, Ending};
use super::terminal::{RawTerminal, in_background};
use crate::bus::lock;
use crate::devices::console::ConsoleOutput;
use crate::devices::serial::SerialPort;
use crate::kvm::IrqLine;
use crate::machine::Machine;

/// What an event of the console is about.
const GUEST_PRINTED: u32 = 0;
const GUEST_WANTS_INPUT: u32 = 1;
const STDIN: u32 = 2;
const STDOUT: u32 = 3;

/// Carries bytes between the guest's serial port and the user.
pub(super) struct ConsoleEvents {
    console: Arc<ConsoleOutput>,
    serial: Arc<Mutex<SerialPort<IrqLine>>>,
    input_wanted: Arc<EventFd>,
    ending: Arc<Ending>,
    input: Input,
    output: Output,
    waits_for_stdin: bool,
    waits_for_stdout: bool,
    dropped: u64,
    terminal: Option<RawTerminal>,
}

impl ConsoleEvents {
    /// Takes over standard input and output until dropped.
    pub(super) fn new(machine: &Machine, ending: Arc<Ending>) -> Self {
        let terminal = RawTerminal::enter();
        let input = match &terminal {
            None if in_background() => Input::none(),
            terminal => Input::new(terminal.is_some()),
        };
        let serial = machine.serial().clone();
        let input_wanted = lock(&serial).input_wanted().clone();
        Self {
            console: machine.console().clone(),
            serial,
            input_wanted,
            ending,
            input,
            output: Output::stdout(),
            waits_for_stdin: false,
            waits_for_stdout: false,
            dropped: 0,
            terminal,
        }
    }

    /// Reads what the user typed, hands on what the guest takes, and waits for stdin exactly
    /// while more of it could be used.
    fn move_input(&mut self, ops: &mut EventOps) {
        if self.input.read() == Typed::Quit {
            self.ending.set(End::UserQuit);
        }
        self.input.hand_on(&mut lock(&self.serial));
        // A descriptor that epoll refuses, such as a file, is always ready: the guest's
        // emptied FIFO is then the only event it needs.
        let wanted = self.input.wants_more() && self.input.can_wait();
        if wanted == self.waits_for_stdin {
            return;
        }
        let stdin = Events::with_data_raw(Input::FD, STDIN, EventSet::IN);
        let changed = if wanted { ops.add(stdin) } else { ops.remove(stdin) };
        match changed {
            Ok(()) => self.waits_for_stdin = wanted,
            Err(_) => self.input.cannot_wait(),
        }
    }

    /// Passes on what the guest printed, and waits for stdout exactly while it is full.
    fn move_output(&mut self, ops: &mut EventOps) {
        let full = self.output.drain(&self.console);
        self.report_dropped();
        if full == self.waits_for_stdout {
            return;
        }
        let stdout = Events::with_data_raw(self.output.fd(), STDOUT, EventSet::OUT);
        let changed = if full { ops.add(stdout) } else { ops.remove(stdout) };
        match changed {
            Ok(()) => self.waits_for_stdout = full,
            Err(e) => error!("cannot wait for standard output: {e}"),
        }
    }

    fn report_dropped(&mut self) {
        let dropped = self.console.take_dropped();
        if dropped > 0 && self.dropped == 0 {
            warn!("the reader of the console is slower than the guest: output is being dropped");
        }
        self.dropped = self.dropped.saturating_add(dropped);
    }
}

impl MutEventSubscriber for ConsoleEvents {
    fn init(&mut self, ops: &mut EventOps) {
        for (fd, data) in
            [(self.console.wake(), GUEST_PRINTED), (&*self.input_wanted, GUEST_WANTS_INPUT)]
        {
            if let Err(e) = ops.add(Events::with_data(fd, data, EventSet::IN)) {
                error!("cannot wait for the serial port: {e}");
            }
        }
        self.move_input(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        match events.data() {
            GUEST_PRINTED => {
                let _ = self.console.wake().read();
                self.move_output(ops);
            }
            STDOUT => self.move_output(ops),
            GUEST_WANTS_INPUT => {
                let _ = self.input_wanted.read();
                self.move_input(ops);
            }
            _ => self.move_input(ops),
        }
    }
}

impl Drop for ConsoleEvents {
    /// What the guest printed last is not lost, as far as the reader takes it soon.
    fn drop(&mut self) {
        self.output.finish(&self.console);
        self.report_dropped();
        if self.dropped > 0 {
            warn!("{} bytes of console output were dropped", self.dropped);
        }
        self.terminal.take();
    }
}
