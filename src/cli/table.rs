//! Tables for people.

use std::io::Write;

/// Rows in columns as wide as their widest cell.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    /// Adds a row. What cannot be shown, such as the controls of a terminal, is left out.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| cell.chars().filter(|c| !c.is_control()).collect()));
    }

    /// Writes the table to standard output.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn print(&self) -> std::io::Result<()> {
        std::io::stdout().write_all(self.text().as_bytes())
    }

    fn text(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..N).map(width).collect();
        let line = |row: &[String; N]| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   "));
            format!("{}\n", cells.collect::<String>().trim_end())
        };
        self.rows.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["A", "NAME"]);
        table.row(["long".to_owned(), "x\u{1b}[2J".to_owned()]);
        table.row(["b".to_owned(), String::new()]);
        assert_eq!(table.text(), "A      NAME\nlong   x[2J\nb\n");
    }
}
