//! What the measurements with several figures share: what is asked for, what is found before, what is said after.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use vmm_image::store::{ImageRecord, Store, StorePaths};

use super::choice::{self, Directory};
use super::interrupt::Interrupt;
use super::output::Output;
use super::startup::{count, kernel};
use super::{INTERRUPTED, surroundings};
use crate::arm::{self, Arm, Setting};
use crate::fingerprint::Fingerprint;
use crate::inside;
use crate::leftovers;
use crate::measure::Measurement;
use crate::report::{Entry, Figures, FiguresArm, Format, Image, render_figures};
use crate::verdict::Verdict;
use crate::workload::Workload;

/// What all of them are asked.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Measure only these, such as runc,vmm [default: all]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(super) arms: Vec<String>,

    /// The arm that ratios are to [default: runc, or what is here]
    #[arg(long, value_name = "NAME")]
    pub(super) baseline: Option<String>,

    /// Memory of an instance, such as 256m [default: what the arm gives, 512m for most]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<u64>,

    /// Kernel of the machines that are no containers [default: the minimal one that is here]
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,

    /// Kill what takes longer, and count it as failed, after so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = count(1, 86_400))]
    pub(super) timeout: u64,

    /// What the order of runs comes from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,

    /// Form of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    pub(super) format: Format,

    /// Write the report to a file
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,

    /// Show no progress
    #[arg(short, long)]
    pub(super) quiet: bool,

    /// Image: a name, or oci:DIR, oci-archive:FILE, docker-archive:FILE
    #[arg(value_name = "IMAGE")]
    pub(super) image: String,
}

/// Bytes of a size such as `512m`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.to_ascii_lowercase().as_bytes() {
        [.., b'k'] => (text.len() - 1, 10),
        [.., b'm'] => (text.len() - 1, 20),
        [.., b'g'] => (text.len() - 1, 30),
        _ => (text.len(), 0),
    };
    let number = text.get(..digits).and_then(|digits| digits.parse::<u64>().ok());
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or("it is a size such as 512m or 2g".to_owned())
}

/// What is run: the probe with some words, or a command of the image.
pub(super) enum What<'a> {
    Probe(&'a [String]),
    Command(&'a [String]),
}

/// What was found before anything is measured. What is wrong is said by then.
pub(super) struct Desk<'a> {
    pub(super) common: &'a Common,
    names: Vec<String>,
    output: Output,
    pub(super) interrupt: Interrupt,
    pub(super) workload: Workload,
    prepared: Vec<String>,
    directory: Directory,
}

/// The arms that are here.
pub(super) struct Arms {
    pub(super) entries: Vec<Entry>,
    pub(super) arms: Vec<Box<dyn Arm>>,
    pub(super) baseline: Option<String>,
    fingerprint: Fingerprint,
}

/// What there is to say afterwards.
pub(super) struct Outcome {
    /// `memory` and the like.
    pub(super) name: &'static str,
    /// What of it the title says.
    pub(super) about: String,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) runs: usize,
    pub(super) warm_ups: usize,
    pub(super) control: Vec<f64>,
    pub(super) interrupted: bool,
    pub(super) measured: Vec<String>,
    pub(super) limitations: Vec<String>,
    pub(super) arms: Vec<FiguresArm>,
}

impl<'a> Desk<'a> {
    pub(super) fn open(common: &'a Common, what: &What<'_>) -> Result<Self> {
        let names = choice::names(&common.arms, common.baseline.as_ref())?;
        let kernel = common.kernel.as_deref().map(kernel).transpose()?;
        let output = Output::open(common.output.as_deref())?;
        let interrupt = Interrupt::catch().context("catch signals")?;
        leftovers::adopt().context("become the parent of what runtimes leave")?;
        let store = Store::open(StorePaths::from_environment()?)?;
        let image = surroundings::image(&store, &common.image, common.quiet)?;
        let mut prepared = vec![];
        let mut workload = match what {
            What::Probe(words) => {
                let (image, made) = inside::image(&store, &image)?;
                prepared.push(made);
                let args = [&[inside::PROGRAM.to_owned()], *words].concat();
                Self::workload(&store, &image, common, &args, &mut prepared)?
            }
            What::Command(words) => Self::workload(&store, &image, common, words, &mut prepared)?,
        };
        (workload.memory, workload.kernel) = (common.memory, kernel);
        let directory = Directory::new().context("make a directory for bundles")?;
        Ok(Self { common, names, output, interrupt, workload, prepared, directory })
    }

