//! `vmm-namespaces`: runs a command in a container that is made of nothing but system calls.

use std::ffi::OsString;
use std::process::ExitCode;

use vmm_contrast::clock::Moment;
use vmm_contrast::container::{self, Outcome, Spec, Writes};
use vmm_contrast::workload::User;

const USAGE: &str = "usage: vmm-namespaces [OPTION]... ROOT COMMAND [ARGUMENT]...

Runs COMMAND with ROOT, an unpacked image, as its root file system.

      --read-only         Nothing in ROOT can be written; otherwise what is written goes to memory
      --in-place          What is written goes to ROOT itself, as with the bundle of a runtime
      --user-namespace    A user namespace as well; always for those who are not root
      --hostname NAME     Its host name (box)
      --memory BYTES      Memory at most
      --pids NUMBER       Processes at most
      --env NAME=VALUE    A variable
      --user UID:GID      Who COMMAND runs as (0:0)
      --workdir DIR       Where it begins (/)
      --timing            Say when each step ended, in nanoseconds of the monotonic clock

Ends as the command does: 126 if it cannot be run, 127 if it is not found, 125 if there is no container.
";

/// Why there is no container, as docker has it.
const NO_CONTAINER: u8 = 125;

fn main() -> ExitCode {
    let (spec, timing) = match parse(std::env::args_os().skip(1)) {
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
    let parsed = Moment::now();
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
    if timing {
        eprintln!("vmm-namespaces: timing: {}", told(parsed, &outcome));
    }
    ExitCode::from(u8::try_from(outcome.status).unwrap_or(u8::MAX))
}

/// A JSON object with the moment of each step's end. Names of steps are identifiers.
fn told(parsed: Moment, outcome: &Outcome) -> String {
    let steps = [("parse", parsed)].into_iter().chain(outcome.stamps.iter().copied());
    let steps = steps.map(|(step, moment)| format!("\"{step}\":{}", moment.nanos()));
    format!("{{{}}}", steps.collect::<Vec<_>>().join(","))
}

/// What is asked for, and whether its steps are timed; nothing when that is help.
fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Option<(Spec, bool)>, String> {
    let mut spec = Spec { hostname: "box".into(), ..Spec::default() };
    let mut timing = false;
    loop {
        let word = words.next().ok_or("no root file system given")?;
        let mut value = || words.next().ok_or_else(|| format!("{} needs a value", word.display()));
        match word.to_str() {
            Some("--help") => return Ok(None),
            Some("--read-only") => spec.writes = Writes::Nowhere,
            Some("--in-place") => spec.writes = Writes::Image,
            Some("--user-namespace") => spec.user_namespace = true,
            Some("--hostname") => spec.hostname = value()?,
            Some("--memory") => spec.memory_bytes = Some(number(&value()?)?),
            Some("--pids") => spec.pids = Some(number(&value()?)?),
            Some("--env") => spec.env.push(value()?),
            Some("--user") => spec.user = user(&value()?)?,
            Some("--workdir") => spec.cwd = value()?,
            Some("--timing") => timing = true,
            Some(option) if option.starts_with('-') => {
                return Err(format!("unknown option {option}"));
            }
            _ => {
                spec.root = word.into();
                spec.args = words.collect();
                return Ok(Some((spec, timing)));
            }
        }
    }
}

fn user(word: &OsString) -> Result<User, String> {
    let numbers = word.to_str().and_then(|word| word.split_once(':'));
    let user = numbers
        .and_then(|(uid, gid)| Some(User { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
    user.ok_or_else(|| format!("{} is not UID:GID", word.display()))
}

fn number(word: &OsString) -> Result<u64, String> {
    let number = word.to_str().and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("{} is no number", word.display()))
}
