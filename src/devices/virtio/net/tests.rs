use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use proptest::prelude::*;
use rustix::io::{Errno, readv, writev};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vm_memory::{Bytes, GuestAddress};

use super::header::HEADER_LEN;
use super::*;
use crate::bus::lock;
use crate::devices::virtio::device::Signal;
use crate::devices::virtio::device::{F_EVENT_IDX, F_INDIRECT_DESC};
use crate::devices::virtio::testing::{Counter, DATA, Driver, HIGH_START, LOW_END, WRITE};
use crate::devices::virtio::throttle::Throttles;

const RX: usize = 0;
const TX: usize = 1;
const MAC: [u8; 6] = [2, 0, 0, 1, 2, 3];
const OFFLOADS: u64 = feature::TCP_OFFLOADS | feature::UDP_OFFLOADS;
const ALL: u64 = OFFLOADS | feature::MRG_RXBUF | feature::MAC | F_INDIRECT_DESC;
const PLAIN: u64 = feature::MAC;
const POISON: u8 = 0xa5;

/// A host network over a pair of packet sockets, that fails when told to.
struct Wire {
    fd: OwnedFd,
    offloads: Arc<Mutex<u64>>,
    failure: Arc<Mutex<Option<Errno>>>,
    /// What another vCPU does while a frame is on its way to the host.
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
}

type Meanwhile = Box<dyn FnMut() + Send>;

impl Backend for Wire {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
    fn features(&self) -> u64 {
        OFFLOADS
    }
    fn set_offloads(&mut self, features: u64) -> Result<(), Errno> {
        *lock(&self.offloads) = features;
        Ok(())
    }
    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        lock(&self.failure).map_or(Ok(()), Err)?;
        readv(&self.fd, frame)
    }
    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        lock(&self.failure).map_or(Ok(()), Err)?;
        if let Some(meanwhile) = &mut *lock(&self.meanwhile) {
            meanwhile();
        }
        writev(&self.fd, frame).map(drop)
    }
}

struct Machine {
    driver: Driver,
    host: OwnedFd,
    offloads: Arc<Mutex<u64>>,
    failure: Arc<Mutex<Option<Errno>>>,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    counters: Arc<NetCounters>,
}

impl Machine {
    fn new(features: u64) -> Self {
        Self::with(features, |net| net)
    }

    /// A device that sends only what the guest of [`MAC`] and 10.0.0.2 may.
    fn filtered(features: u64) -> Self {
        let filter = Filter { mac: MAC, ipv4: Some([10, 0, 0, 2].into()), ipv6: None };
        Self::with(features, |net| net.with_filter(filter))
    }

    fn with(features: u64, change: impl FnOnce(Net) -> Net) -> Self {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, host) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (offloads, failure, meanwhile) = (Arc::default(), Arc::default(), Arc::default());
        let wire = Wire {
            fd,
            offloads: Arc::clone(&offloads),
            failure: Arc::clone(&failure),
            meanwhile: Arc::clone(&meanwhile),
        };
        let net = change(Net::new(wire, MAC, Some(9000)));
        let counters = net.counters.clone();
        let mut driver = Driver::new(Box::new(net));
        driver.set_queue_size(64);
        driver.start(features);
        driver.poke(DATA, &vec![POISON; usize::try_from(LOW_END - DATA).unwrap()]);
        Self { driver, host, offloads, failure, meanwhile, counters }
    }

    /// The host sends a frame of `len` bytes; they count up.
    fn host_sends(&mut self, len: usize) -> Vec<u8> {
        let frame: Vec<u8> = (0..=250).cycle().take(len).collect();
        self.host_sends_raw(&[0; HEADER_LEN], &frame);
        frame
    }

    fn host_sends_raw(&mut self, header: &[u8], frame: &[u8]) {
        writev(&self.host, &[IoSlice::new(header), IoSlice::new(frame)]).unwrap();
        self.driver.run_backend();
    }

    /// What the host got since the last call.
    fn host_got(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buf = vec![0; 70_000];
        while let Ok(len) = readv(&self.host, &mut [IoSliceMut::new(&mut buf)]) {
            frames.push(buf[..len].to_vec());
        }
        frames
    }

    /// Gives the device a receive buffer.
    fn post(&mut self, addr: u64, len: u32) -> u16 {
        let head = self.driver.chain(RX, &[(addr, len, WRITE)]);
        self.driver.kick(RX);
        head
    }

    /// The guest sends `header` and `frame`, in two descriptors.
    fn guest_sends(&mut self, header: &[u8], frame: &[u8]) {
        self.driver.poke(DATA, header);
        self.driver.poke(DATA + 0x100, frame);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        self.driver.chain(TX, &[(DATA, len(header), 0), (DATA + 0x100, len(frame), 0)]);
        self.driver.kick(TX);
        assert_eq!(self.driver.used(TX).last().map(|used| used.1), Some(0));
    }

    fn passes_frames(&mut self) -> bool {
        self.host_got();
        self.guest_sends(&[0; HEADER_LEN], &[7; 60]);
        self.host_got() == [[&[0; HEADER_LEN][..], &[7; 60]].concat()]
    }
}

