//! From a fork of the agent to the program: what happens in between, in this order.
//!
//! Namespaces and mounts; terminal and standard streams; user, looked up in the image; limits;
//! capabilities and user; the program. The filter of system calls is the agent's own.
//!
//! A further process comes into a container that is hostile already. What is done with the agent's rights is
//! done by a process that the container cannot see, and only the one that becomes the program is made among
//! its processes.

use std::ffi::CString;
use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, Gid, Mode, OFlags, Uid, accessat, fchown, open};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, chdir, getpid, ioctl_tiocsctty, set_dumpable_behavior,
    setrlimit, setsid, umask,
};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use vmm_protocol::{Refusal, Reply, Role, Setup, Start, TerminalSize, printable};
use vmm_sandbox::capabilities;
use vmm_sandbox::process::{self, Forked, Words};

use crate::clock::uptime_us;
use crate::error::{Context, Failure};
use crate::user::User;
use crate::{caps, init, mounts, user};

/// Where a program is looked for when the environment says nothing, as under docker.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child gets of the agent.
pub(crate) struct Plan<'a> {
    pub(crate) start: &'a Start,
    pub(crate) setup: &'a Setup,
    /// The first process, whose namespaces a further one enters.
    pub(crate) first: Option<BorrowedFd<'a>>,
    /// Standard streams, unless it gets a terminal.
    pub(crate) streams: Option<[OwnedFd; 3]>,
    /// Tells the agent how it went.
    pub(crate) report: OwnedFd,
}

/// Runs in the child: becomes the program, or reports why not and ends.
pub(crate) fn run(plan: Plan<'_>) -> ! {
    isolate(&plan);
    let Ok(report) = plan.report.try_clone() else { std::process::exit(1) };
    if let Err(Failure { kind, what }) = try_run(plan) {
        // It may repeat names of any length.
        let what = printable(&what);
        tell(&report, &Reply::Refused { kind, what }, None);
    }
    std::process::exit(1)
}

/// Keeps the container, which this process is about to enter, from what it has of the agent: connections
/// to the host above all.
fn isolate(plan: &Plan<'_>) {
    let mut kept = vec![plan.report.as_raw_fd()];
    kept.extend(plan.first.as_ref().map(AsRawFd::as_raw_fd));
    kept.extend(plan.streams.iter().flatten().map(AsRawFd::as_raw_fd));
    // Standard streams are replaced soon; until then nothing else may take their numbers.
    process::close_from(3, &mut kept);
    // Undone by the start of the program. It can fail only for other values than this.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn try_run(mut plan: Plan<'_>) -> Result<(), Failure> {
    let start = plan.start;
    // Of the proc that shows this process: the container's may not.
    fs::write("/proc/self/oom_score_adj", "0").context("be as killable as others")?;
    enter(&plan)?;
    let terminal = match plan.streams.take() {
        Some(streams) => {
            connect(&streams)?;
            None
        }
        None => Some(open_terminal(start, &plan.report)?),
    };
    let user = user::find(&start.user, &start.groups)?;
    own_streams(&user);
    enter_directory(start)?;
    limits(start)?;
    let env = environment(start, plan.setup, &user);
    drop(terminal);
    become_user(start, &user)?;
    umask(Mode::from_bits_retain(u32::from(start.umask)));
    let path = program(start, &env)?;
    let (args, env) = (Words::new(strings(&start.args)?), Words::new(strings(&env)?));
    // The kernel ignores none for its first process, the standard library this one.
    process::reset_signals([libc::SIGPIPE]);
    let _until_begun = match start.role {
        Role::Init => None,
        Role::Exec => Some(appear(&plan.report).context("make a process of the container")?),
    };
    begin_session(start)?;
    let pid = u32::try_from(getpid().as_raw_nonzero().get()).unwrap_or(0);
    let started = Reply::Started { pid, uptime_us: uptime_us() };
    if !tell(&plan.report, &started, None) {
        // The agent has given it up.
        std::process::exit(1);
    }
    if start.init && start.role == Role::Init {
        init::divide(start.terminal.is_some()).context("start an init")?;
    }
    let Err(error) = process::exec(&path, &args, &env);
    let name = start.args.first().map_or("", String::as_str);
    Err(refused(name, &error))
}

/// Goes on in a new process, a child of the agent as well, that is among those of the container and has no
/// right that the program will not have. This one ends when the program begins, which closes what is returned.
fn appear(report: &OwnedFd) -> io::Result<OwnedFd> {
    // What the first process is known by, for one, is not for the new one.
    process::close_from(3, &mut [report.as_raw_fd()]);
    let (begun, until_begun) = pipe_with(PipeFlags::CLOEXEC)?;
    match process::fork(libc::CLONE_PARENT, None)? {
        Forked::Child => Ok(until_begun),
        Forked::Parent(_) => {
            process::close_from(0, &mut [begun.as_raw_fd()]);
            // Nothing is ever written.
            let _ = rustix::io::read(&begun, &mut [0]);
            std::process::exit(0)
        }
    }
}

