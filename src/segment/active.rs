//! The segment that takes appends: its log file, its two indexes, and the numbers that go with them.
//!
//! Owned by whoever holds the append lock. The index rules are Kafka's (`LogSegment.append`), with
//! the batch as the unit, as in Kafka's own recovery:
//!
//! * before a batch is counted, if more than 4096 bytes came since the last entry, the offset index
//!   gets (last offset of the batch, position of the batch);
//! * with it, the time index gets (largest timestamp so far, last offset of the first batch that has
//!   it), if that timestamp is larger than the last entry's;
//! * at a roll the time index gets its final entry, unless it is there already.
//!
//! Entries gather in memory and are written when the lock is released ([`ActiveSegment::flush`]);
//! they are never synced, because they can be made again from the log.
//!
//! Under `--sync batch` the file is filled with zeros ahead of its data ([`ActiveSegment::write`]):
//! an fdatasync of a file that does not grow needs no journal commit (measured 78 us against 121 us).

use std::io;
use std::sync::Arc;

use crate::format::builder::SealedBatch;
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry};
use crate::format::names::{Kind, file_name};
use crate::format::{Offset, Position, TimestampMs};
use crate::sys::{Access, Dir, File};

/// Bytes between two entries of the offset index (Kafka: index.interval.bytes).
pub const INDEX_INTERVAL_BYTES: u64 = 4096;
/// Most bytes of an index; a segment rolls before one is full (Kafka: segment.index.bytes).
pub const INDEX_BYTES_MAX: usize = 10 << 20;
/// How far zeros run ahead of the data under `--sync batch`.
pub const ZERO_FILL_BYTES: u64 = 1 << 20;
/// Offsets of one segment must fit 31 bits.
pub const RELATIVE_OFFSET_MAX: i64 = i32::MAX as i64;

/// The numbers of a segment that follow from its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Where the data ends.
    pub position: Position,
    /// Offset the next record gets, at least.
    pub next_offset: Offset,
    /// Largest timestamp and the last offset of the first batch that has it.
    pub max_timestamp: TimestampMs,
    /// See `max_timestamp`.
    pub max_timestamp_offset: Offset,
    /// Max timestamp of the first batch; rolling by age counts from it. -1 without a batch.
    pub first_timestamp: TimestampMs,
    /// Bytes since the last entry of the offset index.
    pub since_index_entry: u64,
    /// Whether any batch has a producer id.
    pub has_producers: bool,
}

impl Tally {
    /// That of an empty segment.
    pub fn empty(base: Offset) -> Tally {
        Tally {
            position: Position(0),
            next_offset: base,
            max_timestamp: TimestampMs::NONE,
            max_timestamp_offset: base,
            first_timestamp: TimestampMs::NONE,
            since_index_entry: 0,
            has_producers: false,
        }
    }
}

/// An index file and the entries not yet written to it.
struct IndexTail {
    file: Box<dyn File>,
    /// Bytes written.
    len: u64,
    pending: Vec<u8>,
}

impl IndexTail {
    fn flush(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            if let Err(e) = self.file.write_all_at(&self.pending, self.len) {
                let _ = self.file.set_len(self.len); // no part of an entry
                return Err(e);
            }
            self.len += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(())
    }

    /// Bytes with what is pending.
    fn total(&self) -> usize {
        usize::try_from(self.len)
            .unwrap_or(usize::MAX)
            .saturating_add(self.pending.len())
    }

    fn cut(&mut self, len: u64) -> io::Result<()> {
        self.pending.clear();
        if self.file.len()? != len {
            self.file.set_len(len)?;
        }
        self.len = len;
        Ok(())
    }
}

/// The segment that takes appends, open for writing.
pub struct ActiveSegment {
    base: Offset,
    log: Arc<dyn File>,
    inode: u64,
    index: IndexTail,
    time_index: IndexTail,
    /// Timestamp of the last time index entry, pending ones included.
    last_indexed_timestamp: TimestampMs,
    tally: Tally,
    /// Length of the file: `tally.position`, or more where zeros run ahead.
    file_len: u64,
}

impl ActiveSegment {
    /// Makes the three files of a new, empty segment. Their names are durable after the directory
    /// was synced. Index files of that name, left without a log by a crash, are replaced.
    ///
    /// # Errors
    /// `AlreadyExists` if the log file is there; else what the system answers.
    pub fn create(dir: &dyn Dir, base: Offset) -> io::Result<ActiveSegment> {
        // Indexes first: a broker makes what lacks an index anew, but a stale one it would believe.
        let index = create_index(dir, base, Kind::OffsetIndex)?;
        let time_index = create_index(dir, base, Kind::TimeIndex)?;
        let log = dir.create(&file_name(base, Kind::Log))?;
        ActiveSegment::assemble(base, log, index, time_index, Tally::empty(base))
    }

