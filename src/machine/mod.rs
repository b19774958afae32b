//! The assembled computer: memory, buses, vCPUs and devices, built from a configuration.

mod build;
mod cmdline;
mod console;
mod device;
mod error;
mod host;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;

pub use console::{ConsoleEnd, Pty};
pub use device::{Device, limits, no_limit};
pub use error::MachineError;

use crate::devices::console::{ConsoleOutput, InputSink};
use crate::devices::power::PowerSink;
use crate::kvm::{
    Buses, IrqLine, RunningVcpu, VcpuError, VcpuEvents, VcpuStats, Vm, close_after_exit, start_vcpu,
};

/// How long the end of a machine waits for its vCPUs. One that is at a device whose host does not
/// answer is left to the end of the process.
const PATIENCE: Duration = Duration::from_millis(300);

/// Who owns the machine and hears how it ends.
pub trait Owner: PowerSink + VcpuEvents {}

impl<T: PowerSink + VcpuEvents> Owner for T {}

/// A virtual computer. Dropping it stops its vCPUs.
pub struct Machine {
    // Fields drop in this order: vCPUs, then what they run on.
    running: Vec<RunningVcpu>,
    waiting: Vec<VcpuFd>,
    buses: Arc<Buses>,
    devices: Vec<Device>,
    console: Arc<ConsoleOutput>,
    console_input: Arc<dyn InputSink>,
    console_end: ConsoleEnd,
    power_button: Option<Arc<IrqLine>>,
    owner: Arc<dyn VcpuEvents>,
    vm: Vm,
}

impl Machine {
    /// The virtio devices, in the order the guest finds them.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// What the guest prints on its console: the serial port, and the virtio console where that
    /// is chosen.
    pub fn console(&self) -> &Arc<ConsoleOutput> {
        &self.console
    }

    /// The device that takes what the user types.
    pub fn console_input(&self) -> &Arc<dyn InputSink> {
        &self.console_input
    }

    /// Hands out what the console is connected to.
    pub fn take_console_end(&mut self) -> ConsoleEnd {
        std::mem::replace(&mut self.console_end, ConsoleEnd::Nothing)
    }

    /// The vCPUs that were started.
    pub fn vcpus(&self) -> &[RunningVcpu] {
        &self.running
    }

    /// Opens the statistics of the vCPUs that are not running yet.
    ///
    /// # Errors
    /// The kernel has none, or no descriptor is to be had.
    pub fn vcpu_stats(&self) -> Result<Vec<VcpuStats>, MachineError> {
        let stats = self.waiting.iter().map(VcpuStats::open).collect::<Result<_, _>>();
        stats.map_err(MachineError::Stats)
    }

    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// A thread cannot be made; the vCPUs started so far are stopped when the machine is dropped.
    pub fn start(&mut self) -> Result<(), VcpuError> {
        let run_size = self.vm.fd().run_size();
        for (index, vcpu) in (0..).zip(self.waiting.drain(..)) {
            let (buses, owner) = (self.buses.clone(), self.owner.clone());
            self.running.push(start_vcpu(vcpu, index, run_size, buses, owner)?);
        }
        Ok(())
    }

    /// The line of the power button: an edge is a press. Without ACPI there is none.
    pub fn power_button(&self) -> Option<Arc<IrqLine>> {
        self.power_button.clone()
    }
}

impl Machine {
    /// Stops the vCPUs and releases what other processes can see (locks, interfaces), and
    /// leaves the VM itself to be closed behind the end of this process.
    pub fn close_on_exit(mut self) {
        let vcpus = self.stop();
        close_after_exit(&self.vm, &vcpus);
    }

    fn stop(&mut self) -> Vec<VcpuFd> {
        self.running.iter().for_each(RunningVcpu::stop);
        let deadline = Instant::now() + PATIENCE;
        let stopped = self.running.drain(..).filter_map(|vcpu| vcpu.wait(deadline));
        stopped.chain(self.waiting.drain(..)).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