fn hdr(flags: u8, gso: u8, words: [u16; 5]) -> [u8; HEADER_LEN] {
    let mut raw = [0; HEADER_LEN];
    (raw[0], raw[1]) = (flags, gso);
    for (i, word) in words.into_iter().enumerate() {
        raw[2 + 2 * i..4 + 2 * i].copy_from_slice(&word.to_le_bytes());
    }
    raw
}

#[test]
fn sent_frame_reaches_the_host_whole_however_it_is_framed() {
    let mut m = Machine::new(ALL);
    let frame: Vec<u8> = (0..100).collect();
    m.driver.poke(DATA, &[&[0; HEADER_LEN][..], &frame].concat());
    for cuts in [vec![112], vec![12, 100], vec![5, 7, 1, 99], vec![30, 82]] {
        let mut at = DATA;
        let mut parts = Vec::new();
        for len in cuts {
            parts.push((at, len, 0));
            at += u64::from(len);
        }
        m.driver.chain(TX, &parts);
        m.driver.kick(TX);
        assert_eq!(m.host_got(), [[&[0; HEADER_LEN][..], &frame].concat()]);
    }
    assert_eq!(m.counters.tx_frames.get(), 4);
}

/// N1.
#[test]
fn frames_too_short_and_too_long_are_dropped_and_counted() {
    let mut m = Machine::new(ALL);
    let mut sizes = vec![1, 11, 12, 13, 25];
    sizes.extend([12 + 65_590, 1 << 20, (2 << 20) - 1]);
    for len in sizes.clone() {
        m.driver.chain(TX, &[(HIGH_START, len, 0)]);
        m.driver.kick(TX);
        assert_eq!(m.driver.used(TX).len(), 1, "{len}");
    }
    // 60 MiB, in pieces of the same memory.
    m.driver.chain(TX, &[(HIGH_START, 1 << 20, 0); 60]);
    m.driver.kick(TX);
    assert_eq!(m.driver.used(TX).len(), 1);
    assert!(m.host_got().is_empty());
    assert_eq!(m.counters.tx_dropped.get(), u64::try_from(sizes.len()).unwrap() + 1);
    assert!(m.passes_frames());
}

