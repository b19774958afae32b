//! Further processes, compared: `vmm exec` and `runc exec`.

use std::process::Command;

use super::bundle::{Options, PLAIN};
use super::differential::{Seen, differential};
use super::pty::Pty;
use super::runtime::{Runtime, Subject};
use super::world::{World, run};

/// A further process.
struct Exec {
    /// Flags of `vmm exec`, and those of the others.
    flags: (&'static [&'static str], &'static [&'static str]),
    command: &'static [&'static str],
    input: &'static [u8],
}

const PLAINLY: Exec = Exec { flags: (&[], &[]), command: &[], input: b"" };
const TERMINAL: &str = "exec: terminal";

/// The cases.
pub const NAMES: &[&str] = &[
    "exec: exit status",
    "exec: missing command",
    "exec: file that is no program",
    "exec: killed by a signal",
    "exec: input and its end",
    "exec: user and capabilities",
    "exec: variables",
    "exec: working directory",
    "exec: as the first process",
    "exec: processes seen",
    "exec: 1 MiB of output",
    "exec: in the background",
    "exec: what was done in the background",
    "exec: orphans nobody waits for",
    TERMINAL,
];

const EXECS: [Exec; 14] = [
    Exec { command: &["sh", "-c", "echo out; echo err >&2; exit 5"], ..PLAINLY },
    Exec { command: &["no-such-command"], ..PLAINLY },
    Exec { command: &["/etc/passwd"], ..PLAINLY },
    Exec { command: &["sh", "-c", "kill -9 $$"], ..PLAINLY },
    Exec { flags: (&["-i"], &[]), command: &["sh", "-c", "cat; echo end"], input: b"a\0b\n" },
    Exec {
        flags: (&["-u", "user:33"], &["-u", "1000:33", "-g", "33"]),
        command: &["sh", "-c", "id; grep Cap /proc/self/status"],
        ..PLAINLY
    },
    Exec {
        flags: (&["-e", "B=2", "-e", "A=3"], &["-e", "B=2", "-e", "A=3"]),
        command: &["sh", "-c", "echo $A $B $HOME $PATH"],
        ..PLAINLY
    },
    Exec { flags: (&["-w", "/etc"], &["--cwd", "/etc"]), command: &["pwd"], ..PLAINLY },
    Exec {
        command: &[
            "sh",
            "-c",
            "pwd; id; umask; echo $A; grep -E 'Cap|NoNew' /proc/self/status; ulimit -n; cat /proc/self/cgroup; cat /proc/self/oom_score_adj; hostname",
        ],
        ..PLAINLY
    },
    Exec {
        command: &[
            "sh",
            "-c",
            "cat /proc/1/comm; set -- /proc/[0-9]*; echo $#; ls /proc/self/fd | wc -l",
        ],
        ..PLAINLY
    },
    Exec {
        command: &["sh", "-c", "yes 01234567 | head -c 1048576 | md5sum; yes x | head -c 100000"],
        ..PLAINLY
    },
    Exec {
        flags: (&["-d", "-w", "/etc"], &["-d", "--cwd", "/etc"]),
        command: &[
            "sh",
            "-c",
            "sleep 0.5; (id; pwd; umask; echo $A) > /tmp/b; touch /tmp/e; exit 3",
        ],
        ..PLAINLY
    },
    Exec {
        command: &["sh", "-c", "until [ -e /tmp/e ]; do sleep 0.1; done; cat /tmp/b"],
        ..PLAINLY
    },
    // The first process, which is to wait for them, does not.
    Exec {
        command: &[
            "sh",
            "-c",
            "sh -c 'sleep 0.3 & sleep 0.3 &'; sleep 1; grep -h -E 'Name|State|PPid' $(grep -l 'State:.Z' /proc/[0-9]*/status)",
        ],
        ..PLAINLY
    },
];

fn command(subject: &Subject<'_>, (ours, theirs): (&[&str], &[&str]), line: &[&str]) -> Command {
    let flags = if subject.runtime == Runtime::Vmm { ours } else { theirs };
    subject.other(&[&["exec"], flags, &[subject.name.as_str()], line].concat())
}

fn look(runtime: Runtime, world: &World) -> Seen {
    let options = Options { env: &["A=first"], workdir: Some("/tmp"), ..PLAIN };
    let subject = Subject::new(runtime, world, &options, &["sleep", "1000"]);
    let child = subject.start_and_wait();
    let mut seen = Seen::new();
    for (exec, name) in EXECS.iter().zip(NAMES) {
        let ran = run(&mut command(&subject, exec.flags, exec.command), exec.input);
        // Why something cannot be run is everybody's own words.
        let told = if ran.status == 5 { ran.err() } else { String::new() };
        seen.insert((*name).to_owned(), format!("{}\n{:?}\n{told}", ran.status, ran.out()));
    }
    let line =
        ["sh", "-c", "stty size; echo $TERM; test -t 1 && echo terminal; read x; echo $x; exit 4"];
    let terminal = command(&subject, (&["-it"], &["-t", "-e", "TERM=xterm"]), &line);
    let mut pty = Pty::start(&terminal, 22, 66);
    let mut text = pty.until("terminal\n");
    pty.type_in(b"typed\n");
    let (rest, status) = pty.finish();
    text.push_str(&format!("{rest}{status}"));
    seen.insert(TERMINAL.to_owned(), text);
    subject.end(child);
    seen
}

#[test]
fn further_processes_are_as_in_runc() {
    // crun's defaults for a further process are not docker's: another directory, other limits.
    differential(&[Runtime::Runc], look);
}
