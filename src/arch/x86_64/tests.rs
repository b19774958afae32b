//! Guests that look at the state in which they were started, on the host's `/dev/kvm`.

use kvm_ioctls::{Kvm, VcpuExit};

use super::test_support::{Elf, boot_data, bzimage, file_with, guest_memory};
use super::*;
use crate::arch::BootData;
use crate::arch::tests::register;
use crate::config::BootProtocol;

const CMDLINE: &str = "~hello";

/// Reports, byte by byte: the first byte of the setup header's magic, CS, DS, the top byte of CR0, CR4,
/// the second byte of RFLAGS, the first byte of the command line, a byte of the MMIO gap.
const LINUX64_PROBE: &[u8] = &[
    0x8a, 0x86, 0x02, 0x02, 0x00, 0x00, // mov 0x202(%rsi), %al
    0xe6, 0xe9, // out %al, $0xe9
    0x8c, 0xc8, // mov %cs, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x8c, 0xd8, // mov %ds, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x0f, 0x20, 0xc0, // mov %cr0, %rax
    0x48, 0xc1, 0xe8, 0x18, // shr $24, %rax
    0xe6, 0xe9, // out %al, $0xe9
    0x0f, 0x20, 0xe0, // mov %cr4, %rax
    0xe6, 0xe9, // out %al, $0xe9
    0x9c, // pushf
    0x58, // pop %rax
    0x48, 0xc1, 0xe8, 0x08, // shr $8, %rax
    0xe6, 0xe9, // out %al, $0xe9
    0x8b, 0x86, 0x28, 0x02, 0x00, 0x00, // mov 0x228(%rsi), %eax
    0x8a, 0x00, // mov (%rax), %al
    0xe6, 0xe9, // out %al, $0xe9
    0xb8, 0x00, 0x00, 0x00, 0xd0, // mov $0xd0000000, %eax
    0x8a, 0x00, // mov (%rax), %al
    0xe6, 0xe9, // out %al, $0xe9
    0xba, 0x00, 0x06, 0x00, 0x00, // mov $0x600, %edx
    0xb0, 0x34, // mov $0x34, %al
    0xee, // out %al, (%dx)
    0xeb, 0xfe, // jmp .
];

/// Reports, byte by byte: the first byte of `hvm_start_info`'s magic, the low byte and the top byte of CR0,
/// CR4, the second byte of EFLAGS, the first byte of the command line, the first byte of the RSDP, a byte
/// of the MMIO gap.
const PVH_PROBE: &[u8] = &[
    0x8a, 0x03, // mov (%ebx), %al
    0xe6, 0xe9, // out %al, $0xe9
    0x0f, 0x20, 0xc0, // mov %cr0, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x0f, 0x20, 0xc0, // mov %cr0, %eax
    0xc1, 0xe8, 0x18, // shr $24, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x0f, 0x20, 0xe0, // mov %cr4, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x9c, // pushf
    0x58, // pop %eax
    0xc1, 0xe8, 0x08, // shr $8, %eax
    0xe6, 0xe9, // out %al, $0xe9
    0x8b, 0x43, 0x18, // mov 24(%ebx), %eax
    0x8a, 0x00, // mov (%eax), %al
    0xe6, 0xe9, // out %al, $0xe9
    0x8b, 0x43, 0x20, // mov 32(%ebx), %eax
    0x8a, 0x00, // mov (%eax), %al
    0xe6, 0xe9, // out %al, $0xe9
    0xb8, 0x00, 0x00, 0x00, 0xd0, // mov $0xd0000000, %eax
    0x8a, 0x00, // mov (%eax), %al
    0xe6, 0xe9, // out %al, $0xe9
    0xba, 0x00, 0x06, 0x00, 0x00, // mov $0x600, %edx
    0xb0, 0x34, // mov $0x34, %al
    0xee, // out %al, (%dx)
    0xeb, 0xfe, // jmp .
];

