//! csv and tsv rows, read by the rules of the csv crate (RFC 4180 and what is found in the wild).
//!
//! A row ends at CR, LF or both outside quotes; blank lines are no rows; a byte order mark at the
//! start is dropped. Every row must have as many cells as the header row. `csv-core` keeps its state
//! over calls, so a row that comes in pieces is read once.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::split::Cut;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads rows: where they end, and their cells.
#[derive(Debug)]
pub(super) struct Rows {
    reader: Box<Reader>,
    /// Whether the next row is the header row.
    header_next: bool,
    header_row: bool,
    /// Cells in the header row.
    width: Option<usize>,
    /// Bytes at the start of the buffer that `reader` has seen.
    scanned: usize,
    /// The cells' bytes, and where each ends; the first `out_len` and `cells` of them count.
    out: Vec<u8>,
    ends: Vec<usize>,
    out_len: usize,
    cells: usize,
    /// Whether nothing was read yet.
    first: bool,
}

impl Rows {
    pub(super) fn new(delimiter: u8, header_row: bool) -> Rows {
        Rows {
            reader: Box::new(ReaderBuilder::new().delimiter(delimiter).build()),
            header_next: header_row,
            header_row,
            width: None,
            scanned: 0,
            out: vec![0; 1024],
            ends: vec![0; 32],
            out_len: 0,
            cells: 0,
            first: true,
        }
    }

    /// Begins a new input.
    pub(super) fn restart(&mut self) {
        self.reader.reset();
        (self.header_next, self.width) = (self.header_row, None);
        (self.scanned, self.first) = (0, true);
        (self.out_len, self.cells) = (0, 0);
    }

    /// Cuts the next row off the start of `buf`.
    pub(super) fn cut(&mut self, buf: &[u8], eof: bool) -> Cut {
        if self.scanned == 0 {
            (self.out_len, self.cells) = (0, 0);
        }
        let mut done = self.read(buf);
        if !done && eof {
            let blank = buf.iter().all(|b| is_end(*b));
            // A closing newline ends the last row, unless a quote is still open.
            done = !blank && self.feed(b"\n").0;
            if !done {
                self.scanned = 0;
                return match blank {
                    true => Cut::End,
                    false => Cut::Bad {
                        used: buf.len(),
                        reason: "a quote is not closed".to_string(),
                        fatal: false,
                    },
                };
            }
        }
        if !done {
            return Cut::More;
        }
        let used = std::mem::take(&mut self.scanned);
        self.row(buf.get(..used).unwrap_or_default())
    }

    /// The row just read, which took all of `bytes`.
    fn row(&mut self, bytes: &[u8]) -> Cut {
        let used = bytes.len();
        let mark = std::mem::take(&mut self.first) && bytes.starts_with(BYTE_ORDER_MARK);
        let mut start = if mark { BYTE_ORDER_MARK.len() } else { 0 };
        let mut end = used;
        while start < end && bytes.get(start).is_some_and(|b| is_end(*b)) {
            start += 1;
        }
        while start < end && bytes.get(end - 1).is_some_and(|b| is_end(*b)) {
            end -= 1;
        }
        if std::mem::take(&mut self.header_next) {
            self.width = Some(self.cells);
            return Cut::Header { used };
        }
        match self.width {
            Some(width) if width != self.cells => Cut::Bad {
                used,
                reason: format!("row has {} columns, the header has {width}", self.cells),
                fatal: false,
            },
            _ => Cut::Record { start, end, used },
        }
    }

    /// Reads on after what was seen; whether the row ended.
    fn read(&mut self, buf: &[u8]) -> bool {
        while let Some(rest) = buf.get(self.scanned..).filter(|r| !r.is_empty()) {
            let (done, n) = self.feed(rest);
            self.scanned += n;
            if done {
                return true;
            }
        }
        false
    }

    /// Gives the reader `bytes`: whether the row ended, and how many it took.
    fn feed(&mut self, bytes: &[u8]) -> (bool, usize) {
        let mut taken = 0;
        loop {
            let (result, read, written, ended) = self.reader.read_record(
                bytes.get(taken..).unwrap_or_default(),
                self.out.get_mut(self.out_len..).unwrap_or_default(),
                self.ends.get_mut(self.cells..).unwrap_or_default(),
            );
            taken += read;
            self.out_len += written;
            self.cells += ended;
            match result {
                ReadRecordResult::InputEmpty => return (false, taken),
                ReadRecordResult::OutputFull => self.out.resize(self.out.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => return (true, taken),
                ReadRecordResult::End => return (false, taken),
            }
        }
    }

    /// Drops what was read of a row that is too large; its rest goes to [`Rows::skip`].
    pub(super) fn forget(&mut self) {
        self.scanned = 0;
    }

    /// The length of what is left of the row, if it ends in `buf`. Cells are not kept.
    pub(super) fn skip(&mut self, buf: &[u8]) -> Option<usize> {
        let mut taken = 0;
        let mut cells = [0u8; 1024];
        let mut ends = [0usize; 64];
        while let Some(rest) = buf.get(taken..).filter(|r| !r.is_empty()) {
            let (result, read, _, _) = self.reader.read_record(rest, &mut cells, &mut ends);
            taken += read;
            if result == ReadRecordResult::Record {
                return Some(taken);
            }
        }
        None
    }

    /// The names in the header row just cut.
    pub(super) fn take_header(&self) -> Vec<Vec<u8>> {
        let cell = |n| self.cell(n).unwrap_or_default().to_vec();
        (0..self.cells).map(cell).collect()
    }

    /// A cell of the row just cut, counted from 0.
    pub(super) fn cell(&self, n: usize) -> Option<&[u8]> {
        let ends = self.ends.get(..self.cells)?;
        let end = *ends.get(n)?;
        let start = match n.checked_sub(1) {
            Some(before) => *ends.get(before)?,
            None => 0,
        };
        self.out.get(start..end)
    }
}

/// Whether a byte ends a row.
pub(super) fn is_end(b: u8) -> bool {
    matches!(b, b'\n' | b'\r')
}
