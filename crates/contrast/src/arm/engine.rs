//! Container engines, which prepare what a runtime needs and have it run by one: podman, docker and containerd's
//! `ctr`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{Absent, Arm, Instance, Setting, program};
use crate::launch::Finished;
use crate::timeline::Stamps;
use crate::workload::Workload;

/// Which engine: they take different words for the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Podman,
    Docker,
    Ctr,
}

struct Engine {
    kind: Kind,
    program: PathBuf,
    workload: Workload,
    /// The image that was imported for this, of docker alone.
    image: String,
}

/// podman, which needs no daemon.
pub(super) fn podman(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    Ok(Box::new(Engine::new(Kind::Podman, "podman", setting)?))
}

/// docker, if its daemon answers. The image is imported.
pub(super) fn docker(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let engine = Engine::new(Kind::Docker, "docker", setting)?;
    engine.ask(&["version", "--format", "{{.Server.Version}}"])?;
    engine.import()?;
    Ok(Box::new(engine))
}

/// containerd's own command, if the daemon answers.
pub(super) fn ctr(setting: &Setting<'_>) -> Result<Box<dyn Arm>, Absent> {
    let engine = Engine::new(Kind::Ctr, "ctr", setting)?;
    engine.ask(&["version"])?;
    Ok(Box::new(engine))
}

impl Engine {
    fn new(kind: Kind, name: &str, setting: &Setting<'_>) -> Result<Self, Absent> {
        let (program, workload) = (program::find(name)?, setting.workload.clone());
        let image = format!("vmm-contrast-{}", std::process::id());
        Ok(Self { kind, program, workload, image })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Has the daemon answer something.
    fn ask(&self, words: &[&str]) -> Result<(), Absent> {
        let name = self.program.display();
        let output = self.command(words).output().map_err(|e| Absent(format!("{name}: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let line =
            said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        Err(Absent(format!("its daemon does not answer: {}", line.trim())))
    }

    /// Makes an image of the unpacked root file system.
    fn import(&self) -> Result<(), Absent> {
        let failed =
            |error: std::io::Error| Absent(format!("import the image into docker: {error}"));
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&self.workload.rootfs).args(["-c", "."]).stdin(Stdio::null());
        let mut tar = tar.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
        let archive = tar.stdout.take().map_or_else(Stdio::null, Stdio::from);
        let import = self.command(&["import", "-", &self.image]).stdin(archive).output();
        let packed = tar.wait().map_err(failed)?;
        let import = import.map_err(failed)?;
        if packed.success() && import.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&import.stderr).trim().to_owned();
        Err(Absent(format!("import the image into docker: {said}")))
    }

    /// The words of a run; `how` is `--rm`, or `--detach` for one that goes on by itself.
    fn words(&self, how: &str, name: &str) -> Vec<OsString> {
        let Workload { rootfs, args, env, cwd, user, memory, .. } = &self.workload;
        let user = format!("{}:{}", user.uid, user.gid);
        let mut words: Vec<OsString> = ["run", how].map(OsString::from).to_vec();
        let mut put = |more: &[&str]| words.extend(more.iter().map(OsString::from));
        if let (Some(pids), true) = (self.workload.pids, self.kind != Kind::Ctr) {
            put(&["--pids-limit", &pids.to_string()]);
        }
        if self.kind != Kind::Ctr {
            put(&["--name", name, "--entrypoint", ""]);
        }
        if self.kind != Kind::Ctr && !self.workload.network {
            put(&["--network", "none"]);
        }
        if let Some(memory) = memory {
            let limit = if self.kind == Kind::Ctr { "--memory-limit" } else { "--memory" };
            put(&[limit, &memory.to_string()]);
        }
        let working = if self.kind == Kind::Ctr { "--cwd" } else { "--workdir" };
        put(&["--user", &user, working, cwd]);
        env.iter().for_each(|variable| put(&["--env", variable]));
        match self.kind {
            Kind::Docker => put(&[&self.image]),
            Kind::Podman | Kind::Ctr => words.extend(["--rootfs".into(), rootfs.into()]),
        }
        if self.kind == Kind::Ctr {
            words.push(name.into());
        }
        words.extend(args.iter().map(OsString::from));
        words
    }

    /// Runs without a word; what it is about may not be there.
    fn quietly(&self, words: &[&str]) {
        program::quietly(&mut self.command(words));
    }
}

impl Arm for Engine {
    fn version(&self) -> String {
        program::version(&self.program)
    }

    fn prepared(&self) -> Vec<String> {
        let what = match self.kind {
            Kind::Docker => "the image is imported, its daemon runs",
            Kind::Podman => "the root file system is that of all runs",
            Kind::Ctr => "the root file system is that of all runs, its daemon runs",
        };
        vec![what.to_owned()]
    }

    fn command(&self, instance: &Instance) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.words("--rm", &instance.name));
        command
    }

    fn background(&self, instance: &Instance) -> Option<Command> {
        let mut command = Command::new(&self.program);
        command.args(self.words("--detach", &instance.name));
        Some(command)
    }

    fn stamps(&self, finished: &Finished) -> Stamps {
        super::noticed(finished)
    }

    fn clean(&self, instance: &Instance) {
        let name = instance.name.as_str();
        match self.kind {
            Kind::Podman | Kind::Docker => self.quietly(&["rm", "--force", name]),
            Kind::Ctr => {
                self.quietly(&["tasks", "rm", "--force", name]);
                self.quietly(&["containers", "rm", name]);
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.kind == Kind::Docker {
            self.quietly(&["rmi", "--force", &self.image]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: Kind) -> String {
        let workload = crate::testing::workload();
        let engine =
            Engine { kind, program: "/nosuch".into(), workload, image: "image".to_owned() };
        let words = engine.words("--rm", "one");
        words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_engine_is_told_the_same_in_its_own_words() {
        let podman = line(Kind::Podman);
        assert!(podman.starts_with("run --rm --name one --entrypoint  --network none"), "{podman}");
        assert!(podman.ends_with("--env A=b --rootfs /nosuch true"), "{podman}");
        assert!(line(Kind::Docker).ends_with("--workdir / --env A=b image true"));
        assert!(line(Kind::Ctr).ends_with("--cwd / --env A=b --rootfs /nosuch one true"));
    }
}
