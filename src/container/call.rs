//! A command's questions to the keeper of a container, and to the agent in its guest.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use vmm_protocol::{Request, SESSION_PORT, Start, push_message};

use super::link::{Link, broken};
use super::machine::VSOCK;
use super::talk::{Ask, Ended, SOCKET, Tell};
use super::{Container, Signal};

/// How long a killed container may take to end before its machine is ended.
pub const KILL_TIME: Duration = Duration::from_secs(5);

/// A connection to a keeper.
#[derive(Debug)]
pub struct Call {
    link: Link,
}

impl Call {
    /// Asks the keeper of a container for its attention.
    ///
    /// # Errors
    /// It has none.
    pub fn new(container: &Container) -> io::Result<Self> {
        let mut link = Link::new(UnixStream::connect(container.socket(SOCKET))?)?;
        link.say(&Ask::Attach { output: false, input: false })?;
        Ok(Self { link })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn ask(&mut self, ask: &Ask) -> io::Result<()> {
        self.link.say(ask)
    }

    /// What the keeper says next; `None` when it says nothing for so long.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn hear(&mut self, limit: Option<Duration>) -> io::Result<Option<Tell>> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            if let Some(frame) = self.link.frames.next().map_err(broken)? {
                return frame.message().map(Some).map_err(broken);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            let left = left.and_then(|left| Timespec::try_from(left).ok());
            let mut fds = [PollFd::from_borrowed_fd(self.link.as_fd(), self.link.interest(true))];
            let _ = poll(&mut fds, left.as_ref());
            self.link.flush();
            if !self.link.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// How the container ended, however long that takes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn end(&mut self) -> io::Result<Ended> {
        self.wait(None)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// How the container ended; `None` when it has not within so long.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<Option<Ended>> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match self.hear(left)? {
                Some(Tell::Ended(ended)) => return Ok(Some(ended)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Sends the first process `signal`, and after `patience` KILL. A guest that does not answer to that
    /// either is switched off.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn stop(&mut self, signal: Signal, patience: Duration) -> io::Result<Ended> {
        self.ask(&Ask::Signal(signal.0))?;
        if let Some(ended) = self.wait(Some(patience))? {
            return Ok(ended);
        }
        self.ask(&Ask::Signal(Signal::KILL.0))?;
        if let Some(ended) = self.wait(Some(KILL_TIME))? {
            return Ok(ended);
        }
        self.ask(&Ask::Destroy)?;
        self.end()
    }
}

/// Connects a command to the container's first process.
///
/// # Errors
/// It has no keeper.
pub fn attach(container: &Container, input: bool) -> io::Result<UnixStream> {
    let socket = UnixStream::connect(container.socket(SOCKET))?;
    let mut words = vec![];
    push_message(&mut words, &Ask::Attach { output: true, input }).map_err(io::Error::other)?;
    io::Write::write_all(&mut &socket, &words)?;
    Ok(socket)
}

/// Has the agent of a container start a further process.
///
/// # Errors
/// Its guest does not answer.
pub fn exec(container: &Container, start: Start) -> io::Result<UnixStream> {
    session(container, &Request::Start(Box::new(start)))
}

/// A session with the agent that begins with `request`.
///
/// # Errors
/// Its guest does not answer.
pub fn session(container: &Container, request: &Request) -> io::Result<UnixStream> {
    use io::{Read, Write};
    /// The longest answer of the monitor, `OK 4294967295`, and more.
    const MAX_ANSWER: usize = 32;
    let mut socket = UnixStream::connect(container.socket(VSOCK))?;
    // At once: the monitor passes on what follows the line when it has made the connection.
    let mut words = format!("CONNECT {SESSION_PORT}\n").into_bytes();
    push_message(&mut words, request).map_err(io::Error::other)?;
    socket.write_all(&words)?;
    let mut answer = vec![];
    let mut byte = [0];
    while byte != *b"\n" {
        socket.read_exact(&mut byte)?;
        answer.extend_from_slice(&byte);
        if answer.len() > MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(socket)
}
