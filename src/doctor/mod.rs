//! Whether guests can run on this host, what is missing, and the command that fixes it.

mod facts;
mod probe;
mod problems;

use std::fmt;

use serde::Serialize;

pub use facts::{Kvm, KvmState, Limits, Memory, Passt, Tun};
pub use probe::{KvmMode, Probe, ProbeError, kvm_mode, probe};
pub use problems::Problem;

/// What is known about a host. Its JSON form only ever gains keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this program.
    pub version: &'static str,
    /// Whether ordinary guests boot here.
    pub ready: bool,
    /// The kernel's virtual machines.
    pub kvm: Kvm,
    /// Network interfaces of guests.
    pub tun: Tun,
    /// Network interfaces of guests without privilege.
    pub passt: Passt,
    /// Memory of the host.
    pub memory: Memory,
    /// Limits of this process.
    pub limits: Limits,
    /// What is missing, worst first.
    pub problems: Vec<Problem>,
}

/// Examines this host. Runs a guest of a few instructions where that is possible.
pub fn examine() -> Report {
    let kvm = Kvm::examine();
    let (tun, memory, limits) = (Tun::examine(), Memory::examine(), Limits::examine());
    let passt = Passt::examine();
    let problems = problems::find(&kvm, &tun, &passt, &memory, &limits);
    let ready = problems.iter().all(|problem| !problem.blocks);
    Report { version: env!("CARGO_PKG_VERSION"), ready, kvm, tun, passt, memory, limits, problems }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kvm      {}", self.kvm)?;
        writeln!(f, "tun      {}", self.tun)?;
        writeln!(f, "passt    {}", self.passt)?;
        writeln!(f, "memory   {}", self.memory)?;
        writeln!(f, "limits   {}", self.limits)?;
        for Problem { what, fix, blocks } in &self.problems {
            let kind = if *blocks { "problem" } else { "note" };
            writeln!(f, "\n{kind}: {what}\n    fix: {fix}")?;
        }
        let verdict = if self.ready { "guests can run here" } else { "guests cannot run here" };
        writeln!(f, "\n{verdict}")
    }
}
