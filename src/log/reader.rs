//! Reads a log forward, batch by batch, beside any number of writers.
//!
//! Owns the walk over segments and the judgement of what is found in them. Takes no lock and writes
//! nothing. Invariants:
//!
//! * Only whole batches whose checksum holds are yielded, and offsets strictly increase, whatever
//!   compaction, retention or truncation do to the directory meanwhile.
//! * Nothing is skipped in silence. A stretch is left out only as damage ([`Event::Damage`]), as gone
//!   ([`Event::Gone`]), or because it is empty: gaps between offsets are normal after compaction.
//! * A file once opened is read to its end even if it has been replaced: older, never wrong.
//!
//! What stands where a batch should be and is none:
//!
//! | where | what | is |
//! |---|---|---|
//! | anywhere | zeros to the end of the file | a preallocated tail: the end of the segment |
//! | at the end of the active segment | anything else | not there yet: the end of this round |
//! | there, but below the durable offset or before a valid batch | | damage |
//! | in a sealed segment | anything but zeros to its end | damage |
//!
//! Damage is called so only after the bytes were read a second time: a writer may be at work on the
//! very page. What a writer cut off and wrote anew is found by offset, not by position.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::{Defect, Limits, Offset, Position};
use crate::log::end::{self, End};
use crate::log::files;
use crate::log::listing::{SegmentRef, end_of};
use crate::log::view::{View, scanner_at};
use crate::segment::scan::{Lent, Resync, Scanner, Span, Step, Tail, is_zero, lost, resync};
use crate::sys::Host;

/// How often in a row a segment may be gone when it is opened, or change under the reader.
const RETRIES_MAX: usize = 64;

/// What [`Reader::next`] yields.
#[derive(Debug)]
pub enum Event<'a> {
    /// A batch that holds wanted offsets.
    Batch(Piece<'a>),
    /// All that is to be had of this view was yielded.
    End,
    /// These offsets were removed by retention before they could be read; what follows lies behind.
    Gone(Range<Offset>),
    /// These offsets are lost to damage; what follows lies behind.
    Damage(Damage),
}

/// What [`Reader::advance`] found.
#[derive(Debug)]
pub enum Advance {
    /// A batch that holds wanted offsets.
    Batch,
    /// As [`Event::End`].
    End,
    /// As [`Event::Gone`].
    Gone(Range<Offset>),
    /// As [`Event::Damage`].
    Damage(Damage),
}

/// A batch and which of its offsets are wanted.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The batch, checked as a whole.
    pub batch: Batch<'a>,
    /// Only records with these offsets are wanted.
    pub wanted: Range<Offset>,
}

impl Piece<'_> {
    /// Whether every record of it is wanted.
    pub fn is_whole(&self) -> bool {
        let header = self.batch.header();
        header.base_offset >= self.wanted.start && header.last_offset < self.wanted.end
    }
}

/// A stretch of a segment that cannot be read.
#[derive(Clone, Debug)]
pub struct Damage {
    /// The segment's log file.
    pub path: PathBuf,
    /// Where the first bad entry begins.
    pub position: Position,
    /// What is wrong with it, counted in bytes from there.
    pub defect: Defect,
    /// The offsets that are lost, at most.
    pub lost: Range<Offset>,
}

impl Damage {
    /// The error that reading on would hide.
    pub fn error(&self) -> Error {
        let Range { start, end } = &self.lost;
        let what = match *end - *start {
            0 => format!("{}; no offset is lost", self.defect.reason),
            1 => format!("{}; offset {start} is lost", self.defect.reason),
            _ => format!("{}; offsets {start}..{end} are lost", self.defect.reason),
        };
        Error::data(what)
            .at_path(&self.path)
            .at_offset(start.0)
            .at_position(self.position.0.saturating_add(self.defect.at as u64))
    }
}

/// Choices of a read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Bounds of what is read.
    pub limits: Limits,
    /// Yield damage as an event and go on behind it, instead of failing.
    pub skip_corrupt: bool,
}

/// Reads one log forward.
pub struct Reader {
    host: Arc<dyn Host>,
    view: View,
    scanner: Option<Scanner>,
    at: At,
    /// Smallest offset still to be yielded.
    next: Offset,
    /// Smallest offset wanted of the batch found last.
    wanted_from: Offset,
    /// Where to stop (exclusive).
    until: Offset,
    options: ReadOptions,
    /// What is known of durability; read when it first matters in a round.
    end: Option<End>,
    /// Where the bytes were bad when they were read the first time.
    suspect: Option<(Offset, Position)>,
    /// Where, beyond that, something was found to prove that they should be good.
    accused: Option<(Offset, Position)>,
    retries: usize,
}

