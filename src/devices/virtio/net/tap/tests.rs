use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{SendFlags, sendto};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::devices::virtio::net::Net;
use crate::devices::virtio::testing::{DATA, Driver, WRITE};

const SIOCSIFADDR: Opcode = 0x8916;
const SIOCGIFMTU: Opcode = 0x8921;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST_IP: [u8; 4] = [10, 9, 8, 2];
const HOST_IP: [u8; 4] = [10, 9, 8, 1];
const ALL: u64 = feature::TCP_OFFLOADS | feature::UDP_OFFLOADS | feature::MRG_RXBUF | feature::MAC;

/// Runs `test` on a thread with a network namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        // SAFETY: only the network namespace is left; file descriptors stay shared.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        test();
    })
    .join()
    .unwrap();
}

fn control() -> OwnedFd {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn exists(name: &str) -> bool {
    name_to_index(control(), name).is_ok()
}

fn set_address(name: &str) {
    let family = AddressFamily::INET.as_raw().to_ne_bytes();
    let address = [&family[..], &[0, 0], &HOST_IP].concat();
    interface::<SIOCSIFADDR>(control(), name, &address).unwrap();
}

fn set_down(name: &str) {
    let flags = interface::<SIOCGIFFLAGS>(control(), name, &[]).unwrap().flags() & !IFF_UP;
    interface::<SIOCSIFFLAGS>(control(), name, &flags.to_ne_bytes()).unwrap();
}

/// RTM_DELLINK (rtnetlink(7)).
fn delete(name: &str) {
    let index = name_to_index(control(), name).unwrap();
    // NETLINK_ROUTE is protocol 0.
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).unwrap();
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(17u16.to_ne_bytes());
    message.extend(1u16.to_ne_bytes());
    message.extend([0; 12]);
    message.extend(index.to_ne_bytes());
    message.extend([0; 8]);
    sendto(&socket, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).unwrap();
    assert!(!exists(name));
}

#[test]
fn names_the_kernel_would_not_take_literally_are_refused_before_anything_is_made() {
    for name in ["", ".", "..", "a/b", "a b", "tap%d", "a:1", "sixteen-letters-", "t\u{e9}", "a\n"]
    {
        assert!(matches!(Tap::open(name, None), Err(TapError::Name(_))), "{name:?}");
    }
}

#[test]
fn created_tap_is_up_with_its_mtu_and_vanishes_with_its_owner() {
    in_namespace(|| {
        let tap = Tap::open("vmmtest0", Some(4000)).unwrap();
        let get = |name| interface::<SIOCGIFFLAGS>(control(), name, &[]).unwrap().flags();
        assert_eq!(get("vmmtest0") & IFF_UP, IFF_UP);
        let mtu = interface::<SIOCGIFMTU>(control(), "vmmtest0", &[]).unwrap();
        assert_eq!(mtu.value[..4], 4000i32.to_ne_bytes());
        drop(tap);
        assert!(!exists("vmmtest0"));
    });
}

#[test]
fn tap_in_use_and_other_interfaces_are_refused_by_name() {
    in_namespace(|| {
        let _tap = Tap::open("vmmtest0", None).unwrap();
        assert!(matches!(Tap::open("vmmtest0", None), Err(TapError::Busy(_))));
        let error = Tap::open("lo", None).unwrap_err();
        assert_eq!(error.to_string(), "interface lo exists, but is no tap with one queue");
    });
}

#[test]
fn interfaces_of_one_queue_and_of_several_are_not_taken_for_each_other() {
    in_namespace(|| {
        let one = Tap::open("vmmtest0", None).unwrap();
        let error = Tap::open_queues("vmmtest0", None, 2).unwrap_err();
        assert!(error.to_string().contains("no tap with several queues"), "{error}");
        drop(one);
        let _several = Tap::open_queues("vmmtest0", None, 2).unwrap();
        let error = Tap::open("vmmtest0", None).unwrap_err();
        assert_eq!(error.to_string(), "interface vmmtest0 exists, but is no tap with one queue");
    });
}

