//! What holds for either engine.

use std::fs;
use std::io::Write as _;

use proptest::prelude::*;
use tempfile::NamedTempFile;

use super::{ENGINE, Patient};
use crate::devices::virtio::block::*;
use crate::devices::virtio::device::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::devices::virtio::testing::{DATA, Driver, HIGH_START, LOW_END, WRITE};

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const HEADER: u64 = DATA;
const STATUS: u64 = DATA + 0x100;
const BUFFER: u64 = DATA + 0x1000;
const POISON: u8 = 0xa5;

const ALL: u64 = F_SIZE_MAX | F_SEG_MAX | F_FLUSH | F_DISCARD | F_WRITE_ZEROES | F_INDIRECT_DESC;

/// A machine with a disk of 64 sectors, sector n filled with byte n.
struct Machine {
    driver: Driver,
    file: NamedTempFile,
}

fn numbered_image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    for sector in 0..64u8 {
        file.write_all(&[sector; 512]).unwrap();
    }
    file
}

fn device(disk: Disk) -> Box<dyn VirtioDevice> {
    Box::new(Patient(Block::new(disk, "disk-0").with_engine(ENGINE)))
}

impl Machine {
    fn new(readonly: bool, features: u64) -> Self {
        let file = numbered_image();
        let disk = Disk::open(file.path(), readonly).unwrap();
        let driver = Driver::started(device(disk), features);
        driver.poke(DATA, &vec![POISON; usize::try_from(LOW_END - DATA).unwrap()]);
        Self { driver, file }
    }

    fn writable() -> Self {
        Self::new(false, ALL)
    }

    /// Runs a request with `data` parts between header and status; tells status and used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.driver.poke(HEADER, &header);
        self.driver.poke(STATUS, &[0xff]);
        let parts = [&[(HEADER, 16, 0)], data, &[(STATUS, 1, WRITE)]].concat();
        let head = self.driver.chain(0, &parts);
        self.driver.kick(0);
        let used = self.driver.used(0);
        assert_eq!(used.len(), 1, "one chain, one answer");
        assert_eq!(used[0].0, head);
        (self.driver.peek(STATUS, 1)[0], used[0].1)
    }

    /// A discard or write-zeroes request of `segments` (sector, sectors, flags).
    fn segments(&mut self, kind: u32, segments: &[(u64, u32, u32)]) -> u8 {
        let mut raw = Vec::new();
        for (sector, sectors, flags) in segments {
            raw.extend_from_slice(&sector.to_le_bytes());
            raw.extend_from_slice(&sectors.to_le_bytes());
            raw.extend_from_slice(&flags.to_le_bytes());
        }
        self.driver.poke(BUFFER, &raw);
        let len = u32::try_from(raw.len()).unwrap();
        self.request(kind, 0, &[(BUFFER, len, 0)]).0
    }

    fn image(&self) -> Vec<u8> {
        fs::read(self.file.path()).unwrap()
    }

    fn still_works(&mut self) -> bool {
        self.request(IN, 9, &[(BUFFER, 512, WRITE)]) == (OK, 513)
            && self.driver.peek(BUFFER, 512) == [9; 512]
    }
}

#[test]
fn read_fills_scattered_buffers_in_order_and_reports_the_exact_length() {
    let mut m = Machine::writable();
    let parts = [(BUFFER, 512, WRITE), (HIGH_START, 100, WRITE), (BUFFER + 0x1000, 412, WRITE)];
    assert_eq!(m.request(IN, 3, &parts), (OK, 1025));
    assert_eq!(m.driver.peek(BUFFER, 512), [3; 512]);
    assert_eq!(m.driver.peek(HIGH_START, 100), [4; 100]);
    assert_eq!(m.driver.peek(BUFFER + 0x1000, 412), [4; 412]);
}

/// Q19: nothing beyond the buffer is touched.
#[test]
fn read_leaves_the_bytes_around_its_buffers_alone() {
    let mut m = Machine::writable();
    m.request(IN, 1, &[(BUFFER + 512, 1024, WRITE)]);
    let seen = m.driver.peek(BUFFER, 2048);
    assert!(seen[..512].iter().chain(&seen[1536..]).all(|b| *b == POISON));
}

