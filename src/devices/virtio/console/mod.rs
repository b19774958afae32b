//! The virtio console device (virtio 1.3, section 5.3): a console, and named streams of bytes.

mod control;
mod endpoint;
mod port;
mod socket;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tracing::debug;

pub use endpoint::{Endpoint, Terminal, Wish};
pub use socket::{PortSocket, SocketError};

use self::control::{Message, News, event};
use self::endpoint::Nowhere;
use self::port::{BUDGET, Lane, Port, Purpose, Scratch};
use super::batch::{Done, show};
use super::chain::{Chain, take_header};
use super::device::{
    Activation, BackendFd, Change, Progress, RING_FEATURES, UpdateError, VirtioDevice, Visible,
    read_config_bytes,
};
use super::iovec::write_ranges;
use super::queue::{Queue, QueueError};
use crate::memory::GuestMemory;
use crate::metrics::{Counters, counters};

const DEVICE_TYPE: u32 = 3;
const QUEUE_SIZE: u16 = 64;
/// The queues of control messages, from the device and to it.
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

/// Feature bits of a console device (section 5.3.3).
pub mod feature {
    /// The device tells how large the console is.
    pub const SIZE: u64 = 1 << 0;
    /// There are several ports, and messages about them.
    pub const MULTIPORT: u64 = 1 << 1;
}

counters! {
    /// What a console device has done.
    pub struct ConsoleCounters {
        /// Bytes delivered to the guest.
        rx_bytes,
        /// Bytes of the guest that were taken.
        tx_bytes,
        /// Bytes of the guest on a port where nobody was.
        tx_dropped,
        /// Control messages delivered to the guest.
        control_sent,
        /// Control messages of the guest that were obeyed.
        control_received,
        /// Control messages of the guest that were of a wrong length, unknown, or about no port.
        control_ignored,
    }
}

/// What a queue is for (section 5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Role {
    fn of(queue: usize) -> Self {
        let port = (queue / 2).saturating_sub(1);
        match queue {
            CONTROL_RX => Self::ControlReceive,
            CONTROL_TX => Self::ControlTransmit,
            _ if queue.is_multiple_of(2) => Self::Receive(port),
            _ => Self::Transmit(port),
        }
    }

    /// The receive queue of `port`; its transmit queue follows.
    fn receive_queue(port: usize) -> usize {
        if port == 0 { 0 } else { 2 * port + 2 }
    }
}

/// A console device: port 0 is the console, the others have names.
pub struct Console {
    ports: Vec<Port>,
    queue_sizes: Vec<u16>,
    columns: u16,
    rows: u16,
    /// Everything the ports wait for.
    epoll: OwnedFd,
    active: Option<Activation>,
    scratch: Scratch,
    counters: Arc<ConsoleCounters>,
}

impl Console {
    /// A device whose console, where it has one, leads to `console`, and with a port for each name
    /// in `named`.
    ///
    /// # Errors
    /// No epoll instance could be made.
    pub fn new(
        console: Option<Box<dyn Endpoint>>,
        named: impl IntoIterator<Item = (String, Box<dyn Endpoint>)>,
    ) -> io::Result<Self> {
        let counters: Arc<ConsoleCounters> = Arc::default();
        let unused = || -> (Purpose, Box<dyn Endpoint>) { (Purpose::Unused, Box::new(Nowhere)) };
        let first = console.map_or_else(unused, |endpoint| (Purpose::Console, endpoint));
        let others = named.into_iter().map(|(name, endpoint)| (Purpose::Named(name), endpoint));
        let ports: Vec<Port> = [first]
            .into_iter()
            .chain(others)
            .map(|(purpose, endpoint)| Port::new(purpose, endpoint, counters.clone()))
            .collect();
        let queues = if ports.len() > 1 { Role::receive_queue(ports.len()) } else { 2 };
        Ok(Self {
            ports,
            queue_sizes: vec![QUEUE_SIZE; queues],
            columns: 0,
            rows: 0,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            active: None,
            scratch: Scratch::default(),
            counters,
        })
    }

