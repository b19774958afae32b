//! The address buses (port I/O and memory-mapped I/O): address -> device.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

/// What answers the reads and writes of an address range.
pub trait BusDevice: Send {
    /// Fills `data` from `offset`, counted from the start of the device's range.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data` written at `offset`, counted from the start of the device's range.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device as several vCPUs reach it at once: it does its own locking.
pub trait SharedDevice: Send + Sync {
    /// As [`BusDevice::read`].
    fn read(&self, offset: u64, data: &mut [u8]);
    /// As [`BusDevice::write`].
    fn write(&self, offset: u64, data: &[u8]);
}

impl<T: BusDevice> SharedDevice for Mutex<T> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        lock(self).read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        lock(self).write(offset, data);
    }
}

/// How a device is heard: an irqfd in life, a counter in tests.
pub trait Interrupt: Send + Sync {
    /// Raises the interrupt once (edge).
    fn trigger(&self);
}

/// Locks `mutex`. A panic aborts the process, so that no poisoned lock is ever seen in life.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that could not be placed on a bus.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty, wraps, or overlaps one that is taken.
    #[error("bus range {base:#x}+{len:#x} is empty, wraps or overlaps another device")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Length asked for, in bytes.
        len: u64,
    },
}

struct Entry {
    len: u64,
    device: Arc<dyn SharedDevice>,
}

/// A bus: filled while the machine is built, then shared read-only by the vCPUs.
///
/// An access that no device covers entirely reads all ones and writes nothing, as on a bus
/// without a responder.
///
/// Locking: a device's lock is held for one access; no second device is locked under it.
#[derive(Default)]
pub struct Bus {
    entries: BTreeMap<u64, Entry>,
}

impl Bus {
    /// Places `device` at `base..base + len`.
    ///
    /// # Errors
    /// [`BusError::Overlap`] when the range is empty, wraps or is taken.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn SharedDevice>,
    ) -> Result<(), BusError> {
        let taken = |end: u64| {
            self.entries.range(..end).next_back().is_some_and(|(start, e)| start + e.len > base)
        };
        match base.checked_add(len) {
            Some(end) if len > 0 && !taken(end) => {
                self.entries.insert(base, Entry { len, device });
                Ok(())
            }
            _ => Err(BusError::Overlap { base, len }),
        }
    }

    /// Reads `data.len()` bytes at `addr`.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Some((offset, device)) => device.read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes `data` at `addr`.
    pub fn write(&self, addr: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(addr, data.len()) {
            device.write(offset, data);
        }
    }

    fn find(&self, addr: u64, len: usize) -> Option<(u64, &dyn SharedDevice)> {
        let (base, entry) = self.entries.range(..=addr).next_back()?;
        let offset = addr - base;
        let end = offset.checked_add(u64::try_from(len).ok()?)?;
        (end <= entry.len).then_some((offset, entry.device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe {
        written: Vec<(u64, Vec<u8>)>,
    }

    impl BusDevice for Probe {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data.fill(offset.to_le_bytes()[0]);
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.written.push((offset, data.to_vec()));
        }
    }

    fn bus_with_probe() -> (Bus, Arc<Mutex<Probe>>) {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let mut bus = Bus::default();
        bus.insert(0x100, 0x10, probe.clone()).unwrap();
        (bus, probe)
    }

    #[test]
    fn access_inside_the_range_reaches_the_device_with_its_offset() {
        let (bus, probe) = bus_with_probe();
        let mut data = [0; 2];
        bus.read(0x104, &mut data);
        assert_eq!(data, [4, 4]);
        bus.write(0x10f, &[7]);
        assert_eq!(lock(&probe).written, vec![(0xf, vec![7])]);
    }

    #[test]
    fn unclaimed_and_straddling_accesses_read_all_ones_and_drop_writes() {
        let (bus, probe) = bus_with_probe();
        for addr in [0, 0xff, 0x10d, 0x110, u64::MAX] {
            let mut data = [0; 4];
            bus.read(addr, &mut data);
            assert_eq!(data, [0xff; 4], "at {addr:#x}");
            bus.write(addr, &data);
        }
        assert!(lock(&probe).written.is_empty());
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let (mut bus, probe) = bus_with_probe();
        for (base, len) in [(0x100, 1), (0xf8, 9), (0x10f, 1), (0x200, 0), (u64::MAX, 2)] {
            assert_eq!(bus.insert(base, len, probe.clone()), Err(BusError::Overlap { base, len }));
        }
        bus.insert(0xf0, 0x10, probe.clone()).unwrap();
        bus.insert(0x110, 0x10, probe).unwrap();
    }
}
