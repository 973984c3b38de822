//! A batch laid open: magic 2 records, uncompressed, each to be had by its position.
//!
//! What is stored so is used where it lies. A compressed body is decompressed into a buffer of the
//! caller's, and the entries of magic 0 and 1 are written anew in it, so that whoever searches bytes
//! sees one layout only. The header is that of the batch as stored, but for magic 0 and 1, where
//! it is the one that the records in their new form need.

use super::batch::{Batch, BatchHeader, RecordsV2, Scratch, TimestampType, attributes};
use super::codec::Codec;
use super::record::{Header, NewRecord, Record, write_record};
use super::{Defect, Limits};

/// A batch laid open.
#[derive(Clone, Debug)]
pub struct Plain<'a> {
    header: BatchHeader,
    body: &'a [u8],
}

impl<'a> Plain<'a> {
    /// Lays `batch` open, in `out` unless its records lie open as stored. What `out` held is lost.
    ///
    /// # Errors
    /// A defect if the body does not decompress within `limits`, or, in magic 0 and 1, the entries
    /// cannot be read. The records of magic 2 are not looked at.
    pub fn open<'b>(
        batch: &Batch<'b>,
        scratch: &mut Scratch,
        limits: &Limits,
        out: &'a mut Vec<u8>,
    ) -> Result<Plain<'a>, Defect>
    where
        'b: 'a,
    {
        let mut header = batch.header().clone();
        if header.magic < 2 {
            rewrite(batch, scratch, limits, &mut header, out)?;
            return Ok(Plain { header, body: out });
        }
        let body = match batch.stored()? {
            (Codec::None, stored) => stored,
            (codec, stored) => {
                out.clear();
                scratch.decompress(codec, header.magic, stored, out, limits)?;
                out
            }
        };
        Ok(Plain { header, body })
    }

    /// One whose parts are known.
    pub fn of(header: BatchHeader, body: &'a [u8]) -> Plain<'a> {
        Plain { header, body }
    }

    /// One whose records lie open as stored.
    pub fn in_place(batch: &Batch<'a>) -> Plain<'a> {
        let stored = batch.stored().map(|(_, stored)| stored);
        Plain::of(batch.header().clone(), stored.unwrap_or_default())
    }

    /// Whether the records of a batch lie open as stored.
    pub fn lies_open(batch: &Batch<'_>) -> bool {
        batch.header().magic >= 2 && matches!(batch.stored(), Ok((Codec::None, _)))
    }

    /// The header.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The records' bytes, one record behind the other.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Its records in order, each checked.
    pub fn records(&self) -> PlainRecords<'a> {
        let compressed = self.header.codec() != Ok(Codec::None);
        PlainRecords(RecordsV2::new(&self.header, self.body, compressed))
    }

    /// The record that begins at `position`, which [`PlainRecords::position`] told.
    pub fn record_at(&self, position: usize) -> Option<Record<'a>> {
        let mut records = self.records();
        records.0.seek(position);
        records.next()?.ok()
    }
}

/// The records of a batch laid open. As with all records, a defect may come behind the last one.
pub struct PlainRecords<'a>(RecordsV2<'a>);

impl PlainRecords<'_> {
    /// Where the next record begins, and the last one ends, in the body.
    #[inline(always)]
    pub fn position(&self) -> usize {
        self.0.position()
    }
}

