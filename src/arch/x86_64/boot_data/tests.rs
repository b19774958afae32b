use linux_loader::loader::bootparam::boot_params;
use vm_memory::{Bytes, GuestAddress};

use super::super::memory_map::{MapKind, memory_map};
use super::super::test_support::{
    Elf, all_placements, boot_data, bzimage, guest_memory, loaded, number, read,
};
use super::*;
use crate::arch::Initrd;

const INITRD: Initrd = Initrd { address: 0x3ff_0000, size: 0x1234 };

fn elf() -> Vec<u8> {
    Elf::new(b"code").image()
}

fn cmdline(mem: &GuestMemory) -> String {
    let bytes = read(mem, layout::CMDLINE, layout::MAX_CMDLINE + 1);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap();
    String::from_utf8(bytes[..end].to_vec()).unwrap()
}

#[test]
fn command_line_is_written_with_its_end() {
    let (mem, kernel) = loaded(&elf());
    mem.write_slice(&[0xff; 64], GuestAddress(layout::CMDLINE)).unwrap();
    write_boot_data(&mem, &boot_data(&kernel)).unwrap();
    assert_eq!(cmdline(&mem), "console=ttyS0");
}

/// K6.
#[test]
fn command_line_one_byte_too_long_is_refused() {
    for image in [elf(), bzimage(b"code")] {
        let (mem, kernel) = loaded(&image);
        let longest = "x".repeat(2047);
        write_boot_data(&mem, &BootData { cmdline: &longest, ..boot_data(&kernel) }).unwrap();
        assert_eq!(cmdline(&mem), longest);
        let longer = "x".repeat(2048);
        let error = write_boot_data(&mem, &BootData { cmdline: &longer, ..boot_data(&kernel) })
            .unwrap_err();
        let BootDataError::CmdlineTooLong { length: 2048, limit: 2047 } = error else {
            panic!("{error}");
        };
    }
}

/// K6.
#[test]
fn command_line_with_control_characters_is_refused() {
    let (mem, kernel) = loaded(&elf());
    for cmdline in ["quiet\0", "quiet\ninit=/bin/sh", "quiet\x1b"] {
        let error = write_boot_data(&mem, &BootData { cmdline, ..boot_data(&kernel) }).unwrap_err();
        let BootDataError::CmdlineControlCharacter { position: 5 } = error else {
            panic!("{error}");
        };
    }
}

#[test]
fn virtio_devices_are_named_in_front_of_the_command_line_without_acpi() {
    let (mem, kernel) = loaded(&elf());
    let placements = &all_placements()[..2];
    let data = BootData {
        acpi: false,
        virtio_mmio: placements,
        cmdline: "quiet -- arg",
        ..boot_data(&kernel)
    };
    write_boot_data(&mem, &data).unwrap();
    assert_eq!(
        cmdline(&mem),
        "virtio_mmio.device=0x1000@0xd0000000:5 virtio_mmio.device=0x1000@0xd0001000:6 quiet -- arg"
    );
    let longest = "x".repeat(2000);
    let error = write_boot_data(&mem, &BootData { cmdline: &longest, ..data }).unwrap_err();
    assert!(matches!(error, BootDataError::CmdlineTooLong { .. }), "{error}");
}

/// K7.
#[test]
fn counts_beyond_the_layout_are_refused() {
    let (mem, kernel) = loaded(&elf());
    for cpus in [0, layout::MAX_CPUS + 1, u8::MAX] {
        let error = write_boot_data(&mem, &BootData { cpus, ..boot_data(&kernel) }).unwrap_err();
        assert!(matches!(error, BootDataError::Cpus { .. }), "{error}");
    }
    let mut placements = all_placements();
    placements.push(placements[0]);
    let data = BootData { virtio_mmio: &placements, ..boot_data(&kernel) };
    let error = write_boot_data(&mem, &data).unwrap_err();
    assert!(matches!(error, BootDataError::Devices { devices: 19, limit: 18 }), "{error}");
}

#[test]
fn memory_smaller_than_the_boot_data_is_an_error() {
    let (_, kernel) = loaded(&elf());
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    for acpi in [true, false] {
        let data = BootData { acpi, ..boot_data(&kernel) };
        let error = write_boot_data(&mem, &data).unwrap_err();
        assert!(matches!(error, BootDataError::Write { .. }), "{error}");
    }
}

#[test]
fn bios_entry_writes_the_reset_register() {
    let (mem, kernel) = loaded(&elf());
    write_boot_data(&mem, &boot_data(&kernel)).unwrap();
    let code = read(&mem, 0xf_fff0, 9);
    assert_eq!(code, [0xba, 0x02, 0x06, 0xb0, 0x01, 0xee, 0xf4, 0xeb, 0xfd]);
}

#[test]
fn pvh_start_information_says_what_the_guest_was_given() {
    let (mem, kernel) = loaded(&Elf::new(b"code").with_pvh().image());
    let data = BootData { initrd: Some(INITRD), ..boot_data(&kernel) };
    let entry = write_boot_data(&mem, &data).unwrap();
    assert_eq!(entry.protocol, EntryProtocol::Pvh);
    let info = read(&mem, entry.start_info, 56);
    assert_eq!(number::<4>(&info, 0), 0x336e_c578);
    assert_eq!(number::<4>(&info, 4), 1);
    assert_eq!(number::<4>(&info, 12), 1);
    let module = read(&mem, number::<8>(&info, 16), 32);
    assert_eq!((number::<8>(&module, 0), number::<8>(&module, 8)), (INITRD.address, INITRD.size));
    assert_eq!(number::<8>(&info, 24), layout::CMDLINE);
    assert_eq!(read(&mem, number::<8>(&info, 32), 8), b"RSD PTR ");
    let expected = memory_map(&mem);
    assert_eq!(number::<4>(&info, 48) as usize, expected.len());
    let map = read(&mem, number::<8>(&info, 40), expected.len() * 24);
    for (bytes, entry) in map.chunks(24).zip(expected) {
        assert_eq!(number::<8>(bytes, 0), entry.start);
        assert_eq!(number::<8>(bytes, 8), entry.size);
        assert_eq!(number::<4>(bytes, 16), entry.kind as u64);
    }
}

