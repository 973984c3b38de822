//! Records to bytes: every `-F` format on its way out.
//!
//! | module | owns |
//! |---|---|
//! | [`json`] | the JSON object of a record |
//! | [`table`] | csv and tsv rows |
//! | [`template`] | templates such as `%o %s\n` |
//! | [`escape`] | control bytes made visible |
//! | [`date`] | timestamps as RFC 3339 |
//! | [`encode`] | hexadecimal and base64 |
//!
//! A [`Formatter`] appends one record to a buffer; when that is written is its caller's business.
//! With `visible` set, payload and names show their control bytes as escapes, the formatter's own
//! separators and a template's literals stay: so a record is never shown as two lines, and a csv row
//! stays a row. Without it every format but `lines` on a value with a newline keeps record
//! boundaries, and [`Formatter::saw_newline_in_lines`] tells of that one.

pub mod date;
pub mod encode;
pub mod escape;
pub mod json;
pub mod table;
pub mod template;

use std::borrow::Cow;

use super::words::{bad, bad_try};
use crate::error::{Error, Result};
use crate::format::record::{Headers, Record};
use table::{Table, TableColumn};
use template::Template;

/// How records look: the word of `-F`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// Value and newline.
    Lines,
    /// Value and NUL.
    Nul,
    /// One object per line.
    Json,
    /// Comma separated rows under a header row.
    Csv,
    /// Tab separated rows under a header row.
    Tsv,
    /// The value in hexadecimal, one line each.
    Hex,
    /// The value in base64, one line each.
    Base64,
    /// 4-byte big-endian length (-1 is null), value.
    Frames,
    /// Record batches exactly as stored.
    Batch,
    /// Printed per record.
    Template(Template),
}

/// The formats with a name.
const NAMED: [(&str, Format); 9] = [
    ("lines", Format::Lines),
    ("nul", Format::Nul),
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("tsv", Format::Tsv),
    ("hex", Format::Hex),
    ("base64", Format::Base64),
    ("frames", Format::Frames),
    ("batch", Format::Batch),
];

impl Format {
    /// Reads the word of `-F`: a name or, when it contains `%`, a template.
    ///
    /// # Errors
    /// Usage, when there is no such format or the template is malformed.
    pub fn parse(word: &str) -> Result<Format> {
        if word.contains('%') {
            return Template::parse(word).map(Format::Template);
        }
        if let Some((_, format)) = NAMED.iter().find(|(name, _)| *name == word) {
            return Ok(format.clone());
        }
        let what = "not a format (lines, nul, json, csv, tsv, hex, base64, frames, batch, or a \
                    template with %)";
        let meant = match word.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" | "jsonlines" | "json-lines" => "json",
            "line" | "text" | "txt" | "plain" | "raw" | "string" => "lines",
            "null" | "0" | "zero" => "nul",
            "b64" => "base64",
            "frame" | "binary" => "frames",
            "batches" => "batch",
            lower => match NAMED.iter().find(|(name, _)| *name == lower) {
                Some((name, _)) => name,
                None => return Err(bad(word, what)),
            },
        };
        Err(bad_try(word, what, meant))
    }

    /// Its name; a template is its own.
    pub fn name(&self) -> &str {
        match self {
            Format::Template(t) => t.text(),
            named => NAMED
                .iter()
                .find(|(_, f)| f == named)
                .map_or("", |(name, _)| name),
        }
    }

    /// Whether it writes bytes that no terminal should get.
    pub fn is_binary(&self) -> bool {
        match self {
            Format::Frames | Format::Batch => true,
            Format::Template(t) => t.is_binary(),
            _ => false,
        }
    }
}

/// Choices beside the format.
#[derive(Clone, Debug, Default)]
pub struct FormatOptions {
    /// Show a value that is JSON as `value_json` (`--nest`; `json` only).
    pub nest: bool,
    /// The columns of `csv` and `tsv`; empty means the default four.
    pub columns: Vec<TableColumn>,
    /// Make control bytes of payload and names visible, for a terminal.
    pub visible: bool,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
}

