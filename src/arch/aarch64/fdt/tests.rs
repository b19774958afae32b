use super::super::caches::{Cache, Kind};
use super::super::memory_map::{memory_regions, virtio_mmio_placement};
use super::super::test_support::{image, loaded, read};
use super::*;

const V3: InterruptController = InterruptController::V3 { its: true };

fn machine() -> Machine<'static> {
    Machine {
        cmdline: "console=ttyS0",
        initrd: None,
        interrupt_controller: V3,
        cpus: 1,
        caches: &[],
        performance_counters: false,
        serial: true,
        virtio_mmio: &[],
    }
}

/// A device tree read back: each node by its path, with its properties.
struct Tree(Vec<(String, Properties)>);

/// Names and values.
type Properties = Vec<(String, Vec<u8>)>;

impl Tree {
    fn parse(bytes: &[u8]) -> Self {
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(word(0), 0xd00d_feed, "magic");
        assert_eq!(word(4), bytes.len(), "length");
        let (mut at, strings) = (word(8), word(12));
        let text = |at: usize| {
            let end = bytes[at..].iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(bytes[at..at + end].to_vec()).unwrap()
        };
        let (mut path, mut nodes) = (Vec::new(), Vec::new());
        let mut open = Vec::new();
        loop {
            let token = word(at);
            at += 4;
            match token {
                1 => {
                    let name = text(at);
                    at = (at + name.len() + 1).next_multiple_of(4);
                    path.push(name);
                    open.push(nodes.len());
                    nodes.push((path.join("/"), Vec::new()));
                }
                2 => drop((path.pop(), open.pop())),
                3 => {
                    let (length, name) = (word(at), text(strings + word(at + 4)));
                    let value = bytes[at + 8..at + 8 + length].to_vec();
                    at = (at + 8 + length).next_multiple_of(4);
                    nodes[*open.last().unwrap()].1.push((name, value));
                }
                9 => return Self(nodes),
                other => panic!("token {other}"),
            }
        }
    }

    fn of(machine: &Machine<'_>) -> Self {
        let seeds = Seeds { random: [7; 64], address_space: 9 };
        Self::parse(&build(machine, &seeds, 0x8000_0000..0x8400_0000).unwrap())
    }

    fn get(&self, path: &str, property: &str) -> Option<&[u8]> {
        let (_, properties) = self.0.iter().find(|(own, _)| own == path)?;
        properties.iter().find(|(name, _)| name == property).map(|(_, value)| value.as_slice())
    }

    fn text(&self, path: &str, property: &str) -> String {
        let value = self.get(path, property).unwrap_or_else(|| panic!("{path} {property}"));
        String::from_utf8(value.to_vec()).unwrap().trim_end_matches('\0').to_owned()
    }

