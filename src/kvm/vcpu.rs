//! A vCPU and its run loop, each on a thread of its own.

// UNSAFETY: a flag in the vCPU's shared page is set from the owner's thread.
#![expect(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Once};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use kvm_bindings::{
    KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN, KVM_EXIT_SYSTEM_EVENT, KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::io::Errno;
use thiserror::Error;
use vmm_sys_util::signal::{Killable, SIGRTMIN};

use super::exit::{LastExit, describe, immediate_exit, port_io, set_immediate_exit};
use crate::arch::{self, Space};
use crate::bus::Bus;
use crate::devices::power::PowerEvent;

/// Stack of a vCPU's thread in bytes: ample for device code, and too small for the kernel to back
/// it with a huge page, which would take 2 MiB for the few KiB that are used.
const STACK_SIZE: usize = 256 << 10;

/// What an instruction did that KVM can neither execute nor hand over.
const UNDESCRIBED: &str =
    "an instruction reaches an address without memory in a way that KVM cannot hand over";

/// The address spaces a vCPU reaches.
#[derive(Default)]
pub struct Buses {
    /// Port I/O.
    pub pio: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

impl Buses {
    /// The bus for `space`.
    pub fn of(&mut self, space: Space) -> &mut Bus {
        match space {
            Space::Ports => &mut self.pio,
            Space::Memory => &mut self.mmio,
        }
    }
}

/// Why a vCPU runs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEnd {
    /// Its owner, or a device it wrote to, stopped it.
    Stopped,
    /// The guest asked for it, by a call that KVM answers.
    Power(PowerEvent),
    /// A fault while a double fault was handled (x86: shutdown).
    TripleFault,
    /// It halted where no interrupt controller can wake it.
    Halted,
    /// KVM cannot go on; in words.
    Kvm(String),
}

/// Why a vCPU could not be started.
#[derive(Debug, Error)]
pub enum VcpuError {
    /// No thread.
    #[error("start the thread of vCPU {index}")]
    Thread {
        /// Number of the vCPU.
        index: u8,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The signal that interrupts a running vCPU is not to be had.
    #[error("register the signal that interrupts vCPUs")]
    Signal(#[source] io::Error),
}

/// What the owner of the machine hears from its vCPU threads.
pub trait VcpuEvents: Send + Sync {
    /// Whether the machine is about to end: asked after every exit.
    fn ending(&self) -> bool;
    /// vCPU `index` has ended.
    fn ended(&self, index: u8, end: VcpuEnd);
}

/// What the vCPU thread and the owner's thread share.
struct Shared {
    stop: AtomicBool,
    /// Whether, when last asked, the vCPU slept in a way only its owner can end.
    asleep_forever: AtomicBool,
    last_exit: LastExit,
    immediate_exit: *const AtomicU8,
}

// SAFETY: `immediate_exit` points into a page shared with the kernel, written atomically alone;
// `RunningVcpu` uses it only while the thread, and with it the vCPU, exists.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// A vCPU on its thread.
pub struct RunningVcpu {
    thread: JoinHandle<()>,
    /// Where the thread leaves the vCPU when it ends.
    ended: Receiver<VcpuFd>,
    shared: Arc<Shared>,
}

/// Starts vCPU `index` on a thread of its own, named `vcpuN`.
///
/// # Errors
/// The thread cannot be made.
pub fn start_vcpu(
    mut fd: VcpuFd,
    index: u8,
    run_size: usize,
    buses: Arc<Buses>,
    events: Arc<dyn VcpuEvents>,
) -> Result<RunningVcpu, VcpuError> {
    catch_interrupts()?;
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        asleep_forever: AtomicBool::new(false),
        last_exit: LastExit::default(),
        immediate_exit: immediate_exit(&mut fd),
    });
    let mut vcpu = Vcpu { fd, run_size, buses, events, shared: shared.clone() };
    let (leave, ended) = channel();
    let thread = Builder::new()
        .name(format!("vcpu{index}"))
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let end = vcpu.run();
            vcpu.events.ended(index, end);
            // Whoever has the vCPU back must be the last to hold the devices, so that these are
            // dropped before the process ends: some have a file to remove.
            let Vcpu { fd, buses, .. } = vcpu;
            drop(buses);
            // Nobody waits for a vCPU that took too long to stop.
            let _ = leave.send(fd);
        })
        .map_err(|source| VcpuError::Thread { index, source })?;
    Ok(RunningVcpu { thread, ended, shared })
}

/// Lets [`SIGRTMIN`] interrupt KVM_RUN instead of ending the process.
fn catch_interrupts() -> Result<(), VcpuError> {
    static CAUGHT: Once = Once::new();
    let mut result = Ok(());
    CAUGHT.call_once(|| {
        // SAFETY: the handler does nothing, which is safe in any context.
        result = unsafe { signal_hook::low_level::register(SIGRTMIN(), || {}) }.map(drop);
    });
    result.map_err(VcpuError::Signal)
}

