//! The limits of one device in one direction, and the timer that ends a wait.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tracing::error;

use crate::bus::lock;
use crate::metrics::Count;
use crate::rate_limiter::RateLimiter;

/// Who sends, as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest: what it sends, and what it asks of a disk or of the entropy source.
    Send,
    /// The host.
    Receive,
}

/// What one direction of a device may still do.
///
/// A device asks before it begins an operation and charges it when its cost is known. Refused, it
/// leaves the queue alone; the transport kicks it when the wait is over.
#[derive(Debug)]
pub struct Throttle {
    /// Spares devices without limits the lock and the clock.
    limited: AtomicBool,
    state: Mutex<State>,
    /// How often an operation had to wait.
    waits: Count,
}

#[derive(Debug)]
struct State {
    limiter: RateLimiter,
    start: Instant,
    /// Made with the first limit.
    timer: Option<OwnedFd>,
    armed: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        let state = State {
            limiter: RateLimiter::default(),
            start: Instant::now(),
            timer: None,
            armed: false,
        };
        Self { limited: AtomicBool::new(false), state: Mutex::new(state), waits: Count::default() }
    }
}

impl Throttle {
    /// Replaces the limits; buckets begin full.
    ///
    /// # Errors
    /// No timer could be made; the limits are as before.
    pub fn limit(&self, limiter: RateLimiter) -> Result<(), Errno> {
        let mut state = lock(&self.state);
        if limiter.is_limited() && state.timer.is_none() {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            state.timer = Some(timerfd_create(TimerfdClockId::Monotonic, flags)?);
        }
        self.limited.store(limiter.is_limited(), Ordering::Relaxed);
        state.limiter = limiter;
        state.disarm();
        Ok(())
    }

    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }

    /// Whether an operation may begin. If not, [`Throttle::timer`] becomes ready when it may.
    pub fn may_begin(&self) -> bool {
        if !self.is_limited() {
            return true;
        }
        let mut state = lock(&self.state);
        let wait = state.limiter.wait(state.start.elapsed());
        if wait.is_zero() {
            return true;
        }
        self.waits.inc();
        // A timer that cannot be set would never end the wait.
        !state.arm(wait)
    }

    /// Charges one operation of `bytes`.
    pub fn charge(&self, bytes: u64) {
        if self.is_limited() {
            let mut state = lock(&self.state);
            let now = state.start.elapsed();
            state.limiter.charge(bytes, now);
        }
    }

    /// How often an operation had to wait.
    pub fn waits(&self) -> u64 {
        self.waits.get()
    }

    /// The descriptor to wait for, while something waits.
    pub fn timer(&self) -> Option<RawFd> {
        if !self.is_limited() {
            return None;
        }
        let state = lock(&self.state);
        state.timer.as_ref().filter(|_| state.armed).map(AsRawFd::as_raw_fd)
    }

    /// Ends the wait.
    pub fn expire(&self) {
        lock(&self.state).disarm();
    }
}

impl State {
    /// Sets the timer, unless it runs already; false when it cannot be set.
    fn arm(&mut self, wait: Duration) -> bool {
        if !self.armed {
            self.armed = self.set_timer(wait);
        }
        self.armed
    }

    fn disarm(&mut self) {
        if self.armed {
            // Setting a timerfd also takes back that it had expired.
            self.set_timer(Duration::ZERO);
            self.armed = false;
        }
    }

    fn set_timer(&self, wait: Duration) -> bool {
        let Some(timer) = &self.timer else { return false };
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        // What cannot be told would be centuries.
        let it_value = wait.try_into().unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let new = Itimerspec { it_interval: never, it_value };
        timerfd_settime(timer, TimerfdTimerFlags::empty(), &new)
            .inspect_err(|e| error!("cannot set the timer of a limit: {e}"))
            .is_ok()
    }
}

/// Both directions of a device.
#[derive(Clone, Debug, Default)]
pub struct Throttles {
    /// What the guest sends or asks for.
    pub send: Arc<Throttle>,
    /// What the guest receives.
    pub receive: Arc<Throttle>,
}

impl Throttles {
    /// The one in `direction`.
    pub fn of(&self, direction: Direction) -> &Throttle {
        match direction {
            Direction::Send => &self.send,
            Direction::Receive => &self.receive,
        }
    }

    /// Both.
    pub fn both(&self) -> [&Throttle; 2] {
        [&self.send, &self.receive]
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::rate_limiter::Rate;

    fn per_second(n: u64) -> RateLimiter {
        let n = NonZeroU64::new(n).expect("not zero");
        RateLimiter::new(None, Some(Rate { per_second: n, burst: NonZeroU64::MIN }))
    }

    #[test]
    fn device_without_limits_never_waits() {
        let throttle = Throttle::default();
        for _ in 0..1000 {
            assert!(throttle.may_begin());
            throttle.charge(1 << 30);
        }
        assert_eq!((throttle.timer(), throttle.waits()), (None, 0));
    }

    #[test]
    fn wait_lasts_until_it_expires_or_the_limits_change() {
        let throttle = Throttle::default();
        throttle.limit(per_second(1)).expect("a timer");
        assert!(throttle.may_begin());
        throttle.charge(1);
        assert!(!throttle.may_begin());
        assert!(throttle.timer().is_some());
        throttle.expire();
        assert_eq!(throttle.timer(), None);
        assert!(!throttle.may_begin(), "a second has not passed");
        throttle.limit(RateLimiter::default()).expect("no limit");
        assert!(throttle.may_begin());
        assert_eq!((throttle.timer(), throttle.waits()), (None, 2));
    }
}
