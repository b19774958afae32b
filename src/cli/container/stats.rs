//! `vmm stats` and `vmm top`.

use std::fs;
use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use vmm_protocol::{Process, Stats, printable};

use super::super::Exit;
use super::{Format, containers, print_json};
use crate::cli::output::print;
use crate::cli::table::table;
use crate::container::call::Call;
use crate::container::machine::guest_memory;
use crate::container::talk::{Ask, Tell};
use crate::container::{Container, Status};

/// Between two looks at the processor time.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(in super::super) struct StatsArgs {
    /// Look once, instead of until interrupted
    #[arg(long)]
    no_stream: bool,

    /// Form of the list
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,

    /// Containers by name or identifier; all that run when none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

#[derive(Debug, Args)]
pub(in super::super) struct TopArgs {
    /// Container by name or identifier
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// What a container and its machine use.
struct Usage {
    container: Container,
    stats: Stats,
    /// Processor time in hundredths of a percent of one processor.
    cpu: u64,
    /// Bytes of the host's memory that the monitor has to itself: the guest's memory it has touched, and
    /// the monitor's own.
    host: Option<u64>,
}

pub(in super::super) fn stats(args: &StatsArgs) -> anyhow::Result<Exit> {
    loop {
        let usages = measure(&args.containers)?;
        if args.format == Format::Json {
            print_json(&usages.iter().map(described).collect())?;
        } else {
            if !args.no_stream && io::stdout().is_terminal() {
                // From the top of an empty screen.
                print("\x1b[2J\x1b[H")?;
            }
            show(&usages)?;
        }
        if args.no_stream {
            return Ok(Exit::Success);
        }
    }
}

/// Looks twice, to tell how busy the processors are.
fn measure(keys: &[String]) -> anyhow::Result<Vec<Usage>> {
    let mut looks = vec![];
    for (container, keeper) in running(keys)? {
        // One that ends meanwhile is not there any more.
        let Ok(mut call) = Call::new(&container) else { continue };
        if let Ok(stats) = ask(&mut call) {
            looks.push((container, keeper, call, stats, Instant::now()));
        }
    }
    sleep(INTERVAL);
    let mut usages = vec![];
    for (container, keeper, mut call, before, then) in looks {
        let Ok(stats) = ask(&mut call) else { continue };
        let used = stats.cpu_us.saturating_sub(before.cpu_us);
        let elapsed = u64::try_from(then.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        let cpu = used.saturating_mul(10_000).checked_div(elapsed).unwrap_or(0);
        let host = host_memory(keeper);
        usages.push(Usage { container, stats, cpu, host });
    }
    Ok(usages)
}

/// The containers that run, with their keepers.
fn running(keys: &[String]) -> anyhow::Result<Vec<(Container, u32)>> {
    let containers = containers()?;
    let found = if keys.is_empty() {
        containers.list()?
    } else {
        keys.iter().map(|key| containers.find(key)).collect::<Result<_, _>>()?
    };
    let keeper = |(container, status)| match status {
        Status::Running { keeper, .. } => Some((container, keeper)),
        _ => None,
    };
    Ok(found.into_iter().filter_map(keeper).collect())
}

fn ask(call: &mut Call) -> anyhow::Result<Stats> {
    call.ask(&Ask::Stats)?;
    let end = Instant::now() + PATIENCE;
    while let Some(said) = call.hear(Some(end.saturating_duration_since(Instant::now())))? {
        if let Tell::Stats(stats) = said {
            return Ok(stats);
        }
    }
    bail!("the agent does not answer")
}

/// The proportional share of memory (proc(5), smaps_rollup) of the children of a keeper, in bytes. To be
/// shown, not acted upon: the number may be another process's by now.
fn host_memory(keeper: u32) -> Option<u64> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    let share = |pid: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let shares: Vec<u64> = children.split_whitespace().filter_map(share).collect();
    let sum = shares.iter().fold(0_u64, |sum, share| sum.saturating_add(*share));
    (!shares.is_empty()).then_some(sum.saturating_mul(1024))
}

fn show(usages: &[Usage]) -> anyhow::Result<()> {
    let head = [
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "HOST MEM / MACHINE",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ];
    print(&table(head, &usages.iter().map(cells).collect::<Vec<_>>()))
}

fn cells(usage: &Usage) -> [String; 9] {
    let Usage { container, stats, cpu, host } = usage;
    let spec = container.spec();
    let used = in_use(stats);
    let share = used.saturating_mul(10_000).checked_div(spec.memory.0).unwrap_or(0);
    let machine = size(guest_memory(spec.memory.0));
    [
        spec.id.short().to_owned(),
        spec.name.as_str().to_owned(),
        percent(*cpu),
        format!("{} / {}", size(used), size(spec.memory.0)),
        percent(share),
        format!("{} / {machine}", host.map_or("?".to_owned(), size)),
        format!("{} / {}", size(stats.net_rx_bytes), size(stats.net_tx_bytes)),
        format!("{} / {}", size(stats.disk_read_bytes), size(stats.disk_write_bytes)),
        stats.pids.to_string(),
    ]
}

/// As docker counts it: without what the kernel keeps of files and gives back when asked.
fn in_use(stats: &Stats) -> u64 {
    stats.memory_bytes.saturating_sub(stats.inactive_file_bytes)
}

fn described(usage: &Usage) -> serde_json::Value {
    let spec = usage.container.spec();
    json!({
        "id": spec.id,
        "name": spec.name,
        "cpu_percent_hundredths": usage.cpu,
        "memory_bytes": in_use(&usage.stats),
        "memory_limit_bytes": spec.memory.0,
        "machine_memory_bytes": guest_memory(spec.memory.0),
        "host_memory_bytes": usage.host,
        "stats": usage.stats,
    })
}

fn percent(hundredths: u64) -> String {
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

/// Bytes in the largest binary unit, with one digit behind the point.
fn size(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let unit = units.into_iter().find(|(unit, _)| bytes >= *unit);
    let tenths = |unit: u64| bytes.saturating_mul(10).checked_div(unit).unwrap_or(0);
    match unit {
        Some((unit, name)) => format!("{}.{}{name}", tenths(unit) / 10, tenths(unit) % 10),
        None => format!("{bytes}B"),
    }
}

/// Lists the processes of a container.
pub(in super::super) fn top(args: &TopArgs) -> anyhow::Result<Exit> {
    let (container, status) = containers()?.find(&args.container)?;
    if !matches!(status, Status::Running { .. }) {
        bail!("container {} does not run", args.container);
    }
    let mut call = Call::new(&container).context("reach the keeper")?;
    call.ask(&Ask::Processes)?;
    loop {
        match call.hear(Some(PATIENCE))? {
            Some(Tell::Processes(list)) => {
                let rows: Vec<_> = list.iter().map(row).collect();
                print(&table(["PID", "PPID", "UID", "STAT", "TIME", "COMMAND"], &rows))?;
                return Ok(Exit::Success);
            }
            Some(_) => {}
            None => bail!("the agent does not answer"),
        }
    }
}

fn row(process: &Process) -> [String; 6] {
    let seconds = process.cpu_us / 1_000_000;
    [
        process.pid.to_string(),
        process.parent.to_string(),
        process.uid.to_string(),
        process.state.to_string(),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        printable(&process.command),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_their_largest_unit() {
        let all = [0, 1023, 1 << 10, 1536, 128 << 20, (5 << 30) / 2].map(size);
        assert_eq!(all, ["0B", "1023B", "1.0KiB", "1.5KiB", "128.0MiB", "2.5GiB"]);
        assert_eq!([0, 5, 12_345].map(percent), ["0.00%", "0.05%", "123.45%"]);
    }
}
