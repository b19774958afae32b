//! `cargo xtask test`: every test, each in a place that can run it.
//!
//! Natively: unit tests, the architecture, guests that need no kernel. In the emulated host: the
//! tests that boot Linux guests, which declare `test = false` in their manifest because plain
//! `cargo test` cannot promise them a KVM that runs guest kernels.

use std::io::{self, Write};
use std::iter;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, ValueEnum};

use crate::host::Job;
use crate::totals::{Counter, Totals};
use crate::workspace::{self, Profile, Program};
use crate::{artifacts, command, packages};

/// Where the test programs lie in the emulated host.
const PROGRAMS: &str = "/srv/tests";

/// What the native tests call: a compiler for guest programs, network interfaces, namespaces, what
/// else reads images, and a shell for containers.
const NATIVE_PACKAGES: &[&str] = &[
    "busybox-static",
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

/// Emulated hosts that share all guest tests: as many as the smallest machine we know has processors.
const SHARES: usize = 2;

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

/// Runs the tests that boot guests: those that are asked for in one emulated host, all of them in
/// [`SHARES`] hosts at the same time.
fn guest(filter: Option<&str>) -> Result<Totals> {
    let tests = workspace::guest_tests()?;
    ensure!(!tests.is_empty(), "the workspace declares no tests that boot guests");
    let programs = workspace::build_guest_tests(&tests)?;
    let shares = match filter {
        Some(filter) => vec![vec![filter.to_owned()]],
        None => shares(&names(&programs)?),
    };
    let job = guest_job(programs)?;
    let jobs: Vec<Job> = shares.iter().map(|share| with_arguments(&job, share)).collect();
    let mut sum = Totals::default();
    thread::scope(|scope| {
        let (first, others) = jobs.split_first().context("there is a share")?;
        let others: Vec<_> = others.iter().map(|job| scope.spawn(|| kept_back(job))).collect();
        sum += relay(first, &mut io::stdout(), &mut io::stderr());
        for other in others {
            let (output, totals) = other.join().map_err(|_| anyhow!("a share panicked"))?;
            io::stdout().write_all(&output)?;
            sum += totals;
        }
        Ok(sum)
    })
}

/// The names of all tests in `programs`, in their order.
fn names(programs: &[Program]) -> Result<Vec<String>> {
    let mut names = vec![];
    for program in programs {
        let list = command::stdout(Command::new(&program.path).arg("--list"))?;
        let list = String::from_utf8_lossy(&list).into_owned();
        names
            .extend(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned));
    }
    ensure!(!names.is_empty(), "the programs list no tests");
    Ok(names)
}

/// Arguments of the test programs for each share: tests take turns, as those with like names take about
/// as long.
fn shares(names: &[String]) -> Vec<Vec<String>> {
    let share = |first: usize| names.iter().skip(first).step_by(SHARES).cloned();
    (0..SHARES)
        .map(|first| iter::once("--exact".to_owned()).chain(share(first)).collect())
        .collect()
}

/// The job that runs all of `programs` with the arguments that are added to its command.
fn guest_job(programs: Vec<Program>) -> Result<Job> {
    let mut job = Job::new(["sh", "-c", RUN_ALL, "tests", PROGRAMS]);
    for Program { name, path } in programs {
        job.copy.push((path, PathBuf::from(PROGRAMS).join(name)));
    }
    artifacts::equip(&mut job, Profile::Dev)?;
    job.memory_mib = MEMORY_MIB;
    job.timeout = Some(TIMEOUT);
    job.environment.push(("RUST_BACKTRACE".into(), "1".into()));
    Ok(job)
}

fn with_arguments(job: &Job, arguments: &[String]) -> Job {
    let mut job = job.clone();
    job.command.extend(arguments.iter().map(Into::into));
    job
}

/// Runs `job` and returns what it printed, lest it mix with what another one prints.
fn kept_back(job: &Job) -> (Vec<u8>, Totals) {
    let (mut output, mut errors) = (vec![], vec![]);
    let totals = relay(job, &mut output, &mut errors);
    output.extend(errors);
    (output, totals)
}

fn relay(job: &Job, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Totals {
    let mut counter = Counter::new(stdout);
    let ended = job.relay_to(&mut counter, stderr);
    if let Err(error) = &ended {
        // Nothing is lost when this cannot be written: the totals tell that it failed.
        let _ = writeln!(stderr, "test: {error:#}");
    }
    counter.totals(matches!(ended, Ok(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_is_in_one_share_by_its_whole_name() {
        let names: Vec<String> = (0..7).map(|n| format!("m::t{n}")).collect();
        let shares = shares(&names);
        assert!(shares.iter().all(|share| share[0] == "--exact" && share.len() > 7 / SHARES));
        let mut all: Vec<_> = shares.iter().flat_map(|share| &share[1..]).cloned().collect();
        all.sort();
        assert_eq!(all, names);
    }
}
