//! What a run leaves behind: processes whose own parents have ended become children of this process.

use std::fs;
use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::clock::Moment;

/// How long what a run leaves to end by itself may take.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(1);
/// How long the host may take to calm down.
const CALM: Duration = Duration::from_millis(500);
/// How long it is looked at, in hundredths of a second as the kernel tells it, and the idle part of that which is calm.
const LOOK: Duration = Duration::from_millis(50);
const IDLE: f64 = 0.75;

/// Makes this process the parent of what loses its own below it.
///
/// # Errors
/// The kernel does not know how.
pub fn adopt() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Waits until there is no child any more, and kills those that do not end; their names. Not to be called
/// while a child is waited for elsewhere.
pub fn settle() -> Vec<String> {
    settle_within(PATIENCE)
}

fn settle_within(patience: Duration) -> Vec<String> {
    let began = Moment::now();
    let mut killed = vec![];
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => continue,
            Ok(None) => {}
            Err(_) => return killed,
        }
        if Moment::now().since(began) > patience {
            for (pid, name) in children() {
                // One that ended just now is waited for next.
                let _ = kill_process(pid, Signal::KILL);
                killed.push(name);
            }
        }
        sleep(STEP);
    }
}

/// Waits until the processors are idle after a run that took so long, no longer than that and [`CALM`]: what the
/// kernel still has to take apart, namespaces or a virtual machine, is not the next run's.
pub fn calm(run: Duration) {
    let began = Instant::now();
    let most = run.min(CALM);
    while let Some(left) = most.checked_sub(began.elapsed()) {
        let (before, from) = (idle(), Instant::now());
        sleep(left.min(LOOK));
        let idle = before.and_then(|before| idle()?.checked_sub(before));
        if idle.is_none_or(|idle| idle >= from.elapsed().mul_f64(IDLE)) {
            return;
        }
    }
}

/// For how long the processors have been idle, on average (proc(5), /proc/uptime).
fn idle() -> Option<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_whitespace().nth(1)?.parse().ok()?;
    let processors = std::thread::available_parallelism().ok()?.get();
    Duration::try_from_secs_f64(seconds / u32::try_from(processors).map_or(1.0, f64::from)).ok()
}

/// Living children of this process and their names (proc(5), /proc/PID/stat).
fn children() -> Vec<(Pid, String)> {
    let own = getpid().as_raw_nonzero().to_string();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |name: &str| -> Option<(Pid, String)> {
        let pid = Pid::from_raw(name.parse().ok()?)?;
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        let (start, rest) = stat.rsplit_once(") ")?;
        let mut words = rest.split(' ');
        let (state, parent) = (words.next()?, words.next()?);
        let called = start.split_once('(')?.1.to_owned();
        (parent == own && state != "Z").then_some((pid, called))
    };
    entries.filter_map(|entry| child(entry.file_name().to_str()?)).collect()
}
