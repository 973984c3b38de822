//! A segment front to back, past whatever is damaged in it.
//!
//! Owns the rule by which intact batches are told from what lies between them; who asks decides what
//! to do about it. A batch counts if its checksum holds and its offsets follow those before it.
//! Behind bytes that are none the walk goes on
//!
//! 1. where their own length leads, if a batch stands there (or the file ends there): what a damaged
//!    batch carries as its payload is then passed over, though it may look like batches itself;
//! 2. else at the next batch that proves itself ([`resync`](super::scan::resync)).
//!
//! The base offset lies outside the checksum, so a batch may be sound and stand at a wrong offset.
//! That shows only in the next one, which then seems to go back. If the first of the two left a gap
//! before it, and the second begins exactly where the first should have ended, it is the first one
//! that lies ([`Found::Disowned`]); else the second is passed over.
//!
//! Work is bounded by a few times the span, memory by one window.

use super::scan::{End, Resync, Scanner, Span, Step, Tail, is_zero, resync_within};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::frame::{BATCH_HEADER_BYTES, Frame, frame};
use crate::format::{Defect, Limits, Offset, Position};
use crate::sys::File;
use std::ops::Range;
use std::sync::Arc;

/// What [`Salvage::step`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// An intact batch; it begins here.
    Batch(Position),
    /// Bytes that are no batch of this place.
    Damage(Damage),
    /// The batch yielded last is sound but stands at a wrong offset; it does not count.
    Disowned(Damage),
    /// No further batch.
    End(End),
}

/// A stretch of a segment that is no batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it begins.
    pub position: Position,
    /// How long it is.
    pub bytes: u64,
    /// What is wrong, counted from where it begins.
    pub defect: Defect,
    /// The offsets that it may have held: up to the next intact batch, or open ([`Offset::MAX`]).
    pub lost: Range<Offset>,
    /// It reaches the end of the span: nothing intact follows.
    pub is_last: bool,
}

/// A walk past damage.
pub struct Salvage {
    scanner: Scanner,
    limits: Limits,
    /// Bytes that may still be spent on what pretends to be a batch.
    budget: u64,
    /// The batch yielded last: its place, its header, and the offset expected before it.
    last: Option<(Position, BatchHeader, Offset)>,
}

impl Salvage {
    /// A walk over `span` of `file`.
    pub fn new(file: Arc<dyn File>, span: Span, limits: Limits) -> Salvage {
        let budget = (span.end - span.from).saturating_mul(4) + (1 << 20);
        Salvage {
            scanner: Scanner::new(file, span, limits),
            limits,
            budget,
            last: None,
        }
    }

