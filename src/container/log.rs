//! What a container's first process printed, kept up to a size.
//!
//! A log is two files of records: `log`, which grows, and `log.old`, which it becomes when it is full
//! and which the next full one replaces. A record is
//!
//! | bytes | what |
//! |---|---|
//! | 0 | stream: 1 standard output, 2 standard error |
//! | 1..4 | length of the text, little-endian, at most [`MAX_TEXT`] |
//! | 4..12 | when, nanoseconds since 1970 began, little-endian |
//! | 12.. | the text, bytes as they came |

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::clock::Timestamp;

/// The name of a container's log.
pub const LOG: &str = "log";
/// Bytes of one file; a container keeps twice as much at most.
const MAX_FILE: u64 = 8 << 20;
/// Longest text of a record in bytes.
pub const MAX_TEXT: usize = 1 << 16;
const HEADER: usize = 12;

/// One of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Out,
    /// Standard error.
    Err,
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it was printed.
    pub stream: Stream,
    /// When it arrived.
    pub time: Timestamp,
    /// What it was.
    pub text: Vec<u8>,
}

/// The end of a log that grows.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    file: File,
    len: u64,
    max: u64,
}

impl LogWriter {
    /// Begins or continues the log at `path`.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::with_max(path, MAX_FILE)
    }

    fn with_max(path: &Path, max: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, len, max })
    }

    /// Adds what was printed just now.
    ///
    /// # Errors
    /// The host has no room; the log then ends in a whole record still.
    pub fn append(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        text.chunks(MAX_TEXT).try_for_each(|text| self.append_record(stream, text))
    }

    fn append_record(&mut self, stream: Stream, text: &[u8]) -> io::Result<()> {
        if self.len >= self.max {
            // It was renamed already when the next one could not be made.
            match fs::rename(&self.path, old(&self.path)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            *self = Self::with_max(&self.path, self.max)?;
        }
        let number = match stream {
            Stream::Out => 1,
            Stream::Err => 2,
        };
        let len = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut record = Vec::with_capacity(text.len().saturating_add(HEADER));
        record.push(number);
        record.extend_from_slice(len.get(..3).unwrap_or_default());
        record.extend_from_slice(&Timestamp::now().nanos().to_le_bytes());
        record.extend_from_slice(text);
        if let Err(e) = self.file.write_all(&record) {
            self.file.set_len(self.len)?;
            return Err(e);
        }
        self.len = self.len.saturating_add(u64::try_from(record.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

/// Reads a log from its oldest record on; may be asked again when it has grown.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// What is left of a record that was not whole yet.
    part: Vec<u8>,
}

impl LogReader {
    /// The log at `path`, which need not exist yet.
    pub fn open(path: &Path) -> Self {
        let file = File::open(old(path)).ok().map(BufReader::new);
        Self { path: path.to_owned(), file, part: vec![] }
    }

    /// The next record; `None` where the log ends for now.
    ///
    /// # Errors
    /// The file cannot be read, or is no log.
    pub fn read(&mut self) -> io::Result<Option<Record>> {
        loop {
            let Some(file) = &mut self.file else {
                match File::open(&self.path) {
                    Ok(file) => self.file = Some(BufReader::new(file)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(e),
                }
                continue;
            };
            if let Some(record) = read_record(file, &mut self.part)? {
                return Ok(Some(record));
            }
            if !is_another(file.get_ref(), &self.path)? {
                return Ok(None);
            }
            // The file at hand was put aside. Nothing is added to it any more, but may have been
            // since it was read to its end.
            if let Some(record) = read_record(file, &mut self.part)? {
                return Ok(Some(record));
            }
            self.part.clear();
            self.file = None;
        }
    }
}

/// Whether the log goes on in another file than `file`.
fn is_another(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(current) => Ok(current.ino() != file.metadata()?.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Reads on until `part` is a whole record.
fn read_record(file: &mut impl Read, part: &mut Vec<u8>) -> io::Result<Option<Record>> {
    if !fill(file, part, HEADER)? {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log is damaged");
    let (stream, len, time) = match part.get(..HEADER) {
        Some(&[stream, a, b, c, t0, t1, t2, t3, t4, t5, t6, t7]) => (
            stream,
            u32::from_le_bytes([a, b, c, 0]),
            u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
        ),
        _ => return Err(damaged()),
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let stream = match stream {
        1 => Stream::Out,
        2 => Stream::Err,
        _ => return Err(damaged()),
    };
    if len > MAX_TEXT {
        return Err(damaged());
    }
    if !fill(file, part, HEADER.saturating_add(len))? {
        return Ok(None);
    }
    let text = part.split_off(HEADER);
    part.clear();
    Ok(Some(Record { stream, time: Timestamp::from_nanos(time), text }))
}

/// Reads until `part` has `len` bytes, and returns whether it has.
fn fill(file: &mut impl Read, part: &mut Vec<u8>, len: usize) -> io::Result<bool> {
    let missing = len.saturating_sub(part.len());
    file.take(u64::try_from(missing).unwrap_or(u64::MAX)).read_to_end(part)?;
    Ok(part.len() >= len)
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("old")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(reader: &mut LogReader) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| reader.read().expect("log")).map(|record| record.text).collect()
    }

    #[test]
    fn records_come_back_in_order_with_stream_and_time() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("log");
        let mut reader = LogReader::open(&path);
        assert_eq!(reader.read().expect("empty"), None);
        let mut writer = LogWriter::open(&path).expect("opened");
        let began = Timestamp::now();
        writer.append(Stream::Out, b"one\n").expect("written");
        writer.append(Stream::Err, &[0xff; MAX_TEXT + 1]).expect("written");
        let first = reader.read().expect("log").expect("a record");
        assert_eq!((first.stream, first.text.as_slice()), (Stream::Out, b"one\n".as_slice()));
        assert!(first.time >= began);
        let rest = texts(&mut reader);
        assert_eq!(rest.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_TEXT, 1]);
        writer.append(Stream::Out, b"later").expect("written");
        assert_eq!(texts(&mut reader), [b"later"]);
    }

    #[test]
    fn log_keeps_its_newest_records_within_two_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("log");
        let mut writer = LogWriter::with_max(&path, 1000).expect("opened");
        let mut follower = LogReader::open(&path);
        let mut followed = vec![];
        for n in 0..500_u32 {
            writer.append(Stream::Out, &n.to_le_bytes()).expect("written");
            followed.extend(texts(&mut follower));
        }
        assert_eq!(followed.len(), 500, "a follower misses nothing");
        let kept = texts(&mut LogReader::open(&path));
        assert!((60..=130).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last(), Some(&499_u32.to_le_bytes().to_vec()));
        let total: u64 =
            [&path, &old(&path)].map(|file| file.metadata().expect("there").len()).iter().sum();
        assert!(total <= 2100, "{total}");
    }

    #[test]
    fn torn_and_foreign_logs_are_told_apart() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("log");
        let mut writer = LogWriter::open(&path).expect("opened");
        writer.append(Stream::Out, b"whole").expect("written");
        fs::write(&path, [fs::read(&path).expect("read"), vec![1, 9, 0]].concat()).expect("torn");
        let mut reader = LogReader::open(&path);
        assert_eq!(texts(&mut reader), [b"whole"]);
        fs::write(&path, [9; 40]).expect("foreign");
        assert!(LogReader::open(&path).read().is_err());
    }
}
