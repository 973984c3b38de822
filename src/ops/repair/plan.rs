//! What is to be done to a log, found out by reading alone.

use super::Loss;
use super::scan::{Cut, Piece, Scan, Strand, scan};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checkpoint::EpochStart;
use crate::format::index::RELATIVE_MAX;
use crate::format::names::{self, FileName, Kind, State};
use crate::format::{Limits, Offset, Position};
use crate::log::end::{self, End};
use crate::log::files;
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::ops::throttle::Throttle;
use crate::ops::verify::segment::{Report as Checked, Task, Torn, check};
use crate::ops::verify::{Env, Severity, beside, gaps};
use crate::segment::active::RELATIVE_OFFSET_MAX;
use crate::segment::scan::{Scanner, Span, Step};
use crate::sys::{File, Host};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often segments may go while they are looked at.
const RETRIES_MAX: usize = 16;
/// How long half a batch at the end may be one that is being written. Cutting it is left to recovery
/// under the append lock anyway; this is about what is told.
const SETTLE: Duration = Duration::from_millis(if cfg!(test) { 0 } else { 500 });
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(10);
/// Nobody is at work on a file that was last written longer ago than this.
const QUIET_MS: i64 = 5_000;

/// A segment as it was looked at.
pub struct Looked {
    /// Which one.
    pub segment: SegmentRef,
    /// How long its log file was.
    pub len: Position,
    /// Its parts; for a segment with nothing wrong in its log, all of it as one.
    pub scan: Scan,
    /// It has no damage in its log.
    pub is_sound: bool,
    /// Its offset or time index lies.
    pub lying_index: bool,
    /// Its transaction index lies.
    pub lying_txns: bool,
    /// It begins inside the segments before it.
    pub overlaps: bool,
    /// Zeros stand behind its data.
    pub zeros: bool,
    /// Offsets inside it are missing.
    pub has_gaps: bool,
}

/// Something that goes to lost+found.
#[derive(Clone, Debug)]
pub struct TakenOut {
    /// Which of [`Plan::segments`] it lies in.
    pub at: usize,
    /// Where.
    pub bytes: Range<Position>,
    /// First offset it may have held.
    pub offset: Offset,
    /// Why.
    pub reason: String,
}

/// Sealed segments that become one.
#[derive(Clone, Debug)]
pub struct Rewrite {
    /// Which of [`Plan::segments`].
    pub run: Range<usize>,
    /// What it is made of, in the order of offsets: segment, piece.
    pub pieces: Vec<(usize, Piece)>,
    /// The offset that an empty batch at the end is to carry.
    pub filler: Option<Offset>,
}

/// What happens at the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Keep,
    /// Ordinary recovery cuts a torn tail.
    Cut,
    /// A new segment begins here.
    NewSegment(Offset),
}

/// Everything that is to be done.
pub struct Plan {
    /// The segments as readers see them.
    pub segments: Vec<Looked>,
    /// Leftovers of replacements, and indexes without a log.
    pub leftovers: Vec<FileName>,
    /// Committed replacements that are damaged.
    pub bad_swaps: Vec<FileName>,
    /// A sync failed.
    pub failed: bool,
    /// What goes to lost+found in part.
    pub taken_out: Vec<TakenOut>,
    /// Sealed segments to be replaced.
    pub rewrites: Vec<Rewrite>,
    /// Sealed segments that go to lost+found whole.
    pub moved: Vec<usize>,
    /// What happens at the end.
    pub tail: Tail,
    /// Segments whose offset and time index are made anew.
    pub indexes: BTreeSet<usize>,
    /// Segments whose transaction index is made anew.
    pub txns: BTreeSet<usize>,
    /// Producer snapshots that are removed, and whether they are made anew.
    pub snapshots: Vec<(Offset, bool)>,
    /// Look-up indexes that are damaged, which go: `logd index` makes them anew.
    pub lookups: Vec<String>,
    /// The leader epochs as they should be.
    pub epochs: Option<Vec<EpochStart>>,
    /// D is published past the end: after a reboot the gaps below it would look like lost tails.
    pub raise_durable: bool,
    /// Gaps between segments that are noted, so that they are known.
    pub gaps: Vec<Range<Offset>>,
    /// What could not be kept.
    pub lost: Vec<Loss>,
    /// What is wrong and left as it is.
    pub left: Vec<(PathBuf, String)>,
    /// D, and the end hint.
    pub end: End,
}