    fn cells(&self, path: &str, property: &str) -> Vec<u32> {
        let value = self.get(path, property).unwrap_or_else(|| panic!("{path} {property}"));
        value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    fn paths(&self, start: &str) -> Vec<&str> {
        self.0
            .iter()
            .map(|(path, _)| path.as_str())
            .filter(|path| path.starts_with(start))
            .collect()
    }
}

#[test]
fn guest_is_told_what_it_was_given() {
    let initrd = Some(Initrd { address: 0x83ff_0000, size: 0x1234 });
    let tree = Tree::of(&Machine { initrd, ..machine() });
    assert_eq!(tree.text("/chosen", "bootargs"), "console=ttyS0");
    assert_eq!(tree.text("/chosen", "stdout-path"), "/serial@40000000");
    assert_eq!(tree.cells("/chosen", "linux,initrd-start"), [0, 0x83ff_0000]);
    assert_eq!(tree.cells("/chosen", "linux,initrd-end"), [0, 0x83ff_1234]);
    assert_eq!(tree.get("/chosen", "rng-seed"), Some([7; 64].as_slice()));
    assert_eq!(tree.cells("/chosen", "kaslr-seed"), [0, 9]);
    assert_eq!(tree.cells("/memory@80000000", "reg"), [0, 0x8000_0000, 0, 0x400_0000]);
    assert_eq!(tree.text("/psci", "method"), "hvc");
    assert_eq!(tree.cells("/timer", "interrupts").len(), 12);
}

#[test]
fn performance_counters_are_told_where_there_are_any() {
    let tree = Tree::of(&Machine { performance_counters: true, ..machine() });
    assert_eq!(tree.text("/pmu", "compatible"), "arm,armv8-pmuv3");
    assert_eq!(tree.cells("/pmu", "interrupts"), [1, 7, 4]);
    assert_eq!(Tree::of(&machine()).get("/pmu", "compatible"), None);
}

#[test]
fn guest_without_initrd_and_serial_port_is_told_of_none() {
    let tree = Tree::of(&Machine { serial: false, ..machine() });
    assert_eq!(tree.get("/chosen", "linux,initrd-start"), None);
    assert_eq!(tree.get("/chosen", "stdout-path"), None);
    assert_eq!(tree.paths("/serial"), [""; 0]);
}

#[test]
fn interrupt_controller_is_the_one_that_kvm_made() {
    let of =
        |interrupt_controller| Tree::of(&Machine { interrupt_controller, cpus: 3, ..machine() });
    let gic = "/intc@41000000";
    let tree = of(V3);
    assert_eq!(tree.text(gic, "compatible"), "arm,gic-v3");
    let regions = [0, 0x4100_0000, 0, 0x1_0000, 0, 0x4110_0000, 0, 0x6_0000];
    assert_eq!(tree.cells(gic, "reg"), regions);
    assert_eq!(tree.cells(gic, "phandle"), tree.cells("", "interrupt-parent"));
    assert_eq!(tree.paths("/intc@41000000/").len(), 1);
    assert_eq!(of(InterruptController::V3 { its: false }).paths("/intc@41000000/").len(), 0);
    let tree = of(InterruptController::V2);
    assert_eq!(tree.text(gic, "compatible"), "arm,gic-400");
    assert_eq!(tree.cells(gic, "reg"), [0, 0x4100_0000, 0, 0x1000, 0, 0x4101_0000, 0, 0x2000]);
}

#[test]
fn devices_have_their_windows_and_lines() {
    let placements: Vec<_> = (0..).map_while(virtio_mmio_placement).collect();
    let tree = Tree::of(&Machine { virtio_mmio: &placements, ..machine() });
    assert_eq!(tree.paths("/virtio_mmio@").len(), placements.len());
    for place in &placements {
        let path = format!("/virtio_mmio@{:x}", place.base);
        assert_eq!(tree.cells(&path, "reg"), [0, place.base as u32, 0, place.size as u32]);
        assert_eq!(tree.cells(&path, "interrupts"), [0, place.gsi, 1]);
    }
    assert_eq!(tree.cells("/serial@40000000", "interrupts"), [0, layout::SERIAL_GSI, 1]);
    assert_eq!(tree.text("/rtc@40001000", "compatible"), "arm,pl031\0arm,primecell");
    assert_eq!(tree.cells("/rtc@40001000", "clocks"), tree.cells("/apb-pclk", "phandle"));
    assert_eq!(tree.text("/pvpanic@40002000", "compatible"), "qemu,pvpanic-mmio");
}

#[test]
fn processors_are_named_by_their_affinities() {
    let tree = Tree::of(&Machine { cpus: 18, ..machine() });
    let affinities: Vec<u32> = (0..16).chain([0x100, 0x101]).collect();
    for (index, affinity) in affinities.iter().enumerate() {
        let cpu = format!("/cpus/cpu@{affinity:x}");
        assert_eq!(tree.cells(&cpu, "reg"), [*affinity]);
        assert_eq!(tree.text(&cpu, "enable-method"), "psci");
        assert_eq!(tree.get(&cpu, "next-level-cache"), None);
        let core = format!("/cpus/cpu-map/socket0/cluster0/core{index}");
        assert_eq!(tree.cells(&core, "cpu"), tree.cells(&cpu, "phandle"));
    }
    assert_eq!(tree.paths("/cpus/cpu@").len(), 18);
}

const fn cache(level: u32, kind: Kind, shared: bool) -> Cache {
    Cache { level, kind, size: 0x1_0000 << level, line_size: 64, sets: 512, shared }
}

#[test]
fn caches_are_chained_as_on_the_host() {
    let caches = [
        cache(1, Kind::Data, false),
        cache(1, Kind::Instruction, false),
        cache(2, Kind::Unified, false),
        cache(3, Kind::Unified, true),
    ];
    let tree = Tree::of(&Machine { cpus: 2, caches: &caches, ..machine() });
    assert_eq!(tree.cells("/cpus/cpu@1", "d-cache-size"), [0x2_0000]);
    assert_eq!(tree.cells("/cpus/cpu@1", "i-cache-sets"), [512]);
    for index in 0..2 {
        let (cpu, near) = (format!("/cpus/cpu@{index}"), format!("/cpus/l2-cache{index}"));
        assert_eq!(tree.cells(&cpu, "next-level-cache"), tree.cells(&near, "phandle"));
        let far = tree.cells("/cpus/l3-cache0", "phandle");
        assert_eq!(tree.cells(&near, "next-level-cache"), far);
        assert_eq!(tree.cells(&near, "cache-size"), [0x4_0000]);
    }
    assert_eq!(tree.paths("/cpus/l3-cache").len(), 1);
    assert_eq!(tree.get("/cpus/l3-cache0", "next-level-cache"), None);
}

#[test]
fn cache_behind_a_gap_is_left_out() {
    let caches = [cache(1, Kind::Unified, false), cache(3, Kind::Unified, true)];
    let tree = Tree::of(&Machine { caches: &caches, ..machine() });
    assert_eq!(tree.cells("/cpus/cpu@0", "cache-size"), [0x2_0000]);
    assert_eq!(tree.get("/cpus/cpu@0", "next-level-cache"), None);
    assert_eq!(tree.paths("/cpus/l").len(), 0);
}

#[test]
fn device_tree_lies_behind_the_kernel_with_fresh_seeds() {
    let (mem, kernel) = loaded(&image(b"code"));
    let entry = write(&mem, &kernel, &machine()).unwrap();
    assert_eq!((entry.address, entry.device_tree), (kernel.entry(), kernel.device_tree()));
    let tree = || {
        write(&mem, &kernel, &machine()).unwrap();
        let length = read(&mem, entry.device_tree + 4, 4);
        let length = u32::from_be_bytes(length.try_into().unwrap());
        Tree::parse(&read(&mem, entry.device_tree, length as usize))
    };
    let (first, second) = (tree(), tree());
    assert_eq!(first.cells("/memory@80000000", "reg"), [0, 0x8000_0000, 0, 64 << 20]);
    for seed in ["rng-seed", "kaslr-seed"] {
        assert_ne!(first.get("/chosen", seed), second.get("/chosen", seed));
    }
}

/// K6, K7.
#[test]
fn what_the_kernel_cannot_take_is_refused() {
    let (mem, kernel) = loaded(&image(b"code"));
    let error = |machine: &Machine<'_>| write(&mem, &kernel, machine).unwrap_err();
    let (longest, longer) = ("x".repeat(2047), "x".repeat(2048));
    write(&mem, &kernel, &Machine { cmdline: &longest, ..machine() }).unwrap();
    let refused = error(&Machine { cmdline: &longer, ..machine() });
    assert!(matches!(refused, BootDataError::CmdlineTooLong { .. }), "{refused}");
    let refused = error(&Machine { cmdline: "a\0b", ..machine() });
    let BootDataError::CmdlineControlCharacter { position: 1 } = refused else {
        panic!("{refused}");
    };
    for cpus in [0, layout::MAX_CPUS + 1] {
        let refused = error(&Machine { cpus, ..machine() });
        assert!(matches!(refused, BootDataError::Cpus { .. }), "{refused}");
    }
    let placements = vec![virtio_mmio_placement(0).unwrap(); layout::MAX_VIRTIO_MMIO + 1];
    let refused = error(&Machine { virtio_mmio: &placements, ..machine() });
    assert!(matches!(refused, BootDataError::Devices { .. }), "{refused}");
    let small = GuestMemory::from_ranges(&memory_regions(4096)).unwrap();
    let refused = write(&small, &kernel, &machine()).unwrap_err();
    assert!(matches!(refused, BootDataError::Write { .. }), "{refused}");
}

/// The largest machine there can be is far from the bound, which holds all the same.
#[test]
fn device_tree_has_a_bound() {
    let placements: Vec<_> = (0..).map_while(virtio_mmio_placement).collect();
    let caches = [cache(1, Kind::Unified, false), cache(2, Kind::Unified, false)];
    let cmdline = "x".repeat(layout::MAX_CMDLINE);
    let largest = Machine {
        cmdline: &cmdline,
        initrd: Some(Initrd { address: 1, size: 1 }),
        cpus: layout::MAX_CPUS,
        caches: &caches,
        virtio_mmio: &placements,
        ..machine()
    };
    let seeds = Seeds { random: [0; 64], address_space: 0 };
    let size = build(&largest, &seeds, 0..1).unwrap().len();
    assert!(size < 64 << 10, "{size}");
    let (mem, kernel) = loaded(&image(b"code"));
    place(&mem, &kernel, &[0; 2 << 20]).unwrap();
    let error = place(&mem, &kernel, &[0; (2 << 20) + 1]).unwrap_err();
    assert_eq!(error.to_string(), "the device tree has 2097153 bytes, a kernel takes 2097152");
}
