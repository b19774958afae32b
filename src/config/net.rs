//! A network interface of the guest and its hardware address.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Ipv4Network, KeyValueError, Publish, parse_key_values};

/// A network interface on a TAP device or on passt: `--net tap=,ip=,...` or `--net user,...`, or a
/// `[[net]]` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Net {
    /// Name of the host's TAP interface; created for the life of the machine when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// Whether the guest is connected by passt instead, which needs no privilege.
    #[serde(default)]
    pub user: bool,
    /// Ports of the guest that the host offers, by passt.
    #[serde(default)]
    pub publish: Vec<Publish>,
    /// Hardware address of the guest's interface. Derived by [`MacAddress::derived`] when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Largest packet in bytes the guest should send, told to it through `VIRTIO_NET_F_MTU`. What
    /// [`Net::largest_packet`] says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// Pairs of queues, of which the guest uses one for each of its CPUs.
    #[serde(default = "one")]
    pub queues: u16,
    /// The guest's IPv4 address, handed to its kernel and the only one it may send from. Any when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Network>,
    /// The router of the guest's IPv4 network, handed to its kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The only IPv6 address the guest may send from, besides those of its link. Any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// Whether the guest may only send frames from itself, which speak for nobody else.
    #[serde(default = "on")]
    pub filter: bool,
}

const fn on() -> bool {
    true
}

const fn one() -> u16 {
    1
}

impl Net {
    /// Longest name of a Linux network interface in bytes (`IFNAMSIZ` less the NUL).
    pub const MAX_TAP_LEN: usize = 15;

    /// Smallest MTU: what IPv4 demands of every link (virtio 1.3 section 5.1.4.1).
    pub const MIN_MTU: u16 = 68;

    /// Largest MTU a TAP interface takes: 65535 bytes less the Ethernet header.
    pub const MAX_MTU: u16 = 65521;

    /// Largest packet of a user network unless told otherwise: passt's own, since it has no
    /// segmentation offload, and each frame costs the same.
    pub const USER_MTU: u16 = 65520;

    /// Most pairs of queues of one interface.
    pub const MAX_QUEUES: u16 = 8;

    /// Whether Linux would take `name` literally for an interface. Stricter than the kernel in one
    /// point: `%` would ask it to choose a number.
    pub fn is_valid_tap(name: &str) -> bool {
        (1..=Self::MAX_TAP_LEN).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
    }

    /// What the interface is called on the host: `user` without a TAP interface.
    pub fn name(&self) -> &str {
        self.tap.as_deref().unwrap_or("user")
    }

    /// The largest packet that the guest is told of, if it is told.
    pub fn largest_packet(&self) -> Option<u16> {
        self.mtu.or(self.user.then_some(Self::USER_MTU))
    }

    /// The address the guest's interface gets: the given one, or one derived from the name and
    /// the position `index` among the machine's interfaces.
    pub fn mac_address(&self, index: usize) -> MacAddress {
        self.mac.unwrap_or_else(|| MacAddress::derived(self.name(), index))
    }
}

impl FromStr for Net {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The word alone is clear enough.
        match text.strip_prefix("user") {
            Some("") => parse_key_values("user=on"),
            Some(rest) if rest.starts_with(',') => parse_key_values(&format!("user=on{rest}")),
            _ => parse_key_values(text),
        }
    }
}

/// The hardware address of one Ethernet interface: neither multicast nor all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// An address from its six bytes in transmission order.
    ///
    /// # Errors
    /// Refuses multicast addresses and the all-zero one, which no interface can have.
    pub fn new(bytes: [u8; 6]) -> Result<Self, MacAddressError> {
        let [first, ..] = bytes;
        if first & 1 != 0 {
            return Err(MacAddressError::Multicast);
        }
        if bytes == [0; 6] {
            return Err(MacAddressError::Zero);
        }
        Ok(Self(bytes))
    }

    /// The six bytes in transmission order.
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// A locally administered address that is always the same for one interface name and position,
    /// so that a guest keeps its address over restarts (64-bit FNV-1a of both).
    pub fn derived(tap: &str, index: usize) -> Self {
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let hash = tap
            .bytes()
            .chain(index.to_le_bytes())
            .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        let [a, b, c, d, e, ..] = hash.to_le_bytes();
        // Bit 1 of the first byte set: locally administered; bit 0 clear: one interface.
        Self([0x02, a, b, c, d, e])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for MacAddress {
    type Error = MacAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddressError::Form)?;
            // `from_str_radix` alone would take a sign.
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(MacAddressError::Form);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| MacAddressError::Form)?;
        }
        if parts.next().is_some() {
            return Err(MacAddressError::Form);
        }
        Self::new(bytes)
    }
}

