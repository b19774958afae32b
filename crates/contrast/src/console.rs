//! The console of a guest, as its monitor passes it on: what the guest's first process tells about its steps, among
//! what its command and its kernel print.
//!
//! A serial port is all that every monitor has. A step is told there by a mark: a character that texts do not have, a
//! token that is new for each run, a letter, for the end a status, and a line break. So a command cannot tell one by
//! accident. A step's moment is that at which this host reads its mark.

use std::fmt;

use crate::clock::Moment;

/// Begins a mark: the record separator of ASCII.
const SEPARATOR: u8 = 0x1e;
/// Bytes after the token that a mark may have.
const LONGEST: usize = 8;
/// Bytes of the command's output that are kept.
const KEPT: usize = 64 << 10;
/// Bytes of the console's end that are kept.
const TAIL: usize = 4 << 10;
/// Lines of those that are shown, and characters of each.
const LINES: usize = 6;
const COLUMNS: usize = 120;

/// What the first process of a guest tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It runs: the kernel has done its part.
    Began,
    /// The surroundings of the command are there.
    Ready,
    /// The command's process is about to become its program.
    Exec,
    /// The command has ended, with this status as a shell has it.
    Exit(u8),
}

impl Step {
    fn parse(word: &[u8]) -> Option<Self> {
        let (letter, rest) =
            std::str::from_utf8(word).ok()?.trim_end_matches('\r').split_at_checked(1)?;
        match (letter, rest) {
            ("b", "") => Some(Self::Began),
            ("r", "") => Some(Self::Ready),
            ("x", "") => Some(Self::Exec),
            ("e", status) => status.parse().ok().map(Self::Exit),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Began => f.write_str("b"),
            Self::Ready => f.write_str("r"),
            Self::Exec => f.write_str("x"),
            Self::Exit(status) => write!(f, "e{status}"),
        }
    }
}

/// The mark of a step, to be written to the console.
pub fn mark(token: &str, step: Step) -> String {
    format!("{}{token}{step}\n", char::from(SEPARATOR))
}

/// A console that is listened to.
#[derive(Debug, Clone)]
pub struct Console {
    /// How a mark of this run begins.
    start: Vec<u8>,
    /// What may be the first part of a mark.
    held: Vec<u8>,
    tail: Vec<u8>,
    heard: Heard,
}

/// What was heard on a console.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// Each step that was told, with its moment.
    pub steps: Vec<(Step, Moment)>,
    /// The first byte that the command printed.
    pub first_output: Option<Moment>,
    /// What it printed, the first of it.
    pub output: Vec<u8>,
}

impl Heard {
    /// The status that the command ended with, if it was told: the first process speaks last.
    pub fn status(&self) -> Option<u8> {
        self.steps.iter().rev().find_map(|(step, _)| match step {
            Step::Exit(status) => Some(*status),
            _ => None,
        })
    }

    fn is_running(&self) -> bool {
        self.steps.last().is_some_and(|(step, _)| *step == Step::Exec)
    }
}

impl Console {
    /// The console of a run whose marks have this token.
    pub fn new(token: &str) -> Self {
        let start = [&[SEPARATOR], token.as_bytes()].concat();
        Self { start, held: vec![], tail: vec![], heard: Heard::default() }
    }

