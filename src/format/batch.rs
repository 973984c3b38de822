//! A record batch: its header in every magic, its checksum, and its records.
//!
//! Magic 2, 61 bytes of header, big-endian, then the records (compressed as one block when a codec
//! is set):
//!
//! | at | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | base offset | outside the CRC: the writer of the log sets it |
//! | 8 | 4 | batch length | total size - 12 |
//! | 12 | 4 | partition leader epoch | outside the CRC; -1 is none |
//! | 16 | 1 | magic | outside the CRC; above 2 is read as 2, as Kafka does |
//! | 17 | 4 | CRC-32C | of bytes 21 to the end |
//! | 21 | 2 | attributes | bits 0-2 codec, 3 LogAppendTime, 4 transactional, 5 control, 6 delete horizon |
//! | 23 | 4 | last offset delta | also the last sequence delta |
//! | 27 | 8 | base timestamp | of the first record; with bit 6 the delete horizon |
//! | 35 | 8 | max timestamp | |
//! | 43 | 8 | producer id | -1 is none |
//! | 51 | 2 | producer epoch | -1 is none |
//! | 53 | 4 | base sequence | -1 is none |
//! | 57 | 4 | record count | |
//!
//! Rules that are easy to get wrong: the last offset is base + last offset delta, never the last
//! record's; record offsets have gaps after compaction; a batch with no records is data (it carries
//! the log end and producer state); under LogAppendTime every record's time is the max timestamp.
//!
//! What is checked here: framing, checksum, codec, and that the records are exactly what the header
//! counts and end exactly where the body ends. Order of offsets between batches is the log's matter.
//! Source: Kafka `DefaultRecordBatch.java`.

use super::codec::{Codec, Decompressor};
use super::frame::{BATCH_HEADER_BYTES, LOG_OVERHEAD, read_i16, read_i32, read_i64, read_u32};
use super::record::{RawRecord, Record, read_record};
use super::{Defect, Limits, Offset, TimestampMs, crc32c, legacy};

pub(super) const LENGTH_AT: usize = 8;
pub(super) const EPOCH_AT: usize = LENGTH_AT + 4;
pub(super) const MAGIC_AT: usize = EPOCH_AT + 4;
pub(super) const CRC_AT: usize = MAGIC_AT + 1;
pub(super) const ATTRIBUTES_AT: usize = CRC_AT + 4;
pub(super) const LAST_OFFSET_DELTA_AT: usize = ATTRIBUTES_AT + 2;
pub(super) const BASE_TIMESTAMP_AT: usize = LAST_OFFSET_DELTA_AT + 4;
pub(super) const MAX_TIMESTAMP_AT: usize = BASE_TIMESTAMP_AT + 8;
pub(super) const PRODUCER_ID_AT: usize = MAX_TIMESTAMP_AT + 8;
pub(super) const PRODUCER_EPOCH_AT: usize = PRODUCER_ID_AT + 8;
pub(super) const BASE_SEQUENCE_AT: usize = PRODUCER_EPOCH_AT + 2;
pub(super) const COUNT_AT: usize = BASE_SEQUENCE_AT + 4;
pub(super) const RECORDS_AT: usize = COUNT_AT + 4;
const _: () = assert!(RECORDS_AT == BATCH_HEADER_BYTES && LENGTH_AT + 4 == LOG_OVERHEAD);

/// Bits of the attributes field.
pub mod attributes {
    /// Bits 0 to 2: the codec.
    pub const CODEC: i16 = 0x07;
    /// Bit 3: timestamps are the time of the append.
    pub const LOG_APPEND_TIME: i16 = 0x08;
    /// Bit 4: part of a transaction.
    pub const TRANSACTIONAL: i16 = 0x10;
    /// Bit 5: holds a control record.
    pub const CONTROL: i16 = 0x20;
    /// Bit 6: the base timestamp is a delete horizon.
    pub const DELETE_HORIZON: i16 = 0x40;
}

/// Whose clock a batch's timestamps come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    /// Magic 0: there is no timestamp.
    None,
    /// The producer's.
    Create,
    /// The log's, at the append.
    Append,
}

