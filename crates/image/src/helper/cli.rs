//! The command line of `vmm-image`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde::Serialize;

use super::progress::Mode;
use super::pull::{Pull, pull};
use super::{stage, work};
use crate::client::Pulled;
use crate::inherited;
use crate::oci::Platform;
use crate::reference::{Name, Reference};
use crate::store::{Store, StorePaths};

/// Bring container images into the store of vmm (started by vmm)
#[derive(Debug, Parser)]
#[command(name = "vmm-image", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pull an image; the result is one line of JSON
    #[command(alias = "import")]
    Pull(PullArgs),
    /// Do a part of the work, which standard input says
    #[command(name = stage::COMMAND, hide = true)]
    Stage {
        /// Which one, for who looks at the list of processes
        part: String,
    },
}

#[derive(Debug, Args)]
struct PullArgs {
    /// A name in a registry, or oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:TAG]
    reference: String,
    /// Name of the image, in place of its path or besides that of its registry; repeatable
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<Name>,
    /// What the image is for, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH", default_value_t = Platform::host())]
    platform: Platform,
    /// Speak to the registry without encryption
    #[arg(long)]
    plain_http: bool,
    /// Print no progress
    #[arg(short, long)]
    quiet: bool,
    /// End with the process of this number, whose child this one is
    #[arg(long, value_name = "PID", hide = true)]
    parent: Option<i32>,
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Result {
    Pulled(Pulled),
    Error { what: String, hint: Option<String> },
}

/// Runs the program.
pub fn main() -> ExitCode {
    inherited::hear_of_children();
    // Where there is no /proc, nothing that is started has more than this process.
    let _: io::Result<()> = inherited::keep_files();
    match Cli::parse().command {
        Command::Pull(args) => run(args),
        Command::Stage { .. } => {
            // Whoever started this process is gone if it cannot be answered.
            let answered = stage::answer(&work::perform());
            if answered.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn run(args: PullArgs) -> ExitCode {
    // Nobody would hear what comes of it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // It may have died before that; then the parent is another process.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get());
    if args.parent.is_some() && args.parent != parent {
        return ExitCode::FAILURE;
    }
    let result = perform(args).unwrap_or_else(|(what, hint)| Result::Error { what, hint });
    if let Result::Error { what, hint } = &result
        && io::stdout().is_terminal()
    {
        // For a person who has started this program.
        let hint = hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        let _: io::Result<()> = write!(io::stderr(), "vmm-image: {what}\n{hint}");
        return ExitCode::FAILURE;
    }
    let printed = serde_json::to_writer(io::stdout(), &result).is_ok()
        && io::stdout().write_all(b"\n").is_ok();
    match result {
        Result::Pulled(_) if printed => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn perform(args: PullArgs) -> std::result::Result<Result, (String, Option<String>)> {
    let reference: Reference =
        args.reference.parse().map_err(|error| (format!("{error}"), None))?;
    let mode = Mode::choose(args.quiet);
    let PullArgs { names, platform, plain_http, .. } = args;
    let what = Pull { reference, names, platform, plain_http, mode };
    let store = StorePaths::from_environment().and_then(Store::open);
    let store = store.map_err(|e| (e.to_string(), e.hint().map(str::to_owned)))?;
    let pulled = pull(&store, &what).map_err(|error| (error.to_string(), error.hint()))?;
    Ok(Result::Pulled(pulled))
}
