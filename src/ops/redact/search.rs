//! Finding what is to go, and writing batches without it.

use std::collections::HashSet;
use std::ops::{AddAssign, Range};

use super::mask::{Action, Change};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::plain::Plain;
use crate::format::record::{Header, NewRecord, Record};
use crate::format::rewrite::Rewriter;
use crate::format::{Defect, Limits, Offset, Position};
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::ops::grep::column::Cells;
use crate::ops::grep::{Finder, Query};
use crate::segment::scan::{Scanner, Span, Step, Tail, is_zero};
use crate::sys::File;

/// Called with bytes that were read or written.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

/// The header that tells which redaction a record was changed by.
pub const HEADER: &str = "redacted";

/// Which records are meant: those that meet every criterion that there is.
pub(super) struct Criteria {
    /// One of these keys.
    pub(super) keys: HashSet<Vec<u8>>,
    /// This pattern in this field.
    pub(super) query: Option<Query>,
    /// In one of these ranges.
    pub(super) offsets: Vec<Range<Offset>>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Records that hold what is to go.
    pub(super) hits: u64,
    /// Records in which the pattern is found where nothing is to go, or the field cannot be told.
    pub(super) outside: u64,
    /// Records that this redaction has changed.
    pub(super) marked: u64,
    /// The first of `hits` and `outside`.
    pub(super) first: Option<Offset>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.hits += other.hits;
        self.outside += other.outside;
        self.marked += other.marked;
        self.first = self.first.or(other.first);
    }
}

/// Looks for records and writes them as they are to be. Its memory is that of a batch.
pub(super) struct Searcher<'a> {
    criteria: Criteria,
    action: &'a Action,
    /// Id of the redaction, the value of [`HEADER`].
    id: String,
    finder: Option<Finder>,
    cells: Cells,
    scratch: Scratch,
    open: Vec<u8>,
    rewriter: Rewriter,
    limits: Limits,
    /// Called with bytes read or written.
    pace: Pace<'a>,
}

impl<'a> Searcher<'a> {
    pub(super) fn new(
        criteria: Criteria,
        action: &'a Action,
        id: &str,
        pace: Pace<'a>,
    ) -> Searcher<'a> {
        Searcher {
            finder: criteria.query.as_ref().map(Finder::new),
            criteria,
            action,
            id: id.to_string(),
            cells: Cells::new(),
            scratch: Scratch::new(),
            open: Vec::new(),
            rewriter: Rewriter::default(),
            limits: Limits::default(),
            pace,
        }
    }

    /// Tells that so many bytes were read or written.
    ///
    /// # Errors
    /// Whatever whoever asked for it wants the work to end with.
    pub(super) fn moved(&mut self, bytes: usize) -> Result<()> {
        (self.pace)(bytes as u64)
    }

    /// Whether the record is meant.
    fn takes(&mut self, record: &Record<'_>) -> bool {
        let c = &self.criteria;
        let key = |keys: &HashSet<Vec<u8>>| record.key.is_some_and(|k| keys.contains(k));
        let inside = |all: &[Range<Offset>]| all.iter().any(|r| r.contains(&record.offset));
        let pattern = match (&c.query, &mut self.finder) {
            (Some(query), Some(finder)) => finder.matches_any(query, record),
            _ => true,
        };
        pattern
            && (c.keys.is_empty() || key(&c.keys))
            && (c.offsets.is_empty() || inside(&c.offsets))
    }

    /// Whether a look at the records can be spared: none has one of the keys, and none was changed.
    fn is_free(&self, body: &[u8]) -> bool {
        let has = |needle: &[u8]| memchr::memmem::find(body, needle).is_some();
        let keys = &self.criteria.keys;
        !keys.is_empty() && !keys.iter().any(|k| has(k)) && !has(self.id.as_bytes())
    }

    /// Searches a batch.
    ///
    /// # Errors
    /// A defect if it cannot be decoded.
    pub(super) fn batch(&mut self, batch: &Batch<'_>) -> std::result::Result<Tally, Defect> {
        let mut tally = Tally::default();
        if batch.header().is_control() {
            return Ok(tally);
        }
        let mut open = std::mem::take(&mut self.open);
        let plain = Plain::open(batch, &mut self.scratch, &self.limits, &mut open)?;
        if !self.is_free(plain.body()) {
            for record in plain.records() {
                self.count(&record?, &mut tally);
            }
        }
        self.open = open;
        Ok(tally)
    }

    fn count(&mut self, record: &Record<'_>, tally: &mut Tally) {
        let id = self.id.as_bytes();
        let mine = |(name, value): Header<'_>| name == HEADER.as_bytes() && value == Some(id);
        tally.marked += u64::from(record.headers.iter().any(mine));
        if !self.takes(record) {
            return;
        }
        if self.action.change(record, &mut self.cells).is_some() {
            tally.hits += 1;
        } else if self.is_outside() || self.action.is_blind(record, &mut self.cells) {
            tally.outside += 1;
        } else {
            return;
        }
        tally.first.get_or_insert(record.offset);
    }

    /// Whether a record that is still meant, but holds nothing that is to go, is worth a word.
    fn is_outside(&self) -> bool {
        let query = self.criteria.query.as_ref();
        query.is_some_and(|q| self.action.touches(&q.field))
    }

    /// Appends `batch` to `out` as it is to be, and returns its header.
    ///
    /// # Errors
    /// A defect if it cannot be decoded, or would be too large.
    pub(super) fn rewrite(
        &mut self,
        batch: &Batch<'_>,
        out: &mut Vec<u8>,
    ) -> std::result::Result<BatchHeader, Defect> {
        let mut open = std::mem::take(&mut self.open);
        let plain = Plain::open(batch, &mut self.scratch, &self.limits, &mut open)?;
        let mut rewriter = std::mem::take(&mut self.rewriter);
        let header = batch.header();
        let base = plain.header().base_offset;
        let mut new = rewriter.begin(header, base, header.delete_horizon());
        for record in plain.records() {
            let record = record?;
            let meant = self.takes(&record);
            match meant.then(|| self.action.change(&record, &mut self.cells)) {
                None | Some(None) => new.push(&record)?,
                Some(Some(Change::Gone)) => {}
                Some(Some(Change::Parts(mut parts))) => {
                    parts
                        .headers
                        .push((HEADER.as_bytes(), Some(self.id.as_bytes())));
                    let changed = NewRecord {
                        key: parts.key,
                        value: parts.value.as_deref(),
                        headers: &parts.headers,
                    };
                    new.push_as(record.offset, record.timestamp, &changed)?;
                }
            }
        }
        let header = new.finish(out)?;
        self.rewriter = rewriter;
        self.open = open;
        Ok(header)
    }

    /// Searches a segment of a log, up to the offset `until`.
    ///
    /// # Errors
    /// As [`each_batch`].
    pub(super) fn segment(
        &mut self,
        log: &LogDir,
        segment: &SegmentRef,
        until: Offset,
    ) -> Result<Tally> {
        let mut tally = Tally::default();
        each_batch(log, segment, until, &mut |batch, at| {
            let found = self.batch(batch);
            tally += found.map_err(|d| defect(&d, batch.header(), at))?;
            self.moved(batch.bytes().len())
        })?;
        Ok(tally)
    }

    /// Searches a file of batches that need not follow each other; `None` if there are bytes in it
    /// that are no batch and so cannot be searched.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn loose(&mut self, file: std::sync::Arc<dyn File>) -> Result<Option<Tally>> {
        let end = end_of(&*file)?;
        let mut tally = Tally::default();
        let mut at = Position(0);
        loop {
            // Each entry for itself: neither order nor distance counts.
            let base = base_at(&*file, at)?;
            let span = Span {
                from: at,
                ..Span::whole(base, end.0)
            };
            let mut scanner = Scanner::short(file.clone(), span, self.limits);
            match scanner.step()? {
                Step::Batch(_) => {}
                Step::End(_) if is_zero(&*file, at, end)? => return Ok(Some(tally)),
                Step::End(_) | Step::Bad(_) => return Ok(None),
            }
            match scanner.batch().map(|batch| self.batch(&batch)) {
                Some(Ok(found)) => tally += found,
                Some(Err(_)) | None => return Ok(None),
            }
            at = scanner.position();
        }
    }
}

