//! The job as the emulated host receives it: one raw disk with a description and the files.
//!
//! Layout: the description's length (8 bytes, little-endian), the description (JSON), then the
//! content of every regular file in the order the description lists them.

use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// A disk's size is a multiple of this, in bytes.
const SECTOR: u64 = 512;

/// A description longer than this is not one of ours.
const MAX_DESCRIPTION: u64 = 64 << 20;

/// What to run, and the files to create before.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload {
    /// Program and arguments, as bytes: they need not be UTF-8.
    pub(crate) command: Vec<Vec<u8>>,
    /// Variables added to the environment.
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the command gets a terminal, and of what size (rows, columns).
    pub(crate) terminal: Option<(u16, u16)>,
    files: Vec<Item>,
    /// Where the contents come from, on the side that packs.
    #[serde(skip)]
    sources: Vec<PathBuf>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Item {
    path: Vec<u8>,
    mode: u32,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Directory,
    File { size: u64 },
    Link { target: Vec<u8> },
}

impl Payload {
    /// A job without files.
    pub(crate) fn new(
        command: Vec<Vec<u8>>,
        environment: Vec<(String, String)>,
        terminal: Option<(u16, u16)>,
    ) -> Self {
        Self { command, environment, terminal, ..Self::default() }
    }

    /// Adds the file or directory `source` so that it appears at `target`.
    ///
    /// # Errors
    /// `target` is relative, or `source` cannot be read or is neither file, directory nor link.
    pub(crate) fn copy(&mut self, source: &Path, target: &Path) -> Result<()> {
        ensure!(target.is_absolute(), "{}: where a copy goes must be absolute", target.display());
        // What the caller names may be a link; what a directory holds is copied as it is.
        let metadata =
            fs::metadata(source).with_context(|| format!("copy {}", source.display()))?;
        self.add(source, target, &metadata)
    }

    fn add(&mut self, source: &Path, target: &Path, metadata: &fs::Metadata) -> Result<()> {
        let kind = if metadata.is_dir() {
            Kind::Directory
        } else if metadata.is_symlink() {
            Kind::Link { target: fs::read_link(source)?.into_os_string().into_vec() }
        } else {
            ensure!(metadata.is_file(), "copy {}: not a file", source.display());
            self.sources.push(source.to_owned());
            Kind::File { size: metadata.len() }
        };
        let path = target.as_os_str().as_bytes().to_vec();
        let mode = metadata.permissions().mode() & 0o7777;
        self.files.push(Item { path, mode, kind });
        if !metadata.is_dir() {
            return Ok(());
        }
        let list = fs::read_dir(source).with_context(|| format!("list {}", source.display()))?;
        for item in list {
            let item = item?;
            self.add(&item.path(), &target.join(item.file_name()), &item.metadata()?)?;
        }
        Ok(())
    }

    /// Writes the whole disk to `out` and pads it to full sectors.
    ///
    /// # Errors
    /// A file cannot be read or changed its size, or writing fails.
    pub(crate) fn pack(&self, out: &File) -> Result<()> {
        let description = serde_json::to_vec(self)?;
        let mut writer = BufWriter::new(out);
        writer.write_all(&(description.len() as u64).to_le_bytes())?;
        writer.write_all(&description)?;
        let sizes = self.files.iter().filter_map(|item| match item.kind {
            Kind::File { size } => Some(size),
            _ => None,
        });
        for (source, size) in self.sources.iter().zip(sizes) {
            let file = File::open(source).with_context(|| format!("open {}", source.display()))?;
            let copied = io::copy(&mut file.take(size), &mut writer)?;
            ensure!(copied == size, "{} shrank while it was copied", source.display());
        }
        writer.flush()?;
        drop(writer);
        let size = out.metadata()?.len();
        Ok(out.set_len(size.next_multiple_of(SECTOR))?)
    }

    /// Reads a disk made by [`Payload::pack`] and creates its files below `root`.
    ///
    /// # Errors
    /// The disk is not one of ours, or a file cannot be created.
    pub(crate) fn unpack(disk: impl Read, root: &Path) -> Result<Self> {
        let mut disk = BufReader::with_capacity(1 << 20, disk);
        let mut length = [0; 8];
        disk.read_exact(&mut length).context("read the job")?;
        let length = u64::from_le_bytes(length);
        ensure!(length <= MAX_DESCRIPTION, "the job disk holds no job");
        let payload: Self =
            serde_json::from_reader(disk.by_ref().take(length)).context("read the job")?;
        for item in &payload.files {
            let path = Path::new(std::ffi::OsStr::from_bytes(&item.path));
            let path = root.join(path.strip_prefix("/").unwrap_or(path));
            create(&path, item, &mut disk).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(payload)
    }
}

fn create(path: &Path, item: &Item, disk: &mut impl Read) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let permissions = Permissions::from_mode(item.mode);
    match &item.kind {
        Kind::Directory => fs::create_dir_all(path)?,
        Kind::Link { target } => return Ok(symlink(std::ffi::OsStr::from_bytes(target), path)?),
        Kind::File { size } => {
            let mut file = File::create(path)?;
            let copied = io::copy(&mut disk.take(*size), &mut file)?;
            ensure!(copied == *size, "the job disk ends early");
        }
    }
    Ok(fs::set_permissions(path, permissions)?)
}

#[cfg(test)]
mod tests {
    use std::io::Seek;

    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let source = tempfile::tempdir().unwrap();
        fs::create_dir(source.path().join("sub")).unwrap();
        fs::write(source.path().join("sub/data"), [0, 255, 10, 13]).unwrap();
        fs::write(source.path().join("tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(source.path().join("tool"), Permissions::from_mode(0o755)).unwrap();
        symlink("tool", source.path().join("alias")).unwrap();
        let command = vec![b"tool".to_vec(), b"\xff * '\n".to_vec(), vec![]];
        let mut payload = Payload::new(command, vec![], Some((24, 80)));
        payload.copy(source.path(), Path::new("/opt/x")).unwrap();

        let mut disk = tempfile::tempfile().unwrap();
        payload.pack(&disk).unwrap();
        assert_eq!(disk.metadata().unwrap().len() % SECTOR, 0);
        disk.rewind().unwrap();
        let root = tempfile::tempdir().unwrap();
        let unpacked = Payload::unpack(&disk, root.path()).unwrap();

        assert_eq!(unpacked.command, payload.command);
        assert_eq!(unpacked.terminal, payload.terminal);
        let at = root.path().join("opt/x");
        assert_eq!(fs::read(at.join("sub/data")).unwrap(), [0, 255, 10, 13]);
        assert_eq!(fs::read_link(at.join("alias")).unwrap(), Path::new("tool"));
        assert_eq!(fs::metadata(at.join("tool")).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn missing_source_and_relative_target_are_refused() {
        let mut payload = Payload::default();
        assert!(payload.copy(Path::new("/no/such/file"), Path::new("/x")).is_err());
        assert!(payload.copy(Path::new("/dev/null"), Path::new("/x")).is_err());
        assert!(payload.copy(Path::new("/etc/hostname"), Path::new("x")).is_err());
    }

    #[test]
    fn blank_disk_is_refused() {
        assert!(Payload::unpack([0xff; 4096].as_slice(), Path::new("/nonexistent")).is_err());
    }
}
