//! Counters: what a device or the machine has done, cheap enough to be kept always.

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

/// A set of named counters, as [`counters!`] makes them.
pub trait Counters: Send + Sync {
    /// Calls `report` with the name and the number of each counter, always in the same order.
    fn each(&self, report: &mut dyn FnMut(&'static str, u64));
}

/// Defines a struct of [`Count`]s that is [`Counters`] under the names of its fields.
macro_rules! counters {
    ($(#[$about:meta])* $vis:vis struct $name:ident {
        $($(#[$meaning:meta])* $field:ident,)+
    }) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $vis struct $name {
            $($(#[$meaning])* pub $field: $crate::metrics::Count,)+
        }

        impl $crate::metrics::Counters for $name {
            fn each(&self, report: &mut dyn FnMut(&'static str, u64)) {
                $(report(stringify!($field), self.$field.get());)+
            }
        }
    };
}
pub(crate) use counters;

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// Two.
        struct Two {
            /// The first.
            first,
            /// The second.
            second,
        }
    }

    #[test]
    fn counters_are_reported_by_name_in_the_order_of_their_fields() {
        let two = Two::default();
        two.first.inc();
        two.second.add(40);
        two.second.inc();
        let mut seen = Vec::new();
        two.each(&mut |name, number| seen.push((name, number)));
        assert_eq!(seen, [("first", 1), ("second", 41)]);
    }
}
