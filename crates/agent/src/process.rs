//! A process of the container as the agent sees it: its streams, its start and its end.

use std::io;
use std::mem::{MaybeUninit, take};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, IoSliceMut, read, retry_on_intr, write};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use vmm_protocol::{INITIAL_CREDIT, Kind, MAX_DATA, Refusal, Reply, Role, Start, Status};
use vmm_sandbox::process::{self, Child, Forked, LAST_SIGNAL};

use crate::error::{Context, Failure};
use crate::link::{Link, do_not_wait};
use crate::setup::Container;
use crate::spawn::{self, Plan};
use crate::sys;

/// Input a process has taken before its sender gets credit for it.
const CREDIT_STEP: usize = 32 << 10;
/// Output that is still taken from a stream after the end of the process: the most a pipe can hold.
/// Others that have the stream open may write on without end.
const LAST_OUTPUT: usize = 1 << 20;
/// The longest report of a child.
const REPORT: usize = 16 << 10;

/// A stream of output.
#[derive(Debug)]
struct Output {
    kind: Kind,
    fd: OwnedFd,
    /// What may still be read after the end of the process.
    last: usize,
}

/// A process of the container.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) role: Role,
    /// How it has ended.
    pub(crate) status: Option<Status>,
    /// Processes killed for want of memory before it began.
    pub(crate) oom_kills: u64,
    /// It goes on without its connection.
    pub(crate) released: bool,
    /// What the child says about its start, until it runs.
    report: Option<OwnedFd>,
    /// What it has said last.
    said: Option<Reply>,
    stdin: Option<OwnedFd>,
    /// Input that it has not taken yet.
    input: Vec<u8>,
    /// No more input comes.
    input_ends: bool,
    /// Input that came and has no credit yet; the part of it that was taken.
    uncredited: usize,
    owed: usize,
    outputs: Vec<Output>,
    terminal: Option<OwnedFd>,
}

/// The descriptors of a process that are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Report,
    Stdin,
    Output(usize),
}

/// How far a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It runs, or is about to.
    Running,
    /// It has ended, and there was output.
    Output,
    /// It has ended, and all its output was seen.
    Done,
    /// It never ran.
    Refused,
}

impl Process {
    /// Starts what `start` says in `container`, whose first process is `first`.
    pub(crate) fn start(
        start: &Start,
        container: &Container,
        first: Option<&Child>,
    ) -> Result<Self, Failure> {
        let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (report, theirs) =
            socketpair(family, kind, SocketFlags::CLOEXEC, None).context("make a socket")?;
        do_not_wait(&report).context("make a socket")?;
        set_socket_passcred(&report, true).context("make a socket")?;
        let pipes = match start.terminal {
            Some(_) => Pipes::default(),
            None => Pipes::new(start.stdin).context("make pipes")?,
        };
        let oom_kills = container.cgroup.oom_kills();
        let child = match fork(container, first).context("make a process")? {
            Forked::Parent(child) => child,
            Forked::Child => spawn::run(Plan {
                start,
                setup: &container.setup,
                first: first.map(|first| first.pidfd.as_fd()),
                streams: pipes.theirs,
                report: theirs,
            }),
        };
        Ok(Self {
            child,
            role: start.role,
            status: None,
            oom_kills,
            released: false,
            report: Some(report),
            said: None,
            stdin: pipes.stdin,
            input: Vec::new(),
            input_ends: false,
            uncredited: 0,
            owed: 0,
            outputs: pipes.outputs,
            terminal: None,
        })
    }

    /// Whether its program runs.
    pub(crate) fn is_running(&self) -> bool {
        self.report.is_none() && self.status.is_none()
    }

    /// What is waited for; output only when there is `room` for it.
    pub(crate) fn interests(&self, room: bool) -> Vec<(Stream, BorrowedFd<'_>, PollFlags)> {
        let mut list = vec![];
        if let Some(fd) = &self.report {
            list.push((Stream::Report, fd.as_fd(), PollFlags::IN));
        }
        if let Some(fd) = self.stdin.as_ref().filter(|_| !self.input.is_empty()) {
            list.push((Stream::Stdin, fd.as_fd(), PollFlags::OUT));
        }
        // Output of a program comes after the word that it runs.
        let room = room && self.report.is_none();
        for (index, output) in self.outputs.iter().enumerate().filter(|_| room) {
            list.push((Stream::Output(index), output.fd.as_fd(), PollFlags::IN));
        }
        list
    }