    /// Takes what the guest printed, read at `now`.
    pub fn hear(&mut self, bytes: &[u8], now: Moment) {
        self.held.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.held);
        let mut rest = &*held;
        while let Some(at) = rest.windows(self.start.len()).position(|part| part == self.start) {
            let (text, marked) = rest.split_at(at);
            self.print(text, now);
            let (start, word) = marked.split_at(self.start.len());
            let end = word.iter().take(LONGEST).position(|byte| *byte == b'\n');
            match end.and_then(|end| Some((end, Step::parse(word.get(..end)?)?))) {
                Some((end, step)) => {
                    self.heard.steps.push((step, now));
                    rest = word.get(end + 1..).unwrap_or_default();
                }
                None if end.is_none() && word.len() < LONGEST => {
                    self.held = marked.to_vec();
                    return;
                }
                None => {
                    self.print(start, now);
                    rest = word;
                }
            }
        }
        let (text, held) = rest.split_at(rest.len() - self.begun(rest));
        self.print(text, now);
        self.held = held.to_vec();
    }

    /// How many bytes at the end of `text` may begin a mark.
    fn begun(&self, text: &[u8]) -> usize {
        let starts = (1..self.start.len()).rev().filter_map(|len| self.start.get(..len));
        starts.filter(|start| text.ends_with(start)).map(<[u8]>::len).next().unwrap_or(0)
    }

    fn print(&mut self, text: &[u8], now: Moment) {
        if text.is_empty() {
            return;
        }
        self.tail.extend_from_slice(text);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL));
        if self.heard.is_running() {
            self.heard.first_output.get_or_insert(now);
            let room = KEPT.saturating_sub(self.heard.output.len()).min(text.len());
            self.heard.output.extend_from_slice(text.get(..room).unwrap_or_default());
        }
    }

    /// What was heard until now.
    pub fn heard(&self) -> &Heard {
        &self.heard
    }

    /// The last lines, fit for a terminal.
    pub fn last_lines(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&[&*self.tail, &*self.held].concat()).into_owned();
        let plain = |line: &str| -> String {
            line.trim().chars().filter(|c| !c.is_control()).take(COLUMNS).collect()
        };
        let mut lines: Vec<_> = text.lines().map(plain).filter(|line| !line.is_empty()).collect();
        lines.drain(..lines.len().saturating_sub(LINES));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    /// A whole run, with a mark in the middle of a line.
    fn run() -> String {
        let [began, ready, exec, exit] =
            [Step::Began, Step::Ready, Step::Exec, Step::Exit(3)].map(|step| mark(TOKEN, step));
        format!("kernel\r\n{began}{ready}{exec}hello\nno end{exit}reboot\n")
    }

    fn hear(text: &[u8], step: usize) -> Console {
        let mut console = Console::new(TOKEN);
        for (number, part) in (0..).zip(text.chunks(step)) {
            console.hear(part, Moment::from_nanos(number));
        }
        console
    }

    #[test]
    fn steps_and_output_are_told_apart_however_they_arrive() {
        for step in [1, 2, 7, 1000] {
            let console = hear(run().as_bytes(), step);
            let heard = console.heard();
            let steps: Vec<_> = heard.steps.iter().map(|(step, _)| *step).collect();
            assert_eq!(steps, [Step::Began, Step::Ready, Step::Exec, Step::Exit(3)], "{step}");
            assert_eq!(heard.output, b"hello\nno end", "{step}");
            assert_eq!((heard.status(), heard.first_output.is_some()), (Some(3), true));
            assert!(heard.steps.is_sorted_by_key(|(_, moment)| *moment));
            assert_eq!(console.last_lines(), ["kernel", "hello", "no endreboot"]);
        }
    }

    #[test]
    fn what_is_no_mark_of_this_run_is_text() {
        let exec = mark(TOKEN, Step::Exec);
        for text in [
            mark("0123456789abcdee", Step::Exit(0)),
            format!("\u{1e}{TOKEN}e999\n"),
            format!("\u{1e}{TOKEN}exit 0 and more\n"),
            format!("\u{1e}{TOKEN}\n"),
            format!("{TOKEN}e0\n"),
            "\u{1e}\u{1e}\n".to_owned(),
        ] {
            for step in [1, 1000] {
                let console = hear(format!("{exec}{text}").as_bytes(), step);
                assert_eq!(console.heard().status(), None, "{text:?}");
                assert_eq!(console.heard().output, text.as_bytes());
            }
        }
    }

    #[test]
    fn output_without_end_is_heard_and_forgotten() {
        let mut console = hear(mark(TOKEN, Step::Exec).as_bytes(), 100);
        for _ in 0..100 {
            console.hear(&[b'x'; 4096], Moment::from_nanos(9));
        }
        assert_eq!((console.heard().output.len(), console.tail.len()), (KEPT, TAIL));
    }

    #[test]
    fn last_lines_are_fit_for_a_terminal() {
        let text = format!("{}a\x1b[2Jb\u{9b}\n{}", "line\n".repeat(50), "x".repeat(1000));
        let lines = hear(text.as_bytes(), 100).last_lines();
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.get(LINES - 2).unwrap(), "a[2Jb");
        assert_eq!(lines.last().unwrap().len(), COLUMNS);
    }
}
