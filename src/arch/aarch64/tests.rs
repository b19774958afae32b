//! Guests that look at the state in which they were started, on the host's `/dev/kvm`.

use kvm_bindings::KVM_SYSTEM_EVENT_RESET;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

use super::pure::test_support::{file_with, guest_memory, image};
use super::*;
use crate::arch::BootData;
use crate::arch::tests::register;
use crate::config::BootProtocol;

/// Branches over the header of an Image.
const START: u32 = 0x1400_0010;

/// Reports x0, the word that is there, the exception level, the masked exceptions, its affinity and the version of
/// PSCI. Then it starts the second vCPU, reports how that went, and the second one reports its argument and its affinity and resets the machine.
const PROBE: [u32; 31] = [
    0xd286_0009, // mov x9, 0x3000
    0xf2a8_0009, // movk x9, 0x4000, lsl 16
    0xf900_0120, // str x0, [x9]
    0xb940_0001, // ldr w1, [x0]
    0xf900_0121, // str x1, [x9]
    0xd538_4241, // mrs x1, currentel
    0xf900_0121, // str x1, [x9]
    0xd53b_4221, // mrs x1, daif
    0xf900_0121, // str x1, [x9]
    0xd538_00a1, // mrs x1, mpidr_el1
    0xf900_0121, // str x1, [x9]
    0x52b0_8000, // mov w0, 0x84000000: PSCI_VERSION
    0xd400_0002, // hvc 0
    0xf900_0120, // str x0, [x9]
    0xd280_0060, // mov x0, 3
    0xf2b8_8000, // movk x0, 0xc400, lsl 16: CPU_ON
    0xd280_0021, // mov x1, 1
    0x1000_00a2, // adr x2, second
    0xd280_0b43, // mov x3, 0x5a
    0xd400_0002, // hvc 0
    0xf900_0120, // str x0, [x9]
    0x1400_0000, // b .
    0xd286_0009, // second: mov x9, 0x3000
    0xf2a8_0009, // movk x9, 0x4000, lsl 16
    0xf900_0120, // str x0, [x9]
    0xd538_00a1, // mrs x1, mpidr_el1
    0xf900_0121, // str x1, [x9]
    0x5280_0120, // mov w0, 9
    0x72b0_8000, // movk w0, 0x8400, lsl 16: SYSTEM_RESET
    0xd400_0002, // hvc 0
    0x1400_0000, // b .
];

/// Runs a vCPU until it has made `count` reports or resets the machine.
fn run(vcpu: &mut VcpuFd, count: usize) -> Vec<u64> {
    let mut reported = Vec::new();
    while reported.len() < count {
        match vcpu.run().unwrap() {
            VcpuExit::MmioWrite(0x4000_3000, data) => {
                reported.push(u64::from_le_bytes(data.try_into().unwrap()));
            }
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => break,
            exit => panic!("{exit:?} after {reported:x?}"),
        }
    }
    reported
}

#[test]
fn guest_starts_in_the_state_of_the_boot_protocol_and_starts_the_second_cpu() {
    let kvm = Kvm::new().expect("/dev/kvm");
    let host = HostCpu::probe(&kvm).unwrap();
    assert!((32..=52).contains(&host.address_bits()));
    let vm = kvm.create_vm().unwrap();
    let mem = guest_memory(32);
    register(&vm, &mem);
    let (mut vcpus, interrupt_controller) = create_vcpus(&vm, 2).unwrap();
    let code: Vec<u8> = PROBE.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut kernel = image(&code);
    kernel[..4].copy_from_slice(&START.to_le_bytes());
    let kernel = load_kernel(&mem, &file_with(&kernel), BootProtocol::Auto).unwrap();
    let data = BootData {
        kernel: &kernel,
        cmdline: "",
        initrd: None,
        interrupt_controller,
        acpi: true,
        cpus: 2,
        serial: true,
        virtio_mmio: &[],
    };
    let entry = write_boot_data(&mem, &data).unwrap();
    for (index, vcpu) in (0..).zip(&vcpus) {
        configure_vcpu(vcpu, &host, index, 2, &entry).unwrap();
    }
    assert!(!sleeps_forever(&vcpus[0]) && sleeps_forever(&vcpus[1]));
    let reported = run(&mut vcpus[0], 7);
    let magic = u64::from(0xd00d_feed_u32.swap_bytes());
    assert_eq!(reported[..4], [kernel.device_tree(), magic, 1 << 2, 0xf << 6]);
    assert_eq!(reported[4] & 0xff_00ff_ffff, 0);
    assert!(reported[5] >= 0x1_0000, "PSCI {:x}", reported[5]);
    assert_eq!(reported[6], 0, "the second vCPU starts");
    let reported = run(&mut vcpus[1], usize::MAX);
    assert_eq!((reported[0], reported[1] & 0xff_00ff_ffff, reported.len()), (0x5a, 1, 2));
}
