//! Which system calls get through to the kernel.
//!
//! Each is made with arguments that do nothing: all bits set is no pointer, no descriptor, no process and no
//! flags. A call that is refused before the kernel looks at its arguments fails with EPERM or ENOSYS, any
//! other with what is wrong about them.

use serde_json::{Map, Value, json};
use syscalls::{Errno, Sysno};

use crate::raw::{self, Answer, Call};

/// No pointer, descriptor, process or flags.
const NOTHING: usize = usize::MAX;
/// A process that cannot be.
const NOBODY: usize = 0x7fff_fff0;

/// Calls that do something to the calling process whatever they get: its end, waiting, a process more, the
/// terminal's end, storing all files, and what the program itself stands on.
const UNTRIED: [&str; 15] = [
    "brk",
    "exit",
    "exit_group",
    "fork",
    "munmap",
    "pause",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sync",
    "uprobe",
    "uretprobe",
    "vfork",
    "vhangup",
];

/// Calls for which all bits set would mean something, or tell nothing.
const ARGUMENTS: [(&str, [usize; 6]); 12] = [
    // Shared signal actions without shared memory; some filters look at other flags.
    ("clone", [0x800, 0, 0, 0, 0, 0]),
    // An unknown operation is ENOSYS; this one wakes nobody.
    ("futex", [NOTHING, 1, 0, 0, 0, 0]),
    // A module without a length, instead of memory for a huge one.
    ("init_module", [0; 6]),
    ("kill", [NOBODY, 0, 0, 0, 0, 0]),
    // An unknown operation is ENOSYS; this one reads nothing.
    ("modify_ldt", [0; 6]),
    // All flags would make a queue.
    ("msgget", [NOBODY, 0, 0, 0, 0, 0]),
    ("set_tid_address", [0; 6]),
    // Neither a time nor a zone.
    ("settimeofday", [0; 6]),
    ("tgkill", [NOBODY, NOBODY, 0, 0, 0, 0]),
    ("tkill", [NOBODY, 0, 0, 0, 0, 0]),
    ("umask", [0o022, 0, 0, 0, 0, 0]),
    // Nothing new.
    ("unshare", [0; 6]),
];

/// Every call of this architecture with what became of it, and how many got through.
pub(crate) fn all() -> Value {
    let (tried, untried): (Vec<Sysno>, Vec<Sysno>) =
        Sysno::iter().partition(|call| is_tried(*call));
    let calls: Vec<Call> = tried.iter().map(|call| harmless(*call)).collect();
    let mut each = Map::new();
    let mut counts = [0_u32; 4];
    let untried = untried.into_iter().map(|call| (call, Answer::NotTried));
    for (call, answer) in tried.into_iter().zip(raw::ask(&calls)).chain(untried) {
        let (verdict, detail) = read(answer);
        for (count, name) in counts.iter_mut().zip(VERDICTS) {
            *count += u32::from(name == verdict);
        }
        each.insert(call.name().to_owned(), json!([verdict, detail]));
    }
    let counts: Map<String, Value> = VERDICTS
        .iter()
        .zip(counts)
        .map(|(name, count)| ((*name).to_owned(), json!(count)))
        .collect();
    json!({ "counts": counts, "calls": each })
}

const VERDICTS: [&str; 4] = ["reachable", "refused", "absent", "untried"];

fn is_tried(call: Sysno) -> bool {
    !UNTRIED.contains(&call.name())
}

fn harmless(call: Sysno) -> Call {
    let own = ARGUMENTS.iter().find(|(special, _)| *special == call.name());
    let arguments = own.map_or([NOTHING; 6], |(_, arguments)| *arguments);
    Call { number: i64::from(call.id()), arguments }
}

/// Whether an answer came from the kernel's own work, and the answer.
pub(crate) fn read(answer: Answer) -> (&'static str, String) {
    match answer {
        Answer::Failed(error) => {
            let verdict = match error {
                libc::ENOSYS => "absent",
                libc::EPERM | libc::EACCES => "refused",
                _ => "reachable",
            };
            (verdict, error_name(error))
        }
        Answer::Done(_) => ("reachable", "done".into()),
        Answer::Hung => ("reachable", "waits".into()),
        Answer::Ended(Some(libc::SIGSYS)) => ("refused", "SIGSYS".into()),
        Answer::Ended(signal) => {
            ("reachable", signal.map_or("ended".into(), |number| format!("signal {number}")))
        }
        Answer::NotTried => ("untried", String::new()),
    }
}

/// `EPERM` and the like.
pub(crate) fn error_name(error: i32) -> String {
    Errno::new(error).name().map_or_else(|| error.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_has_an_answer_and_all_of_the_kernels_are_reachable() {
        let answer = all();
        let calls = answer["calls"].as_object().unwrap();
        assert_eq!(calls.len(), Sysno::iter().count());
        let sum: u64 = VERDICTS.iter().map(|name| answer["counts"][name].as_u64().unwrap()).sum();
        assert_eq!(sum, u64::try_from(calls.len()).unwrap());
        assert_eq!(calls["read"], json!(["reachable", "EBADF"]));
        assert_eq!(calls["openat"][0], "reachable");
        assert_eq!(calls["clone"], json!(["reachable", "EINVAL"]));
        assert_eq!(calls["exit_group"], json!(["untried", ""]));
        let untried = answer["counts"]["untried"].as_u64().unwrap();
        assert!(untried <= 15, "{untried}");
    }

    #[test]
    fn answers_are_told_apart() {
        let verdict = |answer| read(answer).0;
        assert_eq!(verdict(Answer::Failed(libc::EPERM)), "refused");
        assert_eq!(verdict(Answer::Failed(libc::ENOSYS)), "absent");
        assert_eq!(verdict(Answer::Failed(libc::EFAULT)), "reachable");
        assert_eq!(verdict(Answer::Ended(Some(libc::SIGSYS))), "refused");
        assert_eq!(error_name(libc::EBADF), "EBADF");
        assert_eq!(error_name(4000), "4000");
    }
}
