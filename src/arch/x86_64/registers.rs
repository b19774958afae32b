//! The registers of the boot processor at the guest's first instruction.

use kvm_bindings::{kvm_dtable, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::boot_data::Entry;
use super::layout;
use super::loader::EntryProtocol;
use super::page_tables::{BOOT_CS, BOOT_DS, GDT_LIMIT};
use super::vcpu::{CpuError, kvm_error};

/// CR0: protected mode, the x87 type bit that is always set, paging.
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
/// CR4: page table entries have 64 bits.
const CR4_PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// The bit of RFLAGS that is always set. Interrupts are off.
const RFLAGS_FIXED: u64 = 1 << 1;

/// Segment types (Intel SDM 3A, tables 3-1 and 3-2).
const TYPE_CODE: u8 = 0b1011;
const TYPE_DATA: u8 = 0b0011;
const TYPE_BUSY_TSS: u8 = 0b1011;

/// Offset of the register for pin LINT0 in the local APIC (Intel SDM 3A, 11.5.1).
const LVT_LINT0: usize = 0x350;
/// The pin is masked; what it would deliver is the 8259's interrupt.
const LVT_MASKED_EXTINT: u32 = 1 << 16 | 0b111 << 8;

/// Brings `vcpu` to the start of `entry`'s protocol.
pub(super) fn set(vcpu: &VcpuFd, entry: &Entry) -> Result<(), CpuError> {
    let mut sregs = vcpu.get_sregs().map_err(kvm_error("get system registers"))?;
    match entry.protocol {
        EntryProtocol::Pvh => set_protected_mode(&mut sregs),
        EntryProtocol::Linux64 => set_long_mode(&mut sregs),
    }
    vcpu.set_sregs(&sregs).map_err(kvm_error("set system registers"))?;
    let mut regs = kvm_regs {
        rip: entry.address,
        rsp: layout::STACK_TOP,
        rflags: RFLAGS_FIXED,
        ..Default::default()
    };
    match entry.protocol {
        EntryProtocol::Pvh => regs.rbx = entry.start_info,
        EntryProtocol::Linux64 => regs.rsi = entry.start_info,
    }
    vcpu.set_regs(&regs).map_err(kvm_error("set registers"))
}

/// 32-bit protected mode without paging, as PVH wants it (Xen: docs/misc/pvh.pandoc).
fn set_protected_mode(sregs: &mut kvm_sregs) {
    set_segments(sregs, false);
    sregs.gdt = kvm_dtable { base: 0, limit: 0, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET;
    sregs.cr4 = 0;
    sregs.efer = 0;
}

/// 64-bit mode on an identity map (Linux: boot.rst, "64-bit Boot Protocol").
fn set_long_mode(sregs: &mut kvm_sregs) {
    set_segments(sregs, true);
    sregs.gdt = kvm_dtable { base: layout::GDT, limit: GDT_LIMIT, ..Default::default() };
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// Flat segments. The interrupt table stays empty: an exception before the kernel has its own is a
/// triple fault, which ends the machine visibly.
fn set_segments(sregs: &mut kvm_sregs, long_mode: bool) {
    let code = segment(BOOT_CS, TYPE_CODE);
    sregs.cs = kvm_segment { l: long_mode.into(), db: (!long_mode).into(), ..code };
    let data = kvm_segment { db: 1, ..segment(BOOT_DS, TYPE_DATA) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, type_: TYPE_BUSY_TSS, present: 1, ..Default::default() };
    sregs.idt = kvm_dtable::default();
}

/// A segment of 4 GiB from 0 in ring 0.
fn segment(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// Masks the local APIC's pin to the 8259. KVM's reset leaves it open on the boot processor, and a guest
/// that was told there is no 8259 never programs it: a device interrupt below 16 would arrive twice, the
/// second time with a vector of an exception.
pub(super) fn mask_lint0(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let mut lapic = vcpu.get_lapic().map_err(kvm_error("get the local APIC"))?;
    set_lapic_register(&mut lapic, LVT_LINT0, LVT_MASKED_EXTINT);
    vcpu.set_lapic(&lapic).map_err(kvm_error("set the local APIC"))
}

fn set_lapic_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *register = byte as _;
    }
}
