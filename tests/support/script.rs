//! Scripts for the guest program `evil.S`, which explains the operations.

use std::ops::Range;

use super::machine::{self, RAM};

/// Bytes of one operation.
const OPERATION: usize = 32;
/// Most bytes of results: what the console holds for a reader that is late.
const MAX_RESULTS: usize = 60 * 1024;
/// Where machine code of a test is copied to before it runs.
const CODE: u64 = RAM + 0x1f_0000;
/// Most bytes of it: as much as a guest makes fit to be executed.
const MAX_CODE: usize = 4096;

/// How wide an access is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    B1,
    B2,
    B4,
    B8,
}

use Width::{B1, B2, B4, B8};

impl Width {
    /// The widths a port access can have.
    pub const PORT: [Self; 3] = [B1, B2, B4];
    /// The widths a memory access can have.
    pub const MEMORY: [Self; 4] = [B1, B2, B4, B8];

    pub fn bytes(self) -> usize {
        match self {
            B1 => 1,
            B2 => 2,
            B4 => 4,
            B8 => 8,
        }
    }

    /// All bits set.
    pub fn ones(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }

    fn code(self) -> u8 {
        match self {
            B1 => 0,
            B2 => 1,
            B4 => 2,
            B8 => 3,
        }
    }
}

/// In the order of the table at the end of `evil.S`.
#[derive(Clone, Copy)]
enum Op {
    Read,
    Write,
    Get,
    Value,
    Wait,
    SweepRead,
    SweepWrite,
    In,
    Out,
    SweepIn,
    SweepOut,
    Fill,
    Copy,
    Program,
    EveryByte,
    Dump,
    Settle,
    Set,
    Below,
    Call,
    Input,
    Flush,
    Idle,
}

/// A result: where in the guest's output it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot(Range<usize>);

impl Slot {
    /// The bytes of this result.
    pub fn bytes<'o>(&self, output: &'o [u8]) -> &'o [u8] {
        output.get(self.0.clone()).unwrap_or_else(|| {
            panic!("result {:?} is missing: the guest sent {} bytes", self.0, output.len())
        })
    }

    /// How many bytes the guest has sent when it has sent this result.
    pub fn end(&self) -> usize {
        self.0.end
    }

    /// The number it is, little endian.
    pub fn number(&self, output: &[u8]) -> u64 {
        self.bytes(output).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// The result of a sweep.
#[derive(Clone, Debug)]
pub struct Sweep(Slot);

impl Sweep {
    /// Panics unless every access read what was expected.
    #[track_caller]
    pub fn expect_uniform(&self, output: &[u8], what: &str) {
        let bytes = self.0.bytes(output);
        let [count, address, value] =
            [0, 8, 16].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()));
        assert_eq!(count, 0, "{what}: {count} differ, the first at {address:#x}: {value:#x}");
    }
}

/// A memory or port range that is swept: `count` accesses from `start`, `step` apart.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub start: u64,
    pub count: u64,
    pub step: u32,
}

#[derive(Clone, Copy, Default)]
struct Operands {
    set: u8,
    add: u8,
    add_to_b: u8,
    aux: u32,
    a: u64,
    b: u64,
    c: u64,
}

/// A list of operations, in the order the guest performs them.
#[derive(Default)]
pub struct Script {
    operations: Vec<u8>,
    data: Vec<u8>,
    /// Which operations have a `b` that counts from the start of the data.
    relocations: Vec<usize>,
    results: usize,
    loops: u8,
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads memory; the result is as wide as the access.
    pub fn read(&mut self, width: Width, address: u64) -> Slot {
        self.push(Op::Read, width, Operands { a: address, ..Operands::default() });
        self.slot(width.bytes())
    }

    /// Writes memory.
    pub fn write(&mut self, width: Width, address: u64, value: u64) {
        self.push(Op::Write, width, Operands { a: address, b: value, ..Operands::default() });
    }

    /// Looks at most `looks` times until memory masked by `mask` is `value`; 1 when it was.
    pub fn wait(
        &mut self,
        width: Width,
        address: u64,
        (mask, value): (u64, u64),
        looks: u32,
    ) -> Slot {
        let operands =
            Operands { a: address, b: value, c: mask, aux: looks, ..Operands::default() };
        self.push(Op::Wait, width, operands);
        self.slot(1)
    }

