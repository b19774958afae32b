//! Guests that look at the state in which they were started, on the host's `/dev/kvm`.

use clap::ValueEnum;
use kvm_bindings::{
    KVM_REG_ARM64, KVM_REG_ARM64_SVE, KVM_REG_SIZE_MASK, KVM_REG_SIZE_SHIFT, KVM_REG_SIZE_U512,
    KVM_SYSTEM_EVENT_RESET, RegList, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use super::pure::test_support::{file_with, guest_memory, image};
use super::*;
use crate::arch::BootData;
use crate::arch::tests::register;
use crate::config::{BootProtocol, CpuFeature};
use crate::memory::GuestMemory;

/// Branches over the header of an Image.
const START: u32 = 0x1400_0010;

/// Reports x0, the word that is there, the exception level, the masked exceptions, its affinity and the version of
/// PSCI. Then it starts the second vCPU, reports how that went, and the second one reports its argument and its
/// affinity and resets the machine.
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

/// Reports the ID registers that have fields of features that are there only when asked.
const IDENTIFY: [u32; 10] = [
    0xd286_0009, // mov x9, 0x3000
    0xf2a8_0009, // movk x9, 0x4000, lsl 16
    0xd538_0501, // mrs x1, id_aa64dfr0_el1
    0xf900_0121, // str x1, [x9]
    0xd538_0401, // mrs x1, id_aa64pfr0_el1
    0xf900_0121, // str x1, [x9]
    0xd538_0621, // mrs x1, id_aa64isar1_el1
    0xf900_0121, // str x1, [x9]
    0xd538_0641, // mrs x1, id_aa64isar2_el1
    0xf900_0121, // str x1, [x9]
];

/// The one register that is settled when a vCPU is made (KVM API, `KVM_REG_ARM64_SVE_VLS`).
const LENGTHS_OF_VECTORS: u64 =
    KVM_REG_ARM64 | KVM_REG_ARM64_SVE as u64 | KVM_REG_SIZE_U512 | 0xffff;

/// A VM, its vCPUs, and its memory, which is there as long as the VM.
struct Guest {
    vcpus: Vec<VcpuFd>,
    interrupt_controller: InterruptController,
    device_tree: u64,
    _vm: VmFd,
    mem: GuestMemory,
}

impl Guest {
    /// One whose first vCPU stands before `code`, and whose second waits to be started.
    fn with(code: &[u32], features: &[CpuFeature]) -> Result<Self, CpuError> {
        let mem = guest_memory(32);
        let mut guest = Self::around(mem, features)?;
        let code: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut kernel = image(&code);
        kernel[..4].copy_from_slice(&START.to_le_bytes());
        let kernel =
            load_kernel(&guest.mem, &file_with(&kernel), BootProtocol::Auto).expect("kernel");
        let data = BootData {
            kernel: &kernel,
            cmdline: "",
            initrd: None,
            interrupt_controller: guest.interrupt_controller,
            acpi: true,
            cpus: 2,
            cpu_features: features,
            serial: true,
            virtio_mmio: &[],
        };
        let entry = write_boot_data(&guest.mem, &data).expect("boot data");
        let host = HostCpu::probe(&Kvm::new().expect("/dev/kvm"))?;
        for (index, vcpu) in (0..).zip(&guest.vcpus) {
            configure_vcpu(vcpu, &host, index, 2, &entry)?;
        }
        guest.device_tree = kernel.device_tree();
        Ok(guest)
    }

    /// One whose vCPUs are as KVM made them.
    fn around(mem: GuestMemory, features: &[CpuFeature]) -> Result<Self, CpuError> {
        let vm = Kvm::new().expect("/dev/kvm").create_vm().expect("a VM");
        register(&vm, &mem);
        let (vcpus, interrupt_controller) = create_vcpus(&vm, 2, features)?;
        Ok(Self { vcpus, interrupt_controller, device_tree: 0, _vm: vm, mem })
    }
}

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
    let host = HostCpu::probe(&Kvm::new().expect("/dev/kvm")).unwrap();
    assert!((32..=52).contains(&host.address_bits()));
    let mut guest = Guest::with(&PROBE, &[]).unwrap();
    let has_gicv3 = std::fs::read_to_string("/proc/interrupts").unwrap().contains("GICv3");
    let best =
        if has_gicv3 { InterruptController::V3 { its: true } } else { InterruptController::V2 };
    assert_eq!(guest.interrupt_controller, best);
    let vcpus = &mut guest.vcpus;
    assert!(!sleeps_forever(&vcpus[0]) && sleeps_forever(&vcpus[1]));
    let reported = run(&mut vcpus[0], 7);
    let magic = u64::from(0xd00d_feed_u32.swap_bytes());
    assert_eq!(reported[..4], [guest.device_tree, magic, 1 << 2, 0xf << 6]);
    assert_second_half(&reported[4..], vcpus);
}

/// Checks what [`PROBE`] reports from its fifth report on, and of the second vCPU.
fn assert_second_half(reported: &[u64], vcpus: &mut [VcpuFd]) {
    assert_eq!(reported[0] & 0xff_00ff_ffff, 0);
    assert!(reported[1] >= 0x1_0000, "PSCI {:x}", reported[1]);
    assert_eq!(reported[2], 0, "the second vCPU starts");
    let reported = run(&mut vcpus[1], usize::MAX);
    assert_eq!((reported[0], reported[1] & 0xff_00ff_ffff, reported.len()), (0x5a, 1, 2));
}

