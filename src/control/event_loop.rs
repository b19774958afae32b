//! The event loop: devices, console, signals, and the end.

use std::sync::{Arc, Once};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use tracing::{error, warn};

use super::console::{ConsoleEvents, SizeEvents};
use super::end::{End, Ending};
use super::metrics::Metrics;
use super::reload::Reload;
use super::signals::{Requests, Signals};
use super::trim::give_back_memory;
use super::{ControlError, host};
use crate::bus::lock;
use crate::config::{Console, VmConfig};
use crate::devices::virtio::{DeviceEvents, DeviceThreads};
use crate::machine::{ConsoleEnd, Machine};

/// How long nothing happens before the vCPUs are asked whether they sleep for good.
const IDLE_MS: i32 = 1000;
/// The same, of a guest whose kernel has panicked.
const PANICKED_IDLE_MS: i32 = 50;

/// Waits for everything a machine needs its owner for.
pub(super) struct EventLoop {
    events: EventManager<Box<dyn MutEventSubscriber>>,
    ending: Arc<Ending>,
    requests: Arc<Requests>,
    metrics: Option<Metrics>,
    /// Declared after the subscribers, which are done with it when it ends the threads.
    _threads: DeviceThreads,
    /// Once, when nothing is urgent any more.
    trim: Once,
}

impl EventLoop {
    pub(super) fn new(
        config: &VmConfig,
        machine: &Machine,
        console: ConsoleEnd,
        ending: &Arc<Ending>,
    ) -> Result<Self, ControlError> {
        let mut events: EventManager<Box<dyn MutEventSubscriber>> =
            EventManager::new().map_err(ControlError::EventLoop)?;
        events.add_subscriber(Box::new(Wake(ending.clone())));
        let requests = Arc::new(Requests::default());
        let signals = Signals::new(ending.clone(), machine.power_button(), requests.clone());
        let signals = signals.map_err(host("catch signals"))?;
        events.add_subscriber(Box::new(signals));
        let threads = DeviceThreads::new().map_err(host("create an eventfd"))?;
        for (index, device) in machine.devices().iter().enumerate() {
            let transport = device.transport();
            let thread = lock(transport).thread_name().map(|name| format!("{name}{index}"));
            events.add_subscriber(match thread {
                Some(name) => Box::new(threads.serve(transport, name)),
                None => Box::new(DeviceEvents::new(transport.clone())),
            });
        }
        if config.console == Console::Virtio
            && let Some(size) = SizeEvents::new(machine).map_err(host("catch signals"))?
        {
            events.add_subscriber(Box::new(size));
        }
        let console = ConsoleEvents::new(machine, console, ending.clone());
        if let Some(console) = console.map_err(host("connect the console"))? {
            events.add_subscriber(Box::new(console));
        }
        let metrics =
            config.metrics.as_deref().map(|path| Metrics::open(path, machine)).transpose()?;
        let ending = ending.clone();
        Ok(Self { events, ending, requests, metrics, _threads: threads, trim: Once::new() })
    }

    /// Runs until the machine ends.
    pub(super) fn run(
        &mut self,
        machine: &Machine,
        reload: &mut Reload,
    ) -> Result<End, ControlError> {
        loop {
            if let Some(end) = self.ending.get() {
                return Ok(end);
            }
            let panicked = self.ending.last_words().is_some();
            let idle = if panicked { PANICKED_IDLE_MS } else { IDLE_MS };
            match self.events.run_with_timeout(idle) {
                // Also after a signal: to ask once more does no harm.
                Ok(0) => self.look_for_sleepers(machine),
                Ok(_) => {}
                Err(e) => return Err(ControlError::EventLoop(e)),
            }
            self.answer_requests(machine, reload);
        }
    }

    fn answer_requests(&mut self, machine: &Machine, reload: &mut Reload) {
        let asked = self.requests.take_metrics();
        match &mut self.metrics {
            Some(metrics) if asked || metrics.is_due() => metrics.write(machine),
            None if asked => warn!("SIGUSR1 asks for metrics, which need --metrics FILE"),
            _ => {}
        }
        if self.requests.take_reload() {
            reload.run(machine);
        }
    }

    /// Lets go of everything, after a last line of metrics.
    pub(super) fn finish(self, machine: &Machine) {
        if let Some(mut metrics) = self.metrics {
            metrics.write(machine);
        }
    }

    /// A guest that halts every vCPU with interrupts disabled would be waited for in vain. The
    /// answer to the question asked now is looked at when the loop is next idle.
    fn look_for_sleepers(&self, machine: &Machine) {
        self.trim.call_once(give_back_memory);
        if machine.vcpus().iter().all(|vcpu| vcpu.asleep_forever()) {
            return self.ending.set(End::Halted);
        }
        machine.vcpus().iter().for_each(|vcpu| vcpu.probe_sleep());
    }
}

/// Wakes the loop when the machine is ending.
struct Wake(Arc<Ending>);

impl MutEventSubscriber for Wake {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(e) = ops.add(Events::new(self.0.wake(), EventSet::IN)) {
            error!("cannot wait for the end of the machine: {e}");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        // The reason is asked for in every round; the event only ends the wait.
        let _ = self.0.wake().read();
    }
}
