//! Is a log sound: every checksum, every record, offset order, each file beside a segment against it.
//!
//! Reads only, takes no lock, and judges the log as of its start: what writers, retention and
//! compaction do meanwhile is no damage. A finding that could come of such work is looked at again
//! before it is told:
//!
//! | found | told if |
//! |---|---|
//! | something wrong in a sealed segment | its files are still the same ones, and no replacement is under way |
//! | a batch at the end that is not whole | it still is not after a moment, or nobody has written for long |
//! | files of a half-done replacement, indexes without a log | they are still there after a moment |
//!
//! What is *not* wrong: zeros to the end of a file, an index that lags behind or has zeros behind its
//! entries, an active segment without one, `.deleted` files, gaps between offsets (compaction leaves
//! them).
//!
//! | module | owns |
//! |---|---|
//! | [`segment`] | one segment: batches, records, its indexes |
//! | [`indexes`] | what each kind of index promises |
//! | [`records`] | records, checked on another core |
//! | [`beside`] | snapshots, checkpoints, leftovers, our own files |
//! | [`gaps`] | gaps between segments that nothing explains |
//! | [`digest`] | hashes, to compare copies |
//!
//! Memory: per core two chunks of 1 MiB, a window, and the indexes of one segment.

pub mod beside;
pub mod digest;
pub mod gaps;
pub mod indexes;
pub mod records;
pub mod segment;

use crate::error::{Error, ErrorKind, Result};
use crate::format::names::Kind;
use crate::format::{Limits, Offset};
use crate::log::broker::flushed_since;
use crate::log::end::{self, End};
use crate::log::files;
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::log::view::View;
use crate::ops::span;
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::ops::words;
use crate::segment::scan::{Scanner, Span, Step};
use crate::sys::{File, Host, Meta};
use indexes::Transactions;
use rayon::{ThreadPool, ThreadPoolBuilder};
use segment::{Report, Task, Torn};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Segments that are checked at once, for each thread.
const SEGMENTS_A_THREAD: usize = 2;
/// How often segments may change under the check before that is an error.
const RETRIES_MAX: usize = 256;
/// How long something half done may stay as it is before it is told.
const SETTLE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 2_000 });
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(20);
/// Nobody is at work on a file that was last written longer ago than this.
const QUIET_MS: i64 = 5_000;

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only batches that hold one of these offsets, and no files beside the segments.
    pub range: Option<words::Range>,
    /// Headers only, but for the last segment.
    pub quick: bool,
    /// Most bytes read a second.
    pub rate: Option<u64>,
    /// Bounds on what is read.
    pub limits: Limits,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The log is not sound.
    Problem,
    /// Odd, and nothing that repair could or should change.
    Warning,
}

/// Something that is not as it should be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// In which file.
    pub path: PathBuf,
    /// At which byte of it.
    pub position: u64,
    /// At which offset of the log, where that is known.
    pub offset: Option<Offset>,
    /// What is wrong.
    pub reason: String,
    /// How bad it is.
    pub severity: Severity,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Segments looked at.
    pub segments: u64,
    /// Intact batches.
    pub batches: u64,
    /// Sound records; in segments of which only headers were read, what these claim.
    pub records: u64,
    /// Bytes of intact batches.
    pub bytes: u64,
    /// Problems told.
    pub problems: u64,
}

/// Where findings go.
pub type Sink<'s> = dyn FnMut(&Finding) -> Result<()> + 's;

/// What a check of one log works with.
pub struct Env<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The partition.
    pub log: &'a LogDir,
    /// Bounds on what is read.
    pub limits: Limits,
    /// `--rate`.
    pub throttle: &'a Throttle,
    /// D, and the end hint.
    pub end: End,
}

impl Env<'_> {
    /// A problem at a byte of a file of the partition.
    pub fn finding(&self, name: &str, position: u64, reason: impl Into<String>) -> Finding {
        Finding {
            path: self.log.path_of(name),
            position,
            offset: None,
            reason: reason.into(),
            severity: Severity::Problem,
        }
    }

    /// An oddity.
    pub fn warning(&self, name: &str, position: u64, reason: impl Into<String>) -> Finding {
        Finding {
            severity: Severity::Warning,
            ..self.finding(name, position, reason)
        }
    }
}

