//! SIGUSR2: the configuration is read again, and what can change while the machine runs changes.

use serde_json::Value;
use tracing::{error, info, warn};

use crate::config::{ConfigError, LimitDirection, VmConfig};
use crate::devices::virtio::{Change, Direction};
use crate::machine::{Device, Machine, limits, no_limit};

/// Reads the configuration again from where it came.
pub type Reread = Box<dyn Fn() -> Result<VmConfig, ConfigError>>;

/// The configuration the machine runs with, and how to get another.
pub(super) struct Reload {
    current: VmConfig,
    reread: Reread,
}

impl Reload {
    pub(super) fn new(current: VmConfig, reread: Reread) -> Self {
        Self { current, reread }
    }

    /// Takes over what has changed. What cannot change is named, and stays as it is.
    pub(super) fn run(&mut self, machine: &Machine) {
        let new = match (self.reread)() {
            Ok(new) => new,
            Err(e) => return error!("the configuration stays as it is: {}", chain(&e)),
        };
        for key in fixed_differences(&self.current, &new) {
            warn!("{key} cannot change while the machine runs; start it anew for that");
        }
        let devices = machine.devices();
        let changed = devices.iter().filter(|device| self.apply(device, &new)).count();
        info!("configuration read again: {changed} of {} devices changed", devices.len());
        self.current.limits = new.limits;
        if let (Some(current), Some(new)) = (&mut self.current.balloon, new.balloon) {
            current.size = new.size;
        }
    }

    /// Changes one device; tells whether there was anything to change.
    fn apply(&self, device: &Device, new: &VmConfig) -> bool {
        let changes = changes(device.name(), &self.current, new);
        for change in &changes {
            if let Err(e) = device.update(change) {
                error!("{} cannot be changed: {}", device.name(), chain(&e));
            }
        }
        !changes.is_empty()
    }
}

/// What to change in the device `name`.
fn changes(name: &str, old: &VmConfig, new: &VmConfig) -> Vec<Change> {
    let mut changes = Vec::new();
    let both =
        [(LimitDirection::Send, Direction::Send), (LimitDirection::Receive, Direction::Receive)];
    for (asked, direction) in both {
        if old.limit(name, asked) != new.limit(name, asked) {
            changes.push(no_limit(direction));
        }
    }
    if !changes.is_empty() {
        changes.extend(limits(new, name));
    }
    if let (Some(before), Some(after)) = (&old.balloon, &new.balloon)
        && name == "balloon"
        && before.size != after.size
    {
        changes.push(Change::BalloonTarget(after.size_mib()));
    }
    // The file behind a disk may have grown whatever the configuration says.
    if new.drives().iter().any(|disk| disk.id.as_deref() == Some(name)) {
        changes.push(Change::DiskSize);
    }
    changes
}

/// The keys that differ and cannot change.
fn fixed_differences(old: &VmConfig, new: &VmConfig) -> Vec<String> {
    let (mut old, new) = (old.clone(), new.clone());
    if let (Some(before), Some(after)) = (&mut old.balloon, &new.balloon) {
        before.size = after.size;
    }
    let (old, new) = (keys(&old), keys(&new));
    let differs = |(key, value): &(String, Value)| key != "limit" && new.get(key) != Some(value);
    old.into_iter().filter(differs).map(|(key, _)| key).collect()
}

fn keys(config: &VmConfig) -> serde_json::Map<String, Value> {
    match serde_json::to_value(config) {
        Ok(Value::Object(keys)) => keys,
        _ => serde_json::Map::new(),
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PartialConfig;

    fn config(limits: &[&str]) -> VmConfig {
        let partial = PartialConfig {
            kernel: Some("vmlinux".into()),
            rootfs: Some("root.img".into()),
            limit: limits.iter().map(|text| text.parse().expect(text)).collect(),
            ..PartialConfig::default()
        };
        partial.resolve().expect("a kernel is given")
    }

    #[test]
    fn limit_that_changed_is_replaced_and_one_that_did_not_is_left_alone() {
        let (old, new) = (config(&["device=rng,ops=1"]), config(&["device=rng,ops=2"]));
        assert_eq!(changes("rng", &old, &old), []);
        let of = |change: &Change| match change {
            Change::Limit { direction, operations, .. } => {
                (*direction, operations.map(|rate| rate.per_second.get()))
            }
            other => panic!("{other:?}"),
        };
        let all: Vec<_> = changes("rng", &old, &new).iter().map(of).collect();
        let (send, receive) = (Direction::Send, Direction::Receive);
        assert_eq!(all, [(send, None), (receive, None), (send, Some(2)), (receive, Some(2))]);
        let all: Vec<_> = changes("rng", &old, &config(&[])).iter().map(of).collect();
        assert_eq!(all, [(send, None), (receive, None)]);
    }

    #[test]
    fn disk_is_always_asked_for_its_size() {
        let config = config(&[]);
        assert_eq!(changes("rootfs", &config, &config), [Change::DiskSize]);
    }

    #[test]
    fn balloon_gets_its_new_size_and_nothing_else_of_it_changes() {
        let with = |text: &str| {
            let balloon = Some(text.parse().expect(text));
            VmConfig { balloon, ..config(&[]) }
        };
        let (old, new) = (with("size=8M"), with("size=16M"));
        assert_eq!(changes("balloon", &old, &new), [Change::BalloonTarget(16)]);
        assert_eq!(changes("balloon", &old, &old), []);
        assert!(fixed_differences(&old, &new).is_empty());
        let other = with("size=8M,deflate-on-oom=off");
        assert_eq!(fixed_differences(&old, &other), ["balloon"]);
    }

    #[test]
    fn keys_that_cannot_change_are_named() {
        let (old, mut new) = (config(&[]), config(&["device=rng,ops=2"]));
        assert!(fixed_differences(&old, &new).is_empty());
        new.cpus = 2;
        new.initrd = Some("initrd".into());
        assert_eq!(fixed_differences(&old, &new), ["cpus", "initrd"]);
    }
}
