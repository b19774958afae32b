//! The control group of the container: what its processes may use, and what they have used.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use vmm_protocol::Setup;

use crate::devices;
use crate::error::{Context, Failure};

/// Where control groups are mounted, for the agent alone.
pub(crate) const MOUNT: &str = "/cgroup";
const GROUP: &str = "/cgroup/container";

/// What is limited or counted.
const CONTROLLERS: [&str; 4] = ["+memory", "+pids", "+cpu", "+io"];

/// The container's control group.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes the group with the limits of `setup`.
    pub(crate) fn create(setup: &Setup) -> Result<Self, Failure> {
        let control = format!("{MOUNT}/cgroup.subtree_control");
        // All at once is sooner done; with a kernel that lacks one, all but that.
        if fs::write(&control, CONTROLLERS.join(" ")).is_err() {
            for controller in CONTROLLERS {
                // What is missing here is missed below, if it is needed.
                let _ = fs::write(&control, controller);
            }
        }
        fs::create_dir(GROUP).context("make the control group")?;
        if let Some(bytes) = setup.memory_bytes {
            limit("memory.max", bytes)?;
            // Only with CONFIG_SWAP, and then it would be no limit without.
            let _ = limit("memory.swap.max", 0);
        }
        if let Some(pids) = setup.pids {
            limit("pids.max", pids)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(GROUP, flags, Mode::empty()).context("open the control group")?;
        devices::restrict(directory.as_fd()).context("restrict the use of devices")?;
        Ok(Self { directory })
    }

    /// For new processes.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// A file of the group; empty if there is none.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(format!("{GROUP}/{name}")).unwrap_or_default()
    }

    /// How many processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        value(&self.read("memory.events"), "oom_kill")
    }

    /// Kills every process of the group.
    pub(crate) fn kill(&self) -> io::Result<()> {
        fs::write(format!("{GROUP}/cgroup.kill"), "1")
    }

    /// The file that reports an exceptional condition when [`Cgroup::oom_kills`] changes.
    pub(crate) fn memory_events(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, "memory.events", flags, Mode::empty())?)
    }
}

fn limit(name: &str, value: u64) -> Result<(), Failure> {
    fs::write(format!("{GROUP}/{name}"), value.to_string()).context(format!("set {name}"))
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
}
