//! The tests that boot guests: they run in emulated hosts, which share them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::draw::{Stack, turns};
use super::foreign;
use crate::arch::Arch;
use crate::cache::Cache;
use crate::host::Job;
use crate::totals::{Counter, Totals};
use crate::workspace::{self, GuestTest, Profile, Program};
use crate::{artifacts, command, deb, packages};

/// Where the test programs lie in the emulated host.
pub(super) const PROGRAMS: &str = "/srv/tests";

/// Where the Debian package lies there.
const PACKAGE: &str = "/srv/vmm.deb";

/// What unit tests read of this workspace: the first inputs of the fuzz targets, one of them by way of a
/// package's directory. It appears in the host at the paths that it has here.
const SOURCES: &[&str] = &["fuzz/corpus", "crates/image/Cargo.toml"];

/// The authorities that signatures of servers are compared with, which a package's script would have put there.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How many inputs of a kind unit tests make up where they are emulated. On this machine they make up more.
const CASES: &str = "16";

/// Memory of the emulated host in MiB: room for a guest beyond the 4 GiB boundary.
const MEMORY_MIB: u32 = 6144;

/// Longer than all guest tests together take on the slowest machine we know.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Emulated hosts that share all guest tests: as many as the smallest machine we know has processors.
const HOSTS: usize = 2;

/// What has QEMU give an aarch64 host the older interrupt controller, and a processor with every feature it knows.
/// Pointers are then authenticated by a cheap algorithm of QEMU's own.
const GICV2_MAX: [&str; 4] = ["-machine", "gic-version=2", "-cpu", "max,pauth-impdef=on"];

/// Runs what comes in lines, each a program in `$1` and its arguments; fails if one does. Every line ends in
/// a report: 101 is how a test program ends that has said what failed.
const RUN_TURNS: &str = r#"
status=0
while read -r program arguments; do
    "$1/$program" $arguments </dev/null
    ended=$?
    [ $ended = 0 ] || status=$ended
    case $ended in
        0|101) ;;
        *) printf '\ntest result: FAILED. 0 passed; 1 failed; %s ended with %s\n' "$program" $ended ;;
    esac
done
exit $status
"#;

/// The tests for one kind of host.
pub(super) struct Tests {
    /// All programs that a host is given.
    pub(super) programs: Vec<Program>,
    /// What is run of them, in turns.
    pub(super) turns: Vec<String>,
    /// What is run once more, in a host with another processor and interrupt controller.
    pub(super) gicv2_max_turns: Vec<String>,
    /// What the host has at the paths that it has here, because programs have them built in.
    pub(super) in_place: Vec<PathBuf>,
}

/// Runs the tests for hosts of `arch` whose names contain `filter`, in one emulated host; without it all, or the
/// usual ones of another architecture, in [`HOSTS`] of them.
pub(super) fn run(arch: Arch, filter: Option<&str>) -> Result<Totals> {
    let declared = workspace::guest_tests()?;
    ensure!(!declared.is_empty(), "the workspace declares no tests that boot guests");
    let Tests { programs, turns, gicv2_max_turns, in_place } = match arch.is_native() {
        true => tests(arch, &declared, filter)?,
        false => foreign::tests(arch, &declared, filter)?,
    };
    if let (Some(filter), true) = (filter, turns.is_empty()) {
        println!("no test that boots a guest has {filter:?} in its name");
        return Ok(Totals::default());
    }
    let stack = Stack::new(turns);
    let job = job(arch, programs, in_place)?;
    let mut totals = in_hosts(if filter.is_some() { 1 } else { HOSTS }, &job, &stack)?;
    if !gicv2_max_turns.is_empty() {
        println!("\nin a host with another processor and a GICv2:");
        let job = Job { qemu: GICV2_MAX.map(str::to_owned).into(), ..job };
        totals += in_hosts(1, &job, &Stack::new(gicv2_max_turns))?;
    }
    Ok(totals)
}

