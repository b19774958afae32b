//! What the container sees: its own mounts, made by its first process before the program.
//!
//! The process is in namespaces of its own, and makes the container's root its root first: from then
//! on no name, whatever links the image has, leads out of it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, mount_remount,
    move_mount, open_tree,
};
use rustix::process::umask;
use vmm_protocol::{Setup, Tmpfs};
use vmm_sandbox::mounts::{self, MASKED, Nodes, PLAIN, READ_ONLY};

use crate::error::{Context, Failure};
use crate::setup::{FILES, ROOT};

/// Makes everything. The process must be in new mount, pid, ipc and cgroup namespaces.
pub(crate) fn make(setup: &Setup) -> Result<(), Failure> {
    umask(Mode::from_bits_retain(0o022));
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .context("detach from the agent's mounts")?;
    let files = ["hosts", "hostname", "resolv.conf"].map(|name| (name, file(name)));
    mounts::enter_root(ROOT).context("enter the root file system")?;
    mounts::leave_host().context("leave the agent's root")?;
    for kernel in mounts::KERNEL {
        kernel.mount().context(format!("mount {}", kernel.target))?;
    }
    mounts::devices(&Nodes::Make).context("make /dev")?;
    shared_memory(setup)?;
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
        mounts::read_only(path).context(format!("protect {path}"))?;
    }
    for path in MASKED {
        mounts::mask(path).context(format!("hide {path}"))?;
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
    mounts::filesystem(kind, target, flags, Some(&data)).context(format!("mount {target}"))
}

fn shared_memory(setup: &Setup) -> Result<(), Failure> {
    if setup.shm_bytes == 0 {
        return mounts::shared_memory(mounts::SHM).context("mount /dev/shm");
    }
    filesystem("tmpfs", "/dev/shm", PLAIN, &format!("mode=1777,size={}", setup.shm_bytes))
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
    mounts::sysctls();
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
