//! What the kernel can be told to refuse the monitor.

// UNSAFETY: a seccomp filter is installed between fork and exec.
#![expect(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the kernel refuse io_uring_setup(2) to `command` with EPERM, by a seccomp filter.
pub fn forbid_io_uring(command: &mut Command) {
    const LOAD_NUMBER: u16 = 0x20;
    const SKIP_UNLESS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![
        step(LOAD_NUMBER, 0, 0, 0),
        step(SKIP_UNLESS_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        // SAFETY: both calls take numbers, and the second a filter that outlives it.
        let done = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) == 0
        };
        if done { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    // SAFETY: the closure makes system calls alone, which may be made between fork and exec.
    unsafe { command.pre_exec(install) };
}
