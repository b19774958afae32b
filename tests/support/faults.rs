//! A kernel that refuses a program one call, whichever of its processes makes it.

// UNSAFETY: a seccomp filter is installed, and its notifications are received and answered.
#![expect(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

/// The calls by which a process of ours changes anything outside of itself, or needs something of the host.
const STEPS: [i64; 28] = [
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_connect,
    libc::SYS_dup3,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_fallocate,
    libc::SYS_flock,
    libc::SYS_ftruncate,
    libc::SYS_listen,
    libc::SYS_memfd_create,
    libc::SYS_mkdirat,
    libc::SYS_openat,
    libc::SYS_pidfd_open,
    libc::SYS_pipe2,
    libc::SYS_prctl,
    libc::SYS_pwrite64,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_setsid,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_timerfd_create,
    libc::SYS_unlinkat,
    libc::SYS_fchmodat,
];

/// The number of open, which x86_64 has besides.
const OPEN_ON_X86_64: i64 = 2;

/// All that x86_64 has besides: open, fork, vfork, rename, mkdir, rmdir, unlink and chmod.
const STEPS_ON_X86_64: [i64; 8] = [OPEN_ON_X86_64, 57, 58, 82, 83, 84, 87, 90];

/// Whether there are those, which elsewhere are the numbers of other calls.
fn is_x86_64() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// What became of a program that was refused a call.
#[derive(Debug)]
pub struct Refused<T> {
    /// What `run` returned.
    pub value: T,
    /// The number of the call that was refused; none if there were fewer.
    pub call: Option<i64>,
}

/// Has `run` start programs, and the `nth` step (from 1 on) of those called `program` fail with EIO.
pub fn refusing<T: Send>(program: &str, nth: usize, run: impl FnOnce() -> T + Send) -> Refused<T> {
    let (send, listener) = mpsc::channel();
    thread::scope(|scope| {
        let value = scope.spawn(move || {
            send.send(install().unwrap()).unwrap();
            drop(send);
            run()
        });
        // The listener hangs up when nothing is left that it listens to.
        let call = answer(&listener.recv().unwrap(), program, nth);
        let value = value.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        Refused { value, call }
    })
}

/// Installs a filter for this thread and what it starts; returns who is asked about each step.
fn install() -> io::Result<OwnedFd> {
    const LOAD_NUMBER: u16 = 0x20;
    const SKIP_UNLESS_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = vec![step(LOAD_NUMBER, 0, 0, 0)];
    let besides: &[i64] = if is_x86_64() { &STEPS_ON_X86_64 } else { &[] };
    for &number in STEPS.iter().chain(besides) {
        filter.push(step(SKIP_UNLESS_EQUAL, 0, 1, number as u32));
        filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF));
    }
    filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: the calls take numbers, and the second a filter that outlives it; it returns a descriptor that
    // is nobody else's, or -1.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        let fd = libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd as i32)) }
    }
}

/// Lets every step go on but one, until nobody is left to take any.
fn answer(listener: &OwnedFd, program: &str, nth: usize) -> Option<i64> {
    /// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` (linux/seccomp.h).
    const RECEIVE: libc::Ioctl = 0xc050_2100;
    const SEND: libc::Ioctl = 0xc018_2101;
    let (mut count, mut refused) = (0, None);
    loop {
        let mut ready = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel reads and writes the one structure, which it is told of.
        unsafe { libc::poll(&raw mut ready, 1, -1) };
        if ready.revents & libc::POLLIN == 0 {
            if ready.revents != 0 {
                return refused;
            }
            continue;
        }
        let mut asked = MaybeUninit::<libc::seccomp_notif>::zeroed();
        // SAFETY: the kernel fills the structure, which has to be all zeros before.
        let asked = unsafe {
            if libc::ioctl(listener.as_raw_fd(), RECEIVE, asked.as_mut_ptr()) != 0 {
                // Who asked has been killed.
                continue;
            }
            asked.assume_init()
        };
        let mut answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: 0, flags: 0 };
        count += usize::from(is_step(&asked, program));
        if count == nth && refused.is_none() {
            refused = Some(i64::from(asked.data.nr));
            answer.error = -libc::EIO;
        } else {
            answer.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        }
        // SAFETY: the kernel reads the structure. Whoever was killed meanwhile needs no answer.
        unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw mut answer) };
    }
}

/// Whether a call is one of the program's own that changes something; what it opens to read does not.
fn is_step(asked: &libc::seccomp_notif, program: &str) -> bool {
    const CHANGES: u64 = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT) as u64;
    let only_reads = match i64::from(asked.data.nr) {
        libc::SYS_openat => asked.data.args[2] & CHANGES == 0,
        OPEN_ON_X86_64 if is_x86_64() => asked.data.args[1] & CHANGES == 0,
        _ => false,
    };
    !only_reads && is_called(asked.pid, program).unwrap_or(false)
}

/// Whether a process runs `program`. Allocates nothing: who waits for an answer may hold the allocator, as
/// fork(3) does.
fn is_called(pid: u32, program: &str) -> io::Result<bool> {
    let (mut path, mut name) = ([0; 32], [0; 32]);
    let mut rest = &mut path[..];
    write!(rest, "/proc/{pid}/comm")?;
    let unused = rest.len();
    let path = std::str::from_utf8(&path[..path.len() - unused]).map_err(io::Error::other)?;
    let len = File::open(path)?.read(&mut name)?;
    Ok(name[..len].strip_suffix(b"\n") == Some(program.as_bytes()))
}
