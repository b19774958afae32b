//! An instance of an arm that goes on until it is ended: started, found among the processes, and removed.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::arm::{Arm, Instance};
use crate::clock::Moment;
use crate::console::{Console, Step};
use crate::launch::Failure;
use crate::processes::{below, is_command};

/// Bytes of standard error that are kept; what comes after that is refused to whoever writes it.
const KEPT: u64 = 16 << 10;
/// How often it is looked whether something has come true.
const STEP: Duration = Duration::from_millis(5);

/// How long something may take, and when no more is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Patience<'a> {
    /// Until an instance has begun.
    pub timeout: Duration,
    /// From then on until it is looked at.
    pub settle: Duration,
    /// Readable when no more is wanted.
    pub interrupt: BorrowedFd<'a>,
}

/// An instance. Dropping it ends and removes it.
pub struct Running<'a> {
    arm: &'a dyn Arm,
    instance: Instance,
    /// The runtime, of one that cannot be left alone.
    child: Option<Child>,
    /// Where the guest of one that is a machine is heard, which has to be there as long as it runs.
    console: Option<(PipeReader, Console)>,
    /// What runs for it.
    processes: HashSet<Pid>,
}

impl<'a> Running<'a> {
    /// Starts an instance that is to run `words`, and waits until it does and has come to rest.
    ///
    /// # Errors
    /// It did not begin, or has ended, or no more is wanted; nothing of it is left then.
    pub fn start(
        arm: &'a dyn Arm,
        name: &str,
        words: &[String],
        patience: &Patience<'_>,
    ) -> Result<Self, Failure> {
        let known = below();
        let instance = Instance { name: name.to_owned() };
        let background = arm.background(&instance);
        let alone = background.is_some();
        let mut command = background.unwrap_or_else(|| arm.command(&instance));
        let errors = bounded_file().map_err(Failure::Start)?;
        let console = arm.console(&instance).filter(|_| !alone);
        let (stdout, console) = output(console).map_err(Failure::Start)?;
        let child = spawn(&mut command, stdout, &errors).map_err(Failure::Start)?;
        let processes = HashSet::new();
        let mut running = Self { arm, instance, child: Some(child), console, processes };
        let begins = |running: &mut Self| running.has_begun(alone, words, &known, &errors);
        running.wait(patience, begins, &errors)?;
        pause(patience.settle, patience.interrupt)?;
        running.processes = &below() - &known;
        let own = running.child.as_ref().map(Pid::from_child);
        let there = running.processes.iter().any(|pid| Some(*pid) != own || !alone);
        if there { Ok(running) } else { Err(Failure::Gone) }
    }

    /// What runs for it.
    pub fn processes(&self) -> impl Iterator<Item = Pid> {
        self.processes.iter().copied()
    }

    fn wait(
        &mut self,
        patience: &Patience<'_>,
        mut begins: impl FnMut(&mut Self) -> Result<bool, Failure>,
        errors: &File,
    ) -> Result<(), Failure> {
        let began = Moment::now();
        while !begins(self)? {
            if Moment::now().since(began) > patience.timeout {
                return Err(Failure::Timeout { time: patience.timeout, errors: text(errors) });
            }
            pause(STEP, patience.interrupt)?;
        }
        Ok(())
    }

    /// Whether it runs: who leaves it alone has ended well by then; who stays has the command below.
    fn has_begun(
        &mut self,
        alone: bool,
        words: &[String],
        known: &HashSet<Pid>,
        errors: &File,
    ) -> Result<bool, Failure> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().map_err(Failure::Watch)?,
            None => None,
        };
        match ended {
            Some(status) => {
                self.child = None;
                self.judge(status, alone, errors)
            }
            None if alone => Ok(false),
            None if self.console.is_some() => self.hear(),
            None => Ok(below().difference(known).any(|pid| is_command(*pid, words))),
        }
    }

    /// Whether the guest has said that its command begins.
    fn hear(&mut self) -> Result<bool, Failure> {
        let Some((pipe, console)) = &mut self.console else { return Ok(false) };
        let mut buffer = [0; 4096];
        while is_ready(pipe.as_fd()) {
            match pipe.read(&mut buffer).map_err(Failure::Watch)? {
                0 => break,
                count => console.hear(buffer.get(..count).unwrap_or_default(), Moment::now()),
            }
        }
        Ok(console.heard().steps.iter().any(|(step, _)| *step == Step::Exec))
    }

    fn judge(&self, status: ExitStatus, alone: bool, errors: &File) -> Result<bool, Failure> {
        match (status.success(), alone) {
            (true, true) => Ok(true),
            (true, false) => Err(Failure::Gone),
            _ => Err(Failure::Status { status, errors: text(errors) }),
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // First, lest it goes on making what is to be removed.
        if let Some(mut child) = self.child.take() {
            // All of it may have ended already.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
        }
        self.arm.clean(&self.instance);
    }
}

/// Where standard output goes: nowhere, unless there is a guest to be heard.
fn output(console: Option<Console>) -> io::Result<(Stdio, Option<(PipeReader, Console)>)> {
    let Some(console) = console else { return Ok((Stdio::null(), None)) };
    let (reader, writer) = io::pipe()?;
    Ok((writer.into(), Some((reader, console))))
}

/// Whether there is something to read, or nothing any more.
fn is_ready(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
}

/// Starts a process whose standard error goes to `errors`.
fn spawn(command: &mut Command, stdout: Stdio, errors: &File) -> io::Result<Child> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(errors.try_clone()?);
    let child = command.process_group(0).spawn();
    // The command keeps its ends, which would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    child
}

/// A file in memory that does not grow, whoever writes to it.
fn bounded_file() -> io::Result<File> {
    let file = memfd_create("errors", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&file, KEPT)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

fn text(errors: &File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![];
    let mut at = 0;
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = errors.read_at(&mut piece, at) {
        bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        at += count as u64;
    }
    String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned()
}

/// Does nothing for some time.
///
/// # Errors
/// No more is wanted.
pub(crate) fn pause(time: Duration, interrupt: BorrowedFd<'_>) -> Result<(), Failure> {
    let began = Moment::now();
    while let Some(left) = time.checked_sub(Moment::now().since(began)).filter(|l| !l.is_zero()) {
        let limit = Timespec::try_from(left).map_err(|_| Failure::Interrupted)?;
        let mut fds = [PollFd::from_borrowed_fd(interrupt.as_fd(), PollFlags::IN)];
        if matches!(poll(&mut fds, Some(&limit)), Ok(1..)) {
            return Err(Failure::Interrupted);
        }
    }
    Ok(())
}
