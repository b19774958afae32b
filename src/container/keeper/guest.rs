//! The machine of a container and the agent in it, as its keeper sees them.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use vmm_protocol::{
    CONTROL_PORT, Notice, Order, Refusal, Reply, Request, SESSION_PORT, VERSION, printable,
};

use super::super::cgroup;
use super::super::link::{Link, broken};
use super::super::machine::{VSOCK, monitor_arguments};
use super::super::talk::{Ended, Failure, Phase};
use super::super::{Container, Spec};
use super::{failed, failure, not_now};

/// A kernel of a distribution takes seven seconds where all of it is emulated; this is for hosts with
/// ten times as much to do.
const BOOT_TIME: Duration = Duration::from_secs(90);
/// The agent's part takes milliseconds.
const AGENT_TIME: Duration = Duration::from_secs(30);
/// How long a guest may take to write everything to its disk and power off.
const END_TIME: Duration = Duration::from_secs(5);
/// Between the end of a process's connections and its own.
const MOMENT: Duration = Duration::from_millis(500);
/// What is kept of the monitor's messages, in bytes.
const MAX_WORDS: usize = 16 << 10;

/// A running machine with a container whose first process has started.
pub(super) struct Guest {
    monitor: Monitor,
    /// To the agent.
    pub(super) control: Link,
    /// To the first process.
    pub(super) session: Link,
}

impl Guest {
    /// Starts the machine, and the container's first process in it.
    /// A `command` that is gone before that has changed its mind. The machine runs in the control
    /// group `group`.
    pub(super) fn start(
        container: &Container,
        command: Option<BorrowedFd<'_>>,
        group: Option<&Path>,
    ) -> Result<Self, Ended> {
        let setup = |what: &str, e: io::Error| failed(Phase::Setup, format!("{what}: {e}"));
        let path = container.socket(&format!("{VSOCK}_{CONTROL_PORT}"));
        let listener = UnixListener::bind(&path).map_err(|e| setup("listen for the agent", e))?;
        let mut monitor = Monitor::start(container).map_err(|e| setup("start the monitor", e))?;
        let joined = group.map_or(Ok(()), |group| cgroup::add(group, monitor.child.id()));
        joined.map_err(|e| setup("move the monitor to its control group", e))?;
        // Without it, the start is not given up early.
        monitor.command = command.and_then(|fd| fd.try_clone_to_owned().ok());
        let mut phase = Phase::Boot;
        let begun = begin(container.spec(), container, &listener, &mut monitor, &mut phase);
        // Whoever connects from now on is not the agent.
        drop(listener);
        match begun {
            Ok((control, session)) => {
                monitor.command = None;
                Ok(Self { monitor, control, session })
            }
            Err(Stop::Refused(kind, what)) => {
                let ended = failed(phase, what);
                Err(Ended { code: kind.exit_code(), ..ended })
            }
            Err(stop) => {
                let cause = monitor.cause(stop);
                Err(Ended {
                    error: Some(monitor.explain(phase, cause)),
                    ..failed(phase, String::new())
                })
            }
        }
    }

    /// Readable when the monitor has ended.
    pub(super) fn monitor_fd(&self) -> BorrowedFd<'_> {
        self.monitor.pidfd.as_fd()
    }

    /// What the monitor says.
    pub(super) fn words_fd(&self) -> BorrowedFd<'_> {
        self.monitor.stderr.as_fd()
    }

    /// Takes what the monitor said.
    pub(super) fn listen(&mut self) {
        self.monitor.listen();
    }

    /// How a machine that ended by itself is explained.
    pub(super) fn explain(&mut self, cause: String) -> Failure {
        self.monitor.explain(Phase::Run, cause)
    }

    /// Whether the monitor has ended. One that is about to, as its connections are gone already, gets a
    /// moment.
    pub(super) fn has_ended(&mut self) -> bool {
        self.monitor.wait(Instant::now() + MOMENT);
        !matches!(self.monitor.child.try_wait(), Ok(None))
    }

    /// Ends the machine; in order if what the container wrote is kept.
    pub(super) fn end(mut self, in_order: bool) {
        if in_order && self.control.say(&Order::Shutdown).is_ok() {
            self.monitor.wait(Instant::now() + END_TIME);
        }
        self.monitor.kill();
    }

    /// Ends the machine as it is.
    pub(super) fn destroy(&mut self) {
        self.monitor.kill();
    }
}

