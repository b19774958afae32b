//! The tests that boot guests: they run in emulated hosts, which share them.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

use super::draw::Stack;
use crate::host::Job;
use crate::totals::{Counter, Totals};
use crate::workspace::{self, Profile, Program};
use crate::{artifacts, command};

/// Where the test programs lie in the emulated host.
const PROGRAMS: &str = "/srv/tests";

/// Memory of the emulated host in MiB: room for a guest beyond the 4 GiB boundary.
const MEMORY_MIB: u32 = 6144;

/// Longer than all guest tests together take on the slowest machine we know.
const TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Emulated hosts that share all guest tests: as many as the smallest machine we know has processors.
const HOSTS: usize = 2;

/// Runs what comes in lines, each a program in `$1` and the names of its tests; fails if one does. Every
/// line ends in a report: 101 is how a test program ends that has said what failed.
const RUN_TURNS: &str = r#"
status=0
while read -r program names; do
    "$1/$program" --exact $names </dev/null
    ended=$?
    [ $ended = 0 ] || status=$ended
    case $ended in
        0|101) ;;
        *) printf '\ntest result: FAILED. 0 passed; 1 failed; %s ended with %s\n' "$program" $ended ;;
    esac
done
exit $status
"#;

/// Runs the tests whose names contain `filter`, in one emulated host; without it all, in [`HOSTS`] of them.
pub(super) fn run(filter: Option<&str>) -> Result<Totals> {
    let tests = workspace::guest_tests()?;
    ensure!(!tests.is_empty(), "the workspace declares no tests that boot guests");
    let programs = workspace::build_guest_tests(&tests)?;
    let names = programs.iter().map(|program| names(program, filter.unwrap_or_default()));
    let names = names.collect::<Result<Vec<_>>>()?;
    if let (Some(filter), true) = (filter, names.iter().all(Vec::is_empty)) {
        println!("no test that boots a guest has {filter:?} in its name");
        return Ok(Totals::default());
    }
    let listed = programs.iter().zip(&names);
    let stack = Stack::new(listed.map(|(program, names)| (&*program.name, &names[..])));
    let job = job(programs)?;
    in_hosts(if filter.is_some() { 1 } else { HOSTS }, &job, &stack)
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
    let list = String::from_utf8_lossy(&list).into_owned();
    let all: Vec<_> = list.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    ensure!(!all.is_empty(), "{} lists no tests", program.name);
    Ok(all.into_iter().filter(|name| name.contains(filter)).map(str::to_owned).collect())
}

/// The job that runs turns of `programs`.
fn job(programs: Vec<Program>) -> Result<Job> {
    let mut job = Job::new(["sh", "-c", RUN_TURNS, "tests", PROGRAMS]);
    for Program { name, path } in programs {
        job.copy.push((path, PathBuf::from(PROGRAMS).join(name)));
    }
    artifacts::equip(&mut job, Profile::Release)?;
    job.memory_mib = MEMORY_MIB;
    job.timeout = Some(TIMEOUT);
    job.environment.push(("RUST_BACKTRACE".into(), "1".into()));
    Ok(job)
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
