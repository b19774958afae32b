//! The monitor as a child process.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::payload::guest;
use super::process;
use super::seccomp::{self, Refusal};

/// Guest memory of the tests, unless they say otherwise: the least there is.
pub const MEMORY: u64 = 32 << 20;
/// How long a machine may take in a test. Far more than any needs on a busy host.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what takes no time may take, on a host that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(5);
/// The statuses `vmm --help` documents, those by signal aside.
const DOCUMENTED: [i32; 7] = [0, 2, 3, 4, 5, 6, 7];

/// A command line of the monitor, under construction.
pub struct Vmm {
    /// Programs that run the monitor, with their arguments: `unshare`, `prlimit`.
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    memory: &'static str,
    stdout: Option<Stdio>,
    script: Option<NamedTempFile>,
    refusal: Option<Refusal>,
}

impl Vmm {
    /// The monitor with no arguments.
    pub fn new() -> Self {
        Self {
            wrapper: Vec::new(),
            args: Vec::new(),
            memory: "32M",
            stdout: None,
            script: None,
            refusal: None,
        }
    }

    /// A machine with the guest program `name`.
    pub fn with_guest(name: &str) -> Self {
        let kernel = guest(name);
        Self::new().arg("--kernel").arg(kernel)
    }

    /// A machine that performs `script`.
    pub fn evil(script: &[u8]) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(script).unwrap();
        let vmm = Self::with_guest("evil").arg("--initrd").arg(file.path());
        Self { script: Some(file), ..vmm }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Gives the guest `memory`, such as `4G`, instead of [`MEMORY`].
    pub fn memory(self, memory: &'static str) -> Self {
        Self { memory, ..self }
    }

    /// Adds a disk.
    pub fn disk(self, path: &Path, more: &str) -> Self {
        self.arg("--disk").arg(format!("path={}{more}", path.display()))
    }

    /// Runs the monitor by `wrapper`, a program and its arguments.
    pub fn by<A: Into<OsString>>(mut self, wrapper: impl IntoIterator<Item = A>) -> Self {
        self.wrapper.extend(wrapper.into_iter().map(Into::into));
        self
    }

    /// Runs the monitor in a network namespace of its own, which ends with it.
    ///
    /// Without privilege it takes a user namespace to have one.
    pub fn in_own_network(self) -> Self {
        self.by(["unshare", "--user", "--map-root-user", "--net", "--"])
    }

    /// Connects standard output to `stdout`, instead of collecting it.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.stdout = Some(stdout.into());
        self
    }

    /// Has the kernel refuse it a call.
    pub fn refused(self, refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..self }
    }

    /// Starts it.
    pub fn spawn(self) -> Running {
        let program = OsString::from(env!("CARGO_BIN_EXE_vmm"));
        let mut line = self.wrapper.into_iter().chain([program]).chain(self.args);
        let mut command = Command::new(line.next().unwrap());
        command.args(line).args(["--memory", self.memory]).env("RUST_BACKTRACE", "0");
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        command.stdout(self.stdout.unwrap_or_else(Stdio::piped));
        if let Some(refusal) = self.refusal {
            seccomp::refuse(&mut command, refusal);
        }
        let mut child = command.spawn().unwrap();
        Running {
            stdin: child.stdin.take(),
            stdout: child.stdout.take().map(Collected::from),
            stderr: child.stderr.take().map(Collected::from),
            started: Instant::now(),
            child,
            _script: self.script,
        }
    }

    /// Runs it to its end, which must be one of those documented.
    #[track_caller]
    pub fn run(self) -> Finished {
        self.spawn().finish()
    }
}

