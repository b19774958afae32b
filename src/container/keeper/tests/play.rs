//! A guest that is played: its agent by a thread, its monitor by a shell.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use tempfile::TempDir;
use vmm_protocol::{
    CONTROL_PORT, FrameReader, INITIAL_CREDIT, Kind, Notice, Reply, Request, VERSION, push_data,
    push_message,
};

use crate::container::keeper::guest::{Guest, Patience, Plan};
use crate::container::keeper::relay::Relay;
use crate::container::keeper::stop::Signals;
use crate::container::machine::VSOCK;
use crate::container::talk::{Ask, Ended, Tell};
use crate::container::testing::spec;
use crate::container::{Container, Containers, Lock, Paths};

/// What the monitor says of its guest when it is asked to end.
pub(super) const CONSOLE: &str = "the last line of the console";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn hello(version: u32) -> Notice {
    Notice::Hello { version, uptime_us: 1 }
}

pub(super) fn ready() -> Notice {
    Notice::Ready { stamps: vec![] }
}

pub(super) fn started() -> Reply {
    Reply::Started { pid: 1, uptime_us: 2 }
}

pub(super) fn say(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![];
    push_message(&mut bytes, message).expect("short");
    bytes
}

/// A container on disk.
struct Place {
    _top: TempDir,
    container: Container,
    _lock: Lock,
}

impl Place {
    fn new() -> Self {
        let top = tempfile::tempdir().expect("temporary directory");
        let paths = Paths { data: top.path().join("data"), runtime: top.path().join("run") };
        let containers = Containers::open(paths).expect("opened");
        let (container, lock) = containers.create(spec("one")).expect("made");
        Self { _top: top, container, _lock: lock }
    }
}

fn plan(agent: &Agent, patience: Patience) -> Plan<'static> {
    let mut program = Command::new("sh");
    let script =
        format!("trap 'echo {CONSOLE} >&2; exit' TERM; : > \"$0\"; while :; do sleep 0.02; done");
    program.args(["-c", &script]).arg(agent.ready_path());
    Plan { program, group: None, watches: vec![], patience }
}

/// How a start ends that must not succeed.
pub(super) fn start(patience: Patience, act: impl FnOnce(&Agent) + Send) -> Ended {
    let place = Place::new();
    let agent = Agent::new(&place.container);
    thread::scope(|scope| {
        scope.spawn(|| act(&agent));
        match Guest::start(&place.container, plan(&agent, patience)) {
            Ok(_) => panic!("it has started"),
            Err(ended) => *ended,
        }
    })
}

/// How a container ends that has started and that nobody attaches to, when `act` plays on with the control
/// connection and the session.
pub(super) fn serve_unvisited(act: impl FnOnce(&Agent, UnixStream, UnixStream) + Send) -> Ended {
    let begun = |agent: &Agent| {
        let (control, session) = agent.begin();
        act(agent, control, session);
    };
    serve(|_| {}, begun)
}

/// How a container ends that has started and is attached to by `visit`.
pub(super) fn serve(visit: impl FnOnce(Visit) + Send, act: impl FnOnce(&Agent) + Send) -> Ended {
    let place = Place::new();
    let agent = Agent::new(&place.container);
    let (own, theirs) = UnixStream::pair().expect("pair");
    let visitor = Visit::new(own);
    let mut relay = Relay::new(theirs, Signals::catch(&[]).expect("none"));
    thread::scope(|scope| {
        scope.spawn(|| act(&agent));
        scope.spawn(|| visit(visitor));
        let limit = Duration::from_millis(500);
        let patience = Patience { boot: PATIENCE, agent: PATIENCE, end: limit };
        let started = Guest::start(&place.container, plan(&agent, patience));
        let mut guest = started.unwrap_or_else(|ended| panic!("{ended:?}"));
        let ended = relay.serve(&mut guest, place.container.spec());
        guest.end(true);
        relay.say_goodbye(&ended);
        ended
    })
}

