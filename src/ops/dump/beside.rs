//! The files beside a `.log`: indexes, held against the log as they are read, snapshots, checkpoints.

use super::{FileInfo, FileKind, Found, Item, Job, TimeCheck};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::frame::{BATCH_HEADER_BYTES, Frame, frame};
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry, TxnEntry};
use crate::format::names::Kind;
use crate::format::{Offset, Position, TimestampMs, checkpoint, snapshot};
use crate::segment::scan::{HeaderWalk, Span, Walk, is_zero};
use crate::sys::File;
use std::sync::Arc;

/// Largest file that is read whole, in bytes: a snapshot of a million producers, a checkpoint of a
/// million partitions.
const WHOLE_BYTES_MAX: u64 = 64 << 20;
/// Entries of one read.
const ENTRIES_AT_ONCE: usize = 4096;

impl Job<'_, '_, '_> {
    pub(super) fn offset_index(
        &mut self,
        file: &dyn File,
        log: Option<&dyn File>,
        info: &FileInfo,
    ) -> Result<()> {
        self.entries(file, info, |job, at, entry: OffsetEntry| {
            let (offset, position) = (entry.offset(info.base), entry.position());
            let blank = at == 0 && entry.relative == 0 && entry.position == 0;
            if !job.wants_offset(offset) || blank && !job.options.as_kafka {
                return Ok(());
            }
            let found = match log {
                None => Found::NoLog,
                Some(log) => match header_at(log, position, job)? {
                    None => Found::Nothing,
                    Some(header) => Found::Batch(header.last_offset),
                },
            };
            job.put(Item::OffsetEntry {
                offset,
                position,
                found,
            })?;
            match found {
                // A writer may index several batches that it appended at once by the first one's
                // position and the last one's offset, so the offset may lie above.
                Found::Batch(last) if last > offset && !blank => job.damage(
                    at,
                    0,
                    format!(
                        "offset {offset} indexed, but the batch at byte {position} ends at {last}"
                    ),
                ),
                Found::Nothing => job.damage(
                    at,
                    0,
                    format!("offset {offset} indexed, but no batch begins at byte {position}"),
                ),
                _ => Ok(()),
            }
        })
    }

    pub(super) fn time_index(
        &mut self,
        file: &dyn File,
        log: Option<Arc<dyn File>>,
        index: &[u8],
        info: &FileInfo,
    ) -> Result<()> {
        self.entries(file, info, |job, at, entry: TimeEntry| {
            let (offset, timestamp) = (entry.offset(info.base), entry.timestamp);
            let blank = at == 0 && entry.relative == 0 && timestamp == TimestampMs(0);
            if !job.wants_offset(offset) || blank && !job.options.as_kafka {
                return Ok(());
            }
            let check = match &log {
                Some(log) => job.check_time(log, index, info, &entry)?,
                None => TimeCheck::Fine,
            };
            job.put(Item::TimeEntry {
                timestamp,
                offset,
                check,
            })
        })
    }

    pub(super) fn txn_index(&mut self, file: &dyn File, info: &FileInfo) -> Result<()> {
        self.entries(file, info, |job, _, entry: TxnEntry| {
            match job.wants(entry.first_offset, entry.last_offset) {
                true => job.put(Item::TxnEntry(entry)),
                false => Ok(()),
            }
        })
    }

    /// Calls `show` with the place and value of every entry, and reports what is out of order.
    fn entries<E: Entry>(
        &mut self,
        file: &dyn File,
        info: &FileInfo,
        mut show: impl FnMut(&mut Self, u64, E) -> Result<()>,
    ) -> Result<()> {
        let mut chunk = vec![0; E::BYTES * ENTRIES_AT_ONCE];
        let (mut at, mut before): (u64, Option<E>) = (0, None);
        loop {
            let left = usize::try_from(info.len.saturating_sub(at)).unwrap_or(chunk.len());
            let want = left.min(chunk.len());
            let room = chunk.get_mut(..want).unwrap_or_default();
            let read = file.read_full_at(room, at);
            let n = read.map_err(|e| Error::io("cannot read", e).at_position(at))?;
            let filled = chunk.get(..n).unwrap_or_default();
            for bytes in filled.chunks_exact(E::BYTES) {
                let entry = match E::decode(bytes) {
                    Ok(entry) => entry,
                    Err(d) => return self.damage(at, info.len - at, d.reason),
                };
                if entry.is_blank() && at > 0 {
                    return self.zeros(file, at, info);
                }
                show(self, at, entry)?;
                if let Some(reason) = before.and_then(|b| entry.misfit(&b)) {
                    self.damage(at, 0, reason)?;
                }
                before = Some(entry);
                at += E::BYTES as u64;
            }
            if n < chunk.len() {
                break;
            }
        }
        match info.len - at {
            0 => Ok(()),
            n => self.damage(at, n, format!("{n} bytes of an entry")),
        }
    }

    /// Behind the last entry there may be zeros only.
    fn zeros(&mut self, file: &dyn File, at: u64, info: &FileInfo) -> Result<()> {
        match is_zero(file, Position(at), Position(info.len))? {
            true => Ok(()),
            false => self.damage(at, info.len - at, "data behind the last entry"),
        }
    }

    /// Holds a time index entry against the log, as kafka-dump-log does.
    fn check_time(
        &self,
        log: &Arc<dyn File>,
        index: &[u8],
        info: &FileInfo,
        entry: &TimeEntry,
    ) -> Result<TimeCheck> {
        let wanted = entry.offset(info.base);
        let from = index::lookup_offset(index, info.base, wanted);
        let len = log.len().map_err(|e| Error::io("cannot read", e))?;
        let span = Span {
            next: Offset(i64::MIN),
            from: from.map_or(Position(0), |e| e.position()),
            ..Span::whole(info.base, len)
        };
        let mut walk = HeaderWalk::new(log.clone(), span, self.options.limits);
        while let Walk::Header(header, position) = walk.next()? {
            if header.last_offset < wanted {
                continue;
            }
            if header.last_offset > wanted {
                return Ok(TimeCheck::NotLast(Some(header.last_offset)));
            }
            let largest = self.largest_time(&**log, &header, position)?;
            return Ok(match largest == entry.timestamp {
                true => TimeCheck::Fine,
                false => TimeCheck::Differs(largest),
            });
        }
        Ok(TimeCheck::NotLast(None))
    }

    /// The largest timestamp of a batch's records; -1 if it has none.
    fn largest_time(
        &self,
        log: &dyn File,
        header: &BatchHeader,
        position: Position,
    ) -> Result<TimestampMs> {
        let mut bytes = vec![0; header.size];
        let read = log.read_full_at(&mut bytes, position.0);
        read.map_err(|e| Error::io("cannot read", e).at_position(position.0))?;
        let mut scratch = Scratch::new();
        let batch = Batch::trusted(&bytes);
        let records = batch.and_then(|b| {
            b.records(&mut scratch, &self.options.limits)
                .map(|r| r.map_while(|r| r.ok()).map(|r| r.timestamp).max())
        });
        Ok(records.ok().flatten().unwrap_or(TimestampMs::NONE))
    }

    /// A file that is read whole.
    pub(super) fn small_file(&mut self, file: &dyn File, info: &FileInfo) -> Result<()> {
        let bytes = read_all(file)?;
        let shown = match info.kind {
            FileKind::Segment(Kind::Snapshot) => snapshot::decode(&bytes).map(|entries| {
                entries
                    .into_iter()
                    .try_for_each(|e| self.put(Item::Producer(e)))
            }),
            FileKind::Epochs => checkpoint::parse_epochs(&bytes).map(|entries| {
                entries
                    .into_iter()
                    .try_for_each(|e| self.put(Item::Epoch(e)))
            }),
            FileKind::Metadata => {
                checkpoint::parse_metadata(&bytes).map(|id| self.put(Item::TopicId(id)))
            }
            _ => checkpoint::parse_offsets(&bytes).map(|entries| {
                entries
                    .into_iter()
                    .try_for_each(|e| self.put(Item::Checkpoint(e)))
            }),
        };
        match shown {
            Ok(result) => result,
            Err(d) => self.damage(d.at as u64, info.len, d.reason),
        }
    }
}

