//! Bytes to records: every `-F` format on its way in.
//!
//! | module | owns |
//! |---|---|
//! | [`split`] | where one record ends and the next begins |
//! | [`rows`] | csv and tsv rows, their header and cells |
//! | [`json`] | the JSON object of a record |
//! | [`shape`] | key, value, timestamp, ID and headers by the options of `append` |
//!
//! [`Input`] does no I/O. Its caller holds a buffer, calls [`Input::next`] with what is in it, drops
//! the bytes a [`Step`] used, and reads more when told to. Between calls the buffer may only lose
//! what was used and grow at its end: a scan is resumed where it stopped, so a long record costs its
//! length once, however small the reads.
//!
//! Nothing is copied where a record's parts stand in the input as they are; what has to be decoded
//! is decoded into buffers that are reused. Memory is bounded by the largest record.
//!
//! A malformed record is a [`Step::Bad`] with its place, its bytes and the reason. The next call goes
//! on at the next record boundary, so skipping it is just going on. Only json `null`, a frame of
//! length -1, `batch` and `-Z` make a tombstone.

pub mod json;
pub mod rows;
pub mod shape;
pub mod split;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};

use super::output::Format;
use super::words::{Field, Now};
use crate::error::{Error, Result};
use crate::format::record::Header;
use shape::Shape;
use split::{Cut, Splitter};

/// What the options of `append` say about its input.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// `-F`; templates are for output only.
    pub format: Format,
    /// `-k`: the key of every record.
    pub key: Option<Vec<u8>>,
    /// `-K` as written: what ends the key at the start of a record.
    pub key_delimiter: Option<String>,
    /// `--key-from`.
    pub key_from: Option<Field>,
    /// `--value-from`.
    pub value_from: Option<Field>,
    /// `--timestamp-from`.
    pub timestamp_from: Option<Field>,
    /// `--id-from`.
    pub id_from: Option<Field>,
    /// `-H`: headers added to every record, after its own.
    pub headers: Vec<(String, String)>,
    /// `-Z`: an empty value is a tombstone.
    pub empty_is_tombstone: bool,
    /// `--timestamp`: the timestamp of every record, in ms.
    pub timestamp: Option<i64>,
    /// Whether csv and tsv begin with a header row (`--no-header-row` clears it).
    pub header_row: bool,
    /// `--keep-offsets`.
    pub keep_offsets: bool,
    /// `--whole`: each input is one record.
    pub whole: bool,
    /// Largest key and value together, in bytes; `usize::MAX` is no limit.
    pub record_bytes_max: usize,
    /// Where local times get their zone.
    pub now: Now,
}

/// The default of `--max-record-size`.
pub const RECORD_BYTES_MAX: usize = 64 << 20;

impl InputOptions {
    /// The defaults for a format.
    pub fn new(format: Format, now: Now) -> InputOptions {
        InputOptions {
            format,
            key: None,
            key_delimiter: None,
            key_from: None,
            value_from: None,
            timestamp_from: None,
            id_from: None,
            headers: Vec::new(),
            empty_is_tombstone: false,
            timestamp: None,
            header_row: true,
            keep_offsets: false,
            whole: false,
            record_bytes_max: RECORD_BYTES_MAX,
            now,
        }
    }
}

/// A record as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct InputRecord<'a> {
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null (a tombstone).
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: InputHeaders<'a>,
    /// Milliseconds since 1970; `None` means "now".
    pub timestamp: Option<i64>,
    /// The offset it carries, under `--keep-offsets`.
    pub offset: Option<i64>,
    /// What `--id-from` found.
    pub id: Option<&'a [u8]>,
}

/// The headers of a record as it was read: its own, then those of `-H`.
#[derive(Clone, Copy, Debug, Default)]
pub struct InputHeaders<'a> {
    own: HeaderSpans<'a>,
    fixed: HeaderSpans<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
struct HeaderSpans<'a> {
    bytes: &'a [u8],
    spans: &'a [(Span, Option<Span>)],
}

