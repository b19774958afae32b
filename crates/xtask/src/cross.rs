//! Building for a processor that this machine does not have: Debian's compiler, whose standard library
//! for other architectures can be installed beside it.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::arch::Arch;
use crate::{packages, workspace};

/// What builds and lints for aarch64. The compiler of rustup has the standard library of its own machine only.
const PACKAGES: &[&str] = &[
    "gcc-aarch64-linux-gnu",
    "libc6-dev-arm64-cross",
    "libstd-rust-web-dev:arm64",
    "rust-web-clippy",
    "rustc-web",
];

/// Debian's compiler, and its linter, which understands what that compiler wrote and no other.
const RUSTC: &str = "/usr/bin/rustc";
const CLIPPY: &str = "/usr/bin/cargo-clippy";

const LINKER: &str = "aarch64-linux-gnu-gcc";

/// `cargo`, to build for `arch` in the workspace; installs a missing compiler.
///
/// # Errors
/// There is no compiler for `arch` on this machine, or it cannot be installed.
pub(crate) fn cargo(arch: Arch) -> Result<Command> {
    let mut cargo = workspace::cargo();
    target(&mut cargo, arch)?;
    Ok(cargo)
}

/// `cargo clippy` for `arch`, as [`cargo`].
///
/// # Errors
/// As [`cargo`].
pub(crate) fn clippy(arch: Arch) -> Result<Command> {
    let mut clippy = workspace::cargo();
    if !arch.is_native() {
        // It starts the cargo that this variable names, with the linter that lies beside itself.
        let cargo = clippy.get_program().to_owned();
        clippy = Command::new(CLIPPY);
        clippy.env("CARGO", cargo).current_dir(workspace::root());
        workspace::forget_package(&mut clippy);
    }
    clippy.arg("clippy");
    target(&mut clippy, arch)?;
    Ok(clippy)
}

/// Has `cargo` build for `arch`.
fn target(cargo: &mut Command, arch: Arch) -> Result<()> {
    if arch.is_native() {
        return Ok(());
    }
    ensure!(arch == Arch::Aarch64, "this machine has no compiler for {arch}");
    packages::ensure(PACKAGES)?;
    cargo.env("RUSTC", RUSTC).env("CARGO_BUILD_TARGET", arch.target());
    let linker = arch.target().to_uppercase().replace('-', "_");
    cargo.env(format!("CARGO_TARGET_{linker}_LINKER"), LINKER);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_this_machine_are_built_by_its_own_compiler() {
        let native = Arch::native().unwrap();
        let cargo = cargo(native).unwrap();
        assert!(cargo.get_envs().all(|(name, _)| name != "RUSTC"));
        let clippy = clippy(native).unwrap();
        assert_eq!(clippy.get_program(), cargo.get_program());
        assert_eq!(clippy.get_args().next(), Some("clippy".as_ref()));
    }
}
