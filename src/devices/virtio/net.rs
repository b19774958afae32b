//! stub
use super::queue::{Queue, QueueError};
use super::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
/// x
pub struct TapError;
/// x
pub struct Tap;
impl Tap {
    /// x
    pub fn open(_n: &str) -> Result<Tap, TapError> {
        Ok(Tap)
    }
}
/// x
pub struct Net;
impl Net {
    /// x
    pub fn new(_d: Tap, _i: [u8; 6], _m: Option<u16>) -> Result<Net, TapError> {
        Ok(Net)
    }
}
impl VirtioDevice for Net {
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
