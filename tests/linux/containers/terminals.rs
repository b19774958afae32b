//! Terminals, compared: what is typed, what is seen, and how large they are.

use super::bundle::{Options, PLAIN};
use super::differential::{Seen, differential};
use super::pty::Pty;
use super::runtime::{Runtime, Subject};
use super::world::World;

/// The cases.
pub const NAMES: &[&str] = &[
    "terminal: name and size",
    "terminal: nodes",
    "terminal: environment",
    "terminal: new size",
    "terminal: lines and echo",
    "terminal: interrupt",
    "terminal: suspend and quit keys",
    "terminal: end of input",
    "terminal: exit status",
];

const OPTIONS: Options = Options { stdin: true, terminal: true, ..PLAIN };

/// A shell that answers a line at a time.
const SCRIPT: &str = "tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all; echo ok1
ls -l /dev/console /dev/pts | awk '{print $1, $3, $4, $10}'; stat -c '%F %a' /dev/console; echo ok2
echo $TERM; ls /dev | tr '\\n' ' '; echo ok3
read line; stty size; echo ok4
read line; echo \"got $line\"; echo ok5
trap 'echo interrupted' INT; sleep 1000 ; echo \"status $?\"; echo ok6
trap 'echo quit' QUIT; sleep 1000; echo \"status $?\"; echo ok7
cat; echo ok8
exit 7";

fn look(runtime: Runtime, world: &World) -> Seen {
    let subject = Subject::new(runtime, world, &OPTIONS, &["sh", "-c", SCRIPT]);
    let mut pty = Pty::start(&subject.command(), 33, 101);
    let mut seen = vec![pty.until("ok1\n"), pty.until("ok2\n"), pty.until("ok3\n")];
    pty.resize(44, 55);
    // In runc the news of another size and what is typed are on their way each by itself.
    std::thread::sleep(std::time::Duration::from_millis(300));
    pty.type_in(b"\n");
    seen.push(pty.until("ok4\n"));
    pty.type_in(b"wrongg\x7f\n");
    seen.push(pty.until("ok5\n"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    pty.type_in(b"\x03");
    seen.push(pty.until("ok6\n"));
    std::thread::sleep(std::time::Duration::from_millis(500));
    pty.type_in(b"\x1c");
    seen.push(pty.until("ok7\n"));
    pty.type_in(b"line\n\x04");
    seen.push(pty.until("ok8\n"));
    let (rest, status) = pty.finish();
    seen.push(format!("{rest}{status}"));
    NAMES.iter().map(|name| (*name).to_owned()).zip(seen).collect()
}

#[test]
fn terminals_are_as_in_runc() {
    // crun leaves the size of its own terminal at nothing.
    differential(&[Runtime::Runc], look);
}
