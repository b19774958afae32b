//! The interrupt controller (KVM API: Documentation/virt/kvm/devices/arm-vgic.rst, arm-vgic-v3.rst,
//! arm-vgic-its.rst). KVM keeps the devices as long as the VM.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST,
    kvm_create_device, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use rustix::io::Errno;

use super::layout;
use super::pure::fdt::InterruptController;
use super::vcpu::{CpuError, kvm_error, set_attribute};

/// Makes the best controller that KVM has, for the vCPUs that exist.
pub(super) fn create(vm: &VmFd) -> Result<InterruptController, CpuError> {
    if let Some(gic) = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3)? {
        set_address(&gic, KVM_VGIC_V3_ADDR_TYPE_DIST, layout::GIC_DISTRIBUTOR_BASE)?;
        set_address(&gic, KVM_VGIC_V3_ADDR_TYPE_REDIST, layout::REDISTRIBUTOR_BASE)?;
        finish(&gic)?;
        return Ok(InterruptController::V3 { its: create_its(vm)? });
    }
    let gic = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2)?
        .ok_or(CpuError::NoInterruptController)?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_DIST, layout::GIC_DISTRIBUTOR_BASE)?;
    set_address(&gic, KVM_VGIC_V2_ADDR_TYPE_CPU, layout::GICV2_CPU_BASE)?;
    finish(&gic)?;
    Ok(InterruptController::V2)
}

/// Makes the interrupt translation service, where KVM has it.
fn create_its(vm: &VmFd) -> Result<bool, CpuError> {
    let Some(its) = device(vm, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS)? else {
        return Ok(false);
    };
    set_address(&its, KVM_VGIC_ITS_ADDR_TYPE, layout::ITS_BASE)?;
    initialise(&its)?;
    Ok(true)
}

/// A device of the kind `type_`; `None` where KVM has none for this host.
fn device(vm: &VmFd, type_: u32) -> Result<Option<DeviceFd>, CpuError> {
    let mut wanted = kvm_create_device { type_, ..Default::default() };
    match vm.create_device(&mut wanted) {
        Ok(device) => Ok(Some(device)),
        Err(error) if error.errno() == Errno::NODEV.raw_os_error() => Ok(None),
        Err(source) => Err(kvm_error("create an interrupt controller")(source)),
    }
}

fn set_address(device: &DeviceFd, what: u32, address: u64) -> Result<(), CpuError> {
    set(device, KVM_DEV_ARM_VGIC_GRP_ADDR, what, Some(&address))
        .map_err(kvm_error("place the interrupt controller"))
}

/// Says how many interrupts there are, after which nothing changes any more.
fn finish(gic: &DeviceFd) -> Result<(), CpuError> {
    set(gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&layout::INTERRUPTS))
        .map_err(kvm_error("set the number of interrupts"))?;
    initialise(gic)
}

fn initialise(device: &DeviceFd) -> Result<(), CpuError> {
    set::<u32>(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None)
        .map_err(kvm_error("initialise the interrupt controller"))
}

fn set<T>(
    device: &DeviceFd,
    group: u32,
    what: u32,
    value: Option<&T>,
) -> Result<(), kvm_ioctls::Error> {
    set_attribute(|attribute| device.set_device_attr(attribute), group, what, value)
}
