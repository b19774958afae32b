//! Counters: what a device or the machine has done, cheap enough to be kept always; and gauges, which
//! say how things stand.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows, written by its owner and read by whoever reports it.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down: what was last heard.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Takes over what is heard now.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number; 0 before anything was heard.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A set of named counters, as [`counters!`] makes them.
pub trait Counters: Send + Sync {
    /// Calls `report` with the name and the number of each counter, always in the same order.
    fn each(&self, report: &mut dyn FnMut(&'static str, u64));
}

/// Defines a struct of [`Count`]s that is [`Counters`] under the names of its fields; a field
/// followed by `: Gauge` is a [`Gauge`].
macro_rules! counters {
    ($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[$meaning:meta])* $field:ident $(: $gauge:ident)?,)+
    }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $($(#[$meaning])* pub $field: counters!(@kind $($gauge)?),)+
        }

        impl $crate::metrics::Counters for $name {
            fn each(&self, report: &mut dyn FnMut(&'static str, u64)) {
                $(report(stringify!($field), self.$field.get());)+
            }
        }
    };
    (@kind) => { $crate::metrics::Count };
    (@kind Gauge) => { $crate::metrics::Gauge };
}
pub(crate) use counters;

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// Three.
        struct Three {
            /// The first.
            first,
            /// The second.
            second,
            /// How it stands.
            third: Gauge,
        }
    }

    #[test]
    fn counters_are_reported_by_name_in_the_order_of_their_fields() {
        let three = Three::default();
        three.first.inc();
        three.second.add(40);
        three.second.inc();
        three.third.set(9);
        three.third.set(7);
        let mut seen = Vec::new();
        three.each(&mut |name, number| seen.push((name, number)));
        assert_eq!(seen, [("first", 1), ("second", 41), ("third", 7)]);
    }
}
