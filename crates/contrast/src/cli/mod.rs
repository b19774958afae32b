//! The command line of `vmm-contrast`.

mod choice;
mod compare;
mod contrast;
mod desk;
mod idle;
mod interrupt;
mod output;
mod render;
mod startup;
mod surroundings;
mod within;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use vmm_image::inherited;

/// A command failed, as with all of `vmm` that is about containers.
const FAILED: u8 = 125;
/// Ended by SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// Compare containers and virtual machines by measuring them (started by vmm)
#[derive(Debug, Parser)]
#[command(name = "vmm", bin_name = "vmm", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure containers and virtual machines side by side
    #[command(subcommand)]
    Bench(Bench),

    /// Say what a container and a virtual machine keep apart, as measured by a program inside
    Contrast(contrast::ContrastArgs),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// How long a command takes from start to end, in every way this host can run it
    Startup(startup::StartupArgs),
    /// How much memory one idle instance takes, and what for
    Memory(idle::MemoryArgs),
    /// How much memory each further idle instance takes, up to a number or a budget
    Density(idle::DensityArgs),
    /// How fast files and streams are, measured within each arm
    Io(within::IoArgs),
    /// How fast work and system calls are, measured within each arm
    Cpu(within::WithinArgs),
    /// What changed between two reports of `startup`
    Compare(compare::CompareArgs),
    /// A report of `startup` or of `vmm contrast`, kept as JSON, in other forms
    Render(render::RenderArgs),
}

/// Runs the program.
pub fn main() -> ExitCode {
    inherited::hear_of_children();
    // Where there is no /proc, nothing that is started has more than this process.
    let _: io::Result<()> = inherited::keep_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _: io::Result<()> = error.print();
            return if error.use_stderr() { FAILED.into() } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Bench(Bench::Startup(args)) => startup::run(&args),
        Command::Bench(Bench::Memory(args)) => idle::memory(&args),
        Command::Bench(Bench::Density(args)) => idle::density(&args),
        Command::Bench(Bench::Io(args)) => within::io(&args),
        Command::Bench(Bench::Cpu(args)) => within::cpu(&args),
        Command::Bench(Bench::Compare(args)) => compare::run(&args),
        Command::Bench(Bench::Render(args)) => render::run(&args),
        Command::Contrast(args) => contrast::run(&args),
    };
    result.unwrap_or_else(|error| {
        // Without standard error there is nobody to tell.
        let _: io::Result<()> = writeln!(io::stderr(), "vmm: {error:#}");
        FAILED.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
