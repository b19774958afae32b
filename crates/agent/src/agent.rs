//! The event loop: the control connection, sessions, and children that have ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read};
use rustix::process::{WaitOptions, wait};
use vmm_protocol::{MAX_DATA, Notice, Order, Refusal, Request, Role, Start, Status};
use vmm_sandbox::process::Child;

use crate::cgroup::MemoryEvents;
use crate::error::Failure;
use crate::link::Link;
use crate::process::{Process, Stream};
use crate::session::{Input, Part, Session};
use crate::setup::Container;
use crate::{copy, stats, vsock};

/// Sessions at a time.
const SESSIONS: usize = 512;

/// What the agent waits for.
#[derive(Clone, Copy, Debug)]
enum Source {
    Control,
    Listener,
    Children,
    Memory,
    Session(u64, Part),
}

/// The agent of a container that is ready.
pub(crate) struct Agent {
    pub(crate) container: Container,
    pub(crate) control: Link,
    pub(crate) listener: OwnedFd,
    /// Readable when a child has ended.
    pub(crate) children: OwnedFd,
    /// Reports when the kernel kills for want of memory.
    memory: Option<MemoryEvents>,
    oom_kills: u64,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// What the first process was started with, once it was.
    begun: Option<Start>,
    /// The mounts of the first process: its end does not wait until all of them are undone.
    pub(crate) mounts: Option<File>,
    scratch: Vec<u8>,
}

impl Agent {
    /// One without sessions.
    pub(crate) fn new(
        container: Container,
        control: Link,
        listener: OwnedFd,
        children: OwnedFd,
    ) -> Self {
        let memory = container.cgroup.memory_events().ok();
        Self {
            container,
            control,
            listener,
            children,
            memory,
            oom_kills: 0,
            sessions: BTreeMap::new(),
            next_session: 0,
            begun: None,
            mounts: None,
            scratch: vec![0; MAX_DATA],
        }
    }