/// N2.
#[test]
fn headers_that_lie_are_dropped_and_never_reach_the_host() {
    let mut m = Machine::new(ALL);
    let frame = [0; 100];
    for (why, header) in [
        ("checksum past the end", hdr(1, 0, [0, 0, 90, 9, 0])),
        ("checksum start out of bounds", hdr(1, 0, [0, 0, 101, 0, 0])),
        ("checksum offset wraps", hdr(1, 0, [0, 0, 0xffff, 0xffff, 0])),
        ("segments of no size", hdr(1, 1, [54, 0, 34, 16, 0])),
        ("segments without checksum", hdr(0, 1, [54, 1000, 34, 16, 0])),
        ("header beyond the frame", hdr(1, 1, [101, 1000, 34, 16, 0])),
        ("unknown segments", hdr(1, 2, [54, 1000, 34, 16, 0])),
        ("UDP fragments", hdr(1, 3, [54, 1000, 34, 16, 0])),
        ("unknown segments", hdr(1, 0x7f, [54, 1000, 34, 16, 0])),
        ("ECN of nothing", hdr(1, 0x80, [54, 1000, 34, 16, 0])),
        ("ECN of UDP", hdr(1, 0x85, [54, 1000, 34, 16, 0])),
    ] {
        m.guest_sends(&header, &frame);
        assert!(m.host_got().is_empty(), "{why}");
    }
    assert_eq!(m.counters.tx_dropped.get(), 11);
    assert!(m.passes_frames());
}

#[test]
fn headers_that_can_be_meant_pass_without_what_has_no_meaning() {
    let mut m = Machine::new(ALL);
    let frame = [0; 100];
    for (given, seen) in [
        // Offsets and sizes without their flags, unknown flags, a number of buffers.
        (hdr(0xfe, 0, [1, 2, 3, 4, 5]), hdr(0, 0, [0; 5])),
        (hdr(1, 0, [9999, 9999, 34, 16, 7]), hdr(1, 0, [0, 0, 34, 16, 0])),
        (hdr(1, 0, [0, 0, 34, 64, 0]), hdr(1, 0, [0, 0, 34, 64, 0])),
        (hdr(1, 1, [54, 1000, 34, 16, 0]), hdr(1, 1, [54, 1000, 34, 16, 0])),
        (hdr(3, 0x84, [100, 1, 34, 16, 0]), hdr(1, 0x84, [100, 1, 34, 16, 0])),
        (hdr(1, 5, [42, 1000, 34, 6, 0]), hdr(1, 5, [42, 1000, 34, 6, 0])),
    ] {
        m.guest_sends(&given, &frame);
        assert_eq!(m.host_got(), [[&seen[..], &frame].concat()]);
    }
}

/// N3.
#[test]
fn offloads_not_negotiated_are_dropped_when_sent_and_kept_from_the_guest() {
    let mut m = Machine::new(PLAIN | feature::MRG_RXBUF);
    assert_eq!(*lock(&m.offloads) & OFFLOADS, 0);
    let frame = [0; 100];
    for header in [hdr(1, 0, [0, 0, 34, 16, 0]), hdr(1, 1, [54, 1000, 34, 16, 0])] {
        m.guest_sends(&header, &frame);
        assert!(m.host_got().is_empty());
        m.post(DATA + 0x8000, 2048);
        m.host_sends_raw(&header, &frame);
        assert!(m.driver.used(RX).is_empty());
    }
    assert_eq!((m.counters.tx_dropped.get(), m.counters.rx_dropped.get()), (2, 2));
    // Checksums without segmentation; and the flags of a checked frame are hidden without them.
    m.host_sends_raw(&hdr(2, 0, [0; 5]), &frame);
    assert_eq!(m.driver.used(RX).len(), 1);
    assert_eq!(m.driver.peek(DATA + 0x8000, 12), hdr(0, 0, [0, 0, 0, 0, 1]));
    m.driver.start(PLAIN | feature::CSUM | feature::HOST_TSO4);
    m.guest_sends(&hdr(1, 1, [54, 1000, 34, 16, 0]), &frame);
    m.guest_sends(&hdr(1, 4, [54, 1000, 34, 16, 0]), &frame);
    m.guest_sends(&hdr(1, 0x81, [54, 1000, 34, 16, 0]), &frame);
    assert_eq!(m.host_got().len(), 1);
}

/// N8: a host that does not take frames loses them; it never stops the guest.
#[test]
fn frames_the_host_refuses_are_dropped_and_counted_and_the_device_lives() {
    let mut m = Machine::new(ALL);
    for (n, error) in
        [Errno::AGAIN, Errno::INVAL, Errno::NOBUFS, Errno::IO, Errno::BADFD].into_iter().enumerate()
    {
        *lock(&m.failure) = Some(error);
        m.guest_sends(&[0; HEADER_LEN], &[1; 60]);
        assert_eq!(m.counters.tx_dropped.get(), u64::try_from(n + 1).unwrap());
        assert!(!m.driver.needs_reset());
    }
    *lock(&m.failure) = None;
    assert!(m.passes_frames());
}

