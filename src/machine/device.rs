//! A virtio device of the machine, by its name.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use super::MachineError;
use crate::config::{Limit, LimitDirection, MemorySize, VmConfig};
use crate::devices::virtio::{Change, DeviceMetrics, Direction, MmioTransport, UpdateError};
use crate::rate_limiter::Rate;

/// How long a change waits for a device that is busy with its host.
const PATIENCE: Duration = Duration::from_millis(100);

/// A virtio device of the machine.
pub struct Device {
    name: String,
    transport: Arc<Mutex<MmioTransport>>,
    metrics: DeviceMetrics,
}

impl Device {
    pub(super) fn new(name: String, transport: MmioTransport) -> Self {
        let metrics = transport.metrics();
        Self { name, transport: Arc::new(Mutex::new(transport)), metrics }
    }

    /// Its name: see [`VmConfig::device_names`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The transport with the device in it.
    pub fn transport(&self) -> &Arc<Mutex<MmioTransport>> {
        &self.transport
    }

    /// What is counted about it, to be read without waiting for it.
    pub fn metrics(&self) -> &DeviceMetrics {
        &self.metrics
    }

    /// Changes the device while the machine runs.
    ///
    /// # Errors
    /// The device cannot do it, or waits for its host: it is as before then.
    pub fn update(&self, change: &Change) -> Result<(), UpdateError> {
        lock_soon(&self.transport).ok_or(UpdateError::Busy)?.update(change)
    }

    /// Sets the limits that `config` has for the device.
    pub(super) fn limit(&self, config: &VmConfig) -> Result<(), MachineError> {
        for change in limits(config, &self.name) {
            let failed = |source| MachineError::Limit { device: self.name.clone(), source };
            self.update(&change).map_err(failed)?;
        }
        Ok(())
    }
}

/// Locks `mutex`, unless that takes longer than [`PATIENCE`].
fn lock_soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    let start = Instant::now();
    loop {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => return None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// The limits of `config` on the device `name`, where there are any.
pub fn limits(config: &VmConfig, name: &str) -> impl Iterator<Item = Change> {
    let directions =
        [(LimitDirection::Send, Direction::Send), (LimitDirection::Receive, Direction::Receive)];
    directions.into_iter().filter_map(move |(asked, direction)| {
        config.limit(name, asked).map(|limit| change(limit, direction))
    })
}

/// The change that lifts every limit in `direction`.
pub fn no_limit(direction: Direction) -> Change {
    Change::Limit { direction, bytes: None, operations: None }
}

fn change(limit: &Limit, direction: Direction) -> Change {
    let bytes = |size: Option<MemorySize>| size.map(MemorySize::bytes);
    Change::Limit {
        direction,
        bytes: rate(bytes(limit.bandwidth), bytes(limit.bandwidth_burst)),
        operations: rate(limit.ops, limit.ops_burst),
    }
}

/// A rate; what is not used of a second adds up unless a burst is given.
fn rate(per_second: Option<u64>, burst: Option<u64>) -> Option<Rate> {
    let per_second = NonZeroU64::new(per_second?)?;
    let burst = burst.and_then(NonZeroU64::new).unwrap_or(per_second);
    Some(Rate { per_second, burst })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PartialConfig;

    fn config(limit: &str) -> VmConfig {
        let partial = PartialConfig {
            kernel: Some("vmlinux".into()),
            limit: vec![limit.parse().expect(limit)],
            ..PartialConfig::default()
        };
        partial.resolve().expect("a kernel is given")
    }

    #[test]
    fn limit_of_both_directions_is_a_change_for_each() {
        let config = config("device=rng,bandwidth=1M,ops=5,ops-burst=9");
        let number = |n| NonZeroU64::new(n).expect("not zero");
        let expected = [Direction::Send, Direction::Receive].map(|direction| Change::Limit {
            direction,
            bytes: Some(Rate { per_second: number(1 << 20), burst: number(1 << 20) }),
            operations: Some(Rate { per_second: number(5), burst: number(9) }),
        });
        assert!(limits(&config, "rng").eq(expected));
        assert_eq!(limits(&config, "net0").count(), 0);
    }

    #[test]
    fn device_that_is_busy_is_not_waited_for() {
        let mutex = Mutex::new(());
        let held = lock_soon(&mutex).expect("free");
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| lock_soon(&mutex).is_none()).join().expect("no panic");
            assert!(busy);
        });
        drop(held);
        assert!(lock_soon(&mutex).is_some());
    }
}
