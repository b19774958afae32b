//! Devices whose work may wait for the host, each served on a thread of its own.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::Builder;
use std::time::Duration;

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use tracing::{error, warn};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::signal::block_signal;

use super::DeviceEvents;
use super::mmio::MmioTransport;
use crate::bus::lock;

/// Stack of a device's thread in bytes: ample, and too small to be backed by a huge page.
const STACK_SIZE: usize = 256 << 10;
/// Events taken at a time: a device has few descriptors.
const EVENTS: usize = 8;
/// Signals to the process, which the kernel hands to any thread that does not block them: one that
/// hangs would keep them.
const SIGNALS: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGPWR];
/// "Power failure".
const SIGPWR: i32 = 30;
/// How long the end of a machine waits for threads. One that hangs in the host's storage is left
/// to the end of the process.
const PATIENCE: Duration = Duration::from_millis(100);

/// The threads that devices were given. Dropping it ends them.
pub struct DeviceThreads {
    closing: Arc<EventFd>,
    /// Held by each thread as well: when all are gone, so are the threads.
    alive: Option<Sender<Infallible>>,
    ended: Receiver<Infallible>,
}

impl DeviceThreads {
    /// No thread yet.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Self> {
        let closing = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let (alive, ended) = channel();
        Ok(Self { closing, alive: Some(alive), ended })
    }

    /// An adapter for the event loop that serves the device behind `transport`, from its first
    /// event on, on a thread called `name`. A device that is never used costs no thread.
    pub fn serve(&self, transport: &Arc<Mutex<MmioTransport>>, name: String) -> LazyThread {
        let kicks = lock(transport).kicks().iter().map(AsRawFd::as_raw_fd).collect();
        LazyThread {
            name,
            kicks,
            transport: transport.clone(),
            here: DeviceEvents::new(transport.clone()),
            closing: self.closing.clone(),
            alive: self.alive.clone(),
        }
    }
}

impl Drop for DeviceThreads {
    fn drop(&mut self) {
        // Nobody reads the counter: every thread sees it.
        let _ = self.closing.write(1);
        self.alive = None;
        let _ = self.ended.recv_timeout(PATIENCE);
    }
}

/// Hands a device over to a thread at its first event.
pub struct LazyThread {
    name: String,
    kicks: Vec<RawFd>,
    transport: Arc<Mutex<MmioTransport>>,
    /// Serves the device on the event loop when there is no thread to be had.
    here: DeviceEvents,
    closing: Arc<EventFd>,
    /// `None` once there is a thread, or will never be one.
    alive: Option<Sender<Infallible>>,
}

impl LazyThread {
    fn start(&self, alive: Sender<Infallible>) -> io::Result<()> {
        let events = EventManager::new_with_capacity(EVENTS);
        let events = events.map_err(|e| io::Error::other(e.to_string()))?;
        let served = Served {
            device: DeviceEvents::new(self.transport.clone()),
            closing: self.closing.clone(),
            closed: false,
        };
        Builder::new().name(self.name.clone()).stack_size(STACK_SIZE).spawn(move || {
            serve(events, served);
            // The last reference to the device may be this thread's: it goes before the sign that
            // the thread has ended.
            drop(alive);
        })?;
        Ok(())
    }
}

impl MutEventSubscriber for LazyThread {
    fn init(&mut self, ops: &mut EventOps) {
        self.here.init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        // The kick that woke us is still pending for the thread: nobody reads its counter.
        match self.alive.take().map(|alive| self.start(alive)) {
            Some(Ok(())) => {
                for kick in &self.kicks {
                    let _ = ops.remove(Events::empty_raw(*kick));
                }
            }
            Some(Err(e)) => {
                warn!("no thread for {}, whose work may now delay other devices: {e}", self.name);
                self.here.process(events, ops);
            }
            None => self.here.process(events, ops),
        }
    }
}

/// A device on its thread.
struct Served {
    device: DeviceEvents,
    closing: Arc<EventFd>,
    closed: bool,
}

