//! Unpacking an archive of somebody who is not trusted.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod,
    fchown, futimens, linkat, mkdirat, mknodat, openat, openat2, renameat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use rustix::process::getpid;

use super::tar::{self, Entry, EntryKind};
use super::{CHUNK, CopyError};

/// Bytes behind the end of an archive that are passed over: fillings of the last record.
const TRAILING: u64 = 1 << 20;
/// What a hole reads as.
static ZEROS: [u8; CHUNK] = [0; CHUNK];
/// Names of temporary files that are tried.
const TRIES: u32 = 1000;

/// What is done about symbolic links that are there already, below the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// They lead where they lead: for a process whose root is all that it can reach.
    Followed,
    /// An entry whose path leads through one is refused.
    Refused,
}

/// What becomes of the names in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// They are paths below the destination.
    Kept,
    /// Their first part is this.
    Renamed(OsString),
    /// Their first part is the destination.
    Content,
}

/// Where an archive goes.
#[derive(Debug)]
pub struct Target {
    /// The directory that nothing is made outside of.
    pub directory: OwnedFd,
    /// How paths below it are found.
    pub links: Links,
    /// What becomes of names.
    pub names: Names,
    /// Whether the archive says whose the files are; otherwise they are this process's, and none sets
    /// the user or group of who runs it: nobody's program becomes a program of root.
    pub owners: bool,
}

/// Unpacks the archive in `stream`, to its end. An entry replaces what has its name, but a directory is
/// replaced by nothing and added to by a directory.
///
/// # Errors
/// The stream fails or is no archive, an entry leads out of the destination or cannot be made. What was
/// made before stays; no file is there in part.
pub fn receive(target: Target, stream: &mut impl Read) -> Result<(), CopyError> {
    let mut receiver = Receiver { target, entered: vec![], temporary: 0 };
    while let Some(entry) = tar::next(stream).map_err(CopyError::Stream)? {
        let mut content = Content { stream, left: entry.size, error: None };
        let put = receiver.put(&entry, &mut content);
        if let Some(error) = content.error {
            return Err(CopyError::Stream(error));
        }
        put?;
        let mut padding = vec![0; tar::padding(entry.size)];
        stream.read_exact(&mut padding).map_err(CopyError::Stream)?;
    }
    receiver.leave(None)?;
    match io::copy(&mut Read::take(stream, TRAILING), &mut io::sink()) {
        Ok(TRAILING) => {
            Err(CopyError::Stream(io::Error::other("the archive goes on behind its end")))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(CopyError::Stream(error)),
    }
}

/// The bytes of an entry; keeps what went wrong with the stream, which is another thing than a file.
struct Content<'a, R> {
    stream: &'a mut R,
    left: u64,
    error: Option<io::Error>,
}

impl<R: Read> Content<'_, R> {
    /// Fills as much of `room` as there are bytes left.
    fn next<'b>(&mut self, room: &'b mut [u8]) -> io::Result<&'b [u8]> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(room.len());
        let room = room.get_mut(..most).unwrap_or_default();
        if let Err(error) = self.stream.read_exact(room) {
            self.error = Some(error);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = self.left.saturating_sub(u64::try_from(most).unwrap_or(self.left));
        Ok(room)
    }

    /// Writes all of it to an empty file; holes stay holes, and long zeros become some.
    fn fill(&mut self, file: &mut File) -> io::Result<()> {
        let size = self.left;
        let mut room = vec![0; CHUNK];
        while self.left > 0 {
            let bytes = self.next(&mut room)?;
            if ZEROS.starts_with(bytes) {
                file.seek(SeekFrom::Current(i64::try_from(bytes.len()).unwrap_or(0)))?;
            } else {
                file.write_all(bytes)?;
            }
        }
        file.set_len(size)
    }
}

/// A directory that more may be made in; its permissions and times are set when it is left.
struct Entered {
    path: PathBuf,
    entry: Entry,
}

struct Receiver {
    target: Target,
    /// The directories around the last entry, outermost first.
    entered: Vec<Entered>,
    /// Numbers temporary files.
    temporary: u32,
}

impl Receiver {
    /// Makes what `entry` says.
    fn put(
        &mut self,
        entry: &Entry,
        content: &mut Content<'_, impl Read>,
    ) -> Result<(), CopyError> {
        let failed = |error| CopyError::file(&entry.name, error);
        match self.place(&entry.name).map_err(failed)? {
            Some(path) => {
                self.leave(Some(&path))?;
                self.put_at(&path, entry, content).map_err(failed)
            }
            // The destination itself stays as it was.
            None if entry.kind == EntryKind::Directory => Ok(()),
            None => Err(failed(Errno::ISDIR.into())),
        }
    }

