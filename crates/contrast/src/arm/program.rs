//! Programs of this host.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Absent;
use crate::launch::launch;

/// Where programs of root are, though the search path of others may not say so.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How long cleaning up may take, or telling a version.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(2);

/// The program `name` of the search path.
pub(super) fn find(name: &str) -> Result<PathBuf, Absent> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(SYSTEM.map(PathBuf::from));
    let mut found = directories.map(|directory| directory.join(name)).filter(|p| is_program(p));
    found.next().ok_or_else(|| Absent(format!("{name} is not installed")))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The first line that `program` prints when asked for its version.
pub(super) fn version(program: &Path) -> String {
    version_within(program, PATIENCE)
}

fn version_within(program: &Path, patience: Duration) -> String {
    // Nobody interrupts what takes a moment, or is killed.
    let said = io::pipe().ok().and_then(|(never, _open)| {
        let mut command = Command::new(program);
        launch(command.arg("--version"), patience, never.as_fd(), None).ok()
    });
    let text = said.map(|finished| finished.output).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// A command line as one would type it.
pub fn describe(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let word = |word: &OsStr| {
        let text = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
        if !text.is_empty() && text.chars().all(plain) {
            return text.into_owned();
        }
        format!("'{}'", text.replace('\'', "'\\''"))
    };
    words.map(word).collect::<Vec<_>>().join(" ")
}

/// Runs a command that may have nothing to do, for as long as is reasonable, without a word.
pub(super) fn quietly(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else { return };
    let deadline = Instant::now() + PATIENCE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            // What it has not done is found by whoever looks for what is left.
            let _ = child.kill();
            let _ = child.wait();
            return;
        }
        sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_and_others_are_named() {
        assert!(find("sh").unwrap().ends_with("sh"));
        assert_eq!(find("nosuch-program").unwrap_err().0, "nosuch-program is not installed");
        assert_eq!(version(Path::new("/nosuch")), "unknown");
    }

    #[test]
    fn version_is_not_waited_for_without_end() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let version_of = |script: &str| {
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
            version_within(&program, Duration::from_secs(1))
        };
        assert_eq!(version_of("echo ' program 1 '; echo more"), "program 1");
        let began = Instant::now();
        assert_eq!(version_of("sleep 100"), "unknown");
        assert!(began.elapsed() < Duration::from_secs(50));
    }

    #[test]
    fn command_lines_can_be_typed() {
        let mut command = Command::new("a");
        command.args(["b c", "", "d'e", "--f=g"]);
        assert_eq!(describe(&command), "a 'b c' '' 'd'\\''e' --f=g");
    }
}
