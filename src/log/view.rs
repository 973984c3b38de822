//! A log as of one moment: its segments, and how far the last of them reached.
//!
//! Owns the bound of a read: "the end as it was when cat started" is the length that the active
//! segment's file had then, so nothing is scanned to know it, and that file is held open, so nothing
//! that happens to the directory meanwhile moves the bound. Also finds offsets in a view: its start,
//! its end, the first record at or after a time.
//!
//! Other segments are opened when they are needed. One that is gone by then was replaced or deleted;
//! [`View::relist`] finds what stands in its place, still bounded by the held file.

use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::names::Kind;
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::segment::lookup::{seek_last, seek_offset, seek_time};
use crate::segment::scan::{Resync, Scanner, Span, Step, resync};
use crate::sys::File;

/// How often a walk over the segments begins anew because files vanish under it.
const RELISTS_MAX: usize = 64;

/// A log as of one moment.
#[derive(Clone)]
pub struct View {
    log: LogDir,
    segments: Vec<SegmentRef>,
    start: Offset,
    tail: Option<Tail>,
}

/// The active segment, held open, and where its file ended.
#[derive(Clone)]
pub struct Tail {
    /// Which segment.
    pub segment: SegmentRef,
    /// Its log file.
    pub file: Arc<dyn File>,
    /// The file's length at that moment.
    pub end: Position,
}

