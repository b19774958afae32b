//! What the guest printed: the latest 64 KiB are always kept, and passed on as fast as the
//! reader takes them. And what the user types, on its way to the guest.

mod input;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub use input::{ConsoleInput, InputSink};

use crate::bus::lock;
use crate::metrics::counters;

/// Bytes kept for the explanation of a failed boot, and at most waiting for a slow reader.
pub const KEPT: usize = 64 * 1024;

counters! {
    /// What became of the guest's console output.
    pub struct OutputCounters {
        /// Bytes the guest printed.
        printed,
        /// Bytes that were passed on to nobody, because the reader was slower than the guest.
        dropped,
    }
}

#[derive(Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How many of the last bytes of `bytes` were not yet passed on.
    pending: usize,
}

impl Ring {
    /// Appends `bytes`, at most [`KEPT`], and forgets what was before those; tells how many of the
    /// forgotten ones were waiting to be passed on.
    fn append(&mut self, bytes: &[u8], waits: bool) -> usize {
        let forgotten = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.bytes.drain(..forgotten);
        self.bytes.extend(bytes);
        let pending = if waits { self.pending + bytes.len() } else { 0 };
        self.pending = pending.min(self.bytes.len());
        pending - self.pending
    }
}

/// A number of bytes as counters take it.
fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The guest's console output on its way to the reader.
///
/// A vCPU that prints never waits: when the reader is slower than the guest, what it has not
/// read of the oldest bytes is dropped, and counted.
pub struct ConsoleOutput {
    ring: Mutex<Ring>,
    counters: Arc<OutputCounters>,
    wake: EventFd,
    passed_on: bool,
}

impl ConsoleOutput {
    /// An empty console. Unless `passed_on`, output is only kept.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(passed_on: bool) -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK)?;
        Ok(Self { ring: Mutex::default(), counters: Arc::default(), wake, passed_on })
    }

    /// Takes bytes from the guest.
    pub fn push(&self, bytes: &[u8]) {
        self.counters.printed.add(count(bytes.len()));
        let mut ring = lock(&self.ring);
        // No more than is kept is ever held, however much comes at once.
        for part in bytes.chunks(KEPT) {
            let was_empty = ring.pending == 0;
            self.counters.dropped.add(count(ring.append(part, self.passed_on)));
            if was_empty && ring.pending > 0 {
                // The counter is full only when a wake is pending anyhow.
                let _ = self.wake.write(1);
            }
        }
    }

    /// Readable when output came after there had been none.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// Copies the oldest output not yet passed on into `out`; returns its length.
    pub fn pending(&self, out: &mut [u8]) -> usize {
        let ring = lock(&self.ring);
        let start = ring.bytes.len() - ring.pending;
        let mut count = 0;
        for (to, from) in out.iter_mut().zip(ring.bytes.range(start..)) {
            *to = *from;
            count += 1;
        }
        count
    }

    /// Counts the oldest `count` pending bytes as passed on.
    pub fn pass_on(&self, count: usize) {
        let mut ring = lock(&self.ring);
        ring.pending = ring.pending.saturating_sub(count);
    }

    /// Counts all pending bytes as dropped: nobody will read them.
    pub fn give_up(&self) {
        let mut ring = lock(&self.ring);
        self.counters.dropped.add(count(ring.pending));
        ring.pending = 0;
    }

    /// What became of the output so far.
    pub fn counters(&self) -> &Arc<OutputCounters> {
        &self.counters
    }

    /// The last `count` lines, with control characters other than tab made visible or removed:
    /// a guest must not drive the reader's terminal.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let bytes: Vec<u8> = lock(&self.ring).bytes.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<String> = text.lines().map(printable).collect();
        let skipped = lines.len().saturating_sub(count);
        lines.into_iter().skip(skipped).collect()
    }
}

/// `line` without what would move a terminal's cursor, change its state or reorder its text.
fn printable(line: &str) -> String {
    let harmless = |c: char| {
        let reorders = matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '\t' => Some(c),
            '\r' => None,
            c if c.is_control() || reorders => Some('\u{fffd}'),
            c => Some(c),
        }
    };
    line.chars().filter_map(harmless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_passed_on_in_order_and_once() {
        let console = ConsoleOutput::new(true).unwrap();
        console.push(b"hello");
        assert_eq!(console.wake().read().unwrap(), 1);
        let mut out = [0; 3];
        assert_eq!(console.pending(&mut out), 3);
        assert_eq!(&out, b"hel");
        console.pass_on(3);
        assert_eq!(console.pending(&mut out), 2);
        assert_eq!(&out[..2], b"lo");
        console.pass_on(2);
        assert_eq!(console.pending(&mut out), 0);
        assert_eq!(console.last_lines(9), ["hello"]);
    }

    /// S2: a reader that never reads costs a bounded buffer, and the loss is counted.
    #[test]
    fn unread_output_is_bounded_and_the_loss_counted() {
        let console = ConsoleOutput::new(true).unwrap();
        (0..KEPT + 1000).for_each(|_| console.push(b"x"));
        assert_eq!(console.counters().dropped.get(), 1000);
        console.push(&vec![b'y'; 3 * KEPT + 1]);
        assert_eq!(console.counters().dropped.get(), count(1000 + 3 * KEPT + 1));
        assert_eq!(console.counters().printed.get(), count(4 * KEPT + 1001));
        let mut out = vec![0; 2 * KEPT];
        assert_eq!(console.pending(&mut out), KEPT);
        assert_eq!(console.pending(&mut out), out.iter().filter(|byte| **byte == b'y').count());
        assert_eq!(lock(&console.ring).bytes.capacity(), KEPT);
    }

    #[test]
    fn output_that_is_given_up_counts_as_dropped() {
        let console = ConsoleOutput::new(true).unwrap();
        console.push(b"hello");
        console.pass_on(2);
        console.give_up();
        assert_eq!(console.counters().dropped.get(), 3);
        assert_eq!(console.pending(&mut [0; 8]), 0);
        assert_eq!(console.last_lines(1), ["hello"]);
    }

    #[test]
    fn a_silent_console_keeps_its_output_and_waits_for_no_reader() {
        let console = ConsoleOutput::new(false).unwrap();
        console.push(&vec![b'\n'; KEPT]);
        console.push(b"last");
        assert_eq!(console.counters().dropped.get(), 0);
        assert_eq!(console.pending(&mut [0; 8]), 0);
        assert!(console.wake().read().is_err());
        assert_eq!(console.last_lines(1), ["last"]);
    }

    /// S3: escape sequences of the guest do not reach the terminal through an explanation.
    #[test]
    fn last_lines_hold_no_control_characters() {
        let console = ConsoleOutput::new(false).unwrap();
        console.push("a\u{1b}[2Jb\tc\r\n\u{9b}31m\u{202e}x".as_bytes());
        assert_eq!(console.last_lines(5), ["a\u{fffd}[2Jb\tc", "\u{fffd}31m\u{fffd}x"]);
        assert!(ConsoleOutput::new(false).unwrap().last_lines(5).is_empty());
    }
}