#[test]
fn write_reaches_the_image_and_nothing_else_of_it() {
    let mut m = Machine::writable();
    let before = m.image();
    m.driver.poke(BUFFER, &[0xee; 1024]);
    assert_eq!(m.request(OUT, 62, &[(BUFFER, 600, 0), (BUFFER + 600, 424, 0)]), (OK, 1));
    let after = m.image();
    assert_eq!(after[62 * 512..], [0xee; 1024]);
    assert_eq!(after[..62 * 512], before[..62 * 512]);
}

/// Section 2.7.4: the header, data and status may be framed in any way.
#[test]
fn header_split_over_descriptors_and_joined_with_data_is_understood() {
    let mut m = Machine::writable();
    m.request(IN, 0, &[(BUFFER, 512, WRITE)]);
    let mut raw = [0u8; 16 + 512];
    raw[0] = 1;
    raw[8] = 5;
    raw[16..].fill(0xcc);
    m.driver.poke(BUFFER, &raw);
    m.driver.chain(0, &[(BUFFER, 3, 0), (BUFFER + 3, 525, 0), (STATUS, 1, WRITE)]);
    m.driver.kick(0);
    assert_eq!(m.driver.used(0).len(), 1);
    assert_eq!(m.driver.peek(STATUS, 1), [OK]);
    assert_eq!(m.image()[5 * 512..6 * 512], [0xcc; 512]);
    // The status byte at the end of the data buffer.
    m.driver.poke(HEADER, &[0; 16]);
    m.driver.chain(0, &[(HEADER, 16, 0), (BUFFER, 513, WRITE)]);
    m.driver.kick(0);
    assert_eq!(m.driver.used(0)[0].1, 513);
    assert_eq!(m.driver.peek(BUFFER + 511, 2), [0, OK]);
}

/// B1.
#[test]
fn sectors_at_past_and_far_past_the_end_report_ioerr() {
    let mut m = Machine::writable();
    let before = m.image();
    for (sector, len) in
        [(64, 512), (63, 1024), (65, 512), (1 << 55, 512), ((1 << 55) - 1, 512), (u64::MAX, 512)]
    {
        assert_eq!(m.request(IN, sector, &[(BUFFER, len, WRITE)]), (IOERR, 0), "{sector}");
        assert_eq!(m.request(OUT, sector, &[(BUFFER, len, 0)]), (IOERR, 1), "{sector}");
    }
    assert_eq!(m.image(), before);
    assert!(m.driver.peek(BUFFER, 1024).iter().all(|b| *b == POISON));
    assert!(m.still_works());
}

/// B2.
#[test]
fn data_that_is_no_whole_sectors_reports_ioerr() {
    let mut m = Machine::writable();
    for len in [1, 511, 513, 1023] {
        assert_eq!(m.request(IN, 0, &[(BUFFER, len, WRITE)]), (IOERR, 0));
        assert_eq!(m.request(OUT, 0, &[(BUFFER, len, 0)]), (IOERR, 1));
    }
    assert_eq!(m.request(IN, 0, &[]), (IOERR, 1));
    assert_eq!(m.request(OUT, 0, &[]), (IOERR, 1));
    assert!(m.still_works());
}

/// B2: one request cannot hold the event loop for gigabytes.
#[test]
fn scatter_beyond_the_request_limit_reports_ioerr_without_transfer() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 30).unwrap();
    let disk = Disk::open(file.path(), false).unwrap();
    let mut driver = Driver::new(device(disk));
    driver.set_queue_size(64);
    driver.start(ALL);
    let mut m = Machine { driver, file };
    let part = (HIGH_START, 1 << 20, WRITE);
    assert_eq!(m.request(IN, 0, &[part; 33]), (IOERR, 0));
    assert_eq!(m.request(IN, 0, &[part; 32]), (OK, (32 << 20) + 1));
}

