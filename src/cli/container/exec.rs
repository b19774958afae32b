//! `vmm exec` and `vmm attach`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use rustix::stdio::stdin;
use rustix::termios::isatty;
use vmm_protocol::{Role, Start};

use super::super::output::unwritten;
use super::super::{Exit, report};
use super::{containers, exit};
use crate::container::client::{Left, Peer, Streams, attend, terminal_size};
use crate::container::nouns::{EnvEntry, Environment};
use crate::container::{Container, DetachKeys, Status, call, sendable};

#[derive(Debug, Args)]
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
    fn container(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
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
    let container = running(args.container())?;
    let input = args.interactive && !args.detach;
    let streams = Streams {
        input,
        terminal: args.tty,
        signals: true,
        detach: args.detach_keys.clone(),
        until_started: args.detach,
    };
    let start = process(&container, args)?;
    let socket = call::exec(&container, start).context("reach the agent of the container")?;
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
fn process(container: &Container, args: ExecArgs) -> anyhow::Result<Start> {
    let first = &container.spec().start;
    let mut variables = Environment::default();
    for (name, value) in first.env.iter().filter_map(|entry| entry.split_once('=')) {
        variables.set(name, value);
    }
    if args.tty {
        variables.set("TERM", "xterm");
    }
    for path in &args.env_file {
        let entries =
            EnvEntry::of_file(path).with_context(|| format!("read {}", path.display()))?;
        entries.iter().for_each(|entry| entry.apply(&mut variables));
    }
    args.env.iter().for_each(|entry| entry.apply(&mut variables));
    let size = vmm_protocol::TerminalSize { rows: 24, columns: 80 };
    let start = Start {
        role: Role::Exec,
        args: args.command().to_vec(),
        env: variables.into_entries(),
        cwd: args.workdir.unwrap_or_else(|| first.cwd.clone()),
        user: args.user.unwrap_or_else(|| first.user.clone()),
        terminal: args.tty.then(|| terminal_size().unwrap_or(size)),
        stdin: args.interactive && !args.detach,
        init: false,
        ..first.clone()
    };
    Ok(sendable(start)?)
}

/// Connects this terminal to a container's first process.
pub(in super::super) fn attach(args: &AttachArgs) -> anyhow::Result<Exit> {
    let container = running(&args.container)?;
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

fn running(key: &str) -> anyhow::Result<Container> {
    match containers()?.find(key)? {
        (container, Status::Running { .. } | Status::Created) => Ok(container),
        (_, Status::Exited { .. }) => bail!("container {key} does not run"),
    }
}
