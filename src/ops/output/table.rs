//! csv and tsv: rows quoted by the rules of the csv crate (RFC 4180, only where needed).
//!
//! The header row is the columns' names. A tombstone and an empty value are both an empty cell.
//! Bytes that are not UTF-8 stay as they are.

use super::{Meta, decimal, header_list, shown};
use crate::error::Result;
use crate::format::record::Record;
use crate::ops::words::bad;

/// A column of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableColumn {
    /// Offset.
    Offset,
    /// Timestamp in milliseconds.
    Ts,
    /// Key.
    Key,
    /// Value.
    Value,
    /// Topic name.
    Topic,
    /// Partition number.
    Partition,
    /// Headers as `n=v,…`.
    Headers,
}

const NAMED: [(&str, TableColumn); 7] = [
    ("offset", TableColumn::Offset),
    ("ts", TableColumn::Ts),
    ("key", TableColumn::Key),
    ("value", TableColumn::Value),
    ("topic", TableColumn::Topic),
    ("partition", TableColumn::Partition),
    ("headers", TableColumn::Headers),
];

/// The columns printed unless `--columns` says otherwise: the first four.
const DEFAULT_COUNT: usize = 4;

impl TableColumn {
    /// Reads the LIST of `--columns`.
    ///
    /// # Errors
    /// Usage, when a name is not a column.
    pub fn parse_list(word: &str) -> Result<Vec<TableColumn>> {
        word.split(',')
            .map(|name| {
                let found = NAMED.iter().find(|(n, _)| *n == name);
                found.map(|(_, c)| *c).ok_or_else(|| {
                    let what = "the columns are offset, ts, key, value, topic, partition, headers";
                    bad(name, what)
                })
            })
            .collect()
    }

    fn name(self) -> &'static str {
        let found = NAMED.iter().find(|(_, c)| *c == self);
        found.map_or("", |(n, _)| n)
    }
}

/// Writes rows.
#[derive(Debug)]
pub struct Table {
    delimiter: u8,
    quoting: csv_core::Writer,
    columns: Vec<TableColumn>,
    /// A cell that is put together before it is quoted.
    cell: Vec<u8>,
}

impl Table {
    /// Rows with this delimiter and these columns, or the default ones.
    pub fn new(delimiter: u8, columns: &[TableColumn]) -> Table {
        let columns = match columns {
            [] => NAMED.iter().take(DEFAULT_COUNT).map(|(_, c)| *c).collect(),
            _ => columns.to_vec(),
        };
        Table {
            delimiter,
            quoting: csv_core::WriterBuilder::new().delimiter(delimiter).build(),
            columns,
            cell: Vec::new(),
        }
    }

    /// Appends the header row.
    pub fn header(&self, out: &mut Vec<u8>) {
        let names: Vec<&str> = self.columns.iter().map(|c| c.name()).collect();
        let delimiter = char::from(self.delimiter).to_string();
        out.extend_from_slice(names.join(&delimiter).as_bytes());
        out.push(b'\n');
    }

    /// Appends the row of `record`.
    pub fn row(&mut self, out: &mut Vec<u8>, meta: &Meta<'_>, record: &Record<'_>, visible: bool) {
        for (i, column) in self.columns.iter().enumerate() {
            if i > 0 {
                out.push(self.delimiter);
            }
            let bytes = match column {
                TableColumn::Offset => {
                    decimal(record.offset.0, out);
                    continue;
                }
                TableColumn::Ts => {
                    decimal(record.timestamp.0, out);
                    continue;
                }
                TableColumn::Partition => {
                    decimal(meta.partition, out);
                    continue;
                }
                TableColumn::Key => record.key.unwrap_or_default(),
                TableColumn::Value => record.value.unwrap_or_default(),
                TableColumn::Topic => meta.topic.as_bytes(),
                TableColumn::Headers => {
                    self.cell.clear();
                    header_list(&record.headers, &mut self.cell);
                    &self.cell
                }
            };
            // A row of one empty cell would be a blank line, which no reader takes for a row.
            let alone = self.columns.len() == 1 && bytes.is_empty();
            let bytes = shown(visible, bytes);
            match alone || self.quoting.should_quote(&bytes) {
                true => quoted(&bytes, out),
                false => out.extend_from_slice(&bytes),
            }
        }
        out.push(b'\n');
    }
}

/// Appends a cell in quotes, those within it doubled.
fn quoted(cell: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = cell;
    while let Some(n) = memchr::memchr(b'"', rest) {
        let (upto, after) = rest.split_at(n + 1);
        out.extend_from_slice(upto);
        out.push(b'"');
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
