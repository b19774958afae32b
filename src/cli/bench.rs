//! `vmm bench` and `vmm contrast`: done by the program `vmm-contrast`, whose arguments these are.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use clap::Args;
use vmm_image::client::find_program;

use super::Exit;

/// The program.
const PROGRAM: &str = "vmm-contrast";

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// What to measure, and how; `--help` says it
    #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Becomes that program, for its `command`.
pub(super) fn run(command: &str, args: &BenchArgs) -> anyhow::Result<Exit> {
    let program = find_program(PROGRAM)?;
    let own = std::env::current_exe().context("find this program")?;
    let mut line = Command::new(&program);
    line.arg(command).args(&args.arguments).env("VMM_PROGRAM", own);
    Err(line.exec()).with_context(|| format!("start {}", program.display()))
}
