//! Makes a log appendable again after whatever happened to it.
//!
//! Run by the holder of the append lock, on first use of a directory and whenever it is not as this
//! process left it. Checks batches forward
//!
//! * from the end hint, if it is of this boot and of this very file;
//! * else from D, through all later segments;
//! * else, nothing of ours being on record, from the broker's recovery point or the last entry of the
//!   active segment's offset index that proves itself, else from the segment's start.
//!
//! At the first invalid byte P, where offset n was expected:
//!
//! | P is | and then |
//! |---|---|
//! | at or above D, in the active segment, no valid batch after it | *torn tail*: cut at P |
//! | at or above D, anything else, and the host rebooted since the last write | unsynced pages reached the disk out of order: later segments (highest first), then the bytes from P, move to lost+found; cut at P |
//! | anything else | *corruption*: nothing is touched, appends are refused |
//!
//! After a reboot a gap above D between two segments counts as an invalid byte at the end of the
//! first: its unsynced pages were lost while the next one's name was kept.
//!
//! **After a broker.** A broker that had the directory after us may have appended far above D, and its
//! cleaner may have left gaps there, between segments of ours too. Its own recovery asks for no more
//! than that batches are valid. So what lies below its recovery point, if the checkpoint is newer than
//! our last append ([`broker::flushed_since`](super::broker::flushed_since)), was on disk when it wrote
//! that: a gap there is lawful, and damage there is corruption, never a lost tail. Before we append
//! anything ourselves, which makes that checkpoint the older one, the writer publishes D at the log
//! end. Not covered: a host that goes down within the minute before the first checkpoint of a broker
//! that has compacted above D.
//!
//! Zeros to the end of the active segment are not invalid: they were filled ahead. A cut takes the
//! indexes first and the log last, so no entry ever points past the end. Being killed at any point
//! leaves a directory from which the next run succeeds: the hint of the old boot stays until the
//! first append of the new one, and every step either removes what is behind P or does nothing.

use std::cell::Cell;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::frame::BATCH_HEADER_BYTES;
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry, TxnEntry};
use crate::format::names::{self, Kind, State};
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::log::end::{self, End, EndHint};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::lock::LockFile;
use crate::log::lost::{Lost, LostFound};
use crate::log::state::unlink_if_there;
use crate::log::{epoch, files};
use crate::segment::active::{ActiveSegment, INDEX_BYTES_MAX, Noted, RELATIVE_OFFSET_MAX, Tally};
use crate::segment::scan::{HeaderWalk, Resync, Scan, Scanner, Span, Tail, Walk, is_zero, resync};
use crate::sys::{Access, Dir, File, Host, Wait};

mod cut;

/// How often the listing may change under us before that is an error.
const PASSES_MAX: usize = 64;

/// What recovery needs to know.
pub struct Recovery<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The partition.
    pub log: &'a LogDir,
    /// Its `.logd`.
    pub logd_dir: &'a dyn Dir,
    /// `.logd/end` as read under the append lock.
    pub end: End,
    /// The broker's recovery point, where there is one.
    pub recovery_point: Option<Offset>,
    /// The same if the broker ran after our last append: what is below stays as it is.
    pub flushed: Option<Offset>,
    /// The caller holds the maintenance lock.
    pub holds_maintenance: bool,
    /// Bounds on what is read.
    pub limits: Limits,
    /// Set when a control batch is among those that are checked: what its process still had to write
    /// of it may be missing.
    pub has_markers: Cell<bool>,
}

/// A log that can be appended to.
pub struct Recovered {
    /// Its active segment, checked to its end.
    pub active: ActiveSegment,
    /// What had to be taken out, in the order in which it was.
    pub lost: Vec<Lost>,
}

/// The first invalid byte.
struct Invalid {
    segment: SegmentRef,
    position: Position,
    /// Offset that was expected there.
    next: Offset,
    reason: String,
}

/// What [`Recovery::judge`] did about an invalid byte.
enum Verdict {
    /// The caller cuts the active segment there.
    Cut(Lost),
    /// Something was moved away, or the lock for it was taken first: start over.
    Again(Vec<Lost>),
}

