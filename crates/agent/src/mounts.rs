//! What the container sees: its own mounts, made by its first process before the program.
//!
//! The process is in namespaces of its own, and makes the container's root its root first: from then
//! on no name, whatever links the image has, leads out of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root, umask};
use vmm_protocol::{Setup, Tmpfs};

use crate::error::{Context, Failure};
use crate::setup::{FILES, ROOT};

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);
/// Bytes of `/dev/shm` when nothing is said, as under docker.
const SHM_BYTES: u64 = 64 << 20;

/// Nodes in `/dev`: name, major and minor number.
const NODES: [(&str, u32, u32); 6] = [
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
const MASKED: [&str; 13] = [
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
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// Kernel parameters that docker sets: any process may listen on any port and send a ping.
const SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// Makes everything. The process must be in new mount, pid, ipc and cgroup namespaces.
pub(crate) fn make(setup: &Setup) -> Result<(), Failure> {
    umask(Mode::from_bits_retain(0o022));
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("detach from the agent's mounts")?;
    let files = ["hosts", "hostname", "resolv.conf"].map(|name| (name, file(name)));
    enter_root().context("enter the root file system")?;
    filesystem("proc", "/proc", PLAIN, "")?;
    filesystem("sysfs", "/sys", PLAIN | MountFlags::RDONLY, "")?;
    filesystem("cgroup2", "/sys/fs/cgroup", PLAIN | MountFlags::RDONLY, "")?;
    devices(setup)?;
    for tmpfs in &setup.tmpfs {
        temporary(tmpfs)?;
    }
    for (name, file) in files {
        let file = file.context(format!("open {name}"))?;
        let target = format!("/etc/{name}");
        place_file(&file, &target).context(format!("mount {target}"))?;
        if setup.read_only_root {
            mount_remount(&*target, MountFlags::BIND | MountFlags::RDONLY | PLAIN, "")
                .context(format!("protect {target}"))?;
        }
    }
    sysctls(&setup.sysctls)?;
    for path in READ_ONLY {
        read_only(path).context(format!("protect {path}"))?;
    }
    for path in MASKED {
        mask(path).context(format!("hide {path}"))?;
    }
    if setup.read_only_root {
        mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, "")
            .context("make the root file system read-only")?;
    }
    Ok(())
}

/// A file of the agent, ready to be mounted elsewhere.
fn file(name: &str) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(CWD, format!("{FILES}/{name}"), flags)?)
}

/// Makes the container's root this process's root, and lets go of everything else.
fn enter_root() -> io::Result<()> {
    chdir(ROOT)?;
    // Old and new root lie above each other then; the old one is on top.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(chdir("/")?)
}

fn place_file(file: &OwnedFd, target: &str) -> io::Result<()> {
    if let Some(directory) = Path::new(target).parent() {
        fs::create_dir_all(directory)?;
    }
    if !Path::new(target).exists() && fs::File::create(target).is_err() {
        // A link that leads nowhere; the mount would hide it anyway.
        fs::remove_file(target)?;
        fs::File::create(target)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(move_mount(file, "", CWD, target, flags)?)
}

/// Mounts a file system of the kernel, or one in memory.
fn filesystem(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<(), Failure> {
    let data = std::ffi::CString::new(data).context(format!("options of {target}"))?;
    fs::create_dir_all(target).context(format!("make {target}"))?;
    mount(kind, target, kind, flags, data.as_c_str()).context(format!("mount {target}"))
}

fn devices(setup: &Setup) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::STRICTATIME;
    filesystem("tmpfs", "/dev", flags, "mode=755,size=65536k")?;
    let mask = umask(Mode::empty());
    for (name, major, minor) in NODES {
        let (path, device) = (format!("/dev/{name}"), makedev(major, minor));
        mknodat(CWD, &path, FileType::CharacterDevice, Mode::from_bits_retain(0o666), device)
            .context(format!("make {path}"))?;
    }
    umask(mask);
    for (name, target) in LINKS {
        symlink(target, format!("/dev/{name}")).context(format!("make /dev/{name}"))?;
    }
    let terminals = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    filesystem("devpts", "/dev/pts", MountFlags::NOSUID | MountFlags::NOEXEC, terminals)?;
    filesystem("mqueue", "/dev/mqueue", PLAIN, "")?;
    let size = if setup.shm_bytes == 0 { SHM_BYTES } else { setup.shm_bytes };
    filesystem("tmpfs", "/dev/shm", PLAIN, &format!("mode=1777,size={size}"))
}

/// A file system in memory that was asked for: nosuid, nodev and noexec unless it says otherwise.
fn temporary(tmpfs: &Tmpfs) -> Result<(), Failure> {
    let (flags, data) = options(&tmpfs.options);
    let data = if data.split(',').any(|word| word.starts_with("mode=")) {
        data
    } else {
        format!("mode=1777,{data}")
    };
    filesystem("tmpfs", &tmpfs.path, flags, data.trim_end_matches(','))
}

/// Options of mount(8), apart: flags, and what the file system itself understands.
fn options(text: &str) -> (MountFlags, String) {
    let (mut flags, mut data) = (PLAIN, vec![]);
    for word in text.split(',').filter(|word| !word.is_empty()) {
        let (plain, set) = word.strip_prefix("no").map_or((word, false), |rest| (rest, true));
        let flag = match plain {
            "suid" => MountFlags::NOSUID,
            "dev" => MountFlags::NODEV,
            "exec" => MountFlags::NOEXEC,
            "atime" => MountFlags::NOATIME,
            "diratime" => MountFlags::NODIRATIME,
            _ => MountFlags::empty(),
        };
        match word {
            _ if !flag.is_empty() => flags.set(flag, set),
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            _ => data.push(word),
        }
    }
    (flags, data.join(","))
}

fn sysctls(wanted: &[(String, String)]) -> Result<(), Failure> {
    for (name, value) in SYSCTLS {
        // A kernel without it has nothing to be set.
        let _ = set_sysctl(name, value);
    }
    for (name, value) in wanted {
        set_sysctl(name, value).context(format!("set {name}"))?;
    }
    Ok(())
}

fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    if name.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Opened, not made: proc has those there are.
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    let mut file = fs::File::options().write(true).open(path)?;
    io::Write::write_all(&mut file, value.as_bytes())
}

/// Nothing is there: there is nothing to protect or hide.
fn if_exists(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        result => Ok(result?),
    }
}

fn read_only(path: &str) -> io::Result<()> {
    if_exists(
        mount_bind(path, path)
            .and_then(|()| mount_remount(path, MountFlags::BIND | MountFlags::RDONLY | PLAIN, "")),
    )
}

fn mask(path: &str) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            Ok(mount("tmpfs", path, "tmpfs", MountFlags::RDONLY | PLAIN, c"size=0k")?)
        }
        _ => if_exists(mount_bind("/dev/null", path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mounts_are_taken_apart() {
        assert_eq!(options(""), (PLAIN, String::new()));
        let (flags, data) = options("rw,exec,nosuid,size=64m,,mode=755,noatime");
        let expected = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
        assert_eq!((flags, data.as_str()), (expected, "size=64m,mode=755"));
        let (flags, data) = options("ro,suid,dev,notes");
        assert_eq!((flags, data.as_str()), (MountFlags::NOEXEC | MountFlags::RDONLY, "notes"));
    }
}