/// What KVM knows of a vCPU, as far as it is no interrupt controller's.
struct State {
    registers: Vec<(u64, Vec<u8>)>,
    events: kvm_vcpu_events,
    power: kvm_mp_state,
}

impl State {
    /// Reads it, after KVM has completed the access with which the vCPU last left the guest.
    fn save(vcpu: &mut VcpuFd) -> Self {
        vcpu.set_kvm_immediate_exit(1);
        assert_eq!(vcpu.run().expect_err("no exit").errno(), libc::EINTR);
        let mut list = RegList::new(500).unwrap();
        vcpu.get_reg_list(&mut list).unwrap();
        let read = |id: &u64| {
            let length = 1 << ((id & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT);
            let mut value = vec![0; length];
            vcpu.get_one_reg(*id, &mut value).unwrap();
            (*id, value)
        };
        let registers = list.as_slice().iter().map(read).collect();
        let (events, power) = (vcpu.get_vcpu_events().unwrap(), vcpu.get_mp_state().unwrap());
        Self { registers, events, power }
    }

    fn restore(&self, vcpu: &VcpuFd) {
        for (id, value) in &self.registers {
            if *id == LENGTHS_OF_VECTORS {
                let mut own = vec![0; value.len()];
                vcpu.get_one_reg(*id, &mut own).unwrap();
                assert_eq!(own, *value);
            } else {
                vcpu.set_one_reg(*id, value).unwrap_or_else(|error| panic!("{id:x}: {error}"));
            }
        }
        vcpu.set_vcpu_events(&self.events).unwrap();
        vcpu.set_mp_state(self.power).unwrap();
    }
}

/// The vCPUs of one VM are made again in another, where the guest goes on.
#[test]
fn guest_goes_on_with_vcpus_of_the_same_state() {
    let all = CpuFeature::value_variants().iter().copied();
    let all: Vec<_> = all.filter(|feature| host_has(*feature)).collect();
    for features in [&[][..], &all] {
        let mut guest = Guest::with(&PROBE, features).unwrap();
        assert_eq!(run(&mut guest.vcpus[0], 4).len(), 4);
        let states: Vec<_> = guest.vcpus.iter_mut().map(State::save).collect();
        drop(guest.vcpus);
        let mut guest = Guest::around(guest.mem, features).unwrap();
        for (state, vcpu) in states.iter().zip(&guest.vcpus) {
            state.restore(vcpu);
        }
        assert!(!sleeps_forever(&guest.vcpus[0]) && sleeps_forever(&guest.vcpus[1]));
        let reported = run(&mut guest.vcpus[0], 3);
        assert_second_half(&reported, &mut guest.vcpus);
    }
}

/// Which features a guest finds that was given those of `asked`, by the fields of its ID registers (Arm DDI 0487,
/// D23.2).
fn found(asked: &[CpuFeature]) -> Result<[(CpuFeature, bool); 3], CpuError> {
    const ADDRESS_AND_GENERIC: u64 = 0xff00_0ff0;
    const ADDRESS_AND_GENERIC_3: u64 = 0xff00;
    let reported = run(&mut Guest::with(&IDENTIFY, asked)?.vcpus[0], 4);
    let [debug, processor, instructions, more] = reported[..] else { panic!("{reported:x?}") };
    let pauth = instructions & ADDRESS_AND_GENERIC | more & ADDRESS_AND_GENERIC_3;
    Ok([
        (CpuFeature::Pmu, ![0, 0xf].contains(&(debug >> 8 & 0xf))),
        (CpuFeature::Pauth, pauth != 0),
        (CpuFeature::Sve, processor >> 32 & 0xf != 0),
    ])
}

/// Which features the host has, by what it tells its own programs.
fn host_has(feature: CpuFeature) -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let flag = |name: &str| flags.split_whitespace().any(|word| word == name);
    match feature {
        CpuFeature::Pmu => {
            let sources = std::fs::read_dir("/sys/bus/event_source/devices").unwrap();
            let mut names = sources.map(|source| source.unwrap().file_name());
            names.any(|name| name.to_string_lossy().starts_with("armv8_"))
        }
        CpuFeature::Pauth => flag("paca") && flag("pacg"),
        CpuFeature::Sve => flag("sve"),
    }
}

#[test]
fn features_are_there_where_asked_for_and_nowhere_else() {
    assert!(found(&[]).unwrap().iter().all(|(_, there)| !there));
    for &feature in CpuFeature::value_variants() {
        match found(&[feature]) {
            Ok(found) => {
                assert!(host_has(feature), "{feature}");
                assert!(
                    found.iter().all(|(other, there)| *there == (*other == feature)),
                    "{found:?}"
                );
            }
            Err(error) => {
                assert!(!host_has(feature), "{feature}: {error}");
                let expected = "this host's KVM has no such feature of CPUs for guests";
                assert_eq!(error.to_string(), format!("{feature}: {expected}"));
            }
        }
    }
}
