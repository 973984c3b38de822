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
//! Zeros to the end of the active segment are not invalid: they were filled ahead. A cut takes the
//! indexes first and the log last, so no entry ever points past the end. Being killed at any point
//! leaves a directory from which the next run succeeds: the hint of the old boot stays until the
//! first append of the new one, and every step either removes what is behind P or does nothing.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry};
use crate::format::names::{Kind, State, file_name};
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::log::end::{End, EndHint};
use crate::log::listing::{LogDir, read_small};
use crate::log::lost::{Lost, LostFound};
use crate::segment::active::{ActiveSegment, INDEX_BYTES_MAX, Noted, Tally};
use crate::segment::scan::{Resync, Scan, Scanner, Span, Tail, is_zero, resync};
use crate::sys::{Access, Dir, File, Host};

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
    /// Bounds on what is read.
    pub limits: Limits,
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
    base: Offset,
    position: Position,
    /// Offset that was expected there.
    next: Offset,
    reason: String,
}

/// What [`Recovery::judge`] did about an invalid byte.
enum Verdict {
    /// The caller cuts the active segment there.
    Cut(Lost),
    /// Later segments were moved away; start over.
    Again(Vec<Lost>),
}

impl Recovery<'_> {
    /// Recovers the log.
    ///
    /// # Errors
    /// `Data` for corruption, naming file, offset, byte and reason; else what the system answers.
    pub fn run(&self) -> Result<Recovered> {
        let mut lost = Vec::new();
        loop {
            match self.pass(&mut lost)? {
                Some(active) => return Ok(Recovered { active, lost }),
                // Each round moved at least one segment away, so this ends.
                None => continue,
            }
        }
    }

    /// One pass; `None` if segments were moved away and everything is to be looked at again.
    fn pass(&self, lost: &mut Vec<Lost>) -> Result<Option<ActiveSegment>> {
        let bases = self.bases()?;
        let Some((&base, sealed)) = bases.split_last() else {
            return self.first_segment().map(Some);
        };
        let hint = self.hint_for(base)?;
        if hint.is_none() {
            let from = self.end.durable.unwrap_or(base);
            let first = sealed.partition_point(|b| *b <= from).saturating_sub(1);
            for (i, b) in sealed.iter().enumerate().skip(first) {
                let above = sealed.get(i + 1).copied().unwrap_or(base);
                if let Some(invalid) = self.check_sealed(*b, above, from)? {
                    let later: Vec<Offset> = bases.iter().copied().filter(|c| c > b).collect();
                    if let Verdict::Again(moved) = self.judge(&invalid, &later)? {
                        lost.extend(moved);
                    }
                    return Ok(None);
                }
            }
        }
        let mut active = self.open_active(base, hint.as_ref())?;
        if let Some(invalid) = self.check_active(&mut active, hint.is_some())?
            && let Verdict::Cut(cut) = self.judge(&invalid, &[])?
        {
            self.cut(&mut active, &cut)?;
            lost.push(cut);
        }
        self.check_durable(&active)?;
        Ok(Some(active))
    }

    /// Base offsets of the segments, ascending.
    fn bases(&self) -> Result<Vec<Offset>> {
        let segments = self.log.segments()?;
        if let Some(s) = segments.last().filter(|s| s.log.state != State::Plain) {
            let why = "the newest segment is an unfinished swap";
            return Err(Error::data(why)
                .at_path(self.log.path_of(&s.log_name()))
                .hint(format!("logd repair {}", self.log.dir().path().display())));
        }
        let plain = segments.iter().filter(|s| s.log.state == State::Plain);
        Ok(plain.map(|s| s.base()).collect())
    }

    /// The hint, if it speaks of this boot and of the file that is the active segment now.
    fn hint_for(&self, base: Offset) -> Result<Option<EndHint>> {
        let boot = self.host.boot_id();
        let Some(hint) = self
            .end
            .hint
            .filter(|h| boot != [0; 16] && h.boot_id == boot && h.base == base && h.inode != 0)
        else {
            return Ok(None);
        };
        let meta = self
            .log
            .dir()
            .stat(&file_name(base, Kind::Log))
            .map_err(|e| self.io(base, e))?;
        let same = meta.is_some_and(|m| m.id.ino == hint.inode && m.len >= hint.position.0);
        Ok(same.then_some(hint))
    }

    /// Makes the first segment of a log that has none, at the log start.
    fn first_segment(&self) -> Result<ActiveSegment> {
        let base = self.log.start_offset(&[])?;
        if self.end.durable.is_some_and(|d| d > base) {
            return Err(self.below_durable(base));
        }
        ActiveSegment::create(self.log.dir().as_ref(), base).map_err(|e| self.io(base, e))
    }

    /// Checks a sealed segment from where `from` lies in it to its end.
    fn check_sealed(&self, base: Offset, above: Offset, from: Offset) -> Result<Option<Invalid>> {
        let file = self.log.open_file(&file_name(base, Kind::Log))?;
        let start = self.proven_entry(base, file.as_ref(), from)?;
        let len = file.len().map_err(|e| self.io(base, e))?;
        let position = start.map_or(Position(0), |e| e.position());
        let span = Span {
            base,
            next: base,
            from: position,
            end: Position(len),
        };
        let mut scanner = Scanner::new(file, span, self.limits);
        if let Some(invalid) = self.run_scanner(&mut scanner, base, |_, _| ())? {
            return Ok(Some(invalid));
        }
        let (position, next) = (scanner.position(), scanner.next_offset());
        // A gap between segments is lawful, but above D and after a crash of the host it is what a lost
        // tail looks like: the next segment's name reached the disk and this one's pages did not.
        let durable = self.end.durable.unwrap_or(Offset::ZERO);
        let lost = next < above && above > durable && self.rebooted();
        let reason = match next > above {
            true => format!("the next segment begins at offset {above}, inside this one"),
            false => {
                format!("the next segment begins at offset {above}, and what was before it is gone")
            }
        };
        Ok((lost || next > above).then_some(Invalid {
            base,
            position,
            next,
            reason,
        }))
    }

    /// Opens the active segment, its numbers known up to the place where checking starts.
    fn open_active(&self, base: Offset, hint: Option<&EndHint>) -> Result<ActiveSegment> {
        let dir = self.log.dir().as_ref();
        let resumed = match hint {
            Some(h) => {
                let (i, t) = (u64::from(h.index_bytes), u64::from(h.time_index_bytes));
                ActiveSegment::resume(dir, base, tally_of(h), i, t)
            }
            None => self.resume_from_index(base),
        };
        match resumed.map_err(|e| self.io(base, e))? {
            Some(active) => Ok(active),
            None => ActiveSegment::reset(dir, base).map_err(|e| self.io(base, e)),
        }
    }

    /// Keeps the indexes up to the last entry that proves itself, not above D or the recovery point.
    fn resume_from_index(&self, base: Offset) -> std::io::Result<Option<ActiveSegment>> {
        let limit = self
            .end
            .durable
            .or(self.recovery_point.filter(|p| *p >= base));
        let file = self
            .log
            .dir()
            .open(&file_name(base, Kind::Log), Access::Read)?;
        let proven = self.proven_entry(base, file.as_ref(), limit.unwrap_or(Offset::MAX));
        let Ok(Some(entry)) = proven else {
            return Ok(None);
        };
        let Some(first) = first_header(file.as_ref())? else {
            return Ok(None);
        };
        let Some(times) = self.read_index(base, Kind::TimeIndex) else {
            return Ok(None);
        };
        let Some(offsets) = self.read_index(base, Kind::OffsetIndex) else {
            return Ok(None);
        };
        if index::check_times(&times, base).is_err() {
            return Ok(None);
        }
        let kept: Vec<TimeEntry> = index::entries(&times)
            .take_while(|t: &TimeEntry| t.relative <= entry.relative)
            .collect();
        let at = index::entries(&offsets).take_while(|e: &OffsetEntry| e.relative < entry.relative);
        let index_bytes = (at.count() + 1) * OffsetEntry::BYTES;
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
        let (i, t) = (index_bytes as u64, (kept.len() * TimeEntry::BYTES) as u64);
        ActiveSegment::resume(self.log.dir().as_ref(), base, tally, i, t)
    }

    /// The last index entry not above `limit` whose batch stands where it says, checksum and all.
    fn proven_entry(
        &self,
        base: Offset,
        log: &dyn File,
        limit: Offset,
    ) -> Result<Option<OffsetEntry>> {
        let Some(bytes) = self.read_index(base, Kind::OffsetIndex) else {
            return Ok(None);
        };
        let len = log.len().map_err(|e| self.io(base, e))?;
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
            let proves = prove(log, entry, base, &self.limits).map_err(|e| self.io(base, e))?;
            if proves {
                return Ok(Some(*entry));
            }
        }
        Ok(None)
    }

    fn read_index(&self, base: Offset, kind: Kind) -> Option<Vec<u8>> {
        let file = self.log.open_file(&file_name(base, kind)).ok()?;
        read_small(file.as_ref(), INDEX_BYTES_MAX as u64 + 64).ok()
    }

    /// Checks and counts the batches behind what is counted already.
    fn check_active(&self, active: &mut ActiveSegment, hinted: bool) -> Result<Option<Invalid>> {
        let base = active.base();
        let len = active.refresh_len().map_err(|e| self.io(base, e))?;
        let tally = *active.tally();
        if tally.position.0 == len {
            return Ok(None);
        }
        let file = self.log.open_file(&file_name(base, Kind::Log))?;
        let (next, from) = (tally.next_offset, tally.position);
        let span = Span {
            base,
            next,
            from,
            end: Position(len),
        };
        let mut scanner = Scanner::new(file.clone(), span, self.limits);
        let invalid =
            self.run_scanner(&mut scanner, base, |header, _| active.note(&noted(header)))?;
        if invalid.is_some() || hinted || scanner.position().0 >= len {
            return Ok(invalid);
        }
        // Zeros, then. In this boot the page cache is the truth and a zero length is the end; after
        // a crash of the host something may lie behind them.
        let (position, next) = (scanner.position(), active.tally().next_offset);
        let zero =
            is_zero(file.as_ref(), position, Position(len)).map_err(|e| self.place(base, e))?;
        let reason = "data behind zeros".to_string();
        Ok((!zero).then_some(Invalid {
            base,
            position,
            next,
            reason,
        }))
    }

    /// Feeds every batch to `note`; the first invalid byte, if there is one before the end.
    fn run_scanner(
        &self,
        scanner: &mut Scanner,
        base: Offset,
        mut note: impl FnMut(&BatchHeader, Position),
    ) -> Result<Option<Invalid>> {
        let reason = loop {
            match scanner.next().map_err(|e| self.place(base, e))? {
                Scan::Batch(batch, position) => note(batch.header(), position),
                Scan::End(end) if end.tail == Tail::Partial => break "batch cut short".to_string(),
                Scan::End(_) => return Ok(None),
                Scan::Bad(bad) => break bad.defect.reason,
            }
        };
        let (position, next) = (scanner.position(), scanner.next_offset());
        Ok(Some(Invalid {
            base,
            position,
            next,
            reason,
        }))
    }

    /// Decides by the table above; `later` are the segments after the one with the invalid byte.
    fn judge(&self, at: &Invalid, later: &[Offset]) -> Result<Verdict> {
        let file = self.log.open_file(&file_name(at.base, Kind::Log))?;
        let len = file.len().map_err(|e| self.io(at.base, e))?;
        let lost = Lost {
            segment: at.base,
            position: at.position,
            bytes: len.saturating_sub(at.position.0),
            offset: at.next,
            reason: at.reason.clone(),
        };
        let durable = self.end.durable.unwrap_or(Offset::ZERO);
        if at.next < durable {
            return Err(self.corrupt(at, format!("below the durable offset {durable}")));
        }
        let span = Span {
            base: at.base,
            next: at.next,
            from: at.position + 1,
            end: Position(len),
        };
        let found =
            resync(file.as_ref(), &span, &self.limits).map_err(|e| self.place(at.base, e))?;
        let torn = later.is_empty() && found == Resync::None;
        if torn && !self.rebooted() {
            return Ok(Verdict::Cut(lost));
        }
        if !self.rebooted() {
            return Err(self.corrupt(at, "valid data follows".to_string()));
        }
        let keep = LostFound::open(self.host, self.logd_dir)?;
        let mut moved = Vec::new();
        for base in later.iter().rev() {
            let gone = self.whole_segment(*base, &lost)?;
            keep.keep_segment(self.log.dir().as_ref(), &gone)?;
            moved.push(gone);
        }
        if !later.is_empty() {
            return Ok(Verdict::Again(moved));
        }
        match keep.keep_bytes(file.as_ref(), &lost) {
            // A torn tail was acknowledged to nobody; a full disk must not stop a log from opening.
            Err(e) if !torn || e.raw_os_error() != Some(nix::libc::ENOSPC) => Err(e),
            _ => Ok(Verdict::Cut(lost)),
        }
    }

    fn whole_segment(&self, base: Offset, cause: &Lost) -> Result<Lost> {
        let name = file_name(base, Kind::Log);
        let meta = self.log.dir().stat(&name).map_err(|e| self.io(base, e))?;
        Ok(Lost {
            segment: base,
            position: Position(0),
            bytes: meta.map_or(0, |m| m.len),
            offset: base,
            reason: format!(
                "offset {} before it is gone: {}",
                cause.offset, cause.reason
            ),
        })
    }

    /// Cuts the active segment: entries first, which were gathered up to the cut only, then the log.
    fn cut(&self, active: &mut ActiveSegment, lost: &Lost) -> Result<()> {
        active
            .flush()
            .and_then(|()| active.cut_tail())
            .map_err(|e| self.io(lost.segment, e))
    }

    /// The log must not end below what was promised.
    fn check_durable(&self, active: &ActiveSegment) -> Result<()> {
        let end = active.tally().next_offset;
        match self.end.durable {
            Some(d) if d > end => Err(self.below_durable(end)),
            _ => Ok(()),
        }
    }

    /// Whether the host rebooted since the last write that is on record.
    fn rebooted(&self) -> bool {
        self.end.rebooted(self.host.boot_id())
    }

    fn corrupt(&self, at: &Invalid, why: String) -> Error {
        Error::data(format!("{}, and {why}; nothing was changed", at.reason))
            .at_path(self.log.path_of(&file_name(at.base, Kind::Log)))
            .at_offset(at.next.0)
            .at_position(at.position.0)
            .hint(format!(
                "logd repair --dry-run {}",
                self.log.dir().path().display()
            ))
    }

    fn below_durable(&self, end: Offset) -> Error {
        let durable = self.end.durable.unwrap_or(Offset::ZERO);
        let why =
            format!("the log ends at offset {end}, but everything below {durable} was durable");
        Error::new(ErrorKind::Data, why)
            .at_path(self.log.dir().path())
            .hint(format!(
                "logd repair --dry-run {}",
                self.log.dir().path().display()
            ))
    }

    fn io(&self, base: Offset, e: std::io::Error) -> Error {
        self.place(base, Error::io("cannot recover", e))
    }

    fn place(&self, base: Offset, e: Error) -> Error {
        e.at_path(self.log.path_of(&file_name(base, Kind::Log)))
    }
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

/// Checks batches from the segment's start up to offset `end`; used to read back what a sync that
/// nobody saw the end of may have lost.
///
/// # Errors
/// `InvalidData` if a batch below `end` is not sound; else what the system answers.
pub fn read_back(file: Arc<dyn File>, base: Offset, end: Offset) -> std::io::Result<Offset> {
    let len = file.len()?;
    let mut scanner = Scanner::new(file, Span::whole(base, len), Limits::default());
    loop {
        let next = scanner.next_offset();
        if next >= end {
            return Ok(next);
        }
        let bad = |why: String| std::io::Error::new(std::io::ErrorKind::InvalidData, why);
        match scanner.next().map_err(|e| bad(e.to_string()))? {
            Scan::Batch(..) => {}
            Scan::End(_) => return Ok(next),
            Scan::Bad(b) => {
                return Err(bad(format!(
                    "segment {base}, byte {}: {}",
                    b.position, b.defect.reason
                )));
            }
        }
    }
}