/// Appends records to a buffer in one format.
#[derive(Debug)]
pub struct Formatter {
    kind: Kind,
    visible: bool,
    newline_in_lines: bool,
}

#[derive(Debug)]
enum Kind {
    Lines,
    Nul,
    Json(json::Writer),
    Table(Box<Table>),
    Hex,
    Base64,
    Frames,
    Template(Template),
}

impl Formatter {
    /// A formatter for `format`.
    ///
    /// # Errors
    /// Usage, for `batch`: that copies stored batches, so no record is ever formatted.
    pub fn new(format: &Format, options: &FormatOptions) -> Result<Formatter> {
        let kind = match format {
            Format::Lines => Kind::Lines,
            Format::Nul => Kind::Nul,
            Format::Json => Kind::Json(json::Writer::new(options.nest, options.visible)),
            Format::Csv => Kind::Table(Box::new(Table::new(b',', &options.columns))),
            Format::Tsv => Kind::Table(Box::new(Table::new(b'\t', &options.columns))),
            Format::Hex => Kind::Hex,
            Format::Base64 => Kind::Base64,
            Format::Frames => Kind::Frames,
            Format::Template(t) => Kind::Template(t.clone()),
            Format::Batch => {
                return Err(Error::usage(
                    "-F batch copies batches as stored and cannot print single records",
                ));
            }
        };
        Ok(Formatter {
            kind,
            visible: options.visible,
            newline_in_lines: false,
        })
    }

    /// Appends what comes before the first record: the header row of a table.
    pub fn begin(&self, out: &mut Vec<u8>) {
        if let Kind::Table(table) = &self.kind {
            table.header(out);
        }
    }

    /// Appends one record.
    #[inline]
    pub fn record(&mut self, out: &mut Vec<u8>, meta: &Meta<'_>, record: &Record<'_>) {
        let value = record.value.unwrap_or_default();
        match &mut self.kind {
            Kind::Lines => {
                if self.visible {
                    escape::visible(value, out);
                } else {
                    if !self.newline_in_lines {
                        self.newline_in_lines = memchr::memchr(b'\n', value).is_some();
                    }
                    out.extend_from_slice(value);
                }
                out.push(b'\n');
            }
            Kind::Nul => {
                out.extend_from_slice(&shown(self.visible, value));
                out.push(0);
            }
            Kind::Json(json) => json.record(out, meta, record),
            Kind::Table(table) => table.row(out, meta, record, self.visible),
            Kind::Hex => {
                encode::hex(value, out);
                out.push(b'\n');
            }
            Kind::Base64 => {
                encode::base64(value, out);
                out.push(b'\n');
            }
            Kind::Frames => {
                out.extend_from_slice(&length(record.value).to_be_bytes());
                out.extend_from_slice(value);
            }
            Kind::Template(template) => template.record(out, meta, record, self.visible),
        }
    }

    /// Whether a value printed as `lines` contained a newline, so that boundaries were lost.
    pub fn saw_newline_in_lines(&self) -> bool {
        self.newline_in_lines
    }
}

/// `bytes`, with control bytes escaped if they are to be visible.
fn shown(visible: bool, bytes: &[u8]) -> Cow<'_, [u8]> {
    match visible {
        false => Cow::Borrowed(bytes),
        true => {
            let mut out = Vec::with_capacity(bytes.len());
            escape::visible(bytes, &mut out);
            Cow::Owned(out)
        }
    }
}

/// The length of a key or value; -1 is null.
fn length(bytes: Option<&[u8]>) -> i32 {
    bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX))
}

/// Appends an integer in decimal.
fn decimal(n: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Headers as `n=v,…`; a null value has no `=`.
fn header_list(headers: &Headers<'_>, out: &mut Vec<u8>) {
    for (i, (name, value)) in headers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
