//! The messages, by connection and direction.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// From the agent on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// The first message: the agent runs.
    Hello {
        /// [`crate::VERSION`] of the agent.
        version: u32,
        /// Microseconds since the guest's kernel began.
        uptime_us: u64,
    },
    /// The surroundings asked for by [`Order::Setup`] exist: sessions are served.
    Ready {
        /// The steps on the way, in order.
        stamps: Vec<Stamp>,
    },
    /// They cannot be made; the guest powers off.
    Failed {
        /// One sentence. It is the guest's word: see [`printable`].
        what: String,
    },
    /// Answers [`Order::Stats`].
    Stats(Stats),
    /// Answers [`Order::Processes`].
    Processes(Vec<Process>),
    /// The kernel has killed processes of the container for want of memory.
    OomKilled {
        /// How many since the beginning.
        count: u64,
    },
}

/// From the host on the control connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The container's surroundings; once, after [`Notice::Hello`].
    Setup(Box<Setup>),
    /// Answered by [`Notice::Stats`].
    Stats,
    /// Answered by [`Notice::Processes`].
    Processes,
    /// Kill what runs, write everything to the disks, power off.
    Shutdown,
}

/// A moment on the way from the start of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// What was done by then.
    pub name: String,
    /// Microseconds since the guest's kernel began.
    pub uptime_us: u64,
}

/// The container's surroundings.
///
/// Disks: the first (`vda`) is an EROFS image of the root file system; the second (`vdb`), if there is
/// one, an ext4 file system for what is written above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// Name of the host, as the container sees it.
    pub hostname: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Addresses of the first network interface; without it there is the loopback interface only.
    pub network: Option<Network>,
    /// Whether there is a second disk; otherwise what is written is kept in memory.
    pub writable_disk: bool,
    /// Whether the root file system can be written.
    pub read_only_root: bool,
    /// Further file systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Bytes of `/dev/shm`; 0 for docker's 64 MiB.
    pub shm_bytes: u64,
    /// Bytes of memory all processes of the container may use.
    pub memory_bytes: Option<u64>,
    /// Processes and threads the container may have.
    pub pids: Option<u64>,
    /// Kernel parameters by their names with dots.
    pub sysctls: Vec<(String, String)>,
}

/// Addresses of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its own addresses.
    pub addresses: Vec<Address>,
    /// Where everything else is sent: one of each family at most.
    pub gateways: Vec<IpAddr>,
    /// Longest packet in bytes, if not the device's own.
    pub mtu: Option<u32>,
}

/// An address and the length of its network's prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// 0 to 32, or to 128.
    pub prefix: u8,
}

/// A file system in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Where, inside the container. Made if missing.
    pub path: String,
    /// As of docker's `--tmpfs`: `rw,noexec,nosuid,nodev,size=64m,mode=1777`, separated by commas.
    pub options: String,
}

/// From the host in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First message: run a process.
    Start(Box<Start>),
    /// First message: run a further process that is described by how it differs from the first.
    Exec(Box<Further>),
    /// First message: tell what a path is, by [`Reply::Found`].
    Stat {
        /// Inside the container, from its root.
        path: String,
        /// Whether a symbolic link at its end stands for its target.
        follow: bool,
    },
    /// First message: send a file, or a directory with all it holds, as tar. Names in it begin with
    /// the last part of the path.
    CopyOut {
        /// Inside the container, from its root.
        path: String,
        /// Whether a symbolic link at its end stands for its target.
        follow: bool,
    },
    /// First message: unpack a tar stream into a directory that exists.
    CopyIn {
        /// Inside the container, from its root.
        directory: String,
    },
    /// No more `Stdin` follows. On a terminal this means nothing.
    StdinEof,
    /// The terminal's new size.
    Resize(TerminalSize),
    /// Sends a signal to the process.
    Signal(u8),
    /// Let the process go on when the connection ends. What it prints from then on is lost.
    Release,
}

/// A process to be run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Start {
    /// What it is to the container.
    pub role: Role,
    /// Program and arguments. A program without a slash is looked for in `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`. `HOME` is added from the image's passwd, `PATH`, `HOSTNAME` and, on a terminal,
    /// `TERM` with docker's values, each when it is not here.
    pub env: Vec<String>,
    /// Working directory, `/` when empty. The first process's is made if missing.
    pub cwd: String,
    /// `name|uid[:group|gid]`, looked up in the image; root when empty.
    pub user: String,
    /// Further groups, by name or number.
    pub groups: Vec<String>,
    /// Size of its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
    /// Whether input follows; otherwise it reads from `/dev/null`. A terminal always has input.
    pub stdin: bool,
    /// Limits that differ from the agent's.
    pub rlimits: Vec<Rlimit>,
    /// Names out of [`CAPABILITIES`]: all of its own for root, the most it may get for others.
    pub capabilities: Vec<String>,
    /// Whether it gains nothing by set-user-ID programs.
    pub no_new_privileges: bool,
    /// Whether a small init runs as process 1 and the program as its child. First process only.
    pub init: bool,
    /// Mask of permissions.
    pub umask: u16,
}