    /// Opens an existing segment whose numbers are known; the index files are cut to the given
    /// lengths (what is beyond belongs to batches that nobody vouched for).
    ///
    /// Returns `None` if an index is missing or shorter than that: it must be built anew.
    ///
    /// # Errors
    /// What the system answers.
    pub fn resume(
        dir: &dyn Dir,
        base: Offset,
        tally: Tally,
        index_bytes: u64,
        time_index_bytes: u64,
    ) -> io::Result<Option<ActiveSegment>> {
        let log = dir.open(&file_name(base, Kind::Log), Access::Write)?;
        let Some(index) = open_index(dir, base, Kind::OffsetIndex, index_bytes)? else {
            return Ok(None);
        };
        let Some(time_index) = open_index(dir, base, Kind::TimeIndex, time_index_bytes)? else {
            return Ok(None);
        };
        ActiveSegment::assemble(base, log, index, time_index, tally).map(Some)
    }

    /// Opens an existing segment with empty indexes, at its beginning: its batches are about to be
    /// [noted](ActiveSegment::note) one by one.
    ///
    /// # Errors
    /// What the system answers.
    pub fn reset(dir: &dyn Dir, base: Offset) -> io::Result<ActiveSegment> {
        let log = dir.open(&file_name(base, Kind::Log), Access::Write)?;
        let index = reset_index(dir, base, Kind::OffsetIndex)?;
        let time_index = reset_index(dir, base, Kind::TimeIndex)?;
        ActiveSegment::assemble(base, log, index, time_index, Tally::empty(base))
    }

    fn assemble(
        base: Offset,
        log: Box<dyn File>,
        index: IndexTail,
        time_index: IndexTail,
        tally: Tally,
    ) -> io::Result<ActiveSegment> {
        let meta = log.meta()?;
        let last_indexed_timestamp = last_time_entry(&time_index)?;
        let (inode, file_len) = (meta.id.ino, meta.len);
        Ok(ActiveSegment {
            base,
            log: Arc::from(log),
            inode,
            index,
            time_index,
            last_indexed_timestamp,
            tally,
            file_len,
        })
    }

    /// Base offset.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// The log file.
    pub fn log(&self) -> &Arc<dyn File> {
        &self.log
    }

    /// Inode of the log file.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The numbers so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Bytes written of the offset index and of the time index.
    pub fn index_bytes(&self) -> (u64, u64) {
        (self.index.len, self.time_index.len)
    }

    /// Length of the log file as this process knows it.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Takes note of the file's length, if somebody cut or added zeros behind the data.
    ///
    /// # Errors
    /// What fstat(2) answers.
    pub fn refresh_len(&mut self) -> io::Result<u64> {
        self.file_len = self.log.len()?;
        Ok(self.file_len)
    }

    /// Whether a batch that would stand at `at` must go to a new segment instead (Kafka:
    /// `LogSegment.shouldRoll`).
    pub fn must_roll(
        &self,
        limits: &RollLimits,
        at: &Ahead,
        batch: &SealedBatch,
        last_offset: Offset,
    ) -> bool {
        // An empty segment takes anything but an offset that it cannot express.
        if last_offset - self.base > RELATIVE_OFFSET_MAX {
            return true;
        }
        if at.position.0 == 0 {
            return false;
        }
        let size = batch.size as u64;
        let aged = limits.segment_age_ms.is_some_and(|age| {
            at.first_timestamp != TimestampMs::NONE
                && batch.max_timestamp.0.saturating_sub(at.first_timestamp.0) > age
        });
        let index_full = self.index.total() + OffsetEntry::BYTES > INDEX_BYTES_MAX
            || self.time_index.total() + 2 * TimeEntry::BYTES > INDEX_BYTES_MAX;
        // Positions in the offset index are 31 bits wide.
        let bytes_max = limits.segment_bytes.min(u64::from(index::RELATIVE_MAX));
        aged || index_full || at.position.0 > bytes_max.saturating_sub(size)
    }

    /// Where the next batch would stand, nothing being written ahead of it.
    pub fn ahead(&self) -> Ahead {
        let t = &self.tally;
        Ahead {
            position: t.position,
            first_timestamp: t.first_timestamp,
        }
    }

