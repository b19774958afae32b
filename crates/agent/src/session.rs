//! A session: a connection of the host, and the process it is about.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use vmm_protocol::{Exit, Kind, Reply, Request};

use crate::clock::uptime_us;
use crate::error::Failure;
use crate::link::Link;
use crate::process::{Process, Progress, Stream};

/// What of a session is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The connection.
    Link,
    /// A stream of the process.
    Stream(Stream),
}

/// What the host says.
#[derive(Debug)]
pub(crate) enum Input {
    Request(Request),
    Bytes(Vec<u8>),
}

/// A connection of the host.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) link: Link,
    pub(crate) process: Option<Process>,
    /// Everything was said.
    ended: bool,
}

impl Session {
    /// A session that nothing was said in.
    pub(crate) fn new(link: Link) -> Self {
        Self { link, process: None, ended: false }
    }

    /// What is waited for.
    pub(crate) fn interests(&self) -> Vec<(Part, BorrowedFd<'_>, PollFlags)> {
        let mut list = vec![];
        // Only that of a process that goes on without it is kept when it is broken.
        if !self.link.is_broken() {
            let (fd, flags) = self.link.interest();
            list.push((Part::Link, fd, flags));
        }
        if let Some(process) = &self.process {
            let streams = process.interests(self.link.is_flushed());
            list.extend(streams.into_iter().map(|(s, fd, flags)| (Part::Stream(s), fd, flags)));
        }
        list
    }

    /// What the host says next, if it has come whole. What makes no sense ends the session.
    pub(crate) fn next(&mut self) -> Option<Input> {
        let frame = self.link.next()?;
        let input = match frame.kind {
            Kind::Message => frame.message().ok().map(Input::Request),
            Kind::Stdin => Some(Input::Bytes(frame.payload.to_vec())),
            Kind::Stdout | Kind::Stderr => None,
        };
        if input.is_none() {
            self.link.give_up();
        }
        input
    }

    /// Says why nothing is done, and ends.
    pub(crate) fn refuse(&mut self, Failure { kind, what }: Failure) {
        self.link.say(&Reply::Refused { kind, what });
        self.ended = true;
    }

    /// Does what the host says about the process.
    pub(crate) fn command(&mut self, input: Input) {
        let Some(process) = &mut self.process else { return self.link.give_up() };
        match input {
            Input::Bytes(bytes) => {
                if !process.take_input(&bytes, &mut self.link) {
                    self.link.give_up();
                }
            }
            Input::Request(Request::StdinEof) => process.end_input(&mut self.link),
            Input::Request(Request::Resize(size)) => process.resize(size),
            Input::Request(Request::Signal(number)) => process.signal(number),
            Input::Request(Request::Release) => process.released = true,
            Input::Request(_) => self.link.give_up(),
        }
    }

    /// Reads or writes a stream of the process.
    pub(crate) fn handle(&mut self, stream: Stream, scratch: &mut [u8]) {
        if let Some(process) = &mut self.process {
            process.handle(stream, &mut self.link, scratch);
        }
    }

    /// Goes as far as it can without waiting; `false` when the session is over. `oom_kills` counts what
    /// the kernel has killed for want of memory.
    pub(crate) fn advance(&mut self, oom_kills: impl Fn() -> u64, scratch: &mut [u8]) -> bool {
        loop {
            self.link.flush();
            if self.link.is_broken() {
                match &mut self.process {
                    Some(process) if process.released => {}
                    Some(process) => {
                        process.kill(&mut self.link, scratch);
                        return false;
                    }
                    None => return false,
                }
            }
            if !self.link.is_flushed() {
                return true;
            }
            if self.ended {
                return false;
            }
            let Some(process) = &mut self.process else { return true };
            match process.advance(&mut self.link, scratch) {
                Progress::Running => return true,
                Progress::Output => {}
                Progress::Refused => self.ended = true,
                Progress::Done => {
                    if let Some(status) = process.status {
                        let oom = oom_kills() > process.oom_kills;
                        let uptime_us = uptime_us();
                        self.link.say(&Reply::Exited(Exit { status, oom, uptime_us }));
                    }
                    self.ended = true;
                }
            }
        }
    }
}
