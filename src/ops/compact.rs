//! Keeping the newest value of each key: `compact`.
//!
//! Two passes. The first reads the log once and finds out which records are superseded
//! ([`survey`](self): one bit a record, exact keys in bounded memory); the second writes what stays
//! ([`copy`](self)), segment by segment, oldest first. Offsets, order and times of what stays never
//! change, and what has no key stays. A log in which nothing is superseded is read once and not
//! written to.
//!
//! | module | owns |
//! |---|---|
//! | `survey`, `keys` | which records stay |
//! | `txns` | which transactions were aborted, which are open |
//! | `fate` | what becomes of a batch |
//! | `copy` | new segments in the place of the old |
//!
//! Nothing at or above the first open transaction takes part, and with a minimum age nothing from the
//! first segment on that holds a younger record: neither goes, nor makes anything older go.
//!
//! Everything happens under the maintenance lock; appenders wait only while the active segment, if
//! anything in it changes, is sealed. What they append meanwhile stays as it is.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::lost::Lost;
use crate::log::maintenance::{self, Maintenance, MaintenanceOptions};
use crate::log::producers;
use crate::log::view::View;
use crate::ops::retain::age::Ages;
use crate::ops::retain::edge;
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::Host;

mod copy;
mod fate;
mod keys;
mod survey;
#[cfg(test)]
mod tests;
mod txns;

use copy::{Copier, Planned, are_small, content};
use fate::{Fate, Judge};
use survey::{Pace, Source, Survey, Terms};

/// How a log is to be compacted.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Records younger than this, in milliseconds, are spared; 0 spares none.
    pub min_age_ms: u64,
    /// How long a deletion stays visible, in milliseconds, from the first compaction that meets it.
    pub tombstone_age_ms: u64,
    /// Share of the records, 0 to 1, that must be superseded for anything to happen.
    pub min_dirty: f64,
    /// Versions of each key that stay, 1 or more.
    pub keep: usize,
    /// Memory for keys, in bytes.
    pub memory: usize,
    /// Largest segment to be written, in bytes.
    pub segment_bytes: u64,
}

/// What was done, or would be.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records that took part.
    pub records: u64,
    /// Those of them that went.
    pub removed: u64,
    /// Segments that were replaced.
    pub replaced: usize,
    /// By how many.
    pub by: usize,
    /// Bytes of the log before and after.
    pub bytes: (u64, u64),
    /// What recovery took out of the log.
    pub lost: Vec<Lost>,
}

/// What a compaction meets on its way.
pub struct Hooks<'a> {
    /// Called with bytes read or written.
    pub pace: &'a mut dyn FnMut(u64) -> Result<()>,
    /// Whether to end after the segment in hand.
    pub stop: &'a dyn Fn() -> bool,
}

/// Says what would go, without a lock and without a write.
///
/// # Errors
/// `Data`, naming the place, for damage; else what reading meets.
pub fn preview(host: &dyn Host, path: &Path, plan: &Plan, hooks: &mut Hooks<'_>) -> Result<Report> {
    let log = LogDir::open(host, path)?;
    maintenance::beside_others(|| {
        let survey = survey(host, &log, plan, hooks.pace)?;
        let planned = planned(host, &log, plan, &survey)?;
        let mut report = begin_report(&log, &survey)?;
        if !has_work(plan, &survey, &planned) {
            report.removed = 0;
        }
        report.replaced = planned.iter().filter(|p| p.changes).count();
        Ok(report)
    })
}

