//! A virtio-mmio driver in script form (virtio 1.3, sections 3.1.1 and 4.2).

use super::machine::WINDOWS;
use super::ring::{Contents, Ring};
use super::script::{Script, Slot, Width};

/// How far apart the windows of devices are.
pub const WINDOW: u64 = 0x1000;

pub const ACKNOWLEDGE: u64 = 1;
pub const DRIVER: u64 = 2;
pub const DRIVER_OK: u64 = 4;
pub const FEATURES_OK: u64 = 8;
pub const NEEDS_RESET: u64 = 64;
pub const FAILED: u64 = 128;
/// The status of a device at work.
pub const RUNNING: u64 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

pub const F_VERSION_1: u64 = 1 << 32;
pub const F_INDIRECT: u64 = 1 << 28;
pub const F_EVENT_IDX: u64 = 1 << 29;

/// Bits of InterruptStatus.
pub const USED_BUFFER: u64 = 1;
pub const CONFIG_CHANGE: u64 = 2;

/// Registers.
pub mod reg {
    pub const MAGIC: u64 = 0x00;
    pub const VERSION: u64 = 0x04;
    pub const DEVICE_ID: u64 = 0x08;
    pub const VENDOR: u64 = 0x0c;
    pub const DEVICE_FEATURES: u64 = 0x10;
    pub const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub const DRIVER_FEATURES: u64 = 0x20;
    pub const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub const QUEUE_SEL: u64 = 0x30;
    pub const QUEUE_NUM_MAX: u64 = 0x34;
    pub const QUEUE_NUM: u64 = 0x38;
    pub const QUEUE_READY: u64 = 0x44;
    pub const QUEUE_NOTIFY: u64 = 0x50;
    pub const INTERRUPT_STATUS: u64 = 0x60;
    pub const INTERRUPT_ACK: u64 = 0x64;
    pub const STATUS: u64 = 0x70;
    pub const QUEUE_DESC: u64 = 0x80;
    pub const QUEUE_AVAIL: u64 = 0x90;
    pub const QUEUE_USED: u64 = 0xa0;
    pub const CONFIG_GENERATION: u64 = 0xfc;
    pub const CONFIG: u64 = 0x100;
}

/// The registers of a device.
#[derive(Clone, Copy, Debug)]
pub struct Device(u64);

impl Device {
    /// The device at position `index` on the machine.
    pub const fn nth(index: u64) -> Self {
        Self(WINDOWS + index * WINDOW)
    }

    /// The address of the register at `offset`.
    pub fn register(self, offset: u64) -> u64 {
        self.0 + offset
    }

    pub fn read(self, script: &mut Script, offset: u64) -> Slot {
        script.read(Width::B4, self.register(offset))
    }

    pub fn write(self, script: &mut Script, offset: u64, value: u64) {
        script.write(Width::B4, self.register(offset), value);
    }

    pub fn reset(self, script: &mut Script) {
        self.write(script, reg::STATUS, 0);
    }

    /// Resets it and brings it up to FEATURES_OK, where queues are set up.
    pub fn negotiate(self, script: &mut Script, features: u64) {
        script.program(self.0, &negotiation(features));
    }

    /// Sets queue `index` up.
    pub fn set_queue(self, script: &mut Script, index: u32, ring: &Ring) {
        script.program(self.0, &queue_setup(index, ring));
    }

    pub fn driver_ok(self, script: &mut Script) {
        self.write(script, reg::STATUS, RUNNING);
    }

    /// Brings it from anywhere to work, with the one queue `index`.
    pub fn start(self, script: &mut Script, features: u64, (index, ring): (u32, &Ring)) {
        let mut writes = negotiation(features | F_VERSION_1);
        writes.extend(queue_setup(index, ring));
        writes.push((reg::STATUS as u32, RUNNING as u32));
        script.program(self.0, &writes);
    }

    pub fn kick(self, script: &mut Script, queue: u32) {
        self.write(script, reg::QUEUE_NOTIFY, queue.into());
    }

    /// Waits until the used index of `ring` is `used`, or the device needs a reset, and takes
    /// down how things stand then.
    pub fn settle(self, script: &mut Script, ring: &Ring, used: u16) -> Outcome {
        self.look(script, ring, used, LOOKS)
    }

