//! One record inside a magic 2 batch, and the view of a record that every magic yields.
//!
//! ```text
//! length          varint   bytes after this field
//! attributes      int8     unused: written 0, ignored
//! timestampDelta  varlong  from the batch's base timestamp
//! offsetDelta     varint   from the batch's base offset
//! keyLength       varint   -1 is null      key
//! valueLength     varint   -1 is null      value
//! headerCount     varint   >= 0
//!   keyLength     varint   >= 0            key (UTF-8 by custom; not checked, as in Kafka)
//!   valueLength   varint   -1 is null      value
//! ```
//! `length` must be exactly what its fields take. Null and empty differ in key, value and header
//! value alike. Source: Kafka `DefaultRecord.java`.

use super::varint::{Small, read_varint, read_varlong, varint_len, write_varint};
use super::{Defect, Offset, TimestampMs};

/// A record as it is read, borrowed from its (decompressed) batch.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its number in the log.
    pub offset: Offset,
    /// Its time (the batch's, under LogAppendTime); -1 where magic 0 has none.
    pub timestamp: TimestampMs,
    /// Its producer sequence number; -1 without an idempotent producer.
    pub sequence: i32,
    /// The key; null and empty differ.
    pub key: Option<&'a [u8]>,
    /// The value; null is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order, repeats kept.
    pub headers: Headers<'a>,
}

/// The headers of a record, checked when the record was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

/// One header: its name, and its value or null.
pub type Header<'a> = (&'a [u8], Option<&'a [u8]>);

impl<'a> Headers<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Each header in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let (bytes, mut pos) = (self.bytes, 0);
        (0..self.count).map_while(move |_| {
            let (header, next) = read_header(bytes, pos).ok()?;
            pos = next;
            Some(header)
        })
    }

    /// The value of the first header called `name` (outer `None`: there is no such header).
    pub fn get(&self, name: &[u8]) -> Option<Option<&'a [u8]>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// A record's fields relative to its batch, as stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRecord<'a> {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// Reads the record at `pos` of `body`; returns it and the position after it.
#[inline(always)]
pub(super) fn read_record(body: &[u8], pos: usize) -> Result<(RawRecord<'_>, usize), Defect> {
    let (length, start) = read_varint(body, pos)?;
    let end = usize::try_from(length)
        .ok()
        .and_then(|n| start.checked_add(n));
    let Some((end, record)) = end.and_then(|e| Some((e, body.get(..e)?))) else {
        return Err(Defect::new(
            pos,
            format!("record length {length} does not fit"),
        ));
    };
    // Every read below is bounded by `record`, so it cannot run into the next one.
    if start == end {
        return Err(Defect::new(start, "record without attributes"));
    }
    let (timestamp_delta, p) = read_varlong(record, start + 1)?;
    let (offset_delta, p) = read_varint(record, p)?;
    let (key, p) = read_bytes(record, p, "key")?;
    let (value, p) = read_bytes(record, p, "value")?;
    let (headers, p) = read_headers(record, p)?;
    if p != end {
        return Err(Defect::new(
            p,
            format!("record is {} bytes longer than its fields", end - p),
        ));
    }
    Ok((
        RawRecord {
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
        },
        end,
    ))
}

/// Reads a length and that many bytes; a negative length is null.
#[inline(always)]
fn read_bytes<'a>(
    buf: &'a [u8],
    pos: usize,
    what: &str,
) -> Result<(Option<&'a [u8]>, usize), Defect> {
    let (length, start) = read_varint(buf, pos)?;
    let Ok(length_usize) = usize::try_from(length) else {
        return Ok((None, start));
    };
    match start
        .checked_add(length_usize)
        .and_then(|end| Some((buf.get(start..end)?, end)))
    {
        Some((bytes, end)) => Ok((Some(bytes), end)),
        None => Err(Defect::new(
            pos,
            format!("{what} length {length} runs past the record"),
        )),
    }
}

