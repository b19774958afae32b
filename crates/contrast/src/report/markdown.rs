//! The report for a page.

use std::fmt::Write as _;

use super::{Report, table};

pub(super) fn of(report: &Report) -> String {
    let mut text = format!("## {}\n\n", report.title);
    for (index, row) in table::rows(report).iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if index == 0 {
            let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
        }
    }
    for (heading, list) in table::sections(report) {
        if !list.is_empty() {
            let _ = writeln!(text, "\n{heading}:\n");
            for line in list {
                let _ = writeln!(text, "- {line}");
            }
        }
    }
    let _ = writeln!(text, "\nCommand lines:\n\n```text");
    for arm in &report.arms {
        if let Some(line) = &arm.command_line {
            let _ = writeln!(text, "# {}\n{line}", arm.name);
        }
    }
    text.push_str("```\n");
    text
}