impl<'a> HeaderSpans<'a> {
    fn iter(self) -> impl Iterator<Item = Header<'a>> {
        let bytes = self.bytes;
        self.spans
            .iter()
            .map(move |(name, value)| (name.of(bytes), value.map(|v| v.of(bytes))))
    }
}

impl<'a> InputHeaders<'a> {
    /// Each header in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        self.own.iter().chain(self.fixed.iter())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.own.spans.is_empty() && self.fixed.spans.is_empty()
    }

    /// All of them; allocates only if there are any.
    pub fn to_vec(&self) -> Vec<Header<'a>> {
        self.iter().collect()
    }
}

/// Half-open range of bytes in a buffer that is known from the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span(usize, usize);

impl Span {
    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.0..self.1).unwrap_or_default()
    }
}

/// What a call of [`Input::next`] found at the start of the buffer.
#[derive(Debug)]
pub enum Step<'a> {
    /// A record, which took `used` bytes.
    Record {
        /// Bytes to drop from the buffer.
        used: usize,
        /// The record.
        record: InputRecord<'a>,
    },
    /// A whole record batch (`-F batch`), not checked beyond its framing.
    Batch {
        /// Bytes to drop from the buffer.
        used: usize,
        /// The batch as it came.
        bytes: &'a [u8],
    },
    /// The header row of a table.
    Header {
        /// Bytes to drop from the buffer.
        used: usize,
    },
    /// A record that cannot be taken.
    Bad(Bad<'a>),
    /// No whole record: read more, then call again.
    NeedMore,
    /// The input has ended and is used up.
    End,
}

/// A record that cannot be taken.
#[derive(Debug)]
pub struct Bad<'a> {
    /// Bytes to drop from the buffer.
    pub used: usize,
    /// Its bytes, delimiter included, for `--rejects`.
    pub raw: &'a [u8],
    /// Where it begins.
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
    /// More bytes of a record that was reported before (it is larger than the buffer).
    pub continued: bool,
    /// Nothing after it can be told apart: skipping it is not possible.
    pub fatal: bool,
}

impl Bad<'_> {
    /// The error of stopping here, with `input` as the name of the file or `stdin`.
    pub fn error(&self, input: &str) -> Error {
        let e = Error::data(format!("{input}{}: {}", self.place, self.reason));
        match self.hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
    }
}

/// A place in one input, shown as it follows the input's name: `:18204` or `: byte 512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// That line, counted from 1 (of `nul`, that record).
    Line(u64),
    /// That byte, counted from 0.
    Byte(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Line(n) => write!(f, ":{n}"),
            Place::Byte(n) => write!(f, ": byte {n}"),
        }
    }
}

/// Why a record cannot be taken.
#[derive(Debug)]
struct Reject {
    reason: String,
    hint: Option<&'static str>,
}

impl Reject {
    fn new(reason: impl Into<String>) -> Reject {
        Reject {
            reason: reason.into(),
            hint: None,
        }
    }

    /// A JSON fault, by its column (counted from 1, in bytes).
    fn not_json(fault: super::json::Fault) -> Reject {
        let what = match fault.reason {
            "not UTF-8" => "not UTF-8",
            _ => "not JSON",
        };
        Reject::new(format!("{what} at column {}", fault.at.saturating_add(1)))
    }
}

/// Where a decoded part stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Slot {
    /// Null.
    #[default]
    Null,
    /// In the record as it came.
    Raw(Span),
    /// In [`Parts::bytes`].
    Held(Span),
}

/// A record's own parts, decoded by its format.
#[derive(Debug, Default)]
struct Parts {
    key: Slot,
    value: Slot,
    timestamp: Option<i64>,
    offset: Option<i64>,
    /// Spans of `bytes`.
    headers: Vec<(Span, Option<Span>)>,
    /// What had to be decoded.
    bytes: Vec<u8>,
}

impl Parts {
    fn clear(&mut self) {
        (self.key, self.value) = (Slot::Null, Slot::Null);
        (self.timestamp, self.offset) = (None, None);
        self.headers.clear();
        self.bytes.clear();
    }

