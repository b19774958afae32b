//! How much may pass through a device.

use serde::{Deserialize, Serialize};

use super::key_value::from_key_values;
use super::{ConfigError, MemorySize, VmConfig};

/// A limit on one device: `--limit device=,direction=,bandwidth=,ops=` or a `[[limit]]` of the file.
///
/// What is not used of a limit adds up to its burst, and passes at once later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Limit {
    /// Name of the device: see [`VmConfig::device_names`].
    pub device: String,
    /// The direction that is limited; each on its own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<LimitDirection>,
    /// Bytes a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<MemorySize>,
    /// Bytes that may pass at once; a second's worth when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth_burst: Option<MemorySize>,
    /// Requests, frames or packets a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops: Option<u64>,
    /// Requests, frames or packets that may pass at once; a second's worth when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ops_burst: Option<u64>,
}

/// A direction, as the guest sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitDirection {
    /// What the guest sends or asks for.
    Send,
    /// What the guest receives.
    Receive,
}

impl Limit {
    fn applies_to(&self, direction: LimitDirection) -> bool {
        self.direction.is_none_or(|only| only == direction)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let device = || self.device.clone();
        if self.bandwidth.is_none() && self.ops.is_none() {
            return Err(ConfigError::EmptyLimit(device()));
        }
        let bytes = [self.bandwidth, self.bandwidth_burst].map(|size| size.map(MemorySize::bytes));
        if bytes.into_iter().chain([self.ops, self.ops_burst]).any(|number| number == Some(0)) {
            return Err(ConfigError::ZeroLimit(device()));
        }
        let lonely = |burst: bool, rate: bool| burst && !rate;
        if lonely(self.bandwidth_burst.is_some(), self.bandwidth.is_some())
            || lonely(self.ops_burst.is_some(), self.ops.is_some())
        {
            return Err(ConfigError::BurstWithoutRate(device()));
        }
        Ok(())
    }
}

from_key_values!(Limit);

impl VmConfig {
    /// The limit on the device `name` in `direction`.
    pub fn limit(&self, name: &str, direction: LimitDirection) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.device == name && limit.applies_to(direction))
    }

    pub(super) fn validate_limits(&self) -> Result<(), ConfigError> {
        let mut names = self.device_names();
        // It moves no data, and what it gives back is wanted.
        names.retain(|name| name != "balloon");
        for (index, limit) in self.limits.iter().enumerate() {
            limit.validate()?;
            if !names.contains(&limit.device) {
                return Err(ConfigError::LimitOnNothing {
                    device: limit.device.clone(),
                    known: names.join(", "),
                });
            }
            let overlaps = |other: &Limit| {
                let directions = [LimitDirection::Send, LimitDirection::Receive];
                other.device == limit.device
                    && directions.iter().any(|d| limit.applies_to(*d) && other.applies_to(*d))
            };
            if self.limits.iter().take(index).any(overlaps) {
                return Err(ConfigError::DuplicateLimit(limit.device.clone()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::PartialConfig;
    use super::*;

    fn with(limits: &[&str]) -> VmConfig {
        let limit = limits.iter().map(|text| text.parse().expect(text)).collect();
        let partial = PartialConfig {
            kernel: Some("vmlinux".into()),
            rootfs: Some("root.img".into()),
            net: vec!["tap=tap0".parse().expect("valid")],
            limit,
            ..PartialConfig::default()
        };
        partial.resolve().expect("a kernel is given")
    }

    #[test]
    fn flag_form_reads_every_key() {
        let limit: Limit = "device=net0,direction=receive,bandwidth=10M,bandwidth-burst=1G,ops=5,\
            ops-burst=7"
            .parse()
            .expect("valid");
        let expected = Limit {
            device: "net0".to_owned(),
            direction: Some(LimitDirection::Receive),
            bandwidth: Some(MemorySize::from_mib(10)),
            bandwidth_burst: Some(MemorySize::from_mib(1024)),
            ops: Some(5),
            ops_burst: Some(7),
        };
        assert_eq!(limit, expected);
        let error = "device=a,direction=up".parse::<Limit>().expect_err("no direction");
        assert!(error.to_string().starts_with("direction: unknown variant `up`"), "{error}");
    }

    #[test]
    fn limit_is_found_by_device_and_direction() {
        let config =
            with(&["device=net0,direction=send,ops=1", "device=net0,direction=receive,ops=2"]);
        config.validate_limits().expect("valid");
        let ops = |name, direction| config.limit(name, direction).and_then(|limit| limit.ops);
        assert_eq!(ops("net0", LimitDirection::Send), Some(1));
        assert_eq!(ops("net0", LimitDirection::Receive), Some(2));
        assert_eq!(ops("rootfs", LimitDirection::Send), None);
        let config = with(&["device=rng,ops=3"]);
        assert_eq!(
            config.limit("rng", LimitDirection::Receive).and_then(|limit| limit.ops),
            Some(3)
        );
    }

    #[test]
    fn limits_that_say_nothing_or_too_much_are_refused_with_the_device() {
        let cases: [(&[&str], &str); 7] = [
            (&["device=rng"], "limits neither"),
            (&["device=rng,ops=0"], "is 0"),
            (&["device=rng,bandwidth=0B"], "is 0"),
            (&["device=rng,ops=1,bandwidth-burst=1M"], "burst without"),
            (&["device=disk9,ops=1"], "no device disk9: it has rootfs, net0, rng"),
            (&["device=rng,ops=1", "device=rng,bandwidth=1M"], "two limits"),
            (&["device=net0,ops=1", "device=net0,direction=send,ops=1"], "two limits"),
        ];
        for (limits, said) in cases {
            let error = with(limits).validate_limits().expect_err(said);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
