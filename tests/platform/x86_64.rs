//! Ports and addresses of the platform: what is not there does nothing, and what is there bears
//! any value in any width.

use crate::support::machine::WINDOWS;
use crate::support::script::{Script, Slot, Span, Sweep, Width};
use crate::support::vmm::{MEMORY, Vmm};

pub const FEATURE_REFUSED: &str = "x86_64 has no such feature of CPUs";

const COM1: u16 = 0x3f8;
const I8042: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
const PANIC: u16 = 0x505;
const SLEEP_CONTROL: u16 = 0x600;
const RESET: u16 = 0x602;

/// First port and number of ports of everything that answers: the interrupt controllers of KVM,
/// the keyboard controller, the serial port, panic notification, and the ACPI registers.
const ANSWERING: [(u64, u64); 7] =
    [(0x20, 2), (0x60, 5), (0xa0, 2), (0x3f8, 8), (0x4d0, 2), (0x505, 1), (0x600, 3)];

/// What lies between the answering ports.
fn silent_ports() -> Vec<Span> {
    let mut spans = Vec::new();
    let mut start = 0;
    for (first, count) in ANSWERING.into_iter().chain([(0x1_0000, 0)]) {
        spans.push(Span { start, count: first - start, step: 1 });
        start = first + count;
    }
    spans
}

/// K11: every port that nothing answers at reads all ones.
#[test]
fn silent_ports_read_all_ones() {
    let mut script = Script::new();
    let mut sweeps: Vec<(Width, Span, Sweep)> = Vec::new();
    for width in Width::PORT {
        for span in silent_ports() {
            sweeps.push((width, span, script.sweep_in(width, span, width.ones())));
        }
    }
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (width, span, sweep) in sweeps {
        sweep.expect_uniform(&end.stdout, &format!("{width:?} {span:x?}"));
    }
}

/// K11: writes to ports that nothing answers at are dropped, whatever they say.
#[test]
fn silent_ports_drop_what_is_written() {
    let mut script = Script::new();
    for width in Width::PORT {
        for span in silent_ports() {
            script.sweep_out(width, span, 0xfefe_01fe);
        }
    }
    let alive = script.value(Width::B2, 0x600d);
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    assert_eq!(end.stdout.len(), 2, "something was printed");
    assert_eq!(alive.number(&end.stdout), 0x600d);
}

/// Address ranges with nothing in them, one page or more apart: behind RAM, around the device
/// windows, around the interrupt controllers, up to 4 GiB.
pub fn empty_addresses() -> Vec<Span> {
    let pages = |start, count| Span { start, count, step: 0x1000 };
    let rng = WINDOWS;
    vec![
        pages(MEMORY, 256),
        Span { start: MEMORY, count: 0x9e0, step: 1 << 20 },
        pages(0xc000_0000 - 0x10_0000, 512),
        pages(0xd000_0000 - 0x10_0000, 256),
        pages(rng + 0x1000, 1024),
        Span { start: 0xd100_0000, count: 0x2d0, step: 1 << 20 },
        pages(0xfec0_0000 - 0x10_0000, 256),
        pages(0xfec0_1000, 511),
        pages(0xfee0_1000, 1024),
        pages(0xffff_0000, 16),
    ]
}

/// K11: an access across the end of RAM reaches its RAM part alone.
#[test]
fn access_across_the_end_of_ram_is_split() {
    let mut script = Script::new();
    script.write(Width::B8, MEMORY - 4, 0x1122_3344_5566_7788);
    let across = script.read(Width::B8, MEMORY - 4);
    let inside = script.read(Width::B4, MEMORY - 4);
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    assert_eq!(inside.number(&end.stdout), 0x5566_7788);
    assert_eq!(across.number(&end.stdout), 0xffff_ffff_5566_7788);
}

