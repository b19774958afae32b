//! Runtimes that take a bundle as the runtime specification of OCI describes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use super::{Absent, Arm, Instance, Setting, program};
use crate::launch::Finished;
use crate::timeline::Stamps;
use crate::workload::Workload;

/// What docker would have a runtime do: mounts, namespaces, devices, capabilities, hidden paths, a memory limit.
const FORM: &str = include_str!("bundle.json");

/// Files that docker would let a container open.
const MAX_FILES: u64 = 1 << 20;

struct Runtime {
    program: PathBuf,
    bundle: PathBuf,
    /// Where it keeps what it knows about its containers.
    state: PathBuf,
}

/// runc.
pub(super) fn runc(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open("runc", setting)
}

/// crun.
pub(super) fn crun(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open("crun", setting)
}

/// youki.
pub(super) fn youki(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open("youki", setting)
}

/// runsc, whose kernel for containers is a process.
pub(super) fn runsc(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    open("runsc", setting)
}

fn open(name: &str, setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let program = program::find(name)?;
    let directory = setting.directory.join(name);
    let (bundle, state) = (directory.join("bundle"), directory.join("state"));
    let absent = |error: std::io::Error| Absent(format!("make a bundle for {name}: {error}"));
    fs::create_dir_all(&bundle).and_then(|()| fs::create_dir_all(&state)).map_err(absent)?;
    let config = config_of(setting.workload).to_string();
    fs::write(bundle.join("config.json"), config).map_err(absent)?;
    Ok(Box::new(Runtime { program, bundle, state }))
}

/// The configuration of a bundle that runs `args` as root in `rootfs`.
pub fn bundle_config(rootfs: &Path, args: &[impl AsRef<str>]) -> Value {
    let mut config = serde_json::from_str(FORM).unwrap_or(Value::Null);
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    put(&mut config, &["process", "args"], json!(args));
    put(&mut config, &["root", "path"], json!(rootfs));
    // More than its own nobody may give who lacks the right to.
    let files = getrlimit(Resource::Nofile).maximum.map_or(MAX_FILES, |most| most.min(MAX_FILES));
    put(&mut config, &["process", "rlimits", "0", "soft"], json!(files));
    put(&mut config, &["process", "rlimits", "0", "hard"], json!(files));
    config
}

fn config_of(workload: &Workload) -> Value {
    let mut config = bundle_config(&workload.rootfs, &workload.args);
    put(&mut config, &["process", "env"], json!(workload.env));
    put(&mut config, &["process", "cwd"], json!(workload.cwd));
    put(&mut config, &["process", "user", "uid"], json!(workload.user.uid));
    put(&mut config, &["process", "user", "gid"], json!(workload.user.gid));
    if let Some(memory) = workload.memory {
        put(&mut config, &["linux", "resources", "memory", "limit"], json!(memory));
        put(&mut config, &["linux", "resources", "memory", "swap"], json!(memory));
    }
    if let Some(pids) = workload.pids {
        config["linux"]["resources"]["pids"] = json!({ "limit": pids });
    }
    config
}

/// Fills in a place that the form has.
fn put(config: &mut Value, place: &[&str], value: Value) {
    if let Some(place) = config.pointer_mut(&pointer(place)) {
        *place = value;
    }
}

/// The JSON pointer (RFC 6901) of a place by the names on the way there.
fn pointer(place: &[&str]) -> String {
    place.iter().flat_map(|name| ["/", name]).collect()
}

impl Runtime {
    fn start(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state);
        command
    }
}

impl Arm for Runtime {
    fn version(&self) -> String {
        program::version(&self.program)
    }

    fn prepared(&self) -> Vec<String> {
        vec!["the bundle is written, its root file system is that of all runs".to_owned()]
    }

    fn command(&self, instance: &Instance) -> Command {
        let mut command = self.start();
        command.arg("run").arg("--bundle").arg(&self.bundle).arg(&instance.name);
        command
    }

    fn background(&self, instance: &Instance) -> Option<Command> {
        let mut command = self.start();
        command.args(["run", "--detach", "--bundle"]).arg(&self.bundle).arg(&instance.name);
        Some(command)
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        super::noticed(finished)
    }

    fn clean(&self, instance: &Instance) {
        let mut command = self.start();
        command.args(["delete", "--force", &instance.name]);
        // It is there only if a run was killed, or goes on by itself.
        program::quietly(&mut command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_says_what_the_workload_says() {
        let workload = Workload { cwd: "/tmp".to_owned(), ..crate::testing::workload() };
        let config = config_of(&workload);
        let at = |place: &[&str]| config.pointer(&pointer(place)).unwrap();
        assert_eq!(at(&["process", "args"]), &json!(["true"]));
        assert_eq!(at(&["process", "env"]), &json!(["A=b"]));
        assert_eq!(at(&["process", "cwd"]), &json!("/tmp"));
        assert_eq!(at(&["root", "path"]), &json!("/nosuch"));
        assert_eq!(at(&["process", "user", "uid"]), &json!(0));
    }
}
