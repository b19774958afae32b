//! Programs of this host.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Absent;

/// Where programs of root are, though the search path of others may not say so.
const SYSTEM: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

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
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
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
}
