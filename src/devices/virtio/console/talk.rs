//! The conversation with a driver of several ports: what it says, and what it is told.

use tracing::debug;

use super::ConsoleCounters;
use super::control::{Message, News, event};
use super::port::{BUDGET, Lane, Port, Purpose, Scratch};
use crate::devices::virtio::chain::{Chain, take_header};
use crate::devices::virtio::iovec::write_ranges;
use crate::devices::virtio::queue::QueueError;
use crate::memory::GuestMemory;

/// The control message in `chain`; `None` when it is not exactly as long as one.
pub(super) fn message(mem: &GuestMemory, chain: &Chain) -> Result<Option<Message>, QueueError> {
    if chain.writable_len() > 0 {
        return Err(QueueError::Device("control message is writable"));
    }
    let raw = take_header(mem, chain.readable(), &mut Vec::new()).map_err(QueueError::Memory)?;
    let whole = usize::try_from(chain.readable_len()) == Ok(Message::LEN);
    Ok(raw.filter(|_| whole).map(Message::parse))
}

/// Does what the driver says; false when that is nothing.
pub(super) fn obey(ports: &mut [Port], message: Message) -> bool {
    let Message { id, event, value } = message;
    let mut known =
        ports.iter_mut().enumerate().filter(|(_, port)| port.purpose != Purpose::Unused);
    let mut named = || known.find(|(index, _)| u32::try_from(*index) == Ok(id));
    match event {
        event::DEVICE_READY if value == 0 => debug!("the driver cannot use the console's ports"),
        event::DEVICE_READY => known.for_each(|(_, port)| port.untold.add(News::Added)),
        event::PORT_READY => match named() {
            Some((_, port)) => port.set_ready(value != 0),
            None => return false,
        },
        event::PORT_OPEN => match named() {
            Some((_, port)) => port.set_guest_open(value != 0),
            None => return false,
        },
        _ => return false,
    }
    true
}

/// Puts what the driver does not know into its buffers. One that is too small is returned empty;
/// a driver that gives many such gets no more of them back until its next kick.
pub(super) fn tell(
    ports: &mut [Port],
    size: [u8; 4],
    lane: Lane<'_>,
    counters: &ConsoleCounters,
) -> Result<(), QueueError> {
    let Lane { queue, mem, scratch: Scratch { chain, .. }, .. } = lane;
    for _ in 0..2 * BUDGET.chains {
        let untold = |(id, port): (u32, _)| -> Option<(u32, &mut Port, News)> {
            let port: &mut Port = port;
            let news = port.untold.first()?;
            Some((id, port, news))
        };
        let Some((id, port, news)) = (0..).zip(&mut *ports).find_map(untold) else { return Ok(()) };
        if !queue.pop(mem, chain)? {
            if queue.enable_kicks(mem)? {
                continue;
            }
            return Ok(());
        }
        if chain.readable_len() > 0 {
            return Err(QueueError::Device("control buffer is not writable"));
        }
        let bytes = port.message(id, news, size);
        let fits = usize::try_from(chain.writable_len()).is_ok_and(|room| room >= bytes.len());
        let mut len = 0;
        if fits {
            len = write_ranges(mem, chain.writable(), 0, &bytes).map_err(QueueError::Memory)?;
            port.untold.remove(news);
            counters.control_sent.inc();
        }
        queue.stage_used(mem, chain.head(), len)?;
    }
    Ok(())
}
