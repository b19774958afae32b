//! Where a report goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file that was opened before anything was measured, or standard output.
pub(super) struct Output {
    file: Option<(PathBuf, File)>,
    /// The file was made for this, and goes if nothing is written.
    new: bool,
}

impl Output {
    /// Opens `path`, if any; what is in it stays until there is something to write.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None, new: false }) };
        let new = !path.exists();
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path);
        let file = file.with_context(|| format!("write {}", path.display()))?;
        Ok(Self { file: Some((path.to_owned(), file)), new })
    }

    /// Writes the report. A reader of standard output that has seen enough is no error.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(mut self, text: &str) -> Result<()> {
        self.new = false;
        let Some((path, mut file)) = self.file.take() else {
            return match io::stdout().write_all(text.as_bytes()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
                written => written.context("write to standard output"),
            };
        };
        // A device has no length.
        let _ = file.set_len(0);
        file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let (true, Some((path, _))) = (self.new, &self.file) {
            let _ = fs::remove_file(path);
        }
    }
}
