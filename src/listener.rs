//! Unix sockets that the monitor listens on: for their owner alone, and gone with the machine.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{
    CWD, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, lstat, open, unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use thiserror::Error;
use tracing::warn;

/// How often, and how far apart, the lock of the directory is tried for: other monitors hold it
/// for less than a millisecond.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A socket that cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Something has the name already.
    #[error("{} exists and is {what}", path.display())]
    Exists {
        /// The path of the socket.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// Somebody listens there.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The host refused a step.
    #[error("{step} {}", path.display())]
    Setup {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: Errno,
    },
}

/// A socket that programs of the host connect to. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// Device and inode of the file, by which it is known as ours.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Listens at `path`, where nothing may be but a socket of this user that nobody listens on:
    /// what a monitor that was killed has left. Up to `backlog` programs wait to be accepted; more are
    /// refused by the kernel.
    ///
    /// # Errors
    /// [`ListenError`]; what is at `path` stays there.
    pub fn open(path: &Path, backlog: i32) -> Result<Self, ListenError> {
        let failed =
            |step| move |source| ListenError::Setup { step, path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(failed("name the socket"))?;
        let socket = new_socket().map_err(failed("create the socket"))?;
        // The file gets the mode of the socket: nobody else can connect at any time.
        fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("set the mode of"))?;
        // Until it listens a new socket looks like one that was left behind: all monitors that
        // use this directory take turns.
        let _turn = lock_directory(path)?;
        match bind(&socket, &address) {
            Err(Errno::ADDRINUSE) => {
                remove_stale(path, &address)?;
                bind(&socket, &address)
            }
            result => result,
        }
        .map_err(failed("create the socket"))?;
        let listener = Self {
            socket,
            path: path.to_owned(),
            file: lstat(path).ok().map(|stat| identity(&stat)),
        };
        listen(&listener.socket, backlog).map_err(failed("listen on"))?;
        Ok(listener)
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a program that waits.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none, and what else the host says; it never blocks.
    pub fn accept(&self) -> Result<OwnedFd, Errno> {
        accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // What somebody has put there since is theirs.
        if lstat(&self.path).is_ok_and(|stat| self.file == Some(identity(&stat)))
            && let Err(e) = unlinkat(CWD, &self.path, rustix::fs::AtFlags::empty())
        {
            warn!("cannot remove the socket {}: {e}", self.path.display());
        }
    }
}

/// A stream socket that does not block.
///
/// # Errors
/// No descriptor is to be had.
pub fn new_socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Locks the directory of `path`; closing the descriptor ends that.
fn lock_directory(path: &Path) -> Result<OwnedFd, ListenError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let failed =
        |step| move |source| ListenError::Setup { step, path: directory.to_owned(), source };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = open(directory, flags, Mode::empty()).map_err(failed("open the directory"))?;
    for _ in 1..LOCK_TRIES {
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN | Errno::INTR) => sleep(LOCK_PAUSE),
            result => return result.map(|()| fd).map_err(failed("lock the directory")),
        }
    }
    Err(failed("lock the directory")(Errno::AGAIN))
}

/// Removes a socket of this user that nobody listens on, and nothing else.
fn remove_stale(path: &Path, address: &SocketAddrUnix) -> Result<(), ListenError> {
    let exists = |what| Err(ListenError::Exists { path: path.to_owned(), what });
    let failed = |step| move |source| ListenError::Setup { step, path: path.to_owned(), source };
    let stat = lstat(path).map_err(failed("look at"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return exists("no socket");
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return exists("a socket of another user");
    }
    let probe = new_socket().map_err(failed("create the socket"))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => {
            unlinkat(CWD, path, rustix::fs::AtFlags::empty()).map_err(failed("remove the old"))
        }
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn refused(path: &Path) -> String {
        let before = fs::symlink_metadata(path).unwrap().ino();
        let error = Listener::open(path, 8).unwrap_err();
        assert_eq!(fs::symlink_metadata(path).unwrap().ino(), before, "it stays");
        error.to_string()
    }

    #[test]
    fn socket_is_for_its_owner_alone_and_gone_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        let listener = Listener::open(&path, 8).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert!(listener.accept().is_ok());
        assert_eq!(listener.accept().unwrap_err(), Errno::AGAIN);
        drop(listener);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_has_the_name_already_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        fs::write(&path, b"mine").unwrap();
        assert!(refused(&path).ends_with("exists and is no socket"));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        assert!(refused(&path).ends_with("exists and is no socket"));
        fs::remove_file(&path).unwrap();
        let held = Listener::open(&path, 8).unwrap();
        assert!(refused(&path).ends_with("vsock is in use by another process"));
        drop(held);
        Listener::open(&path, 8).unwrap();
    }

    #[test]
    fn socket_that_a_killed_monitor_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::open(&path, 8).unwrap();
        UnixStream::connect(&path).unwrap();
        // Somebody replaces the file: it is not ours to remove.
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"theirs").unwrap();
        drop(listener);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    #[test]
    fn of_many_that_start_at_once_one_gets_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock");
        for stale in [false, true] {
            if stale {
                drop(UnixListener::bind(&path).unwrap());
            }
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    let path = path.clone();
                    std::thread::spawn(move || Listener::open(&path, 8))
                })
                .collect();
            let all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            assert_eq!(all.iter().filter(|result| result.is_ok()).count(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn directory_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = Listener::open(&dir.path().join("no/vsock"), 8).unwrap_err();
        assert!(error.to_string().starts_with("open the directory "), "{error}");
    }
}
