//! A device's register window as the vCPUs reach it.

use std::sync::{Arc, Mutex};

use super::device::Signal;
use super::mmio::{INTERRUPT_ACK, INTERRUPT_STATUS, MmioTransport};
use crate::bus::{BusDevice, SharedDevice, lock};

/// The window of a transport.
///
/// Its interrupt registers are served without the transport's lock: a driver reads and writes them
/// in every interrupt, and the event loop holds the lock as long as the host takes for a request.
pub struct MmioWindow {
    signal: Arc<Signal>,
    transport: Arc<Mutex<MmioTransport>>,
}

impl MmioWindow {
    /// The window of `transport`.
    pub fn new(transport: Arc<Mutex<MmioTransport>>) -> Self {
        let signal = lock(&transport).signal().clone();
        Self { signal, transport }
    }
}

impl SharedDevice for MmioWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset == INTERRUPT_STATUS => *word = self.signal.status().to_le_bytes(),
            _ => lock(&self.transport).read(offset, data),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        match <[u8; 4]>::try_from(data) {
            Ok(word) if offset == INTERRUPT_ACK => {
                self.signal.acknowledge(u32::from_le_bytes(word));
            }
            _ => lock(&self.transport).write(offset, data),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::spawn;
    use std::time::Duration;

    use super::*;
    use crate::bus::Interrupt;
    use crate::devices::virtio::rng::Rng;
    use crate::memory::GuestMemory;

    struct NoLine;

    impl Interrupt for NoLine {
        fn trigger(&self) {}
    }

    #[test]
    fn interrupt_is_acknowledged_while_the_device_is_busy() {
        let signal = Signal::new(Box::new(NoLine));
        let transport = MmioTransport::new(Box::new(Rng::new()), GuestMemory::default(), signal);
        let transport = Arc::new(Mutex::new(transport.unwrap()));
        let window = MmioWindow::new(transport.clone());
        let busy = lock(&transport);
        busy.signal().used_buffer();

        let (done, answer) = channel();
        let vcpu = spawn(move || {
            let mut status = [0; 4];
            window.read(INTERRUPT_STATUS, &mut status);
            window.write(INTERRUPT_ACK, &status);
            done.send(status).unwrap();
            // What is not theirs goes to the device, once that has time.
            let mut magic = [0; 4];
            window.read(0, &mut magic);
            magic
        });
        assert_eq!(answer.recv_timeout(Duration::from_secs(5)), Ok([1, 0, 0, 0]));
        assert_eq!(busy.signal().status(), 0);
        drop(busy);
        assert_eq!(&vcpu.join().unwrap(), b"virt");
    }
}