    fn get<'a>(&'a self, slot: Slot, raw: &'a [u8]) -> Option<&'a [u8]> {
        match slot {
            Slot::Null => None,
            Slot::Raw(span) => Some(span.of(raw)),
            Slot::Held(span) => Some(span.of(&self.bytes)),
        }
    }

    /// Appends to `bytes` whatever `fill` does, and says where it is.
    fn hold(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Span {
        let start = self.bytes.len();
        fill(&mut self.bytes);
        Span(start, self.bytes.len())
    }
}

/// How a record's bytes become its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decoding {
    /// They are the value.
    Plain,
    Hex,
    Base64,
    Json,
}

/// Turns one input after another into records.
#[derive(Debug)]
pub struct Input {
    splitter: Splitter,
    decoding: Decoding,
    shape: Shape,
    /// Whether shaping is left out, since no option asks for any.
    plain: bool,
    keep_offsets: bool,
    record_bytes_max: usize,
    parts: Parts,
    /// Lines that ended so far.
    lines: u64,
    /// Bytes used so far.
    bytes: u64,
}

impl Input {
    /// A reader for input as `options` describe it.
    ///
    /// # Errors
    /// Usage, when options contradict each other.
    pub fn new(options: &InputOptions) -> Result<Input> {
        shape::check(options)?;
        let shape = Shape::new(options)?;
        Ok(Input {
            splitter: Splitter::new(options),
            decoding: match options.format {
                Format::Json => Decoding::Json,
                Format::Hex => Decoding::Hex,
                Format::Base64 => Decoding::Base64,
                _ => Decoding::Plain,
            },
            plain: options.format == Format::Lines && !options.whole && shape.is_trivial(),
            shape,
            keep_offsets: options.keep_offsets,
            record_bytes_max: options.record_bytes_max,
            parts: Parts::default(),
            lines: 0,
            bytes: 0,
        })
    }

    /// Begins the next input, `skipped` bytes into it: places count from its start, though lines
    /// only from there. A table's header row is expected at once, wherever that is.
    pub fn restart(&mut self, skipped: u64) {
        self.splitter.restart();
        self.lines = 0;
        self.bytes = skipped;
    }

    /// Takes the next record off the start of `buf`; `eof` says that nothing will follow it.
    #[inline]
    pub fn next<'a>(&'a mut self, buf: &'a [u8], eof: bool) -> Step<'a> {
        let cut = self.splitter.cut(buf, eof);
        if let (true, Cut::Record { start, end, used }) = (self.plain, &cut)
            && end - start <= self.record_bytes_max
        {
            self.lines += 1;
            self.bytes += *used as u64;
            let record = InputRecord {
                value: buf.get(*start..*end),
                ..InputRecord::default()
            };
            return Step::Record {
                used: *used,
                record,
            };
        }
        self.take(buf, cut)
    }

    /// [`Input::next`] for everything but plain lines.
    fn take<'a>(&'a mut self, buf: &'a [u8], cut: Cut) -> Step<'a> {
        let (start, end, used) = match cut {
            Cut::More => return Step::NeedMore,
            Cut::End => return Step::End,
            Cut::Record { start, end, used } => (start, end, used),
            Cut::Null { used } => (0, 0, used),
            Cut::Header { used } => {
                let place = self.advance(buf, 0, used);
                return match self.splitter.table_header(&mut self.shape) {
                    Ok(()) => Step::Header { used },
                    Err(reject) => bad(buf, used, place, reject, true),
                };
            }
            Cut::Batch { used } => {
                self.advance(buf, 0, used);
                let bytes = buf.get(..used).unwrap_or_default();
                return Step::Batch { used, bytes };
            }
            Cut::Bad {
                used,
                reason,
                fatal,
            } => {
                let place = self.advance(buf, self.splitter.blank_prefix(buf), used);
                let mut reject = Reject::new(reason);
                reject.hint = self.splitter.take_hint();
                return bad(buf, used, place, reject, fatal);
            }
            Cut::Skipped { used } => {
                let place = self.advance(buf, 0, used);
                let mut step = bad(buf, used, place, Reject::new("continued"), false);
                if let Step::Bad(bad) = &mut step {
                    bad.continued = true;
                }
                return step;
            }
        };
        let place = self.advance(buf, start, used);
        let raw = buf.get(start..end).unwrap_or_default();
        self.parts.clear();
        let null = matches!(cut, Cut::Null { .. });
        if let Err(reject) = self.decode(raw, null) {
            return bad(buf, used, place, reject, false);
        }
        let cells = self.splitter.cells();
        match self.shape.apply(&self.parts, raw, cells) {
            Ok(record) => match over(&record, self.record_bytes_max) {
                Some(reject) => bad(buf, used, place, reject, false),
                None => Step::Record { used, record },
            },
            Err(reject) => bad(buf, used, place, reject, false),
        }
    }