impl Default for Start {
    /// An empty command line with what docker gives without options.
    fn default() -> Self {
        Self {
            role: Role::Init,
            args: Vec::new(),
            env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            groups: Vec::new(),
            terminal: None,
            stdin: false,
            rlimits: Vec::new(),
            capabilities: DEFAULT_CAPABILITIES.map(str::to_owned).into(),
            no_new_privileges: false,
            init: false,
            umask: 0o022,
        }
    }
}

/// A further process: as the container's first one is, but for what is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Further {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Variables that are set, in this order; one without a value is taken away.
    pub env: Vec<(String, Option<String>)>,
    /// Working directory.
    pub cwd: Option<String>,
    /// `name|uid[:group|gid]`.
    pub user: Option<String>,
    /// Size of its terminal, if it gets one.
    pub terminal: Option<TerminalSize>,
    /// Whether input follows.
    pub stdin: bool,
}

impl Further {
    /// All of the process, in a container whose first process is `first`.
    pub fn start(self, first: &Start) -> Start {
        let mut env = first.env.clone();
        for (name, value) in self.env {
            let is_it = |entry: &str| entry.split_once('=').is_some_and(|(known, _)| known == name);
            let place = env.iter().position(|entry| is_it(entry));
            let entry = value.map(|value| format!("{name}={value}"));
            match (place.and_then(|at| env.get_mut(at)), entry) {
                (Some(old), Some(entry)) => *old = entry,
                (None, Some(entry)) => env.push(entry),
                (_, None) => env.retain(|entry| !is_it(entry)),
            }
        }
        Start {
            role: Role::Exec,
            args: self.args,
            env,
            cwd: self.cwd.unwrap_or_else(|| first.cwd.clone()),
            user: self.user.unwrap_or_else(|| first.user.clone()),
            terminal: self.terminal,
            stdin: self.stdin,
            init: false,
            ..first.clone()
        }
    }
}

/// What a process is to the container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The first process: the container ends with it.
    #[default]
    Init,
    /// A further process; the end of its connection kills it and its group, unless there was a
    /// [`Request::Release`].
    Exec,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A limit of resources, see getrlimit(2). `u64::MAX` is no limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Its name as docker's `--ulimit` has it: `nofile`, `nproc`, `core`, ...
    pub name: String,
    /// What holds.
    pub soft: u64,
    /// What it can be raised to.
    pub hard: u64,
}

/// From the agent in a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The program runs.
    Started {
        /// Its number in the container.
        pid: u32,
        /// Microseconds since the guest's kernel began.
        uptime_us: u64,
    },
    /// Nothing was started, or a copy went wrong. Last frame.
    Refused {
        /// For the exit status.
        kind: Refusal,
        /// One sentence. It is the guest's word: see [`printable`].
        what: String,
    },
    /// So many more bytes of `Stdin` may be sent.
    Credit(u32),
    /// The process has ended. Last frame, after all its output.
    Exited(Exit),
    /// What the path of a copy is.
    Found(PathStat),
    /// The copy is whole. Last frame.
    Copied,
}

/// Why nothing was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No such program, or no such path (127).
    NotFound,
    /// A program that cannot be run (126).
    NotExecutable,
    /// A user or group the image does not have.
    NoSuchUser,
    /// A working directory that does not exist or is no directory.
    NoSuchDirectory,
    /// Anything else.
    Other,
}

impl Refusal {
    /// The exit status docker has for it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable => 126,
            Self::NoSuchUser | Self::NoSuchDirectory | Self::Other => 125,
        }
    }
}

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// By itself, or by a signal.
    pub status: Status,
    /// Whether the kernel has killed a process of the container for want of memory.
    pub oom: bool,
    /// Microseconds since the guest's kernel began.
    pub uptime_us: u64,
}

/// The status of a process that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// What it returned.
    Code(u8),
    /// The number of the signal that ended it.
    Signal(u8),
}

impl Status {
    /// As a shell shows it: 128 and the signal's number for a signal.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(number) => number.saturating_add(128),
        }
    }
}

/// What a path is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    /// Its kind.
    pub kind: FileKind,
    /// Permissions with set-user-ID, set-group-ID and sticky bits.
    pub mode: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Seconds since 1970 at the last change of its content.
    pub modified: i64,
    /// Target of a symbolic link; what is not UTF-8 is replaced.
    pub link: Option<String>,
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// What the container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Bytes its processes and the files they use take in memory.
    pub memory_bytes: u64,
    /// The part of it that the kernel takes back when it needs memory.
    pub inactive_file_bytes: u64,
    /// Bytes of memory in the guest.
    pub guest_total_bytes: u64,
    /// Bytes that could still be used in the guest.
    pub guest_available_bytes: u64,
    /// Microseconds of processor time.
    pub cpu_us: u64,
    /// The part of it spent in the kernel.
    pub cpu_system_us: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Bytes received by network interfaces other than loopback.
    pub net_rx_bytes: u64,
    /// Bytes they have sent.
    pub net_tx_bytes: u64,
    /// Bytes read from disks.
    pub disk_read_bytes: u64,
    /// Bytes written to disks.
    pub disk_write_bytes: u64,
}