    /// What comes next.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> Result<Found> {
        let before = self.scanner.next_offset();
        match self.scanner.step()? {
            Step::Batch(position) => {
                if let Some(header) = self.scanner.header() {
                    self.last = Some((position, header.clone(), before));
                }
                Ok(Found::Batch(position))
            }
            Step::End(end) => self.end(end),
            Step::Bad(bad) => match self.disown(bad.position)? {
                Some(damage) => Ok(Found::Disowned(damage)),
                None => self.pass(bad.position, bad.defect),
            },
        }
    }

    /// The batch found last.
    pub fn batch(&self) -> Option<Batch<'_>> {
        self.scanner.batch()
    }

    /// Smallest offset the next batch may begin at.
    pub fn next_offset(&self) -> Offset {
        self.scanner.next_offset()
    }

    fn end(&mut self, end: End) -> Result<Found> {
        let (file, to) = (self.scanner.file().clone(), self.scanner.end());
        let why = match end.tail {
            Tail::Clean => return Ok(Found::End(end)),
            Tail::Zeros if is_zero(&*file, end.position, to)? => return Ok(Found::End(end)),
            Tail::Zeros => Defect::new(8, "batch length 0 before more data"),
            Tail::Partial => Defect::new(0, "the file ends inside a batch"),
        };
        match self.pass(end.position, why)? {
            // Nothing follows: the caller knows whether that may be so.
            Found::Damage(damage) if damage.is_last && end.tail == Tail::Partial => {
                Ok(Found::End(end))
            }
            other => Ok(other),
        }
    }

    /// Passes over what stands at `position`.
    fn pass(&mut self, position: Position, defect: Defect) -> Result<Found> {
        let (next, end) = (self.scanner.next_offset(), self.scanner.end());
        let to = match self.behind(position, next)? {
            Some(to) => Some(to),
            None => self.search(position, next)?,
        };
        let (to, found) = to.unwrap_or((end, Offset::MAX));
        self.scanner.seek(to, next);
        self.last = None;
        Ok(Found::Damage(Damage {
            position,
            bytes: to - position,
            defect,
            lost: next..found.max(next),
            is_last: to == end,
        }))
    }

    /// The place behind the entry at `position` if its length can be believed, with the offset there.
    fn behind(&mut self, position: Position, next: Offset) -> Result<Option<(Position, Offset)>> {
        let (file, end) = (self.scanner.file().clone(), self.scanner.end());
        let Some(size) = size_at(&*file, position, end, &self.limits)? else {
            return Ok(None);
        };
        let to = position + size;
        if to == end || is_end_of_data(&*file, to, end)? {
            return Ok(Some((end, Offset::MAX)));
        }
        let Some(rest) = self.budget.checked_sub(size) else {
            return Ok(None);
        };
        self.budget = rest;
        self.scanner.seek(to, next);
        match self.scanner.step()? {
            Step::Batch(_) => {
                let found = self.scanner.header().map(|h| h.base_offset);
                Ok(Some((to, found.unwrap_or(next))))
            }
            _ => Ok(None),
        }
    }

    fn search(&mut self, position: Position, next: Offset) -> Result<Option<(Position, Offset)>> {
        let span = Span {
            base: self.scanner.base(),
            next,
            from: position + 1,
            end: self.scanner.end(),
        };
        let file = self.scanner.file().clone();
        match resync_within(&*file, &span, &self.limits, &mut self.budget)? {
            Resync::Found(to, offset) => Ok(Some((to, offset))),
            Resync::None | Resync::GaveUp(_) => Ok(None),
        }
    }

    /// Whether it is the batch before `position` that stands at a wrong offset.
    fn disown(&mut self, position: Position) -> Result<Option<Damage>> {
        let Some((at, header, expected)) = self.last.clone() else {
            return Ok(None);
        };
        let length = header.last_offset - header.base_offset;
        let behind = (expected + length).next();
        if header.base_offset == expected || at + header.size as u64 != position {
            return Ok(None);
        }
        self.scanner.seek(position, expected);
        let follows = match self.scanner.step()? {
            Step::Batch(_) => self
                .scanner
                .header()
                .is_some_and(|h| h.base_offset == behind),
            _ => false,
        };
        let next = if follows {
            expected
        } else {
            header.last_offset.next()
        };
        self.scanner.seek(position, next);
        self.last = None;
        let why = format!(
            "base offset {} of a batch that the next one shows to begin at {expected}",
            header.base_offset
        );
        Ok(follows.then(|| Damage {
            position: at,
            bytes: header.size as u64,
            defect: Defect::new(0, why),
            lost: expected..behind,
            is_last: false,
        }))
    }
}

/// The size that the entry at `at` says it has, if that fits before `end`.
fn size_at(file: &dyn File, at: Position, end: Position, limits: &Limits) -> Result<Option<u64>> {
    let mut head = [0; BATCH_HEADER_BYTES];
    let n = file.read_full_at(&mut head, at.0);
    let n = n.map_err(|e| Error::io("cannot read", e).at_position(at.0))?;
    let left = end - at;
    Ok(match frame(head.get(..n).unwrap_or_default(), limits) {
        Frame::Entry(size) | Frame::NeedMore(size) => Some(size as u64).filter(|s| *s <= left),
        Frame::Zero | Frame::Bad(_) => None,
    })
}

