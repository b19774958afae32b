//! How much each side may send (virtio 1.3, section 5.10.6.3).
//!
//! All counters count bytes since the connection began and wrap at 32 bits; only differences
//! mean anything. What the guest says is never more than a limit on what it is given.

use std::num::Wrapping;

/// Bytes of the guest that are kept for a host program that does not read them, per connection: a few
/// packets of the largest size that Linux sends, so that it does not wait for credit after each.
pub(super) const BUF_ALLOC: u32 = 256 << 10;
/// The same for connections that are made while there are several, and many, so that all together keep
/// little.
pub(super) const SHARED_BUF_ALLOC: u32 = 64 << 10;
pub(super) const CROWDED_BUF_ALLOC: u32 = 4 << 10;

/// The credit of one connection.
#[derive(Debug)]
pub(super) struct Credit {
    /// How much of the guest's is kept here.
    room: u32,
    /// From the guest.
    received: Wrapping<u32>,
    /// Of those, taken by the host program.
    forwarded: Wrapping<u32>,
    /// What the guest was last told of that.
    told: Wrapping<u32>,
    /// To the guest.
    sent: Wrapping<u32>,
    /// Of those, taken by the guest's program, as the guest says.
    guest_forwarded: Wrapping<u32>,
    /// How much the guest keeps, as it says.
    guest_room: u32,
}

impl Default for Credit {
    fn default() -> Self {
        Self::with_room(BUF_ALLOC)
    }
}

impl Credit {
    /// Of a new connection that keeps up to `room` bytes of the guest.
    pub(super) fn with_room(room: u32) -> Self {
        let none = Wrapping(0);
        Self {
            room,
            received: none,
            forwarded: none,
            told: none,
            sent: none,
            guest_forwarded: none,
            guest_room: 0,
        }
    }

    /// How much of the guest's is kept, in bytes.
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// Takes over what a packet of the guest says.
    pub(super) fn learn(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.guest_room = buf_alloc;
        self.guest_forwarded = Wrapping(fwd_cnt);
    }

    /// How many bytes the guest takes now, never more than the room it names: none when it shrank
    /// that below what it holds, or says to have taken what it was never sent.
    pub(super) fn available(&self) -> u32 {
        self.guest_room.saturating_sub((self.sent - self.guest_forwarded).0)
    }

    /// Counts bytes sent to the guest.
    pub(super) fn send(&mut self, len: u32) {
        self.sent += len;
    }

    /// Counts bytes received from the guest; false when it was not told that it may send so many.
    pub(super) fn receive(&mut self, len: u32) -> bool {
        let room = self.room.saturating_sub((self.received - self.told).0);
        self.received += len;
        len <= room
    }

    /// Counts bytes the host program took.
    pub(super) fn forward(&mut self, len: u32) {
        self.forwarded += len;
    }

    /// Whether the guest should be told that it may send more: when it knows of less than half of
    /// the room, so that it never waits in vain and is not told of every byte.
    pub(super) fn is_news(&self) -> bool {
        self.forwarded != self.told && (self.received - self.told).0 > self.room / 2
    }

    /// What a packet to the guest says: `buf_alloc` and `fwd_cnt`.
    pub(super) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.room, self.told.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// V5.
    #[test]
    fn credit_of_a_guest_that_lies_is_nothing_and_never_wraps() {
        let mut credit = Credit::default();
        assert_eq!(credit.available(), 0);
        credit.learn(1000, 0);
        assert_eq!(credit.available(), 1000);
        credit.send(600);
        // The buffer shrinks below what is under way.
        for (room, left) in [(1000, 400), (600, 0), (599, 0), (0, 0), (u32::MAX, u32::MAX - 600)] {
            credit.learn(room, 0);
            assert_eq!(credit.available(), left);
        }
        // More taken than was sent.
        for forwarded in [601, 1599, 0x8000_0000] {
            credit.learn(1000, forwarded);
            assert_eq!(credit.available(), 0, "{forwarded}");
        }
    }

    #[test]
    fn counters_wrap_without_a_trace() {
        let mut credit = Credit { sent: Wrapping(u32::MAX - 10), ..Credit::default() };
        credit.learn(100, u32::MAX - 10);
        credit.send(60);
        assert_eq!(credit.available(), 40);
        credit.learn(100, 20);
        assert_eq!(credit.available(), 71);
    }

    /// V5.
    #[test]
    fn guest_may_send_what_it_was_told_and_no_byte_more() {
        let mut credit = Credit::default();
        assert!(credit.receive(BUF_ALLOC - 1) && credit.receive(1) && credit.receive(0));
        credit.forward(BUF_ALLOC);
        assert!(credit.is_news());
        assert_eq!(credit.tell(), (BUF_ALLOC, BUF_ALLOC));
        assert!(!credit.is_news());
        assert!(!credit.receive(BUF_ALLOC + 1));
        let mut credit = Credit::default();
        assert!(credit.receive(BUF_ALLOC));
        credit.forward(BUF_ALLOC);
        assert!(!credit.receive(1), "nobody told the guest");
        assert!(!Credit::default().receive(u32::MAX));
    }

    proptest! {
        /// V5: whatever a guest says, it is never owed more than the room it names.
        #[test]
        fn any_claims_give_credit_within_the_room_named(
            steps in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..50),
        ) {
            let mut credit = Credit::default();
            for (room, forwarded, wanted) in steps {
                credit.learn(room, forwarded);
                prop_assert!(credit.available() <= room);
                credit.send(wanted.min(credit.available()));
            }
        }

        /// A guest that waits for credit is always told when there is some.
        #[test]
        fn guest_that_waits_is_told(parts in prop::collection::vec(1u32..BUF_ALLOC, 1..100)) {
            let mut credit = Credit::default();
            for part in parts {
                let room = BUF_ALLOC - (credit.received - credit.told).0;
                prop_assert!(room > 0);
                let part = part.min(room);
                prop_assert!(credit.receive(part));
                credit.forward(part);
                if credit.is_news() {
                    credit.tell();
                }
            }
        }
    }
}
