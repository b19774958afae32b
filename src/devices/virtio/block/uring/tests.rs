use std::io::Write as _;

use vm_memory::{Bytes, GuestAddress};

use super::*;

/// A ring on the reading end of a pipe, whose reads last until somebody writes.
fn set() -> (Ring, io::PipeWriter, GuestMemory) {
    let (reader, writer) = io::pipe().unwrap();
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let mut ring = Ring::new(&Arc::new(Files::new(reader.into())), 4).unwrap();
    ring.set_memory(&mem);
    (ring, writer, mem)
}

fn range(addr: u64, len: u32) -> GuestRange {
    GuestRange { addr: GuestAddress(addr), len }
}

fn begin(ring: &mut Ring, slot: usize, ranges: &[GuestRange]) {
    ring.set_buffers(slot, ranges).unwrap();
    ring.start(slot, Operation::Read { offset: 0 }).unwrap();
    ring.submit().unwrap();
}

fn completed(ring: &mut Ring) -> (Completed, Result<usize, Errno>) {
    for _ in 0..100 {
        if let Some(completed) = ring.next() {
            return completed;
        }
        wait_readable(ring.event(), LOOK);
        ring.clear_event();
    }
    panic!("nothing completes");
}

fn bytes(mem: &GuestMemory, addr: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    mem.read_slice(&mut bytes, GuestAddress(addr)).unwrap();
    bytes
}

/// B10: what is missing after a short read goes where it belongs, over the borders of buffers.
#[test]
fn short_reads_are_continued_behind_what_they_filled() {
    let (mut ring, mut writer, mem) = set();
    let data: Vec<u8> = (1..=100).collect();
    let ranges = [range(0x1000, 30), range(0x3000, 1), range(0x2000, 69)];
    writer.write_all(&data[..10]).unwrap();
    begin(&mut ring, 3, &ranges);
    let (mut seen, mut sent) = (0, 10);
    for chunk in [20, 1, 19, 30, 20] {
        let (slot, moved) = completed(&mut ring);
        assert_eq!(slot, Completed::Slot(3));
        seen += moved.unwrap();
        assert_eq!(seen, sent);
        ring.advance(3, moved.unwrap());
        ring.start(3, Operation::Read { offset: 0 }).unwrap();
        ring.submit().unwrap();
        writer.write_all(&data[sent..sent + chunk]).unwrap();
        sent += chunk;
    }
    assert_eq!(completed(&mut ring), (Completed::Slot(3), Ok(20)));
    let parts = [bytes(&mem, 0x1000, 30), bytes(&mem, 0x3000, 1), bytes(&mem, 0x2000, 69)];
    assert_eq!(parts.concat(), data);
}

/// Q22: after a drain nothing is written to the buffers, and the ring is good for the next driver.
#[test]
fn drained_ring_touches_no_buffer_and_works_again() {
    let (mut ring, mut writer, mem) = set();
    for _ in 0..3 {
        for slot in 0..4 {
            begin(&mut ring, slot, &[range(0x1000 * u64::try_from(slot).unwrap(), 0x1000)]);
        }
        ring.drain();
        writer.write_all(&[7; 100]).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        assert!(bytes(&mem, 0, 0x4000).iter().all(|byte| *byte == 0));
        assert_eq!(ring.next(), None);

        ring.set_memory(&mem);
        begin(&mut ring, 2, &[range(0x8000, 100)]);
        assert_eq!(completed(&mut ring), (Completed::Slot(2), Ok(100)));
        assert_eq!(bytes(&mem, 0x8000, 100), [7; 100]);
    }
}

/// Memory that the ring writes to stays mapped though everybody else has let go of it.
#[test]
fn memory_lives_as_long_as_what_is_under_way() {
    let (mut ring, mut writer, mem) = set();
    begin(&mut ring, 0, &[range(0, 100)]);
    drop(mem);
    writer.write_all(&[1; 100]).unwrap();
    assert_eq!(completed(&mut ring), (Completed::Slot(0), Ok(100)));
    begin(&mut ring, 0, &[range(0, 100)]);
    drop(ring);
}

#[test]
fn buffers_of_a_slot_under_way_cannot_be_changed() {
    let (mut ring, mut writer, mem) = set();
    begin(&mut ring, 1, &[range(0, 8)]);
    ring.set_buffers(1, &[range(0x1000, 8)]).unwrap();
    ring.advance(1, 4);
    ring.release(1);
    assert!(ring.start(1, Operation::Read { offset: 0 }).is_err());
    writer.write_all(b"12345678").unwrap();
    assert_eq!(completed(&mut ring), (Completed::Slot(1), Ok(8)));
    assert_eq!(bytes(&mem, 0, 8), b"12345678");
    assert_eq!(bytes(&mem, 0x1000, 8), [0; 8]);
}

#[test]
fn more_than_the_submission_queue_holds_is_handed_over_in_parts() {
    let files = Arc::new(Files::new(tempfile::tempfile().unwrap().into()));
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    let slots = 3 * usize::try_from(ENTRIES).unwrap();
    let mut ring = Ring::new(&files, slots).unwrap();
    ring.set_memory(&mem);
    for slot in 0..slots {
        ring.set_buffers(slot, &[range(0, 16)]).unwrap();
        let offset = 16 * u64::try_from(slot).unwrap();
        ring.start(slot, Operation::Write { offset }).unwrap();
    }
    ring.start_sync().unwrap();
    ring.submit().unwrap();
    let mut seen = vec![false; slots];
    for _ in 0..=slots {
        match completed(&mut ring) {
            (Completed::Slot(slot), Ok(16)) => seen[slot] = true,
            other => assert_eq!(other, (Completed::Sync, Ok(0))),
        }
    }
    assert!(seen.iter().all(|seen| *seen));
    assert_eq!(
        rustix::fs::fstat(files.cached()).unwrap().st_size,
        16 * i64::try_from(slots).unwrap()
    );
}