/// Looks at everything.
///
/// # Errors
/// `Data` if not even the directory can be understood; else what reading may meet.
pub fn make(host: &dyn Host, log: &LogDir, limits: Limits) -> Result<Plan> {
    // Without a lock, segments may go or be replaced meanwhile.
    for _ in 0..RETRIES_MAX {
        match make_once(host, log, limits) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            made => return made,
        }
    }
    make_once(host, log, limits)
}

fn make_once(host: &dyn Host, log: &LogDir, limits: Limits) -> Result<Plan> {
    let fail = |e| Error::io("cannot look into .logd", e).at_path(log.dir().path());
    let (end, failed) = match log.dir().open_dir(files::LOGD_DIR) {
        Ok(dir) => (
            end::read(&*dir).map_err(fail)?,
            dir.stat(files::FAILED).map_err(fail)?.is_some(),
        ),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => (End::default(), false),
        Err(e) => return Err(fail(e)),
    };
    let throttle = Throttle::new(None);
    let env = Env {
        host,
        log,
        limits,
        throttle: &throttle,
        end,
    };
    let mut plan = Plan {
        segments: Vec::new(),
        leftovers: beside::leftovers_now(&env)?,
        bad_swaps: Vec::new(),
        failed,
        taken_out: Vec::new(),
        rewrites: Vec::new(),
        moved: Vec::new(),
        tail: Tail::Keep,
        indexes: BTreeSet::new(),
        txns: BTreeSet::new(),
        snapshots: Vec::new(),
        lookups: Vec::new(),
        epochs: None,
        raise_durable: false,
        gaps: Vec::new(),
        lost: Vec::new(),
        left: Vec::new(),
        end,
    };
    let segments = log.segments()?;
    let reports = look(&env, &segments)?;
    let start = log.start_offset(&segments)?;
    let epoch = plan.take_apart(&env, &segments, reports)?;
    plan.settle_strays();
    plan.missing(&env)?;
    plan.decide(start);
    plan.derived();
    plan.look_beside(&env, epoch)?;
    Ok(plan)
}

impl Looked {
    /// Opens its log file. It is not kept open: a log may have more segments than a process may have
    /// files.
    ///
    /// # Errors
    /// As [`LogDir::open_file`].
    pub fn open(&self, log: &LogDir) -> Result<Arc<dyn File>> {
        log.open_file(&self.segment.log_name())
    }
}

/// How far a segment's log file counts, and what a check of it came to.
type Counted = (Position, Checked);

/// Checks every segment, some at once.
fn look(env: &Env<'_>, segments: &[SegmentRef]) -> Result<Vec<Counted>> {
    let pool = rayon::ThreadPoolBuilder::new().build();
    let pool = pool.map_err(|e| Error::io("cannot start threads", std::io::Error::other(e)))?;
    let last = segments.last().map(|s| s.base());
    let one = |s: &SegmentRef| {
        let file = env.log.open_file(&s.log_name())?;
        let end = end_of(&*file)?;
        let task = Task {
            segment: *s,
            file: file.clone(),
            end,
            is_tail: Some(s.base()) == last,
            full: true,
            wanted: Offset(i64::MIN)..Offset::MAX,
        };
        let mut report = check(env, &task)?;
        let written = match &report.torn {
            Some(torn) => appended_since(env, &file, s.base(), torn)?,
            None => None,
        };
        if written.is_some() {
            report.torn = None;
        }
        Ok((written.unwrap_or(end), report))
    };
    pool.install(|| segments.par_iter().map(one).collect())
}