/// Where checking the active segment starts, and what is known up to there.
struct Start {
    tally: Tally,
    index_bytes: u64,
    time_index_bytes: u64,
    /// From a hint of this boot: zeros behind the data are the end.
    hinted: bool,
}

impl Recovery<'_> {
    /// Recovers the log.
    ///
    /// # Errors
    /// `Data` for corruption, naming file, offset, byte and reason; `Locked` if something is to be
    /// moved away while maintenance is at work; else what the system answers.
    pub fn run(&mut self) -> Result<Recovered> {
        let mut lost = Vec::new();
        let mut maintenance = None;
        for _ in 0..PASSES_MAX {
            match self.pass(&mut lost, &mut maintenance) {
                Ok(Some(active)) => return Ok(Recovered { active, lost }),
                Ok(None) => {}
                // Retention or a swap took a file between the listing and the opening.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            self.end = end::read(self.logd_dir).map_err(|e| {
                Error::io("cannot read .logd/end", e).at_path(self.log.dir().path())
            })?;
        }
        Err(Error::new(ErrorKind::Io, "the directory keeps changing")
            .at_path(self.log.dir().path()))
    }

    /// One pass; `None` if everything is to be looked at again.
    fn pass(
        &self,
        lost: &mut Vec<Lost>,
        maintenance: &mut Option<LockFile>,
    ) -> Result<Option<ActiveSegment>> {
        let segments = self.segments()?;
        let Some((last, sealed)) = segments.split_last() else {
            return self.first_segment().map(Some);
        };
        let start = self.start_from_hint(last)?;
        if start.is_none()
            && let Some((invalid, later)) = self.check_all_sealed(sealed, last)?
        {
            if let Verdict::Again(moved) = self.judge(&invalid, &later, maintenance)? {
                lost.extend(moved);
            }
            return Ok(None);
        }
        let start = match start {
            Some(start) => start,
            None => self
                .start_from_index(last)?
                .unwrap_or_else(|| Start::empty(last.base())),
        };
        // Read-only up to the verdict: a refusal leaves everything as it was.
        let cut = match self.check_active(last, &start)? {
            None => None,
            Some(invalid) => match self.judge(&invalid, &[], maintenance)? {
                Verdict::Cut(cut) => Some(cut),
                Verdict::Again(moved) => {
                    lost.extend(moved);
                    return Ok(None);
                }
            },
        };
        let active = self.open_active(last, &start, cut.as_ref())?;
        lost.extend(cut);
        Ok(Some(active))
    }

    /// Checks the sealed segments from D's on; the first invalid byte, and the segments after it. With
    /// no D on record only the active segment is checked.
    fn check_all_sealed(
        &self,
        sealed: &[SegmentRef],
        last: &SegmentRef,
    ) -> Result<Option<(Invalid, Vec<SegmentRef>)>> {
        let Some(from) = self.end.durable else {
            return Ok(None);
        };
        let first = sealed
            .partition_point(|s| s.base() <= from)
            .saturating_sub(1);
        for (i, segment) in sealed.iter().enumerate().skip(first) {
            let above = sealed.get(i + 1).unwrap_or(last).base();
            if let Some(invalid) = self.check_sealed(segment, above, from)? {
                let rest = sealed.get(i + 1..).unwrap_or_default();
                let later = rest.iter().chain([last]).copied().collect();
                return Ok(Some((invalid, later)));
            }
        }
        Ok(None)
    }

    /// The segments, ascending, an unfinished swap in the place of what it replaces.
    fn segments(&self) -> Result<Vec<SegmentRef>> {
        let segments = self.log.segments()?;
        if let Some(s) = segments.last().filter(|s| s.log.state != State::Plain) {
            let why = "the newest segment is an unfinished swap";
            return Err(Error::data(why)
                .at_path(self.log.path_of(&s.log_name()))
                .hint(format!("logd repair {}", self.log.dir().path().display())));
        }
        Ok(segments)
    }

    /// Where the hint says, if it speaks of this boot and of the file that is the active segment now,
    /// and the batches before that place lead there. It is a hint: a file that was written over in
    /// place looks the same from outside.
    fn start_from_hint(&self, last: &SegmentRef) -> Result<Option<Start>> {
        let (boot, base) = (self.host.boot_id(), last.base());
        let Some(hint) = self
            .end
            .hint
            .filter(|h| h.is_of(boot) && h.base == base && h.inode != 0)
        else {
            return Ok(None);
        };
        let file = self.log.open_file(&last.log_name())?;
        let meta = file.meta().map_err(|e| self.io(last, e))?;
        if meta.id.ino != hint.inode || meta.len < hint.position.0 || hint.end < base {
            return Ok(None);
        }
        let from = match hint.end > base {
            true => self.proven_entry(last, file.as_ref(), hint.end + -1)?,
            false => None,
        };
        let from = from.map_or(Position(0), |e| e.position());
        if from > hint.position {
            return Ok(None);
        }
        let span = Span {
            base,
            next: base,
            from,
            end: hint.position,
        };
        let mut walk = HeaderWalk::new(file, span, self.limits);
        while let Walk::Header(..) = walk.next().map_err(|e| self.place(last, e))? {}
        let leads_there = walk.position() == hint.position && walk.next_offset() == hint.end;
        Ok(leads_there.then(|| Start {
            tally: tally_of(&hint),
            index_bytes: u64::from(hint.index_bytes),
            time_index_bytes: u64::from(hint.time_index_bytes),
            hinted: true,
        }))
    }

    /// Makes the first segment of a log that has none, at the log start.
    fn first_segment(&self) -> Result<ActiveSegment> {
        let base = self.log.start_offset(&[])?;
        if let Some(d) = self.end.durable.filter(|d| *d > base) {
            return Err(self.below_durable(base, d));
        }
        ActiveSegment::create(self.log.dir().as_ref(), base)
            .map_err(|e| Error::io("cannot begin the log", e).at_path(self.log.dir().path()))
    }

    /// Checks a sealed segment from where `from` lies in it to its end.
    fn check_sealed(
        &self,
        segment: &SegmentRef,
        above: Offset,
        from: Offset,
    ) -> Result<Option<Invalid>> {
        let base = segment.base();
        let file = self.log.open_file(&segment.log_name())?;
        let start = self.proven_entry(segment, file.as_ref(), from)?;
        let len = file.len().map_err(|e| self.io(segment, e))?;
        let position = start.map_or(Position(0), |e| e.position());
        let span = Span {
            base,
            next: base,
            from: position,
            end: Position(len),
        };
        let mut scanner = Scanner::new(file, span, self.limits);
        if let Some(invalid) = self.run_scanner(&mut scanner, segment, |_| ())? {
            return Ok(Some(invalid));
        }
        let (position, next) = (scanner.position(), scanner.next_offset());
        // A gap between segments is lawful, but above D and after a crash of the host it is what a lost
        // tail looks like: the next segment's name reached the disk and this one's pages did not. Whoever
        // makes a gap between segments on purpose first makes D, past it, durable; a jump of 2^31 or
        // more, which no lost tail can leave, needs no such care.
        let jump = above - base > RELATIVE_OFFSET_MAX + 1;
        let flushed = self.flushed.is_some_and(|f| above <= f);
        let lost = next < above && above > from && !jump && !flushed && self.rebooted();
        let reason = match next > above {
            true => format!("the next segment begins at offset {above}, inside this one"),
            false => {
                format!("the next segment begins at offset {above}, and what was before it is gone")
            }
        };
        let segment = *segment;
        Ok((lost || next > above).then_some(Invalid {
            segment,
            position,
            next,
            reason,
        }))
    }

    /// The place that the active segment's own indexes vouch for: the last entry that proves itself,
    /// not above D or the broker's recovery point.
    fn start_from_index(&self, last: &SegmentRef) -> Result<Option<Start>> {
        let base = last.base();
        let limit = self
            .end
            .durable
            .or(self.recovery_point.filter(|p| *p >= base));
        let file = self.log.open_file(&last.log_name())?;
        let entry = self.proven_entry(last, file.as_ref(), limit.unwrap_or(Offset::MAX))?;
        let Some(entry) = entry else { return Ok(None) };
        let first = first_header(file.as_ref()).map_err(|e| self.io(last, e))?;
        let (Some(first), Some(times), Some(offsets)) = (
            first,
            self.read_index(last, Kind::TimeIndex),
            self.read_index(last, Kind::OffsetIndex),
        ) else {
            return Ok(None);
        };
        if index::check_times(&times, base).is_err() {
            return Ok(None);
        }
        let kept: Vec<TimeEntry> = index::entries(&times)
            .take_while(|t: &TimeEntry| t.relative <= entry.relative)
            .collect();
        let before = |e: &OffsetEntry| e.relative < entry.relative;
        let count = index::entries(&offsets).take_while(before).count() + 1;
        let max = kept
            .last()
            .map_or((TimestampMs::NONE, base), |t| (t.timestamp, t.offset(base)));
        let tally = Tally {
            position: entry.position(),
            next_offset: base,
            max_timestamp: max.0,
            max_timestamp_offset: max.1,
            first_timestamp: first.max_timestamp,
            since_index_entry: 0,
            // Not looked at: a snapshot too many costs little, a missing one a producer's place.
            has_producers: true,
        };
        Ok(Some(Start {
            tally,
            index_bytes: (count * OffsetEntry::BYTES) as u64,
            time_index_bytes: (kept.len() * TimeEntry::BYTES) as u64,
            hinted: false,
        }))
    }

    /// The last index entry not above `limit` whose batch stands where it says, checksum and all.
    fn proven_entry(
        &self,
        segment: &SegmentRef,
        log: &dyn File,
        limit: Offset,
    ) -> Result<Option<OffsetEntry>> {
        let base = segment.base();
        let Some(bytes) = self.read_index(segment, Kind::OffsetIndex) else {
            return Ok(None);
        };
        let len = log.len().map_err(|e| self.io(segment, e))?;
        if index::check_offsets(&bytes, base, len).is_err() {
            return Ok(None);
        }
        let entries: Vec<OffsetEntry> = index::entries(&bytes).collect();
        // A few steps back are enough: an index that lies more often than that is not worth asking.
        for entry in entries
            .iter()
            .rev()
            .filter(|e| e.offset(base) <= limit)
            .take(4)
        {
            if prove(log, entry, base, &self.limits).map_err(|e| self.io(segment, e))? {
                return Ok(Some(*entry));
            }
        }
        Ok(None)
    }

    fn read_index(&self, segment: &SegmentRef, kind: Kind) -> Option<Vec<u8>> {
        let file = self.log.open_file(&segment.index_name(kind)).ok()?;
        read_small(file.as_ref(), INDEX_BYTES_MAX as u64 + 64).ok()
    }

    /// Checks the batches from `start` on, changing nothing.
    fn check_active(&self, last: &SegmentRef, start: &Start) -> Result<Option<Invalid>> {
        let (base, tally) = (last.base(), &start.tally);
        let file = self.log.open_file(&last.log_name())?;
        let len = file.len().map_err(|e| self.io(last, e))?;
        let (next, from) = (tally.next_offset, tally.position);
        let span = Span {
            base,
            next,
            from,
            end: Position(len),
        };
        let mut scanner = Scanner::new(file.clone(), span, self.limits);
        if let Some(invalid) = self.run_scanner(&mut scanner, last, |_| ())? {
            return Ok(Some(invalid));
        }
        let (position, next, segment) = (scanner.position(), scanner.next_offset(), *last);
        if let Some(d) = self.end.durable.filter(|d| *d > next) {
            return Err(self.below_durable(next, d));
        }
        // Zeros, or nothing. In this boot the page cache is the truth and a zero length is the end;
        // after a crash of the host something may lie behind them.
        let end = Position(len);
        if start.hinted || is_zero(file.as_ref(), position, end).map_err(|e| self.place(last, e))? {
            return Ok(None);
        }
        let reason = "data behind zeros".to_string();
        Ok(Some(Invalid {
            segment,
            position,
            next,
            reason,
        }))
    }

    /// Opens the active segment for writing, counts and indexes what was checked, and cuts what is to
    /// be cut: indexes and other derived state first, the log last.
    fn open_active(
        &self,
        last: &SegmentRef,
        start: &Start,
        cut: Option<&Lost>,
    ) -> Result<ActiveSegment> {
        let (dir, base) = (self.log.dir().as_ref(), last.base());
        let io = |e| self.io(last, e);
        let (index, times) = (start.index_bytes, start.time_index_bytes);
        let resumed = ActiveSegment::resume(dir, base, start.tally, index, times).map_err(io)?;
        let mut active = match resumed {
            Some(active) => active,
            None => ActiveSegment::reset(dir, base).map_err(io)?,
        };
        let len = active.refresh_len().map_err(io)?;
        let end = cut.map_or(Position(len), |c| c.position);
        let (next, from) = (active.tally().next_offset, active.tally().position);
        let span = Span {
            base,
            next,
            from,
            end,
        };
        let mut scanner = Scanner::new(active.log().clone(), span, self.limits);
        self.run_scanner(&mut scanner, last, |header| active.note(&noted(header)))?;
        if let Some(cut) = cut {
            active.flush().map_err(io)?;
            self.cut_derived(last, cut.offset)?;
            active.cut_tail().map_err(io)?;
        }
        Ok(active)
    }

    /// Removes what speaks of offsets from `end` on: snapshots, leader epochs, aborted transactions.
    fn cut_derived(&self, last: &SegmentRef, end: Offset) -> Result<()> {
        let dir = self.log.dir().as_ref();
        let io = |e| self.io(last, e);
        for name in dir.list().map_err(io)? {
            let snapshot = names::parse(&name).filter(|f| f.kind == Kind::Snapshot);
            if snapshot.is_some_and(|f| f.base > end) {
                unlink_if_there(dir, &name).map_err(io)?;
            }
        }
        epoch::truncate(dir, end)?;
        let name = last.index_name(Kind::TxnIndex);
        let file = match dir.open(&name, Access::Write) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file.map_err(io)?,
        };
        let bytes = read_small(file.as_ref(), INDEX_BYTES_MAX as u64)?;
        let kept = index::entries(&bytes)
            .take_while(|e: &TxnEntry| e.last_offset < end)
            .count();
        file.set_len((kept * TxnEntry::BYTES) as u64).map_err(io)
    }

    /// Feeds every batch to `note`; the first invalid byte, if there is one before the end.
    fn run_scanner(
        &self,
        scanner: &mut Scanner,
        segment: &SegmentRef,
        mut note: impl FnMut(&BatchHeader),
    ) -> Result<Option<Invalid>> {
        let reason = loop {
            match scanner.next().map_err(|e| self.place(segment, e))? {
                Scan::Batch(batch, _) => {
                    if batch.header().is_control() {
                        self.has_markers.set(true);
                    }
                    note(batch.header());
                }
                Scan::End(end) if end.tail == Tail::Partial => break "batch cut short".to_string(),
                Scan::End(_) => return Ok(None),
                Scan::Bad(bad) => break bad.defect.reason,
            }
        };
        let (position, next) = (scanner.position(), scanner.next_offset());
        Ok(Some(Invalid {
            segment: *segment,
            position,
            next,
            reason,
        }))
    }

    /// Decides by the table above; `later` are the segments after the one with the invalid byte.
    fn judge(
        &self,
        at: &Invalid,
        later: &[SegmentRef],
        maintenance: &mut Option<LockFile>,
    ) -> Result<Verdict> {
        let file = self.log.open_file(&at.segment.log_name())?;
        let len = file.len().map_err(|e| self.io(&at.segment, e))?;
        let lost = Lost {
            segment: at.segment.base(),
            position: at.position,
            bytes: len.saturating_sub(at.position.0),
            offset: at.next,
            reason: at.reason.clone(),
        };
        if let Some(d) = self.end.durable.filter(|d| at.next < *d) {
            return Err(self.corrupt(at, format!("offsets below {d} were durable")));
        }
        let torn = later.is_empty() && !self.data_follows(at, &file, len)?;
        if let Some(f) = self.flushed.filter(|f| at.next < *f && !torn) {
            return Err(self.corrupt(at, format!("a broker had made offsets below {f} durable")));
        }
        if !self.rebooted() {
            return match torn {
                true => Ok(Verdict::Cut(lost)),
                false => Err(self.corrupt(at, "valid data follows".to_string())),
            };
        }
        if !later.is_empty() && maintenance.is_none() && !self.holds_maintenance {
            // Sealed segments are maintenance's: look again when it cannot be at work.
            *maintenance = Some(self.lock_maintenance()?);
            return Ok(Verdict::Again(Vec::new()));
        }
        let keep = LostFound::open(self.host, self.logd_dir)?;
        let mut moved = Vec::new();
        for segment in later.iter().rev() {
            if segment.log.state != State::Plain {
                return Err(self.corrupt(at, "an unfinished swap follows".to_string()));
            }
            let gone = self.whole_segment(segment, &lost)?;
            keep.keep_segment(self.log.dir().as_ref(), &gone)?;
            moved.push(gone);
        }
        if !later.is_empty() {
            return Ok(Verdict::Again(moved));
        }
        match keep.keep_bytes(file.as_ref(), &lost) {
            // A torn tail was acknowledged to nobody; a full disk must not stop a log from opening.
            Err(e) if !torn || !is_full(&e) => Err(e),
            _ => Ok(Verdict::Cut(lost)),
        }
    }

    /// Whether a valid batch with a higher offset stands behind an invalid byte of the active segment.
    ///
    /// The torn batch itself may carry batches as its payload; those prove nothing. Where its header
    /// can be read, what lies inside it is passed over; where it runs past the end of the file, only
    /// a batch that begins right after its last offset would show that its length is what is wrong.
    fn data_follows(&self, at: &Invalid, file: &Arc<dyn File>, len: u64) -> Result<bool> {
        let io = |e| self.io(&at.segment, e);
        let base = at.segment.base();
        let mut head = [0; BATCH_HEADER_BYTES];
        let n = file.read_full_at(&mut head, at.position.0).map_err(io)?;
        let header = BatchHeader::parse(head.get(..n).unwrap_or_default())
            .ok()
            .filter(|h| {
                h.magic == 2
                    && h.base_offset == at.next
                    && h.last_offset >= h.base_offset
                    && n == head.len()
            });
        let whole = header
            .as_ref()
            .filter(|h| at.position.0 + h.size as u64 <= len);
        let from = at.position + whole.map_or(1, |h| h.size as u64);
        let span = Span {
            base,
            next: at.next,
            from,
            end: Position(len),
        };
        let found =
            resync(file.as_ref(), &span, &self.limits).map_err(|e| self.place(&at.segment, e))?;
        let cut_short = header.as_ref().filter(|_| whole.is_none());
        Ok(match (found, cut_short) {
            (Resync::None, _) => false,
            (Resync::Found(_, first), Some(h)) => first == h.last_offset.next(),
            (Resync::GaveUp(_), Some(_)) => false,
            _ => true,
        })
    }

    fn lock_maintenance(&self) -> Result<LockFile> {
        let lock = LockFile::open(self.logd_dir, files::MAINTENANCE_LOCK)?;
        match lock.acquire(self.logd_dir, Wait::No)? {
            true => Ok(lock),
            false => Err(Error::new(ErrorKind::Locked, "maintenance is under way")
                .at_path(self.log.dir().path())),
        }
    }

    fn whole_segment(&self, segment: &SegmentRef, cause: &Lost) -> Result<Lost> {
        let meta = self
            .log
            .dir()
            .stat(&segment.log_name())
            .map_err(|e| self.io(segment, e))?;
        Ok(Lost {
            segment: segment.base(),
            position: Position(0),
            bytes: meta.map_or(0, |m| m.len),
            offset: segment.base(),
            reason: format!(
                "offset {} before it is gone: {}",
                cause.offset, cause.reason
            ),
        })
    }

    /// Whether the host rebooted since the last write that is on record.
    fn rebooted(&self) -> bool {
        self.end.rebooted(self.host.boot_id())
    }

    fn corrupt(&self, at: &Invalid, why: String) -> Error {
        Error::data(format!("{}, and {why}; nothing was changed", at.reason))
            .at_path(self.log.path_of(&at.segment.log_name()))
            .at_offset(at.next.0)
            .at_position(at.position.0)
            .hint(format!(
                "logd repair --dry-run {}",
                self.log.dir().path().display()
            ))
    }

    fn below_durable(&self, end: Offset, durable: Offset) -> Error {
        let why =
            format!("the log ends at offset {end}, but everything below {durable} was durable");
        Error::new(ErrorKind::Data, why)
            .at_path(self.log.dir().path())
            .hint(format!(
                "logd repair --dry-run {}",
                self.log.dir().path().display()
            ))
    }

    fn io(&self, segment: &SegmentRef, e: std::io::Error) -> Error {
        self.place(segment, Error::io("cannot recover", e))
    }

    fn place(&self, segment: &SegmentRef, e: Error) -> Error {
        e.at_path(self.log.path_of(&segment.log_name()))
    }
}