#[test]
fn pvh_start_information_without_initrd_and_acpi_has_no_address_of_them() {
    let (mem, kernel) = loaded(&Elf::new(b"code").with_pvh().image());
    let data = BootData { acpi: false, ..boot_data(&kernel) };
    let info = read(&mem, write_boot_data(&mem, &data).unwrap().start_info, 56);
    assert_eq!(number::<4>(&info, 12), 0);
    assert_eq!(number::<8>(&info, 16), 0);
    assert_eq!(number::<8>(&info, 32), 0);
}

fn zero_page(mem: &GuestMemory, data: &BootData<'_>) -> boot_params {
    let entry = write_boot_data(mem, data).unwrap();
    assert_eq!(entry.protocol, EntryProtocol::Linux64);
    mem.read_obj(GuestAddress(entry.start_info)).unwrap()
}

#[test]
fn zero_page_says_what_the_guest_was_given() {
    let (mem, kernel) = loaded(&elf());
    let params = zero_page(&mem, &BootData { initrd: Some(INITRD), ..boot_data(&kernel) });
    let header = params.hdr;
    assert_eq!({ header.boot_flag }, 0xaa55);
    assert_eq!({ header.header }.to_le_bytes(), *b"HdrS");
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!(u64::from(header.cmd_line_ptr), layout::CMDLINE);
    assert_eq!(u64::from(header.ramdisk_image), INITRD.address);
    assert_eq!(u64::from(header.ramdisk_size), INITRD.size);
    assert_eq!({ params.acpi_rsdp_addr }, layout::ACPI_TABLES);
    assert_eq!({ params.sentinel }, 0);
    let expected = memory_map(&mem);
    assert_eq!(usize::from(params.e820_entries), expected.len());
    let table = params.e820_table;
    for (slot, entry) in table.iter().zip(&expected) {
        assert_eq!(({ slot.addr }, { slot.size }), (entry.start, entry.size));
        assert_eq!({ slot.r#type }, entry.kind as u32);
    }
    assert_eq!(expected[2].kind, MapKind::Ram);
}

#[test]
fn zero_page_keeps_the_setup_header_of_a_bzimage() {
    let (mem, kernel) = loaded(&bzimage(b"code"));
    let params = zero_page(&mem, &boot_data(&kernel));
    let header = params.hdr;
    assert_eq!({ header.version }, 0x020f);
    assert_eq!({ header.kernel_alignment }, 0x20_0000);
    assert_eq!({ header.init_size }, 0x10_0000);
    assert_eq!({ header.xloadflags }, 1);
    assert_eq!({ header.type_of_loader }, 0xff);
    assert_eq!({ header.ramdisk_size }, 0);
}

#[test]
fn random_seed_is_fresh_for_every_guest() {
    let (mem, kernel) = loaded(&elf());
    let seed = || {
        let address = zero_page(&mem, &boot_data(&kernel)).hdr.setup_data;
        let record = read(&mem, address, 48);
        assert_eq!(number::<8>(&record, 0), 0);
        assert_eq!(number::<4>(&record, 8), 9);
        assert_eq!(number::<4>(&record, 12), 32);
        record[16..].to_vec()
    };
    assert_ne!(seed(), seed());
}

/// Follows the page tables of the 64-bit protocol from `address`.
fn translate(mem: &GuestMemory, address: u64) -> Option<u64> {
    let mut table = layout::PAGE_TABLES;
    for shift in [39, 30, 21] {
        let index = address >> shift & 0x1ff;
        let entry: u64 = mem.read_obj(GuestAddress(table + index * 8)).unwrap();
        if entry & 1 == 0 {
            return None;
        }
        table = entry & !0xfff;
    }
    Some(table | address & 0x1f_ffff)
}

#[test]
fn page_tables_map_the_first_4_gib_onto_themselves() {
    let (mem, kernel) = loaded(&elf());
    write_boot_data(&mem, &boot_data(&kernel)).unwrap();
    for address in [0, 0x1f_ffff, 0x20_0000, 0x4000_0000, 0xfee0_0020, 0xffff_ffff] {
        assert_eq!(translate(&mem, address), Some(address));
    }
    for address in [1 << 32, 1 << 39] {
        assert_eq!(translate(&mem, address), None);
    }
}

#[test]
fn boot_data_lies_below_the_stack_and_the_kernel() {
    let (mem, kernel) = loaded(&elf());
    let before = guest_memory(64);
    write_boot_data(&mem, &boot_data(&kernel)).unwrap();
    let stack = layout::STACK_TOP - 0x1000;
    assert_eq!(read(&mem, stack, 0x1000), read(&before, stack, 0x1000));
    assert_eq!(
        read(&mem, layout::KERNEL_START, 0x1000),
        read(&before, layout::KERNEL_START, 0x1000)
    );
}
