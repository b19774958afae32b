//! Booting a machine from flags and a file: what `vmm` does without a subcommand.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, report};
use crate::config::{self, ConfigError, Host, PartialConfig, VmConfig};
use crate::control::{self, Outcome};
use crate::preflight;

#[derive(Debug, Args)]
#[command(next_help_heading = "Boot")]
pub(super) struct BootArgs {
    /// Take the configuration from a .toml or .json file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    machine: PartialConfig,
}

impl From<PartialConfig> for BootArgs {
    fn from(machine: PartialConfig) -> Self {
        Self { config: None, machine }
    }
}

pub(super) fn run(args: BootArgs) -> anyhow::Result<Exit> {
    let config = resolve(&args)?;
    for warning in preflight::check(&config)? {
        report::warning(&warning.what, &warning.fix);
    }
    let outcome = boot(args, config, || {})?;
    Ok(Exit::from(&outcome.end))
}

/// Boots the machine of a container, whose files were looked at before. Whether a guest that powers off
/// has failed is not known here, so that its last words are always told. `begins` is called right before its
/// first instruction.
pub(super) fn run_container(args: BootArgs, begins: impl FnOnce()) -> anyhow::Result<Exit> {
    let config = resolve(&args)?;
    let outcome = boot(args, config, begins)?;
    if outcome.explanation.is_none() {
        report::last_words(&outcome.console);
    }
    Ok(Exit::from(&outcome.end))
}

fn boot(args: BootArgs, config: VmConfig, begins: impl FnOnce()) -> anyhow::Result<Outcome> {
    let reread = Box::new(move || resolve(&args));
    let outcome = control::boot(config, reread, report::note, begins)?;
    if let Some(explanation) = &outcome.explanation {
        report::failure(&outcome.end, explanation);
    }
    Ok(outcome)
}

/// The configuration that the flags and the file they name amount to.
fn resolve(args: &BootArgs) -> Result<VmConfig, ConfigError> {
    let base = match &args.config {
        Some(path) => config::load(path)?,
        None => PartialConfig::default(),
    };
    let config = args.machine.clone().over(base).resolve()?;
    config.validate(&Host::read())?;
    Ok(config)
}
