//! The tests of this machine. Most of them wait most of the time, for a guest or for a clock: several programs run
//! at once.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::totals::{Counter, Totals};
use crate::workspace::{self, TestProgram};
use crate::{command, packages};

/// What the native tests call: a compiler for guest programs, network interfaces, namespaces, what
/// else reads images, a shell for containers, and a browser for pages.
const PACKAGES: &[&str] = &[
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

/// Programs that run at once: as many as the smallest machine we know has processors.
const AT_ONCE: usize = 2;

/// Runs all tests of the workspace whose names contain `filter`, but those that boot Linux.
///
/// # Errors
/// They do not build.
pub(super) fn run(filter: Option<&str>) -> Result<Totals> {
    packages::ensure(PACKAGES)?;
    let programs = workspace::build_native_tests()?;
    workspace::build_programs_together()?;
    let commands = [documentation()].into_iter().chain(programs.iter().map(program));
    let commands = commands.map(|mut command| {
        command.args(filter);
        command
    });
    all(commands.collect(), &mut io::stdout())
}

/// Examples in the documentation, which cargo builds and runs in one go.
fn documentation() -> Command {
    let mut cargo = workspace::cargo();
    cargo.args(["test", "--workspace", "--doc", "--no-fail-fast"]);
    cargo
}

/// A test program, run as cargo would.
fn program(program: &TestProgram) -> Command {
    let mut command = Command::new(&program.path);
    command.current_dir(&program.package).env("CARGO_MANIFEST_DIR", &program.package);
    // Built by themselves they would be others, in the same places, while tests at work use these.
    command.env("VMM_PROGRAMS_BUILT", "1");
    command
}

/// Runs `commands`, [`AT_ONCE`] at a time. What one printed is passed on when it ends, lest it mix.
fn all(commands: VecDeque<Command>, out: &mut (dyn Write + Send)) -> Result<Totals> {
    let (commands, out) = (Mutex::new(commands), Mutex::new(out));
    let hand = || -> Result<Totals> {
        let mut sum = Totals::default();
        while let Some(command) = next(&commands) {
            let (printed, totals) = one(command)?;
            out.lock().unwrap_or_else(PoisonError::into_inner).write_all(&printed)?;
            sum += totals;
        }
        Ok(sum)
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(hand)).collect();
        hands.into_iter().try_fold(Totals::default(), |mut sum, hand| {
            sum += hand.join().map_err(|_| anyhow!("a thread that ran tests panicked"))??;
            Ok(sum)
        })
    })
}

fn next(commands: &Mutex<VecDeque<Command>>) -> Option<Command> {
    commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Runs one test program; returns what it printed, under its command line, and what it reported.
fn one(mut command: Command) -> Result<(Vec<u8>, Totals)> {
    let line = command::describe(&command);
    let (mut reader, writer) = io::pipe()?;
    let streams = command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = streams.spawn().with_context(|| format!("start `{line}`"))?;
    // The pipe ends when nobody can write to it any more.
    drop(command);
    let mut printed = format!("\n     Running {line}\n").into_bytes();
    reader.read_to_end(&mut printed)?;
    let status = child.wait()?;
    let mut counter = Counter::new(io::sink());
    counter.write_all(&printed)?;
    let ended_well = status.success() && counter.reports() > 0;
    if !ended_well {
        let reports = counter.reports();
        printed.extend(format!("test: `{line}`: {status}, {reports} reports\n").into_bytes());
    }
    Ok((printed, counter.totals(ended_well)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn programs_run_at_once_and_what_each_prints_stays_together() {
        let wait = |name: &str| {
            // Both wait until both have begun.
            let script = format!(
                "echo {name} begins; : >{name}; until [ -e a ] && [ -e b ]; do sleep 0.01; done; \
                 echo {name} ends >&2; echo 'test result: ok. 2 passed; 0 failed; 0 ignored'"
            );
            shell(&script)
        };
        let directory = tempfile::tempdir().unwrap();
        let mut commands = VecDeque::from([wait("a"), wait("b"), shell("exit 3"), shell("echo")]);
        commands.iter_mut().for_each(|command| {
            command.current_dir(&directory);
        });
        let (begun, mut out) = (Instant::now(), vec![]);
        let totals = all(commands, &mut out).unwrap();
        assert_eq!(totals, Totals { passed: 4, failed: 2 });
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        let out = String::from_utf8(out).unwrap();
        for name in ["a", "b"] {
            assert!(out.contains(&format!("\n{name} begins\n{name} ends\ntest result")), "{out}");
        }
        assert!(out.contains("exit status: 3, 0 reports"), "{out}");
        assert!(out.contains("exit status: 0, 0 reports"), "{out}");
    }

    #[test]
    fn program_that_is_not_there_is_an_error_that_names_it() {
        let mut out = vec![];
        let error = all(VecDeque::from([Command::new("/nowhere/tests")]), &mut out).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/tests"), "{error:#}");
    }
}
