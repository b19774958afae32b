//! The measuring process: runs in the place that is measured and reports on its standard output.

use std::io::{self, Stdout};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::monitor::{Guest, Network};
use super::place::VMM;
use super::record::{Arm, Recorder};
use super::run::{self, Run, ms};
use super::{balloon, block, boot, containers, idle, network, null_guest, reads, vsock};
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
        reads::GROUP => reads::inside(&mut inside),
        network::GROUP => network::inside(&mut inside),
        vsock::GROUP => vsock::inside(&mut inside),
        vsock::PLAIN => vsock::plain_guest(&inside),
        balloon::GROUP => balloon::inside(&mut inside),
        containers::GROUP => containers::inside(&mut inside),
        containers::CONVERSION => containers::inside_conversion(&mut inside),
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
        [Arm::Ours, Arm::Peer].into_iter().try_for_each(|arm| {
            self.describe_command(series, arm, &guest(arm).command(arm, &self.file(VMM)))
        })
    }

    /// Reports a command line of `series`, without our directory.
    ///
    /// # Errors
    /// Nobody reads the report.
    pub(super) fn describe_command(
        &mut self,
        series: &str,
        arm: Arm,
        command: &Command,
    ) -> Result<()> {
        let directory = format!("{}/", self.directory.display());
        let line = command::describe(command).replace(&directory, "");
        self.report.command(series, arm, line)
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
    /// What is behind the guest's interface.
    pub(super) fn network(&self) -> Network {
        Network::Tap(self.tap.to_owned())
    }

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
            make(tap, host)?;
        }
        Ok(())
    }
}

/// Makes a TAP interface on which the host has the address `host`.
///
/// # Errors
/// As [`Link::make_all`].
pub(super) fn make(tap: &str, host: &str) -> Result<()> {
    ip(&format!("tuntap add dev {tap} mode tap vnet_hdr"))?;
    ip(&format!("address add {host}/24 dev {tap}"))?;
    ip(&format!("link set dev {tap} up"))
}

/// Runs ip(8).
///
/// # Errors
/// It fails.
pub(super) fn ip(line: &str) -> Result<()> {
    command::run(Command::new("ip").args(line.split(' ')))
}
