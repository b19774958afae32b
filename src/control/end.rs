//! How a machine ends.

use std::fmt;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::lock;
use crate::devices::power::{PowerEvent, PowerSink};
use crate::kvm::{VcpuEnd, VcpuEvents};

/// Why a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered off.
    PowerOff,
    /// The guest asked for a reset: it rebooted, or restarted itself after a crash.
    Reset,
    /// The user left the console.
    UserQuit,
    /// The guest's kernel panicked.
    Panic,
    /// The guest's CPU shut down after a fault it could not handle.
    TripleFault,
    /// Every vCPU is halted with interrupts disabled.
    Halted,
    /// KVM could not go on with vCPU `index`.
    Kvm {
        /// Number of the vCPU.
        index: u8,
        /// What KVM reported.
        detail: String,
    },
    /// A signal asked the process to end.
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => write!(f, "the guest powered off"),
            Self::Reset => write!(f, "the guest reset"),
            Self::UserQuit => write!(f, "left by the user"),
            Self::Panic => write!(f, "the guest's kernel panicked"),
            Self::TripleFault => write!(f, "the guest's CPU shut down (triple fault)"),
            Self::Halted => write!(f, "the guest halted with interrupts disabled"),
            Self::Kvm { index, detail } => {
                write!(f, "KVM could not run vCPU {index}: {detail}")
            }
            Self::Signal(number) => write!(f, "ended by signal {number}"),
        }
    }
}

/// Where the reason for the end is kept: the first one counts.
pub struct Ending {
    end: Mutex<Option<End>>,
    ending: AtomicBool,
    wake: EventFd,
}

impl Ending {
    /// Nothing has ended yet.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { end: Mutex::new(None), ending: AtomicBool::new(false), wake })
    }

    /// Ends the machine for the reason `end`, unless it is ending already.
    pub fn set(&self, end: End) {
        lock(&self.end).get_or_insert(end);
        self.ending.store(true, Ordering::SeqCst);
        // The counter is full only when a wake is pending anyhow.
        let _ = self.wake.write(1);
    }

    /// The reason, once there is one.
    pub fn get(&self) -> Option<End> {
        self.ending.load(Ordering::SeqCst).then(|| lock(&self.end).clone()).flatten()
    }

    /// Readable once the machine is ending.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }
}

impl PowerSink for Ending {
    fn request(&self, event: PowerEvent) {
        self.set(match event {
            PowerEvent::PowerOff => End::PowerOff,
            PowerEvent::Reset => End::Reset,
            PowerEvent::Panic => End::Panic,
        });
    }
}

impl VcpuEvents for Ending {
    fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn ended(&self, index: u8, end: VcpuEnd) {
        match end {
            VcpuEnd::Stopped => {}
            VcpuEnd::TripleFault => self.set(End::TripleFault),
            VcpuEnd::Halted => self.set(End::Halted),
            VcpuEnd::Kvm(detail) => self.set(End::Kvm { index, detail }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_reason_counts() {
        let ending = Ending::new().unwrap();
        assert_eq!(ending.get(), None);
        assert!(!ending.ending());
        ending.ended(0, VcpuEnd::Stopped);
        assert_eq!(ending.get(), None);
        ending.request(PowerEvent::Reset);
        ending.ended(1, VcpuEnd::TripleFault);
        assert_eq!(ending.get(), Some(End::Reset));
        assert!(ending.ending());
        assert!(ending.wake().read().is_ok());
    }
}