/// The header of a batch of any magic, read but not yet checked against its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Whole batch in bytes, as stored.
    pub size: usize,
    /// 0, 1, 2, or more (read as 2).
    pub magic: u8,
    /// First offset. For a compressed magic 0 or 1 wrapper, whose header does not tell, the last.
    pub base_offset: Offset,
    /// Last offset; the next batch begins above it.
    pub last_offset: Offset,
    /// Leader epoch; -1 is none.
    pub leader_epoch: i32,
    /// Checksum as stored: CRC-32C, or CRC-32 in magic 0 and 1.
    pub crc: u32,
    /// Attribute bits as stored.
    pub attributes: i16,
    /// Time of the first record, or the delete horizon.
    pub base_timestamp: TimestampMs,
    /// Largest time in the batch; -1 is none.
    pub max_timestamp: TimestampMs,
    /// Producer id; -1 is none.
    pub producer_id: i64,
    /// Producer epoch; -1 is none.
    pub producer_epoch: i16,
    /// Sequence number of the first record; -1 is none.
    pub base_sequence: i32,
    /// Records, as the header claims; -1 for a compressed magic 0 or 1 wrapper, which does not tell.
    pub count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which must hold the first 61 bytes of a magic 2
    /// batch, or the first 26 of a magic 0 or 1 entry.
    ///
    /// # Errors
    /// A defect if the bytes do not reach or the length is out of range. The checksum is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, Defect> {
        let short = || Defect::new(bytes.len(), "batch header cut short");
        match *bytes.get(MAGIC_AT).ok_or_else(short)? {
            0 | 1 => legacy::parse_header(bytes),
            magic => parse_v2(bytes, magic).ok_or_else(short),
        }
    }

    /// The codec.
    ///
    /// # Errors
    /// The id, if no codec has it.
    pub fn codec(&self) -> Result<Codec, u8> {
        let id = (self.attributes & attributes::CODEC) as u8;
        Codec::from_id(id).ok_or(id)
    }

    /// Whose clock the timestamps come from.
    pub fn timestamp_type(&self) -> TimestampType {
        match self.magic {
            0 => TimestampType::None,
            _ if self.has(attributes::LOG_APPEND_TIME) => TimestampType::Append,
            _ => TimestampType::Create,
        }
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.magic >= 2 && self.has(attributes::TRANSACTIONAL)
    }

    /// Whether the batch holds a control record, which readers are never shown.
    pub fn is_control(&self) -> bool {
        self.magic >= 2 && self.has(attributes::CONTROL)
    }

    /// When the batch's tombstones and markers may go, if compaction has set that.
    pub fn delete_horizon(&self) -> Option<TimestampMs> {
        (self.magic >= 2 && self.has(attributes::DELETE_HORIZON)).then_some(self.base_timestamp)
    }

    /// Sequence number of the last record, or -1.
    pub fn last_sequence(&self) -> i32 {
        let delta = self.last_offset - self.base_offset;
        sequence_at(self.base_sequence, i32::try_from(delta).unwrap_or(0))
    }

    /// Whether an idempotent or transactional producer wrote it.
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    fn has(&self, bit: i16) -> bool {
        self.attributes & bit != 0
    }
}

/// `base` + `delta` in sequence numbers, which wrap from 2^31 - 1 to 0; -1 stays -1.
pub fn sequence_at(base: i32, delta: i32) -> i32 {
    if base < 0 {
        return -1;
    }
    let sum = i64::from(base) + i64::from(delta);
    i32::try_from(sum & 0x7fff_ffff).unwrap_or(-1)
}

fn parse_v2(bytes: &[u8], magic: u8) -> Option<BatchHeader> {
    let base_offset = Offset(read_i64(bytes, 0)?);
    let size = usize::try_from(read_i32(bytes, LENGTH_AT)?)
        .ok()?
        .checked_add(LOG_OVERHEAD)?;
    Some(BatchHeader {
        size,
        magic,
        base_offset,
        last_offset: base_offset + i64::from(read_i32(bytes, LAST_OFFSET_DELTA_AT)?),
        leader_epoch: read_i32(bytes, EPOCH_AT)?,
        crc: read_u32(bytes, CRC_AT)?,
        attributes: read_i16(bytes, ATTRIBUTES_AT)?,
        base_timestamp: TimestampMs(read_i64(bytes, BASE_TIMESTAMP_AT)?),
        max_timestamp: TimestampMs(read_i64(bytes, MAX_TIMESTAMP_AT)?),
        producer_id: read_i64(bytes, PRODUCER_ID_AT)?,
        producer_epoch: read_i16(bytes, PRODUCER_EPOCH_AT)?,
        base_sequence: read_i32(bytes, BASE_SEQUENCE_AT)?,
        count: read_i32(bytes, COUNT_AT)?,
    })
}

