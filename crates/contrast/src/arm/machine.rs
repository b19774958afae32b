//! Monitors with the same kernel, the same image and a first process that only runs the command: ours and others.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use super::{Absent, Arm, Instance, Setting, program};
use crate::clock::Moment;
use crate::console::{Console, Step};
use crate::launch::Finished;
use crate::machine::{Guest, Monitor, Place};
use crate::timeline::{Phase, Stamps};

/// Before what our own says with `--timing=json`.
const MARK: &str = "timing: ";

/// What it says: moments of the host's monotonic clock in microseconds.
#[derive(Debug, Deserialize)]
struct Told {
    /// It knows what is asked for.
    parsed: u64,
    /// The guest's first instruction.
    machine: u64,
}

struct Machine {
    monitor: Monitor,
    program: PathBuf,
    guest: Guest,
}

/// Our own, without any of what makes a container.
pub(super) fn vmm_minimal(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open("vmm-minimal", Monitor::Vmm, super::find_vmm()?, setting)
}

/// QEMU, whose smallest machine is one of x86_64.
pub(super) fn qemu_microvm(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(Absent("QEMU has its microvm machine on x86_64 alone".to_owned()));
    }
    foreign("qemu-microvm", Monitor::QemuMicrovm, setting)
}

/// Firecracker.
pub(super) fn firecracker(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    foreign("firecracker", Monitor::Firecracker, setting)
}

/// Cloud Hypervisor.
pub(super) fn cloud_hypervisor(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    foreign("cloud-hypervisor", Monitor::CloudHypervisor, setting)
}

fn foreign(name: &str, monitor: Monitor, setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open(name, monitor, program::find(monitor.program())?, setting)
}

fn open(
    name: &str,
    monitor: Monitor,
    program: PathBuf,
    setting: &Setting<'_>,
) -> Result<Box<dyn Arm>, Absent> {
    let directory = setting.directory.join(name);
    let guest = Guest::prepare(setting.workload, monitor.place(), &directory);
    let guest = guest.map_err(|error| Absent(error.to_string()))?;
    Ok(Box::new(Machine { monitor, program, guest }))
}

impl Arm for Machine {
    fn version(&self) -> String {
        program::version(&self.program)
    }

    fn prepared(&self) -> Vec<String> {
        let mut prepared = self.guest.prepared();
        if self.monitor == Monitor::Firecracker {
            prepared.push("the file with its configuration is written".to_owned());
        }
        prepared
    }

    fn limitations(&self) -> Vec<String> {
        let mut list = vec![];
        if self.monitor != Monitor::Vmm {
            list.push("it does not tell when its guest begins: what it does before is in the kernel's phase");
        }
        if self.monitor.place() == Place::Memory {
            list.push(
                "its disks need a driver that the kernel leaves out: the image is in the initial RAM file system",
            );
        }
        list.into_iter().map(str::to_owned).collect()
    }

    fn command(&self, instance: &Instance) -> Command {
        self.monitor.command(&self.program, &self.guest, &instance.name)
    }

    fn console(&self, instance: &Instance) -> Option<Console> {
        Some(self.guest.console(&instance.name))
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.put(Phase::Start, finished.spawned);
        let told = finished.errors.lines().find_map(|line| line.split_once(MARK));
        if let Some(told) = told.and_then(|(_, told)| serde_json::from_str::<Told>(told).ok()) {
            let moment = |micros: u64| Moment::from_nanos(micros.saturating_mul(1000));
            stamps.put(Phase::Parse, moment(told.parsed));
            stamps.put(Phase::HostObjects, moment(told.machine));
        }
        for (step, moment) in finished.guest.iter().flat_map(|guest| &guest.steps) {
            let phase = match step {
                Step::Began => Phase::Kernel,
                Step::Ready => Phase::Init,
                Step::Exec => Phase::Exec,
                Step::Exit(_) => Phase::Run,
            };
            stamps.put(phase, *moment);
        }
        stamps.put(Phase::Teardown, finished.ended);
        stamps
    }

    // A monitor leaves nothing but its process, which has ended, and files in the arm's own directory.
    fn clean(&self, _: &Instance) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Heard;

    #[test]
    fn what_monitor_and_guest_tell_ends_the_phases_in_order() {
        let errors = "vmm: timing: {\"began\":6,\"parsed\":8,\"machine\":20,\"ended\":80}\n";
        let mut finished = crate::testing::finished(5_000, 95_000, errors);
        let steps = [
            (Step::Began, 40_000),
            (Step::Ready, 45_000),
            (Step::Exec, 50_000),
            (Step::Exit(0), 70_000),
        ];
        let steps = steps.map(|(step, nanos)| (step, Moment::from_nanos(nanos))).to_vec();
        finished.guest = Some(Heard { steps, ..Heard::default() });
        let (monitor, program) = (Monitor::Vmm, "vmm".into());
        let guest = Guest::without_files();
        let machine = Machine { monitor, program, guest };
        let phases = machine.stamps(&finished).phases(finished.began, finished.ended);
        let told: Vec<_> =
            phases.iter().map(|(phase, time)| (phase.name(), time.as_micros())).collect();
        let expected = [
            ("start", 0),
            ("parse", 3),
            ("host objects", 12),
            ("kernel", 20),
            ("init", 5),
            ("exec", 5),
            ("run", 20),
            ("teardown", 25),
            ("unattributed", 0),
        ];
        assert_eq!(told, expected);
    }
}
