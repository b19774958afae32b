//! Our own: a container with a kernel of its own.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;

use super::{Absent, Arm, Instance, Setting, program};
use crate::clock::Moment;
use crate::launch::Finished;
use crate::timeline::{Phase, Stamps};
use crate::workload::Workload;

/// What `vmm run --timing=json` says: moments of the host's monotonic clock in microseconds.
#[derive(Debug, Deserialize)]
struct Told {
    machine: Option<u64>,
    agent: Option<u64>,
    ready: Option<u64>,
    started: Option<u64>,
    exited: Option<u64>,
    ended: Option<u64>,
}

/// Before what is told.
const MARK: &str = "timing: ";

struct Vmm {
    program: PathBuf,
    /// Without it there is no network that needs no preparation.
    has_passt: bool,
    workload: Workload,
}

/// `vmm run` with the `container` kernel.
pub(super) fn open(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let program = find()?;
    let has_passt = program::find("passt").is_ok();
    Ok(Box::new(Vmm { program, has_passt, workload: setting.workload.clone() }))
}

/// `vmm`: the one that started this program, or the one beside it.
///
/// # Errors
/// There is none.
pub fn find() -> Result<PathBuf, Absent> {
    if let Some(program) = std::env::var_os("VMM_PROGRAM").filter(|program| !program.is_empty()) {
        return Ok(program.into());
    }
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name("vmm");
    if beside.is_file() { Ok(beside) } else { program::find("vmm") }
}

impl Vmm {
    fn run(&self, words: &[&str], instance: &Instance) -> Command {
        let mut command = Command::new(&self.program);
        let network = if self.workload.network && self.has_passt { "user" } else { "none" };
        command.arg("run").args(words).args(["--pull", "never", "--network", network]);
        command.args(["--name", &instance.name, "--entrypoint", ""]);
        if let Some(memory) = self.workload.memory {
            command.arg("--memory").arg(memory.to_string());
        }
        command.arg("--").arg(&self.workload.id).args(&self.workload.args);
        command
    }
}

impl Arm for Vmm {
    fn version(&self) -> String {
        program::version(&self.program)
    }

    fn prepared(&self) -> Vec<String> {
        vec![
            "the image's read-only file system is in the store".to_owned(),
            "the initial RAM file system and the empty writable layer are in the cache".to_owned(),
        ]
    }

    fn command(&self, instance: &Instance) -> Command {
        self.run(&["--rm", "--timing=json"], instance)
    }

    fn background(&self, instance: &Instance) -> Option<Command> {
        Some(self.run(&["--detach"], instance))
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.put(Phase::Start, finished.spawned);
        let told = finished.errors.lines().find_map(|line| line.split_once(MARK));
        let Some(told) = told.and_then(|(_, told)| serde_json::from_str::<Told>(told).ok()) else {
            return stamps;
        };
        let ends = [
            (Phase::HostObjects, told.machine),
            (Phase::Kernel, told.agent),
            (Phase::Init, told.ready),
            (Phase::Exec, told.started),
            (Phase::Run, told.exited),
        ];
        for (phase, micros) in ends {
            if let Some(micros) = micros {
                stamps.put(phase, Moment::from_nanos(micros.saturating_mul(1000)));
            }
        }
        if told.ended.is_some() {
            stamps.put(Phase::Teardown, finished.ended);
        }
        stamps
    }

    fn clean(&self, instance: &Instance) {
        let mut command = Command::new(&self.program);
        command.args(["rm", "--force", &instance.name]);
        // It is there only if a run was killed, or goes on by itself.
        program::quietly(&mut command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_ends_the_phases_in_order() {
        let errors = "a note\nvmm: timing: {\"began\":10,\"machine\":20,\"agent\":30,\"ready\":null,\
                      \"started\":50,\"exited\":60,\"ended\":70}\n";
        let (program, workload) = ("vmm".into(), crate::testing::workload());
        let vmm = Vmm { program, has_passt: false, workload };
        let finished = crate::testing::finished(5_000, 80_000, errors);
        let phases = vmm.stamps(&finished).phases(finished.began, finished.ended);
        let names: Vec<_> = phases.iter().map(|(phase, _)| phase.name()).collect();
        let expected =
            ["start", "host objects", "kernel", "exec", "run", "teardown", "unattributed"];
        assert_eq!(names, expected);
        let micros: Vec<_> = phases.iter().map(|(_, time)| time.as_micros()).collect();
        assert_eq!(micros, [0, 15, 10, 20, 10, 20, 0]);
    }
}
