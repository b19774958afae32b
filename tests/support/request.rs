//! Requests to the block device, as drivers send them and otherwise (virtio 1.3, section 5.2.6).

use super::driver::{Outcome, State, place};
use super::ring::{Desc, Ring, chained};
use super::script::{Script, Slot, Width};
use super::subject::{BLOCK, BUFFER, RING, SPARE};

pub const READ: u32 = 0;
pub const WRITE: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
/// What is in the status byte before the device writes it.
pub const UNWRITTEN: u8 = 0xee;

pub const F_DISCARD: u64 = 1 << 13;
pub const F_WRITE_ZEROES: u64 = 1 << 14;
pub const F_FLUSH: u64 = 1 << 9;

/// Where the parts of a request lie.
pub const HEADER: u64 = BUFFER;
pub const STATUS: u64 = BUFFER + 0x800;
pub const DATA: u64 = SPARE;

pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

/// What was asked, and where the answer is.
pub struct Asked {
    pub what: String,
    outcome: Outcome,
    status: Slot,
}

/// What the device answered.
pub struct Answer {
    pub state: State,
    pub status: u8,
}

impl Asked {
    pub fn answer(&self, output: &[u8]) -> Answer {
        let status = self.status.number(output) as u8;
        Answer { state: self.outcome.state(output), status }
    }

    #[track_caller]
    pub fn expect(&self, output: &[u8], status: u8) {
        let answer = self.answer(output);
        answer.state.expect_returned(1, &self.what);
        assert_eq!(answer.status, status, "{}: {:x?}", self.what, answer.state);
    }

    #[track_caller]
    pub fn expect_broken(&self, output: &[u8]) {
        self.answer(output).state.expect_broken(&self.what);
    }
}

/// As [`send`], on `ring` and without waiting for the answer.
pub fn post(script: &mut Script, features: u64, ring: &Ring, head: &[u8], parts: &[Desc]) {
    script.copy(HEADER, head);
    script.fill(STATUS, 8, u64::from_le_bytes([UNWRITTEN; 8]));
    place(script, &ring.contents().descriptors(0, &chained(parts)).available(&[0]));
    BLOCK.start(script, features, ring);
    BLOCK.kick(script);
}

/// Sends the chain of `parts` with `head` as header; the status byte is at [`STATUS`].
pub fn send(
    script: &mut Script,
    features: u64,
    what: impl Into<String>,
    head: &[u8],
    parts: &[Desc],
) -> Asked {
    let ring = Ring::at(RING, 64);
    post(script, features, &ring, head, parts);
    let outcome = BLOCK.device.settle(script, &ring, 1);
    Asked { what: what.into(), outcome, status: script.read(Width::B1, STATUS) }
}

/// A request as drivers send it, with one data buffer of `len` bytes where it has data.
pub fn ask(script: &mut Script, kind: u32, sector: u64, len: u32) -> Asked {
    let data = match kind {
        READ | GET_ID => Desc::writable(DATA, len),
        _ => Desc::readable(DATA, len),
    };
    let mut parts = vec![Desc::readable(HEADER, 16), data, Desc::writable(STATUS, 1)];
    if len == 0 {
        parts.remove(1);
    }
    let what = format!("type {kind} at {sector:#x}, {len} bytes");
    send(script, F_FLUSH, what, &header(kind, sector), &parts)
}
