//! A driver in miniature: it lays out rings in guest memory, drives a device through its
//! registers, and counts the interrupts it hears. It breaks every rule when told to.

#![cfg_attr(fuzzing, allow(dead_code, reason = "targets use a part of it"))]
#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::device::{F_VERSION_1, Signal, VirtioDevice};
use super::mmio::{MmioTransport, QUEUE_NOTIFY, status};
use super::net::feature;
use super::queue::{Queue, QueueConfig, RingFeatures};
use super::rng::Rng;
use crate::bus::{BusDevice, Interrupt};
use crate::memory::GuestMemory;

/// Descriptor flags.
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

/// Guest memory has two regions with a hole between them.
pub(crate) const LOW_END: u64 = 0x20_0000;
pub(crate) const HIGH_START: u64 = 0x40_0000;
pub(crate) const HIGH_END: u64 = 0x60_0000;
/// Where tests put their buffers: nothing else lies from here to [`LOW_END`].
pub(crate) const DATA: u64 = 0x10_0000;

/// Register offsets.
pub(crate) mod reg {
    pub(crate) const DEVICE_FEATURES: u64 = 0x10;
    pub(crate) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(crate) const DRIVER_FEATURES: u64 = 0x20;
    pub(crate) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(crate) const QUEUE_SEL: u64 = 0x30;
    pub(crate) const QUEUE_NUM_MAX: u64 = 0x34;
    pub(crate) const QUEUE_NUM: u64 = 0x38;
    pub(crate) const QUEUE_READY: u64 = 0x44;
    pub(crate) const INTERRUPT_STATUS: u64 = 0x60;
    pub(crate) const INTERRUPT_ACK: u64 = 0x64;
    pub(crate) const STATUS: u64 = 0x70;
    pub(crate) const QUEUE_DESC: u64 = 0x80;
    pub(crate) const QUEUE_AVAIL: u64 = 0x90;
    pub(crate) const QUEUE_USED: u64 = 0xa0;
}

