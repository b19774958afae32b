//! Why a configuration cannot be used.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use thiserror::Error;

use super::{
    Balloon, Disk, FileError, Ipv4Network, MAX_CMDLINE_LEN, MAX_CPUS, MAX_VIRTIO_DEVICES,
    MEMORY_STEP, MIN_MEMORY, MemorySize, Net, Port, Vsock,
};

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A configuration file could not be opened or read.
    #[error("read configuration")]
    File(#[from] FileError),
    /// The file's name does not say its form.
    #[error("configuration {} is neither .toml nor .json", .0.display())]
    Extension(PathBuf),
    /// The file is beyond [`super::MAX_FILE_LEN`].
    #[error("configuration {} is larger than 1 MiB", .0.display())]
    FileTooLarge(PathBuf),
    /// The file says something that is not understood.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// Neither the flags nor a file name a kernel.
    #[error("no kernel given")]
    NoKernel,
    /// A path is empty.
    #[error("the path of the {0} is empty")]
    EmptyPath(&'static str),
    /// The number of CPUs is out of range.
    #[error("cpus is {0}, a machine has 1 to {MAX_CPUS}")]
    Cpus(u64),
    /// Too little memory to start Linux.
    #[error("memory is {0}, a machine has at least {MIN_MEMORY}")]
    MemoryTooSmall(MemorySize),
    /// The memory cannot be backed by huge pages.
    #[error("memory is {0}, which is not a multiple of {MEMORY_STEP}")]
    MemoryStep(MemorySize),
    /// More memory than the host has.
    #[error("memory is {wanted}, this host has {} MiB", .host.bytes() >> 20)]
    MemoryBeyondHost {
        /// What was asked for.
        wanted: MemorySize,
        /// What the host has.
        host: MemorySize,
    },
    /// The kernel command line does not fit.
    #[error("the kernel command line is {0} bytes, Linux takes at most {MAX_CMDLINE_LEN}")]
    CmdlineTooLong(usize),
    /// The kernel command line holds a NUL or another control character.
    #[error("the kernel command line contains the control character {0:?}")]
    CmdlineControl(char),
    /// The root filesystem is to be read-only, but there is none.
    #[error("rootfs-readonly is set but there is no rootfs")]
    ReadonlyWithoutRootfs,
    /// More devices than the machine has slots.
    #[error(
        "{0} virtio devices (disks, networks, entropy, sockets, balloon, console), a machine has at most \
         {MAX_VIRTIO_DEVICES}"
    )]
    TooManyDevices(usize),
    /// A disk id that the guest cannot be shown.
    #[error("disk id {0:?} is not 1 to {max} printable ASCII characters", max = Disk::MAX_ID_LEN)]
    DiskId(String),
    /// Two disks have one id.
    #[error("two disks have the id {0:?}")]
    DuplicateDiskId(String),
    /// A disk has the name of another device.
    #[error("disk id {0:?} is the name of another device")]
    TakenDiskId(String),
    /// A number of queues that a disk cannot have.
    #[error("a disk has 1 to {max} queues, not {0}", max = Disk::MAX_QUEUES)]
    DiskQueues(u16),
    /// A limit without a number.
    #[error("the limit on {0} limits neither bandwidth nor ops")]
    EmptyLimit(String),
    /// A limit that lets nothing through.
    #[error("a number in the limit on {0} is 0: nothing would ever pass")]
    ZeroLimit(String),
    /// A burst without its rate.
    #[error("the limit on {0} has a burst without its bandwidth or ops")]
    BurstWithoutRate(String),
    /// A limit on a device that does not exist.
    #[error("the machine has no device {device}: it has {known}")]
    LimitOnNothing {
        /// The name as given.
        device: String,
        /// The names of the machine's devices.
        known: String,
    },
    /// Two limits on one device in one direction.
    #[error("there are two limits on {0} in one direction")]
    DuplicateLimit(String),
    /// Something that an overlay cannot be.
    #[error("disk {id} has an overlay, which cannot be {what}")]
    Overlay {
        /// The disk's id.
        id: String,
        /// What it cannot be.
        what: &'static str,
    },
    /// One image is given twice and a guest could write to it.
    #[error("{} is given as a disk twice, and not read-only both times", .0.display())]
    SharedWritableDisk(PathBuf),
    /// Not the name of a network interface.
    #[error("tap {0:?} is not an interface name of 1 to {max} characters", max = Net::MAX_TAP_LEN)]
    TapName(String),
    /// Two networks use one TAP interface.
    #[error("two networks use the tap {0:?}")]
    DuplicateTap(String),
    /// The MTU is out of range.
    #[error("mtu is {0}, a tap takes {min} to {max}", min = Net::MIN_MTU, max = Net::MAX_MTU)]
    Mtu(u16),
    /// The number of queues is out of range.
    #[error("queues is {0}, a network has 1 to {max}", max = Net::MAX_QUEUES)]
    Queues(u16),
    /// The balloon leaves the guest nothing.
    #[error("balloon is {wanted}, the machine has {memory}")]
    BalloonTooLarge {
        /// Size of the balloon.
        wanted: MemorySize,
        /// Memory of the machine.
        memory: MemorySize,
    },
    /// The balloon's size cannot be told to the guest.
    #[error("balloon is {0}, which is not a multiple of {step}", step = Balloon::STEP)]
    BalloonStep(MemorySize),
    /// Neither a TAP interface nor a user network, or both.
    #[error("a network is on a tap or a user network, and one of them")]
    NetKind,
    /// Something of a TAP interface alone is asked of a user network, or the other way round.
    #[error("{key} is not for a {kind} network")]
    NetKey {
        /// The key of the network.
        key: &'static str,
        /// The kind of the network.
        kind: &'static str,
    },
    /// The guest of a user network would have an address and no way out.
    #[error("a user network with ip needs gateway")]
    UserGateway,
    /// A port of the host is given twice.
    #[error("two networks publish {0}")]
    DuplicatePublish(String),
    /// A router that the guest could not reach.
    #[error("gateway {gateway} is not another host in the network of ip {ip}")]
    Gateway {
        /// The router's address.
        gateway: Ipv4Addr,
        /// The guest's address.
        ip: Ipv4Network,
    },
    /// A router without a network.
    #[error("gateway {0} is given without ip")]
    GatewayWithoutIp(Ipv4Addr),
    /// An IPv6 address that is no host's.
    #[error("ip6 {0} cannot be the address of a host")]
    Ip6(Ipv6Addr),
    /// More ports than the device has.
    #[error("{0} ports, a machine has at most {max}", max = Port::MAX)]
    TooManyPorts(usize),
    /// Not the name of a port.
    #[error(
        "port {0:?} is not a name of 1 to {max} letters, digits, dots, underscores and dashes",
        max = Port::MAX_NAME_LEN
    )]
    PortName(String),
    /// Two ports have one name.
    #[error("two ports have the name {0:?}")]
    DuplicatePort(String),
    /// Two ports have one socket.
    #[error("two ports have the socket {}", .0.display())]
    DuplicateSocket(PathBuf),
    /// A path that no unix socket can have.
    #[error("socket {} is longer than {max} bytes", .0.display(), max = Port::MAX_SOCKET_LEN)]
    SocketTooLong(PathBuf),
    /// The guest's address is out of range.
    #[error("cid is {0}, a guest has {min} to {max}", min = Vsock::MIN_CID, max = Vsock::MAX_CID)]
    Cid(u32),
    /// Not the path of a Unix socket, or too long once a port is added.
    #[error(
        "socket {0:?} is not the path of a file in 1 to {max} bytes",
        max = Vsock::MAX_SOCKET_LEN
    )]
    Socket(PathBuf),
}

