//! A batch written again with some of its records: what compaction, redaction and exact retention
//! leave of it.
//!
//! The result is magic 2, whatever the batch was, and keeps its last offset, leader epoch, codec,
//! timestamp type, producer fields and the attribute bits that nobody knows. Offsets, times, order,
//! keys, values and headers of the records stay. Record count, base timestamp and, for times of the
//! producer, the largest time are those of what is left (Kafka `MemoryRecords.filterTo`).
//!
//! * A batch of which nothing is left is 61 bytes without codec and delete horizon; it keeps the
//!   largest time, and carries its offsets and its producer's state.
//! * With a delete horizon bit 6 is set and the base timestamp is that deadline; record times are
//!   still the base timestamp and their delta.
//! * Base offset and base sequence stay too, unless the caller cuts the batch's beginning off.

use super::batch::{ATTRIBUTES_AT, BatchHeader, CRC_AT, TimestampType, attributes, sequence_at};
use super::codec::{Codec, Compression, Compressor};
use super::frame::LOG_OVERHEAD;
use super::record::{Header, NewRecord, Record, write_record};
use super::{Defect, Offset, TimestampMs, crc32c};

/// Writes batches again, one after another; keeps its memory between them.
#[derive(Default)]
pub struct Rewriter {
    body: Vec<u8>,
    compressor: Option<Compressor>,
}

/// A batch being written again.
pub struct Rewriting<'a> {
    rewriter: &'a mut Rewriter,
    header: BatchHeader,
    horizon: Option<TimestampMs>,
    /// Smallest offset the next record may have.
    next: Offset,
    append_time: bool,
}

impl Rewriter {
    /// Begins the batch of `header` anew at `base`: its base offset, or a higher one to cut its
    /// beginning off. For a magic 0 or 1 wrapper, whose header does not tell, the first record's.
    /// `horizon` is the deadline for its tombstones.
    pub fn begin(
        &mut self,
        header: &BatchHeader,
        base: Offset,
        horizon: Option<TimestampMs>,
    ) -> Rewriting<'_> {
        self.body.clear();
        let append_time = header.timestamp_type() == TimestampType::Append;
        let cut = i32::try_from(base - header.base_offset).unwrap_or(0).max(0);
        let known = match header.magic {
            0 | 1 => 0,
            _ => header.attributes & !attributes::CODEC & !attributes::DELETE_HORIZON,
        };
        let append = if append_time {
            attributes::LOG_APPEND_TIME
        } else {
            0
        };
        let codec = header.attributes & attributes::CODEC;
        let header = BatchHeader {
            base_offset: base,
            magic: 2,
            attributes: known | append | codec,
            base_timestamp: TimestampMs::NONE,
            base_sequence: sequence_at(header.base_sequence, cut),
            count: 0,
            ..header.clone()
        };
        Rewriting {
            rewriter: self,
            header,
            horizon,
            next: base,
            append_time,
        }
    }
}

