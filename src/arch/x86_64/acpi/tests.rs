use super::super::test_support::{Elf, all_placements, boot_data, checksum, loaded, number, read};
use super::*;

/// A table as found in guest memory, its checksum and length proven.
fn table(mem: &GuestMemory, address: u64) -> Vec<u8> {
    let header = read(mem, address, 36);
    let bytes = read(mem, address, number::<4>(&header, 4) as usize);
    assert_eq!(checksum(&bytes), 0, "{:?}", String::from_utf8_lossy(&bytes[..4]));
    bytes
}

/// The tables that the RSDP leads to: FADT, MADT and DSDT.
fn tables(mem: &GuestMemory, rsdp: u64) -> [Vec<u8>; 3] {
    let rsdp = read(mem, rsdp, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((checksum(&rsdp[..20]), checksum(&rsdp)), (0, 0));
    let xsdt = table(mem, number::<8>(&rsdp, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let fadt = table(mem, number::<8>(&xsdt, 36));
    let madt = table(mem, number::<8>(&xsdt, 44));
    let dsdt = table(mem, number::<8>(&fadt, 140));
    [fadt, madt, dsdt]
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

#[test]
fn fadt_is_of_reduced_hardware_with_sleep_and_reset_registers() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    let rsdp = write(&mem, &boot_data(&kernel)).unwrap();
    let [fadt, ..] = tables(&mem, rsdp);
    assert_eq!(&fadt[..4], b"FACP");
    assert_eq!(fadt.len(), 276);
    let flags = number::<4>(&fadt, 112);
    assert_eq!(flags & (1 << 20), 1 << 20);
    assert_eq!(flags & (1 << 10), 1 << 10);
    // Address space, width, offset, access size, address.
    let register = |port: u16| [&[1, 8, 0, 1][..], &u64::from(port).to_le_bytes()].concat();
    assert_eq!(fadt[116..128], register(layout::ACPI_RESET_PORT));
    assert_eq!(fadt[128], layout::ACPI_RESET);
    assert_eq!(fadt[244..256], register(layout::ACPI_SLEEP_CONTROL_PORT));
    assert_eq!(fadt[256..268], register(layout::ACPI_SLEEP_STATUS_PORT));
}

#[test]
fn madt_lists_every_processor_and_the_ioapic() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    for cpus in [1, 2, 64] {
        let data = BootData { cpus, ..boot_data(&kernel) };
        let rsdp = write(&mem, &data).unwrap();
        let [_, madt, _] = tables(&mem, rsdp);
        assert_eq!(&madt[..4], b"APIC");
        assert_eq!(number::<4>(&madt, 36), u64::from(layout::LAPIC_BASE));
        assert_eq!(number::<4>(&madt, 40), 0, "no PC/AT interrupt controller");
        let (lapics, ioapic) = madt[44..].split_at(usize::from(cpus) * 8);
        for (index, lapic) in (0..cpus).zip(lapics.chunks(8)) {
            assert_eq!(lapic, [0, 8, index, index, 1, 0, 0, 0]);
        }
        assert_eq!(ioapic[..2], [1, 12]);
        assert_eq!(number::<4>(ioapic, 4), u64::from(layout::IOAPIC_BASE));
        assert_eq!(ioapic.len(), 12);
    }
}

#[test]
fn dsdt_names_exactly_the_devices_there_are() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    let placements = all_placements();
    for (serial, devices) in [(true, 0), (false, 3), (true, placements.len())] {
        let data = BootData { serial, virtio_mmio: &placements[..devices], ..boot_data(&kernel) };
        let rsdp = write(&mem, &data).unwrap();
        let [_, _, dsdt] = tables(&mem, rsdp);
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(count(&dsdt, b"LNRO0005"), devices);
        assert_eq!(count(&dsdt, b"COM1"), usize::from(serial));
        assert_eq!(count(&dsdt, b"ACPI0013"), 1);
        assert_eq!(count(&dsdt, b"QEMU0001"), 1);
        for placement in &placements[..devices] {
            // Memory32Fixed, writable: base and size.
            let mut window = vec![0x86, 9, 0, 1];
            window.extend((placement.base as u32).to_le_bytes());
            window.extend((placement.size as u32).to_le_bytes());
            assert_eq!(count(&dsdt, &window), 1);
            // Extended interrupt: consumer, edge, active high, exclusive.
            let mut line = vec![0x89, 6, 0, 0b0011, 1];
            line.extend(placement.gsi.to_le_bytes());
            assert_eq!(count(&dsdt, &line), 1);
        }
    }
}

#[test]
fn largest_tables_end_below_the_mp_table() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    let placements = all_placements();
    let data = BootData { cpus: layout::MAX_CPUS, virtio_mmio: &placements, ..boot_data(&kernel) };
    let rsdp = write(&mem, &data).unwrap();
    let xsdt = number::<8>(&read(&mem, rsdp, 36), 24);
    let end = xsdt + table(&mem, xsdt).len() as u64;
    assert!(end <= layout::MP_TABLE, "{end:#x}");
}
