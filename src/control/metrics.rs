//! Lines of counters in a file: `--metrics`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Mode, OFlags, open};
use serde_json::{Map, Value, json};
use tracing::warn;

use super::ControlError;
use crate::kvm::VcpuStats;
use crate::machine::Machine;
use crate::metrics::Counters;

/// Time between two lines that nobody asked for.
const PERIOD: Duration = Duration::from_secs(60);

/// Appends one JSON object a line. A reader that does not keep up loses lines, never the machine
/// its time: nothing here waits, and at most one line is kept.
pub(super) struct Metrics {
    file: File,
    stats: Vec<VcpuStats>,
    start: Instant,
    last: Instant,
    /// What was not taken of the last line.
    rest: Vec<u8>,
    lost: u64,
}

impl Metrics {
    /// Opens `path`, which is made when it does not exist, and the statistics of the vCPUs of
    /// `machine`, which must not run yet.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or KVM has no statistics.
    pub(super) fn open(path: &Path, machine: &Machine) -> Result<Self, ControlError> {
        let flags = OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY;
        // A pipe is opened for reading as well: it may get its reader later, or another one.
        let both = flags | OFlags::NONBLOCK | OFlags::RDWR;
        let file = open(path, both, Mode::RUSR | Mode::WUSR).map(File::from);
        let file = file
            .map_err(|e| ControlError::MetricsFile { path: path.to_owned(), source: e.into() })?;
        Ok(Self::new(file, machine.vcpu_stats()?))
    }

    fn new(file: File, stats: Vec<VcpuStats>) -> Self {
        let now = Instant::now();
        Self { file, stats, start: now, last: now, rest: Vec::new(), lost: 0 }
    }

    /// Whether a line is due that nobody asked for.
    pub(super) fn is_due(&self) -> bool {
        self.last.elapsed() >= PERIOD
    }

    /// Appends a line about `machine`.
    pub(super) fn write(&mut self, machine: &Machine) {
        let devices = machine
            .devices()
            .iter()
            .map(|device| (device.name(), device.metrics() as &dyn Counters));
        let line = self.line(devices);
        self.append(&line);
    }

    fn line<'d>(&mut self, devices: impl Iterator<Item = (&'d str, &'d dyn Counters)>) -> Value {
        self.last = Instant::now();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        json!({
            "time_ms": millis(time),
            "uptime_ms": millis(self.start.elapsed()),
            "lost_lines": self.lost,
            "vcpus": self.vcpus(),
            "devices": devices.map(|(name, counters)| (name.to_owned(), object(counters)))
                .collect::<Map<_, _>>(),
        })
    }

    /// KVM's counters, all vCPUs together.
    fn vcpus(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for stats in &self.stats {
            if let Err(e) = stats.add_to(&mut sums) {
                warn!("cannot read the statistics of a vCPU: {e}");
            }
        }
        sums
    }

    fn append(&mut self, line: &Value) {
        let rest = std::mem::take(&mut self.rest);
        self.take(rest);
        if !self.rest.is_empty() {
            self.lost += 1;
            return;
        }
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        self.take(bytes);
    }

    /// Writes `bytes` as far as the file takes them now, and keeps the rest.
    fn take(&mut self, bytes: Vec<u8>) {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => {
                    warn!("cannot write to the metrics file: {e}");
                    break;
                }
            }
        }
        self.rest = bytes;
        self.rest.drain(..done);
    }
}

fn object(counters: &dyn Counters) -> Value {
    let mut object = Map::new();
    counters.each(&mut |name, number| {
        object.insert(name.to_owned(), number.into());
    });
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::metrics::counters;

    counters! {
        /// One.
        struct One {
            /// The only one.
            requests,
        }
    }

    fn write(metrics: &mut Metrics, one: &One) {
        let line = metrics.line([("disk \"0\"", one as &dyn Counters)].into_iter());
        metrics.append(&line);
    }

    #[test]
    fn each_line_is_an_object_with_every_counter() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut metrics = Metrics::new(file.reopen().unwrap(), vec![]);
        let one = One::default();
        write(&mut metrics, &one);
        one.requests.add(7);
        write(&mut metrics, &one);
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let numbers = lines.iter().map(|line| line["devices"]["disk \"0\""]["requests"].as_u64());
        assert!(numbers.eq([Some(0), Some(7)]), "{text}");
        assert!(lines[1]["uptime_ms"].as_u64() >= lines[0]["uptime_ms"].as_u64());
        assert_eq!(lines[1]["lost_lines"], 0);
    }

    /// A10.
    #[test]
    fn reader_that_does_not_read_loses_whole_lines_and_delays_nothing() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer: std::os::fd::OwnedFd = writer.into();
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let mut metrics = Metrics::new(writer.into(), vec![]);
        let one = One::default();
        for _ in 0..2000 {
            write(&mut metrics, &one);
        }
        assert!(metrics.lost > 500, "{}", metrics.lost);
        assert!(metrics.rest.len() < 1024);
        // A reader that comes back gets lines that are whole, and learns how many are missing.
        let mut read = vec![0; 1 << 20];
        let len = reader.read(&mut read).unwrap();
        write(&mut metrics, &one);
        drop(metrics);
        let mut text = String::from_utf8(read[..len].to_vec()).unwrap();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.last().unwrap()["lost_lines"].as_u64().unwrap() > 500);
    }
}