impl Rewriting<'_> {
    /// Adds a record of the batch, in order.
    ///
    /// # Errors
    /// A defect for one whose offset does not rise or lies outside the batch.
    pub fn push(&mut self, record: &Record<'_>) -> Result<(), Defect> {
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let as_it_was = NewRecord {
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        self.push_as(record.offset, record.timestamp, &as_it_was)
    }

    /// Adds, in the place of the record at `offset`, another one.
    ///
    /// # Errors
    /// As [`Rewriting::push`].
    pub fn push_as(
        &mut self,
        offset: Offset,
        timestamp: TimestampMs,
        new: &NewRecord<'_>,
    ) -> Result<(), Defect> {
        let h = &mut self.header;
        let delta = i32::try_from(offset - h.base_offset).ok();
        let fits = offset >= self.next && offset <= h.last_offset;
        let Some(delta) = delta.filter(|_| fits) else {
            let why = format!("record offset {offset} out of order or outside its batch");
            return Err(Defect::new(0, why));
        };
        if h.count == 0 {
            h.base_timestamp = self.horizon.unwrap_or(timestamp);
        }
        if !self.append_time {
            h.max_timestamp = match h.count {
                0 => timestamp,
                _ => h.max_timestamp.max(timestamp),
            };
        }
        let timestamp_delta = timestamp.0.wrapping_sub(h.base_timestamp.0);
        write_record(&mut self.rewriter.body, timestamp_delta, delta, new);
        h.count += 1;
        self.next = offset.next();
        Ok(())
    }

    /// Appends the finished batch to `out` and returns its header.
    ///
    /// # Errors
    /// A defect for a codec that does not exist, or offsets too far apart.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<BatchHeader, Defect> {
        let mut h = self.header;
        let start = out.len();
        let codec = h
            .codec()
            .map_err(|id| Defect::new(ATTRIBUTES_AT, format!("unknown codec {id}")))?;
        if h.count == 0 {
            h.attributes &= !attributes::CODEC;
        } else if self.horizon.is_some() {
            h.attributes |= attributes::DELETE_HORIZON;
        }
        let delta = i32::try_from(h.last_offset - h.base_offset)
            .map_err(|_| Defect::new(0, "a batch of 2^31 offsets or more"))?;
        write_head(out, &h, delta);
        match codec {
            Codec::None => out.extend_from_slice(&self.rewriter.body),
            _ if h.count == 0 => {}
            codec => self.rewriter.compress(codec, out),
        }
        let batch = out.get_mut(start..).unwrap_or_default();
        h.size = batch.len();
        let length = i32::try_from(h.size - LOG_OVERHEAD)
            .map_err(|_| Defect::new(0, "a batch of 2 GiB or more"))?;
        put(batch, 8, &length.to_be_bytes());
        h.crc = crc32c::crc32c(batch.get(ATTRIBUTES_AT..).unwrap_or_default());
        put(batch, CRC_AT, &h.crc.to_be_bytes());
        Ok(h)
    }
}

impl Rewriter {
    fn compress(&mut self, codec: Codec, out: &mut Vec<u8>) {
        let kept = self.compressor.take().filter(|c| c.codec() == codec);
        let mut compressor = kept.unwrap_or_else(|| Compressor::new(&Compression::from(codec)));
        compressor.compress(&self.body, out);
        self.compressor = Some(compressor);
    }
}

/// The 61 bytes of a header; length and checksum are set later.
fn write_head(out: &mut Vec<u8>, h: &BatchHeader, last_offset_delta: i32) {
    out.extend_from_slice(&h.base_offset.0.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out.extend_from_slice(&h.leader_epoch.to_be_bytes());
    out.push(h.magic);
    out.extend_from_slice(&0u32.to_be_bytes());
    out.extend_from_slice(&h.attributes.to_be_bytes());
    out.extend_from_slice(&last_offset_delta.to_be_bytes());
    out.extend_from_slice(&h.base_timestamp.0.to_be_bytes());
    out.extend_from_slice(&h.max_timestamp.0.to_be_bytes());
    out.extend_from_slice(&h.producer_id.to_be_bytes());
    out.extend_from_slice(&h.producer_epoch.to_be_bytes());
    out.extend_from_slice(&h.base_sequence.to_be_bytes());
    out.extend_from_slice(&h.count.to_be_bytes());
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + field.len()) {
        place.copy_from_slice(field);
    }
}

#[cfg(test)]
mod tests {
    use super::super::Limits;
    use super::super::batch::{Batch, Scratch};
    use super::super::builder::{BatchBuilder, Chunk, Producer, Seal, stamp};
    use super::*;

    type Owned = (i64, i64, i32, Vec<u8>, usize);

    fn records(bytes: &[u8]) -> Vec<Owned> {
        let batch = Batch::check(bytes).unwrap();
        let mut scratch = Scratch::new();
        let all = batch.records(&mut scratch, &Limits::default()).unwrap();
        all.map(|r| {
            let r = r.unwrap();
            let value = r.value.unwrap_or_default().to_vec();
            (
                r.offset.0,
                r.timestamp.0,
                r.sequence,
                value,
                r.headers.len(),
            )
        })
        .collect()
    }

