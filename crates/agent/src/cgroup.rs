//! The control groups of the container: what its processes may use, and what they have used.
//!
//! There are two. The outer one is the wall: no process is in it, and none of the container can find it, so
//! that none can change it. The inner one, with the same limits, is what the container sees as the root of all.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use vmm_protocol::Setup;
use vmm_sandbox::devices;

use crate::error::{Context, Failure};

/// Where control groups are mounted, for the agent alone.
pub(crate) const MOUNT: &str = "/cgroup";
const GROUP: &str = "/cgroup/container";
const INNER: &str = "/cgroup/container/inner";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::CLOEXEC);

/// What is limited or counted.
const CONTROLLERS: [&str; 4] = ["+memory", "+pids", "+cpu", "+io"];

/// The container's control groups.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// The inner one.
    directory: OwnedFd,
    /// Nothing, with a kernel that does not count memory.
    events: Option<MemoryEvents>,
}

impl Cgroup {
    /// Makes the groups with the limits of `setup`.
    pub(crate) fn create(setup: &Setup) -> Result<Self, Failure> {
        enable_controllers(MOUNT);
        make(GROUP, setup)?;
        devices::restrict(open(GROUP)?.as_fd()).context("restrict the use of devices")?;
        enable_controllers(GROUP);
        make(INNER, setup)?;
        let directory = open(INNER)?;
        let events = MemoryEvents::open(&directory).ok();
        Ok(Self { directory, events })
    }

    /// For new processes.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The group in which a process of the container is now: the inner one, or one that the container has made
    /// below it.
    pub(crate) fn group_of(&self, pid: Pid) -> io::Result<OwnedFd> {
        let path = path_of(pid)?.ok_or_else(|| io::Error::other("the process is another's"))?;
        Ok(rustix::fs::open(&path, DIRECTORY, Mode::empty())?)
    }

    /// The processes of the container, in whatever groups it has made.
    pub(crate) fn processes(&self) -> impl Iterator<Item = Pid> + use<'_> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(Pid::from_raw).filter(|pid| matches!(path_of(*pid), Ok(Some(_))))
    }

    /// A file of the inner group; empty if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(format!("{INNER}/{name}")).unwrap_or_default()
    }

    /// How many processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        self.events.as_ref().map_or(0, MemoryEvents::oom_kills)
    }

    /// Kills every process of the groups.
    pub(crate) fn kill(&self) -> io::Result<()> {
        fs::write(format!("{GROUP}/cgroup.kill"), "1")
    }

    /// To wait for a change of [`Cgroup::oom_kills`].
    pub(crate) fn memory_events(&self) -> io::Result<MemoryEvents> {
        MemoryEvents::open(&self.directory)
    }
}

/// What happened for want of memory. Its descriptor reports an exceptional condition from a change on until
/// it is read, and from the beginning on if it never was.
#[derive(Debug)]
pub(crate) struct MemoryEvents(File);

impl MemoryEvents {
    fn open(directory: &OwnedFd) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(directory, "memory.events", flags, Mode::empty())?;
        Ok(Self(fd.into()))
    }

    /// How many processes the kernel has killed.
    pub(crate) fn oom_kills(&self) -> u64 {
        // A few lines of a name and a number.
        let mut text = [0; 1024];
        let len = self.0.read_at(&mut text, 0).unwrap_or(0);
        value(&String::from_utf8_lossy(text.get(..len).unwrap_or_default()), "oom_kill")
    }
}

impl AsFd for MemoryEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets groups below `group` limit and count.
fn enable_controllers(group: &str) {
    let control = format!("{group}/cgroup.subtree_control");
    // All at once is sooner done; with a kernel that lacks one, all but that.
    if fs::write(&control, CONTROLLERS.join(" ")).is_err() {
        for controller in CONTROLLERS {
            // What is missing here is missed below, if it is needed.
            let _ = fs::write(&control, controller);
        }
    }
}

fn make(group: &str, setup: &Setup) -> Result<(), Failure> {
    fs::create_dir(group).context("make a control group")?;
    let limit = |name: &str, value: u64| {
        fs::write(format!("{group}/{name}"), value.to_string()).context(format!("set {name}"))
    };
    if let Some(bytes) = setup.memory_bytes {
        limit("memory.max", bytes)?;
        // Only with CONFIG_SWAP, and then it would be no limit without.
        let _ = limit("memory.swap.max", 0);
    }
    if let Some(pids) = setup.pids {
        limit("pids.max", pids)?;
    }
    Ok(())
}

fn open(group: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::open(group, DIRECTORY, Mode::empty()).context("open a control group")
}

/// The path of the group in which a process of the container is; `None` for any other process.
fn path_of(pid: Pid) -> io::Result<Option<PathBuf>> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = PathBuf::from(format!("{MOUNT}{}", path(&text).unwrap_or_default()));
    Ok(path.starts_with(INNER).then_some(path))
}

/// The path of the only control group of a process, from its file in proc (cgroups(7)).
fn path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The number behind `key` in lines of keys and numbers; 0 if there is none.
pub(crate) fn value(text: &str, key: &str) -> u64 {
    let number = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok();
    text.lines().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_key() {
        let text = "low 0\noom 5\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(value(text, "oom_kill"), 2);
        assert_eq!(value(text, "oom"), 5);
        assert_eq!(value(text, "kill"), 0);
        assert_eq!(value("oom_kill x\n", "oom_kill"), 0);
    }

    #[test]
    fn group_of_a_process_is_the_one_of_version_2() {
        assert_eq!(path("0::/container/inner/a b\n"), Some("/container/inner/a b"));
        assert_eq!(path("1:cpu:/x\n0::/\n"), Some("/"));
        assert_eq!(path(""), None);
    }
}
