//! How aarch64 machines end, and what the platform around the devices takes from a guest: calls of the firmware,
//! addresses with nothing behind them, and the devices that no driver negotiates with.

use crate::support::machine::{RAM, WINDOWS};
use crate::support::script::{Script, Slot, Span, Width};
use crate::support::seccomp::KVM_DEVICES;
use crate::support::subject::{SPARE, TOP};
use crate::support::vmm::{SOON, Vmm};

pub const FEATURE_REFUSED: &str = "this host's KVM has no such feature of CPUs for guests";

const SERIAL: u64 = 0x4000_0000;
const CLOCK: u64 = 0x4000_1000;
const PANIC: u64 = 0x4000_2000;

/// Functions of PSCI (Arm DEN 0022, 5.1), and what it answers (5.2.2).
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const CPU_ON: u64 = 0xc400_0003;
const NOT_SUPPORTED: u64 = -1_i64 as u64;
const INVALID_PARAMETERS: u64 = -2_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;

/// Machine code.
const BRANCH_TO_SELF: u32 = 0x1400_0000;
const CALL_FIRMWARE: u32 = 0xd400_0002;
const UNDEFINED: u32 = 0;

/// Puts `value` into register x`register`.
fn number(register: u32, value: u64) -> [u32; 4] {
    // movz, and movk with a shift of 16, 32 and 48.
    let part = |index: u32| ((value >> (16 * index)) as u32 & 0xffff) << 5 | register;
    let base = [0xd280_0000, 0xf2a0_0000, 0xf2c0_0000, 0xf2e0_0000];
    [0, 1, 2, 3].map(|index| base[index as usize] | part(index))
}

