//! `cargo xtask test`: every test, each in a place that can run it.
//!
//! Natively: unit tests, the architecture, guests that need no kernel. In the emulated host: the
//! tests that boot Linux guests, which declare `test = false` in their manifest because plain
//! `cargo test` cannot promise them a KVM that runs guest kernels.

mod draw;
mod guest;

use std::io;
use std::process::Stdio;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use crate::totals::{Counter, Totals};
use crate::{command, packages, workspace};

/// What the native tests call: a compiler for guest programs, network interfaces, namespaces, what
/// else reads images, a shell for containers, and a browser for pages.
const NATIVE_PACKAGES: &[&str] = &[
    "busybox-static",
    "chromium",
    "docker-registry",
    "erofs-utils",
    "gcc",
    "iproute2",
    "libc6-dev",
    "openssl",
    "tar",
    "umoci",
    "util-linux",
];

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
enum Place {
    /// What runs on this machine: unit tests, the architecture, guests without a kernel
    Native,
    /// What boots Linux guests: runs in the emulated host
    Guest,
}

/// Runs the tests, prints the totals, and returns the exit status.
///
/// # Errors
/// A place cannot be prepared at all: what should have run there is unknown, so nothing is counted.
pub(crate) fn run(arguments: &TestArgs) -> Result<i32> {
    let filter = arguments.filter.as_deref();
    let mut places = vec![];
    if arguments.place != Some(Place::Guest) {
        places.push(("native", native(filter)));
    }
    if arguments.place != Some(Place::Native) {
        places.push(("emulated host", guest::run(filter)));
    }
    let mut sum = Totals::default();
    println!();
    for (place, totals) in places {
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

fn native(filter: Option<&str>) -> Result<Totals> {
    packages::ensure(NATIVE_PACKAGES)?;
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).args(filter);
    let line = command::describe(&cargo);
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start `{line}`"))?;
    let mut counter = Counter::new(io::stdout());
    if let Some(mut output) = child.stdout.take() {
        io::copy(&mut output, &mut counter).context("pass on the output of cargo")?;
    }
    let status = child.wait()?;
    Ok(counter.totals(status.success()))
}
