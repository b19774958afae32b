//! The `vmm` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::run(std::env::args_os())
}
