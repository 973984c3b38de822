//! One log that `split` or `merge` writes: whole batches as they are stored, records of others coded
//! again.
//!
//! Records come in order of their offsets. Those of a batch that goes elsewhere in part are gathered
//! into batches of the same codec, timestamp type and leader epoch, which keeps compression and
//! times. Producer fields and transactions are left behind: they are state of the log that the records
//! come from. Magic 0 and 1 become magic 2.

use std::collections::HashMap;

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, TimestampType};
use crate::format::builder::{BatchBuilder, Chunk, Seal};
use crate::format::checkpoint::EpochStart;
use crate::format::codec::{Codec, Compression, Compressor};
use crate::format::record::{Header, NewRecord, Record};
use crate::format::{Offset, TimestampMs};
use crate::log::fresh::{Fresh, Own, Placed};
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::make;
use crate::sys::Host;

/// Size at which a batch of records coded again is closed, before compression; that of `append`.
const BATCH_BYTES: usize = 256 << 10;

/// Which offsets records get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Those they have.
    Keep,
    /// From 0 on, without gaps.
    Dense,
}

/// Compresses batches that are coded again; one for all parts.
#[derive(Default)]
pub struct Coder {
    compressors: HashMap<u8, Compressor>,
    chunk: Chunk,
}

/// A log being written.
pub struct Part {
    fresh: Fresh,
    numbers: Numbers,
    /// History of leader epochs; empty: epoch 0 from the start.
    epochs: Vec<EpochStart>,
    pending: Option<Pending>,
    records: u64,
}

/// Records that are not a batch yet.
struct Pending {
    builder: BatchBuilder,
    base: Offset,
    last: Offset,
    like: Like,
}

/// What records must share to be in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Like {
    codec: Codec,
    append_time: Option<TimestampMs>,
    epoch: i32,
}

impl Part {
    /// A log that is written through `fresh`. With [`Numbers::Keep`] batches keep their leader epochs,
    /// and `epochs` is the history these come from.
    pub fn new(fresh: Fresh, numbers: Numbers, epochs: &[EpochStart]) -> Part {
        let epochs = match numbers {
            Numbers::Keep => epochs.to_vec(),
            Numbers::Dense => Vec::new(),
        };
        Part {
            fresh,
            numbers,
            epochs,
            pending: None,
            records: 0,
        }
    }

    /// Records so far; those of linked segments are not counted.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes so far, what is not a batch yet as it stands.
    pub fn bytes(&self) -> u64 {
        let pending = self.pending.as_ref().map_or(0, |p| p.builder.size() as u64);
        self.fresh.bytes() + pending
    }

    /// Offset that the next record gets if it is dense.
    fn dense_next(&self) -> Offset {
        let written = self.fresh.next_offset().unwrap_or(Offset::ZERO);
        self.pending.as_ref().map_or(written, |p| p.last.next())
    }

    /// Memory held.
    pub fn memory(&self) -> usize {
        let pending = self.pending.as_ref().map_or(0, |p| p.builder.size());
        self.fresh.gathered() + pending
    }

    /// Whether it holds files open.
    pub fn is_open(&self) -> bool {
        self.fresh.is_open()
    }

    /// Adds a whole batch, sound as a whole, as it is stored; false if its records must be added one
    /// by one instead.
    ///
    /// # Errors
    /// As [`Fresh::put`].
    pub fn batch(&mut self, coder: &mut Coder, batch: &Batch<'_>) -> Result<bool> {
        let h = batch.header();
        let span = h.last_offset - h.base_offset;
        let dense = i64::from(h.count) == span.saturating_add(1);
        let fits = self.numbers == Numbers::Keep || dense;
        if h.magic != 2 || !fits {
            return Ok(false);
        }
        self.flush(coder)?;
        let base = match self.numbers {
            Numbers::Keep => h.base_offset,
            Numbers::Dense => self.dense_next(),
        };
        let placed = Placed {
            base,
            last: base + span,
            max_timestamp: h.max_timestamp,
            epoch: self.epoch(h),
            detach: h.has_producer() || h.is_transactional(),
        };
        self.fresh.put(batch.bytes(), &placed)?;
        self.records += u64::from(h.count.cast_unsigned());
        Ok(true)
    }

