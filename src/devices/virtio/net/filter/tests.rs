use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::devices::virtio::net::headers::{ARP_LEN, ETHERNET};

const OWN: [u8; 6] = [2, 0, 0, 1, 2, 3];
const OTHER: [u8; 6] = [2, 0, 0, 9, 9, 9];
const ALL: [u8; 6] = [0xff; 6];
const IP: [u8; 4] = [10, 0, 0, 2];
const OTHER_IP: [u8; 4] = [10, 0, 0, 3];
const IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const OTHER_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

const OPEN: Filter = Filter { mac: OWN, ipv4: None, ipv6: None };

fn known() -> Filter {
    Filter { ipv4: Some(IP.into()), ipv6: Some(IP6), ..OPEN }
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), packet].concat()
}

fn own(kind: u16, packet: &[u8]) -> Vec<u8> {
    ethernet(OTHER, OWN, kind, packet)
}

fn arp(mac: [u8; 6], ip: [u8; 4]) -> Vec<u8> {
    own(ARP, &[&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac, &ip, &OTHER, &OTHER_IP].concat())
}

/// An IPv4 packet with `words` of header, from fragment offset `offset` (in units of 8 bytes).
fn ipv4(source: [u8; 4], words: u8, offset: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(usize::from(words) * 4 + payload.len()).unwrap();
    let [l0, l1] = len.to_be_bytes();
    let [f0, f1] = offset.to_be_bytes();
    let fixed = [0x40 | words, 0, l0, l1, 0, 0, f0, f1, 64, protocol, 0, 0];
    let options = vec![1; usize::from(words).saturating_sub(5) * 4];
    own(IPV4, &[&fixed[..], &source, &OTHER_IP, &options, payload].concat())
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 8, 0, 0]].concat()
}

fn ipv6(source: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let fixed = [0x60, 0, 0, 0, l0, l1, next, 255];
    own(IPV6, &[&fixed[..], &source.octets(), &OTHER_IP6.octets(), payload].concat())
}

fn icmpv6(source: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    ipv6(source, ICMPV6, message)
}

/// A message of neighbour discovery with an option about `mac`.
fn discovery(kind: u8, target: Ipv6Addr, option: u8, mac: [u8; 6]) -> Vec<u8> {
    let target: &[u8] = if kind == 133 { &[] } else { &target.octets() };
    [&[kind, 0, 0, 0, 0, 0, 0, 0], target, &[option, 1], &mac].concat()
}

fn extension(next: u8, words: u8) -> Vec<u8> {
    let mut header = vec![0; 8 + usize::from(words) * 8];
    (header[0], header[1]) = (next, words);
    header
}

fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let [o0, o1] = (offset << 3 | u16::from(more)).to_be_bytes();
    vec![next, 0, o0, o1, 0, 0, 0, 1]
}

/// Checks as the sender does: by a bounded start of the frame.
fn check(filter: Filter, frame: &[u8]) -> Result<(), Refusal> {
    filter.check(&frame[..frame.len().min(COPIED)], None)
}

fn expect_refused(filter: Filter, cases: &[(&str, Refusal, Vec<u8>)]) {
    for (what, refusal, frame) in cases {
        assert_eq!(check(filter, frame), Err(*refusal), "{what}");
    }
}

fn expect_sent(filter: Filter, cases: &[(&str, Vec<u8>)]) {
    for (what, frame) in cases {
        assert_eq!(check(filter, frame), Ok(()), "{what}");
    }
}

/// N4.
#[test]
fn frames_that_are_not_from_the_guest_are_refused() {
    let group = [0x01, 0, 0x5e, 0, 0, 1];
    let frame = |from| ethernet(OTHER, from, 0x88b5, &[0; 46]);
    expect_refused(
        OPEN,
        &[
            ("another's address", Refusal::Mac, frame(OTHER)),
            ("a group", Refusal::Mac, frame(group)),
            ("broadcast", Refusal::Mac, frame(ALL)),
            ("nobody", Refusal::Mac, frame([0; 6])),
        ],
    );
    let no_type = frame(OWN)[..13].to_vec();
    expect_refused(OPEN, &[("no type", Refusal::Unreadable, no_type)]);
    expect_sent(
        OPEN,
        &[
            ("its own", frame(OWN)),
            ("to a group", ethernet(group, OWN, 0x88b5, &[0; 46])),
            ("to all", ethernet(ALL, OWN, 0x88b5, &[])),
        ],
    );
}

