//! What is counted about a device, from both sides of its transport.

use std::sync::Arc;

use super::device::Signal;
use super::throttle::{Throttle, Throttles};
use crate::metrics::Counters;

/// What is counted about a device, on both sides of its transport.
pub struct DeviceMetrics {
    signal: Arc<Signal>,
    throttles: Throttles,
    device: Option<Arc<dyn Counters>>,
}

impl DeviceMetrics {
    /// The counters of the transport, of what it limits, and of the `device` itself.
    pub(super) fn new(
        signal: Arc<Signal>,
        throttles: Throttles,
        device: Option<Arc<dyn Counters>>,
    ) -> Self {
        Self { signal, throttles, device }
    }
}

impl Counters for DeviceMetrics {
    fn each(&self, report: &mut dyn FnMut(&'static str, u64)) {
        self.signal.counters().each(report);
        report("throttled", self.throttles.both().into_iter().map(Throttle::waits).sum());
        if let Some(device) = &self.device {
            device.each(report);
        }
    }
}
