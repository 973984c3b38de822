//! Where one record ends and the next begins.
//!
//! | format | a record is |
//! |---|---|
//! | lines, json, hex, base64 | up to a newline; the last may lack it |
//! | nul | up to a NUL; the last may lack it |
//! | csv, tsv | a row ([`super::rows`]) |
//! | frames | 4-byte big-endian length, then so many bytes; -1 is null |
//! | batch | a record batch ([`crate::format::frame`]) |
//! | `--whole` | the input |
//!
//! A record larger than its bound is reported once the bound is passed, not once it has all been
//! read; the rest of it is then given out as [`Cut::Skipped`] until its end is found. Formats that
//! spell a record longer than it is (json, hex, base64, tables) have a bound that is larger by as
//! much, and the record itself is measured when it is decoded.

use super::rows::Rows;
use super::shape::Shape;
use super::{InputOptions, Reject};
use crate::format::Limits;
use crate::format::frame::{Frame, frame, read_i32};
use crate::ops::output::Format;

/// The hint for a record over the limit.
pub(super) const LARGER: &str = "--max-record-size 256MiB     (records are never cut)";

/// Bytes of a frame's length.
const FRAME_LENGTH_BYTES: usize = 4;

/// What stands at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// A record whose bytes are `start..end`; `used` counts its delimiters too.
    Record {
        start: usize,
        end: usize,
        used: usize,
    },
    /// A null record.
    Null { used: usize },
    /// A table's header row.
    Header { used: usize },
    /// A record batch.
    Batch { used: usize },
    /// Not a record.
    Bad {
        used: usize,
        reason: String,
        fatal: bool,
    },
    /// More of a record that was too large.
    Skipped { used: usize },
    /// No whole record yet.
    More,
    /// Nothing is left.
    End,
}

#[derive(Debug)]
enum Framing {
    Delimited(u8),
    Rows(Box<Rows>),
    Frames,
    Batch(Limits),
    Whole,
}

/// What is being thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// Up to the end of the record.
    Record,
    /// So many bytes.
    Bytes(u64),
    /// Everything: the input is done with.
    All,
}

/// Cuts records off the start of a growing buffer.
#[derive(Debug)]
pub(super) struct Splitter {
    framing: Framing,
    /// Largest record as spelled in the input, in bytes.
    raw_bytes_max: usize,
    /// Bytes at the start of the buffer that are known to hold no delimiter.
    scanned: usize,
    skip: Skip,
    hint: Option<&'static str>,
}

impl Splitter {
    pub(super) fn new(options: &InputOptions) -> Splitter {
        let framing = match options.format {
            _ if options.whole => Framing::Whole,
            Format::Nul => Framing::Delimited(0),
            Format::Csv => Framing::Rows(Box::new(Rows::new(b',', options.header_row))),
            Format::Tsv => Framing::Rows(Box::new(Rows::new(b'\t', options.header_row))),
            Format::Frames => Framing::Frames,
            Format::Batch => Framing::Batch(Limits::default()),
            _ => Framing::Delimited(b'\n'),
        };
        Splitter {
            framing,
            raw_bytes_max: raw_bytes_max(options),
            scanned: 0,
            skip: Skip::Nothing,
            hint: None,
        }
    }

    /// Begins a new input.
    pub(super) fn restart(&mut self) {
        (self.scanned, self.skip, self.hint) = (0, Skip::Nothing, None);
        if let Framing::Rows(rows) = &mut self.framing {
            rows.restart();
        }
    }

    /// How many lines end in the first bytes of a cut; `None` if places are not counted in lines.
    pub(super) fn lines_ended(&self, part: &[u8]) -> Option<u64> {
        match self.framing {
            // A cut goes up to the delimiter or stops before it.
            Framing::Delimited(byte) => Some(u64::from(part.last() == Some(&byte))),
            Framing::Rows(_) => Some(memchr::memchr_iter(b'\n', part).count() as u64),
            _ => None,
        }
    }

