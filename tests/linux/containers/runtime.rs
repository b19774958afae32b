//! One container, run by `vmm` or by what it is compared to.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::bundle::{Bundle, Options};
use super::world::{Ran, World, eventually, finish, run, spawn};

/// Who runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Vmm,
    Runc,
    Crun,
}

/// Those that `vmm` is compared to.
pub const PEERS: [Runtime; 2] = [Runtime::Runc, Runtime::Crun];

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmm => "vmm",
            Self::Runc => "runc",
            Self::Crun => "crun",
        }
    }
}

/// A container that is about to be run.
pub struct Subject<'a> {
    pub runtime: Runtime,
    pub name: String,
    world: &'a World,
    bundle: Option<Bundle>,
    line: Vec<String>,
}

impl<'a> Subject<'a> {
    pub fn new(runtime: Runtime, world: &'a World, options: &Options, command: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("subject{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut line = vec!["run".to_owned()];
        let bundle = if runtime == Runtime::Vmm {
            line.extend(["--rm", "--name", &name].map(str::to_owned));
            line.extend(options.flags());
            line.push("busybox".to_owned());
            line.extend(command.iter().map(|word| (*word).to_owned()));
            None
        } else {
            let bundle = Bundle::new(options, command);
            line.extend(["--bundle".to_owned(), bundle.path().display().to_string(), name.clone()]);
            Some(bundle)
        };
        Self { runtime, name, world, bundle, line }
    }

    /// The command line that runs it.
    pub fn command(&self) -> Command {
        let mut command = self.other(&[]);
        command.args(&self.line);
        command
    }

    /// Another command of the runtime.
    pub fn other(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.runtime.name());
        self.world.enter(&mut command);
        command.args(args);
        command
    }

    /// Runs it to its end.
    pub fn run(&self, input: &[u8]) -> Ran {
        run(&mut self.command(), input)
    }

    /// Starts it with a pipe for its input.
    pub fn start(&self) -> Child {
        spawn(&mut self.command(), Stdio::piped())
    }

    /// Sends its first process a signal.
    pub fn kill(&self, signal: &str) {
        let mut command = match self.runtime {
            Runtime::Vmm => self.other(&["kill", "-s", signal, &self.name]),
            _ => self.other(&["kill", &self.name, signal]),
        };
        let ran = run(&mut command, b"");
        assert_eq!(ran.status, 0, "{command:?}: {ran:?}");
    }

    /// Starts it, and waits until further processes can be.
    pub fn start_and_wait(&self) -> Child {
        let child = self.start();
        eventually("a container that runs", || {
            run(&mut self.other(&["exec", &self.name, "true"]), b"").status == 0
        });
        child
    }

    /// Kills it, and waits until it is gone.
    pub fn end(&self, child: Child) -> Ran {
        self.kill("KILL");
        finish(child)
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if self.bundle.is_some() {
            // It is gone, unless the test has failed.
            run(&mut self.other(&["delete", "--force", &self.name]), b"");
        }
    }
}
