//! What the kernel's shortest services cost here.

// UNSAFETY: memory is mapped to be touched, and processes are made to end.
#![expect(unsafe_code)]

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::ptr::null_mut;
use std::thread;

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::{Pid, WaitOptions, waitpid};
use serde_json::{Value, json};

use crate::measure::{fastest, fastest_of};

/// How often each is done in a round.
const CALLS: u32 = 20_000;
const READS: u32 = 10_000;
const TRIPS: u32 = 1000;
const FORKS: u32 = 20;
const MAPS: u32 = 2000;
/// Pages that are touched.
const PAGES: u32 = 1024;
const PAGE: usize = 4096;

/// Nanoseconds of one of each.
pub(crate) fn all() -> Value {
    let each = |time: Option<u64>, count: u32| time.map(|time| time / u64::from(count));
    json!({
        "getpid": each(Some(getpid()), CALLS),
        "read": each(read(), READS),
        "pipe": each(pipe(), TRIPS),
        "fault": each(fault(), PAGES),
        "fork": each(fork(), FORKS),
        "mmap": each(mmap(), MAPS),
    })
}

fn getpid() -> u64 {
    fastest(|| {
        for _ in 0..CALLS {
            black_box(rustix::process::getpid());
        }
    })
}

/// A byte of /dev/zero.
fn read() -> Option<u64> {
    let mut zeros = File::open("/dev/zero").ok()?;
    fastest_of(|| (0..READS).try_for_each(|_| zeros.read_exact(&mut [0])))
}

/// A byte to another thread and back, through two pipes: two changes of threads.
fn pipe() -> Option<u64> {
    let (mut asked, mut ask) = io::pipe().ok()?;
    let (mut answered, mut answer) = io::pipe().ok()?;
    let echo = move || {
        let mut byte = [0];
        while asked.read_exact(&mut byte).is_ok() && answer.write_all(&byte).is_ok() {}
    };
    let echo = thread::Builder::new().spawn(echo).ok()?;
    let mut trip = || -> io::Result<()> {
        ask.write_all(&[1])?;
        answered.read_exact(&mut [0])
    };
    let time = fastest_of(|| (0..TRIPS).try_for_each(|_| trip()));
    drop(ask);
    echo.join().ok()?;
    time
}

/// The first touch of a page of 4 KiB.
fn fault() -> Option<u64> {
    let len = PAGE.checked_mul(usize::try_from(PAGES).ok()?)?;
    // The whole of it is part of what a process that makes memory its own pays, so it is in the time.
    fastest_of(|| {
        with_memory(len, |memory| {
            for page in (0..len).step_by(PAGE) {
                // SAFETY: the page is part of the mapping, which is writable and nobody else's.
                unsafe { memory.byte_add(page).cast::<u8>().write_volatile(1) };
            }
        })
    })
}

/// A page mapped and unmapped, never touched.
fn mmap() -> Option<u64> {
    fastest_of(|| {
        (0..MAPS).try_for_each(|_| {
            with_memory(PAGE, |memory| {
                black_box(memory);
            })
        })
    })
}

/// Maps memory in small pages for `work`, and unmaps it.
fn with_memory(len: usize, work: impl FnOnce(*mut std::ffi::c_void)) -> rustix::io::Result<()> {
    let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping, where nothing is.
    let memory = unsafe { mmap_anonymous(null_mut(), len, rights, flags)? };
    if len > PAGE {
        // SAFETY: advice about the mapping just made. Kernels without large pages do not know it.
        let _ = unsafe { madvise(memory, len, Advice::LinuxNoHugepage) };
    }
    work(memory);
    // SAFETY: nothing points into it any more.
    unsafe { munmap(memory, len) }
}

/// A process that is made, ends and is waited for.
fn fork() -> Option<u64> {
    fastest_of(|| (0..FORKS).try_for_each(|_| fork_one()))
}

fn fork_one() -> io::Result<()> {
    // SAFETY: the new process does nothing but end.
    match unsafe { libc::fork() } {
        // SAFETY: nothing of this process runs after it.
        0 => unsafe { libc::_exit(0) },
        pid => {
            let pid =
                Pid::from_raw(pid).filter(|_| pid > 0).ok_or_else(io::Error::last_os_error)?;
            waitpid(Some(pid), WaitOptions::empty())?;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_costs_something() {
        let costs = all();
        for kind in ["getpid", "read", "pipe", "fault", "fork", "mmap"] {
            let nanos = costs[kind].as_u64().unwrap();
            assert!((10..100_000_000).contains(&nanos), "{kind}: {costs}");
        }
        assert!(costs["fork"].as_u64() > costs["getpid"].as_u64(), "{costs}");
    }
}