    /// Writes whole batches at the end of the data. Nothing is counted yet: see
    /// [`ActiveSegment::note`]. With `zero_fill` the file is first extended by zeros, so that the sync
    /// to come finds its length unchanged.
    ///
    /// Returns how many bytes were written, which is less than asked for if an error came between.
    ///
    /// # Errors
    /// In the second place of the pair: what the system answered.
    pub fn write(&mut self, bytes: &[u8], zero_fill: bool) -> (usize, Option<io::Error>) {
        let start = self.tally.position.0;
        let end = start.saturating_add(bytes.len() as u64);
        if zero_fill && end > self.file_len {
            let want = end.saturating_add(ZERO_FILL_BYTES);
            // Failing to fill ahead is no failure to write: the disk may have room for this batch.
            if write_zeros(self.log.as_ref(), self.file_len.max(start), want).is_ok() {
                self.file_len = want;
            }
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|r| !r.is_empty()) {
            match self.log.write_at(rest, start + done as u64) {
                Ok(0) => return (done, Some(io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(e) => return (done, Some(e)),
            }
        }
        self.file_len = self.file_len.max(end);
        (done, None)
    }

    /// Counts a batch that stands at the end of the data, and indexes it.
    pub fn note(&mut self, batch: &Noted) {
        let t = &mut self.tally;
        if t.position.0 == 0 {
            t.first_timestamp = batch.max_timestamp;
        }
        if batch.max_timestamp > t.max_timestamp {
            t.max_timestamp = batch.max_timestamp;
            t.max_timestamp_offset = batch.last_offset;
        }
        if t.since_index_entry > INDEX_INTERVAL_BYTES {
            self.add_entries(batch.last_offset);
        }
        let t = &mut self.tally;
        t.since_index_entry += batch.size;
        t.position = t.position + batch.size;
        t.next_offset = batch.last_offset.next();
        t.has_producers |= batch.has_producer;
    }

    fn add_entries(&mut self, last_offset: Offset) {
        let t = &mut self.tally;
        if let Some(entry) = OffsetEntry::new(self.base, last_offset, t.position) {
            entry.encode(&mut self.index.pending);
            t.since_index_entry = 0;
        }
        self.add_time_entry();
    }

    fn add_time_entry(&mut self) {
        let t = &self.tally;
        if t.max_timestamp > self.last_indexed_timestamp
            && let Some(entry) = TimeEntry::new(self.base, t.max_timestamp, t.max_timestamp_offset)
        {
            entry.encode(&mut self.time_index.pending);
            self.last_indexed_timestamp = t.max_timestamp;
        }
    }

    /// Writes the gathered index entries.
    ///
    /// # Errors
    /// What the system answers; the entries are kept for the next try.
    pub fn flush(&mut self) -> io::Result<()> {
        let index = self.index.flush();
        self.time_index.flush().and(index)
    }

    /// Cuts what lies behind the data: zeros, or the rest of a write that failed.
    ///
    /// # Errors
    /// What the system answers.
    pub fn cut_tail(&mut self) -> io::Result<()> {
        let end = self.tally.position.0;
        if self.file_len != end || self.log.len()? != end {
            self.log.set_len(end)?;
            self.file_len = end;
        }
        Ok(())
    }

    /// Takes over the numbers that another process left behind, the files being the same ones.
    ///
    /// Returns false if an index is shorter than it should be; the segment is then to be recovered.
    ///
    /// # Errors
    /// What the system answers.
    pub fn adopt(&mut self, tally: Tally, index: u64, time_index: u64) -> io::Result<bool> {
        if self.index.file.len()? < index || self.time_index.file.len()? < time_index {
            return Ok(false);
        }
        self.cut_indexes(index, time_index)?;
        self.tally = tally;
        self.refresh_len()?;
        Ok(true)
    }

    /// Makes the segment ready to be sealed: zeros cut, final time index entry, indexes written.
    /// An index that cannot be written (a full disk) does not keep a segment from being sealed: it
    /// is derived data, and removed, for a whole one tells the largest timestamp by its last entry. One
    /// that is missing is built anew.
    ///
    /// # Errors
    /// What the system answers to cutting the log.
    pub fn seal(&mut self, dir: &dyn Dir) -> io::Result<()> {
        self.cut_tail()?;
        self.add_time_entry();
        let tails = [
            (Kind::OffsetIndex, &mut self.index),
            (Kind::TimeIndex, &mut self.time_index),
        ];
        for (kind, tail) in tails {
            if tail.flush().is_err() {
                let _ = dir.unlink(&file_name(self.base, kind));
            }
        }
        Ok(())
    }

    /// Forgets index entries that were cut or never written and starts both indexes at the given
    /// lengths.
    ///
    /// # Errors
    /// What the system answers.
    fn cut_indexes(&mut self, index_bytes: u64, time_index_bytes: u64) -> io::Result<()> {
        self.index.cut(index_bytes)?;
        self.time_index.cut(time_index_bytes)?;
        self.last_indexed_timestamp = last_time_entry(&self.time_index)?;
        Ok(())
    }
}

/// What a batch adds to a segment's numbers.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// Size in bytes.
    pub size: u64,
    /// Its last offset.
    pub last_offset: Offset,
    /// Its largest timestamp.
    pub max_timestamp: TimestampMs,
    /// Whether it has a producer id.
    pub has_producer: bool,
}

/// Where a batch is to stand, behind others that are planned but not written yet.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// Its position.
    pub position: Position,
    /// Max timestamp of the segment's first batch; -1 for that batch itself.
    pub first_timestamp: TimestampMs,
}