impl View {
    /// The log as it is now.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn of(log: LogDir) -> Result<View> {
        let mut view = View {
            log,
            segments: Vec::new(),
            start: Offset::ZERO,
            tail: None,
        };
        view.renew()?;
        Ok(view)
    }

    /// Makes it the log as it is now.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn renew(&mut self) -> Result<()> {
        for _ in 0..RELISTS_MAX {
            self.segments = self.log.segments()?;
            self.start = self.log.start_offset(&self.segments)?;
            let Some(segment) = self.segments.last().copied() else {
                self.tail = None;
                return Ok(());
            };
            if let Some(file) = self.log.open_optional(&segment.log_name())? {
                let end = end_of(&*file).map_err(|e| e.at_path(self.path_of(&segment)))?;
                self.tail = Some(Tail { segment, file, end });
                return Ok(());
            }
        }
        Err(self.vanishing())
    }

    /// Lists the directory again, keeping the bound.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn relist(&mut self) -> Result<()> {
        self.segments = self.log.segments()?;
        self.start = self.log.start_offset(&self.segments)?;
        Ok(())
    }

    /// Moves the bound to where the active segment's file ends now. Tells whether it moved.
    ///
    /// # Errors
    /// The file cannot be asked.
    pub fn extend(&mut self) -> Result<bool> {
        let Some(tail) = &mut self.tail else {
            return Ok(false);
        };
        let end = end_of(&*tail.file)?;
        Ok(std::mem::replace(&mut tail.end, end) != end)
    }

    /// The directory.
    pub fn log(&self) -> &LogDir {
        &self.log
    }

    /// The segments, in order; behind the tail's none counts.
    pub fn segments(&self) -> &[SegmentRef] {
        &self.segments
    }

    /// The active segment; none in a directory without segments.
    pub fn tail(&self) -> Option<&Tail> {
        self.tail.as_ref()
    }

    /// Smallest offset that may be read.
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The path of a segment's log file, for messages.
    pub fn path_of(&self, segment: &SegmentRef) -> std::path::PathBuf {
        self.log.path_of(&segment.log_name())
    }

    /// Index in [`View::segments`] of the one that holds `offset`, or would if it were not in a gap;
    /// the first one for a smaller offset. The tail's, and what is behind it, do not count.
    pub fn sealed_at(&self, offset: Offset) -> Option<SegmentRef> {
        let before_tail = |s: &&SegmentRef| {
            self.tail
                .as_ref()
                .is_none_or(|t| s.base() < t.segment.base())
        };
        let sealed = || self.segments.iter().filter(before_tail);
        let at = sealed().take_while(|s| s.base() <= offset).last();
        at.or_else(|| sealed().next()).copied()
    }

    /// The sealed segment behind the one with base offset `base`; `None` before the tail.
    pub fn sealed_after(&self, base: Offset) -> Option<SegmentRef> {
        let tail = self.tail.as_ref().map_or(Offset::MAX, |t| t.segment.base());
        let after = self.segments.iter().find(|s| s.base() > base);
        after.filter(|s| s.base() < tail).copied()
    }

    /// Log end offset: behind the last valid batch. A batch that is not whole or not valid at the
    /// end is not there yet.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn end(&self, limits: Limits) -> Result<Offset> {
        let Some(tail) = &self.tail else {
            return Ok(self.start);
        };
        let base = tail.segment.base();
        let mut scanner = Scanner::new(
            Arc::clone(&tail.file),
            Span::whole(base, tail.end.0),
            limits,
        );
        let at = |e: Error| e.at_path(self.path_of(&tail.segment));
        let index = self.index(&tail.segment, Kind::OffsetIndex)?;
        seek_last(&mut scanner, index.as_deref()).map_err(at)?;
        while let Step::Batch(_) = scanner.step().map_err(at)? {}
        Ok(scanner.next_offset().max(self.start))
    }

    /// Opens one of a segment's indexes; `None` if it is missing or may not be read, as an index is
    /// never needed.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn index(&self, segment: &SegmentRef, kind: Kind) -> Result<Option<Arc<dyn File>>> {
        match self.log.open_file(&segment.index_name(kind)) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == ErrorKind::Io => Err(e),
            Err(_) => Ok(None),
        }
    }

    /// Offset of the first record at or after `time`, in the order of offsets; `None` if there is
    /// none in this view. The record is looked for from the start of the log on, as the times of
    /// records need not be in order.
    ///
    /// A damaged stretch may hide it: if the first valid batch behind one has such a record, the
    /// answer is the offset at which the stretch begins, so that reading from there tells of it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn first_at(&mut self, time: TimestampMs, limits: Limits) -> Result<Option<Offset>> {
        let mut search = TimeSearch {
            time,
            start: self.start,
            limits,
            scratch: Scratch::new(),
        };
        let mut from = self.start;
        for _ in 0..RELISTS_MAX {
            match self.search(&mut search, &mut from) {
                Err(e) if e.kind() == ErrorKind::NotFound => self.relist()?,
                other => return other,
            }
        }
        Err(self.vanishing())
    }

    /// Searches the segments that hold `from` or more; `from` follows what was searched.
    fn search(&self, search: &mut TimeSearch, from: &mut Offset) -> Result<Option<Offset>> {
        let mut at = self.sealed_at(*from);
        while let Some(segment) = at {
            let file = self.log.open_file(&segment.log_name())?;
            let end = end_of(&*file)?;
            if let Some(found) = self.search_segment(search, &segment, file, end)? {
                return Ok(Some(found));
            }
            at = self.sealed_after(segment.base());
            *from = at.map_or(Offset::MAX, |s| s.base());
        }
        match &self.tail {
            Some(t) => self.search_segment(search, &t.segment, Arc::clone(&t.file), t.end),
            None => Ok(None),
        }
    }

    fn search_segment(
        &self,
        search: &mut TimeSearch,
        segment: &SegmentRef,
        file: Arc<dyn File>,
        end: Position,
    ) -> Result<Option<Offset>> {
        let span = Span::whole(segment.base(), end.0);
        let mut scanner = Scanner::new(file, span, search.limits);
        let offsets = self.index(segment, Kind::OffsetIndex)?;
        let times = self.index(segment, Kind::TimeIndex)?;
        seek_time(
            &mut scanner,
            offsets.as_deref(),
            times.as_deref(),
            search.time,
        )
        .and_then(|()| search.scan(&mut scanner))
        .map_err(|e| e.at_path(self.path_of(segment)))
    }

    fn vanishing(&self) -> Error {
        let why = "segments vanish faster than they can be read";
        Error::data(why).at_path(self.log.dir().path())
    }
}

/// Opens a scanner on a segment at the batch that holds `next`, or the first one behind it.
///
/// # Errors
/// A file cannot be read.
pub fn scanner_at(
    view: &View,
    scanner: &mut Scanner,
    segment: &SegmentRef,
    next: Offset,
) -> Result<()> {
    if next > segment.base() {
        let index = view.index(segment, Kind::OffsetIndex)?;
        seek_offset(scanner, index.as_deref(), next)?;
    }
    Ok(())
}

struct TimeSearch {
    time: TimestampMs,
    start: Offset,
    limits: Limits,
    scratch: Scratch,
}