    /// Does what a descriptor is ready for.
    pub(crate) fn handle(&mut self, stream: Stream, link: &mut Link, scratch: &mut [u8]) {
        match stream {
            Stream::Report => self.read_report(link, scratch),
            Stream::Stdin => self.write_input(link),
            Stream::Output(index) => {
                self.read_output(index, link, scratch);
            }
        }
    }

    /// Takes input; `false` when it is more than there was credit for.
    #[must_use]
    pub(crate) fn take_input(&mut self, bytes: &[u8], link: &mut Link) -> bool {
        self.uncredited = self.uncredited.saturating_add(bytes.len());
        if self.uncredited > usize::try_from(INITIAL_CREDIT).unwrap_or(0) {
            return false;
        }
        self.input.extend_from_slice(bytes);
        self.write_input(link);
        true
    }

    /// No more input follows. A terminal goes on: its end of input is a character.
    pub(crate) fn end_input(&mut self, link: &mut Link) {
        self.input_ends = true;
        self.write_input(link);
    }

    /// Sets the size of its terminal, if it has one.
    pub(crate) fn resize(&self, size: vmm_protocol::TerminalSize) {
        if let Some(terminal) = &self.terminal {
            // It may have ended.
            let _ = spawn::resize(terminal, size);
        }
    }

    /// Sends it a signal, unless it has ended.
    pub(crate) fn signal(&self, number: u8) {
        if self.status.is_none() && (1..=LAST_SIGNAL).contains(&i32::from(number)) {
            let _ = sys::kill(self.child.pid, false, number.into());
        }
    }

    /// Kills it, and with it its group or the container, unless it has ended.
    pub(crate) fn kill(&mut self, link: &mut Link, scratch: &mut [u8]) {
        // It may be another by now. One that has not said so yet ends when it cannot.
        self.read_report(link, scratch);
        if self.status.is_none() {
            // It may not have a group yet.
            let _ = sys::kill(self.child.pid, true, libc::SIGKILL);
            let _ = sys::kill(self.child.pid, false, libc::SIGKILL);
        }
    }

    /// Looks for its last output when it has ended.
    pub(crate) fn advance(&mut self, link: &mut Link, scratch: &mut [u8]) -> Progress {
        if self.report.is_none() && matches!(self.said, Some(Reply::Refused { .. })) {
            return Progress::Refused;
        }
        if self.status.is_none() {
            return Progress::Running;
        }
        if self.report.is_some() {
            self.read_report(link, scratch);
            // It cannot say more, though the process that made way for it may still have an end open.
            if self.report.is_some() {
                self.end_report(link);
            }
            return Progress::Output;
        }
        if self.outputs.is_empty() {
            return Progress::Done;
        }
        let before = self.outputs.len();
        if !self.read_output(0, link, scratch) && self.outputs.len() == before {
            // Nothing left in it, although others have it open.
            self.outputs.remove(0);
        }
        Progress::Output
    }

    /// Reads from a stream once; tells whether anything came.
    fn read_output(&mut self, index: usize, link: &mut Link, scratch: &mut [u8]) -> bool {
        let Some(output) = self.outputs.get_mut(index) else { return false };
        let most = if self.status.is_some() { output.last.min(MAX_DATA) } else { MAX_DATA };
        let room = scratch.get_mut(..most).unwrap_or_default();
        match retry_on_intr(|| read(&output.fd, &mut *room)) {
            Ok(len) if len > 0 => {
                if self.status.is_some() {
                    output.last = output.last.saturating_sub(len);
                }
                link.pass(output.kind, scratch.get(..len).unwrap_or_default());
                true
            }
            Err(Errno::AGAIN) => false,
            // Its end: of a terminal, nobody has it open any more.
            Ok(_) | Err(_) => {
                self.outputs.remove(index);
                false
            }
        }
    }

    /// Hands on input that the process takes now.
    fn write_input(&mut self, link: &mut Link) {
        let written = match &self.stdin {
            // Until a terminal is there; without input, or when nobody reads it, it is for nothing.
            None if self.report.is_some() => 0,
            None => self.input.len(),
            Some(_) if self.input.is_empty() => 0,
            Some(fd) => match write(fd, &self.input) {
                Ok(len) => len,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(_) => {
                    self.stdin = None;
                    self.input.len()
                }
            },
        };
        self.input.drain(..written);
        self.owed = self.owed.saturating_add(written);
        if self.owed >= CREDIT_STEP {
            let credit = take(&mut self.owed);
            self.uncredited = self.uncredited.saturating_sub(credit);
            link.say(&Reply::Credit(u32::try_from(credit).unwrap_or(0)));
        }
        if self.input_ends && self.input.is_empty() && self.terminal.is_none() {
            self.stdin = None;
        }
    }

