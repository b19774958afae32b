//! stub
use super::queue::{Queue, QueueError};
use super::*;
#[derive(Debug, thiserror::Error)]
#[error("x")]
/// x
pub struct REr;
/// x
pub struct DD;
impl DD {
    /// x
    pub fn open(_p: &std::path::Path, _r: bool) -> Result<DD, REr> {
        Ok(DD)
    }
}
/// x
#[derive(Default)]
pub struct Rng;
impl Rng {
    /// x
    pub fn new(_d: DD, _i: &str) -> Rng {
        Rng
    }
}
impl VirtioDevice for Rng {
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
