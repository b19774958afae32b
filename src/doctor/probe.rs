//! Whether this host's KVM runs guest kernel code on the processor, found by running some.

use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use rustix::io::Errno;
use thiserror::Error;
use vm_memory::{Bytes, GuestAddress};

use crate::arch::{
    PROBE_CODE, PROBE_ROUND_LEN, PROBE_ROUNDS, PROBE_START, ProbeStep, configure_probe, probe_step,
};
use crate::kvm::{Vm, VmError, open_kvm};
use crate::memory::GuestMemory;

/// Memory of the probe's guest in bytes: the pages below and of its code.
const MEMORY_LEN: usize = 0x2000;

/// Guest kernel code below this speed is not run by the processor: emulators manage some million
/// instructions a second, and an emulated processor with virtualisation some hundred million.
const LEAST_HARDWARE_SPEED: u64 = 10_000_000;

/// Exits after which a guest that should have ended is given up.
const MAX_EXITS: u32 = 64;

/// Who executes the instructions of guest kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmMode {
    /// The processor, by its virtualisation extensions: ordinary kernels boot.
    Hardware,
    /// KVM's instruction emulator: ordinary kernels do not boot.
    Software,
}

impl KvmMode {
    /// What the user should know about a host whose guests fail, and what to do.
    pub fn explanation(self) -> Option<(&'static str, &'static str)> {
        (self == Self::Software).then_some((
            "this machine's KVM emulates guest kernel code: ordinary kernels do not boot on it",
            "use a machine with hardware virtualisation; `make run` boots inside an emulated one",
        ))
    }
}

/// What the probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Who executes guest kernel code.
    pub mode: KvmMode,
    /// Guest kernel instructions per second, measured over some ten thousand.
    pub speed: u64,
}

/// Why the probe could not tell.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// No VM could be made.
    #[error("make a virtual machine to probe with")]
    Vm(#[from] VmError),
    /// Its memory or code could not be placed.
    #[error("place the probe in guest memory")]
    Memory,
    /// Its CPU could not be made, configured or run.
    #[error("{what} of the probe")]
    Cpu {
        /// What was being done.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// The guest did something else than its code says.
    #[error("the probe ended in an unexpected way: {0}")]
    Unexpected(String),
}

/// Who executes guest kernel code on this host; takes a tenth of a second at most.
///
/// # Errors
/// When no guest can be run at all.
pub fn kvm_mode() -> Result<KvmMode, ProbeError> {
    probe().map(|probe| probe.mode)
}

/// Runs the probe's guest.
///
/// # Errors
/// When no guest can be run at all.
pub fn probe() -> Result<Probe, ProbeError> {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY_LEN)])
        .map_err(|_| ProbeError::Memory)?;
    memory.write_slice(PROBE_CODE, GuestAddress(PROBE_START)).map_err(|_| ProbeError::Memory)?;
    let failed = |what| move |source| ProbeError::Cpu { what, source };
    let vm = Vm::new(&open_kvm()?, memory)?;
    let mut vcpu = vm.fd().create_vcpu(0).map_err(failed("create the CPU"))?;
    configure_probe(vm.fd(), &vcpu).map_err(failed("configure the CPU"))?;
    observe(&mut vcpu)
}

/// Runs the guest to its end and judges it.
fn observe(vcpu: &mut VcpuFd) -> Result<Probe, ProbeError> {
    let mut best = Duration::MAX;
    let mut rounds = 0;
    let mut start = Instant::now();
    for _ in 0..MAX_EXITS {
        match vcpu.run() {
            Ok(exit) => match probe_step(&exit) {
                Some(ProbeStep::Round) => {
                    best = best.min(start.elapsed());
                    rounds += 1;
                    start = Instant::now();
                }
                Some(ProbeStep::End) if rounds == PROBE_ROUNDS => return Ok(judge(best, true)),
                Some(ProbeStep::Stuck) if rounds == PROBE_ROUNDS => return Ok(judge(best, false)),
                _ => return Err(ProbeError::Unexpected(format!("{exit:?}"))),
            },
            Err(error) if error.errno() == Errno::INTR.raw_os_error() => {}
            Err(source) => return Err(ProbeError::Cpu { what: "run the CPU", source }),
        }
    }
    Err(ProbeError::Unexpected(format!("no end after {MAX_EXITS} exits")))
}

/// The fastest round counts: the others may have been interrupted.
fn judge(best_round: Duration, executes_everything: bool) -> Probe {
    let nanos = best_round.as_nanos().max(1);
    let speed = u128::from(PROBE_ROUND_LEN) * 1_000_000_000 / nanos;
    let speed = u64::try_from(speed).unwrap_or(u64::MAX);
    let hardware = executes_everything && speed >= LEAST_HARDWARE_SPEED;
    let mode = if hardware { KvmMode::Hardware } else { KvmMode::Software };
    Probe { mode, speed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_instruction_or_low_speed_means_software() {
        let fast = Duration::from_micros(100);
        let slow = Duration::from_millis(18);
        assert_eq!(judge(fast, true), Probe { mode: KvmMode::Hardware, speed: 327_680_000 });
        assert_eq!(judge(fast, false).mode, KvmMode::Software);
        assert_eq!(judge(slow, true).mode, KvmMode::Software);
        assert_eq!(judge(Duration::ZERO, true).mode, KvmMode::Hardware);
    }

    #[test]
    fn software_mode_is_explained_and_hardware_mode_is_not() {
        assert!(KvmMode::Software.explanation().is_some());
        assert!(KvmMode::Hardware.explanation().is_none());
    }
}
