//! What computing costs here, and how costs are taken: each thing is done often enough to be measured and few
//! enough times for an emulated machine.

use std::fs::File;
use std::hint::black_box;
use std::io::Read;
use std::time::Instant;

use serde_json::{Value, json};

/// Steps of a computation.
const STEPS: u64 = 5_000_000;
/// Bytes that are hashed, copied or had from the kernel.
const BYTES: usize = 4 << 20;
/// Bytes that are had from the kernel at once.
const PIECE: usize = 64 << 10;
/// The best of so many rounds is what it costs; the others were disturbed.
pub(crate) const ROUNDS: usize = 5;

/// Nanoseconds of the fastest round of `work`.
pub(crate) fn fastest(mut work: impl FnMut()) -> u64 {
    let round = |_| {
        let began = Instant::now();
        work();
        nanos(began)
    };
    (0..ROUNDS).map(round).min().unwrap_or(0)
}

/// Nanoseconds of the fastest round of something that may fail; nothing if a round did.
pub(crate) fn fastest_of<E>(mut work: impl FnMut() -> Result<(), E>) -> Option<u64> {
    let mut failed = false;
    let time = fastest(|| failed = failed || work().is_err());
    (!failed).then_some(time)
}

/// Nanoseconds since `began`.
pub(crate) fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of fixed amounts of work: three of a processor's, and one of the kernel's.
pub(crate) fn cpu() -> Value {
    json!({
        "arithmetic": fastest(arithmetic),
        "hash": hash(),
        "copy": copy(),
        "kernel": zeros(),
    })
}

/// xorshift64: each step needs the one before.
fn arithmetic() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state);
}

/// FNV-1a of bytes that fit into no cache of a core.
fn hash() -> u64 {
    let data = vec![0x5a_u8; BYTES];
    fastest(|| {
        let start: u64 = 0xcbf2_9ce4_8422_2325;
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        black_box(black_box(&data).iter().fold(start, step));
    })
}

fn copy() -> u64 {
    let from = vec![0x5a_u8; BYTES];
    let mut to = vec![0_u8; BYTES];
    fastest(|| {
        to.copy_from_slice(black_box(&from));
        black_box(&mut to);
    })
}

/// The kernel clears memory for a reader.
fn zeros() -> Option<u64> {
    let mut zeros = File::open("/dev/zero").ok()?;
    let mut piece = vec![0_u8; PIECE];
    fastest_of(|| (0..BYTES / PIECE).try_for_each(|_| zeros.read_exact(&mut piece)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_costs_something() {
        let costs = cpu();
        for kind in ["arithmetic", "hash", "copy", "kernel"] {
            assert!(costs[kind].as_u64().unwrap() > 1000, "{kind}: {costs}");
        }
    }

    #[test]
    fn fastest_round_counts_and_a_failed_one_spoils_all() {
        let mut rounds = 0;
        assert!(
            fastest_of(|| {
                rounds += 1;
                Ok::<_, ()>(())
            })
            .is_some()
        );
        assert_eq!(rounds, ROUNDS);
        assert_eq!(fastest_of(|| Err(())), None);
    }
}
