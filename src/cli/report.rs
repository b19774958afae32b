//! Telling the user what went wrong: one line, a hint where there is one, and an exit status.

use std::fmt::{Display, Write as _};
use std::io::Write as _;

use super::Exit;
use super::hints::{hint, status};
use crate::control::{End, Explanation};
use crate::doctor::{KvmMode, kvm_mode};

/// Prints the whole chain of `error` as one line, then a hint, and says how to exit.
pub(super) fn error(error: &anyhow::Error) -> Exit {
    print(&format!("{error:#}"), hint(error).as_deref());
    status(error)
}

/// Prints a remark about something that may not work.
pub(super) fn warning(text: &str, hint: &str) {
    print(&format!("warning: {text}"), Some(hint));
}

/// Prints what the user has to know.
pub(super) fn note(text: &str) {
    print(text, None);
}

/// Prints how a guest failed, and what is known about it.
pub(super) fn failure(end: &End, explanation: &Explanation) {
    // Guests fail in many ways where KVM emulates their kernel. Asked only now, because it takes
    // a moment to find out.
    match kvm_mode().ok().and_then(KvmMode::explanation) {
        Some((what, fix)) => {
            print(what, Some(fix));
            line(format_args!("  what happened: {end}"));
        }
        None => line(format_args!("vmm: {end}")),
    }
    line(explanation);
}

/// Prints what a guest that ended by itself said last.
pub(super) fn last_words(console: &[String]) {
    if !console.is_empty() {
        line("last console lines:");
    }
    console.iter().for_each(|text| line(format_args!("  {text}")));
}

/// Prints why a container failed, and the last that its machine said.
pub(super) fn container_failure(what: &str, details: &[String]) {
    print(what, None);
    for detail in details {
        line(format_args!("  {}", one_line(detail)));
    }
}

/// Answers a command line that clap did not take, or one that asks for help or the version. It named the
/// command `name`, if any.
pub(super) fn usage(error: &clap::Error, name: Option<&str>) -> Exit {
    if !error.use_stderr() {
        // Nothing is left to be told to a reader who has closed the pipe.
        let _: Result<_, _> = error.print();
        return Exit::Success;
    }
    let (what, tip) = sentences(&error.to_string());
    let usual = || match name {
        Some(name) => format!("vmm {name} --help lists the options"),
        None => "vmm --help lists the options and examples".to_owned(),
    };
    let tip = tip.unwrap_or_else(usual);
    print(&what, Some(&tip));
    Exit::Config
}

/// What clap says in several paragraphs, as one sentence and one tip.
fn sentences(text: &str) -> (String, Option<String>) {
    let mut paragraphs = text.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(&what).to_owned();
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    // What looks like an option is more likely a wrong one than a file's name.
    (what, tip.filter(|tip| !tip.starts_with("to pass ")))
}

fn print(what: &str, hint: Option<&str>) {
    line(format_args!("vmm: {}", one_line(what)));
    if let Some(hint) = hint {
        line(format_args!("hint: {}", one_line(hint)));
    }
}

/// Prints to standard error. A reader that is gone changes nothing about the exit status, where
/// `eprintln!` would panic.
fn line(text: impl Display) {
    let _: Result<_, _> = writeln!(std::io::stderr(), "{text}");
}

/// The text with its control characters spelled out: names of files and keys are not ours, and must
/// neither break the line nor reach the terminal as commands.
pub(super) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            // Writing to a string does not fail.
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc\u{9b}"), "a\\nb\\u{1b}[2Jc\\u{9b}");
    }

    #[test]
    fn paragraphs_become_a_sentence_and_a_tip() {
        let (what, tip) = sentences(
            "error: unexpected argument '--memroy' found\n\n  tip: a similar argument exists: \
             '--memory'\n\nUsage: vmm [OPTIONS]\n",
        );
        assert_eq!(what, "unexpected argument '--memroy' found");
        assert_eq!(tip.as_deref(), Some("a similar argument exists: '--memory'"));
        let (_, tip) = sentences("error: x\n\n  tip: to pass '--x' as a value, use '-- --x'\n");
        assert_eq!(tip, None);
    }
}
