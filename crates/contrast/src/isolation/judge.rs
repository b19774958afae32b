//! Verdicts: what a column's answer means beside the host's own, and nothing that was not measured.

use serde::{Deserialize, Serialize};

use super::Seen;
use super::answers::{Answers, Limit, Names};

/// What a verdict comes down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It is the host's.
    Shared,
    /// It is part of the host's.
    Reduced,
    /// It is another one than the host's.
    Own,
    /// It is neither seen nor to be had.
    Refused,
    /// It can be had, and is of a kernel of its own.
    OwnOnly,
    /// It can be had, and is of the host's kernel.
    Reaches,
    /// It ended at a limit.
    Contained,
    /// It ended at no limit.
    NotContained,
    /// There is nothing to compare.
    Unknown,
}

/// A verdict and its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) kind: Kind,
    pub(super) says: String,
}

impl Verdict {
    pub(super) fn new(kind: Kind, says: impl Into<String>) -> Self {
        Self { kind, says: says.into() }
    }
}

/// Whose kernel it is, by the boot id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Shared,
    Own,
    Unknown,
}

/// The host, and what is compared with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) host: &'a Seen,
    pub(super) own: &'a Seen,
}

impl<'a> Pair<'a> {
    pub(super) fn kernel(&self) -> Kernel {
        let (host, own) = self.get(|answers| answers.facts.kernel.boot_id.as_deref());
        match (host, own) {
            (Some(host), Some(own)) if host == own => Kernel::Shared,
            (Some(_), Some(_)) => Kernel::Own,
            _ => Kernel::Unknown,
        }
    }

    fn get<T>(&self, get: impl Fn(&'a Answers) -> T) -> (T, T) {
        (get(&self.host.answers), get(&self.own.answers))
    }

    /// Whether both are in the same namespace of a kind, which only one kernel can say.
    fn same_namespace(&self, kind: &str) -> bool {
        let get = |answers: &'a Answers| {
            answers.facts.identity.namespaces.get(kind).and_then(Option::as_deref)
        };
        let (host, own) = self.get(get);
        self.kernel() == Kernel::Shared && host.is_some() && host == own
    }

    /// What can be had, by whose it is.
    fn reach(&self, what: &str) -> Verdict {
        match self.kernel() {
            Kernel::Shared => Verdict::new(Kind::Reaches, format!("{what} of the host's kernel")),
            Kernel::Own => Verdict::new(Kind::OwnOnly, format!("{what} of its own kernel")),
            Kernel::Unknown => Verdict::new(Kind::Unknown, "whose kernel it is could not be read"),
        }
    }

