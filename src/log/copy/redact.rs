//! Redactions of the source, carried out here: its batches are swapped in for those of the copy.
//!
//! The copy does not know what was to go, only where it was. In this order, so that a crash anywhere
//! leaves an entry that says so:
//!
//! 1. [`Copy::begin_redaction`]: the source's entry in `.logd/redactions`, without an end.
//! 2. For each range: [`Copy::begin_rewrite`], [`Copy::put_rewritten`] with the source's batches of it,
//!    [`Copy::end_rewrite`]. Sealed segments that hold a part of the range are built anew, one after the
//!    other: what lies before it, the source's batches, what lies behind it. The active segment is rolled
//!    first. Look-up indexes of what is replaced go, and what lost+found keeps of such offsets.
//! 3. [`Copy::finish_redaction`]: the entry gets its end.
//!
//! What the copy does not have yet comes redacted anyway. What the source has no more, it loses too; the
//! last offset of a segment stays, if only in an empty batch. Batches must not stick out of the range on
//! either side.

use std::ops::Range;

use super::Copy;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::builder::empty_batch;
use crate::format::frame::{Frame, frame};
use crate::format::{Limits, Offset};
use crate::log::keys::{self, Keys};
use crate::log::listing::SegmentRef;
use crate::log::lost::LostFound;
use crate::log::maintenance::Maintenance;
use crate::log::redactions::{self, Redaction};
use crate::log::rewritten::{self, Reason};
use crate::log::swap::{self, Output};
use crate::segment::scan::{Scanner, Span, Step, Tail};

/// A range being swapped.
pub(super) struct Rewriting {
    m: Maintenance,
    /// What is swapped, as far as the copy goes.
    range: Range<Offset>,
    /// Sealed segments that hold a part of it and are still to come, with where the next one begins; in
    /// order.
    segments: std::vec::IntoIter<(SegmentRef, Offset)>,
    current: Option<Current>,
    /// Behind the last batch that came.
    next: Offset,
    limits: Limits,
}

/// The segment being built anew.
struct Current {
    segment: SegmentRef,
    above: Offset,
    old: Scanner,
    out: Output,
    mtime_ms: i64,
    epoch: i32,
}

impl Copy {
    /// Notes a redaction of the source as begun here, durably.
    ///
    /// # Errors
    /// What the system answers.
    pub fn begin_redaction(&mut self, entry: &Redaction) -> Result<()> {
        let begun = Redaction {
            finished_ms: None,
            ..entry.clone()
        };
        redactions::put(self.writer.logd_dir().as_ref(), &begun)
    }

    /// Notes it as the source has it on record, durably: everything of it was swapped in.
    ///
    /// # Errors
    /// What the system answers.
    pub fn finish_redaction(&mut self, entry: &Redaction) -> Result<()> {
        redactions::put(self.writer.logd_dir().as_ref(), entry)
    }

    /// Begins to swap in the source's batches of a range.
    ///
    /// # Errors
    /// `Locked` while maintenance is at work; `Data` for a damaged log; else what the system answers.
    pub fn begin_rewrite(&mut self, range: Range<Offset>, redaction: &str) -> Result<()> {
        self.refuse_unmarked()?;
        let mut m = self.maintenance()?;
        let end = m.settle()?;
        let range = range.start..range.end.min(end);
        let active = m.segments()?.last().map_or(Offset::ZERO, SegmentRef::base);
        if !range.is_empty() && range.end > active {
            m.roll()?;
        }
        let all = m.segments()?;
        let mut segments = Vec::new();
        for pair in all.windows(2) {
            if let [segment, next] = pair
                && segment.base() < range.end
                && next.base() > range.start
            {
                segments.push((*segment, next.base()));
            }
        }
        drop_lookups(&m, &segments)?;
        drop_lost(&m, &range, redaction, &self.options.limits)?;
        self.rewriting = Some(Rewriting {
            m,
            next: range.start,
            range,
            segments: segments.into_iter(),
            current: None,
            limits: self.options.limits,
        });
        Ok(())
    }

