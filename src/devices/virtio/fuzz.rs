//! What a fuzzer drives: bytes are read as the deeds of a hostile guest, and of its host, on one
//! device behind its transport.
//!
//! Whatever they do, nothing panics or goes on for ever, and a driver that begins anew gets a
//! device that is ready.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by a panic"
)]

mod overlay;
mod sockets;

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use arbitrary::{Result, Unstructured};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::balloon::Balloon;
use super::block::{Block, Disk};
use super::chain::{Chain, ChainStart};
use super::device::{Change, VirtioDevice};
use super::mmio::QUEUE_NOTIFY;
use super::net::{Backend, Filter, Net};
use super::queue::{Queue, QueueConfig, RingFeatures};
use super::rng::Rng;
use super::testing::{DATA, Driver, HIGH_END, HIGH_START, INDIRECT, LOW_END, NEXT, WRITE, scatter};
use super::throttle::Direction;
use crate::bus::{BusDevice, lock};
use crate::config;
use crate::memory::{GuestMemory, GuestRange};
use crate::rate_limiter::Rate;

pub use overlay::overlay;
pub use sockets::{console, vsock};

/// Deeds of one input at most: what is longer shows nothing new.
const MAX_DEEDS: usize = 256;

/// What the host does to the device when it is its turn.
pub(super) type Host = Box<dyn FnMut(&mut Unstructured<'_>) -> Result<()>>;

/// The queue and the reader of chains, on rings of any contents.
pub fn queue(data: &[u8]) {
    let _ = rings(&mut Unstructured::new(data));
}

/// Registers, on the simplest device.
pub fn mmio(data: &[u8]) {
    attack(Box::new(Rng::new()), idle(), data);
}

/// The block device.
pub fn block(data: &[u8]) {
    let Ok(file) = memfd_create("disk", MemfdFlags::CLOEXEC) else { return };
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    if ftruncate(&file, 64 << 10).is_err() {
        return;
    }
    let readonly = data.first().is_some_and(|byte| byte & 1 == 1);
    if let Ok(disk) = Disk::open(Path::new(&path), readonly) {
        attack(Box::new(Block::new(disk, "fuzz")), idle(), data);
    }
}

/// The network device, with one pair of queues or two and with the filter or without: the host
/// sends frames of any form, and may take none.
pub fn net(data: &[u8]) {
    let kind = data.first().copied().unwrap_or(0);
    let Ok(event) = EventFd::new(EFD_NONBLOCK) else { return };
    let wire = Arc::new(Mutex::new(Wire { frames: VecDeque::new(), event, refuses: false }));
    let host = {
        let wire = wire.clone();
        Box::new(move |input: &mut Unstructured<'_>| {
            let mut wire = lock(&wire);
            wire.refuses = input.arbitrary()?;
            let len = input.int_in_range(0..=70_000)?;
            let mut frame = input.bytes(input.len().min(64))?.to_vec();
            frame.resize(len, 0x55);
            wire.frames.push_back(frame);
            let _ = wire.event.write(1);
            Ok(())
        })
    };
    let mac = [2, 0, 0, 0, 0, 1];
    let line = || -> Box<dyn Backend> { Box::new(OnWire(wire.clone())) };
    let lines = if kind & 1 == 0 { vec![line()] } else { vec![line(), line()] };
    let mut device = Net::with_queues(lines, mac, Some(1500));
    if kind & 2 == 0 {
        let (ipv4, ipv6) = (Some([10, 0, 0, 2].into()), None);
        device = device.with_filter(Filter { mac, ipv4, ipv6 });
    }
    attack(Box::new(device), host, data);
}

/// The balloon, with every queue it can have.
pub fn balloon(data: &[u8]) {
    let statistics = "1s".parse().ok();
    let config = config::Balloon { statistics, ..config::Balloon::default() };
    if let Ok(balloon) = Balloon::open(&config) {
        attack(Box::new(balloon), idle(), data);
    }
}

fn idle() -> Host {
    Box::new(|_| Ok(()))
}

/// A host network of frames in memory.
struct Wire {
    frames: VecDeque<Vec<u8>>,
    event: EventFd,
    refuses: bool,
}

struct OnWire(Arc<Mutex<Wire>>);

impl Backend for OnWire {
    fn fd(&self) -> RawFd {
        lock(&self.0).event.as_raw_fd()
    }

    fn features(&self) -> u64 {
        super::net::feature::TCP_OFFLOADS | super::net::feature::UDP_OFFLOADS
    }

