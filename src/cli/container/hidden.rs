//! The processes that a container consists of on the host. They are started by other commands.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use anyhow::Context;
use clap::Args;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use rustix::stdio::{dup2_stdin, dup2_stdout, stdin, stdout};

use super::super::{Exit, boot};
use crate::container;
use vmm_image::inherited;

#[derive(Debug, Args)]
pub(in super::super) struct KeepArgs {
    /// Identifier of the container
    id: String,
}

/// Looks after a container. Standard input is the connection of the command that wants it, standard
/// output the container's lock.
pub(in super::super) fn keep(args: &KeepArgs) -> anyhow::Result<Exit> {
    inherited::heed_signals();
    let command = UnixStream::from(take(stdin())?);
    let lock = take(stdout())?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    // What is started from here on inherits neither.
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    container::keep(&super::containers()?, &args.id, lock, command)?;
    Ok(Exit::Success)
}

/// A descriptor of this process's own, out of the way of the standard streams.
fn take(stream: impl std::os::fd::AsFd) -> anyhow::Result<OwnedFd> {
    let fd = fcntl_dupfd_cloexec(stream, 3).context("take over an open file")?;
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

#[derive(Debug, Args)]
pub(in super::super) struct MonitorArgs {
    /// Process number of the keeper
    #[arg(long, value_name = "NUMBER")]
    keeper: i32,

    #[command(flatten)]
    boot: boot::BootArgs,
}

/// Runs the machine of a container; dies with the keeper that started it.
pub(in super::super) fn monitor(args: MonitorArgs) -> anyhow::Result<Exit> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("die with the keeper")?;
    // It may have died before that; then the parent is another process.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    anyhow::ensure!(parent == Some(args.keeper), "the keeper has died");
    // Its kernel was looked at when the container was made.
    boot::run_container(args.boot)
}
