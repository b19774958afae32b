//! `vmm logs`.

use std::collections::VecDeque;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;

use super::super::Exit;
use super::super::output::unwritten;
use super::containers;
use crate::container::clock::Timestamp;
use crate::container::log::{LOG, LogReader, Record, Stream};
use crate::container::{Container, Status};

/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(in super::super) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,

    /// Begin so many lines before the end, or with all
    #[arg(short = 'n', long, value_name = "LINES|all", default_value = "all")]
    tail: Tail,

    /// Begin at a time such as 2026-01-31T12:00:00Z, or so long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<Moment>,

    /// End at a time, or so long ago
    #[arg(long, value_name = "TIME")]
    until: Option<Moment>,

    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,

    /// Container by name or identifier
    #[arg(value_name = "CONTAINER")]
    container: String,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<usize>);

impl std::str::FromStr for Tail {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "all" => Ok(Self(None)),
            digits => {
                digits.parse().map(|n| Self(Some(n))).map_err(|_| "a number of lines, or all")
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Moment(Timestamp);

impl std::str::FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ago = || {
            let duration = humantime::parse_duration(text).ok()?;
            SystemTime::now().checked_sub(duration)
        };
        let time = humantime::parse_rfc3339_weak(text).ok().or_else(ago);
        time.map(|time| Self(time.into())).ok_or("a time such as 2026-01-31T12:00:00Z or 10m")
    }
}

/// A line, or the beginning of one that has not ended yet.
struct Line {
    stream: Stream,
    time: Timestamp,
    text: Vec<u8>,
}

pub(in super::super) fn logs(args: &LogsArgs) -> anyhow::Result<Exit> {
    let containers = containers()?;
    let (container, status) = containers.find(&args.container)?;
    let mut reader = LogReader::open(&container.file(LOG));
    let mut printer = Printer::new(args);
    let (mut out, mut err) = (BufWriter::new(io::stdout()), BufWriter::new(io::stderr()));
    let is_over = || args.until.is_some_and(|until| until.0 <= Timestamp::now());
    let mut ended = matches!(status, Status::Exited { .. }) || is_over();
    let mut kept = VecDeque::new();
    loop {
        while let Some(record) = reader.read().context("read the log")? {
            for line in printer.lines(record, args) {
                match args.tail.0 {
                    Some(count) if !printer.caught_up => keep(&mut kept, line, count),
                    _ => printer.print(&line, &mut out, &mut err).map_err(unwritten)?,
                }
            }
        }
        for line in kept.drain(..) {
            printer.print(&line, &mut out, &mut err).map_err(unwritten)?;
        }
        out.flush().and_then(|()| err.flush()).map_err(unwritten)?;
        printer.caught_up = true;
        if ended || !args.follow {
            break;
        }
        // What was printed until it was found to have ended is read once more.
        ended = has_ended(&container) || is_over();
        if !ended {
            sleep(PAUSE);
        }
    }
    Ok(Exit::Success)
}

/// Keeps the last `count` lines. What goes on with a line that has not ended yet is part of it.
fn keep(kept: &mut VecDeque<Line>, line: Line, count: usize) {
    let last = kept.iter_mut().rev().find(|last| last.stream == line.stream);
    match last.filter(|last| !last.text.ends_with(b"\n")) {
        Some(last) => last.text.extend(line.text),
        None => kept.push_back(line),
    }
    if kept.len() > count {
        kept.pop_front();
    }
}

fn has_ended(container: &Container) -> bool {
    !matches!(container.try_lock(), Ok(None))
}

struct Printer {
    timestamps: bool,
    /// Of each stream, whether what a program printed for a pipe would reach a terminal.
    tames: [bool; 2],
    caught_up: bool,
    /// Whether the next piece of each stream begins a line.
    begins: [bool; 2],
    /// The stream of the last line.
    last: Stream,
}

impl Printer {
    fn new(args: &LogsArgs) -> Self {
        let tames = [io::stdout().is_terminal(), io::stderr().is_terminal()];
        Self {
            timestamps: args.timestamps,
            tames,
            caught_up: false,
            begins: [true; 2],
            last: Stream::Out,
        }
    }

    /// The lines of a record, each with its end if that is here.
    fn lines(&self, record: Record, args: &LogsArgs) -> Vec<Line> {
        let too_old = args.since.is_some_and(|Moment(since)| record.time < since);
        let too_new = args.until.is_some_and(|Moment(until)| record.time > until);
        if too_old || too_new {
            return vec![];
        }
        let Record { stream, time, text } = record;
        let pieces = text.split_inclusive(|byte| *byte == b'\n');
        pieces.map(|piece| Line { stream, time, text: piece.to_vec() }).collect()
    }

