//! Writing an initial RAM file system: single files, and a directory of this host with all that is in it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, open};
use vmm_image::cpio::{self, Attributes};

/// An archive that is being written.
pub(super) struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// A file of root's.
    pub(super) fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        let mode = FileType::RegularFile.as_raw_mode() | permissions;
        self.add(name.as_bytes(), Attributes { mode, uid: 0, gid: 0 }, content)
    }

    /// The directory `source` under another name, with its files, directories and links. Nothing is followed.
    pub(super) fn tree(&mut self, name: &str, source: &Path) -> io::Result<()> {
        self.item(name.as_bytes(), source)
    }

    fn item(&mut self, name: &[u8], source: &Path) -> io::Result<()> {
        let found = fs::symlink_metadata(source)?;
        let attributes = Attributes { mode: found.mode(), uid: found.uid(), gid: found.gid() };
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
    let mut size: u64 = 0;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let found = entry.metadata()?;
        let bytes = if found.is_dir() { self::size(&entry.path())? } else { 0 };
        let own = if found.is_file() { found.len() } else { 0 };
        size = size.saturating_add(bytes).saturating_add(own);
    }
    Ok(size)
}
