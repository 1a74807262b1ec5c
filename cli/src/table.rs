//! Text in columns, for terminals.

use std::fmt;

/// Rows below a heading.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns whose cells stand at the right.
    right: Vec<bool>,
}

impl Table {
    /// Only a heading; a word after `>` heads a column of numbers.
    pub(crate) fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![
                heading
                    .iter()
                    .map(|word| word.trim_start_matches('>').to_owned())
                    .collect(),
            ],
            right: heading.iter().map(|word| word.starts_with('>')).collect(),
        }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.map(shown).into());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.right.len()).map(|column| self.width(column)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                line += &match right {
                    true => format!("{cell:>width$}  "),
                    false => format!("{cell:<width$}  "),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["NAME", ">SIZE", "WHERE"]);
        table.row(["a".into(), "1 KiB".into(), String::new()]);
        table.row(["longer".into(), "100 MiB".into(), "x|y".into()]);
        let expected = "NAME       SIZE  WHERE\na         1 KiB  -\nlonger  100 MiB  x|y\n";
        assert_eq!(table.to_string(), expected);
    }
}
