//! A command's questions to the keeper of a container, and to the agent in its guest.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec, poll};
use rustix::net::{RecvFlags, recv};
use vmm_protocol::{Request, SESSION_PORT, push_message};

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

/// A session with the agent that begins with `request`.
///
/// # Errors
/// Its guest does not answer.
pub fn session(container: &Container, request: &Request) -> io::Result<UnixStream> {
    let mut frame = vec![];
    push_message(&mut frame, request).map_err(io::Error::other)?;
    session_in(container.sockets(), &frame)
}

/// A session with the agent of the container whose sockets are in `directory`, which begins with `frame`.
///
/// # Errors
/// Its guest does not answer.
pub fn session_in(directory: &Path, frame: &[u8]) -> io::Result<UnixStream> {
    let mut socket = UnixStream::connect(directory.join(VSOCK))?;
    // At once: the monitor passes on what follows the line when it has made the connection.
    let line = format!("CONNECT {SESSION_PORT}\n");
    io::Write::write_all(&mut socket, &[line.as_bytes(), frame].concat())?;
    skip_answer(&mut socket)?;
    Ok(socket)
}

/// Reads the line by which the monitor says that the guest answers, and nothing behind it.
fn skip_answer(socket: &mut UnixStream) -> io::Result<()> {
    /// The longest answer, `OK 4294967295`, and more.
    const MAX_ANSWER: usize = 32;
    let mut rest = MAX_ANSWER;
    while rest > 0 {
        let mut bytes = [0; MAX_ANSWER];
        let seen = bytes.get_mut(..rest).unwrap_or_default();
        let (count, _) = recv(&*socket, &mut *seen, RecvFlags::PEEK)?;
        let end = seen.iter().take(count).position(|byte| *byte == b'\n');
        let taken =
            seen.get_mut(..end.map_or(count, |at| at.saturating_add(1))).unwrap_or_default();
        io::Read::read_exact(socket, taken)?;
        match end {
            Some(_) => return Ok(()),
            None if count == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => rest = rest.saturating_sub(count),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// What is left of `said` behind the answer of the monitor.
    fn left(said: &[&[u8]]) -> Result<Vec<u8>, io::ErrorKind> {
        let (mut ours, mut theirs) = UnixStream::pair().expect("pair");
        let said: Vec<_> = said.iter().map(|part| part.to_vec()).collect();
        let speaker = std::thread::spawn(move || {
            for part in said {
                theirs.write_all(&part).expect("heard");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let skipped = skip_answer(&mut ours).map_err(|e| e.kind());
        speaker.join().expect("said all");
        skipped?;
        let mut rest = vec![];
        ours.read_to_end(&mut rest).expect("closed");
        Ok(rest)
    }

    #[test]
    fn nothing_behind_the_answer_is_read_with_it() {
        assert_eq!(left(&[b"OK 1\nframe\nx"]), Ok(b"frame\nx".to_vec()));
        assert_eq!(left(&[b"OK 107374", b"1824", b"\n", b"x"]), Ok(b"x".to_vec()));
        assert_eq!(left(&[b"OK 1"]), Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(left(&[&[b'x'; 40]]), Err(io::ErrorKind::InvalidData));
    }
}
