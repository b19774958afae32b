//! What is told about work that takes time: bars on a terminal, lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Bars, which need a terminal.
    Bars,
    /// A line for whatever is finished.
    Lines,
    /// Nothing.
    Quiet,
}

impl Mode {
    /// Bars if standard error is a terminal that can show them.
    pub fn choose(quiet: bool) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match quiet {
            true => Self::Quiet,
            false if std::io::stderr().is_terminal() && !dumb => Self::Bars,
            false => Self::Lines,
        }
    }
}

/// What is told about several things at once.
#[derive(Debug)]
pub struct Progress {
    mode: Mode,
    bars: MultiProgress,
}

/// What is told about one thing.
#[derive(Debug)]
pub struct Item {
    mode: Mode,
    name: String,
    bar: ProgressBar,
}

impl Progress {
    /// Tells on standard error.
    pub fn new(mode: Mode) -> Self {
        let target = match mode {
            Mode::Bars => ProgressDrawTarget::stderr(),
            Mode::Lines | Mode::Quiet => ProgressDrawTarget::hidden(),
        };
        Self { mode, bars: MultiProgress::with_draw_target(target) }
    }

    /// Something called `name`, of `total` bytes.
    pub fn item(&self, name: String, total: u64) -> Item {
        let form = "{prefix:<22} {bar:30} {bytes:>11} / {total_bytes:<11} {msg}";
        let style = ProgressStyle::with_template(form)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = self.bars.add(ProgressBar::new(total).with_style(style));
        bar.set_prefix(name.clone());
        Item { mode: self.mode, name, bar }
    }

    /// Something without a measure, such as a conversion.
    pub fn task(&self, name: String) -> Item {
        let style = ProgressStyle::with_template("{prefix:<22} {spinner} {bytes:>11} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style));
        bar.set_prefix(name.clone());
        if self.mode == Mode::Bars {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Item { mode: self.mode, name, bar }
    }
}

impl Item {
    /// More bytes have arrived.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Something has come up.
    pub fn note(&self, text: &str) {
        self.bar.set_message(text.to_owned());
        self.line(text);
    }

    /// It is done.
    pub fn done(&self, text: &str) {
        self.bar.finish_with_message(text.to_owned());
        self.line(text);
    }

    fn line(&self, text: &str) {
        if self.mode == Mode::Lines {
            // A reader that is gone costs the message alone.
            let _: std::io::Result<()> = writeln!(std::io::stderr(), "{}: {text}", self.name);
        }
    }
}
