//! Where a report goes, and in which forms.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::report::{Format, Report, html, render};

/// The forms of a report that are asked for, each with its place.
#[derive(Debug, Args)]
pub(super) struct Forms {
    /// Form of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "table")]
    format: Format,

    /// Write the report to a file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write it to this file as well, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Write it to this file as well, as a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What [`Forms`] name, opened.
pub(super) struct Destinations {
    format: Format,
    output: Output,
    json: Option<Output>,
    html: Option<Output>,
}

impl Forms {
    /// Opens all files, so that one that cannot be written is told before anything is measured.
    ///
    /// # Errors
    /// A file cannot be written, or is named twice.
    pub(super) fn open(&self) -> Result<Destinations> {
        let named: Vec<&PathBuf> =
            [&self.output, &self.json, &self.html].into_iter().flatten().collect();
        for (index, path) in named.iter().enumerate() {
            let again = named.iter().skip(index + 1).any(|other| other == path);
            ensure!(!again, "{} cannot hold two forms of a report", path.display());
        }
        let open = |path: &Option<PathBuf>| match path {
            Some(path) => Output::open(Some(path)).map(Some),
            None => Ok(None),
        };
        Ok(Destinations {
            format: self.format,
            output: Output::open(self.output.as_deref())?,
            json: open(&self.json)?,
            html: open(&self.html)?,
        })
    }
}

impl Destinations {
    /// Writes the report in all its forms, also if one cannot be written.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn write(self, report: &Report) -> Result<()> {
        self.write_forms(|format| render(report, format), || html(report))
    }

    /// The same of any report: `form` gives it in a form, `page` as a page.
    ///
    /// # Errors
    /// One cannot be written.
    pub(super) fn write_forms(
        self,
        form: impl Fn(Format) -> serde_json::Result<String>,
        page: impl Fn() -> String,
    ) -> Result<()> {
        let page = self.html.map_or(Ok(()), |file| file.write(&page()));
        let json = match self.json {
            Some(file) => form(Format::Json).map_err(Into::into).and_then(|text| file.write(&text)),
            None => Ok(()),
        };
        self.output.write(&form(self.format)?)?;
        page.and(json)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_comes_to_nothing_leaves_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new");
        drop(Output::open(Some(&path)).unwrap());
        assert!(!path.exists());
        Output::open(Some(&path)).unwrap().write("x").unwrap();
        drop(Output::open(Some(&path)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x");
    }
}
