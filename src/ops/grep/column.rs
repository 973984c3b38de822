//! A cell of a csv or tsv row.
//!
//! Rows lie in the log as they were read, without the header row, so a cell is known by its number.
//! A row with a tab in it is a tsv row, any other a csv row. Quoting is that of `append -F csv`.

use std::ops::Range;

use csv_core::{ReadFieldResult, Reader, ReaderBuilder};

/// Finds cells.
pub(in crate::ops) struct Cells {
    csv: Reader,
    tsv: Reader,
    cell: Vec<u8>,
}

impl Cells {
    pub(in crate::ops) fn new() -> Cells {
        let reader = |delimiter| ReaderBuilder::new().delimiter(delimiter).build();
        Cells {
            csv: reader(b','),
            tsv: reader(b'\t'),
            cell: Vec::new(),
        }
    }

    /// The cell of this number, counted from 0; `None` if the row has fewer.
    pub(super) fn get<'a>(&'a mut self, row: &'a [u8], number: usize) -> Option<&'a [u8]> {
        if memchr::memchr3(b'"', b'\r', b'\n', row).is_none() {
            let is_tsv = memchr::memchr(b'\t', row).is_some();
            let delimiter = if is_tsv { b'\t' } else { b',' };
            return row.split(|b| *b == delimiter).nth(number);
        }
        let place = self.seek(row, number)?;
        self.cell.get(..place.len)
    }

    /// Where the cell of this number lies in the row, quotes included; `None` if the row has fewer.
    pub(in crate::ops) fn span(&mut self, row: &[u8], number: usize) -> Option<Range<usize>> {
        let place = self.seek(row, number)?;
        if !place.is_last {
            return Some(place.begin..place.end - 1);
        }
        let cell = row.get(place.begin..place.end).unwrap_or_default();
        let line_end = |b: &&u8| matches!(b, b'\r' | b'\n');
        let over = cell.iter().rev().take_while(line_end).count();
        Some(place.begin..place.end - over)
    }

    /// Whether there is anything behind the first row: a value of several rows has cells that no
    /// number leads to.
    pub(in crate::ops) fn has_more_rows(&mut self, rows: &[u8]) -> bool {
        self.cell.resize(rows.len(), 0);
        let reader = begin(&mut self.csv, &mut self.tsv, rows);
        let mut at = 0;
        loop {
            let rest = rows.get(at..).unwrap_or_default();
            let (result, read, _) = reader.read_field(rest, &mut self.cell);
            at += read;
            match result {
                ReadFieldResult::InputEmpty => {}
                ReadFieldResult::Field { record_end: false } => {}
                _ => break,
            }
        }
        let rest = rows.get(at..).unwrap_or_default();
        rest.iter().any(|b| !matches!(b, b'\r' | b'\n'))
    }

    /// Reads the row up to the cell of this number, whose content is then in `self.cell`.
    fn seek(&mut self, row: &[u8], number: usize) -> Option<Place> {
        // A cell is never longer than the row.
        self.cell.resize(row.len(), 0);
        let reader = begin(&mut self.csv, &mut self.tsv, row);
        let (mut at, mut begin, mut end, mut len) = (0, 0, 0, 0);
        loop {
            let rest = row.get(end..).unwrap_or_default();
            let out = self.cell.get_mut(len..).unwrap_or_default();
            // No bytes mean the end of the row, which ends its last cell.
            let (result, read, written) = reader.read_field(rest, out);
            end += read;
            len += written;
            match result {
                ReadFieldResult::InputEmpty => {}
                ReadFieldResult::OutputFull | ReadFieldResult::End => return None,
                ReadFieldResult::Field { record_end } if at < number => {
                    if record_end {
                        return None;
                    }
                    (at, begin, len) = (at + 1, end, 0);
                }
                ReadFieldResult::Field { record_end } => {
                    return Some(Place {
                        begin,
                        end,
                        len,
                        is_last: record_end,
                    });
                }
            }
        }
    }
}

/// The reader for this row, at its beginning.
fn begin<'r>(csv: &'r mut Reader, tsv: &'r mut Reader, row: &[u8]) -> &'r mut Reader {
    let reader = match memchr::memchr(b'\t', row) {
        Some(_) => tsv,
        None => csv,
    };
    reader.reset();
    reader
}

/// Where a cell was found.
struct Place {
    /// Of its bytes in the row, with quotes and with what ends it.
    begin: usize,
    end: usize,
    /// Of its content.
    len: usize,
    /// Whether the row ends with it.
    is_last: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_found_by_number() {
        let mut cells = Cells::new();
        let mut get = |row: &str, n| {
            let cell = cells.get(row.as_bytes(), n);
            cell.map(|c| String::from_utf8(c.to_vec()).unwrap())
        };
        for (row, expected) in [
            ("a,b,c", ["a", "b", "c"]),
            ("a,b,c\n", ["a", "b", "c"]),
            ("a\tb,x\tc", ["a", "b,x", "c"]),
            ("\"a,1\",\"b\"\"2\",c", ["a,1", "b\"2", "c"]),
            ("a,\"b\n2\",", ["a", "b\n2", ""]),
            (",,", ["", "", ""]),
        ] {
            for (n, cell) in expected.iter().enumerate() {
                assert_eq!(get(row, n).as_deref(), Some(*cell), "{row:?} {n}");
            }
            assert_eq!(get(row, 3), None, "{row:?}");
        }
        assert_eq!(get("", 1), None);
    }

    #[test]
    fn a_cell_s_place_is_what_cutting_it_out_empties() {
        let mut cells = Cells::new();
        for row in [
            "a,b,c",
            "a,b,c\r\n",
            "a\tb,x\tc\n",
            "\"a,1\",\"b\"\"2\",\"c\n\"",
            "a,\"b\n2\",",
        ] {
            for n in 0..3 {
                let kept: Vec<Option<Vec<u8>>> = (0..4)
                    .map(|i| cells.get(row.as_bytes(), i).map(<[u8]>::to_vec))
                    .collect();
                let mut cut = row.as_bytes().to_vec();
                cut.drain(cells.span(row.as_bytes(), n).unwrap());
                for (i, was) in kept.iter().enumerate() {
                    let is = cells.get(&cut, i).map(<[u8]>::to_vec);
                    let expected = if i == n {
                        Some(Vec::new())
                    } else {
                        was.clone()
                    };
                    assert_eq!(is, expected, "{row:?} without {n}, cell {i}");
                }
            }
            assert_eq!(cells.span(row.as_bytes(), 3), None);
        }
    }
}
