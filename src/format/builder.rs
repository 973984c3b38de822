//! Writes magic 2 batches: records are encoded straight into the buffer that will be written.
//!
//! A sealed batch is final but for its base offset and leader epoch, which lie outside the checksum
//! and are stamped under the append lock ([`stamp`]). So encoding, compression and checksums happen
//! before the lock is taken.

use super::batch::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, COUNT_AT, CRC_AT, EPOCH_AT,
    LAST_OFFSET_DELTA_AT, LENGTH_AT, MAGIC_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT, PRODUCER_ID_AT,
    RECORDS_AT, attributes,
};
use super::codec::{Codec, Compressor};
use super::frame::LOG_OVERHEAD;
use super::record::{NewRecord, write_record};
use super::{Offset, TimestampMs, crc32c};

/// Identity of an idempotent producer, and the sequence number of a batch's first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Producer id, 0 and up.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
    /// Sequence number of the first record.
    pub base_sequence: i32,
}

/// What a batch carries besides its records.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seal {
    /// The time of the append, where the log stamps records itself (LogAppendTime).
    pub append_time: Option<TimestampMs>,
    /// The idempotent producer, if there is one.
    pub producer: Option<Producer>,
    /// Part of a transaction.
    pub transactional: bool,
    /// Holds a control record.
    pub control: bool,
}

/// Finished batches, one after the other in one buffer, waiting for their base offsets.
///
/// The unit that goes from encoding to writing: many small batches are one `write`.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// Whole batches back to back; base offset 0 and leader epoch -1 until [`stamp`]ed.
    pub bytes: Vec<u8>,
    /// Each batch in `bytes`, in order.
    pub batches: Vec<SealedBatch>,
}

/// What is known of one finished batch of a [`Chunk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedBatch {
    /// Where it begins in the chunk, in bytes.
    pub start: usize,
    /// Its size in bytes.
    pub size: usize,
    /// Records in it.
    pub count: i32,
    /// Last offset minus base offset.
    pub last_offset_delta: i32,
    /// Largest timestamp in it; -1 is none.
    pub max_timestamp: TimestampMs,
    /// Whether it carries a producer id.
    pub has_producer: bool,
}

impl Chunk {
    /// Records in all batches together.
    pub fn records(&self) -> u64 {
        self.batches
            .iter()
            .map(|b| u64::from(b.count.cast_unsigned()))
            .sum()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.batches.clear();
    }
}

/// A batch under construction at the end of a chunk. Without a codec its records are encoded where
/// they will stay; with one they are encoded aside and compressed into the chunk.
#[derive(Debug)]
pub struct BatchBuilder {
    /// What comes before the batch, 61 bytes left for the header, then the encoded records.
    buf: Vec<u8>,
    start: usize,
    count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// Begins a batch at the end of `buf` (usually a chunk's bytes), to be given back by
    /// [`BatchBuilder::seal`].
    pub fn begin(mut buf: Vec<u8>) -> BatchBuilder {
        let start = buf.len();
        buf.resize(start + RECORDS_AT, 0);
        BatchBuilder {
            buf,
            start,
            count: 0,
            last_offset_delta: -1,
            base_timestamp: -1,
            max_timestamp: -1,
        }
    }

    /// Adds a record at the next offset.
    #[inline]
    pub fn push(&mut self, timestamp: TimestampMs, record: &NewRecord<'_>) {
        self.push_at(self.last_offset_delta + 1, timestamp, record);
    }

