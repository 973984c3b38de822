//! A `.log` file: its batches and records, and the way past what is neither.
//!
//! At a place where no valid batch stands:
//!
//! 1. A whole entry with a wrong checksum is shown, marked so. If what follows it looks like an
//!    entry of this segment (or the file ends there), the walk goes on behind it.
//! 2. Else the walk goes on at the next batch that proves itself by its checksum.
//! 3. If there is none, the file ends here: with zeros, with the beginning of a batch, or damaged.
//!
//! What pretends to be a batch costs its claimed size to find out, and a file can be made of
//! pretenders; so all of them together have a budget of a few times the file, and when that is spent
//! the rest is skipped.

use super::{Content, FileInfo, Item, Job, RecordItem};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::frame::{BATCH_HEADER_BYTES, Frame, frame};
use crate::format::{Defect, Offset, Position, control, internal};
use crate::segment::scan::{End, Resync, Scan, Scanner, Span, Tail, is_zero, resync_within};
use crate::sys::File;
use std::sync::Arc;

/// No batch is refused for the offset it begins at: order is reported, not demanded.
const ANY: Offset = Offset(i64::MIN);

/// The walk's state.
struct Walk<'f> {
    file: &'f Arc<dyn File>,
    info: &'f FileInfo,
    scratch: Scratch,
    /// Smallest offset the next batch should begin at.
    next: Offset,
    /// Bytes that may still be spent on what turns out to be no batch.
    budget: u64,
}

