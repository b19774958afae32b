//! Signals to the first process, compared.

use std::io::Read;

use super::bundle::PLAIN;
use super::differential::{Seen, differential};
use super::runtime::{PEERS, Runtime, Subject};
use super::world::{World, finish, until};

/// The cases.
pub const NAMES: &[&str] = &[
    "signal HUP",
    "signal INT",
    "signal QUIT",
    "signal USR1",
    "signal USR2",
    "signal ALRM",
    "signal TERM",
    "signal WINCH",
    "signal without a handler",
    "signal KILL",
];

/// Signals with a handler, in the order of [`NAMES`].
const HANDLED: [&str; 8] = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "WINCH"];

fn look(runtime: Runtime, world: &World) -> Seen {
    let mut script = String::new();
    for name in HANDLED {
        script.push_str(&format!("trap 'echo got {name}.' {name}\n"));
    }
    script.push_str("echo ready.; while :; do sleep 0.05; done");
    let subject = Subject::new(runtime, world, &PLAIN, &["sh", "-c", &script]);
    let mut child = subject.start();
    let mut output = child.stdout.take().expect("piped");
    until(&mut output, "ready.\n");
    let mut seen = vec![];
    for name in HANDLED {
        subject.kill(name);
        seen.push(until(&mut output, ".\n"));
    }
    // Process 1 is only ended by what it asked for; all but KILL.
    subject.kill("PWR");
    subject.kill("USR1");
    seen.push(until(&mut output, ".\n"));
    subject.kill("KILL");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("text");
    seen.push(format!("{rest}{}", finish(child).status));
    NAMES.iter().map(|name| (*name).to_owned()).zip(seen).collect()
}

#[test]
fn signals_reach_the_first_process_as_in_runc_and_crun() {
    differential(&PEERS, look);
}
