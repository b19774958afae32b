//! `vmm exec` and `vmm attach`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use rustix::stdio::stdin;
use rustix::termios::isatty;
use vmm_protocol::{Further, Request};

use super::super::output::unwritten;
use super::super::{Exit, report};
use super::{containers, exit};
use crate::container::client::{Left, Peer, Streams, attend, terminal_size};
use crate::container::nouns::EnvEntry;
use crate::container::{Container, Containers, DetachKeys, Status, call, framed};

#[derive(Debug, Default, Args)]
#[command(override_usage = "vmm exec [OPTIONS] CONTAINER COMMAND [ARGUMENT]...")]
pub(in super::super) struct ExecArgs {
    /// Keep standard input open for the command
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,

    /// Leave it running in the background; what it prints is lost
    #[arg(short, long)]
    detach: bool,

    /// Set a variable of the environment; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<EnvEntry>,

    /// Set variables from a file of NAME=VALUE lines; repeatable
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,

    /// Working directory of the command
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// User and group to run as
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Container by name or identifier; then command and arguments
    // One argument: the container ends the flags.
    #[arg(value_names = ["CONTAINER", "COMMAND"], required = true, num_args = 2.., trailing_var_arg = true)]
    pub(in super::super) words: Vec<String>,
}

impl ExecArgs {
    /// What a line means that has no flags, from the container on; nothing if it is no such line.
    pub(in super::super) fn without_flags(words: &[OsString]) -> Option<Self> {
        let words: Vec<_> =
            words.iter().map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>()?;
        let is_plain = words.len() > 1 && words.first().is_some_and(|word| !word.starts_with('-'));
        is_plain.then(|| Self { words, ..Self::default() })
    }

    fn container(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }
}

#[derive(Debug, Args)]
pub(in super::super) struct AttachArgs {
    /// Leave standard input alone
    #[arg(long)]
    no_stdin: bool,

    /// Keep signals from the container
    #[arg(long)]
    no_sig_proxy: bool,

    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,

    /// Container by name or identifier
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Runs a further command in a container.
pub(in super::super) fn exec(args: ExecArgs) -> anyhow::Result<Exit> {
    if args.tty && args.interactive && !args.detach && !isatty(stdin()) {
        bail!("-t needs a terminal, and standard input is none; leave -t out");
    }
    let containers = containers()?;
    let meant = containers.sockets(args.container())?;
    let container = args.container().to_owned();
    let input = args.interactive && !args.detach;
    let streams = Streams {
        input,
        terminal: args.tty,
        signals: true,
        detach: args.detach_keys.clone(),
        until_started: args.detach,
    };
    let frame = framed(&Request::Exec(Box::new(process(args)?)))?;
    let socket = match meant.map(|directory| call::session_in(&directory, &frame)) {
        Some(Ok(socket)) => socket,
        // A closer look says what is wrong, or which container is meant.
        _ => call::session_in(running(&containers, &container)?.sockets(), &frame)
            .context("reach the agent of the container")?,
    };
    let left = attend(socket, Peer::Agent, &streams, report::note);
    Ok(match left.context("hear the agent of the container")? {
        Left::Ended(ended) => exit(&ended),
        Left::Cancelled(signal) => Exit::Signal(u8::try_from(signal).unwrap_or(0)),
        Left::Detached => Exit::Success,
        // The agent ends what has lost its connection.
        Left::Unread(error) => return Err(unwritten(error)),
    })
}

/// The process: as the container's first one, but for what is said otherwise.
fn process(args: ExecArgs) -> anyhow::Result<Further> {
    let mut env = vec![];
    if args.tty {
        env.push(("TERM".to_owned(), Some("xterm".to_owned())));
    }
    for path in &args.env_file {
        let entries =
            EnvEntry::of_file(path).with_context(|| format!("read {}", path.display()))?;
        env.extend(entries.into_iter().map(EnvEntry::told));
    }
    env.extend(args.env.into_iter().map(EnvEntry::told));
    let size = vmm_protocol::TerminalSize { rows: 24, columns: 80 };
    Ok(Further {
        args: args.words.into_iter().skip(1).collect(),
        env,
        cwd: args.workdir,
        user: args.user,
        terminal: args.tty.then(|| terminal_size().unwrap_or(size)),
        stdin: args.interactive && !args.detach,
    })
}

/// Connects this terminal to a container's first process.
pub(in super::super) fn attach(args: &AttachArgs) -> anyhow::Result<Exit> {
    let container = running(&containers()?, &args.container)?;
    let start = &container.spec().start;
    let streams = Streams {
        input: start.stdin && !args.no_stdin,
        terminal: start.terminal.is_some(),
        signals: !args.no_sig_proxy,
        detach: args.detach_keys.clone(),
        until_started: false,
    };
    let socket = call::attach(&container, streams.input).context("reach the keeper")?;
    match attend(socket, Peer::Keeper, &streams, report::note)
        .context("hear the keeper of the container")?
    {
        Left::Ended(ended) => Ok(exit(&ended)),
        Left::Cancelled(signal) => Ok(Exit::Signal(u8::try_from(signal).unwrap_or(0))),
        Left::Detached => {
            report::note(&format!("{} goes on", container.spec().name.as_str()));
            Ok(Exit::Success)
        }
        Left::Unread(error) => Err(unwritten(error)),
    }
}

fn running(containers: &Containers, key: &str) -> anyhow::Result<Container> {
    match containers.find(key)? {
        (container, Status::Running { .. } | Status::Created) => Ok(container),
        (_, Status::Exited { .. }) => bail!("container {key} does not run"),
    }
}
