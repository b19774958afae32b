//! The balloon: memory the guest gives back to the host.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::MemorySize;
use super::key_value::from_key_values;

/// A memory balloon: `--balloon size=,...`, or a `[balloon]` of the file. Every key may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Balloon {
    /// What the balloon takes from the guest, in whole MiB.
    pub size: MemorySize,
    /// Whether a guest that runs out of memory takes what it needs back
    /// (`VIRTIO_BALLOON_F_DEFLATE_ON_OOM`).
    pub deflate_on_oom: bool,
    /// Whether the guest tells which memory it does not use, for the host to take it at once
    /// (`VIRTIO_BALLOON_F_PAGE_REPORTING`).
    pub free_page_reporting: bool,
    /// How often the guest is asked how its memory is used (`VIRTIO_BALLOON_F_STATS_VQ`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<Interval>,
}

impl Balloon {
    /// The balloon's size comes in steps of this.
    pub const STEP: MemorySize = MemorySize::from_mib(1);

    /// The size in MiB; beyond 32 bits it saturates.
    pub fn size_mib(&self) -> u32 {
        u32::try_from(self.size.bytes() >> 20).unwrap_or(u32::MAX)
    }
}

impl Default for Balloon {
    fn default() -> Self {
        Self {
            size: MemorySize::from_mib(0),
            deflate_on_oom: true,
            free_page_reporting: true,
            statistics: None,
        }
    }
}

from_key_values!(Balloon);

/// A time between two events that repeat: whole seconds, written `1s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Interval(u32);

impl Interval {
    /// Longest interval, in seconds: a day.
    pub const MAX_SECONDS: u32 = 86_400;

    /// The interval as the clock takes it.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

impl From<Interval> for String {
    fn from(interval: Interval) -> Self {
        interval.to_string()
    }
}

impl TryFrom<String> for Interval {
    type Error = IntervalError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Interval {
    type Err = IntervalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_suffix('s').ok_or(IntervalError)?;
        // Parsing a number alone would take a sign.
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(IntervalError);
        }
        let seconds = digits.parse().map_err(|_| IntervalError)?;
        let in_range = (1..=Self::MAX_SECONDS).contains(&seconds);
        if in_range { Ok(Self(seconds)) } else { Err(IntervalError) }
    }
}

/// Why a text is not an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an interval is a whole number of seconds from 1s to {max}s", max = Interval::MAX_SECONDS)]
pub struct IntervalError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_form_reads_every_key() {
        let balloon: Balloon =
            "size=64M,deflate-on-oom=off,free-page-reporting=off,statistics=5s".parse().unwrap();
        assert_eq!(balloon.size_mib(), 64);
        assert!(!balloon.deflate_on_oom && !balloon.free_page_reporting);
        assert_eq!(balloon.statistics.map(Interval::duration), Some(Duration::from_secs(5)));
    }

    #[test]
    fn keys_left_out_mean_an_empty_balloon_that_reports_free_pages() {
        let balloon: Balloon = "size=0M".parse().unwrap();
        assert_eq!(balloon, Balloon::default());
        assert!(balloon.deflate_on_oom && balloon.free_page_reporting);
        assert_eq!((balloon.size_mib(), balloon.statistics), (0, None));
        assert_eq!(toml::from_str::<Balloon>("").unwrap(), balloon);
    }

    #[test]
    fn intervals_that_are_none_are_refused_with_their_key() {
        for text in ["", "1", "0s", "-1s", "+1s", "1.5s", "1m", "s", "86401s", "99999999999s"] {
            let error = format!("statistics={text}").parse::<Balloon>().unwrap_err().to_string();
            assert!(error.starts_with("statistics: an interval is"), "{text}: {error}");
        }
        for text in ["1s", "86400s"] {
            assert_eq!(text.parse::<Interval>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn size_without_a_unit_and_unknown_keys_are_refused() {
        let error = |text: &str| text.parse::<Balloon>().unwrap_err().to_string();
        assert!(error("size=64").contains("did you mean 64M"));
        assert!(error("sise=64M").contains("unknown key `sise`, expected one of `size`"));
        assert!(error("size=1M,size=2M").contains("given twice"));
    }
}