/// A whole batch whose checksum holds.
#[derive(Clone, Debug)]
pub struct Batch<'a> {
    header: BatchHeader,
    bytes: &'a [u8],
}

/// What decoding batches needs and reuses from one to the next: decompressor state and the
/// decompressed body.
#[derive(Default)]
pub struct Scratch {
    decompressor: Decompressor,
    body: Vec<u8>,
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// Appends to `out` what the body of a magic 2 batch decompresses to.
    ///
    /// # Errors
    /// A defect if it does not, within `limits`.
    pub(super) fn decompress(
        &mut self,
        codec: Codec,
        magic: u8,
        stored: &[u8],
        out: &mut Vec<u8>,
        limits: &Limits,
    ) -> Result<(), Defect> {
        let read = self
            .decompressor
            .decompress(codec, magic, stored, out, limits);
        read.map_err(|d| d.shifted(RECORDS_AT))
    }
}

impl<'a> Batch<'a> {
    /// Takes `bytes` as exactly one batch and checks its checksum.
    ///
    /// # Errors
    /// A defect if `bytes` is not one whole batch, or the checksum differs.
    pub fn check(bytes: &'a [u8]) -> Result<Batch<'a>, Defect> {
        let header = BatchHeader::parse(bytes)?;
        if header.size != bytes.len() {
            let why = format!(
                "batch length says {} bytes, there are {}",
                header.size,
                bytes.len()
            );
            return Err(Defect::new(LENGTH_AT, why));
        }
        if header.magic < 2 {
            legacy::check_crc(bytes, &header)?;
        } else {
            let computed = crc32c::crc32c(bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
            if computed != header.crc {
                let why = format!(
                    "batch CRC-32C is {:08x}, computed {computed:08x}",
                    header.crc
                );
                return Err(Defect::new(CRC_AT, why));
            }
        }
        Ok(Batch { header, bytes })
    }

    /// Takes `bytes` as a batch that has been checked before.
    ///
    /// # Errors
    /// A defect if the header cannot be read.
    pub fn trusted(bytes: &'a [u8]) -> Result<Batch<'a>, Defect> {
        Ok(Batch {
            header: BatchHeader::parse(bytes)?,
            bytes,
        })
    }

    /// Takes `bytes` as a batch that has been checked before, whose header is `header`.
    pub fn checked(header: BatchHeader, bytes: &'a [u8]) -> Batch<'a> {
        Batch { header, bytes }
    }

    /// Its header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The batch as stored.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its records, decompressed into `scratch` where a codec is set.
    ///
    /// # Errors
    /// A defect if the codec is unknown or the body does not decompress within `limits`.
    pub fn records<'s>(
        &self,
        scratch: &'s mut Scratch,
        limits: &Limits,
    ) -> Result<Records<'s>, Defect>
    where
        'a: 's,
    {
        if self.header.magic < 2 {
            let Scratch { decompressor, body } = scratch;
            let messages =
                legacy::Messages::open(&self.header, self.bytes, decompressor, body, limits)?;
            return Ok(Records(Inner::Legacy(messages)));
        }
        let (codec, stored) = self.stored()?;
        let body = match codec {
            Codec::None => stored,
            codec => {
                let mut body = std::mem::take(&mut scratch.body);
                body.clear();
                let read = scratch.decompress(codec, self.header.magic, stored, &mut body, limits);
                scratch.body = body;
                read?;
                &scratch.body
            }
        };
        Ok(Records(Inner::V2(RecordsV2::new(
            &self.header,
            body,
            codec != Codec::None,
        ))))
    }

    /// The records of a magic 2 batch as stored, and how they are compressed.
    ///
    /// # Errors
    /// A defect if the codec is unknown.
    pub(super) fn stored(&self) -> Result<(Codec, &'a [u8]), Defect> {
        let stored = self.bytes.get(RECORDS_AT..).unwrap_or_default();
        let unknown = |id| Defect::new(ATTRIBUTES_AT, format!("unknown codec {id}"));
        let codec = self.header.codec().map_err(unknown)?;
        // Nothing is compressed where there is nothing; some writers leave the codec bits set.
        let is_empty = self.header.count == 0 && stored.is_empty();
        Ok((if is_empty { Codec::None } else { codec }, stored))
    }

    /// Checks every record without delivering any.
    ///
    /// # Errors
    /// The first defect.
    pub fn check_records(&self, scratch: &mut Scratch, limits: &Limits) -> Result<(), Defect> {
        for record in self.records(scratch, limits)? {
            record?;
        }
        Ok(())
    }
}

/// The records of a batch in order. After the last one the end of the body is checked, so a defect
/// may come after all records were delivered: whoever must deliver all or none checks first
/// ([`Batch::check_records`]) or holds its output back until the end.
pub struct Records<'a>(Inner<'a>);

impl Records<'_> {
    /// The checksum that the record delivered last has of its own: in magic 0 and 1 only.
    pub fn message_crc(&self) -> Option<u32> {
        match &self.0 {
            Inner::V2(_) => None,
            Inner::Legacy(messages) => Some(messages.crc),
        }
    }
}

enum Inner<'a> {
    V2(RecordsV2<'a>),
    Legacy(legacy::Messages<'a>),
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, Defect>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Inner::V2(records) => records.next(),
            Inner::Legacy(messages) => messages.next(),
        }
    }
}