/// B3.
#[test]
fn chains_without_header_or_status_break_the_device_until_reset() {
    let cases: [&[(u64, u32, u16)]; 7] = [
        &[(HEADER, 16, 0)],
        &[(HEADER, 16, 0), (BUFFER, 512, 0)],
        &[(HEADER, 15, 0), (STATUS, 1, WRITE)],
        &[(HEADER, 8, 0), (HEADER + 8, 7, 0), (STATUS, 1, WRITE)],
        &[(STATUS, 1, WRITE)],
        &[(HEADER, 16, WRITE), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)],
        &[(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, 0)],
    ];
    let mut m = Machine::writable();
    for parts in cases {
        m.driver.interrupts();
        m.driver.poke(HEADER, &[0; 16]);
        m.driver.chain(0, parts);
        m.driver.kick(0);
        assert!(m.driver.needs_reset(), "{parts:x?}");
        assert_eq!(m.driver.interrupts(), 1, "config change");
        m.driver.start(ALL);
        assert!(m.still_works(), "{parts:x?}");
    }
}

/// Section 5.2.6.2: the status byte is written even when the header is not whole.
#[test]
fn status_byte_is_written_before_the_device_breaks() {
    let mut m = Machine::writable();
    m.driver.poke(STATUS, &[0xff]);
    m.driver.chain(0, &[(HEADER, 15, 0), (STATUS, 1, WRITE)]);
    m.driver.kick(0);
    assert_eq!(m.driver.peek(STATUS, 1), [IOERR]);
}

/// B4.
#[test]
fn malformed_discards_and_zeroes_change_nothing() {
    let mut m = Machine::writable();
    let before = m.image();
    for kind in [DISCARD, WRITE_ZEROES] {
        for segments in [
            &[][..],
            &[(64, 1, 0)],
            &[(0, 65, 0)],
            &[(0, u32::MAX, 0)],
            &[(u64::MAX, 1, 0)],
            &[(u64::MAX / 512, 8, 0)],
            &[(0, 1, 0), (64, 1, 0)],
            &[(0, 1, 0); 17],
        ] {
            let status = match segments {
                [] => m.request(kind, 0, &[]).0,
                segments => m.segments(kind, segments),
            };
            assert_eq!(status, IOERR, "{kind} {segments:?}");
        }
        for flags in [2, 1 << 31, u32::MAX] {
            assert_eq!(m.segments(kind, &[(0, 1, flags)]), UNSUPP);
        }
        for len in [1, 15, 17, 31] {
            assert_eq!(m.request(kind, 0, &[(BUFFER, len, 0)]), (IOERR, 1));
        }
    }
    assert_eq!(m.segments(DISCARD, &[(0, 1, 1)]), UNSUPP, "a discard has no unmap flag");
    assert_eq!(m.segments(WRITE_ZEROES, &[(0, 1, 0); 2]), IOERR, "more than the limit");
    assert_eq!(m.image(), before);
    assert!(m.still_works());
}

/// B4.
#[test]
fn discard_and_zeroes_work_with_overlaps_and_empty_ranges() {
    let mut m = Machine::writable();
    assert_eq!(m.segments(WRITE_ZEROES, &[(2, 3, 0)]), OK);
    assert_eq!(m.segments(WRITE_ZEROES, &[(8, 2, 1)]), OK);
    assert_eq!(m.segments(WRITE_ZEROES, &[(5, 0, 0)]), OK);
    assert_eq!(m.segments(WRITE_ZEROES, &[(64, 0, 1)]), OK);
    let image = m.image();
    for sector in 0..64u8 {
        let at = usize::from(sector) * 512;
        let wanted = if matches!(sector, 2..=4 | 8 | 9) { 0 } else { sector };
        assert_eq!(image[at..at + 512], [wanted; 512], "sector {sector}");
    }
    assert_eq!(m.segments(DISCARD, &[(16, 8, 0), (20, 8, 0), (16, 0, 0)]), OK);
    assert_eq!(m.image()[28 * 512..29 * 512], [28; 512]);
    assert_eq!(m.image().len(), 64 * 512);
}

