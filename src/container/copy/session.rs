//! A session with the agent as a stream of bytes, either way.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use vmm_protocol::{INITIAL_CREDIT, Kind, PathStat, Refusal, Reply, Request, printable};

use super::CopyError;
use crate::container::link::Link;

/// A session whose first request was sent.
pub(super) struct Session<'a> {
    link: Link,
    stop: Option<BorrowedFd<'a>>,
    progress: &'a dyn Fn(u64),
    /// Bytes of the copy so far.
    pub(super) moved: u64,
    /// What the agent takes without being asked again.
    credit: usize,
    /// What came last, and how much of it was read.
    bytes: Vec<u8>,
    read: usize,
    /// The agent says that the copy is whole.
    whole: bool,
}

/// What the agent sends, a refusal aside.
enum Heard {
    Bytes,
    Said(Reply),
}

impl<'a> Session<'a> {
    /// `stop` can be read when the copy is not wanted any more; `progress` is told of all bytes so far.
    pub(super) fn new(
        socket: UnixStream,
        stop: Option<BorrowedFd<'a>>,
        progress: &'a dyn Fn(u64),
    ) -> Result<Self, CopyError> {
        let credit = usize::try_from(INITIAL_CREDIT).unwrap_or(0);
        let link = Link::new(socket).map_err(CopyError::Unreachable)?;
        let (bytes, read, whole) = (vec![], 0, false);
        Ok(Self { link, stop, progress, moved: 0, credit, bytes, read, whole })
    }

    /// What a path in the container is, if it is there.
    pub(super) fn found(&mut self) -> Result<PathStat, CopyError> {
        match self.hear()? {
            Heard::Said(Reply::Found(stat)) => Ok(stat),
            _ => Err(CopyError::Nonsense),
        }
    }

    /// Says that there is no more, and waits until the agent has made all of it.
    pub(super) fn finish(&mut self) -> Result<(), CopyError> {
        let said = self.link.say(&Request::StdinEof);
        while said.is_err() || !self.whole {
            match self.hear()? {
                Heard::Said(Reply::Copied) => self.whole = true,
                Heard::Said(Reply::Credit(_)) => {}
                _ => return Err(CopyError::Nonsense),
            }
        }
        Ok(())
    }

    /// Waits for what the agent sends next.
    fn hear(&mut self) -> Result<Heard, CopyError> {
        loop {
            if let Some(frame) = self.link.frames.next().map_err(|_| CopyError::Nonsense)? {
                return match frame.kind {
                    Kind::Stdout => {
                        self.bytes.extend_from_slice(frame.payload);
                        Ok(Heard::Bytes)
                    }
                    Kind::Message => match frame.message().map_err(|_| CopyError::Nonsense)? {
                        Reply::Refused { kind, what } => Err(refusal(kind, &what)),
                        said => Ok(Heard::Said(said)),
                    },
                    Kind::Stdin | Kind::Stderr => Err(CopyError::Nonsense),
                };
            }
            self.wait()?;
            self.link.flush();
            if !self.link.fill().is_ok_and(|open| open) {
                return Err(CopyError::Gone);
            }
        }
    }

    /// Waits for credit, when nothing else may come.
    fn hear_credit(&mut self) -> Result<(), CopyError> {
        let Heard::Said(Reply::Credit(more)) = self.hear()? else {
            return Err(CopyError::Nonsense);
        };
        self.credit = self.credit.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
        Ok(())
    }

    fn wait(&self) -> Result<(), CopyError> {
        let mut fds = vec![PollFd::from_borrowed_fd(self.link.as_fd(), self.link.interest(true))];
        if let Some(stop) = self.stop {
            fds.push(PollFd::from_borrowed_fd(stop, PollFlags::IN));
        }
        let _ = poll(&mut fds, None);
        let stopped = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if stopped { Err(CopyError::Stopped) } else { Ok(()) }
    }

    fn count(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(u64::try_from(bytes).unwrap_or(0));
        (self.progress)(self.moved);
    }
}

fn refusal(kind: Refusal, what: &str) -> CopyError {
    let what = printable(what);
    if kind == Refusal::NotFound { CopyError::NoSuch(what) } else { CopyError::Refused(what) }
}

/// The archive that the agent sends, whose end is the end of the copy.
impl Read for Session<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.read >= self.bytes.len() && !self.whole {
            (self.bytes, self.read) = (vec![], 0);
            match self.hear().map_err(io::Error::other)? {
                Heard::Bytes => self.count(self.bytes.len()),
                Heard::Said(Reply::Copied) => self.whole = true,
                Heard::Said(_) => return Err(io::Error::other(CopyError::Nonsense)),
            }
        }
        let mut rest = self.bytes.get(self.read..).unwrap_or_default();
        let len = rest.read(room)?;
        self.read = self.read.saturating_add(len);
        Ok(len)
    }
}

/// The archive that the agent takes, as its credit allows.
impl Write for Session<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while self.credit == 0 || self.link.is_behind() {
            self.hear_credit().map_err(io::Error::other)?;
        }
        let len = bytes.len().min(self.credit);
        self.credit = self.credit.saturating_sub(len);
        self.link.pass(Kind::Stdin, bytes.get(..len).unwrap_or_default());
        self.count(len);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
