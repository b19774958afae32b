//! What a container sees of files: docker's file systems, devices, hidden and protected paths.
//!
//! The process that calls is in a mount namespace of its own. Nothing here takes memory.

use std::ffi::CStr;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags, makedev, mkdir, mknodat, open, openat, stat, symlinkat};
use rustix::io::{Errno, Result, write};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, mount_remount,
    move_mount, open_tree, unmount,
};
use rustix::path::Arg;
use rustix::process::{chdir, pivot_root, umask};

/// What every file system gets that holds neither programs nor devices.
pub const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);
/// Options of `/dev/shm` when nothing is said, as under docker: 64 MiB.
pub const SHM: &CStr = c"mode=1777,size=67108864";

/// Nodes in `/dev`: name, major and minor number.
pub const NODES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// Links in `/dev`: name and target.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
    ("core", "/proc/kcore"),
];

/// What of proc and sys nobody sees, as docker has it.
pub const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/devices/system/cpu/cpu0/thermal_throttle",
    "/sys/firmware",
];
/// What of proc nobody changes, as docker has it.
pub const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Kernel parameters that docker sets: any process may listen on any port and send a ping.
const SYSCTLS: [(&str, &[u8]); 2] = [
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0"),
    ("/proc/sys/net/ipv4/ping_group_range", b"0 2147483647"),
];

/// A file system that shows something of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kernel {
    /// What the kernel calls it.
    pub kind: &'static str,
    /// Where it is seen.
    pub target: &'static str,
    flags: MountFlags,
}

/// All of them, those before their own directories.
pub const KERNEL: [Kernel; 3] = [
    Kernel { kind: "proc", target: "/proc", flags: PLAIN },
    Kernel { kind: "sysfs", target: "/sys", flags: PLAIN.union(MountFlags::RDONLY) },
    Kernel { kind: "cgroup2", target: "/sys/fs/cgroup", flags: PLAIN.union(MountFlags::RDONLY) },
];

impl Kernel {
    /// Mounts it.
    ///
    /// # Errors
    /// The kernel's: of proc and sysfs also when this process sees them in part only.
    pub fn mount(&self) -> Result<()> {
        filesystem(self.kind, self.target, self.flags, None)
    }
}

/// Makes `root`, which must be a mount of its own, this process's root. What was there before is still
/// mounted, though no name leads there, until [`leave_host`].
///
/// # Errors
/// The kernel's.
pub fn enter_root(root: impl Arg) -> Result<()> {
    chdir(root)?;
    // Old and new root lie above each other then; the old one is on top.
    pivot_root(".", ".")
}

/// Lets go of everything that was mounted before [`enter_root`].
///
/// In a user namespace of its own a process may mount [`KERNEL`]'s only as long as those of its host are there:
/// what it could not see before it is not to see by that.
///
/// # Errors
/// The kernel's.
pub fn leave_host() -> Result<()> {
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// Mounts a file system at `target`, which is made if it is missing.
///
/// # Errors
/// The kernel's.
pub fn filesystem(kind: &str, target: &str, flags: MountFlags, data: Option<&CStr>) -> Result<()> {
    unless_there(mkdir(target, Mode::from_bits_retain(0o755)))?;
    mount(kind, target, kind, flags, data)
}

fn unless_there(result: Result<()>) -> Result<()> {
    if result == Err(Errno::EXIST) { Ok(()) } else { result }
}

/// Where the nodes in `/dev` come from.
#[derive(Debug)]
pub enum Nodes {
    /// They are made.
    Make,
    /// They are the host's: in a user namespace of its own a process can make none that work.
    Show([Option<OwnedFd>; NODES.len()]),
}

impl Nodes {
    /// The host's, as long as they can be seen.
    ///
    /// # Errors
    /// One is missing, or the process may not show it elsewhere.
    pub fn of_host() -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let device = open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let mut nodes = [const { None }; NODES.len()];
        for (node, (name, ..)) in nodes.iter_mut().zip(NODES) {
            *node = Some(open_tree(&device, name, flags)?);
        }
        Ok(Self::Show(nodes))
    }
}

/// Makes `/dev` with terminals and message queues; without [`shared_memory`].
///
/// # Errors
/// The kernel's.
pub fn devices(nodes: &Nodes) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    filesystem("tmpfs", "/dev", flags, Some(c"mode=755,size=65536k"))?;
    let directory = open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let mask = umask(Mode::empty());
    for (index, (name, major, minor)) in NODES.into_iter().enumerate() {
        let all = Mode::from_bits_retain(0o666);
        match nodes {
            Nodes::Make => {
                let device = makedev(major, minor);
                mknodat(&directory, name, FileType::CharacterDevice, all, device)?;
            }
            Nodes::Show(nodes) => {
                let node = nodes.get(index).and_then(Option::as_ref).ok_or(Errno::NODEV)?;
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(&directory, name, flags, all)?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
                move_mount(node, "", &directory, name, flags)?;
            }
        }
    }
    umask(mask);
    for (name, target) in LINKS {
        symlinkat(target, &directory, name)?;
    }
    // Their group has no number in another user namespace.
    let terminals = match nodes {
        Nodes::Make => c"newinstance,ptmxmode=0666,mode=0620,gid=5",
        Nodes::Show(_) => c"newinstance,ptmxmode=0666,mode=0620",
    };
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    filesystem("devpts", "/dev/pts", flags, Some(terminals))?;
    filesystem("mqueue", "/dev/mqueue", PLAIN, None)
}

/// Mounts `/dev/shm` with options such as [`SHM`].
///
/// # Errors
/// The kernel's.
pub fn shared_memory(options: &CStr) -> Result<()> {
    filesystem("tmpfs", "/dev/shm", PLAIN, Some(options))
}

/// Sets the kernel parameters that docker sets, where the kernel has them and they may be set.
pub fn sysctls() {
    for (path, value) in SYSCTLS {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(file) = open(path, flags, Mode::empty()) {
            // Another user's namespace lacks a group of that number.
            let _ = write(&file, value);
        }
    }
}

/// Lets nobody change what is below `path`, if it is there.
///
/// # Errors
/// The kernel's.
pub fn read_only(path: &str) -> Result<()> {
    let flags = MountFlags::BIND | MountFlags::RDONLY | PLAIN;
    if_there(mount_bind(path, path).and_then(|()| mount_remount(path, flags, c"")))
}

/// Lets nobody see what `path` is, if it is there.
///
/// # Errors
/// The kernel's.
pub fn mask(path: &str) -> Result<()> {
    match stat(path) {
        Ok(found) if FileType::from_raw_mode(found.st_mode).is_dir() => {
            mount("tmpfs", path, "tmpfs", MountFlags::RDONLY | PLAIN, c"size=0k")
        }
        Ok(_) => mount_bind("/dev/null", path),
        Err(error) => if_there(Err(error)),
    }
}

fn if_there(result: Result<()>) -> Result<()> {
    if result == Err(Errno::NOENT) { Ok(()) } else { result }
}
