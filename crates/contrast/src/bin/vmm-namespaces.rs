//! `vmm-namespaces`: runs a command in a container that is made of nothing but system calls.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use vmm_contrast::clock::Moment;
use vmm_contrast::container::{self, Outcome, Spec};

const USAGE: &str = "usage: vmm-namespaces [OPTION]... ROOT COMMAND [ARGUMENT]...

Runs COMMAND with ROOT, an unpacked image, as its root file system.

      --read-only         Nothing in ROOT can be written; otherwise what is written goes to memory
      --user-namespace    A user namespace as well; always for those who are not root
      --hostname NAME     Its host name (box)
      --memory BYTES      Memory at most
      --pids NUMBER       Processes at most
      --env NAME=VALUE    A variable
      --stamps FILE       Write there when each step ended, in nanoseconds of the monotonic clock

Ends as the command does: 126 if it cannot be run, 127 if it is not found, 125 if there is no container.
";

/// Why there is no container, as docker has it.
const NO_CONTAINER: u8 = 125;

fn main() -> ExitCode {
    let began = Moment::now();
    let (spec, stamps) = match parse(std::env::args_os().skip(1)) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("vmm-namespaces: {error}; see --help");
            return ExitCode::from(NO_CONTAINER);
        }
    };
    let outcome = match container::run(&spec) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("vmm-namespaces: {error}");
            return ExitCode::from(NO_CONTAINER);
        }
    };
    if let Some(why) = &outcome.refused {
        eprintln!("vmm-namespaces: {why}");
    }
    if let Some(path) = stamps
        && let Err(error) = write_stamps(&path, began, &outcome)
    {
        eprintln!("vmm-namespaces: {}: {error}", path.display());
        return ExitCode::from(NO_CONTAINER);
    }
    ExitCode::from(u8::try_from(outcome.status).unwrap_or(u8::MAX))
}

fn write_stamps(path: &Path, began: Moment, outcome: &Outcome) -> std::io::Result<()> {
    let mut text = vec![];
    writeln!(text, "begin {}", began.nanos())?;
    for (step, moment) in &outcome.stamps {
        writeln!(text, "{step} {}", moment.nanos())?;
    }
    fs::write(path, text)
}

/// What is asked for, and where stamps go; nothing when that is help.
fn parse(
    mut words: impl Iterator<Item = OsString>,
) -> Result<Option<(Spec, Option<PathBuf>)>, String> {
    let mut spec = Spec { hostname: "box".into(), ..Spec::default() };
    let mut stamps = None;
    loop {
        let word = words.next().ok_or("no root file system given")?;
        let mut value = || words.next().ok_or_else(|| format!("{} needs a value", word.display()));
        match word.to_str() {
            Some("--help") => return Ok(None),
            Some("--read-only") => spec.read_only = true,
            Some("--user-namespace") => spec.user_namespace = true,
            Some("--hostname") => spec.hostname = value()?,
            Some("--memory") => spec.memory_bytes = Some(number(&value()?)?),
            Some("--pids") => spec.pids = Some(number(&value()?)?),
            Some("--env") => spec.env.push(value()?),
            Some("--stamps") => stamps = Some(value()?.into()),
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option {option}"));
            }
            _ => {
                spec.root = word.into();
                spec.args = words.collect();
                return Ok(Some((spec, stamps)));
            }
        }
    }
}

fn number(word: &OsString) -> Result<u64, String> {
    let number = word.to_str().and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("{} is no number", word.display()))
}
