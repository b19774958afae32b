//! `cargo xtask docs`: the man pages and shell completions, from the command line's own description.

use anyhow::{Context, Result, ensure};

use crate::{command, workspace};

/// Writes them to `target/docs` and prints their paths.
///
/// # Errors
/// They cannot be built or written.
pub(crate) fn run() -> Result<()> {
    let directory = workspace::root().join("target/docs");
    let mut cargo = workspace::cargo();
    cargo.args(["run", "--quiet", "--package", "vmm", "--example", "reference", "--"]);
    cargo.arg(&directory);
    let line = command::describe(&cargo);
    let status = cargo.status().with_context(|| format!("start `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}
