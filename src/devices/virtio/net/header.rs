//! The header before every frame (virtio 1.3, section 5.1.6), checked before the host sees it.

use super::feature;

/// Length of `struct virtio_net_hdr` for a device of version 1, in bytes.
pub(super) const HEADER_LEN: usize = 12;
/// Offset of `num_buffers` in it.
pub(super) const NUM_BUFFERS: u32 = 10;
/// An Ethernet header, in bytes: less is no frame.
pub(super) const ETHERNET: u32 = 14;
/// The longest frame a driver may send, in bytes: an IPv6 packet of the largest payload
/// (section 5.1.6.3).
pub(super) const MAX_FRAME: u32 = 65_589;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// The header to send a frame of `frame_len` bytes with, or `None` when what the driver wrote
/// cannot be meant. What no negotiated feature gives a meaning to is zero in it.
pub(super) fn checked(
    raw: [u8; HEADER_LEN],
    frame_len: u32,
    features: u64,
) -> Option<[u8; HEADER_LEN]> {
    let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, _, _] = raw;
    if !(ETHERNET..=MAX_FRAME).contains(&frame_len) {
        return None;
    }
    let mut header = [0; HEADER_LEN];
    let partial = flags & NEEDS_CSUM != 0;
    if partial {
        let [start, offset] = [[s0, s1], [o0, o1]].map(u16::from_le_bytes).map(u32::from);
        if features & feature::CSUM == 0 || start + offset + 2 > frame_len {
            return None;
        }
        header = [NEEDS_CSUM, 0, 0, 0, 0, 0, s0, s1, o0, o1, 0, 0];
    }
    if gso_type != GSO_NONE {
        let [hdr_len, gso_size] = [[h0, h1], [g0, g1]].map(u16::from_le_bytes);
        let wanted = host_feature(gso_type)?;
        let known = features & wanted == wanted;
        if !known || !partial || gso_size == 0 || u32::from(hdr_len) > frame_len {
            return None;
        }
        header = [NEEDS_CSUM, gso_type, h0, h1, g0, g1, s0, s1, o0, o1, 0, 0];
    }
    Some(header)
}

/// Where in a frame the host writes the checksum that a checked `header` asks for.
pub(super) fn checksum_at(header: [u8; HEADER_LEN]) -> Option<usize> {
    let [flags, _, _, _, _, _, s0, s1, o0, o1, _, _] = header;
    let [start, offset] = [[s0, s1], [o0, o1]].map(u16::from_le_bytes).map(usize::from);
    (flags & NEEDS_CSUM != 0).then_some(start + offset)
}

/// Whether a frame the host delivered with `flags` and `gso_type` suits a driver that
/// negotiated `features`. Frames that waited while another driver was in charge may not.
pub(super) fn acceptable(flags: u8, gso_type: u8, features: u64) -> bool {
    let partial = flags & NEEDS_CSUM != 0;
    let negotiated = |wanted: u64| features & wanted == wanted;
    (!partial || negotiated(feature::GUEST_CSUM))
        && match gso_type & !GSO_ECN {
            GSO_NONE => true,
            GSO_TCPV4 => negotiated(feature::GUEST_TSO4),
            GSO_TCPV6 => negotiated(feature::GUEST_TSO6),
            GSO_UDP_L4 => features & (feature::GUEST_USO4 | feature::GUEST_USO6) != 0,
            _ => false,
        }
}

/// What must be negotiated for a driver to send segments of `gso_type`.
fn host_feature(gso_type: u8) -> Option<u64> {
    let ecn = if gso_type & GSO_ECN != 0 { feature::HOST_ECN } else { 0 };
    match gso_type & !GSO_ECN {
        GSO_TCPV4 => Some(feature::HOST_TSO4 | ecn),
        GSO_TCPV6 => Some(feature::HOST_TSO6 | ecn),
        GSO_UDP_L4 if ecn == 0 => Some(feature::HOST_USO),
        _ => None,
    }
}
