//! What the probe says, taken in: it runs where nobody is to be trusted, so that all of it may be anything.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::launch::{Finished, KEPT};

/// Characters of a text that are shown.
const SHOWN: usize = 120;

/// The answers to the words `facts syscalls escapes`. What else is said is passed over.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Answers {
    /// What is seen.
    pub facts: Facts,
    /// Which calls get through.
    pub syscalls: Syscalls,
    /// What would lead out.
    pub escapes: BTreeMap<String, Escape>,
}

/// What is seen; what could not be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// About the kernel.
    pub kernel: Kernel,
    /// Who the process is.
    pub identity: Identity,
    /// Processes below /proc.
    pub processes: Option<Names>,
    /// Files of /dev.
    pub devices: Option<Names>,
    /// Disks of /sys/block.
    pub block_devices: Option<Names>,
    /// Interfaces of /sys/class/net.
    pub network_interfaces: Option<Names>,
    /// Mounted file systems.
    pub mounts: Option<Mounts>,
    /// What the process may do.
    pub rights: Rights,
    /// Kernel parameters: `yes` if they can be opened for writing, else the error.
    pub sysctls: BTreeMap<String, String>,
    /// What seems to be there, and what may be used.
    pub limits: Limits,
}

/// About the kernel.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// Its release.
    pub release: Option<String>,
    /// Another at each boot.
    pub boot_id: Option<String>,
    /// What it was started with.
    pub command_line: Option<String>,
    /// Seconds since it was.
    pub uptime_seconds: Option<f64>,
    /// Loaded modules.
    pub modules: Option<u64>,
    /// `yes` if its messages can be opened, else the error.
    pub dmesg: Option<String>,
    /// Whether the addresses of its symbols are told.
    pub symbol_addresses: Option<bool>,
    /// Its clock.
    pub clocksource: Option<String>,
}

/// Who the process is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// The host name it sees.
    pub hostname: Option<String>,
    /// Its namespaces by kind.
    pub namespaces: BTreeMap<String, Option<String>>,
}

/// Names in a directory.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Names {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub names: Vec<String>,
}

/// Mounted file systems.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Mounts {
    /// How many there are.
    pub count: u64,
}

/// What the process may do.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rights {
    /// Capabilities.
    pub effective: Option<Vec<String>>,
    /// 2 with a filter of system calls.
    pub seccomp: Option<u32>,
}

/// What seems to be there, and what may be used.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory.
    pub memory: Limit,
    /// Processes.
    pub processes: Limit,
    /// Processors.
    pub processors: Limit,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// What is seen, as the kernel's files have it.
    #[serde(alias = "seen_bytes")]
    pub seen: Value,
    /// What the control group says: a number, `max`, or nothing.
    pub enforced: Option<String>,
}

/// Which calls get through.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Syscalls {
    /// How many, by `reachable`, `refused`, `absent` and `untried`.
    pub counts: BTreeMap<String, u64>,
}

/// Something that would lead out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Escape {
    /// Where to.
    pub leads_to: String,
    /// What was done.
    pub how: String,
    /// `possible`, `refused`, `absent` or `untried`.
    pub verdict: String,
    /// The kernel's answer.
    pub answer: String,
}

/// The answer to `memory-hog`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Hog {
    /// Bytes at which it stops by itself.
    pub bound_bytes: u64,
    /// Bytes it got.
    pub reached_bytes: u64,
    /// The signal that ended it.
    pub ended_by: Option<i32>,
}

/// The answer to `fork-bomb`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Bomb {
    /// Processes at which it stops by itself.
    pub bound: u64,
    /// Processes it made.
    pub made: u64,
    /// The error at the next one.
    pub refused: Option<String>,
}

/// The object that a probe has printed as its last line.
///
/// # Errors
/// It is none, or there is too much of it.
pub fn object(finished: &Finished) -> Result<Value, String> {
    let output = &finished.output;
    if output.len() >= KEPT {
        return Err(format!("the probe printed more than {} KiB", KEPT >> 10));
    }
    let text = String::from_utf8_lossy(output);
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    let line = line.ok_or("the probe printed nothing")?;
    let value: Value = serde_json::from_str(line)
        .map_err(|error| format!("the probe printed something else than JSON: {error}"))?;
    if value.is_object() { Ok(value) } else { Err("the probe printed no object".to_owned()) }
}

/// A part of what a probe said.
///
/// # Errors
/// It has another form.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| format!("the probe says what it cannot: {error}"))
}

/// A text of a probe as it may be shown in a table: without controls, and not too long.
pub fn shown(text: &str) -> String {
    cut(text, SHOWN)
}

/// The first `most` characters of a text, without controls.
pub fn cut(text: &str, most: usize) -> String {
    let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut shown: String = text.chars().take(most).map(plain).collect();
    if text.chars().nth(most).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(output: &[u8]) -> Result<Answers, String> {
        let mut finished = crate::testing::finished(0, 1, "");
        finished.output = output.to_vec();
        object(&finished).and_then(|value| read(&value))
    }

    #[test]
    fn answers_of_another_form_are_told_and_nothing_worse() {
        let why = |output: &[u8]| said(output).unwrap_err();
        assert!(why(b"").contains("printed nothing"));
        assert!(why(b"Segmentation fault\n").contains("something else than JSON"));
        assert!(why(b"[1]\n").contains("no object"));
        assert!(why(&[0xff; 40]).contains("something else than JSON"));
        assert!(why(&vec![b'{'; KEPT]).contains("more than 64 KiB"));
        assert!(why(b"{\"facts\":{}}").contains("what it cannot: missing field"));
        let wrong = b"{\"facts\":{\"processes\":{\"count\":-1}},\"syscalls\":{\"counts\":{}},\"escapes\":{}}";
        assert!(why(wrong).contains("what it cannot"));
        // No depth is too deep.
        assert!(why(&[b"{\"a\":".repeat(9000), vec![]].concat()).contains("else than JSON"));
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        let least = b"ready\ndone\n{\"facts\":{},\"syscalls\":{\"counts\":{}},\"escapes\":{}}\n\n";
        assert_eq!(said(least), Ok(Answers::default()));
    }

    #[test]
    fn texts_have_no_controls_and_an_end() {
        assert_eq!(shown("a\x1b[31m\nb"), "a\u{fffd}[31m\u{fffd}b");
        assert_eq!(shown(&"x".repeat(500)).len(), SHOWN + 3);
    }
}
