//! What things cost here. Each is done often enough to be measured and short enough for an emulated machine.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Seek, Write};
use std::time::Instant;

/// System calls of a round.
const CALLS: u32 = 20_000;
/// Steps of a computation.
const STEPS: u64 = 5_000_000;
/// Bytes of the file.
const BYTES: usize = 4 << 20;
/// The best of so many rounds is what it costs; the others were disturbed.
const ROUNDS: usize = 5;

/// Nanoseconds of the fastest round of `work`.
fn fastest(mut work: impl FnMut()) -> u64 {
    let round = |_| {
        let began = Instant::now();
        work();
        u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    };
    (0..ROUNDS).map(round).min().unwrap_or(0)
}

/// Nanoseconds of one system call that does next to nothing.
pub(crate) fn syscall() -> u64 {
    let round = || {
        for _ in 0..CALLS {
            black_box(rustix::process::getppid());
        }
    };
    fastest(round) / u64::from(CALLS)
}

/// Nanoseconds of a computation without system calls.
pub(crate) fn cpu() -> u64 {
    fastest(|| {
        // xorshift64: each step needs the one before.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        for _ in 0..STEPS {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        black_box(state);
    })
}

/// Nanoseconds of writing a file until it is stored, and of reading it; nothing where none can be made.
pub(crate) fn io() -> Option<(u64, u64)> {
    let name = format!("probe.{}", std::process::id());
    let mut file = File::options().read(true).write(true).create_new(true).open(&name).ok()?;
    // It has no name any more, and ends with this program.
    fs::remove_file(&name).ok()?;
    let mut data = vec![0x5a; BYTES];
    let mut failed = false;
    let write = fastest(|| {
        let result =
            file.rewind().and_then(|()| file.write_all(&data)).and_then(|()| file.sync_all());
        failed |= result.is_err();
    });
    let read =
        fastest(|| failed |= file.rewind().and_then(|()| file.read_exact(&mut data)).is_err());
    (!failed).then_some((write, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_costs_something() {
        assert!((10..1_000_000).contains(&syscall()));
        assert!(cpu() > 1_000_000);
    }
}