/// Copies the start of `bytes` into `parts`, as far as they reach; tells how much that was.
pub(crate) fn scatter(bytes: &[u8], parts: &mut [IoSliceMut<'_>]) -> usize {
    let mut rest = bytes;
    for part in parts {
        let (now, later) = rest.split_at(part.len().min(rest.len()));
        part[..now.len()].copy_from_slice(now);
        rest = later;
    }
    bytes.len() - rest.len()
}

/// An interrupt line that counts.
#[derive(Clone, Default)]
pub(crate) struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Interrupts since the last call.
    pub(crate) fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Interrupt for Counter {
    fn trigger(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A descriptor as the guest writes it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Desc {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Desc {
    pub(crate) fn bytes(self) -> [u8; 16] {
        let mut raw = [0; 16];
        raw[..8].copy_from_slice(&self.addr.to_le_bytes());
        raw[8..12].copy_from_slice(&self.len.to_le_bytes());
        raw[12..14].copy_from_slice(&self.flags.to_le_bytes());
        raw[14..].copy_from_slice(&self.next.to_le_bytes());
        raw
    }
}

/// Where the rings of a queue lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rings {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// The rings this driver gives queue `queue` unless told otherwise.
pub(crate) fn default_rings(queue: usize) -> Rings {
    let base = 0x1_0000 * (1 + u64::try_from(queue).unwrap());
    Rings { desc: base, avail: base + 0x4000, used: base + 0x8000 }
}

#[derive(Clone, Debug)]
struct Ring {
    rings: Rings,
    size: u16,
    next_desc: u16,
    avail_idx: u16,
    used_seen: u16,
    /// `avail_idx` when a kick was last considered.
    considered: u16,
}

/// The driver, with the transport and the guest memory it works on.
pub(crate) struct Driver {
    pub(crate) mem: GuestMemory,
    pub(crate) transport: MmioTransport,
    /// Features it negotiates at every start.
    pub(crate) always: u64,
    interrupts: Counter,
    queues: Vec<Ring>,
}

impl Driver {
    /// A machine with `device` in it, just powered on.
    pub(crate) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let mem = GuestMemory::from_ranges(&[
            (GuestAddress(0), usize::try_from(LOW_END).unwrap()),
            (GuestAddress(HIGH_START), usize::try_from(HIGH_END - HIGH_START).unwrap()),
        ])
        .unwrap();
        let interrupts = Counter::default();
        let queues = device.queue_sizes().iter().enumerate();
        let queues = queues
            .map(|(index, max)| Ring {
                rings: default_rings(index),
                size: 16.min(*max),
                next_desc: 0,
                avail_idx: 0,
                used_seen: 0,
                considered: 0,
            })
            .collect();
        // What queues there are depends on it (sections 5.1.2 and 5.5.2).
        let always = match device.device_type() {
            1 => device.features() & (feature::CTRL_VQ | feature::MQ),
            5 => device.features() & 0xff,
            _ => 0,
        };
        let signal = Signal::new(Box::new(interrupts.clone()));
        let transport = MmioTransport::new(device, mem.clone(), signal).unwrap();
        Self { mem, transport, always, interrupts, queues }
    }

    /// As [`Driver::new`], and started with `features` (VERSION_1 is added).
    pub(crate) fn started(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.start(features);
        driver
    }

    /// Resets the device and brings it to DRIVER_OK with fresh rings.
    pub(crate) fn start(&mut self, features: u64) {
        self.negotiate(features);
        for queue in 0..self.queues.len() {
            let ring = &mut self.queues[queue];
            (ring.next_desc, ring.avail_idx, ring.used_seen, ring.considered) = (0, 0, 0, 0);
            let (rings, size) = (ring.rings, ring.size);
            self.mem.write_slice(&[0; 0x1000], GuestAddress(rings.avail)).unwrap();
            self.mem.write_slice(&[0; 0x1000], GuestAddress(rings.used)).unwrap();
            self.set_up_queue(queue, rings, size);
        }
        self.set_status(status::DRIVER_OK);
        self.run();
    }

    /// Number of queues.
    pub(crate) fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// Puts all rings back where they belong, for the next start.
    pub(crate) fn reset_rings(&mut self) {
        for (index, ring) in self.queues.iter_mut().enumerate() {
            (ring.rings, ring.size) = (default_rings(index), 16);
        }
    }

    /// Gives all queues `size` entries at the next start.
    pub(crate) fn set_queue_size(&mut self, size: u16) {
        self.queues.iter_mut().for_each(|ring| ring.size = size);
    }

    /// Reset, and negotiation up to FEATURES_OK.
    pub(crate) fn negotiate(&mut self, features: u64) {
        self.write(reg::STATUS, 0);
        self.set_status(status::ACKNOWLEDGE);
        self.set_status(status::DRIVER);
        self.write_features(features | self.always | F_VERSION_1);
        self.set_status(status::FEATURES_OK);
    }

    pub(crate) fn write_features(&mut self, features: u64) {
        for (select, word) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.write(reg::DRIVER_FEATURES_SEL, select);
            self.write(reg::DRIVER_FEATURES, u32::try_from(word).unwrap());
        }
    }

    pub(crate) fn set_up_queue(&mut self, queue: usize, rings: Rings, size: u16) {
        self.write(reg::QUEUE_SEL, u32::try_from(queue).unwrap());
        self.write(reg::QUEUE_NUM, u32::from(size));
        for (offset, addr) in [
            (reg::QUEUE_DESC, rings.desc),
            (reg::QUEUE_AVAIL, rings.avail),
            (reg::QUEUE_USED, rings.used),
        ] {
            self.write(offset, u32::try_from(addr & 0xffff_ffff).unwrap());
            self.write(offset + 4, u32::try_from(addr >> 32).unwrap());
        }
        self.write(reg::QUEUE_READY, 1);
        self.queues[queue].rings = rings;
        self.queues[queue].size = size;
    }

    /// Hands out the transport; an idle one takes its place.
    pub(crate) fn take_transport(&mut self) -> MmioTransport {
        let signal = Signal::new(Box::new(self.interrupts.clone()));
        let idle = MmioTransport::new(Box::new(Rng::new()), self.mem.clone(), signal).unwrap();
        std::mem::replace(&mut self.transport, idle)
    }

    /// Puts back what [`Driver::take_transport`] gave.
    pub(crate) fn put_transport(&mut self, transport: MmioTransport) {
        self.transport = transport;
    }

    /// A live queue over the rings of `queue`, for a device without a transport.
    pub(crate) fn live_queue(&self, queue: usize) -> Queue {
        let ring = &self.queues[queue];
        let Rings { desc, avail, used } = ring.rings;
        let config = QueueConfig { size: ring.size, ready: true, desc, avail, used };
        Queue::new(256, config, RingFeatures::default(), &self.mem).unwrap()
    }

    pub(crate) fn read(&mut self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    pub(crate) fn status(&mut self) -> u32 {
        self.read(reg::STATUS)
    }

    /// Adds `bit` to the device status.
    pub(crate) fn set_status(&mut self, bit: u32) {
        let value = self.status() | bit;
        self.write(reg::STATUS, value);
    }

    pub(crate) fn needs_reset(&mut self) -> bool {
        self.status() & status::DEVICE_NEEDS_RESET != 0
    }

    /// All features the device offers.
    pub(crate) fn offered(&mut self) -> u64 {
        let mut word = |select| {
            self.write(reg::DEVICE_FEATURES_SEL, select);
            u64::from(self.read(reg::DEVICE_FEATURES))
        };
        word(0) | word(1) << 32
    }

    /// Writes a descriptor into the table of `queue`.
    pub(crate) fn put_desc(&self, queue: usize, index: u16, desc: Desc) {
        let at = self.queues[queue].rings.desc + u64::from(index) * 16;
        self.mem.write_slice(&desc.bytes(), GuestAddress(at)).unwrap();
    }

    /// Puts `head` into the next slot of the available ring and shows it.
    pub(crate) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.queues[queue];
        let slot = ring.rings.avail + 4 + u64::from(ring.avail_idx % ring.size) * 2;
        ring.avail_idx = ring.avail_idx.wrapping_add(1);
        self.mem.write_obj(head.to_le(), GuestAddress(slot)).unwrap();
        self.set_avail_idx(queue, self.queues[queue].avail_idx);
    }

    /// Writes `avail.idx`, whatever it should be.
    pub(crate) fn set_avail_idx(&self, queue: usize, idx: u16) {
        let at = GuestAddress(self.queues[queue].rings.avail + 2);
        self.mem.write_obj(idx.to_le(), at).unwrap();
    }

    /// Builds a chain from (address, length, flags) parts, and offers it. Descriptors are taken
    /// round the table, so that no more than its size may be outstanding.
    pub(crate) fn chain(&mut self, queue: usize, parts: &[(u64, u32, u16)]) -> u16 {
        let (head, size) = (self.queues[queue].next_desc, self.queues[queue].size);
        let mut index = head;
        for (position, (addr, len, flags)) in parts.iter().copied().enumerate() {
            let next = (index + 1) % size;
            let more = if position + 1 < parts.len() { NEXT } else { 0 };
            self.put_desc(queue, index, Desc { addr, len, flags: flags | more, next });
            index = next;
        }
        self.queues[queue].next_desc = index;
        self.offer(queue, head);
        head
    }

    /// The head that the next chain of `queue` will have.
    pub(crate) fn next_head(&self, queue: usize) -> u16 {
        self.queues[queue].next_desc
    }

    /// Kicks `queue` and lets the device work until it is idle.
    pub(crate) fn kick(&mut self, queue: usize) {
        self.write(QUEUE_NOTIFY, u32::try_from(queue).unwrap());
        self.run();
    }

    /// Kicks `queue` only if the device asked for it (section 2.7.10, with EVENT_IDX), as a driver
    /// does that has made everything available since its last call.
    pub(crate) fn kick_if_asked(&mut self, queue: usize) -> bool {
        let ring = &mut self.queues[queue];
        let at = ring.rings.used + 4 + u64::from(ring.size) * 8;
        let event: u16 = self.mem.read_obj(GuestAddress(at)).unwrap();
        let (old, new) = (ring.considered, ring.avail_idx);
        ring.considered = new;
        let asked = new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old);
        if asked {
            self.kick(queue);
        }
        asked
    }

    /// The event loop: delivers kicks until there are none.
    pub(crate) fn run(&mut self) {
        for _ in 0..100_000 {
            let kicked = |index: &usize| self.transport.kicks()[*index].read().is_ok();
            let Some(index) = (0..self.queues.len()).find(kicked) else { return };
            self.transport.process_queue(index);
        }
        panic!("the device never became idle");
    }

    /// Delivers readiness of backend descriptors until none is ready; tells how often.
    pub(crate) fn run_backend(&mut self) -> usize {
        let mut wanted = Vec::new();
        for rounds in 0..10_000 {
            self.transport.backend_fds(&mut wanted);
            let ready = wanted.iter().position(|backend| {
                // SAFETY: the device keeps the descriptor open while it lists it.
                #[expect(unsafe_code)]
                let fd = unsafe { BorrowedFd::borrow_raw(backend.fd) };
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, backend.readable);
                flags.set(PollFlags::OUT, backend.writable);
                let mut list = [PollFd::from_borrowed_fd(fd, flags)];
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                !flags.is_empty() && poll(&mut list, Some(&now)).unwrap() > 0
            });
            let Some(index) = ready else { return rounds };
            self.transport.process_backend(index);
            self.run();
        }
        panic!("a backend descriptor stays ready");
    }

    /// As [`Driver::run_backend`], where a device may write to what it waits for as often as it is
    /// asked to.
    pub(crate) fn writable_backend(&mut self) {
        self.transport.process_backend(0);
        self.run();
    }

    /// How many chains of `queue` the device holds.
    pub(crate) fn outstanding(&self, queue: usize) -> u16 {
        let ring = &self.queues[queue];
        ring.avail_idx.wrapping_sub(ring.used_seen)
    }

    /// The used elements (head, length) that came since the last call.
    pub(crate) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.queues[queue];
        let used = ring.rings.used;
        let idx: u16 = self.mem.read_obj(GuestAddress(used + 2)).unwrap();
        let mut elements = Vec::new();
        while ring.used_seen != idx {
            let at = used + 4 + u64::from(ring.used_seen % ring.size) * 8;
            let [head, len]: [u32; 2] = self.mem.read_obj(GuestAddress(at)).unwrap();
            elements.push((u16::try_from(head).unwrap(), len));
            ring.used_seen = ring.used_seen.wrapping_add(1);
        }
        elements
    }

    /// The device's index of each used ring.
    pub(crate) fn used_indices(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| self.peek_obj(queue.rings.used + 2)).collect()
    }

    /// Interrupts since the last call.
    pub(crate) fn interrupts(&self) -> usize {
        self.interrupts.take()
    }

    /// The interrupt line, to be listened to by another thread.
    pub(crate) fn line(&self) -> Counter {
        self.interrupts.clone()
    }

    pub(crate) fn poke(&self, addr: u64, bytes: &[u8]) {
        self.mem.write_slice(bytes, GuestAddress(addr)).unwrap();
    }

    pub(crate) fn peek(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
        bytes
    }

    pub(crate) fn peek_obj<T: ByteValued>(&self, addr: u64) -> T {
        self.mem.read_obj(GuestAddress(addr)).unwrap()
    }
}