    fn multiport(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.features & feature::MULTIPORT != 0)
    }

    /// The size as the configuration space and RESIZE have it: columns, then rows.
    fn size(&self) -> [u8; 4] {
        let ([c0, c1], [r0, r1]) = (self.columns.to_le_bytes(), self.rows.to_le_bytes());
        [c0, c1, r0, r1]
    }

    #[cfg(test)]
    fn open_everything(&mut self) {
        self.ports.iter_mut().for_each(|port| {
            port.set_ready(true);
            port.set_guest_open(true);
        });
    }

    /// Does `work` with a port and one of its queues, and shows the driver what came of it.
    fn with_queue<T>(
        &mut self,
        port: usize,
        queue: usize,
        work: impl FnOnce(&mut Port, Lane<'_>) -> Result<T, QueueError>,
    ) -> Result<Option<T>, QueueError> {
        let (Some(active), Some(port)) = (&mut self.active, self.ports.get_mut(port)) else {
            return Ok(None);
        };
        let Some(queue) = active.queues.get_mut(queue) else { return Ok(None) };
        let mem = &active.mem;
        let result = work(port, Lane { queue, mem, scratch: &mut self.scratch });
        show(queue, mem, &active.signal)?;
        result.map(Some)
    }

    fn receive(&mut self, port: usize) -> Result<(), QueueError> {
        self.with_queue(port, Role::receive_queue(port), Port::receive).map(drop)
    }

    fn transmit(&mut self, port: usize) -> Result<Progress, QueueError> {
        let progress = self.with_queue(port, Role::receive_queue(port) + 1, Port::transmit)?;
        Ok(progress.unwrap_or(Progress::Idle))
    }

    /// Obeys the driver's control messages.
    fn listen(&mut self) -> Result<Progress, QueueError> {
        let Self { active: Some(active), ports, counters, scratch, .. } = self else {
            return Ok(Progress::Idle);
        };
        active.drain(CONTROL_TX, BUDGET, &mut scratch.chain, |mem, chain| {
            match message(mem, chain)? {
                Some(message) if obey(ports, message) => counters.control_received.inc(),
                _ => counters.control_ignored.inc(),
            }
            Ok(Done { used_len: 0, moved: chain.readable_len().into() })
        })
    }

    /// Tells the driver what it does not know yet, as far as it gives buffers.
    fn tell(&mut self) -> Result<(), QueueError> {
        let size = self.size();
        let Self { active: Some(active), ports, counters, scratch, .. } = self else {
            return Ok(());
        };
        let Some(queue) = active.queues.get_mut(CONTROL_RX) else { return Ok(()) };
        let lane = Lane { queue, mem: &active.mem, scratch };
        let result = tell(ports, size, lane, counters);
        show(queue, &active.mem, &active.signal)?;
        result
    }

    /// After every event: who came and went, what the driver is told of it, and what to wait for.
    fn settle(&mut self) -> Result<(), QueueError> {
        self.ports.iter_mut().for_each(Port::notice_host);
        if self.multiport() {
            self.tell()?;
        }
        for (index, port) in (0..).zip(&mut self.ports) {
            port.watch(self.epoll.as_fd(), index);
        }
        Ok(())
    }
}

/// The control message in `chain`; `None` when it is not exactly as long as one.
fn message(mem: &GuestMemory, chain: &Chain) -> Result<Option<Message>, QueueError> {
    if chain.writable_len() > 0 {
        return Err(QueueError::Device("control message is writable"));
    }
    let raw = take_header(mem, chain.readable(), &mut Vec::new()).map_err(QueueError::Memory)?;
    let whole = usize::try_from(chain.readable_len()) == Ok(Message::LEN);
    Ok(raw.filter(|_| whole).map(Message::parse))
}

