//! `vmm doctor`.

use std::io::{ErrorKind, Write};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::Exit;
use crate::doctor;

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Form of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Prints the report; the exit status says whether guests can run here.
pub(super) fn run(args: &DoctorArgs) -> anyhow::Result<Exit> {
    let report = doctor::examine();
    let text = match args.format {
        Format::Text => report.to_string(),
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("write the report")?,
    }
    Ok(if report.ready { Exit::Success } else { Exit::Host })
}