/// A frame of IPv4 from `mac` and 10.0.0.`host`, 200 bytes long.
fn ipv4_frame(mac: [u8; 6], host: u8) -> Vec<u8> {
    let packet = [0x45, 0, 0, 186, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, host, 10, 0, 0, 1];
    let mut frame = [&[2, 0, 0, 0, 0, 9][..], &mac, &[8, 0], &packet].concat();
    frame.extend((0..).take(200 - frame.len()));
    frame
}

/// N4: whole frames and segments alike; a header that is wrong is counted as before.
#[test]
fn refused_frames_do_not_reach_the_host_and_are_counted_by_kind() {
    let mut m = Machine::filtered(ALL);
    let typed = |kind: u16| [&[2, 0, 0, 0, 0, 9][..], &MAC, &kind.to_be_bytes(), &[0; 60]].concat();
    let refused = [
        ipv4_frame([2, 0, 0, 9, 9, 9], 2),
        ipv4_frame(MAC, 3),
        typed(0x8100),
        typed(0x88cc),
        typed(0x0806),
        typed(0x0800),
    ];
    let plain = hdr(0, 0, [0; 5]);
    let segments = hdr(1, 1, [54, 100, 34, 16, 0]);
    for frame in &refused {
        for header in [plain, segments] {
            m.guest_sends(&header, frame);
            assert!(m.host_got().is_empty(), "{frame:x?}");
        }
    }
    // A checksum in place of the source address.
    m.guest_sends(&hdr(1, 0, [0, 0, 0, 6, 0]), &ipv4_frame(MAC, 2));
    m.guest_sends(&hdr(1, 0, [0, 0, 199, 0, 0]), &ipv4_frame(MAC, 2));
    assert!(m.host_got().is_empty());
    let mut seen = Vec::new();
    m.counters.each(&mut |name, count| seen.extend((count > 0).then_some((name, count))));
    let kinds = ["tx_foreign_mac", "tx_vlan", "tx_link_local", "tx_foreign_neighbour"];
    let mut expected = vec![("tx_dropped", 1)];
    expected.extend(kinds.map(|kind| (kind, 2)));
    expected.extend([("tx_foreign_ip", 2), ("tx_unreadable", 3)]);
    assert_eq!(seen, expected);

    let own = ipv4_frame(MAC, 2);
    for header in [plain, segments, hdr(1, 0, [0, 0, 34, 16, 0])] {
        m.guest_sends(&header, &own);
        assert_eq!(m.host_got(), [[&header[..], &own].concat()]);
    }
    assert_eq!(m.counters.tx_frames.get(), 3);
}

/// N4, Q20: what was checked is what is sent, whatever happens to the frame meanwhile.
#[test]
fn frame_changed_while_it_is_sent_is_sent_as_it_was_checked() {
    let mut m = Machine::filtered(ALL);
    let (mem, at) = (m.driver.mem.clone(), GuestAddress(DATA + 0x100));
    *lock(&m.meanwhile) = Some(Box::new(move || mem.write_slice(&[0xee; 200], at).unwrap()));
    let frame = ipv4_frame(MAC, 2);
    m.guest_sends(&[0; HEADER_LEN], &frame);
    let sent = m.host_got().concat();
    assert_eq!(sent[HEADER_LEN..HEADER_LEN + 128], frame[..128]);
    assert_eq!(sent[HEADER_LEN + 128..], [0xee; 72], "the rest is the guest's own affair");
}

