//! Virtio: the transport, the rings, and the devices behind them.

pub mod block;
pub mod chain;
pub mod device;
pub mod events;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;

pub use device::{Activation, BackendFd, Progress, Signal, VirtioDevice};
pub use events::DeviceEvents;
pub use mmio::MmioTransport;
