//! How machines end, and what the platform around the devices takes from a guest.

mod support;

use support::script::{Script, Span, Width};
use support::vmm::{SOON, Vmm};

const I8042_COMMAND: u16 = 0x64;
const PANIC: u16 = 0x505;
const COM1: u16 = 0x3f8;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;
/// S5 as sleep type, and the bit that enters it.
const POWER_OFF: u32 = 0x34;

/// Ports that end the machine when their value is written.
const ENDS: [(u16, u32, i32); 4] =
    [(SLEEP_CONTROL, POWER_OFF, 0), (RESET, 1, 0), (I8042_COMMAND, 0xfe, 0), (PANIC, 1, 4)];

/// Machine code.
const UD2: &[u8] = &[0x0f, 0x0b];
const CLI_HLT: &[u8] = &[0xfa, 0xf4];

fn evil(build: impl FnOnce(&mut Script)) -> Vec<u8> {
    let mut script = Script::new();
    build(&mut script);
    script.then_idle()
}

#[test]
fn elf_kernel_is_entered_by_the_pvh_note() {
    let end = Vmm::with_guest("null").run().expect(0);
    assert_eq!(end.stdout, b"p", "{}", end.stderr);
}

#[test]
fn elf_kernel_is_entered_by_the_64_bit_protocol() {
    let end = Vmm::with_guest("null").args(["--boot-protocol", "linux64"]).run().expect(0);
    assert_eq!(end.stdout, b"l", "{}", end.stderr);
}

#[test]
fn times_of_a_machine_are_told_in_order_and_add_up() {
    let told = |form: &str| {
        let end = Vmm::with_guest("null").args([form]).run().expect(0);
        let told = end.stderr.split_once("vmm: timing: ").expect(&end.stderr).1.to_owned();
        told.trim_end().to_owned()
    };
    let json: serde_json::Value = serde_json::from_str(&told("--timing=json")).expect("JSON");
    let moments =
        ["began", "parsed", "machine", "ended"].map(|step| json[step].as_u64().expect(step));
    assert!(moments.is_sorted_by(|a, b| a < b), "{json}");
    let text = told("--timing").replace(" ms", "").replace('.', "");
    let (steps, whole) = text.split_once("; whole ").expect("steps and their sum");
    let number = |text: &str| text.parse::<u64>().expect("microseconds");
    let times = steps.split(", ").map(|step| number(step.rsplit_once(' ').expect("time").1));
    assert!(steps.starts_with("host set-up ") && steps.contains(", guest "), "{text}");
    assert_eq!(times.sum::<u64>(), number(whole), "{text}");
}

#[test]
fn registers_of_power_end_the_machine_with_their_status() {
    for (port, value, status) in ENDS {
        let script = evil(|s| s.port_out(Width::B1, port, value));
        let end = Vmm::evil(&script).run();
        assert_eq!(end.code(), status, "port {port:#x}: {}", end.stderr);
    }
}

/// Linux says that it panicked before it has printed what was waiting for its console.
#[test]
fn what_a_kernel_prints_after_its_panic_is_heard() {
    const WORDS: &[u8] = b"last words\r\n";
    const WAYS: [fn(&mut Script); 3] =
        [|s| s.port_out(Width::B1, RESET, 1), |s| s.run(CLI_HLT), |s| s.run(UD2)];
    for ends in WAYS {
        let script = evil(|s| {
            s.port_out(Width::B1, PANIC, 1);
            WORDS.iter().for_each(|byte| s.port_out(Width::B1, COM1, (*byte).into()));
            ends(s);
        });
        let end = Vmm::evil(&script).run().expect(4);
        assert_eq!(end.stdout, WORDS);
        assert!(end.stderr.contains("last words"), "{}", end.stderr);
        assert!(end.lasted < SOON, "{:?}", end.lasted);
    }
}

/// K10: to panic gives a guest a moment, once, whatever it does with it.
#[test]
fn guest_that_goes_on_after_its_panic_ends_soon() {
    let mut script = Script::new();
    script.port_out(Width::B1, PANIC, 1);
    script.sweep_out(Width::B1, Span { start: PANIC.into(), count: u64::MAX, step: 0 }, 1);
    let end = Vmm::evil(&script.then_idle()).run().expect(4);
    assert!(end.lasted < 2 * SOON, "{:?}", end.lasted);
}

/// K10.
#[test]
fn triple_fault_ends_the_machine_with_status_5() {
    let end = Vmm::evil(&evil(|s| s.run(UD2))).run().expect(5);
    assert!(end.stderr.contains("triple fault"), "{}", end.stderr);
}

/// K10.
#[test]
fn halt_with_interrupts_off_ends_the_machine_with_status_7() {
    let end = Vmm::evil(&evil(|s| s.run(CLI_HLT))).run().expect(7);
    assert!(end.lasted < 2 * SOON, "{:?}", end.lasted);
}