    fn set_offloads(&mut self, _features: u64) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> std::result::Result<usize, Errno> {
        let mut wire = lock(&self.0);
        let Some(bytes) = wire.frames.pop_front() else {
            let _ = wire.event.read();
            return Err(Errno::AGAIN);
        };
        Ok(scatter(&bytes, frame))
    }

    fn send(&mut self, frame: &[IoSlice<'_>]) -> std::result::Result<(), Errno> {
        // Every byte is read, as a kernel would.
        let sum =
            frame.iter().flat_map(|part| part.iter()).fold(0u8, |sum, b| sum.wrapping_add(*b));
        match lock(&self.0).refuses {
            true if sum % 2 == 0 => Err(Errno::AGAIN),
            true => Err(Errno::IO),
            false => Ok(()),
        }
    }
}

/// Does to `device` what `data` says, then begins anew as a decent driver.
pub(super) fn attack(device: Box<dyn VirtioDevice>, mut host: Host, data: &[u8]) {
    let mut driver = Driver::new(device);
    let offered = driver.offered();
    driver.start(offered);
    let mut input = Unstructured::new(data);
    for _ in 0..MAX_DEEDS {
        if input.is_empty() || deed(&mut driver, &mut input, &mut host).is_err() {
            break;
        }
    }
    driver.reset_rings();
    driver.start(offered);
    assert!(!driver.needs_reset(), "a reset brings the device back");
}

fn deed(driver: &mut Driver, input: &mut Unstructured<'_>, host: &mut Host) -> Result<()> {
    let queue = input.choose_index(driver.queue_count())?;
    match input.int_in_range(0..=9)? {
        0 => driver.write(u64::from(input.int_in_range(0..=63u8)?) * 4, input.arbitrary()?),
        1 => {
            let (offset, len) = (input.int_in_range(0..=0x1ff)?, input.int_in_range(0..=9)?);
            let bytes = input.bytes(len)?;
            driver.transport.write(offset, bytes);
            driver.transport.read(offset, &mut bytes.to_vec());
        }
        2 | 3 => {
            let parts = chain(input)?;
            driver.chain(queue, &parts);
        }
        4 => driver.kick(queue),
        5 => scribble(driver, queue, input)?,
        6 => {
            let features = input.arbitrary::<u64>()? & driver.offered();
            driver.start(features);
        }
        7 => {
            let _ = driver.transport.update(&change(input)?);
        }
        8 => host(input)?,
        _ => driver.write(QUEUE_NOTIFY, input.arbitrary()?),
    }
    driver.run();
    driver.run_backend();
    Ok(())
}

/// The parts of a chain: mostly sound, with contents from the input in front.
fn chain(input: &mut Unstructured<'_>) -> Result<Vec<(u64, u32, u16)>> {
    let count = input.int_in_range(1..=6)?;
    let part = |input: &mut Unstructured<'_>| {
        let addr = address(input)?;
        let len = match input.int_in_range(0..=7)? {
            0 => input.arbitrary()?,
            1 => input.int_in_range(0..=0x2_0000)?,
            _ => *input.choose(&[1, 4, 12, 16, 44, 60, 512, 513, 4096])?,
        };
        let flags = *input.choose(&[0, 0, 0, WRITE, WRITE, WRITE, INDIRECT, NEXT | WRITE])?;
        Ok((addr, len, flags))
    };
    let mut parts = (0..count).map(|_| part(input)).collect::<Result<Vec<_>>>()?;
    if input.ratio(7, 8)? {
        // The order that is legal: what the device may write comes last.
        parts.sort_by_key(|(_, _, flags)| flags & WRITE);
    }
    Ok(parts)
}

fn address(input: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match input.int_in_range(0..=9)? {
        0 => input.arbitrary()?,
        1 => *input.choose(&[0, LOW_END - 1, LOW_END, HIGH_START, HIGH_END - 8, HIGH_END])?,
        // The rings themselves.
        2 => 0x1_0000 + u64::from(input.arbitrary::<u16>()?),
        _ => DATA + u64::from(input.int_in_range(0..=15u8)?) * 0x1000,
    })
}

