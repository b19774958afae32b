//! A command that is connected to the keeper.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use vmm_protocol::{INITIAL_CREDIT, Kind};

use super::super::link::{Link, broken};
use super::super::talk::{Ask, Tell};

/// What a command wants, and how far its input is.
pub(super) struct Visitor {
    link: Link,
    /// By which it is known while others come and go.
    number: u64,
    /// Whether it is sent output.
    output: bool,
    /// Whether there is more of its input.
    source: Source,
    /// Input on its way to the container; no more than the credit that was given.
    input: Vec<u8>,
    /// Whether it has attached.
    attached: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// It sends none.
    None,
    /// More may come.
    Open,
    /// What is here is all, and the container is to learn that.
    Ended,
}

impl Visitor {
    pub(super) fn new(socket: UnixStream, number: u64) -> io::Result<Self> {
        let link = Link::new(socket)?;
        Ok(Self {
            link,
            number,
            output: false,
            source: Source::None,
            input: vec![],
            attached: false,
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn interest(&self) -> PollFlags {
        self.link.interest(true)
    }

    /// Whether output has to wait for it.
    pub(super) fn is_behind(&self) -> bool {
        self.link.is_behind()
    }

    /// Takes what it sends, and hands out what it asks. An error or `false` means that it is gone.
    pub(super) fn hear(&mut self, asks: &mut Vec<Ask>) -> io::Result<bool> {
        self.link.flush();
        let more = self.link.fill()?;
        while let Some(frame) = self.link.frames.next().map_err(broken)? {
            if frame.kind == Kind::Stdin {
                self.input.extend_from_slice(frame.payload);
                let credit = usize::try_from(INITIAL_CREDIT).unwrap_or(0);
                if self.input.len() > credit || self.source != Source::Open {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                continue;
            }
            let ask = frame.message().map_err(broken)?;
            match &ask {
                Ask::Attach { output, input } if !self.attached => {
                    self.attached = true;
                    self.output = *output;
                    self.source = if *input { Source::Open } else { Source::None };
                }
                Ask::Attach { .. } => return Err(io::ErrorKind::InvalidData.into()),
                _ if !self.attached => return Err(io::ErrorKind::InvalidData.into()),
                _ => {}
            }
            asks.push(ask);
        }
        Ok(more)
    }

    /// Takes its input, and lets it send as much again.
    pub(super) fn take_input(&mut self) -> Vec<u8> {
        let taken = std::mem::take(&mut self.input);
        if let Ok(count @ 1..) = u32::try_from(taken.len()) {
            self.tell(&Tell::Credit(count));
        }
        taken
    }

    /// No more input comes from it.
    pub(super) fn end_input(&mut self) {
        if self.source == Source::Open {
            self.source = Source::Ended;
        }
    }

    /// Whether all its input was taken and the end is next; says so once.
    pub(super) fn take_end(&mut self) -> bool {
        let is_next = self.source == Source::Ended && self.input.is_empty();
        if is_next {
            self.source = Source::None;
        }
        is_next
    }

    pub(super) fn show(&mut self, kind: Kind, bytes: &[u8]) {
        if self.output {
            self.link.pass(kind, bytes);
        }
    }

    /// Who asks for what is too long for a frame is not left waiting.
    pub(super) fn tell(&mut self, message: &Tell) {
        if self.link.say(message).is_err() {
            self.link.hang_up();
        }
    }

    pub(super) fn flush(&mut self) {
        self.link.flush();
    }

    /// Whether it has been sent everything.
    pub(super) fn is_served(&self) -> bool {
        self.link.waiting() == 0
    }
}

impl AsFd for Visitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}