#[inline(always)]
fn read_headers(record: &[u8], pos: usize) -> Result<(Headers<'_>, usize), Defect> {
    // Nearly every record has none: one zero byte.
    if record.get(pos) == Some(&0) {
        return Ok((Headers::default(), pos + 1));
    }
    check_headers(record, pos)
}

fn check_headers(record: &[u8], pos: usize) -> Result<(Headers<'_>, usize), Defect> {
    let (count, start) = read_varint(record, pos)?;
    // A header takes two bytes at least, which bounds the count by the bytes left.
    let left = record.len().saturating_sub(start);
    let count = match usize::try_from(count) {
        Ok(n) if n <= left / 2 => n,
        _ => {
            return Err(Defect::new(
                pos,
                format!("header count {count} does not fit"),
            ));
        }
    };
    let mut p = start;
    for _ in 0..count {
        (_, p) = read_header(record, p)?;
    }
    Ok((
        Headers {
            bytes: record.get(start..p).unwrap_or_default(),
            count,
        },
        p,
    ))
}

fn read_header(buf: &[u8], pos: usize) -> Result<(Header<'_>, usize), Defect> {
    match read_bytes(buf, pos, "header key")? {
        (None, _) => Err(Defect::new(pos, "null header key")),
        (Some(key), p) => {
            let (value, p) = read_bytes(buf, p, "header value")?;
            Ok(((key, value), p))
        }
    }
}

/// What is to be written as one record.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// The key, or null.
    pub key: Option<&'a [u8]>,
    /// The value, or null (a tombstone).
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: &'a [Header<'a>],
}

/// Appends one record to `out`, framed as above.
#[inline]
pub(super) fn write_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    record: &NewRecord<'_>,
) {
    let mut s = Small::new();
    s.byte(0);
    s.varint(timestamp_delta);
    s.varint(i64::from(offset_delta));
    s.varint(signed_len(record.key));
    let value_len = signed_len(record.value);
    let value = record.value.unwrap_or_default();
    match record.key {
        None => {
            s.varint(value_len);
            s.put_in_front((s.len() + value.len() + headers_len(record.headers)) as i64);
            out.reserve(s.len() + value.len() + 1);
            out.extend_from_slice(s.as_slice());
        }
        Some(key) => {
            let key_and_value = key.len() + varint_len(value_len) + value.len();
            s.put_in_front((s.len() + key_and_value + headers_len(record.headers)) as i64);
            out.reserve(s.len() + key_and_value + 1);
            out.extend_from_slice(s.as_slice());
            out.extend_from_slice(key);
            write_varint(out, value_len);
        }
    }
    out.extend_from_slice(value);
    if record.headers.is_empty() {
        out.push(0);
    } else {
        write_headers(out, record.headers);
    }
}

#[inline(always)]
fn signed_len(bytes: Option<&[u8]>) -> i64 {
    bytes.map_or(-1, |b| b.len() as i64)
}

#[inline(always)]
fn headers_len(headers: &[Header<'_>]) -> usize {
    if headers.is_empty() {
        return 1;
    }
    let each = |&(k, v): &Header<'_>| {
        varint_len(k.len() as i64) + k.len() + varint_len(signed_len(v)) + v.map_or(0, <[u8]>::len)
    };
    varint_len(headers.len() as i64) + headers.iter().map(each).sum::<usize>()
}

fn write_headers(out: &mut Vec<u8>, headers: &[Header<'_>]) {
    write_varint(out, headers.len() as i64);
    for &(key, value) in headers {
        write_varint(out, key.len() as i64);
        out.extend_from_slice(key);
        write_varint(out, signed_len(value));
        out.extend_from_slice(value.unwrap_or_default());
    }
}

/// Upper bound in bytes of a record with these sizes, framing included; for deciding whether it
/// still fits a batch.
pub fn record_bytes_bound(key: usize, value: usize, headers: &[Header<'_>]) -> usize {
    36 + key + value + headers_len(headers)
}