impl Start {
    /// The segment's beginning, nothing known.
    fn empty(base: Offset) -> Start {
        Start {
            tally: Tally::empty(base),
            index_bytes: 0,
            time_index_bytes: 0,
            hinted: false,
        }
    }
}

/// Whether an error says that there is no room.
pub(super) fn is_full(e: &Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(nix::libc::ENOSPC | nix::libc::EDQUOT)
    )
}

/// What a checked batch adds to its segment's numbers.
fn noted(header: &BatchHeader) -> Noted {
    Noted {
        size: header.size as u64,
        last_offset: header.last_offset,
        max_timestamp: header.max_timestamp,
        has_producer: header.has_producer(),
    }
}

/// The numbers that an end hint carries.
pub fn tally_of(h: &EndHint) -> Tally {
    Tally {
        position: h.position,
        next_offset: h.end,
        max_timestamp: h.max_timestamp,
        max_timestamp_offset: h.base + i64::from(h.max_timestamp_relative),
        first_timestamp: h.first_timestamp,
        since_index_entry: u64::from(h.since_index_entry),
        has_producers: h.has_producers,
    }
}

fn first_header(log: &dyn File) -> std::io::Result<Option<BatchHeader>> {
    let mut bytes = [0; crate::format::frame::BATCH_HEADER_BYTES];
    let n = log.read_full_at(&mut bytes, 0)?;
    Ok(BatchHeader::parse(bytes.get(..n).unwrap_or_default()).ok())
}

/// Whether the batch that an index entry points to is there, sound, and ends at the entry's offset.
fn prove(
    log: &dyn File,
    entry: &OffsetEntry,
    base: Offset,
    limits: &Limits,
) -> std::io::Result<bool> {
    let mut head = [0; crate::format::frame::BATCH_HEADER_BYTES];
    let at = entry.position().0;
    let n = log.read_full_at(&mut head, at)?;
    let Ok(header) = BatchHeader::parse(head.get(..n).unwrap_or_default()) else {
        return Ok(false);
    };
    let inside = log.len()?.saturating_sub(at) >= header.size as u64;
    if !inside || header.size > limits.batch_bytes_max || header.last_offset != entry.offset(base) {
        return Ok(false);
    }
    let mut bytes = vec![0; header.size];
    log.read_exact_at(&mut bytes, at)?;
    Ok(Batch::check(&bytes).is_ok())
}