/// However a frame is cut into descriptors, it is checked and sent whole.
#[test]
fn filtered_frame_reaches_the_host_whole_however_it_is_cut() {
    let mut m = Machine::filtered(ALL);
    let frame = ipv4_frame(MAC, 2);
    m.driver.poke(DATA, &[&[0; HEADER_LEN][..], &frame].concat());
    for cuts in [vec![212], vec![12, 200], vec![5, 7, 1, 199], vec![30, 110, 72], vec![12, 127, 73]]
    {
        let mut at = DATA;
        let mut parts = Vec::new();
        for len in cuts {
            parts.push((at, len, 0));
            at += u64::from(len);
        }
        m.driver.chain(TX, &parts);
        m.driver.kick(TX);
        assert_eq!(m.host_got(), [[&[0; HEADER_LEN][..], &frame].concat()]);
    }
}

#[test]
fn received_frame_lands_behind_a_header_that_says_one_buffer() {
    for features in [ALL, PLAIN, ALL | F_EVENT_IDX] {
        let mut m = Machine::new(features);
        let head = m.driver.chain(RX, &[(DATA, 12, WRITE), (DATA + 0x1000, 1514, WRITE)]);
        m.driver.kick(RX);
        let frame = m.host_sends(1514);
        assert_eq!(m.driver.used(RX), [(head, 1526)]);
        assert_eq!(m.driver.peek(DATA, 13), [&hdr(0, 0, [0, 0, 0, 0, 1])[..], &[POISON]].concat());
        assert_eq!(m.driver.peek(DATA + 0x1000, 1515), [&frame[..], &[POISON]].concat());
        assert_eq!(m.driver.interrupts(), 1);
    }
}

#[test]
fn long_frame_is_spread_over_as_many_buffers_as_it_fills() {
    let mut m = Machine::new(ALL);
    let heads: Vec<_> = (0..40).map(|n| m.post(DATA + n * 2048, 1000)).collect();
    m.driver.interrupts();
    let frame = m.host_sends(2500);
    let used = m.driver.used(RX);
    assert_eq!(used, [(heads[0], 1000), (heads[1], 1000), (heads[2], 512)]);
    assert_eq!(m.driver.peek(DATA, 12), hdr(0, 0, [0, 0, 0, 0, 3]));
    let seen = [
        m.driver.peek(DATA + 12, 988),
        m.driver.peek(DATA + 2048, 1000),
        m.driver.peek(DATA + 4096, 512),
    ];
    assert_eq!(seen.concat(), frame);
    assert_eq!(m.driver.peek(DATA + 4096 + 512, 488), [POISON; 488]);
    // The next frame begins with the next buffer.
    m.host_sends(60);
    assert_eq!(m.driver.used(RX), [(heads[3], 72)]);
}

/// Section 5.1.6.4.1: buffers of a frame but the last are filled to the last byte.
#[test]
fn frame_that_ends_with_its_buffer_uses_no_further_one() {
    let mut m = Machine::new(ALL);
    let heads = [m.post(DATA, 100), m.post(DATA + 0x1000, 100), m.post(DATA + 0x2000, 100)];
    m.host_sends(188);
    assert_eq!(m.driver.used(RX), [(heads[0], 100), (heads[1], 100)]);
}

/// N5: no room for the end of the frame yet; it is neither lost nor cut.
#[test]
fn frame_longer_than_the_buffers_waits_for_more_of_them() {
    let mut m = Machine::new(ALL);
    let first = m.post(DATA, 1000);
    let frame = m.host_sends(60_000);
    assert!(m.driver.used(RX).is_empty());
    m.host_sends(60);
    let mut heads = vec![first];
    for n in 1..60 {
        heads.push(m.post(DATA + n * 2048, 1001));
        let used = m.driver.used(RX);
        if used.is_empty() {
            continue;
        }
        assert_eq!(used.len(), heads.len());
        assert_eq!(used.iter().map(|u| u.1).sum::<u32>(), 60_012);
        let mut seen = Vec::new();
        for (n, (head, len)) in used.into_iter().enumerate() {
            assert_eq!(head, heads[n]);
            let at = DATA + u64::try_from(n).unwrap() * 2048;
            seen.extend(m.driver.peek(at, usize::try_from(len).unwrap()));
        }
        assert_eq!(seen[12..], frame);
        assert_eq!(seen[10], u8::try_from(heads.len()).unwrap());
        let last = m.post(DATA, 1000);
        m.driver.run_backend();
        assert_eq!(m.driver.used(RX), [(last, 72)]);
        return;
    }
    panic!("never delivered");
}

