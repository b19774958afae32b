//! Developer commands of the project.

mod archive;
mod cache;
mod command;
mod debian;
mod host;
mod icount;
mod image;
mod kernel;
mod packages;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use host::{HostError, Job};

/// Exit status when the emulated host failed, as opposed to the command in it.
const HOST_FAILED: u8 = 125;

/// Exit status when the command took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Developer commands: guest kernels, root filesystems, test hosts, tests, the demonstration.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Top,
}

#[derive(Subcommand)]
enum Top {
    /// Use the emulated host: a small Debian machine with hardware KVM, on any machine
    #[command(subcommand)]
    Host(HostCommand),
    /// Build guest kernels, and print the path of each
    Kernel(kernel::KernelArgs),
    /// Count the instructions of a guest kernel from its entry to its first process
    Icount(icount::IcountArgs),
}

#[derive(Subcommand)]
enum HostCommand {
    /// Run one command in a fresh emulated host and exit with its status
    ///
    /// The command runs as root in /root with the fresh build of vmm on its PATH; the cache's
    /// kernels and root filesystems are under /srv/vmm. Its streams are ours. Status 125: the host
    /// failed; 124: time ran out; otherwise the command's own.
    Run(RunArgs),
    /// Open a shell in a fresh emulated host; `exit` throws the host away
    Shell(Size),
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    size: Size,
    /// End the command after this long
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Args)]
struct Size {
    /// Copy a file or directory into the host before (may be repeated)
    #[arg(long, value_name = "SRC:DST")]
    copy: Vec<String>,
    /// Processors of the host
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// Memory of the host in MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB")]
    memory: u32,
}

fn main() -> ExitCode {
    if host::init::is_our_role() {
        host::init::main();
    }
    match run() {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(HOST_FAILED)),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            match error.downcast_ref::<HostError>() {
                Some(HostError::TimedOut(_)) => TIMED_OUT.into(),
                Some(_) => HOST_FAILED.into(),
                None => ExitCode::FAILURE,
            }
        }
    }
}

fn run() -> Result<i32> {
    match Cli::parse().command {
        Top::Host(HostCommand::Run(arguments)) => {
            let mut job = job(arguments.command, &arguments.size)?;
            job.timeout = arguments.timeout.map(Duration::from_secs);
            job.run()
        }
        Top::Host(HostCommand::Shell(size)) => {
            let term = std::env::var("TERM").unwrap_or_else(|_| "linux".into());
            let mut job = job(vec!["/bin/bash".into(), "-l".into()], &size)?;
            job.environment.push(("TERM".into(), term));
            job.interact()
        }
        Top::Kernel(arguments) => kernel::run(&arguments).map(|()| 0),
        Top::Icount(arguments) => icount::run(&arguments).map(|()| 0),
    }
}

fn job(command: Vec<OsString>, size: &Size) -> Result<Job> {
    let mut job = Job::new(command);
    job.cpus = size.cpus;
    job.memory_mib = size.memory;
    for copy in &size.copy {
        let (from, to) =
            copy.rsplit_once(':').with_context(|| format!("--copy {copy}: SRC:DST"))?;
        job.copy.push((PathBuf::from(from), PathBuf::from(to)));
    }
    Ok(job)
}