/// Compacts the log; durable on return. `None` if there was nothing to do.
///
/// # Errors
/// `Data`, naming the place, for damage, met before anything is changed; `Io` for a full disk: the
/// segment in hand is then left as it was. Else as [`Maintenance::open`].
pub fn run(
    host: &Arc<dyn Host>,
    path: &Path,
    plan: &Plan,
    options: &MaintenanceOptions,
    hooks: &mut Hooks<'_>,
) -> Result<Option<Report>> {
    let mut m = Maintenance::open(host, path, options)?;
    let log = m.log().clone();
    let Some(found) = survey_sound(host.as_ref(), &mut m, plan, hooks)? else {
        return Ok(None);
    };
    let mut planned = planned(host.as_ref(), &log, plan, &found)?;
    let mut report = begin_report(&log, &found)?;
    let end = m.settle()?;
    let active = active_base(&log)?;
    let reaches = planned.last().filter(|p| p.source.segment.base() == active);
    let first_free = match reaches {
        Some(last) if last.changes => m.roll()?,
        Some(_) => {
            planned.pop();
            active
        }
        None => active,
    };
    if let Some(last) = planned.last_mut() {
        last.end = next_base(&log, last.source.segment.base())?;
    }
    // What supersedes must outlive the machine before what is superseded goes; so must what the
    // snapshot speaks of.
    m.make_durable(end.max(first_free))?;
    keep_producers(&log, &found, &planned, first_free)?;
    let judge = Judge::new(now(host.as_ref()), horizon(host.as_ref(), plan));
    let mut copier = Copier::new(&m, &found, judge, plan.segment_bytes);
    let copied = copier.run(&planned, hooks.pace, hooks.stop);
    (report.replaced, report.by) = copier.replaced;
    let emptied = m.empty_tmp();
    copied.and(emptied)?;
    report.bytes.1 = bytes(&log)?;
    report.lost = m.take_lost();
    Ok(Some(report))
}

/// A survey of the log as recovery leaves it; `None` if there is nothing to do, and nothing was
/// written then.
fn survey_sound(
    host: &dyn Host,
    m: &mut Maintenance,
    plan: &Plan,
    hooks: &mut Hooks<'_>,
) -> Result<Option<Survey>> {
    let log = m.log().clone();
    let found = match survey(host, &log, plan, hooks.pace) {
        // Damage, or what a crash of the machine left: recovery can tell.
        Err(e) if e.kind() == ErrorKind::Data => None,
        found => Some(found?).filter(|found| found.odd_tail.is_none()),
    };
    let is_worth = |found: &Survey| -> Result<bool> {
        let planned = planned(host, &log, plan, found)?;
        Ok(has_work(plan, found, &planned) && !(hooks.stop)())
    };
    if let Some(found) = &found
        && !is_worth(found)?
    {
        return Ok(None);
    }
    let end = m.settle()?;
    if found.is_some() && !m.has_lost() {
        return Ok(found);
    }
    // A write was under way, a tail torn, or something that the survey went by was taken out.
    let again = survey(host, &log, plan, hooks.pace)?;
    if let Some(e) = again.odd_tail.filter(|_| again.end < end) {
        return Err(e);
    }
    let again = Survey {
        odd_tail: None,
        ..again
    };
    Ok(is_worth(&again)?.then_some(again))
}

fn now(host: &dyn Host) -> TimestampMs {
    TimestampMs(host.wall_ms())
}

fn horizon(host: &dyn Host, plan: &Plan) -> TimestampMs {
    let age = i64::try_from(plan.tombstone_age_ms).unwrap_or(i64::MAX);
    TimestampMs(host.wall_ms().saturating_add(age))
}

fn survey(host: &dyn Host, log: &LogDir, plan: &Plan, pace: Pace<'_>) -> Result<Survey> {
    let segments = log.segments()?;
    let taking_part = taking_part(host, log, plan, &segments)?;
    let seed = host
        .random_id()
        .map_err(|e| Error::io("no randomness", e))?;
    let seed = seed.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let terms = Terms {
        keep: plan.keep,
        memory: plan.memory,
        now: now(host),
        horizon: horizon(host, plan),
        seed,
    };
    let has_active = taking_part == segments.len();
    let segments = segments.get(..taking_part).unwrap_or_default();
    Survey::of(log, segments, has_active, &terms, pace)
}

/// How many segments hold nothing that is to be spared.
fn taking_part(
    host: &dyn Host,
    log: &LogDir,
    plan: &Plan,
    segments: &[SegmentRef],
) -> Result<usize> {
    if plan.min_age_ms == 0 {
        return Ok(segments.len());
    }
    let view = View::of(log.clone())?;
    let stretches = edge::stretches(&view, &Limits::default())?;
    let age = i64::try_from(plan.min_age_ms).unwrap_or(i64::MAX);
    let cutoff = TimestampMs(host.wall_ms().saturating_sub(age));
    let ages = Ages::new(&view, now(host), cutoff);
    let mut n = 0;
    for (i, s) in stretches.iter().enumerate() {
        if !ages.is_old(s, i + 1 == stretches.len())? {
            break;
        }
        n += 1;
    }
    Ok(n.min(segments.len()))
}