fn serve(mut events: EventManager<Served>, served: Served) {
    for signal in SIGNALS {
        if let Err(e) = block_signal(signal) {
            warn!("a device's thread cannot leave signal {signal} to others: {e}");
        }
    }
    let id: SubscriberId = events.add_subscriber(served);
    while events.subscriber_mut(id).is_ok_and(|served| !served.closed) {
        if let Err(e) = events.run() {
            error!("a device is served no more: {e}");
            return;
        }
    }
}

impl MutEventSubscriber for Served {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(&*self.closing, EventSet::IN)) {
            error!("cannot wait for the end of the machine: {e}");
        }
        self.device.init(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.closing.as_raw_fd() {
            self.closed = true;
        } else {
            self.device.process(events, ops);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;
    use crate::devices::virtio::testing::{DATA, Driver, WRITE};
    use crate::devices::virtio::tests::KINDS;

    /// An event loop with a disk in it, and the driver of that.
    struct Set {
        driver: Driver,
        transport: Arc<Mutex<MmioTransport>>,
        events: EventManager<LazyThread>,
        threads: DeviceThreads,
    }

    fn set(name: &str, change: impl FnOnce(&mut LazyThread)) -> Set {
        let kind = KINDS.iter().find(|kind| kind.name == "block").unwrap();
        let mut driver = kind.started(0);
        let transport = Arc::new(Mutex::new(driver.take_transport()));
        let threads = DeviceThreads::new().unwrap();
        let mut events = EventManager::new().unwrap();
        let mut lazy = threads.serve(&transport, name.to_owned());
        change(&mut lazy);
        events.add_subscriber(lazy);
        Set { driver, transport, events, threads }
    }

    impl Set {
        /// Offers a read and kicks.
        fn ask(&mut self) {
            self.driver.poke(DATA, &[0; 16]);
            self.driver.chain(0, &[(DATA, 16, 0), (DATA + 0x1000, 513, WRITE)]);
            lock(&self.transport).kicks()[0].write(1).unwrap();
        }

        /// Whether the read is answered before long.
        fn answered(&mut self) -> bool {
            let asked = Instant::now();
            while asked.elapsed() < Duration::from_secs(10) {
                if !self.driver.used(0).is_empty() {
                    return true;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            false
        }
    }

    /// What /proc/PID/task/TID/status says of the thread `name`, while there is one.
    fn status(name: &str) -> Option<String> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        let status = tasks.flat_map(|task| fs::read_to_string(task.unwrap().path().join("status")));
        status.into_iter().find(|status| status.contains(&format!("Name:\t{name}\n")))
    }

    fn has_thread(name: &str) -> bool {
        status(name).is_some()
    }

    /// B13.
    #[test]
    fn thread_serves_the_device_from_its_first_event_on_and_ends_with_the_machine() {
        let mut set = set("testdisk7", |_| {});
        assert!(!has_thread("testdisk7"), "a thread before the first event");
        for _ in 0..3 {
            set.ask();
            set.events.run_with_timeout(0).unwrap();
            assert!(set.answered());
            assert!(has_thread("testdisk7"));
        }
        let status = status("testdisk7").unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        let blocked = u64::from_str_radix(blocked.trim(), 16).unwrap();
        assert!(SIGNALS.iter().all(|signal| blocked >> (signal - 1) & 1 == 1), "{blocked:x}");
        set.ask();
        assert_eq!(set.events.run_with_timeout(0).unwrap(), 0, "the event loop still listens");
        assert!(set.answered());
        drop((set.events, set.threads));
        assert_eq!(Arc::strong_count(&set.transport), 1, "the thread still has the device");
    }

    #[test]
    fn device_without_a_thread_is_served_by_the_event_loop() {
        let mut set = set("testdisk8", |lazy| lazy.alive = None);
        for _ in 0..3 {
            set.ask();
            assert_eq!(set.events.run_with_timeout(0).unwrap(), 1);
            assert_eq!(set.driver.used(0).len(), 1);
        }
        assert!(!has_thread("testdisk8"));
    }
}