/// N5: a frame that can never fit is dropped instead of blocking the queue for ever.
#[test]
fn frame_longer_than_all_the_queue_holds_is_dropped() {
    let mut m = Machine::new(ALL);
    m.driver.set_queue_size(4);
    m.driver.start(ALL);
    for n in 0..4 {
        m.post(DATA + n * 0x1000, 100);
    }
    m.host_sends(1000);
    m.driver.run_backend();
    assert!(m.driver.used(RX).is_empty());
    assert_eq!(m.counters.rx_dropped.get(), 1);
    m.host_sends(60);
    assert_eq!(m.driver.used(RX).len(), 1);
}

/// N5, section 5.1.6.3.2: without mergeable buffers one chain must do.
#[test]
fn frame_longer_than_the_only_buffer_is_dropped_and_the_buffer_kept() {
    let mut m = Machine::new(PLAIN);
    let head = m.post(DATA, 500);
    let other = m.post(DATA + 0x1000, 2000);
    m.host_sends(489);
    assert!(m.driver.used(RX).is_empty());
    assert_eq!(m.counters.rx_dropped.get(), 1);
    m.host_sends(488);
    assert_eq!(m.driver.used(RX), [(head, 500)]);
    m.host_sends(489);
    assert_eq!(m.driver.used(RX), [(other, 501)]);
}

/// N5.
#[test]
fn receive_buffers_that_cannot_hold_a_header_break_the_device_until_reset() {
    for parts in [&[(DATA, 11, WRITE)][..], &[(DATA, 2000, 0)], &[(DATA, 12, 0), (DATA, 99, WRITE)]]
    {
        let mut m = Machine::new(ALL);
        m.driver.chain(RX, parts);
        m.driver.kick(RX);
        assert!(m.driver.needs_reset(), "{parts:?}");
        m.driver.start(ALL);
        let head = m.post(DATA, 2000);
        m.host_sends(60);
        assert_eq!(m.driver.used(RX), [(head, 72)]);
    }
}

/// Q7, Q9.
#[test]
fn receive_buffer_given_twice_while_held_breaks_the_device() {
    let mut m = Machine::new(ALL);
    let head = m.post(DATA, 1000);
    m.driver.offer(RX, head);
    m.driver.kick(RX);
    m.host_sends(60);
    m.driver.kick(RX);
    m.host_sends(60);
    assert!(m.driver.needs_reset());
}

/// N6: frames that wait for buffers are not listened to (no spin), and flow once there are some.
#[test]
fn flood_without_buffers_waits_quietly_and_resumes_when_buffers_come() {
    for features in [PLAIN, ALL, ALL | F_EVENT_IDX] {
        let mut m = Machine::new(features);
        let mut sent = 0;
        let frame = [&[0; HEADER_LEN][..], &[1; 60]].concat();
        while writev(&m.host, &[IoSlice::new(&frame)]).is_ok() {
            sent += 1;
        }
        assert!(sent > 100);
        assert_eq!(m.driver.run_backend(), 0, "nothing to wait for without buffers");
        let mut received = 0;
        while received < sent {
            for n in 0..32 {
                m.driver.chain(RX, &[(DATA + n * 2048, 2048, WRITE)]);
            }
            m.driver.kick(RX);
            m.driver.run_backend();
            let used = m.driver.used(RX).len();
            assert!(used > 0);
            received += used;
        }
        assert_eq!(received, sent);
        assert_eq!(m.counters.rx_dropped.get(), 0);
    }
}