fn bytes(code: &[u32]) -> Vec<u8> {
    code.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Calls the firmware; its answer.
fn call(script: &mut Script, function: u64, arguments: [u64; 3]) -> Slot {
    let [first, second, third] = arguments;
    // str x0, [x9]
    let store = [0xf900_0120];
    let code = [
        &number(0, function)[..],
        &number(1, first),
        &number(2, second),
        &number(3, third),
        &[CALL_FIRMWARE],
        &number(9, SPARE),
        &store,
    ];
    script.run(&bytes(&code.concat()));
    script.read(Width::B8, SPARE)
}

fn evil(build: impl FnOnce(&mut Script)) -> Vec<u8> {
    let mut script = Script::new();
    build(&mut script);
    script.then_idle()
}

#[test]
fn host_without_an_interrupt_controller_for_guests_is_named() {
    let end = Vmm::evil(&evil(|_| ())).refused(KVM_DEVICES).run().expect(3);
    let error = "vmm: this host's KVM has neither a GICv3 nor a GICv2 for guests";
    assert_eq!(end.expect_one_line_error(), error);
}

#[test]
fn calls_of_the_firmware_end_the_machine_with_their_status() {
    for (function, reason) in [(SYSTEM_OFF, "powered off"), (SYSTEM_RESET, "reset")] {
        let script = evil(|s| {
            call(s, function, [0; 3]);
        });
        let end = Vmm::evil(&script).args(["--log-level", "info"]).run().expect(0);
        let expected = format!("the machine ends: the guest {reason}\n");
        assert!(end.stderr.ends_with(&expected), "{}", end.stderr);
    }
    let script = evil(|s| {
        s.write(Width::B1, PANIC, 1);
        call(s, SYSTEM_OFF, [0; 3]);
    });
    let end = Vmm::evil(&script).run().expect(4);
    assert!(end.lasted < SOON, "{:?}", end.lasted);
}

/// K10: functions and processors that are not there, and a processor that is running already.
#[test]
fn calls_of_the_firmware_for_what_is_not_there_are_refused() {
    let mut script = Script::new();
    let cases = [
        (0x8400_00ff, 0, NOT_SUPPORTED),
        (0xffff_ffff, 0, NOT_SUPPORTED),
        (CPU_ON, 1, INVALID_PARAMETERS),
        (CPU_ON, u64::MAX, INVALID_PARAMETERS),
        (CPU_ON, 0, ALREADY_ON),
    ]
    .map(|(function, first, expected)| {
        let answer = call(&mut script, function, [first, RAM, 0]);
        (answer, expected, format!("{function:#x} of {first:#x}"))
    });
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (answer, expected, what) in cases {
        assert_eq!(answer.number(&end.stdout), expected, "{what}");
    }
}

/// K10: an exception whose handler lies where no memory is raises the next one.
#[test]
fn exceptions_without_end_leave_the_machine_in_hand() {
    // msr vbar_el1, x1
    const SET_VECTORS: u32 = 0xd518_c001;
    let mut machine = Vmm::evil(&evil(|s| {
        s.value(Width::B1, 0);
        s.flush();
        s.run(&bytes(&[&number(1, 0x1000_0000)[..], &[SET_VECTORS, UNDEFINED]].concat()));
    }))
    .spawn();
    machine.wait_for_output(1);
    machine.assert_guest_is_running();
    machine.terminate_soon();
}

/// K10: accesses to nothing, as fast as a guest can.
#[test]
fn storm_of_accesses_leaves_the_machine_in_hand() {
    let mut script = Script::new();
    script.value(Width::B1, 0);
    script.flush();
    script.sweep_write(Width::B4, Span { start: TOP, count: u64::MAX, step: 0 }, 0xfefe_fefe);
    let mut machine = Vmm::evil(&script.then_idle()).spawn();
    machine.wait_for_output(1);
    machine.terminate_soon();
}

/// K10: a storm of interrupts to oneself (ICC_SGI1R_EL1) that stay pending, as interrupts are off.
#[test]
fn storm_of_interrupts_to_oneself_is_harmless() {
    const COUNT: u64 = 5_000;
    // msr icc_sgi1r_el1, x2; subs x1, x1, 1; b.ne -2
    const STORM: [u32; 3] = [0xd518_cba2, 0xf100_0421, 0x54ff_ffc1];
    let code = [&number(1, COUNT)[..], &number(2, 1), &STORM].concat();
    let mut script = Script::new();
    script.run(&bytes(&code));
    Vmm::evil(&script.then_reset()).run().expect(0);
}

#[test]
fn sigterm_ends_a_guest_that_never_exits() {
    let mut machine = Vmm::evil(&evil(|s| {
        s.value(Width::B1, 0);
        s.flush();
        s.run(&bytes(&[BRANCH_TO_SELF]));
    }))
    .spawn();
    machine.wait_for_output(1);
    machine.terminate_soon();
}

/// K10: an access of two registers to a device is none that the processor describes to KVM.
#[test]
fn access_that_kvm_cannot_decode_ends_the_machine_with_status_6() {
    // ldp x2, x3, [x1]
    const LOAD_PAIR: u32 = 0xa940_0c22;
    let code = [&number(1, WINDOWS)[..], &[LOAD_PAIR]].concat();
    let end = Vmm::evil(&evil(|s| s.run(&bytes(&code)))).run().expect(6);
    assert!(end.stderr.contains("KVM"), "{}", end.stderr);
}

/// Address ranges with nothing in them: from 0 on, around the platform's devices and the interrupt controller, around
/// the windows, behind RAM and beyond 4 GiB.
pub fn empty_addresses() -> Vec<Span> {
    let pages = |start, count| Span { start, count, step: 0x1000 };
    vec![
        pages(0, 16),
        Span { start: 0x10_0000, count: 64, step: 15 << 20 },
        Span { start: SERIAL + 8, count: 16, step: 0xf8 },
        pages(PANIC + 0x1000, 16),
        pages(0x40ff_f000, 1),
        pages(0x4190_0000, 16),
        pages(WINDOWS - 0x1_0000, 16),
        pages(WINDOWS + 0x1000, 32),
        pages(RAM - 0x1_0000, 16),
        pages(TOP, 16),
        Span { start: TOP, count: 64, step: 31 << 20 },
        Span { start: 1 << 32, count: 16, step: 1 << 31 },
    ]
}

/// S4: every register of the serial port in every width; it prints all the same.
#[test]
fn serial_port_in_memory_bears_any_value_and_still_prints() {
    let mut script = Script::new();
    let all = Span { start: SERIAL, count: 8, step: 1 };
    for width in Width::MEMORY {
        for value in (0..256).step_by(15) {
            script.sweep_write(width, all, value * 0x0101_0101_0101_0101);
        }
        script.sweep_read(width, all, 0);
    }
    // Line control, modem control and interrupts as a driver sets them.
    for (register, value) in [(3, 0x03), (4, 0x08), (1, 0), (2, 0x07)] {
        script.write(Width::B1, SERIAL + register, value);
    }
    let word = script.value(Width::B8, 0x1122_3344_5566_7788);
    let results = script.results();
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    assert_eq!(word.number(end.tail(results)), 0x1122_3344_5566_7788);
}

/// S4: the clock takes any write, and says what it is as before; what is no panic does not end the machine.
#[test]
fn clock_and_panic_notification_bear_any_value() {
    // The identification of the PL031 (Arm DDI 0224, 3.3.11 and 3.3.12), a byte in each word.
    const IDENTIFICATION: [u64; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
    let mut script = Script::new();
    for width in Width::MEMORY {
        for value in [0, 1, u64::MAX] {
            script.sweep_write(width, Span { start: CLOCK, count: 0x40, step: 1 }, value);
            script.sweep_write(width, Span { start: CLOCK + 0xfd8, count: 0x20, step: 1 }, value);
        }
    }
    let told: Vec<Slot> =
        (0..8).map(|index| script.read(Width::B4, CLOCK + 0xfe0 + 4 * index)).collect();
    for value in (0..256).step_by(2) {
        script.write(Width::B1, PANIC, value);
    }
    let alive = script.value(Width::B2, 0x600d);
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (slot, byte) in told.iter().zip(IDENTIFICATION) {
        assert_eq!(slot.number(&end.stdout), byte);
    }
    assert_eq!(alive.number(&end.stdout), 0x600d);
}