    /// Takes whole batches of the range as the source has them now, in order.
    ///
    /// # Errors
    /// `Data` for what is no sound batch or sticks out of the range or of a segment; else what the system
    /// answers. The copy is then as it was, or changed in whole segments.
    pub fn put_rewritten(&mut self, bytes: &[u8]) -> Result<()> {
        let rewriting = self.rewriting.as_mut();
        let none = || Error::new(ErrorKind::Bug, "no range is being swapped");
        let done = rewriting.ok_or_else(none)?.put(bytes);
        if done.is_err() {
            self.rewriting = None;
        }
        done
    }

    /// Ends the range: everything that came is in the copy, durably.
    ///
    /// # Errors
    /// As [`Copy::put_rewritten`].
    pub fn end_rewrite(&mut self) -> Result<()> {
        if let Some(mut rewriting) = self.rewriting.take() {
            while rewriting.close()? || rewriting.open_next()? {}
            rewriting.m.empty_tmp()?;
        }
        (self.txns, self.txn_file) = (None, None);
        self.settle().map(drop)
    }
}

impl Rewriting {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) {
            let Frame::Entry(size) = frame(rest, &self.limits) else {
                return Err(self.refuse("not a whole batch".to_string()));
            };
            let batch = Batch::check(rest.get(..size).unwrap_or_default());
            let batch = batch.map_err(|d| self.refuse(d.reason))?;
            self.put_one(batch.header(), batch.bytes())?;
            at += size;
        }
        Ok(())
    }

    fn put_one(&mut self, header: &BatchHeader, bytes: &[u8]) -> Result<()> {
        let (first, last) = (header.base_offset, header.last_offset);
        if first >= self.range.end {
            return Ok(()); // not here yet
        }
        if first < self.next || last < first || last >= self.range.end {
            let (start, end) = (self.range.start, self.range.end);
            let why = format!("a batch of offsets {first} to {last} in the range {start}..{end}");
            return Err(self.refuse(why));
        }
        while self.current.as_ref().is_none_or(|c| first >= c.above) {
            self.close()?;
            if !self.open_next()? {
                return Err(self.refuse(format!("no segment for offset {first}")));
            }
        }
        let fits = |c: &&mut Current| first >= c.segment.base() && last < c.above;
        let Some(current) = self.current.as_mut().filter(fits) else {
            return Err(self.refuse(format!(
                "offsets {first} to {last} are in two segments here"
            )));
        };
        current.out.put(header, bytes)?;
        current.epoch = header.leader_epoch;
        self.next = last.next();
        Ok(())
    }

    /// Begins the next segment with what it has before the range. False if there is none.
    fn open_next(&mut self) -> Result<bool> {
        let Some((segment, above)) = self.segments.next() else {
            return Ok(false);
        };
        let log = self.m.log();
        let file = log.open_file(&segment.log_name())?;
        let meta = file
            .meta()
            .map_err(|e| self.m.error("cannot stat a segment", e))?;
        let span = Span::whole(segment.base(), meta.len);
        let mut current = Current {
            segment,
            above,
            old: Scanner::new(file, span, self.limits),
            out: Output::begin(&self.m, segment.base())?,
            mtime_ms: meta.mtime_ms,
            epoch: -1,
        };
        current.out.keep_txns(log, &segment)?;
        let start = self.range.start;
        while let Some(header) = current.peek(log)? {
            if header.last_offset >= start {
                let (position, next) = (current.old.found_at(), header.base_offset);
                // What begins the range is looked at again when it ends.
                current.old.seek(position.unwrap_or_default(), next);
                break;
            }
            current.keep(&header)?;
        }
        self.current = Some(current);
        Ok(true)
    }

    /// Ends the segment in hand with what it has behind the range, and swaps it in. False if there is
    /// none.
    fn close(&mut self) -> Result<bool> {
        let Some(mut current) = self.current.take() else {
            return Ok(false);
        };
        let (log, range) = (self.m.log(), &self.range);
        let mut last = None;
        while let Some(header) = current.peek(log)? {
            let (first, end) = (header.base_offset, header.last_offset);
            last = Some(end);
            if first >= range.end {
                current.keep(&header)?;
            } else if end >= range.end || first < range.start {
                let why = format!("offsets {first} to {end} of the copy stick out of the range");
                return Err(self.refuse(why));
            } else {
                current.epoch = current.epoch.max(header.leader_epoch);
            }
        }
        if let Some(last) = last.filter(|l| current.out.last_offset() < Some(*l)) {
            let bytes = empty_batch(last, current.epoch);
            let batch = Batch::check(&bytes).map_err(|d| Error::new(ErrorKind::Bug, d.reason))?;
            current.out.put(batch.header(), batch.bytes())?;
        }
        let built = current.out.finish(current.mtime_ms)?;
        let changed = range.start.max(current.segment.base())..range.end.min(current.above);
        rewritten::add(self.m.logd_dir().as_ref(), Reason::Redact, changed)?;
        swap::replace(&self.m, &built, &[current.segment])?;
        Ok(true)
    }

    fn refuse(&self, why: String) -> Error {
        Error::data(why)
            .at_path(self.m.path())
            .at_offset(self.next.0)
    }
}

