//! A TAP interface of the host (Linux, Documentation/networking/tuntap.rst).

// UNSAFETY: the interface is configured by ioctls, which take pointers.
#![expect(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, readv, writev};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use thiserror::Error;
use tracing::warn;

use super::backend::Backend;
use super::feature;
use super::header::HEADER_LEN;
use crate::config;

const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const TUNSETQUEUE: Opcode = opcode::write::<i32>(b'T', 217);
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCSIFMTU: Opcode = 0x8922;

const IFF_TAP: u16 = 0x2;
const IFF_MULTI_QUEUE: u16 = 0x100;
const IFF_ATTACH_QUEUE: u16 = 0x200;
const IFF_DETACH_QUEUE: u16 = 0x400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const IFF_UP: u16 = 1;

const TUN_F_CSUM: usize = 0x01;
const TUN_F_TSO4: usize = 0x02;
const TUN_F_TSO6: usize = 0x04;
const TUN_F_TSO_ECN: usize = 0x08;
const TUN_F_USO4: usize = 0x20;
const TUN_F_USO6: usize = 0x40;

const NAME_LEN: usize = 16;

/// A TAP interface that cannot be used.
#[derive(Debug, Error)]
pub enum TapError {
    /// The kernel would not take the name, or not literally.
    #[error("tap name {0:?} is not 1 to 15 printable ASCII characters without '/', ':' and '%'")]
    Name(String),
    /// No TAP interfaces at all.
    #[error("open /dev/net/tun (is the tun module loaded, and may this user open it?)")]
    Device(#[source] Errno),
    /// Another process holds the interface.
    #[error("tap {0} is in use by another process")]
    Busy(String),
    /// Neither may this user create the interface, nor is it theirs.
    #[error(
        "not permitted to use tap {0}; let root create it for this user with \
         `ip tuntap add dev {0} mode tap user NAME`, or give the capability CAP_NET_ADMIN"
    )]
    Permission(String),
    /// The name belongs to another sort of interface.
    #[error("interface {0} exists, but is no tap with one queue")]
    NotTap(String),
    /// The name belongs to a TAP interface with one queue, or to another sort of interface.
    #[error(
        "interface {0} exists, but is no tap with several queues; make it with \
         `ip tuntap add dev {0} mode tap multi_queue user NAME`, or use queues=1"
    )]
    OneQueue(String),
    /// Anything else the kernel refuses.
    #[error("{step} of tap {name}")]
    Setup {
        /// Name of the interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// Why it was refused.
        #[source]
        source: Errno,
    },
}

/// `struct ifreq`: a name and a union of 24 bytes.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; NAME_LEN],
    value: [u8; 24],
}

impl InterfaceRequest {
    fn new(name: &str, value: &[u8]) -> Self {
        let mut request = Self { name: [0; NAME_LEN], value: [0; 24] };
        // The last byte of the name stays zero.
        request.name.iter_mut().take(NAME_LEN - 1).zip(name.bytes()).for_each(|(t, f)| *t = f);
        request.value.iter_mut().zip(value).for_each(|(to, from)| *to = *from);
        request
    }

    fn flags(&self) -> u16 {
        let [f0, f1, ..] = self.value;
        u16::from_ne_bytes([f0, f1])
    }
}

/// An attached TAP interface. One that was created for it vanishes with it.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    features: u64,
}

impl Tap {
    /// Attaches to the TAP interface `name`, which is created when it does not exist. A created
    /// one gets `mtu` and is set up; one that exists stays as its owner made it.
    ///
    /// # Errors
    /// [`TapError`]; nothing is left behind.
    pub fn open(name: &str, mtu: Option<u16>) -> Result<Self, TapError> {
        Self::open_first(name, mtu, 0)
    }

    /// The same with `count` queues, each a connection of its own: the kernel sends each flow of
    /// frames to the one its answers came from. All but the first are detached.
    ///
    /// # Errors
    /// [`TapError`]; nothing is left behind.
    pub fn open_queues(name: &str, mtu: Option<u16>, count: u16) -> Result<Vec<Self>, TapError> {
        let first = Self::open_first(name, mtu, IFF_MULTI_QUEUE)?;
        let features = first.features;
        let mut queues = vec![first];
        for _ in 1..count {
            let fd = open_device()?;
            attach(&fd, name, IFF_MULTI_QUEUE)?;
            let mut queue = Self { fd, features };
            queue.set_attached(false).map_err(setup(name, "detach a queue"))?;
            queues.push(queue);
        }
        Ok(queues)
    }

