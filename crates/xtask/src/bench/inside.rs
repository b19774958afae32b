//! The measuring process: runs in the place that is measured and reports on its standard output.

use std::io::{self, Stdout};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::monitor::Guest;
use super::place::VMM;
use super::record::{Arm, Recorder};
use super::run::{self, Run, ms};
use super::{balloon, block, boot, idle, null_guest, traffic};
use crate::command;

/// Arguments of the hidden subcommand.
#[derive(clap::Args)]
pub(crate) struct InsideArgs {
    /// What to measure
    group: String,
    /// How often
    runs: usize,
    /// The directory with the files
    directory: PathBuf,
}

/// What the measurements of a group share.
pub(super) struct Inside {
    pub(super) runs: usize,
    pub(super) report: Recorder<Stdout>,
    directory: PathBuf,
}

/// Runs the measurements of one group.
///
/// # Errors
/// One failed.
pub(crate) fn run(arguments: InsideArgs) -> Result<()> {
    let InsideArgs { group, runs, directory } = arguments;
    let mut inside = Inside { runs, directory, report: Recorder::new(io::stdout()) };
    // Pages of files that were just copied would count as dirty memory of whoever maps them, and
    // writing them back would go on beside the measurements.
    rustix::fs::sync();
    match group.as_str() {
        null_guest::GROUP => null_guest::inside(&mut inside),
        boot::GROUP => boot::inside(&mut inside),
        idle::LINUX => idle::inside_linux(&mut inside),
        idle::NULL => idle::inside_null(&mut inside),
        block::GROUP => block::inside(&mut inside),
        traffic::GROUP => traffic::inside(&mut inside),
        balloon::GROUP => balloon::inside(&mut inside),
        _ => bail!("no measurements named {group}"),
    }
}

impl Inside {
    /// The path of the file `name`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts `guest` under the monitor of `arm`.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(&self, arm: Arm, guest: &Guest) -> Result<Run> {
        Run::start(&mut guest.command(arm, &self.file(VMM)))
    }

    /// Reports the command lines that `guest` stands for in `series`, without our directory.
    ///
    /// # Errors
    /// Nobody reads the report.
    pub(super) fn describe(&mut self, series: &str, guest: impl Fn(Arm) -> Guest) -> Result<()> {
        for arm in [Arm::Ours, Arm::Peer] {
            let line = command::describe(&guest(arm).command(arm, &self.file(VMM)));
            let directory = format!("{}/", self.directory.display());
            self.report.command(series, arm, line.replace(&directory, ""))?;
        }
        Ok(())
    }

    /// Takes one sample of the control.
    ///
    /// # Errors
    /// The control failed.
    pub(super) fn control(&mut self, series: &str, counts: bool) -> Result<()> {
        let time = run::control(&mut Command::new("/bin/true"))?;
        self.sample(series, Arm::Control, ms(time), counts)
    }

    /// Reports a sample, unless it belongs to a warm-up.
    ///
    /// # Errors
    /// Nobody reads the report.
    pub(super) fn sample(
        &mut self,
        series: &str,
        arm: Arm,
        value: f64,
        counts: bool,
    ) -> Result<()> {
        if counts { self.report.sample(series, arm, value) } else { Ok(()) }
    }
}

/// The TAP interface of a monitor's guests, the host's address on it and the guest's.
pub(super) struct Link {
    pub(super) tap: &'static str,
    pub(super) host: &'static str,
    pub(super) guest: &'static str,
}

impl Link {
    /// The link of a monitor: each has its own, so that what one leaves on it is not the other's.
    pub(super) fn of(arm: Arm) -> Self {
        match arm {
            Arm::Ours => Self { tap: "ours", host: "10.0.1.1", guest: "10.0.1.2" },
            Arm::Peer | Arm::Control => Self { tap: "peer", host: "10.0.2.1", guest: "10.0.2.2" },
        }
    }

    /// Makes the links of both monitors. The network they are in ends with this process.
    ///
    /// # Errors
    /// The network is not ours to change, or there is no /dev/net/tun.
    pub(super) fn make_all() -> Result<()> {
        for arm in [Arm::Ours, Arm::Peer] {
            let Self { tap, host, .. } = Self::of(arm);
            let ip = |line: String| command::run(Command::new("ip").args(line.split(' ')));
            ip(format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
            ip(format!("address add {host}/24 dev {tap}"))?;
            ip(format!("link set dev {tap} up"))?;
        }
        Ok(())
    }
}
