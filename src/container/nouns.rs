//! The words that docker's flags are made of.

use std::env;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::{Protocol, Publish};

/// Longest file of variables, in bytes.
const MAX_ENV_FILE: u64 = 1 << 20;

/// A word that does not say what its flag wants.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not {wanted}")]
pub struct NounError {
    text: String,
    wanted: &'static str,
}

impl NounError {
    /// `text` is not what is `wanted`.
    pub(super) fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

fn not(text: &str, wanted: &'static str) -> NounError {
    NounError::new(text, wanted)
}

/// The variables of a process, in the order in which they were first set.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Gives a variable a value, in the place it has.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Takes a variable away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// As `NAME=VALUE`, the form of execve(2).
    pub fn into_entries(self) -> Vec<String> {
        self.0.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// A variable of the environment; without a value, the one it has here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvEntry {
    name: String,
    value: Option<String>,
}

impl FromStr for EnvEntry {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text, None),
        };
        let good = !name.is_empty() && !text.contains('\0');
        let entry = Self { name: name.to_owned(), value };
        good.then_some(entry).ok_or_else(|| not(text, "NAME=VALUE or NAME"))
    }
}

impl EnvEntry {
    /// Sets the variable in `variables`, or removes it where it has no value here either.
    pub fn apply(&self, variables: &mut Environment) {
        match self.clone().told() {
            (name, Some(value)) => variables.set(&name, &value),
            (name, None) => variables.remove(&name),
        }
    }

    /// The variable, and its value if it has one.
    pub fn told(self) -> (String, Option<String>) {
        let value = self.value.or_else(|| env::var(&self.name).ok());
        (self.name, value)
    }

    /// The entries of a file: a line each; empty ones and those beginning with `#` say nothing.
    ///
    /// # Errors
    /// The file cannot be read, or a line of it is no entry.
    pub fn of_file(path: &Path) -> std::io::Result<Vec<Self>> {
        use std::io::{Error, Read};
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        file.take(1 + MAX_ENV_FILE).read_to_string(&mut text)?;
        if text.len() > usize::try_from(MAX_ENV_FILE).unwrap_or(usize::MAX) {
            return Err(Error::other(format!("it is longer than {MAX_ENV_FILE} bytes")));
        }
        let lines = text.lines().map(str::trim_start);
        let told = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        told.map(|line| line.parse().map_err(Error::other)).collect()
    }
}

/// A label of a container: `NAME=VALUE` or `NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label(pub String, pub String);

impl FromStr for Label {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(not(text, "NAME=VALUE or NAME"));
        }
        Ok(Self(name.to_owned(), value.to_owned()))
    }
}

/// An amount of memory in docker's units: `512m`, `1g`, `65536k`; bytes without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let lower = text.to_ascii_lowercase();
        let word = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
        let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
        let unit = units.into_iter().find_map(|(letter, shift)| {
            word.strip_suffix(letter).map(|digits| (digits, 1_u64 << shift))
        });
        let (digits, unit) = unit.unwrap_or((word, 1));
        let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let number: Option<u64> = plain.then(|| digits.parse().ok()).flatten();
        let bytes = number.and_then(|number| number.checked_mul(unit)).filter(|&bytes| bytes > 0);
        bytes.map(Self).ok_or_else(|| not(text, "a size such as 512m or 2g"))
    }
}

/// How much of the host's processors, in thousandths of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpus(u32);

impl Cpus {
    /// Virtual processors it takes: the number rounded up.
    pub fn count(self) -> u32 {
        self.0.div_ceil(1000)
    }

    /// Thousandths, where that is less than whole processors.
    pub fn quota(self) -> Option<u32> {
        (!self.0.is_multiple_of(1000)).then_some(self.0)
    }
}

