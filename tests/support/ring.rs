//! Split virtqueues as bytes (virtio 1.3, section 2.7).

/// The chain goes on at `next`.
pub const NEXT: u16 = 1;
/// The device writes.
pub const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const INDIRECT: u16 = 4;

/// A descriptor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Desc {
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Desc {
    /// A buffer the device reads.
    pub fn readable(addr: u64, len: u32) -> Self {
        Self { addr, len, ..Self::default() }
    }

    /// A buffer the device writes.
    pub fn writable(addr: u64, len: u32) -> Self {
        Self { flags: WRITE, ..Self::readable(addr, len) }
    }

    /// A table of `count` descriptors.
    pub fn indirect(addr: u64, count: u32) -> Self {
        Self { flags: INDIRECT, ..Self::readable(addr, count * 16) }
    }

    /// Followed by descriptor `next`.
    pub fn then(self, next: u16) -> Self {
        Self { flags: self.flags | NEXT, next, ..self }
    }

    pub fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// Links `parts` one after the other.
pub fn chained(parts: &[Desc]) -> Vec<Desc> {
    let last = parts.len() - 1;
    let link = |(index, part): (usize, &Desc)| match index {
        index if index == last => *part,
        index => part.then(index as u16 + 1),
    };
    parts.iter().enumerate().map(link).collect()
}

/// The bytes of a table of descriptors.
pub fn table(descriptors: &[Desc]) -> Vec<u8> {
    descriptors.iter().flat_map(|desc| desc.bytes()).collect()
}

/// Where a queue lies in guest memory.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    pub size: u16,
    pub desc: u64,
    pub avail: u64,
    pub used: u64,
}

impl Ring {
    /// A queue of `size` entries whose parts follow one another from `address`.
    pub fn at(address: u64, size: u16) -> Self {
        let entries = u64::from(size);
        let avail = address + 16 * entries;
        let used = (avail + 6 + 2 * entries).next_multiple_of(8);
        Self { size, desc: address, avail, used }
    }

    /// Address of the used index.
    pub fn used_index(&self) -> u64 {
        self.used + 2
    }

    /// Address of element `index` of the used ring: head, then length.
    pub fn used_element(&self, index: u16) -> u64 {
        self.used + 4 + 8 * u64::from(index)
    }

    /// What is in a fresh queue: nothing.
    pub fn contents(&self) -> Contents {
        let end = (self.used + 6 + 8 * u64::from(self.size)).next_multiple_of(8);
        Contents { ring: *self, bytes: vec![0; (end - self.desc) as usize] }
    }
}

/// What the driver has written into the memory of a queue made by [`Ring::at`].
#[derive(Clone, Debug)]
pub struct Contents {
    ring: Ring,
    bytes: Vec<u8>,
}

impl Contents {
    /// Places `descriptors` from `first` on.
    pub fn descriptors(mut self, first: u16, descriptors: &[Desc]) -> Self {
        self.put(self.ring.desc + 16 * u64::from(first), &table(descriptors));
        self
    }

    /// Makes `heads` available.
    pub fn available(self, heads: &[u16]) -> Self {
        let count = heads.len() as u16;
        let mut contents = self.available_index(count);
        for (slot, head) in (0..).zip(heads) {
            contents.put(contents.ring.avail + 4 + 2 * slot, &head.to_le_bytes());
        }
        contents
    }

    /// Says that the available ring was filled up to `index`.
    pub fn available_index(mut self, index: u16) -> Self {
        self.put(self.ring.avail + 2, &index.to_le_bytes());
        self
    }

    /// Sets the flags of the available ring.
    pub fn available_flags(mut self, flags: u16) -> Self {
        self.put(self.ring.avail, &flags.to_le_bytes());
        self
    }

    /// Sets the used index at which the driver wants an interrupt.
    pub fn used_event(mut self, event: u16) -> Self {
        self.put(self.ring.avail + 4 + 2 * u64::from(self.ring.size), &event.to_le_bytes());
        self
    }

    /// Overwrites the flags and the index of the used ring, which belong to the device.
    pub fn poison_used(mut self, flags: u16, index: u16) -> Self {
        self.put(self.ring.used, &flags.to_le_bytes());
        self.put(self.ring.used + 2, &index.to_le_bytes());
        self
    }

    /// Where the bytes go.
    pub fn address(&self) -> u64 {
        self.ring.desc
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - self.ring.desc) as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