    fn put_at(
        &mut self,
        path: &Path,
        entry: &Entry,
        content: &mut Content<'_, impl Read>,
    ) -> io::Result<()> {
        let (parent, name) = split(path)?;
        let parent = self.directory(parent)?;
        if entry.kind != EntryKind::Directory {
            let temporary = self.temporary(&parent, entry, content)?;
            return Ok(renameat(&parent, &temporary.name, &parent, name)?);
        }
        match mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => drop(self.handle(path)?),
            result => result?,
        }
        // One that comes again counts once.
        drop(self.entered.pop_if(|last| last.path == path));
        self.entered.push(Entered { path: path.to_owned(), entry: entry.clone() });
        Ok(())
    }

    /// Makes what `entry` says under a name of no meaning.
    fn temporary<'a>(
        &mut self,
        parent: &'a OwnedFd,
        entry: &Entry,
        content: &mut Content<'_, impl Read>,
    ) -> io::Result<Temporary<'a>> {
        match entry.kind {
            EntryKind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let mode = Mode::RUSR | Mode::WUSR;
                let (temporary, file) =
                    self.make(parent, |name| openat(parent, name, flags, mode))?;
                let mut file = File::from(file);
                content.fill(&mut file)?;
                self.dress(&file, entry)?;
                Ok(temporary)
            }
            EntryKind::HardLink => {
                let target = self.place(&entry.link)?.ok_or(io::ErrorKind::InvalidInput)?;
                let (from, target) = split(&target)?;
                let from = self.handle(from)?;
                let link = |name: &str| linkat(&from, target, parent, name, AtFlags::empty());
                Ok(self.make(parent, link)?.0)
            }
            EntryKind::Link => {
                let link = |name: &str| symlinkat(entry.link.as_slice(), parent, name);
                let (temporary, ()) = self.make(parent, link)?;
                if self.target.owners {
                    let (uid, gid) = owner(entry)?;
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    chownat(parent, &temporary.name, Some(uid), Some(gid), flags)?;
                }
                utimensat(parent, &temporary.name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(temporary)
            }
            EntryKind::Fifo => {
                let mode = Mode::RUSR | Mode::WUSR;
                let pipe = |name: &str| mknodat(parent, name, FileType::Fifo, mode, 0);
                let (temporary, ()) = self.make(parent, pipe)?;
                // Does not wait for a writer.
                let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let pipe = openat(parent, &temporary.name, flags, Mode::empty())?;
                self.dress(&pipe, entry)?;
                Ok(temporary)
            }
            EntryKind::Directory | EntryKind::Other => {
                Err(io::Error::other("it is a device, or of a kind that is not known"))
            }
        }
    }

    /// Finds a name that nothing has, and makes something of it.
    fn make<'a, T>(
        &mut self,
        parent: &'a OwnedFd,
        make: impl Fn(&str) -> rustix::io::Result<T>,
    ) -> io::Result<(Temporary<'a>, T)> {
        for _ in 0..TRIES {
            self.temporary = self.temporary.wrapping_add(1);
            let name = format!(".vmm-cp.{}.{}", getpid().as_raw_nonzero(), self.temporary);
            match make(&name) {
                Err(Errno::EXIST) => {}
                result => return Ok((Temporary { parent, name }, result?)),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// Sets the times and permissions of the directories that `path` is not in, and forgets them.
    fn leave(&mut self, path: Option<&Path>) -> Result<(), CopyError> {
        let left = |last: &mut Entered| path.is_none_or(|path| !path.starts_with(&last.path));
        while let Some(Entered { path, entry }) = self.entered.pop_if(left) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            self.open(&path, flags)
                .map_err(io::Error::from)
                .and_then(|directory| self.dress(&directory, &entry))
                .map_err(|error| CopyError::file(&entry.name, error))?;
        }
        Ok(())
    }

    /// Owner, permissions and times of a file or directory.
    fn dress(&self, file: impl AsFd, entry: &Entry) -> io::Result<()> {
        if self.target.owners {
            let (uid, gid) = owner(entry)?;
            fchown(&file, Some(uid), Some(gid))?;
        }
        // The owner first: a change of it takes set-user-ID away.
        fchmod(&file, self.mode(entry))?;
        Ok(futimens(&file, &times(entry))?)
    }

    fn mode(&self, entry: &Entry) -> Mode {
        let all = Mode::from_bits_retain(entry.mode);
        if self.target.owners { all } else { all - Mode::SUID - Mode::SGID }
    }

    /// Opens the directory `path`, and makes what of it is missing.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.handle(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let mut directory = self.handle(Path::new(""))?;
        let mut made = PathBuf::new();
        for part in path.components() {
            made.push(part);
            match mkdirat(&directory, part.as_os_str(), Mode::from_bits_retain(0o755)) {
                Ok(()) | Err(Errno::EXIST) => directory = self.handle(&made)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(directory)
    }

    /// A handle of the directory `path`.
    fn handle(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open(path, OFlags::PATH | OFlags::DIRECTORY)?)
    }

    fn open(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let resolve = match self.target.links {
            Links::Followed => ResolveFlags::NO_MAGICLINKS,
            Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        };
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.target.directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
    }

    /// The path below the destination that a name stands for; `None` for the destination itself. No name
    /// may climb.
    fn place(&self, name: &[u8]) -> io::Result<Option<PathBuf>> {
        let parts = || Path::new(OsStr::from_bytes(name)).components();
        if parts().any(|part| part == Component::ParentDir) {
            return Err(io::Error::other("its name leads upwards, by `..`"));
        }
        let own = parts().filter(|part| *part != Component::RootDir);
        let below = |part: Component<'_>| part != Component::CurDir;
        let path: PathBuf = match &self.target.names {
            Names::Kept => own.filter(|part| below(*part)).collect(),
            Names::Renamed(first) => Path::new(first).components().chain(own.skip(1)).collect(),
            Names::Content => own.skip(1).collect(),
        };
        Ok((!path.as_os_str().is_empty()).then_some(path))
    }
}

/// Something under a name of no meaning, which it loses at the latest when this is dropped.
struct Temporary<'a> {
    parent: &'a OwnedFd,
    name: String,
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // Renamed it is gone, but for a second name of the very file that it was to replace.
        let _: Result<_, _> = unlinkat(self.parent, &self.name, AtFlags::empty());
    }
}

fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// One number beyond those that Linux has for owners means "as it is".
fn owner(entry: &Entry) -> io::Result<(Uid, Gid)> {
    if entry.uid == u32::MAX || entry.gid == u32::MAX {
        return Err(io::Error::other("its owner is none that Linux can have"));
    }
    Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid)))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(entry.modified).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}