impl RunningVcpu {
    /// The latest exit, for explanations.
    pub fn last_exit(&self) -> &LastExit {
        &self.shared.last_exit
    }

    /// Asks the vCPU to look whether it sleeps for good; the answer is there soon after.
    pub fn probe_sleep(&self) {
        // An older answer must not count for a vCPU that was woken and is late with the next.
        self.shared.asleep_forever.store(false, Ordering::Release);
        self.interrupt();
    }

    /// Whether the vCPU, when last probed, was halted with interrupts disabled or was never
    /// started: no event of the guest's own wakes it.
    pub fn asleep_forever(&self) -> bool {
        self.shared.asleep_forever.load(Ordering::Acquire)
    }

    /// Asks the vCPU to stop.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.interrupt();
    }

    /// Waits until the vCPU has stopped and returns its descriptor; `None` when it has not by
    /// `deadline`, because the device it is at waits for a host that does not answer.
    pub fn wait(self, deadline: Instant) -> Option<VcpuFd> {
        self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// Makes the vCPU leave the guest, whether it is inside KVM_RUN or about to enter.
    fn interrupt(&self) {
        if self.thread.is_finished() {
            return;
        }
        // SAFETY: the vCPU is with its thread, or on the way to the receiver that `self` owns: it
        // exists.
        unsafe { set_immediate_exit(self.shared.immediate_exit, 1) };
        // Fails only when the thread has just ended.
        let _ = self.thread.kill(SIGRTMIN());
    }
}

struct Vcpu {
    fd: VcpuFd,
    run_size: usize,
    buses: Arc<Buses>,
    events: Arc<dyn VcpuEvents>,
    shared: Arc<Shared>,
}

impl Vcpu {
    fn run(&mut self) -> VcpuEnd {
        loop {
            if self.shared.stop.load(Ordering::SeqCst) || self.events.ending() {
                return VcpuEnd::Stopped;
            }
            if let Some(end) = self.run_once() {
                return end;
            }
        }
    }

    /// Runs the guest up to its next exit, and answers that.
    fn run_once(&mut self) -> Option<VcpuEnd> {
        let last = &self.shared.last_exit;
        match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => return self.port_access(),
            Ok(VcpuExit::MmioRead(addr, data)) => {
                last.mmio(addr);
                self.buses.mmio.read(addr, data);
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                last.mmio(addr);
                self.buses.mmio.write(addr, data);
            }
            Ok(VcpuExit::Hlt) => {
                last.other(KVM_EXIT_HLT);
                return Some(VcpuEnd::Halted);
            }
            Ok(VcpuExit::Shutdown) => {
                last.other(KVM_EXIT_SHUTDOWN);
                return Some(VcpuEnd::TripleFault);
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => return Some(self.system_event(kind)),
            Ok(VcpuExit::Intr) => {}
            Ok(_) => return Some(self.unexpected()),
            Err(e) => match Errno::from_raw_os_error(e.errno()) {
                Errno::INTR => self.interrupted(),
                Errno::AGAIN => {}
                // On Arm, of an instruction that the processor does not describe to KVM, such as one that
                // loads two registers.
                Errno::NOSYS => return Some(VcpuEnd::Kvm(UNDESCRIBED.to_owned())),
                error => return Some(VcpuEnd::Kvm(format!("KVM_RUN failed: {error}"))),
            },
        }
        None
    }

    /// Answers a port access, element by element: a string instruction makes many in one exit.
    fn port_access(&mut self) -> Option<VcpuEnd> {
        let Some(io) = port_io(&mut self.fd, self.run_size) else {
            return Some(self.unexpected());
        };
        self.shared.last_exit.port(io.port);
        for element in io.elements {
            if io.out {
                self.buses.pio.write(io.port.into(), element);
            } else {
                self.buses.pio.read(io.port.into(), element);
            }
        }
        None
    }

    /// Answers a call of the guest to its firmware (on Arm: PSCI).
    fn system_event(&mut self, kind: u32) -> VcpuEnd {
        self.shared.last_exit.other(KVM_EXIT_SYSTEM_EVENT);
        match kind {
            KVM_SYSTEM_EVENT_SHUTDOWN => VcpuEnd::Power(PowerEvent::PowerOff),
            KVM_SYSTEM_EVENT_RESET => VcpuEnd::Power(PowerEvent::Reset),
            other => VcpuEnd::Kvm(format!("unexpected system event {other}")),
        }
    }

    fn unexpected(&mut self) -> VcpuEnd {
        let run = self.fd.get_kvm_run();
        self.shared.last_exit.other(run.exit_reason);
        VcpuEnd::Kvm(describe(run))
    }

    /// Clears the interruption before the reasons for it are looked at, so that none is lost.
    fn interrupted(&mut self) {
        // SAFETY: `self` owns the vCPU that the byte came from.
        unsafe { set_immediate_exit(self.shared.immediate_exit, 0) };
        let asleep = arch::sleeps_forever(&self.fd);
        self.shared.asleep_forever.store(asleep, Ordering::Release);
    }
}
