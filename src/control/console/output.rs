//! From the guest's console to its reader.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::devices::console::ConsoleOutput;
use crate::machine::Pty;

/// Bytes written at a time: what a pipe that is ready takes without waiting (PIPE_BUF).
const CHUNK: usize = 4096;
/// Chunks written before other events get their turn.
const CHUNKS_PER_TURN: usize = 32;

/// How long the end of a machine waits for the reader of what the guest printed last.
const PATIENCE: Duration = Duration::from_millis(500);

/// Where the console's output goes, written without ever waiting for its reader.
pub(super) struct Output {
    /// A file or a pseudo-terminal of our own; or a second opening of the pipe or terminal on
    /// standard output, non-blocking: setting the mode on descriptor 1 itself would change it for
    /// every process that shares it.
    own: Option<File>,
    /// Kept as long as there is something to write to.
    _pty: Option<Pty>,
    gone: bool,
}

impl Output {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        Self { own: reopen(), _pty: None, gone: false }
    }

    /// A file, or the monitor's side of `pty`.
    pub(super) fn to(file: File, pty: Option<Pty>) -> Self {
        Self { own: Some(file), _pty: pty, gone: false }
    }

    /// The descriptor to wait for when it is full.
    pub(super) fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Writes what is pending; true when the reader takes no more for now.
    ///
    /// Once the reader is gone, output counts as passed on: the machine does not depend on it.
    /// A guest that prints faster than this writes gets a new turn, after the other events.
    pub(super) fn drain(&mut self, console: &ConsoleOutput) -> bool {
        let mut chunk = [0; CHUNK];
        for _ in 0..CHUNKS_PER_TURN {
            let count = console.pending(&mut chunk);
            let bytes = chunk.get(..count).unwrap_or_default();
            if bytes.is_empty() {
                return false;
            }
            match self.write(bytes) {
                Ok(written) => console.pass_on(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                // A reader that is gone wants nothing more, and misses nothing.
                Err(Errno::PIPE) => self.gone = true,
                // A full disk may have room again; what it did not take is lost.
                Err(_) => console.give_up(),
            }
        }
        let _ = console.wake().write(1);
        false
    }

    /// Writes what is pending when no more will come, and waits a moment for a reader that is
    /// slow; what it does not take then is dropped.
    pub(super) fn finish(&mut self, console: &ConsoleOutput) {
        let deadline = Instant::now() + PATIENCE;
        while self.drain(console) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !wait_writable(self.as_fd(), left) {
                break;
            }
        }
        console.give_up();
    }

    fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if self.gone {
            return Ok(bytes.len());
        }
        if self.own.is_none() && !wait_writable(self.as_fd(), Duration::ZERO) {
            return Err(Errno::AGAIN);
        }
        rustix::io::write(self.as_fd(), bytes)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own.as_ref().map_or(rustix::stdio::stdout(), File::as_fd)
    }
}

/// Opens the pipe or character device on descriptor 1 again. Files need it as little as they
/// can be waited for; sockets cannot be reopened.
fn reopen() -> Option<File> {
    let stat = rustix::fs::fstat(rustix::stdio::stdout()).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo | FileType::CharacterDevice => {}
        _ => return None,
    }
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).ok()?;
    OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1").ok()
}

fn wait_writable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let timeout = Timespec::try_from(patience).ok();
    poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;
    use std::thread::{sleep, spawn};

    use super::*;

    /// An output to a pipe that is full.
    fn full() -> (Output, std::io::PipeReader) {
        let (reader, writer) = pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        rustix::fs::fcntl_setfl(&file, OFlags::NONBLOCK).unwrap();
        while rustix::io::write(&file, &[b'.'; CHUNK]).is_ok() {}
        (Output::to(file, None), reader)
    }

    fn printed(text: &[u8]) -> ConsoleOutput {
        let console = ConsoleOutput::new(true).unwrap();
        console.push(text);
        console
    }

    #[test]
    fn last_words_wait_for_a_slow_reader() {
        let (mut output, mut reader) = full();
        let console = printed(b"last words");
        let slow = spawn(move || {
            sleep(Duration::from_millis(20));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        output.finish(&console);
        drop(output);
        assert!(slow.join().unwrap().ends_with(b"last words"));
        assert_eq!(console.counters().dropped.get(), 0);
    }

    #[test]
    fn last_words_that_nobody_reads_are_given_up_and_counted() {
        let (mut output, _reader) = full();
        let console = printed(b"last words");
        let start = Instant::now();
        output.finish(&console);
        assert!(start.elapsed() < 10 * PATIENCE);
        assert_eq!(console.counters().dropped.get(), 10);
    }
}