/// The header of the entry that begins at `position` of a log and lies wholly in it.
fn header_at(
    log: &dyn File,
    position: Position,
    job: &Job<'_, '_, '_>,
) -> Result<Option<BatchHeader>> {
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let read = log.read_full_at(&mut bytes, position.0);
    let n = read.map_err(|e| Error::io("cannot read", e))?;
    let len = log.len().map_err(|e| Error::io("cannot read", e))?;
    let bytes = bytes.get(..n).unwrap_or_default();
    let size = match frame(bytes, &job.options.limits) {
        Frame::Entry(size) | Frame::NeedMore(size) => size as u64,
        Frame::Zero | Frame::Bad(_) => return Ok(None),
    };
    let whole = position.0.saturating_add(size) <= len;
    Ok(BatchHeader::parse(bytes).ok().filter(|_| whole))
}

/// The bytes of a file that must be read whole.
pub(super) fn read_all(file: &dyn File) -> Result<Vec<u8>> {
    let len = file.len().map_err(|e| Error::io("cannot read", e))?;
    if len > WHOLE_BYTES_MAX {
        let what = format!("{len} bytes; at most {WHOLE_BYTES_MAX} are read");
        return Err(Error::data(what));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let read = file.read_full_at(&mut bytes, 0);
    bytes.truncate(read.map_err(|e| Error::io("cannot read", e))?);
    Ok(bytes)
}
