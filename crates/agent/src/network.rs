//! Brings network interfaces up and gives them addresses, by rtnetlink(7).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::AddressFamily;
use rustix::net::netdevice::name_to_index;
use vmm_protocol::Network;
use vmm_sandbox::network::{self, CHANGE, HEADER, LOOPBACK, NEW_LINK};

use crate::error::{Context, Failure};

/// The interface of the first network device.
const DEVICE: &str = "eth0";

/// Types of messages, `linux/rtnetlink.h`.
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// Attributes.
const LINK_MTU: u16 = 4;
const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_DEVICE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;

/// For what is not there yet: EXCL and CREATE.
const CREATE: u16 = CHANGE | 0x200 | 0x400;

/// The loopback interface, and the first device if it gets addresses.
pub(crate) fn configure(wanted: Option<&Network>) -> Result<(), Failure> {
    let socket = network::open().context("open a netlink socket")?;
    request(&socket, NEW_LINK, &link(LOOPBACK, None)).context("bring loopback up")?;
    let Some(wanted) = wanted else { return Ok(()) };
    let index = name_to_index(&socket, DEVICE).context("find the network device")?;
    for address in &wanted.addresses {
        let (ip, prefix) = (address.ip, address.prefix);
        let body = new_address(index, ip, prefix);
        request(&socket, NEW_ADDRESS, &body).context(format!("set address {ip}/{prefix}"))?;
    }
    let body = link(index, wanted.mtu);
    request(&socket, NEW_LINK, &body).context(format!("bring {DEVICE} up"))?;
    for gateway in &wanted.gateways {
        let body = default_route(index, *gateway);
        request(&socket, NEW_ROUTE, &body).context(format!("route through {gateway}"))?;
    }
    Ok(())
}

fn request(socket: &OwnedFd, kind: u16, body: &[u8]) -> io::Result<()> {
    Ok(network::request(socket, &message(kind, body))?)
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER.saturating_add(body.len())).unwrap_or(u32::MAX);
    let mut message = len.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    let flags = if kind == NEW_LINK { CHANGE } else { CREATE };
    message.extend(flags.to_ne_bytes());
    // Sequence number and sender, which matter to nobody here.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// `struct ifinfomsg` that brings an interface up.
fn link(index: u32, mtu: Option<u32>) -> Vec<u8> {
    const UP: u32 = 1;
    let mut body = vec![0; 4];
    for word in [index, UP, UP] {
        body.extend(word.to_ne_bytes());
    }
    if let Some(mtu) = mtu {
        attribute(&mut body, LINK_MTU, &mtu.to_ne_bytes());
    }
    body
}

/// `struct ifaddrmsg` with the address.
fn new_address(index: u32, ip: IpAddr, prefix: u8) -> Vec<u8> {
    // IPv6: usable at once, without a search for others that have it.
    const NO_DETECTION: u8 = 2;
    let mut body = vec![family(ip), prefix, if ip.is_ipv6() { NO_DETECTION } else { 0 }, 0];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, ADDRESS_LOCAL, &octets(ip));
    attribute(&mut body, ADDRESS, &octets(ip));
    body
}

/// `struct rtmsg` of a route to everywhere. The gateway need not lie in a known network.
fn default_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    const MAIN_TABLE: u8 = 254;
    const BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    const ON_LINK: u32 = 4;
    let mut body = vec![family(gateway), 0, 0, 0, MAIN_TABLE, BOOT, 0, UNICAST];
    body.extend(ON_LINK.to_ne_bytes());
    attribute(&mut body, ROUTE_GATEWAY, &octets(gateway));
    attribute(&mut body, ROUTE_DEVICE, &index.to_ne_bytes());
    body
}

/// Appends an attribute; all of ours have lengths of whole words.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    body.extend(len.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn family(ip: IpAddr) -> u8 {
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    u8::try_from(family.as_raw()).unwrap_or(0)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_form() {
        let body = new_address(2, "10.0.2.15".parse().unwrap(), 24);
        let expected =
            [2, 24, 0, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 0, 2, 15, 8, 0, 1, 0, 10, 0, 2, 15];
        assert_eq!(body, expected);
        let message = message(NEW_ADDRESS, &body);
        assert_eq!(message[..8], [40, 0, 0, 0, 20, 0, 5, 6]);
        assert_eq!(default_route(2, "fe80::1".parse().unwrap()).len(), 12 + 20 + 8);
    }
}
