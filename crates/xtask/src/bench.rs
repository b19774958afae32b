//! `cargo xtask bench`: the figures of `docs/performance.md`.
//!
//! Our monitor and QEMU's smallest machine run the same guests in turn, in one run. What is measured
//! here is described there.

mod aio;
mod balloon;
mod block;
mod boot;
mod containers;
mod figure;
mod flow;
pub(crate) mod guest;
mod histogram;
mod idle;
mod inside;
mod isolation;
mod kept;
mod monitor;
mod network;
mod null_guest;
mod place;
mod program;
mod random;
mod reads;
mod record;
mod report;
mod run;
mod socket;
mod startup;
mod storage;
mod vsock;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};

use crate::arch::Arch;
use crate::images::store::IMPORTER;
use crate::packages;
use crate::workspace::{self, Profile, Program};
use figure::Figure;
use place::{Bundle, Place};
use record::Records;

pub(crate) use inside::{InsideArgs, run as run_inside};

/// Packages for measurements on this machine, besides those of kernels and the emulated host.
const PACKAGES: &[&str] = &["qemu-system-x86", "iproute2", "util-linux", "gcc", "binutils"];

/// What to measure.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Only these figures; all when none is named
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// Measure this program, with those beside it, instead of a fresh release build
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
    /// So many runs of each kind instead of the usual number
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Write the results into docs/performance.md, in place of those of the same groups
    #[arg(long)]
    write_docs: bool,
    /// Take the KVM exits that are found for the recorded ones
    #[arg(long)]
    record: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Null guests: exec to first I/O and to exit
    Null,
    /// Guest instructions from the kernel's entry to its first process
    Instructions,
    /// Boots of our kernels: time and KVM exits to their first process
    Boot,
    /// Memory of an idle monitor
    Memory,
    /// Disk from the host's page cache
    Io,
    /// Memory a guest gives back
    Balloon,
    /// Disk past the host's page cache, by each way to move data
    Block,
    /// Network of a guest, by TAP and by passt
    Net,
    /// Sockets between guest and host
    Vsock,
    /// Containers: start, further processes, memory, images; against runc, crun and umoci
    Containers,
    /// The start of a container in every way: by vmm bench startup
    Startup,
    /// What a container and a virtual machine keep apart: by vmm contrast
    Contrast,
}

/// What the groups share.
struct Context {
    /// The program that is measured.
    vmm: PathBuf,
    /// Where guests without a kernel run.
    place: Place,
    /// Where files go.
    directory: PathBuf,
    runs: Option<usize>,
    record: bool,
    /// Whether the program was named, and so are those beside it.
    named: bool,
}

/// What the measured program finds beside itself, where one was named.
const BESIDE: &[&str] =
    &["vmm-agent", IMPORTER, "vmm-contrast", "vmm-init", "vmm-namespaces", "vmm-probe"];

/// Programs of ours and their names.
struct Programs(Vec<(String, PathBuf)>);

impl Programs {
    /// Where the one of this name is.
    ///
    /// # Errors
    /// There is none.
    fn path(&self, name: &str) -> Result<&Path> {
        let found = self.0.iter().find(|(own, _)| own == name);
        Ok(&found.with_context(|| format!("there is no program {name}"))?.1)
    }
}

/// Measures, prints the table and writes `summary.json`.
///
/// # Errors
/// A measurement failed. A goal that is missed is no error.
pub(crate) fn run(arguments: &BenchArgs) -> Result<i32> {
    packages::ensure(PACKAGES)?;
    let context = Context::new(arguments)?;
    let mut groups = arguments.groups.clone();
    if groups.is_empty() {
        groups.extend(Group::value_variants());
    }
    let mut figures = vec![];
    for group in groups {
        let mut records = Records::default();
        let own = group.measure(&context, &mut records)?;
        print!("{}", report::histograms(&records));
        if arguments.write_docs {
            let (name, title) = group.title();
            report::update_document(&document(), (&name, &title), &own, &records)?;
            match group {
                Group::Startup => kept::picture(&context, startup::GROUP)?,
                Group::Contrast => kept::picture(&context, isolation::GROUP)?,
                _ => {}
            }
        }
        figures.extend(own);
    }
    println!("{}", report::spread_table(&figures));
    print!("{}\n{}", report::table(&figures), report::notes(&figures));
    let summary = context.directory.join("summary.json");
    report::write_summary(&figures, &summary)?;
    println!("{}", summary.display());
    Ok(0)
}

/// The document with the results.
fn document() -> PathBuf {
    workspace::root().join("docs/performance.md")
}

impl Group {
    /// What it is called on the command line, and in a heading.
    fn title(self) -> (String, String) {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help());
        let name = value.as_ref().map_or("", |value| value.get_name()).to_owned();
        (name, help.map(ToString::to_string).unwrap_or_default())
    }

    fn measure(self, context: &Context, records: &mut Records) -> Result<Vec<Figure>> {
        match self {
            Self::Null => null_guest::figures(context, records),
            Self::Instructions => boot::instruction_figures(),
            Self::Boot => boot::figures(context, records),
            Self::Memory => idle::figures(context, records),
            Self::Io => reads::figures(context, records),
            Self::Balloon => balloon::figures(context, records),
            Self::Block => block::figures(context, records),
            Self::Net => network::figures(context, records),
            Self::Vsock => vsock::figures(context, records),
            Self::Containers => containers::figures(context, records),
            Self::Startup => startup::figures(context, records),
            Self::Contrast => isolation::figures(context, records),
        }
    }
}

impl Context {
    fn new(arguments: &BenchArgs) -> Result<Self> {
        let vmm = match &arguments.vmm {
            Some(vmm) => vmm.clone(),
            None => workspace::build_vmm(Profile::Release)?,
        };
        ensure!(arguments.runs != Some(0), "--runs 0 measures nothing");
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        let directory = target.unwrap_or_else(|| workspace::root().join("target")).join("bench");
        fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let place = Place::of_this_machine(&vmm);
        let (runs, record, named) = (arguments.runs, arguments.record, arguments.vmm.is_some());
        Ok(Self { vmm, place, directory, runs, record, named })
    }

    /// Files for the measurements of `group`.
    fn bundle(&self, group: &str) -> Result<Bundle> {
        Bundle::new(self.directory.join(group), &self.vmm)
    }

    /// The programs that the measured one finds beside itself, by name.
    fn helpers(&self) -> Result<Vec<(String, PathBuf)>> {
        let programs = self.programs()?.0.into_iter();
        Ok(programs.filter(|(name, _)| name != place::VMM).collect())
    }

    /// All programs of ours that are measured.
    fn programs(&self) -> Result<Programs> {
        if self.named {
            let beside = |name: &str| (name.to_owned(), self.vmm.with_file_name(name));
            let others = BESIDE.iter().map(|name| beside(name)).filter(|(_, path)| path.is_file());
            let vmm = (place::VMM.to_owned(), self.vmm.clone());
            return Ok(Programs(std::iter::once(vmm).chain(others).collect()));
        }
        let programs = workspace::build_programs(Arch::X86_64, Profile::Release)?.into_iter();
        Ok(Programs(programs.map(|Program { name, path }| (name, path)).collect()))
    }

    /// How many runs of each kind, where `usual` are made unless told otherwise.
    fn runs(&self, usual: usize) -> usize {
        self.runs.unwrap_or(usual)
    }
}