/// N4.
#[test]
fn tags_and_what_speaks_to_switches_are_refused() {
    for tag in [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300] {
        let tagged = own(tag, &[&[0, 5, 8, 0], &[0; 46][..]].concat());
        assert_eq!(check(OPEN, &tagged), Err(Refusal::Vlan), "{tag:#x}");
    }
    for last in 0..=0xf {
        let frame = ethernet([1, 0x80, 0xc2, 0, 0, last], OWN, 0x88b5, &[0; 46]);
        assert_eq!(check(OPEN, &frame), Err(Refusal::LinkLocal), "{last:#x}");
    }
    expect_refused(
        OPEN,
        &[
            ("LLDP to one host", Refusal::LinkLocal, own(LLDP, &[0; 46])),
            ("spanning tree to one host", Refusal::LinkLocal, own(38, &[0x42, 0x42, 3, 0, 0])),
            ("IPv4 behind LLC and SNAP", Refusal::LinkLocal, own(1500, &[0xaa, 0xaa, 3, 0, 0])),
            ("neither length nor type", Refusal::LinkLocal, own(0x05ff, &[0; 46])),
        ],
    );
    let next = ethernet([1, 0x80, 0xc2, 0, 0, 0x10], OWN, 0x88b5, &[0; 46]);
    expect_sent(OPEN, &[("an ordinary group", next), ("the first type", own(0x0600, &[]))]);
}

/// N4.
#[test]
fn arp_that_claims_a_foreign_address_is_refused() {
    let odd = |at: usize, value: u8| {
        let mut frame = arp(OWN, IP);
        frame[ETHERNET + at] = value;
        frame
    };
    expect_refused(
        OPEN,
        &[
            ("another's hardware address", Refusal::Neighbour, arp(OTHER, IP)),
            ("broadcast", Refusal::Neighbour, arp(ALL, IP)),
            ("not Ethernet", Refusal::Neighbour, odd(1, 6)),
            ("not IPv4", Refusal::Neighbour, odd(3, 6)),
            ("longer hardware addresses", Refusal::Neighbour, odd(4, 8)),
            ("longer addresses", Refusal::Neighbour, odd(5, 16)),
            ("cut off", Refusal::Neighbour, arp(OWN, IP)[..ETHERNET + ARP_LEN - 1].to_vec()),
        ],
    );
    let spoofed = arp(OWN, OTHER_IP);
    expect_refused(known(), &[("another's IP", Refusal::Neighbour, spoofed.clone())]);
    expect_sent(OPEN, &[("any IP, where none is known", spoofed)]);
    expect_sent(known(), &[("its own", arp(OWN, IP)), ("a probe", arp(OWN, [0; 4]))]);
}

/// N4.
#[test]
fn foreign_ip_sources_are_refused_where_the_address_is_known() {
    let v4 = |source| ipv4(source, 5, 0, 6, &[0; 20]);
    let v6 = |source| ipv6(source, 6, &[0; 20]);
    let spoofed = [("IPv4", v4(OTHER_IP)), ("IPv6", v6(OTHER_IP6))];
    for (what, frame) in &spoofed {
        assert_eq!(check(known(), frame), Err(Refusal::Ip), "{what}");
    }
    expect_sent(OPEN, &spoofed);
    expect_sent(
        known(),
        &[
            ("its own IPv4", v4(IP)),
            ("no IPv4 yet", ipv4([0; 4], 5, 0, UDP, &udp(68, 67))),
            ("its own IPv6", v6(IP6)),
            ("no IPv6 yet", v6(Ipv6Addr::UNSPECIFIED)),
            ("of the link", v6(LINK_LOCAL)),
        ],
    );
}