impl FromStr for Cpus {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let wanted = "a number of processors from 0.01 to 64, such as 1.5";
        let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(rest) || rest.len() > 3 || text.len() > 8 || text == "." {
            return Err(not(text, wanted));
        }
        let number = |part: &str| if part.is_empty() { Ok(0) } else { part.parse::<u32>() };
        let thousandths = number(whole).and_then(|whole| {
            let rest = number(&format!("{rest:0<3}"))?;
            Ok(whole.saturating_mul(1000).saturating_add(rest))
        });
        match thousandths {
            Ok(n @ 10..=64_000) => Ok(Self(n)),
            _ => Err(not(text, wanted)),
        }
    }
}

/// When the source of an image is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When the image is not here.
    Missing,
    /// Not at all.
    Never,
}

impl FromStr for PullPolicy {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        match text {
            "always" => Ok(Self::Always),
            "missing" => Ok(Self::Missing),
            "never" => Ok(Self::Never),
            _ => Err(not(text, "always, missing or never")),
        }
    }
}

/// An empty file system in memory: where, and the options of tmpfs(5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path inside.
    pub path: String,
    /// Separated by commas, as mount(8) takes them.
    pub options: String,
}

impl FromStr for Tmpfs {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let (path, options) = text.split_once(':').unwrap_or((text, ""));
        if !path.starts_with('/') || text.contains('\0') {
            return Err(not(text, "/DIR or /DIR:OPTIONS"));
        }
        Ok(Self { path: path.to_owned(), options: options.to_owned() })
    }
}

/// A resource limit of setrlimit(2), by docker's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// What is enforced; `u64::MAX` for no limit.
    pub soft: u64,
    /// What it may be raised to.
    pub hard: u64,
}

/// The limits there are.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

impl FromStr for Ulimit {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let wrong = || not(text, "NAME=SOFT[:HARD] with a name such as nofile or core");
        let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let limit = |word: &str| match word {
            "-1" | "unlimited" => Some(u64::MAX),
            digits => digits.parse().ok(),
        };
        match (limit(soft), limit(hard)) {
            (Some(soft), Some(hard)) if soft <= hard && ULIMITS.contains(&name) => {
                Ok(Self { name: name.to_owned(), soft, hard })
            }
            _ => Err(wrong()),
        }
    }
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedHost {
    /// The name.
    pub name: String,
    /// What it stands for.
    pub address: IpAddr,
}

impl FromStr for AddedHost {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let wrong = || not(text, "NAME:ADDRESS");
        let (name, address) = text.split_once([':', '=']).ok_or_else(wrong)?;
        let part = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if name.is_empty() || !name.bytes().all(part) {
            return Err(wrong());
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = address.parse().map_err(|_| wrong())?;
        Ok(Self { name: name.to_owned(), address })
    }
}

/// A port of the container that the host offers: `[IP:]PORT:PORT[/tcp|/udp]`, on every address of the
/// host unless one is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping(pub Publish);

impl FromStr for PortMapping {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        let wrong = || not(text, "[IP:]HOST_PORT:CONTAINER_PORT[/udp]");
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match host.rsplit_once(':') {
            Some((address, host)) => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                (address.parse().map_err(|_| wrong())?, host)
            }
            None => (Ipv4Addr::UNSPECIFIED.into(), host),
        };
        let port = |text: &str| text.parse::<NonZeroU16>().map_err(|_| wrong());
        Ok(Self(Publish { protocol, address, host_port: port(host)?, guest_port: port(guest)? }))
    }
}

/// A signal, by its number or its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal(pub u8);

/// The signals of Linux with a name of their own, in the order of their numbers from 1 (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The last real-time signal.
const LAST_SIGNAL: u8 = 64;

impl Signal {
    /// Asks a process to end.
    pub const TERM: Self = Self(15);
    /// Ends a process.
    pub const KILL: Self = Self(9);
}

impl FromStr for Signal {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        if let Ok(number @ 1..=LAST_SIGNAL) = text.parse::<u8>() {
            return Ok(Self(number));
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let at = SIGNALS.iter().position(|known| *known == name);
        let number = at.and_then(|at| u8::try_from(at).ok()).and_then(|at| at.checked_add(1));
        number.map(Self).ok_or_else(|| not(text, "a signal such as TERM, SIGKILL or 9"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all<T: FromStr>(good: &[&str], bad: &[&str]) -> Vec<T> {
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} was taken");
        }
        good.iter().map(|text| text.parse().ok().expect(text)).collect()
    }

