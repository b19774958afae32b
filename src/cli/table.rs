//! Columns for people.

use serde::Serialize;

use super::report::one_line;

/// Spaces between columns.
const GAP: usize = 3;

/// Rows below a head, each column as wide as its widest cell. Control characters are spelled out.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let head = head.map(str::to_owned);
    let rows: Vec<[String; N]> = std::iter::once(&head)
        .chain(rows)
        .map(|row| row.each_ref().map(|cell| one_line(cell)))
        .collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(&format!("{cell:<width$}", width = width + GAP));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A list for programs, which people look at, too: controls that JSON leaves as they are, DEL and those that
/// some terminals obey, are spelled out.
pub(super) fn json(list: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(list)?;
    let mut safe = String::with_capacity(text.len().saturating_add(1));
    for c in text.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => safe.push(c),
        }
    }
    safe.push('\n');
    Ok(safe)
}

/// Bytes with a unit that fits, in powers of a thousand as disks and registries count.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = if value < 9.95 && unit != "B" { 1 } else { 0 };
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1}TB")
}

/// How long ago it was.
pub(super) fn ago(seconds: u64) -> String {
    format!("{} ago", duration(seconds))
}

/// A time in the largest unit that fits.
pub(super) fn duration(seconds: u64) -> String {
    let units = [
        (365 * 24 * 3600, "year"),
        (30 * 24 * 3600, "month"),
        (24 * 3600, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let fits = units.into_iter().find(|(length, _)| seconds >= *length);
    let (length, unit) = fits.unwrap_or((1, "second"));
    let count = seconds / length;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [["a".to_owned(), "long cell".to_owned()], ["\u{1b}[2J".to_owned(), "x".to_owned()]];
        let text = table(["NAME", "B"], &rows);
        assert_eq!(text, "NAME        B\na           long cell\n\\u{1b}[2J   x\n");
    }

    /// S3.
    #[test]
    fn json_has_no_controls_and_reads_back_the_same() {
        let list = ["a\u{1b}[2J\u{9b}2J\u{7f}\nü"];
        let text = json(&list).unwrap();
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&text).unwrap(), list);
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (count, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (9_949, "9.9kB"),
            (9_960, "10kB"),
            (7_800_000, "7.8MB"),
            (123_456_789, "123MB"),
            (999_600_000, "1.0GB"),
            (u64::MAX, "18446744.1TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(ago(0), "0 seconds ago");
        assert_eq!(ago(86_400), "1 day ago");
        assert_eq!(ago(3 * 3600 + 1), "3 hours ago");
    }
}