/// N4: also behind options, extension headers and in first fragments.
#[test]
fn what_routers_and_dhcp_servers_send_is_refused_however_it_is_wrapped() {
    let offer = udp(67, 68);
    let offer6 = udp(547, 546);
    let advertisement = [&[134, 0, 0, 0][..], &[0; 12]].concat();
    let behind = |headers: Vec<Vec<u8>>, first, payload: &[u8]| {
        ipv6(LINK_LOCAL, first, &[headers.concat(), payload.to_vec()].concat())
    };
    let wrapped = |next, payload: &[u8]| {
        vec![
            behind(vec![extension(next, 0)], 0, payload),
            behind(vec![extension(60, 1), extension(43, 0), extension(next, 2)], 60, payload),
            behind(vec![fragment(next, 0, false)], 44, payload),
            behind(vec![fragment(next, 0, true)], 44, payload),
            // The length of an authentication header counts words of 4 bytes.
            behind(vec![[extension(next, 0), vec![0; 4]].concat()], 51, payload)
                .into_iter()
                .enumerate()
                .map(|(at, byte)| if at == ETHERNET + 41 { 1 } else { byte })
                .collect(),
        ]
    };
    let mut frames = vec![
        ipv4(IP, 5, 0, UDP, &offer),
        ipv4(IP, 15, 0, UDP, &offer),
        ipv4(IP, 5, 0x2000, UDP, &offer),
        ipv6(LINK_LOCAL, UDP, &offer6),
        icmpv6(LINK_LOCAL, &advertisement),
        icmpv6(LINK_LOCAL, &[&[137, 0, 0, 0][..], &[0; 36]].concat()),
    ];
    frames.extend(wrapped(UDP, &offer6));
    frames.extend(wrapped(ICMPV6, &advertisement));
    for filter in [OPEN, known()] {
        for (n, frame) in frames.iter().enumerate() {
            assert_eq!(check(filter, frame), Err(Refusal::Service), "{n}");
        }
    }
    expect_sent(
        known(),
        &[
            ("a client of DHCP", ipv4(IP, 5, 0, UDP, &udp(68, 67))),
            ("a client of DHCPv6", ipv6(LINK_LOCAL, UDP, &udp(546, 547))),
            ("another service", ipv4(IP, 5, 0, UDP, &udp(67, 69))),
            ("a later fragment", ipv4(IP, 5, 1, UDP, &offer)),
            ("a later IPv6 fragment", behind(vec![fragment(UDP, 1, false)], 44, &offer6)),
            ("a router is asked for", icmpv6(LINK_LOCAL, &[133, 0, 0, 0, 0, 0, 0, 0])),
            ("echo", icmpv6(IP6, &[128, 0, 0, 0])),
            ("a report of groups", behind(vec![extension(ICMPV6, 0)], 0, &[143, 0, 0, 0])),
            ("no next header", ipv6(IP6, 59, &[])),
        ],
    );
}

/// N4.
#[test]
fn neighbour_discovery_that_claims_a_foreign_address_is_refused() {
    let nd = |kind, target, option, mac| icmpv6(LINK_LOCAL, &discovery(kind, target, option, mac));
    let both = {
        let message = [&discovery(136, IP6, 2, OWN)[..], &[2, 1], &OTHER].concat();
        icmpv6(LINK_LOCAL, &message)
    };
    expect_refused(
        OPEN,
        &[
            ("advertisement", Refusal::Neighbour, nd(136, IP6, 2, OTHER)),
            ("solicitation", Refusal::Neighbour, nd(135, OTHER_IP6, 1, OTHER)),
            ("solicitation of routers", Refusal::Neighbour, nd(133, IP6, 1, OTHER)),
            ("two addresses", Refusal::Unreadable, both),
        ],
    );
    let spoofed = nd(136, OTHER_IP6, 2, OWN);
    expect_refused(known(), &[("another's IP", Refusal::Neighbour, spoofed.clone())]);
    expect_sent(OPEN, &[("any IP, where none is known", spoofed)]);
    let unasked = discovery(135, IP6, 1, OWN)[..24].to_vec();
    expect_sent(
        known(),
        &[
            ("advertisement", nd(136, IP6, 2, OWN)),
            ("advertisement on the link", nd(136, LINK_LOCAL, 2, OWN)),
            ("solicitation", nd(135, OTHER_IP6, 1, OWN)),
            ("solicitation of routers", nd(133, IP6, 1, OWN)),
            ("search for duplicates", icmpv6(Ipv6Addr::UNSPECIFIED, &unasked)),
            ("another option", nd(135, OTHER_IP6, 14, OTHER)),
        ],
    );
}

