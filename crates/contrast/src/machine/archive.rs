//! Writing an initial RAM file system: single files, and a directory of this host with all that is in it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, open};
use vmm_image::cpio::{self, Attributes};

/// An archive that is being written.
pub(super) struct Archive<W> {
    out: W,
    /// Numbers of files that have several names, by device and inode.
    shared: Shared,
}

/// Numbers of files by device and inode.
type Shared = HashMap<(u64, u64), u32>;

/// Counts a file that has several names; whether this is its first, and its number.
fn count(shared: &mut Shared, found: &Metadata) -> (bool, Option<u32>) {
    if found.nlink() < 2 || found.is_dir() {
        return (true, None);
    }
    let next = u32::try_from(shared.len()).unwrap_or(u32::MAX).saturating_add(1);
    match shared.entry((found.dev(), found.ino())) {
        Entry::Occupied(known) => (false, Some(*known.get())),
        Entry::Vacant(place) => (true, Some(*place.insert(next))),
    }
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, shared: Shared::new() }
    }

    /// A file of root's.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let mode = FileType::RegularFile.as_raw_mode() | permissions;
        self.add(name.as_bytes(), Attributes { mode, ..Attributes::default() }, content)
    }

    /// The directory `source` under another name, with its files, directories and links. Nothing is followed.
    pub(super) fn tree(&mut self, name: &str, source: &Path) -> io::Result<()> {
        self.item(name.as_bytes(), source)
    }

    fn item(&mut self, name: &[u8], source: &Path) -> io::Result<()> {
        let found = fs::symlink_metadata(source)?;
        let (is_first, shared) = count(&mut self.shared, &found);
        let (mode, uid, gid) = (found.mode(), found.uid(), found.gid());
        let attributes = Attributes { mode, uid, gid, shared };
        match FileType::from_raw_mode(found.mode()) {
            FileType::Directory => {
                self.add(name, attributes, &[])?;
                let mut inside: Vec<_> = fs::read_dir(source)?.collect::<io::Result<_>>()?;
                inside.sort_by_key(fs::DirEntry::file_name);
                for entry in inside {
                    let name = [name, b"/", entry.file_name().as_bytes()].concat();
                    self.item(&name, &entry.path())?;
                }
                Ok(())
            }
            FileType::Symlink => {
                self.add(name, attributes, &fs::read_link(source)?.into_os_string().into_vec())
            }
            FileType::RegularFile if !is_first => self.add(name, attributes, &[]),
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut content = vec![];
                let mut file = fs::File::from(open(source, flags, Mode::empty())?);
                io::Read::read_to_end(&mut file, &mut content)?;
                self.add(name, attributes, &content)
            }
            // An unpacked image has no others.
            _ => Ok(()),
        }
    }

    fn add(&mut self, name: &[u8], attributes: Attributes, content: &[u8]) -> io::Result<()> {
        self.out.write_all(&cpio::entry(name, attributes, content)?)
    }

    /// The archive is complete.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.out.write_all(&cpio::end()?)?;
        Ok(self.out)
    }
}

/// Bytes of all files below `source`.
pub(super) fn size(source: &Path) -> io::Result<u64> {
    size_of(source, &mut Shared::new())
}

fn size_of(source: &Path, shared: &mut Shared) -> io::Result<u64> {
    let mut size: u64 = 0;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let bytes = if found.is_dir() {
            size_of(&entry.path(), shared)?
        } else if count(shared, &found).0 {
            found.len()
        } else {
            0
        };
        size = size.saturating_add(bytes);
    }
    Ok(size)
}