/// K10: a storm of port accesses neither ends the machine nor keeps it from being ended.
#[test]
fn storm_of_port_accesses_leaves_the_machine_in_hand() {
    let mut script = Script::new();
    script.sweep_out(Width::B4, Span { start: 0x80, count: 100_000, step: 0 }, 0xfefe_fefe);
    script.value(Width::B1, 0);
    script.flush();
    script.sweep_out(Width::B1, Span { start: 0x80, count: u64::MAX, step: 0 }, 0);
    let mut machine = Vmm::evil(&script.then_idle()).spawn();
    machine.wait_for_output(1);
    machine.terminate_soon();
}

/// The local APIC, and how an interrupt is sent to oneself: fixed with a vector, or an NMI.
const APIC_SPURIOUS: u64 = 0xfee0_00f0;
const APIC_COMMAND: u64 = 0xfee0_0300;
const APIC_ENABLE: u64 = 0x1ff;
const TO_SELF: u64 = 1 << 18;
const NMI: u64 = 0b100 << 8;

/// K10: interrupts to oneself that stay pending.
#[test]
fn storm_of_interrupts_to_oneself_is_harmless_while_they_are_off() {
    let end = Vmm::evil(&evil(|s| {
        s.write(Width::B4, APIC_SPURIOUS, APIC_ENABLE);
        let storm = Span { start: APIC_COMMAND, count: 50_000, step: 0 };
        s.sweep_write(Width::B4, storm, TO_SELF | 0x50);
        s.port_out(Width::B1, I8042_COMMAND, 0xfe);
    }))
    .run();
    end.expect(0);
}

/// K10: an interrupt that the guest has no handler for is a fault it cannot handle.
#[test]
fn interrupt_without_a_handler_ends_the_machine_with_status_5() {
    const STI_NOP: &[u8] = &[0xfb, 0x90];
    let end = Vmm::evil(&evil(|s| {
        s.write(Width::B4, APIC_SPURIOUS, APIC_ENABLE);
        s.write(Width::B4, APIC_COMMAND, TO_SELF | 0x50);
        s.run(STI_NOP);
    }))
    .run();
    end.expect(5);
    let end = Vmm::evil(&evil(|s| {
        s.write(Width::B4, APIC_SPURIOUS, APIC_ENABLE);
        s.write(Width::B4, APIC_COMMAND, TO_SELF | NMI);
    }))
    .run();
    end.expect(5);
}

/// Code cannot be fetched from where there is no memory: KVM gives up, on any host.
#[test]
fn jump_out_of_memory_ends_the_machine_with_status_6() {
    // mov $0xc0000000, %eax; jmp *%rax
    const JUMP: &[u8] = &[0xb8, 0, 0, 0, 0xc0, 0xff, 0xe0];
    let end = Vmm::evil(&evil(|s| s.run(JUMP))).run().expect(6);
    assert!(end.stderr.contains("KVM"), "{}", end.stderr);
}

/// Where KVM emulates the guest's kernel some instructions are missing, and the user is told so.
#[test]
fn instruction_that_kvm_cannot_emulate_is_explained() {
    // popcnt %rax, %rax
    const POPCNT: &[u8] = &[0xf3, 0x48, 0x0f, 0xb8, 0xc0];
    let end = Vmm::evil(&evil(|s| {
        s.run(POPCNT);
        s.port_out(Width::B1, I8042_COMMAND, 0xfe);
    }))
    .run();
    match end.code() {
        0 => assert_eq!(end.stderr, "", "a host that runs it"),
        6 => {
            for said in ["KVM emulates guest kernel code", "hardware virtualisation"] {
                assert!(end.stderr.contains(said), "{}", end.stderr);
            }
        }
        other => panic!("status {other}: {}", end.stderr),
    }
}

#[test]
fn halt_with_interrupts_on_waits_until_sigterm() {
    let mut script = Script::new();
    script.pause();
    let mut machine = Vmm::evil(&script.then_idle()).spawn();
    machine.wait_for_output(1);
    machine.type_in(b"\n");
    machine.assert_becomes_idle();
    machine.terminate();
}

#[test]
fn sigterm_ends_a_guest_that_never_exits() {
    const JMP_SELF: &[u8] = &[0xeb, 0xfe];
    let mut machine = Vmm::evil(&evil(|s| {
        s.value(Width::B1, 0);
        s.flush();
        s.run(JMP_SELF);
    }))
    .spawn();
    machine.wait_for_output(1);
    machine.terminate_soon();
}

#[test]
fn hang_up_ends_the_machine_unless_it_was_started_to_ignore_it() {
    use rustix::process::Signal;
    // Whoever runs the tests may ignore it himself.
    let wrappers = [("env --default-signal=HUP", false), ("nohup", true)];
    for (wrapper, survives) in wrappers {
        let mut script = Script::new();
        script.pause();
        let mut machine = Vmm::evil(&script.then_idle()).by(wrapper.split(' ')).spawn();
        machine.wait_for_output(1);
        machine.signal(Signal::HUP);
        if survives {
            machine.terminate();
        } else {
            assert_eq!(machine.finish().code(), 129);
        }
    }
}