/// Why a text is not the hardware address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MacAddressError {
    /// Not six pairs of hexadecimal digits.
    #[error("a MAC address is six pairs of hexadecimal digits, such as 02:00:00:00:00:01")]
    Form,
    /// The group bit is set.
    #[error("a multicast MAC address cannot belong to an interface: make the first byte even")]
    Multicast,
    /// All bytes are zero.
    #[error("the all-zero MAC address cannot belong to an interface")]
    Zero,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_address_survives_display_and_parse() {
        let mac: MacAddress = "02:AB:00:0f:ff:01".parse().expect("valid");
        assert_eq!(mac.bytes(), [0x02, 0xab, 0, 0x0f, 0xff, 1]);
        assert_eq!(mac.to_string(), "02:ab:00:0f:ff:01");
    }

    #[test]
    fn mac_address_that_no_interface_can_have_is_refused() {
        for (text, error) in [
            ("01:00:5e:00:00:01", MacAddressError::Multicast),
            ("ff:ff:ff:ff:ff:ff", MacAddressError::Multicast),
            ("00:00:00:00:00:00", MacAddressError::Zero),
            ("02:00:00:00:00", MacAddressError::Form),
            ("02:00:00:00:00:01:02", MacAddressError::Form),
            ("02:00:00:00:00:+1", MacAddressError::Form),
            ("02:00:00:00:00:1", MacAddressError::Form),
            ("", MacAddressError::Form),
        ] {
            assert_eq!(text.parse::<MacAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn derived_mac_address_is_stable_local_and_distinct() {
        let first = MacAddress::derived("tap0", 0);
        assert_eq!(first, MacAddress::derived("tap0", 0));
        assert_ne!(first, MacAddress::derived("tap1", 0));
        assert_ne!(first, MacAddress::derived("tap0", 1));
        assert_eq!(first.bytes()[0], 0x02);
        assert_eq!(MacAddress::new(first.bytes()), Ok(first));
    }

    #[test]
    fn flag_form_reads_every_key() {
        let text = "tap=tap0,mac=02:00:00:00:00:01,mtu=1500,queues=2,ip=10.0.0.2/8,gateway=10.0.0.1,\
                    ip6=fd00::2,filter=off";
        let net: Net = text.parse().expect("valid");
        assert_eq!((net.tap.as_deref(), net.user), (Some("tap0"), false));
        assert_eq!(net.mac_address(0).to_string(), "02:00:00:00:00:01");
        assert_eq!((net.mtu, net.queues), (Some(1500), 2));
        assert_eq!(net.ip.map(|ip| ip.to_string()).as_deref(), Some("10.0.0.2/8"));
        assert_eq!(net.gateway, Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(net.ip6.map(|ip| ip.to_string()).as_deref(), Some("fd00::2"));
        assert!(!net.filter);
        let least: Net = "tap=tap0".parse().expect("valid");
        assert_eq!((least.filter, least.queues), (true, 1));
    }

    #[test]
    fn user_network_is_a_word_and_publishes_any_number_of_ports() {
        let publish = "publish=8080:80,publish=udp:0.0.0.0:53:53,publish=[::1]:2222:22";
        for text in [format!("user,{publish}"), format!("user=on,{publish}")] {
            let net: Net = text.parse().expect("valid");
            assert!(net.user && net.tap.is_none());
            let ports: Vec<_> = net.publish.iter().map(ToString::to_string).collect();
            assert_eq!(ports, ["127.0.0.1:8080:80", "udp:0.0.0.0:53:53", "[::1]:2222:22"]);
        }
        assert_eq!("user".parse(), "user=on".parse::<Net>());
        let packet = |text: &str| text.parse::<Net>().expect("valid").largest_packet();
        assert_eq!(packet("user"), Some(65520));
        assert_eq!((packet("user,mtu=1500"), packet("tap=t")), (Some(1500), None));
        for text in ["user,publish=80", "users", "user,", "user,user=on", "user,mac=a,mac=b"] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
    }

    #[test]
    fn bad_mac_in_a_flag_keeps_its_reason() {
        let error = "tap=tap0,mac=01:00:00:00:00:00".parse::<Net>().expect_err("multicast");
        assert!(error.to_string().contains("multicast"), "{error}");
    }

    #[test]
    fn tap_names_follow_the_kernel() {
        assert!(Net::is_valid_tap("vmm-tap_0.1"));
        for bad in ["", ".", "..", "a/b", "a:1", "tap%d", "a b", "sixteen-bytes-xx", "é"] {
            assert!(!Net::is_valid_tap(bad), "{bad:?}");
        }
    }
}