/// The monitor while it runs. Dropping it kills it.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    started: Instant,
    _script: Option<NamedTempFile>,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest has sent `count` bytes.
    #[track_caller]
    pub fn wait_for_output(&mut self, count: usize) {
        while self.stdout.as_ref().unwrap().len() < count {
            assert!(self.is_alive(), "the machine ended early: {}", self.stderr());
            assert!(self.started.elapsed() < PATIENCE, "no output: {}", self.stderr());
            sleep(Duration::from_millis(1));
        }
    }

    /// What the guest has sent so far.
    pub fn output(&self) -> Vec<u8> {
        self.stdout.as_ref().unwrap().bytes.lock().unwrap().clone()
    }

    /// How many bytes the guest has sent.
    pub fn output_len(&self) -> usize {
        self.stdout.as_ref().unwrap().len()
    }

    /// What was collected of standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.as_ref().map(Collected::text).unwrap_or_default()
    }

    /// Types `bytes`.
    pub fn type_in(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends signal `name` to it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Resident bytes beside guest memory.
    pub fn overhead(&self) -> u64 {
        process::resident_beside_guest(self.pid(), MEMORY)
    }

    /// Whether it has `path` open, and never for writing.
    pub fn opens_read_only(&self, path: &Path) -> bool {
        let modes = process::open_modes(self.pid(), path);
        !modes.is_empty() && modes.iter().all(|mode| *mode == process::READ_ONLY)
    }

    /// Panics unless its first vCPU goes on running.
    #[track_caller]
    pub fn assert_guest_is_running(&self) {
        let time = || process::cpu_times(self.pid()).get("vcpu0").copied().unwrap_or_default();
        let (before, asked) = (time(), Instant::now());
        while time() <= before {
            assert!(asked.elapsed() < Duration::from_secs(10), "the guest does not run");
            sleep(Duration::from_millis(10));
        }
    }

    /// Hands out standard input, to type by another thread.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().unwrap()
    }

    /// O4: within a second of the attack's end the monitor uses less than 2 % of a CPU.
    #[track_caller]
    pub fn assert_becomes_idle(&mut self) {
        sleep(Duration::from_secs(1));
        let (before, since) = (process::cpu_time(self.pid()), Instant::now());
        sleep(Duration::from_millis(500));
        let (used, span) = (process::cpu_time(self.pid()) - before, since.elapsed());
        assert!(self.is_alive(), "the machine ended: {}", self.stderr());
        assert!(used * 50 < span, "used {used:?} of {span:?} when it should be idle");
    }

    /// O4 for the thread that serves the devices, while the guest itself is busy.
    #[track_caller]
    pub fn assert_event_loop_becomes_idle(&mut self) {
        let time = || process::cpu_times(self.pid()).get("vmm").copied().unwrap();
        sleep(Duration::from_millis(500));
        let (before, since) = (time(), Instant::now());
        sleep(Duration::from_millis(500));
        let (used, span) = (time() - before, since.elapsed());
        assert!(used * 50 < span, "used {used:?} of {span:?} when it should be idle");
    }

    /// Waits for the end, which must be one of those documented.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if self.started.elapsed() > PATIENCE => {
                    panic!("no end after {PATIENCE:?}: {}", self.stderr())
                }
                None => sleep(Duration::from_millis(1)),
            }
        };
        let lasted = self.started.elapsed();
        drop(self.stdin.take());
        let output =
            |collected: Option<Collected>| collected.map(Collected::all).unwrap_or_default();
        let stdout = output(self.stdout.take());
        let stderr = String::from_utf8_lossy(&output(self.stderr.take())).into_owned();
        let finished = Finished { status, stdout, stderr, lasted };
        finished.assert_orderly();
        finished
    }

    /// Ends it by SIGTERM.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.signal(rustix::process::Signal::TERM);
        let finished = self.finish();
        assert_eq!(finished.code(), 143, "{}", finished.stderr);
        finished
    }

    /// Kills it; what the guest had sent.
    pub fn kill(mut self) -> Vec<u8> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.stdout.take().map(Collected::all).unwrap_or_default()
    }

    /// Ends it by SIGTERM, which may not take long.
    #[track_caller]
    pub fn terminate_soon(self) -> Finished {
        let asked = Instant::now();
        let finished = self.terminate();
        assert!(asked.elapsed() < SOON, "SIGTERM took {:?}", asked.elapsed());
        finished
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How it ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// What the guest sent.
    pub stdout: Vec<u8>,
    pub stderr: String,
    pub lasted: Duration,
}

impl Finished {
    /// The exit status.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by {}: {}", self.status, self.stderr))
    }

    /// Panics unless the exit status is `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "{}", self.stderr);
        self
    }

    /// The last `count` bytes the guest sent.
    #[track_caller]
    pub fn tail(&self, count: usize) -> &[u8] {
        let start = self.stdout.len().checked_sub(count);
        &self.stdout[start.unwrap_or_else(|| panic!("too short: {}", self.stderr))..]
    }

    /// O1: a documented status, no panic, no death by signal. O8: messages within bounds.
    #[track_caller]
    fn assert_orderly(&self) {
        assert_eq!(self.status.signal(), None, "{}", self.stderr);
        let code = self.code();
        assert!(DOCUMENTED.contains(&code) || code > 128, "status {code}: {}", self.stderr);
        assert!(!self.stderr.contains("panicked at"), "{}", self.stderr);
        let allowed = 65536 * (self.lasted.as_secs() + 1);
        let length = self.stderr.len() as u64;
        assert!(length <= allowed, "{length} bytes of messages in {:?}", self.lasted);
    }

    /// Panics unless it failed with one line and at most one line of hint.
    #[track_caller]
    pub fn expect_one_line_error(&self) -> &str {
        let mut lines = self.stderr.lines();
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("vmm: "), "{}", self.stderr);
        if let Some(second) = lines.next() {
            assert!(second.starts_with("hint: "), "{}", self.stderr);
        }
        assert_eq!(lines.next(), None, "{}", self.stderr);
        first
    }
}

/// What comes out of a pipe, read by a thread.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl<R: Read + Send + 'static> From<R> for Collected {
    fn from(mut pipe: R) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = bytes.clone();
        let reader = spawn(move || {
            let mut chunk = [0; 65536];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                sink.lock().unwrap().extend_from_slice(&chunk[..count]);
            }
        });
        Self { bytes, reader }
    }
}

impl Collected {
    fn len(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn all(self) -> Vec<u8> {
        self.reader.join().unwrap();
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }
}
