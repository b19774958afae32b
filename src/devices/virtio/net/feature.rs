//! Feature bits of a network device (virtio 1.3, section 5.1.3).

/// The device completes checksums of frames the driver sends.
pub const CSUM: u64 = 1 << 0;
/// The driver takes frames with partial checksums.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The device tells the MTU.
pub const MTU: u64 = 1 << 3;
/// The device tells the address.
pub const MAC: u64 = 1 << 5;
/// The driver takes TCP over IPv4 in segments to be cut.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes TCP over IPv6 in segments to be cut.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The driver takes such segments with ECN.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device cuts TCP over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device cuts TCP over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The device cuts such segments with ECN.
pub const HOST_ECN: u64 = 1 << 13;
/// A frame may be spread over several receive buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// There is a queue for commands.
pub const CTRL_VQ: u64 = 1 << 17;
/// There may be several pairs of queues.
pub const MQ: u64 = 1 << 22;
/// The driver takes UDP over IPv4 in segments to be cut.
pub const GUEST_USO4: u64 = 1 << 54;
/// The driver takes UDP over IPv6 in segments to be cut.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device cuts UDP.
pub const HOST_USO: u64 = 1 << 56;

/// What makes received frames longer than the MTU.
pub const GUEST_SEGMENTS: u64 = GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6;
/// What a host network that knows TCP segmentation carries.
pub const TCP_OFFLOADS: u64 =
    CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
/// What a host network that knows UDP segmentation carries besides.
pub const UDP_OFFLOADS: u64 = GUEST_USO4 | GUEST_USO6 | HOST_USO;
