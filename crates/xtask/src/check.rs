//! `cargo xtask check`: the lints, for either architecture.

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
use crate::{command, cross};

/// What to check.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The architecture to compile for
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
}

/// The targets of one run. Tests that boot guests declare test = false, which hides them from the first.
const RUNS: [&[&str]; 2] = [&["--all-targets"], &["--test", "*"]];

/// Runs clippy over the workspace; a warning is an error.
///
/// # Errors
/// There was one, or clippy cannot be started.
pub(crate) fn run(arguments: &CheckArgs) -> Result<()> {
    for targets in RUNS {
        let mut clippy = cross::clippy(arguments.arch)?;
        clippy.arg("--workspace").args(targets).args(["--", "-D", "warnings"]);
        command::run_visibly(&mut clippy)?;
    }
    Ok(())
}
