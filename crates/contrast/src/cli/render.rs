//! `vmm bench render`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::compare::read;
use super::output::Forms;

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// The report, as JSON
    report: PathBuf,

    #[command(flatten)]
    forms: Forms,
}

/// Writes a report again, in other forms.
pub(super) fn run(args: &RenderArgs) -> Result<ExitCode> {
    let report = read(&args.report)?;
    args.forms.open()?.write(&report)?;
    Ok(ExitCode::SUCCESS)
}
