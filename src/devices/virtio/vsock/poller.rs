//! One descriptor for everything the device waits for: an epoll instance of its own, on the edge.
//!
//! A socket is announced once when its state changes, and remembered to be ready until it is
//! tried in vain: what cannot be used for lack of credit or buffers costs nothing meanwhile.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, write};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::packet::ANY_PORT;

/// Events taken in one wake; more stay ready.
const EVENTS: usize = 64;

/// A connection's two ports; the host and the guest are always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// A host program wants to connect.
    Listener,
    /// Somebody has waited too long, or something that failed may be tried again.
    Timer,
    /// The last wake left something to do.
    Again,
    /// A socket that belongs to no connection.
    Loose(u32),
    /// The socket of a connection.
    Connection(Key),
}

/// Numbers of loose sockets begin here; those below stand for the other tokens.
pub(super) const FIRST_LOOSE: u32 = 3;

impl Token {
    /// Connections never have the host port that is not one, which leaves room for the others.
    fn data(self) -> u64 {
        let (high, low) = match self {
            Self::Listener => (ANY_PORT, 0),
            Self::Timer => (ANY_PORT, 1),
            Self::Again => (ANY_PORT, 2),
            Self::Loose(number) => (ANY_PORT, number.max(FIRST_LOOSE)),
            Self::Connection(key) => (key.host_port, key.guest_port),
        };
        u64::from(high) << 32 | u64::from(low)
    }

    fn from_data(data: u64) -> Self {
        let low = u32::try_from(data & u64::from(u32::MAX)).unwrap_or(0);
        match (u32::try_from(data >> 32).unwrap_or(0), low) {
            (ANY_PORT, 0) => Self::Listener,
            (ANY_PORT, 1) => Self::Timer,
            (ANY_PORT, 2) => Self::Again,
            (ANY_PORT, number) => Self::Loose(number),
            (host_port, guest_port) => Self::Connection(Key { host_port, guest_port }),
        }
    }
}

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Readiness {
    pub(super) token: Token,
    /// There is something to read, or will never be again.
    pub(super) readable: bool,
    /// There is room to write.
    pub(super) writable: bool,
    /// The other side sends no more.
    pub(super) ended: bool,
    /// Neither direction is left.
    pub(super) gone: bool,
}

impl From<Event> for Readiness {
    fn from(event: Event) -> Self {
        let flags = event.flags;
        let gone = EventFlags::HUP | EventFlags::ERR;
        let ended = EventFlags::RDHUP | gone;
        Self {
            token: Token::from_data(event.data.u64()),
            readable: flags.intersects(EventFlags::IN | ended),
            writable: flags.intersects(EventFlags::OUT | gone),
            ended: flags.intersects(ended),
            gone: flags.intersects(gone),
        }
    }
}

/// The epoll instance, with a timer and an event for the device itself.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    again: OwnedFd,
    armed: bool,
}

impl Poller {
    pub(super) fn new() -> Result<Self, Errno> {
        let timer_flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let poller = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            timer: timerfd_create(TimerfdClockId::Monotonic, timer_flags)?,
            again: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            armed: false,
        };
        poller.watch(&poller.timer, Token::Timer)?;
        poller.watch(&poller.again, Token::Again)?;
        Ok(poller)
    }

    /// The one descriptor: readable when something happened.
    pub(super) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Announces changes of `fd` under `token`, beginning with how it is now, until it is closed.
    pub(super) fn watch(&self, fd: impl AsFd, token: Token) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.data()), interest())
    }

    /// Announces `fd` under another token from now on, beginning with how it is now.
    pub(super) fn rename(&self, fd: impl AsFd, token: Token) -> Result<(), Errno> {
        epoll::modify(&self.epoll, fd, EventData::new_u64(token.data()), interest())
    }

    /// Takes some of what happened, without waiting.
    pub(super) fn poll(&self, mut take: impl FnMut(Readiness)) {
        let mut room = [MaybeUninit::uninit(); EVENTS];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An interrupted wait is made up for by the next one.
        if let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, Some(&now)) {
            events.iter().for_each(|event| take(Readiness::from(*event)));
        }
    }

    /// Has [`Token::Again`] announced.
    pub(super) fn wake(&self) {
        // It is never read: every write is an edge, and 2^64 of them are never reached.
        let _ = write(&self.again, &1u64.to_ne_bytes());
    }

    /// Has [`Token::Timer`] announced after `delay`, unless it will be already.
    pub(super) fn arm(&mut self, delay: Duration) {
        if !self.armed {
            let never = Timespec { tv_sec: 0, tv_nsec: 0 };
            let delay = Timespec::try_from(delay).unwrap_or(never);
            let once = Itimerspec { it_interval: never, it_value: delay };
            let set = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
            self.armed = set.is_ok();
        }
    }

    /// Takes note that the timer was announced.
    pub(super) fn fired(&mut self) {
        self.armed = false;
    }
}

fn interest() -> EventFlags {
    EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let key = |host_port, guest_port| Token::Connection(Key { host_port, guest_port });
        for token in [
            Token::Listener,
            Token::Timer,
            Token::Again,
            Token::Loose(FIRST_LOOSE),
            Token::Loose(u32::MAX),
            key(0, 0),
            key(ANY_PORT - 1, u32::MAX),
        ] {
            assert_eq!(Token::from_data(token.data()), token);
        }
    }

    fn tokens(poller: &Poller) -> Vec<Token> {
        let mut seen = Vec::new();
        poller.poll(|event| seen.push(event.token));
        seen
    }

    #[test]
    fn every_wake_and_every_alarm_is_announced_once() {
        let mut poller = Poller::new().unwrap();
        // Both can be written to.
        tokens(&poller);
        for _ in 0..3 {
            assert_eq!(tokens(&poller), []);
            poller.wake();
            assert_eq!(tokens(&poller), [Token::Again]);
            poller.arm(Duration::from_millis(1));
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(tokens(&poller), [Token::Timer]);
            poller.fired();
        }
    }
}