    /// `args`, without an entrypoint of the image's.
    fn workload(
        store: &Store,
        image: &ImageRecord,
        common: &Common,
        args: &[String],
        prepared: &mut Vec<String>,
    ) -> Result<Workload> {
        let (mut workload, unpacked) =
            surroundings::workload(image, &common.image, args, store.paths())?;
        workload.args = args.to_vec();
        prepared.push(unpacked);
        prepared.push("the same unpacked root file system serves all containers".to_owned());
        Ok(workload)
    }

    /// Finds the arms.
    pub(super) fn arms(&self) -> Result<Arms> {
        let setting = Setting { workload: &self.workload, directory: &self.directory.0 };
        let (entries, arms) = choice::open(&self.names, &setting);
        let baseline = choice::baseline(self.common.baseline.as_ref(), &entries)?;
        let kvm = arm::find_vmm().ok().and_then(|vmm| surroundings::kvm(&vmm));
        let fingerprint = Fingerprint::take(kvm, &self.workload.rootfs);
        Ok(Arms { entries, arms, baseline, fingerprint })
    }

    /// How long a run may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.common.timeout)
    }

    /// What carries out runs, that reads nothing yet.
    pub(super) fn measurement<'m>(&'m self, arms: &'m Arms) -> Measurement<'m> {
        let (timeout, interrupt) = (self.timeout(), self.interrupt.as_fd());
        Measurement { arms: &arms.arms, timeout, watch: None, read: None, interrupt }
    }

    /// Writes the report.
    pub(super) fn close(self, arms: Arms, outcome: Outcome) -> Result<ExitCode> {
        let Outcome { name, interrupted, runs, mut limitations, .. } = outcome;
        limitations.extend(arms.limitations());
        let Arms { baseline, fingerprint, .. } = arms;
        if cfg!(debug_assertions) {
            let debug = "this is a build for debugging, whose own programs are slow and large";
            limitations.push(debug.to_owned());
        }
        let Workload { reference, id, args, .. } = self.workload;
        let mut title = format!("{name} of {} in {reference}", outcome.about);
        title.extend(fingerprint.virtualisation.caveat().map(|caveat| format!(", {caveat}")));
        if interrupted {
            title.push_str(" (partial)");
        }
        let controls = [("all".to_owned(), outcome.control)];
        let report = Figures {
            form: format!("vmm-contrast/{name}/1"),
            title,
            partial: interrupted,
            image: Image { reference, id },
            command: args,
            settings: outcome.settings,
            seed: self.common.seed,
            runs,
            warm_ups: outcome.warm_ups,
            timeout_ms: self.common.timeout as f64 * 1e3,
            baseline,
            measured: outcome.measured,
            prepared: self.prepared,
            limitations,
            verdict: Verdict::of(&fingerprint, &controls, runs, interrupted),
            fingerprint,
            arms: outcome.arms,
        };
        self.output.write(&render_figures(&report, self.common.format)?)?;
        Ok(if interrupted { INTERRUPTED.into() } else { ExitCode::SUCCESS })
    }
}

impl Arms {
    /// What numbers of arms lack, or have in another way than those of others.
    fn limitations(&self) -> Vec<String> {
        let of = |entry: &Entry| -> Vec<String> {
            let arm = entry.place.as_ref().ok().and_then(|place| self.arms.get(*place));
            let list = arm.map(|arm| arm.limitations()).unwrap_or_default();
            list.into_iter().map(|text| format!("{}: {text}", entry.name)).collect()
        };
        self.entries.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_are_not_zero() {
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("65536"), Ok(65_536));
        for text in ["", "0", "0g", "m", "-1m", "1t", "99999999999g", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