/// K11: addresses beyond 4 GiB, where a guest of this size has no memory.
#[test]
fn addresses_beyond_4_gib_are_empty() {
    /// The table whose entries map 1 GiB each: the second page of the 64-bit protocol's tables.
    const POINTERS: u64 = 0xa000;
    const TABLE: u64 = 0x40_0000;
    /// Present, writable, and in the lower table a page of 2 MiB.
    const TABLE_ENTRY: u64 = 0b11;
    const PAGE_ENTRY: u64 = 0b1000_0011;
    let targets = [0x1_0000_0000, 0x2_0000_0000, 0x40_0000_0000, 0x7f_ffe0_0000u64];
    let mut script = Script::new();
    script.fill(TABLE, 0x1000, 0);
    script.write(Width::B8, POINTERS + 8 * 4, TABLE | TABLE_ENTRY);
    for (entry, target) in (0..).zip(targets) {
        script.write(Width::B8, TABLE + 8 * entry, target | PAGE_ENTRY);
    }
    let mut sweeps = Vec::new();
    for entry in 0..targets.len() as u64 {
        let span = Span { start: 0x1_0000_0000 + entry * (2 << 20), count: 64, step: 0x1000 };
        script.sweep_write(Width::B4, span, 0);
        sweeps.push(script.sweep_read(Width::B4, span, Width::B4.ones()));
    }
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (sweep, target) in sweeps.iter().zip(targets) {
        sweep.expect_uniform(&end.stdout, &format!("{target:#x}"));
    }
}

/// S4: every register of the serial port x every value x every width; it prints all the same.
#[test]
fn serial_port_bears_any_value_and_still_prints() {
    let mut script = Script::new();
    for width in Width::PORT {
        for register in 0..8 {
            for value in 0..256 {
                script.port_out(width, COM1 + register, value * 0x0101_0101);
            }
            // What the other registers are at with the last value, and reads of all.
            let all = Span { start: COM1.into(), count: 8, step: 1 };
            script.sweep_out(Width::B1, all, 0x80 | u64::from(register));
            script.sweep_in(width, all, 0);
        }
    }
    // Line control, modem control and interrupts as a driver sets them.
    for (register, value) in [(3, 0x03), (4, 0x08), (1, 0), (2, 0x07)] {
        script.port_out(Width::B1, COM1 + register, value);
    }
    let word = script.value(Width::B8, 0x1122_3344_5566_7788);
    let results = script.results();
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    assert_eq!(word.number(end.tail(results)), 0x1122_3344_5566_7788);
}

/// S4: every value but the ending one in every width at the keyboard controller, the panic port
/// and the ACPI registers.
#[test]
fn power_registers_end_the_machine_by_one_value_alone() {
    let mut script = Script::new();
    let ports = (I8042..I8042 + 5).chain([PANIC, SLEEP_CONTROL, SLEEP_CONTROL + 1, RESET]);
    for port in ports {
        for width in Width::PORT {
            for value in (0..256).filter(|value| !ends(port, width, *value)) {
                script.port_out(width, port, value * 0x0101_0101);
            }
            script.sweep_in(width, Span { start: port.into(), count: 1, step: 1 }, 0);
        }
    }
    let alive = script.value(Width::B2, 0x600d);
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    assert_eq!(alive.number(&end.stdout), 0x600d);
}

fn ends(port: u16, width: Width, value: u32) -> bool {
    let ending = match port {
        I8042_COMMAND => value == 0xfe,
        PANIC => value & 1 == 1,
        SLEEP_CONTROL => value == 0x34,
        RESET => value == 1,
        _ => false,
    };
    ending && width == Width::B1
}

#[test]
fn power_registers_read_as_documented() {
    let mut script = Script::new();
    let slots: Vec<(u16, u64, Slot)> =
        [(SLEEP_CONTROL, 0), (SLEEP_CONTROL + 1, 0), (RESET, 0), (PANIC, 1)]
            .map(|(port, value)| (port, value, script.port_in(Width::B1, port)))
            .into();
    let end = Vmm::evil(&script.then_reset()).run().expect(0);
    for (port, value, slot) in slots {
        assert_eq!(slot.number(&end.stdout), value, "port {port:#x}");
    }
}