    #[test]
    fn sizes_have_dockers_units() {
        let sizes: Vec<Size> = all(
            &["64", "1k", "512m", "2G", "3mb", "4GiB", "1T"],
            &["", "0", "m", "-1m", "1.5g", "1x", "99999999999999999999", "17179869184g", "1 m"],
        );
        let bytes: Vec<u64> = sizes.into_iter().map(|size| size.0).collect();
        assert_eq!(bytes, [64, 1 << 10, 512 << 20, 2 << 30, 3 << 20, 4 << 30, 1 << 40]);
    }

    #[test]
    fn parts_of_processors_round_up_and_leave_a_quota() {
        let cpus: Vec<Cpus> = all(
            &["1", "1.5", ".5", "2.", "64", "0.01"],
            &["", ".", "0", "0.001", "65", "1.2345", "1e3", "-1", "1,5", "4294967297"],
        );
        let seen: Vec<_> = cpus.iter().map(|cpus| (cpus.count(), cpus.quota())).collect();
        let half = |n| Some(n);
        assert_eq!(
            seen,
            [(1, None), (2, half(1500)), (1, half(500)), (2, None), (64, None), (1, half(10))]
        );
    }

    #[test]
    fn variables_are_set_taken_over_and_removed() {
        let mut variables = Environment::default();
        variables.set("GONE", "x");
        variables.set("A", "0");
        for entry in all::<EnvEntry>(&["A=1", "B=", "C=x=y", "PATH", "GONE"], &["", "=x", "A\0=1"])
        {
            entry.apply(&mut variables);
        }
        let path = format!("PATH={}", env::var("PATH").expect("a path"));
        assert_eq!(variables.into_entries(), ["A=1", "B=", "C=x=y", &path]);
    }

    #[test]
    fn ports_are_offered_everywhere_unless_an_address_is_given() {
        let ports: Vec<PortMapping> = all(
            &["8080:80", "127.0.0.1:53:53/udp", "[::1]:1:2/tcp"],
            &["80", "0:80", "1:2/sctp", "x:1:2", ":", "1:65536", ""],
        );
        let seen: Vec<_> = ports.iter().map(|port| port.0.to_string()).collect();
        assert_eq!(seen, ["0.0.0.0:8080:80", "udp:127.0.0.1:53:53", "[::1]:1:2"]);
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let signals: Vec<Signal> = all(
            &["9", "KILL", "SIGTERM", "hup", "sys", "64"],
            &["0", "65", "", "SIG", "FOO", "-9"],
        );
        let numbers: Vec<u8> = signals.into_iter().map(|signal| signal.0).collect();
        assert_eq!(numbers, [9, 9, 15, 1, 31, 64]);
    }

    #[test]
    fn other_words_are_what_they_look_like() {
        all::<Tmpfs>(&["/run", "/tmp:size=1m,noexec"], &["tmp", "", ":x"]);
        all::<AddedHost>(
            &["a:1.2.3.4", "b=::1", "c:[::1]"],
            &["a", ":1.2.3.4", "a b:1.2.3.4", "a:x"],
        );
        all::<Label>(&["a=b", "a"], &["", "=b"]);
        let limits: Vec<Ulimit> =
            all(&["nofile=1:2", "core=-1"], &["nofile", "x=1", "nofile=2:1", "nofile=a"]);
        assert_eq!((limits[0].soft, limits[0].hard, limits[1].soft), (1, 2, u64::MAX));
    }

    #[test]
    fn files_of_variables_are_read_line_by_line() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("env");
        std::fs::write(&file, "# comment\n\nA=1\n  B=2 \n").expect("written");
        let entries = EnvEntry::of_file(&file).expect("read");
        assert_eq!(entries.len(), 2);
        std::fs::write(&file, "=x\n").expect("written");
        assert!(EnvEntry::of_file(&file).is_err());
    }
}
