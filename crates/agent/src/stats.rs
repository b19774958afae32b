//! What the container uses, read from the kernel's files.

use std::fs;
use std::io::Read;

use rustix::process::Pid;
use vmm_protocol::{Process, Stats, printable};

use crate::cgroup::value;
use crate::setup::Container;

/// Processes that are told of, and characters of their command lines: so that all fit a message.
const PROCESSES: usize = 256;
const COMMAND: usize = 200;
/// Bytes that are read of a file about a process, which may have made it as long as it likes.
const FILE: u64 = 8 << 10;
/// Microseconds of a clock tick in files of proc.
const TICK_US: u64 = 10_000;

/// What the container uses now.
pub(crate) fn stats(container: &Container) -> Stats {
    let read = |name: &str| container.cgroup.read(name);
    let number = |name: &str| read(name).trim().parse().unwrap_or(0);
    let (cpu, io) = (read("cpu.stat"), read("io.stat"));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let network = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let (net_rx_bytes, net_tx_bytes) = traffic(&network);
    Stats {
        memory_bytes: number("memory.current"),
        inactive_file_bytes: value(&read("memory.stat"), "inactive_file"),
        guest_total_bytes: kilobytes(&memory, "MemTotal:"),
        guest_available_bytes: kilobytes(&memory, "MemAvailable:"),
        cpu_us: value(&cpu, "usage_usec"),
        cpu_system_us: value(&cpu, "system_usec"),
        pids: number("pids.current"),
        oom_kills: container.cgroup.oom_kills(),
        net_rx_bytes,
        net_tx_bytes,
        disk_read_bytes: sum(&io, "rbytes="),
        disk_write_bytes: sum(&io, "wbytes="),
    }
}

/// A line of `/proc/meminfo`, in bytes.
fn kilobytes(text: &str, key: &str) -> u64 {
    let number = |line: &str| line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse().ok();
    text.lines().find_map(number).unwrap_or(0_u64).saturating_mul(1024)
}

/// The sum over all disks in `io.stat`.
fn sum(text: &str, key: &str) -> u64 {
    let words = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse().ok());
    words.fold(0, u64::saturating_add)
}

/// Bytes received and sent by all interfaces but loopback, out of `/proc/net/dev`.
fn traffic(text: &str) -> (u64, u64) {
    let interface = |line: &str| -> Option<(u64, u64)> {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace();
        let (received, sent) = (numbers.next()?.parse().ok()?, numbers.nth(7)?.parse().ok()?);
        (name.trim() != "lo").then_some((received, sent))
    };
    text.lines().filter_map(interface).fold((0, 0), |(received, sent), (more, further)| {
        (received.saturating_add(more), sent.saturating_add(further))
    })
}

/// The container's processes, the first ones if they are many.
pub(crate) fn processes(container: &Container) -> Vec<Process> {
    container.cgroup.processes().filter_map(process).take(PROCESSES).collect()
}

/// `None` when it has just ended.
fn process(pid: Pid) -> Option<Process> {
    let read = |name: &str| {
        let (mut bytes, file) = (vec![], fs::File::open(format!("/proc/{pid}/{name}")).ok()?);
        file.take(FILE).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    };
    let text = |name: &str| read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let status = text("status")?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uid = uid.split_whitespace().nth(1)?.parse().ok()?;
    let number = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    parse(number, uid, &text("stat")?, &text("cmdline").unwrap_or_default())
}

/// Takes `/proc/PID/stat` and `/proc/PID/cmdline` apart.
fn parse(pid: u32, uid: u32, stat: &str, command: &str) -> Option<Process> {
    // The name may hold anything, brackets too.
    let (name, fields) = stat.rsplit_once(')')?;
    let name = name.split_once('(').map_or("", |(_, name)| name);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> Option<u64> { fields.get(index)?.parse().ok() };
    let command = command.trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        uid,
        state: fields.first()?.chars().next()?,
        cpu_us: ticks(11)?.saturating_add(ticks(12)?).saturating_mul(TICK_US),
        started_us: ticks(19)?.saturating_mul(TICK_US),
        command: printable(&command).chars().take(COMMAND).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_files_are_understood() {
        assert_eq!(kilobytes("MemTotal:      2048 kB\nMemFree: 1 kB\n", "MemTotal:"), 2 << 20);
        assert_eq!(sum("254:0 rbytes=5 wbytes=1\n254:16 rbytes=7\n", "rbytes="), 12);
        let device = "Inter-|   Receive |\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0:100 1 0 0 0 0 0 0 50 1 0\n";
        assert_eq!(traffic(device), (100, 50));
    }

    #[test]
    fn processes_are_understood_whatever_their_names() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 0 1 2 3 4 10 5 0 0 20 0 1 0 300 1 2";
        let process = parse(7, 3, stat, "sleep\x00\x1b[2J\0").unwrap();
        assert_eq!((process.pid, process.parent, process.uid, process.state), (7, 1, 3, 'S'));
        assert_eq!((process.cpu_us, process.started_us), (150_000, 3_000_000));
        assert_eq!(process.command, "sleep \u{fffd}[2J");
        assert_eq!(parse(7, 3, stat, "").unwrap().command, "[a) b (c)]");
        assert!(parse(7, 3, "7 (x", "").is_none());
    }

    #[test]
    fn this_process_is_found() {
        let own = process(rustix::process::getpid()).unwrap();
        assert!(own.command.contains("agent"), "{own:?}");
    }

    #[test]
    fn longest_list_fits_a_message() {
        let process = Process {
            pid: u32::MAX,
            parent: u32::MAX,
            uid: u32::MAX,
            state: 'S',
            cpu_us: u64::MAX,
            started_us: u64::MAX,
            command: "\u{10ffff}".repeat(COMMAND),
        };
        let notice = vmm_protocol::Notice::Processes(vec![process; PROCESSES]);
        vmm_protocol::push_message(&mut vec![], &notice).unwrap();
    }
}
