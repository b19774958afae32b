//! From the guest to the host: frames are written straight from the guest's buffers.

use std::io::IoSlice;
use std::mem::take;

use tracing::debug;

use super::header;
use super::{Backend, Host};
use crate::devices::virtio::batch::Done;
use crate::devices::virtio::chain::{Chain, take_header};
use crate::devices::virtio::iovec::recycle;
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, push_io_slices};

/// Sends the guest's frames.
#[derive(Default)]
pub(super) struct Sender {
    features: u64,
    frame: Vec<GuestRange>,
    list: Vec<IoSlice<'static>>,
}

impl Sender {
    /// Begins anew with a driver that negotiated `features`.
    pub(super) fn activate(&mut self, features: u64) {
        self.features = features;
    }

    /// Sends the frame in `chain`, or drops it when it cannot be meant or the host does not
    /// take it: a network may lose frames, and a guest must not be able to wait for the host.
    ///
    /// # Errors
    /// Guest memory that cannot be read, which a checked chain rules out.
    pub(super) fn send(
        &mut self,
        mem: &GuestMemory,
        chain: &Chain,
        host: &mut Host,
    ) -> Result<Done, QueueError> {
        let header = take_header(mem, chain.readable(), &mut self.frame);
        let header = header.map_err(QueueError::Memory)?;
        let frame_len = self.frame.iter().map(|part| u64::from(part.len)).sum::<u64>();
        let short = u32::try_from(frame_len).unwrap_or(u32::MAX);
        // The host gets this copy of the header, not one the guest can still change.
        match header.and_then(|raw| header::checked(raw, short, self.features)) {
            Some(header) if self.write(mem, &header, host.backend.as_mut())? => {
                host.counters.tx_frames.add(1);
            }
            _ => host.counters.tx_dropped.add(1),
        }
        Ok(Done { used_len: 0, moved: frame_len })
    }

    fn write(
        &mut self,
        mem: &GuestMemory,
        header: &[u8],
        backend: &mut dyn Backend,
    ) -> Result<bool, QueueError> {
        let mut list = recycle(take(&mut self.list));
        list.push(IoSlice::new(header));
        push_io_slices(mem, &self.frame, &mut list).map_err(QueueError::Memory)?;
        let result = backend.send(&list);
        self.list = recycle(list);
        if let Err(e) = result {
            debug!("frame dropped: {e}");
        }
        Ok(result.is_ok())
    }
}