/// Who plays the agent, with the connections of the monitor.
pub(super) struct Agent {
    vsock: PathBuf,
    sessions: UnixListener,
}

impl Agent {
    fn new(container: &Container) -> Self {
        let vsock = container.socket(VSOCK);
        Self { sessions: UnixListener::bind(&vsock).expect("listening"), vsock }
    }

    pub(super) fn control_path(&self) -> PathBuf {
        let mut path = self.vsock.clone().into_os_string();
        path.push(format!("_{CONTROL_PORT}"));
        path.into()
    }

    /// The monitor makes this file when it can be told to end.
    fn ready_path(&self) -> PathBuf {
        self.vsock.with_extension("ready")
    }

    pub(super) fn connect(&self) -> UnixStream {
        let end = Instant::now() + PATIENCE;
        loop {
            if !self.ready_path().exists() {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            match UnixStream::connect(self.control_path()) {
                Ok(socket) => return with_limits(socket),
                Err(e) => assert!(Instant::now() < end, "{e}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Connects and says hello; what is to be set up has come then.
    pub(super) fn greet(&self) -> UnixStream {
        let mut control = self.connect();
        control.write_all(&say(&hello(VERSION))).expect("heard");
        self.read_frames(&control, 1);
        control
    }

    /// Everything up to the session.
    pub(super) fn prepare(&self) -> UnixStream {
        let mut control = self.greet();
        control.write_all(&say(&ready())).expect("heard");
        control
    }

    pub(super) fn accept(&self) -> UnixStream {
        with_limits(self.sessions.accept().expect("session").0)
    }

    /// Accepts the session as the monitor does.
    pub(super) fn answer(&self) -> UnixStream {
        let mut session = self.accept();
        let mut line = [0; 13];
        session.read_exact(&mut line).expect("line");
        assert_eq!(&line, b"CONNECT 1025\n");
        session.write_all(b"OK 1\n").expect("heard");
        session
    }

    /// Everything up to the running process.
    pub(super) fn begin(&self) -> (UnixStream, UnixStream) {
        let control = self.prepare();
        let mut session = self.answer();
        self.read_frames(&session, 1);
        session.write_all(&say(&started())).expect("heard");
        (control, session)
    }

    /// Begins with these bytes in place of a hello, and says no more.
    pub(super) fn open_with(&self, bytes: &[u8]) {
        self.end_with(self.connect(), bytes);
    }

    /// Says these bytes in place of being ready.
    pub(super) fn go_on_with(&self, bytes: &[u8]) {
        self.end_with(self.greet(), bytes);
    }

    /// Answers these bytes in place of accepting the session.
    pub(super) fn answer_with(&self, bytes: &[u8]) {
        let _control = self.prepare();
        self.end_with(self.accept(), bytes);
    }

    /// Answers these bytes to the order to start.
    pub(super) fn reply_with(&self, bytes: &[u8]) {
        let _control = self.prepare();
        self.end_with(self.answer(), bytes);
    }

    fn end_with(&self, mut socket: UnixStream, bytes: &[u8]) {
        // Who is not heard to the end has been understood.
        let _ = socket.write_all(bytes);
        let _ = socket.shutdown(Shutdown::Write);
        self.hold(&socket);
    }

    /// Says nothing, as long as anybody listens.
    pub(super) fn hold(&self, mut socket: &UnixStream) {
        while socket.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
    }

    /// As [`Self::hold`], without reading.
    pub(super) fn wait_for_hangup(&self, socket: &UnixStream) {
        let limit = Timespec::try_from(PATIENCE).expect("time");
        let ready = poll(&mut [PollFd::new(socket, PollFlags::RDHUP)], Some(&limit));
        assert_eq!(ready, Ok(1));
    }

    pub(super) fn read_frames(&self, socket: &UnixStream, count: usize) {
        let mut frames = FrameReader::new();
        for _ in 0..count {
            while frames.next().expect("frame").is_none() {
                assert!(frames.fill_from(&mut &*socket).expect("read") > 0);
            }
        }
    }

    /// Prints and takes input until that ends; returns how much it was.
    pub(super) fn take_input_while_printing(&self, session: &mut UnixStream) -> usize {
        let mut line = vec![];
        push_data(&mut line, Kind::Stdout, b"a line\n");
        let (mut frames, mut taken, begin) = (FrameReader::new(), 0, Instant::now());
        session.set_read_timeout(Some(Duration::from_micros(100))).expect("limit");
        loop {
            assert!(begin.elapsed() < PATIENCE, "the input has not ended after {taken} bytes");
            session.write_all(&line).expect("heard");
            while let Some(frame) = frames.next().expect("frame") {
                match frame.kind {
                    Kind::Stdin => taken += frame.payload.len(),
                    _ => match frame.message().expect("request") {
                        Request::StdinEof => return taken,
                        other => panic!("{other:?}"),
                    },
                }
            }
            match frames.fill_from(session) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => assert!(read.expect("read") > 0, "the input did not end"),
            }
        }
    }

    /// Prints until nobody takes it for so long; returns how much was taken.
    pub(super) fn send_output(
        &self,
        mut socket: &UnixStream,
        max: usize,
        limit: Duration,
    ) -> usize {
        let mut frame = vec![];
        push_data(&mut frame, Kind::Stdout, &[b'x'; 4000]);
        socket.set_write_timeout(Some(limit)).expect("limit");
        let mut sent = 0;
        while sent < max && socket.write_all(&frame).is_ok() {
            sent += frame.len();
        }
        sent
    }
}

fn with_limits(socket: UnixStream) -> UnixStream {
    socket.set_read_timeout(Some(PATIENCE)).expect("limit");
    socket.set_write_timeout(Some(PATIENCE)).expect("limit");
    socket
}

/// A command that attaches to the container.
pub(super) struct Visit {
    socket: UnixStream,
    frames: FrameReader,
}

impl Visit {
    fn new(socket: UnixStream) -> Self {
        let visit = Self { socket: with_limits(socket), frames: FrameReader::new() };
        visit.ask(&Ask::Attach { output: true, input: true });
        visit
    }

    pub(super) fn ask(&self, ask: &Ask) {
        // A keeper that is done needs no asking.
        let _ = (&self.socket).write_all(&say(ask));
    }

    fn try_hear(&mut self) -> Option<Tell> {
        loop {
            while let Some(frame) = self.frames.next().expect("frame") {
                if frame.kind == Kind::Message {
                    return Some(frame.message().expect("message"));
                }
            }
            match self.frames.fill_from(&mut self.socket) {
                Ok(1..) => {}
                Ok(0) => return None,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return None,
                Err(e) => panic!("{e}"),
            }
        }
    }

    /// What the keeper tells next, beside output.
    pub(super) fn hear(&mut self) -> Tell {
        self.try_hear().expect("the keeper is there")
    }

    pub(super) fn wait_until_started(&mut self) {
        assert_eq!(self.hear(), Tell::Started);
    }

    pub(super) fn wait_for_end(&mut self) {
        while !matches!(self.hear(), Tell::Ended(_)) {}
    }

    /// Sends input as far as there is credit, until none comes for so long; returns how much was taken.
    pub(super) fn send_input(&mut self, max: usize, limit: Duration) -> usize {
        self.socket.set_read_timeout(Some(limit)).expect("limit");
        let (mut sent, mut credit) = (0, usize::try_from(INITIAL_CREDIT).expect("small"));
        while sent < max && credit > 0 {
            let mut frames = vec![];
            push_data(&mut frames, Kind::Stdin, &vec![b'x'; credit]);
            self.socket.write_all(&frames).expect("taken");
            sent += credit;
            credit = match self.try_hear() {
                Some(Tell::Credit(bytes)) => usize::try_from(bytes).expect("small"),
                _ => 0,
            };
        }
        with_limits(self.socket.try_clone().expect("socket"));
        sent
    }
}
