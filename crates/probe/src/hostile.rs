//! What becomes of a program that takes all it can get. There is a bound, so that nothing happens where nobody
//! else sets one: a bounded hog is a test of a limit, not an attack.

use std::fs;
use std::hint::black_box;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::Duration;

use rustix::io::{read, retry_on_intr, write};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid,
};
use serde_json::{Value, json};

use crate::calls::error_name;
use crate::raw;

/// Bytes that are taken at a time, and how often at most.
const PIECE: usize = 16 << 20;
const PIECES: u64 = 48;
/// Processes that are made at most.
const MOST: usize = 1000;
/// How long they stay, so that who watches from outside can count them.
const STAY: Duration = Duration::from_millis(1500);
/// How long one of them lives when nobody ends it.
const LIFE: Duration = Duration::from_secs(60);

/// A process takes memory, and uses it, until it is stopped.
pub(crate) fn memory() -> Value {
    memory_up_to(PIECES)
}

fn memory_up_to(pieces: u64) -> Value {
    let Ok((reading, writing)) = pipe_with(PipeFlags::CLOEXEC) else { return Value::Null };
    let Ok(pid) = raw::process(|| take(pieces, &writing)) else { return Value::Null };
    drop(writing);
    let mut taken = 0_u64;
    while let Ok(1) = retry_on_intr(|| read(&reading, &mut [0])) {
        taken = taken.saturating_add(1);
    }
    let ended = waitpid(Some(pid), WaitOptions::empty()).ok().flatten();
    let signal = ended.and_then(|(_, status)| status.terminating_signal());
    let bytes = |pieces: u64| pieces.saturating_mul(u64::try_from(PIECE).unwrap_or(u64::MAX));
    json!({ "bound_bytes": bytes(pieces), "reached_bytes": bytes(taken), "ended_by": signal })
}

fn take(pieces: u64, pipe: &OwnedFd) {
    // The kernel is to end this process and not the one that tells of it.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    let mut held = vec![];
    for _ in 0..pieces {
        held.push(black_box(vec![0x5a_u8; PIECE]));
        if write(pipe, &[1]).is_err() {
            return;
        }
    }
}

/// Processes are made until no more can be.
pub(crate) fn processes() -> Value {
    processes_up_to(MOST, STAY)
}

fn processes_up_to(most: usize, stay: Duration) -> Value {
    let mut made: Vec<Pid> = vec![];
    let mut refused = None;
    while made.len() < most && refused.is_none() {
        match raw::process(idle) {
            Ok(pid) => made.push(pid),
            Err(error) => refused = Some(error_name(error.raw_os_error())),
        }
    }
    sleep(stay);
    for pid in &made {
        // It may have ended.
        let _ = kill_process(*pid, Signal::KILL);
    }
    for pid in &made {
        let _ = waitpid(Some(*pid), WaitOptions::empty());
    }
    json!({ "bound": most, "made": made.len(), "refused": refused })
}

fn idle() {
    // None outlives the one that made it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    sleep(LIFE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hog_that_nobody_stops_stops_itself() {
        let answer = memory_up_to(2);
        let bytes = 2 * PIECE;
        let expected = json!({"bound_bytes": bytes, "reached_bytes": bytes, "ended_by": null});
        assert_eq!(answer, expected);
    }

    #[test]
    fn bomb_that_nobody_refuses_ends_at_its_bound() {
        let answer = processes_up_to(5, Duration::ZERO);
        assert_eq!(answer, json!({"bound": 5, "made": 5, "refused": null}));
    }
}
