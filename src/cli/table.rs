//! Aligned columns, and numbers and sizes as people read them.
//!
//! **Invariant.** A table has no rules, no colour and no trailing spaces: what it prints can be read by eye, by `awk`, and
//! by a snapshot test alike.
//!
//! ```text
//!           p50 ms   p99 ms   kernels    scratch
//! unfused   0.0292   0.0471        31   29.0 KiB
//! fused     0.0264   0.0427        13   33.5 KiB
//! ```

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// How the cells of a column stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Spaces between two columns.
const GAP: u16 = 3;

/// The rows under a header, each column as wide as its widest cell. A header of empty names is left out.
pub fn columns(header: &[(&str, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if header.iter().any(|(name, _)| !name.is_empty()) {
        table.set_header(header.iter().map(|(name, _)| *name));
    }
    table.add_rows(rows);
    for (column, (index, (_, align))) in table.column_iter_mut().zip(header.iter().enumerate()) {
        column.set_padding((if index == 0 { 0 } else { GAP }, 0));
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_string()).collect();
    lines.join("\n") + "\n"
}

/// A number of bytes: `640 B`, `24.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(count as f64, 1024.0, &UNITS)
}

/// A large count: `980`, `25.6 M`.
pub fn count(count: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    scaled(count, 1000.0, &UNITS)
}

/// The number in the largest unit that leaves at least 1 before the point; whole where it is small.
fn scaled(mut value: f64, base: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.95 would be rounded to `1000.0`: the next unit is due.
    while value >= base - 0.05 && unit + 1 < units.len() {
        value /= base;
        unit += 1;
    }
    let number = if unit == 0 { format!("{value:.0}") } else { format!("{value:.1}") };
    format!("{number} {}", units[unit]).trim_end().to_string()
}

/// Milliseconds with as many digits as a timer is good for: microseconds, and below 0.1 ms tenths of them.
pub fn milliseconds(value: f64) -> String {
    if value < 0.1 { format!("{value:.4}") } else { format!("{value:.3}") }
}

/// `1 kernel`, `2 kernels`.
pub fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_end_cleanly() {
        let rows = [["unfused", "21.400", "x"], ["fused", "2.810", "a longer one"]];
        let rows = rows.map(|row| row.map(String::from).to_vec());
        let header = [("", Align::Left), ("p50 ms", Align::Right), ("note", Align::Left)];
        let expected = ["          p50 ms   note", "unfused   21.400   x", "fused      2.810   a longer one"];
        assert_eq!(columns(&header, rows.clone()).lines().collect::<Vec<_>>(), expected);
        let bare = columns(&[("", Align::Left); 3], rows);
        assert_eq!(bare, "unfused   21.400   x\nfused     2.810    a longer one\n");
    }

    #[test]
    fn sizes_have_units() {
        let sizes = [0, 640, 1024, 1 << 20, 25_690_112, (1 << 30) - 1].map(bytes);
        assert_eq!(sizes, ["0 B", "640 B", "1.0 KiB", "1.0 MiB", "24.5 MiB", "1.0 GiB"]);
        assert_eq!([980.0, 25_557_032.0].map(count), ["980", "25.6 M"]);
        assert_eq!([12.5, 0.01234].map(milliseconds), ["12.500", "0.0123"]);
        assert_eq!([plural(1, "run"), plural(0, "run")], ["1 run", "0 runs"]);
    }
}
