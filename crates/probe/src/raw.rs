//! System calls by number, made by a process of their own.

// UNSAFETY: a call by its number may do anything, and fork makes the process that it may do it to.
#![expect(unsafe_code)]

use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long all calls of one list may take.
const ALL: Duration = Duration::from_secs(20);
/// Bytes of a record in the pipe: a result.
const RECORD: usize = 8;

/// A call with its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) arguments: [usize; 6],
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It returned this.
    Done(i64),
    /// It failed with this number.
    Failed(i32),
    /// It ended its process, with this signal if it was one.
    Ended(Option<i32>),
    /// It did not return in time.
    Hung,
    /// There was no process or no time to make it in.
    NotTried,
}

/// Makes the calls one after the other in a process that ends afterwards, in a further one after a call that has
/// not returned.
pub(crate) fn ask(calls: &[Call]) -> Vec<Answer> {
    let deadline = Instant::now() + ALL;
    let mut answers = vec![];
    while let Some(rest) = calls.get(answers.len()..).filter(|rest| !rest.is_empty()) {
        let before = answers.len();
        if Instant::now() < deadline {
            answers.extend(ask_some(rest));
        }
        if answers.len() == before {
            answers.resize(calls.len(), Answer::NotTried);
        }
    }
    answers
}

/// Makes calls until one does not return; nothing if no process can be made.
fn ask_some(calls: &[Call]) -> Vec<Answer> {
    let Ok((reading, writing)) = pipe_with(PipeFlags::CLOEXEC) else { return vec![] };
    // SAFETY: the new process makes nothing but system calls.
    match unsafe { libc::fork() } {
        0 => make(calls, &writing),
        pid => {
            drop(writing);
            let Some(pid) = Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
                return vec![];
            };
            let mut answers = hear(reading, calls.len());
            // It may have ended.
            let _ = kill_process(pid, Signal::KILL);
            let ended = waitpid(Some(pid), WaitOptions::empty()).ok().flatten();
            if answers.len() < calls.len() {
                answers.push(last(ended.map(|(_, status)| status)));
            }
            answers
        }
    }
}

/// Why an answer is missing. Calls that end a process do it by another signal than ours.
fn last(ended: Option<WaitStatus>) -> Answer {
    let signal = ended.and_then(WaitStatus::terminating_signal);
    if signal == Some(libc::SIGKILL) { Answer::Hung } else { Answer::Ended(signal) }
}

/// Makes a process that does `work` and ends. This program has one thread, so that its copy may do anything.
///
/// # Errors
/// The kernel makes none.
pub(crate) fn process(work: impl FnOnce()) -> Result<Pid, Errno> {
    // SAFETY: a program with one thread may do the same in the new process as in this one.
    match unsafe { libc::fork() } {
        0 => {
            work();
            // SAFETY: nothing of this process runs after it.
            unsafe { libc::_exit(0) }
        }
        pid => Some(pid).filter(|pid| *pid > 0).and_then(Pid::from_raw).ok_or_else(|| {
            let error = std::io::Error::last_os_error().raw_os_error();
            Errno::from_raw_os_error(error.unwrap_or(libc::EIO))
        }),
    }
}

fn make(calls: &[Call], pipe: &OwnedFd) -> ! {
    for Call { number, arguments: [a, b, c, d, e, f] } in calls {
        // SAFETY: whatever it does to this process, that ends right after; the caller has chosen calls and
        // arguments that do nothing to others.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, *d, *e, *f) };
        // SAFETY: the place of this thread's error number.
        let error = unsafe { *libc::__errno_location() };
        let result = if result == -1 { i64::from(error).saturating_neg() } else { result.max(0) };
        let record = result.to_ne_bytes();
        // SAFETY: the record lives until the call returns.
        unsafe { libc::write(pipe.as_raw_fd(), record.as_ptr().cast(), RECORD) };
    }
    // SAFETY: nothing of this process runs after it.
    unsafe { libc::_exit(0) }
}

/// Reads at most `most` answers, until the pipe ends or nothing comes for too long.
fn hear(pipe: OwnedFd, most: usize) -> Vec<Answer> {
    let mut pipe = std::fs::File::from(pipe);
    let patience = Timespec::try_from(PATIENCE).ok();
    let mut answers = vec![];
    while answers.len() < most {
        let mut fds = [PollFd::new(&pipe, PollFlags::IN)];
        let mut record = [0; RECORD];
        if !matches!(poll(&mut fds, patience.as_ref()), Ok(1..))
            || pipe.read_exact(&mut record).is_err()
        {
            break;
        }
        let result = i64::from_ne_bytes(record);
        answers.push(match i32::try_from(result.saturating_neg()) {
            Ok(error) if error > 0 => Answer::Failed(error),
            _ => Answer::Done(result),
        });
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: i64, first: usize) -> Call {
        Call { number, arguments: [first, 0, 0, 0, 0, 0] }
    }

    #[test]
    fn calls_that_do_not_return_cost_one_answer_each() {
        let answers = ask(&[
            call(libc::SYS_getppid, 0),
            call(libc::SYS_close, usize::MAX),
            call(libc::SYS_exit_group, 3),
            call(libc::SYS_ppoll, 0),
            call(libc::SYS_rt_sigreturn, 0),
            call(libc::SYS_close, usize::MAX),
        ]);
        let [Answer::Done(parent), rest @ ..] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(*parent, i64::from(std::process::id()));
        let bad = Answer::Failed(libc::EBADF);
        let crash = Answer::Ended(Some(libc::SIGSEGV));
        assert_eq!(rest, [bad, Answer::Ended(None), Answer::Hung, crash, bad]);
    }

    #[test]
    fn no_calls_get_no_answers() {
        assert_eq!(ask(&[]), []);
    }
}
