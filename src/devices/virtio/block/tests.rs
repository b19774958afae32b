mod io_uring;
mod sync;

use super::*;
use crate::devices::virtio::{Change, UpdateError, Visible};

/// A disk whose requests are done when `process_queue` returns, whatever its engine.
pub(crate) struct Patient(pub(crate) Block);

impl VirtioDevice for Patient {
    fn device_type(&self) -> u32 {
        self.0.device_type()
    }
    fn features(&self) -> u64 {
        self.0.features()
    }
    fn queue_sizes(&self) -> &[u16] {
        self.0.queue_sizes()
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.0.read_config(offset, data);
    }
    fn update(&mut self, change: &Change) -> Result<Visible, UpdateError> {
        self.0.update(change)
    }
    fn activate(&mut self, activation: Activation) {
        self.0.activate(activation);
    }
    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        self.0.deactivate()
    }
    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        let progress = self.0.process_queue(index);
        while self.0.pending.as_ref().is_some_and(|pending| !pending.is_idle()) {
            self.0.process_backend(0)?;
        }
        progress
    }
}