    /// Blank bytes before the record at the start of `buf`.
    pub(super) fn blank_prefix(&self, buf: &[u8]) -> usize {
        match self.framing {
            Framing::Rows(_) => buf.iter().take_while(|b| super::rows::is_end(**b)).count(),
            _ => 0,
        }
    }

    /// The hint that belongs to the last [`Cut::Bad`].
    pub(super) fn take_hint(&mut self) -> Option<&'static str> {
        self.hint.take()
    }

    /// Looks columns up in the header row just cut.
    pub(super) fn table_header(&mut self, shape: &mut Shape) -> Result<(), Reject> {
        let found = match &mut self.framing {
            Framing::Rows(rows) => shape.find_columns(rows.take_header()),
            _ => Ok(()),
        };
        if found.is_err() {
            self.skip = Skip::All;
        }
        found
    }

    /// The cells of the row just cut.
    pub(super) fn cells(&self) -> Option<&Rows> {
        match &self.framing {
            Framing::Rows(rows) => Some(rows),
            _ => None,
        }
    }

    /// Cuts the next record off the start of `buf`.
    #[inline]
    pub(super) fn cut(&mut self, buf: &[u8], eof: bool) -> Cut {
        if self.skip != Skip::Nothing {
            return self.skip_on(buf, eof);
        }
        match &mut self.framing {
            Framing::Delimited(byte) => {
                let byte = *byte;
                self.delimited(byte, buf, eof)
            }
            Framing::Rows(rows) => {
                let cut = rows.cut(buf, eof);
                self.bounded(cut, buf)
            }
            Framing::Frames => self.frame(buf, eof),
            Framing::Batch(limits) => {
                let found = frame(buf, limits);
                self.batch(found, buf, eof)
            }
            Framing::Whole => self.whole(buf, eof),
        }
    }

    #[inline]
    fn delimited(&mut self, byte: u8, buf: &[u8], eof: bool) -> Cut {
        let rest = buf.get(self.scanned..).unwrap_or_default();
        if let Some(n) = memchr::memchr(byte, rest) {
            let end = self.scanned + n;
            self.scanned = 0;
            if end > self.raw_bytes_max {
                return self.too_large(end, end + 1);
            }
            let used = end + 1;
            return Cut::Record {
                start: 0,
                end,
                used,
            };
        }
        self.scanned = buf.len();
        if buf.len() > self.raw_bytes_max {
            self.skip = Skip::Record;
            return self.too_large(buf.len(), buf.len());
        }
        if !eof {
            return Cut::More;
        }
        self.scanned = 0;
        let end = buf.len();
        match end {
            0 => Cut::End,
            _ => Cut::Record {
                start: 0,
                end,
                used: end,
            },
        }
    }

    /// Holds rows to the bound.
    fn bounded(&mut self, cut: Cut, buf: &[u8]) -> Cut {
        match cut {
            Cut::Record { start, end, used } if end - start > self.raw_bytes_max => {
                self.too_large(end - start, used)
            }
            Cut::More if buf.len() > self.raw_bytes_max => {
                self.skip = Skip::Record;
                if let Framing::Rows(rows) = &mut self.framing {
                    rows.forget();
                }
                self.too_large(buf.len(), buf.len())
            }
            other => other,
        }
    }

    fn frame(&mut self, buf: &[u8], eof: bool) -> Cut {
        let Some(length) = read_i32(buf, 0) else {
            return match (eof, buf.len()) {
                (false, _) => Cut::More,
                (true, 0) => Cut::End,
                (true, n) => self.broken(
                    n,
                    format!("the input ends inside a frame's length, after {n} of 4 bytes"),
                ),
            };
        };
        let Ok(size) = usize::try_from(length) else {
            return match length {
                -1 => Cut::Null {
                    used: FRAME_LENGTH_BYTES,
                },
                _ => self.broken(buf.len(), format!("frame length {length} is negative")),
            };
        };
        let used = FRAME_LENGTH_BYTES + size;
        if size > self.raw_bytes_max {
            let here = used.min(buf.len());
            if used > here {
                self.skip = Skip::Bytes((used - here) as u64);
            }
            return self.too_large(size, here);
        }
        match (buf.len() >= used, eof) {
            (true, _) => Cut::Record {
                start: FRAME_LENGTH_BYTES,
                end: used,
                used,
            },
            (false, false) => Cut::More,
            (false, true) => {
                let there = buf.len() - FRAME_LENGTH_BYTES;
                self.broken(
                    buf.len(),
                    format!("the input ends inside a frame, after {there} of {size} bytes"),
                )
            }
        }
    }

    fn batch(&mut self, found: Frame, buf: &[u8], eof: bool) -> Cut {
        match found {
            _ if eof && buf.is_empty() => Cut::End,
            Frame::Entry(used) => Cut::Batch { used },
            Frame::NeedMore(_) if !eof => Cut::More,
            Frame::NeedMore(want) => {
                let n = buf.len();
                self.broken(
                    n,
                    format!("the input ends inside a batch, after {n} of {want} bytes"),
                )
            }
            Frame::Zero => {
                self.broken(buf.len(), "not a record batch: its length is 0".to_string())
            }
            Frame::Bad(defect) => {
                self.broken(buf.len(), format!("not a record batch: {}", defect.reason))
            }
        }
    }

    fn whole(&mut self, buf: &[u8], eof: bool) -> Cut {
        let end = buf.len();
        if end > self.raw_bytes_max {
            self.skip = Skip::All;
            return self.too_large(end, end);
        }
        if !eof {
            return Cut::More;
        }
        self.skip = Skip::All;
        Cut::Record {
            start: 0,
            end,
            used: end,
        }
    }

    /// Gives out what is thrown away.
    fn skip_on(&mut self, buf: &[u8], eof: bool) -> Cut {
        if buf.is_empty() {
            return if eof { Cut::End } else { Cut::More };
        }
        let used = match self.skip {
            Skip::Bytes(left) => {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
                self.skip = match left - n as u64 {
                    0 => Skip::Nothing,
                    left => Skip::Bytes(left),
                };
                n
            }
            Skip::Record => {
                let end = match &mut self.framing {
                    Framing::Delimited(byte) => memchr::memchr(*byte, buf).map(|n| n + 1),
                    Framing::Rows(rows) => rows.skip(buf),
                    _ => None,
                };
                if end.is_some() {
                    (self.skip, self.scanned) = (Skip::Nothing, 0);
                }
                end.unwrap_or(buf.len())
            }
            Skip::All | Skip::Nothing => buf.len(),
        };
        Cut::Skipped { used }
    }

    fn too_large(&mut self, size: usize, used: usize) -> Cut {
        self.hint = Some(LARGER);
        let bound = self.raw_bytes_max;
        let whole = self.skip == Skip::Nothing || matches!(self.skip, Skip::Bytes(_));
        let at_least = if whole { "" } else { "at least " };
        Cut::Bad {
            used,
            reason: format!("record of {at_least}{size} bytes is over the limit of {bound}"),
            fatal: false,
        }
    }

    /// Nothing after this can be told apart.
    fn broken(&mut self, used: usize, reason: String) -> Cut {
        self.skip = Skip::All;
        Cut::Bad {
            used,
            reason,
            fatal: true,
        }
    }
}

/// The largest spelling of the largest record.
fn raw_bytes_max(options: &InputOptions) -> usize {
    let max = options.record_bytes_max;
    let names = 64 << 10;
    match options.format {
        // A byte may be written \u00NN.
        Format::Json => max.saturating_mul(6).saturating_add(names),
        Format::Hex | Format::Base64 => max.saturating_mul(2).saturating_add(4),
        // A cell may be picked out of a row, and quotes are doubled.
        Format::Csv | Format::Tsv => max.saturating_mul(2).saturating_add(names),
        _ => {
            let delimiter = options.key_delimiter.as_ref().map_or(0, String::len);
            max.saturating_add(delimiter)
        }
    }
}