pub(super) struct RecordsV2<'a> {
    body: &'a [u8],
    pos: usize,
    /// Records still to come; below zero once the end was reported.
    left: i64,
    base_offset: Offset,
    base_timestamp: i64,
    /// Every record's time, under LogAppendTime.
    append_timestamp: Option<TimestampMs>,
    base_sequence: i32,
    compressed: bool,
}

impl<'a> RecordsV2<'a> {
    pub(super) fn new(header: &BatchHeader, body: &'a [u8], compressed: bool) -> RecordsV2<'a> {
        let append = header.timestamp_type() == TimestampType::Append;
        RecordsV2 {
            body,
            pos: 0,
            left: i64::from(header.count).max(0),
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp.0,
            append_timestamp: append.then_some(header.max_timestamp),
            base_sequence: header.base_sequence,
            compressed,
        }
    }

    /// Where the next record begins.
    #[inline(always)]
    pub(super) fn position(&self) -> usize {
        self.pos
    }

    /// Goes to a record's beginning.
    pub(super) fn seek(&mut self, position: usize) {
        self.pos = position;
    }

    #[inline(always)]
    pub(super) fn next(&mut self) -> Option<Result<Record<'a>, Defect>> {
        if self.left <= 0 {
            return self.end();
        }
        self.left -= 1;
        match read_record(self.body, self.pos) {
            Ok((raw, next)) => {
                self.pos = next;
                Some(Ok(self.resolve(raw)))
            }
            Err(defect) => {
                self.left = -1;
                Some(Err(self.place(defect)))
            }
        }
    }

    #[inline(always)]
    fn resolve(&self, raw: RawRecord<'a>) -> Record<'a> {
        Record {
            offset: self.base_offset + i64::from(raw.offset_delta),
            timestamp: self.append_timestamp.unwrap_or(TimestampMs(
                self.base_timestamp.wrapping_add(raw.timestamp_delta),
            )),
            sequence: sequence_at(self.base_sequence, raw.offset_delta),
            key: raw.key,
            value: raw.value,
            headers: raw.headers,
        }
    }

    #[cold]
    fn end(&mut self) -> Option<Result<Record<'a>, Defect>> {
        let over = self.body.len() - self.pos.min(self.body.len());
        if self.left < 0 || over == 0 {
            return None;
        }
        self.left = -1;
        Some(Err(self.place(Defect::new(
            self.pos,
            format!("{over} bytes after the last record"),
        ))))
    }

    /// Positions inside a compressed body mean nothing in the file; they become words.
    fn place(&self, defect: Defect) -> Defect {
        if !self.compressed {
            return defect.shifted(RECORDS_AT);
        }
        let why = format!(
            "{} (byte {} of the decompressed records)",
            defect.reason, defect.at
        );
        Defect::new(RECORDS_AT, why)
    }
}