    /// Adds a record `offset_delta` above the base offset, which must rise from record to record.
    #[inline]
    pub fn push_at(&mut self, offset_delta: i32, timestamp: TimestampMs, record: &NewRecord<'_>) {
        debug_assert!(offset_delta > self.last_offset_delta);
        if self.count == 0 {
            (self.base_timestamp, self.max_timestamp) = (timestamp.0, timestamp.0);
        }
        self.max_timestamp = self.max_timestamp.max(timestamp.0);
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp);
        write_record(&mut self.buf, timestamp_delta, offset_delta, record);
        self.last_offset_delta = offset_delta;
        self.count += 1;
    }

    /// Records so far.
    #[inline]
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there are none yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, header included, before compression.
    #[inline]
    pub fn size(&self) -> usize {
        self.buf.len() - self.start
    }

    /// Largest timestamp so far, -1 if there is none.
    pub fn max_timestamp(&self) -> TimestampMs {
        TimestampMs(self.max_timestamp)
    }

    /// Finishes the batch where it stands: writes the header and the checksum, no compression.
    /// Gives the buffer back. An empty builder gives an empty batch, which is valid.
    pub fn seal(self, seal: &Seal) -> (Vec<u8>, SealedBatch) {
        let fields = self.fields(Codec::None);
        let BatchBuilder { mut buf, start, .. } = self;
        let sealed = write_header(&mut buf, start, seal, &fields);
        (buf, sealed)
    }

    /// Finishes the batch compressed at the end of `chunk`. Gives back the builder's own buffer,
    /// emptied, for the next batch.
    pub fn seal_compressed(
        self,
        seal: &Seal,
        compressor: &mut Compressor,
        chunk: &mut Chunk,
    ) -> Vec<u8> {
        let codec = if self.count == 0 {
            Codec::None
        } else {
            compressor.codec()
        };
        let fields = self.fields(codec);
        let BatchBuilder { mut buf, start, .. } = self;
        let records = buf.get(start + RECORDS_AT..).unwrap_or_default();
        let at = chunk.bytes.len();
        chunk.bytes.resize(at + RECORDS_AT, 0);
        // Without records there is nothing to compress, not even a frame around nothing.
        if !records.is_empty() {
            compressor.compress(records, &mut chunk.bytes);
        }
        chunk
            .batches
            .push(write_header(&mut chunk.bytes, at, seal, &fields));
        buf.clear();
        buf
    }

    fn fields(&self, codec: Codec) -> Fields {
        Fields {
            count: self.count,
            last_offset_delta: self.last_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            codec,
        }
    }
}

struct Fields {
    count: i32,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    codec: Codec,
}

