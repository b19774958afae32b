//! Reading the headers of a frame. All of it may be hostile: whatever does not fit is `None`.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Length of an Ethernet header, in bytes.
pub(super) const ETHERNET: usize = 14;
/// The largest value of the type field that is a length, as in 802.3 frames (and those between it
/// and the first type, which are neither).
pub(super) const MAX_LENGTH: u16 = 0x05ff;
/// Types of frames (IEEE 802 numbers of IANA).
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const LLDP: u16 = 0x88cc;
/// Types that begin a VLAN tag: 802.1Q, 802.1ad and what was used before it.
pub(super) const TAGGED: [u16; 5] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300];

/// Protocols above IP.
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;
/// The ports that DHCP clients listen to (RFC 2131, section 4.1; RFC 8415, section 7.2).
pub(super) const DHCP_CLIENT: u16 = 68;
pub(super) const DHCPV6_CLIENT: u16 = 546;

/// Length of an ARP packet about IPv4 over Ethernet, in bytes.
pub(super) const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;

/// Whether `group` is one that switches do not forward (IEEE 802.1Q, table 8-1).
pub(super) fn group_is_link_local(group: [u8; 6]) -> bool {
    let [rest @ .., last] = group;
    rest == [0x01, 0x80, 0xc2, 0x00, 0x00] && last <= 0x0f
}

/// Who an ARP packet is from.
pub(super) struct Arp {
    pub(super) sender_mac: [u8; 6],
    pub(super) sender_ip: Ipv4Addr,
}

/// Reads an ARP packet about IPv4 over Ethernet (RFC 826).
pub(super) fn arp(packet: &[u8]) -> Option<Arp> {
    let packet = packet.first_chunk::<ARP_LEN>()?;
    let (sizes, rest) = packet.split_first_chunk::<6>()?;
    let (_operation, rest) = rest.split_first_chunk::<2>()?;
    let (sender_mac, rest) = rest.split_first_chunk()?;
    let sender_ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
    (*sizes == [0, 1, 8, 0, 6, 4]).then_some(Arp { sender_mac: *sender_mac, sender_ip })
}

/// What an IP packet carries.
#[derive(Clone, Copy)]
pub(super) struct Upper {
    /// The protocol; `None` in all fragments but the first, which do not hold its header.
    pub(super) protocol: Option<u8>,
    /// Where it begins in the packet.
    pub(super) at: usize,
    /// Whether there are more fragments.
    fragmented: bool,
    /// Where it ends, as the packet says.
    end: usize,
}

/// Reads an IPv4 header (RFC 791, section 3.1): source and contents.
pub(super) fn ipv4(packet: &[u8]) -> Option<(Ipv4Addr, Upper)> {
    let header = packet.first_chunk::<20>()?;
    let [version, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, ..] = *header;
    let at = usize::from(version & 0x0f) * 4;
    if version >> 4 != 4 || at < header.len() || packet.len() < at {
        return None;
    }
    let fragment = u16::from_be_bytes([f0, f1]);
    let first = fragment & 0x1fff == 0;
    let upper = Upper {
        protocol: first.then_some(protocol),
        at,
        fragmented: fragment & 0x3fff != 0,
        end: usize::from(u16::from_be_bytes([l0, l1])),
    };
    Some((Ipv4Addr::new(s0, s1, s2, s3), upper))
}

/// Reads an IPv6 header and its extension headers (RFC 8200, sections 3 and 4).
pub(super) fn ipv6(packet: &[u8]) -> Option<(Ipv6Addr, Upper)> {
    let (fixed, addresses) = packet.split_first_chunk::<8>()?;
    let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
    let [version, _, _, _, l0, l1, mut next, _] = *fixed;
    if version >> 4 != 6 {
        return None;
    }
    let end = IPV6_LEN + usize::from(u16::from_be_bytes([l0, l1]));
    let (mut at, mut fragmented) = (IPV6_LEN, false);
    packet.get(..at)?;
    // Each round moves on by 8 bytes or more.
    loop {
        let words = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 => 8,
            AUTHENTICATION => 4,
            FRAGMENT => 0,
            protocol => {
                return Some((source, Upper { protocol: Some(protocol), at, fragmented, end }));
            }
        };
        let [after, len, o0, o1, ..] = *packet.get(at..)?.first_chunk::<8>()?;
        if next == FRAGMENT {
            let position = u16::from_be_bytes([o0, o1]);
            fragmented |= position & !0b110 != 0;
            if position >> 3 != 0 {
                return Some((source, Upper { protocol: None, at: at + 8, fragmented, end }));
            }
        }
        // The length does not count the first 8 bytes.
        at += 8 + usize::from(len) * words;
        next = after;
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The port a UDP datagram goes to.
pub(super) fn udp_destination(packet: &[u8], upper: Upper) -> Option<u16> {
    let [_, _, p0, p1] = *packet.get(upper.at..)?.first_chunk::<4>()?;
    Some(u16::from_be_bytes([p0, p1]))
}

/// What an ICMPv6 message means for the discovery of neighbours (RFC 4861, section 4).
pub(super) enum Neighbour {
    /// Nothing.
    None,
    /// It is a router's: an advertisement or a redirect.
    Router,
    /// It tells addresses of its sender.
    Claim {
        /// The hardware address, if it tells one.
        mac: Option<[u8; 6]>,
        /// The IPv6 address, if it tells one beside the source of the packet.
        ip: Option<Ipv6Addr>,
        /// Where the message ends in the packet.
        end: usize,
    },
}

/// Reads an ICMPv6 message; one that claims addresses, to its end.
pub(super) fn neighbour(packet: &[u8], upper: Upper) -> Option<Neighbour> {
    const ROUTER_SOLICITATION: u8 = 133;
    const ROUTER_ADVERTISEMENT: u8 = 134;
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const REDIRECT: u8 = 137;
    const HEADER: usize = 8;
    let kind = *packet.get(upper.at)?;
    let options = match kind {
        ROUTER_ADVERTISEMENT | REDIRECT => return Some(Neighbour::Router),
        ROUTER_SOLICITATION => HEADER,
        SOLICITATION | ADVERTISEMENT => HEADER + 16,
        _ => return Some(Neighbour::None),
    };
    // A receiver ignores those in fragments (RFC 6980): nobody means them.
    let message = packet.get(upper.at..upper.end).filter(|_| !upper.fragmented)?;
    let ip = match kind {
        ADVERTISEMENT => Some(Ipv6Addr::from(*message.get(HEADER..)?.first_chunk::<16>()?)),
        _ => None,
    };
    let mac = link_layer_address(message.get(options..)?)?;
    Some(Neighbour::Claim { mac, ip, end: upper.end })
}

/// Finds the link-layer address of the sender among the options (RFC 4861, section 4.6.1); of
/// several it must be the same.
fn link_layer_address(mut options: &[u8]) -> Option<Option<[u8; 6]>> {
    const SOURCE: u8 = 1;
    const TARGET: u8 = 2;
    let mut found = None;
    while let [kind, words, ..] = *options {
        let (option, rest) = options.split_at_checked(usize::from(words) * 8)?;
        let ([_, _, address @ ..], _) = option.split_first_chunk::<8>()?;
        if matches!(kind, SOURCE | TARGET) && found.replace(*address).is_some_and(|a| a != *address)
        {
            return None;
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}