/// Reset with frames and buffers half used: nothing of the old driver survives.
#[test]
fn reset_forgets_held_buffers_and_half_delivered_frames() {
    let mut m = Machine::new(ALL);
    m.post(DATA, 1000);
    m.host_sends(5000);
    m.driver.start(ALL);
    let head = m.post(DATA + 0x8000, 2000);
    m.host_sends(60);
    assert_eq!(m.driver.used(RX), [(head, 72)]);
    assert_eq!(m.driver.peek(DATA + 1000, 16), [POISON; 16]);
}

/// Pause and snapshot: buffers taken but not used go back, and are served again later.
#[test]
fn deactivated_device_gives_held_buffers_back_to_the_queue() {
    let mut m = Machine::new(ALL);
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (fd, host) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let (offloads, failure, meanwhile) = (Arc::default(), Arc::default(), Arc::default());
    let wire = Wire { fd, offloads, failure, meanwhile };
    let mut net = Net::new(wire, MAC, None);
    m.driver.start(ALL);
    let heads: Vec<_> =
        (0..3).map(|n| m.driver.chain(RX, &[(DATA + n * 4096, 2000, WRITE)])).collect();
    let mut queues: Vec<_> = [RX, TX].map(|queue| m.driver.live_queue(queue)).into();
    for head in heads {
        let signal = Arc::new(Signal::new(Box::new(Counter::default())));
        let mem = m.driver.mem.clone();
        net.activate(Activation {
            mem,
            queues,
            features: ALL,
            signal,
            throttles: Throttles::default(),
        });
        net.process_queue(RX).unwrap();
        writev(&host, &[IoSlice::new(&[0; 100])]).unwrap();
        net.process_backend(0).unwrap();
        assert_eq!(m.driver.used(RX), [(head, 100)]);
        queues = net.deactivate().unwrap();
        assert!(net.deactivate().is_none());
    }
}

/// N7: see also the tests with a real interface.
#[test]
fn host_network_that_is_gone_stops_receiving_without_spinning() {
    let mut m = Machine::new(ALL);
    m.post(DATA, 1000);
    *lock(&m.failure) = Some(Errno::BADFD);
    m.host_sends(60);
    assert_eq!(m.driver.run_backend(), 0);
    m.post(DATA, 1000);
    assert_eq!(m.driver.run_backend(), 0);
    assert!(!m.driver.needs_reset());
}

/// N10.
#[test]
fn configuration_tells_address_and_mtu_and_ignores_writes() {
    let mut m = Machine::new(ALL);
    assert_ne!(m.driver.offered() & feature::MTU, 0);
    m.driver.write(0x100, u32::MAX);
    m.driver.write(0x108, u32::MAX);
    let words: Vec<u8> = (0..3).flat_map(|n| m.driver.read(0x100 + 4 * n).to_le_bytes()).collect();
    assert_eq!(words, [&MAC[..], &[0, 0, 0, 0], &9000u16.to_le_bytes()].concat());
}

#[test]
fn batch_of_frames_is_announced_with_one_interrupt_each_way() {
    let mut m = Machine::new(ALL);
    for n in 0..20 {
        m.driver.chain(RX, &[(DATA + n * 2048, 2048, WRITE)]);
        m.driver.poke(HIGH_START, &[0; 80]);
        m.driver.chain(TX, &[(HIGH_START, 80, 0)]);
    }
    m.driver.kick(RX);
    m.driver.interrupts();
    m.driver.kick(TX);
    assert_eq!(m.driver.used(TX).len(), 20);
    assert_eq!(m.driver.interrupts(), 1);
    let frame = [&[0; HEADER_LEN][..], &[1; 60]].concat();
    for _ in 0..20 {
        writev(&m.host, &[IoSlice::new(&frame)]).unwrap();
    }
    m.driver.run_backend();
    assert_eq!(m.driver.used(RX).len(), 20);
    assert_eq!(m.driver.interrupts(), 1);
}

