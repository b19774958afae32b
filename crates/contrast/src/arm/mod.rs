//! An arm: one way to run a command, such as a container runtime or a virtual machine monitor.
//!
//! An arm says what is started; starting, watching and timing it is the same for all. What is not on this
//! host is [`Absent`], never left out.

mod engine;
mod machine;
mod namespaces;
mod oci;
mod process;
mod program;
mod vmm;

use std::path::Path;
use std::process::Command;

use crate::console::Console;
use crate::launch::Finished;
use crate::timeline::{Phase, Stamps};
use crate::workload::Workload;

pub use oci::bundle_config;
pub use program::describe;
pub use vmm::find as find_vmm;

/// Tells runs apart that go on at the same time, and from what was there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// A name nothing else on this host has.
    pub name: String,
}

/// Why an arm cannot be measured here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Absent(pub String);

/// One way to run a command, found on this host and prepared.
pub trait Arm: Sync {
    /// What the program behind it says its version is.
    fn version(&self) -> String;

    /// What was made before the clock starts.
    fn prepared(&self) -> Vec<String>;

    /// The process of one run. Its standard streams are the caller's business.
    fn command(&self, instance: &Instance) -> Command;

    /// What hears the guest of one run, of an arm whose process is a machine with a serial port as its standard
    /// output. Then what is run is the command in the guest.
    fn console(&self, _: &Instance) -> Option<Console> {
        None
    }

    /// What its numbers lack, or have in another way than those of others.
    fn limitations(&self) -> Vec<String> {
        vec![]
    }

    /// What starts an instance that goes on without the process that started it, and ends when it has begun: of
    /// an arm that does not know that, [`Arm::command`] has to stay.
    fn background(&self, _: &Instance) -> Option<Command> {
        None
    }

    /// The ends of the phases that it can tell, beside those that every run has.
    fn stamps(&self, finished: &Finished) -> Stamps;

    /// Removes what a run left that failed, was killed or never began.
    fn clean(&self, instance: &Instance);
}

/// What an arm is made from.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// What is run.
    pub workload: &'a Workload,
    /// A directory for files of the arm, gone when everything has been measured.
    pub directory: &'a Path,
}

/// Finds an arm on this host and prepares it.
type Open = fn(&Setting<'_>) -> Result<Box<dyn Arm>, Absent>;

/// Every arm by name, in the order of reports.
const ARMS: &[(&str, Open)] = &[
    ("process", process::open),
    ("namespaces", namespaces::open),
    ("runc", oci::runc),
    ("crun", oci::crun),
    ("youki", oci::youki),
    ("runsc", oci::runsc),
    ("podman", engine::podman),
    ("docker", engine::docker),
    ("ctr", engine::ctr),
    ("vmm", vmm::open),
    ("vmm-minimal", machine::vmm_minimal),
    ("qemu-microvm", machine::qemu_microvm),
    ("firecracker", machine::firecracker),
    ("cloud-hypervisor", machine::cloud_hypervisor),
];

/// The stamps of a runtime that tells nothing: its program began, and what was noticed about the command's.
fn noticed(finished: &Finished) -> Stamps {
    let mut stamps = Stamps::default();
    stamps.put(Phase::Start, finished.spawned);
    if let Some(opened) = finished.noticed.opened {
        stamps.put(Phase::Init, opened);
        if let Some(closed) = finished.noticed.closed {
            stamps.put(Phase::Run, closed);
            stamps.put(Phase::Teardown, finished.ended);
        }
    }
    stamps
}

/// The names of all arms.
pub fn names() -> impl Iterator<Item = &'static str> {
    ARMS.iter().map(|(name, _)| *name)
}

/// Finds the arm `name` and prepares it.
///
/// # Errors
/// This host does not have it, or there is none of that name.
pub fn open(name: &str, setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let found = ARMS.iter().find(|(own, _)| *own == name);
    let (_, open) = found.ok_or_else(|| Absent(format!("there is no arm named {name}")))?;
    open(setting)
}
