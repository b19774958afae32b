//! Fuzzing: `cargo xtask fuzz` and the corpus in `fuzz/corpus`.
//!
//! The corpus is text, one input in hexadecimal to a line, so that a change of it can be read. The
//! fuzzer's own directories, with all it found, are below `target/fuzz`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{command, workspace};

/// Longest input the fuzzer tries, in bytes.
const MAX_LEN: usize = 4096;
/// Largest corpus of a target that is kept, in inputs, and the longest of them, in bytes.
const KEPT: usize = 100;
const KEPT_LEN: usize = 512;

/// What to fuzz.
#[derive(Args)]
pub(crate) struct FuzzArgs {
    /// Targets of fuzz/; all of them when none is named
    targets: Vec<String>,
    /// Seconds for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    time: u64,
    /// Take what was found into the corpus
    #[arg(long)]
    keep: bool,
}

/// Fuzzes each target in turn.
///
/// # Errors
/// An input that a target does not survive, named with how to try it again; or no fuzzer.
pub(crate) fn run(arguments: &FuzzArgs) -> Result<()> {
    let known = targets()?;
    for target in &arguments.targets {
        ensure!(known.contains(target), "no fuzz target {target}; there are {}", known.join(", "));
    }
    let chosen = if arguments.targets.is_empty() { &known } else { &arguments.targets };
    ensure_fuzzer()?;
    command::run_visibly(fuzzer().args(["build", "--target-dir"]).arg(built()))?;
    for target in chosen {
        let found = directory(target, "found")?;
        let seeds = directory(target, "seeds")?;
        unpack(target, &seeds)?;
        let runs = fuzz(target, &found, &seeds, arguments.time)?;
        println!("fuzz: {target}: {runs} inputs in {} s, all survived", arguments.time);
        if arguments.keep {
            let count = pack(target, &found, &seeds)?;
            println!("fuzz: {target}: {count} inputs kept in {}", corpus(target).display());
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    workspace::root().join("fuzz")
}

fn built() -> PathBuf {
    workspace::root().join("target/fuzz/build")
}

fn corpus(target: &str) -> PathBuf {
    root().join("corpus").join(target).with_extension("hex")
}

fn directory(target: &str, kind: &str) -> Result<PathBuf> {
    let path = workspace::root().join("target/fuzz").join(kind).join(target);
    fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// The names of the programs in `fuzz/fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let list = fs::read_dir(root().join("fuzz_targets")).context("list fuzz/fuzz_targets")?;
    let name = |entry: std::io::Result<fs::DirEntry>| -> Result<String> {
        Ok(entry?.path().file_stem().unwrap_or_default().to_string_lossy().into_owned())
    };
    let mut names = list.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// `cargo fuzz` of the nightly compiler, which alone has sanitizers.
fn fuzzer() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz"]).current_dir(root());
    // The compiler of this program is not the one to use.
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

fn ensure_fuzzer() -> Result<()> {
    let works = |command: &mut Command| {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let nightly = works(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]));
    ensure!(nightly, "no nightly compiler: install it with `rustup toolchain install nightly`");
    if works(fuzzer().arg("--version")) {
        return Ok(());
    }
    eprintln!("fuzz: installing cargo-fuzz");
    command::run_visibly(workspace::cargo().args(["install", "--locked", "cargo-fuzz"]))
}

/// Fuzzes `target` for `seconds`; returns the number of inputs that were tried.
fn fuzz(target: &str, found: &Path, seeds: &Path, seconds: u64) -> Result<u64> {
    let artifacts = directory(target, "failed")?;
    let mut command = fuzzer();
    command.args(["run", "--target-dir"]).arg(built()).arg(target).args([found, seeds]);
    command.args(["--", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={MAX_LEN}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let output = command.stdin(Stdio::null()).output().context("start the fuzzer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<_> = said.lines().collect();
        let end = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n");
        bail!("{target} does not survive an input:\n{end}\nit is in {}", artifacts.display());
    }
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let runs = runs.context("the fuzzer does not say how many inputs it tried")?;
    runs.trim().parse().context("read the number of inputs")
}

/// Writes the corpus of `target` as files into `seeds`.
fn unpack(target: &str, seeds: &Path) -> Result<()> {
    let path = corpus(target);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    for (number, line) in text.lines().enumerate() {
        let bytes = decode(line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        fs::write(seeds.join(number.to_string()), bytes)?;
    }
    Ok(())
}

/// Makes the corpus of `target` of inputs that together do much of what is known.
fn pack(target: &str, found: &Path, seeds: &Path) -> Result<usize> {
    let merged = directory(target, "merged")?;
    fs::remove_dir_all(&merged)?;
    fs::create_dir_all(&merged)?;
    let mut command = fuzzer();
    command.args(["run", "--target-dir"]).arg(built()).arg(target);
    command.args([&*merged, found, seeds]).args(["--", "-merge=1"]);
    command.arg(format!("-max_len={KEPT_LEN}"));
    command::run(&mut command)?;
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&merged)? {
        inputs.push(fs::read(entry?.path())?);
    }
    inputs.retain(|input| !input.is_empty());
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    // Of too many, some of every length.
    let step = inputs.len().div_ceil(KEPT).max(1);
    let kept = inputs.iter().rev().step_by(step);
    let text: String = kept.clone().map(|input| encode(input) + "\n").collect();
    fs::write(corpus(target), text)?;
    Ok(kept.count())
}

fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn decode(line: &str) -> Result<Vec<u8>> {
    ensure!(line.is_ascii() && line.len().is_multiple_of(2), "not pairs of hexadecimal digits");
    let pairs = (0..line.len()).step_by(2).map(|at| line.get(at..at + 2).unwrap_or_default());
    let byte = |pair| u8::from_str_radix(pair, 16).context("not a hexadecimal digit");
    pairs.map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_survive_being_text() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
        for bad in ["0", "0g", "é"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_target_has_a_corpus_that_can_be_read() {
        let targets = targets().unwrap();
        assert!(targets.len() >= 5, "{targets:?}");
        for target in targets {
            let text = fs::read_to_string(corpus(&target)).unwrap();
            assert!(text.lines().count() > 0, "{target}");
            text.lines().for_each(|line| drop(decode(line).unwrap()));
        }
    }
}