/// What [`Reader::refresh`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// The log is as it was.
    Nothing,
    /// There may be more to read.
    More,
    /// The log was cut back to before what was read last; there may be more to read behind that.
    CutBack,
}

/// The segment that the scanner stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// None yet: the one that holds `next` is to be opened.
    Start,
    Sealed(SegmentRef),
    Tail(SegmentRef),
}

enum Turn {
    Batch,
    End,
    Gone(Range<Offset>),
    Damage(Damage),
    Again,
}

impl Reader {
    /// A reader of `view` that yields the records with offsets from `wanted.start` up to
    /// `wanted.end`, as far as the view holds them.
    pub fn new(
        host: Arc<dyn Host>,
        view: View,
        wanted: Range<Offset>,
        options: ReadOptions,
    ) -> Reader {
        Reader {
            host,
            view,
            scanner: None,
            at: At::Start,
            next: wanted.start,
            wanted_from: wanted.start,
            until: wanted.end,
            options,
            end: None,
            suspect: None,
            accused: None,
            retries: 0,
        }
    }

    /// Smallest offset that may still be yielded.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// Where it stops (exclusive).
    pub fn until(&self) -> Offset {
        self.until
    }

    /// Sets where it stops.
    pub fn set_until(&mut self, until: Offset) {
        self.until = until;
    }

