//! The machine of a container and the agent in it, as its keeper sees them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde::de::DeserializeOwned;
use vmm_protocol::{CONTROL_PORT, Notice, Order, Reply, Request, SESSION_PORT, VERSION, printable};

use super::super::cgroup;
use super::super::link::{Link, broken};
use super::super::machine::VSOCK;
use super::super::talk::{Ended, Failure, Phase};
use super::super::timing::{Moment, Moments};
use super::super::{Container, Spec};
use super::failed;
use super::monitor::{Monitor, Obstacle, Watch};

/// How long a guest may take for each step. One that is hostile keeps its keeper waiting no longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Up to the agent's connection. A kernel of a distribution takes seven seconds where all of it is
    /// emulated; this is for hosts with ten times as much to do.
    pub(super) boot: Duration,
    /// Each of the agent's two parts, which take milliseconds.
    pub(super) agent: Duration,
    /// Writing everything to its disk and powering off.
    pub(super) end: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let [boot, agent, end] = [90, 30, 5].map(Duration::from_secs);
        Self { boot, agent, end }
    }
}

/// How a machine is started.
pub(super) struct Plan<'a> {
    /// The monitor.
    pub(super) program: Command,
    /// The control group that it runs in.
    pub(super) group: Option<&'a Path>,
    /// What ends the start.
    pub(super) watches: Vec<Watch>,
    /// How long each step may take.
    pub(super) patience: Patience,
}

/// A running machine with a container whose first process has started.
pub(super) struct Guest {
    monitor: Monitor,
    patience: Patience,
    /// To the agent.
    pub(super) control: Link,
    /// To the first process.
    pub(super) session: Link,
    /// When it came how far.
    pub(super) moments: Moments,
}

impl Guest {
    /// Starts the machine, and the container's first process in it.
    pub(super) fn start(container: &Container, plan: Plan<'_>) -> Result<Self, Box<Ended>> {
        let setup =
            |what: &str, e: io::Error| Box::new(failed(Phase::Setup, format!("{what}: {e}")));
        let path = container.socket(&format!("{VSOCK}_{CONTROL_PORT}"));
        let listener = UnixListener::bind(&path).map_err(|e| setup("listen for the agent", e))?;
        let monitor = Monitor::start(plan.program, plan.watches);
        let mut monitor = monitor.map_err(|e| setup("start the monitor", e))?;
        let joined = plan.group.map_or(Ok(()), |group| cgroup::add(group, monitor.number()));
        joined.map_err(|e| setup("move the monitor to its control group", e))?;
        let patience = plan.patience;
        let (phase, moments) = (Phase::Boot, Moments::default());
        let mut start = Start { monitor: &mut monitor, patience, phase, moments };
        let begun = start.begin(container, &listener);
        let (phase, moments) = (start.phase, start.moments);
        // Whoever connects from now on is not the agent.
        drop(listener);
        let ended = match begun {
            Ok((control, session)) => {
                monitor.has_started();
                return Ok(Self { monitor, patience, control, session, moments });
            }
            Err(Obstacle::Refused(kind, what)) => {
                Ended { code: kind.exit_code(), ..failed(phase, what) }
            }
            Err(obstacle) => {
                let cause = monitor.cause(obstacle);
                let error = Some(monitor.explain(phase, cause));
                Ended { error, ..failed(phase, String::new()) }
            }
        };
        Err(Box::new(Ended { moments, ..ended }))
    }

    /// Readable when the monitor has ended.
    pub(super) fn monitor_fd(&self) -> BorrowedFd<'_> {
        self.monitor.end_fd()
    }

    /// What the monitor says.
    pub(super) fn words_fd(&self) -> BorrowedFd<'_> {
        self.monitor.words_fd()
    }

    /// Takes what the monitor said.
    pub(super) fn listen(&mut self) {
        self.monitor.listen();
    }

    /// How a machine that ended by itself, or has to, is explained.
    pub(super) fn explain(&mut self, cause: String) -> Failure {
        self.monitor.explain(Phase::Run, cause)
    }

    /// Whether the monitor has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        self.monitor.has_ended()
    }

    /// Ends the machine; in order if what the container wrote is kept.
    pub(super) fn end(mut self, in_order: bool) {
        if in_order && self.control.say(&Order::Shutdown).is_ok() {
            self.monitor.wait(self.patience.end);
        }
        self.monitor.kill();
    }

    /// Ends the machine as it is.
    pub(super) fn destroy(&mut self) {
        self.monitor.kill();
    }
}

/// A machine on its way from the kernel's first instruction to the container's first process.
struct Start<'a> {
    monitor: &'a mut Monitor,
    patience: Patience,
    /// How far it is.
    phase: Phase,
    moments: Moments,
}

