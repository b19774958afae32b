//! The two files by which programs find names: `/etc/hosts` and `/etc/resolv.conf`.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use super::Network;
use super::nouns::AddedHost;

/// Longest file of the host that is read.
const MAX_FILE: u64 = 64 << 10;
/// Where a host says which servers it asks. systemd-resolved puts itself, on the loopback interface, into the
/// first, and those that it asks into the second (systemd-resolved.service(8)).
const CONFIGURATIONS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// What resolvers take of either (`MAXNS` and `MAXDNSRCH` of resolv.h).
const MAX_SERVERS: usize = 3;

/// The lines docker writes, the container's own name if it has an address, and those of the user.
pub(super) fn hosts_file(hostname: &str, own: Option<IpAddr>, added: &[AddedHost]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    // Writing to a string does not fail.
    for AddedHost { name, address } in added {
        let _ = writeln!(text, "{address}\t{name}");
    }
    if let Some(address) = own {
        let _ = writeln!(text, "{address}\t{hostname}");
    }
    text
}

/// The name servers the user names, else those of the host that can be reached from a guest.
pub(super) fn resolv_conf(network: &Network, servers: &[IpAddr]) -> String {
    if *network == Network::None {
        return String::new();
    }
    if !servers.is_empty() {
        return servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    }
    first_with_servers(&CONFIGURATIONS)
}

/// What a guest can use of the first of these files in which it finds a server, or else of the first.
fn first_with_servers(paths: &[impl AsRef<Path>]) -> String {
    let mut texts = paths.iter().map(|path| usable(path.as_ref())).collect::<Vec<_>>();
    let at = texts.iter().position(|text| text.contains("nameserver")).unwrap_or(0);
    if at < texts.len() { texts.swap_remove(at) } else { String::new() }
}

/// A file that cannot be read says nothing.
fn usable(path: &Path) -> String {
    let mut host = String::new();
    match File::open(path).and_then(|file| file.take(MAX_FILE).read_to_string(&mut host)) {
        Ok(_) => reachable(&host),
        Err(_) => String::new(),
    }
}

/// A host's configuration without servers of its own loopback interface, which a guest's is not.
fn reachable(host: &str) -> String {
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        let mut words = line.split_whitespace();
        let keep = match (words.next(), words.next()) {
            (Some("nameserver"), Some(address)) => {
                servers += 1;
                let address = address.parse::<IpAddr>();
                servers <= MAX_SERVERS && address.is_ok_and(|address| !address.is_loopback())
            }
            (Some("search" | "options"), Some(_)) => true,
            _ => false,
        };
        if keep {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_the_containers_name_and_the_users() {
        let added = ["db:10.1.2.3".parse().expect("host")];
        let text = hosts_file("web", Some("10.0.2.15".parse().expect("address")), &added);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.2.3\tdb\n10.0.2.15\tweb\n"), "{text}");
        assert!(!hosts_file("web", None, &[]).contains("web"));
    }

    #[test]
    fn servers_behind_a_stub_are_asked_themselves() {
        let place = tempfile::tempdir().expect("directory");
        let [stub, real, none] = ["stub", "real", "none"].map(|name| place.path().join(name));
        std::fs::write(&stub, "nameserver 127.0.0.53\nsearch a\n").expect("written");
        std::fs::write(&real, "nameserver 192.0.2.1\nsearch b\n").expect("written");
        assert_eq!(first_with_servers(&[&stub, &real]), "nameserver 192.0.2.1\nsearch b\n");
        assert_eq!(first_with_servers(&[&real, &stub]), "nameserver 192.0.2.1\nsearch b\n");
        assert_eq!(first_with_servers(&[&stub, &none]), "search a\n");
        assert_eq!(first_with_servers(&[&none, &real]), "nameserver 192.0.2.1\nsearch b\n");
        assert_eq!(first_with_servers(&[&none]), "");
    }

    #[test]
    fn servers_of_the_hosts_loopback_are_left_out() {
        let host = "# x\nnameserver 127.0.0.53\nnameserver 1.1.1.1\nsearch a b\nsortlist 1\n";
        assert_eq!(reachable(host), "nameserver 1.1.1.1\nsearch a b\n");
        let user = Network::User;
        let own = ["9.9.9.9".parse().expect("address")];
        assert_eq!(resolv_conf(&user, &own), "nameserver 9.9.9.9\n");
        assert_eq!(resolv_conf(&Network::None, &own), "");
    }
}