impl Ahead {
    /// The same behind one more batch.
    #[must_use]
    pub fn behind(self, batch: &SealedBatch) -> Ahead {
        let first = self.position.0 == 0;
        Ahead {
            position: self.position + batch.size as u64,
            first_timestamp: if first {
                batch.max_timestamp
            } else {
                self.first_timestamp
            },
        }
    }
}

/// When a segment is full.
#[derive(Clone, Copy, Debug)]
pub struct RollLimits {
    /// Largest segment, in bytes; a larger batch gets one of its own.
    pub segment_bytes: u64,
    /// Largest span of record time in a segment, in ms.
    pub segment_age_ms: Option<i64>,
}

fn create_index(dir: &dyn Dir, base: Offset, kind: Kind) -> io::Result<IndexTail> {
    let name = file_name(base, kind);
    let file = match dir.create(&name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            dir.unlink(&name)?;
            dir.create(&name)?
        }
        other => other?,
    };
    Ok(IndexTail {
        file,
        len: 0,
        pending: Vec::new(),
    })
}

fn reset_index(dir: &dyn Dir, base: Offset, kind: Kind) -> io::Result<IndexTail> {
    let file = dir.open_or_create(&file_name(base, kind))?;
    file.set_len(0)?;
    Ok(IndexTail {
        file,
        len: 0,
        pending: Vec::new(),
    })
}

fn open_index(dir: &dyn Dir, base: Offset, kind: Kind, len: u64) -> io::Result<Option<IndexTail>> {
    let file = match dir.open(&file_name(base, kind), Access::Write) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let there = file.len()?;
    if there < len {
        return Ok(None);
    }
    if there > len {
        file.set_len(len)?;
    }
    Ok(Some(IndexTail {
        file,
        len,
        pending: Vec::new(),
    }))
}

fn last_time_entry(tail: &IndexTail) -> io::Result<TimestampMs> {
    let Some(at) = tail.len.checked_sub(TimeEntry::BYTES as u64) else {
        return Ok(TimestampMs::NONE);
    };
    let mut bytes = [0; TimeEntry::BYTES];
    tail.file.read_exact_at(&mut bytes, at)?;
    Ok(TimeEntry::decode(&bytes).map_or(TimestampMs::NONE, |e| e.timestamp))
}

fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(ZEROS.len());
        file.write_all_at(ZEROS.get(..n).unwrap_or_default(), at)?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Host;
    use crate::sys::sim::{After, Fault, SimHost};
    use std::path::Path;

    #[test]
    fn an_index_that_cannot_be_written_at_a_roll_is_gone_and_the_other_is_whole() {
        for (nth, lost, kept) in [
            (1, Kind::OffsetIndex, Kind::TimeIndex),
            (2, Kind::TimeIndex, Kind::OffsetIndex),
        ] {
            let host = SimHost::new();
            host.make_dir(Path::new("/d")).unwrap();
            let dir = host.open_dir(Path::new("/d")).unwrap();
            let mut segment = ActiveSegment::create(dir.as_ref(), Offset(0)).unwrap();
            for i in 0..3 {
                segment.write(&[1; 5000], false);
                segment.note(&Noted {
                    size: 5000,
                    last_offset: Offset(i),
                    max_timestamp: TimestampMs(i),
                    has_producer: false,
                });
            }
            let after = After::Errno(nix::libc::ENOSPC);
            let at = host.calls() + nth;
            host.fail_at(at, Fault::ShortWrite(5, after));
            segment.seal(dir.as_ref()).unwrap();
            let len = |kind| {
                dir.stat(&file_name(Offset(0), kind))
                    .unwrap()
                    .map(|m| m.len)
            };
            assert_eq!(len(lost), None);
            let entry = match kept {
                Kind::OffsetIndex => OffsetEntry::BYTES,
                _ => TimeEntry::BYTES,
            };
            assert_eq!(len(kept), Some(2 * entry as u64));
        }
    }

    #[test]
    fn an_index_entry_is_written_whole_or_not_at_all() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        let mut tail = create_index(dir.as_ref(), Offset(0), Kind::OffsetIndex).unwrap();
        tail.pending = vec![1; 16];
        let after = After::Errno(nix::libc::ENOSPC);
        host.fail_next(Fault::ShortWrite(5, after));
        tail.flush().unwrap_err();
        assert_eq!((tail.file.len().unwrap(), tail.len), (0, 0));
        tail.flush().unwrap();
        assert_eq!((tail.file.len().unwrap(), tail.len), (16, 16));
    }
}