/// Writes somewhere into memory: rings, descriptors or buffers.
fn scribble(driver: &Driver, queue: usize, input: &mut Unstructured<'_>) -> Result<()> {
    let at = match input.int_in_range(0..=3)? {
        0 => super::testing::default_rings(queue).avail + u64::from(input.arbitrary::<u8>()?),
        1 => super::testing::default_rings(queue).desc + u64::from(input.arbitrary::<u8>()?),
        _ => address(input)?,
    };
    let len = input.int_in_range(1..=64)?;
    let bytes = input.bytes(len.min(input.len()))?;
    // What lies outside of memory is the guest's own disappointment.
    let _ = driver.mem.write_slice(bytes, GuestAddress(at));
    Ok(())
}

fn change(input: &mut Unstructured<'_>) -> Result<Change> {
    let rate = |input: &mut Unstructured<'_>| -> Result<Option<Rate>> {
        // Fast enough for the end of the input not to be waited for.
        let per_second = NonZeroU64::new(input.int_in_range(1 << 40..=u64::MAX)?);
        let burst = NonZeroU64::new(input.arbitrary()?);
        Ok(per_second.zip(burst).map(|(per_second, burst)| Rate { per_second, burst }))
    };
    Ok(match input.int_in_range(0..=3)? {
        0 => Change::BalloonTarget(input.arbitrary()?),
        1 => Change::DiskSize,
        2 => Change::ConsoleSize { columns: input.arbitrary()?, rows: input.arbitrary()? },
        _ => Change::Limit {
            direction: *input.choose(&[Direction::Send, Direction::Receive])?,
            bytes: rate(input)?,
            operations: rate(input)?,
        },
    })
}

/// Takes and returns the chains of a queue in memory that the input wrote.
fn rings(input: &mut Unstructured<'_>) -> Result<()> {
    const MEMORY: u64 = 0x1_0000;
    let Ok(mem) = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]) else { return Ok(()) };
    let config = QueueConfig {
        size: *input.choose(&[1, 2, 4, 16, 64, 256, 3, 0, 32768])?,
        ready: true,
        desc: u64::from(input.arbitrary::<u16>()?) & !0xf,
        avail: u64::from(input.arbitrary::<u16>()?) & !0x1,
        used: u64::from(input.arbitrary::<u16>()?) & !0x3,
    };
    let features = RingFeatures { indirect: input.arbitrary()?, event_idx: input.arbitrary()? };
    let Ok(mut queue) = Queue::new(256, config, features, &mem) else { return Ok(()) };
    let mut chain = Chain::default();
    for _ in 0..MAX_DEEDS {
        let at = match input.int_in_range(0..=3)? {
            0 => config.desc + u64::from(input.arbitrary::<u8>()?),
            1 => config.avail + u64::from(input.int_in_range(0..=15u8)?),
            _ => u64::from(input.arbitrary::<u16>()?),
        };
        let len = input.int_in_range(1..=32)?;
        let _ = mem.write_slice(input.bytes(len)?, GuestAddress(at));
        while let Ok(true) = queue.pop(&mem, &mut chain) {
            assert!(chain.readable().len() + chain.writable().len() <= usize::from(queue.size()));
            let inside = |range: &GuestRange| range.addr.0 + u64::from(range.len) <= MEMORY;
            assert!(chain.readable().iter().chain(chain.writable()).all(inside));
            let total =
                |ranges: &[GuestRange]| ranges.iter().map(|r| u64::from(r.len)).sum::<u64>();
            assert_eq!(total(chain.readable()), u64::from(chain.readable_len()));
            assert_eq!(total(chain.writable()), u64::from(chain.writable_len()));
            if queue.push_used(&mem, chain.head(), chain.writable_len()).is_err() {
                return Ok(());
            }
        }
        let _ = (queue.needs_interrupt(&mem), queue.enable_kicks(&mem), queue.disable_kicks(&mem));
        let head = input.arbitrary()?;
        let table = GuestAddress(config.desc);
        let _ = chain.read(&mem, ChainStart { table, size: 256, head, indirect: true });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A target by the name of its corpus.
    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 8] = [
        ("queue", queue),
        ("mmio", mmio),
        ("block", block),
        ("net", net),
        ("balloon", balloon),
        ("vsock", vsock),
        ("console", console),
        ("overlay", overlay),
    ];

    #[test]
    fn corpus_of_every_target_is_survived() {
        for (name, target) in TARGETS {
            let inputs = crate::config::fuzz::corpus::read(name);
            assert!(!inputs.is_empty(), "{name}");
            inputs.iter().for_each(|input| target(input));
        }
    }

    proptest! {
        #[test]
        fn any_input_is_survived(data in prop::collection::vec(any::<u8>(), 0..1024)) {
            for (_, target) in TARGETS {
                target(&data);
            }
        }
    }
}