    /// Adds a record of the batch that has `header`.
    ///
    /// # Errors
    /// As [`Fresh::put`].
    pub fn record(
        &mut self,
        coder: &mut Coder,
        header: &BatchHeader,
        record: &Record<'_>,
    ) -> Result<()> {
        let append = header.timestamp_type() == TimestampType::Append;
        let codec = header.codec();
        let like = Like {
            codec: codec.map_err(|id| Error::data(format!("unknown codec {id}")))?,
            append_time: append.then_some(record.timestamp),
            epoch: self.epoch(header),
        };
        let offset = match self.numbers {
            Numbers::Keep => record.offset,
            Numbers::Dense => self.dense_next(),
        };
        let goes_in = |p: &Pending| {
            p.like == like
                && p.builder.size() < BATCH_BYTES
                && i32::try_from(offset - p.base).is_ok()
        };
        if !self.pending.as_ref().is_none_or(goes_in) {
            self.flush(coder)?;
        }
        let pending = self.pending.get_or_insert_with(|| Pending {
            builder: BatchBuilder::begin(Vec::new()),
            base: offset,
            last: offset,
            like,
        });
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let new = NewRecord {
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        let delta = i32::try_from(offset - pending.base).unwrap_or(i32::MAX);
        if pending.builder.count() > 0 && offset <= pending.last {
            let why = format!("offset {offset} behind offset {}", pending.last);
            return Err(Error::data(why));
        }
        pending.builder.push_at(delta, record.timestamp, &new);
        pending.last = offset;
        self.records += 1;
        Ok(())
    }

    /// Takes a whole sealed segment by a hard link, its records as many as `records`; false where
    /// that is not to be had.
    ///
    /// # Errors
    /// As [`Fresh::link`].
    pub fn link(
        &mut self,
        coder: &mut Coder,
        source: &LogDir,
        segment: &SegmentRef,
        end: Offset,
        records: u64,
    ) -> Result<bool> {
        self.flush(coder)?;
        let linked = self.numbers == Numbers::Keep && self.fresh.link(source, segment, end)?;
        self.records += if linked { records } else { 0 };
        Ok(linked)
    }

    /// Makes a batch of the records gathered.
    fn flush(&mut self, coder: &mut Coder) -> Result<()> {
        let Some(pending) = self.pending.take() else {
            return Ok(());
        };
        let Pending {
            builder,
            base,
            last,
            like,
        } = pending;
        let placed = Placed {
            base,
            last,
            max_timestamp: like.append_time.unwrap_or(builder.max_timestamp()),
            epoch: like.epoch,
            detach: false,
        };
        let seal = Seal {
            append_time: like.append_time,
            ..Seal::default()
        };
        if like.codec == Codec::None {
            let (bytes, _) = builder.seal(&seal);
            return self.fresh.put(&bytes, &placed);
        }
        coder.chunk.clear();
        let compressor = coder.compressors.entry(like.codec.id());
        let compressor =
            compressor.or_insert_with(|| Compressor::new(&Compression::from(like.codec)));
        builder.seal_compressed(&seal, compressor, &mut coder.chunk);
        self.fresh.put(&coder.chunk.bytes, &placed)
    }

    /// Writes everything, and holds neither memory nor files until more comes.
    ///
    /// # Errors
    /// What the system answers.
    pub fn park(&mut self, coder: &mut Coder) -> Result<()> {
        self.flush(coder)?;
        self.fresh.park()
    }

    /// Ends the log: its settings, its id, its epochs, the end of its last segment. Durable it is only
    /// once it was synced by the caller ([`Fresh::finish`]).
    ///
    /// # Errors
    /// What the system answers.
    pub fn finish(
        mut self,
        coder: &mut Coder,
        host: &dyn Host,
        config: &str,
        will_be_durable: bool,
    ) -> Result<()> {
        self.flush(coder)?;
        let id = make::new_id(host).map_err(|e| Error::io("cannot make an id", e))?;
        let first = self.fresh.first_offset().unwrap_or(Offset::ZERO);
        let end = self.fresh.next_offset().unwrap_or(first);
        let own = Own {
            id: &id,
            config,
            epochs: &cut_epochs(&self.epochs, first, end),
        };
        self.fresh.finish(&own, will_be_durable)
    }

    /// The leader epoch that a batch with this header gets.
    fn epoch(&self, header: &BatchHeader) -> i32 {
        match self.numbers {
            Numbers::Keep if !self.epochs.is_empty() => header.leader_epoch,
            _ => 0,
        }
    }
}

/// The part of a history that speaks of offsets from `first` up to `end`.
fn cut_epochs(all: &[EpochStart], first: Offset, end: Offset) -> Vec<EpochStart> {
    let mut out: Vec<EpochStart> = Vec::new();
    for epoch in all.iter().filter(|e| e.start < end.max(first.next())) {
        if epoch.start <= first {
            out.clear();
        }
        out.push(EpochStart {
            epoch: epoch.epoch,
            start: epoch.start.max(first),
        });
    }
    if out.is_empty() {
        out.push(EpochStart {
            epoch: 0,
            start: first,
        });
    }
    out
}
