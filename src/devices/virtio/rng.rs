//! The virtio entropy device (virtio 1.3, section 5.4).

use rustix::rand::{GetRandomFlags, getrandom};

use super::batch::{Budget, Done};
use super::chain::Chain;
use super::device::{Activation, Progress, RING_FEATURES, VirtioDevice};
use super::iovec::write_ranges;
use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;

const DEVICE_TYPE: u32 = 4;
const QUEUE_SIZES: [u16; 1] = [64];
/// Most bytes a request gets; a driver that wants more asks again.
const MAX_LEN: u32 = 64 << 10;
const BUDGET: Budget = Budget { chains: 64, bytes: 256 << 10 };

/// An entropy device fed by the host kernel's generator.
#[derive(Default)]
pub struct Rng {
    active: Option<Activation>,
    chain: Chain,
}

impl Rng {
    /// An entropy device.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    fn features(&self) -> u64 {
        RING_FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    /// The device has no configuration (section 5.4.4).
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        self.active.take().map(|active| active.queues)
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Progress::Idle) };
        active.drain(index, BUDGET, &mut self.chain, fill)
    }
}

/// Fills the buffer in `chain` with random bytes. Section 5.4.6.1: all of it is device-writable.
fn fill(mem: &GuestMemory, chain: &Chain) -> Result<Done, QueueError> {
    if chain.readable_len() > 0 || chain.writable_len() == 0 {
        return Err(QueueError::Device("entropy buffer is not writable"));
    }
    let wanted = chain.writable_len().min(MAX_LEN);
    let mut filled = 0;
    let mut bytes = [0; 4096];
    while filled < wanted {
        let len = bytes.len().min(usize::try_from(wanted - filled).unwrap_or(0));
        let part = bytes.get_mut(..len).unwrap_or_default();
        let got = getrandom(&mut *part, GetRandomFlags::empty());
        let got = got.map_err(|_| QueueError::Device("the host gives no entropy"))?;
        let part = part.get(..got).unwrap_or_default();
        filled += write_ranges(mem, chain.writable(), filled, part).map_err(QueueError::Memory)?;
    }
    Ok(Done { used_len: filled, moved: filled.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::testing::{DATA, Driver, HIGH_START, WRITE};

    fn driver() -> Driver {
        Driver::started(Box::new(Rng::new()), 0)
    }

    #[test]
    fn request_fills_the_buffer_with_differing_bytes_and_no_more() {
        let mut driver = driver();
        let head = driver.chain(0, &[(DATA, 100, WRITE), (HIGH_START, 5000, WRITE)]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(head, 5100)]);
        let seen = [driver.peek(DATA, 100), driver.peek(HIGH_START, 5000)].concat();
        // 100 zero bytes in a row would be a miracle.
        assert!(seen.chunks(100).all(|part| part.iter().any(|b| *b != 0)));
        assert_eq!(driver.peek(DATA + 100, 100), [0; 100]);
        assert_eq!(driver.peek(HIGH_START + 5000, 100), [0; 100]);
        driver.chain(0, &[(DATA, 100, WRITE)]);
        driver.kick(0);
        assert_ne!(driver.peek(DATA, 100), seen[..100]);
    }

    /// S5.
    #[test]
    fn request_of_overlapping_gibibytes_gets_64_kib() {
        let mut driver = driver();
        driver.set_queue_size(64);
        driver.start(0);
        let head = driver.chain(0, &[(HIGH_START, 1 << 20, WRITE); 64]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(head, 64 << 10)]);
        assert_eq!(driver.peek(HIGH_START + (64 << 10), 4096), [0; 4096]);
    }

    #[test]
    fn buffer_that_is_not_writable_breaks_the_device_until_reset() {
        for parts in [&[(DATA, 64, 0)][..], &[(DATA, 64, 0), (DATA, 64, WRITE)]] {
            let mut driver = driver();
            driver.chain(0, parts);
            driver.kick(0);
            assert!(driver.needs_reset());
            assert_eq!(driver.peek(DATA, 64), [0; 64]);
            driver.start(0);
            driver.chain(0, &[(DATA, 64, WRITE)]);
            driver.kick(0);
            assert_eq!(driver.used(0).len(), 1);
        }
    }
}
