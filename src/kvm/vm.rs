//! A virtual machine in the kernel: memory slots, interrupt lines, doorbells.

// UNSAFETY: KVM is told where guest memory is mapped in this process.
#![expect(unsafe_code)]

use std::io;

use kvm_bindings::{KVM_API_VERSION, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use thiserror::Error;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::Interrupt;
use crate::memory::GuestMemory;

/// Why KVM could not be used, or refused a part of the machine.
#[derive(Debug, Error)]
pub enum VmError {
    /// /dev/kvm cannot be opened.
    #[error("open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// Another KVM API than the one stable since Linux 2.6.22.
    #[error("/dev/kvm speaks API version {0}, not {KVM_API_VERSION}")]
    ApiVersion(i32),
    /// A capability every supported host has.
    #[error("this host's KVM has no {0}")]
    Capability(&'static str),
    /// An ioctl failed.
    #[error("{what}")]
    Ioctl {
        /// What was being done.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// No eventfd could be made.
    #[error("create an eventfd")]
    EventFd(#[source] io::Error),
}

fn failed(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Ioctl { what, source }
}

/// Opens /dev/kvm and checks what every machine here needs of it.
///
/// # Errors
/// Missing, not permitted, or too old.
pub fn open_kvm() -> Result<Kvm, VmError> {
    let kvm = Kvm::new().map_err(VmError::Open)?;
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(VmError::ApiVersion(version));
    }
    for (cap, name) in [
        (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
        (Cap::Irqfd, "KVM_CAP_IRQFD"),
        (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
        (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(VmError::Capability(name));
        }
    }
    Ok(kvm)
}

/// A VM and the memory it was given.
pub struct Vm {
    fd: VmFd,
    mem: GuestMemory,
}

impl Vm {
    /// Creates a VM whose memory is `mem`. The slots come before everything else: once an
    /// interrupt controller exists, adding one waits for a grace period of several
    /// milliseconds.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn new(kvm: &Kvm, mem: GuestMemory) -> Result<Self, VmError> {
        let fd = loop {
            match kvm.create_vm() {
                // A signal may interrupt the creation; nothing is left behind by it.
                Err(e) if e.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
                other => break other.map_err(failed("create a VM"))?,
            }
        };
        let vm = Self { fd, mem };
        vm.map_memory()?;
        Ok(vm)
    }

    /// The KVM file descriptor, for the architecture's set-up.
    pub fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.mem
    }

    fn map_memory(&self) -> Result<(), VmError> {
        for (slot, region) in (0..).zip(self.mem.iter()) {
            let host = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|_| VmError::Capability("mapped guest memory"))?;
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: host.addr().try_into().unwrap_or(0),
            };
            // SAFETY: the region is a live mapping of exactly this size, owned by `self.mem`,
            // which is kept as long as the VM's file descriptor.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(failed("register guest memory"))?;
        }
        Ok(())
    }

    /// An interrupt line to the guest: edges on `gsi`.
    ///
    /// # Errors
    /// No eventfd, or KVM refuses the line.
    pub fn irq_line(&self, gsi: u32) -> Result<IrqLine, VmError> {
        let event = EventFd::new(EFD_NONBLOCK).map_err(VmError::EventFd)?;
        self.fd.register_irqfd(&event, gsi).map_err(failed("register an irqfd"))?;
        Ok(IrqLine(event))
    }

    /// Has the kernel write `doorbell` when the guest writes the 32-bit `value` at the guest
    /// physical address `addr`, without an exit to this process.
    ///
    /// # Errors
    /// KVM refuses.
    pub fn ring(&self, doorbell: &EventFd, addr: u64, value: u32) -> Result<(), VmError> {
        self.fd
            .register_ioevent(doorbell, &IoEventAddress::Mmio(addr), value)
            .map_err(failed("register an ioeventfd"))
    }
}

/// An irqfd: writing it raises an edge in the guest.
#[derive(Debug)]
pub struct IrqLine(EventFd);

impl Interrupt for IrqLine {
    fn trigger(&self) {
        // The write fails only when the counter is full, that is, when an edge is pending.
        let _ = self.0.write(1);
    }
}

impl vm_superio::Trigger for IrqLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        Interrupt::trigger(self);
        Ok(())
    }
}
