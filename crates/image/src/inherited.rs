//! What a process has from whoever started it, and neither it nor its children are to have.

// UNSAFETY: flags of descriptors, and what signals do, are set by number.
#![expect(unsafe_code)]

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Keeps what this process starts from inheriting open files beside its standard streams: those that
/// this process was itself started with, whose starter had nothing to say to them.
///
/// # Errors
/// The kernel is older than 5.11, and there is no `/proc`.
pub fn keep_files() -> io::Result<()> {
    // SAFETY: the call takes numbers, and closes nothing.
    let marked = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if marked == 0 { Ok(()) } else { keep_each_file() }
}

/// As [`keep_files`], on kernels before 5.11.
fn keep_each_file() -> io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let fd = name.to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some(fd) = fd.filter(|fd| *fd > 2) {
            // SAFETY: the call takes numbers; one that is no descriptor is an error without effect.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// Has the ends of this process's children reported, also where its starter ignores those of its own: they
/// could not be waited for.
pub fn hear_of_children() {
    heed(libc::SIGCHLD);
}

/// Has every signal that this process was started to ignore do again what it does to any process.
///
/// SIGPIPE stays ignored, which the standard library has done.
pub fn heed_signals() {
    (1..=libc::SIGRTMAX()).filter(|signal| *signal != libc::SIGPIPE).for_each(heed);
}

fn heed(signal: i32) {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the kernel fills the structure, which is valid when it is all zeros, and takes nothing.
    let now = unsafe {
        libc::sigaction(signal, ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    if now.sa_sigaction == libc::SIG_IGN {
        // SAFETY: no function of ours is called by that.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    /// J3.
    #[test]
    fn files_that_were_inherited_are_not_handed_on() {
        let file = fs::File::open("/proc/self/status").expect("file");
        let fd = file.as_raw_fd();
        let child = || {
            let test = format!("test -e /proc/self/fd/{fd}");
            Command::new("sh").args(["-c", &test]).status().expect("sh").success()
        };
        // SAFETY: the call takes numbers.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        assert!(child(), "it is not inherited to begin with");
        keep_files().expect("kept");
        assert!(!child());
    }

    /// J3.
    #[test]
    fn signals_that_were_ignored_are_heeded() {
        let signal = libc::SIGRTMAX();
        // SAFETY: no function of ours is called by that, and nobody sends this signal.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
        heed_signals();
        // SAFETY: as above; it says what was before.
        let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
        assert_eq!(before, libc::SIG_DFL);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) }, libc::SIG_IGN);
    }
}
