//! Forgetting the oldest of a log: `retain`.
//!
//! A limit says where the log may begin: its [`Edge`]. What lies wholly before it goes in whole
//! segments, oldest first; the segment that it falls into stays, or with `exact` is replaced by one
//! that begins there. Of several limits the one that takes most counts, and nothing of that is past
//! what a group has read, if groups are to be respected.
//!
//! | limit | a segment may go when |
//! |---|---|
//! | age | its newest record is older (one from the future counts as its file's age) |
//! | bytes, records | those behind it alone are as many as the limit |
//! | before | it ends there or earlier |
//! | log start | a broker has moved the log start past it: always |
//!
//! The active segment never goes: if it holds something to delete it is sealed first, and then judged
//! like the others. Sizes and names are enough for most limits; age reads a few batch headers of a
//! segment where its time index bears out, else all of them ([`age`]).
//!
//! First comes a plan without a lock: a log with nothing to do is not written to.

use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::index::{TxnEntry, entries};
use crate::format::names::Kind;
use crate::format::rewrite::Rewriter;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::lost::Lost;
use crate::log::maintenance::{Maintenance, MaintenanceOptions};
use crate::log::producers;
use crate::log::rewritten::{self, Reason};
use crate::log::swap::{self, Output};
use crate::log::view::View;
use crate::log::{end, files, groups, maintenance};
use crate::ops::span;
use crate::ops::words::Pos;
use crate::segment::scan::{Scan, Scanner, Span};
use crate::sys::Host;

pub(super) mod age;
pub(super) mod edge;
#[cfg(test)]
mod tests;

pub use edge::Edge;
use edge::Stretch;

/// How far the wall clock may run ahead of the boot clock before ages are not believed.
const CLOCK_JUMP_MS: i64 = 3_600_000;
/// Largest transaction index that is read: some two million aborted transactions.
const TXN_INDEX_BYTES_MAX: u64 = 64 << 20;

/// What may go.
#[derive(Clone, Debug, Default)]
pub struct Bounds {
    /// Records older than this many milliseconds.
    pub age_ms: Option<u64>,
    /// What is before the newest bytes.
    pub bytes: Option<u64>,
    /// What is before the newest records.
    pub records: Option<u64>,
    /// What is before this place.
    pub before: Option<Pos>,
    /// Keep what any group has not read.
    pub respect_groups: bool,
    /// Cut the segment that a limit falls into.
    pub exact: bool,
    /// Believe ages after a jump of the clock.
    pub force: bool,
}

impl Bounds {
    /// Whether no limit is set.
    pub fn is_empty(&self) -> bool {
        let Bounds {
            age_ms,
            bytes,
            records,
            before,
            ..
        } = self;
        age_ms.is_none() && bytes.is_none() && records.is_none() && before.is_none()
    }
}

/// A segment that goes, or the part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// First offset of the range.
    pub from: Offset,
    /// Behind its last one.
    pub to: Offset,
    /// Bytes of its log; for a part, an estimate is not made: `None`.
    pub bytes: Option<u64>,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Each segment, oldest first; the part of one last.
    pub gone: Vec<Gone>,
    /// Log start afterwards.
    pub start: Offset,
    /// Segments with timestamps from the future: base offset and timestamp.
    pub future: Vec<(Offset, TimestampMs)>,
    /// What recovery took out of the log.
    pub lost: Vec<Lost>,
}

/// The log as it is, and what of it may go.
struct Plan {
    stretches: Vec<Stretch>,
    edge: Edge,
    start: Offset,
    future: Vec<(Offset, TimestampMs)>,
}

impl Plan {
    /// Whether the active segment holds something to delete.
    fn reaches_active(&self) -> bool {
        let active = self.stretches.len().saturating_sub(1);
        self.edge.segment > active || (self.edge.segment == active && self.edge.is_inside)
    }

    fn has_work(&self, exact: bool) -> bool {
        let whole = self.edge.segment > 0;
        !self.stretches.is_empty()
            && (whole || (exact && self.edge.is_inside) || self.reaches_active())
    }
}

