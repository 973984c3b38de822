//! Finds the records of a batch that match.
//!
//! A batch is laid open and searched as a whole first, with the loose pattern
//! ([`super::pattern`]); records are decoded only where that finds something, and then all of the
//! batch, once: a batch with a defect delivers nothing. What the search passes over is checked by the
//! batch's checksum alone.

use std::ops::Range;

use super::column::Cells;
use super::pattern::{Memory, Pattern};
use crate::format::batch::{Batch, Scratch};
use crate::format::plain::Plain;
use crate::format::record::Record;
use crate::format::{Defect, Limits, Offset};
use crate::ops::json;
use crate::ops::select::Selection;
use crate::ops::words::{Column, Field};

/// Looking at a candidate costs about as much as searching so many bytes.
const CANDIDATE_BYTES: usize = 64;
/// A search of the whole may take so many times the batch's bytes before it is given up.
const WORTH: usize = 2;
/// Batches searched record by record after one in which the search of the whole did not pay.
const DIRECT_BATCHES: u32 = 31;

/// What is searched for, and where.
#[derive(Debug)]
pub struct Query {
    /// What a field must match.
    pub pattern: Pattern,
    /// The field. A record that lacks it does not match.
    pub field: Field,
    /// Take the records that do not match.
    pub invert: bool,
    /// Only these records are looked at, and shown around a match.
    pub selection: Selection,
    /// Which records of a batch are wanted of it.
    pub want: Want,
    /// Records of a batch last first.
    pub reverse: bool,
    /// Bounds of what is decoded.
    pub limits: Limits,
}

/// What a search is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// How many records match.
    Count,
    /// Which records match.
    Matches,
    /// All records looked at, and which of them match.
    All,
}

/// A record that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it begins in the batch laid open. A body has less than 2^32 bytes.
    pub position: u32,
    /// Whether it matches.
    pub is_match: bool,
}

/// What was found in one batch.
#[derive(Debug, Default)]
pub struct Found {
    /// Records that match.
    pub matches: u64,
    /// The records asked for.
    pub lines: Vec<Line>,
}

/// Searches batches, one after the other.
pub struct Finder {
    memory: Memory,
    scratch: Scratch,
    cells: Cells,
    /// Batches still to be searched record by record.
    direct: u32,
}

impl Finder {
    /// A finder for `query`.
    pub fn new(query: &Query) -> Finder {
        Finder {
            memory: query.pattern.memory(),
            scratch: Scratch::new(),
            cells: Cells::new(),
            direct: 0,
        }
    }

