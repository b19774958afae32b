//! System calls on processes and signals that no safe interface offers.

// UNSAFETY: clone, exec and signals act on the whole process.
#![expect(unsafe_code)]

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// The last number of a signal.
pub(crate) const LAST_SIGNAL: i32 = 64;

/// `linux/sched.h`; it is longer than what libc has for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`fork`] this is.
pub(crate) enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent(Child),
}

/// A process that was made.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its number in the guest.
    pub(crate) pid: Pid,
    /// Its descriptor, which always means this process.
    pub(crate) pidfd: OwnedFd,
}

/// Makes a process in the namespaces of `flags` (`CLONE_NEW...`), and in `cgroup` if one is given; with
/// `CLONE_PARENT` it is a child of this one's parent. The agent has one thread, so that the child may do
/// anything.
pub(crate) fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut pidfd: libc::c_int = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    // A child of the parent's has the signal that this one has.
    let signal = if flags & libc::CLONE_PARENT == 0 { libc::SIGCHLD } else { 0 };
    let flags = libc::CLONE_PIDFD | flags;
    // SAFETY: a structure of numbers, for which zero is a value.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    args.flags = u64::from(flags.cast_unsigned()) | into;
    args.pidfd = u64::try_from((&raw mut pidfd).addr()).unwrap_or_default();
    args.exit_signal = u64::try_from(signal).unwrap_or_default();
    if let Some(cgroup) = cgroup {
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: without CLONE_VM the child has a copy of this process and its one thread.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const args, mem::size_of_val(&args)) };
    match i32::try_from(result).ok().filter(|pid| *pid >= 0).map(Pid::from_raw) {
        None => Err(io::Error::last_os_error()),
        Some(None) => Ok(Forked::Child),
        Some(Some(pid)) => {
            // SAFETY: the kernel has put a new descriptor there.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent(Child { pid, pidfd }))
        }
    }
}

/// Blocks SIGCHLD and returns a descriptor that can be read when a child ends.
pub(crate) fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset; signalfd returns a descriptor of its own.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Gives every signal its default action and lets all through: what a program expects at its start.
pub(crate) fn reset_signals() {
    // SAFETY: default actions run no code of this process; the set is initialised by sigemptyset.
    unsafe {
        for signal in 1..=LAST_SIGNAL {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Blocks all signals, so that [`next_signal`] gets them.
pub(crate) fn block_signals() {
    // SAFETY: the set is initialised by sigfillset.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Waits for a blocked signal and returns its number.
pub(crate) fn next_signal() -> i32 {
    // SAFETY: the set is initialised by sigfillset; no details are asked for.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, ptr::null_mut())
    }
}

/// Sends a signal to a process, or with `group` to its process group.
pub(crate) fn kill(pid: Pid, group: bool, signal: i32) -> io::Result<()> {
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: a signal to another process touches no memory of this one.
    let result = unsafe { libc::kill(if group { -pid } else { pid }, signal) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Becomes the program at `path`; returns only with an error.
pub(crate) fn exec(path: &CStr, args: &[CString], env: &[CString]) -> io::Result<Infallible> {
    let list = |words: &[CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (list(args), list(env));
    // SAFETY: the lists end with a null pointer, and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Closes every descriptor from `first` on that is not in `kept`.
pub(crate) fn close_from(mut first: RawFd, mut kept: Vec<RawFd>) {
    kept.sort_unstable();
    for fd in kept {
        if fd > first {
            close_range(first, fd.saturating_sub(1));
        }
        first = fd.saturating_add(1);
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: the process goes on with the descriptors it keeps alone.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Makes the control group this process is in the root of all it sees.
pub(crate) fn new_cgroup_namespace() -> io::Result<()> {
    // SAFETY: no descriptors are unshared.
    Ok(unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn process_that_cannot_be_made_is_an_error() {
        let no_group = File::open("/dev/null").unwrap();
        let refused = fork(0, Some(no_group.as_fd())).err().map(|error| error.raw_os_error());
        assert_eq!(refused, Some(Some(libc::EBADF)));
    }
}
