//! The forms of a report.

use clap::ValueEnum;

use super::{Figures, Report, csv, figures_text, html as page, markdown, table};

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: resources/bench-startup.schema.json and bench-figures.schema.json describe it
    Json,
    /// One line for each arm and circumstances
    Csv,
    /// For a page
    Markdown,
}

/// The report in a form.
///
/// # Errors
/// It cannot be written as JSON.
pub fn render(report: &Report, format: Format) -> Result<String, serde_json::Error> {
    Ok(match format {
        Format::Table => table::of(report),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(report)?;
            text.push('\n');
            text
        }
        Format::Csv => csv::of(report),
        Format::Markdown => markdown::of(report),
    })
}

/// The report as a page that stands by itself.
pub fn html(report: &Report) -> String {
    page::of(report)
}

/// The report of several figures in a form.
///
/// # Errors
/// It cannot be written as JSON.
pub fn render_figures(report: &Figures, format: Format) -> Result<String, serde_json::Error> {
    Ok(match format {
        Format::Table => figures_text::table(report),
        Format::Json => {
            let mut text = serde_json::to_string_pretty(report)?;
            text.push('\n');
            text
        }
        Format::Csv => figures_text::csv(report),
        Format::Markdown => figures_text::markdown(report),
    })
}
