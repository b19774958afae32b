//! The commands about containers.

mod cp;
mod exec;
mod hidden;
mod kernel;
mod lifecycle;
mod list;
mod logs;
mod run;
mod stats;

use anyhow::Context;
use clap::Subcommand;
use serde_json::Value;

pub(super) use exec::ExecArgs;
pub(super) use hidden::{Hidden, keep, monitor, of as hidden};
pub(super) use lifecycle::ended;
pub(super) use run::{run, timing_text};

use super::images::Format;
use super::{Exit, report};
use crate::container::talk::{Ended, Phase};
use crate::container::{Containers, Paths};

/// The containers of this user.
fn containers() -> anyhow::Result<Containers> {
    let paths = Paths::of_user()?;
    Containers::open(paths).context("open the directories of containers")
}

/// What a container's end means for the command that waited for it.
fn exit(ended: &Ended) -> Exit {
    if let Some(failure) = &ended.error {
        let what = match failure.phase {
            Phase::Exec => failure.cause.clone(),
            phase => format!("{phase}: {}", failure.cause),
        };
        report::container_failure(&what, &failure.details);
    }
    Exit::Command(ended.code)
}

/// The commands about containers that exist.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a further command in a container
    Exec(Box<exec::ExecArgs>),

    /// Connect this terminal to a container's first process
    Attach(exec::AttachArgs),

    /// Copy files between this host and a container
    Cp(cp::CpArgs),

    /// List containers
    Ps(list::PsArgs),

    /// Print what a container printed
    Logs(logs::LogsArgs),

    /// Ask containers to end, and end them
    Stop(lifecycle::StopArgs),

    /// Send containers a signal
    Kill(lifecycle::KillArgs),

    /// Wait until containers end, and print their exit statuses
    Wait(lifecycle::WaitArgs),

    /// Remove containers
    Rm(lifecycle::RmArgs),

    /// Print all there is to know about containers
    Inspect(list::InspectArgs),

    /// Show what containers use, and what their machines take of the host
    Stats(stats::StatsArgs),

    /// List the processes of a container
    Top(stats::TopArgs),
}

impl Command {
    /// Does what it says.
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Exec(args) => exec::exec(*args),
            Self::Attach(args) => exec::attach(&args),
            Self::Cp(args) => cp::cp(&args),
            Self::Ps(args) => list::ps(&args),
            Self::Logs(args) => logs::logs(&args),
            Self::Stop(args) => lifecycle::stop(&args),
            Self::Kill(args) => lifecycle::kill(&args),
            Self::Wait(args) => lifecycle::wait(&args),
            Self::Rm(args) => lifecycle::rm(&args),
            Self::Inspect(args) => list::inspect(&args),
            Self::Stats(args) => stats::stats(&args),
            Self::Top(args) => stats::top(&args),
        }
    }
}

fn print_json(list: &Vec<Value>) -> anyhow::Result<Exit> {
    super::output::print(&super::table::json(list)?)?;
    Ok(Exit::Success)
}
