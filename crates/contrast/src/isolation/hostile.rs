//! What the host feels while somebody inside takes all there is.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often the host is looked at.
const STEP: Duration = Duration::from_millis(20);

/// An attack: what it says became of it, and what the host felt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attack<T> {
    /// What it says.
    pub said: T,
    /// What the host felt meanwhile.
    pub felt: Felt,
}

/// What the host felt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Felt {
    /// Threads of the host at most, beyond those before.
    pub threads: u64,
    /// Processes that the host's kernel ended for lack of memory; `None` where it does not count them.
    pub oom_kills: Option<u64>,
}

/// Does `work`, and watches the host meanwhile.
pub(super) fn feel<T>(work: impl FnOnce() -> T) -> (T, Felt) {
    let (threads_before, kills_before) = (threads(), oom_kills());
    let over = AtomicBool::new(false);
    let (result, most) = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = threads().max(most);
                thread::sleep(STEP);
            }
            most
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        (result, watcher.join().unwrap_or_default())
    });
    let oom_kills =
        kills_before.zip(oom_kills()).map(|(before, after)| after.saturating_sub(before));
    (result, Felt { threads: most.saturating_sub(threads_before), oom_kills })
}

/// All threads of the host: behind the `/` of the fourth field (proc(5), /proc/loadavg).
fn threads() -> u64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let field = text.split(' ').nth(3).and_then(|field| field.split_once('/'));
    field.and_then(|(_, all)| all.parse().ok()).unwrap_or_default()
}

fn oom_kills() -> Option<u64> {
    let text = fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn processes_of_the_host_are_felt() {
        let (status, felt) = feel(|| {
            let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.5 & done; wait";
            Command::new("sh").args(["-c", script]).stdin(Stdio::null()).status().unwrap()
        });
        assert!(status.success());
        // Others come and go meanwhile.
        assert!(felt.threads >= 5, "{felt:?}");
    }
}
