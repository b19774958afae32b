//! Which system calls of this host's kernel a process makes, counted by ptrace(2): each thread stops where it enters
//! the kernel, is noted, and goes on. Nothing is changed but its pace.

// UNSAFETY: ptrace acts on other processes, and one of its requests writes to memory.
#![expect(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem;
use std::ptr;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Pid;

/// How long nothing is asked after nothing was heard.
const STEP: Duration = Duration::from_micros(200);
/// How often the threads of a process are listed, which may make more meanwhile.
const LISTS: usize = 5;
/// Different calls, and different requests of ioctl, that are told apart at most.
const MOST: usize = 1000;

/// `linux/ptrace.h`: a stop of a thread that was asked to stop, and one at the entry of a call.
const EVENT_STOP: i32 = libc::PTRACE_EVENT_STOP;
const ENTRY: u64 = 1;
/// Words of `struct ptrace_syscall_info`: its kind in the first byte, the number in the fourth word, then arguments.
const INFO: usize = 11;

/// Calls by number, with how often each was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// All of them.
    pub(super) calls: BTreeMap<u64, u64>,
    /// The requests of ioctl(2).
    pub(super) ioctls: BTreeMap<u64, u64>,
}

impl Calls {
    fn note(&mut self, number: u64, second: u64) {
        count(&mut self.calls, number);
        if i64::try_from(number) == Ok(libc::SYS_ioctl) {
            // A request has 32 bits, whatever the rest of the register has.
            count(&mut self.ioctls, second & 0xffff_ffff);
        }
    }
}

fn count(counts: &mut BTreeMap<u64, u64>, key: u64) {
    if counts.len() < MOST || counts.contains_key(&key) {
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(1);
    }
}

/// Counts what the threads of `pid` call, and those that they start, until `over` or their end. To be called by a
/// thread that has no children; they are free again when that thread ends.
///
/// # Errors
/// They may not be watched, or have ended before.
pub(super) fn calls_of(pid: Pid, over: impl Fn() -> bool) -> io::Result<Calls> {
    seize_all(pid)?;
    let mut calls = Calls::default();
    while !over() {
        match wait()? {
            Heard::Nothing => sleep(STEP),
            Heard::Ended => {}
            Heard::Nobody => break,
            Heard::Stopped { thread, signal, event } => go_on(thread, signal, event, &mut calls),
        }
    }
    Ok(calls)
}

fn seize_all(pid: Pid) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK;
    let options = usize::try_from(options).unwrap_or_default();
    let mut seized = vec![];
    for _ in 0..LISTS {
        let before = seized.len();
        for thread in threads(pid)? {
            if seized.contains(&thread) {
                continue;
            }
            match ptrace(libc::PTRACE_SEIZE, thread, options) {
                Ok(()) => {
                    // It may have ended; the next stop tells.
                    let _ = ptrace(libc::PTRACE_INTERRUPT, thread, 0);
                }
                // One that a watched thread has started is watched already; another has ended.
                Err(error) if seized.is_empty() => return Err(error),
                Err(_) => {}
            }
            seized.push(thread);
        }
        if seized.len() == before {
            break;
        }
    }
    Ok(())
}

fn threads(pid: Pid) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// What was heard of watched threads.
enum Heard {
    Nothing,
    /// One has ended.
    Ended,
    /// There are none any more.
    Nobody,
    Stopped {
        thread: i32,
        signal: i32,
        event: i32,
    },
}

fn wait() -> io::Result<Heard> {
    let mut status = 0;
    let options = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    // SAFETY: the status is written to a variable that is there.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, options) };
    if thread < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(Heard::Nobody),
            Some(libc::EINTR) => Ok(Heard::Nothing),
            _ => Err(error),
        };
    }
    Ok(match (thread, libc::WIFSTOPPED(status)) {
        (0, _) => Heard::Nothing,
        (_, false) => Heard::Ended,
        (_, true) => Heard::Stopped { thread, signal: libc::WSTOPSIG(status), event: status >> 16 },
    })
}

