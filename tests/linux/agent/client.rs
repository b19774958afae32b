//! The host's side of an agent: a machine whose first process it is, and its sessions.

#![allow(clippy::panic, reason = "a test says what it heard instead")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use vmm_protocol::{
    CONTROL_PORT, Exit, FrameReader, Kind, Notice, Order, Reply, Request, Role, SESSION_PORT,
    Setup, Start, Status, VERSION, push_data, push_message,
};

use crate::guest::{Ended, Guest, artifact, kernel, signal, wait};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection with the agent.
pub struct Link {
    pub stream: UnixStream,
    reader: FrameReader,
}

impl Link {
    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        Self { stream, reader: FrameReader::new() }
    }

    pub fn say(&mut self, message: &impl serde::Serialize) {
        let mut bytes = vec![];
        push_message(&mut bytes, message).expect("short");
        self.stream.write_all(&bytes).expect("send");
    }

    pub fn pass(&mut self, bytes: &[u8]) {
        let mut frames = vec![];
        push_data(&mut frames, Kind::Stdin, bytes);
        self.stream.write_all(&frames).expect("send");
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        loop {
            if let Some(frame) = self.reader.next().expect("a frame") {
                return Some((frame.kind, frame.payload.to_vec()));
            }
            match self.reader.fill_from(&mut self.stream) {
                Ok(0) => return None,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return None,
                result => drop(result.expect("an agent that answers")),
            }
        }
    }

    /// The next frame, which must be a message.
    pub fn hear<M: serde::de::DeserializeOwned>(&mut self) -> M {
        let (kind, payload) = self.frame().expect("a message");
        assert_eq!(kind, Kind::Message);
        serde_json::from_slice(&payload).expect("a message that makes sense")
    }
}

/// What a process has left.
#[derive(Debug)]
pub struct Done {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

impl Done {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("text")
    }

    /// The output of a process that succeeded.
    pub fn good(self) -> String {
        assert_eq!(self.exit.status, Status::Code(0), "{self:?}: {}", self.text());
        self.text().to_owned()
    }
}

/// A session with a process.
pub struct Session {
    pub link: Link,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub credit: u64,
}

impl Session {
    /// Reads one frame; its end, if that is it.
    fn step(&mut self) -> Option<Exit> {
        let (kind, payload) = self.link.frame().expect("more to come");
        match kind {
            Kind::Stdout => self.stdout.extend(payload),
            Kind::Stderr => self.stderr.extend(payload),
            _ => match serde_json::from_slice(&payload).expect("a reply") {
                Reply::Credit(bytes) => self.credit += u64::from(bytes),
                Reply::Exited(exit) => return Some(exit),
                reply => panic!("{reply:?}"),
            },
        }
        None
    }

    /// Reads until the process has printed `text`.
    pub fn wait_for(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            let exit = self.step();
            assert_eq!(exit, None, "{}", String::from_utf8_lossy(&self.stdout));
        }
    }

    /// Waits for the end of the process.
    pub fn finish(mut self) -> Done {
        loop {
            if let Some(exit) = self.step() {
                assert_eq!(self.link.frame(), None, "the exit is the last");
                return Done { stdout: self.stdout, stderr: self.stderr, exit };
            }
        }
    }
}

/// A machine whose first process is the agent.
pub struct Machine {
    child: Option<Child>,
    guest: Guest,
    pub control: Link,
}

impl Drop for Machine {
    /// Ends a machine whose test has failed, and shows what it said.
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            signal(child.id(), "TERM");
            println!("{:#?}", wait(child));
        }
    }
}

impl Machine {
    /// A machine that is ready; with a second disk if `setup` says so.
    pub fn start(setup: Setup) -> Self {
        let guest = Guest::bare(&kernel("container")).append("ip=off");
        if setup.writable_disk {
            empty_disk(&guest.file("writable.ext4"));
        }
        Self::start_with(guest, setup)
    }

    /// A machine with the files of an earlier one.
    pub fn start_with(guest: Guest, setup: Setup) -> Self {
        let (image, initrd) = files();
        let mut guest = guest
            .arg("--initrd")
            .arg(initrd.to_str().expect("UTF-8"))
            .args("--memory 256M --disk")
            .arg(format!("path={},readonly=on", image.display()));
        if setup.writable_disk {
            let disk = guest.file("writable.ext4");
            guest = guest.arg("--disk").arg(format!("path={}", disk.display()));
        }
        let socket = guest.file("vsock");
        guest = guest.arg("--vsock").arg(format!("cid=3,socket={}", socket.display()));
        let listener = UnixListener::bind(guest.file(&format!("vsock_{CONTROL_PORT}")));
        let listener = listener.expect("listen");
        let child = guest.start();
        let control = Link::new(accept(&listener));
        let mut machine = Self { child: Some(child), guest, control };
        let hello = machine.control.hear();
        assert!(matches!(hello, Notice::Hello { version: VERSION, .. }), "{hello:?}");
        machine.control.say(&Order::Setup(Box::new(setup)));
        let ready = machine.control.hear();
        assert!(matches!(ready, Notice::Ready { .. }), "{ready:?}");
        println!("{hello:?} {ready:?}");
        machine
    }

    /// A machine with a first process that sleeps.
    pub fn asleep(setup: Setup) -> (Self, Session) {
        let machine = Self::start(setup);
        let first = machine.run(Start { role: Role::Init, ..shell("echo up; exec sleep 1000") });
        let mut first = first.expect("started");
        first.wait_for("up");
        (machine, first)
    }