/// Says what would go, without a lock and without a write.
///
/// # Errors
/// `Config` after a jump of the clock, `NotFound` for a place outside the log; else what reading
/// meets.
pub fn preview(host: &dyn Host, path: &Path, bounds: &Bounds) -> Result<Report> {
    let log = LogDir::open(host, path)?;
    maintenance::beside_others(|| {
        let plan = plan(host, log.clone(), bounds)?;
        Ok(report(&plan, bounds))
    })
}

/// Removes what may go; durable on return. `None` if there was nothing to do.
///
/// # Errors
/// As [`preview`] and [`Maintenance::open`]; `Data` for damage in a segment that is to be cut. What
/// was removed by then stays removed.
pub fn run(
    host: &Arc<dyn Host>,
    path: &Path,
    bounds: &Bounds,
    options: &MaintenanceOptions,
) -> Result<Option<Report>> {
    let log = LogDir::open(host.as_ref(), path)?;
    let has_work = |log: &LogDir| -> Result<bool> {
        Ok(plan(host.as_ref(), log.clone(), bounds)?.has_work(bounds.exact))
    };
    // A segment that went meanwhile, perhaps: who holds the lock knows.
    let first = match has_work(&log) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        other => Some(other?),
    };
    let may_have_work = first != Some(false);
    if !may_have_work && !maintenance::has_leftovers(&log)? {
        return Ok(None);
    }
    let mut m = Maintenance::open(host, path, options)?;
    if !may_have_work || (first.is_none() && !has_work(m.log())?) {
        return Ok(None);
    }
    m.settle()?;
    let mut now = plan(host.as_ref(), m.log().clone(), bounds)?;
    if now.reaches_active() {
        m.roll()?;
        now = plan(host.as_ref(), m.log().clone(), bounds)?;
    }
    // Appended meanwhile, and past a limit already: next time.
    let sealed = now.stretches.len().saturating_sub(1);
    if now.edge.segment > sealed {
        now.edge = Edge::before(sealed);
    }
    if now.edge.segment == sealed {
        now.edge.is_inside = false;
    }
    let mut report = report(&now, bounds);
    if !report.gone.is_empty() {
        delete_whole(&m, &now)?;
    }
    if bounds.exact && now.edge.is_inside {
        let cut = cut_first(&m, &now);
        if cut.is_err() {
            let _ = m.empty_tmp();
        }
        report.start = cut?;
    }
    report.lost = m.take_lost();
    Ok(Some(report))
}

/// What a plan removes, in words.
fn report(plan: &Plan, bounds: &Bounds) -> Report {
    let gone = |s: &Stretch| Gone {
        from: s.segment.base(),
        to: s.end,
        bytes: Some(s.bytes),
    };
    let whole = plan.stretches.get(..plan.edge.segment).unwrap_or_default();
    let mut report = Report {
        gone: whole.iter().map(gone).collect(),
        future: plan.future.clone(),
        ..Report::default()
    };
    let first = plan.stretches.get(plan.edge.segment);
    let end = plan.stretches.last().map_or(plan.start, |s| s.end);
    report.start = first.map_or(end, |s| s.segment.base()).max(plan.start);
    if let Some(s) = first.filter(|_| bounds.exact && plan.edge.is_inside) {
        let (from, to) = (
            s.segment.base(),
            plan.edge.offset.unwrap_or(s.segment.base()),
        );
        let bytes = None;
        report.gone.push(Gone { from, to, bytes });
        report.start = to;
    }
    report
}

fn plan(host: &dyn Host, log: LogDir, bounds: &Bounds) -> Result<Plan> {
    let mut view = View::of(log)?;
    let limits = Limits::default();
    let stretches = edge::stretches(&view, &limits)?;
    let start = view.start();
    let mut future = Vec::new();
    let mut edge = edge::at_offset(&stretches, start, false);
    let exact = bounds.exact;
    if let Some(ms) = bounds.age_ms {
        refuse_after_a_jump(host, &view, bounds.force)?;
        let now = TimestampMs(host.wall_ms());
        let cutoff = TimestampMs(now.0.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)));
        let ages = age::Ages::new(&view, now, cutoff);
        edge = edge.max(ages.edge(&stretches, exact, &mut future)?);
    }
    if let Some(bytes) = bounds.bytes {
        edge = edge.max(edge::by_bytes(&view, &stretches, bytes, exact)?);
    }
    if let Some(records) = bounds.records {
        edge = edge.max(edge::by_records(&view, &stretches, records, exact)?);
    }
    if let Some(pos) = bounds.before {
        let at = match pos {
            Pos::Offset(n) if Offset(n) < start => start,
            pos => span::place(&mut view, pos, false, limits)?,
        };
        edge = edge.max(edge::at_offset(&stretches, at, true));
    }
    if bounds.respect_groups
        && let Some(read) = smallest_position(view.log())?
    {
        edge = edge.min(edge::at_offset(&stretches, read, true));
    }
    // An empty active segment stays, whatever it lies before.
    let empty = stretches.last().filter(|s| s.end == s.segment.base());
    if empty.is_some() && edge.segment == stretches.len() {
        edge = Edge::before(stretches.len() - 1);
    }
    Ok(Plan {
        stretches,
        edge,
        start,
        future,
    })
}

