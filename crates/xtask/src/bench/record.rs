//! What a measuring process reports to the one that started it: one JSON object on each line.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Whose figure a sample belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Arm {
    /// Our monitor.
    Ours,
    /// The monitor it is compared with.
    Peer,
    /// Work that has nothing to do with either, to notice a machine that changes its pace.
    Control,
}

/// One line of the report.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
enum Record {
    /// One measured value of a series, in the series' unit.
    Sample { series: String, arm: Arm, value: f64 },
    /// The command line behind a series.
    Command { series: String, arm: Arm, line: String },
}

/// Writes the report.
pub(super) struct Recorder<W> {
    out: W,
}

impl<W: Write> Recorder<W> {
    /// A recorder that writes to `out`.
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    /// Reports one measured value.
    ///
    /// # Errors
    /// Nobody reads the report.
    pub(super) fn sample(&mut self, series: &str, arm: Arm, value: f64) -> Result<()> {
        self.write(&Record::Sample { series: series.to_owned(), arm, value })
    }

    /// Reports the command line behind a series.
    ///
    /// # Errors
    /// As [`Recorder::sample`].
    pub(super) fn command(&mut self, series: &str, arm: Arm, line: String) -> Result<()> {
        self.write(&Record::Command { series: series.to_owned(), arm, line })
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        self.out.write_all(&line).and_then(|()| self.out.flush()).context("write the report")
    }
}

/// All that measuring processes reported.
#[derive(Debug, Default)]
pub(super) struct Records {
    samples: BTreeMap<(String, Arm), Vec<f64>>,
    commands: BTreeMap<(String, Arm), String>,
    appendix: String,
    partial: Vec<u8>,
}

impl Records {
    /// The samples of a series, in the order in which they were taken.
    pub(super) fn samples(&self, series: &str, arm: Arm) -> &[f64] {
        self.samples.get(&(series.to_owned(), arm)).map_or(&[], Vec::as_slice)
    }

    /// The command lines by series and arm.
    pub(super) fn commands(&self) -> impl Iterator<Item = (&str, Arm, &str)> {
        self.commands.iter().map(|((series, arm), line)| (series.as_str(), *arm, line.as_str()))
    }

    /// Adds one sample.
    pub(super) fn take(&mut self, series: &str, arm: Arm, value: f64) {
        self.samples.entry((series.to_owned(), arm)).or_default().push(value);
    }

    /// Adds the command line behind a series.
    pub(super) fn take_command(&mut self, series: &str, arm: Arm, line: &str) {
        self.commands.insert((series.to_owned(), arm), line.to_owned());
    }

    /// Adds text that explains the figures, for the document.
    pub(super) fn append(&mut self, text: &str) {
        self.appendix.push_str(text);
    }

    /// What explains the figures.
    pub(super) fn appendix(&self) -> &str {
        &self.appendix
    }

    /// Adds what `other` holds.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, mut samples) in other.samples {
            self.samples.entry(key).or_default().append(&mut samples);
        }
        self.commands.extend(other.commands);
        self.appendix.push_str(&other.appendix);
    }

    fn add(&mut self, line: &[u8]) -> Result<()> {
        let record = serde_json::from_slice(line)
            .with_context(|| format!("read the report: {}", String::from_utf8_lossy(line)))?;
        match record {
            Record::Sample { series, arm, value } => {
                self.take(&series, arm, value);
            }
            Record::Command { series, arm, line } => {
                self.commands.insert((series, arm), line);
            }
        }
        Ok(())
    }
}

/// Takes the report as it comes, in pieces of any size.
impl Write for Records {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.add(&line).map_err(io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_read_in_pieces_of_any_size() {
        let mut report = vec![];
        let mut recorder = Recorder::new(&mut report);
        recorder.sample("a", Arm::Ours, 1.5).unwrap();
        recorder.sample("a", Arm::Peer, 3.0).unwrap();
        recorder.sample("a", Arm::Ours, 2.5).unwrap();
        recorder.command("a", Arm::Peer, "qemu 'x y'".to_owned()).unwrap();
        let mut records = Records::default();
        for piece in report.chunks(7) {
            records.write_all(piece).unwrap();
        }
        assert_eq!(records.samples("a", Arm::Ours), [1.5, 2.5]);
        assert_eq!(records.samples("a", Arm::Peer), [3.0]);
        assert!(records.samples("b", Arm::Ours).is_empty());
        assert_eq!(records.commands().collect::<Vec<_>>(), [("a", Arm::Peer, "qemu 'x y'")]);
    }

    #[test]
    fn foreign_line_is_refused() {
        let error = Records::default().write_all(b"Segmentation fault\n").unwrap_err();
        assert!(error.to_string().contains("Segmentation fault"), "{error}");
    }
}
