//! Writes the man page and the shell completions of `vmm` into a directory.
//!
//! Usage: reference DIRECTORY (`cargo xtask docs` calls it).

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap_complete::Shell;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("usage: reference DIRECTORY")?;
    let directory = PathBuf::from(directory);
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    let mut command = vmm::cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let file = clap_complete::generate_to(shell, &mut command, "vmm", &directory)?;
        println!("{}", file.display());
    }
    clap_mangen::generate_to(command, &directory)?;
    for entry in fs::read_dir(&directory)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "1") {
            println!("{}", file.display());
        }
    }
    Ok(())
}