/// Whether nothing but zeros stands from `at` to `end`.
fn is_end_of_data(file: &dyn File, at: Position, end: Position) -> Result<bool> {
    let mut head = [0; 17];
    let n = file.read_full_at(&mut head, at.0);
    let n = n.map_err(|e| Error::io("cannot read", e).at_position(at.0))?;
    let zero = head.get(..n).unwrap_or_default().iter().all(|b| *b == 0);
    Ok(zero && is_zero(file, at, end)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{Segment, TestLog};
    use crate::sys::{Access, Host, RealHost};

    /// A segment of six batches of two records each, from offset 0.
    fn six(log: &TestLog) -> Segment {
        let mut s = log.segment(0);
        for i in 0..6 {
            s = s.batch(2 * i, "first second");
        }
        s
    }

    fn walk(log: &TestLog) -> Vec<String> {
        let dir = RealHost.open_dir(&log.path()).unwrap();
        let file: Arc<dyn File> =
            Arc::from(dir.open("00000000000000000000.log", Access::Read).unwrap());
        let len = file.len().unwrap();
        let mut walk = Salvage::new(file, Span::whole(Offset(0), len), Limits::default());
        let mut out = Vec::new();
        loop {
            match walk.step().unwrap() {
                Found::Batch(_) => out.push(walk.batch().unwrap().header().base_offset.to_string()),
                Found::Damage(d) => out.push(format!("-{:?}", d.lost)),
                Found::Disowned(d) => {
                    out.pop();
                    out.push(format!("!{:?}", d.lost));
                }
                Found::End(end) => {
                    out.push(format!("{:?}", end.tail));
                    return out;
                }
            }
        }
    }

    fn check(harm: impl FnOnce(Segment) -> Segment, want: &str) {
        let log = TestLog::new("x-0");
        harm(six(&log)).write();
        assert_eq!(walk(&log).join(" "), want);
    }

    #[test]
    fn intact_batches_around_damage_are_found() {
        check(|s| s, "0 2 4 6 8 10 Clean");
        check(|s| s.flip(2, 40), "0 2 -4..6 6 8 10 Clean");
        check(|s| s.flip(0, 40), "-0..2 2 4 6 8 10 Clean");
        check(
            |s| s.flip(5, 40),
            "0 2 4 6 8 -10..9223372036854775807 Clean",
        );
        check(|s| s.flip(1, 11).flip(3, 9), "0 -2..4 4 -6..8 8 10 Clean");
        check(|s| s.cut(3), "0 2 4 6 8 Partial");
        check(|s| s.raw(&[0; 500]), "0 2 4 6 8 10 Zeros");
    }

    #[test]
    fn a_batch_at_a_wrong_offset_does_not_hide_those_behind_it() {
        // Base offsets are outside the checksum: byte 7 is the lowest, 6 the next.
        let set = |at: usize, value: u8| {
            move |mut s: Segment| {
                let place = s.position(2) + at;
                s.bytes[place] = value;
                s
            }
        };
        check(set(7, 1), "0 2 -4..6 6 8 10 Clean");
        check(set(7, 200), "0 2 !4..6 6 8 10 Clean");
        check(set(6, 1), "0 2 !4..6 6 8 10 Clean");
        check(set(0, 1), "0 2 -4..6 6 8 10 Clean");
    }

    #[test]
    fn batches_inside_a_damaged_batch_are_its_payload() {
        let inner = TestLog::new("y-0");
        let inner = inner.segment(0).batch(50, "x").batch(51, "y");
        let log = TestLog::new("x-0");
        let mut s = log.segment(0).batch(0, "a");
        let payload = inner.bytes.clone();
        let mut b = crate::format::builder::BatchBuilder::begin(std::mem::take(&mut s.bytes));
        let record = crate::format::record::NewRecord {
            key: None,
            value: Some(&payload),
            headers: &[],
        };
        b.push(crate::format::TimestampMs(1), &record);
        let (bytes, sealed) = b.seal(&crate::format::builder::Seal::default());
        s.bytes = bytes;
        crate::format::builder::stamp(&mut s.bytes[sealed.start..], Offset(1), 0);
        s.bytes[sealed.start + 40] ^= 1;
        s.batch(2, "c").write();
        assert_eq!(walk(&log).join(" "), "0 -1..2 2 Clean");
    }
}
