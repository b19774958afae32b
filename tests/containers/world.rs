//! A directory of containers for one test, with an image and somebody who plays the agents.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::agent::Agents;
use super::support::layout;
use super::support::payload::{guest, scratch};

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    top: TempDir,
    _agents: Agents,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// As a shell has it.
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        let runtime = top.path().join("run");
        fs::create_dir(&runtime).unwrap();
        copy(store(), &top.path().join("data"));
        Self { _agents: Agents::new(runtime), top }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    /// `vmm` in this world.
    pub fn vmm(&self, args: &[&str]) -> Command {
        let mut command = Command::new(layout::vmm());
        command.args(args);
        self.enter(&mut command);
        command
    }

    /// Has `command` find this world.
    pub fn enter(&self, command: &mut Command) {
        command.env("VMM_DATA", self.path("data")).env("VMM_RUNTIME", self.path("run"));
        command.env("VMM_KERNEL", guest("idle")).current_dir(self.top.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    /// The command line of a container that does `what`.
    pub fn line<'a>(flags: &[&'a str], what: &[&'a str]) -> Vec<&'a str> {
        [&["run", "--network", "none", "-m", "32m"], flags, &["app"], what].concat()
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        finish(self.vmm(args).spawn().unwrap())
    }

    /// Runs `vmm`, which has to succeed; what it prints, without the last end of line.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        ran.out.trim_end().to_owned()
    }

    /// Starts a container in the background that does `what`.
    #[track_caller]
    pub fn start(&self, name: &str, flags: &[&str], what: &[&str]) {
        self.ok(&Self::line(&[&["-d", "--name", name], flags].concat(), what));
    }

    /// The processes that were started for containers of this world, and run.
    pub fn processes(&self) -> Vec<u32> {
        let own = self.top.path().to_str().unwrap();
        processes(|line, environment| line.contains(own) || environment.contains(own))
    }

    /// The processes of `vmm COMMAND` in this world.
    pub fn processes_of(&self, command: &str) -> Vec<u32> {
        let wanted = format!("vmm {command} ");
        self.processes().into_iter().filter(|pid| command_line(*pid).contains(&wanted)).collect()
    }

    /// The only such process, once it is there.
    #[track_caller]
    pub fn process_of(&self, command: &str) -> u32 {
        eventually(command, || self.processes_of(command).len() == 1);
        self.processes_of(command)[0]
    }

    /// The process that pulls an image, and its part behind walls, which has none of the variables by which this
    /// world is known.
    #[track_caller]
    pub fn processes_of_pull(&self) -> [u32; 2] {
        let own = |pid: &u32| command_line(*pid).contains("vmm-image pull ");
        let found: Vec<u32> = self.processes().into_iter().filter(own).collect();
        let [pull] = found[..] else { panic!("{found:?}") };
        let children = fs::read_to_string(format!("/proc/{pull}/task/{pull}/children")).unwrap();
        [pull, children.trim().parse().unwrap()]
    }

    /// The identifiers of the containers that have a directory.
    pub fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("data/containers")).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.len() == 64).collect()
    }

    /// Directories of containers, directories of sockets, mounts: what containers leave that is left.
    pub fn left(&self) -> Vec<PathBuf> {
        let list = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
        };
        let mut found = list(&self.path("data/containers"));
        found.extend(list(&self.path("run")));
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let own = self.top.path().to_str().unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(own)).map(PathBuf::from));
        found
    }

    /// Waits until no process is left, and sees that nothing else is.
    #[track_caller]
    pub fn assert_clean(&self) {
        eventually("its processes end", || self.processes().is_empty());
        assert_eq!(self.ok(&["ps", "-aq"]), "");
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let all = self.run(&["ps", "-aq"]).out;
        let all: Vec<_> = all.split_whitespace().collect();
        if !all.is_empty() {
            self.run(&[&["rm", "-f"], &all[..]].concat());
        }
    }
}

/// A store with the image `app`, and what is made once.
fn store() -> &'static Path {
    static MADE: OnceLock<TempDir> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let place = layout::place("v1");
        let data = tempfile::tempdir_in(scratch()).unwrap();
        let run = |args: &[&str]| {
            let mut command = Command::new(layout::vmm());
            command.args(args).current_dir(place.path()).env("VMM_DATA", data.path());
            command.env("VMM_RUNTIME", data.path().join("run")).env("VMM_KERNEL", "/dev/null");
            command.output().unwrap()
        };
        let pulled = run(&["pull", "-q", "oci:images", "--name", "app"]);
        assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
        // It cannot start; what all containers share is made before.
        run(&World::line(&["--rm"], &["exit"]));
        data
    });
    made.path()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", "--sparse=always"]).args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// The processes that `wanted` wants, by command line and environment.
pub fn processes(wanted: impl Fn(&str, &str) -> bool) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let text = |name| {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).ok()?;
            Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        // What has no command line has ended, or is the kernel's.
        let line = text("cmdline").filter(|line| !line.is_empty())?;
        wanted(&line, &text("environ")?).then_some(pid)
    });
    entries.collect()
}

pub fn command_line(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

/// Has the machine with the sockets in `place` end, as its guest would.
pub fn power_off(place: &Path) {
    let socket = place.join("vsock.sock");
    let socket = socket.to_str().unwrap();
    for pid in processes(|line, _| line.contains("vmm monitor ") && line.contains(socket)) {
        signal(pid, "TERM");
    }
}

pub fn signal(pid: u32, name: &str) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).unwrap();
    let signal = match name {
        "KILL" => rustix::process::Signal::KILL,
        "TERM" => rustix::process::Signal::TERM,
        other => panic!("{other}"),
    };
    // It may have ended by now.
    let _ = rustix::process::kill_process(pid, signal);
}

/// Waits for the end of a command; one that takes too long is a failure.
#[track_caller]
pub fn finish(child: Child) -> Ran {
    let pid = child.id();
    let (send, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        let line = command_line(pid);
        signal(pid, "KILL");
        panic!("does not end: {line}");
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let status = status.code().or(status.signal().map(|signal| signal + 128)).unwrap();
    Ran { status, out: text(stdout), err: text(stderr) }
}

/// Waits until `done` is true.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE / 2;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: has not come true");
        sleep(Duration::from_millis(5));
    }
}
