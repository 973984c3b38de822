//! Appending batches that were made elsewhere, or that keep their offsets.

use super::{Appended, Hold, count_whole};
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::format::batch::{Batch, BatchHeader};
use crate::format::builder::{Chunk, SealedBatch, detach, stamp};
use crate::format::frame::{Frame, frame};
use crate::segment::active::{Noted, RELATIVE_OFFSET_MAX};

impl Hold<'_> {
    /// Appends batches as they were stored elsewhere, one after the other in `bytes`: each must be a
    /// whole, sound magic 2 batch. Base offsets are given anew, or with `keep_offsets` kept, and
    /// must then not lie below the end.
    ///
    /// # Errors
    /// In [`Appended::error`]: `Data` for a batch that is not sound or lies too low.
    pub fn append_stored(&mut self, bytes: &mut [u8], keep_offsets: bool) -> Appended {
        let first = self.next_offset();
        let (mut batches, mut at, mut error) = (0, 0, None);
        while at < bytes.len() && error.is_none() {
            let rest = bytes.get_mut(at..).unwrap_or_default();
            match self.append_one_stored(rest, keep_offsets) {
                Ok(size) => {
                    at += size;
                    batches += 1;
                }
                Err(e) => error = Some(e),
            }
        }
        Appended {
            first,
            next: self.next_offset(),
            batches,
            error,
        }
    }

    fn append_one_stored(&mut self, rest: &mut [u8], keep_offsets: bool) -> Result<usize> {
        let Frame::Entry(size) = frame(rest, &self.writer.limits) else {
            return Err(Error::data("not a whole record batch"));
        };
        let bytes = rest.get_mut(..size).unwrap_or_default();
        let header = sound_v2(bytes)?;
        if header.is_control() {
            return Err(Error::data(
                "a control batch belongs to the log it was written in",
            ));
        }
        // Its producer and its transaction are those of another log; here they would stay open.
        if header.has_producer() || header.is_transactional() {
            detach(bytes);
        }
        let next = self.next_offset();
        let base = if keep_offsets {
            header.base_offset
        } else {
            next
        };
        if base < next {
            let why = format!("the batch begins at offset {base}, but the log ends at {next}");
            return Err(Error::data(why).at_path(self.writer.path()));
        }
        let delta = i32::try_from(header.last_offset - header.base_offset).unwrap_or(i32::MAX);
        let sealed = SealedBatch {
            start: 0,
            size,
            count: header.count,
            last_offset_delta: delta,
            max_timestamp: header.max_timestamp,
            has_producer: false,
        };
        self.append_at(bytes, &sealed, base)?;
        Ok(size)
    }

    /// Appends the batches of a chunk, the first at `base`, which must not lie below the end.
    ///
    /// # Errors
    /// `Data` if it does; else as [`Hold::append`].
    pub fn append_chunk_at(&mut self, chunk: &mut Chunk, base: Offset) -> Result<Appended> {
        let next = self.next_offset();
        if base < next {
            let why = format!("offset {base} is taken; the log ends at {next}");
            return Err(Error::data(why).at_path(self.writer.path()));
        }
        let Chunk { bytes, batches } = chunk;
        let mut at = base;
        for (i, batch) in batches.iter().enumerate() {
            let place = bytes
                .get_mut(batch.start..batch.start + batch.size)
                .unwrap_or_default();
            if let Err(e) = self.append_at(place, batch, at) {
                let next = self.next_offset();
                return Ok(Appended {
                    first: base,
                    next,
                    batches: i,
                    error: Some(e),
                });
            }
            at = self.next_offset();
        }
        Ok(Appended {
            first: base,
            next: at,
            batches: batches.len(),
            error: None,
        })
    }

    /// Writes one batch at `base`, which is the log end or beyond.
    fn append_at(&mut self, bytes: &mut [u8], batch: &SealedBatch, base: Offset) -> Result<()> {
        let (roll, zero_fill) = (self.writer.options.roll, self.writer.options.zero_fill);
        let last_offset = base + i64::from(batch.last_offset_delta);
        let active = &self.writer.state()?.active;
        if active.must_roll(&roll, &active.ahead(), batch, last_offset) {
            // Named after the log end, so that no gap is left between segments, unless the jump is too
            // wide for one segment.
            let end = active.tally().next_offset;
            let wide = last_offset - end > RELATIVE_OFFSET_MAX;
            self.writer.roll(if wide { base } else { end })?;
        }
        let state = self.writer.state()?;
        stamp(bytes, base, state.epoch);
        self.dirty = true;
        let (written, e) = state.active.write(bytes, zero_fill);
        let noted = Noted {
            size: batch.size as u64,
            last_offset,
            max_timestamp: batch.max_timestamp,
            has_producer: batch.has_producer,
        };
        count_whole(&mut state.active, &[noted], written as u64);
        self.next = state.active.tally().next_offset;
        e.map_or(Ok(()), |e| Err(self.cut_back(e)))
    }
}

fn sound_v2(bytes: &[u8]) -> Result<BatchHeader> {
    let batch = Batch::check(bytes).map_err(|d| Error::data(d.reason).at_position(d.at as u64))?;
    let header = batch.header().clone();
    if header.magic != 2 {
        let why = format!("magic {} is only read, never written", header.magic);
        return Err(Error::data(why).at_position(16));
    }
    if header.last_offset < header.base_offset {
        return Err(Error::data("the batch ends before it begins"));
    }
    Ok(header)
}
