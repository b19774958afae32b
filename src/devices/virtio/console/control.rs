//! The control messages of a device with several ports (virtio 1.3, section 5.3.6.2).
//!
//! What the driver has to be told is kept as state, never as a list of messages: a driver that
//! takes none, or asks again and again, makes nothing grow.

/// A control message: `struct virtio_console_control`, little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// Number of the port; unused by DEVICE_READY.
    pub(super) id: u32,
    /// What it says: see [`event`].
    pub(super) event: u16,
    /// What that is about, where the event has a value.
    pub(super) value: u16,
}

/// The events of control messages.
pub(super) mod event {
    /// The driver is ready for control messages (driver to device).
    pub(in super::super) const DEVICE_READY: u16 = 0;
    /// There is a port (device to driver).
    pub(in super::super) const DEVICE_ADD: u16 = 1;
    /// The driver is ready for this port (driver to device).
    pub(in super::super) const PORT_READY: u16 = 3;
    /// The port is a console (device to driver).
    pub(in super::super) const CONSOLE_PORT: u16 = 4;
    /// The console has another size, which follows (device to driver).
    pub(in super::super) const RESIZE: u16 = 5;
    /// The port is opened or closed on the other side (both directions).
    pub(in super::super) const PORT_OPEN: u16 = 6;
    /// The port has a name, which follows (device to driver).
    pub(in super::super) const PORT_NAME: u16 = 7;
}

impl Message {
    /// Length in bytes, without what follows it.
    pub(super) const LEN: usize = 8;

    /// The message in `raw`.
    pub(super) fn parse(raw: [u8; Self::LEN]) -> Self {
        let [i0, i1, i2, i3, e0, e1, v0, v1] = raw;
        Self {
            id: u32::from_le_bytes([i0, i1, i2, i3]),
            event: u16::from_le_bytes([e0, e1]),
            value: u16::from_le_bytes([v0, v1]),
        }
    }

    /// The bytes of the message.
    pub(super) fn bytes(self) -> [u8; Self::LEN] {
        let ([i0, i1, i2, i3], [e0, e1], [v0, v1]) =
            (self.id.to_le_bytes(), self.event.to_le_bytes(), self.value.to_le_bytes());
        [i0, i1, i2, i3, e0, e1, v0, v1]
    }
}

/// Something the driver has to be told about a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It exists.
    Added,
    /// It is a console.
    IsConsole,
    /// How large the console is.
    Size,
    /// What it is called.
    Name,
    /// Whether the host's side is open.
    Open,
}

impl News {
    /// In the order in which a driver is told.
    const ALL: [Self; 5] = [Self::Added, Self::IsConsole, Self::Size, Self::Name, Self::Open];

    /// The event that says so.
    pub(super) fn event(self) -> u16 {
        match self {
            Self::Added => event::DEVICE_ADD,
            Self::IsConsole => event::CONSOLE_PORT,
            Self::Size => event::RESIZE,
            Self::Name => event::PORT_NAME,
            Self::Open => event::PORT_OPEN,
        }
    }

    fn bit(self) -> u8 {
        1 << self.event()
    }
}

/// What the driver has not been told yet about one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Untold(u8);

impl Untold {
    /// The driver is to be told `news`.
    pub(super) fn add(&mut self, news: News) {
        self.0 |= news.bit();
    }

    /// The driver was told `news`.
    pub(super) fn remove(&mut self, news: News) {
        self.0 &= !news.bit();
    }

    /// Whether the driver is still to be told `news`.
    pub(super) fn has(self, news: News) -> bool {
        self.0 & news.bit() != 0
    }

    /// What comes next.
    pub(super) fn first(self) -> Option<News> {
        News::ALL.into_iter().find(|news| self.has(*news))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_little_endian() {
        let message = Message { id: 0x0102, event: event::PORT_OPEN, value: 1 };
        assert_eq!(message.bytes(), [2, 1, 0, 0, 6, 0, 1, 0]);
        assert_eq!(Message::parse(message.bytes()), message);
    }

    #[test]
    fn news_are_told_once_and_in_order() {
        let mut untold = Untold::default();
        assert_eq!(untold.first(), None);
        for news in [News::Open, News::Added, News::Open] {
            untold.add(news);
        }
        assert_eq!(untold.first(), Some(News::Added));
        untold.remove(News::Added);
        assert_eq!(untold.first(), Some(News::Open));
        untold.remove(News::Open);
        assert_eq!(untold, Untold::default());
    }
}