    fn rewrite(
        bytes: &[u8],
        keep: impl Fn(i64) -> bool,
        horizon: Option<i64>,
        base: i64,
    ) -> Vec<u8> {
        let batch = Batch::check(bytes).unwrap();
        let mut rewriter = Rewriter::default();
        let mut out = vec![7; 3];
        let mut r = rewriter.begin(batch.header(), Offset(base), horizon.map(TimestampMs));
        let mut scratch = Scratch::new();
        for record in batch.records(&mut scratch, &Limits::default()).unwrap() {
            let record = record.unwrap();
            if keep(record.offset.0) {
                r.push(&record).unwrap();
            }
        }
        let header = r.finish(&mut out).unwrap();
        let out = out.split_off(3);
        assert_eq!(*Batch::check(&out).unwrap().header(), header);
        out
    }

    fn batch(codec: &str, seal: &Seal) -> Vec<u8> {
        let mut b = BatchBuilder::begin(Vec::new());
        for i in 0..6u8 {
            let new = NewRecord {
                key: Some(&[i]),
                value: Some(&[i; 40]),
                headers: &[(b"h", None)],
            };
            b.push(TimestampMs(1000 - i64::from(i)), &new);
        }
        let mut chunk = Chunk::default();
        let compression: Compression = codec.parse().unwrap();
        b.seal_compressed(seal, &mut Compressor::new(&compression), &mut chunk);
        stamp(&mut chunk.bytes, Offset(50), 3);
        chunk.bytes
    }

    #[test]
    fn what_is_left_is_as_it_was_in_every_codec() {
        for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
            for append_time in [None, Some(TimestampMs(7777))] {
                let seal = Seal {
                    append_time,
                    producer: Some(Producer {
                        id: 9,
                        epoch: 2,
                        base_sequence: i32::MAX - 1,
                    }),
                    transactional: true,
                    control: false,
                };
                let bytes = batch(codec, &seal);
                let all = records(&bytes);
                for (base, horizon) in [(50, None), (52, None), (50, Some(99_000))] {
                    let keep = |o: i64| o % 2 == 0 && o >= base;
                    let out = rewrite(&bytes, keep, horizon, base);
                    let want: Vec<Owned> = all.iter().filter(|r| keep(r.0)).cloned().collect();
                    assert_eq!(records(&out), want, "{codec} {base} {horizon:?}");
                    let (h, was) = (Batch::check(&out).unwrap(), Batch::check(&bytes).unwrap());
                    let (h, was) = (h.header(), was.header());
                    assert_eq!(h.codec(), was.codec());
                    assert_eq!((h.last_offset, h.leader_epoch), (was.last_offset, 3));
                    assert_eq!(h.delete_horizon(), horizon.map(TimestampMs));
                    assert!(h.is_transactional());
                    let newest = append_time.map_or(want[0].1, |t| t.0);
                    assert_eq!(h.max_timestamp.0, newest);
                }
            }
        }
    }

    #[test]
    fn a_batch_with_nothing_left_is_a_bare_header() {
        let bytes = batch("zstd", &Seal::default());
        let out = rewrite(&bytes, |_| false, Some(5), 50);
        let h = Batch::check(&out).unwrap().header().clone();
        assert_eq!((out.len(), h.count, h.attributes & 0x47), (61, 0, 0));
        assert_eq!((h.base_timestamp.0, h.max_timestamp.0), (-1, 1000));
        assert_eq!((h.base_offset.0, h.last_offset.0), (50, 55));
        assert!(records(&out).is_empty());
        assert_eq!(rewrite(&out, |_| false, None, 50), out, "again the same");
    }

    #[test]
    fn records_out_of_order_or_place_are_refused() {
        let bytes = batch("none", &Seal::default());
        let b = Batch::check(&bytes).unwrap();
        let mut scratch = Scratch::new();
        let first = b
            .records(&mut scratch, &Limits::default())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let mut rewriter = Rewriter::default();
        let mut r = rewriter.begin(b.header(), Offset(50), None);
        r.push(&first).unwrap();
        r.push(&first).unwrap_err();
        let beyond = Record {
            offset: Offset(56),
            ..first
        };
        r.push(&beyond).unwrap_err();
    }
}
