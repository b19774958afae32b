//! How long the steps of a container's life took.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A point of the host's monotonic clock, in microseconds. All processes of a host share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(u64);

impl Moment {
    /// The present.
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        Self(part(now.tv_sec).saturating_mul(1_000_000).saturating_add(part(now.tv_nsec) / 1000))
    }

    /// When `instant` was.
    pub fn of(instant: Instant) -> Self {
        Self::now().before(u64::try_from(instant.elapsed().as_micros()).unwrap_or(0))
    }

    /// So many microseconds earlier.
    #[must_use]
    pub fn before(self, micros: u64) -> Self {
        Self(self.0.saturating_sub(micros))
    }

    /// The time since `earlier`; none if that was later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// What [`Moment::parse`] reads.
    pub fn text(self) -> String {
        self.0.to_string()
    }

    /// A moment that another process has written down.
    pub fn parse(text: &str) -> Option<Self> {
        text.trim_end().parse().ok().map(Self)
    }
}

/// When each step of a container's life was done, as far as it came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moments {
    /// The guest's first instruction: all before it is the host's work.
    pub machine: Option<Moment>,
    /// The agent's first instruction, as the guest says.
    pub agent: Option<Moment>,
    /// The container's surroundings are there.
    pub ready: Option<Moment>,
    /// The container's first process is about to become its program.
    pub started: Option<Moment>,
    /// Its end is known.
    pub exited: Option<Moment>,
}

impl Moments {
    /// The steps from `began` to `ended` by name, each with its time. A step that was not reached has
    /// none, and what came after counts for the next: all together are the whole time.
    pub fn steps(&self, began: Moment, ended: Moment) -> Vec<(&'static str, Duration)> {
        let ends = [
            ("host set-up", self.machine),
            ("kernel", self.agent),
            ("agent", self.ready),
            ("exec", self.started),
            ("run", self.exited),
            ("teardown", Some(ended)),
        ];
        let mut steps = vec![];
        let mut last = began;
        for (name, end) in ends {
            let Some(end) = end else { continue };
            // A guest may say anything about its own clock.
            let end = end.clamp(last, ended.max(last));
            steps.push((name, end.since(last)));
            last = end;
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(moments: Moments) -> Vec<(&'static str, u128)> {
        let steps = moments.steps(Moment(100), Moment(1000));
        assert_eq!(steps.iter().map(|(_, time)| time.as_micros()).sum::<u128>(), 900);
        steps.into_iter().map(|(name, time)| (name, time.as_micros())).collect()
    }

    #[test]
    fn steps_make_up_the_whole_time() {
        let some = |micros| Some(Moment(micros));
        let all = Moments {
            machine: some(150),
            agent: some(400),
            ready: some(500),
            started: some(600),
            exited: some(700),
        };
        let expected = [
            ("host set-up", 50),
            ("kernel", 250),
            ("agent", 100),
            ("exec", 100),
            ("run", 100),
            ("teardown", 300),
        ];
        assert_eq!(micros(all), expected);
        assert_eq!(micros(Moments::default()), [("teardown", 900)]);
        let early = Moments { started: None, exited: None, ..all };
        assert_eq!(micros(early).last(), Some(&("teardown", 500)));
    }

    #[test]
    fn guest_whose_clock_is_wrong_changes_no_sum() {
        for agent in [0, 5000] {
            let wrong = Moments {
                machine: Some(Moment(150)),
                agent: Some(Moment(agent)),
                ready: Some(Moment(500)),
                ..Moments::default()
            };
            micros(wrong);
        }
    }

    #[test]
    fn moments_are_handed_over_as_text() {
        let now = Moment::now();
        assert_eq!(Moment::parse(&format!("{}\n", now.text())), Some(now));
        assert_eq!(Moment::parse("soon"), None);
        assert!(now.before(1) < now);
    }
}
