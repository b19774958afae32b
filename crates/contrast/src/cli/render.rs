//! `vmm bench render`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::Deserialize;

use super::output::Forms;
use crate::{compare, isolation};

#[derive(Debug, Args)]
pub(super) struct RenderArgs {
    /// The report, as JSON
    report: PathBuf,

    #[command(flatten)]
    forms: Forms,
}

/// What every report says of itself.
#[derive(Deserialize)]
struct Kept {
    form: String,
}

/// Writes a report again, in other forms.
pub(super) fn run(args: &RenderArgs) -> Result<ExitCode> {
    let path = args.report.display();
    let text = fs::read_to_string(&args.report).with_context(|| format!("read {path}"))?;
    let none =
        |why: String| anyhow!("{path} is no report of vmm bench startup or vmm contrast: {why}");
    let kept: Kept = serde_json::from_str(&text).map_err(|error| none(error.to_string()))?;
    if kept.form == isolation::FORM {
        let report = isolation::parse(&text).map_err(none)?;
        let form = |format| isolation::render(&report, format);
        args.forms.open()?.write_forms(form, || isolation::page(&report))?;
    } else {
        args.forms.open()?.write(&compare::parse(&text).map_err(none)?)?;
    }
    Ok(ExitCode::SUCCESS)
}