/// Checks one partition; tells what is wrong as it is found, in the order of the log.
///
/// # Errors
/// `NotFound` if there is no such log, or the range is not in it; the sink's own; else what reading
/// may meet. Damage is no error.
pub fn verify(
    host: &dyn Host,
    partition: &Partition,
    options: &Options,
    throttle: &Throttle,
    sink: &mut Sink<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Summary> {
    let log = LogDir::open(host, &partition.path)?;
    let end = match log.dir().open_dir(files::LOGD_DIR) {
        Ok(dir) => end::read(&*dir),
        Err(_) => Ok(End::default()), // none of ours, or not to be seen by us
    };
    let end = end.map_err(|e| Error::io("cannot read .logd/end", e).at_path(log.dir().path()))?;
    let env = Env {
        host,
        log: &log,
        limits: options.limits,
        throttle,
        end,
    };
    let mut view = match View::of(log.clone()) {
        Err(e) if e.kind() == ErrorKind::Data => {
            let mut job = Job::new(&env, options, sink, progress);
            job.told_by(e)?;
            return Ok(job.summary);
        }
        view => view?,
    };
    let wanted = match &options.range {
        Some(range) => span::resolve(&mut view, range, false, options.limits)?,
        None => Offset(i64::MIN)..Offset::MAX,
    };
    let mut job = Job::new(&env, options, sink, progress);
    job.run(&mut view, &wanted)?;
    Ok(job.summary)
}

/// One call of [`verify`].
struct Job<'a, 's, 'k> {
    env: &'a Env<'a>,
    options: &'a Options,
    sink: &'k mut Sink<'s>,
    progress: &'k mut dyn FnMut(u64, u64),
    summary: Summary,
    txns: Transactions,
    /// The largest leader epoch so far, and the first offset that has it.
    epoch: Option<(i32, Offset)>,
    /// Offset behind the segments so far, once there is one.
    reached: Option<Offset>,
    /// Zeros end the last of them.
    zeros: bool,
    /// Gaps between segments, with the name of the one behind.
    gaps: Vec<(String, Range<Offset>)>,
    /// Offsets are missing inside segments too.
    has_gaps: bool,
}