    /// Hears what the child says until its program runs.
    fn read_report(&mut self, link: &mut Link, scratch: &mut [u8]) {
        while let Some(report) = &self.report {
            let mut space =
                [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1), ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(scratch.get_mut(..REPORT).unwrap_or_default())];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let result = retry_on_intr(|| recvmsg(report, &mut parts, &mut control, flags));
            let Ok(len) = result.map(|message| message.bytes) else { return };
            let (mut sender, mut terminal) = (None, None);
            for message in control.drain() {
                match message {
                    RecvAncillaryMessage::ScmCredentials(credentials) => {
                        sender = Some(credentials.pid);
                    }
                    RecvAncillaryMessage::ScmRights(mut fds) => terminal = fds.next(),
                    _ => {}
                }
            }
            // Of the container's own processes none has a terminal to give.
            if let Some(terminal) = terminal.filter(|_| sender == Some(self.child.pid)) {
                self.adopt_terminal(terminal, link);
            } else if len > 0 {
                let bytes = scratch.get(..len).unwrap_or_default();
                self.said = serde_json::from_slice(bytes).ok();
                self.follow(sender);
            } else {
                self.end_report(link);
            }
        }
    }

    /// Tells the host what the child has said last: nothing follows it.
    fn end_report(&mut self, link: &mut Link) {
        self.report = None;
        let never = || {
            let what = "the process ended before its program began".to_owned();
            Reply::Refused { kind: Refusal::Other, what }
        };
        link.say(self.said.get_or_insert_with(never));
    }

    /// Who says that the program is about to begin is the process from now on. The agent is its parent, so
    /// that its number is its own until it is buried.
    fn follow(&mut self, sender: Option<Pid>) {
        let (Some(pid), Some(Reply::Started { .. })) = (sender, &self.said) else { return };
        if pid != self.child.pid {
            self.child.pid = pid;
            // One that is being buried has none any more, and needs none.
            if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                self.child.pidfd = pidfd;
            }
        }
    }

    fn adopt_terminal(&mut self, terminal: OwnedFd, link: &mut Link) {
        let (Ok(input), Ok(output)) = (terminal.try_clone(), terminal.try_clone()) else { return };
        self.stdin = Some(input);
        self.outputs.push(Output { kind: Kind::Stdout, fd: output, last: LAST_OUTPUT });
        self.terminal = Some(terminal);
        self.write_input(link);
    }
}

/// Both sides of the standard streams of a process.
#[derive(Default)]
struct Pipes {
    stdin: Option<OwnedFd>,
    outputs: Vec<Output>,
    theirs: Option<[OwnedFd; 3]>,
}

impl Pipes {
    fn new(input: bool) -> io::Result<Self> {
        let (stdin, their_input) = if input {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            do_not_wait(&ours)?;
            (Some(ours), theirs)
        } else {
            (None, open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let (mut outputs, mut theirs) = (vec![], vec![]);
        for kind in [Kind::Stdout, Kind::Stderr] {
            let (fd, their_end) = pipe_with(PipeFlags::CLOEXEC)?;
            do_not_wait(&fd)?;
            outputs.push(Output { kind, fd, last: LAST_OUTPUT });
            theirs.push(their_end);
        }
        let mut theirs = theirs.into_iter();
        let theirs = match (theirs.next(), theirs.next()) {
            (Some(output), Some(errors)) => Some([their_input, output, errors]),
            _ => None,
        };
        Ok(Self { stdin, outputs, theirs })
    }
}

/// The first process begins in namespaces of its own; a further one enters those later. It begins where the first
/// one began, or where that is now: a container that runs the like of systemd has distributed its processes over
/// groups of its own, and then there is no place for any in the group above.
fn fork(container: &Container, first: Option<&Child>) -> io::Result<Forked> {
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let Some(first) = first else { return process::fork(own, Some(container.cgroup.fd())) };
    match process::fork(0, Some(container.cgroup.fd())) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            process::fork(0, Some(container.cgroup.group_of(first.pid)?.as_fd()))
        }
        forked => forked,
    }
}
