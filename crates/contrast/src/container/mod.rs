//! A container made of nothing but system calls: what runc and crun do, in one small program.
//!
//! A container is a process that was started with less. This module is that list, in the order in which the
//! kernel wants it, and is meant to be read: [`inside`] is the heart of it.
//!
//! 1. *Control groups* ([`group`]) say how much memory and how many processes there may be, and which devices
//!    may be used. They are made first, so that the process is born in them (CLONE_INTO_CGROUP).
//! 2. *Namespaces* say what it sees: clone3(2) makes the process in new ones of mounts, process numbers,
//!    networks, System V and POSIX queues, host names, and if asked for of users. The one of control groups comes
//!    a moment later, because it begins at the group that the process is in when it is made.
//! 3. *pivot_root* makes the unpacked image its root. Unlike chroot(2) it leaves no way back: the host's
//!    mounts are gone from its namespace.
//! 4. *File systems of the kernel*, read only where they are not per namespace; what of them tells or changes
//!    too much is hidden or protected, because root in a container is root.
//! 5. *Capabilities* cut root into pieces and leave few of them; *seccomp* ([`vmm_sandbox::filter`]) refuses system calls
//!    that no program in a container needs; *no_new_privs* lets no set-user-ID program undo it.
//! 6. *exec*. From now on nothing of this runtime runs in the container.
//!
//! A user namespace is made when it is asked for, and always for those who are not root, who could make none
//! of the others without. It is not the default for root, because neither docker nor the runtimes that we are
//! compared with make one: its root is the host's nobody, so that the image's files would belong to
//! others.
//!
//! Namespaces and mounts end with their last process. Control groups do not, so a [`guard`] outlives this
//! process, whatever ends it, kills what is left and removes them.
//!
//! Between clone3 and exec nothing takes memory, so that a program with several threads may start containers.

mod group;
mod guard;
mod inside;
mod report;

use std::ffi::{CString, OsString};
use std::io;
use std::mem::take;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, geteuid, waitid};
use vmm_sandbox::process::{Forked, fork};

use self::group::Group;
use self::guard::Guard;
use self::inside::Plan;
use self::report::{Fault, Report};
use crate::clock::Moment;
use crate::workload::User;

/// Where a program is looked for when the environment says nothing, as under docker.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Spec {
    /// The unpacked image.
    pub root: PathBuf,
    /// What becomes of what is written in it.
    pub writes: Writes,
    /// It gets a user namespace, also if root asks.
    pub user_namespace: bool,
    /// The name it has for itself.
    pub hostname: OsString,
    /// Bytes of memory at most.
    pub memory_bytes: Option<u64>,
    /// Processes at most.
    pub pids: Option<u64>,
    /// Who the program runs as.
    pub user: User,
    /// Where it begins; the root if it is empty.
    pub cwd: OsString,
    /// Variables, `NAME=VALUE`.
    pub env: Vec<OsString>,
    /// The program and its arguments.
    pub args: Vec<OsString>,
}

/// Where writes to a root file system go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writes {
    /// To memory; they end with the container.
    #[default]
    Memory,
    /// To the image itself, as runtimes do with a bundle.
    Image,
    /// Nowhere: they fail.
    Nowhere,
}

