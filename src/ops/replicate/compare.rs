//! Is the copy a prefix of the source: the questions that find it out, asked one at a time.
//!
//! * A digest of all batches that begin in a range is asked for first; equal digests settle the range.
//! * Where they differ the range is halved until one offset is left: the first at which a batch begins
//!   that one side has and the other has not.
//! * Where either side compacted, redacted or repaired, batches differ though nothing parted. There
//!   records are compared, and only those that both still have.
//!
//! It is the source that asks, so that a copy needs to know nothing but how to answer.

use std::collections::VecDeque;
use std::ops::Range;

use super::ends::SourceLog;
use super::refusal::unexpected;
use crate::error::Result;
use crate::format::Offset;
use crate::format::wire::{Answer, Ask, BatchId, Found, Question, RecordId};

/// Where two logs part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First offset that differs.
    pub offset: Offset,
    /// Checksum of the source's batch that begins there.
    pub source: Option<u32>,
    /// Checksum of the copy's.
    pub copy: Option<u32>,
}

impl Difference {
    /// In words for either side: what is here, and what is there.
    pub fn words(&self, here: Option<u32>, there: Option<u32>) -> String {
        let crc = |c: Option<u32>| c.map_or("none".to_string(), |c| format!("{c:08x}"));
        let which = match (here, there) {
            (None, None) => String::new(),
            _ => format!(" (crc {} here, {} there)", crc(here), crc(there)),
        };
        format!(
            "diverged at offset {}{which}; nothing was written",
            self.offset
        )
    }
}

/// How a comparison stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is to be asked next.
    Ask(Ask),
    /// All is equal.
    Equal,
    /// It is not.
    Differs(Difference),
}

#[derive(Clone, Debug)]
enum Now {
    Digest(Range<Offset>),
    /// Something differs in the range; the first half of it was asked for.
    Halve(Range<Offset>),
    Batch(Offset),
    Records(Range<Offset>),
    Differs(Difference),
    Equal,
}

/// A comparison under way.
pub struct Comparison {
    /// Ranges to come, and whether by records.
    todo: VecDeque<(Range<Offset>, bool)>,
    now: Now,
}

/// Ranges in which batches may differ though nothing parted.
#[derive(Clone, Debug, Default)]
pub struct ChangedRanges {
    /// There records are compared.
    pub by_records: Vec<Range<Offset>>,
}

impl ChangedRanges {
    /// Whether an offset lies in one.
    pub fn holds(&self, offset: Offset) -> bool {
        self.by_records.iter().any(|r| r.contains(&offset))
    }
}

impl Comparison {
    /// Of nothing.
    pub fn nothing() -> Comparison {
        Comparison {
            todo: VecDeque::new(),
            now: Now::Equal,
        }
    }

    /// Of all in `offsets`.
    pub fn new(offsets: Range<Offset>, changed: &ChangedRanges) -> Comparison {
        let todo = cut(offsets, &changed.by_records).into_iter().collect();
        let mut comparison = Comparison {
            todo,
            now: Now::Equal,
        };
        comparison.go_on();
        comparison
    }

    fn go_on(&mut self) {
        self.now = match self.todo.pop_front() {
            Some((range, true)) => Now::Records(range),
            Some((range, false)) => Now::Digest(range),
            None => Now::Equal,
        };
    }

    /// What is to be asked, or what was found.
    pub fn verdict(&self) -> Verdict {
        let ask = |what, offsets| Verdict::Ask(Ask { what, offsets });
        match &self.now {
            Now::Digest(range) => ask(Question::Digest, range.clone()),
            Now::Halve(range) => ask(Question::Digest, first_half(range)),
            Now::Batch(at) => ask(Question::Batch, *at..at.next()),
            Now::Records(range) => ask(Question::Records, range.clone()),
            Now::Differs(difference) => Verdict::Differs(*difference),
            Now::Equal => Verdict::Equal,
        }
    }

    /// Takes the answer to what was asked.
    ///
    /// # Errors
    /// It is the answer to something else, or the source cannot be read.
    pub fn answer<L: SourceLog>(&mut self, log: &mut L, answer: &Answer) -> Result<()> {
        let Verdict::Ask(ask) = self.verdict() else {
            return Err(unexpected("an ANSWER to nothing"));
        };
        let (theirs, upto) = (&answer.found, answer.offsets.end.min(ask.offsets.end));
        if answer.offsets.start != ask.offsets.start {
            return Err(unexpected("an ANSWER about other offsets"));
        }
        match (&self.now, theirs) {
            (Now::Digest(range), Found::Digest { batches, hash }) => {
                match log.digest(range.clone())? == (*batches, *hash) {
                    true => self.go_on(),
                    false => self.narrow(range.clone()),
                }
            }
            (Now::Halve(range), Found::Digest { batches, hash }) => {
                let half = first_half(range);
                match log.digest(half.clone())? == (*batches, *hash) {
                    true => self.narrow(half.end..range.end),
                    false => self.narrow(half),
                }
            }
            (Now::Batch(at), Found::Batch(theirs)) => {
                let at = *at;
                let here = |b: &BatchId| (b.base == at).then_some(b.crc);
                self.now = Now::Differs(Difference {
                    offset: at,
                    source: log.batch(at)?.as_ref().and_then(here),
                    copy: theirs.as_ref().and_then(here),
                });
            }
            (Now::Records(range), Found::Records(theirs)) => {
                let range = range.clone();
                let (mine, reached) = log.records(range.clone())?;
                let upto = upto.min(reached);
                if upto <= range.start {
                    return Err(unexpected("an ANSWER about nothing"));
                }
                match first_difference(&mine, theirs, upto) {
                    Some(offset) => {
                        self.now = Now::Differs(Difference {
                            offset,
                            source: None,
                            copy: None,
                        });
                    }
                    None if upto < range.end => self.now = Now::Records(upto..range.end),
                    None => self.go_on(),
                }
            }
            _ => return Err(unexpected("an ANSWER of another kind")),
        }
        Ok(())
    }

    fn narrow(&mut self, range: Range<Offset>) {
        self.now = match range.end - range.start > 1 {
            true => Now::Halve(range),
            false => Now::Batch(range.start),
        };
    }
}

/// `offsets` in pieces, each with whether it lies in one of `ranges`.
fn cut(offsets: Range<Offset>, ranges: &[Range<Offset>]) -> Vec<(Range<Offset>, bool)> {
    let mut all = ranges.to_vec();
    all.sort_by_key(|r| r.start);
    let (mut out, mut at) = (Vec::new(), offsets.start);
    for range in all {
        let (start, end) = (range.start.max(at), range.end.min(offsets.end));
        if start < end {
            out.push((at..start, false));
            out.push((start..end, true));
            at = end;
        }
    }
    out.push((at..offsets.end, false));
    out.retain(|(r, _)| r.start < r.end);
    out
}

fn first_half(range: &Range<Offset>) -> Range<Offset> {
    range.start..range.start + (range.end - range.start) / 2
}

/// First offset below `upto` at which both have a record and not the same; both are in order.
fn first_difference(mine: &[RecordId], theirs: &[RecordId], upto: Offset) -> Option<Offset> {
    let mut theirs = theirs.iter().peekable();
    for record in mine.iter().take_while(|r| r.offset < upto) {
        while theirs.next_if(|t| t.offset < record.offset).is_some() {}
        if let Some(t) = theirs.next_if(|t| t.offset == record.offset)
            && t.hash != record.hash
        {
            return Some(record.offset);
        }
    }
    None
}
