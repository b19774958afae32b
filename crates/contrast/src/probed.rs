//! What the probe says from within, which is as trustworthy as what runs there: read without a fault, and held to
//! what there is to say.

use serde_json::{Map, Value};

use crate::figures::Kind;

/// A figure of the probe: the word that asks for it, its name in the answer, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    word: &'static str,
    member: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What the probe's number is divided by.
    divisor: f64,
}

const fn probed(
    word: &'static str,
    member: &'static str,
    name: &'static str,
    unit: &'static str,
) -> Probed {
    let absent = match word.as_bytes() {
        b"io" => "no file can be made, or not be used so, where it begins",
        b"loopback" => "its loopback interface is not there, or not up",
        b"stream" => {
            "it has no way to its host: it has no network, or one with nothing but its loopback interface"
        }
        _ => "there is no /dev/zero within it, or a call is refused",
    };
    let kind = Kind { name, unit, absent };
    Probed { word, member, kind, divisor: if matches!(unit.as_bytes(), b"ms") { 1e6 } else { 1.0 } }
}

/// The words of `vmm bench cpu`, and its figures.
pub const CPU_WORDS: [&str; 2] = ["cpu", "syscall-latency"];
/// See [`CPU_WORDS`].
pub const CPU: [Probed; 10] = [
    probed("cpu", "arithmetic", "arithmetic, 5 million steps", "ms"),
    probed("cpu", "hash", "hash of 4 MiB", "ms"),
    probed("cpu", "copy", "copy of 4 MiB", "ms"),
    probed("cpu", "kernel", "4 MiB of zeros from the kernel", "ms"),
    probed("syscall-latency", "getpid", "getpid", "ns"),
    probed("syscall-latency", "read", "read of a byte of /dev/zero", "ns"),
    probed("syscall-latency", "pipe", "byte to a thread and back", "ns"),
    probed("syscall-latency", "fault", "first touch of a page", "ns"),
    probed("syscall-latency", "fork", "process made and ended", "ns"),
    probed("syscall-latency", "mmap", "page mapped and unmapped", "ns"),
];

/// The words of `vmm bench io`, before that of [`crate::sink::Sink`], and its figures.
pub const IO_WORDS: [&str; 2] = ["io", "loopback"];
/// See [`IO_WORDS`].
pub const IO: [Probed; 8] = [
    probed("io", "write", "file written in order until stored", "MiB/s"),
    probed("io", "read", "file read in order", "MiB/s"),
    probed("io", "random_write", "4 KiB written somewhere until stored", "1/s"),
    probed("io", "random_read", "4 KiB read somewhere", "1/s"),
    probed("loopback", "stream", "TCP stream to itself", "MiB/s"),
    probed("loopback", "round_trip", "byte there and back by TCP to itself", "ns"),
    probed("stream", "stream", "TCP stream to its host", "MiB/s"),
    probed("stream", "round_trip", "byte there and back by TCP to its host", "ns"),
];

/// The figures in what the probe printed: `None` for those it could not take.
///
/// # Errors
/// It printed something else.
pub fn read(list: &[Probed], output: &[u8]) -> Result<Vec<Option<f64>>, String> {
    let answer: Map<String, Value> =
        serde_json::from_slice(output).map_err(|error| format!("it is no object: {error}"))?;
    list.iter().map(|probed| figure(probed, &answer)).collect()
}

fn figure(probed: &Probed, answer: &Map<String, Value>) -> Result<Option<f64>, String> {
    let Probed { word, member, divisor, .. } = probed;
    let found = match answer.get(*word) {
        Some(Value::Object(members)) => members.get(*member),
        other => other,
    };
    match found {
        Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => {
            let value = number.as_f64().filter(|value| value.is_finite() && *value > 0.0);
            value
                .map(|value| Some(value / divisor))
                .ok_or_else(|| format!("{word}, {member}: {number}"))
        }
        Some(_) => Err(format!("{word}, {member}: it is no number")),
        None => Err(format!("{word}, {member} is missing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_word_and_member() {
        let list = [
            probed("cpu", "copy", "", "ms"),
            probed("io", "read", "", "MiB/s"),
            probed("loopback", "stream", "", "MiB/s"),
        ];
        let said = br#"{"cpu":{"copy":2000000,"more":1},"io":{"read":7},"loopback":null}"#;
        assert_eq!(read(&list, said), Ok(vec![Some(2.0), Some(7.0), None]));
    }

    #[test]
    fn anything_else_is_refused_by_what_is_wrong() {
        let list = [probed("cpu", "copy", "", "ms")];
        let deep = "[".repeat(60_000);
        for (said, why) in [
            ("", "no object"),
            ("[]", "no object"),
            (&*deep, "no object"),
            ("{}", "cpu, copy is missing"),
            (r#"{"cpu":{}}"#, "cpu, copy is missing"),
            (r#"{"cpu":{"copy":"fast"}}"#, "no number"),
            (r#"{"cpu":[1]}"#, "no number"),
            (r#"{"cpu":{"copy":0}}"#, "cpu, copy: 0"),
            (r#"{"cpu":{"copy":-5}}"#, "cpu, copy: -5"),
            (r#"{"cpu":{"copy":1e999}}"#, "no object"),
            (r#"{"cpu":{"copy":1}} trailing"#, "no object"),
        ] {
            let found = read(&list, said.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{said:.20}: {found}");
        }
        assert!(read(&list, b"\xff\xfe").is_err());
    }

    #[test]
    fn each_list_asks_for_what_it_reads() {
        for (words, list) in [(CPU_WORDS, &CPU[..]), (IO_WORDS, &IO[..])] {
            let words: Vec<_> = words.into_iter().chain(["stream"]).collect();
            assert!(list.iter().all(|probed| words.contains(&probed.word)));
            let words = words.iter().take(2);
            assert!(words.into_iter().all(|word| list.iter().any(|probed| probed.word == *word)));
        }
    }
}
