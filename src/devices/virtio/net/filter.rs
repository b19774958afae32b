//! What a guest may send: frames from itself, and nothing that speaks for the network.
//!
//! A network trusts its members in ways that a guest must not have the use of: switches learn
//! from source addresses and obey link-local groups, hosts believe ARP, neighbour discovery,
//! router advertisements and DHCP. The start of each frame is copied, the copy is checked and
//! the copy is sent, so that a guest that changes the frame meanwhile changes nothing that was
//! checked. What would have to be checked beyond the copy is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::headers::{
    self, ARP, DHCP_CLIENT, DHCPV6_CLIENT, ICMPV6, IPV4, IPV6, LLDP, Neighbour, TAGGED, UDP, Upper,
    group_is_link_local,
};

/// How much of a frame is copied, in bytes: Ethernet, IPv4 with all options and UDP fit, and
/// IPv6 with a neighbour solicitation behind some extension headers.
pub(super) const COPIED: usize = 128;

/// The addresses a guest may send from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its IPv4 address, if it may have but one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, if it may have but one, besides those of its link.
    pub ipv6: Option<Ipv6Addr>,
}

/// Why a frame of the guest is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The source hardware address is not the guest's.
    Mac,
    /// It carries a VLAN tag.
    Vlan,
    /// It speaks to switches: spanning tree, LLDP and other link-local groups, 802.3 frames.
    LinkLocal,
    /// ARP or neighbour discovery claims an address that is not the guest's.
    Neighbour,
    /// The source IP address is not the guest's.
    Ip,
    /// It is what routers and DHCP servers send.
    Service,
    /// Its headers are cut off, or too long to be checked.
    Unreadable,
}

impl Filter {
    /// Checks a frame by its first bytes `start`: all of it, or [`COPIED`] of them. The host will
    /// write a checksum at `checksum`, if anywhere, which must not be where something was checked.
    pub(super) fn check(&self, start: &[u8], checksum: Option<usize>) -> Result<(), Refusal> {
        let Some((ethernet, packet)) = start.split_first_chunk::<{ headers::ETHERNET }>() else {
            return Err(Refusal::Unreadable);
        };
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
        if [s0, s1, s2, s3, s4, s5] != self.mac {
            return Err(Refusal::Mac);
        }
        if group_is_link_local([d0, d1, d2, d3, d4, d5]) {
            return Err(Refusal::LinkLocal);
        }
        let checked = match u16::from_be_bytes([t0, t1]) {
            ..=headers::MAX_LENGTH | LLDP => return Err(Refusal::LinkLocal),
            ethertype if TAGGED.contains(&ethertype) => return Err(Refusal::Vlan),
            ARP => self.arp(packet)?,
            IPV4 => self.ipv4(packet)?,
            IPV6 => self.ipv6(packet)?,
            _ => 0,
        };
        match checksum {
            Some(at) if at < headers::ETHERNET + checked => Err(Refusal::Unreadable),
            _ => Ok(()),
        }
    }

    /// As all that follow: checks a packet, and tells how many of its first bytes that relied on.
    fn arp(&self, packet: &[u8]) -> Result<usize, Refusal> {
        let arp = headers::arp(packet).ok_or(Refusal::Neighbour)?;
        if arp.sender_mac != self.mac || !self.may_send_ipv4(arp.sender_ip) {
            return Err(Refusal::Neighbour);
        }
        Ok(headers::ARP_LEN)
    }

    fn ipv4(&self, packet: &[u8]) -> Result<usize, Refusal> {
        let (source, upper) = headers::ipv4(packet).ok_or(Refusal::Unreadable)?;
        if !self.may_send_ipv4(source) {
            return Err(Refusal::Ip);
        }
        if upper.protocol != Some(UDP) {
            return Ok(upper.at);
        }
        refuse_port(packet, upper, DHCP_CLIENT)
    }

    fn ipv6(&self, packet: &[u8]) -> Result<usize, Refusal> {
        let (source, upper) = headers::ipv6(packet).ok_or(Refusal::Unreadable)?;
        if !self.may_send_ipv6(source) {
            return Err(Refusal::Ip);
        }
        match upper.protocol {
            Some(UDP) => refuse_port(packet, upper, DHCPV6_CLIENT),
            Some(ICMPV6) => self.icmpv6(packet, upper),
            _ => Ok(upper.at),
        }
    }

    fn icmpv6(&self, packet: &[u8], upper: Upper) -> Result<usize, Refusal> {
        match headers::neighbour(packet, upper).ok_or(Refusal::Unreadable)? {
            Neighbour::None => Ok(upper.at + 1),
            Neighbour::Router => Err(Refusal::Service),
            Neighbour::Claim { mac, ip, end } => {
                let own = mac.is_none_or(|mac| mac == self.mac)
                    && ip.is_none_or(|ip| self.may_send_ipv6(ip));
                if own { Ok(end) } else { Err(Refusal::Neighbour) }
            }
        }
    }

    /// A guest that has no address yet sends from the unspecified one.
    fn may_send_ipv4(&self, source: Ipv4Addr) -> bool {
        self.ipv4.is_none_or(|own| source == own || source.is_unspecified())
    }

    fn may_send_ipv6(&self, source: Ipv6Addr) -> bool {
        let of_link = source.is_unspecified() || source.is_unicast_link_local();
        self.ipv6.is_none_or(|own| source == own || of_link)
    }
}

/// Refuses UDP to `port`: to clients of a service that guests do not offer.
fn refuse_port(packet: &[u8], upper: Upper, port: u16) -> Result<usize, Refusal> {
    match headers::udp_destination(packet, upper) {
        None => Err(Refusal::Unreadable),
        Some(to) if to == port => Err(Refusal::Service),
        Some(_) => Ok(upper.at + 4),
    }
}

#[cfg(test)]
mod tests;
