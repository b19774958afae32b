//! The guest's console on standard input and output, in a file or on a pseudo-terminal.

mod escape;
mod input;
mod output;
mod size;

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use tracing::{error, warn};
use vmm_sys_util::eventfd::EventFd;

use self::input::{Input, Typed};
use self::output::Output;
use super::end::{End, Ending};
use super::terminal::{RawTerminal, in_background};
use crate::devices::console::{ConsoleOutput, InputSink};
use crate::machine::{ConsoleEnd, Machine};

pub(super) use self::size::SizeEvents;

/// What an event of the console is about.
const GUEST_PRINTED: u32 = 0;
const GUEST_WANTS_INPUT: u32 = 1;
const TYPED: u32 = 2;
const ROOM: u32 = 3;

/// Carries bytes between the guest's console and the user.
pub(super) struct ConsoleEvents {
    console: Arc<ConsoleOutput>,
    guest: Arc<dyn InputSink>,
    input_wanted: Arc<EventFd>,
    ending: Arc<Ending>,
    input: Input,
    output: Output,
    /// The descriptor that input is waited for on.
    waits_for: Option<RawFd>,
    waits_for_room: bool,
    warned: bool,
    terminal: Option<RawTerminal>,
}

impl ConsoleEvents {
    /// Connects the console to `end` until dropped; `None` when that is nothing.
    ///
    /// # Errors
    /// The host gives no further descriptor.
    pub(super) fn new(
        machine: &Machine,
        end: ConsoleEnd,
        ending: Arc<Ending>,
    ) -> io::Result<Option<Self>> {
        let mut terminal = None;
        let (input, output) = match end {
            ConsoleEnd::Nothing => return Ok(None),
            ConsoleEnd::Stdio => {
                terminal = RawTerminal::enter();
                let background = terminal.is_none() && in_background();
                let stdin = || Input::stdin(terminal.is_some());
                (if background { Input::none() } else { stdin()? }, Output::stdout())
            }
            ConsoleEnd::File(file) => (Input::none(), Output::to(file, None)),
            ConsoleEnd::Pty(pty) => (
                Input::own(pty.master.try_clone()?),
                Output::to(pty.master.try_clone()?, Some(pty)),
            ),
        };
        let guest = machine.console_input().clone();
        Ok(Some(Self {
            console: machine.console().clone(),
            input_wanted: guest.wanted(),
            guest,
            ending,
            input,
            output,
            waits_for: None,
            waits_for_room: false,
            warned: false,
            terminal,
        }))
    }

    /// Reads what the user typed, hands on what the guest takes, and waits for more exactly while
    /// it could be used.
    fn move_input(&mut self, ops: &mut EventOps) {
        if self.input.read() == Typed::Quit {
            self.ending.set(End::UserQuit);
        }
        self.input.hand_on(&*self.guest);
        let wanted = self.input.wanted();
        if wanted == self.waits_for {
            return;
        }
        let events = |fd| Events::with_data_raw(fd, TYPED, EventSet::IN);
        let changed = match (wanted, self.waits_for) {
            (Some(fd), _) => ops.add(events(fd)),
            (None, Some(fd)) => ops.remove(events(fd)),
            (None, None) => Ok(()),
        };
        match changed {
            Ok(()) => self.waits_for = wanted,
            Err(_) => self.input.cannot_wait(),
        }
    }

    /// Passes on what the guest printed, and waits for room exactly while there is none.
    fn move_output(&mut self, ops: &mut EventOps) {
        let full = self.output.drain(&self.console);
        self.warn_of_loss();
        if full == self.waits_for_room {
            return;
        }
        let room = Events::with_data_raw(self.output.fd(), ROOM, EventSet::OUT);
        let changed = if full { ops.add(room) } else { ops.remove(room) };
        match changed {
            Ok(()) => self.waits_for_room = full,
            Err(e) => error!("cannot wait for the reader of the console: {e}"),
        }
    }

    fn warn_of_loss(&mut self) {
        if !self.warned && self.console.counters().dropped.get() > 0 {
            self.warned = true;
            warn!("the reader of the console is slower than the guest: output is being dropped");
        }
    }
}

impl MutEventSubscriber for ConsoleEvents {
    fn init(&mut self, ops: &mut EventOps) {
        for (fd, data) in
            [(self.console.wake(), GUEST_PRINTED), (&*self.input_wanted, GUEST_WANTS_INPUT)]
        {
            if let Err(e) = ops.add(Events::with_data(fd, data, EventSet::IN)) {
                error!("cannot wait for the console: {e}");
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
            ROOM => self.move_output(ops),
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
        self.warn_of_loss();
        let dropped = self.console.counters().dropped.get();
        if dropped > 0 {
            warn!("{dropped} bytes of console output were dropped");
        }
        self.terminal.take();
    }
}
