//! Magic 0 and 1: messages on their own, and wrappers that hold compressed ones. Read only; nothing
//! writes them any more.
//!
//! | at | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | offset | of a wrapper: of its last message |
//! | 8 | 4 | size of the rest | 14 or more in magic 0, 22 in magic 1 |
//! | 12 | 4 | CRC-32 (IEEE) | of bytes 16 to the end |
//! | 16 | 1 | magic | 0 or 1 |
//! | 17 | 1 | attributes | bits 0-2 codec (no zstd), magic 1 bit 3 LogAppendTime |
//! | 18 | 0 or 8 | timestamp | magic 1 only |
//! | … | 4+n | key length (below 0: null), key | |
//! | … | 4+n | value length (below 0: null), value | |
//!
//! A message with a codec is a wrapper: its key is ignored and its value, decompressed, is a row of
//! messages of the same shape, each with its own CRC-32 and none of them a wrapper again.
//!
//! * Wrapper of magic 0: inner offsets are those of the log.
//! * Wrapper of magic 1: inner offsets count from 0 (with gaps after compaction) and the last one is
//!   the wrapper's. A wrapper offset of 0 means they count from 0 for real: librdkafka wrote that.
//! * A LogAppendTime wrapper's time is that of every magic 1 message in it.
//! * Old brokers sometimes put messages of the other magic into a wrapper. Offsets then go by the
//!   wrapper's magic, fields by the message's own.
//!
//! A wrapper is walked and checked whole when it is opened, because its first offset follows from its
//! last message; no defect comes once messages are being delivered.
//! Source: Kafka `AbstractLegacyRecordBatch.java`, `LegacyRecord.java`.

use super::batch::{BatchHeader, LENGTH_AT, MAGIC_AT, TimestampType, attributes};
use super::codec::{Codec, Decompressor};
use super::frame::{LENGTH_MIN_V0, LOG_OVERHEAD, read_i32, read_i64, read_u32};
use super::record::{Headers, Record};
use super::{Defect, Limits, Offset, TimestampMs};

const CRC_AT: usize = LENGTH_AT + 4;
const ATTRIBUTES_AT: usize = MAGIC_AT + 1;
const TIMESTAMP_AT: usize = ATTRIBUTES_AT + 1;
const _: () = assert!(CRC_AT + 4 == MAGIC_AT);
/// Attributes are followed by at least two lengths of null.
const _: () = assert!(TIMESTAMP_AT + 4 + 4 == LOG_OVERHEAD + LENGTH_MIN_V0 as usize);

/// Reads the header of a magic 0 or 1 entry, without decompressing: of a wrapper only the last
/// offset is known.
pub(super) fn parse_header(bytes: &[u8]) -> Result<BatchHeader, Defect> {
    let head = Head::read(bytes, 0)?;
    let offset = Offset(head.offset);
    let wrapper = head.codec_id() != 0;
    Ok(BatchHeader {
        size: head.size,
        magic: head.magic,
        base_offset: offset,
        last_offset: offset,
        leader_epoch: -1,
        crc: head.crc,
        attributes: i16::from(head.attributes),
        base_timestamp: head.timestamp,
        max_timestamp: head.timestamp,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        count: if wrapper { -1 } else { 1 },
    })
}

/// Checks the CRC-32 of one whole entry.
pub(super) fn check_crc(bytes: &[u8], header: &BatchHeader) -> Result<(), Defect> {
    let computed = crc32fast::hash(bytes.get(MAGIC_AT..).unwrap_or_default());
    if computed == header.crc {
        return Ok(());
    }
    let stored = header.crc;
    let why = format!("message CRC-32 is {stored:08x}, computed {computed:08x}");
    Err(Defect::new(CRC_AT, why))
}

/// The messages of an entry: itself, or those inside a wrapper.
pub(super) struct Messages<'a> {
    /// One message after the other, all of them walked before.
    bytes: &'a [u8],
    pos: usize,
    /// What to add to a message's offset.
    base: i64,
    /// The time of magic 1 messages under LogAppendTime.
    append_timestamp: Option<TimestampMs>,
    /// Checksum of the message delivered last.
    pub(super) crc: u32,
}