/// Does what the driver says; false when that is nothing.
fn obey(ports: &mut [Port], message: Message) -> bool {
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
fn tell(
    ports: &mut [Port],
    size: [u8; 4],
    lane: Lane<'_>,
    counters: &ConsoleCounters,
) -> Result<(), QueueError> {
    let Lane { queue, mem, scratch: Scratch { chain, .. } } = lane;
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

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    /// Several ports are offered only where there are: a driver of one port has its console at
    /// once, without an exchange of messages.
    fn features(&self) -> u64 {
        let several = if self.ports.len() > 1 { feature::MULTIPORT } else { 0 };
        RING_FEATURES | feature::SIZE | several
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    /// `struct virtio_console_config` (section 5.3.4): cols, rows, max_nr_ports, emerg_wr.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX).to_le_bytes();
        let ([s0, s1, s2, s3], [p0, p1, p2, p3]) = (self.size(), ports);
        read_config_bytes(&[s0, s1, s2, s3, p0, p1, p2, p3, 0, 0, 0, 0], offset, data);
    }

    fn update(&mut self, change: &Change) -> Result<Visible, UpdateError> {
        let has_console = self.ports.first().is_some_and(|port| port.purpose == Purpose::Console);
        let Change::ConsoleSize { columns, rows } = *change else {
            return Err(UpdateError::Unsupported);
        };
        if !has_console {
            return Err(UpdateError::Unsupported);
        }
        if (columns, rows) == (self.columns, self.rows) {
            return Ok(Visible::Nothing);
        }
        (self.columns, self.rows) = (columns, rows);
        if self.multiport() {
            self.ports.iter_mut().take(1).for_each(Port::resized);
            if let Err(e) = self.settle() {
                // The next kick meets the same ring, and has the device reset.
                debug!("the driver cannot be told the size of the console: {e}");
            }
        }
        Ok(Visible::Config)
    }

    fn activate(&mut self, activation: Activation) {
        self.active = Some(activation);
        self.ports.iter_mut().for_each(Port::activate);
        if !self.multiport() {
            // The only port is a console from the start (section 5.3.5).
            self.ports.iter_mut().take(1).for_each(|port| port.set_ready(true));
        }
    }

    fn deactivate(&mut self) -> Option<Vec<Queue>> {
        self.ports.iter_mut().for_each(Port::deactivate);
        self.active.take().map(|active| active.queues)
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        Some(self.counters.clone())
    }

    fn process_queue(&mut self, index: usize) -> Result<Progress, QueueError> {
        // Without MULTIPORT there are two queues (section 5.3.2).
        if index >= CONTROL_RX && !self.multiport() {
            return Ok(Progress::Idle);
        }
        let progress = match Role::of(index) {
            Role::Receive(port) => {
                self.ports.iter_mut().skip(port).take(1).for_each(Port::feed);
                self.receive(port)?;
                Progress::Idle
            }
            Role::Transmit(port) => self.transmit(port)?,
            Role::ControlReceive => Progress::Idle,
            Role::ControlTransmit => self.listen()?,
        };
        self.settle()?;
        Ok(progress)
    }

    fn backend_fds(&self, wanted: &mut Vec<BackendFd>) {
        wanted.push(BackendFd { fd: self.epoll.as_raw_fd(), readable: true, writable: false });
    }

    fn process_backend(&mut self, _index: usize) -> Result<(), QueueError> {
        let none = epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        let mut ready = [none; 32];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // What is not read of it now is still ready afterwards.
        let count = epoll::wait(&self.epoll, &mut ready, Some(&now)).unwrap_or(0);
        for event in ready.iter().take(count) {
            let Ok(port) = usize::try_from(event.data.u64()) else { continue };
            self.ports.iter_mut().skip(port).take(1).for_each(Port::arrive);
            self.receive(port)?;
            if self.ports.get(port).is_some_and(Port::has_output) {
                // Also where the reader has just left: nobody else gets what was meant for it.
                self.transmit(port)?;
            }
        }
        self.settle()
    }
}
