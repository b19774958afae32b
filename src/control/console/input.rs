//! From standard input to the guest's serial port.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::escape::{Escape, Key};
use crate::devices::serial::SerialPort;
use crate::kvm::IrqLine;

/// Bytes held for a guest that does not read.
const HELD: usize = 4096;
/// Bytes read at a time.
const CHUNK: usize = 512;

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// At most input for the guest.
    Input,
    /// The user wants to leave.
    Quit,
}

/// Standard input: a terminal with an escape key, or a stream of bytes.
///
/// From a terminal everything is read at once, so that the escape always works, and what a
/// guest does not take is lost beyond 4 KiB. A stream is left unread while the guest is slow.
pub(super) struct Input {
    escape: Option<Escape>,
    held: VecDeque<u8>,
    ended: bool,
    can_wait: bool,
}

impl Input {
    /// No input at all: standard input must not be touched.
    pub(super) fn none() -> Self {
        Self { ended: true, ..Self::new(false) }
    }

    /// The descriptor of standard input.
    pub(super) const FD: RawFd = 0;

    pub(super) fn new(terminal: bool) -> Self {
        let escape = terminal.then(Escape::default);
        Self { escape, held: VecDeque::new(), ended: false, can_wait: true }
    }

    /// Whether more input could be used now.
    pub(super) fn wants_more(&self) -> bool {
        !self.ended && (self.escape.is_some() || self.held.is_empty())
    }

    /// Whether the event loop can wait for the descriptor.
    pub(super) fn can_wait(&self) -> bool {
        self.can_wait
    }

    /// The event loop cannot wait for the descriptor: it is always ready.
    pub(super) fn cannot_wait(&mut self) {
        self.can_wait = false;
    }

    /// Reads what is there without waiting.
    pub(super) fn read(&mut self) -> Typed {
        if !self.wants_more() || !readable() {
            return Typed::Input;
        }
        let mut chunk = [0; CHUNK];
        let count = match rustix::io::read(rustix::stdio::stdin(), &mut chunk) {
            Ok(0) => {
                self.ended = true;
                0
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.ended = true;
                0
            }
        };
        self.take(chunk.get(..count).unwrap_or_default())
    }

    fn take(&mut self, bytes: &[u8]) -> Typed {
        for byte in bytes {
            let key = self.escape.as_mut().map_or(Key::Byte(*byte), |escape| escape.key(*byte));
            match key {
                Key::Byte(byte) if self.held.len() < HELD => self.held.push_back(byte),
                Key::Byte(_) | Key::Nothing => {}
                Key::Quit => return Typed::Quit,
            }
        }
        Typed::Input
    }

    /// Gives the guest what its FIFO takes.
    pub(super) fn hand_on(&mut self, serial: &mut SerialPort<IrqLine>) {
        let room = serial.input_room().min(self.held.len());
        let bytes: Vec<u8> = self.held.iter().take(room).copied().collect();
        let taken = serial.input(&bytes);
        self.held.drain(..taken);
    }
}

fn readable() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1: a flood of typed bytes is bounded, and the escape still works.
    #[test]
    fn typed_flood_is_bounded_and_the_escape_still_quits() {
        let mut input = Input::new(true);
        for _ in 0..100 {
            assert_eq!(input.take(&[b'a'; 1000]), Typed::Input);
        }
        assert_eq!(input.held.len(), HELD);
        assert!(input.wants_more());
        assert_eq!(input.take(b"\x01x"), Typed::Quit);
    }

    #[test]
    fn no_input_wants_nothing() {
        assert!(!Input::none().wants_more());
    }

    /// S1: a stream is not read while the guest has not taken what was read before.
    #[test]
    fn stream_waits_for_the_guest_and_knows_no_escape() {
        let mut input = Input::new(false);
        assert!(input.wants_more());
        assert_eq!(input.take(b"\x01x"), Typed::Input);
        assert_eq!(input.held, [1, b'x']);
        assert!(!input.wants_more());
    }
}
