//! Files of the container, by paths that never leave its root.

use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, openat2, readlinkat, statat,
};
use rustix::io::Errno;
use vmm_protocol::archive::{self, Links, Names, Source, Target};
use vmm_protocol::{FileKind, MAX_DATA, PathStat, Refusal};

use crate::error::{Context, Failure};

/// Opens `path` as the container's root has it.
fn open(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), resolve)
        .and_then(|root| openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
}

/// A handle of what is at `path`; with `follow`, a link at its end stands for its target.
fn find(path: &str, follow: bool) -> Result<OwnedFd, Failure> {
    let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    open(Path::new(path), flags).map_err(|error| {
        let kind = match error {
            Errno::NOENT | Errno::NOTDIR => Refusal::NotFound,
            _ => Refusal::Other,
        };
        Failure::new(kind, format!("{path}: {}", io::Error::from(error)))
    })
}

/// What is at `path`.
pub(super) fn stat(path: &str, follow: bool) -> Result<PathStat, Failure> {
    let handle = find(path, follow)?;
    let stat = status(&handle).context(path)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    let link = match kind {
        FileKind::Link => Some(readlinkat(&handle, c"", Vec::new()).context(path)?),
        _ => None,
    };
    Ok(PathStat {
        kind,
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: stat.st_mtime,
        link: link.map(|link| link.to_string_lossy().into_owned()),
    })
}

fn status(handle: impl AsFd) -> rustix::io::Result<Stat> {
    statat(handle, c"", AtFlags::EMPTY_PATH)
}

/// Writes what is at `path` to `out`, as a whole archive.
pub(super) fn send(path: &str, follow: bool, out: &mut impl Write) -> Result<(), Failure> {
    let name = if path.ends_with("/.") { None } else { Path::new(path).file_name() };
    let source = Source {
        open: &|flags| open(Path::new(path), flags),
        name: name.map_or(&b"."[..], OsStrExt::as_bytes),
        follow,
        owner: None,
        // What the kernel shows of itself in /proc is nothing to copy.
        one_file_system: true,
    };
    Ok(archive::send(&source, &mut BufWriter::with_capacity(MAX_DATA, out))?)
}

/// Unpacks the archive in `stream` into `directory`, which must exist.
pub(super) fn receive(directory: &str, stream: &mut impl Read) -> Result<(), Failure> {
    let handle = find(directory, true)?;
    let stat = status(&handle).context(directory)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let what = format!("{directory}: not a directory");
        return Err(Failure::new(Refusal::NoSuchDirectory, what));
    }
    // The root of this process is the container's.
    let links = Links::Followed;
    let target = Target { directory: handle, links, names: Names::Kept, owners: true };
    Ok(archive::receive(target, stream)?)
}