/// N4: what must be looked at to decide is cut off, beyond the copy or inconsistent.
#[test]
fn headers_that_cannot_be_checked_are_refused() {
    let nd = discovery(136, IP6, 2, OWN);
    let with = |at: usize, value: u8, mut frame: Vec<u8>| {
        frame[at] = value;
        frame
    };
    let tcp4 = ipv4(IP, 5, 0, 6, &[0; 20]);
    let tcp6 = ipv6(IP6, 6, &[0; 20]);
    let long: Vec<u8> = (0..9).flat_map(|_| extension(60, 0)).chain(udp(1, 2)).collect();
    let fragmented = [&fragment(ICMPV6, 0, true)[..], &nd].concat();
    let cases = [
        ("IPv4 cut off", tcp4[..ETHERNET + 19].to_vec()),
        ("IPv4 of another version", with(ETHERNET, 0x65, tcp4.clone())),
        ("IPv4 with a short header", with(ETHERNET, 0x44, tcp4.clone())),
        ("IPv4 with options cut off", with(ETHERNET, 0x4f, tcp4)),
        ("UDP cut off", ipv4(IP, 5, 0, UDP, &[0, 67, 0])),
        ("UDP in a tiny fragment", ipv4(IP, 5, 0x2000, UDP, &[])),
        ("IPv6 cut off", tcp6[..ETHERNET + 39].to_vec()),
        ("IPv6 of another version", with(ETHERNET, 0x45, tcp6)),
        ("IPv6 with a header that is cut off", ipv6(IP6, 0, &[17, 0, 0, 0])),
        ("IPv6 with a header beyond the frame", ipv6(IP6, 60, &extension(17, 0)[..7])),
        ("IPv6 with headers beyond the copy", ipv6(IP6, 60, &long)),
        ("UDP over IPv6 cut off", ipv6(IP6, UDP, &[0, 1, 2])),
        ("ICMPv6 of nothing", ipv6(IP6, ICMPV6, &[])),
        ("discovery without its target", icmpv6(IP6, &nd[..20])),
        ("discovery with half an option", icmpv6(IP6, &nd[..28])),
        ("discovery with one byte of an option", icmpv6(IP6, &nd[..25])),
        (
            "discovery with an option of no length",
            icmpv6(IP6, &discovery(136, IP6, 2, OWN)[..24])
                .into_iter()
                .chain([2, 0, 0, 0, 0, 0, 0, 0])
                .enumerate()
                .map(|(at, byte)| if at == ETHERNET + 5 { 32 } else { byte })
                .collect(),
        ),
        ("discovery that ends beyond the frame", with(ETHERNET + 5, 200, icmpv6(IP6, &nd))),
        ("discovery that ends before it begins", with(ETHERNET + 5, 0, icmpv6(IP6, &nd))),
        ("discovery in fragments", ipv6(IP6, 44, &fragmented)),
    ];
    for (what, frame) in cases {
        assert_eq!(check(OPEN, &frame), Err(Refusal::Unreadable), "{what}");
    }
}

/// N2, N4: a checksum that the host is asked to write over what was checked.
#[test]
fn checksum_over_checked_headers_is_refused() {
    let cases: BTreeMap<usize, Vec<Vec<u8>>> = [
        (0, vec![own(0x88b5, &[0; 46])]),
        (ARP_LEN, vec![arp(OWN, IP)]),
        (20, vec![ipv4(IP, 5, 0, 6, &[0; 20]), ipv4(IP, 5, 3, UDP, &[0; 20])]),
        (24, vec![ipv4(IP, 6, 0, 6, &[0; 20]), ipv4(IP, 5, 0, UDP, &udp(1, 2))]),
        (40, vec![ipv6(IP6, 6, &[0; 20])]),
        (41, vec![icmpv6(IP6, &[128, 0, 0, 0])]),
        (44, vec![ipv6(IP6, UDP, &udp(1, 2))]),
        (72, vec![icmpv6(IP6, &discovery(136, IP6, 2, OWN))]),
    ]
    .into();
    for (checked, frames) in cases {
        for frame in frames {
            for at in 0..ETHERNET + checked {
                let refused = known().check(&frame, Some(at));
                assert_eq!(refused, Err(Refusal::Unreadable), "{at} of {frame:x?}");
            }
            assert_eq!(known().check(&frame, Some(ETHERNET + checked)), Ok(()), "{frame:x?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// N4: whatever is behind them, headers are read within their bounds; and what passes is from
    /// the guest.
    #[test]
    fn any_frame_is_sent_or_refused_and_what_is_sent_is_from_the_guest(
        kind in prop_oneof![Just(IPV4), Just(IPV6), Just(ARP), any::<u16>()],
        version in prop_oneof![Just(0x45u8), Just(0x4f), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(0u8), Just(44), Just(60), Just(51), Just(58), Just(17)],
        bytes in prop::collection::vec(any::<u8>(), 0..COPIED),
        checksum in prop::option::of(0usize..200),
    ) {
        let mut packet = bytes;
        for (at, value) in [(0, version), (6, protocol), (9, protocol), (40, protocol)] {
            if let Some(byte) = packet.get_mut(at) {
                *byte = value;
            }
        }
        let frame = own(kind, &packet);
        let start = &frame[..frame.len().min(COPIED)];
        if known().check(start, checksum).is_ok() {
            prop_assert_eq!(&frame[6..12], &OWN);
            if kind == IPV4 {
                prop_assert!(packet[12..16] == IP || packet[12..16] == [0; 4]);
            }
        }
    }
}
