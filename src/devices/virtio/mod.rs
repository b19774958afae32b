//! Virtio: the transport, the rings, and the devices behind them.

pub mod balloon;
pub mod batch;
pub mod block;
pub mod chain;
pub mod console;
pub mod device;
pub mod events;
pub mod iovec;
pub mod metrics;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
pub mod thread;
pub mod throttle;
pub mod vsock;
pub mod window;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod races;
#[cfg(any(test, fuzzing))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use device::{
    Activation, BackendFd, Change, Progress, Signal, UpdateError, VirtioDevice, Visible,
};
pub use events::DeviceEvents;
pub use metrics::DeviceMetrics;
pub use mmio::MmioTransport;
pub use thread::DeviceThreads;
pub use throttle::Direction;
pub use window::MmioWindow;