/// Which segments change.
fn planned<'a>(
    host: &dyn Host,
    log: &LogDir,
    plan: &Plan,
    survey: &'a Survey,
) -> Result<Vec<Planned<'a>>> {
    let mut judge = Judge::new(now(host), horizon(host, plan));
    let mut out: Vec<Planned<'a>> = Vec::new();
    for (i, source) in survey.sources.iter().enumerate() {
        let next = survey.sources.get(i + 1).map(|s| s.segment.base());
        let end = match next {
            Some(base) => base,
            None => next_base(log, source.segment.base())?,
        };
        let changes = match source.is_special {
            true => changes(log, survey, source, &mut judge)?,
            false => source.bare_tombstones || survey.live_in(source) < source.records,
        };
        out.push(Planned {
            source,
            end,
            changes,
        });
    }
    Ok(out)
}

/// Whether a batch of a segment does not stay as it is. An empty last one may go or stay, unless a
/// transaction would be told by it.
fn changes(log: &LogDir, survey: &Survey, source: &Source, judge: &mut Judge) -> Result<bool> {
    let place = |e: Error| e.at_path(log.path_of(&source.segment.log_name()));
    let span = Span::whole(source.segment.base(), source.len);
    let mut scanner = Scanner::new(Arc::clone(&source.file), span, Limits::default());
    let (mut scratch, mut ordinal) = (Scratch::new(), source.first);
    // An empty batch that goes was met: it may stay as the last one only.
    let (mut changes, mut went) = (false, false);
    while let Scan::Batch(batch, _) = scanner.next().map_err(place)? {
        if batch.header().base_offset >= survey.bound {
            break;
        }
        let content = content(survey, &batch, source, ordinal, &mut scratch)
            .map_err(|d| place(Error::data(d.reason)))?;
        ordinal += content.records;
        let fate = judge.judge(survey, &batch, content);
        let header = batch.header();
        let may_go = fate == Fate::Goes && header.count == 0 && !header.is_transactional();
        changes |= went || (fate != Fate::Stays && !may_go);
        went |= may_go;
    }
    Ok(changes)
}

fn has_work(plan: &Plan, survey: &Survey, planned: &[Planned<'_>]) -> bool {
    let share = survey.superseded() as f64 / survey.records.max(1) as f64;
    if share < plan.min_dirty {
        return false;
    }
    let changes = planned.iter().any(|p| p.changes);
    // The active one is not put together with others.
    let sealed = planned
        .get(..planned.len().saturating_sub(1))
        .unwrap_or_default();
    let pairs = sealed.iter().zip(sealed.iter().skip(1));
    changes
        || pairs
            .into_iter()
            .any(|(a, b)| are_small(a, b, plan.segment_bytes))
}

fn begin_report(log: &LogDir, survey: &Survey) -> Result<Report> {
    let before = bytes(log)?;
    Ok(Report {
        records: survey.records,
        removed: survey.superseded(),
        bytes: (before, before),
        ..Report::default()
    })
}

fn bytes(log: &LogDir) -> Result<u64> {
    let mut sum = 0;
    for segment in log.segments()? {
        let meta = log.dir().stat(&segment.log_name());
        let meta = meta.map_err(|e| Error::io("cannot stat", e).at_path(log.dir().path()))?;
        sum += meta.map_or(0, |m| m.len);
    }
    Ok(sum)
}

fn active_base(log: &LogDir) -> Result<Offset> {
    Ok(log
        .segments()?
        .last()
        .map_or(Offset::ZERO, SegmentRef::base))
}

/// Base offset of the segment after the one named after `base`; as far as can be for the last.
fn next_base(log: &LogDir, base: Offset) -> Result<Offset> {
    let segments = log.segments()?;
    let next = segments.iter().find(|s| s.base() > base);
    Ok(next.map_or(Offset::MAX, SegmentRef::base))
}

/// What idle producers did may be told by snapshots alone, and those of replaced segments go.
fn keep_producers(
    log: &LogDir,
    survey: &Survey,
    planned: &[Planned<'_>],
    active: Offset,
) -> Result<()> {
    if survey.producers.is_empty() && !log.has_snapshots()? {
        return Ok(());
    }
    let going: Vec<SegmentRef> = planned.iter().map(|p| p.source.segment).collect();
    match producers::to_keep_before_deletion(log, &going, active, active)? {
        Some(state) => state.write_snapshot(log, active),
        None => Ok(()),
    }
}
