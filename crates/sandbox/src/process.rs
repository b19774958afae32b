//! From a process to a program in it: system calls that no safe interface offers.
//!
//! None of them takes memory, but for [`Words::new`].

// UNSAFETY: clone and exec act on the whole process.
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
pub const LAST_SIGNAL: i32 = 64;

/// `linux/sched.h`; it is longer than what libc has for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a [`fork`] this is.
pub enum Forked {
    /// The new process.
    Child,
    /// The old one.
    Parent(Child),
}

/// A process that was made.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: Pid,
    /// Its descriptor, which always means this process.
    pub pidfd: OwnedFd,
}

/// Makes a process in the namespaces of `flags` (`CLONE_NEW...`), and in `cgroup` if one is given; with
/// `CLONE_PARENT` it is a child of this one's parent. If this process has one thread, the child may do
/// anything; otherwise nothing that takes memory or a lock.
///
/// # Errors
/// The kernel makes none: there are too many, or it may not.
pub fn fork(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
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
    // SAFETY: without CLONE_VM the child has a copy of this process and of the thread that calls.
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

/// Gives `signals` their default action and lets all signals through: what a program expects at its start. Those
/// that something is done at get it from exec(2).
pub fn reset_signals(signals: impl IntoIterator<Item = i32>) {
    // SAFETY: default actions run no code of this process; the set is initialised by sigemptyset.
    unsafe {
        for signal in signals {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
    }
}

/// Words for a program, as the kernel takes them.
#[derive(Debug)]
pub struct Words {
    /// What the pointers point to.
    _words: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Words {
    /// These words. Takes memory.
    pub fn new(words: Vec<CString>) -> Self {
        let pointers = words.iter().map(|word| word.as_ptr()).chain([ptr::null()]).collect();
        Self { _words: words, pointers }
    }
}

/// Becomes the program at `path`; returns only with an error.
///
/// # Errors
/// The file is no program, or this process may not run it.
pub fn exec(path: &CStr, args: &Words, env: &Words) -> io::Result<Infallible> {
    // SAFETY: the lists end with a null pointer, and hold their strings.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Ends the process at once: nothing of the program it is a copy of runs any more.
pub fn end(status: i32) -> ! {
    // SAFETY: no code of this process runs after it.
    unsafe { libc::_exit(status) }
}

/// Closes every descriptor from `first` on that is not in `kept`.
pub fn close_from(mut first: RawFd, kept: &mut [RawFd]) {
    kept.sort_unstable();
    for fd in kept {
        if *fd > first {
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
///
/// # Errors
/// The process may not, or the kernel has none.
pub fn new_cgroup_namespace() -> io::Result<()> {
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
