//! What unit tests share.

use crate::clock::Moment;
use crate::launch::Finished;
use crate::watch::Noticed;
use crate::workload::{User, Workload};

/// A workload that is never run.
pub(crate) fn workload() -> Workload {
    Workload {
        reference: "box".to_owned(),
        id: "sha256:1".to_owned(),
        rootfs: "/nosuch".into(),
        disk: "/nosuch.erofs".into(),
        args: vec!["true".to_owned()],
        env: vec!["A=b".to_owned()],
        cwd: "/".to_owned(),
        user: User::default(),
        kernel: None,
        memory: None,
        network: false,
        pids: None,
    }
}

/// A run between two moments, in nanoseconds, that said this on standard error.
pub(crate) fn finished(began: u64, ended: u64, errors: &str) -> Finished {
    Finished {
        began: Moment::from_nanos(began),
        spawned: Moment::from_nanos(began),
        first_output: None,
        ended: Moment::from_nanos(ended),
        noticed: Noticed::default(),
        output: vec![],
        errors: errors.to_owned(),
        guest: None,
    }
}