/// What was no whole batch at the end may have been one that was being written: where it begins, if
/// it is whole by now.
fn appended_since(
    env: &Env<'_>,
    file: &Arc<dyn File>,
    base: Offset,
    torn: &Torn,
) -> Result<Option<Position>> {
    let fail = |e| Error::io("cannot stat", e);
    let began = Instant::now();
    let written = file.meta().map_err(fail)?.mtime_ms;
    let recent = env.host.wall_ms().saturating_sub(written).abs() < QUIET_MS;
    while recent && began.elapsed() < SETTLE {
        std::thread::sleep(PAUSE);
        let span = Span {
            base,
            next: torn.next,
            from: torn.position,
            end: end_of(&**file)?,
        };
        if let Step::Batch(_) = Scanner::new(file.clone(), span, env.limits).step()? {
            return Ok(Some(torn.position));
        }
    }
    Ok(None)
}

/// Every batch and every damaged place of a segment whose first offset should be `from` or above.
fn scan_of(env: &Env<'_>, segment: &SegmentRef, from: Offset, len: Position) -> Result<Scan> {
    let name = segment.log_name();
    let file = env.log.open_file(&name)?;
    scan(&file, segment.base(), from, len, env.limits)
        .map_err(|e| e.at_path(env.log.path_of(&name)))
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let nothing = self.leftovers.is_empty()
            && self.bad_swaps.is_empty()
            && self.taken_out.is_empty()
            && self.rewrites.is_empty()
            && self.moved.is_empty()
            && self.indexes.is_empty()
            && self.txns.is_empty()
            && self.snapshots.is_empty()
            && self.lookups.is_empty()
            && self.gaps.is_empty();
        nothing
            && !self.failed
            && !self.raise_durable
            && self.tail == Tail::Keep
            && self.epochs.is_none()
    }

    /// Takes apart what is not sound; the largest leader epoch and where it begins.
    fn take_apart(
        &mut self,
        env: &Env<'_>,
        segments: &[SegmentRef],
        reports: Vec<Counted>,
    ) -> Result<Option<(i32, Offset)>> {
        let (mut reached, mut epoch) = (None::<Offset>, None::<(i32, Offset)>);
        let mut txns = crate::ops::verify::indexes::Transactions::default();
        for (i, (segment, (len, report))) in segments.iter().zip(reports).enumerate() {
            let base = segment.base();
            let next_base = segments.get(i + 1).map(|s| s.base());
            let lies = |kinds: &[Kind]| {
                let mine = |k: &Kind| env.log.path_of(&segment.index_name(*k));
                let names: Vec<PathBuf> = kinds.iter().map(mine).collect();
                report
                    .findings
                    .iter()
                    .any(|f| f.severity == Severity::Problem && names.contains(&f.path))
            };
            let overlaps = reached.is_some_and(|r| r > base && report.first.is_some_and(|f| f < r));
            let hole = report.zeros && next_base.is_some_and(|n| n > report.end);
            let crosses = next_base.is_some_and(|n| report.end > n);
            let damaged =
                lies(&[Kind::Log]) || report.torn.is_some() || overlaps || hole || crosses;
            if damaged && segment.log.state == State::Swap {
                self.bad_swaps.push(segment.log);
            }
            let mut scan = match damaged {
                true => scan_of(env, segment, reached.unwrap_or(base), len)?,
                false => whole(&report, base, len),
            };
            if hole && scan.home.cuts.is_empty() {
                scan.home.cuts.push(Cut {
                    bytes: scan.home.data_end..len,
                    offsets: scan.home.end..Offset::MAX,
                    reason: "zeros where data was".to_string(),
                    is_last: true,
                    is_whole: false,
                });
            }
            if let Some(next) = next_base {
                scan.home.disown_last(next);
            }
            let lying_txns = lies(&[Kind::TxnIndex]) || !txns.join(report.txns).is_empty();
            if report
                .epoch
                .is_some_and(|(e, _)| epoch.is_none_or(|(f, _)| e > f))
            {
                epoch = report.epoch;
            }
            reached = Some(reached.unwrap_or(base).max(scan.home.end).max(base));
            let ahead = crate::ops::verify::ahead(env, segment, &report.beyond)?;
            let lying_index = lies(&[Kind::OffsetIndex, Kind::TimeIndex]) || !ahead.is_empty();
            self.segments.push(Looked {
                segment: *segment,
                len,
                scan,
                is_sound: !damaged,
                lying_index,
                lying_txns,
                overlaps,
                zeros: report.zeros,
                has_gaps: report.has_gaps,
            });
        }
        Ok(epoch)
    }

    fn next_base(&self, i: usize) -> Option<Offset> {
        self.segments.get(i + 1).map(|s| s.segment.base())
    }

    /// Gaps between segments that nothing explains: what was there is lost. Those beside damage are
    /// the damage's.
    fn missing(&mut self, env: &Env<'_>) -> Result<()> {
        let (mut gaps, mut reached) = (Vec::new(), None::<Offset>);
        let damaged = self
            .segments
            .iter()
            .any(|s| !s.is_sound || !s.scan.strays.is_empty());
        for s in &self.segments {
            let base = s.segment.base();
            gaps.extend(reached.filter(|r| *r < base).map(|r| r..base));
            reached = Some(reached.unwrap_or(base).max(s.scan.home.end));
        }
        let has_others = damaged || self.segments.iter().any(|s| s.has_gaps);
        for gap in gaps::unexplained(env, gaps, has_others)? {
            let behind = self
                .segments
                .iter()
                .position(|s| s.segment.base() == gap.end);
            self.lost.push(Loss {
                offsets: gap.clone(),
                file: behind.map_or_else(String::new, |i| self.name(i)),
                reason: "what was before it is missing".to_string(),
            });
            self.gaps.push(gap);
        }
        Ok(())
    }

    /// Finds a home for batches that lie in the wrong file; the others are taken out.
    fn settle_strays(&mut self) {
        let mut taken: Vec<Range<Offset>> = self
            .segments
            .iter()
            .flat_map(|s| s.scan.home.pieces.iter().map(|p| p.offsets.clone()))
            .collect();
        let bases: Vec<Offset> = self.segments.iter().map(|s| s.segment.base()).collect();
        for i in 0..self.segments.len() {
            let strays = match self.segments.get_mut(i) {
                Some(s) => std::mem::take(&mut s.scan.strays),
                None => continue,
            };
            let mut kept = Vec::new();
            for stray in strays {
                let home = stray.offsets().and_then(|offsets| {
                    let free = taken
                        .iter()
                        .all(|t| offsets.end <= t.start || t.end <= offsets.start);
                    let home = bases
                        .partition_point(|b| *b <= offsets.start)
                        .checked_sub(1)?;
                    let run = home.min(i)..home.max(i) + 1;
                    (free && self.fits(&run)).then_some(offsets)
                });
                match home {
                    Some(offsets) => {
                        taken.push(offsets);
                        kept.push(stray);
                    }
                    None => self.take_out_stray(i, stray),
                }
            }
            if let Some(s) = self.segments.get_mut(i) {
                s.scan.strays = kept;
            }
        }
    }

    /// Whether these segments can become one.
    fn fits(&self, run: &Range<usize>) -> bool {
        let mine = self.segments.get(run.clone()).unwrap_or_default();
        let bytes: u64 = mine.iter().map(|s| s.scan.home.data_end.0).sum();
        let first = mine.first().map_or(Offset::ZERO, |s| s.segment.base());
        let end = mine.iter().map(|s| s.scan.home.end).max().unwrap_or(first);
        bytes < u64::from(RELATIVE_MAX) && end - first <= RELATIVE_OFFSET_MAX
    }

    fn take_out_stray(&mut self, at: usize, stray: Strand) {
        let file = self.name(at);
        for piece in stray.pieces {
            self.lost.push(Loss {
                offsets: piece.offsets.clone(),
                file: file.clone(),
                reason: "it lies behind batches of higher offsets, and its own are taken"
                    .to_string(),
            });
        }
        for cut in stray.cuts {
            self.lost.push(Loss {
                offsets: cut.offsets,
                file: file.clone(),
                reason: cut.reason,
            });
        }
    }

    /// Decides what happens to each segment and to the end.
    fn decide(&mut self, start: Offset) {
        let last = self.segments.len().checked_sub(1);
        let durable = self.end.durable.unwrap_or(Offset::ZERO);
        let end = self
            .segments
            .iter()
            .map(|s| s.scan.home.end)
            .max()
            .unwrap_or(start)
            .max(start);
        let mut runs: Vec<Range<usize>> = Vec::new();
        let bases: Vec<Offset> = self.segments.iter().map(|s| s.segment.base()).collect();
        let torn = last.is_some_and(|i| self.is_torn(i, durable));
        for (i, s) in self.segments.iter().enumerate() {
            let mut run = i..i + 1;
            for offsets in s.scan.strays.iter().filter_map(Strand::offsets) {
                let home = bases
                    .partition_point(|b| *b <= offsets.start)
                    .saturating_sub(1);
                run = run.start.min(home)..run.end.max(home + 1);
            }
            let bad = !s.scan.home.cuts.is_empty() || run.len() > 1 || !s.scan.strays.is_empty();
            if bad && !(torn && Some(i) == last) {
                runs.push(run);
            }
        }
        let runs = joined(runs);
        let highest = self.end.hint.map_or(Offset::ZERO, |h| h.highest);
        let ends_low = durable > end;
        let rewritten = last.is_some_and(|i| runs.iter().any(|r| r.contains(&i)));
        let floor = if self.failed || ends_low || rewritten {
            highest
        } else {
            Offset::ZERO
        };
        let begin = end.max(durable).max(floor);
        let is_there = last.and_then(|i| bases.get(i)) == Some(&begin);
        self.tail = match (self.failed || ends_low || rewritten, torn) {
            (true, _) if !is_there => Tail::NewSegment(begin),
            (_, true) => Tail::Cut,
            _ => Tail::Keep,
        };
        if ends_low && !rewritten {
            self.lost.push(Loss {
                offsets: end..durable,
                file: last.map_or_else(String::new, |i| self.name(i)),
                reason: "the log ends here, but they were durable".to_string(),
            });
        }
        for run in runs {
            self.rewrite(run, begin);
        }
        if let (Tail::Cut, Some(i)) = (self.tail, last) {
            self.cut_tail(i, durable);
        }
        self.cut_gaps();
        let kept = self.kept();
        self.lost = std::mem::take(&mut self.lost)
            .into_iter()
            .flat_map(|l| without(l, &kept))
            .collect();
        self.lost.sort_by_key(|l| l.offsets.start);
    }

    /// Whether nothing is wrong with the active segment but a tail that nobody was promised.
    fn is_torn(&self, i: usize, durable: Offset) -> bool {
        let Some(s) = self.segments.get(i) else {
            return false;
        };
        let home = &s.scan.home;
        let only = match home.cuts.as_slice() {
            [cut] => cut.is_last && !cut.is_whole && cut.offsets.start >= durable,
            _ => false,
        };
        only && !s.overlaps && s.scan.strays.is_empty() && !self.failed && !s.is_sound
    }

    fn cut_tail(&mut self, i: usize, durable: Offset) {
        let Some(cut) = self
            .segments
            .get(i)
            .and_then(|s| s.scan.home.cuts.first())
            .cloned()
        else {
            return;
        };
        // Above D nothing was promised, and half a batch never was one.
        let promised = durable == Offset::ZERO && cut.reason != "the file ends inside a batch";
        let file = self.name(i);
        if promised {
            self.lost.push(Loss {
                offsets: cut.offsets.clone(),
                file,
                reason: cut.reason.clone(),
            });
        }
        self.take_out(i, &cut);
    }

    fn take_out(&mut self, at: usize, cut: &Cut) {
        self.taken_out.push(TakenOut {
            at,
            bytes: cut.bytes.clone(),
            offset: cut.offsets.start,
            reason: cut.reason.clone(),
        });
    }

    /// What is intact in a run; everything else in it is taken out.
    fn gather(&mut self, run: &Range<usize>, begin: Offset) -> Vec<(usize, Piece)> {
        let mut pieces: Vec<(usize, Piece)> = Vec::new();
        for i in run.clone() {
            let (Some(s), file) = (self.segments.get(i), self.name(i)) else {
                continue;
            };
            let strands = || std::iter::once(&s.scan.home).chain(&s.scan.strays);
            pieces.extend(strands().flat_map(|t| &t.pieces).map(|p| (i, p.clone())));
            let cuts: Vec<Cut> = strands().flat_map(|t| &t.cuts).cloned().collect();
            let bound = self.next_base(i).unwrap_or(begin);
            let kept: Vec<Range<Position>> = pieces
                .iter()
                .filter(|(j, _)| *j == i)
                .map(|(_, p)| p.bytes.clone())
                .collect();
            for mut cut in cuts {
                if cut.offsets.end == Offset::MAX {
                    cut.offsets.end = bound.max(cut.offsets.start);
                }
                self.lost.push(Loss {
                    offsets: cut.offsets.clone(),
                    file: file.clone(),
                    reason: cut.reason.clone(),
                });
                // A stray lies inside the last cut of the strand before it.
                let inside = kept
                    .iter()
                    .find(|k| k.start >= cut.bytes.start && k.start < cut.bytes.end);
                if let Some(stray) = inside {
                    cut.bytes.end = stray.start;
                }
                if !cut.bytes.is_empty() {
                    self.take_out(i, &cut);
                }
            }
        }
        pieces
    }

    /// Plans the replacement of a run; `begin` is where the segment behind the last one begins.
    fn rewrite(&mut self, run: Range<usize>, begin: Offset) {
        let next_base = self.next_base(run.end - 1).unwrap_or(begin);
        let mut before = Offset::ZERO;
        for i in 0..run.start {
            before = before.max(
                self.segments
                    .get(i)
                    .map_or(Offset::ZERO, |s| s.scan.home.end),
            );
        }
        let mut pieces = self.gather(&run, begin);
        pieces.sort_by_key(|(_, p)| p.offsets.start);
        let end = pieces.last().map_or(Offset::ZERO, |(_, p)| p.offsets.end);
        let lone = run.len() == 1;
        if pieces.is_empty() && lone && before >= next_base {
            self.taken_out.retain(|t| t.at != run.start);
            self.moved.push(run.start);
            return;
        }
        let base = self
            .segments
            .get(run.start)
            .map_or(Offset::ZERO, |s| s.segment.base());
        let tail_lost = run
            .end
            .checked_sub(1)
            .and_then(|i| self.segments.get(i))
            .is_some_and(|s| {
                let last = |t: &Strand| {
                    t.cuts.last().is_some_and(|c| {
                        t.pieces.last().is_none_or(|p| p.bytes.end <= c.bytes.start)
                    })
                };
                last(&s.scan.home) || !s.scan.strays.is_empty()
            });
        let want = next_base.0.saturating_sub(1);
        let room = want >= end.0.max(base.0).max(before.0) && want - base.0 <= RELATIVE_OFFSET_MAX;
        let filler = (room && (tail_lost || pieces.is_empty())).then_some(Offset(want));
        self.rewrites.push(Rewrite {
            run,
            pieces,
            filler,
        });
    }

    /// Gaps above D after a reboot: what was there is lost, what follows is kept.
    fn cut_gaps(&mut self) {
        let Some(durable) = self.end.durable else {
            return;
        };
        let mut reached: Option<Offset> = None;
        for i in 0..self.segments.len() {
            let (Some(s), file) = (self.segments.get(i), self.name(i)) else {
                continue;
            };
            let base = s.segment.base();
            let rewritten = i
                .checked_sub(1)
                .is_some_and(|i| self.rewrites.iter().any(|r| r.run.contains(&i)));
            if let Some(r) = reached
                .filter(|r| *r < base && base > durable && base - *r <= RELATIVE_OFFSET_MAX + 1)
            {
                self.raise_durable = true;
                if !rewritten {
                    self.lost.push(Loss {
                        offsets: r..base,
                        file,
                        reason: "what was before it is gone".to_string(),
                    });
                }
            }
            reached = Some(reached.unwrap_or(base).max(s.scan.home.end));
        }
    }

    /// Offsets that some segment still holds.
    fn kept(&self) -> Vec<Range<Offset>> {
        let moved = |i: &usize| self.moved.contains(i);
        let all = self.segments.iter().enumerate().filter(|(i, _)| !moved(i));
        let strands = all.flat_map(|(_, s)| std::iter::once(&s.scan.home).chain(&s.scan.strays));
        strands
            .flat_map(|t| t.pieces.iter().map(|p| p.offsets.clone()))
            .collect()
    }

    /// Indexes that lie, of segments that are not made anew anyway.
    fn derived(&mut self) {
        let last = self.segments.len().saturating_sub(1);
        for (i, s) in self.segments.iter().enumerate() {
            let gone = self.moved.contains(&i) || self.rewrites.iter().any(|r| r.run.contains(&i));
            let sealed_now = i == last && matches!(self.tail, Tail::NewSegment(_));
            if !gone && (s.lying_index || sealed_now) {
                self.indexes.insert(i);
            }
            if !gone && s.lying_txns {
                self.txns.insert(i);
            }
        }
    }

    /// Snapshots, epochs, and what only a person can mend.
    fn look_beside(&mut self, env: &Env<'_>, epoch: Option<(i32, Offset)>) -> Result<()> {
        let end = match self.tail {
            Tail::NewSegment(begin) => begin,
            _ => self
                .segments
                .iter()
                .map(|s| s.scan.home.end)
                .max()
                .unwrap_or(Offset::ZERO),
        };
        let mut epochs_lie = false;
        for finding in beside::check_files(env, Some(end), epoch)? {
            let name = finding
                .path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            let parsed = names::parse(name).filter(|n| n.kind == Kind::Snapshot);
            if finding.severity == Severity::Warning {
                continue;
            } else if let Some(snapshot) = parsed {
                let entry = (snapshot.base, snapshot.base <= end);
                if !self.snapshots.contains(&entry) {
                    self.snapshots.push(entry);
                }
            } else if name == names::LEADER_EPOCH_CHECKPOINT {
                epochs_lie = true;
            } else if name != files::FAILED {
                self.left.push((finding.path, finding.reason));
            }
        }
        for finding in beside::lookups(env, false)? {
            let name = finding.path.file_name().and_then(|n| n.to_str());
            self.lookups.extend(name.map(str::to_string));
        }
        if epochs_lie {
            self.epochs = Some(super::derived::epochs(env, &self.segments, end)?);
        }
        Ok(())
    }

    /// Name of a segment's log file.
    pub fn name(&self, at: usize) -> String {
        self.segments
            .get(at)
            .map(|s| s.segment.log_name())
            .unwrap_or_default()
    }
}

