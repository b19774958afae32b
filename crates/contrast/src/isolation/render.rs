//! The report in its forms.

use std::fmt::Write as _;

use super::compare::{Cell, Line};
use super::{Column, Report};
use crate::page::{self, Page, Tone};
use crate::report::Format;

/// Characters of the columns of the table: what, host, container, machine.
const WIDTHS: [usize; 4] = [24, 26, 38, 38];

/// The report in a form.
///
/// # Errors
/// It cannot be written as JSON.
pub fn render(report: &Report, format: Format) -> Result<String, serde_json::Error> {
    Ok(match format {
        Format::Table => table(report),
        Format::Json => format!("{}\n", serde_json::to_string_pretty(report)?),
        Format::Csv => csv(report),
        Format::Markdown => markdown(report),
    })
}

/// The report as a page that stands by itself.
pub fn page(report: &Report) -> String {
    let mut page = Page::new(&report.title);
    let unexpected = match report.unexpected.is_empty() {
        true => page::notice(Tone::Good, "Nothing is other than expected", &report.unexpected),
        false => page::notice(Tone::Bad, "Not as expected", &report.unexpected),
    };
    page.add(&unexpected);
    for (group, lines) in groups(report) {
        let [_, host, container, vm] = headings(report);
        let mut rows = vec![vec![group.to_owned(), host, container, vm, "measured by".to_owned()]];
        let row =
            |line: &&Line| [&cells(report, line)[..], std::slice::from_ref(&line.how)].concat();
        rows.extend(lines.iter().map(row));
        page.section(group, &page::words(group, &rows));
    }
    for (heading, list) in sections(report) {
        if !list.is_empty() && !["How it was measured", "Not as expected"].contains(&heading) {
            page.section(heading, &page::list(&list));
        }
    }
    page.render()
}

/// A cell as it is read: what was measured, and what that means.
fn read(cell: &Cell) -> String {
    let mark = if cell.expected == Some(false) { " (NOT AS EXPECTED)" } else { "" };
    match &cell.value {
        Some(value) => format!("{value}: {}{mark}", cell.says),
        None => format!("{}{mark}", cell.says),
    }
}

/// The cells of a line; nothing stands in a column that has failed as a whole.
fn cells(report: &Report, line: &Line) -> [String; 4] {
    let none = || "-".to_owned();
    let failed = |index: usize| report.columns.get(index).is_none_or(|own| own.failed.is_some());
    let cell = |index, cell| if failed(index) { none() } else { read(cell) };
    let host = line.host.clone().unwrap_or_else(none);
    [line.what.clone(), host, cell(1, &line.container), cell(2, &line.vm)]
}

fn headings(report: &Report) -> [String; 4] {
    let column = |index: usize| {
        let column = report.columns.get(index);
        column
            .map_or_else(String::new, |Column { name, made_by, .. }| format!("{name} ({made_by})"))
    };
    [String::new(), "host".to_owned(), column(1), column(2)]
}

/// Lines by the group they belong to, in order.
fn groups(report: &Report) -> Vec<(&str, Vec<&Line>)> {
    let mut groups: Vec<(&str, Vec<&Line>)> = vec![];
    for line in &report.lines {
        match groups.iter_mut().find(|(group, _)| *group == line.group) {
            Some((_, lines)) => lines.push(line),
            None => groups.push((&line.group, vec![line])),
        }
    }
    groups
}

/// What stands below the lines.
fn sections(report: &Report) -> Vec<(&'static str, Vec<String>)> {
    let failed = report.columns.iter().filter_map(|column| {
        column.failed.as_ref().map(|why| format!("{} ({}): {why}", column.name, column.made_by))
    });
    let commands = report.columns.iter().flat_map(|column| {
        column.command_lines.iter().map(|line| format!("{}: {line}", column.name))
    });
    let how = report.lines.iter().map(|line| format!("{}: {}", line.what, line.how));
    let asked = report.columns.iter().filter_map(|column| {
        column.surface.as_ref().map(|surface| format!("{}: {surface}", column.name))
    });
    vec![
        ("Failed", failed.collect()),
        ("Not as expected", report.unexpected.clone()),
        ("How it was measured", how.collect()),
        ("Asked of the host's kernel, how often", asked.collect()),
        ("Command lines", commands.collect()),
        ("Prepared beforehand", report.prepared.clone()),
        ("Not as asked", report.limitations.clone()),
    ]
}

