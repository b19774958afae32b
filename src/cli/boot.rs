//! Booting a machine from flags and a file: what `vmm` does without a subcommand.

use std::cell::Cell;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::container::timing_text;
use super::{Exit, report};
use crate::config::{self, ConfigError, Host, PartialConfig, VmConfig};
use crate::container::TimingForm;
use crate::container::timing::Moment;
use crate::control::{self, Outcome};
use crate::preflight;

#[derive(Debug, Args)]
#[command(next_help_heading = "Boot")]
pub(super) struct BootArgs {
    /// Take the configuration from a .toml or .json file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Say at the end how long it took to make the machine, or, as json, when its guest began on the host's
    /// monotonic clock
    #[arg(long, value_name = "FORM", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", help_heading = "Messages")]
    timing: Option<TimingForm>,

    #[command(flatten)]
    machine: PartialConfig,
}

impl From<PartialConfig> for BootArgs {
    fn from(machine: PartialConfig) -> Self {
        Self { config: None, timing: None, machine }
    }
}

/// Boots the machine that was asked for by a command that `began`.
pub(super) fn run(args: BootArgs, began: Moment) -> anyhow::Result<Exit> {
    let config = resolve(&args)?;
    for warning in preflight::check(&config)? {
        report::warning(&warning.what, &warning.fix);
    }
    let (form, parsed, machine) = (args.timing, Moment::now(), Cell::new(began));
    let outcome = boot(args, config, || machine.set(Moment::now()))?;
    if let Some(form) = form {
        let told = Told { began, parsed, machine: machine.get(), ended: Moment::now() };
        report::note(&told.text(form)?);
    }
    Ok(Exit::from(&outcome.end))
}

/// When the command began, what it asks for was known, the guest began and ended, as `--timing=json` says it.
#[derive(Serialize)]
struct Told {
    began: Moment,
    parsed: Moment,
    machine: Moment,
    ended: Moment,
}

impl Told {
    fn text(&self, form: TimingForm) -> anyhow::Result<String> {
        let steps = [
            ("host set-up", self.machine.since(self.began)),
            ("guest", self.ended.since(self.machine)),
        ];
        Ok(match form {
            TimingForm::Text => timing_text(&steps),
            TimingForm::Json => format!("timing: {}", serde_json::to_string(self)?),
        })
    }
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
