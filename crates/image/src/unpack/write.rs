//! What the image has, made in directories of this host.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, fchown,
    futimens, linkat, mkdirat, mknodat, openat2, symlinkat, utimensat,
};
use rustix::fs::{FileType, Gid, Uid, chownat};
use rustix::process::geteuid;

use super::reader::{Inode, Kind, Reader};
use super::{MAX_DEPTH, UnpackError, Unpacked};

/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// Where a name is: its directory, and itself.
type Place<'p> = (BorrowedFd<'p>, &'p [u8]);

pub(super) struct Writer<'a> {
    reader: &'a Reader<'a>,
    root: BorrowedFd<'a>,
    /// Whether owners can be kept.
    owners: bool,
    directories: HashSet<u64>,
    /// Inodes with several names, and the first of these from the root on.
    names: HashMap<u64, Vec<u8>>,
    pub(super) done: Unpacked,
}

impl<'a> Writer<'a> {
    pub(super) fn new(reader: &'a Reader<'a>, root: BorrowedFd<'a>) -> Self {
        let (directories, names) = (HashSet::new(), HashMap::new());
        let (owners, done) = (geteuid().is_root(), Unpacked::default());
        Self { reader, root, owners, directories, names, done }
    }

    pub(super) fn root(&mut self) -> Result<(), UnpackError> {
        let inode = self.reader.inode(self.reader.root)?;
        if inode.kind != Kind::Directory {
            return Err(UnpackError::Damaged("its root is no directory"));
        }
        self.fill(self.root, self.reader.root, &inode, &mut vec![])
    }

    /// Makes what a directory has, and then makes the directory itself what it is.
    fn fill(
        &mut self,
        directory: BorrowedFd<'_>,
        nid: u64,
        inode: &Inode,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), UnpackError> {
        if path.len() > MAX_DEPTH {
            return Err(UnpackError::Damaged("its directories are too deep"));
        }
        if !self.directories.insert(nid) {
            return Err(UnpackError::Damaged("a directory has two names"));
        }
        for (name, nid) in self.reader.entries(inode)? {
            path.push(name);
            self.make(directory, nid, path)?;
            path.pop();
        }
        self.done.files += 1;
        self.dress(directory, inode).map_err(|error| {
            UnpackError::write(path.last().map_or(&b"/"[..], Vec::as_slice), error)
        })
    }

    fn make(
        &mut self,
        directory: BorrowedFd<'_>,
        nid: u64,
        path: &mut Vec<Vec<u8>>,
    ) -> Result<(), UnpackError> {
        let inode = self.reader.inode(nid)?;
        let name = path.last().cloned().unwrap_or_default();
        let failed = |error: io::Error| UnpackError::write(&name, error);
        let place = (directory, &*name);
        if inode.kind == Kind::Directory {
            let made = self.directory(place).map_err(failed)?;
            return self.fill(made.as_fd(), nid, &inode, path);
        }
        if let Some(first) = self.names.get(&nid) {
            linkat(self.root, &**first, directory, &*name, AtFlags::empty())
                .map_err(|error| failed(error.into()))?;
            return Ok(());
        }
        match inode.kind {
            Kind::File => self.file(place, &inode)?,
            Kind::Symlink => {
                let target = self.reader.target(&inode)?;
                self.symlink(place, &target, &inode).map_err(failed)?;
            }
            Kind::Fifo => self.fifo(place, &inode).map_err(failed)?,
            Kind::Directory | Kind::Other => {
                self.done.left_out += 1;
                return Ok(());
            }
        }
        self.done.files += 1;
        if inode.links > 1 {
            self.names.insert(nid, path.join(&b'/'));
        }
        Ok(())
    }

    fn directory(&self, (directory, name): Place<'_>) -> io::Result<OwnedFd> {
        mkdirat(directory, name, Mode::RWXU)?;
        open(directory, name, OFlags::DIRECTORY)
    }

    fn file(&mut self, place: Place<'_>, inode: &Inode) -> Result<(), UnpackError> {
        let failed = |error: io::Error| UnpackError::write(place.1, error);
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
        let file = File::from(open(place.0, place.1, flags).map_err(failed)?);
        file.set_len(inode.size).map_err(failed)?;
        let mut buffer = vec![0; PIECE];
        for stretch in self.reader.stretches(inode)? {
            let mut done = 0;
            while done < stretch.len {
                let len = usize::try_from(stretch.len - done).unwrap_or(PIECE).min(PIECE);
                let piece = buffer.get_mut(..len).unwrap_or_default();
                self.reader.read(&stretch, done, piece)?;
                file.write_all_at(piece, stretch.offset + done).map_err(failed)?;
                done += u64::try_from(len).unwrap_or(u64::MAX);
            }
        }
        self.done.bytes += inode.size;
        self.dress(file.as_fd(), inode).map_err(failed)
    }

    fn symlink(&self, (at, name): Place<'_>, target: &[u8], inode: &Inode) -> io::Result<()> {
        symlinkat(target, at, name)?;
        self.dress_name((at, name), inode)
    }

    fn fifo(&self, (at, name): Place<'_>, inode: &Inode) -> io::Result<()> {
        mknodat(at, name, FileType::Fifo, Mode::from_raw_mode(inode.rights), 0)?;
        self.dress_name((at, name), inode)
    }

    /// Owner, rights and time, in this order: a new owner takes rights away, and all of it is a change.
    fn dress(&self, file: BorrowedFd<'_>, inode: &Inode) -> io::Result<()> {
        if self.owners {
            fchown(file, Some(Uid::from_raw(inode.uid)), Some(Gid::from_raw(inode.gid)))?;
        }
        fchmod(file, Mode::from_raw_mode(inode.rights))?;
        Ok(futimens(file, &times(inode))?)
    }

    /// The same of what is not opened.
    fn dress_name(&self, (at, name): Place<'_>, inode: &Inode) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        if self.owners {
            chownat(
                at,
                name,
                Some(Uid::from_raw(inode.uid)),
                Some(Gid::from_raw(inode.gid)),
                nofollow,
            )?;
        }
        Ok(utimensat(at, name, &times(inode), nofollow)?)
    }
}

/// Opens a name of a directory, and only that.
fn open(directory: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(directory, name, flags, mode, resolve)?)
}

fn times(inode: &Inode) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: inode.mtime, tv_nsec: inode.mtime_nsec.into() },
    }
}
