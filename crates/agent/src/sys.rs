//! System calls on signals that no safe interface offers.

// UNSAFETY: signals act on the whole process.
#![expect(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use rustix::process::Pid;

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