    fn print(&mut self, line: &Line, out: &mut impl Write, err: &mut impl Write) -> io::Result<()> {
        let ([begins, begins_err], [tames, tames_err]) = (&mut self.begins, self.tames);
        let (begins, tames, writer, other): (_, _, &mut dyn Write, &mut dyn Write) =
            match line.stream {
                Stream::Out => (begins, tames, out, err),
                Stream::Err => (begins_err, tames_err, err, out),
            };
        // On a terminal they are one.
        if self.last != line.stream {
            other.flush()?;
            self.last = line.stream;
        }
        if self.timestamps && *begins {
            write!(writer, "{} ", line.time)?;
        }
        *begins = line.text.ends_with(b"\n");
        if tames {
            writer.write_all(tamed(&line.text).as_bytes())
        } else {
            writer.write_all(&line.text)
        }
    }
}

/// Text that does nothing to a terminal but appear on it: colours stay, all other controls are shown.
fn tamed(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_ref();
    while let Some(c) = rest.chars().next() {
        let len = colour(rest).unwrap_or(c.len_utf8());
        let (now, later) = rest.split_at(len);
        if c.is_control() && len == c.len_utf8() && !"\n\t\r".contains(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push_str(now);
        }
        rest = later;
    }
    shown
}

/// The length of the sequence that `text` begins with, if all it does is to choose a colour: `ESC [`,
/// digits and semicolons, `m`.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let end = inner.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let len = end.checked_add(3)?;
    (inner.get(end..)?.starts_with('m') && end < 32).then_some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S3.
    #[test]
    fn controls_of_a_terminal_are_shown_and_colours_work() {
        assert_eq!(tamed(b"a\tb\r\n"), "a\tb\r\n");
        assert_eq!(tamed(b"\x1b[1;31mred\x1b[0m"), "\u{1b}[1;31mred\u{1b}[0m");
        assert_eq!(tamed(b"\x1b[2J\x1b]0;x\x07\x9b"), "\\u{1b}[2J\\u{1b}]0;x\\u{7}\u{fffd}");
        assert_eq!(tamed("\u{9b}2Jü".as_bytes()), "\\u{9b}2Jü");
        assert_eq!(tamed(b"\x1b["), "\\u{1b}[");
    }

    /// S3: also where one of the streams is no terminal.
    #[test]
    fn streams_are_tamed_each_for_where_it_goes() {
        let mut printer = Printer {
            timestamps: false,
            tames: [false, true],
            caught_up: false,
            begins: [true; 2],
            last: Stream::Out,
        };
        let (mut out, mut err) = (vec![], vec![]);
        for stream in [Stream::Out, Stream::Err] {
            let line = Line { stream, time: Timestamp::now(), text: b"\x1b[2J".to_vec() };
            printer.print(&line, &mut out, &mut err).expect("printed");
        }
        assert_eq!((out.as_slice(), err.as_slice()), (&b"\x1b[2J"[..], &b"\\u{1b}[2J"[..]));
    }

    #[test]
    fn last_lines_are_whole_however_they_were_printed() {
        let mut kept = VecDeque::new();
        for (stream, text) in [
            (Stream::Out, "one\n"),
            (Stream::Out, "t"),
            (Stream::Err, "error"),
            (Stream::Out, "wo\n"),
            (Stream::Out, "thr"),
            (Stream::Err, "\n"),
            (Stream::Out, "ee"),
        ] {
            let line = Line { stream, time: Timestamp::now(), text: text.into() };
            keep(&mut kept, line, 3);
        }
        let texts: Vec<_> = kept.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        assert_eq!(texts, ["two\n", "error\n", "three"]);
        let mut none = VecDeque::new();
        keep(&mut none, Line { stream: Stream::Out, time: Timestamp::now(), text: vec![] }, 0);
        assert_eq!(none.len(), 0);
    }

    #[test]
    fn moments_are_times_or_durations() {
        assert!("2026-01-31T12:00:00Z".parse::<Moment>().is_ok());
        let ago = "10m".parse::<Moment>().expect("duration").0;
        assert!((595..605).contains(&ago.elapsed().as_secs()));
        assert!("soon".parse::<Moment>().is_err());
    }
}
