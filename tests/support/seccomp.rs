//! What the kernel can be told to refuse the monitor.

// UNSAFETY: a seccomp filter is installed between fork and exec.
#![expect(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A call that fails, whoever may make it.
#[derive(Clone, Copy)]
pub struct Refusal {
    call: i64,
    /// If only calls with this second argument fail.
    second: Option<u32>,
    errno: i32,
}

/// io_uring_setup(2), which container runtimes forbid.
pub const IO_URING: Refusal =
    Refusal { call: libc::SYS_io_uring_setup, second: None, errno: libc::EPERM };

/// Devices inside of KVM, of which it then has none of any kind (KVM API, `KVM_CREATE_DEVICE`).
pub const KVM_DEVICES: Refusal =
    Refusal { call: libc::SYS_ioctl, second: Some(0xc00c_aee0), errno: libc::ENODEV };

/// Has the kernel refuse a call to `command`, by a seccomp filter.
pub fn refuse(command: &mut Command, refusal: Refusal) {
    const LOAD: u16 = 0x20;
    const SKIP_UNLESS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where `struct seccomp_data` has the number and the lower half of the second argument.
    const NUMBER: u32 = 0;
    const SECOND: u32 = 24;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | refusal.errno as u32),
    ];
    let number = Some((NUMBER, refusal.call as u32));
    for (offset, value) in refusal.second.map(|second| (SECOND, second)).into_iter().chain(number) {
        // Over all that is there already but the first.
        let over = filter.len() as u8 - 1;
        filter.extend([step(SKIP_UNLESS_EQUAL, 0, over, value), step(LOAD, 0, 0, offset)]);
    }
    filter.reverse();
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
