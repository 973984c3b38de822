//! Tables on their way from one logd to another: JSON lines, the headings first, then one line a row,
//! each cell with its kind, so that whoever prints it does so in a form of its own.
//!
//! ```text
//! {"headings":["name","size"]}
//! {"row":[{"text":"web1:orders"},{"bytes":1024}]}
//! ```

use super::Cell;
use crate::error::{Error, Result};
use crate::format::TimestampMs;
use serde_json::{Value, json};
use std::time::Duration;

/// A table that is not printed yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Gathered {
    pub headings: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Gathered {
    pub fn new(headings: &[&str], rows: &[Vec<Cell>]) -> Gathered {
        Gathered {
            headings: headings.iter().map(|h| h.to_string()).collect(),
            rows: rows.to_vec(),
        }
    }
}

/// A table as text for another logd.
pub fn to_text(headings: &[&str], rows: &[Vec<Cell>]) -> String {
    let mut out = format!("{}\n", json!({ "headings": headings }));
    for row in rows {
        let row: Vec<Value> = row.iter().map(of_cell).collect();
        out.push_str(&format!("{}\n", json!({ "row": row })));
    }
    out
}

/// The tables in a text.
///
/// # Errors
/// `Data`: the other side printed something else.
pub fn from_text(text: &[u8]) -> Result<Vec<Gathered>> {
    let bad = || Error::data("what came back is no table: another version of logd, or no logd");
    let mut tables: Vec<Gathered> = Vec::new();
    for line in text.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let value: Value = serde_json::from_slice(line).map_err(|_| bad())?;
        if let Some(headings) = value.get("headings").and_then(Value::as_array) {
            let words = headings.iter().map(|h| h.as_str().map(str::to_string));
            tables.push(Gathered {
                headings: words.collect::<Option<_>>().ok_or_else(bad)?,
                rows: Vec::new(),
            });
            continue;
        }
        let row = value.get("row").and_then(Value::as_array).ok_or_else(bad)?;
        let row: Option<Vec<Cell>> = row.iter().map(to_cell).collect();
        let table = tables.last_mut().ok_or_else(bad)?;
        match row {
            Some(row) if row.len() == table.headings.len() => table.rows.push(row),
            _ => return Err(bad()),
        }
    }
    Ok(tables)
}

fn of_cell(cell: &Cell) -> Value {
    match cell {
        Cell::Text(s) => json!({ "text": s }),
        Cell::Number(n) => json!({ "number": n }),
        Cell::Bytes(n) => json!({ "bytes": n }),
        Cell::Time(t) => json!({ "time": t.0 }),
        Cell::Age(d) => json!({ "age": u64::try_from(d.as_millis()).unwrap_or(u64::MAX) }),
        Cell::Share(s) => json!({ "share": s }),
        Cell::None => Value::Null,
    }
}

fn to_cell(value: &Value) -> Option<Cell> {
    if value.is_null() {
        return Some(Cell::None);
    }
    let (kind, value) = value.as_object()?.iter().next()?;
    Some(match kind.as_str() {
        "text" => Cell::Text(value.as_str()?.to_string()),
        "number" => Cell::Number(value.as_i64()?),
        "bytes" => Cell::Bytes(value.as_u64()?),
        "time" => Cell::Time(TimestampMs(value.as_i64()?)),
        "age" => Cell::Age(Duration::from_millis(value.as_u64()?)),
        "share" => Cell::Share(value.as_f64()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let headings = ["a", "b", "c", "d", "e", "f", "g"];
        let row = vec![
            Cell::Text("x\ny\u{1b}".into()),
            Cell::Number(i64::MIN),
            Cell::Bytes(u64::MAX),
            Cell::Time(TimestampMs(-5)),
            Cell::Age(Duration::from_millis(1500)),
            Cell::Share(0.125),
            Cell::None,
        ];
        let rows = [row.clone(), row];
        let text = to_text(&headings, &rows) + &to_text(&["h"], &[]);
        let want = vec![Gathered::new(&headings, &rows), Gathered::new(&["h"], &[])];
        assert_eq!(from_text(text.as_bytes()).unwrap(), want);
        assert_eq!(from_text(b"").unwrap(), vec![]);
    }

    #[test]
    fn anything_else_is_no_table() {
        for text in [
            "hello",
            "{\"row\":[]}",
            "{\"headings\":[1]}",
            "{\"headings\":[\"a\"]}\n{\"row\":[]}",
            "{\"headings\":[\"a\"]}\n{\"row\":[{\"text\":1}]}",
            "{\"headings\":[\"a\"]}\n{\"row\":[{\"new\":1}]}",
        ] {
            assert!(from_text(text.as_bytes()).is_err(), "{text}");
        }
    }
}
