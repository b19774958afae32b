//! A report for a page.

use std::fmt::Write as _;

use super::table::Section;
use super::{Report, table};

pub(super) fn of(report: &Report) -> String {
    let commands = report.arms.iter().map(|arm| (&*arm.name, arm.command_line.as_deref()));
    text(&report.title, &table::rows(report), &table::sections(report), commands)
}

/// A title, a table with its headings first, lists below it, and the command lines of those that have one.
pub(super) fn text<'r>(
    title: &str,
    rows: &[Vec<String>],
    sections: &[Section],
    commands: impl Iterator<Item = (&'r str, Option<&'r str>)>,
) -> String {
    let mut text = format!("## {title}\n\n");
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    for (heading, list) in sections.iter().filter(|(_, list)| !list.is_empty()) {
        let _ = writeln!(text, "\n{heading}:\n");
        for line in list {
            let _ = writeln!(text, "- {line}");
        }
    }
    text.push_str("\nCommand lines:\n\n```text\n");
    for (name, line) in commands {
        if let Some(line) = line {
            let _ = writeln!(text, "# {name}\n{line}");
        }
    }
    text.push_str("```\n");
    text
}