impl<'a, 's, 'k> Job<'a, 's, 'k> {
    fn new(
        env: &'a Env<'a>,
        options: &'a Options,
        sink: &'k mut Sink<'s>,
        progress: &'k mut dyn FnMut(u64, u64),
    ) -> Job<'a, 's, 'k> {
        Job {
            env,
            options,
            sink,
            progress,
            summary: Summary::default(),
            txns: Transactions::default(),
            epoch: None,
            reached: None,
            zeros: false,
            gaps: Vec::new(),
            has_gaps: false,
        }
    }

    fn run(&mut self, view: &mut View, wanted: &Range<Offset>) -> Result<()> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|e| Error::io("cannot start threads", std::io::Error::other(e)))?;
        self.sealed(view, wanted, &pool, threads * SEGMENTS_A_THREAD)?;
        let end = self.tail(view, wanted, &pool)?;
        if self.options.range.is_none() {
            self.tell_gaps()?;
            for finding in beside::check(self.env, end, self.epoch)? {
                self.tell(&finding)?;
            }
            for finding in beside::lookups(self.env, self.options.quick)? {
                self.tell(&finding)?;
            }
        }
        Ok(())
    }

    /// Every sealed segment, some at once.
    fn sealed(
        &mut self,
        view: &mut View,
        wanted: &Range<Offset>,
        pool: &ThreadPool,
        at_once: usize,
    ) -> Result<()> {
        let mut next = view.sealed_at(wanted.start);
        let mut retries = 0;
        while let Some(first) = next.filter(|s| s.base() < wanted.end) {
            let mut group = vec![first];
            while let Some(s) = group.last().and_then(|s| view.sealed_after(s.base())) {
                if group.len() == at_once || s.base() >= wanted.end {
                    break;
                }
                group.push(s);
            }
            let before = fingerprint(self.env, &group)?;
            let reports = self.check_group(&group, wanted, pool);
            let suspicious = self.is_suspicious(view, &group, &reports);
            let again = match reports {
                // Deleted or replaced since it was listed.
                Err(e) if e.kind() == ErrorKind::NotFound => true,
                Err(e) => return Err(e),
                Ok(reports) if suspicious && !self.is_settled(&group, &before)? => {
                    drop(reports);
                    true
                }
                Ok(reports) => {
                    for (segment, report) in group.iter().zip(reports) {
                        self.take(segment, report)?;
                    }
                    false
                }
            };
            if !again {
                (next, retries) = (group.last().and_then(|s| view.sealed_after(s.base())), 0);
                continue;
            }
            retries += 1;
            if retries > RETRIES_MAX {
                let why = "segments change faster than they can be checked";
                return Err(Error::data(why).at_path(self.env.log.dir().path()));
            }
            view.relist()?;
            next = view.sealed_at(first.base());
            if next.is_some_and(|n| n.base() < first.base()) {
                self.reached = None; // one that was looked at before took in what follows
            }
            if self.reached.is_some_and(|r| r < view.start()) {
                self.reached = None; // retention went past what was looked at
            }
        }
        Ok(())
    }

    fn check_group(
        &self,
        group: &[SegmentRef],
        wanted: &Range<Offset>,
        pool: &ThreadPool,
    ) -> Result<Vec<Report>> {
        use rayon::prelude::*;
        let (env, full) = (self.env, !self.options.quick);
        let check = |s: &SegmentRef| {
            let file = env.log.open_file(&s.log_name())?;
            let end = end_of(&*file)?;
            let task = Task {
                segment: *s,
                file,
                end,
                is_tail: false,
                full,
                wanted: wanted.clone(),
            };
            segment::check(env, &task)
        };
        pool.install(|| group.par_iter().map(check).collect())
    }

    /// Whether there is something to tell of these segments, so that it matters if they changed.
    fn is_suspicious(
        &self,
        view: &View,
        group: &[SegmentRef],
        reports: &Result<Vec<Report>>,
    ) -> bool {
        let Ok(reports) = reports else { return true };
        let mut reached = self.reached;
        let mut odd = false;
        for (s, report) in group.iter().zip(reports) {
            odd |= !report.findings.is_empty() || reached.is_some_and(|r| r > s.base());
            reached = Some(report.end);
        }
        let next = group.last().and_then(|s| view.sealed_after(s.base()));
        let next = next.or(view.tail().map(|t| t.segment));
        odd || next.is_some_and(|n| reached.is_some_and(|r| r > n.base()))
    }

    /// Whether these segments are what they were when they were read, and nobody is replacing any.
    fn is_settled(&self, group: &[SegmentRef], before: &[Option<Meta>]) -> Result<bool> {
        let began = Instant::now();
        loop {
            if fingerprint(self.env, group)? != before {
                return Ok(false);
            }
            if beside::half_done(self.env)?.is_empty() || began.elapsed() >= SETTLE {
                return Ok(true);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Takes in what a segment came to.
    fn take(&mut self, segment: &SegmentRef, report: Report) -> Result<()> {
        self.summary.segments += 1;
        self.summary.batches += report.batches;
        self.summary.records += report.records;
        self.summary.bytes += report.bytes;
        (self.progress)(report.bytes, report.records);
        if self.options.range.is_none() {
            self.between(segment, &report)?;
        }
        for finding in &report.findings {
            self.tell(finding)?;
        }
        if self.options.range.is_none() && !self.options.quick {
            let name = segment.index_name(Kind::TxnIndex);
            for why in self.txns.join(report.txns) {
                self.tell(&self.env.finding(&name, 0, why))?;
            }
        }
        if let Some((epoch, at)) = report.epoch
            && self.epoch.is_none_or(|(e, _)| epoch > e)
        {
            self.epoch = Some((epoch, at));
        }
        self.reached = Some(self.reached.unwrap_or(report.end).max(report.end));
        self.zeros = report.zeros;
        self.has_gaps |= report.has_gaps;
        Ok(())
    }

    /// How a segment follows the one before it.
    fn between(&mut self, segment: &SegmentRef, report: &Report) -> Result<()> {
        let (base, name) = (segment.base(), segment.log_name());
        let Some(reached) = self.reached else {
            return Ok(());
        };
        if base < reached && report.first.is_some_and(|f| f < reached) {
            let why = format!(
                "begins at offset {base}, inside the segment before it, which ends at {reached}"
            );
            let mut finding = self.env.finding(&name, 0, why);
            finding.offset = Some(base);
            return self.tell(&finding);
        }
        // Nobody leaves zeros behind data that compaction thinned out: these were batches.
        if base > reached && self.zeros {
            let why = format!("offsets {reached}..{base} before it are zeros");
            let mut finding = self.env.finding(&name, 0, why);
            finding.offset = Some(reached);
            return self.tell(&finding);
        }
        // A gap that compaction left is below D, or below a broker's recovery point; after a crash of the
        // host one above it is a lost tail.
        let above = self.env.end.durable.is_some_and(|d| base > d);
        let jump = base - reached > i64::from(i32::MAX);
        let rebooted = self.env.end.rebooted(self.env.host.boot_id());
        if base > reached && above && !jump && rebooted && self.is_above(base) {
            let why = format!("offsets {reached}..{base} before it are gone");
            let mut finding = self.env.finding(&name, 0, why);
            finding.offset = Some(reached);
            return self.tell(&finding);
        }
        if base > reached {
            self.gaps.push((name, reached..base));
        }
        Ok(())
    }

    /// Whether D is still below `base`: who makes a lawful gap publishes D past it first. A broker that
    /// ran after our last append has its recovery point instead.
    fn is_above(&self, base: Offset) -> bool {
        let (env, ours) = (self.env, self.env.end.hint.map(|h| h.wall_ms));
        let parent = env.log.parent();
        let flushed = parent.and_then(|p| flushed_since(p.as_ref(), env.log.name(), ours));
        if flushed >= Some(base) {
            return false;
        }
        let logd = self.env.log.dir().open_dir(files::LOGD_DIR);
        let now = logd.and_then(|d| end::read(&*d));
        !now.is_ok_and(|e| e.durable >= Some(base))
    }

    /// What is missing between segments.
    fn tell_gaps(&mut self) -> Result<()> {
        let all = self.gaps.iter().map(|(_, g)| g.clone()).collect();
        let missing = gaps::unexplained(self.env, all, self.has_gaps)?;
        for (name, gap) in std::mem::take(&mut self.gaps) {
            if missing.contains(&gap) {
                let why = format!("offsets {}..{} before it are missing", gap.start, gap.end);
                let mut finding = self.env.finding(&name, 0, why);
                finding.offset = Some(gap.start);
                self.tell(&finding)?;
            }
        }
        Ok(())
    }

    /// The active segment; the log end offset.
    fn tail(
        &mut self,
        view: &View,
        wanted: &Range<Offset>,
        pool: &ThreadPool,
    ) -> Result<Option<Offset>> {
        let Some(tail) = view.tail() else {
            return Ok(Some(view.start()));
        };
        let overlaps = self.reached.is_some_and(|r| r > tail.segment.base());
        if overlaps && self.is_replaced(&tail.segment, tail.file.as_ref())? {
            return Ok(None); // with what is before it, where it was checked
        }
        let check = || {
            let task = Task {
                segment: tail.segment,
                file: Arc::clone(&tail.file),
                end: tail.end,
                is_tail: true,
                full: true,
                wanted: wanted.clone(),
            };
            pool.install(|| segment::check(self.env, &task))
        };
        let mut report = check()?;
        // A writer may have been at work on the very page, or have cut a torn batch meanwhile.
        let written = tail.file.meta().map(|m| m.mtime_ms);
        let written = written
            .map_err(|e| Error::io("cannot stat", e).at_path(view.path_of(&tail.segment)))?;
        let recent = self.env.host.wall_ms().saturating_sub(written).abs() < QUIET_MS;
        if recent && !report.findings.is_empty() {
            std::thread::sleep(PAUSE);
            report = check()?;
        }
        let torn = match report.torn.take() {
            Some(torn) => self.still_torn(tail, torn, recent)?,
            None => None,
        };
        if torn.is_none() {
            let ahead = ahead(self.env, &tail.segment, &report.beyond)?;
            report.findings.extend(ahead);
        }
        let end = report.end;
        let whole = torn.is_none();
        self.take(&tail.segment, report)?;
        if let Some(torn) = torn {
            self.tell_torn(&tail.segment, &torn)?;
        } else if let Some(d) = self
            .env
            .end
            .durable
            .filter(|d| *d > end && end >= tail.segment.base())
            && wanted.end == Offset::MAX
            && self.is_still_short(view, d)?
        {
            let why = format!("the log ends at offset {end}, but everything below {d} was durable");
            let mut finding = self.env.finding(&tail.segment.log_name(), tail.end.0, why);
            finding.offset = Some(end);
            self.tell(&finding)?;
        }
        Ok(whole.then_some(end))
    }

    /// Whether the segment that was the active one at the start is another file by now, or none.
    fn is_replaced(&self, segment: &SegmentRef, file: &dyn File) -> Result<bool> {
        let (name, began) = (segment.log_name(), Instant::now());
        let fail = |e| Error::io("cannot stat", e).at_path(self.env.log.path_of(&name));
        let mine = file.meta().map_err(fail)?.id;
        loop {
            let settled = beside::half_done(self.env)?.is_empty() || began.elapsed() >= SETTLE;
            let now = self.env.log.dir().stat(&name).map_err(fail)?;
            if now.is_none_or(|m| m.id != mine) {
                return Ok(true);
            }
            if settled {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// D was read before the end of the log was; a log that was cut on purpose lowers it first.
    fn is_still_short(&self, view: &View, durable: Offset) -> Result<bool> {
        let now = self
            .env
            .log
            .dir()
            .open_dir(files::LOGD_DIR)
            .and_then(|d| end::read(&*d));
        let still = now.is_ok_and(|e| e.durable >= Some(durable));
        Ok(still && View::of(view.log().clone())?.end(self.env.limits)? < durable)
    }

    /// What is not whole at the end, if it stays so.
    fn still_torn(
        &self,
        tail: &crate::log::view::Tail,
        torn: Torn,
        recent: bool,
    ) -> Result<Option<Torn>> {
        let began = Instant::now();
        loop {
            let span = Span {
                base: tail.segment.base(),
                next: torn.next,
                from: torn.position,
                end: end_of(&*tail.file)?,
            };
            match Scanner::new(Arc::clone(&tail.file), span, self.env.limits).step()? {
                Step::Batch(_) => return Ok(None),
                Step::End(end) if end.tail == crate::segment::scan::Tail::Clean => return Ok(None),
                _ if !recent || began.elapsed() >= SETTLE => return Ok(Some(torn)),
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    fn tell_torn(&mut self, segment: &SegmentRef, torn: &Torn) -> Result<()> {
        let what = match self.env.end.durable {
            Some(d) if d > torn.next => format!("offsets {}..{d} were durable", torn.next),
            _ => "nothing intact follows".to_string(),
        };
        let name = segment.log_name();
        let mut finding =
            self.env
                .finding(&name, torn.position.0, format!("{}; {what}", torn.reason));
        finding.offset = Some(torn.next);
        self.tell(&finding)
    }

    /// An error that is a finding: a checkpoint that cannot be understood.
    fn told_by(&mut self, e: Error) -> Result<()> {
        let finding = Finding {
            path: e.path().unwrap_or(self.env.log.dir().path()).to_path_buf(),
            position: e.position().unwrap_or(0),
            offset: None,
            reason: e.what().to_string(),
            severity: Severity::Problem,
        };
        self.tell(&finding)
    }

    fn tell(&mut self, finding: &Finding) -> Result<()> {
        if finding.severity == Severity::Problem {
            self.summary.problems += 1;
        }
        (self.sink)(finding)
    }
}

/// Entries of the active segment's indexes that speak of offsets which the log does not have by now.
///
/// # Errors
/// The log cannot be read.
pub fn ahead(
    env: &Env<'_>,
    segment: &SegmentRef,
    beyond: &[(Kind, u64, Offset)],
) -> Result<Vec<Finding>> {
    if beyond.is_empty() {
        return Ok(Vec::new());
    }
    let end = View::of(env.log.clone())?.end(env.limits)?;
    let lies = beyond.iter().filter(|(_, _, offset)| *offset >= end);
    let told = lies.map(|(kind, at, offset)| {
        let why = format!("offset {offset} indexed, but the log ends at {end}");
        env.finding(&segment.index_name(*kind), *at, why)
    });
    Ok(told.collect())
}

/// What the files of these segments are now.
fn fingerprint(env: &Env<'_>, group: &[SegmentRef]) -> Result<Vec<Option<Meta>>> {
    let kinds = [
        Kind::Log,
        Kind::OffsetIndex,
        Kind::TimeIndex,
        Kind::TxnIndex,
    ];
    let names = group.iter().flat_map(|s| kinds.map(|k| s.index_name(k)));
    let metas = names.map(|n| env.log.dir().stat(&n));
    let metas: std::io::Result<Vec<Option<Meta>>> = metas.collect();
    metas.map_err(|e| Error::io("cannot stat", e).at_path(env.log.dir().path()))
}

#[cfg(test)]
pub(crate) mod tests;
