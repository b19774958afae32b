//! Token buckets: how many bytes and operations a second may pass.
//!
//! A bucket holds tokens up to its burst and is refilled evenly. Something may begin while a whole
//! token is left and is charged when its cost is known, which may leave the bucket in debt: the next one
//! waits until the debt is paid. So an operation larger than the burst still passes, and over time
//! nothing passes faster than the rate.

use std::num::NonZeroU64;
use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// How fast a bucket is refilled, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: NonZeroU64,
    /// Tokens in a full bucket.
    pub burst: NonZeroU64,
}

/// A token bucket. Times are counted from any fixed moment.
///
/// Instead of tokens it keeps the time at which it will be full, so that waiting costs nothing and
/// no fraction of a token is ever lost.
#[derive(Clone, Debug)]
pub struct TokenBucket {
    per_second: u128,
    /// How long before it is full something may begin, in nanoseconds: what fills all of an empty
    /// bucket but one token.
    head_start: u128,
    /// When it will be full, in nanoseconds.
    full_at: u128,
    /// What `full_at` lacks: a fraction of a nanosecond, in units of `1 / per_second`.
    fraction: u128,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        let per_second = u128::from(rate.per_second.get());
        let head_start = u128::from(rate.burst.get() - 1) * NANOS / per_second;
        Self { per_second, head_start, full_at: 0, fraction: 0 }
    }

    /// How long after `now` the next operation may begin: zero when at once.
    pub fn wait(&self, now: Duration) -> Duration {
        let empty_by = self.full_at.saturating_sub(now.as_nanos());
        let wait = empty_by.saturating_sub(self.head_start);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Takes `tokens` at `now`.
    pub fn charge(&mut self, tokens: u64, now: Duration) {
        let now = now.as_nanos();
        if self.full_at < now {
            (self.full_at, self.fraction) = (now, 0);
        }
        let cost = u128::from(tokens) * NANOS + self.fraction;
        self.full_at = self.full_at.saturating_add(cost / self.per_second);
        self.fraction = cost % self.per_second;
    }
}

/// Limits on bytes and on operations; either may be absent.
#[derive(Clone, Debug, Default)]
pub struct RateLimiter {
    bytes: Option<TokenBucket>,
    operations: Option<TokenBucket>,
}

impl RateLimiter {
    /// A limiter with full buckets.
    pub fn new(bytes: Option<Rate>, operations: Option<Rate>) -> Self {
        Self { bytes: bytes.map(TokenBucket::new), operations: operations.map(TokenBucket::new) }
    }

    /// Whether anything is limited.
    pub fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }

    /// How long after `now` the next operation may begin: zero when at once.
    pub fn wait(&self, now: Duration) -> Duration {
        let buckets = [&self.bytes, &self.operations];
        buckets.into_iter().flatten().map(|bucket| bucket.wait(now)).max().unwrap_or_default()
    }

    /// Takes one operation of `bytes` at `now`.
    pub fn charge(&mut self, bytes: u64, now: Duration) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes, now);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(per_second: u64, burst: u64) -> Rate {
        let number = |n| NonZeroU64::new(n).expect("not zero");
        Rate { per_second: number(per_second), burst: number(burst) }
    }

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn full_bucket_lets_its_burst_through_and_then_one_token_at_a_time() {
        let mut bucket = TokenBucket::new(rate(1000, 10));
        for _ in 0..10 {
            assert_eq!(bucket.wait(millis(5)), Duration::ZERO);
            bucket.charge(1, millis(5));
        }
        assert!(bucket.wait(millis(5)) > Duration::ZERO);
        assert!(bucket.wait(millis(5)) <= millis(1));
        assert_eq!(bucket.wait(millis(7)), Duration::ZERO);
    }

    #[test]
    fn operation_larger_than_the_burst_passes_and_is_paid_for_afterwards() {
        let mut bucket = TokenBucket::new(rate(100, 10));
        bucket.charge(1000, millis(0));
        let wait = bucket.wait(millis(0));
        // 990 tokens of debt, and one to begin with.
        assert!(wait > millis(9_899) && wait < millis(9_911), "{wait:?}");
    }

    #[test]
    fn limiter_waits_for_the_slower_of_its_buckets() {
        let mut limiter = RateLimiter::new(Some(rate(1 << 20, 1 << 20)), Some(rate(10, 1)));
        assert!(limiter.is_limited());
        limiter.charge(512, millis(0));
        let wait = limiter.wait(millis(0));
        assert!(wait > Duration::ZERO && wait <= millis(101), "{wait:?}");
        limiter.charge(8 << 20, millis(0));
        assert!(limiter.wait(millis(0)) > Duration::from_secs(6));
        let mut unlimited = RateLimiter::default();
        unlimited.charge(u64::MAX, millis(0));
        assert_eq!(unlimited.wait(millis(0)), Duration::ZERO);
    }

    #[test]
    fn extreme_numbers_neither_overflow_nor_stop_everything() {
        for (per_second, burst) in [(1, u64::MAX), (u64::MAX, 1), (u64::MAX, u64::MAX), (1, 1)] {
            let mut bucket = TokenBucket::new(rate(per_second, burst));
            assert_eq!(bucket.wait(Duration::ZERO), Duration::ZERO);
            for _ in 0..3 {
                bucket.charge(u64::MAX, Duration::from_secs(1));
                bucket.wait(Duration::MAX);
                bucket.wait(Duration::ZERO);
            }
        }
    }

    proptest! {
        /// Whatever is asked and whenever: in no stretch of time passes more than the burst, what is
        /// refilled meanwhile and one operation; and the wait that is told is enough.
        #[test]
        fn no_window_lets_more_through_than_burst_and_rate(
            per_second in 1u64..100_000,
            burst in 1u64..10_000,
            steps in prop::collection::vec((0u64..2_000_000, 1u64..500), 1..200),
        ) {
            let mut bucket = TokenBucket::new(rate(per_second, burst));
            let mut now = Duration::ZERO;
            let mut passed: Vec<(u128, u128)> = vec![];
            for (idle_us, tokens) in steps {
                now += Duration::from_micros(idle_us);
                now += bucket.wait(now);
                prop_assert_eq!(bucket.wait(now), Duration::ZERO);
                bucket.charge(tokens, now);
                passed.push((now.as_nanos(), tokens.into()));
            }
            for (first, (start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end, tokens) in &passed[first..] {
                    let refilled = (end - start) * u128::from(per_second) / NANOS + 1;
                    // Before this operation, that is: its own cost is charged afterwards.
                    prop_assert!(sum <= u128::from(burst) + refilled, "{sum} in {} ns", end - start);
                    sum += tokens;
                }
            }
        }

        /// Nothing is lost to rounding: a busy sender gets the rate, to the token.
        #[test]
        fn busy_sender_gets_the_rate(per_second in 1u64..5_000_000_000, tokens in 1u64..100_000) {
            let mut bucket = TokenBucket::new(rate(per_second, 1));
            let mut now = Duration::ZERO;
            for _ in 0..200 {
                now += bucket.wait(now);
                bucket.charge(tokens, now);
            }
            now += bucket.wait(now);
            let due = u128::from(tokens) * 200 * NANOS / u128::from(per_second);
            let slack = NANOS / u128::from(per_second) + 200;
            prop_assert!(now.as_nanos().abs_diff(due) <= slack, "{now:?} instead of {due} ns");
        }
    }
}