/// Builds the tests, which this machine can list, and finds out which of them to run.
fn tests(arch: Arch, declared: &[GuestTest], filter: Option<&str>) -> Result<Tests> {
    let programs = workspace::build_guest_tests(arch, declared)?;
    let mut lines = vec![];
    for program in &programs {
        let names = names(program, filter.unwrap_or_default())?;
        lines.extend(turns(&program.name, &names));
    }
    Ok(Tests { programs, turns: lines, gicv2_max_turns: vec![], in_place: vec![] })
}

/// Has `count` hosts run what is on `stack`. What the first prints is seen as it comes, what others do
/// at their end, lest it mix.
fn in_hosts(count: usize, job: &Job, stack: &Stack) -> Result<Totals> {
    thread::scope(|scope| {
        let others: Vec<_> = (1..count)
            .map(|_| {
                scope.spawn(|| {
                    let (mut output, mut errors) = (vec![], vec![]);
                    let totals = relay(job, stack, &mut output, &mut errors);
                    output.extend(errors);
                    (output, totals)
                })
            })
            .collect();
        let mut sum = relay(job, stack, &mut io::stdout(), &mut io::stderr());
        for other in others {
            let (output, totals) = other.join().map_err(|_| anyhow!("a host's thread panicked"))?;
            io::stdout().write_all(&output)?;
            sum += totals;
        }
        Ok(sum)
    })
}

/// The names of the tests in `program` that contain `filter`, in their order.
fn names(program: &Program, filter: &str) -> Result<Vec<String>> {
    let list = command::stdout(Command::new(&program.path).arg("--list"))?;
    let mut all = listed(&String::from_utf8_lossy(&list));
    ensure!(!all.is_empty(), "{} lists no tests", program.name);
    all.retain(|name| name.contains(filter));
    Ok(all)
}

/// The names in what a test program prints as the list of its tests.
pub(super) fn listed(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// The job that runs turns of `programs`.
fn job(arch: Arch, programs: Vec<Program>, in_place: Vec<PathBuf>) -> Result<Job> {
    let mut job = Job::new(["sh", "-c", RUN_TURNS, "tests", PROGRAMS]);
    job.arch = arch;
    for Program { name, path } in programs {
        job.copy.push((path, PathBuf::from(PROGRAMS).join(name)));
    }
    job.copy.extend(in_place.into_iter().map(|path| (path.clone(), path)));
    if !arch.is_native() {
        add_what_unit_tests_need(&mut job)?;
    }
    artifacts::equip(&mut job, Profile::Release)?;
    job.copy.push((deb::ensure(&Cache::of_user()?, arch)?, PACKAGE.into()));
    job.memory_mib = MEMORY_MIB;
    job.timeout = Some(TIMEOUT);
    job.environment.push(("RUST_BACKTRACE".into(), "1".into()));
    Ok(job)
}

fn add_what_unit_tests_need(job: &mut Job) -> Result<()> {
    packages::ensure(&["ca-certificates"])?;
    let sources = SOURCES.iter().map(|path| workspace::root().join(path));
    job.copy.extend(sources.chain([CERTIFICATES.into()]).map(|path| (path.clone(), path)));
    job.environment.push(("PROPTEST_CASES".into(), CASES.into()));
    // On a disk: some files are opened past the page cache, which a file system in memory cannot do.
    job.environment.push(("TMPDIR".into(), "/var/tmp".into()));
    Ok(())
}

fn relay(job: &Job, stack: &Stack, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Totals {
    let (hand, done) = stack.hand();
    let mut counter = Counter::new(stdout).telling(done);
    let ended = job.relay(Box::new(hand), &mut counter, stderr);
    if let Err(error) = &ended {
        // Nothing is lost when this cannot be written: the totals tell that it failed.
        let _ = writeln!(stderr, "test: {error:#}");
    }
    counter.totals(matches!(ended, Ok(0)))
}
