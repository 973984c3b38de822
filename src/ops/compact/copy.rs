//! The second pass of a compaction: what stays, in new segments.
//!
//! Segments in which nothing changes are left alone, except that small neighbours are put together.
//! The others are written anew, as many into one as its size allows. How much of the next segment
//! stays is not known before it has been written; if it turns out too much, the output is cut back to
//! where that one began. So what could be put together has been, and compacting again changes nothing.
//!
//! A replacement must carry the last offset of what it replaces: if the last batch goes, an empty one
//! takes its place.
//!
//! Oldest first, one replacement after another: an older value is gone before its tombstone is.

use std::sync::Arc;

use super::fate::{Content, Fate, Judge};
use super::survey::{Pace, Source, Survey, damage};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::names::Kind;
use crate::format::rewrite::Rewriter;
use crate::format::{Defect, Limits, Offset};
use crate::log::listing::SegmentRef;
use crate::log::maintenance::Maintenance;
use crate::log::rewritten::{self, Reason};
use crate::log::swap::{self, Mark, Output};
use crate::segment::active::RELATIVE_OFFSET_MAX;
use crate::segment::scan::{Scan, Scanner, Span};

/// A source and whether anything in it changes.
pub struct Planned<'a> {
    /// The segment.
    pub source: &'a Source,
    /// Base offset of the next one.
    pub end: Offset,
    /// A batch of it does not stay as it is.
    pub changes: bool,
}

/// Writes a log anew.
pub struct Copier<'a> {
    m: &'a Maintenance,
    survey: &'a Survey,
    judge: Judge,
    segment_bytes: u64,
    group: Option<Group>,
    /// An unchanged segment that the next one may be put behind.
    lead: Option<usize>,
    rewriter: Rewriter,
    scratch: Scratch,
    buf: Vec<u8>,
    /// Segments replaced, and by how many.
    pub replaced: (usize, usize),
    /// Bytes of the replacements.
    pub bytes: u64,
}

/// An output and what it replaces.
struct Group {
    out: Output,
    sources: Vec<SegmentRef>,
    /// The last batch so far, if it went.
    tail: Option<BatchHeader>,
    mtime_ms: i64,
    end: Offset,
    /// Only unchanged segments so far: nothing is lost if it comes to nothing.
    is_plain: bool,
}

impl<'a> Copier<'a> {
    /// A copier for outputs of at most `segment_bytes`, if they replace more than one segment.
    pub fn new(m: &'a Maintenance, survey: &'a Survey, judge: Judge, segment_bytes: u64) -> Self {
        Copier {
            m,
            survey,
            judge,
            segment_bytes,
            group: None,
            lead: None,
            rewriter: Rewriter::default(),
            scratch: Scratch::new(),
            buf: Vec::new(),
            replaced: (0, 0),
            bytes: 0,
        }
    }

