//! `vmm bench compare`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};

use super::output::Output;
use crate::compare::{compare, parse};
use crate::report::Report;

/// Something takes longer than before.
const SLOWER: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// The report from before, as JSON
    before: PathBuf,
    /// The report from after
    after: PathBuf,
    /// Form of the comparison
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Status 1 when an arm takes longer and nothing speaks against the comparison.
pub(super) fn run(args: &CompareArgs) -> Result<ExitCode> {
    let comparison = compare(&read(&args.before)?, &read(&args.after)?);
    let text = match args.format {
        Form::Table => comparison.table(),
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&comparison)?),
    };
    Output::open(None)?.write(&text)?;
    let slower = comparison.valid && comparison.changes.iter().any(|change| change.slower);
    Ok(if slower { SLOWER.into() } else { ExitCode::SUCCESS })
}

/// Reads a report of `startup`.
///
/// # Errors
/// There is none in the file.
fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text)
        .map_err(|why| anyhow!("{} is no report of vmm bench startup: {why}", path.display()))
}