impl ConfigError {
    /// What the user can do about it, where there is more to say than the error itself does.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::File(error) => return error.hint(),
            Self::Extension(_) => "name the file vm.toml or vm.json",
            Self::FileTooLarge(_) => "a configuration takes a few lines; is this the right file?",
            Self::Syntax { .. } => "docs/configuration.md lists the keys",
            Self::NoKernel => {
                "give --kernel vmlinux or a --config file with a kernel key; see vmm --help"
            }
            Self::EmptyPath(_) => "give the path of an ordinary file",
            Self::Cpus(_) => "leave --cpus out for one CPU",
            Self::MemoryTooSmall(_) => "use --memory 256M for an ordinary guest",
            Self::MemoryStep(size) => return Some(nearest_steps(*size)),
            Self::MemoryBeyondHost { .. } => {
                "ask for less; guest memory is taken from the host only as the guest touches it"
            }
            Self::CmdlineTooLong(_) => "shorten --cmdline or --append",
            Self::CmdlineControl(_) => "separate the words of --cmdline and --append by spaces",
            Self::ReadonlyWithoutRootfs => "give --rootfs IMG, or --disk path=IMG,readonly=on",
            Self::TooManyDevices(_) => "join small disks into one image",
            Self::Overlay { .. } => "leave that key of the disk out, or its overlay",
            Self::EmptyLimit(_) | Self::ZeroLimit(_) | Self::BurstWithoutRate(_) => {
                "give bandwidth=10M, ops=1000 or both, each with its burst if it needs one"
            }
            Self::LimitOnNothing { .. } => {
                "name one of these devices, or add the one that is meant"
            }
            Self::DuplicateLimit(_) => "join them, or give each its own direction=send or receive",
            Self::DiskId(_) | Self::DuplicateDiskId(_) | Self::TakenDiskId(_) => {
                "give each disk its own id=NAME"
            }
            Self::DiskQueues(_) => {
                "give as many queues as the guest has CPUs, or leave queues= out"
            }
            Self::SharedWritableDisk(_) => "add readonly=on to both, or copy the image",
            Self::TapName(_) => "use a name such as tap0",
            Self::DuplicateTap(_) => "give each --net its own tap=NAME",
            Self::Mtu(_) => "leave mtu= out for the usual 1500",
            Self::Queues(_) => "leave queues= out, or give one for each CPU of the guest",
            Self::BalloonTooLarge { .. } => "leave the guest what it needs, or give more --memory",
            Self::BalloonStep(_) => "give whole MiB, such as size=64M",
            Self::NetKind => "give --net tap=NAME or --net user",
            Self::NetKey { .. } => "docs/configuration.md says which keys go together",
            Self::UserGateway => "any other address of the network will do: gateway=172.16.0.1",
            Self::DuplicatePublish(_) => "give each publish= its own port of the host",
            Self::Gateway { .. } | Self::GatewayWithoutIp(_) => {
                "give both, such as ip=172.16.0.2/24,gateway=172.16.0.1"
            }
            Self::Ip6(_) => "give the guest's global address, such as ip6=fd00::2",
            Self::TooManyPorts(_) => "carry several streams over one port, or use vsock",
            Self::PortName(_) => "use a name such as org.example.agent",
            Self::DuplicatePort(_) | Self::DuplicateSocket(_) => {
                "give each --port its own name=NAME,socket=PATH"
            }
            Self::SocketTooLong(_) => "use a shorter path, relative to the working directory",
            Self::Cid(_) => "use cid=3: an address is the guest's own affair on this host",
            Self::Socket(_) => "use a short path, such as socket=/run/vm.vsock",
        };
        Some(text.to_owned())
    }
}

/// Names the sizes below and above that would do.
fn nearest_steps(size: MemorySize) -> String {
    let step = MEMORY_STEP.bytes();
    let below = size.bytes().saturating_sub(size.bytes().checked_rem(step).unwrap_or(0));
    let above = below.saturating_add(step);
    format!("use {} or {}", MemorySize::from_bytes(below), MemorySize::from_bytes(above))
}