impl Current {
    /// The next batch of the old segment; `None` at its end.
    fn peek(&mut self, log: &crate::log::listing::LogDir) -> Result<Option<BatchHeader>> {
        let place = |e: Error| e.at_path(log.path_of(&self.segment.log_name()));
        match self.old.step().map_err(place)? {
            Step::Batch(_) => Ok(self.old.header().cloned()),
            Step::End(end) if end.tail == Tail::Clean => Ok(None),
            Step::End(end) => {
                let error = Error::data("the data ends before the file");
                Err(place(error.at_position(end.position.0)))
            }
            Step::Bad(bad) => {
                let at = bad.position.0.saturating_add(bad.defect.at as u64);
                Err(place(Error::data(bad.defect.reason).at_position(at)))
            }
        }
    }

    fn keep(&mut self, header: &BatchHeader) -> Result<()> {
        match self.old.batch() {
            Some(batch) => self.out.put(header, batch.bytes()),
            None => Ok(()),
        }
    }
}

/// Removes the look-up indexes of what will be replaced: they hold values.
fn drop_lookups(m: &Maintenance, going: &[(SegmentRef, Offset)]) -> Result<()> {
    let keys = Keys::of(m.log())?;
    let Some(dir) = keys.dir() else {
        return Ok(());
    };
    let names = keys.names()?.into_iter();
    let gone = |base: Offset| going.iter().any(|(s, _)| s.base() == base);
    let names: Vec<String> = names.filter(|n| gone(n.1)).map(|n| n.0).collect();
    keys::remove(dir.as_ref(), &names)
}

/// Removes what lost+found keeps of offsets in the range, and what cannot be told.
fn drop_lost(m: &Maintenance, range: &Range<Offset>, id: &str, limits: &Limits) -> Result<()> {
    let own = m.logd_dir().as_ref();
    let mut names = Vec::new();
    for name in LostFound::names(own)? {
        let file = LostFound::open_file(own, &name)?;
        let len = file.len().map_err(|e| m.error("cannot stat", e))?;
        // Not a segment of its own: any offset may be the first.
        let mut scanner = Scanner::new(file, Span::whole(Offset::ZERO, len), *limits);
        let goes = loop {
            match scanner.step()? {
                Step::Batch(_) => {
                    let header = scanner.header();
                    let hit =
                        |h: &BatchHeader| h.last_offset >= range.start && h.base_offset < range.end;
                    if header.is_some_and(hit) {
                        break true;
                    }
                }
                Step::End(end) => break end.tail == Tail::Partial,
                Step::Bad(_) => break true,
            }
        };
        names.extend(goes.then_some(name));
    }
    match names.is_empty() {
        true => Ok(()),
        false => LostFound::open(m.host().as_ref(), own)?.remove(&names, id),
    }
}
