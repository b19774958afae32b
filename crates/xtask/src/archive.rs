//! Writing "newc" cpio archives: the format of an initial RAM file system.
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`. Every entry is owned
//! by root and has no time, whoever builds it and when.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// A cpio archive under construction; [`Cpio::finish`] completes it.
pub(crate) struct Cpio<W: Write> {
    out: W,
    inodes: u32,
}

struct Header<'a> {
    name: &'a [u8],
    mode: u32,
    device: (u32, u32),
    size: u32,
}

impl<W: Write> Cpio<W> {
    /// An empty archive written to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out, inodes: 0 }
    }

    /// Adds the directory `name`.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name.as_bytes(), DIRECTORY | 0o755, &[])
    }

    /// Adds the regular file `name` with permission bits `mode`.
    ///
    /// # Errors
    /// Writing fails, or the content does not fit the format (4 GiB).
    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(name.as_bytes(), REGULAR | (mode & 0o7777), content)
    }

    /// Adds the character device `name`.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn character_device(
        &mut self,
        name: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        let mode = CHARACTER | 0o600;
        self.header(&Header { name: name.as_bytes(), mode, device: (major, minor), size: 0 })
    }

    /// Adds everything below `tree`, in the order of names; symbolic links stay links.
    ///
    /// # Errors
    /// The tree cannot be read, holds anything but directories, files and links, or writing fails.
    pub(crate) fn tree(&mut self, tree: &Path) -> Result<()> {
        self.subtree(tree, Path::new(""))
    }

    /// Writes the trailer and returns the output.
    ///
    /// # Errors
    /// Writing fails.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header(&Header { name: b"TRAILER!!!", mode: 0, device: (0, 0), size: 0 })?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn subtree(&mut self, tree: &Path, below: &Path) -> Result<()> {
        let directory = tree.join(below);
        let list =
            fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()));
        let mut names = list?.map(|item| Ok(item?.file_name())).collect::<Result<Vec<_>>>()?;
        names.sort();
        for name in names {
            let path = below.join(&name);
            self.item(tree, &path).with_context(|| format!("archive {}", path.display()))?;
        }
        Ok(())
    }

    fn item(&mut self, tree: &Path, path: &Path) -> Result<()> {
        let source = tree.join(path);
        let name = path.as_os_str().as_bytes();
        let metadata = fs::symlink_metadata(&source)?;
        let permissions = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            self.entry(name, DIRECTORY | permissions, &[])?;
            return self.subtree(tree, path);
        }
        if metadata.is_symlink() {
            let target = fs::read_link(&source)?;
            return Ok(self.entry(name, SYMLINK | 0o777, target.as_os_str().as_bytes())?);
        }
        anyhow::ensure!(metadata.is_file(), "neither a directory, a file nor a link");
        Ok(self.entry(name, REGULAR | permissions, &fs::read(&source)?)?)
    }

    fn entry(&mut self, name: &[u8], mode: u32, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        self.header(&Header { name, mode, device: (0, 0), size })?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let Header { name, mode, device: (major, minor), size } = *header;
        let inode = self.inodes;
        self.inodes += 1;
        let name_size = name.len() + 1;
        write!(
            self.out,
            "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{size:08x}\
             {zero:08x}{zero:08x}{major:08x}{minor:08x}{name_size:08x}{zero:08x}",
            links = 1,
            zero = 0,
        )?;
        self.out.write_all(name)?;
        self.out.write_all(b"\0")?;
        // The fixed part of a header has 110 bytes.
        self.pad(110 + name_size)
    }

    /// Aligns what follows `written` bytes to four.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        let gap = written.next_multiple_of(4) - written;
        self.out.write_all([0; 3].get(..gap).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry {
        name: String,
        mode: u32,
        owner: (u32, u32),
        device: (u32, u32),
        content: Vec<u8>,
    }

    /// Reads `archive` the way the kernel does: by the numbers in the headers.
    fn read(mut archive: &[u8]) -> Vec<Entry> {
        let mut entries = vec![];
        loop {
            assert_eq!(&archive[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&archive[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(archive[110..109 + name_size].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return entries;
            }
            let start = (110 + name_size).next_multiple_of(4);
            let content = archive[start..start + size].to_vec();
            let (owner, device) = ((field(2), field(3)), (field(9), field(10)));
            entries.push(Entry { name, mode: field(1), owner, device, content });
            archive = &archive[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn archives_keep_names_modes_links_and_contents_and_belong_to_root() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("bin")).unwrap();
        fs::write(tree.path().join("bin/tool"), "12345").unwrap();
        fs::set_permissions(tree.path().join("bin/tool"), fs::Permissions::from_mode(0o4755))
            .unwrap();
        std::os::unix::fs::symlink("tool", tree.path().join("bin/link")).unwrap();
        let mut cpio = Cpio::new(vec![]);
        cpio.tree(tree.path()).unwrap();
        cpio.character_device("console", 5, 1).unwrap();
        cpio.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        let entries = read(&cpio.finish().unwrap());

        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["bin", "bin/link", "bin/tool", "console", "init"]);
        assert!(entries.iter().all(|entry| entry.owner == (0, 0)));
        assert_eq!(entries[0].mode & 0o170_000, DIRECTORY);
        assert_eq!((entries[1].mode, entries[1].content.as_slice()), (0o120_777, &b"tool"[..]));
        assert_eq!((entries[2].mode, entries[2].content.as_slice()), (0o104_755, &b"12345"[..]));
        assert_eq!((entries[3].mode, entries[3].device), (0o020_600, (5, 1)));
        assert_eq!((entries[4].mode, entries[4].content.len()), (0o100_755, 10));
    }
}
