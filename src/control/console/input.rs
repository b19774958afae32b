//! From the user to the guest's console.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::escape::{Escape, Key};
use crate::devices::console::InputSink;

/// Bytes held for a guest that does not read.
const HELD: usize = 4096;
/// Bytes read at a time.
const CHUNK: usize = 512;

/// What reading brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// At most input for the guest.
    Input,
    /// The user wants to leave.
    Quit,
}

/// A descriptor that is read without ever waiting. Others may read the same pipe or terminal: what
/// was there when it was announced may be gone by then. To set O_NONBLOCK on a descriptor that is
/// shared would change it for all who share it.
#[derive(Debug)]
enum Source {
    /// An opening of our own, non-blocking.
    Own(File),
    /// A socket, where each read says that it does not wait.
    Socket(OwnedFd),
    /// A file, which never waits; or what cannot be opened again, such as a terminal of another
    /// user, which is asked first.
    Shared(OwnedFd),
}

impl Source {
    /// What `fd` is, to be read from here.
    fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
        let reopened = match kind {
            FileType::Fifo | FileType::CharacterDevice => reopen(fd),
            _ => None,
        };
        Ok(match reopened {
            Some(file) => Self::Own(file),
            None if kind == FileType::Socket => Self::Socket(fd.try_clone_to_owned()?),
            None => Self::Shared(fd.try_clone_to_owned()?),
        })
    }

    fn read(&self, bytes: &mut [u8]) -> Result<usize, Errno> {
        match self {
            Self::Own(file) => rustix::io::read(file, bytes),
            Self::Socket(fd) => recv(fd, bytes, RecvFlags::DONTWAIT).map(|(_, count)| count),
            Self::Shared(fd) if is_readable(fd.as_fd()) => rustix::io::read(fd, bytes),
            Self::Shared(_) => Err(Errno::AGAIN),
        }
    }

    fn fd(&self) -> RawFd {
        match self {
            Self::Own(file) => file.as_raw_fd(),
            Self::Socket(fd) | Self::Shared(fd) => fd.as_raw_fd(),
        }
    }
}