impl<'a> Messages<'a> {
    /// Opens an entry; a wrapper is decompressed into `body`.
    pub(super) fn open(
        header: &BatchHeader,
        bytes: &'a [u8],
        decompressor: &mut Decompressor,
        body: &'a mut Vec<u8>,
        limits: &Limits,
    ) -> Result<Messages<'a>, Defect> {
        let outer = Message::read(bytes, 0)?;
        let append = header.timestamp_type() == TimestampType::Append;
        let mut messages = Messages {
            bytes,
            pos: 0,
            base: 0,
            append_timestamp: append.then_some(header.max_timestamp),
            crc: 0,
        };
        let codec = match header.codec() {
            Ok(Codec::None) => return Ok(messages),
            Ok(Codec::Zstd) | Err(_) => {
                let (id, magic) = (outer.head.codec_id(), header.magic);
                let why = format!("unknown codec {id} for magic {magic}");
                return Err(Defect::new(ATTRIBUTES_AT, why));
            }
            Ok(codec) => codec,
        };
        let value = outer
            .value
            .ok_or_else(|| Defect::new(ATTRIBUTES_AT, "compressed message without a value"))?;
        // The value is the last field, so it ends where the entry does.
        let value_at = outer.end.saturating_sub(value.len());
        body.clear();
        decompressor
            .decompress(codec, header.magic, value, body, limits)
            .map_err(|d| d.shifted(value_at))?;
        messages.bytes = body;
        let last_inner = check_inner(body).map_err(|d| place_inner(d, value_at))?;
        if header.magic == 1 {
            messages.base = base_of(header.last_offset.0, last_inner)?;
        }
        Ok(messages)
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<Result<Record<'a>, Defect>> {
        if self.pos >= self.bytes.len() {
            return None;
        }
        let message = match Message::read(self.bytes, self.pos) {
            Ok(message) => message,
            Err(defect) => {
                self.pos = self.bytes.len();
                return Some(Err(defect));
            }
        };
        self.pos = message.end;
        self.crc = message.head.crc;
        let timestamp = match self.append_timestamp {
            Some(append) if message.head.magic == 1 => append,
            _ => message.head.timestamp,
        };
        Some(Ok(Record {
            offset: Offset(self.base) + message.head.offset,
            timestamp,
            sequence: -1,
            key: message.key,
            value: message.value,
            headers: Headers::default(),
        }))
    }
}

/// Checks that `body` is a row of whole, sound, uncompressed messages; returns the last one's offset.
fn check_inner(body: &[u8]) -> Result<i64, Defect> {
    let mut last = Err(Defect::new(0, "no message in a compressed message"));
    let mut pos = 0;
    while pos < body.len() {
        let message = Message::read(body, pos)?;
        if message.head.codec_id() != 0 {
            return Err(Defect::new(pos, "compressed message in a compressed one"));
        }
        let checked = body.get(pos.saturating_add(MAGIC_AT)..message.end);
        let computed = crc32fast::hash(checked.unwrap_or_default());
        if computed != message.head.crc {
            let stored = message.head.crc;
            let why = format!("inner message CRC-32 is {stored:08x}, computed {computed:08x}");
            return Err(Defect::new(pos, why));
        }
        last = Ok(message.head.offset);
        pos = message.end;
    }
    last
}

/// What to add to the inner offsets of a magic 1 wrapper, so that the last is the wrapper's.
fn base_of(wrapper: i64, last_inner: i64) -> Result<i64, Defect> {
    if wrapper == 0 {
        return Ok(0);
    }
    wrapper
        .checked_sub(last_inner)
        .filter(|base| *base >= 0)
        .ok_or_else(|| {
            let why =
                format!("message offset {wrapper} is below its last inner offset {last_inner}");
            Defect::new(0, why)
        })
}

/// Positions inside a decompressed value mean nothing in the file; they become words.
fn place_inner(defect: Defect, value_at: usize) -> Defect {
    let Defect { at, reason } = defect;
    let why = format!("{reason} (byte {at} of the decompressed messages)");
    Defect::new(value_at, why)
}