impl Job<'_, '_, '_> {
    pub(super) fn segment(&mut self, file: &Arc<dyn File>, info: &FileInfo) -> Result<()> {
        let limits = self.options.limits;
        let span = Span::whole(info.base, info.len);
        let mut scanner = Scanner::new(file.clone(), span, limits);
        let mut walk = Walk {
            file,
            info,
            scratch: Scratch::new(),
            next: info.base,
            budget: info.len.saturating_mul(4) + (1 << 20),
        };
        let mut from = Position(0);
        loop {
            scanner.seek(from, ANY);
            let next = match scanner.next()? {
                Scan::Batch(batch, at) => {
                    self.batch(&mut walk, &batch, at, true)?;
                    Some(at + batch.header().size as u64)
                }
                Scan::End(end) => self.end(&mut walk, &end)?,
                Scan::Bad(bad) => self.bad(&mut walk, bad.position, bad.defect)?,
            };
            match next {
                Some(next) if next > from => from = next,
                _ => return Ok(()),
            }
        }
    }

    /// A whole entry; with `valid` false its checksum does not hold.
    fn batch(
        &mut self,
        walk: &mut Walk<'_>,
        batch: &Batch<'_>,
        position: Position,
        valid: bool,
    ) -> Result<()> {
        let header = batch.header();
        if self.wants(header.base_offset, header.last_offset) {
            if self.options.batches {
                self.put(Item::Batch {
                    position,
                    header,
                    valid,
                })?;
            }
            if self.options.records && (valid || self.options.as_kafka) {
                self.records(walk, batch, position, valid)?;
            }
        }
        if valid {
            let (first, next) = (header.base_offset, walk.next);
            if first < next {
                let reason = format!("base offset {first} where {next} or more must be");
                self.damage(position.0, 0, reason)?;
            }
            walk.next = next.max(header.last_offset.next());
        }
        Ok(())
    }

    fn records(
        &mut self,
        walk: &mut Walk<'_>,
        batch: &Batch<'_>,
        position: Position,
        valid: bool,
    ) -> Result<()> {
        let mut records = match batch.records(&mut walk.scratch, &self.options.limits) {
            Ok(records) => records,
            Err(d) => return self.defect(position, d),
        };
        while let Some(record) = records.next() {
            let record = match record {
                Ok(record) => record,
                Err(d) => return self.defect(position, d),
            };
            if !self.wants_offset(record.offset) {
                continue;
            }
            let content = content(walk.info, batch.header(), record.key, record.value);
            self.put(Item::Record(RecordItem {
                batch: batch.header(),
                position,
                record: &record,
                crc: records.message_crc(),
                valid,
                content,
            }))?;
        }
        Ok(())
    }

    fn defect(&mut self, position: Position, d: Defect) -> Result<()> {
        self.damage(position.0 + d.at as u64, 0, d.reason)
    }

    /// No further whole entry: why, and where to go on.
    fn end(&mut self, walk: &mut Walk<'_>, end: &End) -> Result<Option<Position>> {
        let (at, len) = (end.position, Position(walk.info.len));
        let zeros = match end.tail {
            Tail::Clean => return Ok(None),
            Tail::Zeros => is_zero(&**walk.file, at, len)?,
            Tail::Partial => false,
        };
        if zeros {
            let (position, bytes) = (at, len - at);
            self.put(Item::Tail {
                position,
                bytes,
                zeros,
            })?;
            return Ok(None);
        }
        let reason = match end.tail {
            Tail::Zeros => "batch length 0",
            _ => "batch runs past the end of the file",
        };
        let defect = Defect::new(0, reason);
        let cut_short = end.tail == Tail::Partial && walk.info.active;
        self.skip(walk, at, at, defect, cut_short)
    }

    /// Bytes that are no valid batch: shows what can be shown, and where to go on.
    fn bad(
        &mut self,
        walk: &mut Walk<'_>,
        at: Position,
        defect: Defect,
    ) -> Result<Option<Position>> {
        let Some(bytes) = self.entry(walk, at)? else {
            return self.skip(walk, at, at, defect, false);
        };
        let size = bytes.len() as u64;
        let Ok(batch) = Batch::trusted(&bytes) else {
            return self.skip(walk, at, at, defect, false);
        };
        let valid = Batch::check(&bytes).is_ok();
        self.batch(walk, &batch, at, valid)?;
        self.damage(at.0 + defect.at as u64, 0, defect.reason)?;
        let behind = at + size;
        if valid || self.plausible(walk, behind)? {
            return Ok(Some(behind));
        }
        // The length may be wrong too, so the next batch may begin anywhere behind the header.
        let reason = Defect::new(0, "no batch");
        self.skip(walk, at, behind, reason, false)
    }

    /// The bytes of a whole entry at `at`, if the length there leads to one and the budget holds.
    fn entry(&mut self, walk: &mut Walk<'_>, at: Position) -> Result<Option<Vec<u8>>> {
        let left = walk.info.len.saturating_sub(at.0);
        let size = match frame(&walk.read(at, BATCH_HEADER_BYTES)?, &self.options.limits) {
            Frame::Entry(n) | Frame::NeedMore(n) if n as u64 <= left => n,
            _ => return Ok(None),
        };
        if !walk.afford(size as u64) {
            return Ok(None);
        }
        let bytes = walk.read(at, size)?;
        Ok((bytes.len() == size).then_some(bytes))
    }

    /// Whether an entry of this segment could begin at `at`, or the file ends there.
    fn plausible(&self, walk: &Walk<'_>, at: Position) -> Result<bool> {
        let left = walk.info.len.saturating_sub(at.0);
        let bytes = walk.read(at, BATCH_HEADER_BYTES)?;
        let size = match frame(&bytes, &self.options.limits) {
            Frame::Entry(n) | Frame::NeedMore(n) => n as u64,
            Frame::Zero => return is_zero(&**walk.file, at, Position(walk.info.len)),
            Frame::Bad(_) => return Ok(false),
        };
        let fits = |h: BatchHeader| {
            let relative = h.base_offset - walk.info.base;
            h.magic <= 2 && (0..=i64::from(i32::MAX)).contains(&relative)
        };
        Ok(left == 0 || size <= left && BatchHeader::parse(&bytes).is_ok_and(fits))
    }

    /// Looks for the next batch behind `at`, and reports the bytes from `from` up to it. `cut_short`
    /// says that without one they are the beginning of a batch, which is no damage.
    fn skip(
        &mut self,
        walk: &mut Walk<'_>,
        at: Position,
        from: Position,
        defect: Defect,
        cut_short: bool,
    ) -> Result<Option<Position>> {
        let len = Position(walk.info.len);
        let span = Span {
            base: walk.info.base,
            next: walk.next.max(walk.info.base),
            from: at + 1,
            end: len,
        };
        let found = resync_within(&**walk.file, &span, &self.options.limits, &mut walk.budget)?;
        let (to, go_on) = match found {
            Resync::Found(to, _) => (to, Some(to)),
            Resync::None | Resync::GaveUp(_) => (len, None),
        };
        let from = from.min(to);
        if go_on.is_none() && cut_short {
            let (position, bytes, zeros) = (from, len - from, false);
            self.put(Item::Tail {
                position,
                bytes,
                zeros,
            })?;
        } else if to > from {
            self.damage(from.0 + defect.at as u64, to - from, defect.reason)?;
        }
        Ok(go_on)
    }
}

impl Walk<'_> {
    /// Up to `n` bytes at `at`, fewer where the file ends.
    fn read(&self, at: Position, n: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.info.len.saturating_sub(at.0)).unwrap_or(n);
        let mut bytes = vec![0; n.min(left)];
        let read = self.file.read_full_at(&mut bytes, at.0);
        bytes.truncate(read.map_err(|e| Error::io("cannot read", e).at_position(at.0))?);
        Ok(bytes)
    }

    fn afford(&mut self, cost: u64) -> bool {
        let rest = self.budget.checked_sub(cost);
        self.budget = rest.unwrap_or(self.budget);
        rest.is_some()
    }
}

/// What a record means. One that does not decode is shown as what it is: bytes.
fn content<'a>(
    info: &FileInfo,
    header: &BatchHeader,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
) -> Content<'a> {
    let decoded = if header.is_control() {
        control::decode(key, value).map(Content::Control)
    } else {
        match info.topic.as_deref() {
            Some(internal::CONSUMER_OFFSETS) => {
                internal::decode_group(key, value).map(Content::Group)
            }
            Some(internal::TRANSACTION_STATE) => {
                internal::decode_transaction(key, value).map(Content::Transaction)
            }
            _ => return Content::User,
        }
    };
    decoded.unwrap_or(Content::User)
}