impl<'a> Iterator for PlainRecords<'a> {
    type Item = Result<Record<'a>, Defect>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

/// Writes the records of a magic 0 or 1 batch into `out` as those of magic 2, and makes `header` fit.
fn rewrite(
    batch: &Batch<'_>,
    scratch: &mut Scratch,
    limits: &Limits,
    header: &mut BatchHeader,
    out: &mut Vec<u8>,
) -> Result<(), Defect> {
    out.clear();
    let append = header.timestamp_type() == TimestampType::Append;
    header.attributes = if append {
        attributes::LOG_APPEND_TIME
    } else {
        0
    };
    header.magic = 2;
    header.count = 0;
    for record in batch.records(scratch, limits)? {
        let record = record?;
        if header.count == 0 {
            (header.base_offset, header.base_timestamp) = (record.offset, record.timestamp);
        }
        let delta = i32::try_from(record.offset - header.base_offset)
            .map_err(|_| Defect::new(0, "offsets of one batch are 2^31 apart"))?;
        let since = record.timestamp.0.wrapping_sub(header.base_timestamp.0);
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let new = NewRecord {
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        write_record(out, since, delta, &new);
        header.count = header.count.saturating_add(1);
        if append {
            header.max_timestamp = record.timestamp;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::TimestampMs;
    use crate::format::builder::{BatchBuilder, Chunk, Seal};
    use crate::format::codec::{Compression, Compressor};
    use crate::format::legacy::tests::{row, wrapper};

    /// What a record holds, in words.
    fn words(r: &Record<'_>) -> String {
        let headers: Vec<Header<'_>> = r.headers.iter().collect();
        format!(
            "{} {:?} {:?} {:?} {headers:?}",
            r.offset, r.timestamp, r.key, r.value
        )
    }

    fn sample() -> BatchBuilder {
        let mut builder = BatchBuilder::begin(Vec::new());
        for n in 0..50i64 {
            let (key, value) = (format!("k{n}"), "v".repeat(n as usize));
            let headers: [Header<'_>; 1] = [(b"h", Some(key.as_bytes()))];
            let record = NewRecord {
                key: (n % 3 > 0).then_some(key.as_bytes()),
                value: (n % 5 > 0).then_some(value.as_bytes()),
                headers: if n % 2 == 0 { &headers } else { &[] },
            };
            builder.push_at(2 * n as i32, TimestampMs(1000 - n), &record);
        }
        builder
    }

    fn batches() -> Vec<Vec<u8>> {
        let mut all = vec![sample().seal(&Seal::default()).0];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut chunk = Chunk::default();
            let mut compressor = Compressor::new(&Compression::from(codec));
            sample().seal_compressed(&Seal::default(), &mut compressor, &mut chunk);
            all.push(chunk.bytes);
        }
        all
    }

    #[test]
    fn records_are_the_same_in_order_and_by_position() {
        let limits = Limits::default();
        for bytes in batches() {
            let batch = Batch::check(&bytes).unwrap();
            let (mut scratch, mut other, mut out) = (Scratch::new(), Scratch::new(), Vec::new());
            let plain = Plain::open(&batch, &mut scratch, &limits, &mut out).unwrap();
            let mut records = plain.records();
            let mut at = records.position();
            for expected in batch.records(&mut other, &limits).unwrap() {
                let expected = words(&expected.unwrap());
                assert_eq!(words(&records.next().unwrap().unwrap()), expected);
                assert_eq!(words(&plain.record_at(at).unwrap()), expected);
                at = records.position();
            }
            assert!(records.next().is_none());
            assert_eq!(at, plain.body().len());
            assert!(plain.record_at(at).is_none());
        }
    }

    #[test]
    fn what_old_brokers_wrote_is_laid_open_alike() {
        let (mut scratch, mut other, mut out) = (Scratch::new(), Scratch::new(), Vec::new());
        let limits = Limits::default();
        let log_append_time = 0x08;
        for bytes in [
            row(0, &[7]),
            row(1, &[7]),
            wrapper(0, 9, 0, Codec::Gzip, &row(0, &[5, 7, 9])),
            wrapper(1, 9, 0, Codec::Snappy, &row(1, &[0, 2, 4])),
            wrapper(1, 9, log_append_time, Codec::Gzip, &row(1, &[0, 2, 4])),
        ] {
            let batch = Batch::check(&bytes).unwrap();
            let plain = Plain::open(&batch, &mut scratch, &limits, &mut out).unwrap();
            let records = batch.records(&mut other, &limits).unwrap();
            let expected: Vec<String> = records.map(|r| words(&r.unwrap())).collect();
            let opened: Vec<String> = plain.records().map(|r| words(&r.unwrap())).collect();
            assert_eq!(opened, expected);
            let stamped = plain.header().timestamp_type() == TimestampType::Append;
            assert_eq!(
                stamped,
                batch.header().timestamp_type() == TimestampType::Append
            );
        }
    }
}
