//! What each answer of the probe is called, how it was had, and who judges it.

use serde_json::Value;

use super::answers::{Answers, Limit, Names};
use super::judge::{self, Pair, Verdict};

/// A line that one answer of the probe makes.
pub(super) struct Rule {
    pub(super) id: &'static str,
    pub(super) group: &'static str,
    pub(super) what: &'static str,
    pub(super) how: &'static str,
    pub(super) value: fn(&Answers) -> Option<String>,
    pub(super) judge: fn(&Pair<'_>) -> Verdict,
}

const fn rule(
    (id, group, what): (&'static str, &'static str, &'static str),
    how: &'static str,
    value: fn(&Answers) -> Option<String>,
    judge: fn(&Pair<'_>) -> Verdict,
) -> Rule {
    Rule { id, group, what, how, value, judge }
}

pub(super) const KERNEL: &str = "kernel";
pub(super) const SIGHT: &str = "what is seen";
pub(super) const RIGHTS: &str = "what may be done";
pub(super) const LIMITS: &str = "limits";
pub(super) const SURFACE: &str = "the host's kernel in use";
pub(super) const ESCAPES: &str = "ways out";

/// Lines of the probe's answers, in order.
pub(super) const RULES: [Rule; 21] = [
    rule(
        ("boot-id", KERNEL, "boot id"),
        "read /proc/sys/kernel/random/boot_id, which is another at each boot",
        |answers| answers.facts.kernel.boot_id.clone(),
        judge::boot_id,
    ),
    rule(
        ("kernel-release", KERNEL, "kernel release"),
        "uname(2)",
        |answers| answers.facts.kernel.release.clone(),
        judge::release,
    ),
    rule(
        ("uptime", KERNEL, "uptime"),
        "read /proc/uptime, and compared with the host's at the same moment",
        |answers| answers.facts.kernel.uptime_seconds.map(|seconds| format!("{seconds:.0} s")),
        judge::uptime,
    ),
    rule(
        ("command-line", KERNEL, "kernel command line"),
        "read /proc/cmdline",
        |answers| answers.facts.kernel.command_line.clone(),
        judge::command_line,
    ),
    rule(
        ("modules", KERNEL, "kernel modules"),
        "counted the lines of /proc/modules",
        |answers| answers.facts.kernel.modules.map(|count| count.to_string()),
        judge::modules,
    ),
    rule(
        ("dmesg", KERNEL, "kernel messages"),
        "opened /dev/kmsg for reading",
        |answers| answers.facts.kernel.dmesg.clone(),
        judge::dmesg,
    ),
    rule(
        ("kallsyms", KERNEL, "kernel addresses"),
        "read /proc/kallsyms, and looked for an address that is not zero",
        |answers| answers.facts.kernel.symbol_addresses.map(|told| yes(told, "told", "hidden")),
        judge::symbols,
    ),
    rule(
        ("processes", SIGHT, "visible processes"),
        "counted the numbers in /proc; whose: the link /proc/self/ns/pid",
        |answers| names(answers.facts.processes.as_ref()),
        judge::processes,
    ),
    rule(
        ("devices", SIGHT, "devices"),
        "listed /dev",
        |answers| names(answers.facts.devices.as_ref()),
        judge::devices,
    ),
    rule(
        ("disks", SIGHT, "disks"),
        "listed /sys/block",
        |answers| names(answers.facts.block_devices.as_ref()),
        judge::disks,
    ),
    rule(
        ("mounts", SIGHT, "mounts"),
        "counted the lines of /proc/self/mounts; whose: the link /proc/self/ns/mnt",
        |answers| answers.facts.mounts.as_ref().map(|mounts| mounts.count.to_string()),
        judge::mounts,
    ),
    rule(
        ("interfaces", SIGHT, "network interfaces"),
        "listed /sys/class/net; whose: the link /proc/self/ns/net",
        |answers| names(answers.facts.network_interfaces.as_ref()),
        judge::interfaces,
    ),
    rule(
        ("hostname", SIGHT, "host name"),
        "uname(2)",
        |answers| answers.facts.identity.hostname.clone(),
        judge::hostname,
    ),
    rule(
        ("clock", SIGHT, "clock"),
        "read the clock source in /sys; called settimeofday(2) with nothing to set; the link /proc/self/ns/time",
        |answers| answers.facts.kernel.clocksource.clone(),
        judge::clock,
    ),
    rule(
        ("capabilities", RIGHTS, "capabilities"),
        "read CapEff of /proc/self/status",
        |answers| answers.facts.rights.effective.as_ref().map(|list| list.len().to_string()),
        judge::capabilities,
    ),
    rule(
        ("filter", RIGHTS, "filter of system calls"),
        "read Seccomp of /proc/self/status",
        |answers| answers.facts.rights.seccomp.map(|mode| yes(mode == 2, "filter", "none")),
        judge::filter,
    ),
    rule(
        ("system-calls", RIGHTS, "reachable system calls"),
        "made each of them with arguments that do nothing: neither EPERM nor ENOSYS came back",
        reachable,
        judge::calls,
    ),
    rule(
        ("sysctls", RIGHTS, "parameters of the kernel"),
        "opened files of /proc/sys that change a kernel, for writing, and wrote nothing",
        |answers| Some(writable(answers)),
        judge::sysctls,
    ),
    rule(
        ("memory", LIMITS, "memory"),
        "read MemTotal of /proc/meminfo (seen) and memory.max of the control group (limit)",
        |answers| limit(&answers.facts.limits.memory, true),
        judge::memory,
    ),
    rule(
        ("process-limit", LIMITS, "processes"),
        "read /proc/sys/kernel/pid_max (seen) and pids.max of the control group (limit)",
        |answers| limit(&answers.facts.limits.processes, false),
        judge::process_limit,
    ),
    rule(
        ("processors", LIMITS, "processors"),
        "counted those in /proc/cpuinfo (seen), read cpu.max of the control group (limit)",
        |answers| limit(&answers.facts.limits.processors, false),
        judge::processors,
    ),
];

fn yes(is: bool, one: &str, other: &str) -> String {
    if is { one.to_owned() } else { other.to_owned() }
}

/// How many, and which if they are few.
fn names(names: Option<&Names>) -> Option<String> {
    /// More than these fit into no table.
    const FEW: usize = 3;
    let names = names?;
    let list = if names.names.len() <= FEW && !names.names.is_empty() {
        format!(" ({})", names.names.join(", "))
    } else {
        String::new()
    };
    Some(format!("{}{list}", names.count))
}

fn reachable(answers: &Answers) -> Option<String> {
    let reachable = answers.syscalls.counts.get("reachable")?;
    let all = answers.syscalls.counts.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let untried = answers.syscalls.counts.get("untried").copied().unwrap_or_default();
    Some(format!("{reachable} of {all}, {untried} not tried"))
}

fn writable(answers: &Answers) -> String {
    let list = answers.facts.sysctls.iter().filter(|(_, answer)| *answer == "yes");
    let list: Vec<&str> = list.map(|(name, _)| name.as_str()).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn limit(limit: &Limit, bytes: bool) -> Option<String> {
    let seen = match &limit.seen {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let form = |text: &str| match text.parse::<u64>() {
        Ok(number) if bytes => format!("{} MiB", number >> 20),
        _ => text.to_owned(),
    };
    let enforced = limit.enforced.as_deref().map_or("not shown".to_owned(), form);
    Some(format!("{} seen, limit {enforced}", form(&seen)))
}
