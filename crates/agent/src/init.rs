//! A small process 1 for programs that are not made to be one: it starts the program, hands signals on
//! to it, and buries what others leave behind.

use std::io;

use rustix::process::{Pid, WaitOptions, getpid, setpgid, wait};
use rustix::termios::tcsetpgrp;
use vmm_sandbox::process::{self, Forked};

use crate::sys;

/// Divides the process: returns in the child, which is to become the program. The parent stays, and
/// ends as the program does.
pub(crate) fn divide(terminal: bool) -> io::Result<()> {
    sys::block_signals();
    match process::fork(0, None)? {
        Forked::Child => {
            // A group of its own, in front of the terminal: what is typed there reaches it once.
            setpgid(None, None)?;
            if terminal {
                tcsetpgrp(rustix::stdio::stdin(), getpid())?;
            }
            process::reset_signals([]);
            Ok(())
        }
        Forked::Parent(child) => {
            // Streams stay with the program: their end is its own.
            process::close_from(0, &mut []);
            std::process::exit(watch(child.pid))
        }
    }
}

/// Hands signals on until `program` has ended; returns its status as a shell has it.
fn watch(program: Pid) -> i32 {
    loop {
        let signal = sys::next_signal();
        if signal != libc::SIGCHLD {
            if signal > 0 {
                // It may just have ended.
                let _ = sys::kill(program, false, signal);
            }
            continue;
        }
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == program {
                let signal = status.terminating_signal().map(|signal| signal.saturating_add(128));
                return status.exit_status().or(signal).unwrap_or(255);
            }
        }
    }
}
