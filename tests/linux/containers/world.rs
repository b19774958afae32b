//! A directory of containers for one test: its own data and sockets, the images of all.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use tempfile::TempDir;

use crate::guest::{self, signal};

/// Where the emulated host has the images.
const STORE: &str = "/var/lib/vmm";
/// Longer than any command here takes.
const PATIENCE: Duration = Duration::from_secs(240);

/// The containers of one test. What still runs at its end is removed.
pub struct World {
    data: TempDir,
    runtime: TempDir,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// As a shell has it: 128 and the signal for one that was killed.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// What it printed, if it succeeded.
    #[track_caller]
    pub fn success(&self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.out(), self.err());
        self.out()
    }
}

impl World {
    pub fn new() -> Self {
        warm_up();
        let make = |place| {
            let made = tempfile::Builder::new().prefix("w").tempdir_in(place);
            made.expect("temporary directory")
        };
        let world = Self { data: make(STORE), runtime: make("/run") };
        // By hard links: a store of its own without a copy.
        for part in ["images", "cache"] {
            let from = Path::new(STORE).join(part);
            let mut copy = Command::new("cp");
            copy.arg("-al").arg(from).arg(world.data.path().join(part));
            run(&mut copy, b"").success();
        }
        world
    }

    /// `vmm` in this world.
    pub fn vmm(&self, args: &[&str]) -> Command {
        let mut command = Command::new("vmm");
        self.enter(&mut command);
        command.args(args);
        command
    }

    /// Has `command` find this world.
    pub fn enter(&self, command: &mut Command) {
        command
            .env("VMM_DATA", self.data.path())
            .env("VMM_RUNTIME", self.runtime.path())
            .env("VMM_KERNEL", kernel());
    }

    /// Runs `vmm` without input.
    pub fn run(&self, args: &[&str]) -> Ran {
        run(&mut self.vmm(args), b"")
    }

    /// Runs `vmm`, which has to succeed; what it prints, without the last end of line.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.run(args).success().trim_end().to_owned()
    }

    /// Starts a container in the background that runs `script`.
    #[track_caller]
    pub fn start(&self, name: &str, script: &str) {
        let args = ["run", "-d", "--network", "none", "--name", name, "busybox", "sh", "-c"];
        self.ok(&[&args[..], &[script]].concat());
    }

    /// A client in the foreground, whose container has begun and sleeps.
    pub fn run_until_ready(&self, name: &str) -> Child {
        let script = "echo ready; sleep 1000";
        let line = ["run", "--network", "none", "--name", name, "busybox", "sh", "-c", script];
        let mut client = spawn(&mut self.vmm(&line), Stdio::null());
        until(client.stdout.as_mut().expect("piped"), "ready\n");
        client
    }

    /// The names of all containers, the running ones only or all.
    pub fn names(&self, all: bool) -> Vec<String> {
        let list = if all { "-a" } else { "--no-trunc" };
        let text = self.ok(&["ps", list, "--format", "json"]);
        let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        list.iter().map(|found| found["name"].as_str().expect("name").to_owned()).collect()
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The directories of containers and their sockets.
    pub fn left(&self) -> Vec<PathBuf> {
        let list = |path: PathBuf| {
            let entries =
                fs::read_dir(path).into_iter().flatten().map(|entry| entry.expect("entry").path());
            entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let mut found = list(self.data.path().join("containers"));
        found.extend(list(self.runtime.path().to_owned()));
        found
    }

    /// Asserts that no container is left, and waits until its processes have ended.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.left(), Vec::<PathBuf>::new());
        self.wait_for_quiet();
    }

    /// The processes that were started for containers of this world, and run.
    pub fn processes(&self) -> Vec<u32> {
        let (data, runtime) = (self.data.path(), self.runtime.path());
        let names = [data, runtime].map(|path| path.to_str().expect("text").to_owned());
        processes(|_, line, environment| {
            names.iter().any(|name| line.contains(name) || environment.contains(name))
        })
    }

    /// Waits until no process is left.
    #[track_caller]
    pub fn wait_for_quiet(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.processes().is_empty() {
            let left: Vec<_> = self.processes().into_iter().map(command_line).collect();
            assert!(Instant::now() < deadline, "still there: {left:?}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let names = run(&mut self.vmm(&["ps", "-aq"]), b"").out();
        let names: Vec<_> = names.split_whitespace().collect();
        if !names.is_empty() {
            run(&mut self.vmm(&[&["rm", "-f"], &names[..]].concat()), b"");
        }
    }
}

/// Makes what is made once, so that it counts for no test.
fn warm_up() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let mut command = Command::new("vmm");
        command.env("VMM_KERNEL", kernel());
        command.args(["run", "--rm", "--network", "none", "busybox", "true"]);
        run(&mut command, b"").success();
    });
}

/// The kernel of containers.
pub fn kernel() -> PathBuf {
    guest::kernel("container")
}

/// The processes that `wanted` wants, by number, command line and environment.
pub fn processes(wanted: impl Fn(u32, &str, &str) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("proc").filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let text = |name| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        // What has no command line has ended, or is the kernel's.
        let line = text("cmdline").filter(|line| !line.is_empty())?;
        wanted(pid, &line, &text("environ")?).then_some(pid)
    });
    entries.collect()
}

/// What a process was started as.
pub fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Runs a command with `input`, and waits for its end.
pub fn run(command: &mut Command, input: &[u8]) -> Ran {
    let input = input.to_vec();
    let mut child = spawn(command, if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    let pipe = child.stdin.take();
    let feeder = thread::spawn(move || {
        // Who does not read all of it has a reason.
        let _ = pipe.map(|mut pipe| pipe.write_all(&input));
    });
    let ran = finish(child);
    feeder.join().expect("feeder");
    ran
}

/// Starts a command with pipes for its output.
pub fn spawn(command: &mut Command, input: Stdio) -> Child {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Waits for the end of a command; one that takes too long is killed.
pub fn finish(mut child: Child) -> Ran {
    let read = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = vec![];
            from.read_to_end(&mut bytes).expect("read");
            bytes
        })
    };
    let stdout = child.stdout.take().map(|pipe| read(Box::new(pipe)));
    let stderr = child.stderr.take().map(|pipe| read(Box::new(pipe)));
    let status = wait_for_end(&mut child);
    let join = |thread: Option<thread::JoinHandle<Vec<u8>>>| {
        thread.map(|thread| thread.join().expect("reader")).unwrap_or_default()
    };
    Ran { status: number(status), stdout: join(stdout), stderr: join(stderr) }
}

/// Waits for the end of a process; one that takes too long is killed.
pub fn wait_for_end(child: &mut Child) -> ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status;
        }
        if Instant::now() > deadline {
            signal(child.id(), "KILL");
            return child.wait().expect("wait");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// An exit status as a shell has it.
pub fn number(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| signal + 128)).expect("ended")
}

/// Waits until `done` is true.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: has not come true");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Reads until `text` came; returns everything up to there.
#[track_caller]
pub fn until(output: &mut (impl Read + AsFd), text: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = vec![];
    while !String::from_utf8_lossy(&seen).contains(text) {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).expect("time");
        let ready = poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&limit));
        let mut byte = [0];
        let count = if ready == Ok(1) { output.read(&mut byte).unwrap_or(0) } else { 0 };
        assert!(count > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&byte);
    }
    String::from_utf8_lossy(&seen).into_owned()
}