fn write_header(buf: &mut [u8], start: usize, seal: &Seal, f: &Fields) -> SealedBatch {
    let mut bits = i16::from(f.codec.id());
    let mut set = |on: bool, bit: i16| bits |= if on { bit } else { 0 };
    set(seal.append_time.is_some(), attributes::LOG_APPEND_TIME);
    set(seal.transactional, attributes::TRANSACTIONAL);
    set(seal.control, attributes::CONTROL);
    let producer = seal.producer.unwrap_or(Producer {
        id: -1,
        epoch: -1,
        base_sequence: -1,
    });
    let max_timestamp = seal.append_time.unwrap_or(TimestampMs(f.max_timestamp));
    let bytes = buf.get_mut(start..).unwrap_or_default();
    let size = bytes.len();
    put(
        bytes,
        LENGTH_AT,
        &((size - LOG_OVERHEAD) as u32).to_be_bytes(),
    );
    put(bytes, EPOCH_AT, &(-1i32).to_be_bytes());
    put(bytes, MAGIC_AT, &[2]);
    put(bytes, ATTRIBUTES_AT, &bits.to_be_bytes());
    put(
        bytes,
        LAST_OFFSET_DELTA_AT,
        &f.last_offset_delta.to_be_bytes(),
    );
    put(bytes, BASE_TIMESTAMP_AT, &f.base_timestamp.to_be_bytes());
    put(bytes, MAX_TIMESTAMP_AT, &max_timestamp.0.to_be_bytes());
    put(bytes, PRODUCER_ID_AT, &producer.id.to_be_bytes());
    put(bytes, PRODUCER_EPOCH_AT, &producer.epoch.to_be_bytes());
    put(
        bytes,
        BASE_SEQUENCE_AT,
        &producer.base_sequence.to_be_bytes(),
    );
    put(bytes, COUNT_AT, &f.count.to_be_bytes());
    let crc = crc32c::crc32c(bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(bytes, CRC_AT, &crc.to_be_bytes());
    SealedBatch {
        start,
        size,
        count: f.count,
        last_offset_delta: f.last_offset_delta,
        max_timestamp,
        has_producer: seal.producer.is_some(),
    }
}

/// Sets the two fields outside the checksum of a magic 2 batch: where it stands and under which
/// leader epoch.
pub fn stamp(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    put(batch, 0, &base_offset.0.to_be_bytes());
    put(batch, EPOCH_AT, &leader_epoch.to_be_bytes());
}

/// A batch without records that carries an offset.
pub fn empty_batch(offset: Offset, leader_epoch: i32) -> Vec<u8> {
    let (mut bytes, _) = BatchBuilder::begin(Vec::new()).seal(&Seal::default());
    stamp(&mut bytes, offset, leader_epoch);
    // One without records leaves it below 0.
    put(&mut bytes, LAST_OFFSET_DELTA_AT, &0i32.to_be_bytes());
    let crc = crc32c::crc32c(bytes.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(&mut bytes, CRC_AT, &crc.to_be_bytes());
    bytes
}

/// Makes a sound magic 2 batch one of no producer and no transaction, for another log: its producer
/// fields and transactional bit go, and the checksum is computed again. Records are untouched.
pub fn detach(batch: &mut [u8]) {
    let bits = super::frame::read_i16(batch, ATTRIBUTES_AT).unwrap_or(0);
    put(
        batch,
        ATTRIBUTES_AT,
        &(bits & !attributes::TRANSACTIONAL).to_be_bytes(),
    );
    put(batch, PRODUCER_ID_AT, &(-1i64).to_be_bytes());
    put(batch, PRODUCER_EPOCH_AT, &(-1i16).to_be_bytes());
    put(batch, BASE_SEQUENCE_AT, &(-1i32).to_be_bytes());
    let crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
    put(batch, CRC_AT, &crc.to_be_bytes());
}

#[inline(always)]
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Batch, Scratch};
    use super::super::codec::Compression;
    use super::super::{Limits, record::Header};
    use super::*;

    type Owned = (
        Option<Vec<u8>>,
        Option<Vec<u8>>,
        Vec<(Vec<u8>, Option<Vec<u8>>)>,
        i64,
    );

    fn round_trip(compression: &str, records: &[Owned]) {
        let mut b = BatchBuilder::begin(Vec::new());
        for (key, value, headers, ts) in records {
            let headers: Vec<Header<'_>> = headers
                .iter()
                .map(|(k, v)| (&k[..], v.as_deref()))
                .collect();
            let new = NewRecord {
                key: key.as_deref(),
                value: value.as_deref(),
                headers: &headers,
            };
            b.push(TimestampMs(*ts), &new);
        }
        let compression: Compression = compression.parse().expect("a codec");
        let mut chunk = Chunk::default();
        b.seal_compressed(
            &Seal::default(),
            &mut Compressor::new(&compression),
            &mut chunk,
        );
        stamp(&mut chunk.bytes, Offset(1000), 7);
        let batch = Batch::check(&chunk.bytes).expect("checksum holds");
        assert_eq!(batch.header().leader_epoch, 7);
        assert_eq!(
            batch.header().max_timestamp.0,
            records.iter().map(|r| r.3).max().unwrap_or(-1)
        );
        let mut scratch = Scratch::new();
        let read: Vec<Owned> = batch
            .records(&mut scratch, &Limits::default())
            .expect("decompresses")
            .enumerate()
            .map(|(i, r)| {
                let r = r.expect("record");
                assert_eq!(r.offset, Offset(1000 + i as i64));
                let headers = r
                    .headers
                    .iter()
                    .map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec)))
                    .collect();
                (
                    r.key.map(<[u8]>::to_vec),
                    r.value.map(<[u8]>::to_vec),
                    headers,
                    r.timestamp.0,
                )
            })
            .collect();
        assert_eq!(read, records);
    }

    #[test]
    fn an_empty_batch_is_no_more_than_its_header_in_every_codec() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            round_trip(codec, &[]);
        }
    }

    proptest::proptest! {
        #[test]
        fn batches_round_trip_in_every_codec(
            records in proptest::collection::vec((
                proptest::option::of(proptest::collection::vec(0u8.., 0..40)),
                proptest::option::of(proptest::collection::vec(0u8.., 0..300)),
                proptest::collection::vec((proptest::collection::vec(0u8.., 0..9), proptest::option::of(proptest::collection::vec(0u8.., 0..9))), 0..4),
                proptest::num::i64::ANY,
            ), 1..40),
            codec in 0usize..5,
        ) {
            round_trip(["none", "gzip", "snappy", "lz4", "zstd"][codec], &records);
        }

        #[test]
        fn every_bit_flip_is_found_or_outside_the_checksum(bit in 0usize..8 * 150) {
            let mut b = BatchBuilder::begin(Vec::new());
            b.push(TimestampMs(5), &NewRecord { key: Some(b"k"), value: Some(&[7; 80]), headers: &[] });
            let (mut bytes, _) = b.seal(&Seal::default());
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outside = bit / 8 < CRC_AT && bit / 8 != MAGIC_AT && !(LENGTH_AT..EPOCH_AT).contains(&(bit / 8));
            if bit / 8 != MAGIC_AT {
                assert_eq!(Batch::check(&bytes).is_ok(), outside, "bit {bit}");
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(0u8.., 0..400)) {
            let mut scratch = Scratch::new();
            if let Ok(b) = Batch::trusted(&bytes) {
                let _ = b.check_records(&mut scratch, &Limits::default());
            }
        }
    }
}