/// The offset that the entry at `at` says it begins at.
fn base_at(file: &dyn File, at: Position) -> Result<Offset> {
    let mut bytes = [0; 8];
    let n = file.read_full_at(&mut bytes, at.0);
    n.map_err(|e| Error::io("cannot read", e))?;
    Ok(Offset(i64::from_be_bytes(bytes)))
}

/// Hands out every batch of a segment below the offset `until`, and where it lies.
///
/// # Errors
/// `Data` for anything but sound batches, and zeros behind them; what `each` answers; else what the
/// system answers. All name the file.
pub(super) fn each_batch(
    log: &LogDir,
    segment: &SegmentRef,
    until: Offset,
    each: &mut dyn FnMut(&Batch<'_>, Position) -> Result<()>,
) -> Result<()> {
    let name = segment.log_name();
    let file = log.open_file(&name)?;
    let mut work = || -> Result<()> {
        let end = end_of(&*file)?;
        let span = Span::whole(segment.base(), end.0);
        let mut scanner = Scanner::new(file.clone(), span, Limits::default());
        while scanner.next_offset() < until {
            match scanner.step()? {
                Step::Batch(at) => {
                    if let Some(batch) = scanner.batch() {
                        each(&batch, at)?;
                    }
                }
                Step::End(e) if e.tail == Tail::Clean => break,
                Step::End(e) if e.tail == Tail::Zeros && is_zero(&*file, e.position, end)? => break,
                Step::End(e) => {
                    let why = "the data ends before the file";
                    return Err(Error::data(why).at_position(e.position.0));
                }
                Step::Bad(bad) => {
                    let at = bad.position.0 + bad.defect.at as u64;
                    let e = Error::data(bad.defect.reason).at_offset(scanner.next_offset().0);
                    return Err(e.at_position(at));
                }
            }
        }
        Ok(())
    };
    work().map_err(|e| e.at_path(log.path_of(&name)))
}

/// A defect in a batch, as an error.
pub(super) fn defect(d: &Defect, header: &BatchHeader, at: Position) -> Error {
    let error = Error::data(d.reason.clone()).at_offset(header.base_offset.0);
    error.at_position(at.0 + d.at as u64)
}
