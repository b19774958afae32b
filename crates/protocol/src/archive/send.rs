//! Writing a tree of files as an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::tar::{self, Entry, EntryKind};
use super::{CHUNK, CopyError};

/// Directories within each other that are copied.
const DEPTH: usize = 256;
/// Memory for the names of files that have several; beyond it they are sent once for each name.
const LINKED_NAMES: usize = 4 << 20;

/// What is sent, and how.
pub struct Source<'a> {
    /// Opens it with these flags.
    pub open: &'a dyn Fn(OFlags) -> rustix::io::Result<OwnedFd>,
    /// The first part of all names in the archive.
    pub name: &'a [u8],
    /// Whether a symbolic link stands for its target; links below a directory never do.
    pub follow: bool,
    /// User and group of everything, if not what the files have.
    pub owner: Option<(u32, u32)>,
    /// Whether directories are sent empty that other file systems are mounted on.
    pub one_file_system: bool,
}

/// Writes `source` to `out` as a whole archive, and flushes it.
///
/// Devices and sockets below a directory are left out, as an archive has no content for them. A file that
/// changes its size meanwhile keeps the size it had.
///
/// # Errors
/// `out` fails, or a file cannot be read: what was written is no whole archive then.
pub fn send(source: &Source<'_>, out: &mut impl Write) -> Result<(), CopyError> {
    let links = HashMap::new();
    let owner = source.owner;
    Sender { out, owner, device: None, links, room: LINKED_NAMES }.first(source)?;
    out.write_all(&[0; 2 * tar::BLOCK]).and_then(|()| out.flush()).map_err(CopyError::Stream)
}

struct Sender<'a, W> {
    out: &'a mut W,
    owner: Option<(u32, u32)>,
    /// The file system that is not left.
    device: Option<u64>,
    /// Names under which files with several names were sent.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Memory for more of them.
    room: usize,
}

impl<W: Write> Sender<'_, W> {
    fn first(&mut self, source: &Source<'_>) -> Result<(), CopyError> {
        let name = source.name;
        let failed = |error: Errno| CopyError::file(name, error);
        let no_follow = if source.follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let handle = (source.open)(OFlags::PATH | no_follow).map_err(failed)?;
        let stat = fstat(&handle).map_err(failed)?;
        self.device = source.one_file_system.then_some(stat.st_dev);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.entry(handle.as_fd(), b".", name, 0),
            FileType::RegularFile => {
                // A handle cannot be read; what is there by now is either the same or as good.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | no_follow;
                let file = (source.open)(flags).map_err(failed)?;
                self.file(file, name)
            }
            FileType::Symlink => self.link(&stat, handle.as_fd(), b"", name),
            _ => {
                Err(CopyError::file(name, io::Error::other("neither file nor directory nor link")))
            }
        }
    }

    /// Writes the file `name` of `directory` as `path` of the archive.
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        depth: usize,
    ) -> Result<(), CopyError> {
        let failed = |error: Errno| CopyError::file(path, error);
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Removed in the meantime.
            Err(Errno::NOENT) if depth > 0 => return Ok(()),
            result => result.map_err(failed)?,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                if let Some(first) = self.known(&stat, path) {
                    let entry = self.describe(&stat, EntryKind::HardLink, path);
                    return self.write(&tar::header(&Entry { link: first, ..entry }));
                }
                self.file(open_in(directory, name, OFlags::RDONLY).map_err(failed)?, path)
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let opened = open_in(directory, name, flags).map_err(failed)?;
                let mut entry = self.describe(&stat, EntryKind::Directory, path);
                entry.name.push(b'/');
                self.write(&tar::header(&entry))?;
                if self.device.is_some_and(|device| device != stat.st_dev) {
                    return Ok(());
                }
                self.content(&opened, path, depth)
            }
            FileType::Symlink => self.link(&stat, directory, name, path),
            FileType::Fifo => {
                self.write(&tar::header(&self.describe(&stat, EntryKind::Fifo, path)))
            }
            _ => Ok(()),
        }
    }

    /// The name under which a file with several names was sent; if it was not, this is the one.
    fn known(&mut self, stat: &Stat, path: &[u8]) -> Option<Vec<u8>> {
        let key = (stat.st_dev, stat.st_ino);
        if stat.st_nlink < 2 {
            return None;
        }
        if let Some(first) = self.links.get(&key) {
            return Some(first.clone());
        }
        // The name, and about what the table takes for it.
        let room = self.room.checked_sub(path.len().saturating_add(64))?;
        self.room = room;
        self.links.insert(key, path.to_vec());
        None
    }

    fn link(
        &mut self,
        stat: &Stat,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
    ) -> Result<(), CopyError> {
        let target = readlinkat(directory, name, Vec::new());
        let link = target.map_err(|error| CopyError::file(path, error))?.into_bytes();
        self.write(&tar::header(&Entry { link, ..self.describe(stat, EntryKind::Link, path) }))
    }

    fn content(&mut self, directory: &OwnedFd, path: &[u8], depth: usize) -> Result<(), CopyError> {
        if depth >= DEPTH {
            let why = "directories too deep within each other";
            return Err(CopyError::file(path, io::Error::other(why)));
        }
        let failed = |error: Errno| CopyError::file(path, error);
        for item in Dir::read_from(directory).map_err(failed)? {
            let item = item.map_err(failed)?;
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
    fn file(&mut self, file: OwnedFd, path: &[u8]) -> Result<(), CopyError> {
        let stat = fstat(&file).map_err(|error| CopyError::file(path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(CopyError::file(path, io::Error::other("no file any more")));
        }
        let entry = self.describe(&stat, EntryKind::File, path);
        self.write(&tar::header(&entry))?;
        let (mut left, mut file, mut chunk) = (entry.size, File::from(file), vec![0; CHUNK]);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let room = chunk.get_mut(..most).unwrap_or_default();
            let len = match file.read(room) {
                // It has shrunk.
                Ok(0) => {
                    room.fill(0);
                    most
                }
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyError::file(path, error)),
            };
            self.write(room.get(..len).unwrap_or_default())?;
            left = left.saturating_sub(u64::try_from(len).unwrap_or(left));
        }
        self.write(&vec![0; tar::padding(entry.size)])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.out.write_all(bytes).map_err(CopyError::Stream)
    }

    fn describe(&self, stat: &Stat, kind: EntryKind, path: &[u8]) -> Entry {
        let (uid, gid) = self.owner.unwrap_or((stat.st_uid, stat.st_gid));
        let size = if kind == EntryKind::File { stat.st_size } else { 0 };
        Entry {
            kind,
            name: path.to_vec(),
            link: vec![],
            mode: stat.st_mode & 0o7777,
            uid,
            gid,
            size: u64::try_from(size).unwrap_or(0),
            modified: u64::try_from(stat.st_mtime).unwrap_or(0),
        }
    }
}

/// Opens a file of a directory, and waits for nothing.
fn open_in(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(directory, name, flags, Mode::empty())
}
