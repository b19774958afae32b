//! The one event adapter: from file descriptors of the event loop to any virtio device.

use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use tracing::error;

use super::device::BackendFd;
use super::mmio::MmioTransport;
use crate::bus::lock;

/// Tells backend descriptors from queue kicks in the data word of an event.
const BACKEND: u32 = 1 << 16;

/// Delivers kicks and backend readiness to a device.
pub struct DeviceEvents {
    transport: Arc<Mutex<MmioTransport>>,
    registered: Vec<BackendFd>,
    wanted: Vec<BackendFd>,
}

impl DeviceEvents {
    /// An adapter for the device behind `transport`.
    pub fn new(transport: Arc<Mutex<MmioTransport>>) -> Self {
        Self { transport, registered: Vec::new(), wanted: Vec::new() }
    }

    /// Waits for what the device wants now, and for nothing else: a descriptor that stays
    /// ready while nobody handles it would spin the loop.
    fn follow_backends(&mut self, ops: &mut EventOps) {
        if self.registered == self.wanted {
            return;
        }
        for old in self.registered.drain(..) {
            let _ = ops.remove(Events::empty_raw(old.fd));
        }
        for (index, new) in self.wanted.iter().enumerate() {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, new.readable);
            set.set(EventSet::OUT, new.writable);
            if set.is_empty() {
                continue;
            }
            let data = BACKEND | u32::try_from(index).unwrap_or(u32::MAX);
            match ops.add(Events::with_data_raw(new.fd, data, set)) {
                Ok(()) => {}
                Err(e) => error!("cannot wait for descriptor {}: {e}", new.fd),
            }
        }
        self.registered.clone_from(&self.wanted);
    }
}

impl MutEventSubscriber for DeviceEvents {
    fn init(&mut self, ops: &mut EventOps) {
        let transport = lock(&self.transport);
        for (index, kick) in transport.kicks().iter().enumerate() {
            let data = u32::try_from(index).unwrap_or(u32::MAX);
            // On the edge: every kick is one event, and nobody needs to read the counter.
            let set = EventSet::IN | EventSet::EDGE_TRIGGERED;
            if let Err(e) = ops.add(Events::with_data(kick, data, set)) {
                error!("cannot wait for a queue: {e}");
            }
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        {
            let mut transport = lock(&self.transport);
            let data = events.data();
            let index = usize::try_from(data & !BACKEND).unwrap_or(usize::MAX);
            if data & BACKEND == 0 {
                transport.process_queue(index);
            } else {
                transport.process_backend(index);
            }
            transport.backend_fds(&mut self.wanted);
        }
        self.follow_backends(ops);
    }
}

#[cfg(test)]
mod tests {
    use event_manager::{EventManager, SubscriberOps};

    use super::*;
    use crate::devices::virtio::testing::{DATA, WRITE};
    use crate::devices::virtio::tests::KINDS;

    type Manager = EventManager<DeviceEvents>;

    /// Runs the loop until nothing is ready; tells how many events there were.
    fn settle(manager: &mut Manager) -> usize {
        let mut events = 0;
        for _ in 0..1000 {
            match manager.run_with_timeout(0).unwrap() {
                0 => return events,
                n => events += n,
            }
        }
        panic!("a descriptor stays ready");
    }

    #[test]
    fn kick_and_backend_descriptor_reach_the_device_and_are_heard_only_while_wanted() {
        let kind = KINDS.iter().find(|kind| kind.name == "net receiving").unwrap();
        let mut driver = kind.started(0);
        let transport = Arc::new(Mutex::new(driver.take_transport()));
        let mut manager = Manager::new().unwrap();
        manager.add_subscriber(DeviceEvents::new(transport.clone()));
        settle(&mut manager);

        // A frame comes back to a device without receive buffers: nobody listens for it.
        let frame = driver.chain(1, &[(DATA, 72, 0)]);
        lock(&transport).kicks()[1].write(1).unwrap();
        settle(&mut manager);
        assert_eq!(driver.used(1), [(frame, 0)]);
        assert_eq!(manager.run_with_timeout(0).unwrap(), 0);

        // Each kick is heard, though nobody reads the counters.
        for _ in 0..3 {
            let frame = driver.chain(1, &[(DATA, 72, 0)]);
            assert_eq!(settle(&mut manager), 0);
            lock(&transport).kicks()[1].write(1).unwrap();
            assert_eq!(settle(&mut manager), 1);
            assert_eq!(driver.used(1), [(frame, 0)]);
        }

        let buffer = driver.chain(0, &[(DATA + 0x1000, 2000, WRITE)]);
        lock(&transport).kicks()[0].write(1).unwrap();
        settle(&mut manager);
        assert_eq!(driver.used(0), [(buffer, 72)]);

        // With a buffer left over, the next frame is heard by itself.
        for _ in 0..4 {
            driver.chain(0, &[(DATA + 0x1000, 2000, WRITE)]);
        }
        lock(&transport).kicks()[0].write(1).unwrap();
        settle(&mut manager);
        assert_eq!(driver.used(0).len(), 3);
        driver.chain(1, &[(DATA, 72, 0)]);
        lock(&transport).kicks()[1].write(1).unwrap();
        settle(&mut manager);
        assert_eq!(driver.used(0).len(), 1);
    }
}
