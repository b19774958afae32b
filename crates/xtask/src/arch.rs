//! The processor architectures that guests and emulated hosts have, and what each is called by whom.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;

/// A processor architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// 64-bit x86
    #[default]
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// The name by which Rust and the kernel's `uname -m` know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// The name by which Debian and container images know it.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The target by which rustc knows it.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// That of this machine.
    ///
    /// # Errors
    /// It is none that this project knows.
    pub(crate) fn native() -> Result<Self> {
        let mut all = Self::value_variants().iter().copied();
        all.find(|arch| arch.is_native()).context("guests run on x86_64 and aarch64 only")
    }

    /// Whether this machine runs its programs.
    pub(crate) fn is_native(self) -> bool {
        self.name() == std::env::consts::ARCH
    }

    /// The Debian package `name` of this architecture, as apt on this machine calls it.
    pub(crate) fn package(self, name: &str) -> String {
        if self.is_native() { name.to_owned() } else { format!("{name}:{}", self.debian()) }
    }

    /// The family of cache entries `kind` of this architecture: those of x86_64 have the plain name.
    pub(crate) fn kind(self, kind: &str) -> String {
        match self {
            Self::X86_64 => kind.to_owned(),
            Self::Aarch64 => format!("{kind}-{self}"),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_command_line_are_those_of_uname() {
        for arch in Arch::value_variants() {
            assert_eq!(Arch::from_str(arch.name(), false), Ok(*arch));
        }
    }

    #[test]
    fn one_architecture_is_native_and_packages_of_the_others_are_qualified() {
        let all = Arch::value_variants().iter().copied();
        let (native, foreign): (Vec<Arch>, Vec<Arch>) = all.partition(|arch| arch.is_native());
        assert!(native.iter().all(|arch| arch.package("busybox") == "busybox"));
        assert!(foreign.iter().any(|arch| arch.package("busybox").starts_with("busybox:")));
        assert_eq!(native.len(), 1);
    }
}