/// A session of its own, with its terminal if it has one.
fn begin_session(start: &Start) -> Result<(), Failure> {
    setsid().context("begin a session")?;
    if start.terminal.is_some() {
        ioctl_tiocsctty(rustix::stdio::stdin()).context("control the terminal")?;
    }
    Ok(())
}

/// Namespaces: the first process has made its own, all others join those. What is among the container's
/// processes are a further one's children.
fn enter(plan: &Plan<'_>) -> Result<(), Failure> {
    use rustix::thread::{ThreadNameSpaceType as Type, move_into_thread_name_spaces};
    if let Some(first) = plan.first {
        let types = Type::MOUNT
            | Type::PROCESS_ID
            | Type::INTER_PROCESS_COMMUNICATION
            | Type::HOST_NAME_AND_NIS_DOMAIN_NAME
            | Type::CONTROL_GROUP;
        return move_into_thread_name_spaces(first, types).context("enter the container");
    }
    process::new_cgroup_namespace().context("make a control group namespace")?;
    mounts::make(plan.setup)
}

fn connect([input, output, errors]: &[OwnedFd; 3]) -> Result<(), Failure> {
    rustix::stdio::dup2_stdin(input).context("connect standard input")?;
    rustix::stdio::dup2_stdout(output).context("connect standard output")?;
    rustix::stdio::dup2_stderr(errors).context("connect standard error")
}

/// Makes a terminal of the container, and hands its other side to the agent.
fn open_terminal(start: &Start, report: &OwnedFd) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let control = open("/dev/pts/ptmx", flags, Mode::empty()).context("make a terminal")?;
    rustix::pty::unlockpt(&control).context("unlock the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = ioctl_tiocgptpeer(&control, flags).context("open the terminal")?;
    if let Some(size) = start.terminal {
        resize(&control, size).context("set the size of the terminal")?;
    }
    connect_to_one(&terminal)?;
    if start.role == Role::Init {
        fs::File::create("/dev/console").context("make /dev/console")?;
        let path = rustix::pty::ptsname(&control, Vec::new()).context("name the terminal")?;
        rustix::mount::mount_bind(path.as_c_str(), "/dev/console").context("mount /dev/console")?;
    }
    // The message itself says nothing: the terminal comes before anything can go wrong with it.
    tell(report, &Reply::Credit(0), Some(control.as_fd()));
    Ok(terminal)
}

fn connect_to_one(fd: &OwnedFd) -> Result<(), Failure> {
    rustix::stdio::dup2_stdin(fd).context("connect standard input")?;
    rustix::stdio::dup2_stdout(fd).context("connect standard output")?;
    rustix::stdio::dup2_stderr(fd).context("connect standard error")
}

/// Sets the size of a terminal.
pub(crate) fn resize(terminal: &OwnedFd, size: TerminalSize) -> rustix::io::Result<()> {
    let TerminalSize { rows, columns } = size;
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
}

/// Lets the user open its own streams by their names in `/dev`. Pipes and terminals can be given away;
/// that `/dev/null` is the user's would not matter, but it is everybody's.
fn own_streams(user: &User) {
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for stream in streams {
        let null =
            rustix::fs::fstat(stream).is_ok_and(|stat| stat.st_rdev == rustix::fs::makedev(1, 3));
        if !null {
            // Without it the streams can still be used.
            let _ = fchown(stream, Some(Uid::from_raw(user.uid)), None);
        }
    }
}

fn enter_directory(start: &Start) -> Result<(), Failure> {
    let path = if start.cwd.is_empty() { "/" } else { &start.cwd };
    if !path.starts_with('/') {
        let what = format!("working directory {path} is not absolute");
        return Err(Failure::new(Refusal::NoSuchDirectory, what));
    }
    if start.role == Role::Init && !Path::new(path).exists() {
        // Where it cannot be made, entering it says why.
        let _ = fs::create_dir_all(path);
    }
    chdir(path).map_err(|error| {
        let what = format!("enter working directory {path}: {}", io::Error::from(error));
        Failure::new(Refusal::NoSuchDirectory, what)
    })
}

fn limits(start: &Start) -> Result<(), Failure> {
    for limit in &start.rlimits {
        let unknown = || Failure::new(Refusal::Other, format!("unknown limit {}", limit.name));
        let resource = resource(&limit.name).ok_or_else(unknown)?;
        let some = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: some(limit.soft), maximum: some(limit.hard) };
        setrlimit(resource, new).context(format!("set limit {}", limit.name))?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}

