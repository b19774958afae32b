//! `cargo xtask docs`: what of the documentation is made, not written. The man pages and shell completions, from the
//! command line's own description, and the tables of the lesson, from measurements.

mod lesson;
mod tables;

use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::{command, workspace};

/// What to make.
#[derive(Args)]
pub(crate) struct DocsArgs {
    /// Only one of them
    #[arg(value_enum)]
    part: Option<Part>,
    /// Use the last measurements of the lesson again
    #[arg(long)]
    measured: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Man pages and shell completions, in target/docs
    Reference,
    /// The tables of docs/contrast.md
    Lesson,
}

/// Makes what is asked for, or all of it.
///
/// # Errors
/// Something cannot be built, measured or written.
pub(crate) fn run(arguments: &DocsArgs) -> Result<()> {
    if arguments.part != Some(Part::Lesson) {
        reference(&workspace::root().join("target/docs"))?;
    }
    if arguments.part != Some(Part::Reference) {
        lesson::write(arguments.measured)?;
    }
    Ok(())
}

/// Writes man pages and shell completions into `directory`, which has nothing else afterwards.
///
/// # Errors
/// They cannot be made or written.
pub(crate) fn reference(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--package", "vmm", "--example", "reference", "--"]);
    cargo.arg(directory).stdout(io::stderr());
    let line = command::describe(&cargo);
    let status = cargo.status().with_context(|| format!("start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}
