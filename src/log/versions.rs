//! The batches of a log that may hold one of some values, newest first.
//!
//! What a [`Reverse`] reader yields, but for batches that cannot hold any of them: in a sealed segment
//! with a sound index only its candidates are read, every other stretch is read whole, and so is a
//! segment whose index turns out to be damaged. So with any indexes, or none, the same records are met
//! in the same order; which of a batch's records has the value is the caller's to see. However many
//! values are looked for, nothing is read twice; of a value that was found the caller may say that no
//! more is wanted ([`Versions::forget`]).
//!
//! Of transactions it shows what the isolation level allows, as [`Reverse`] does: nothing from the
//! first open one on, which is looked for once, and no batch of an aborted one.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::lookup::Candidates;
use crate::format::{Defect, Offset, Position};
use crate::log::isolation::{Isolation, OpenTransaction, Scout, open_before};
use crate::log::keys::{Found, Keys, Open};
use crate::log::listing::SegmentRef;
use crate::log::reader::{Advance, Damage, Piece, ReadOptions};
use crate::log::reverse::Reverse;
use crate::log::view::View;
use crate::segment::scan::{Scanner, Span, Step};
use crate::sys::Host;

/// How often in a row a segment may be gone when it is opened.
const RETRIES_MAX: usize = 64;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Sought<'a, 's> {
    /// The word of the field, as `index --by` takes it.
    pub field: &'a str,
    /// Its values.
    pub values: &'s [&'a [u8]],
}

/// Reads the batches that may hold one of some values, newest first.
pub struct Versions<'a> {
    host: Arc<dyn Host>,
    view: View,
    keys: Keys,
    field: &'a str,
    values: Vec<&'a [u8]>,
    isolation: Isolation,
    options: ReadOptions,
    /// Only offsets in here are still to come.
    wanted: Range<Offset>,
    /// What is wanted of the candidate found last.
    found: Range<Offset>,
    open: Option<OpenTransaction>,
    at: At<'a>,
    /// What was wrong with indexes that were not used.
    damaged: Vec<Error>,
    has_begun: bool,
    retries: usize,
}

/// A segment, and the index that covers it.
type Covered = (SegmentRef, Box<Open>);

enum At<'a> {
    /// Between segments.
    Between,
    /// In a stretch that is read whole.
    Scan(Box<Reverse>, Offset),
    /// In a segment with an index.
    Indexed(Box<Indexed<'a>>),
}

struct Indexed<'a> {
    segment: SegmentRef,
    index: Box<Open>,
    searches: Vec<Search<'a>>,
    scanner: Scanner,
}

/// The search for one value in an index, and the candidate that it has next.
struct Search<'a> {
    value: &'a [u8],
    candidates: Candidates,
    next: Option<Position>,
}

