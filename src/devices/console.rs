//! What the guest printed: the latest 64 KiB are always kept, and passed on as fast as the
//! reader takes them.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::lock;

/// Bytes kept for the explanation of a failed boot, and at most waiting for a slow reader.
pub const KEPT: usize = 64 * 1024;

#[derive(Default)]
struct Ring {
    bytes: VecDeque<u8>,
    /// How many of the last bytes of `bytes` were not yet passed on.
    pending: usize,
    dropped: u64,
}

/// The guest's console output on its way to the reader.
///
/// A vCPU that prints never waits: when the reader is slower than the guest, what it has not
/// read of the oldest bytes is dropped, and counted.
pub struct ConsoleOutput {
    ring: Mutex<Ring>,
    wake: EventFd,
    passed_on: bool,
}

impl ConsoleOutput {
    /// An empty console. Unless `passed_on`, output is only kept.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(passed_on: bool) -> io::Result<Self> {
        Ok(Self { ring: Mutex::default(), wake: EventFd::new(EFD_NONBLOCK)?, passed_on })
    }

    /// Takes a byte from the guest.
    pub fn push(&self, byte: u8) {
        let mut ring = lock(&self.ring);
        if ring.bytes.len() == KEPT {
            ring.bytes.pop_front();
            if ring.pending == KEPT {
                ring.pending -= 1;
                ring.dropped += 1;
            }
        }
        ring.bytes.push_back(byte);
        if self.passed_on {
            ring.pending += 1;
            if ring.pending == 1 {
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
        ring.dropped += u64::try_from(ring.pending).unwrap_or(0);
        ring.pending = 0;
    }

    /// How many bytes were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut lock(&self.ring).dropped)
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
        let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
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

    fn print(console: &ConsoleOutput, text: &[u8]) {
        text.iter().for_each(|byte| console.push(*byte));
    }

    #[test]
    fn output_is_passed_on_in_order_and_once() {
        let console = ConsoleOutput::new(true).unwrap();
        print(&console, b"hello");
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
        let flood = vec![b'x'; KEPT + 1000];
        print(&console, &flood);
        assert_eq!(console.take_dropped(), 1000);
        assert_eq!(console.take_dropped(), 0);
        let mut out = vec![0; 2 * KEPT];
        assert_eq!(console.pending(&mut out), KEPT);
    }

    #[test]
    fn output_that_is_given_up_counts_as_dropped() {
        let console = ConsoleOutput::new(true).unwrap();
        print(&console, b"hello");
        console.pass_on(2);
        console.give_up();
        assert_eq!(console.take_dropped(), 3);
        assert_eq!(console.pending(&mut [0; 8]), 0);
        assert_eq!(console.last_lines(1), ["hello"]);
    }

    #[test]
    fn a_silent_console_keeps_its_output_and_waits_for_no_reader() {
        let console = ConsoleOutput::new(false).unwrap();
        print(&console, &vec![b'\n'; KEPT]);
        print(&console, b"last");
        assert_eq!(console.take_dropped(), 0);
        assert_eq!(console.pending(&mut [0; 8]), 0);
        assert!(console.wake().read().is_err());
        assert_eq!(console.last_lines(1), ["last"]);
    }

    /// S3: escape sequences of the guest do not reach the terminal through an explanation.
    #[test]
    fn last_lines_hold_no_control_characters() {
        let console = ConsoleOutput::new(false).unwrap();
        print(&console, "a\u{1b}[2Jb\tc\r\n\u{9b}31m\u{202e}x".as_bytes());
        assert_eq!(console.last_lines(5), ["a\u{fffd}[2Jb\tc", "\u{fffd}31m\u{fffd}x"]);
        assert!(ConsoleOutput::new(false).unwrap().last_lines(5).is_empty());
    }
}