/// A process of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number in the guest, not in the container.
    pub pid: u32,
    /// Its parent's.
    pub parent: u32,
    /// Its effective user.
    pub uid: u32,
    /// The letter of its state, as ps(1) has it.
    pub state: char,
    /// Microseconds of processor time.
    pub cpu_us: u64,
    /// Microseconds since the guest's kernel began, at its start.
    pub started_us: u64,
    /// Its command line, or its name in brackets. It is the guest's word: see [`printable`].
    pub command: String,
}

/// All capabilities, each at the place of its number; names without `CAP_`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What docker gives a container that asks for nothing.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// The longest text that [`printable`] returns, in characters.
const PRINTABLE: usize = 1000;

/// A text of the other side, fit for a terminal and a log: cut, and without control characters.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(PRINTABLE).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forms are what an agent and a host of the same version agree on: a change is a new
    /// [`crate::VERSION`].
    #[test]
    fn messages_have_their_agreed_form() {
        let json = |order: &Order| serde_json::to_string(order).unwrap();
        assert_eq!(json(&Order::Shutdown), r#""shutdown""#);
        let hello = Notice::Hello { version: 1, uptime_us: 5 };
        let text = serde_json::to_string(&hello).unwrap();
        assert_eq!(text, r#"{"hello":{"version":1,"uptime_us":5}}"#);
        let exit = Exit { status: Status::Signal(9), oom: true, uptime_us: 7 };
        let text = serde_json::to_string(&Reply::Exited(exit)).unwrap();
        assert_eq!(text, r#"{"exited":{"status":{"signal":9},"oom":true,"uptime_us":7}}"#);
        let text = serde_json::to_string(&Request::Resize(TerminalSize { rows: 2, columns: 3 }));
        assert_eq!(text.unwrap(), r#"{"resize":{"rows":2,"columns":3}}"#);
    }

    #[test]
    fn what_is_left_out_of_a_start_is_as_docker_has_it() {
        let start: Request = serde_json::from_str(r#"{"start":{"args":["true"]}}"#).unwrap();
        let expected = Start { args: vec!["true".into()], ..Start::default() };
        assert_eq!(start, Request::Start(Box::new(expected.clone())));
        assert_eq!(expected.umask, 0o022);
        assert_eq!(expected.capabilities.len(), 14);
    }

    #[test]
    fn further_process_is_as_the_first_but_for_what_is_said() {
        let first = Start {
            args: vec!["sh".into()],
            env: vec!["A=1".into(), "B=2".into(), "C=3".into()],
            cwd: "/tmp".into(),
            user: "7".into(),
            terminal: Some(TerminalSize { rows: 2, columns: 3 }),
            stdin: true,
            init: true,
            umask: 0o77,
            ..Start::default()
        };
        let args = vec!["ls".to_owned()];
        let same = Further { args: args.clone(), ..Further::default() }.start(&first);
        let (role, terminal) = (Role::Exec, None);
        let expected = Start { role, args, terminal, stdin: false, init: false, ..first.clone() };
        assert_eq!(same, expected);
        let env = [("B", Some("x=y")), ("D", Some("4")), ("A", None), ("A", Some("5"))];
        let further = Further {
            env: env.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).into(),
            cwd: Some("/".into()),
            user: Some(String::new()),
            stdin: true,
            ..Further::default()
        };
        let other = further.start(&first);
        assert_eq!(other.env, ["B=x=y", "C=3", "D=4", "A=5"]);
        assert_eq!((other.cwd.as_str(), other.user.as_str(), other.stdin), ("/", "", true));
    }

    #[test]
    fn capabilities_stand_at_their_numbers() {
        for (number, name) in
            [(0, "CHOWN"), (21, "SYS_ADMIN"), (27, "MKNOD"), (40, "CHECKPOINT_RESTORE")]
        {
            assert_eq!(CAPABILITIES[number], name);
        }
        assert!(DEFAULT_CAPABILITIES.iter().all(|name| CAPABILITIES.contains(name)));
    }

    #[test]
    fn statuses_are_those_of_docker() {
        assert_eq!(Status::Code(3).exit_code(), 3);
        assert_eq!(Status::Signal(15).exit_code(), 143);
        assert_eq!(Status::Signal(255).exit_code(), 255);
        let codes = [Refusal::NotFound, Refusal::NotExecutable, Refusal::Other];
        assert_eq!(codes.map(Refusal::exit_code), [127, 126, 125]);
    }

    #[test]
    fn words_of_the_other_side_reach_no_terminal_as_controls() {
        assert_eq!(printable("a\x1b[2Jb\n\u{9b}é"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}é");
        assert_eq!(printable(&"x".repeat(5000)).len(), PRINTABLE);
    }
}