/// B4, B5.
#[test]
fn requests_of_features_not_negotiated_and_unknown_types_report_unsupp() {
    let mut m = Machine::new(false, F_FLUSH);
    assert_eq!(m.segments(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(m.segments(WRITE_ZEROES, &[(0, 1, 0)]), UNSUPP);
    // SCSI, legacy flush, lifetime, secure erase, zones, barrier bit, and the far end.
    for kind in [2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 16, 18, 26, 1 << 31, 1 << 31 | 1, u32::MAX] {
        assert_eq!(m.request(kind, 0, &[(BUFFER, 512, WRITE)]), (UNSUPP, 0), "{kind}");
        assert_eq!(m.request(kind, 0, &[(BUFFER, 512, 0)]), (UNSUPP, 1), "{kind}");
    }
    assert!(m.driver.peek(BUFFER + 512, 512).iter().all(|b| *b == POISON));
    assert!(m.still_works());
}

/// B6.
#[test]
fn readonly_disk_refuses_every_way_of_writing_and_stays_as_it_was() {
    let mut m = Machine::new(true, F_FLUSH);
    let before = m.image();
    assert_eq!(m.driver.offered() & (F_RO | F_DISCARD | F_WRITE_ZEROES), F_RO);
    assert_eq!(m.request(OUT, 0, &[(BUFFER, 512, 0)]), (IOERR, 1));
    assert_eq!(m.segments(DISCARD, &[(0, 1, 0)]), UNSUPP);
    assert_eq!(m.segments(WRITE_ZEROES, &[(0, 1, 0)]), UNSUPP);
    // A read into memory flagged device-readable is no way to write memory either.
    assert_eq!(m.request(IN, 0, &[(BUFFER, 512, 0)]), (IOERR, 1));
    assert_eq!(m.request(FLUSH, 0, &[]), (OK, 1));
    assert_eq!(m.image(), before);
    assert!(m.still_works());
}

/// Q12: a write request whose data is device-writable, and the reverse.
#[test]
fn data_in_the_wrong_direction_is_neither_read_nor_written() {
    let mut m = Machine::writable();
    let before = m.image();
    assert_eq!(m.request(OUT, 0, &[(BUFFER, 512, WRITE)]), (IOERR, 0));
    assert_eq!(m.request(IN, 0, &[(BUFFER, 512, 0)]), (IOERR, 1));
    assert_eq!(m.image(), before);
    assert!(m.driver.peek(BUFFER, 512).iter().all(|b| *b == POISON));
}

/// B4: sectors beyond the limits told in the configuration, though inside the disk.
#[test]
fn discards_and_zeroes_beyond_their_limits_report_ioerr() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(8 << 30).unwrap();
    let disk = Disk::open(file.path(), false).unwrap();
    let mut m = Machine { driver: Driver::started(device(disk), ALL), file };
    for (kind, limit) in [(DISCARD, MAX_DISCARD_SECTORS), (WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS)]
    {
        assert_eq!(m.segments(kind, &[(0, limit + 1, 0)]), IOERR);
        assert_eq!(m.segments(kind, &[(0, limit, 0)]), OK);
    }
}

/// B11: neither a flush nor, without flushes, a write succeeds once writes were lost; not even
/// after a reset.
#[test]
fn lost_writes_are_reported_by_every_later_flush_and_unflushed_write() {
    let file = numbered_image();
    let mut disk = Disk::open(file.path(), false).unwrap();
    disk.lose_writes();
    let mut m = Machine { driver: Driver::started(device(disk), ALL), file };
    for _ in 0..2 {
        assert_eq!(m.request(FLUSH, 0, &[]), (IOERR, 1));
        assert_eq!(m.request(OUT, 0, &[(BUFFER, 512, 0)]), (OK, 1));
        m.driver.start(ALL);
    }
    m.driver.start(ALL & !F_FLUSH);
    assert_eq!(m.request(OUT, 0, &[(BUFFER, 512, 0)]), (IOERR, 1));
    assert_eq!(m.segments(WRITE_ZEROES, &[(0, 1, 0)]), IOERR);
    assert_eq!(m.segments(DISCARD, &[(0, 1, 0)]), IOERR);
}

/// What was done before a broken chain is not lost with it.
#[test]
fn requests_before_a_broken_chain_are_returned() {
    let mut m = Machine::writable();
    m.driver.poke(HEADER, &[0; 16]);
    m.driver.interrupts();
    let head = m.driver.chain(0, &[(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)]);
    m.driver.offer(0, 0xffff);
    m.driver.kick(0);
    assert!(m.driver.needs_reset());
    assert_eq!(m.driver.used(0), [(head, 513)]);
    assert_eq!(m.driver.interrupts(), 2, "used buffer, configuration change");
}

/// B7.
#[test]
fn identity_is_twenty_bytes_and_shorter_buffers_get_none() {
    let mut m = Machine::writable();
    assert_eq!(m.request(GET_ID, 0, &[]), (IOERR, 1));
    for len in [1, 19] {
        assert_eq!(m.request(GET_ID, 0, &[(BUFFER, len, WRITE)]), (IOERR, 0));
        assert!(m.driver.peek(BUFFER, 32).iter().all(|b| *b == POISON));
    }
    assert_eq!(m.request(GET_ID, 0, &[(BUFFER, 20, WRITE)]), (OK, 21));
    assert_eq!(m.driver.peek(BUFFER, 21), [b"disk-0", &[0; 14][..], &[POISON]].concat());
    // The status is not next to the identity: only the identity counts.
    assert_eq!(m.request(GET_ID, 0, &[(BUFFER, 4096, WRITE)]), (OK, 20));
    assert_eq!(m.driver.peek(BUFFER + 20, 4076), [POISON; 4076]);
}

/// B8, Q19.
#[test]
fn image_truncated_under_the_guest_reports_ioerr_and_the_length_really_read() {
    let mut m = Machine::writable();
    m.file.as_file().set_len(3 * 512).unwrap();
    assert_eq!(m.request(IN, 2, &[(BUFFER, 1024, WRITE)]), (IOERR, 512));
    assert_eq!(m.driver.peek(BUFFER + 512, 512), [POISON; 512]);
    assert_eq!(m.request(IN, 32, &[(BUFFER, 512, WRITE)]), (IOERR, 0));
    // A write grows the file again, as on a sparse image.
    assert_eq!(m.request(OUT, 40, &[(BUFFER, 512, 0)]), (OK, 1));
    assert_eq!(m.request(IN, 32, &[(BUFFER, 512, WRITE)]), (OK, 513));
    assert_eq!(m.driver.peek(BUFFER, 512), [0; 512]);
}

/// B15: the bytes of an image never change what it is.
#[test]
fn image_that_looks_like_another_format_stays_raw() {
    let mut m = Machine::writable();
    let mut qcow = [0u8; 512];
    qcow[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    qcow[24..32].copy_from_slice(&(1u64 << 40).to_be_bytes());
    m.driver.poke(BUFFER, &qcow);
    assert_eq!(m.request(OUT, 0, &[(BUFFER, 512, 0)]), (OK, 1));
    let path = m.file.path().to_owned();
    let Machine { driver, file } = m;
    drop(driver);
    let disk = Disk::open(&path, false).unwrap();
    assert_eq!(disk.sectors(), 64);
    let driver = Driver::started(device(disk), ALL);
    let mut m = Machine { driver, file };
    assert_eq!(m.request(IN, 0, &[(BUFFER, 512, WRITE)]), (OK, 513));
    assert_eq!(m.driver.peek(BUFFER, 512), qcow);
}

/// B14.
#[test]
fn image_stays_locked_while_a_machine_has_it_and_is_free_afterwards() {
    let Machine { driver, file } = Machine::writable();
    assert!(matches!(Disk::open(file.path(), false), Err(DiskError::Locked { .. })));
    drop(driver);
    Disk::open(file.path(), false).unwrap();
}

#[test]
fn batch_of_requests_is_answered_with_one_interrupt() {
    let mut m = Machine::new(false, ALL);
    m.driver.set_queue_size(256);
    m.driver.start(ALL);
    m.driver.poke(HEADER, &[0; 16]);
    m.driver.interrupts();
    for _ in 0..20 {
        m.driver.chain(0, &[(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)]);
    }
    m.driver.kick(0);
    assert_eq!(m.driver.used(0).len(), 20);
    assert_eq!(m.driver.interrupts(), 1);
}

/// Q11: the budget of a wake is spent, and the rest is not lost.
#[test]
fn more_requests_than_one_wake_may_do_are_all_done() {
    let mut m = Machine::writable();
    m.driver.set_queue_size(256);
    for features in [ALL, ALL | F_EVENT_IDX] {
        m.driver.start(features);
        m.driver.poke(HEADER, &[0; 16]);
        for round in 0..4 {
            for _ in 0..80 {
                m.driver.chain(0, &[(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)]);
            }
            m.driver.kick(0);
            assert_eq!(m.driver.used(0).len(), 80, "round {round}");
        }
    }
}

#[test]
fn configuration_names_capacity_and_limits_and_is_zero_beyond() {
    let mut m = Machine::writable();
    assert_eq!((m.driver.read(0x100), m.driver.read(0x104)), (64, 0));
    assert_eq!(m.driver.read(0x108), SIZE_MAX);
    assert_eq!(m.driver.read(0x10c), SEG_MAX);
    assert_eq!(m.driver.read(0x124), MAX_DISCARD_SECTORS);
    assert_eq!(m.driver.read(0x134), MAX_WRITE_ZEROES_SEGMENTS);
    assert_eq!(m.driver.read(0x138), 1);
    assert_eq!(m.driver.read(0x13c), 0);
}

/// B8: the size follows the file when asked to, and the driver hears of it.
#[test]
fn disk_that_grew_or_shrank_is_told_and_serves_what_it_has() {
    let mut m = Machine::writable();
    let generation = m.driver.read(0xfc);
    m.driver.interrupts();
    m.driver.transport.update(&Change::DiskSize).unwrap();
    assert_eq!((m.driver.read(0xfc), m.driver.interrupts()), (generation, 0), "nothing changed");

    m.file.as_file().set_len(80 * 512).unwrap();
    assert_eq!(m.request(IN, 79, &[(BUFFER, 512, WRITE)]).0, IOERR, "not told yet");
    m.driver.interrupts();
    m.driver.transport.update(&Change::DiskSize).unwrap();
    assert_eq!((m.driver.read(0x100), m.driver.read(0x104)), (80, 0));
    assert_ne!(m.driver.read(0xfc), generation);
    assert_eq!(m.driver.interrupts(), 1);
    assert_eq!(m.request(IN, 79, &[(BUFFER, 512, WRITE)]), (OK, 513));

    m.file.as_file().set_len(32 * 512).unwrap();
    m.driver.transport.update(&Change::DiskSize).unwrap();
    assert_eq!(m.driver.read(0x100), 32);
    assert_eq!(m.request(IN, 31, &[(BUFFER, 512, WRITE)]), (OK, 513));
    for (kind, flags) in [(IN, WRITE), (OUT, 0)] {
        assert_eq!(m.request(kind, 32, &[(BUFFER, 512, flags)]).0, IOERR);
        assert_eq!(m.request(kind, 31, &[(BUFFER, 1024, flags)]).0, IOERR);
    }
    assert_eq!(m.segments(DISCARD, &[(32, 1, 0)]), IOERR);
    assert_eq!(m.image().len(), 32 * 512);
}

#[test]
fn disk_with_nothing_left_keeps_its_size_and_says_why() {
    let mut m = Machine::writable();
    m.file.as_file().set_len(511).unwrap();
    let error = m.driver.transport.update(&Change::DiskSize).unwrap_err().to_string();
    assert!(error.contains("511 bytes"), "{error}");
    assert_eq!(m.driver.read(0x100), 64);
    assert_eq!(m.request(IN, 1, &[(BUFFER, 512, WRITE)]).0, IOERR);
}

/// B16: whatever the alignment, the data is right; and what was written one way is read the other.
#[test]
fn direct_disk_moves_what_is_aligned_and_what_is_not() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(64 << 10).unwrap();
    let disk = Disk::open_direct(file.path(), false).unwrap();
    let mut m = Machine { driver: Driver::started(device(disk), ALL), file };
    let data: Vec<u8> = (0..8192u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    // Memory, sector, lengths of the parts: aligned, then off in memory, in the file, in length.
    let cases: [(u64, u64, &[u32]); 6] = [
        (BUFFER, 0, &[8192]),
        (BUFFER, 16, &[4096, 4096]),
        (BUFFER + 1, 32, &[8192]),
        (BUFFER + 512, 49, &[1024]),
        (BUFFER, 64, &[513, 511]),
        (BUFFER + 7, 81, &[5, 1019]),
    ];
    for (addr, sector, lens) in cases {
        let parts = |flags| {
            let mut at = addr;
            let part = |len: &u32| {
                let part = (at, *len, flags);
                at += u64::from(*len);
                part
            };
            lens.iter().map(part).collect::<Vec<_>>()
        };
        let len: u32 = lens.iter().sum();
        let whole = &data[..usize::try_from(len).unwrap()];
        m.driver.poke(addr, whole);
        assert_eq!(m.request(OUT, sector, &parts(0)), (OK, 1), "{addr:x} {sector} {lens:?}");
        assert_eq!(m.request(FLUSH, 0, &[]), (OK, 1));
        let start = usize::try_from(sector * 512).unwrap();
        assert_eq!(m.image()[start..start + whole.len()], *whole);
        m.driver.poke(addr, &vec![0; whole.len()]);
        assert_eq!(m.request(IN, sector, &parts(WRITE)), (OK, len + 1));
        assert_eq!(m.driver.peek(addr, whole.len()), whole);
        // The other way round.
        let other = 0x8_0000 + BUFFER;
        assert_eq!(m.request(IN, sector, &[(other, len, WRITE)]), (OK, len + 1));
        assert_eq!(m.driver.peek(other, whole.len()), whole);
    }
}

#[test]
fn every_queue_of_a_disk_is_served() {
    let file = numbered_image();
    let disk = Disk::open(file.path(), false).unwrap();
    let block = Block::new(disk, "").with_engine(ENGINE).with_queues(8);
    let mut driver = Driver::started(Box::new(Patient(block)), ALL | F_MQ);
    assert_ne!(driver.offered() & F_MQ, 0);
    assert_eq!(driver.read(0x120) >> 16, 8, "num_queues");
    for round in 0..3u8 {
        for queue in 0..8u8 {
            let sector = round * 8 + queue;
            let mut header = [0; 16];
            header[8] = sector;
            driver.poke(HEADER, &header);
            let parts = [(HEADER, 16, 0), (BUFFER, 512, WRITE), (STATUS, 1, WRITE)];
            let head = driver.chain(queue.into(), &parts);
            driver.kick(queue.into());
            assert_eq!(driver.used(queue.into()), [(head, 513)]);
            assert_eq!(driver.peek(BUFFER, 512), [sector; 512]);
        }
    }
    assert_eq!(Machine::writable().driver.offered() & F_MQ, 0, "one queue needs no feature");
}

fn any_part() -> impl Strategy<Value = (u64, u32, bool)> {
    let addr = prop_oneof![
        8 => BUFFER..BUFFER + 0x8000,
        1 => Just(LOW_END - 256),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![
        4 => Just(512u32),
        4 => 1u32..2000,
        1 => Just(1),
        1 => any::<u32>(),
    ];
    (addr, len, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a guest asks: the used length never exceeds what it offered for writing, the
    /// status byte is one of three, and a reset always brings the device back.
    #[test]
    fn any_request_is_answered_within_bounds_or_needs_a_reset(
        kind in prop_oneof![4 => 0u32..16, 1 => any::<u32>()],
        sector in prop_oneof![4 => 0u64..70, 1 => any::<u64>()],
        parts in prop::collection::vec(any_part(), 0..6),
        contents in prop::collection::vec(any::<u8>(), 64),
        sorted in prop::bool::weighted(0.8),
    ) {
        let mut m = Machine::writable();
        m.driver.poke(BUFFER, &contents);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        m.driver.poke(HEADER, &header);
        m.driver.poke(STATUS, &[0xff]);
        let mut parts: Vec<_> = parts
            .into_iter()
            .map(|(addr, len, write)| (addr, len, if write { WRITE } else { 0 }))
            .collect();
        if sorted {
            parts.sort_by_key(|part| part.2);
        }
        let chain = [&[(HEADER, 16, 0)], &parts[..], &[(STATUS, 1, WRITE)]].concat();
        let offered: u64 = chain.iter().filter(|p| p.2 != 0).map(|p| u64::from(p.1)).sum();
        m.driver.chain(0, &chain);
        m.driver.kick(0);
        let used = m.driver.used(0);
        if m.driver.needs_reset() {
            prop_assert!(used.is_empty());
        } else {
            prop_assert_eq!(used.len(), 1);
            prop_assert!(u64::from(used[0].1) <= offered);
            prop_assert!(m.driver.peek(STATUS, 1)[0] <= UNSUPP);
        }
        prop_assert_eq!(m.image().len(), 64 * 512);
        m.driver.start(ALL);
        let read = m.request(IN, 9, &[(BUFFER, 512, WRITE)]);
        prop_assert_eq!(read, (OK, 513));
    }
}