/// Frames go to attached queues alone, so that none waits where nobody looks.
#[test]
fn flows_are_spread_over_attached_queues_and_detached_ones_get_none() {
    in_namespace(|| {
        let mut queues = Tap::open_queues("vmmtest0", None, 3).unwrap();
        set_address("vmmtest0");
        let socket = UdpSocket::bind("10.9.8.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        let counts = |queues: &mut Vec<Tap>| {
            for port in 1000..1064 {
                socket.send_to(b"x", ("10.255.255.255", port)).unwrap();
            }
            let mut frame = [0; 2000];
            let mut count = |tap: &mut Tap| {
                std::iter::from_fn(|| tap.receive(&mut [IoSliceMut::new(&mut frame)]).ok())
                    .filter(|len| *len == 12 + 14 + 20 + 8 + 1)
                    .count()
            };
            queues.iter_mut().map(&mut count).collect::<Vec<_>>()
        };
        assert_eq!(counts(&mut queues), [64, 0, 0]);
        queues[2].set_attached(true).unwrap();
        let spread = counts(&mut queues);
        assert!(spread[0] > 0 && spread[1] == 0 && spread[2] > 0, "{spread:?}");
        assert_eq!(spread.iter().sum::<usize>(), 64);
        queues[2].set_attached(false).unwrap();
        assert_eq!(counts(&mut queues), [64, 0, 0]);
        drop(queues);
        assert!(!exists("vmmtest0"));
    });
}

#[test]
fn failed_setup_leaves_no_interface_behind() {
    in_namespace(|| {
        let error = Tap::open("vmmtest0", Some(1)).unwrap_err();
        assert_eq!(error.to_string(), "set the MTU of tap vmmtest0");
        assert!(!exists("vmmtest0"));
    });
}

#[test]
fn offloads_follow_what_was_negotiated_and_need_checksums() {
    assert_eq!(offload_flags(0), 0);
    assert_eq!(offload_flags(feature::GUEST_TSO4 | feature::GUEST_USO4), 0);
    assert_eq!(offload_flags(feature::GUEST_CSUM | feature::GUEST_ECN), TUN_F_CSUM);
    assert_eq!(
        offload_flags(feature::GUEST_CSUM | feature::GUEST_TSO6 | feature::GUEST_ECN),
        TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN
    );
}

/// A guest with an address, that answers ARP.
struct Guest {
    driver: Driver,
    tx: Vec<Vec<u8>>,
}

impl Guest {
    fn new(name: &str, features: u64) -> Self {
        let tap = Tap::open(name, None).unwrap();
        set_address(name);
        let mut driver = Driver::new(Box::new(Net::new(tap, MAC, None)));
        driver.set_queue_size(64);
        driver.start(features);
        let mut guest = Self { driver, tx: Vec::new() };
        (0..64).for_each(|n| guest.post(n));
        guest.driver.kick(0);
        guest
    }

    /// Buffer n is used by descriptor n.
    fn post(&mut self, n: u64) {
        self.driver.chain(0, &[(DATA + n * 4096, 4096, WRITE)]);
    }

    /// The frames that came since the last call, with headers; their buffers are given again.
    fn receive(&mut self) -> Vec<Vec<u8>> {
        self.driver.run_backend();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let mut more = 0u16;
        for (head, len) in self.driver.used(0) {
            let bytes =
                self.driver.peek(DATA + u64::from(head) * 4096, usize::try_from(len).unwrap());
            match more {
                0 => {
                    more = u16::from_le_bytes([bytes[10], bytes[11]]);
                    frames.push(bytes);
                }
                _ => frames.last_mut().unwrap().extend(bytes),
            }
            more -= 1;
            self.post(u64::from(head));
        }
        self.driver.kick(0);
        frames
    }

    fn send(&mut self, header: [u8; 12], frame: &[u8]) {
        let bytes = [&header[..], frame].concat();
        let at = crate::devices::virtio::testing::HIGH_START;
        self.driver.poke(at, &bytes);
        self.driver.chain(1, &[(at, u32::try_from(bytes.len()).unwrap(), 0)]);
        self.driver.kick(1);
        assert_eq!(self.driver.used(1).len(), 1);
    }