/// A program that reports the registers of CPUID leaf `leaf`, subleaf 0.
fn cpuid_probe(leaf: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(leaf.to_le_bytes()); // mov $leaf, %eax
    code.extend([0x31, 0xc9, 0x0f, 0xa2]); // xor %ecx, %ecx; cpuid
    for report in [
        [0x90, 0x90],
        [0x89, 0xd8], // mov %ebx, %eax
        [0x89, 0xc8], // mov %ecx, %eax
        [0x89, 0xd0], // mov %edx, %eax
    ] {
        code.extend(report);
        code.extend([0xe7, 0xe9]); // out %eax, $0xe9
    }
    code.extend([0xba, 0x00, 0x06, 0x00, 0x00, 0xb0, 0x34, 0xee, 0xeb, 0xfe]);
    code
}

/// Boots `image` with two vCPUs and returns what the first one wrote to port 0xe9 before it powered the
/// machine off.
fn run(image: &[u8], protocol: BootProtocol, acpi: bool) -> Vec<u8> {
    let kvm = Kvm::new().expect("/dev/kvm");
    let host = HostCpu::probe(&kvm).unwrap();
    let vm = kvm.create_vm().unwrap();
    let mem = guest_memory(32);
    register(&vm, &mem);
    let (mut vcpus, _) = create_vcpus(&vm, 2, &[]).unwrap();
    let kernel = load_kernel(&mem, &file_with(image), protocol).unwrap();
    let data = BootData { cmdline: CMDLINE, cpus: 2, acpi, ..boot_data(&kernel) };
    let entry = write_boot_data(&mem, &data).unwrap();
    for (index, vcpu) in (0..).zip(&vcpus) {
        configure_vcpu(vcpu, &host, index, 2, &entry).unwrap();
    }
    let mut reported = Vec::new();
    // A guest that reports for ever is as wrong as one that does not report.
    while reported.len() < 1024 {
        match vcpus[0].run().unwrap() {
            VcpuExit::IoOut(0xe9, data) => reported.extend(data),
            VcpuExit::IoOut(layout::ACPI_SLEEP_CONTROL_PORT, &[layout::ACPI_POWER_OFF]) => break,
            VcpuExit::MmioRead(layout::VIRTIO_MMIO_BASE, data) => data.fill(0x5a),
            exit => panic!("{exit:?} after {reported:x?}"),
        }
    }
    reported
}

const LINUX64_STATE: [u8; 8] = [b'H', 0x10, 0x18, 0x80, 0x20, 0, b'~', 0x5a];

#[test]
fn elf_guest_starts_in_the_state_of_the_64_bit_protocol() {
    let image = Elf::new(LINUX64_PROBE).image();
    for acpi in [true, false] {
        assert_eq!(run(&image, BootProtocol::Auto, acpi), LINUX64_STATE);
    }
}

#[test]
fn bzimage_guest_starts_in_the_state_of_the_64_bit_protocol() {
    let image = bzimage(LINUX64_PROBE);
    assert_eq!(run(&image, BootProtocol::Auto, true), LINUX64_STATE);
}

#[test]
fn elf_guest_starts_in_the_state_of_the_pvh_protocol() {
    let image = Elf::new(PVH_PROBE).with_pvh().image();
    let state = [0x78, 0x11, 0, 0, 0, b'~', b'R', 0x5a];
    assert_eq!(run(&image, BootProtocol::Pvh, true), state);
}

/// K12: what the guest's own CPUID instruction reports. (Leaves 1 and 7 are not asked: software-virtualised
/// KVM shows the host's at CPL 0.)
#[test]
fn guest_sees_kvm_without_nested_virtualisation_and_performance_counters() {
    let registers = |leaf| {
        let image = Elf::new(&cpuid_probe(leaf)).image();
        run(&image, BootProtocol::Auto, true)
    };
    let hypervisor = registers(0x4000_0000);
    assert_eq!(hypervisor[4..], *b"KVMKVMKVM\0\0\0");
    assert_eq!(registers(0x8000_000a), [0; 16]);
    assert_eq!(registers(0xa), [0; 16]);
}
