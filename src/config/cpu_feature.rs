//! What the guest's processors have only when they are asked to.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A feature of processors that a guest goes without unless it is asked for: `--cpu-features LIST` or
/// `cpu-features = [...]`. Each is of aarch64, and of those hosts that have it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuFeature {
    /// Performance counters (Arm: `FEAT_PMUv3`).
    Pmu,
    /// Pointer authentication (Arm: `FEAT_PAuth`).
    Pauth,
    /// Vectors of variable length (Arm: `FEAT_SVE`).
    Sve,
}

impl fmt::Display for CpuFeature {
    /// As on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pmu => "pmu",
            Self::Pauth => "pauth",
            Self::Sve => "sve",
        })
    }
}
