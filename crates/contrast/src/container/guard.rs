//! The process that outlives this one, to clean up whatever ended it.
//!
//! It is made before there is anything to clean up, and waits until the pipe from this process ends: with
//! [`Guard::finish`], or with this process. There is no moment at which a signal leaves something behind.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::{Errno, read, retry_on_intr};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, setsid, waitid};
use vmm_sandbox::process::{self, Child, Forked, fork};

use super::group::Names;

/// A guard at work.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    pipe: OwnedFd,
}

impl Guard {
    /// Starts one for `names`.
    pub(super) fn start(names: &Names) -> io::Result<Self> {
        let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)?;
        match fork(0, None)? {
            Forked::Parent(child) => Ok(Self { child, pipe: writing }),
            Forked::Child => watch(names, &reading),
        }
    }

    /// Has it clean up, and waits until it has.
    pub(super) fn finish(self) -> io::Result<()> {
        drop(self.pipe);
        let pid = WaitId::PidFd(self.child.pidfd.as_fd());
        let status = retry_on_intr(|| waitid(pid.clone(), WaitIdOptions::EXITED))?;
        match status.and_then(|status| status.exit_status()) {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(number)),
            None => Err(io::ErrorKind::Interrupted.into()),
        }
    }
}

fn watch(names: &Names, pipe: &OwnedFd) -> ! {
    // What is typed at a terminal is not for it, nor is any stream to stay open for its sake.
    let _ = setsid();
    process::close_from(0, &mut [pipe.as_raw_fd()]);
    while let Ok(1..) = retry_on_intr(|| read(pipe, &mut [0])) {}
    process::end(names.remove().map_or_else(Errno::raw_os_error, |()| 0))
}
