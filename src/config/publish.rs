//! Ports of a guest that the host offers.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A port of the guest that programs of the host, or others by way of it, can connect to:
/// `[udp:][ADDRESS:]PORT:GUEST_PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Publish {
    /// What is carried.
    pub protocol: Protocol,
    /// Where the host listens: on its loopback interface unless told otherwise.
    pub address: IpAddr,
    /// The port it listens to.
    pub host_port: NonZeroU16,
    /// The port of the guest behind it.
    pub guest_port: NonZeroU16,
}

/// What a published port carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "",
            Protocol::Udp => "udp:",
        };
        write!(f, "{protocol}")?;
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        write!(f, "{}:{}", self.host_port, self.guest_port)
    }
}

impl From<Publish> for String {
    fn from(publish: Publish) -> Self {
        publish.to_string()
    }
}

impl TryFrom<String> for Publish {
    type Error = PublishError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Publish {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (protocol, rest) = match text.split_once(':') {
            Some(("udp", rest)) => (Protocol::Udp, rest),
            Some(("tcp", rest)) => (Protocol::Tcp, rest),
            _ => (Protocol::Tcp, text),
        };
        let (host, guest_port) = rest.rsplit_once(':').ok_or(PublishError)?;
        let (address, host_port) = match host.rsplit_once(':') {
            Some((address, port)) => (parse_address(address)?, port),
            None => (Ipv4Addr::LOCALHOST.into(), host),
        };
        let (host_port, guest_port) = (parse_port(host_port)?, parse_port(guest_port)?);
        Ok(Self { protocol, address, host_port, guest_port })
    }
}

fn parse_address(text: &str) -> Result<IpAddr, PublishError> {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| PublishError),
        None => text.parse().map(IpAddr::V4).map_err(|_| PublishError),
    }
}

fn parse_port(text: &str) -> Result<NonZeroU16, PublishError> {
    // A number's own parser would take a sign.
    let digits = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or(PublishError)
}

/// A text that is no published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a published port is [udp:][ADDRESS:]PORT:GUEST_PORT, such as 127.0.0.1:8080:80")]
pub struct PublishError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_written_in_full() {
        for (text, whole) in [
            ("8080:80", "127.0.0.1:8080:80"),
            ("tcp:8080:80", "127.0.0.1:8080:80"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080:80"),
            ("udp:53:5353", "udp:127.0.0.1:53:5353"),
            ("udp:10.0.0.1:53:5353", "udp:10.0.0.1:53:5353"),
            ("[::1]:8080:65535", "[::1]:8080:65535"),
        ] {
            let publish: Publish = text.parse().expect(text);
            assert_eq!(publish.to_string(), whole);
            assert_eq!(whole.parse(), Ok(publish));
        }
    }

    #[test]
    fn texts_that_are_no_published_port_are_refused() {
        for text in [
            "",
            "80",
            ":",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "+80:80",
            "80:-1",
            "a:80",
            "udp:80",
            "sctp:80:80",
            "::1:80:80",
            "[127.0.0.1]:80:80",
            "host:80:80",
            "1:2:3:4",
            "8080:80/udp",
        ] {
            assert_eq!(text.parse::<Publish>(), Err(PublishError), "{text}");
        }
    }
}