    /// Reads memory all over `span`, and says whether everything was `expected`.
    pub fn sweep_read(&mut self, width: Width, span: Span, expected: u64) -> Sweep {
        self.push(Op::SweepRead, width, sweep(span, expected));
        Sweep(self.slot(24))
    }

    /// Writes `value` all over `span`.
    pub fn sweep_write(&mut self, width: Width, span: Span, value: u64) {
        self.push(Op::SweepWrite, width, sweep(span, value));
    }

    /// Reads a port; the result is as wide as the access.
    pub fn port_in(&mut self, width: Width, port: u16) -> Slot {
        self.push(Op::In, width, Operands { a: port.into(), ..Operands::default() });
        self.slot(width.bytes())
    }

    /// Writes a port.
    pub fn port_out(&mut self, width: Width, port: u16, value: u32) {
        let operands = Operands { a: port.into(), b: value.into(), ..Operands::default() };
        self.push(Op::Out, width, operands);
    }

    /// Reads ports all over `span`, and says whether everything was `expected`.
    pub fn sweep_in(&mut self, width: Width, span: Span, expected: u64) -> Sweep {
        self.push(Op::SweepIn, width, sweep(span, expected));
        Sweep(self.slot(24))
    }

    /// Writes `value` to ports all over `span`.
    pub fn sweep_out(&mut self, width: Width, span: Span, value: u64) {
        self.push(Op::SweepOut, width, sweep(span, value));
    }

    /// Fills `bytes` of memory, rounded up to words of 8, with the word `value`.
    pub fn fill(&mut self, address: u64, bytes: u64, value: u64) {
        let operands =
            Operands { a: address, b: value, c: bytes.div_ceil(8), ..Operands::default() };
        self.push(Op::Fill, B1, operands);
    }

    /// Puts `bytes` into memory, padded with zeros to words of 8.
    pub fn copy(&mut self, address: u64, bytes: &[u8]) {
        self.push_with_data(Op::Copy, (address, 0), bytes.len().div_ceil(8), bytes);
    }

    /// Writes 32-bit registers: pairs of the offset from `base` and the value.
    pub fn program(&mut self, base: u64, writes: &[(u32, u32)]) {
        self.push_with_data(Op::Program, (base, 0), writes.len(), &pairs(writes));
    }

    /// For each value of a byte: what `program` does, then a write of the value to the register
    /// at `offset`. The result has a byte for each, which is what the register then showed.
    pub fn every_byte(&mut self, base: u64, offset: u32, writes: &[(u32, u32)]) -> Slot {
        self.push_with_data(Op::EveryByte, (base, offset), writes.len(), &pairs(writes));
        self.slot(256)
    }

    /// Reads `words` words of 8 bytes from memory.
    pub fn dump(&mut self, address: u64, words: usize) -> Slot {
        let operands = Operands { a: address, c: words as u64, ..Operands::default() };
        self.push(Op::Dump, B1, operands);
        self.slot(words * 8)
    }

    /// Looks at most `looks` times until the 16-bit word at `index` is `value`, or the virtio
    /// device whose status register is at `status` needs a reset.
    pub fn settle(&mut self, (index, value): (u64, u16), status: u64, looks: u32) {
        let operands =
            Operands { a: index, b: value.into(), c: status, aux: looks, ..Operands::default() };
        self.push(Op::Settle, B1, operands);
    }

    /// Writes to `to` what is at `from`, plus `more`.
    pub fn forward(&mut self, width: Width, from: u64, to: u64, more: u64) {
        const SCRATCH: u8 = u8::MAX;
        self.push(Op::Get, width, Operands { set: SCRATCH, a: from, ..Operands::default() });
        let operands = Operands { add_to_b: SCRATCH, a: to, b: more, ..Operands::default() };
        self.push(Op::Write, width, operands);
    }