/// Why a step was not taken.
pub(super) enum Stop {
    /// The monitor ended.
    Died,
    /// Nothing happened for too long.
    Late(&'static str, Duration),
    /// Somebody said no.
    Said(String),
    /// The agent cannot start the process.
    Refused(Refusal, String),
    /// A connection failed.
    Broken(&'static str, io::Error),
}

/// From the kernel's first instruction to the container's first process.
fn begin(
    spec: &Spec,
    container: &Container,
    listener: &UnixListener,
    monitor: &mut Monitor,
    phase: &mut Phase,
) -> Result<(Link, Link), Stop> {
    let broken = |what| move |e| Stop::Broken(what, e);
    let end = Instant::now() + BOOT_TIME;
    listener.set_nonblocking(true).map_err(broken("listen for the agent"))?;
    monitor.wait_for(
        listener.as_fd(),
        PollFlags::IN,
        end,
        "the agent did not come up",
        BOOT_TIME,
    )?;
    let (socket, _) = listener.accept().map_err(broken("hear the agent"))?;
    *phase = Phase::Agent;
    let end = Instant::now() + AGENT_TIME;
    let mut control = Link::new(socket).map_err(broken("hear the agent"))?;
    match receive(&mut control, monitor, end, "the agent did not say hello")? {
        Notice::Hello { version: VERSION, .. } => {}
        Notice::Hello { version, .. } => {
            let text = format!("the agent has version {version} of the protocol, not {VERSION}");
            return Err(Stop::Said(text));
        }
        _ => return Err(Stop::Said("the agent did not begin with a hello".to_owned())),
    }
    let order = Order::Setup(Box::new(spec.setup.clone()));
    control.say(&order).map_err(broken("tell the agent what to prepare"))?;
    match receive(&mut control, monitor, end, "the agent prepared nothing")? {
        Notice::Ready { .. } => {}
        Notice::Failed { what } => return Err(Stop::Said(printable(&what))),
        _ => return Err(Stop::Said("the agent spoke out of turn".to_owned())),
    }
    *phase = Phase::Exec;
    let end = Instant::now() + AGENT_TIME;
    let socket = UnixStream::connect(container.socket(VSOCK));
    let mut session = socket.and_then(Link::new).map_err(broken("connect to the agent"))?;
    connect(&mut session, monitor, end)?;
    let request = Request::Start(Box::new(spec.start.clone()));
    session.say(&request).map_err(broken("tell the agent what to run"))?;
    match receive(&mut session, monitor, end, "the agent started nothing")? {
        Reply::Started { .. } => Ok((control, session)),
        Reply::Refused { kind, what } => Err(Stop::Refused(kind, printable(&what))),
        _ => Err(Stop::Said("the agent spoke out of turn".to_owned())),
    }
}

/// Asks the monitor for the agent's port (Firecracker's convention).
fn connect(link: &mut Link, monitor: &mut Monitor, end: Instant) -> Result<(), Stop> {
    let broken = |e| Stop::Broken("connect to the agent", e);
    link.send_raw(format!("CONNECT {SESSION_PORT}\n").as_bytes()).map_err(broken)?;
    let mut line = vec![];
    while !link.read_line(&mut line, 64).map_err(broken)? {
        monitor.wait_for(
            link.as_fd(),
            PollFlags::IN,
            end,
            "the agent did not answer",
            AGENT_TIME,
        )?;
    }
    if line.starts_with(b"OK ") { Ok(()) } else { Err(broken(io::ErrorKind::InvalidData.into())) }
}

/// The next message on `link`.
fn receive<M: DeserializeOwned>(
    link: &mut Link,
    monitor: &mut Monitor,
    end: Instant,
    late: &'static str,
) -> Result<M, Stop> {
    let deaf = |e| Stop::Broken("hear the agent", e);
    loop {
        if let Some(frame) = link.frames.next().map_err(|e| deaf(broken(e)))? {
            return frame.message().map_err(|e| deaf(broken(e)));
        }
        let interest = link.interest(true);
        monitor.wait_for(link.as_fd(), interest, end, late, AGENT_TIME)?;
        link.flush().map_err(deaf)?;
        if !link.fill().map_err(deaf)? {
            return Err(deaf(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// The process that is the machine.
struct Monitor {
    child: Child,
    pidfd: OwnedFd,
    stderr: ChildStderr,
    /// The last of what it said.
    words: Vec<u8>,
    /// Whoever waits for the start.
    command: Option<OwnedFd>,
}

impl Monitor {
    fn start(container: &Container) -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("monitor")
            .args(monitor_arguments(container))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let pid = Pid::from_child(&child);
        let (Some(stderr), pidfd) = (child.stderr.take(), pidfd_open(pid, PidfdFlags::empty())?)
        else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        ioctl_fionbio(&stderr, true)?;
        Ok(Self { child, pidfd, stderr, words: vec![], command: None })
    }

    /// Waits until `fd` is ready, while the monitor lives.
    fn wait_for(
        &mut self,
        fd: BorrowedFd<'_>,
        interest: PollFlags,
        end: Instant,
        late: &'static str,
        limit: Duration,
    ) -> Result<(), Stop> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Stop::Late(late, limit));
            }
            let mut fds = vec![
                PollFd::from_borrowed_fd(fd, interest),
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(&self.stderr, PollFlags::IN),
            ];
            fds.extend(self.command.iter().map(|fd| PollFd::new(fd, PollFlags::RDHUP)));
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (ready, ended, said) = (is_ready(0), is_ready(1), is_ready(2));
            if is_ready(3) {
                return Err(Stop::Said("whoever asked for it is gone".to_owned()));
            }
            if said && !ended {
                self.listen();
            }
            if ready {
                return Ok(());
            }
            if ended {
                return Err(Stop::Died);
            }
        }
    }

    fn listen(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stderr.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => {
                    self.words.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    let over = self.words.len().saturating_sub(MAX_WORDS);
                    self.words.drain(..over);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if not_now(&e) => return,
                Err(_) => return,
            }
        }
    }

    fn wait(&mut self, end: Instant) {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
    }

    fn kill(&mut self) {
        // It may have ended already, and has then been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What stopped the start, in one line.
    fn cause(&mut self, stop: Stop) -> String {
        match stop {
            Stop::Died => {
                self.wait(Instant::now() + END_TIME);
                match self.child.try_wait().ok().flatten() {
                    Some(status) => format!("the machine ended ({status})"),
                    None => "the machine ended".to_owned(),
                }
            }
            Stop::Late(what, limit) => {
                // Asked to end, the monitor says what its guest last printed.
                let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
                self.wait(Instant::now() + END_TIME);
                format!("{what} within {} s", limit.as_secs())
            }
            Stop::Said(text) | Stop::Refused(_, text) => text,
            Stop::Broken(what, e) => format!("{what}: {e}"),
        }
    }

    /// Ends the machine, and adds its own words to what is known.
    fn explain(&mut self, phase: Phase, cause: String) -> Failure {
        self.kill();
        self.listen();
        let words = String::from_utf8_lossy(&self.words);
        failure(phase, cause, words.lines().map(printable).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.kill();
    }
}