/// The offset that every group has read up to; `None` without groups.
fn smallest_position(log: &LogDir) -> Result<Option<Offset>> {
    let own = match log.dir().open_dir(files::LOGD_DIR) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| Error::io("cannot open .logd", e).at_path(log.dir().path()))?,
    };
    let all = groups::positions(own.as_ref())?;
    Ok(all.into_iter().map(|(_, at)| at).min())
}

/// After the wall clock jumped ahead of the boot clock, everything looks old.
fn refuse_after_a_jump(host: &dyn Host, view: &View, force: bool) -> Result<()> {
    let place = view.log().dir().path();
    let Ok(own) = view.log().dir().open_dir(files::LOGD_DIR) else {
        return Ok(());
    };
    let end = end::read(own.as_ref())
        .map_err(|e| Error::io("cannot read .logd/end", e).at_path(place))?;
    let Some(hint) = end.hint.filter(|h| h.is_of(host.boot_id()) && !force) else {
        return Ok(());
    };
    let wall = host.wall_ms().saturating_sub(hint.wall_ms);
    let boot = host.boot_ms().saturating_sub(hint.boot_ms);
    if wall.saturating_sub(boot) <= CLOCK_JUMP_MS {
        return Ok(());
    }
    let hours = wall.saturating_sub(boot) / CLOCK_JUMP_MS;
    let why = format!(
        "the clock has jumped {hours}h ahead since the last append; nothing is deleted by age"
    );
    Err(Error::new(ErrorKind::Config, why)
        .at_path(place)
        .hint("date            (if it is right: --force)"))
}

/// Deletes the whole segments before the edge, after the state of their producers is in a snapshot
/// that stays. On a full disk that finds room only after.
fn delete_whole(m: &Maintenance, plan: &Plan) -> Result<()> {
    let segments: Vec<SegmentRef> = plan.stretches.iter().map(|s| s.segment).collect();
    let touched = plan.edge.segment + usize::from(plan.edge.is_inside);
    let (Some(kept), Some(active)) = (segments.get(touched), segments.last()) else {
        return Err(Error::new(ErrorKind::Bug, "the active segment never goes"));
    };
    let going = segments.get(..touched).unwrap_or_default();
    let whole = segments.get(..plan.edge.segment).unwrap_or_default();
    let at = active.base();
    let state = producers::to_keep_before_deletion(m.log(), going, kept.base(), at)?;
    let kept = state.as_ref().map(|s| s.write_snapshot(m.log(), at));
    if state.is_some() || m.log().has_snapshots()? {
        // A snapshot counts only if the log reaches it, after a power cut too.
        m.make_durable(at)?;
    }
    if !whole.is_empty() {
        swap::delete_oldest(m, whole)?;
    }
    match (kept, state) {
        (Some(Err(_)), Some(state)) => state.write_snapshot(m.log(), at),
        _ => Ok(()),
    }
}