/// The variables asked for, and those that docker adds.
fn environment(start: &Start, setup: &Setup, user: &User) -> Vec<String> {
    let mut env = start.env.clone();
    let term = if start.terminal.is_some() { "xterm" } else { "" };
    let added =
        [("PATH", PATH), ("HOSTNAME", &setup.hostname), ("TERM", term), ("HOME", &user.home)];
    for (name, value) in added {
        if variable(&env, name).is_none() && !value.is_empty() {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

fn variable<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// From here on the process is its user, with the rights it has in the container.
fn become_user(start: &Start, user: &User) -> Result<(), Failure> {
    let set = caps::parse(&start.capabilities)?;
    capabilities::bound(set).context("bound capabilities")?;
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups).context("set groups")?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid).context("set the group")?;
    // Leaves capabilities to root alone.
    set_thread_res_uid(uid, uid, uid).context("set the user")?;
    if uid.is_root() {
        capabilities::limit(set).context("limit capabilities")?;
    }
    if start.no_new_privileges {
        set_no_new_privs(true).context("renounce privileges")?;
    }
    Ok(())
}

/// Finds the program: by its path, or in the directories of PATH.
fn program(start: &Start, env: &[String]) -> Result<CString, Failure> {
    let missing = || Failure::new(Refusal::NotFound, "no command given");
    let name = start.args.first().filter(|name| !name.is_empty()).ok_or_else(missing)?;
    if name.contains('/') {
        check(Path::new(name)).map_err(|error| refused(name, &error))?;
        return string(name);
    }
    let mut denied = false;
    for directory in variable(env, "PATH").unwrap_or(PATH).split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let path = Path::new(directory).join(name);
        match check(&path) {
            Ok(()) => return c_string(path.as_os_str().as_bytes()),
            Err(error) => denied |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    let what = format!("exec: \"{name}\": executable file not found in $PATH");
    let kind = if denied { Refusal::NotExecutable } else { Refusal::NotFound };
    Err(Failure::new(kind, what))
}

/// Whether this user may run the file.
fn check(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

/// Why a program does not run, as docker tells it apart: a file that is not there, or one that is no
/// program.
fn refused(name: &str, error: &io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Refusal::NotFound,
        _ => Refusal::NotExecutable,
    };
    Failure::new(kind, format!("exec: \"{name}\": {error}"))
}

fn strings(words: &[String]) -> Result<Vec<CString>, Failure> {
    words.iter().map(|word| string(word)).collect()
}

fn string(word: &str) -> Result<CString, Failure> {
    c_string(word.as_bytes())
}

fn c_string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes)
        .map_err(|_| Failure::new(Refusal::Other, "an argument or variable holds a zero byte"))
}

/// Sends a reply to the agent, in one packet; `false` when that is not there any more.
fn tell(report: &OwnedFd, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> bool {
    let Ok(bytes) = serde_json::to_vec(reply) else { return false };
    let fds = fd.map(|fd| [fd]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(report, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_is_completed_as_docker_does() {
        let user = User { uid: 7, gid: 7, groups: vec![], home: "/h".into() };
        let setup = Setup { hostname: "box".into(), ..Setup::default() };
        let start = Start { env: vec!["A=1".into(), "HOME=".into()], ..Start::default() };
        let env = environment(&start, &setup, &user);
        assert_eq!(env, ["A=1", "HOME=", &format!("PATH={PATH}"), "HOSTNAME=box"]);
        let size = TerminalSize { rows: 1, columns: 1 };
        let start = Start { terminal: Some(size), ..Start::default() };
        assert!(environment(&start, &setup, &user).contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn programs_are_found_on_the_path_and_refused_as_docker_does() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("plain");
        fs::write(&plain, "").unwrap();
        let path = format!("PATH=/nowhere:{}:/bin", directory.path().display());
        let find = |name: &str| {
            let start = Start { args: vec![name.to_owned()], ..Start::default() };
            program(&start, std::slice::from_ref(&path)).map_err(|failure| failure.kind)
        };
        assert_eq!(find("sh"), Ok(c"/bin/sh".into()));
        assert_eq!(find("/bin/sh"), Ok(c"/bin/sh".into()));
        assert_eq!(find("no-such-program"), Err(Refusal::NotFound));
        assert_eq!(find("/no/such"), Err(Refusal::NotFound));
        assert_eq!(find("/etc/passwd/x"), Err(Refusal::NotFound));
        assert_eq!(find("plain"), Err(Refusal::NotExecutable));
        assert_eq!(find(plain.to_str().unwrap()), Err(Refusal::NotExecutable));
        assert_eq!(find("/etc"), Err(Refusal::NotExecutable));
        assert_eq!(find(""), Err(Refusal::NotFound));
    }

    #[test]
    fn zero_bytes_are_refused() {
        assert!(strings(&["a\0b".into()]).is_err());
    }
}
