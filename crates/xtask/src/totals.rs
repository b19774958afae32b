//! Counting what Rust's test programs report.

use std::fmt;
use std::io::{self, Write};
use std::ops::AddAssign;
use std::sync::mpsc::Sender;

/// How many tests passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and test programs that ended without a report.
    pub(crate) failed: u64,
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Passes the output of test programs on, and adds up their reports.
pub(crate) struct Counter<W> {
    out: W,
    line: Vec<u8>,
    totals: Totals,
    reports: u64,
    tell: Option<Sender<()>>,
}

impl<W: Write> Counter<W> {
    /// A counter that passes output on to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self { out, line: vec![], totals: Totals::default(), reports: 0, tell: None }
    }

    /// The same counter, which tells `listener` of every report.
    pub(crate) fn telling(self, listener: Sender<()>) -> Self {
        Self { tell: Some(listener), ..self }
    }

    fn end_of_line(&mut self) {
        if let Some(report) = report(&String::from_utf8_lossy(&self.line)) {
            self.totals += report;
            self.reports += 1;
            // Who does not listen any more has no use for it.
            let _ = self.tell.as_ref().map(|listener| listener.send(()));
        }
        self.line.clear();
    }

    /// How many programs have reported.
    pub(crate) fn reports(&self) -> u64 {
        self.reports
    }

    /// The totals, given whether the programs ended well: without a report of a failure, an ending
    /// that was not good counts as one.
    pub(crate) fn totals(&self, ended_well: bool) -> Totals {
        let mut totals = self.totals;
        if !ended_well {
            totals.failed = totals.failed.max(1);
        }
        totals
    }
}

impl<W: Write> Write for Counter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_of_line();
            } else {
                self.line.push(byte);
            }
        }
        self.out.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The counts in a line like `test result: ok. 3 passed; 0 failed; 0 ignored; ...`.
fn report(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |name: &str| {
        let mut fields = counts.split(';').map(str::trim);
        fields.find_map(|field| field.strip_suffix(name)?.trim().parse().ok())
    };
    Some(Totals { passed: count("passed")?, failed: count("failed")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &str = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s";

    #[test]
    fn reports_of_several_programs_add_up_whatever_the_pieces() {
        let output = format!("running 3 tests\n{OK}\n\nnoise 9 passed; 9 failed\n{OK}\n")
            + "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out\n";
        for size in [1, 5, 1000] {
            let (sender, reports) = std::sync::mpsc::channel();
            let mut counter = Counter::new(vec![]).telling(sender);
            for piece in output.as_bytes().chunks(size) {
                counter.write_all(piece).unwrap();
            }
            assert_eq!(counter.totals(false), Totals { passed: 7, failed: 2 });
            assert_eq!(counter.out, output.as_bytes());
            assert_eq!((counter.reports(), reports.try_iter().count()), (3, 3));
        }
    }

    #[test]
    fn program_that_dies_without_a_report_counts_as_a_failure() {
        let mut counter = Counter::new(io::sink());
        counter.write_all(format!("{OK}\n").as_bytes()).unwrap();
        assert_eq!(counter.totals(true).to_string(), "3 passed, 0 failed");
        assert_eq!(counter.totals(false).to_string(), "3 passed, 1 failed");
    }
}