    /// Performs what `body` adds `count` times. It can have no results.
    pub fn repeat(&mut self, count: u64, body: impl FnOnce(&mut Self)) {
        self.loops += 1;
        let set = self.loops;
        self.push(Op::Set, B1, Operands { set, ..Operands::default() });
        let (start, results) = (self.operations.len() as u64, self.results);
        body(self);
        assert_eq!(self.results, results, "a loop with results");
        self.push(Op::Set, B1, Operands { set, add: set, a: 1, ..Operands::default() });
        let operands = Operands { add: set, b: count, c: start, ..Operands::default() };
        self.push(Op::Below, B1, operands);
        self.loops -= 1;
    }

    /// Runs machine code, which may use every register but rbx, rbp, rsp, r14 and r15, or x19 to x23.
    pub fn run(&mut self, code: &[u8]) {
        let code = [code, machine::RETURN].concat();
        assert!(code.len() <= MAX_CODE, "too much code");
        self.copy(CODE, &code);
        self.push(Op::Call, B1, Operands { a: CODE, ..Operands::default() });
    }

    /// Sends the results so far, the last of which is a byte 0, and waits to be typed at.
    pub fn pause(&mut self) {
        self.value(B1, 0);
        self.flush();
        self.input();
    }

    /// Waits for a byte on the serial port; it is the result.
    pub fn input(&mut self) -> Slot {
        self.push(Op::Input, B1, Operands::default());
        self.slot(1)
    }

    /// Sends a number.
    pub fn value(&mut self, width: Width, number: u64) -> Slot {
        self.push(Op::Value, width, Operands { a: number, ..Operands::default() });
        self.slot(width.bytes())
    }

    /// Sends the results so far.
    pub fn flush(&mut self) {
        self.push(Op::Flush, B1, Operands::default());
    }

    /// How many bytes of results there are so far.
    pub fn results(&self) -> usize {
        self.results
    }

    /// Ends with a reset of the machine.
    pub fn then_reset(mut self) -> Vec<u8> {
        self.flush();
        machine::reset(&mut self);
        self.then_idle()
    }

    /// Sends the results and ends in a sleep with interrupts enabled.
    pub fn then_idle_after_flush(mut self) -> Vec<u8> {
        self.flush();
        self.then_idle()
    }

    /// Ends in a sleep with interrupts enabled, without sending what was not sent.
    ///
    /// The script lies at the end of memory; its last page is padding, for tests to use.
    pub fn then_idle(mut self) -> Vec<u8> {
        self.push(Op::Idle, B1, Operands::default());
        let data = self.operations.len() as u64;
        for operation in self.relocations {
            let b = &mut self.operations[operation + 16..operation + 24];
            let offset = u64::from_le_bytes(b.try_into().unwrap()) + data;
            b.copy_from_slice(&offset.to_le_bytes());
        }
        self.operations.extend(self.data);
        self.operations.extend([0; 4096]);
        self.operations
    }

    fn push_with_data(&mut self, op: Op, (a, aux): (u64, u32), count: usize, data: &[u8]) {
        let (b, c) = (self.data.len() as u64, count as u64);
        self.relocations.push(self.operations.len());
        self.push(op, B1, Operands { a, aux, b, c, ..Operands::default() });
        self.data.extend_from_slice(data);
        self.data.resize(self.data.len().next_multiple_of(8), 0);
    }

    fn push(&mut self, op: Op, width: Width, operands: Operands) {
        let Operands { set, add, add_to_b, aux, a, b, c } = operands;
        let start = self.operations.len();
        self.operations.extend([op as u8 * 4 + width.code(), add, add_to_b, set]);
        self.operations.extend(aux.to_le_bytes());
        [a, b, c].iter().for_each(|word| self.operations.extend(word.to_le_bytes()));
        assert_eq!(self.operations.len() - start, OPERATION);
    }

    fn slot(&mut self, len: usize) -> Slot {
        let start = self.results;
        self.results += len;
        assert!(self.results <= MAX_RESULTS, "a script with too many results");
        Slot(start..self.results)
    }
}

fn pairs(writes: &[(u32, u32)]) -> Vec<u8> {
    let words = writes.iter().flat_map(|(offset, value)| [offset, value]);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

fn sweep(span: Span, value: u64) -> Operands {
    Operands { a: span.start, b: value, c: span.count, aux: span.step, ..Operands::default() }
}
