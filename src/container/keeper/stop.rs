//! A keeper that is told to end: how its container ends before it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use super::super::Signal;

/// How long a killed container may take to end before its machine is ended.
const KILL_TIME: Duration = Duration::from_secs(5);

/// The signals that tell a keeper to end.
pub(super) struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn new() -> io::Result<Self> {
        // A log beyond the limit of file sizes fails to be written, and has a gap.
        Self::catch(&[SIGHUP, SIGINT, SIGTERM, SIGXFSZ])
    }

    pub(super) fn catch(signals: &[i32]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        Ok(Self { delivery: SignalDelivery::with_pipe(read, write, SignalOnly, signals)? })
    }

    /// Whether one came since the last call.
    pub(super) fn came(&mut self) -> bool {
        self.delivery.pending().any(|signal| signal != SIGXFSZ)
    }
}

impl AsFd for Signals {
    /// Readable when a signal came.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.delivery.get_read().as_fd()
    }
}

/// What is done to a container next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Its first process gets a signal.
    Signal(Signal),
    /// Its machine is ended as it is.
    Destroy,
}

/// How far the end of a container has come that somebody wants: it is asked, killed, and switched off.
#[derive(Debug, Default)]
pub(super) struct Stop {
    next: Option<(Deed, Instant)>,
    /// Whether it has begun.
    pub(super) begun: bool,
}

impl Stop {
    /// Asks by `signal`; after `patience` by KILL. Again at once what would be done next.
    pub(super) fn begin(&mut self, signal: Signal, patience: Duration, now: Instant) -> Deed {
        if let Some((deed, _)) = self.next.take() {
            return self.do_now(deed, now);
        }
        if std::mem::replace(&mut self.begun, true) {
            return Deed::Destroy;
        }
        self.next = Some((Deed::Signal(Signal::KILL), now + patience));
        Deed::Signal(signal)
    }

    /// How long it has until something is to be done.
    pub(super) fn left(&self, now: Instant) -> Option<Duration> {
        self.next.map(|(_, when)| when.saturating_duration_since(now))
    }

    /// What is to be done by now.
    pub(super) fn due(&mut self, now: Instant) -> Option<Deed> {
        let (deed, _) = self.next.take_if(|(_, when)| *when <= now)?;
        Some(self.do_now(deed, now))
    }

    fn do_now(&mut self, deed: Deed, now: Instant) -> Deed {
        if deed != Deed::Destroy {
            self.next = Some((Deed::Destroy, now + KILL_TIME));
        }
        deed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_is_asked_and_killed_and_switched_off() {
        let (mut stop, begin, second) = (Stop::default(), Instant::now(), Duration::from_secs(1));
        assert_eq!((stop.left(begin), stop.due(begin)), (None, None));
        assert_eq!(stop.begin(Signal::TERM, 10 * second, begin), Deed::Signal(Signal::TERM));
        assert_eq!((stop.left(begin), stop.due(begin)), (Some(10 * second), None));
        assert_eq!(stop.due(begin + 10 * second), Some(Deed::Signal(Signal::KILL)));
        assert_eq!(stop.due(begin + 14 * second), None);
        assert_eq!(stop.due(begin + 15 * second), Some(Deed::Destroy));
        assert_eq!(stop.due(begin + 1000 * second), None);
    }

    #[test]
    fn whoever_repeats_himself_does_not_wait() {
        let (mut stop, now) = (Stop::default(), Instant::now());
        let mut again = || stop.begin(Signal::TERM, KILL_TIME, now);
        assert_eq!(again(), Deed::Signal(Signal::TERM));
        assert_eq!(again(), Deed::Signal(Signal::KILL));
        assert_eq!((again(), again()), (Deed::Destroy, Deed::Destroy));
    }
}
