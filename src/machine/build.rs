//! Building a machine: the order of the steps is the order in which KVM is fastest.

use std::sync::{Arc, Mutex};

use kvm_ioctls::VcpuFd;
use vm_memory::GuestAddress;

use super::cmdline::kernel_cmdline;
use super::console::HostConsole;
use super::host::HostResources;
use super::{Device, Machine, MachineError, Owner};
use crate::arch::{
    self, BootData, Entry, HostCpu, InterruptController, Placement, PlatformDevice, layout,
};
use crate::bus::SharedDevice;
use crate::config::{MemorySize, VmConfig};
use crate::devices::console::{ConsoleOutput, InputSink};
use crate::devices::power::{I8042, PanicPort, PowerEvent, PowerRegister, PowerSink};
use crate::devices::rtc::Clock;
use crate::devices::serial::SerialPort;
use crate::devices::virtio::mmio::QUEUE_NOTIFY;
use crate::devices::virtio::{MmioTransport, MmioWindow, Signal, VirtioDevice};
use crate::kvm::{Buses, IrqLine, Vm, open_kvm};
use crate::memory::GuestMemory;

impl Machine {
    /// Builds the computer that `config` describes, up to the moment before its first
    /// instruction. It reports its end to `owner`.
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind on the host.
    pub fn build<O: Owner + 'static>(
        config: &VmConfig,
        owner: &Arc<O>,
    ) -> Result<Self, MachineError> {
        let mut host = HostResources::open(config)?;
        let kvm = open_kvm()?;
        let host_cpu = HostCpu::probe(&kvm)?;

        let vm = Vm::new(&kvm, guest_memory(config.memory, host_cpu.address_bits())?)?;
        let (vcpus, interrupt_controller) =
            arch::create_vcpus(vm.fd(), config.cpus, &config.cpu_features)?;

        let mut buses = Buses::default();
        let serial = attach_serial(&vm, &mut buses, &host.console.output)?;
        attach_platform(&mut buses, owner)?;
        let (devices, placements) =
            attach_virtio(&vm, &mut buses, config, std::mem::take(&mut host.devices))?;
        let power_button =
            arch::power_button(config.acpi).map(|gsi| vm.irq_line(gsi)).transpose()?.map(Arc::new);

        let guest = Guest { config, interrupt_controller, virtio_mmio: &placements };
        let entry = load(&guest, &mut host, vm.memory())?;
        configure_vcpus(&vcpus, &host_cpu, &entry)?;

        let HostConsole { output, input, end } = host.console;
        let console_input = input.map_or(serial as Arc<dyn InputSink>, |input| input);
        Ok(Self {
            running: Vec::with_capacity(vcpus.len()),
            waiting: vcpus,
            buses: Arc::new(buses),
            devices,
            console: output,
            console_input,
            console_end: end,
            power_button,
            owner: owner.clone(),
            vm,
        })
    }
}

/// Memory of `size` for a guest whose physical addresses have `bits` bits.
fn guest_memory(size: MemorySize, bits: u8) -> Result<GuestMemory, MachineError> {
    let bytes = size.bytes();
    let mib = bytes >> 20;
    let regions = arch::memory_regions(bytes);
    if !within(&regions, bits) {
        return Err(MachineError::AddressSpace { mib, bits });
    }
    GuestMemory::from_ranges(&regions).map_err(|source| MachineError::Memory { mib, source })
}

/// Whether memory ends inside of addresses of `bits` bits.
fn within(regions: &[(GuestAddress, usize)], bits: u8) -> bool {
    let Some(limit) = 1u64.checked_shl(bits.into()) else { return true };
    regions.iter().all(|(start, length)| {
        let end = u64::try_from(*length).ok().and_then(|length| start.0.checked_add(length));
        end.is_some_and(|end| end <= limit)
    })
}

fn attach_serial(
    vm: &Vm,
    buses: &mut Buses,
    console: &Arc<ConsoleOutput>,
) -> Result<Arc<Mutex<SerialPort<IrqLine>>>, MachineError> {
    let line = vm.irq_line(layout::SERIAL_GSI)?;
    let port = SerialPort::new(line, console.clone()).map_err(MachineError::EventFd)?;
    let port = Arc::new(Mutex::new(port));
    let place = arch::SERIAL;
    buses.of(place.space).insert(place.base, place.size, port.clone())?;
    Ok(port)
}

/// Attaches what every machine of the architecture has.
fn attach_platform<O: PowerSink + 'static>(
    buses: &mut Buses,
    owner: &Arc<O>,
) -> Result<(), MachineError> {
    for (device, place) in arch::PLATFORM {
        let device = platform_device(*device, owner.clone());
        buses.of(place.space).insert(place.base, place.size, device)?;
    }
    Ok(())
}