/// N9: of a flood of the smallest frames one turn takes a budget, each way; the rest waits until
/// the other devices had theirs.
#[test]
fn flood_of_tiny_frames_is_served_in_turns() {
    let mut m = Machine::new(ALL);
    m.driver.set_queue_size(256);
    m.driver.start(ALL);
    m.driver.poke(DATA, &[0; 26]);
    let frame = [0; 26];
    for n in 0..256 {
        m.driver.chain(TX, &[(DATA, 26, 0)]);
        m.driver.chain(RX, &[(HIGH_START + n * 2048, 2048, WRITE)]);
    }
    m.driver.kick(RX);
    m.driver.transport.process_queue(TX);
    assert_eq!(m.driver.used(TX).len(), 128);
    m.driver.run();
    assert_eq!(m.driver.used(TX).len(), 128, "the rest kicked itself");
    m.host_got();
    let sent = (0..200).filter(|_| writev(&m.host, &[IoSlice::new(&frame)]).is_ok()).count();
    assert!(sent > 128, "{sent}");
    m.driver.transport.backend_fds(&mut Vec::new());
    m.driver.transport.process_backend(0);
    assert_eq!(m.driver.used(RX).len(), 128);
    m.driver.run_backend();
    assert_eq!(m.driver.used(RX).len(), sent - 128, "the host network stayed ready");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// N2: what passes is in bounds, and needs nothing that was not negotiated.
    #[test]
    fn any_checked_header_stays_inside_its_frame(
        raw in any::<[u8; HEADER_LEN]>(),
        flags in 0u8..4,
        gso in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), Just(0x81), any::<u8>()],
        frame_len in prop_oneof![0u32..70_000, any::<u32>()],
        features in any::<u64>(),
    ) {
        let mut raw = raw;
        (raw[0], raw[1]) = (flags, gso);
        let Some(seen) = header::checked(raw, frame_len, features) else { return Ok(()) };
        let word = |at: usize| u32::from(u16::from_le_bytes([seen[at], seen[at + 1]]));
        prop_assert!((14..=65_589).contains(&frame_len));
        prop_assert!(word(2) <= frame_len);
        prop_assert_eq!(word(10), 0);
        if seen[0] & 1 != 0 {
            prop_assert!(features & feature::CSUM != 0);
            prop_assert!(word(6) + word(8) + 2 <= frame_len);
        }
        if seen[1] != 0 {
            prop_assert!(seen[0] == 1 && word(4) > 0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever buffers a guest posts and whatever frames come: each frame is delivered whole,
    /// in order, within the buffers, or counted as dropped.
    #[test]
    fn any_mix_of_buffers_and_frames_is_delivered_whole_or_dropped(
        buffers in prop::collection::vec(12u32..3000, 1..60),
        frames in prop::collection::vec(14usize..9000, 1..12),
        mergeable in any::<bool>(),
    ) {
        let mut m = Machine::new(if mergeable { ALL } else { PLAIN });
        for (n, len) in buffers.iter().enumerate() {
            m.driver.chain(RX, &[(DATA + u64::try_from(n).unwrap() * 4096, *len, WRITE)]);
        }
        m.driver.kick(RX);
        for len in &frames {
            m.host_sends(*len);
        }
        let used = m.driver.used(RX);
        let mut delivered = 0;
        let mut rest = &used[..];
        let at = |head: u16| DATA + u64::from(head) * 4096;
        while let Some((first, _)) = rest.first() {
            let count: u16 = m.driver.peek_obj(at(*first) + 10);
            let (frame, later) = rest.split_at(usize::from(count));
            let mut seen = Vec::new();
            for (n, (head, len)) in frame.iter().enumerate() {
                let capacity = buffers[usize::from(*head)];
                prop_assert!(*len == capacity || n + 1 == frame.len() && *len < capacity);
                seen.extend(m.driver.peek(at(*head), usize::try_from(*len).unwrap()));
            }
            rest = later;
            delivered += 1;
            let body = &seen[12..];
            prop_assert!(frames.contains(&body.len()));
            prop_assert!(body.iter().zip((0..=250u8).cycle()).all(|(a, b)| *a == b));
        }
        prop_assert_eq!(m.counters.rx_frames.get(), delivered);
        prop_assert!(!m.driver.needs_reset());
    }
}
