//! `vmm system`: what images and containers take on the disk, and giving it back.

use std::io::{BufRead, Write};

use clap::{Args, Subcommand};
use vmm_image::store::{DiskUsage, Prune, Usage};

use super::Exit;
use super::container::ended;
use super::images::{Format, roots, store};
use super::output::print;
use super::table::{bytes, table};

#[derive(Debug, Args)]
pub(super) struct SystemArgs {
    #[command(subcommand)]
    command: SystemCommand,
}

#[derive(Debug, Subcommand)]
enum SystemCommand {
    /// Say what images and containers take on the disk
    Df(DfArgs),
    /// Remove containers that have ended, images without a name, and leftovers that nothing uses
    Prune(PruneArgs),
}

#[derive(Debug, Args)]
struct DfArgs {
    /// Form of the list
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,
}

#[derive(Debug, Args)]
struct PruneArgs {
    /// Also images with a name that no container uses
    #[arg(short, long)]
    all: bool,

    /// Also layers as they came: other images that share them have to get them again
    #[arg(long)]
    layers: bool,

    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(super) fn run(args: &SystemArgs) -> anyhow::Result<Exit> {
    match &args.command {
        SystemCommand::Df(args) => df(args.format),
        SystemCommand::Prune(args) => prune(args),
    }
}

fn df(format: Format) -> anyhow::Result<Exit> {
    let mut usage = store()?.usage(roots)?;
    let ended = ended()?;
    let count = u64::try_from(ended.len()).unwrap_or(u64::MAX);
    usage.containers.active = usage.containers.count.saturating_sub(count);
    usage.containers.reclaimable = ended.iter().map(|(_, _, size)| size).sum();
    print(&match format {
        Format::Json => serde_json::to_string_pretty(&usage)? + "\n",
        Format::Table => shown(&usage),
    })?;
    Ok(Exit::Success)
}

fn shown(usage: &DiskUsage) -> String {
    let row = |name: &str, usage: &Usage| {
        let counts = [usage.count, usage.active].map(|count| count.to_string());
        let [count, active] = counts;
        [name.to_owned(), count, active, bytes(usage.bytes), bytes(usage.reclaimable)]
    };
    let rows = [
        row("Images", &usage.images),
        row("Layers", &usage.layers),
        row("Unfinished", &usage.unfinished),
        row("Containers", &usage.containers),
    ];
    table(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows)
}

fn prune(args: &PruneArgs) -> anyhow::Result<Exit> {
    let store = store()?;
    if !args.force && !agreed(args)? {
        return Ok(Exit::Success);
    }
    let (mut deleted, mut freed) = (String::new(), 0);
    // First, as their images are free then.
    for (container, lock, size) in ended()? {
        container.remove(&lock)?;
        deleted += &format!("deleted: {}\n", container.spec().id);
        freed += size;
    }
    let removed = store.prune(Prune { all: args.all, layers: args.layers }, roots)?;
    deleted.extend(removed.deleted.iter().map(|id| format!("deleted: {id}\n")));
    print(&format!("{deleted}reclaimed: {}\n", bytes(freed + removed.bytes)))?;
    Ok(Exit::Success)
}

/// Asks on the terminal. Whoever gives no answer has not agreed.
fn agreed(args: &PruneArgs) -> anyhow::Result<bool> {
    let which =
        if args.all { "all images that no container uses" } else { "images without a name" };
    let layers = if args.layers { ", all layers as they came" } else { "" };
    let mut out = std::io::stderr();
    let question = "Remove all containers that have ended";
    write!(out, "{question}, {which}{layers}, and what nothing refers to? [y/N] ")?;
    out.flush()?;
    let mut answer = String::new();
    if std::io::stdin().lock().read_line(&mut answer)? == 0 {
        // Nobody has ended the line.
        writeln!(out)?;
    }
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
