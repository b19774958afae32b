//! The part of the host's kernel that is used from inside: which process serves a container or a machine on this
//! host, and what that asks the kernel for while the same work is done in both.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, getpid};
use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::trace;
use crate::inside::PROBE;

/// How long nothing is looked for.
const STEP: Duration = Duration::from_millis(2);
/// Lines that the probe prints when its work begins and ends.
const BEGINS: &str = "ready";
const ENDS: &str = "done";
/// Requests of ioctl(2) that have a name here (`linux/kvm.h`, `asm-generic/ioctls.h`).
const REQUESTS: [(u64, &str); 6] = [
    (0xae80, "KVM_RUN"),
    (0x4008_ae61, "KVM_IRQ_LINE"),
    (0x4020_ae76, "KVM_IRQFD"),
    (0x4040_ae79, "KVM_IOEVENTFD"),
    (0x5401, "TCGETS"),
    (0x5421, "FIONBIO"),
];

/// What a process asked this host's kernel for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surface {
    /// Calls by name, with how often each was made.
    pub calls: BTreeMap<String, u64>,
    /// Requests of ioctl(2) by name or number.
    pub ioctls: BTreeMap<String, u64>,
}

impl fmt::Display for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |counts: &BTreeMap<String, u64>| {
            let counts = counts.iter().map(|(name, count)| format!("{name} {count}"));
            counts.collect::<Vec<_>>().join(", ")
        };
        f.write_str(&list(&self.calls))?;
        if !self.ioctls.is_empty() {
            write!(f, "; of ioctl: {}", list(&self.ioctls))?;
        }
        Ok(())
    }
}

/// Whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of the container's process.
    Probe,
    /// Those of the process that has the machine.
    Monitor,
}

/// How far the work is, as its output tells.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

const DOES: u8 = 1;
const HAS_DONE: u8 = 2;

impl Progress {
    /// Takes notice of all that has been printed until now.
    pub(super) fn hear(&self, output: &[u8]) {
        let text = String::from_utf8_lossy(output.get(..1000).unwrap_or(output));
        let has = |word: &str| text.lines().any(|line| line.trim() == word);
        let state = if has(ENDS) { HAS_DONE } else { u8::from(has(BEGINS)) };
        self.0.fetch_max(state, Ordering::Relaxed);
    }

    /// There is nothing more to count.
    pub(super) fn end(&self) {
        self.0.store(HAS_DONE, Ordering::Relaxed);
    }

    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts the calls of the one that is meant, from the beginning of the work to its end. To be called by a thread
/// of its own.
///
/// # Errors
/// Why there is nothing to count.
pub(super) fn count(whose: Whose, progress: &Progress) -> Result<Surface, String> {
    while progress.state() < DOES {
        sleep(STEP);
    }
    let pid = find(whose).ok_or_else(|| match whose {
        Whose::Probe => "the host has no process of the probe's name below this program".to_owned(),
        Whose::Monitor => "no process below this program has a virtual machine of KVM".to_owned(),
    })?;
    let calls = trace::calls_of(pid, || progress.state() >= HAS_DONE)
        .map_err(|error| format!("process {} cannot be traced: {error}", pid.as_raw_nonzero()))?;
    if calls.calls.is_empty() {
        return Err("the work was over before its calls could be counted".to_owned());
    }
    Ok(Surface {
        calls: calls.calls.into_iter().map(|(call, count)| (call_name(call), count)).collect(),
        ioctls: calls.ioctls.into_iter().map(|(ioctl, count)| (request(ioctl), count)).collect(),
    })
}

fn call_name(number: u64) -> String {
    let call = usize::try_from(number).ok().and_then(Sysno::new);
    call.map_or_else(|| number.to_string(), |call| call.name().to_owned())
}

fn request(number: u64) -> String {
    let named = REQUESTS.iter().find(|(own, _)| *own == number);
    named.map_or_else(|| format!("{number:#x}"), |(_, name)| (*name).to_owned())
}

/// The process below this one that is meant.
fn find(whose: Whose) -> Option<Pid> {
    let below = below(getpid());
    let is_meant = |pid: &&Pid| {
        let place = format!("/proc/{}", pid.as_raw_nonzero());
        match whose {
            Whose::Probe => fs::read(format!("{place}/comm"))
                .is_ok_and(|name| name.trim_ascii() == PROBE.as_bytes()),
            Whose::Monitor => has_machine(Path::new(&place)),
        }
    };
    below.iter().find(is_meant).copied()
}

/// Whether a process has a virtual machine open.
fn has_machine(place: &Path) -> bool {
    let entries = fs::read_dir(place.join("fd")).into_iter().flatten().flatten();
    let mut links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links.any(|link| link.as_os_str() == "anon_inode:kvm-vm")
}

/// All processes below one, parents before their children (proc(5), /proc/PID/stat).
fn below(top: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent = |name: &str| -> Option<(Pid, Pid)> {
        let pid = Pid::from_raw(name.parse().ok()?)?;
        let stat = fs::read_to_string(format!("/proc/{name}/stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some((pid, Pid::from_raw(parent)?))
    };
    let all: Vec<_> = entries.filter_map(|entry| parent(entry.file_name().to_str()?)).collect();
    let mut found = vec![top];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = all.iter().filter(|(pid, own)| *own == parent && *pid != parent);
        let new: Vec<_> =
            children.map(|(pid, _)| *pid).filter(|pid| !found.contains(pid)).collect();
        found.extend(new);
        next += 1;
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn work_begins_and_ends_with_its_lines() {
        let progress = Progress::default();
        progress.hear(b"already done, or so");
        assert_eq!(progress.state(), 0);
        progress.hear(b"ready\n");
        assert_eq!(progress.state(), DOES);
        progress.hear(b"ready\ndone\n{}");
        progress.hear(b"ready\n");
        assert_eq!(progress.state(), HAS_DONE);
    }

    #[test]
    fn processes_below_are_found_at_any_depth() {
        let mut child = Command::new("sh").args(["-c", "sh -c 'sleep 5; :'; :"]).spawn().unwrap();
        let began = std::time::Instant::now();
        // The shell, a shell, and what that waits for.
        while below(Pid::from_child(&child)).len() < 2 {
            assert!(began.elapsed() < Duration::from_secs(10));
        }
        assert!(below(getpid()).contains(&Pid::from_child(&child)));
        let own = Path::new("/proc/self");
        assert!(!has_machine(own));
        for pid in below(Pid::from_child(&child)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn numbers_without_a_name_stay_numbers() {
        let read = u64::try_from(libc::SYS_read).unwrap();
        assert_eq!((call_name(read).as_str(), call_name(999_999).as_str()), ("read", "999999"));
        assert_eq!((request(0xae80).as_str(), request(0x1234).as_str()), ("KVM_RUN", "0x1234"));
    }
}
