//! The processes below this one, and what each of them is there for (proc(5)).
//!
//! As this process is the parent of all that lose their own below it ([`crate::leftovers::adopt`]), whatever a runtime
//! leaves in the background is among them. What a daemon starts is not.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::PathBuf;

use rustix::process::{Pid, getpid};

/// What the descriptor of a virtual machine is called.
const MACHINE: &str = "anon_inode:kvm-vm";

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It is the command, or was started by it.
    Command,
    /// It holds a virtual machine.
    Monitor,
    /// It stays beside the one or the other.
    Runtime,
}

/// All processes below this one that run.
pub fn below() -> HashSet<Pid> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = HashSet::new();
    let mut pending = vec![getpid().as_raw_nonzero().get()];
    while let Some(parent) = pending.pop() {
        for child in children.remove(&parent).into_iter().flatten() {
            found.extend(Pid::from_raw(child));
            pending.push(child);
        }
    }
    found
}

/// The parent of a process that has not ended.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let (state, rest) = rest.split_once(' ')?;
    if state == "Z" { None } else { rest.split(' ').next()?.parse().ok() }
}

/// A file of a process.
pub(crate) fn place(pid: Pid, name: &str) -> PathBuf {
    format!("/proc/{}/{name}", pid.as_raw_nonzero()).into()
}

/// Whether a process was started with just these words.
pub fn is_command(pid: Pid, words: &[String]) -> bool {
    let line = fs::read(place(pid, "cmdline")).unwrap_or_default();
    let expected: Vec<u8> = words.iter().flat_map(|word| word.bytes().chain([0])).collect();
    line == expected
}

/// What a process is there for, where `words` are the command.
pub fn role(pid: Pid, words: &[String]) -> Role {
    let space = |name: PathBuf| fs::read_link(name).ok();
    let own = space("/proc/self/ns/pid".into());
    if holds_machine(pid) {
        return Role::Monitor;
    }
    let theirs = space(place(pid, "ns/pid"));
    if is_command(pid, words) || (theirs.is_some() && theirs != own) {
        return Role::Command;
    }
    Role::Runtime
}

fn holds_machine(pid: Pid) -> bool {
    let files = fs::read_dir(place(pid, "fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == MACHINE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn processes_below_are_found_by_what_they_are() {
        let script = "sleep 1001 & wait";
        let mut shell = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let words = ["sleep".to_owned(), "1001".to_owned()];
        let found = (0..5000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            below().into_iter().find(|pid| is_command(*pid, &words))
        });
        let command = found.unwrap();
        assert!(below().contains(&Pid::from_child(&shell)));
        assert_eq!(role(command, &words), Role::Command);
        assert_eq!(role(Pid::from_child(&shell), &words), Role::Runtime);
        rustix::process::kill_process(command, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
        assert!(!below().contains(&command));
    }
}