fn table(report: &Report) -> String {
    let mut text = format!("{}\n\n", report.title);
    row(&mut text, &headings(report));
    for (group, lines) in groups(report) {
        let _ = writeln!(text, "\n{}", group.to_uppercase());
        lines.iter().for_each(|line| row(&mut text, &cells(report, line)));
    }
    for (heading, list) in sections(report) {
        if !list.is_empty() {
            let _ = writeln!(text, "\n{heading}:");
            list.iter().for_each(|line| {
                let _ = writeln!(text, "  {line}");
            });
        }
    }
    text
}

/// Cells beside each other, each broken into lines where it is too wide.
fn row(text: &mut String, cells: &[String; 4]) {
    let parts: Vec<Vec<String>> =
        cells.iter().zip(WIDTHS).map(|(cell, width)| wrapped(cell, width)).collect();
    let height = parts.iter().map(Vec::len).max().unwrap_or(0);
    for index in 0..height {
        let part = |(lines, width): (&Vec<String>, usize)| {
            let part = lines.get(index).map_or("", String::as_str);
            format!("{part:<width$}")
        };
        let line: Vec<String> = parts.iter().zip(WIDTHS).map(part).collect();
        let _ = writeln!(text, "{}", line.join("  ").trim_end());
    }
}

/// A text in lines of `width` characters at most, broken between words where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        for (index, piece) in letters.chunks(width).enumerate() {
            let piece: String = piece.iter().collect();
            match lines.last_mut() {
                Some(line)
                    if index == 0 && line.chars().count() + 1 + piece.chars().count() <= width =>
                {
                    line.push(' ');
                    line.push_str(&piece);
                }
                _ => lines.push(piece),
            }
        }
    }
    lines
}

fn markdown(report: &Report) -> String {
    let escaped = |text: &str| {
        text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace('*', "\\*")
    };
    let mut text = format!("## {}\n", report.title);
    for (group, lines) in groups(report) {
        let [_, host, container, vm] = headings(report);
        let _ = writeln!(text, "\n### {group}\n\n| | {host} | {container} | {vm} | measured by |");
        let _ = writeln!(text, "|---|---|---|---|---|");
        for line in lines {
            let [what, host, container, vm] = cells(report, line).map(|cell| escaped(&cell));
            let _ =
                writeln!(text, "| {what} | {host} | {container} | {vm} | {} |", escaped(&line.how));
        }
    }
    for (heading, list) in sections(report) {
        if !list.is_empty() && heading != "How it was measured" {
            let _ = writeln!(text, "\n{heading}:\n");
            list.iter().for_each(|line| {
                let _ = writeln!(text, "- {}", escaped(line));
            });
        }
    }
    text
}

/// One line for each column of each line (RFC 4180).
fn csv(report: &Report) -> String {
    let mut text = "line,group,what,column,value,verdict,says,expected,how\r\n".to_owned();
    for line in &report.lines {
        for (column, cell) in [("container", &line.container), ("vm", &line.vm)] {
            let verdict = serde_json::to_value(cell.verdict).unwrap_or_default();
            let expected = cell.expected.map_or_else(String::new, |expected| expected.to_string());
            let verdict = verdict.as_str().unwrap_or_default();
            let value = cell.value.as_deref().unwrap_or_default();
            let cells = [&*line.id, &line.group, &line.what, column, value, verdict, &cell.says];
            put(&mut text, &[&cells[..], &[&expected, &line.how]].concat());
        }
        let host = line.host.as_deref().unwrap_or_default();
        put(&mut text, &[&line.id, &line.group, &line.what, "host", host, "", "", "", &line.how]);
    }
    text
}

fn put(text: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| crate::report::quoted(cell)).collect();
    let _ = write!(text, "{}\r\n", cells.join(","));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_broken_between_words_and_long_words_anywhere() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrapped("", 4), Vec::<String>::new());
    }
}