    /// Goes over all segments, oldest first. `stop` is asked before each.
    ///
    /// # Errors
    /// `Data` for damage, else what the system answers, and `pace`; the log is whole in any case.
    pub fn run(
        &mut self,
        plan: &[Planned<'_>],
        pace: Pace<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        for i in 0..plan.len() {
            if stop() {
                break;
            }
            self.take(plan, i, pace)?;
        }
        // What only puts segments together is worth finishing too: it is written already.
        self.close(pace)
    }

    fn take(&mut self, plan: &[Planned<'_>], i: usize, pace: Pace<'_>) -> Result<()> {
        let Some(next) = plan.get(i) else {
            return Ok(());
        };
        let len = next.source.len;
        if let Some(group) = &self.group {
            let fits = next.changes || group.out.bytes() + len <= self.segment_bytes;
            if fits && self.join(next, pace)? {
                return Ok(());
            }
            self.close(pace)?;
        }
        if let Some(lead) = self.lead.take().and_then(|l| plan.get(l)) {
            if next.changes && !is_wide(lead.source.segment.base(), next)
                || are_small(lead, next, self.segment_bytes)
            {
                let judge = self.judge.clone();
                self.begin(lead, pace)?;
                if self.join(next, pace)? {
                    return Ok(());
                }
                // It stays as it is, then.
                self.group = None;
                self.judge = judge;
            }
            self.observe(lead)?;
        }
        match next.changes {
            true => self.begin(next, pace),
            false if len <= self.segment_bytes / 2 => {
                self.lead = Some(i);
                Ok(())
            }
            false => self.observe(next),
        }
    }

    /// Begins an output with a segment.
    fn begin(&mut self, next: &Planned<'_>, pace: Pace<'_>) -> Result<()> {
        let mut out = Output::begin(self.m, next.source.segment.base())?;
        if self.has_txn_indexes()? {
            out.want_txn_index();
        }
        let mut group = Group {
            out,
            sources: Vec::new(),
            tail: None,
            mtime_ms: 0,
            end: next.end,
            is_plain: true,
        };
        self.stream(&mut group, next, None, pace)?;
        self.group = Some(group);
        Ok(())
    }

    /// Whether any segment has a transaction index: what may be replaced is not known yet.
    fn has_txn_indexes(&self) -> Result<bool> {
        let dir = self.m.log().dir();
        for segment in self.m.segments()? {
            let there = dir.stat(&segment.index_name(Kind::TxnIndex));
            if there.map_err(|e| self.m.error("cannot stat", e))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a segment behind what the group has; false, and nothing changed, if it gets too large.
    fn join(&mut self, next: &Planned<'_>, pace: Pace<'_>) -> Result<bool> {
        let Some(mut group) = self.group.take() else {
            return Ok(false);
        };
        if is_wide(group.out.base(), next) {
            self.group = Some(group);
            return Ok(false);
        }
        let (mark, judge, tail) = (group.out.mark()?, self.judge.clone(), group.tail.clone());
        let fits = self.stream(&mut group, next, Some(self.segment_bytes), pace)?;
        if !fits {
            self.undo(&mut group, mark, judge, tail)?;
        }
        self.group = Some(group);
        Ok(fits)
    }

    fn undo(
        &mut self,
        group: &mut Group,
        mark: Mark,
        judge: Judge,
        tail: Option<BatchHeader>,
    ) -> Result<()> {
        group.out.rewind(mark)?;
        (self.judge, group.tail) = (judge, tail);
        Ok(())
    }

    /// Judges the batches of a segment that stays as it is, where that matters for what follows.
    fn observe(&mut self, next: &Planned<'_>) -> Result<()> {
        if !next.source.is_special {
            return Ok(());
        }
        let (m, survey) = (self.m, self.survey);
        let mut walk = Batches::of(next.source);
        while let Some(batch) = walk.next(m)? {
            if batch.header().base_offset < survey.bound {
                let content = Content {
                    records: 1,
                    live: 1,
                    live_tombstone: false,
                };
                self.judge.judge(survey, &batch, content);
            }
        }
        Ok(())
    }

    /// Copies what stays of a segment; false as soon as the output is larger than `bytes_max`.
    fn stream(
        &mut self,
        group: &mut Group,
        next: &Planned<'_>,
        bytes_max: Option<u64>,
        pace: Pace<'_>,
    ) -> Result<bool> {
        let (m, survey) = (self.m, self.survey);
        let mut ordinal = next.source.first;
        let mut walk = Batches::of(next.source);
        while let Some(batch) = walk.next(m)? {
            let size = batch.header().size as u64;
            let at = batch.header().base_offset;
            let done = self.batch(survey, group, &batch, next.source, &mut ordinal)?;
            done.map_err(|d| {
                let name = next.source.segment.log_name();
                damage(m.log(), &name, Error::data(d.reason).at_offset(at.0))
            })?;
            pace(size)?;
            if bytes_max.is_some_and(|max| group.out.bytes() > max) {
                return Ok(false);
            }
        }
        group.sources.push(next.source.segment);
        group.mtime_ms = next.source.mtime_ms;
        group.end = next.end;
        group.is_plain &= !next.changes;
        Ok(true)
    }

    /// Copies what stays of a batch. The inner result is a defect of the batch.
    fn batch(
        &mut self,
        survey: &Survey,
        group: &mut Group,
        batch: &Batch<'_>,
        source: &Source,
        ordinal: &mut u64,
    ) -> Result<std::result::Result<(), Defect>> {
        let header = batch.header();
        if header.base_offset >= survey.bound {
            self.note_abort(survey, group, header);
            group.tail = None;
            return group.out.put(header, batch.bytes()).map(Ok);
        }
        let content = match content(survey, batch, source, *ordinal, &mut self.scratch) {
            Ok(content) => content,
            Err(defect) => return Ok(Err(defect)),
        };
        let first = *ordinal;
        *ordinal += content.records;
        let horizon = match self.judge.judge(survey, batch, content) {
            Fate::Stays => {
                self.note_abort(survey, group, header);
                group.tail = None;
                return group.out.put(header, batch.bytes()).map(Ok);
            }
            Fate::Goes => {
                group.tail = Some(header.clone());
                return Ok(Ok(()));
            }
            Fate::Empties => None,
            Fate::Changes(horizon) => horizon,
        };
        self.note_abort(survey, group, header);
        self.buf.clear();
        let live = |i: u64| header.is_control() || survey.live.is_set(first + i);
        match rewrite(
            &mut self.rewriter,
            &mut self.scratch,
            batch,
            horizon,
            live,
            &mut self.buf,
        ) {
            Ok(header) => {
                group.tail = None;
                group.out.put(&header, &self.buf).map(Ok)
            }
            Err(defect) => Ok(Err(defect)),
        }
    }

    /// An abort marker that stays has its entry in the transaction index.
    fn note_abort(&self, survey: &Survey, group: &mut Group, header: &BatchHeader) {
        let transactions = survey.transactions.as_ref().filter(|_| header.is_control());
        if let Some(entry) = transactions.and_then(|t| t.entry(header.last_offset)) {
            group.out.add_txn(entry);
        }
    }

    /// Puts the output in the place of its sources.
    fn close(&mut self, pace: Pace<'_>) -> Result<()> {
        let Some(mut group) = self.group.take() else {
            return Ok(());
        };
        if group.is_plain && group.sources.len() < 2 {
            return Ok(());
        }
        if let Some(last) = &group.tail {
            self.buf.clear();
            // Nothing of a transaction or of a producer: those have their own.
            let bare = BatchHeader {
                producer_id: -1,
                producer_epoch: -1,
                base_sequence: -1,
                attributes: 0,
                ..last.clone()
            };
            let empty = self.rewriter.begin(&bare, last.base_offset, None);
            let header = empty
                .finish(&mut self.buf)
                .map_err(|d| Error::data(d.reason))?;
            group.out.put(&header, &self.buf)?;
        }
        let base = group.out.base();
        let built = group.out.finish(group.mtime_ms)?;
        pace(built.bytes())?;
        rewritten::add(self.m.logd_dir().as_ref(), Reason::Compact, base..group.end)?;
        swap::replace(self.m, &built, &group.sources)?;
        self.replaced.0 += group.sources.len();
        self.replaced.1 += 1;
        self.bytes += built.bytes();
        Ok(())
    }
}

/// Whether offsets would not fit a segment that begins at `base` and ends in `next`.
fn is_wide(base: Offset, next: &Planned<'_>) -> bool {
    next.end - base > RELATIVE_OFFSET_MAX
}

/// Whether two segments in which nothing changes are worth putting together: both fill half of one.
pub fn are_small(first: &Planned<'_>, next: &Planned<'_>, segment_bytes: u64) -> bool {
    !first.changes
        && !next.changes
        && first.source.len + next.source.len <= segment_bytes / 2
        && !is_wide(first.source.segment.base(), next)
}

/// The batches of a sealed segment.
struct Batches<'a> {
    source: &'a Source,
    scanner: Option<Scanner>,
}

impl<'a> Batches<'a> {
    fn of(source: &'a Source) -> Batches<'a> {
        let scanner = None;
        Batches { source, scanner }
    }

    fn next(&mut self, m: &Maintenance) -> Result<Option<Batch<'_>>> {
        let name = self.source.segment.log_name();
        let place = |e: Error| e.at_path(m.log().path_of(&name));
        if self.scanner.is_none() {
            // To its end as it is now: the active one may have grown before it was sealed.
            let file = Arc::clone(&self.source.file);
            let len = file.len().map_err(|e| place(Error::io("cannot stat", e)))?;
            let span = Span::whole(self.source.segment.base(), len);
            self.scanner = Some(Scanner::new(file, span, Limits::default()));
        }
        let Some(scanner) = &mut self.scanner else {
            return Ok(None);
        };
        match scanner.next().map_err(place)? {
            Scan::Batch(batch, _) => Ok(Some(batch)),
            Scan::End(_) => Ok(None),
            Scan::Bad(bad) => {
                let at = bad.position.0 + bad.defect.at as u64;
                let e = Error::data(bad.defect.reason).at_position(at);
                Err(damage(m.log(), &name, e))
            }
        }
    }
}

/// How many records a batch has, and what of them stays.
pub fn content(
    survey: &Survey,
    batch: &Batch<'_>,
    source: &Source,
    first: u64,
    scratch: &mut Scratch,
) -> std::result::Result<Content, Defect> {
    let header = batch.header();
    if header.is_control() {
        return Ok(Content {
            records: 0,
            live: 0,
            live_tombstone: false,
        });
    }
    let known = u64::try_from(header.count).ok();
    let live = known.map(|n| survey.live.count(first, n));
    // Only where there are such tombstones is it worth a look.
    if let (Some(records), Some(live)) = (known, live)
        && (!source.bare_tombstones || live == 0)
    {
        return Ok(Content {
            records,
            live,
            live_tombstone: false,
        });
    }
    let mut content = Content {
        records: 0,
        live: 0,
        live_tombstone: false,
    };
    for record in batch.records(scratch, &Limits::default())? {
        let record = record?;
        if survey.live.is_set(first + content.records) {
            content.live += 1;
            content.live_tombstone |= record.key.is_some() && record.value.is_none();
        }
        content.records += 1;
    }
    Ok(content)
}

/// Writes a batch again with the records that `live` names by their place in it.
fn rewrite(
    rewriter: &mut Rewriter,
    scratch: &mut Scratch,
    batch: &Batch<'_>,
    horizon: Option<crate::format::TimestampMs>,
    live: impl Fn(u64) -> bool,
    out: &mut Vec<u8>,
) -> std::result::Result<BatchHeader, Defect> {
    let header = batch.header();
    let mut base = header.base_offset;
    let limits = Limits::default();
    if header.magic < 2 {
        // Only the messages in a wrapper tell where it begins.
        let first = batch.records(scratch, &limits)?.next().transpose()?;
        base = first.map_or(base, |r| r.offset);
    }
    let mut rewriting = rewriter.begin(header, base, horizon);
    for (i, record) in (0..).zip(batch.records(scratch, &limits)?) {
        let record = record?;
        if live(i) {
            rewriting.push(&record)?;
        }
    }
    rewriting.finish(out)
}
