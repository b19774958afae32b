//! What is another than in runc or crun, and why. The page of containers lists the same.

use super::runtime::{PEERS, Runtime};

/// A difference that is meant.
#[derive(Debug)]
pub struct Difference {
    /// The case in which it shows.
    pub case: &'static str,
    /// From whom `vmm` differs there.
    pub from: &'static [Runtime],
    /// What is different, and why.
    pub reason: &'static str,
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
    Difference { case: "missing command", from: BOTH, reason: NOT_RUN },
    Difference { case: "missing path", from: BOTH, reason: NOT_RUN },
    Difference { case: "directory as command", from: BOTH, reason: NOT_RUN },
    Difference { case: "file that is no program", from: BOTH, reason: NOT_RUN },
    Difference { case: "exec: missing command", from: &[Runtime::Runc], reason: EXEC_NOT_RUN },
    Difference {
        case: "exec: file that is no program",
        from: &[Runtime::Runc],
        reason: EXEC_NOT_RUN,
    },
    Difference {
        case: "exec: user and capabilities",
        from: &[Runtime::Runc],
        reason: "the groups are those of the user asked for, as docker has it; runc keeps the first process's beside them",
    },
    Difference {
        case: "terminal: suspend and quit keys",
        from: &[Runtime::Runc],
        reason: "the `container` kernel writes no core files",
    },
    Difference {
        case: "root: hidden files",
        from: BOTH,
        reason: "the `container` kernel has no `/proc/kcore`: there is nothing to hide",
    },
    Difference {
        case: "root: sysrq",
        from: BOTH,
        reason: "the `container` kernel has no SysRq: there is nothing to protect",
    },
    Difference {
        case: "unknown number: user and groups",
        from: &[Runtime::Crun],
        reason: "`HOME` of a user that the image does not list is `/`, as docker and runc have it",
    },
];

const BOTH: &[Runtime] = &PEERS;
const EXEC_NOT_RUN: &str = "as above; runc's is 255 for both";
const NOT_RUN: &str =
    "127 for what is not there, 126 for what cannot be run, as docker has it; theirs is 1 for both";

/// Whether a difference from `peer` in `case` is meant.
pub fn accepted(case: &str, peer: Runtime) -> bool {
    DIFFERENCES.iter().any(|known| known.case == case && known.from.contains(&peer))
}

/// Every difference is in the table of docs/containers.md, and nothing else is.
#[test]
fn accepted_differences_are_those_of_the_page() {
    let page = include_str!("../../../docs/containers.md");
    let (_, section) = page.split_once("\n## Differences from runc and crun\n").expect("section");
    let section = section.split("\n## ").next().expect("text");
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| case"));
    let rows: Vec<_> = rows.map(str::to_owned).collect();
    let expected = DIFFERENCES.iter().map(|Difference { case, from, reason }| {
        let from: Vec<_> = from.iter().map(|runtime| runtime.name()).collect();
        format!("| {case} | {} | {reason} |", from.join(", "))
    });
    assert_eq!(rows, expected.collect::<Vec<_>>());
}