fn platform_device(device: PlatformDevice, sink: Arc<dyn PowerSink>) -> Arc<dyn SharedDevice> {
    let register =
        |value, event, sink| Arc::new(Mutex::new(PowerRegister::new(value, event, sink)));
    match device {
        PlatformDevice::KeyboardController => Arc::new(Mutex::new(I8042::new(sink))),
        PlatformDevice::PowerOffRegister(value) => register(value, PowerEvent::PowerOff, sink),
        PlatformDevice::ResetRegister(value) => register(value, PowerEvent::Reset, sink),
        PlatformDevice::PanicNotifier => Arc::new(Mutex::new(PanicPort::new(sink))),
        PlatformDevice::RealTimeClock => Arc::new(Mutex::new(Clock::default())),
    }
}

/// Puts each device on the bus, behind its own window, interrupt line and doorbells.
fn attach_virtio(
    vm: &Vm,
    buses: &mut Buses,
    config: &VmConfig,
    devices: Vec<Box<dyn VirtioDevice>>,
) -> Result<(Vec<Device>, Vec<Placement>), MachineError> {
    let (mut attached, mut placements) = (Vec::new(), Vec::new());
    let mut names = config.device_names().into_iter();
    for (index, device) in devices.into_iter().enumerate() {
        let name = names.next().ok_or(MachineError::TooManyDevices(index))?;
        let place =
            arch::virtio_mmio_placement(index).ok_or(MachineError::TooManyDevices(index))?;
        let signal = Signal::new(Box::new(vm.irq_line(place.gsi)?));
        let transport = MmioTransport::new(device, vm.memory().clone(), signal)
            .map_err(MachineError::EventFd)?;
        for (queue, kick) in (0..).zip(transport.kicks()) {
            vm.ring(kick, place.base + QUEUE_NOTIFY, queue)?;
        }
        let device = Device::new(name, transport);
        device.limit(config)?;
        let window = Arc::new(MmioWindow::new(device.transport().clone()));
        buses.mmio.insert(place.base, place.size, window)?;
        attached.push(device);
        placements.push(place);
    }
    Ok((attached, placements))
}

/// What a kernel is told about.
struct Guest<'a> {
    config: &'a VmConfig,
    interrupt_controller: InterruptController,
    virtio_mmio: &'a [Placement],
}

/// Fills guest memory with the kernel, the initial RAM disk and what the kernel is told.
fn load(
    guest: &Guest<'_>,
    host: &mut HostResources,
    mem: &GuestMemory,
) -> Result<Entry, MachineError> {
    let config = guest.config;
    let named = |path: &std::path::Path| path.display().to_string();
    let kernel = arch::load_kernel(mem, &host.kernel, config.boot_protocol)
        .map_err(|source| MachineError::Kernel { path: named(&config.kernel), source })?;
    let initrd = match (&mut host.initrd, &config.initrd) {
        (Some(file), Some(path)) => Some(
            arch::load_initrd(mem, file, &kernel)
                .map_err(|source| MachineError::Initrd { path: named(path), source })?,
        ),
        _ => None,
    };
    let cmdline = kernel_cmdline(config);
    let data = BootData {
        kernel: &kernel,
        cmdline: &cmdline,
        initrd,
        interrupt_controller: guest.interrupt_controller,
        acpi: config.acpi,
        cpus: config.cpus,
        cpu_features: &config.cpu_features,
        serial: true,
        virtio_mmio: guest.virtio_mmio,
    };
    Ok(arch::write_boot_data(mem, &data)?)
}

fn configure_vcpus(
    vcpus: &[VcpuFd],
    host_cpu: &HostCpu,
    entry: &Entry,
) -> Result<(), MachineError> {
    let count = u8::try_from(vcpus.len()).unwrap_or(u8::MAX);
    for (index, vcpu) in (0..).zip(vcpus) {
        arch::configure_vcpu(vcpu, host_cpu, index, count, entry)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K7.
    #[test]
    fn memory_beyond_the_guests_addresses_is_refused() {
        assert!(guest_memory(MemorySize::from_mib(32), 32).is_ok());
        let error = guest_memory(MemorySize::from_mib(4096), 32).unwrap_err().to_string();
        assert_eq!(error, "4096 MiB of guest memory: this host's guests have 32 bits of addresses");
    }

    /// K7.
    #[test]
    fn memory_may_end_where_addresses_do_and_no_further() {
        for bits in [32, 36, 40, 52] {
            let largest = (1u64 << bits) - (2 << 30);
            let region = |size| [(GuestAddress(2 << 30), usize::try_from(size).unwrap())];
            assert!(within(&region(largest), bits));
            assert!(!within(&region(largest + 1), bits));
        }
        assert!(!within(&[(GuestAddress(4096), usize::MAX)], 52));
        assert!(within(&[(GuestAddress(0), 4096)], 64));
    }
}
