//! A share of the host's processors, by a control group of version 2 or 1 (cgroups(7)).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Where the kernel's control groups are mounted, by convention of all distributions.
const MOUNTED: &str = "/sys/fs/cgroup";
/// The group of all our groups.
const OURS: &str = "vmm";
/// Microseconds within which the share is given.
const PERIOD: u64 = 100_000;
/// How long processes that were killed may still be in their group.
const DYING: Duration = Duration::from_secs(2);

/// Which hierarchy limits processors here.
enum Hierarchy {
    /// Version 2.
    Unified(PathBuf),
    /// Version 1, the one of the controller `cpu`.
    Cpu(PathBuf),
}

impl Hierarchy {
    fn find(mounted: &Path) -> io::Result<Self> {
        let controllers = fs::read_to_string(mounted.join("cgroup.controllers"));
        if controllers.is_ok_and(|text| text.split_whitespace().any(|name| name == "cpu")) {
            return Ok(Self::Unified(mounted.to_owned()));
        }
        let cpu = ["cpu", "cpu,cpuacct"].map(|name| mounted.join(name));
        match cpu
            .into_iter()
            .find(|path| path.join("cpu.cfs_quota_us").exists() || path.join("tasks").exists())
        {
            Some(path) => Ok(Self::Cpu(path)),
            None => Err(io::Error::other("this host has no control group for processors")),
        }
    }

    fn ours(&self) -> PathBuf {
        let (Self::Unified(top) | Self::Cpu(top)) = self;
        top.join(OURS)
    }
}

/// The path of the group of the container `id`, to be written down before the group is made.
///
/// # Errors
/// This host limits no processors.
pub(super) fn path(id: &str) -> io::Result<PathBuf> {
    Ok(Hierarchy::find(Path::new(MOUNTED))?.ours().join(id))
}

/// Makes the group for so many thousandths of a processor.
///
/// # Errors
/// The host does not allow it: most do to root only.
pub(super) fn make(group: &Path, thousandths: u32) -> io::Result<()> {
    let hierarchy = Hierarchy::find(Path::new(MOUNTED))?;
    let quota = u64::from(thousandths).saturating_mul(PERIOD / 1000);
    match &hierarchy {
        Hierarchy::Unified(top) => {
            // Enabled already where somebody else uses it.
            let _: Result<_, _> = fs::write(top.join("cgroup.subtree_control"), "+cpu");
            fs::create_dir_all(hierarchy.ours())?;
            fs::write(hierarchy.ours().join("cgroup.subtree_control"), "+cpu")?;
            make_directory(group)?;
            fs::write(group.join("cpu.max"), format!("{quota} {PERIOD}"))
        }
        Hierarchy::Cpu(_) => {
            fs::create_dir_all(hierarchy.ours())?;
            make_directory(group)?;
            fs::write(group.join("cpu.cfs_period_us"), PERIOD.to_string())?;
            fs::write(group.join("cpu.cfs_quota_us"), quota.to_string())
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Moves a process with all its threads into the group.
///
/// # Errors
/// The host does not allow it.
pub(super) fn add(group: &Path, pid: u32) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), pid.to_string())
}

/// Removes the group, whose processes have been killed.
///
/// # Errors
/// Something lives in it.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    let end = Instant::now() + DYING;
    loop {
        match fs::remove_dir(group) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchy_is_told_by_its_files() {
        let top = tempfile::tempdir().expect("temporary directory");
        assert!(Hierarchy::find(top.path()).is_err());
        fs::create_dir(top.path().join("cpu")).expect("directory");
        fs::write(top.path().join("cpu/tasks"), "").expect("file");
        assert!(matches!(Hierarchy::find(top.path()), Ok(Hierarchy::Cpu(_))));
        fs::write(top.path().join("cgroup.controllers"), "memory pids").expect("file");
        assert!(matches!(Hierarchy::find(top.path()), Ok(Hierarchy::Cpu(_))));
        fs::write(top.path().join("cgroup.controllers"), "cpu memory").expect("file");
        assert!(matches!(Hierarchy::find(top.path()), Ok(Hierarchy::Unified(_))));
    }
}
