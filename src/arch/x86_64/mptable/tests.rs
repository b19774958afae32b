use super::super::test_support::{Elf, all_placements, boot_data, checksum, loaded, number, read};
use super::*;

/// The configuration table, found as a kernel finds it.
fn table(mem: &GuestMemory) -> Vec<u8> {
    let pointer = read(mem, layout::MP_TABLE, 16);
    assert_eq!(&pointer[..4], b"_MP_");
    assert_eq!(checksum(&pointer), 0);
    assert_eq!(pointer[8..10], [1, 4]);
    let address = number::<4>(&pointer, 4);
    let header = read(mem, address, HEADER_SIZE);
    let bytes = read(mem, address, number::<2>(&header, 4) as usize);
    assert_eq!(&bytes[..4], b"PCMP");
    assert_eq!(checksum(&bytes), 0);
    bytes
}

/// The entries of `table`: 20 bytes for a processor, 8 for everything else.
fn split(table: &[u8]) -> Vec<&[u8]> {
    let mut rest = &table[HEADER_SIZE..];
    let mut entries = Vec::new();
    while let Some(kind) = rest.first() {
        let (entry, after) = rest.split_at(if *kind == PROCESSOR { 20 } else { 8 });
        entries.push(entry);
        rest = after;
    }
    entries
}

#[test]
fn mp_table_lists_processors_ioapic_and_the_lines_in_use() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    let placements = &all_placements()[..2];
    for (cpus, serial) in [(1, true), (4, false), (64, true)] {
        let data = BootData { cpus, serial, virtio_mmio: placements, ..boot_data(&kernel) };
        write(&mem, &data).unwrap();
        let table = table(&mem);
        let entries = split(&table);
        assert_eq!(number::<2>(&table, 34) as usize, entries.len());
        assert_eq!(number::<4>(&table, 36), u64::from(layout::LAPIC_BASE));
        let processors: Vec<_> =
            entries.iter().filter(|entry| entry[0] == PROCESSOR).map(|entry| entry[1]).collect();
        assert_eq!(processors, (0..cpus).collect::<Vec<_>>());
        assert_eq!(entries[0][3], 3, "the first is the boot processor");
        let lines: Vec<_> = entries
            .iter()
            .filter(|entry| entry[0] == IO_INTERRUPT)
            .map(|entry| (entry[6], entry[5], entry[7]))
            .collect();
        let expected: &[u8] = if serial { &[4, 5, 6] } else { &[5, 6] };
        assert_eq!(lines, expected.iter().map(|line| (cpus, *line, *line)).collect::<Vec<_>>());
        assert!(entries.windows(2).all(|pair| pair[0][0] <= pair[1][0]), "sorted by type");
    }
}

#[test]
fn largest_mp_table_ends_below_the_bios_entry() {
    let (mem, kernel) = loaded(&Elf::new(b"code").image());
    let placements = all_placements();
    let data = BootData { cpus: layout::MAX_CPUS, virtio_mmio: &placements, ..boot_data(&kernel) };
    write(&mem, &data).unwrap();
    assert!(layout::MP_TABLE + POINTER_SIZE + (table(&mem).len() as u64) < layout::BIOS_ENTRY);
}
