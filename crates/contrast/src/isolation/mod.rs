//! `vmm contrast`: what a container and a virtual machine keep apart, measured by one program that looks around
//! in both, and on the host itself.
//!
//! - [`answers`]: what that program says.
//! - [`trace`], [`surface`]: what is asked of the host's kernel from inside.
//! - [`run`]: every column filled, each part within its time.
//! - [`compare`]: from what was measured to lines with verdicts; nothing else makes one.
//! - [`render`]: the report in its forms.

pub mod answers;
pub mod compare;
mod escapes;
mod hostile;
mod judge;
mod render;
mod rules;
pub mod run;
mod surface;
#[cfg(test)]
mod tests;
mod trace;
mod trials;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fingerprint::Fingerprint;
use crate::report::{Image, parse_as};

pub use hostile::{Attack, Felt};
pub use render::{page, render};
pub use surface::Surface;

use answers::{Answers, Bomb, Hog};
use compare::Line;

/// The form of this report; another number means other meanings.
pub const FORM: &str = "vmm-contrast/isolation/1";

/// Everything about one `vmm contrast`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// [`FORM`].
    pub form: String,
    /// What this is, with what it is worth.
    pub title: String,
    /// Whether it was interrupted.
    pub partial: bool,
    /// The image as the user called it, and its identifier.
    pub image: Image,
    /// The host, the container, the machine.
    pub columns: Vec<Column>,
    /// What was measured, compared.
    pub lines: Vec<Line>,
    /// Identifiers of lines whose outcome is not what it should be.
    pub unexpected: Vec<String>,
    /// What was prepared before anything was measured.
    pub prepared: Vec<String>,
    /// What could not be done as asked.
    pub limitations: Vec<String>,
    /// The host.
    pub fingerprint: Fingerprint,
}

/// Reads a report.
///
/// # Errors
/// It is none, or of another form.
pub fn parse(text: &str) -> Result<Report, String> {
    parse_as(text, FORM, |report: &Report| &report.form)
}

/// One column.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Column {
    /// `host`, `container` or `vm`.
    pub name: String,
    /// What made it, such as `runc`.
    pub made_by: String,
    /// What that says its version is.
    pub version: Option<String>,
    /// The command lines by which the probe was started, in order.
    pub command_lines: Vec<String>,
    /// Why there is nothing to tell of it.
    pub failed: Option<String>,
    /// All that the probe said, as it said it.
    pub answers: Option<Value>,
    /// What was asked of the host's kernel while the work was done.
    pub surface: Option<Surface>,
}

/// What was measured in one column; `Err` is why not.
#[derive(Debug, Clone)]
pub struct Side {
    /// What the probe said.
    pub seen: Result<Seen, String>,
    /// What became of a process that took memory.
    pub hog: Result<Attack<Hog>, String>,
    /// What became of many processes.
    pub bomb: Result<Attack<Bomb>, String>,
    /// What was asked of the host's kernel.
    pub surface: Result<Surface, String>,
}

impl Side {
    /// A side of which nothing is known because of `why`.
    pub fn unknown(why: &str) -> Self {
        let why = || why.to_owned();
        Self { seen: Err(why()), hog: Err(why()), bomb: Err(why()), surface: Err(why()) }
    }
}

/// What a probe said, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// What it said.
    pub answers: Answers,
    /// When it was started, and when it had ended, in seconds of the host's monotonic clock.
    pub between: [f64; 2],
}
