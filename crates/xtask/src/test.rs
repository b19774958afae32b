//! `cargo xtask test`: every test, each in a place that can run it.
//!
//! Natively: unit tests, the architecture, guests that need no kernel. In the emulated host: the
//! tests that boot Linux guests, which declare `test = false` in their manifest because plain
//! `cargo test` cannot promise them a KVM that runs guest kernels. In the emulated aarch64 host: chosen ones of those,
//! of guests that need no kernel, and of unit tests.

mod draw;
mod foreign;
mod guest;
mod native;
mod usual;

use std::thread;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::arch::Arch;
use crate::totals::Totals;
use crate::{artifacts, kernel};

/// The places of a run that names none.
const USUAL: &[Place] = &[Place::Native, Place::Guest, Place::Aarch64];

/// What to test.
#[derive(Args)]
pub(crate) struct TestArgs {
    /// Only the tests of one place
    #[arg(value_enum)]
    place: Option<Place>,
    /// Only tests whose name contains this
    filter: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// What runs on this machine: unit tests, the architecture, guests without a kernel
    Native,
    /// What boots Linux guests: runs in the emulated host
    Guest,
    /// Chosen tests in the emulated aarch64 host; with a name, whatever bears it there
    Aarch64,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Guest => "emulated host",
            Self::Aarch64 => "emulated aarch64 host",
        }
    }

    /// Runs the tests of this place whose names contain `filter`.
    fn run(self, filter: Option<&str>) -> Result<Totals> {
        match self {
            Self::Native => native::run(filter),
            Self::Guest => guest::run(Arch::X86_64, filter),
            Self::Aarch64 => guest::run(Arch::Aarch64, filter),
        }
    }
}

impl TestArgs {
    /// The places where tests are to run.
    pub(crate) fn places(&self) -> &[Place] {
        self.place.as_ref().map_or(USUAL, std::slice::from_ref)
    }

    /// The architectures of the emulated hosts among them.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Arch> {
        self.places().iter().filter_map(|place| match place {
            Place::Native => None,
            Place::Guest => Some(Arch::X86_64),
            Place::Aarch64 => Some(Arch::Aarch64),
        })
    }
}

/// Runs the tests, prints the totals, and returns the exit status.
///
/// # Errors
/// A place cannot be prepared at all: what should have run there is unknown, so nothing is counted.
pub(crate) fn run(arguments: &TestArgs) -> Result<i32> {
    let filter = arguments.filter.as_deref();
    let results: Vec<_> = thread::scope(|scope| {
        scope.spawn(|| build_kernels(arguments));
        arguments.places().iter().map(|place| (place.name(), place.run(filter))).collect()
    });
    let mut sum = Totals::default();
    println!();
    for (place, totals) in results {
        let totals = totals.unwrap_or_else(|error| {
            eprintln!("test: {place}: could not run: {error:#}");
            Totals { passed: 0, failed: 1 }
        });
        println!("{place}: {totals}");
        sum += totals;
    }
    println!("{sum}");
    Ok(i32::from(sum.failed > 0))
}

/// Builds what the cache lacks of kernels for the emulated hosts. That takes longest of all, and processors that
/// nothing else keeps busy: it goes on beside whatever comes first.
fn build_kernels(arguments: &TestArgs) {
    let flavours = |arch| artifacts::FLAVOURS.iter().map(move |flavour| (*flavour, arch));
    for (flavour, arch) in arguments.hosts().flat_map(flavours) {
        // The place that needs it tries again, and says why it fails.
        let _ = kernel::ensure(flavour, arch);
    }
}