    /// Connects to the agent.
    pub fn connect(&self) -> Link {
        let mut stream = UnixStream::connect(self.guest.file("vsock")).expect("connect");
        writeln!(stream, "CONNECT {SESSION_PORT}").expect("say where to");
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).expect("an agent that accepts");
        }
        Link::new(stream)
    }

    /// Starts a process, or tells why not.
    pub fn run(&self, start: Start) -> Result<Session, Reply> {
        let mut link = self.connect();
        link.say(&Request::Start(Box::new(start)));
        match link.hear() {
            Reply::Started { pid, uptime_us } => {
                assert!(pid > 0);
                println!("started {uptime_us}");
            }
            refused => {
                assert_eq!(link.frame(), None, "a refusal is the last");
                return Err(refused);
            }
        }
        Ok(Session { link, stdout: vec![], stderr: vec![], credit: 0 })
    }

    /// Runs a command of a shell to its end, as a further process.
    pub fn sh(&self, command: &str) -> Done {
        self.run(shell(command)).expect("started").finish()
    }

    /// Has the guest powered off, which must end well; returns its files.
    pub fn shut_down(mut self) -> Ended {
        self.control.say(&Order::Shutdown);
        let ended = wait(self.child.take().expect("running"));
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        ended
    }

    /// As [`Self::shut_down`], for another machine with the same disk.
    pub fn shut_down_and_keep(mut self, keep: &Path) {
        self.control.say(&Order::Shutdown);
        let ended = wait(self.child.take().expect("running"));
        assert_eq!(ended.status, Some(0), "{ended:#?}");
        fs::rename(self.guest.file("writable.ext4"), keep).expect("keep the disk");
    }
}

/// A further process with a command of a shell.
pub fn shell(command: &str) -> Start {
    let args = ["/bin/sh", "-c", command].map(str::to_owned).to_vec();
    Start { role: Role::Exec, args, ..Start::default() }
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).expect("not block");
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("block");
                return stream;
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock, "{e}"),
        }
        assert!(Instant::now() < deadline, "the agent does not connect");
        thread::sleep(Duration::from_millis(1));
    }
}

pub fn command(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).stdout(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {args:?}");
}

fn empty_disk(path: &Path) {
    File::create(path).and_then(|file| file.set_len(64 << 20)).expect("image");
    command("mke2fs", &["-q", "-F", "-t", "ext4", path.to_str().expect("UTF-8")]);
}

/// The BusyBox image, and an initial RAM file system with the agent beside `vmm`. Made once.
fn files() -> (&'static Path, &'static Path) {
    static FILES: OnceLock<(PathBuf, PathBuf)> = OnceLock::new();
    let (image, initrd) = FILES.get_or_init(|| {
        let directory = tempfile::tempdir().expect("temporary directory").keep();
        let path = |name: &str| directory.join(name).to_str().expect("UTF-8").to_owned();
        fs::create_dir(path("tree")).expect("directory");
        let ext4 = artifact("rootfs/busybox.ext4");
        let dump = format!("rdump / {}", path("tree"));
        command("debugfs", &["-R", &dump, ext4.to_str().expect("UTF-8")]);
        let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
        fs::write(path("tree/etc/passwd"), passwd).expect("write");
        let group = "root:x:0:root\nuser:x:1000:\naudio:x:63:root,user\n";
        fs::write(path("tree/etc/group"), group).expect("write");
        command("mkfs.erofs", &[&path("image.erofs"), &path("tree")]);
        let agent = fs::read("/usr/local/bin/vmm-agent").expect("an agent beside vmm");
        fs::write(path("initrd"), cpio(&agent)).expect("write");
        (path("image.erofs").into(), path("initrd").into())
    });
    (image, initrd)
}

/// An archive of the form `newc` with one file, `/init`.
fn cpio(init: &[u8]) -> Vec<u8> {
    let mut archive = vec![];
    for (name, mode, content) in [("init", 0o100_755, init), ("TRAILER!!!", 0, &[][..])] {
        archive.extend(b"070701");
        for field in [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            archive.extend(format!("{field:08x}").bytes());
        }
        for part in [&[name.as_bytes(), b"\0"].concat(), content] {
            archive.extend(part);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

/// Sends a whole stream as the credit comes; returns what else the agent says.
pub fn send_with_credit(link: &mut Link, bytes: &[u8]) -> Reply {
    let mut credit = usize::try_from(vmm_protocol::INITIAL_CREDIT).expect("fits");
    for chunk in bytes.chunks(0x4000) {
        while credit < chunk.len() {
            match link.hear() {
                Reply::Credit(more) => credit += usize::try_from(more).expect("fits"),
                reply => panic!("{reply:?}"),
            }
        }
        link.pass(chunk);
        credit -= chunk.len();
    }
    link.say(&Request::StdinEof);
    loop {
        match link.hear() {
            Reply::Credit(_) => {}
            reply => return reply,
        }
    }
}

/// Receives a copy of a path.
pub fn receive_copy(link: &mut Link) -> Result<Vec<u8>, Reply> {
    let mut bytes = vec![];
    loop {
        let (kind, payload) = link.frame().expect("more to come");
        match kind {
            Kind::Stdout => bytes.extend(payload),
            _ => match serde_json::from_slice(&payload).expect("a reply") {
                Reply::Found(_) => {}
                Reply::Copied => return Ok(bytes),
                reply => return Err(reply),
            },
        }
    }
}
