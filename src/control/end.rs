//! How a machine ends.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::lock;
use crate::devices::power::{PowerEvent, PowerSink};
use crate::kvm::{VcpuEnd, VcpuEvents};

/// How long a kernel that says it panicked may still run. Linux says so before it has printed what was waiting
/// for its console, and then resets the machine.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
///
/// A panic is a reason like any other, with one difference: the machine goes on until the guest has ended in
/// another way too, or until its time for that is over.
pub struct Ending {
    end: Mutex<Option<End>>,
    ending: AtomicBool,
    /// When a kernel that has panicked has had its time.
    silenced: OnceLock<Instant>,
    wake: EventFd,
}

impl Ending {
    /// Nothing has ended yet.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self {
            end: Mutex::new(None),
            ending: AtomicBool::new(false),
            silenced: OnceLock::new(),
            wake,
        })
    }

    /// Ends the machine for the reason `end`, unless it is ending already.
    pub fn set(&self, end: End) {
        lock(&self.end).get_or_insert(end);
        self.ending.store(true, Ordering::SeqCst);
        self.wake_up();
    }

    /// The guest's kernel says that it panicked. Saying so again does not give it more time.
    fn panicked(&self) {
        lock(&self.end).get_or_insert(End::Panic);
        if self.silenced.set(Instant::now() + LAST_WORDS).is_ok() {
            self.wake_up();
        }
    }

    fn wake_up(&self) {
        // The counter is full only when a wake is pending anyhow.
        let _ = self.wake.write(1);
    }

    /// How long a kernel that has panicked may still run; `None` while none has.
    pub fn last_words(&self) -> Option<Duration> {
        self.silenced.get().map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// The reason, once there is one and the machine is to end.
    pub fn get(&self) -> Option<End> {
        if self.last_words().is_some_and(|left| left.is_zero()) {
            self.ending.store(true, Ordering::SeqCst);
        }
        self.ending.load(Ordering::SeqCst).then(|| lock(&self.end).clone()).flatten()
    }

    /// Readable once the machine is ending, and once its kernel has panicked.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }
}

impl PowerSink for Ending {
    fn request(&self, event: PowerEvent) {
        match event {
            PowerEvent::PowerOff => self.set(End::PowerOff),
            PowerEvent::Reset => self.set(End::Reset),
            PowerEvent::Panic => self.panicked(),
        }
    }
}

impl VcpuEvents for Ending {
    fn ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn ended(&self, index: u8, end: VcpuEnd) {
        match end {
            VcpuEnd::Stopped => {}
            VcpuEnd::Power(event) => self.request(event),
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

    #[test]
    fn panic_ends_the_machine_when_the_guest_resets_and_stays_the_reason() {
        let ending = Ending::new().unwrap();
        ending.request(PowerEvent::Panic);
        assert!(ending.wake().read().is_ok(), "the owner was not told");
        assert_eq!((ending.get(), ending.ending()), (None, false));
        ending.request(PowerEvent::Reset);
        assert_eq!((ending.get(), ending.ending()), (Some(End::Panic), true));
        assert!(ending.wake().read().is_ok(), "the owner was not told of the end");
    }

    #[test]
    fn panic_ends_the_machine_when_its_time_is_over_however_often_it_is_told() {
        let ending = Ending::new().unwrap();
        let began = Instant::now();
        ending.request(PowerEvent::Panic);
        while ending.get().is_none() {
            ending.request(PowerEvent::Panic);
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(began.elapsed() >= LAST_WORDS);
        assert!(began.elapsed() < 5 * LAST_WORDS, "{:?}", began.elapsed());
        assert_eq!((ending.get(), ending.ending()), (Some(End::Panic), true));
        ending.wake().read().unwrap();
        assert!(ending.wake().read().is_err(), "a wake for every word");
    }

    #[test]
    fn panic_of_a_machine_that_is_ending_changes_nothing() {
        let ending = Ending::new().unwrap();
        ending.set(End::Signal(15));
        ending.request(PowerEvent::Panic);
        assert_eq!(ending.get(), Some(End::Signal(15)));
    }
}
