//! Where containers live on the host.

use std::env;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, mkdir, open};
use rustix::io::Errno;
use rustix::process::geteuid;
use vmm_image::store::StorePaths;

use super::ContainerError;

/// The two directories of a user's containers: what outlives a boot, and sockets.
///
/// | user | data | runtime |
/// |---|---|---|
/// | root | `/var/lib/vmm` | `/run/vmm` |
/// | others | `$XDG_DATA_HOME/vmm` | `$XDG_RUNTIME_DIR/vmm`, else `/tmp/vmm-UID` |
///
/// `VMM_DATA` and `VMM_RUNTIME` name others. All are made with mode 0700.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Images, containers, logs.
    pub data: PathBuf,
    /// Sockets; short, as a socket's path has 108 bytes.
    pub runtime: PathBuf,
}

impl Paths {
    /// The directories of the user of this process.
    ///
    /// # Errors
    /// The environment does not say where a user's data are.
    pub fn of_user() -> Result<Self, ContainerError> {
        let data = StorePaths::from_environment()?.data().to_owned();
        let user = geteuid().as_raw();
        Ok(Self { data, runtime: runtime(|name| env::var_os(name).map(PathBuf::from), user) })
    }

    /// Where the containers are.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// What can be made again: initial RAM file systems, empty disks.
    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }
}

fn runtime(variable: impl Fn(&str) -> Option<PathBuf>, user: u32) -> PathBuf {
    // A relative path would mean another directory for each working directory; the base directory
    // specification has such a value ignored.
    let directory = |name| variable(name).filter(|path| path.is_absolute());
    match (directory("VMM_RUNTIME"), directory("XDG_RUNTIME_DIR")) {
        (Some(path), _) => path,
        _ if user == 0 => PathBuf::from("/run/vmm"),
        (None, Some(path)) => path.join("vmm"),
        (None, None) => PathBuf::from(format!("/tmp/vmm-{user}")),
    }
}

/// Makes the directory `path`, and those above it, for this user alone.
///
/// # Errors
/// It cannot be made, or it is somebody else's: `/tmp` is open to all.
pub fn make_private(path: &Path) -> Result<(), ContainerError> {
    let failed = |source: Errno| ContainerError::Directory { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make_private(parent)?;
    }
    match mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(failed(e)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = open(path, flags, Mode::empty()).and_then(fstat).map_err(failed)?;
    if found.st_uid == geteuid().as_raw() { Ok(()) } else { Err(failed(Errno::PERM)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_root_are_the_systems_and_those_of_users_their_own() {
        let chosen = |variables: &[(&str, &str)], user| {
            let variable = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            };
            runtime(variable, user).to_str().map(str::to_owned)
        };
        let xdg = ("XDG_RUNTIME_DIR", "/r");
        assert_eq!(chosen(&[xdg], 0).as_deref(), Some("/run/vmm"));
        assert_eq!(chosen(&[xdg], 7).as_deref(), Some("/r/vmm"));
        assert_eq!(chosen(&[("XDG_RUNTIME_DIR", "r")], 7).as_deref(), Some("/tmp/vmm-7"));
        assert_eq!(chosen(&[xdg, ("VMM_RUNTIME", "/b")], 0).as_deref(), Some("/b"));
    }

    #[test]
    fn directories_are_for_their_owner_alone() {
        use std::os::unix::fs::{MetadataExt, symlink};
        let top = tempfile::tempdir().expect("temporary directory");
        let path = top.path().join("a/b");
        make_private(&path).expect("made");
        make_private(&path).expect("made before");
        assert_eq!(path.metadata().expect("there").mode() & 0o777, 0o700);
        let link = top.path().join("link");
        symlink(&path, &link).expect("link");
        assert!(make_private(&link).is_err(), "followed a link");
    }
}