/// What became of a container that was made.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended: its exit status, 128 and a signal's number, or as a shell has it 127 for a program
    /// that is not there and 126 for one that cannot be run.
    pub status: i32,
    /// Why there was no program to run.
    pub refused: Option<String>,
    /// When each step ended: `groups` and the guard of them are there; `namespaces`, `root`, `files` and `rights`
    /// are made by the process inside; `exec` begins the program; at its `end` nothing else is left in its
    /// namespaces; `clean` is the host.
    pub stamps: Vec<(&'static str, Moment)>,
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// There is nothing to run.
    #[error("no command given")]
    NoCommand,
    /// No argument, variable or path can have one.
    #[error("an argument, a variable or a path holds a zero byte")]
    ZeroByte,
    /// The root is not there, or is none.
    #[error("root file system {}: {error}", path.display())]
    Root {
        /// As it was given.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// The host limits no such thing, or not for this user.
    #[error("cannot limit {what}: {why}")]
    Limit {
        /// The resource.
        what: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// A step failed.
    #[error("{what}: {error}")]
    Step {
        /// What was tried.
        what: String,
        /// The reason.
        error: io::Error,
    },
}

impl ContainerError {
    fn step(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::Step { what: what.into(), error: error.into() }
    }
}

/// Runs a container from its start to its end. Standard streams are this process's own.
///
/// # Errors
/// It could not be made. Nothing of it is left.
pub fn run(spec: &Spec) -> Result<Outcome, ContainerError> {
    let plan = plan(spec)?;
    let groups = group::Names::new(spec)?;
    let guard = groups.as_ref().map(Guard::start).transpose();
    let guard = guard.map_err(|error| ContainerError::step("start the guard", error))?;
    let result = run_guarded(spec, plan, groups.as_ref());
    let cleaned = guard.map_or(Ok(()), Guard::finish);
    let mut outcome = result?;
    cleaned.map_err(|error| ContainerError::step("clean up", error))?;
    outcome.stamps.push(("clean", Moment::now()));
    Ok(outcome)
}

fn run_guarded(
    spec: &Spec,
    mut plan: Plan,
    groups: Option<&group::Names>,
) -> Result<Outcome, ContainerError> {
    let mut group = groups.map(|names| names.make(spec)).transpose()?;
    let mut stamps = vec![("groups", Moment::now())];
    let (outside, inside) =
        report::pair().map_err(|error| ContainerError::step("make a socket", error))?;
    plan.join = group.as_mut().map(|group| take(&mut group.join)).unwrap_or_default();
    let user = if plan.map_users { libc::CLONE_NEWUSER } else { 0 };
    let unified = group.as_ref().map(|group| group.unified.as_fd());
    let forked = fork(inside::NAMESPACES | user, unified);
    let child = match forked.map_err(|error| ContainerError::step("make a process", error))? {
        Forked::Child => inside::run(&plan, &inside),
        Forked::Parent(child) => child,
    };
    drop(inside);
    // What takes long and is not needed before the program begins is done while its process prepares it.
    let restricted = group.as_ref().map_or(Ok(()), Group::restrict);
    if restricted.is_ok() {
        report::allow(&outside);
    }
    // The socket ends when the program begins, or its process ends.
    let report = Report::read(&outside);
    let began = Moment::now();
    let status = rustix::io::retry_on_intr(|| {
        waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)
    });
    let status = status.map_err(|error| ContainerError::step("wait for the container", error))?;
    let ended = Moment::now();
    restricted?;
    stamps.extend(report.stamps);
    match report.fault {
        Some(Fault { what, errno, exec: true }) => {
            let status = if matches!(errno, Errno::NOENT | Errno::NOTDIR) { 127 } else { 126 };
            Ok(Outcome { status, refused: Some(format!("{what}: {errno}")), stamps })
        }
        Some(Fault { what, errno, .. }) => Err(ContainerError::step(what, errno)),
        None => {
            stamps.extend([("exec", began), ("end", ended)]);
            Ok(Outcome { status: code(status.as_ref()), refused: None, stamps })
        }
    }
}

/// A status as a shell has it.
fn code(status: Option<&WaitIdStatus>) -> i32 {
    let signal = |status: &WaitIdStatus| {
        status.terminating_signal().map(|signal| signal.saturating_add(128))
    };
    status.and_then(|status| status.exit_status().or_else(|| signal(status))).unwrap_or(255)
}

/// Everything that takes memory, before there is a second process.
fn plan(spec: &Spec) -> Result<Plan, ContainerError> {
    let missing = |error| ContainerError::Root { path: spec.root.clone(), error };
    let root = spec.root.canonicalize().map_err(missing)?;
    if !root.is_dir() {
        return Err(missing(io::ErrorKind::NotADirectory.into()));
    }
    let program =
        spec.args.first().filter(|name| !name.is_empty()).ok_or(ContainerError::NoCommand)?;
    let mut env = spec.env.clone();
    let path = env.iter().find_map(|word| word.as_bytes().strip_prefix(b"PATH="));
    let path = OsString::from_vec(path.unwrap_or(PATH.as_bytes()).to_vec());
    if !env.iter().any(|word| word.as_bytes().starts_with(b"PATH=")) {
        env.push(format!("PATH={PATH}").into());
    }
    let cwd = if spec.cwd.is_empty() { "/".into() } else { spec.cwd.clone() };
    let mut plan =
        Plan::new(words(&candidates(program, &path))?, words(&spec.args)?, words(&env)?)?;
    plan.root = c_string(root.into_os_string())?;
    plan.writes = spec.writes;
    plan.map_users = spec.user_namespace || !geteuid().is_root();
    plan.hostname = spec.hostname.as_bytes().to_vec();
    plan.user = spec.user;
    plan.cwd = c_string(cwd)?;
    Ok(plan)
}

/// Where the program may be.
fn candidates(program: &OsString, path: &OsString) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.clone()];
    }
    let directories = path.as_bytes().split(|byte| *byte == b':');
    let file = |directory: &[u8]| {
        let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
        Path::new(std::ffi::OsStr::from_bytes(directory)).join(program).into_os_string()
    };
    directories.map(file).collect()
}

fn words(words: &[OsString]) -> Result<Vec<CString>, ContainerError> {
    words.iter().cloned().map(c_string).collect()
}

fn c_string(word: OsString) -> Result<CString, ContainerError> {
    CString::new(word.into_vec()).map_err(|_| ContainerError::ZeroByte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_on_the_path() {
        let find = |program: &str, path: &str| candidates(&program.into(), &path.into());
        assert_eq!(find("true", "/bin::/x"), ["/bin/true", "./true", "/x/true"]);
        assert_eq!(find("./true", "/bin"), ["./true"]);
    }

    #[test]
    fn wrong_requests_are_refused_before_anything_is_made() {
        let said = |spec: Spec| run(&spec).unwrap_err().to_string();
        let args = vec!["true".into()];
        let missing = Spec { root: "/no/such".into(), args: args.clone(), ..Spec::default() };
        assert_eq!(
            said(missing),
            "root file system /no/such: No such file or directory (os error 2)"
        );
        let file = Spec { root: "/etc/passwd".into(), args, ..Spec::default() };
        assert_eq!(said(file), "root file system /etc/passwd: not a directory");
        let nothing = Spec { root: "/".into(), ..Spec::default() };
        assert_eq!(said(nothing), "no command given");
        let zero = Spec { root: "/".into(), args: vec!["a\0b".into()], ..Spec::default() };
        assert_eq!(said(zero), "an argument, a variable or a path holds a zero byte");
    }
}
