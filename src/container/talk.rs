//! What commands and the keeper of a container say to each other, over its socket `attach.sock`.
//!
//! A command's first message is [`Ask::Attach`]. Output goes to it as `Stdout` and `Stderr` frames; input
//! comes as `Stdin`, within the credit that the keeper gives. [`Tell::Ended`] is the last message.

use serde::{Deserialize, Serialize};
use vmm_protocol::{Process, Stats, TerminalSize};

use super::timing::Moments;

/// The name of the keeper's socket.
pub(super) const SOCKET: &str = "attach.sock";

/// From a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// What this connection is for.
    Attach {
        /// Whether it wants output.
        output: bool,
        /// Whether it will send input.
        input: bool,
    },
    /// No more input follows.
    StdinEof,
    /// The size of the command's terminal.
    Resize(TerminalSize),
    /// A signal for the container's first process.
    Signal(u8),
    /// End the machine as it is.
    Destroy,
    /// How much the container uses.
    Stats,
    /// What runs in it.
    Processes,
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tell {
    /// Something the user should know, in one line.
    Note(String),
    /// The first process runs.
    Started,
    /// So many more bytes of input may be sent.
    Credit(u32),
    /// Answers [`Ask::Stats`].
    Stats(Stats),
    /// Answers [`Ask::Processes`].
    Processes(Vec<Process>),
    /// It has ended, and nothing of it runs any more.
    Ended(Ended),
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status, docker's conventions.
    pub code: u8,
    /// Whether its memory limit ended it.
    pub oom: bool,
    /// Why it could not start, or did not end by itself.
    pub error: Option<Failure>,
    /// When it came how far.
    pub moments: Moments,
}

impl Ended {
    /// The end of a process that ran.
    pub fn with(code: u8, oom: bool) -> Self {
        Self { code, oom, error: None, moments: Moments::default() }
    }
}

/// A start, or a machine, that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// How far it came.
    pub phase: Phase,
    /// Why it went no further, in one line.
    pub cause: String,
    /// What the monitor said last, line by line: with a guest that failed, its console.
    pub details: Vec<String>,
}

/// The steps of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The host makes files and starts the monitor.
    Setup,
    /// The guest's kernel starts, up to the agent.
    Boot,
    /// The agent prepares the container's surroundings.
    Agent,
    /// The first process is started.
    Exec,
    /// It runs.
    Run,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Setup => "setup",
            Self::Boot => "boot",
            Self::Agent => "agent",
            Self::Exec => "exec",
            Self::Run => "run",
        })
    }
}
