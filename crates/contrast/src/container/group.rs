//! Control groups: how much of the host a container may use, and which devices.
//!
//! The group of version 2 is always there; the process is born in it. Where the host still has memory or
//! processes counted by version 1, a group of that kind is entered as well.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, open, unlinkat};
use rustix::io::{Errno, write};
use rustix::process::geteuid;
use vmm_sandbox::devices;

use super::{ContainerError, Spec};

/// Where hosts have them: version 2 alone, beside version 1, and what that has for memory and processes.
const UNIFIED: &str = "/sys/fs/cgroup";
const BESIDE: &str = "/sys/fs/cgroup/unified";
/// Groups of version 1 that a process enters at most.
pub(super) const MOST_LISTS: usize = 2;
/// How often a group is tried to be removed, a millisecond apart.
const TRIES: usize = 5000;

/// A resource and the files that limit it.
struct Controller {
    name: &'static str,
    limit: &'static str,
    old_limit: &'static str,
}

const MEMORY: Controller =
    Controller { name: "memory", limit: "memory.max", old_limit: "memory.limit_in_bytes" };
const PIDS: Controller = Controller { name: "pids", limit: "pids.max", old_limit: "pids.max" };

/// The groups of a container, before they are made.
#[derive(Debug)]
pub(super) struct Names {
    root: &'static str,
    name: String,
    /// All directories, in both versions.
    directories: Vec<CString>,
    kill: CString,
}

/// The groups.
pub(super) struct Group {
    /// That of version 2.
    pub(super) unified: OwnedFd,
    /// The lists of processes of those of version 1.
    pub(super) join: Vec<OwnedFd>,
}

impl Names {
    /// What the groups will be called. None for those who may make none, unless they want limits.
    pub(super) fn new(spec: &Spec) -> Result<Option<Self>, ContainerError> {
        if !geteuid().is_root() {
            return match spec.limits().next() {
                Some((Controller { name, .. }, _)) => {
                    Err(ContainerError::Limit { what: name, why: "only root makes control groups" })
                }
                None => Ok(None),
            };
        }
        let mut roots = [UNIFIED, BESIDE].into_iter();
        let root = roots.find(|root| Path::new(root).join("cgroup.procs").exists());
        let why = "this host has no control groups of version 2";
        let root = root.ok_or(ContainerError::Limit { what: "devices", why })?;
        let name = format!("vmm-namespaces-{}", std::process::id());
        let mut directories = vec![format!("{root}/{name}")];
        for (Controller { name: controller, .. }, _) in spec.limits() {
            directories.push(format!("{UNIFIED}/{controller}/{name}"));
        }
        let c_string = |text: String| CString::new(text).map_err(|_| ContainerError::ZeroByte);
        let kill = c_string(format!("{root}/{name}/cgroup.kill"))?;
        let directories = directories.into_iter().map(c_string).collect::<Result<_, _>>()?;
        Ok(Some(Self { root, name, directories, kill }))
    }

    /// Makes them, with the limits of `spec`.
    pub(super) fn make(&self, spec: &Spec) -> Result<Group, ContainerError> {
        let directory = format!("{}/{}", self.root, self.name);
        make_directory(&directory)?;
        let mut join = vec![];
        for (controller, value) in spec.limits() {
            if self.offers(&controller) {
                set(&format!("{directory}/{}", controller.limit), value)?;
                continue;
            }
            let old = format!("{UNIFIED}/{}", controller.name);
            if !Path::new(&old).join("cgroup.procs").exists() {
                let why = "this host's kernel has no such control groups";
                return Err(ContainerError::Limit { what: controller.name, why });
            }
            let old = format!("{old}/{}", self.name);
            make_directory(&old)?;
            set(&format!("{old}/{}", controller.old_limit), value)?;
            let list = fs::OpenOptions::new().write(true).open(format!("{old}/cgroup.procs"));
            join.push(
                list.map_err(|error| ContainerError::step(format!("open {old}"), error))?.into(),
            );
        }
        if spec.memory_bytes.is_some() {
            // Only where swap is counted, and then it would be no limit without.
            let _ = fs::write(format!("{directory}/memory.swap.max"), "0");
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let step = |error: io::Error| ContainerError::step(directory.clone(), error);
        let unified =
            open(&*directory, flags, Mode::empty()).map_err(|error| step(error.into()))?;
        Ok(Group { unified, join })
    }

    /// Whether version 2 limits it, in groups below the root: as all runtimes do, it is asked to.
    fn offers(&self, controller: &Controller) -> bool {
        let lists = |file: &str| {
            let list = fs::read_to_string(format!("{}/{file}", self.root)).unwrap_or_default();
            list.split_whitespace().any(|word| word == controller.name)
        };
        let enabled = "cgroup.subtree_control";
        lists(enabled)
            || lists("cgroup.controllers")
                && fs::write(format!("{}/{enabled}", self.root), format!("+{}", controller.name))
                    .is_ok()
    }

    /// Kills what is in them and removes them, made or not. Takes no memory.
    pub(super) fn remove(&self) -> Result<(), Errno> {
        let mut result = Ok(());
        for directory in &self.directories {
            result = self.remove_one(directory).and(result);
        }
        result
    }

    fn remove_one(&self, directory: &CString) -> Result<(), Errno> {
        for _ in 0..TRIES {
            match unlinkat(CWD, &**directory, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::BUSY) => {}
                Err(error) => return Err(error),
            }
            let kill = open(&*self.kill, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            // It may have gone meanwhile.
            let _ = kill.and_then(|kill| write(&kill, b"1"));
            sleep(Duration::from_millis(1));
        }
        Err(Errno::BUSY)
    }
}

impl Group {
    /// Lets nothing in it use other devices than docker's.
    pub(super) fn restrict(&self) -> Result<(), ContainerError> {
        devices::restrict(self.unified.as_fd())
            .map_err(|error| ContainerError::step("restrict the use of devices", error))
    }
}

impl Spec {
    fn limits(&self) -> impl Iterator<Item = (Controller, u64)> {
        let limit = |controller, value: Option<u64>| value.map(|value| (controller, value));
        [limit(MEMORY, self.memory_bytes), limit(PIDS, self.pids)].into_iter().flatten()
    }
}

fn make_directory(path: &str) -> Result<(), ContainerError> {
    fs::create_dir(path).map_err(|error| ContainerError::step(format!("make {path}"), error))
}

fn set(path: &str, value: u64) -> Result<(), ContainerError> {
    fs::write(path, value.to_string())
        .map_err(|error| ContainerError::step(format!("set {path}"), error))
}
