//! Files of the container, by paths that never leave its root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid,
    chownat, fchmod, linkat, mkdirat, mknodat, openat, openat2, readlinkat, statat, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;
use vmm_protocol::{FileKind, PathStat, Refusal};

use crate::error::{Context, Failure};
use crate::tar::{self, Entry, EntryKind};

/// Directories within each other that are copied.
const DEPTH: usize = 256;
/// Bytes moved at a time.
const CHUNK: usize = 32 << 10;

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
        FileKind::Link => Some(target(handle.as_fd(), b"").context(path)?),
        _ => None,
    };
    Ok(PathStat {
        kind,
        mode: stat.st_mode & 0o7777,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: stat.st_mtime,
        link: link.map(|link| String::from_utf8_lossy(&link).into_owned()),
    })
}

fn status(handle: impl AsFd) -> rustix::io::Result<Stat> {
    statat(handle, c"", AtFlags::EMPTY_PATH)
}

fn target(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    Ok(readlinkat(directory, name, Vec::new())?.into_bytes())
}

/// Writes what is at `path` to `out`, as a whole archive.
pub(super) fn send(path: &str, follow: bool, out: &mut impl Write) -> Result<(), Failure> {
    let handle = find(path, follow)?;
    let mut sender = Sender { out };
    sender.first(&handle, Path::new(path)).context(format!("copy {path}"))?;
    out.write_all(&[0; 2 * tar::BLOCK]).context("send the archive")
}

struct Sender<'a, W> {
    out: &'a mut W,
}

impl<W: Write> Sender<'_, W> {
    /// Writes what `handle`, which was found at `path`, stands for.
    fn first(&mut self, handle: &OwnedFd, path: &Path) -> io::Result<()> {
        let name = path.file_name().map_or(&b"."[..], OsStrExt::as_bytes);
        let stat = status(handle)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.entry(handle.as_fd(), b".", name, 0),
            FileType::RegularFile => {
                // A handle cannot be read; what is there by now is either the same or as good.
                let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
                self.file(&file, &describe(&rustix::fs::fstat(&file)?, name))
            }
            FileType::Symlink => self.link(&stat, handle.as_fd(), b"", name),
            _ => Err(io::Error::other("neither file nor directory nor link")),
        }
    }

    /// Writes the file `name` of `directory` as `path` of the archive. What can have no content in an
    /// archive is left out.
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed in the meantime.
            Err(Errno::NOENT) if depth > 0 => return Ok(()),
            result => result?,
        };
        let mut entry = describe(&stat, path);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => self.file(&open_in(directory, name, OFlags::RDONLY)?, &entry),
            FileType::Directory => {
                let opened = open_in(directory, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                entry.kind = EntryKind::Directory;
                entry.size = 0;
                entry.name.push(b'/');
                self.out.write_all(&tar::header(&entry))?;
                self.content(&opened, path, depth)
            }
            FileType::Symlink => self.link(&stat, directory, name, path),
            FileType::Fifo => {
                (entry.kind, entry.size) = (EntryKind::Fifo, 0);
                self.out.write_all(&tar::header(&entry))
            }
            _ => Ok(()),
        }
    }

    fn link(
        &mut self,
        stat: &Stat,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> io::Result<()> {
        let link = target(directory, name)?;
        let entry = Entry { kind: EntryKind::Link, size: 0, link, ..describe(stat, path) };
        self.out.write_all(&tar::header(&entry))
    }

    fn content(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) -> io::Result<()> {
        if depth >= DEPTH {
            return Err(io::Error::other("directories too deep within each other"));
        }
        for item in Dir::read_from(directory)? {
            let item = item?;
            let name = item.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let path = [path, name].join(&b'/');
            self.entry(directory.as_fd(), name, &path, depth.saturating_add(1))?;
        }
        Ok(())
    }

    /// As many bytes as the header says, whatever becomes of the file.
    fn file(&mut self, file: &OwnedFd, entry: &Entry) -> io::Result<()> {
        if FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("no file any more"));
        }
        self.out.write_all(&tar::header(entry))?;
        let mut chunk = vec![0; CHUNK];
        let mut left = entry.size;
        let mut file = File::from(file.try_clone()?);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let room = chunk.get_mut(..most).unwrap_or_default();
            let len = match file.read(room)? {
                // It has shrunk.
                0 => {
                    room.fill(0);
                    most
                }
                len => len,
            };
            self.out.write_all(room.get(..len).unwrap_or_default())?;
            left = left.saturating_sub(u64::try_from(len).unwrap_or(left));
        }
        self.out.write_all(&vec![0; tar::padding(entry.size)])
    }
}

