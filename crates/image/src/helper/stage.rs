//! The process that does a part of the work behind walls, and how it is started.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;

use super::progress::Mode;
use super::wire::{self, Reply, Task, Work};

/// The word that starts it.
pub(super) const COMMAND: &str = "stage";
/// Bytes of its answers, at most.
const MAX_REPLIES: u64 = 4 << 20;
/// What of the environment it gets.
const ENVIRONMENT: [&str; 10] = [
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_COLOR",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "https_proxy",
    "no_proxy",
];

/// Why a part of the work was not done.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// It could not be started.
    #[error("start the {0}: {1}")]
    Start(&'static str, #[source] io::Error),
    /// It found something wrong.
    #[error("{what}")]
    Failed {
        /// What was wrong.
        what: String,
        /// What the user can do.
        hint: Option<String>,
    },
    /// It ended without an answer.
    #[error("the {stage} died of {cause} while {doing}")]
    Died {
        /// Which part.
        stage: &'static str,
        /// A signal, or an exit status.
        cause: String,
        /// What it was doing.
        doing: String,
    },
}

/// Runs a part of the work in a process of its own, which cannot do anything else.
pub(super) fn run(work: Work, mode: Mode, files: &[BorrowedFd<'_>]) -> Result<Reply, StageError> {
    let (name, part) = match work {
        Work::Fetch { .. } => ("image reader", "fetch"),
        Work::Convert { .. } => ("converter", "convert"),
    };
    let start = |error| StageError::Start(name, error);
    let bars = match mode {
        Mode::Quiet => None,
        mode => Some(mode == Mode::Bars),
    };
    let parent = rustix::process::getpid().as_raw_nonzero().get();
    let (mut child, socket) = spawn(part).map_err(start)?;
    let sent = wire::send(&socket, &Task { parent, what: work, bars }, files);
    drop(socket);
    let (reply, doing) = listen(&mut child);
    let status = child.wait().map_err(start)?;
    match reply {
        Some(Reply::Failed { what, hint }) => Err(StageError::Failed { what, hint }),
        Some(reply) if status.success() => Ok(reply),
        _ => {
            // Why nothing could be sent shows in how it ended, if it ended badly.
            if status.success() {
                sent.map_err(start)?;
            }
            Err(StageError::Died { stage: name, cause: cause(status), doing })
        }
    }
}

fn spawn(part: &str) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([COMMAND, part]).env_clear();
    for name in ENVIRONMENT {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
    Ok((command.spawn()?, ours))
}

/// The last answer that is not about what is going on, and what was going on last.
fn listen(child: &mut Child) -> (Option<Reply>, String) {
    let (mut last, mut doing) = (None, "beginning".to_owned());
    let Some(output) = child.stdout.take() else { return (None, doing) };
    for line in BufReader::new(output.take(MAX_REPLIES)).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Reply::Doing(what)) => doing = what.chars().filter(|c| !c.is_control()).collect(),
            Ok(reply) => last = Some(reply),
            Err(_) => {}
        }
    }
    (last, doing)
}

fn cause(status: ExitStatus) -> String {
    match status.signal().and_then(Signal::from_named_raw) {
        Some(signal) => name(signal),
        None => match status.signal() {
            Some(number) => format!("signal {number}"),
            None => format!("exit status {}", status.code().unwrap_or(-1)),
        },
    }
}

fn name(signal: Signal) -> String {
    let name = match signal {
        Signal::ABORT => "SIGABRT (out of memory, or a defect)",
        Signal::BUS => "SIGBUS",
        Signal::ILL => "SIGILL",
        Signal::KILL => "SIGKILL",
        Signal::SEGV => "SIGSEGV",
        Signal::SYS => "SIGSYS",
        Signal::TERM => "SIGTERM",
        Signal::XCPU => "SIGXCPU (too much processor time)",
        Signal::XFSZ => "SIGXFSZ (too large a file)",
        other => return format!("signal {}", other.as_raw()),
    };
    name.to_owned()
}

/// Sends an answer to whoever started this process.
pub(super) fn answer(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    let mut output = io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}

/// What this process was started for, by a parent that is still there.
pub(super) fn task() -> io::Result<(Task, Vec<OwnedFd>)> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (task, files) = wire::receive(&socket)?;
    let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
    if parent != Some(task.parent) {
        return Err(io::Error::other("whoever asked for it is gone"));
    }
    Ok((task, files))
}