    fn open_first(name: &str, mtu: Option<u16>, more_flags: u16) -> Result<Self, TapError> {
        if !config::Net::is_valid_tap(name) {
            return Err(TapError::Name(name.to_owned()));
        }
        let fd = open_device()?;
        let control =
            socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
                .map_err(setup(name, "open a control socket"))?;
        let existed = name_to_index(&control, name).is_ok();
        attach(&fd, name, more_flags)?;
        let header_len = i32::try_from(HEADER_LEN).unwrap_or(0);
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        unsafe { ioctl(&fd, Setter::<TUNSETVNETHDRSZ, i32>::new(header_len)) }
            .map_err(setup(name, "set the header length"))?;
        let mut tap = Self { fd, features: feature::TCP_OFFLOADS };
        if tap.set_offload_flags(TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6).is_ok() {
            tap.features |= feature::UDP_OFFLOADS;
        }
        tap.set_offload_flags(0).map_err(setup(name, "set the offloads"))?;
        if existed {
            warn_when_down(&control, name);
        } else {
            if let Some(mtu) = mtu {
                interface::<SIOCSIFMTU>(&control, name, &i32::from(mtu).to_ne_bytes())
                    .map_err(setup(name, "set the MTU"))?;
            }
            set_up(&control, name).map_err(setup(name, "set up the link"))?;
        }
        Ok(tap)
    }

    fn set_offload_flags(&self, flags: usize) -> Result<(), Errno> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        unsafe { ioctl(&self.fd, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags)) }
    }
}

impl Backend for Tap {
    fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn set_offloads(&mut self, features: u64) -> Result<(), Errno> {
        self.set_offload_flags(offload_flags(features))
    }

    fn set_attached(&mut self, attached: bool) -> Result<(), Errno> {
        let flags = if attached { IFF_ATTACH_QUEUE } else { IFF_DETACH_QUEUE };
        interface::<TUNSETQUEUE>(&self.fd, "", &flags.to_ne_bytes()).map(drop)
    }

    fn receive(&mut self, frame: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        readv(&self.fd, frame)
    }

    fn send(&mut self, frame: &[IoSlice<'_>]) -> Result<(), Errno> {
        writev(&self.fd, frame).map(drop)
    }
}

/// What the guest takes, in the words of TUNSETOFFLOAD. Segments need checksums to be left out.
fn offload_flags(features: u64) -> usize {
    if features & feature::GUEST_CSUM == 0 {
        return 0;
    }
    let tcp = feature::GUEST_TSO4 | feature::GUEST_TSO6;
    let ecn = if features & tcp == 0 { 0 } else { feature::GUEST_ECN };
    [
        (feature::GUEST_CSUM, TUN_F_CSUM),
        (feature::GUEST_TSO4, TUN_F_TSO4),
        (feature::GUEST_TSO6, TUN_F_TSO6),
        (ecn, TUN_F_TSO_ECN),
        (feature::GUEST_USO4, TUN_F_USO4),
        (feature::GUEST_USO6, TUN_F_USO6),
    ]
    .into_iter()
    .filter(|(feature, _)| features & feature != 0)
    .fold(0, |flags, (_, flag)| flags | flag)
}

fn open_device() -> Result<OwnedFd, TapError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    open("/dev/net/tun", flags, Mode::empty()).map_err(TapError::Device)
}

fn setup(name: &str, step: &'static str) -> impl FnOnce(Errno) -> TapError {
    move |source| TapError::Setup { name: name.to_owned(), step, source }
}

fn attach(fd: &OwnedFd, name: &str, more_flags: u16) -> Result<(), TapError> {
    let flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more_flags;
    let owned = || name.to_owned();
    let refused = |source| match source {
        Errno::BUSY => TapError::Busy(owned()),
        Errno::PERM | Errno::ACCESS => TapError::Permission(owned()),
        Errno::INVAL if more_flags & IFF_MULTI_QUEUE != 0 => TapError::OneQueue(owned()),
        Errno::INVAL => TapError::NotTap(owned()),
        source => setup(name, "attach to the interface")(source),
    };
    interface::<TUNSETIFF>(fd, name, &flags.to_ne_bytes()).map(drop).map_err(refused)
}

/// One of the ioctls that take a `struct ifreq` and may write to it.
fn interface<const OPCODE: Opcode>(
    fd: impl AsFd,
    name: &str,
    value: &[u8],
) -> Result<InterfaceRequest, Errno> {
    let mut request = InterfaceRequest::new(name, value);
    // SAFETY: each OPCODE this file uses reads and writes one `struct ifreq` at most.
    unsafe { ioctl(fd, Updater::<OPCODE, InterfaceRequest>::new(&mut request)) }?;
    Ok(request)
}

fn set_up(control: &OwnedFd, name: &str) -> Result<(), Errno> {
    let flags = interface::<SIOCGIFFLAGS>(control, name, &[])?.flags() | IFF_UP;
    interface::<SIOCSIFFLAGS>(control, name, &flags.to_ne_bytes()).map(drop)
}

fn warn_when_down(control: &OwnedFd, name: &str) {
    let up = interface::<SIOCGIFFLAGS>(control, name, &[]).is_ok_and(|r| r.flags() & IFF_UP != 0);
    if !up {
        warn!("tap {name} is down: no frames will pass until `ip link set {name} up`");
    }
}

#[cfg(test)]
mod tests;
