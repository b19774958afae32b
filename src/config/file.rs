//! Opening files that a user names, without being stopped by what they turn out to be.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use thiserror::Error;

/// Opens the regular file `path` for reading.
///
/// Never blocks: a FIFO without a writer, a device or a directory is refused by name. Symbolic
/// links are followed.
///
/// # Errors
/// When the file cannot be opened or is not a regular file.
pub fn open_regular(path: &Path) -> Result<File, FileError> {
    open_kind(path, &[FileType::RegularFile])
}

/// Opens the disk image `path`, a regular file or a block device, for reading.
///
/// # Errors
/// As [`open_regular`], which a block device passes here.
pub fn open_image(path: &Path) -> Result<File, FileError> {
    open_kind(path, &[FileType::RegularFile, FileType::BlockDevice])
}

/// Opens the regular file `path` for writing at its end, and makes it with mode 0600 where there is
/// none.
///
/// Never blocks, as [`open_regular`]. A symbolic link at the end of the path is refused: in a
/// directory that others write to, it would lead to a file of their choice.
///
/// # Errors
/// As [`open_regular`].
pub fn open_appended(path: &Path) -> Result<File, FileError> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
    open_with(path, flags, &[FileType::RegularFile], |path| rustix::fs::lstat(path))
}

fn open_kind(path: &Path, kinds: &[FileType]) -> Result<File, FileError> {
    open_with(path, OFlags::RDONLY, kinds, |path| rustix::fs::stat(path))
}

/// `stat` tells what is there when it cannot be opened.
fn open_with(
    path: &Path,
    flags: OFlags,
    kinds: &[FileType],
    stat: fn(&Path) -> rustix::io::Result<Stat>,
) -> Result<File, FileError> {
    // NONBLOCK returns at once from a FIFO; it has no effect on a regular file.
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let open_error = |errno: Errno| FileError::Open { path: path.to_owned(), source: errno.into() };
    let fd = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(fd) => fd,
        // What these say of a FIFO, a socket or a directory is less clear than its kind.
        Err(errno) => {
            let kind = stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
            return Err(match kind {
                Ok(kind) if kind != FileType::RegularFile => not_regular(path, kind),
                _ => open_error(errno),
            });
        }
    };
    let stat = rustix::fs::fstat(&fd).map_err(open_error)?;
    match FileType::from_raw_mode(stat.st_mode) {
        kind if kinds.contains(&kind) => Ok(File::from(fd)),
        kind => Err(not_regular(path, kind)),
    }
}

fn not_regular(path: &Path, kind: FileType) -> FileError {
    let kind = match kind {
        FileType::Directory => "a directory",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Symlink => "a symbolic link",
        _ => "of an unknown kind",
    };
    FileError::NotRegular { path: path.to_owned(), kind }
}

/// Why a file named by the user cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// The file could not be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The path leads to something that is not a regular file.
    #[error("{} is {kind}, not a regular file", path.display())]
    NotRegular {
        /// The path as given.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
}

impl FileError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::NotRegular { .. } => "give the path of an ordinary file",
            Self::Open { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::ACCESS | Errno::PERM) => {
                    "check the owner and mode of the file and of its directories"
                }
                Some(Errno::MFILE) => "raise the limit of open files: ulimit -n 1024",
                Some(Errno::NFILE | Errno::NOMEM | Errno::IO) => return None,
                _ => "check the path",
            },
        };
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_regular_file_is_refused_by_kind_without_blocking() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).expect("fifo");
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("socket");
        for (path, kind) in [
            (dir.path(), "a directory"),
            (&fifo, "a FIFO"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a character device"),
        ] {
            for opened in [open_regular(path), open_image(path), open_appended(path)] {
                let error = opened.expect_err(kind).to_string();
                assert!(error.contains(kind), "{error}");
            }
        }
    }

    #[test]
    fn symbolic_link_to_a_regular_file_is_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&file, b"x").expect("write");
        std::os::unix::fs::symlink(&file, &link).expect("link");
        assert!(open_regular(&link).is_ok());
        let error = open_appended(&link).expect_err("followed").to_string();
        assert!(error.contains("a symbolic link"), "{error}");
    }

    #[test]
    fn appended_file_is_made_for_its_owner_and_keeps_what_it_has() {
        use std::io::Write;
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        for text in ["first ", "second"] {
            open_appended(&path).expect("open").write_all(text.as_bytes()).expect("write");
        }
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "first second");
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn missing_file_is_named_and_keeps_its_cause() {
        let error = open_regular(Path::new("/no/such/file")).expect_err("missing");
        assert_eq!(error.to_string(), "open /no/such/file");
        assert!(std::error::Error::source(&error).is_some());
        assert!(error.hint().is_some());
    }
}