    /// Lays a batch open, in `out` unless it lies so as stored.
    ///
    /// # Errors
    /// As [`Plain::open`].
    pub fn open<'a>(
        &mut self,
        query: &Query,
        batch: &Batch<'a>,
        out: &'a mut Vec<u8>,
    ) -> Result<Plain<'a>, Defect> {
        Plain::open(batch, &mut self.scratch, &query.limits, out)
    }

    /// Searches the `wanted` offsets of a batch, laid open in `out` unless it lies open as stored, and
    /// puts what it finds into `found`.
    ///
    /// # Errors
    /// A defect if the batch cannot be decoded.
    pub fn find<'a>(
        &mut self,
        query: &Query,
        batch: &Batch<'a>,
        wanted: &Range<Offset>,
        out: &'a mut Vec<u8>,
        found: &mut Found,
    ) -> Result<Plain<'a>, Defect> {
        found.matches = 0;
        found.lines.clear();
        let plain = self.open(query, batch, out)?;
        let body = plain.body();
        let whole = query.want != Want::All && !query.invert && query.pattern.is_loose();
        if !whole {
            self.each(query, &plain, wanted, None, found)?;
        } else if self.direct > 0 {
            self.direct -= 1;
            self.each(query, &plain, wanted, None, found)?;
        } else if let Some(first) = query.pattern.first_loose(&mut self.memory, body, 0) {
            self.each(query, &plain, wanted, Some(first), found)?;
        }
        if query.reverse {
            found.lines.reverse();
        }
        Ok(plain)
    }

    /// Decodes every record, and looks at those that `candidate`, the first loose match, and the
    /// ones behind it point at; without one, at all.
    fn each(
        &mut self,
        query: &Query,
        plain: &Plain<'_>,
        wanted: &Range<Offset>,
        candidate: Option<Range<usize>>,
        found: &mut Found,
    ) -> Result<(), Defect> {
        let body = plain.body();
        let mut hunt = Hunt::new(candidate, body.len());
        let mut records = plain.records();
        let mut start = 0;
        while let Some(record) = records.next() {
            let (record, end) = (record?, records.position());
            let begin = std::mem::replace(&mut start, end);
            if hunt.next >= end {
                continue;
            }
            if wanted.contains(&record.offset) && query.selection.takes(&record) {
                let is_match = self.matches(query, &record) != query.invert;
                found.matches += u64::from(is_match);
                if query.want == Want::All || (is_match && query.want == Want::Matches) {
                    let position = u32::try_from(begin).unwrap_or(u32::MAX);
                    found.lines.push(Line { position, is_match });
                }
            }
            if hunt.on {
                let next = query.pattern.first_loose(&mut self.memory, body, end);
                if !hunt.go_on(end, next) {
                    self.direct = DIRECT_BATCHES;
                }
            }
        }
        Ok(())
    }

    /// Whether the pattern is in the field of this record.
    pub(in crate::ops) fn matches(&mut self, query: &Query, record: &Record<'_>) -> bool {
        let memory = &mut self.memory;
        match &query.field {
            Field::Value => match record.value {
                Some(value) => query.pattern.matches(memory, value),
                None => false,
            },
            Field::Column(Column::Number(n)) => {
                let cell = record.value.and_then(|v| self.cells.get(v, *n));
                cell.is_some_and(|cell| query.pattern.matches(memory, cell))
            }
            field => {
                let header = |name: &[u8]| record.headers.get(name).flatten();
                let part = field.of(record.key, record.value, header);
                part.is_some_and(|part| query.pattern.matches(memory, &part))
            }
        }
    }

    /// As [`Finder::matches`], for whoever must not overlook any: of repeated headers and JSON members
    /// all count, not only the one that readers take, and of a JSON array or object each string
    /// in it too, its escapes resolved.
    pub(in crate::ops) fn matches_any(&mut self, query: &Query, record: &Record<'_>) -> bool {
        let memory = &mut self.memory;
        let mut is = |text: &[u8]| query.pattern.matches(memory, text);
        match &query.field {
            Field::Header(name) => {
                let mut named = record.headers.iter().filter(|h| h.0 == name.as_bytes());
                named.any(|(_, value)| value.is_some_and(&mut is))
            }
            Field::Json(pointer) => {
                let value = record.value.unwrap_or_default();
                let spans = pointer.spans(value).unwrap_or_default();
                spans.into_iter().any(|span| {
                    let text = value.get(span).unwrap_or_default();
                    let field = json::check(text).ok().and_then(|v| v.field());
                    field.is_some_and(|f| is(&f)) || json::any_string(text, &mut is)
                })
            }
            _ => self.matches(query, record),
        }
    }
}

/// The search of a batch as a whole, while it goes on.
struct Hunt {
    /// Whether it does; else every record is looked at.
    on: bool,
    /// Where the next loose match begins; records that end before are passed over.
    next: usize,
    /// Bytes it may still take.
    budget: usize,
}

impl Hunt {
    fn new(candidate: Option<Range<usize>>, body: usize) -> Hunt {
        Hunt {
            on: candidate.is_some(),
            next: candidate.map_or(0, |c| c.start),
            budget: body.saturating_mul(WORTH),
        }
    }

    /// Goes to the next loose match behind `from`. False if it does not pay any more: a pattern may be
    /// everywhere, or end so far behind its start that each search reads most of the batch.
    fn go_on(&mut self, from: usize, next: Option<Range<usize>>) -> bool {
        let Some(next) = next else {
            self.next = usize::MAX;
            return true;
        };
        let cost = next.end.saturating_sub(from) + CANDIDATE_BYTES;
        self.next = next.start;
        match self.budget.checked_sub(cost) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => {
                (self.on, self.next) = (false, 0);
                false
            }
        }
    }
}
