//! How a container reaches the network: `--network`.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vmm_protocol::{Address, Network as Addresses};

use super::nouns::NounError;
use crate::config::{Ipv4Network, Net, parse_key_values};

/// The guest's address on a user network, and its router's: passt translates both.
pub const USER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// See [`USER_ADDRESS`].
pub const USER_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Bits of a user network's prefix.
pub const USER_PREFIX: u8 = 24;

/// How a container reaches the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Not at all.
    None,
    /// By passt, without privilege.
    User,
    /// By a TAP interface of the host.
    Tap(Tap),
}

/// A TAP interface of the host, and what the container is called on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Name of the interface.
    pub tap: String,
    /// The container's address, the only one it may send from. Without it, it has none but what it
    /// gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Network>,
    /// The router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
}

impl FromStr for Network {
    type Err = NounError;

    fn from_str(text: &str) -> Result<Self, NounError> {
        const WANTED: &str = "none, user or tap=NAME[,ip=ADDRESS/PREFIX[,gateway=ADDRESS]]";
        match text {
            "none" => Ok(Self::None),
            "user" => Ok(Self::User),
            _ => parse_key_values(text)
                .ok()
                .filter(Tap::is_possible)
                .map(Self::Tap)
                .ok_or_else(|| NounError::new(text, WANTED)),
        }
    }
}

impl Tap {
    fn is_possible(&self) -> bool {
        let reaches = |gateway| self.ip.is_some_and(|ip| ip.is_neighbour(gateway));
        Net::is_valid_tap(&self.tap) && self.gateway.is_none_or(reaches)
    }
}

impl Network {
    /// The container's own address.
    pub(super) fn address(&self) -> Option<Ipv4Network> {
        match self {
            Self::None => None,
            Self::User => Ipv4Network::new(USER_ADDRESS, USER_PREFIX).ok(),
            Self::Tap(tap) => tap.ip,
        }
    }

    /// Its router.
    pub(super) fn gateway(&self) -> Option<Ipv4Addr> {
        match self {
            Self::None => None,
            Self::User => Some(USER_GATEWAY),
            Self::Tap(tap) => tap.gateway,
        }
    }

    /// What the agent gives the container's interface.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        let ip = self.address()?;
        Some(Addresses {
            addresses: vec![Address { ip: ip.address().into(), prefix: ip.prefix() }],
            gateways: self.gateway().map(IpAddr::from).into_iter().collect(),
            mtu: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_what_they_look_like() {
        for bad in [
            "bridge",
            "host",
            "",
            "tap=",
            "tap=a/b",
            "tap=a,ip=10.0.0.0/24",
            "tap=a,gateway=10.0.0.1",
            "tap=a,ip=10.0.0.2/24,gateway=10.0.1.1",
            "tap=a,mac=x",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad} was taken");
        }
        let address = |text: &str| text.parse::<Network>().expect(text).addresses();
        assert_eq!((address("none"), address("tap=tap0")), (None, None));
        let user = address("user").expect("addresses");
        assert_eq!(user.gateways, [IpAddr::from(USER_GATEWAY)]);
        let tap = address("tap=tap0,ip=172.16.0.2/28,gateway=172.16.0.1").expect("addresses");
        assert_eq!((tap.addresses[0].prefix, tap.gateways.len()), (28, 1));
    }
}