impl TimeSearch {
    /// The first record that fits, from where `scanner` stands.
    fn scan(&mut self, scanner: &mut Scanner) -> Result<Option<Offset>> {
        let mut damaged_from = None;
        loop {
            let before = scanner.next_offset();
            let position = match scanner.step()? {
                Step::Batch(_) => {
                    let found = scanner.batch().and_then(|b| self.first_in(&b));
                    let hidden = damaged_from.take();
                    match found {
                        Some(offset) => return Ok(Some(hidden.unwrap_or(offset))),
                        None => continue,
                    }
                }
                Step::End(end) => end.position,
                Step::Bad(bad) => bad.position,
            };
            let span = Span {
                base: scanner.base(),
                next: before,
                from: position + 1,
                end: scanner.end(),
            };
            match resync(&**scanner.file(), &span, &self.limits)? {
                Resync::Found(position, offset) => scanner.seek(position, offset),
                Resync::None | Resync::GaveUp(_) => return Ok(None),
            }
            damaged_from.get_or_insert(before.max(self.start));
        }
    }

    /// The first record of a batch that fits. Records that cannot be decoded are told of when they
    /// are read, so their batch counts.
    fn first_in(&mut self, batch: &Batch<'_>) -> Option<Offset> {
        let header = batch.header();
        if header.max_timestamp < self.time
            || header.last_offset < self.start
            || header.is_control()
        {
            return None;
        }
        let records = match batch.records(&mut self.scratch, &self.limits) {
            Ok(records) => records,
            Err(_) => return Some(header.base_offset.max(self.start)),
        };
        for record in records {
            match record {
                Ok(r) if r.timestamp >= self.time && r.offset >= self.start => {
                    return Some(r.offset);
                }
                Ok(_) => {}
                Err(_) => return Some(header.base_offset.max(self.start)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::reader::{Event, ReadOptions, Reader};
    use crate::log::testing::{Segment, TestLog};
    use crate::sys::RealHost;
    use proptest::prelude::*;

    /// A batch: gap before it, timestamps of its records, offsets that compaction removed behind them.
    type BatchPlan = (i64, Vec<i64>, i64);

    fn plans() -> impl Strategy<Value = Vec<Vec<BatchPlan>>> {
        let batch = (
            0i64..4,
            prop::collection::vec(0i64..1_000_000, 0..4),
            0i64..4,
        );
        prop::collection::vec(prop::collection::vec(batch, 0..30), 1..4)
    }

    /// How the indexes of a log are spoilt.
    #[derive(Clone, Debug)]
    enum Harm {
        None,
        Missing,
        Zeros(usize),
        Cut(usize),
        Flip(usize),
        Random(Vec<u8>),
        OfAnother,
    }

    fn harms() -> impl Strategy<Value = Harm> {
        prop_oneof![
            Just(Harm::None),
            Just(Harm::Missing),
            (1usize..9000).prop_map(Harm::Zeros),
            (1usize..100).prop_map(Harm::Cut),
            (0usize..4000).prop_map(Harm::Flip),
            prop::collection::vec(any::<u8>(), 0..200).prop_map(Harm::Random),
            Just(Harm::OfAnother),
        ]
    }

    fn spoil(mut index: Vec<u8>, harm: &Harm, other: Vec<u8>) -> Option<Vec<u8>> {
        match harm {
            Harm::None => {}
            Harm::Missing => return None,
            Harm::Zeros(n) => index.resize(index.len() + n, 0),
            Harm::Cut(n) => index.truncate(index.len().saturating_sub(*n)),
            Harm::Flip(bit) if !index.is_empty() => {
                let bit = bit % (index.len() * 8);
                index[bit / 8] ^= 1 << (bit % 8);
            }
            Harm::Flip(_) => {}
            Harm::Random(bytes) => index = bytes.clone(),
            Harm::OfAnother => index = other,
        }
        Some(index)
    }

    /// Builds the segment; gives each record's offset and timestamp.
    fn build(segment: Segment, plan: &[BatchPlan], next: &mut i64) -> (Segment, Vec<(i64, i64)>) {
        let (mut segment, mut records) = (segment, Vec::new());
        for (gap, times, removed) in plan {
            let first = *next + gap;
            let last = first + times.len() as i64 + removed;
            let words: Vec<String> = times.iter().map(|t| format!("v@{t}")).collect();
            segment = segment.gap_batch(first, last, &words.join(" "));
            records.extend(
                times
                    .iter()
                    .enumerate()
                    .map(|(i, t)| (first + i as i64, *t)),
            );
            *next = last + 1;
        }
        (segment, records)
    }

    fn offsets_from(view: &View, from: i64) -> Vec<i64> {
        let options = ReadOptions {
            limits: Limits::default(),
            skip_corrupt: false,
        };
        let mut r = Reader::new(
            Arc::new(RealHost),
            view.clone(),
            Offset(from)..Offset::MAX,
            options,
        );
        let (mut out, mut scratch) = (Vec::new(), Scratch::new());
        loop {
            match r.next().unwrap() {
                Event::Batch(p) => {
                    let wanted = p.wanted.clone();
                    let records = p.batch.records(&mut scratch, &Limits::default()).unwrap();
                    out.extend(
                        records
                            .map(|r| r.unwrap().offset)
                            .filter(|o| wanted.contains(o))
                            .map(|o| o.0),
                    );
                }
                Event::End => return out,
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
        #[test]
        fn seeks_find_what_a_scan_finds_whatever_the_indexes_say(
            plan in plans(),
            other in plans(),
            offset_harm in harms(),
            time_harm in harms(),
            probes in prop::collection::vec((0i64..400, 0i64..1_000_000), 6),
        ) {
            let (log, elsewhere) = (TestLog::new("t-0"), TestLog::new("t-0"));
            let (mut next, mut other_next, mut records) = (5, 5, Vec::new());
            for (i, batches) in plan.iter().enumerate() {
                let base = next;
                let (segment, made) = build(log.segment(base), batches, &mut next);
                let foreign = &other[i % other.len()];
                let (foreign, _) = build(elsewhere.segment(base), foreign, &mut other_next);
                let (o, t) = (segment.indexes(), foreign.indexes());
                records.extend(made);
                segment.write();
                if let Some(bytes) = spoil(o.0, &offset_harm, t.0) {
                    log.file(&format!("{base:020}.index"), &bytes);
                }
                if let Some(bytes) = spoil(o.1, &time_harm, t.1) {
                    log.file(&format!("{base:020}.timeindex"), &bytes);
                }
                other_next = next;
            }
            let mut view = View::of(log.open()).unwrap();
            prop_assert_eq!(view.end(Limits::default()).unwrap(), Offset(next));
            for (offset, time) in probes {
                let wanted: Vec<i64> = records.iter().map(|r| r.0).filter(|o| *o >= offset.max(5)).collect();
                prop_assert_eq!(offsets_from(&view, offset.max(5)), wanted);
                let first = records.iter().find(|r| r.1 >= time).map(|r| Offset(r.0));
                prop_assert_eq!(view.first_at(TimestampMs(time), Limits::default()).unwrap(), first);
            }
        }
    }

    #[test]
    fn a_view_of_an_empty_directory_is_empty() {
        let mut view = View::of(TestLog::new("t-0").open()).unwrap();
        assert_eq!(view.end(Limits::default()).unwrap(), Offset(0));
        assert_eq!(
            view.first_at(TimestampMs(5), Limits::default()).unwrap(),
            None
        );
    }

    #[test]
    fn a_torn_batch_is_not_the_end_although_it_is_indexed() {
        let log = TestLog::new("t-0");
        log.segment(0)
            .batch(0, "a")
            .batch(1, "b")
            .flip(1, 62)
            .index()
            .write();
        let view = View::of(log.open()).unwrap();
        assert_eq!(view.end(Limits::default()).unwrap(), Offset(1));
    }

    #[test]
    fn a_time_that_damage_may_hide_leads_to_the_damage() {
        let log = TestLog::new("t-0");
        log.segment(0)
            .batch(0, "a@1")
            .batch(1, "b@5")
            .batch(2, "c@9")
            .flip(1, 62)
            .write();
        let mut view = View::of(log.open()).unwrap();
        let mut at = |t| view.first_at(TimestampMs(t), Limits::default()).unwrap();
        assert_eq!(at(1), Some(Offset(0)));
        assert_eq!(at(7), Some(Offset(1)));
        assert_eq!(at(10), None);
    }

    #[test]
    fn records_below_the_log_start_are_not_found() {
        let log = TestLog::new("t-0");
        log.segment(0).batch(0, "a@9 b@5 c@7").write();
        log.log_start(1);
        let mut view = View::of(log.open()).unwrap();
        assert_eq!(view.start(), Offset(1));
        assert_eq!(
            view.first_at(TimestampMs(6), Limits::default()).unwrap(),
            Some(Offset(2))
        );
    }
}
