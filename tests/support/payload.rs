//! Where the guest programs of `tests/guest` are.

use std::path::Path;

pub use super::machine::guest;

/// A directory of this build for what tests leave for the next run.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}
