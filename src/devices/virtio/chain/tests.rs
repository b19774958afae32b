use proptest::prelude::*;

use super::*;
use crate::devices::virtio::testing::{Desc, INDIRECT, NEXT, WRITE};

const TABLE: u64 = 0x1000;
const INDIRECT_TABLE: u64 = 0x4000;
const RAM: u64 = 0x10000;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), usize::try_from(RAM).unwrap())]).unwrap()
}

fn put(mem: &GuestMemory, table: u64, descriptors: &[Desc]) {
    for (index, desc) in (0..).zip(descriptors) {
        mem.write_slice(&desc.bytes(), GuestAddress(table + index * 16)).unwrap();
    }
}

fn start(size: u16, head: u16) -> ChainStart {
    ChainStart { table: GuestAddress(TABLE), size, head, indirect: true }
}

fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Desc {
    Desc { addr, len, flags, next }
}

fn range(addr: u64, len: u32) -> GuestRange {
    GuestRange { addr: GuestAddress(addr), len }
}

#[test]
fn parts_are_read_in_order_and_split_by_direction() {
    let mem = memory();
    put(
        &mem,
        TABLE,
        &[
            desc(0x8000, 16, NEXT, 2),
            desc(0x9000, 1, WRITE, 0),
            desc(0xa000, 5, NEXT, 3),
            desc(0xb000, 512, NEXT | WRITE, 1),
        ],
    );
    let mut chain = Chain::default();
    chain.read(&mem, start(4, 0)).unwrap();
    assert_eq!(chain.readable(), [range(0x8000, 16), range(0xa000, 5)]);
    assert_eq!(chain.writable(), [range(0xb000, 512), range(0x9000, 1)]);
    assert_eq!((chain.readable_len(), chain.writable_len(), chain.head()), (21, 513, 0));
    chain.read(&mem, start(4, 1)).unwrap();
    assert_eq!((chain.readable_len(), chain.writable_len(), chain.head()), (0, 1, 1));
}

/// Section 2.7.5.3.2: direct descriptors may come before the table, and its WRITE flag means
/// nothing.
#[test]
fn indirect_table_is_followed_behind_direct_descriptors() {
    let mem = memory();
    put(
        &mem,
        TABLE,
        &[desc(0x8000, 16, NEXT, 1), desc(INDIRECT_TABLE, 32, INDIRECT | WRITE, 0xffff)],
    );
    put(&mem, INDIRECT_TABLE, &[desc(0x9000, 8, NEXT, 1), desc(0xa000, 1, WRITE, 0)]);
    let mut chain = Chain::default();
    chain.read(&mem, start(4, 0)).unwrap();
    assert_eq!(chain.readable(), [range(0x8000, 16), range(0x9000, 8)]);
    assert_eq!(chain.writable(), [range(0xa000, 1)]);
}

/// Q2: as long as the queue is fine, one more is not; whatever mix of tables it is.
#[test]
fn chain_as_long_as_the_queue_is_accepted_and_a_longer_one_refused() {
    let mem = memory();
    let full: Vec<_> = (0..8).map(|n| desc(0x8000, 1, u16::from(n < 7), n + 1)).collect();
    put(&mem, INDIRECT_TABLE, &full);
    put(&mem, TABLE, &[desc(INDIRECT_TABLE, 8 * 16, INDIRECT, 0)]);
    let mut chain = Chain::default();
    chain.read(&mem, start(8, 0)).unwrap();
    assert_eq!(chain.readable().len(), 8);
    put(&mem, TABLE, &[desc(0x8000, 1, NEXT, 1), desc(INDIRECT_TABLE, 8 * 16, INDIRECT, 0)]);
    assert!(matches!(chain.read(&mem, start(8, 0)), Err(ChainError::TooLong(8))));
}