/// A second, non-blocking opening of the pipe or character device `fd`.
fn reopen(fd: BorrowedFd<'_>) -> Option<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).ok()?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(flags).open(path).ok()
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// What the user types: on a terminal with an escape key, or as a stream of bytes.
///
/// From a terminal everything is read at once, so that the escape always works, and what a
/// guest does not take is lost beyond 4 KiB. A stream is left unread while the guest is slow.
pub(super) struct Input {
    /// Kept open at its end, because the event loop knows it by its descriptor.
    source: Option<Source>,
    ended: bool,
    escape: Option<Escape>,
    held: VecDeque<u8>,
    can_wait: bool,
}

impl Input {
    /// No input at all: nothing is touched.
    pub(super) fn none() -> Self {
        Self { source: None, ended: false, escape: None, held: VecDeque::new(), can_wait: true }
    }

    /// Standard input, which is a `terminal` in raw mode or a stream.
    ///
    /// # Errors
    /// The host gives no further descriptor.
    pub(super) fn stdin(terminal: bool) -> io::Result<Self> {
        let source = Some(Source::of(rustix::stdio::stdin())?);
        Ok(Self { source, escape: terminal.then(Escape::default), ..Self::none() })
    }

    /// A stream that is non-blocking already and not shared.
    pub(super) fn own(file: File) -> Self {
        Self { source: Some(Source::Own(file)), ..Self::none() }
    }

    /// The descriptor to wait for, while more input could be used.
    pub(super) fn wanted(&self) -> Option<RawFd> {
        // A descriptor that epoll refuses, such as a file, is always ready: a guest that has room
        // again is then the only event it needs.
        if self.wants_more() && self.can_wait { self.source.as_ref().map(Source::fd) } else { None }
    }

    fn wants_more(&self) -> bool {
        self.source.is_some() && !self.ended && (self.escape.is_some() || self.held.is_empty())
    }

    /// The event loop cannot wait for the descriptor: it is always ready.
    pub(super) fn cannot_wait(&mut self) {
        self.can_wait = false;
    }

    /// Reads what is there without waiting.
    pub(super) fn read(&mut self) -> Typed {
        let Some(source) = self.source.as_ref().filter(|_| self.wants_more()) else {
            return Typed::Input;
        };
        let mut chunk = [0; CHUNK];
        match source.read(&mut chunk) {
            Ok(count @ 1..) => self.take(chunk.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => Typed::Input,
            Ok(_) | Err(_) => {
                self.ended = true;
                Typed::Input
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Typed {
        for byte in bytes {
            let key = self.escape.as_mut().map_or(Key::Byte(*byte), |escape| escape.key(*byte));
            match key {
                Key::Byte(byte) if self.held.len() < HELD => self.held.push_back(byte),
                Key::Byte(_) | Key::Nothing => {}
                Key::Quit => return Typed::Quit,
            }
        }
        Typed::Input
    }

    /// Gives the guest what its device takes.
    pub(super) fn hand_on(&mut self, guest: &dyn InputSink) {
        let room = guest.room().min(self.held.len());
        let bytes: Vec<u8> = self.held.iter().take(room).copied().collect();
        let taken = guest.give(&bytes);
        self.held.drain(..taken);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write, pipe};
    use std::os::unix::net::UnixStream;

    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

    use super::*;
    use crate::devices::console::ConsoleInput;

    fn input(escape: Option<Escape>) -> Input {
        let file = File::open("/dev/null").unwrap();
        Input { source: Some(Source::Own(file)), escape, ..Input::none() }
    }

    /// S1: a flood of typed bytes is bounded, and the escape still works.
    #[test]
    fn typed_flood_is_bounded_and_the_escape_still_quits() {
        let mut input = input(Some(Escape::default()));
        for _ in 0..100 {
            assert_eq!(input.take(&[b'a'; 1000]), Typed::Input);
        }
        assert_eq!(input.held.len(), HELD);
        assert!(input.wanted().is_some());
        assert_eq!(input.take(b"\x01x"), Typed::Quit);
    }

    #[test]
    fn no_input_wants_nothing() {
        assert!(Input::none().wanted().is_none());
    }

    /// S1: a stream is not read while the guest has not taken what was read before.
    #[test]
    fn stream_waits_for_the_guest_and_knows_no_escape() {
        let mut input = input(None);
        assert!(input.wanted().is_some());
        assert_eq!(input.take(b"\x01x"), Typed::Input);
        assert_eq!(input.held, [1, b'x']);
        assert!(input.wanted().is_none());
        input.hand_on(&ConsoleInput::new().unwrap());
        assert!(input.wanted().is_some());
    }

    /// What can be standard input, with a function that types into it.
    fn sources() -> Vec<(&'static str, OwnedFd, Box<dyn Write>)> {
        let (reader, writer) = pipe().unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut modes = rustix::termios::tcgetattr(&terminal).unwrap();
        modes.make_raw();
        rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &modes)
            .unwrap();
        vec![
            ("pipe", reader.into(), Box::new(writer)),
            ("socket", near.into(), Box::new(far)),
            ("terminal", terminal, Box::new(File::from(master))),
        ]
    }

    /// A second reader takes what was announced: nobody waits, and the descriptor that others
    /// share stays as it was.
    #[test]
    fn input_that_somebody_else_has_read_is_not_waited_for() {
        for (name, fd, mut user) in sources() {
            let flags = rustix::fs::fcntl_getfl(&fd).unwrap();
            let source = Source::of(fd.as_fd()).unwrap();
            assert!(!matches!(source, Source::Shared(_)), "{name}");
            user.write_all(b"stolen").unwrap();
            user.flush().unwrap();
            assert!(is_readable(fd.as_fd()), "{name}");
            let mut bytes = [0; 16];
            assert_eq!(File::from(fd.try_clone().unwrap()).read(&mut bytes).unwrap(), 6, "{name}");
            assert_eq!(source.read(&mut bytes), Err(Errno::AGAIN), "{name}");
            user.write_all(b"mine").unwrap();
            assert_eq!(source.read(&mut bytes), Ok(4), "{name}");
            assert_eq!(&bytes[..4], b"mine", "{name}");
            assert_eq!(rustix::fs::fcntl_getfl(&fd).unwrap(), flags, "{name}");
        }
    }

    #[test]
    fn file_is_read_from_where_its_descriptor_stands() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"headrest").unwrap();
        file.seek(std::io::SeekFrom::Start(4)).unwrap();
        let source = Source::of(file.as_fd()).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(source.read(&mut bytes), Ok(4));
        assert_eq!(&bytes[..4], b"rest");
        assert_eq!(source.read(&mut bytes), Ok(0));
    }
}
