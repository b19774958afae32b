//! Which addresses a registry may lead to: none that is nearer than its own.
//!
//! A server on the Internet could otherwise make this host ask its own services, or those of its
//! network, for something.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// How near an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Reach {
    /// Anywhere.
    Public = 1,
    /// In a private network.
    Private = 2,
    /// This host.
    Loopback = 3,
    /// On the same wire, many hosts, or none: never led to.
    Never = 4,
}

impl Reach {
    pub(super) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Reach {
    let [first, second, ..] = address.octets();
    if address.is_loopback() {
        Reach::Loopback
    } else if address.is_link_local() || address.is_multicast() || first == 0 || first >= 240 {
        Reach::Never
    } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
        Reach::Private
    } else {
        Reach::Public
    }
}

fn of_v6(address: Ipv6Addr) -> Reach {
    if address.is_loopback() {
        Reach::Loopback
    } else if address.is_unicast_link_local() || address.is_multicast() || address.is_unspecified()
    {
        Reach::Never
    } else if address.is_unique_local() {
        Reach::Private
    } else {
        match address.segments() {
            // An IPv4 address behind a translator.
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                of_v4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
            }
            _ => Reach::Public,
        }
    }
}

/// Finds addresses, and keeps back those that are nearer than the registry's own.
#[derive(Debug)]
pub(super) struct Guard {
    /// The registry's host, without its port.
    own: String,
    /// The registry's [`Reach`], once known.
    reach: AtomicU8,
    inner: DefaultResolver,
}

impl Guard {
    pub(super) fn new(own: String, reach: Option<Reach>) -> Self {
        let reach = AtomicU8::new(reach.map_or(0, |reach| reach as u8));
        Self { own, reach, inner: DefaultResolver::default() }
    }

    /// Whether the registry may lead to `address`, which belongs to `host`.
    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let there = Reach::of(address) as u8;
        let known = self.reach.load(Ordering::Relaxed);
        if known == 0 && host.eq_ignore_ascii_case(&self.own) {
            // The user has named it.
            self.reach.store(there, Ordering::Relaxed);
            return true;
        }
        if host.eq_ignore_ascii_case(&self.own) {
            return there <= known;
        }
        let most = if known == Reach::Never as u8 { Reach::Private as u8 } else { known };
        there <= most
    }
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let host = uri.host().unwrap_or_default();
        let mut allowed = self.inner.empty();
        for address in found.iter().filter(|address| self.allows(host, address.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() {
            let why =
                "its address is nearer to this host than the registry is, so it is not led there";
            return Err(ureq::Error::Io(std::io::Error::other(why)));
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(text: &str) -> Reach {
        Reach::of(text.parse().unwrap())
    }

    /// I16: addresses of this host, its wire and its network are told from others in every form.
    #[test]
    fn addresses_are_told_by_how_near_they_are() {
        for text in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1"] {
            assert_eq!(reach(text), Reach::Loopback, "{text}");
        }
        for text in [
            "169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "fe80::1",
            "::",
            "ff02::1",
            "::ffff:169.254.1.1",
        ] {
            assert_eq!(reach(text), Reach::Never, "{text}");
        }
        for text in ["10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"] {
            assert_eq!(reach(text), Reach::Private, "{text}");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"] {
            assert_eq!(reach(text), Reach::Public, "{text}");
        }
    }

    /// I16: what a registry leads to is as far away as itself, also when its own name changes its mind.
    #[test]
    fn registry_leads_to_nothing_nearer_than_itself() {
        let guard = Guard::new("registry.example".into(), None);
        let allows = |host: &str, address: &str| guard.allows(host, address.parse().unwrap());
        assert!(!allows("cdn.example", "1.1.1.1"), "the registry comes first");
        assert!(allows("registry.example", "1.1.1.1"));
        assert!(allows("cdn.example", "8.8.8.8"));
        for address in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1"] {
            assert!(!allows("cdn.example", address), "{address}");
            assert!(!allows("registry.example", address), "{address}");
        }
        let local = Guard::new("localhost".into(), Some(Reach::Loopback));
        assert!(local.allows("cdn", "10.0.0.1".parse().unwrap()));
        assert!(!local.allows("cdn", "169.254.169.254".parse().unwrap()));
    }
}
