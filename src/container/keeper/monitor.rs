//! The process that is a container's machine, as its keeper waits for it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vmm_protocol::{Refusal, printable};

use super::super::talk::{Failure, Phase};
use super::super::timing::Moment;
use super::{failure, not_now};

/// How long a monitor may take to end and to say why.
const END_TIME: Duration = Duration::from_secs(5);
/// Between the end of a process's connections and its own.
const MOMENT: Duration = Duration::from_millis(500);
/// What is kept of the monitor's messages, in bytes.
const MAX_WORDS: usize = 16 << 10;

/// Why a step was not taken.
pub(super) enum Obstacle {
    /// The monitor ended.
    Died,
    /// Nothing happened for too long.
    Late(&'static str, Duration),
    /// Somebody said no.
    Said(String),
    /// The start is not wanted any more.
    Unwanted(&'static str),
    /// The agent cannot start the process.
    Refused(Refusal, String),
    /// A connection failed.
    Broken(&'static str, io::Error),
}

/// What ends a start.
pub(super) struct Watch {
    /// Where it shows.
    pub(super) fd: OwnedFd,
    /// By what.
    pub(super) events: PollFlags,
    /// What is said then.
    pub(super) what: &'static str,
}

/// The process that is the machine.
pub(super) struct Monitor {
    child: Child,
    pidfd: OwnedFd,
    /// Where it says when its guest begins.
    stdout: ChildStdout,
    stderr: ChildStderr,
    /// The last of what it said.
    words: Vec<u8>,
    /// What ends the start, as long as it lasts.
    watches: Vec<Watch>,
}

impl Monitor {
    pub(super) fn start(mut command: Command, watches: Vec<Watch>) -> io::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let ready = (|| {
            let stderr = child.stderr.take().ok_or(io::ErrorKind::BrokenPipe)?;
            let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
            ioctl_fionbio(&stdout, true)?;
            ioctl_fionbio(&stderr, true)?;
            Ok((pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?, stdout, stderr))
        })();
        match ready {
            Ok((pidfd, stdout, stderr)) => {
                Ok(Self { child, pidfd, stdout, stderr, words: vec![], watches })
            }
            Err(e) => {
                // It is of no use. One that has ended needs no killing.
                let _: io::Result<()> = child.kill();
                child.wait()?;
                Err(e)
            }
        }
    }

    /// When the guest began, once it has.
    pub(super) fn began(&mut self) -> Option<Moment> {
        let mut text = [0; 32];
        let len = self.stdout.read(&mut text).ok()?;
        Moment::parse(std::str::from_utf8(text.get(..len)?).ok()?)
    }

    pub(super) fn number(&self) -> u32 {
        self.child.id()
    }

    /// Readable when it has ended.
    pub(super) fn end_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Readable when it says something.
    pub(super) fn words_fd(&self) -> BorrowedFd<'_> {
        self.stderr.as_fd()
    }

    /// The start is over.
    pub(super) fn has_started(&mut self) {
        self.watches.clear();
    }

    /// Waits until `fd` is ready, while the monitor lives and its start is wanted.
    pub(super) fn wait_for(
        &mut self,
        (fd, interest): (BorrowedFd<'_>, PollFlags),
        end: Instant,
        late: (&'static str, Duration),
    ) -> Result<(), Obstacle> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Obstacle::Late(late.0, late.1));
            }
            let mut fds = vec![
                PollFd::from_borrowed_fd(fd, interest),
                PollFd::new(&self.pidfd, PollFlags::IN),
                PollFd::new(&self.stderr, PollFlags::IN),
            ];
            fds.extend(self.watches.iter().map(|watch| PollFd::new(&watch.fd, watch.events)));
            let _ = poll(&mut fds, Timespec::try_from(left).ok().as_ref());
            let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
            let (ready, ended, said) = (is_ready(0), is_ready(1), is_ready(2));
            let unwanted = (3..).zip(&self.watches).find(|(at, _)| is_ready(*at));
            if let Some((_, watch)) = unwanted {
                return Err(Obstacle::Unwanted(watch.what));
            }
            if said && !ended {
                self.listen();
            }
            if ready {
                return Ok(());
            }
            if ended {
                return Err(Obstacle::Died);
            }
        }
    }

    /// Takes what it said.
    pub(super) fn listen(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.stderr.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => {
                    self.words.extend_from_slice(bytes.get(..count).unwrap_or_default());
                    let over = self.words.len().saturating_sub(MAX_WORDS);
                    self.words.drain(..over);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if not_now(&e) => return,
                Err(_) => return,
            }
        }
    }

    /// Whether it has ended. One that is about to, as its connections are gone already, gets a moment.
    pub(super) fn has_ended(&mut self) -> bool {
        self.wait(MOMENT);
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end, so long at most.
    pub(super) fn wait(&mut self, limit: Duration) {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let _ = poll(&mut fds, Timespec::try_from(limit).ok().as_ref());
    }

    /// Ends it as it is.
    pub(super) fn kill(&mut self) {
        // It may have ended already, and has then been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What stopped the start, in one line.
    pub(super) fn cause(&mut self, obstacle: Obstacle) -> String {
        match obstacle {
            Obstacle::Died => {
                self.wait(END_TIME);
                match self.child.try_wait().ok().flatten() {
                    Some(status) if status.success() => "the guest powered off".to_owned(),
                    Some(status) => format!("the machine ended ({status})"),
                    None => "the machine ended".to_owned(),
                }
            }
            Obstacle::Late(what, limit) => format!("{what} within {} s", limit.as_secs()),
            Obstacle::Said(text) | Obstacle::Refused(_, text) => text,
            Obstacle::Unwanted(what) => {
                // Nobody hears what the machine has to say.
                self.kill();
                what.to_owned()
            }
            // A machine that is about to end says more.
            Obstacle::Broken(..) if self.has_ended() => self.cause(Obstacle::Died),
            Obstacle::Broken(what, e) => format!("{what}: {e}"),
        }
    }

    /// Ends the machine, and adds its own words to what is known.
    pub(super) fn explain(&mut self, phase: Phase, cause: String) -> Failure {
        // Asked to end, it says what its guest last printed.
        let _ = pidfd_send_signal(&self.pidfd, Signal::TERM);
        self.wait(END_TIME);
        self.kill();
        self.listen();
        let words = String::from_utf8_lossy(&self.words);
        failure(phase, cause, words.lines().map(printable).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.kill();
    }
}
