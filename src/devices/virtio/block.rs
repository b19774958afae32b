//! stub
use super::queue::{Queue, QueueError};
use super::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
/// x
pub struct DiskError;
/// x
pub struct Disk;
impl Disk {
    /// x
    pub fn open(_p: &std::path::Path, _r: bool) -> Result<Disk, DiskError> {
        Ok(Disk)
    }
}
/// x
pub struct Block;
impl Block {
    /// x
    pub fn new(_d: Disk, _i: &str) -> Block {
        Block
    }
}
impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        2
    }
    fn features(&self) -> u64 {
        super::device::RING_FEATURES
    }
    fn queue_sizes(&self) -> &[u16] {
        &[256]
    }
    fn read_config(&self, _: u64, data: &mut [u8]) {
        data.fill(0)
    }
    fn activate(&mut self, _: Activation) {}
    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        None
    }
    fn process_queue(&mut self, _: usize) -> Result<Progress, QueueError> {
        Ok(Progress::Idle)
    }
}
