//! `cargo xtask icount`: how many instructions a guest kernel executes before its first process.
//!
//! Time is noisy; this count is not, and what a kernel executes at start is what a microVM's user
//! waits for. `guest-kernels/instructions.json` records it for each flavour.

mod measure;
mod symbols;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::kernel;
pub(crate) use measure::{Count, Guest, measure};

/// Command line of the recorded figures; the root filesystem's options are added to it.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet";
/// Memory of the machine of the recorded figures.
pub(crate) const MEMORY_MIB: u32 = 128;

/// `cargo xtask icount`: counts instructions from a kernel's entry to its first process.
#[derive(Debug, clap::Args)]
pub(crate) struct IcountArgs {
    /// Flavours to measure, all recorded ones when none is given.
    flavours: Vec<String>,
    /// Measure this ELF kernel instead of a flavour.
    #[arg(long, conflicts_with_all = ["flavours", "check", "record"])]
    kernel: Option<PathBuf>,
    /// Memory of the guest.
    #[arg(long, default_value_t = MEMORY_MIB)]
    memory_mib: u32,
    /// Command line before the root filesystem's options.
    #[arg(long, default_value = CMDLINE)]
    cmdline: String,
    /// Describe devices on the command line and processors by the MP table.
    #[arg(long)]
    no_acpi: bool,
    /// Print what costs most: initialisation steps and functions.
    #[arg(long, value_name = "ROWS", num_args = 0..=1, default_missing_value = "25")]
    by_function: Option<usize>,
    /// Fail when a count is more than 1 % above the recorded one.
    #[arg(long, conflicts_with = "record")]
    check: bool,
    /// Write the counts as the recorded ones.
    #[arg(long)]
    record: bool,
}

/// Runs `cargo xtask icount`.
pub(crate) fn run(args: &IcountArgs) -> Result<()> {
    if let Some(path) = &args.kernel {
        return print(&path.display().to_string(), &measure(&args.guest(path.clone()))?, args);
    }
    let mut record = Record::read()?;
    let flavours = if args.flavours.is_empty() {
        record.instructions.keys().cloned().collect()
    } else {
        args.flavours.clone()
    };
    if args.record {
        record.tools = tools()?;
    }
    let mut verdicts = Vec::new();
    for flavour in flavours {
        let build = kernel::ensure(&flavour, Arch::X86_64)?;
        let count = measure(&args.guest(build.image()))?;
        print(&flavour, &count, args)?;
        verdicts.push(record.compare(&flavour, count.retired));
        if args.record {
            record.instructions.insert(flavour, count.retired);
        }
    }
    if args.record {
        return record.write();
    }
    if args.check {
        return check(&record, &verdicts);
    }
    Ok(())
}

impl IcountArgs {
    fn guest(&self, kernel: PathBuf) -> Guest {
        Guest {
            kernel,
            memory_mib: self.memory_mib,
            acpi: !self.no_acpi,
            cmdline: self.cmdline.clone(),
        }
    }
}

/// A count against the recorded one.
enum Verdict {
    Within(String),
    Above(String),
}

fn tools() -> Result<Vec<String>> {
    let mut tools = kernel::toolchain(Arch::X86_64)?.to_vec();
    tools.push(measure::emulator()?);
    Ok(tools)
}

fn check(record: &Record, verdicts: &[Verdict]) -> Result<()> {
    let mut above = false;
    for verdict in verdicts {
        match verdict {
            Verdict::Within(line) => println!("{line}"),
            Verdict::Above(line) => {
                println!("{line}");
                above = true;
            }
        }
    }
    let here = tools()?;
    if above && here != record.tools {
        println!(
            "recorded with {}; here is {}: reported, not failed",
            record.tools.join(", "),
            here.join(", ")
        );
        return Ok(());
    }
    if above {
        bail!(
            "guest kernels execute more than recorded; when that is wanted: cargo xtask icount --record"
        );
    }
    Ok(())
}

/// The recorded counts.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    /// Versions of kernel source, compiler and emulator: with other ones, other instructions run.
    tools: Vec<String>,
    /// Instructions by flavour.
    instructions: BTreeMap<String, u64>,
}

impl Record {
    fn path() -> PathBuf {
        kernel::recipes_dir().join("instructions.json")
    }

    fn read() -> Result<Self> {
        let path = Self::path();
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    fn write(&self) -> Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn compare(&self, flavour: &str, count: u64) -> Verdict {
        let Some(&recorded) = self.instructions.get(flavour) else {
            return Verdict::Above(format!("{flavour}: {count}, and nothing is recorded"));
        };
        let line = format!("{flavour}: {count}, recorded {recorded}");
        let limit = recorded.saturating_add(recorded / 100);
        if count > limit {
            Verdict::Above(format!("{line}: more than 1 % above"))
        } else {
            Verdict::Within(line)
        }
    }
}

fn print(name: &str, count: &Count, args: &IcountArgs) -> Result<()> {
    println!(
        "{name}: {} instructions to init ({} with every round of string instructions)",
        count.retired, count.rounds
    );
    let Some(rows) = args.by_function else {
        return Ok(());
    };
    println!("command line: {}", count.cmdline);
    println!("\n{:>12}  step (from one initialisation function to the next)", "instructions");
    let next = count.phases.iter().skip(1);
    let mut steps: Vec<(u64, String)> = count
        .phases
        .iter()
        .zip(next)
        .map(|((from, start), (to, end))| (end.saturating_sub(*start), format!("{from} .. {to}")))
        .collect();
    print_largest(&mut steps, rows);
    println!("\n{:>12}  function", "instructions");
    let mut functions: Vec<(u64, String)> =
        count.functions.iter().map(|(name, n)| (*n, name.clone())).collect();
    print_largest(&mut functions, rows);
    Ok(())
}

fn print_largest(table: &mut [(u64, String)], rows: usize) {
    table.sort_by(|a, b| b.cmp(a));
    for (count, name) in table.iter().take(rows) {
        println!("{count:>12}  {name}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            tools: vec!["source".to_owned(), "compiler".to_owned()],
            instructions: BTreeMap::from([("minimal".to_owned(), 1000)]),
        }
    }

    #[test]
    fn count_up_to_one_percent_above_the_record_passes() {
        assert!(matches!(record().compare("minimal", 1010), Verdict::Within(_)));
        assert!(matches!(record().compare("minimal", 1011), Verdict::Above(_)));
    }

    #[test]
    fn flavour_without_a_record_does_not_pass() {
        assert!(matches!(record().compare("other", 1), Verdict::Above(_)));
    }

    #[test]
    fn recorded_counts_of_the_tree_are_readable() {
        let record = Record::read();
        assert!(record.is_ok_and(|record| record.instructions.contains_key("minimal")));
    }
}