/// Q5: lengths that wrap 32 bits together.
#[test]
fn lengths_that_add_up_to_more_than_32_bits_are_refused() {
    let len = 1 << 30;
    let mem = GuestMemory::from_ranges(&[(GuestAddress(0), len)]).unwrap();
    let gib = 1u32 << 30;
    for (flags, count) in [(0, 4), (WRITE, 4)] {
        let mut parts: Vec<_> = (0..count).map(|n| desc(0, gib, flags | NEXT, n + 1)).collect();
        parts.push(desc(0, 1, WRITE, 0));
        put(&mem, TABLE, &parts);
        let mut chain = Chain::default();
        assert!(matches!(chain.read(&mem, start(8, 0)), Err(ChainError::TooLarge)));
    }
    // Each direction fits, both together do not.
    let mut parts: Vec<_> =
        (0..4).map(|n| desc(0, gib, NEXT | if n < 2 { 0 } else { WRITE }, n + 1)).collect();
    parts.push(desc(0, 1, WRITE, 0));
    put(&mem, TABLE, &parts);
    assert!(matches!(Chain::default().read(&mem, start(8, 0)), Err(ChainError::TooLarge)));
}

#[test]
fn header_is_cut_off_wherever_the_descriptors_end() {
    let mem = memory();
    mem.write_slice(&[1, 2, 3, 4], GuestAddress(0x8000)).unwrap();
    mem.write_slice(&[5, 6, 7, 8], GuestAddress(0x9000)).unwrap();
    let mut rest = Vec::new();
    let parts = [range(0x8000, 4), range(0x9000, 4)];
    let header: Option<[u8; 6]> = take_header(&mem, &parts, &mut rest).unwrap();
    assert_eq!((header, rest.as_slice()), (Some([1, 2, 3, 4, 5, 6]), &[range(0x9002, 2)][..]));
    let header: Option<[u8; 8]> = take_header(&mem, &parts, &mut rest).unwrap();
    assert_eq!((header.is_some(), rest.len()), (true, 0));
    let header: Option<[u8; 9]> = take_header(&mem, &parts, &mut rest).unwrap();
    assert_eq!((header, rest.len()), (None, 0));
}

fn any_desc() -> impl Strategy<Value = Desc> {
    let addr = prop_oneof![
        8 => 0..RAM,
        2 => Just(TABLE),
        2 => Just(INDIRECT_TABLE),
        1 => any::<u64>(),
        1 => RAM - 64..RAM + 64,
    ];
    let len = prop_oneof![6 => 1u32..256, 2 => (0u32..20).prop_map(|n| n * 16), 1 => any::<u32>()];
    let flags = prop_oneof![
        4 => Just(NEXT),
        3 => Just(NEXT | WRITE),
        1 => Just(0),
        1 => Just(INDIRECT),
        1 => any::<u16>(),
    ];
    let next = prop_oneof![8 => 0u16..16, 1 => any::<u16>()];
    (addr, len, flags, next).prop_map(|(addr, len, flags, next)| Desc { addr, len, flags, next })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// Q1-Q5, Q14: any table ends in an error or a chain within all limits.
    #[test]
    fn any_table_yields_a_chain_within_the_limits_or_an_error(
        table in prop::collection::vec(any_desc(), 16),
        indirect_table in prop::collection::vec(any_desc(), 16),
        head in prop_oneof![8 => 0u16..16, 1 => any::<u16>()],
        indirect: bool,
    ) {
        let mem = memory();
        put(&mem, TABLE, &table);
        put(&mem, INDIRECT_TABLE, &indirect_table);
        let mut chain = Chain::default();
        if chain.read(&mem, ChainStart { indirect, ..start(16, head) }).is_ok() {
            let parts: Vec<_> = chain.readable().iter().chain(chain.writable()).collect();
            prop_assert!((1..=16).contains(&parts.len()));
            let inside = |p: &&GuestRange| p.len > 0 && p.addr.0 + u64::from(p.len) <= RAM;
            prop_assert!(parts.iter().all(inside));
            let total = |parts: &[GuestRange]| parts.iter().map(|p| p.len).sum::<u32>();
            prop_assert_eq!(total(chain.readable()), chain.readable_len());
            prop_assert_eq!(total(chain.writable()), chain.writable_len());
        }
    }
}
