//! A connection that carries frames and never blocks: what is read comes out in whole frames, what is to
//! be sent waits until the other side takes it. A side that takes nothing any more is sent nothing any more,
//! and is heard to its end: its last words say why.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use serde::Serialize;
use vmm_protocol::{FrameError, FrameReader, Kind, push_data, push_message};

/// Bytes that may wait for the other side before its sources are no longer read.
const BACKLOG: usize = 256 << 10;

/// One end of a connection.
#[derive(Debug)]
pub(super) struct Link {
    socket: UnixStream,
    /// What was received.
    pub(super) frames: FrameReader,
    out: Vec<u8>,
    sent: usize,
    /// Whether the other side takes nothing any more.
    is_deaf: bool,
}

impl Link {
    pub(super) fn new(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, frames: FrameReader::new(), out: vec![], sent: 0, is_deaf: false })
    }

    /// Queues a message and sends what the socket takes.
    ///
    /// # Errors
    /// The message is too long for a frame.
    pub(super) fn say(&mut self, message: &impl Serialize) -> io::Result<()> {
        push_message(&mut self.out, message).map_err(io::Error::other)?;
        self.flush();
        Ok(())
    }

    /// Queues bytes of a stream and sends what the socket takes.
    pub(super) fn pass(&mut self, kind: Kind, bytes: &[u8]) {
        push_data(&mut self.out, kind, bytes);
        self.flush();
    }

    /// Sends what the socket takes of what waits.
    pub(super) fn flush(&mut self) {
        while let Some(rest) = self.out.get(self.sent..).filter(|rest| !rest.is_empty()) {
            if self.is_deaf {
                break;
            }
            match self.socket.write(rest) {
                Ok(count @ 1..) => self.sent = self.sent.saturating_add(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => self.is_deaf = true,
            }
        }
        self.out.clear();
        self.sent = 0;
    }

    /// Reads what is there, a frame or so at a time; `false` at the end of the stream.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        match self.frames.fill_from(&mut self.socket) {
            Ok(count) => Ok(count > 0),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Ends the connection: both sides find the end of the stream.
    pub(super) fn hang_up(&mut self) {
        // It fails for one that has ended.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Whether so much waits that nothing should be added.
    pub(super) fn is_behind(&self) -> bool {
        self.waiting() >= BACKLOG
    }

    pub(super) fn waiting(&self) -> usize {
        self.out.len().saturating_sub(self.sent)
    }

    /// What to wait for: input if `reads`, and room if anything is to be sent.
    pub(super) fn interest(&self, reads: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, reads);
        flags.set(PollFlags::OUT, self.waiting() > 0);
        flags
    }

    /// Reads a line of at most `max` bytes, before any frame; `None` until it is whole.
    pub(super) fn read_line(&mut self, line: &mut Vec<u8>, max: usize) -> io::Result<bool> {
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) if byte == *b"\n" => return Ok(true),
                Ok(_) if line.len() >= max => return Err(io::ErrorKind::InvalidData.into()),
                Ok(_) => line.extend_from_slice(&byte),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
    }

    /// Sends bytes that are no frame.
    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.flush();
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// As the error of a connection: the other side does not keep to the protocol.
pub(super) fn broken(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
