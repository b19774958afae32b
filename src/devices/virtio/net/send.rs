//! From the guest to the host: frames are written straight from the guest's buffers.

use std::io::IoSlice;
use std::mem::take;

use tracing::debug;

use super::backend::Backend;
use super::filter::{COPIED, Filter};
use super::header::{self, HEADER_LEN};
use super::pair::Host;
use crate::devices::virtio::batch::Done;
use crate::devices::virtio::chain::{Chain, take_bytes, take_header};
use crate::devices::virtio::iovec::recycle;
use crate::devices::virtio::queue::QueueError;
use crate::memory::{GuestMemory, GuestRange, push_io_slices};

/// Sends the guest's frames.
#[derive(Default)]
pub(super) struct Sender {
    features: u64,
    frame: Vec<GuestRange>,
    /// The frame behind what was copied of it.
    rest: Vec<GuestRange>,
    list: Vec<IoSlice<'static>>,
}

impl Sender {
    /// Begins anew with a driver that negotiated `features`.
    pub(super) fn activate(&mut self, features: u64) {
        self.features = features;
    }

    /// Sends the frame in `chain`, or drops it when it cannot be meant, `host` refuses it or the
    /// host does not take it: a network may lose frames, and a guest must not be able to wait for
    /// the host.
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
            Some(header) => self.pass(mem, &header, host)?,
            None => host.counters.tx_dropped.inc(),
        }
        Ok(Done { used_len: 0, moved: frame_len })
    }

    fn pass(
        &mut self,
        mem: &GuestMemory,
        header: &[u8; HEADER_LEN],
        host: &mut Host,
    ) -> Result<(), QueueError> {
        let sent = match host.filter {
            None => write(&mut self.list, mem, [header, &[]], &self.frame, &mut *host.backend)?,
            Some(filter) => {
                let Some(sent) = self.filtered(mem, header, filter, host)? else { return Ok(()) };
                sent
            }
        };
        let counters = &host.counters;
        let count = if sent { &counters.tx_frames } else { &counters.tx_dropped };
        count.inc();
        Ok(())
    }

    /// Sends the copy that `filter` has checked, and what follows it; `None` when it was refused.
    fn filtered(
        &mut self,
        mem: &GuestMemory,
        header: &[u8; HEADER_LEN],
        filter: Filter,
        host: &mut Host,
    ) -> Result<Option<bool>, QueueError> {
        let mut copy = [0; COPIED];
        let len = take_bytes(mem, &self.frame, &mut copy, &mut self.rest);
        let start = copy.get(..len.map_err(QueueError::Memory)?).unwrap_or_default();
        if let Err(refusal) = filter.check(start, header::checksum_at(*header)) {
            host.refuse(refusal);
            return Ok(None);
        }
        let list = &mut self.list;
        write(list, mem, [header, start], &self.rest, &mut *host.backend).map(Some)
    }
}

/// Hands the backend a frame that begins with `copied`; tells whether it took it.
fn write(
    spare: &mut Vec<IoSlice<'static>>,
    mem: &GuestMemory,
    copied: [&[u8]; 2],
    rest: &[GuestRange],
    backend: &mut dyn Backend,
) -> Result<bool, QueueError> {
    let mut list = recycle(take(spare));
    list.extend(copied.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
    push_io_slices(mem, rest, &mut list).map_err(QueueError::Memory)?;
    let result = backend.send(&list);
    *spare = recycle(list);
    if let Err(e) = result {
        debug!("frame dropped: {e}");
    }
    Ok(result.is_ok())
}
