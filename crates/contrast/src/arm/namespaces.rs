//! Our own container without a machine: the work of a runtime, and nothing else.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use super::{Absent, Arm, Instance, Setting};
use crate::clock::Moment;
use crate::launch::Finished;
use crate::timeline::{Phase, Stamps};
use crate::workload::Workload;

/// The memory that the other containers get.
const MEMORY: u64 = 536_870_912;
/// Before what `--timing` says.
const MARK: &str = "timing: ";

struct Namespaces {
    program: PathBuf,
    workload: Workload,
}

/// `vmm-namespaces`, beside this program.
pub(super) fn open(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let program = std::env::current_exe().unwrap_or_default().with_file_name("vmm-namespaces");
    if !program.is_file() {
        return Err(Absent(format!("{} is not there", program.display())));
    }
    Ok(Box::new(Namespaces { program, workload: setting.workload.clone() }))
}

impl Arm for Namespaces {
    fn version(&self) -> String {
        format!("vmm-namespaces {}", env!("CARGO_PKG_VERSION"))
    }

    fn prepared(&self) -> Vec<String> {
        vec![]
    }

    fn command(&self, _: &Instance) -> Command {
        let Workload { args, env, cwd, user, rootfs, memory, .. } = &self.workload;
        let memory = memory.unwrap_or(MEMORY).to_string();
        let mut command = Command::new(&self.program);
        command.args(["--in-place", "--timing", "--memory", &memory, "--workdir", cwd]);
        command.arg("--user").arg(format!("{}:{}", user.uid, user.gid));
        command.args(env.iter().flat_map(|variable| ["--env", variable]));
        if let Some(pids) = self.workload.pids {
            command.arg("--pids").arg(pids.to_string());
        }
        command.arg(rootfs).args(args);
        command
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        let mut stamps = Stamps::default();
        stamps.put(Phase::Start, finished.spawned);
        let told = finished.errors.lines().rev().find_map(|line| line.split_once(MARK));
        let told: Option<HashMap<String, u64>> =
            told.and_then(|(_, told)| serde_json::from_str(told).ok());
        let ends = [
            (Phase::Parse, "parse"),
            (Phase::HostObjects, "namespaces"),
            (Phase::Init, "rights"),
            (Phase::Exec, "exec"),
            (Phase::Run, "end"),
        ];
        let ended = |step: &str| told.as_ref().and_then(|told| told.get(step));
        for (phase, step) in ends {
            if let Some(nanos) = ended(step) {
                stamps.put(phase, Moment::from_nanos(*nanos));
            }
        }
        if ended("clean").is_some() {
            stamps.put(Phase::Teardown, finished.ended);
        }
        stamps
    }

    // Its guard has done that, whatever ended it.
    fn clean(&self, _: &Instance) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_ends_the_phases_in_order() {
        let errors = "a note\nvmm-namespaces: timing: {\"clean\":90000,\"end\":80000,\"exec\":70000,\
                      \"namespaces\":30000,\"parse\":10000,\"rights\":60000}\n";
        let arm = Namespaces { program: "x".into(), workload: crate::testing::workload() };
        let finished = crate::testing::finished(5_000, 95_000, errors);
        let phases = arm.stamps(&finished).phases(finished.began, finished.ended);
        let names: Vec<_> = phases.iter().map(|(phase, _)| phase.name()).collect();
        let expected =
            ["start", "parse", "host objects", "init", "exec", "run", "teardown", "unattributed"];
        assert_eq!(names, expected);
        let micros: Vec<_> = phases.iter().map(|(_, time)| time.as_micros()).collect();
        assert_eq!(micros, [0, 5, 20, 30, 10, 10, 15, 0]);
    }
}
