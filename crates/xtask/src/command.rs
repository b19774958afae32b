//! Running other programs with errors a developer can act on.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` silently; on failure the error carries its command line and all it printed.
///
/// # Errors
/// The program cannot be started or ends with a non-zero status.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    stdout(command).map(drop)
}

/// Runs `command` and returns its standard output; fails as [`run`] does.
///
/// # Errors
/// The program cannot be started or ends with a non-zero status.
pub(crate) fn stdout(command: &mut Command) -> Result<Vec<u8>> {
    let line = describe(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` failed ({}):\n{}", output.status, printed(&output));
    }
    Ok(output.stdout)
}

/// Runs `command` with the caller's standard streams, so that its progress is seen.
///
/// # Errors
/// The program cannot be started or ends with a non-zero status.
pub(crate) fn run_visibly(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// The command line of `command`, quoted so that it can be pasted into a shell.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// One word, quoted for a POSIX shell when it needs to be.
pub(crate) fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn printed(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_plain_words_and_protects_the_others() {
        let quoted = |word: &str| quote(OsStr::new(word));
        assert_eq!(quoted("path=/x.img,id=a"), "path=/x.img,id=a");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("$HOME"), "'$HOME'");
    }

    #[test]
    fn failure_names_the_command_and_what_it_printed() {
        let error = run(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("sh -c"), "{text}");
        assert!(text.contains("broken"), "{text}");
    }
}