/// A segment without damage, as one piece.
fn whole(report: &Checked, base: Offset, len: Position) -> Scan {
    let bytes = Position(0)..Position(report.bytes);
    let piece = report.first.map(|first| Piece {
        bytes,
        offsets: first..report.end,
    });
    let home = Strand {
        pieces: piece.into_iter().collect(),
        cuts: Vec::new(),
        end: report.end.max(base),
        data_end: Position(report.bytes).min(len),
        last: None,
    };
    Scan {
        home,
        strays: Vec::new(),
    }
}

/// Runs that touch no other.
fn joined(mut runs: Vec<Range<usize>>) -> Vec<Range<usize>> {
    runs.sort_by_key(|r| r.start);
    let mut out: Vec<Range<usize>> = Vec::new();
    for run in runs {
        match out.last_mut().filter(|l| run.start < l.end) {
            Some(last) => last.end = last.end.max(run.end),
            None => out.push(run),
        }
    }
    out
}

/// What of a loss is in none of these ranges.
fn without(loss: Loss, kept: &[Range<Offset>]) -> Vec<Loss> {
    let mut left = vec![loss.offsets.clone()];
    for k in kept {
        left = left
            .into_iter()
            .flat_map(|l| [l.start..l.end.min(k.start), l.start.max(k.end)..l.end])
            .filter(|l| l.start < l.end)
            .collect();
    }
    left.sort_by_key(|l| l.start);
    left.dedup();
    let of = |offsets| Loss {
        offsets,
        ..loss.clone()
    };
    left.into_iter().map(of).collect()
}
