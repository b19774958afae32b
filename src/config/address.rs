//! Internet addresses of a guest.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// An IPv4 address with the length of its network's prefix, such as 172.16.0.2/24.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Network {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Network {
    /// The address of a host in a network of `prefix` leading bits.
    ///
    /// # Errors
    /// Refuses prefixes that no network has, and addresses that no host can have in it.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, Ipv4NetworkError> {
        if !(1..=32).contains(&prefix) {
            return Err(Ipv4NetworkError::Prefix);
        }
        let network = Self { address, prefix };
        // In networks of one or two addresses all of them are hosts' (RFC 3021).
        let ends =
            prefix < 31 && (network.host_part() == 0 || network.host_part() == !network.mask());
        if ends
            || address.is_unspecified()
            || address.is_loopback()
            || address.is_multicast()
            || address.is_broadcast()
        {
            return Err(Ipv4NetworkError::NotAHost);
        }
        Ok(network)
    }

    /// The host's address.
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of the network's prefix, 1 to 32 bits.
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network's mask.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask())
    }

    /// Whether `other` is the address of another host in the same network.
    pub fn is_neighbour(self, other: Ipv4Addr) -> bool {
        let same = (other.to_bits() ^ self.address.to_bits()) & self.mask() == 0;
        same && other != self.address && Self::new(other, self.prefix).is_ok()
    }

    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32_u32.saturating_sub(self.prefix.into())).unwrap_or(0)
    }

    fn host_part(self) -> u32 {
        self.address.to_bits() & !self.mask()
    }
}

impl fmt::Display for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Ipv4Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Ipv4Network> for String {
    fn from(network: Ipv4Network) -> Self {
        network.to_string()
    }
}

impl TryFrom<String> for Ipv4Network {
    type Error = Ipv4NetworkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Ipv4Network {
    type Err = Ipv4NetworkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').ok_or(Ipv4NetworkError::Form)?;
        let address = address.parse().map_err(|_| Ipv4NetworkError::Form)?;
        // A number's own parser would take a sign.
        if !prefix.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(Ipv4NetworkError::Form);
        }
        Self::new(address, prefix.parse().map_err(|_| Ipv4NetworkError::Prefix)?)
    }
}

/// Why a text is not the address of a host in an IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Ipv4NetworkError {
    /// Not an address, a slash and a number.
    #[error("an address is written with its network's prefix, such as 172.16.0.2/24")]
    Form,
    /// No network has such a prefix.
    #[error("the prefix of an IPv4 network is 1 to 32")]
    Prefix,
    /// The address means something else.
    #[error("the address cannot be a host's in its network")]
    NotAHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Ipv4Network {
        text.parse().expect(text)
    }

    #[test]
    fn network_survives_display_and_parse_and_knows_its_mask() {
        for (text, mask) in [
            ("172.16.0.2/24", "255.255.255.0"),
            ("10.0.0.1/8", "255.0.0.0"),
            ("10.0.0.1/32", "255.255.255.255"),
            ("10.0.0.0/31", "255.255.255.254"),
            ("200.1.1.1/1", "128.0.0.0"),
        ] {
            assert_eq!(network(text).to_string(), text);
            assert_eq!(network(text).netmask().to_string(), mask);
        }
    }

    #[test]
    fn texts_that_are_no_host_in_a_network_are_refused() {
        for (text, error) in [
            ("172.16.0.2", Ipv4NetworkError::Form),
            ("172.16.0/24", Ipv4NetworkError::Form),
            ("172.16.0.2/+4", Ipv4NetworkError::Form),
            ("fe80::1/64", Ipv4NetworkError::Form),
            ("172.16.0.2/", Ipv4NetworkError::Prefix),
            ("172.16.0.2/0", Ipv4NetworkError::Prefix),
            ("172.16.0.2/33", Ipv4NetworkError::Prefix),
            ("172.16.0.2/256", Ipv4NetworkError::Prefix),
            ("172.16.0.0/24", Ipv4NetworkError::NotAHost),
            ("172.16.0.255/24", Ipv4NetworkError::NotAHost),
            ("0.0.0.0/31", Ipv4NetworkError::NotAHost),
            ("127.0.0.1/8", Ipv4NetworkError::NotAHost),
            ("224.0.0.1/24", Ipv4NetworkError::NotAHost),
            ("255.255.255.255/32", Ipv4NetworkError::NotAHost),
        ] {
            assert_eq!(text.parse::<Ipv4Network>(), Err(error), "{text}");
        }
    }

    #[test]
    fn neighbours_are_the_other_hosts_of_the_network() {
        let own = network("172.16.0.2/24");
        for (other, is) in [
            ("172.16.0.1", true),
            ("172.16.0.254", true),
            ("172.16.0.2", false),
            ("172.16.0.255", false),
            ("172.16.1.1", false),
        ] {
            assert_eq!(own.is_neighbour(other.parse().expect("address")), is, "{other}");
        }
    }
}