/// Replaces the first segment by one that begins at the edge, and renames it so. Returns the offset
/// of the first batch kept.
fn cut_first(m: &Maintenance, plan: &Plan) -> Result<Offset> {
    let bug = || Error::new(ErrorKind::Bug, "nothing to cut");
    let stretch = plan.stretches.get(plan.edge.segment).ok_or_else(bug)?;
    let (segment, at) = (stretch.segment, plan.edge.offset.ok_or_else(bug)?);
    let log = m.log();
    let place = log.path_of(&segment.log_name());
    if at > stretch.end {
        // A wrapper of magic 0 or 1 holds larger offsets than its own: what to keep cannot be told.
        let why = format!(
            "offset {at} lies in the next segment, which begins at {}",
            stretch.end
        );
        return Err(Error::data(why).at_path(&place));
    }
    let file = log.open_file(&segment.log_name())?;
    let meta = file
        .meta()
        .map_err(|e| Error::io("cannot stat", e).at_path(&place))?;
    let span = Span::whole(segment.base(), meta.len);
    let mut scanner = Scanner::new(file, span, Limits::default());
    let mut out = Output::begin(m, segment.base())?;
    let mut rewriter = Rewriter::default();
    let mut buf = Vec::new();
    let mut first = None;
    loop {
        match scanner.next().map_err(|e| e.at_path(&place))? {
            Scan::End(_) => break,
            Scan::Bad(bad) => {
                let at = bad.position.0 + bad.defect.at as u64;
                let e = Error::data(bad.defect.reason)
                    .at_path(&place)
                    .at_position(at);
                return Err(e.hint(format!("logd repair {}", m.path().display())));
            }
            Scan::Batch(batch, _) if batch.header().last_offset < at => {}
            Scan::Batch(batch, _) if first.is_some() => out.put(batch.header(), batch.bytes())?,
            Scan::Batch(batch, position) => {
                let cut = cut_batch(&batch, at, &mut rewriter, &mut buf, &mut out);
                let cut = cut.map_err(|e| e.at_path(&place).at_position(position.0))?;
                first = Some(cut);
            }
        }
    }
    let Some(first) = first else {
        // Nothing but a gap from there on.
        swap::delete_oldest(m, &[segment])?;
        m.empty_tmp()?;
        return Ok(stretch.end);
    };
    copy_txns(m, &segment, first, &mut out)?;
    let built = out.finish(meta.mtime_ms)?;
    rewritten::add(
        m.logd_dir().as_ref(),
        Reason::Retain,
        segment.base()..stretch.end,
    )?;
    swap::replace(m, &built, &[segment])?;
    swap::rename_base(m, segment.base(), first)?;
    Ok(first)
}

/// The aborted transactions of a segment, for the one that replaces it from `first` on.
fn copy_txns(m: &Maintenance, segment: &SegmentRef, first: Offset, out: &mut Output) -> Result<()> {
    let name = segment.index_name(Kind::TxnIndex);
    let bytes = match m.log().open_optional(&name)? {
        Some(file) => read_small(file.as_ref(), TXN_INDEX_BYTES_MAX)
            .map_err(|e| e.at_path(m.log().path_of(&name)))?,
        None => return Ok(()),
    };
    out.want_txn_index();
    let kept = entries::<TxnEntry>(&bytes).filter(|e| e.last_offset >= first);
    kept.for_each(|e| out.add_txn(e));
    Ok(())
}

/// Puts the batch that holds `at`, without what is before. Returns its base offset.
fn cut_batch(
    batch: &Batch<'_>,
    at: Offset,
    rewriter: &mut Rewriter,
    buf: &mut Vec<u8>,
    out: &mut Output,
) -> Result<Offset> {
    let data = |d: crate::format::Defect| Error::data(d.reason);
    if batch.header().base_offset >= at && batch.header().magic >= 2 {
        out.put(batch.header(), batch.bytes())?;
        return Ok(batch.header().base_offset);
    }
    let (limits, mut scratch) = (Limits::default(), Scratch::new());
    let mut base = batch.header().last_offset;
    for record in batch.records(&mut scratch, &limits).map_err(data)? {
        let offset = record.map_err(data)?.offset;
        if offset >= at {
            base = offset;
            break;
        }
    }
    let mut rewriting = rewriter.begin(batch.header(), base, batch.header().delete_horizon());
    for record in batch.records(&mut scratch, &limits).map_err(data)? {
        let record = record.map_err(data)?;
        if record.offset >= base {
            rewriting.push(&record).map_err(data)?;
        }
    }
    buf.clear();
    let header = rewriting.finish(buf).map_err(data)?;
    out.put(&header, buf)?;
    Ok(header.base_offset)
}
