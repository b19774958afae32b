//! A bound on how much is logged: some messages are a guest's to provoke.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bus::lock;

/// Bytes of messages in one second at most; further messages are dropped, and counted.
const BYTES_A_SECOND: usize = 64 * 1024;

/// What was said in the current second, and how many messages were not.
#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    said: usize,
    dropped: u64,
}

impl Second {
    /// Takes a message of `len` bytes at `now`. Returns whether it may be said, and how many
    /// before it were dropped and are to be mentioned first.
    fn admit(&mut self, len: usize, now: Instant) -> (bool, u64) {
        let mut unmentioned = 0;
        let over = |began: Instant| now.duration_since(began) >= Duration::from_secs(1);
        if self.began.is_none_or(over) {
            unmentioned = self.dropped;
            *self = Self { began: Some(now), said: 0, dropped: 0 };
        }
        let fits = self.said.saturating_add(len) <= BYTES_A_SECOND;
        if fits {
            self.said += len;
        } else {
            self.dropped += 1;
        }
        (fits, unmentioned)
    }
}

/// Standard error for whole messages, within bounds. Clones share their bounds.
#[derive(Clone, Debug)]
pub(super) struct LimitedStderr {
    second: Arc<Mutex<Second>>,
    mention: fn(u64) -> String,
}

impl LimitedStderr {
    /// `mention` words the line that says how many messages were dropped.
    pub(super) fn new(mention: fn(u64) -> String) -> Self {
        Self { second: Arc::default(), mention }
    }
}

impl Write for LimitedStderr {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let (fits, dropped) = lock(&self.second).admit(message.len(), Instant::now());
        let mut stderr = io::stderr().lock();
        if dropped > 0 {
            stderr.write_all((self.mention)(dropped).as_bytes())?;
        }
        if fits {
            stderr.write_all(message)?;
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_beyond_the_bound_are_dropped_counted_and_mentioned_once() {
        let (mut second, start) = (Second::default(), Instant::now());
        let half = BYTES_A_SECOND / 2;
        assert_eq!(second.admit(half, start), (true, 0));
        assert_eq!(second.admit(half, start), (true, 0));
        let later = start + Duration::from_millis(999);
        assert_eq!(second.admit(1, later), (false, 0));
        assert_eq!(second.admit(usize::MAX, later), (false, 0));
        let next = start + Duration::from_secs(1);
        assert_eq!(second.admit(half, next), (true, 2));
        assert_eq!(second.admit(half, next), (true, 0));
    }
}