    /// Counts what was used, and says where the record that begins `start` bytes in stands.
    fn advance(&mut self, buf: &[u8], start: usize, used: usize) -> Place {
        let ended = |n: usize| self.splitter.lines_ended(buf.get(..n).unwrap_or_default());
        let place = match (ended(start), ended(used)) {
            (Some(before), Some(all)) => {
                let line = self.lines + before + 1;
                self.lines += all;
                Place::Line(line)
            }
            _ => Place::Byte(self.bytes + start as u64),
        };
        self.bytes += used as u64;
        place
    }

    /// Fills the parts from one record.
    fn decode(&mut self, raw: &[u8], null: bool) -> std::result::Result<(), Reject> {
        let parts = &mut self.parts;
        match self.decoding {
            Decoding::Plain if null => {}
            Decoding::Plain => parts.value = Slot::Raw(Span(0, raw.len())),
            Decoding::Json => json::record(raw, parts, self.keep_offsets)?,
            Decoding::Hex => {
                let held = encoded(&HEXLOWER_PERMISSIVE, raw, parts);
                parts.value = held.map_err(|at| column("not hexadecimal", at))?;
            }
            Decoding::Base64 => {
                parts.value =
                    encoded(&BASE64, raw, parts).map_err(|at| column("not base64", at))?;
            }
        }
        Ok(())
    }
}

fn column(what: &str, at: usize) -> Reject {
    Reject::new(format!("{what} at column {}", at + 1))
}

fn bad<'a>(buf: &'a [u8], used: usize, place: Place, reject: Reject, fatal: bool) -> Step<'a> {
    Step::Bad(Bad {
        used,
        raw: buf.get(..used).unwrap_or_default(),
        place,
        reason: reject.reason,
        hint: reject.hint,
        continued: false,
        fatal,
    })
}

/// The refusal of a record that is too large.
fn over(record: &InputRecord<'_>, max: usize) -> Option<Reject> {
    let length = |b: Option<&[u8]>| b.map_or(0, <[u8]>::len);
    let size = length(record.key) + length(record.value);
    (size > max).then(|| {
        let mut reject = Reject::new(format!("record of {size} bytes is over the limit of {max}"));
        reject.hint = Some(split::LARGER);
        reject
    })
}

/// Decodes text into the parts' bytes, or says at which byte it is wrong.
fn encoded(
    encoding: &data_encoding::Encoding,
    text: &[u8],
    parts: &mut Parts,
) -> std::result::Result<Slot, usize> {
    let length = encoding.decode_len(text.len()).map_err(|e| e.position)?;
    let start = parts.bytes.len();
    parts.bytes.resize(start + length, 0);
    let place = parts.bytes.get_mut(start..).unwrap_or_default();
    match encoding.decode_mut(text, place) {
        Ok(n) => {
            parts.bytes.truncate(start + n);
            Ok(Slot::Held(Span(start, start + n)))
        }
        Err(partial) => Err(partial.error.position),
    }
}

#[cfg(test)]
mod tests;
