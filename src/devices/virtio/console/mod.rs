//! The virtio console device (virtio 1.3, section 5.3): a console, and named streams of bytes.

mod control;
mod endpoint;
mod port;
mod socket;
mod talk;
#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

pub use endpoint::{Endpoint, Terminal, Wish};
pub use socket::PortSocket;

use self::endpoint::Nowhere;
use self::port::{BUDGET, Lane, Port, Purpose, Scratch};
use self::talk::{message, obey, tell};
use super::batch::{Done, show};
use super::device::{
    Activation, BackendFd, Change, Progress, RING_FEATURES, UpdateError, VirtioDevice, Visible,
    read_config_bytes,
};
use super::queue::{Queue, QueueError};
use crate::metrics::{Counters, counters};

const DEVICE_TYPE: u32 = 3;
const QUEUE_SIZE: u16 = 64;
/// The queues of control messages, from the device and to it.
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;
/// The event that is about no port.
const RESIZED: u64 = u64::MAX;

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
    /// Everything the ports wait for, and `resized`.
    epoll: OwnedFd,
    /// The driver has to be told the size: by an event, which a broken device does not get.
    resized: OwnedFd,
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
        let (epoll, resized) =
            (epoll::create(CreateFlags::CLOEXEC)?, eventfd(0, EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &resized, EventData::new_u64(RESIZED), EventFlags::IN)?;
        let queues = if ports.len() > 1 { Role::receive_queue(ports.len()) } else { 2 };
        Ok(Self {
            ports,
            queue_sizes: vec![QUEUE_SIZE; queues],
            columns: 0,
            rows: 0,
            epoll,
            resized,
            active: None,
            scratch: Scratch::default(),
            counters,
        })
    }

    fn has_console(&self) -> bool {
        self.ports.first().is_some_and(|port| port.purpose == Purpose::Console)
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
        let (mem, throttles) = (&active.mem, &active.throttles);
        let result = work(port, Lane { queue, mem, throttles, scratch: &mut self.scratch });
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
        let lane = Lane { queue, mem: &active.mem, throttles: &active.throttles, scratch };
        let result = tell(ports, size, lane, counters);
        show(queue, &active.mem, &active.signal)?;
        result
    }

    /// After every event: who came and went, what the driver is told of it, and what to wait for.
    fn settle(&mut self) -> Result<(), QueueError> {
        for port in 0..self.ports.len() {
            if self.ports.get(port).is_some_and(Port::is_stranded) {
                self.transmit(port)?;
            }
        }
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

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }

    /// Several ports are offered only where there are: a driver of one port has its console at
    /// once, without an exchange of messages.
    fn features(&self) -> u64 {
        let size = if self.has_console() { feature::SIZE } else { 0 };
        let several = if self.ports.len() > 1 { feature::MULTIPORT } else { 0 };
        RING_FEATURES | size | several
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
        let Change::ConsoleSize { columns, rows } = *change else {
            return Err(UpdateError::Unsupported);
        };
        if !self.has_console() {
            return Err(UpdateError::Unsupported);
        }
        if (columns, rows) == (self.columns, self.rows) {
            return Ok(Visible::Nothing);
        }
        (self.columns, self.rows) = (columns, rows);
        if self.multiport() {
            self.ports.iter_mut().take(1).for_each(Port::resized);
            // The counter is full only when the device has been told anyhow.
            let _ = rustix::io::write(&self.resized, &1u64.to_ne_bytes());
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
            if event.data.u64() == RESIZED {
                let _ = rustix::io::read(&self.resized, &mut [0; 8]);
                continue;
            }
            let Ok(port) = usize::try_from(event.data.u64()) else { continue };
            self.ports.iter_mut().skip(port).take(1).for_each(Port::arrive);
            self.receive(port)?;
            if self.ports.get(port).is_some_and(Port::has_output) {
                self.transmit(port)?;
            }
        }
        self.settle()
    }
}
