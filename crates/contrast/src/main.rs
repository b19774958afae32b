//! `vmm-contrast`: what a virtual machine costs over a container, measured.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm_contrast::cli::main()
}