    /// The view it reads.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What comes next.
    ///
    /// # Errors
    /// `Data` for damage, with its place and what is lost, unless it is to be skipped; `NotFound` if
    /// the log is gone; else what reading may meet.
    #[allow(clippy::should_implement_trait)] // it lends from the window
    pub fn next(&mut self) -> Result<Event<'_>> {
        Ok(match self.advance()? {
            Advance::Batch => match self.piece() {
                Some(piece) => Event::Batch(piece),
                None => Event::End,
            },
            Advance::End => Event::End,
            Advance::Gone(range) => Event::Gone(range),
            Advance::Damage(damage) => Event::Damage(damage),
        })
    }

    /// As [`Reader::next`] without lending: the batch is had from [`Reader::piece`].
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn advance(&mut self) -> Result<Advance> {
        let turn = loop {
            if self.next >= self.until {
                return Ok(Advance::End);
            }
            match self.turn()? {
                Turn::Again => {}
                other => break other,
            }
        };
        Ok(match turn {
            Turn::Batch => {
                let header = self.scanner.as_ref().and_then(Scanner::header);
                let behind = header.map_or(self.next, |h| h.last_offset.next());
                self.wanted_from = std::mem::replace(&mut self.next, behind);
                Advance::Batch
            }
            Turn::Gone(range) => Advance::Gone(range),
            Turn::Damage(damage) if self.options.skip_corrupt => Advance::Damage(damage),
            Turn::Damage(damage) => return Err(damage.error()),
            Turn::End | Turn::Again => Advance::End,
        })
    }

    /// Header of the batch that [`Reader::advance`] found.
    pub fn header(&self) -> Option<&BatchHeader> {
        self.scanner.as_ref()?.header()
    }

    /// Where in its segment the batch begins that [`Reader::advance`] found.
    pub fn found_at(&self) -> Option<Position> {
        self.scanner.as_ref()?.found_at()
    }

    /// The batch that [`Reader::advance`] found.
    pub fn piece(&self) -> Option<Piece<'_>> {
        Some(Piece {
            batch: self.scanner.as_ref()?.batch()?,
            wanted: self.wanted_from..self.until,
        })
    }

    /// The batch that [`Reader::advance`] found, in memory that outlives the next call
    /// ([`Scanner::lend`]), and which of its offsets are wanted.
    pub fn lend(&self) -> Option<(Lent, Range<Offset>)> {
        Some((self.scanner.as_ref()?.lend()?, self.wanted_from..self.until))
    }

    /// Steps back before the batch that was found last, so that it is found again.
    pub fn unread(&mut self) {
        self.next = self.wanted_from;
        self.at = At::Start;
    }

    /// Leaves out what lies below `offset`.
    pub fn skip_to(&mut self, offset: Offset) {
        if offset <= self.next {
            return;
        }
        self.next = offset;
        if let At::Sealed(segment) = self.at
            && self.after(segment).is_some_and(|s| s.base() <= offset)
        {
            self.at = At::Start;
        }
    }

    /// The damage that a batch found last is whose records cannot be decoded: all of it is lost.
    pub fn condemn(&self, defect: Defect) -> Damage {
        let position = self.scanner.as_ref().and_then(Scanner::found_at);
        let path = match self.at {
            At::Sealed(segment) | At::Tail(segment) => self.view.path_of(&segment),
            At::Start => self.view.log().dir().path().to_path_buf(),
        };
        Damage {
            path,
            position: position.unwrap_or_default(),
            defect,
            lost: self.wanted_from..self.next,
        }
    }

    /// One step: opens a segment, passes a batch that is not wanted, or finds something to tell.
    fn turn(&mut self) -> Result<Turn> {
        let segment = match self.at {
            At::Start => return self.enter(),
            At::Sealed(segment) | At::Tail(segment) => segment,
        };
        let Some(scanner) = &mut self.scanner else {
            self.at = At::Start;
            return Ok(Turn::Again);
        };
        let step = scanner.step();
        match step.map_err(|e| e.at_path(self.view.path_of(&segment)))? {
            Step::Batch(_) => Ok(self.found()),
            Step::End(end) => match end.tail {
                Tail::Clean => self.leave(segment),
                Tail::Zeros if is_zero(&**scanner.file(), end.position, scanner.end())? => {
                    self.leave(segment)
                }
                Tail::Zeros => self.suspicious(
                    end.position,
                    Defect::new(8, "batch length 0 before more data"),
                ),
                Tail::Partial => {
                    self.suspicious(end.position, Defect::new(0, "the file ends inside a batch"))
                }
            },
            Step::Bad(bad) => self.suspicious(bad.position, bad.defect),
        }
    }

    /// Judges a valid batch.
    fn found(&mut self) -> Turn {
        let Some(header) = self.scanner.as_ref().and_then(Scanner::header) else {
            return Turn::Again;
        };
        if header.last_offset < self.next {
            return Turn::Again;
        }
        (self.suspect, self.accused, self.retries) = (None, None, 0);
        // A compacted segment may reach beyond what was the active one's base; that one is held open
        // and is read from its file.
        if let (At::Sealed(_), Some(tail)) = (self.at, self.view.tail())
            && header.base_offset >= tail.segment.base()
        {
            self.at = At::Start;
            self.next = self.next.max(tail.segment.base());
            return Turn::Again;
        }
        let (base, at) = (
            header.base_offset,
            self.scanner.as_ref().and_then(Scanner::found_at),
        );
        if base < self.until {
            return Turn::Batch;
        }
        // The bound may be moved: this batch is still to come then.
        if let (Some(scanner), Some(at)) = (&mut self.scanner, at) {
            scanner.seek(at, base);
        }
        Turn::End
    }

    /// Opens the segment that holds `next`.
    fn enter(&mut self) -> Result<Turn> {
        if self.next < self.view.start() {
            let gone = self.next..self.view.start();
            self.next = self.view.start();
            return Ok(Turn::Gone(gone));
        }
        let Some(tail) = self.view.tail() else {
            return Ok(Turn::End);
        };
        let is_sealed = self.next < tail.segment.base();
        match self.view.sealed_at(self.next) {
            Some(segment) if is_sealed => self.enter_sealed(segment),
            _ => self.enter_tail(),
        }
    }

    fn enter_tail(&mut self) -> Result<Turn> {
        let Some(tail) = self.view.tail().cloned() else {
            return Ok(Turn::End);
        };
        let span = Span::whole(tail.segment.base(), tail.end.0);
        self.open(&tail.segment, tail.file, span)?;
        self.at = At::Tail(tail.segment);
        Ok(Turn::Again)
    }

    fn enter_sealed(&mut self, segment: SegmentRef) -> Result<Turn> {
        let file = match self.view.log().open_file(&segment.log_name()) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound && self.retry() => {
                self.view.relist()?;
                self.at = At::Start;
                return Ok(Turn::Again);
            }
            Err(e) => return Err(e),
        };
        let end = end_of(&*file).map_err(|e| e.at_path(self.view.path_of(&segment)))?;
        self.open(&segment, file, Span::whole(segment.base(), end.0))?;
        self.at = At::Sealed(segment);
        Ok(Turn::Again)
    }

    fn open(
        &mut self,
        segment: &SegmentRef,
        file: Arc<dyn crate::sys::File>,
        span: Span,
    ) -> Result<()> {
        let scanner = match &mut self.scanner {
            Some(scanner) => {
                scanner.reopen(file, span);
                scanner
            }
            none => none.insert(Scanner::new(file, span, self.options.limits)),
        };
        scanner_at(&self.view, scanner, segment, self.next)
            .map_err(|e| e.at_path(self.view.path_of(segment)))
    }

    /// Goes on behind the end of a segment.
    fn leave(&mut self, segment: SegmentRef) -> Result<Turn> {
        if let At::Tail(_) = self.at {
            return Ok(Turn::End);
        }
        let end = self
            .scanner
            .as_ref()
            .map_or(self.next, Scanner::next_offset);
        if self.after(segment).is_some_and(|s| s.base() < end) {
            self.view.relist()?; // a replacement may have removed the one we were to read
        }
        let Some(after) = self.after(segment) else {
            return Ok(Turn::End);
        };
        self.next = self.next.max(after.base());
        match self.view.sealed_after(segment.base()) {
            Some(_) => self.enter_sealed(after)?,
            None => self.enter_tail()?,
        };
        Ok(match after.base() < end {
            true => Turn::Damage(self.overlap(segment, after, end)),
            false => Turn::Again,
        })
    }

    /// The segment behind this one.
    fn after(&self, segment: SegmentRef) -> Option<SegmentRef> {
        let sealed = self.view.sealed_after(segment.base());
        sealed.or(self.view.tail().map(|t| t.segment))
    }

    /// A segment that begins below the end of the one before it. What it holds beyond that end can
    /// be read.
    fn overlap(&self, before: SegmentRef, segment: SegmentRef, end: Offset) -> Damage {
        let why = format!(
            "its base offset lies below {end}, the end of {}",
            before.log_name()
        );
        Damage {
            path: self.view.path_of(&segment),
            position: Position(0),
            defect: Defect::new(0, why),
            lost: lost(end, end),
        }
    }

    /// Bytes that are no batch: looks again, from the directory on, then judges.
    fn suspicious(&mut self, position: Position, defect: Defect) -> Result<Turn> {
        let place = (self.next, position);
        if self.suspect != Some(place) && self.retry() {
            self.suspect = Some(place);
            self.at = At::Start;
            return Ok(Turn::Again);
        }
        let Some(scanner) = &self.scanner else {
            return Ok(Turn::End);
        };
        let span = Span {
            base: scanner.base(),
            next: scanner.next_offset(),
            from: position + 1,
            end: scanner.end(),
        };
        let expected = span.next.max(self.next);
        let behind = resync(&**scanner.file(), &span, &self.options.limits)?;
        let (segment, is_tail) = match self.at {
            At::Tail(segment) => (segment, true),
            At::Sealed(segment) => (segment, false),
            At::Start => return Ok(Turn::End),
        };
        if is_tail && behind == Resync::None {
            // Asked in this order: what is durable was written before, so a file that has not grown
            // since its length was taken lacks it.
            let (file, end) = (Arc::clone(scanner.file()), scanner.end());
            let is_durable = expected < self.durable()?;
            if !is_durable || end_of(&*file)? > end {
                return Ok(Turn::End);
            }
        }
        // The bytes were read before the proof was. In between an appender may have cut a torn batch and
        // written good ones in its place, so they are read once more after it.
        if self.accused != Some(place) && self.retry() {
            self.accused = Some(place);
            self.at = At::Start;
            return Ok(Turn::Again);
        }
        self.accused = None;
        let resume = match behind {
            Resync::Found(_, offset) => offset,
            _ => self.behind(segment)?.max(expected),
        };
        let damage = Damage {
            path: self.view.path_of(&segment),
            position,
            defect,
            lost: lost(expected, resume),
        };
        let unwanted = span.next < self.next && resume <= self.next;
        self.step_over(behind, segment, resume)?;
        Ok(match unwanted {
            true => Turn::Again, // all of it lies before what is to be read
            false => Turn::Damage(damage),
        })
    }

    /// The first offset behind a segment whose rest cannot be read.
    fn behind(&mut self, segment: SegmentRef) -> Result<Offset> {
        if let At::Tail(_) = self.at {
            return self.durable();
        }
        let next = self.view.sealed_after(segment.base()).map(|s| s.base());
        let tail = self.view.tail().map(|t| t.segment.base());
        Ok(next.or(tail).unwrap_or(Offset::ZERO))
    }

    /// Goes on behind damage.
    fn step_over(&mut self, behind: Resync, segment: SegmentRef, resume: Offset) -> Result<()> {
        self.suspect = None;
        self.next = self.next.max(resume);
        match (behind, self.at, &mut self.scanner) {
            (Resync::Found(position, offset), _, Some(scanner)) => scanner.seek(position, offset),
            (_, At::Tail(_), Some(scanner)) => scanner.seek(scanner.end(), resume),
            _ => {
                self.leave(segment)?;
            }
        }
        Ok(())
    }

    /// The durable offset, below which everything must be there; 0 if none is known.
    fn durable(&mut self) -> Result<Offset> {
        Ok(self.end()?.durable.unwrap_or(Offset::ZERO))
    }

    fn end(&mut self) -> Result<End> {
        if let Some(end) = self.end {
            return Ok(end);
        }
        let end = read_end(&self.view)?;
        self.end = Some(end);
        Ok(end)
    }

    fn retry(&mut self) -> bool {
        self.retries += 1;
        self.retries < RETRIES_MAX
    }

    /// Looks for what was appended, rolled, replaced or cut since the view was taken.
    ///
    /// The successor of a segment is only looked for when the segment itself has not grown, and then
    /// the segment is looked at once more: what was appended before the roll comes first.
    ///
    /// `was_written` says that a file was written to: then what is no batch yet at the end is read
    /// again even if the length is the same, as a writer may fill a preallocated tail.
    ///
    /// # Errors
    /// `NotFound` if the directory is gone; else what listing and opening may meet.
    pub fn refresh(&mut self, was_written: bool) -> Result<Refresh> {
        (self.end, self.suspect, self.accused, self.retries) = (None, None, None, 0);
        if self.view.extend()? {
            return Ok(self.adopt_end());
        }
        if let (true, At::Tail(_), Some(scanner)) = (was_written, self.at, &mut self.scanner)
            && scanner.position() < scanner.end()
        {
            scanner.extend(scanner.end());
            return Ok(Refresh::More);
        }
        let log = self.view.log();
        let gone = |e| Error::io("cannot look for the log", e).at_path(log.dir().path());
        if !log.dir().is_current().map_err(gone)? {
            return Err(Error::not_found("the log was moved or removed").at_path(log.dir().path()));
        }
        let segments = log.segments()?;
        if !self.is_outdated(&segments)? {
            return Ok(Refresh::Nothing);
        }
        if self.view.extend()? {
            return Ok(self.adopt_end());
        }
        self.view.renew()?;
        self.at = At::Start;
        Ok(Refresh::More)
    }

    /// Makes the scanner see the tail's new end.
    fn adopt_end(&mut self) -> Refresh {
        let (At::Tail(_), Some(tail), Some(scanner)) =
            (self.at, self.view.tail(), &mut self.scanner)
        else {
            return Refresh::More;
        };
        let cut = tail.end < scanner.position();
        scanner.extend(tail.end);
        if cut {
            self.at = At::Start;
            return Refresh::CutBack;
        }
        Refresh::More
    }

    /// Whether the last segment of a fresh listing is another than the view's tail.
    fn is_outdated(&self, segments: &[SegmentRef]) -> Result<bool> {
        let (Some(last), Some(tail)) = (segments.last(), self.view.tail()) else {
            return Ok(segments.is_empty() != self.view.tail().is_none());
        };
        if *last != tail.segment {
            return Ok(true);
        }
        let place = |e| Error::io("cannot stat", e).at_path(self.view.path_of(last));
        let named = self
            .view
            .log()
            .dir()
            .id_of(&last.log_name())
            .map_err(place)?;
        let held = tail.file.id().map_err(place)?;
        Ok(named != Some(held))
    }

    /// Whether the view ended at bytes that are no batch although nobody can be writing them: the
    /// host has rebooted since the last append. Gives the place, for a warning.
    ///
    /// # Errors
    /// The file that tells of the last append cannot be read.
    pub fn torn_tail(&mut self) -> Result<Option<(PathBuf, Position)>> {
        let (Some((_, position)), At::Tail(segment)) = (self.suspect, self.at) else {
            return Ok(None);
        };
        let boot = self.host.boot_id();
        let rebooted = self.end()?.hint.is_some_and(|h| h.boot_id != boot);
        Ok(rebooted.then(|| (self.view.path_of(&segment), position)))
    }
}

/// What `.logd/end` says of a log; nothing if there is none, or it may not be read.
///
/// # Errors
/// The disk fails.
pub fn read_end(view: &View) -> Result<End> {
    let dir = view.log().dir();
    let read = dir.open_dir(files::LOGD_DIR).and_then(|d| end::read(&*d));
    match read {
        Ok(end) => Ok(end),
        Err(e) => match Error::io("cannot read", e).at_path(view.log().path_of(files::LOGD_DIR)) {
            e if e.kind() == ErrorKind::Io && e.raw_os_error() == Some(nix::libc::EIO) => Err(e),
            _ => Ok(End::default()),
        },
    }
}

#[cfg(test)]
mod tests;