impl Start<'_> {
    fn begin(
        &mut self,
        container: &Container,
        listener: &UnixListener,
    ) -> Result<(Link, Link), Obstacle> {
        let socket = self.hear_of_agent(listener)?;
        self.phase = Phase::Agent;
        let control = self.set_up(socket, container.spec())?;
        self.phase = Phase::Exec;
        let session = self.start_process(container)?;
        Ok((control, session))
    }

    fn hear_of_agent(&mut self, listener: &UnixListener) -> Result<UnixStream, Obstacle> {
        let broken = |what| move |e| Obstacle::Broken(what, e);
        listener.set_nonblocking(true).map_err(broken("listen for the agent"))?;
        let limit = self.patience.boot;
        let late = ("the agent did not come up", limit);
        let connection = (listener.as_fd(), PollFlags::IN);
        self.monitor.wait_for(connection, Instant::now() + limit, late)?;
        let (socket, _) = listener.accept().map_err(broken("hear the agent"))?;
        Ok(socket)
    }

    fn set_up(&mut self, socket: UnixStream, spec: &Spec) -> Result<Link, Obstacle> {
        let broken = |what| move |e| Obstacle::Broken(what, e);
        let end = Instant::now() + self.patience.agent;
        let mut control = Link::new(socket).map_err(broken("hear the agent"))?;
        let uptime_us = match self.receive(&mut control, end, "the agent did not say hello")? {
            Notice::Hello { version: VERSION, uptime_us } => uptime_us,
            Notice::Hello { version, .. } => {
                let text =
                    format!("the agent has version {version} of the protocol, not {VERSION}");
                return Err(Obstacle::Said(text));
            }
            _ => return Err(Obstacle::Said("the agent did not begin with a hello".to_owned())),
        };
        let heard = Moment::now();
        let order = Order::Setup(Box::new(spec.setup.clone()));
        control.say(&order).map_err(broken("tell the agent what to prepare"))?;
        match self.receive(&mut control, end, "the agent prepared nothing")? {
            Notice::Ready { stamps } => {
                // Its first stamp is its first deed, by the clock of its hello.
                let began = stamps.first().map_or(uptime_us, |stamp| stamp.uptime_us);
                self.moments.machine = self.monitor.began();
                self.moments.agent = Some(heard.before(uptime_us.saturating_sub(began)));
                self.moments.ready = Some(Moment::now());
                Ok(control)
            }
            Notice::Failed { what } => Err(Obstacle::Said(printable(&what))),
            _ => Err(Obstacle::Said("the agent spoke out of turn".to_owned())),
        }
    }

    fn start_process(&mut self, container: &Container) -> Result<Link, Obstacle> {
        let broken = |what| move |e| Obstacle::Broken(what, e);
        let end = Instant::now() + self.patience.agent;
        let socket = UnixStream::connect(container.socket(VSOCK));
        let mut session = socket.and_then(Link::new).map_err(broken("connect to the agent"))?;
        self.connect(&mut session, end)?;
        let request = Request::Start(Box::new(container.spec().start.clone()));
        session.say(&request).map_err(broken("tell the agent what to run"))?;
        match self.receive(&mut session, end, "the agent started nothing")? {
            Reply::Started { .. } => {
                self.moments.started = Some(Moment::now());
                Ok(session)
            }
            Reply::Refused { kind, what } => Err(Obstacle::Refused(kind, printable(&what))),
            _ => Err(Obstacle::Said("the agent spoke out of turn".to_owned())),
        }
    }

    /// Asks the monitor for the agent's port (Firecracker's convention).
    fn connect(&mut self, link: &mut Link, end: Instant) -> Result<(), Obstacle> {
        let broken = |e| Obstacle::Broken("connect to the agent", e);
        link.send_raw(format!("CONNECT {SESSION_PORT}\n").as_bytes());
        let mut line = vec![];
        while !link.read_line(&mut line, 64).map_err(broken)? {
            let late = ("the agent did not answer", self.patience.agent);
            self.monitor.wait_for((link.as_fd(), PollFlags::IN), end, late)?;
        }
        let known = line.starts_with(b"OK ");
        if known { Ok(()) } else { Err(broken(io::ErrorKind::InvalidData.into())) }
    }

    /// The next message on `link`.
    fn receive<M: DeserializeOwned>(
        &mut self,
        link: &mut Link,
        end: Instant,
        late: &'static str,
    ) -> Result<M, Obstacle> {
        let deaf = |e| Obstacle::Broken("hear the agent", e);
        loop {
            if let Some(frame) = link.frames.next().map_err(|e| deaf(broken(e)))? {
                return frame.message().map_err(|e| deaf(broken(e)));
            }
            let interest = link.interest(true);
            self.monitor.wait_for((link.as_fd(), interest), end, (late, self.patience.agent))?;
            link.flush();
            if !link.fill().map_err(deaf)? {
                return Err(deaf(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}