    /// Texts that are the host's, or not.
    fn same(&self, get: impl Fn(&'a Answers) -> Option<&'a str>, what: &str) -> Verdict {
        match self.get(get) {
            (_, None) => Verdict::new(Kind::Refused, format!("shows no {what}")),
            (Some(host), Some(own)) if host == own => {
                Verdict::new(Kind::Shared, format!("the {what} is the host's"))
            }
            (Some(_), Some(_)) => {
                Verdict::new(Kind::Own, format!("another {what} than the host's"))
            }
            (None, Some(_)) => Verdict::new(Kind::Unknown, format!("the host shows no {what}")),
        }
    }
}

pub(super) fn boot_id(pair: &Pair<'_>) -> Verdict {
    match pair.kernel() {
        Kernel::Shared => Verdict::new(Kind::Shared, "shares the host's kernel"),
        Kernel::Own => Verdict::new(Kind::Own, "a kernel of its own"),
        Kernel::Unknown => Verdict::new(Kind::Unknown, "a boot id could not be read"),
    }
}

pub(super) fn release(pair: &Pair<'_>) -> Verdict {
    pair.same(|answers| answers.facts.kernel.release.as_deref(), "release")
}

pub(super) fn command_line(pair: &Pair<'_>) -> Verdict {
    pair.same(|answers| answers.facts.kernel.command_line.as_deref(), "command line")
}

pub(super) fn hostname(pair: &Pair<'_>) -> Verdict {
    pair.same(|answers| answers.facts.identity.hostname.as_deref(), "name")
}

/// Seconds by which two clocks may differ that are one: one is read a moment after its program began.
const TOLERANCE: f64 = 1.0;

pub(super) fn uptime(pair: &Pair<'_>) -> Verdict {
    let (Some(host), Some(own)) = pair.get(|answers| answers.facts.kernel.uptime_seconds) else {
        return Verdict::new(Kind::Unknown, "an uptime could not be read");
    };
    // When it was zero, by the host's clock: between these two.
    let zero = |seen: &Seen, uptime: f64| seen.between.map(|moment| moment - uptime);
    let ([host_low, host_high], [own_low, own_high]) = (zero(pair.host, host), zero(pair.own, own));
    if own_low <= host_high + TOLERANCE && own_high >= host_low - TOLERANCE {
        return Verdict::new(Kind::Shared, "runs since the host was started");
    }
    let later = own_low - host_low;
    Verdict::new(Kind::Own, format!("was started {later:.0} s after the host"))
}

pub(super) fn modules(pair: &Pair<'_>) -> Verdict {
    match (pair.own.answers.facts.kernel.modules, pair.kernel()) {
        (None, _) => Verdict::new(Kind::Refused, "shows no modules"),
        (Some(_), Kernel::Shared) => Verdict::new(Kind::Shared, "the modules of the host's kernel"),
        (Some(_), Kernel::Own) => Verdict::new(Kind::Own, "the modules of its own kernel"),
        (Some(_), Kernel::Unknown) => pair.reach(""),
    }
}

pub(super) fn dmesg(pair: &Pair<'_>) -> Verdict {
    match pair.own.answers.facts.kernel.dmesg.as_deref() {
        Some("yes") => pair.reach("can read the messages"),
        Some(_) => Verdict::new(Kind::Refused, "cannot be read"),
        None => Verdict::new(Kind::Unknown, "nothing is known about it"),
    }
}

pub(super) fn symbols(pair: &Pair<'_>) -> Verdict {
    match pair.own.answers.facts.kernel.symbol_addresses {
        Some(true) => pair.reach("can read the addresses"),
        Some(false) => Verdict::new(Kind::Refused, "all addresses are zero"),
        None => Verdict::new(Kind::Refused, "cannot be read"),
    }
}

/// Things that a namespace has: whose it is.
fn namespaced(pair: &Pair<'_>, kind: &str, what: &str) -> Verdict {
    if pair.kernel() == Kernel::Own {
        return Verdict::new(Kind::Own, format!("{what} of its own kernel"));
    }
    if pair.same_namespace(kind) {
        return Verdict::new(Kind::Shared, format!("{what} of the host"));
    }
    Verdict::new(Kind::Own, format!("{what} of a namespace of its own"))
}

pub(super) fn processes(pair: &Pair<'_>) -> Verdict {
    namespaced(pair, "pid", "the processes")
}

pub(super) fn mounts(pair: &Pair<'_>) -> Verdict {
    namespaced(pair, "mnt", "the file systems")
}

pub(super) fn interfaces(pair: &Pair<'_>) -> Verdict {
    namespaced(pair, "net", "the interfaces")
}

/// Names that are the host's, in part or not at all.
fn listed<'a>(
    pair: &Pair<'a>,
    get: impl Fn(&'a Answers) -> Option<&'a Names>,
    what: &str,
) -> Verdict {
    let (Some(host), Some(own)) = pair.get(get) else {
        return Verdict::new(Kind::Refused, format!("shows no {what}"));
    };
    match pair.kernel() {
        Kernel::Own => Verdict::new(Kind::Own, format!("{what} of its own machine")),
        Kernel::Unknown => pair.reach(""),
        Kernel::Shared if own.count == 0 => Verdict::new(Kind::Refused, format!("shows no {what}")),
        Kernel::Shared if own == host => {
            Verdict::new(Kind::Shared, format!("all {what} of the host"))
        }
        Kernel::Shared => {
            Verdict::new(Kind::Reduced, format!("fewer than the host's {}", host.count))
        }
    }
}

pub(super) fn devices(pair: &Pair<'_>) -> Verdict {
    listed(pair, |answers| answers.facts.devices.as_ref(), "devices")
}

pub(super) fn disks(pair: &Pair<'_>) -> Verdict {
    listed(pair, |answers| answers.facts.block_devices.as_ref(), "disks")
}

pub(super) fn clock(pair: &Pair<'_>) -> Verdict {
    let escapes = &pair.own.answers.escapes;
    if escapes.get("clock").is_some_and(|escape| escape.verdict == "possible") {
        return pair.reach("can set the clock");
    }
    match pair.kernel() {
        Kernel::Own => Verdict::new(Kind::Own, "a clock of its own kernel, which it cannot set"),
        Kernel::Shared if pair.same_namespace("time") => {
            Verdict::new(Kind::Shared, "the host's clock, which it cannot set")
        }
        Kernel::Shared => Verdict::new(Kind::Own, "a namespace of time of its own"),
        Kernel::Unknown => pair.reach(""),
    }
}

pub(super) fn capabilities(pair: &Pair<'_>) -> Verdict {
    let count = |answers: &Answers| answers.facts.rights.effective.as_ref().map(Vec::len);
    match pair.get(count) {
        (_, None) => Verdict::new(Kind::Unknown, "its rights could not be read"),
        (_, Some(0)) => Verdict::new(Kind::Refused, "none"),
        (Some(host), Some(own)) if pair.kernel() == Kernel::Shared && own < host => {
            Verdict::new(Kind::Reduced, format!("fewer than the host's {host}"))
        }
        (_, Some(_)) => pair.reach("they are rights over resources"),
    }
}

pub(super) fn filter(pair: &Pair<'_>) -> Verdict {
    match pair.own.answers.facts.rights.seccomp {
        Some(2) => Verdict::new(Kind::Reduced, "a filter of system calls is set"),
        Some(_) => pair.reach("without a filter in front"),
        None => Verdict::new(Kind::Unknown, "whether there is a filter could not be read"),
    }
}

pub(super) fn calls(pair: &Pair<'_>) -> Verdict {
    match pair.own.answers.syscalls.counts.get("reachable") {
        Some(_) => pair.reach("they are calls"),
        None => Verdict::new(Kind::Unknown, "they could not be tried"),
    }
}

pub(super) fn sysctls(pair: &Pair<'_>) -> Verdict {
    let sysctls = &pair.own.answers.facts.sysctls;
    let count = sysctls.values().filter(|answer| *answer == "yes").count();
    match (sysctls.len(), count) {
        (0, _) => Verdict::new(Kind::Unknown, "none was tried"),
        (all, 0) => Verdict::new(Kind::Refused, format!("none of {all} can be opened for writing")),
        (all, count) => pair.reach(&format!("can write {count} of {all}")),
    }
}

/// What is seen is the host's or not; what may be used is less or not.
fn limited<'a>(pair: &Pair<'a>, get: impl Fn(&'a Answers) -> &'a Limit, what: &str) -> Verdict {
    let (host, own) = pair.get(get);
    let limit = match own.enforced.as_deref() {
        Some(limit) if !limit.starts_with("max") => "a limit is set".to_owned(),
        Some(_) => "no limit is set".to_owned(),
        None => "no limit is shown".to_owned(),
    };
    match pair.kernel() {
        Kernel::Own => {
            Verdict::new(Kind::Own, format!("sees the {what} of its own machine; {limit}"))
        }
        Kernel::Shared if own.seen == host.seen => {
            Verdict::new(Kind::Shared, format!("sees the {what} of the host; {limit}"))
        }
        Kernel::Shared => {
            Verdict::new(Kind::Own, format!("sees other {what} than the host; {limit}"))
        }
        Kernel::Unknown => pair.reach(""),
    }
}

pub(super) fn memory(pair: &Pair<'_>) -> Verdict {
    limited(pair, |answers| &answers.facts.limits.memory, "memory")
}

pub(super) fn process_limit(pair: &Pair<'_>) -> Verdict {
    limited(pair, |answers| &answers.facts.limits.processes, "process numbers")
}

pub(super) fn processors(pair: &Pair<'_>) -> Verdict {
    limited(pair, |answers| &answers.facts.limits.processors, "processors")
}

/// A way out: closed, or open to whose kernel.
pub(super) fn escape(pair: &Pair<'_>, name: &str) -> Verdict {
    let Some(escape) = pair.own.answers.escapes.get(name) else {
        return Verdict::new(Kind::Unknown, "it was not tried");
    };
    match &*escape.verdict {
        "possible" => pair.reach("open: a way into more"),
        "absent" => Verdict::new(Kind::Refused, "closed: there is no such thing"),
        "refused" => Verdict::new(Kind::Refused, "closed"),
        _ => Verdict::new(Kind::Unknown, "it could not be tried"),
    }
}
