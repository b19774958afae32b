//! What the user types, on its way to the guest.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::event::{EventfdFlags, eventfd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::lock;

/// Bytes held between the user and the driver of the virtio console.
const HELD: usize = 512;

/// A device that takes what the user types.
pub trait InputSink: Send + Sync {
    /// How many bytes it takes now.
    fn room(&self) -> usize;

    /// Gives input to the guest; returns how many bytes were taken.
    fn give(&self, bytes: &[u8]) -> usize;

    /// Readable when there is room after there had not been enough.
    fn wanted(&self) -> Arc<EventFd>;
}

/// Input that the virtio console fetches when its driver has buffers for it.
pub struct ConsoleInput {
    bytes: Mutex<VecDeque<u8>>,
    arrived: OwnedFd,
    wanted: Arc<EventFd>,
}

impl ConsoleInput {
    /// Nothing typed yet.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Self> {
        let arrived = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let wanted = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        Ok(Self { bytes: Mutex::default(), arrived, wanted })
    }

    /// Moves the oldest input into `out`; returns its length.
    pub fn take(&self, out: &mut [u8]) -> usize {
        let mut held = lock(&self.bytes);
        let count = out.len().min(held.len());
        for (to, from) in out.iter_mut().zip(held.drain(..count)) {
            *to = from;
        }
        if count > 0 && held.is_empty() {
            let _ = rustix::io::read(&self.arrived, &mut [0; 8]);
            // The counter is full only when the event loop has been told anyhow.
            let _ = self.wanted.write(1);
        }
        count
    }
}

/// A descriptor that is readable while there is input.
impl AsFd for ConsoleInput {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrived.as_fd()
    }
}

impl InputSink for ConsoleInput {
    fn room(&self) -> usize {
        HELD.saturating_sub(lock(&self.bytes).len())
    }

    fn give(&self, bytes: &[u8]) -> usize {
        let mut held = lock(&self.bytes);
        let count = bytes.len().min(HELD.saturating_sub(held.len()));
        held.extend(bytes.iter().take(count));
        if count > 0 {
            // The counter is full only when the device has been told anyhow.
            let _ = rustix::io::write(&self.arrived, &1u64.to_ne_bytes());
        }
        count
    }

    fn wanted(&self) -> Arc<EventFd> {
        self.wanted.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S1: what a driver does not fetch is bounded, and room is announced.
    #[test]
    fn typed_input_is_bounded_and_fetched_in_order() {
        let input = ConsoleInput::new().unwrap();
        assert_eq!(input.take(&mut [0; 8]), 0);
        let flood: Vec<u8> = (0..=255).cycle().take(2 * HELD).collect();
        assert_eq!(input.give(&flood), HELD);
        assert_eq!((input.room(), input.give(b"x")), (0, 0));
        let mut fetched = [0; HELD];
        assert_eq!(input.take(&mut fetched[..HELD - 1]), HELD - 1);
        assert!(input.wanted().read().is_err(), "announced before everything was fetched");
        assert_eq!(input.take(&mut fetched[HELD - 1..]), 1);
        assert_eq!(fetched, flood[..HELD]);
        assert_eq!(input.wanted().read().unwrap(), 1);
        assert!(rustix::io::read(&input, &mut [0; 8]).is_err(), "readable though empty");
        assert_eq!(input.room(), HELD);
    }
}
