//! The header of a packet (virtio 1.3, section 5.10.6).

/// Length of `struct virtio_vsock_hdr`, in bytes.
pub(super) const HEADER_LEN: u32 = 44;
/// The same, for arrays.
const LEN: usize = 44;

/// The CID of the host.
pub(super) const HOST_CID: u64 = 2;
/// The port that stands for any: no connection has it.
pub(super) const ANY_PORT: u32 = u32::MAX;
/// VIRTIO_VSOCK_TYPE_STREAM.
pub(super) const STREAM: u16 = 1;

/// What a packet is for: VIRTIO_VSOCK_OP_*.
pub(super) mod op {
    pub(in super::super) const REQUEST: u16 = 1;
    pub(in super::super) const RESPONSE: u16 = 2;
    pub(in super::super) const RST: u16 = 3;
    pub(in super::super) const SHUTDOWN: u16 = 4;
    pub(in super::super) const RW: u16 = 5;
    pub(in super::super) const CREDIT_UPDATE: u16 = 6;
    pub(in super::super) const CREDIT_REQUEST: u16 = 7;
}

/// What the sender of a SHUTDOWN will not do any more (section 5.10.6.6.2).
pub(super) mod ends {
    /// VIRTIO_VSOCK_SHUTDOWN_F_RECEIVE.
    pub(in super::super) const RECEIVE: u32 = 1;
    /// VIRTIO_VSOCK_SHUTDOWN_F_SEND.
    pub(in super::super) const SEND: u32 = 2;
    pub(in super::super) const BOTH: u32 = RECEIVE | SEND;
}

/// `struct virtio_vsock_hdr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Bytes of data behind the header.
    pub(super) len: u32,
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    pub(super) buf_alloc: u32,
    pub(super) fwd_cnt: u32,
}

impl Header {
    /// A header from its bytes, which are little endian.
    pub(super) fn parse(bytes: &[u8; LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.take()),
            dst_cid: u64::from_le_bytes(fields.take()),
            src_port: u32::from_le_bytes(fields.take()),
            dst_port: u32::from_le_bytes(fields.take()),
            len: u32::from_le_bytes(fields.take()),
            kind: u16::from_le_bytes(fields.take()),
            op: u16::from_le_bytes(fields.take()),
            flags: u32::from_le_bytes(fields.take()),
            buf_alloc: u32::from_le_bytes(fields.take()),
            fwd_cnt: u32::from_le_bytes(fields.take()),
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let fields = (self.src_cid.to_le_bytes().into_iter())
            .chain(self.dst_cid.to_le_bytes())
            .chain(self.src_port.to_le_bytes())
            .chain(self.dst_port.to_le_bytes())
            .chain(self.len.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.op.to_le_bytes())
            .chain(self.flags.to_le_bytes())
            .chain(self.buf_alloc.to_le_bytes())
            .chain(self.fwd_cnt.to_le_bytes());
        bytes.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The answer that ends whatever this packet is about.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// Takes fields off the front of a header.
struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; N] };
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn header_lies_in_memory_as_the_specification_says() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x0102_0304,
            dst_port: 0x0506_0708,
            len: 9,
            kind: STREAM,
            op: op::RW,
            flags: ends::BOTH,
            buf_alloc: 0x10,
            fwd_cnt: 0x20,
        };
        let mut expected = [0; LEN];
        for (at, byte) in [(0, 3), (8, 2), (24, 9), (28, 1), (30, 5), (32, 3), (36, 16), (40, 32)] {
            expected[at] = byte;
        }
        expected[16..24].copy_from_slice(&[4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(header.bytes(), expected);
    }

    proptest! {
        #[test]
        fn any_header_is_read_as_it_was_written(bytes in prop::array::uniform32(any::<u8>()), more in prop::array::uniform12(any::<u8>())) {
            let mut raw = [0; LEN];
            raw[..32].copy_from_slice(&bytes);
            raw[32..].copy_from_slice(&more);
            prop_assert_eq!(Header::parse(&raw).bytes(), raw);
        }
    }
}
