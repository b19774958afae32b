//! `cargo xtask test`: every test, each in a place that can run it.
//!
//! Natively: unit tests, the architecture, guests that need no kernel. In the emulated host: the
//! tests that boot Linux guests, which declare `test = false` in their manifest because plain
//! `cargo test` cannot promise them a KVM that runs guest kernels.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::host::Job;
use crate::totals::{Counter, Totals};
use crate::workspace::{self, Profile, Program};
use crate::{artifacts, command, packages};

/// Where the test programs lie in the emulated host.
const PROGRAMS: &str = "/srv/tests";

/// What the native tests call: a compiler for guest programs, network interfaces, namespaces, and
/// what else reads images.
const NATIVE_PACKAGES: &[&str] = &[
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

/// Memory of the emulated host in MiB: room for a guest beyond the 4 GiB boundary.
const MEMORY_MIB: u32 = 6144;

/// Longer than all guest tests together take on the slowest machine we know.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Runs the programs in `$1` with the other arguments; fails if one does.
const RUN_ALL: &str = r#"
directory=$1; shift
status=0
for program in "$directory"/*; do
    printf '     Running %s in the emulated host\n' "${program##*/}"
    "$program" "$@" || status=$?
done
exit "$status"
"#;

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
        places.push(("emulated host", guest(filter)));
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

fn guest(filter: Option<&str>) -> Result<Totals> {
    let tests = workspace::guest_tests()?;
    ensure!(!tests.is_empty(), "the workspace declares no tests that boot guests");
    let programs = workspace::build_guest_tests(&tests)?;
    let mut job = Job::new(["sh", "-c", RUN_ALL, "tests", PROGRAMS]);
    job.command.extend(filter.map(Into::into));
    for Program { name, path } in programs {
        job.copy.push((path, PathBuf::from(PROGRAMS).join(name)));
    }
    artifacts::equip(&mut job, Profile::Dev)?;
    job.memory_mib = MEMORY_MIB;
    job.timeout = Some(TIMEOUT);
    job.environment.push(("RUST_BACKTRACE".into(), "1".into()));
    let mut counter = Counter::new(io::stdout());
    let ended = job.relay_to(&mut counter, &mut io::stderr());
    counter.flush()?;
    if let Err(error) = &ended {
        eprintln!("test: {error:#}");
    }
    Ok(counter.totals(matches!(ended, Ok(0))))
}