impl<'a> Versions<'a> {
    /// A reader of `view` that yields batches which may hold what is `sought`, with records whose
    /// offsets are in `wanted`, newest first.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn new(
        host: Arc<dyn Host>,
        view: View,
        sought: Sought<'a, '_>,
        wanted: Range<Offset>,
        isolation: Isolation,
        options: ReadOptions,
    ) -> Result<Versions<'a>> {
        Ok(Versions {
            keys: Keys::of(view.log())?,
            host,
            view,
            field: sought.field,
            values: sought.values.to_vec(),
            isolation,
            options,
            found: wanted.clone(),
            wanted,
            open: None,
            at: At::Between,
            damaged: Vec::new(),
            has_begun: false,
            retries: 0,
        })
    }

    /// The open transaction before which the read began.
    pub fn open(&self) -> Option<OpenTransaction> {
        self.open
    }

    /// What was wrong with indexes that could not be used.
    pub fn take_damaged(&mut self) -> Vec<Error> {
        std::mem::take(&mut self.damaged)
    }

    /// No more of this value is wanted.
    pub fn forget(&mut self, value: &[u8]) {
        self.values.retain(|v| *v != value);
        if let At::Indexed(indexed) = &mut self.at {
            indexed.searches.retain(|s| s.value != value);
        }
    }

    /// The batch that [`Versions::advance`] found.
    pub fn piece(&self) -> Option<Piece<'_>> {
        match &self.at {
            At::Between => None,
            At::Scan(reverse, _) => reverse.piece(),
            At::Indexed(indexed) => Some(Piece {
                batch: indexed.scanner.batch()?,
                wanted: self.found.clone(),
            }),
        }
    }

    /// The damage that a batch found last is whose records cannot be decoded.
    pub fn condemn(&self, defect: Defect) -> Damage {
        match &self.at {
            At::Scan(reverse, _) => reverse.condemn(defect),
            At::Indexed(indexed) => {
                let header = indexed.scanner.header();
                let lost = header.map(|h| h.base_offset..h.last_offset.next());
                Damage {
                    path: self.view.path_of(&indexed.segment),
                    position: indexed.scanner.found_at().unwrap_or_default(),
                    defect,
                    lost: lost.unwrap_or(self.wanted.clone()),
                }
            }
            At::Between => Damage {
                path: self.view.log().dir().path().to_path_buf(),
                position: Default::default(),
                defect,
                lost: self.wanted.clone(),
            },
        }
    }

    /// What comes next, going back.
    ///
    /// # Errors
    /// As [`Reader::advance`](super::reader::Reader::advance).
    pub fn advance(&mut self) -> Result<Advance> {
        if !std::mem::replace(&mut self.has_begun, true) && self.isolation == Isolation::Committed {
            self.stop_before_open()?;
        }
        loop {
            let step = match &mut self.at {
                At::Between => self.enter()?,
                At::Scan(reverse, from) => match reverse.advance()? {
                    Advance::End => {
                        self.wanted.end = self.wanted.end.min(*from);
                        self.at = At::Between;
                        None
                    }
                    other => Some(other),
                },
                At::Indexed(_) => self.candidate()?,
            };
            if let Some(advance) = step {
                return Ok(advance);
            }
        }
    }

    /// Smallest offset that is wanted and there.
    fn floor(&self) -> Offset {
        self.wanted.start.max(self.view.start())
    }

    /// Takes the first open transaction as the end of the read.
    fn stop_before_open(&mut self) -> Result<()> {
        let limits = self.options.limits;
        let until = self.wanted.end;
        let last = Offset(until.0.saturating_sub(1));
        for open in open_before(&self.view, until, &limits)? {
            if open.offset < self.wanted.end && self.outcome(open.producer_id, last)?.is_none() {
                self.wanted.end = open.offset.max(self.wanted.start);
                self.open = Some(open);
            }
        }
        Ok(())
    }

    /// How the transaction ended that `id` had open at `after`.
    fn outcome(&self, id: i64, after: Offset) -> Result<Option<bool>> {
        let (host, view) = (Arc::clone(&self.host), self.view.clone());
        Scout::new(host, view, after, self.options.limits).outcome(id, after)
    }

    /// Opens what holds the offsets below `wanted.end`.
    fn enter(&mut self) -> Result<Option<Advance>> {
        let floor = self.floor();
        if self.wanted.end <= floor {
            let (wanted, start) = (self.wanted.start, self.view.start());
            self.wanted.end = wanted;
            return Ok(Some(match wanted < start {
                true => Advance::Gone(wanted..start),
                false => Advance::End,
            }));
        }
        match self.stretch(floor) {
            Ok((from, None)) => self.scan(from),
            Ok((from, Some(_))) if from < self.wanted.end => self.scan(from),
            Ok((_, Some((segment, index)))) => self.look_up(segment, index)?,
            Err(e) if e.kind() == ErrorKind::NotFound && self.retries < RETRIES_MAX => {
                self.retries += 1;
                self.view.relist()?;
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        self.retries = 0;
        Ok(None)
    }

    /// How far down from `wanted.end` nothing is indexed: to the smallest offset of that stretch, and
    /// the segment with an index before it.
    fn stretch(&mut self, floor: Offset) -> Result<(Offset, Option<Covered>)> {
        let mut from = self.wanted.end;
        if self.keys.is_absent() {
            return Ok((self.wanted.start, None));
        }
        // The newest part first, before anybody asks for indexes of what is older.
        if let Some(tail) = self.view.tail().filter(|t| from > t.segment.base()) {
            let base = tail.segment.base();
            if tail.end > Position(0) {
                return Ok((base, None));
            }
            from = base;
            self.wanted.end = base;
        }
        while from > floor {
            let below = self.view.sealed_at(Offset(from.0.saturating_sub(1)));
            let Some(segment) = below.filter(|s| s.base() < from) else {
                break;
            };
            match self.keys.find(self.view.log(), &segment, self.field)? {
                Found::Sound(index) if index.header().has_table => {
                    return Ok((from, Some((segment, index))));
                }
                Found::Sound(_) | Found::Nothing => {}
                Found::Damaged(e) => self.damaged.push(e),
            }
            from = segment.base();
        }
        Ok((self.wanted.start.min(from), None))
    }

    /// Reads everything from `from` up to `wanted.end`.
    fn scan(&mut self, from: Offset) {
        let from = from.max(self.wanted.start);
        let reverse = Reverse::new(
            Arc::clone(&self.host),
            self.view.clone(),
            from..self.wanted.end,
            self.isolation,
            self.options.clone(),
        );
        self.at = At::Scan(Box::new(reverse), from);
    }

    /// Begins to read the candidates of a segment.
    fn look_up(&mut self, segment: SegmentRef, index: Box<Open>) -> Result<()> {
        let searches = self.values.iter().map(|v| Search::begin(&index, v));
        match searches.collect::<Result<Vec<_>>>() {
            Ok(searches) => {
                let span = Span::whole(segment.base(), index.header().cover.end.0);
                let file = Arc::clone(index.file());
                let scanner = Scanner::short(file, span, self.options.limits);
                self.at = At::Indexed(Box::new(Indexed {
                    segment,
                    index,
                    searches,
                    scanner,
                }));
            }
            Err(e) => self.give_up(segment.base(), e),
        }
        Ok(())
    }

    /// Reads the rest of a segment whole, as its index is damaged.
    fn give_up(&mut self, base: Offset, why: Error) {
        self.damaged.push(why);
        self.scan(base);
    }

    /// The next candidate that is to be shown.
    fn candidate(&mut self) -> Result<Option<Advance>> {
        let (floor, end) = (self.floor(), self.wanted.end);
        let At::Indexed(indexed) = &mut self.at else {
            return Ok(None);
        };
        let base = indexed.segment.base();
        let header = match indexed.next() {
            Ok(Ok(Some(header))) => header,
            Ok(Ok(None)) => {
                self.wanted.end = end.min(base);
                self.at = At::Between;
                return Ok(None);
            }
            Ok(Err(damaged)) => {
                self.give_up(base, damaged);
                return Ok(None);
            }
            Err(e) => return Err(e.at_path(self.view.path_of(&indexed.segment))),
        };
        if header.base_offset >= end {
            return Ok(None);
        }
        if header.last_offset < floor {
            self.wanted.end = end.min(base);
            self.at = At::Between;
            return Ok(None);
        }
        self.found = floor..end;
        self.wanted.end = header.base_offset.max(self.wanted.start);
        Ok(self.shows(&header)?.then_some(Advance::Batch))
    }

    /// Whether a batch is to be shown.
    fn shows(&self, header: &BatchHeader) -> Result<bool> {
        if header.is_control() {
            return Ok(false);
        }
        if self.isolation == Isolation::Uncommitted || !header.is_transactional() {
            return Ok(true);
        }
        let outcome = self.outcome(header.producer_id, header.last_offset)?;
        Ok(outcome.unwrap_or(false))
    }
}

impl<'a> Search<'a> {
    fn begin(index: &Open, value: &'a [u8]) -> Result<Search<'a>> {
        let mut candidates = index.candidates(value)?;
        let next = index.next(&mut candidates)?;
        Ok(Search {
            value,
            candidates,
            next,
        })
    }
}

impl Indexed<'_> {
    /// Reads the next candidate. The inner error is the index's fault, or the batch is damaged: then
    /// the segment is to be read whole, so that damage is told as such.
    fn next(&mut self) -> Result<Result<Option<BatchHeader>>> {
        let Some(position) = self.searches.iter().filter_map(|s| s.next).max() else {
            return Ok(Ok(None));
        };
        for search in self
            .searches
            .iter_mut()
            .filter(|s| s.next == Some(position))
        {
            search.next = match self.index.next(&mut search.candidates) {
                Ok(next) => next,
                Err(e) => return Ok(Err(e)),
            };
        }
        self.scanner.seek(position, self.segment.base());
        match self.scanner.step()? {
            Step::Batch(_) => Ok(Ok(self.scanner.header().cloned())),
            Step::End(_) | Step::Bad(_) => Ok(Err(self.index.misleads(position))),
        }
    }
}