/// What every message begins with.
struct Head {
    offset: i64,
    /// Whole message in bytes, from its offset on.
    size: usize,
    crc: u32,
    magic: u8,
    attributes: u8,
    /// -1 in magic 0.
    timestamp: TimestampMs,
    /// Where the key's length stands, from the start of the message.
    key_at: usize,
}

impl Head {
    fn read(bytes: &[u8], pos: usize) -> Result<Head, Defect> {
        let cut_short = || Defect::new(bytes.len(), "message header cut short");
        let message = bytes.get(pos..).ok_or_else(cut_short)?;
        let magic = *message.get(MAGIC_AT).ok_or_else(cut_short)?;
        let (timestamp, key_at) = match magic {
            0 => (-1, TIMESTAMP_AT),
            1 => {
                let timestamp = read_i64(message, TIMESTAMP_AT).ok_or_else(cut_short)?;
                (timestamp, TIMESTAMP_AT + 8)
            }
            _ => {
                let why = format!("magic {magic} in a message of magic 0 or 1");
                return Err(Defect::new(pos.saturating_add(MAGIC_AT), why));
            }
        };
        let length = read_i32(message, LENGTH_AT).ok_or_else(cut_short)?;
        let size = usize::try_from(length)
            .ok()
            .and_then(|n| n.checked_add(LOG_OVERHEAD))
            .filter(|size| *size >= key_at + 4 + 4)
            .ok_or_else(|| {
                let why = format!("message length {length} is below the minimum of magic {magic}");
                Defect::new(pos.saturating_add(LENGTH_AT), why)
            })?;
        Ok(Head {
            offset: read_i64(message, 0).ok_or_else(cut_short)?,
            size,
            crc: read_u32(message, CRC_AT).ok_or_else(cut_short)?,
            magic,
            attributes: *message.get(ATTRIBUTES_AT).ok_or_else(cut_short)?,
            timestamp: TimestampMs(timestamp),
            key_at,
        })
    }

    fn codec_id(&self) -> i16 {
        i16::from(self.attributes) & attributes::CODEC
    }
}

/// One whole message.
struct Message<'a> {
    head: Head,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    /// Where it ends, in the bytes it was read from.
    end: usize,
}

impl<'a> Message<'a> {
    /// Reads the message at `pos`, whose fields must fill it exactly.
    fn read(bytes: &'a [u8], pos: usize) -> Result<Message<'a>, Defect> {
        let head = Head::read(bytes, pos)?;
        let end = pos.saturating_add(head.size);
        let message = bytes.get(..end).ok_or_else(|| {
            let left = bytes.len().saturating_sub(pos);
            let why = format!("message of {} bytes, {left} left", head.size);
            Defect::new(pos, why)
        })?;
        let (key, at) = read_field(message, pos.saturating_add(head.key_at), "key")?;
        let (value, at) = read_field(message, at, "value")?;
        if at != end {
            let over = end.saturating_sub(at);
            let why = format!("message is {over} bytes longer than its fields");
            return Err(Defect::new(at, why));
        }
        Ok(Message {
            head,
            key,
            value,
            end,
        })
    }
}

/// A field of a message, and where the next one begins.
type Field<'a> = (Option<&'a [u8]>, usize);

/// Reads a length and that many bytes at `pos`; a length below 0 is null.
fn read_field<'a>(message: &'a [u8], pos: usize, what: &str) -> Result<Field<'a>, Defect> {
    let length = read_i32(message, pos)
        .ok_or_else(|| Defect::new(pos, format!("{what} length is cut short")))?;
    let start = pos.saturating_add(4);
    let Ok(len) = usize::try_from(length) else {
        return Ok((None, start));
    };
    let end = start.saturating_add(len);
    let bytes = message.get(start..end).ok_or_else(|| {
        let why = format!("{what} length {length} runs past the message");
        Defect::new(pos, why)
    })?;
    Ok((Some(bytes), end))
}

#[cfg(test)]
pub(super) mod tests;