/// Notes a call, and lets the thread go on to the next one as if it had not been stopped.
fn go_on(thread: i32, signal: i32, event: i32, calls: &mut Calls) {
    let stops = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let (request, deliver) = if signal == libc::SIGTRAP | 0x80 {
        if let Some((number, second)) = entered(thread) {
            calls.note(number, second);
        }
        (libc::PTRACE_SYSCALL, 0)
    } else if event == EVENT_STOP && stops.contains(&signal) {
        // It was stopped by another one and stays so.
        (libc::PTRACE_LISTEN, 0)
    } else if event != 0 {
        (libc::PTRACE_SYSCALL, 0)
    } else {
        (libc::PTRACE_SYSCALL, signal)
    };
    // One that was killed meanwhile needs nothing.
    let _ = ptrace(request, thread, usize::try_from(deliver).unwrap_or_default());
}

/// The number and the second argument of the call that a thread has stopped at; nothing behind a call.
fn entered(thread: i32) -> Option<(u64, u64)> {
    let mut info = [0_u64; INFO];
    // SAFETY: no more is written than the list has, whose size is said.
    let length = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            mem::size_of_val(&info),
            info.as_mut_ptr(),
        )
    };
    let [kind, _, _, number, _, second, ..] = info;
    (length > 0 && kind & 0xff == ENTRY).then_some((number, second))
}

fn ptrace(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: none of the requests that come here reads or writes memory of this process.
    let result = unsafe { libc::ptrace(request, thread, ptr::null_mut::<u8>(), data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn number(call: i64) -> u64 {
        u64::try_from(call).unwrap()
    }

    /// A process that is no child of this one, so that its end is not this one's to hear.
    fn grandchild(script: &str) -> (Child, Pid) {
        let mut command = Command::new("sh");
        let script = format!("sh -c '{script}' & echo $!; wait $!");
        command.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        (child, Pid::from_raw(line.trim().parse().unwrap()).unwrap())
    }

    #[test]
    fn calls_of_a_process_and_of_those_it_starts_are_counted() {
        let script = "/bin/sleep 0.3; for i in 1 2 3; do (exec /bin/true); done; exit 7";
        let (mut child, pid) = grandchild(script);
        let calls = thread::scope(|scope| scope.spawn(|| calls_of(pid, || false)).join().unwrap());
        let calls = calls.unwrap();
        assert!(calls.calls[&number(libc::SYS_execve)] >= 3, "{calls:?}");
        assert!(calls.calls[&number(libc::SYS_exit_group)] >= 4, "{calls:?}");
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }

    #[test]
    fn process_goes_on_when_nobody_counts_any_more() {
        let over = AtomicBool::new(false);
        let (mut child, pid) = grandchild("for i in 1 2 3 4 5 6; do sleep 0.1; done; exit 5");
        let calls = thread::scope(|scope| {
            let counted = scope.spawn(|| calls_of(pid, || over.load(Ordering::Relaxed)));
            sleep(Duration::from_millis(200));
            over.store(true, Ordering::Relaxed);
            counted.join().unwrap()
        });
        assert!(!calls.unwrap().calls.is_empty());
        assert_eq!(child.wait().unwrap().code(), Some(5));
    }

    #[test]
    fn requests_are_told_apart_and_bounded() {
        let mut calls = Calls::default();
        let ioctl = number(libc::SYS_ioctl);
        (0..5000).for_each(|request| calls.note(ioctl, request));
        calls.note(ioctl, 0xffff_ffff_0000_0001);
        assert_eq!(calls.calls, BTreeMap::from([(ioctl, 5001)]));
        assert_eq!((calls.ioctls.len(), calls.ioctls[&1]), (MOST, 2));
    }

    #[test]
    fn process_that_is_gone_is_an_error() {
        let (mut child, pid) = grandchild("true");
        child.wait().unwrap();
        assert!(calls_of(pid, || false).is_err());
    }
}