    /// Serves the host until it asks for the end, or is gone.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        self.control.flush();
        while !self.control.is_broken() {
            for (source, flags) in self.wait()? {
                match source {
                    Source::Control if self.obey(flags) => return Ok(()),
                    Source::Control => {}
                    Source::Listener => self.accept(),
                    Source::Children => self.reap(),
                    Source::Memory => self.tell_oom(),
                    Source::Session(id, part) => self.serve(id, part, flags),
                }
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<(Source, PollFlags)>> {
        let (control, flags) = self.control.interest();
        let mut list = vec![(Source::Control, control, flags)];
        list.push((Source::Children, self.children.as_fd(), PollFlags::IN));
        if self.sessions.len() < SESSIONS {
            list.push((Source::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        list.extend(self.memory.as_ref().map(|fd| (Source::Memory, fd.as_fd(), PollFlags::PRI)));
        for (id, session) in &self.sessions {
            let parts = session.interests().into_iter();
            list.extend(parts.map(|(part, fd, flags)| (Source::Session(*id, part), fd, flags)));
        }
        let mut fds: Vec<PollFd<'_>> =
            list.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = list.iter().zip(&fds).map(|((source, ..), fd)| (*source, fd.revents()));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Does what the control connection says; `true` when that is the end.
    fn obey(&mut self, flags: PollFlags) -> bool {
        if flags != PollFlags::OUT {
            self.control.receive();
        }
        while let Some(frame) = self.control.next() {
            match frame.message() {
                Ok(Order::Stats) => self.control.say(&Notice::Stats(stats::stats(&self.container))),
                Ok(Order::Processes) => {
                    self.control.say(&Notice::Processes(stats::processes(&self.container)));
                }
                Ok(Order::Shutdown | Order::Setup(_)) | Err(_) => return true,
            }
        }
        self.control.flush();
        false
    }

    fn accept(&mut self) {
        // What goes wrong with one connection concerns no other.
        if let Ok(Some(stream)) = vsock::accept(&self.listener) {
            self.sessions.insert(self.next_session, Session::new(Link::new(stream)));
            self.next_session = self.next_session.saturating_add(1);
        }
    }

    /// Buries children; the sessions of those that have one learn how they ended.
    fn reap(&mut self) {
        let mut signal = [0; 128];
        while read(&self.children, &mut signal).is_ok_and(|len| len > 0) {}
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            // Which child is whose is said before it ends. Asked any earlier, one that has made way for its
            // program since would still be taken for it.
            for session in self.sessions.values_mut() {
                session.handle(Stream::Report, &mut self.scratch);
            }
            let number = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
            let Some(status) = status
                .exit_status()
                .map(|code| Status::Code(number(code)))
                .or(status.terminating_signal().map(|signal| Status::Signal(number(signal))))
            else {
                continue;
            };
            let is_its = |session: &Session| {
                session.process.as_ref().is_some_and(|process| process.child.pid == pid)
            };
            let found = self.sessions.iter_mut().find(|(_, session)| is_its(session));
            let Some((id, session)) = found else { continue };
            if let Some(process) = &mut session.process {
                process.status = Some(status);
            }
            let id = *id;
            if let Some(session) = self.sessions.remove(&id) {
                self.settle(id, session);
            }
        }
    }

    fn tell_oom(&mut self) {
        let Some(memory) = &self.memory else { return };
        let count = memory.oom_kills();
        if count > self.oom_kills {
            self.oom_kills = count;
            self.control.say(&Notice::OomKilled { count });
            self.control.flush();
        }
    }

    fn serve(&mut self, id: u64, part: Part, flags: PollFlags) {
        let Some(mut session) = self.sessions.remove(&id) else { return };
        match part {
            Part::Link if flags != PollFlags::OUT => {
                session.link.receive();
                while let Some(input) = session.next() {
                    match input {
                        Input::Request(Request::Start(start)) => self.start(&mut session, &start),
                        Input::Request(Request::Exec(further)) => {
                            // Without a first process there is none to be like, which is said then.
                            let none = Start::default();
                            let start = further.start(self.begun.as_ref().unwrap_or(&none));
                            self.start(&mut session, &start);
                        }
                        Input::Request(
                            request @ (Request::Stat { .. }
                            | Request::CopyOut { .. }
                            | Request::CopyIn { .. }),
                        ) => return self.copy(session, &request),
                        input => session.command(input),
                    }
                }
            }
            Part::Link => {}
            Part::Stream(stream) => session.handle(stream, &mut self.scratch),
        }
        self.settle(id, session);
    }

    /// Lets a session go on, and keeps it unless it is over.
    fn settle(&mut self, id: u64, mut session: Session) {
        let oom_kills = || self.container.cgroup.oom_kills();
        if session.advance(oom_kills, &mut self.scratch) {
            self.sessions.insert(id, session);
        }
    }

    fn start(&mut self, session: &mut Session, start: &Start) {
        if session.process.is_some() {
            return session.link.give_up();
        }
        match self.try_start(start) {
            Ok(process) => session.process = Some(process),
            Err(failure) => session.refuse(failure),
        }
    }

    fn try_start(&mut self, start: &Start) -> Result<Process, Failure> {
        let failure = |what: &str| Failure::new(Refusal::Other, what);
        match start.role {
            Role::Init if self.begun.is_some() => {
                Err(failure("the container has its first process already"))
            }
            Role::Init => {
                let process = Process::start(start, &self.container, None)?;
                self.begun = Some(start.clone());
                let pid = process.child.pid.as_raw_nonzero();
                self.mounts = File::open(format!("/proc/{pid}/ns/mnt")).ok();
                Ok(process)
            }
            Role::Exec => {
                let first = self.first().ok_or_else(|| failure("the container is not running"))?;
                Process::start(start, &self.container, Some(first))
            }
        }
    }

    /// The container's first process, while it runs.
    fn first(&self) -> Option<&Child> {
        let processes = self.sessions.values().filter_map(|session| session.process.as_ref());
        let mut running = processes.filter(|process| process.is_running());
        running.find(|process| process.role == Role::Init).map(|first| &first.child)
    }

    /// Hands a session over to a process of its own, which may take its time.
    fn copy(&mut self, mut session: Session, request: &Request) {
        if session.process.is_some() {
            return;
        }
        let first = self.first().map(|first| first.pidfd.as_fd());
        if let Err(failure) = copy::start(&mut session.link, request, first) {
            session.refuse(failure);
            // The answer is short, and the connection has taken nothing yet.
            session.link.flush();
        }
    }
}