    /// Answers ARP until a frame of UDP comes, at most two seconds.
    fn udp(&mut self) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            for frame in self.receive() {
                let ethernet = &frame[12..];
                match ethernet[12..14] {
                    [8, 6] if ethernet[38..42] == GUEST_IP => {
                        let reply = [
                            &ethernet[6..12],
                            &MAC,
                            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
                            &MAC,
                            &GUEST_IP,
                            &ethernet[22..32],
                        ];
                        self.send([0; 12], &reply.concat());
                    }
                    [8, 0] if ethernet[23] == 17 => return frame,
                    _ => self.tx.push(frame),
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("no datagram came");
    }
}

/// An Ethernet frame with a UDP datagram to the host, with a whole IP header checksum and no UDP
/// checksum.
fn datagram(to: &[u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_len = u16::try_from(8 + payload.len()).unwrap();
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_len).to_be_bytes());
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend(GUEST_IP);
    ip.extend(HOST_IP);
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let udp = [&port.to_be_bytes()[..], &port.to_be_bytes(), &udp_len.to_be_bytes(), &[0, 0]];
    [to, &MAC[..], &[8, 0], &ip, &udp.concat(), payload].concat()
}

#[test]
fn datagrams_pass_both_ways_through_a_real_tap() {
    in_namespace(|| {
        for features in [ALL, feature::MAC] {
            let mut guest = Guest::new("vmmtest0", features);
            let socket = UdpSocket::bind("10.9.8.1:7777").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send_to(b"from the host", "10.9.8.2:7777").unwrap();
            let frame = guest.udp();
            assert!(frame.ends_with(b"from the host"));
            // A partial checksum exactly when the driver takes one.
            assert_eq!(frame[0] & 1 != 0, features & feature::GUEST_CSUM != 0);
            let host: [u8; 6] = frame[18..24].try_into().unwrap();
            guest.send([0; 12], &datagram(&host, 7777, b"from the guest"));
            let mut seen = [0; 64];
            let (len, from) = socket.recv_from(&mut seen).unwrap();
            assert_eq!(&seen[..len], b"from the guest");
            assert_eq!(from.to_string(), "10.9.8.2:7777");
        }
    });
}

#[test]
fn datagram_larger_than_the_mtu_of_ethernet_is_spread_over_buffers() {
    in_namespace(|| {
        let mut guest = Guest::new("vmmtest0", ALL);
        interface::<SIOCSIFMTU>(control(), "vmmtest0", &40_000i32.to_ne_bytes()).unwrap();
        let socket = UdpSocket::bind("10.9.8.1:7777").unwrap();
        let payload: Vec<u8> = (0..=250).cycle().take(30_000).collect();
        socket.send_to(&payload, "10.9.8.2:7777").unwrap();
        let frame = guest.udp();
        assert_eq!(frame.len(), 12 + 14 + 20 + 8 + 30_000);
        assert!(frame.ends_with(&payload));
    });
}

/// N7: a tap that is down loses frames; one that is up again passes them.
#[test]
fn tap_set_down_drops_frames_and_works_again_when_up() {
    in_namespace(|| {
        let mut guest = Guest::new("vmmtest0", ALL);
        let socket = UdpSocket::bind("10.9.8.1:7777").unwrap();
        socket.send_to(b"1", "10.9.8.2:7777").unwrap();
        let host: [u8; 6] = guest.udp()[18..24].try_into().unwrap();
        set_down("vmmtest0");
        guest.send([0; 12], &datagram(&host, 7777, b"lost"));
        guest.receive();
        assert_eq!(guest.driver.run_backend(), 0);
        assert!(!guest.driver.needs_reset());
        set_up(&control(), "vmmtest0").unwrap();
        socket.send_to(b"2", "10.9.8.2:7777").unwrap();
        assert!(guest.udp().ends_with(b"2"));
    });
}

/// N7.
#[test]
fn deleted_tap_drops_frames_without_spinning_and_the_device_lives() {
    in_namespace(|| {
        let mut guest = Guest::new("vmmtest0", ALL);
        guest.receive();
        delete("vmmtest0");
        let mut wanted = Vec::new();
        guest.receive();
        guest.driver.transport.backend_fds(&mut wanted);
        let waits = wanted.iter().any(|fd| fd.readable || fd.writable);
        assert!(!waits, "a dead descriptor is always ready");
        guest.send([0; 12], &[0; 60]);
        assert!(!guest.driver.needs_reset());
        guest.driver.start(ALL);
        guest.post(0);
        guest.receive();
        guest.send([0; 12], &[0; 60]);
        assert!(!guest.driver.needs_reset());
    });
}
