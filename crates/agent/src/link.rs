//! A connection with the host: frames in and out, without waiting.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use vmm_protocol::{Frame, FrameReader, Kind, push_data, push_message};

/// A connection with the host.
#[derive(Debug)]
pub(crate) struct Link {
    stream: File,
    pub(crate) reader: FrameReader,
    /// What is to be sent, and how much of it was.
    out: Vec<u8>,
    sent: usize,
    /// It is of no use any more.
    broken: bool,
}

impl Link {
    /// A connection that blocks or not, as `fd` does.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        let (reader, out) = (FrameReader::new(), Vec::new());
        Self { stream: File::from(fd), reader, out, sent: 0, broken: false }
    }

    /// Puts a message behind what is to be sent.
    pub(crate) fn say(&mut self, message: &impl serde::Serialize) {
        // Too long a message is left out: none of ours can be.
        if push_message(&mut self.out, message).is_err() {
            self.broken = true;
        }
    }

    /// Puts bytes of a stream behind what is to be sent.
    pub(crate) fn pass(&mut self, kind: Kind, bytes: &[u8]) {
        push_data(&mut self.out, kind, bytes);
    }

    /// Sends what the connection takes now; with one that blocks, everything. What a broken one does not
    /// take is forgotten.
    pub(crate) fn flush(&mut self) {
        while let Some(rest) =
            self.out.get(self.sent..).filter(|rest| !self.broken && !rest.is_empty())
        {
            match send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(len) => self.sent = self.sent.saturating_add(len),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.broken = true;
                    break;
                }
            }
        }
        self.out.clear();
        self.sent = 0;
    }

    /// Whether everything was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Whether the connection has ended or makes no sense any more.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Gives the connection up.
    pub(crate) fn give_up(&mut self) {
        self.broken = true;
    }

    /// Reads once.
    pub(crate) fn receive(&mut self) {
        match self.reader.fill_from(&mut self.stream) {
            Ok(0) => self.broken = true,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.broken = true,
            _ => {}
        }
    }

    /// The next frame that has come whole.
    pub(crate) fn next(&mut self) -> Option<Frame<'_>> {
        if self.broken {
            return None;
        }
        match self.reader.next() {
            Ok(frame) => frame,
            Err(_) => {
                self.broken = true;
                None
            }
        }
    }

    /// What to wait for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        let out = if self.is_flushed() { PollFlags::empty() } else { PollFlags::OUT };
        (self.stream.as_fd(), PollFlags::IN | out)
    }
}

/// Lets calls on a descriptor return when they would wait.
pub(crate) fn do_not_wait(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?)
}

/// Lets calls on a descriptor wait.
pub(crate) fn do_wait(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(&fd, fcntl_getfl(&fd)? - OFlags::NONBLOCK)?)
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn frames_go_both_ways_and_the_end_is_noticed() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut link = Link::new(ours.into());
        link.receive();
        assert!(link.next().is_none() && !link.is_broken());
        theirs.write_all(b"\x02\x01\0\0\0x").unwrap();
        link.receive();
        assert_eq!(link.next(), Some(Frame { kind: Kind::Stdin, payload: b"x" }));
        link.say(&7);
        link.pass(Kind::Stdout, b"y");
        link.flush();
        assert!(link.is_flushed());
        let mut bytes = [0; 12];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\x01\x01\0\0\x007\x03\x01\0\0\0y");
        drop(theirs);
        link.receive();
        assert!(link.is_broken());
    }

    /// V12.
    #[test]
    fn nonsense_breaks_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut link = Link::new(ours.into());
        theirs.write_all(&[9; 100]).unwrap();
        link.receive();
        assert!(link.next().is_none() && link.is_broken());
    }

    #[test]
    fn what_is_not_taken_waits() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut link = Link::new(ours.into());
        let bytes = vec![b'z'; 4 << 20];
        link.pass(Kind::Stdout, &bytes);
        link.flush();
        assert!(!link.is_flushed() && !link.is_broken());
        let reader = std::thread::spawn(move || {
            let mut all = vec![];
            theirs.read_to_end(&mut all).unwrap();
            all.len()
        });
        while !link.is_flushed() {
            link.flush();
        }
        drop(link);
        assert_eq!(reader.join().unwrap(), bytes.len() + 64 * 5);
    }
}