    /// As [`Self::settle`], for what is not expected to come: waits a few milliseconds.
    pub fn settle_briefly(self, script: &mut Script, ring: &Ring, used: u16) -> Outcome {
        self.look(script, ring, used, FEW_LOOKS)
    }

    /// Waits until the used index of `ring` is `used`, or the device needs a reset.
    pub fn await_used(self, script: &mut Script, ring: &Ring, used: u16) {
        script.settle((ring.used_index(), used), self.register(reg::STATUS), LOOKS);
    }

    fn look(self, script: &mut Script, ring: &Ring, used: u16, looks: u32) -> Outcome {
        script.settle((ring.used_index(), used), self.register(reg::STATUS), looks);
        Outcome {
            used_index: script.read(Width::B2, ring.used_index()),
            used_element: script
                .read(Width::B8, ring.used_element(used.wrapping_sub(1) % ring.size.max(1))),
            status: self.read(script, reg::STATUS),
            interrupt: self.read(script, reg::INTERRUPT_STATUS),
        }
    }
}

fn negotiation(features: u64) -> Vec<(u32, u32)> {
    let status = |bits| (reg::STATUS as u32, bits as u32);
    let word = |select: u32| {
        let word = (features >> (32 * select)) as u32;
        [(reg::DRIVER_FEATURES_SEL as u32, select), (reg::DRIVER_FEATURES as u32, word)]
    };
    let begun = [status(0), status(ACKNOWLEDGE), status(ACKNOWLEDGE | DRIVER)];
    let end = [status(ACKNOWLEDGE | DRIVER | FEATURES_OK)];
    [begun.as_slice(), &word(0), &word(1), &end].concat()
}

fn queue_setup(index: u32, ring: &Ring) -> Vec<(u32, u32)> {
    let mut writes =
        vec![(reg::QUEUE_SEL as u32, index), (reg::QUEUE_NUM as u32, ring.size.into())];
    for (register, address) in
        [(reg::QUEUE_DESC, ring.desc), (reg::QUEUE_AVAIL, ring.avail), (reg::QUEUE_USED, ring.used)]
    {
        writes.push((register as u32, address as u32));
        writes.push((register as u32 + 4, (address >> 32) as u32));
    }
    writes.push((reg::QUEUE_READY as u32, 1));
    writes
}

/// Looks at a status register until something is held not to happen: seconds on a busy host.
const LOOKS: u32 = 200_000;
const FEW_LOOKS: u32 = 300;

/// Puts `contents` into memory.
pub fn place(script: &mut Script, contents: &Contents) {
    script.copy(contents.address(), contents.bytes());
}

/// How things stood after a request.
#[derive(Clone, Debug)]
pub struct Outcome {
    used_index: Slot,
    used_element: Slot,
    status: Slot,
    interrupt: Slot,
}

/// An [`Outcome`] read from the guest's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub used_index: u16,
    pub used_head: u32,
    pub used_len: u32,
    pub status: u64,
    pub interrupt: u64,
}

impl State {
    pub fn needs_reset(&self) -> bool {
        self.status & NEEDS_RESET != 0
    }

    /// Panics unless the device needs a reset and has said so by an interrupt (Q23).
    #[track_caller]
    pub fn expect_broken(&self, what: &str) {
        assert_eq!(self.status, RUNNING | NEEDS_RESET, "{what}: {self:x?}");
        assert_ne!(self.interrupt & CONFIG_CHANGE, 0, "{what}: {self:x?}");
    }

    /// Panics unless the device works and has returned `count` chains.
    #[track_caller]
    pub fn expect_returned(&self, count: u16, what: &str) {
        assert_eq!(self.status, RUNNING, "{what}: {self:x?}");
        assert_eq!(self.used_index, count, "{what}: {self:x?}");
    }
}

impl Outcome {
    pub fn state(&self, output: &[u8]) -> State {
        let element = self.used_element.number(output);
        State {
            used_index: self.used_index.number(output) as u16,
            used_head: element as u32,
            used_len: (element >> 32) as u32,
            status: self.status.number(output),
            interrupt: self.interrupt.number(output),
        }
    }
}
