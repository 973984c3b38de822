//! Reports: a table for eyes on a terminal, tab-separated text with one header row elsewhere, one
//! JSON object per line with `--json`. The machine forms never depend on the terminal.
//!
//! A column's JSON name is its heading with `_` for `-`; a number stays a number, a time is
//! milliseconds since 1970 there and RFC 3339 in text, and what is unknown is `null` and `-`.

use super::Context;
use crate::error::Result;
use crate::format::TimestampMs;
use crate::ops::output::date::rfc3339_string;
use crate::ops::output::escape::visible_string;
pub(super) use cells::{Gathered, from_text as from_cells};
use serde_json::Value;
use std::time::Duration;

mod cells;

/// A value in a report.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A word or a name.
    Text(String),
    /// A count or an offset.
    Number(i64),
    /// A number of bytes.
    Bytes(u64),
    /// A moment.
    Time(TimestampMs),
    /// A length of time.
    Age(Duration),
    /// A share, 0 to 1.
    Share(f64),
    /// Not known, or there is none.
    None,
}

impl Cell {
    /// A count; the largest that fits where it does not fit.
    pub fn count(n: usize) -> Cell {
        Cell::Number(i64::try_from(n).unwrap_or(i64::MAX))
    }

    /// As text; with units for a person where `human`.
    pub fn text(&self, human: bool) -> String {
        match self {
            Cell::Text(s) => visible_string(s.as_bytes()),
            Cell::Number(n) => n.to_string(),
            Cell::Bytes(n) if human => human_bytes(*n),
            Cell::Bytes(n) => n.to_string(),
            Cell::Time(t) => rfc3339_string(*t),
            Cell::Age(d) if human => human_age(*d),
            Cell::Age(d) => d.as_millis().to_string(),
            Cell::Share(s) => format!("{s:.3}"),
            Cell::None => "-".to_string(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(s) => Value::from(s.as_str()),
            Cell::Number(n) => Value::from(*n),
            Cell::Bytes(n) => Value::from(*n),
            Cell::Time(t) => Value::from(t.0),
            Cell::Age(d) => Value::from(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            Cell::Share(s) => Value::from((s * 1000.0).round() / 1000.0),
            Cell::None => Value::Null,
        }
    }

    fn is_text(&self) -> bool {
        matches!(self, Cell::Text(_) | Cell::Time(_))
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Cell {
        value.map_or(Cell::None, Into::into)
    }
}

impl From<Duration> for Cell {
    fn from(age: Duration) -> Cell {
        Cell::Age(age)
    }
}

impl From<TimestampMs> for Cell {
    fn from(t: TimestampMs) -> Cell {
        Cell::Time(t)
    }
}

impl From<crate::format::Offset> for Cell {
    fn from(o: crate::format::Offset) -> Cell {
        Cell::Number(o.0)
    }
}

/// `2d4h`: two units at most, a DURATION again.
pub fn human_age(age: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let seconds = age.as_secs();
    let Some(at) = UNITS.iter().position(|(_, n)| seconds >= *n) else {
        return format!("{}ms", age.subsec_millis());
    };
    let mut left = seconds;
    let mut out = String::new();
    for (name, n) in UNITS.iter().skip(at).take(2) {
        if left / n > 0 {
            out.push_str(&format!("{}{name}", left / n));
        }
        left %= n;
    }
    out
}

/// `1.5 GiB`: three digits at most before the unit.
pub fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    match value {
        _ if n < 1000 => format!("{n} B"),
        v if v < 9.95 => format!("{v:.1} {name}"),
        v => format!("{v:.0} {name}"),
    }
}

/// Prints `rows` under `headings`, in the form that the command line and stdout ask for.
///
/// # Errors
/// stdout cannot be written.
pub fn print(ctx: &mut Context, headings: &[&str], rows: &[Vec<Cell>]) -> Result<()> {
    if let Some(tables) = &mut ctx.tables {
        tables.push(Gathered::new(headings, rows));
        return Ok(());
    }
    if ctx.caller.cells {
        let text = cells::to_text(headings, rows);
        return ctx.stdout.put(text.as_bytes());
    }
    let text = if ctx.json {
        rows.iter().map(|r| json_line(headings, r)).collect()
    } else if ctx.stdout.is_terminal() {
        aligned(headings, rows)
    } else {
        tab_separated(headings, rows)
    };
    ctx.stdout.put(text.as_bytes())
}

/// Prints tables that were gathered, those with the same headings as one.
///
/// # Errors
/// As [`print`].
pub(super) fn print_gathered(ctx: &mut Context, tables: Vec<Gathered>) -> Result<()> {
    let mut whole: Vec<Gathered> = Vec::new();
    for table in tables {
        match whole.last_mut() {
            Some(last) if last.headings == table.headings => last.rows.extend(table.rows),
            _ => whole.push(table),
        }
    }
    for Gathered { headings, rows } in &whole {
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        print(ctx, &headings, rows)?;
    }
    Ok(())
}

fn json_line(headings: &[&str], row: &[Cell]) -> String {
    let names = headings.iter().map(|h| h.replace('-', "_"));
    let object: serde_json::Map<_, _> = names.zip(row.iter().map(Cell::json)).collect();
    format!("{}\n", Value::Object(object))
}

fn tab_separated(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut out = headings.join("\t") + "\n";
    for row in rows {
        let cells: Vec<String> = row.iter().map(|c| c.text(false)).collect();
        out.push_str(&cells.join("\t"));
        out.push('\n');
    }
    out
}

fn aligned(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let text: Vec<Vec<String>> = rows
        .iter()
        .map(|r| r.iter().map(|c| c.text(true)).collect())
        .collect();
    let columns: Vec<(usize, bool)> = headings
        .iter()
        .enumerate()
        .map(|(i, h)| {
            let cells = text.iter().filter_map(|r| r.get(i));
            let widest = cells.map(|c| c.chars().count()).max().unwrap_or(0);
            let left = rows.iter().any(|r| r.get(i).is_some_and(Cell::is_text));
            (widest.max(h.len()), left)
        })
        .collect();
    let headings: Vec<String> = headings.iter().map(|h| h.to_string()).collect();
    let mut out = String::new();
    for row in std::iter::once(&headings).chain(&text) {
        let mut line = String::new();
        for (cell, (width, left)) in row.iter().zip(&columns) {
            let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
            match left {
                true => line.push_str(&format!("{cell}{pad}  ")),
                false => line.push_str(&format!("{pad}{cell}  ")),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_two_or_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_bytes(n), text);
        }
    }

    #[test]
    fn ages_have_two_units_at_most() {
        for (ms, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (61_999, "1m1s"),
            (3_600_000, "1h"),
            (90_061_000, "1d1h"),
        ] {
            assert_eq!(human_age(Duration::from_millis(ms)), text);
        }
        assert_eq!(Cell::Age(Duration::from_secs(2)).text(false), "2000");
    }

    #[test]
    fn each_form_shows_the_same_row() {
        let headings = ["name", "dirty-ratio", "bytes", "oldest"];
        let row = vec![
            Cell::Text("a\tb".into()),
            Cell::Share(0.25),
            Cell::Bytes(2048),
            Cell::None,
        ];
        assert_eq!(
            json_line(&headings, &row),
            "{\"name\":\"a\\tb\",\"dirty_ratio\":0.25,\"bytes\":2048,\"oldest\":null}\n"
        );
        let rows = [row];
        assert_eq!(
            tab_separated(&headings, &rows),
            "name\tdirty-ratio\tbytes\toldest\na\\x09b\t0.250\t2048\t-\n"
        );
        assert_eq!(
            aligned(&headings, &rows),
            "name    dirty-ratio    bytes  oldest\na\\x09b        0.250  2.0 KiB       -\n"
        );
    }
}