fn describe(stat: &Stat, path: &[u8]) -> Entry {
    Entry {
        kind: EntryKind::File,
        name: path.to_vec(),
        link: vec![],
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        modified: u64::try_from(stat.st_mtime).unwrap_or(0),
    }
}

/// Opens a file of a directory, and waits for nothing.
fn open_in(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(directory, name, flags, Mode::empty())
}

/// Unpacks the archive in `stream` into `directory`, which must exist.
pub(super) fn receive(directory: &str, stream: &mut impl Read) -> Result<(), Failure> {
    let handle = find(directory, true)?;
    let stat = status(&handle).context(directory)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        let what = format!("{directory}: not a directory");
        return Err(Failure::new(Refusal::NoSuchDirectory, what));
    }
    while let Some(entry) = tar::next(stream).context("read the archive")? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let mut content = Read::take(&mut *stream, entry.size);
        unpack(Path::new(directory), &entry, &mut content)
            .context(format!("copy {name} to {directory}"))?;
        let rest =
            content.limit().saturating_add(u64::try_from(tar::padding(entry.size)).unwrap_or(0));
        io::copy(&mut Read::take(&mut *stream, rest), &mut io::sink())
            .context("read the archive")?;
    }
    // Archives end with more zeros than are looked at.
    io::copy(stream, &mut io::sink()).context("read the archive")?;
    Ok(())
}

fn unpack(directory: &Path, entry: &Entry, content: &mut impl Read) -> io::Result<()> {
    let Some(relative) = plain(&entry.name)? else { return own_directory(directory, entry) };
    let path = directory.join(&relative);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = make_directories(parent)?;
    if entry.kind == EntryKind::Directory {
        match mkdirat(&parent, name, Mode::from_bits_retain(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        return own_directory(&path, entry);
    }
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let mode = Mode::from_bits_retain(entry.mode);
    match entry.kind {
        EntryKind::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let fd = openat(&parent, name, flags, Mode::from_bits_retain(0o600))?;
            let mut file = File::from(fd);
            if io::copy(content, &mut file)? != entry.size {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        EntryKind::HardLink => {
            let target = plain(&entry.link)?.ok_or(io::ErrorKind::InvalidInput)?;
            let target = directory.join(target);
            let (Some(from), Some(target)) = (target.parent(), target.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let from = make_directories(from)?;
            return Ok(linkat(from, target, parent, name, AtFlags::empty())?);
        }
        EntryKind::Link => symlinkat(entry.link.as_slice(), &parent, name)?,
        EntryKind::Fifo => mknodat(&parent, name, FileType::Fifo, mode, 0)?,
        EntryKind::Directory | EntryKind::Other => {
            return Err(io::Error::other("neither file nor directory nor link"));
        }
    }
    attributes(parent.as_fd(), name.as_bytes(), entry)
}

/// Owner, permissions and time of what was just made.
fn attributes(directory: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.kind == EntryKind::File || entry.kind == EntryKind::Fifo {
        let flags = if entry.kind == EntryKind::File { OFlags::WRONLY } else { OFlags::RDONLY };
        fchmod(open_in(directory, name, flags)?, Mode::from_bits_retain(entry.mode))?;
    }
    let time = Timespec { tv_sec: i64::try_from(entry.modified).unwrap_or(0), tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(directory, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner and permissions of a directory.
fn own_directory(path: &Path, entry: &Entry) -> io::Result<()> {
    if entry.kind != EntryKind::Directory {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let opened = open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::fchown(&opened, Some(uid), Some(gid))?;
    Ok(fchmod(&opened, Mode::from_bits_retain(entry.mode))?)
}

/// Opens the directory `path`, and makes what of it is missing.
fn make_directories(path: &Path) -> io::Result<OwnedFd> {
    let handle = OFlags::PATH | OFlags::DIRECTORY;
    match open(path, handle) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let parent = make_directories(parent)?;
    match mkdirat(parent, name, Mode::from_bits_retain(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(open(path, handle)?),
        Err(error) => Err(error.into()),
    }
}

/// The name of an entry without what leads nowhere; `None` for the directory itself. No name may climb.
fn plain(name: &[u8]) -> io::Result<Option<PathBuf>> {
    let mut path = PathBuf::new();
    for component in Path::new(std::ffi::OsStr::from_bytes(name)).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("a name that climbs"));
            }
        }
    }
    Ok((!path.as_os_str().is_empty()).then_some(path))
}
