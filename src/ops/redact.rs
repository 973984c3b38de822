//! Removes content that must not be kept: from every segment, whatever its age, and from what was
//! made or set aside of it. Offsets, times and all other records stay as they are.
//!
//! | module | owns |
//! |---|---|
//! | `mask` | what becomes of a record |
//! | `search` | which records are meant; a batch without what is to go |
//!
//! Records are looked at as they are stored: those of aborted and open transactions, and those below
//! the log start, too. The order of work, so that a crash anywhere leaves an entry that says so:
//!
//! 1. Search everything. Nothing found and nothing left unfinished: done, without a write.
//! 2. An entry without an end in `.logd/redactions`, synced ([`crate::log::redactions`]).
//! 3. Roll the active segment if it holds a hit. Remove the look-up indexes of the segments that do,
//!    and those that were made of what is no longer there.
//! 4. For each of them: build it anew, note the range in `.logd/rewritten`, swap it in
//!    ([`crate::log::swap`]).
//! 5. Remove the files in `.logd/lost+found` with a hit, and those that cannot be searched because
//!    they hold bytes that are no batch.
//! 6. Search everything again, up to where the log ended in step 3. If nothing is left, the entry
//!    gets its end.
//!
//! The same command run again finds the entry by its criteria and goes on: what was changed holds
//! nothing more that is to go. It takes ranges as they were understood the first time, `@-1h` too.
//!
//! A batch with a hit is encoded anew with its codec, offsets, times and producer fields; one of
//! magic 0 or 1, which has no headers, becomes magic 2. A dropped record leaves its batch in place,
//! if only an empty one. Control batches, producer snapshots and transaction indexes stay.
//!
//! What it cannot reach: readers that hold an old file open, blocks that the disk has freed, copies.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::grep::{Pattern, PatternOptions, Query, Stored, Want};
use super::select::Selection;
use super::span;
use super::words::{self, Field};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::files;
use crate::log::keys::{self, Keys};
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::lost::{Lost, LostFound};
use crate::log::maintenance::{self, Maintenance, MaintenanceOptions};
use crate::log::redactions::{self, Redaction};
use crate::log::replica;
use crate::log::rewritten::{self, Reason};
use crate::log::swap::{self, Output};
use crate::log::view::View;
use crate::sys::user::Who;
use crate::sys::{Dir, Host};

mod mask;
mod search;
#[cfg(test)]
mod tests;

pub use mask::Action;
use search::{Criteria, Searcher, Tally};
pub use search::{HEADER, Pace};

/// Positions in an index have 31 bits.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// What is to go, and why.
#[derive(Clone, Debug)]
pub struct RedactOptions {
    /// Records with one of these keys; empty for any.
    pub keys: Vec<Vec<u8>>,
    /// Records with this pattern in this field.
    pub pattern: Option<(Vec<u8>, Field)>,
    /// Records in one of these ranges, each with the word that it was given as; empty for all.
    pub ranges: Vec<(String, words::Range)>,
    /// Offsets outside the log mean its ends.
    pub clamp: bool,
    /// What is to go of them.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// Who.
    pub who: Who,
}

/// A file that holds what is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name, from the partition's directory.
    pub file: String,
    /// How many records; `None` for one that cannot be searched.
    pub records: Option<u64>,
}

/// What was found, or done, in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Id of the redaction; empty if there was nothing to do.
    pub id: String,
    /// The files that hold, or held, what is to go.
    pub files: Vec<Held>,
    /// Records in which the pattern is still found, but outside of what was to go, or in which the
    /// field that was to go cannot be told: no JSON, several rows.
    pub outside: u64,
    /// Records that still hold what was to go, and files that still cannot be searched.
    pub left: u64,
    /// The first record of the two before.
    pub first_left: Option<Offset>,
    /// What recovery had to take out first.
    pub lost: Vec<Lost>,
}

impl Report {
    /// Records found.
    pub fn records(&self) -> u64 {
        self.files.iter().filter_map(|f| f.records).sum()
    }
}

/// Finds what [`redact`] would change in the partition at `path`. Takes no lock, writes nothing. `pace`
/// is called with bytes that were read.
///
/// # Errors
/// `Data` for a damaged log; `NotFound` for an offset outside it; `Usage` for a pattern that is none;
/// else what the system answers.
pub fn survey(
    host: &Arc<dyn Host>,
    path: &Path,
    options: &RedactOptions,
    pace: Pace<'_>,
) -> Result<Report> {
    let log = LogDir::open(host.as_ref(), path)?;
    let own = match log.dir().open_dir(files::LOGD_DIR) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        opened => Some(opened.map_err(|e| Error::io("cannot open .logd", e).at_path(path))?),
    };
    let entry = begin(host.as_ref(), &log, own.as_deref(), options)?;
    maintenance::beside_others(|| {
        let mut searcher = searcher(options, &entry, pace)?;
        let view = View::of(log.clone())?;
        let end = view.end(Limits::default())?;
        let found = sweep(&log, view.segments(), &mut searcher, end)?;
        let kept = match &own {
            Some(own) => lost_files(own.as_ref(), &mut searcher)?,
            None => Vec::new(),
        };
        Ok(found.report(kept))
    })
}

/// Removes what is to go from the partition at `path`. Durable on return. `pace` is called with bytes
/// that were read or written.
///
/// # Errors
/// As [`survey`] and [`Maintenance::open`]. A failure leaves the log as it was, or changed in part;
/// the entry in `.logd/redactions` is then unfinished, and another call goes on.
pub fn redact(
    host: &Arc<dyn Host>,
    path: &Path,
    options: &RedactOptions,
    maintenance: &MaintenanceOptions,
    pace: Pace<'_>,
) -> Result<Report> {
    let mut m = Maintenance::open(host, path, maintenance)?;
    refuse_copy(m.logd_dir().as_ref(), path)?;
    let end = m.settle()?;
    let lost = m.take_lost();
    let entry = begin(host.as_ref(), m.log(), Some(m.logd_dir().as_ref()), options)?;
    let mut searcher = searcher(options, &entry, pace)?;
    let found = sweep(m.log(), &m.segments()?, &mut searcher, end)?;
    let kept = lost_files(m.logd_dir().as_ref(), &mut searcher)?;
    let is_resumed = redactions::unfinished(m.logd_dir().as_ref())?
        .iter()
        .any(|r| r.id == entry.id);
    let idle = found.total.hits == 0 && kept.is_empty() && !is_resumed;
    if idle {
        return Ok(Report {
            lost,
            ..found.report(kept)
        });
    }
    let work = Work {
        entry,
        found,
        kept,
        end,
    };
    let done = work.run(&mut m, &options.action, &mut searcher);
    if done.is_err() {
        // The first error counts; what stays is removed by the next holder of the lock.
        let _ = m.empty_tmp();
    }
    let mut report = done?;
    report.lost = lost;
    Ok(report)
}

/// A copy redacted by itself would no longer be what its source is.
fn refuse_copy(own: &dyn Dir, path: &Path) -> Result<()> {
    if !replica::is_marked(own, files::REPLICA)? {
        return Ok(());
    }
    let of = replica::read(own).ok().flatten();
    let of = of.map_or("its source".to_string(), |of| of.source);
    let why = format!("this is a copy of {of}: redact there, then make the copy anew");
    Err(Error::new(ErrorKind::Permission, why)
        .at_path(path)
        .hint(format!("logd redact ... {of}")))
}

/// The entry of a redaction: one that was begun with the same criteria, or a new one.
fn begin(
    host: &dyn Host,
    log: &LogDir,
    own: Option<&dyn Dir>,
    options: &RedactOptions,
) -> Result<Redaction> {
    let begun = own.map(redactions::unfinished).transpose()?;
    let mut begun = begun.unwrap_or_default().into_iter();
    if let Some(entry) = begun.find(|r| r.criteria == options.criteria(&r.id)) {
        return Ok(entry);
    }
    let random = host.random_id();
    let random = random.map_err(|e| Error::io("no random numbers", e))?;
    let id: String = random.iter().take(8).map(|b| format!("{b:02x}")).collect();
    Ok(Redaction {
        user: options.who.name.clone(),
        uid: options.who.uid,
        reason: options.reason.clone(),
        criteria: options.criteria(&id),
        offsets: options.offsets(log)?,
        records: 0,
        outside: 0,
        started_ms: host.wall_ms(),
        finished_ms: None,
        id,
    })
}

impl RedactOptions {
    /// The criteria without the content.
    fn criteria(&self, id: &str) -> redactions::Criteria {
        let mut keys: Vec<String> = self.keys.iter().map(|k| digest(id, "key", k)).collect();
        keys.sort_unstable();
        keys.dedup();
        let fields = self.action.fields().iter();
        redactions::Criteria {
            keys,
            pattern: self.pattern.as_ref().map(|(p, _)| digest(id, "match", p)),
            within: self.pattern.as_ref().map(|(_, field)| field.to_string()),
            ranges: self.ranges.iter().map(|(word, _)| word.clone()).collect(),
            action: self.action.word().to_string(),
            only: fields.map(Field::to_string).collect(),
        }
    }

    /// The ranges as offsets of this log.
    fn offsets(&self, log: &LogDir) -> Result<Vec<(i64, Option<i64>)>> {
        let mut view = View::of(log.clone())?;
        let resolve = |(_, range): &(String, words::Range)| {
            let found = span::resolve(&mut view, range, self.clamp, Limits::default())?;
            // Without a beginning also what lies below the log start, and is still on the disk.
            let from = range.from.map_or(0, |_| found.start.0);
            Ok(match (range.lone, range.to) {
                (true, _) => (from, Some(from.saturating_add(1))),
                (false, None) => (from, None),
                (false, Some(_)) => (from, Some(found.end.0)),
            })
        };
        self.ranges.iter().map(resolve).collect()
    }
}

/// A digest by which a criterion is known again but not read.
fn digest(id: &str, kind: &str, bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{id} {kind} "));
    hash.update(bytes);
    let hash = hash.finalize();
    hash.iter().take(16).map(|b| format!("{b:02x}")).collect()
}

fn searcher<'a>(
    options: &'a RedactOptions,
    entry: &Redaction,
    pace: Pace<'a>,
) -> Result<Searcher<'a>> {
    let query = match &options.pattern {
        None => None,
        Some((pattern, field)) => Some(Query {
            pattern: Pattern::new(pattern, PatternOptions::default(), stored(field))?,
            field: field.clone(),
            invert: false,
            selection: Selection::default(),
            want: Want::Matches,
            reverse: false,
            limits: Limits::default(),
        }),
    };
    let range = |(from, to): &(i64, Option<i64>)| Offset(*from)..Offset(to.unwrap_or(i64::MAX));
    let offsets: Vec<Range<Offset>> = entry.offsets.iter().map(range).collect();
    if options.keys.is_empty() && query.is_none() && offsets.is_empty() {
        let why = "what to redact is missing: a key, a pattern or a range";
        return Err(Error::usage(why));
    }
    let keys = options.keys.iter().cloned().collect();
    let criteria = Criteria {
        keys,
        query,
        offsets,
    };
    Ok(Searcher::new(criteria, &options.action, &entry.id, pace))
}

fn stored(field: &Field) -> Stored {
    match field {
        Field::Json(_) => Stored::Json,
        Field::Column(_) => Stored::Cell,
        Field::Key | Field::Value | Field::Header(_) => Stored::AsIs,
    }
}

/// What a search of all segments found.
struct Found {
    /// The segments with a hit.
    segments: Vec<(SegmentRef, u64)>,
    total: Tally,
}

impl Found {
    fn report(&self, kept: Vec<Held>) -> Report {
        let segments = self.segments.iter().map(|(segment, hits)| Held {
            file: segment.log_name(),
            records: Some(*hits),
        });
        Report {
            files: segments.chain(kept).collect(),
            outside: self.total.outside,
            first_left: self.total.first,
            ..Report::default()
        }
    }
}

/// Searches all segments, up to the offset `end`.
fn sweep(
    log: &LogDir,
    segments: &[SegmentRef],
    searcher: &mut Searcher<'_>,
    end: Offset,
) -> Result<Found> {
    let mut found = Found {
        segments: Vec::new(),
        total: Tally::default(),
    };
    for segment in segments {
        let tally = searcher.segment(log, segment, end)?;
        if tally.hits > 0 {
            found.segments.push((*segment, tally.hits));
        }
        found.total += tally;
    }
    Ok(found)
}

/// The files in `lost+found` with a hit, or with bytes that cannot be searched.
fn lost_files(own: &dyn Dir, searcher: &mut Searcher<'_>) -> Result<Vec<Held>> {
    let mut out = Vec::new();
    for name in LostFound::names(own)? {
        let file = LostFound::open_file(own, &name)?;
        let place = || own.path().join(files::LOST_FOUND).join(&name);
        let records = match searcher.loose(file).map_err(|e| e.at_path(place()))? {
            Some(tally) if tally.hits + tally.outside == 0 => continue,
            other => other.map(|t| t.hits + t.outside),
        };
        let file = lost_path(&name);
        out.push(Held { file, records });
    }
    Ok(out)
}

fn lost_path(name: &str) -> String {
    format!("{}/{}/{name}", files::LOGD_DIR, files::LOST_FOUND)
}

/// A redaction that has something to do.
struct Work {
    entry: Redaction,
    found: Found,
    kept: Vec<Held>,
    /// Records from here on are not looked at.
    end: Offset,
}

impl Work {
    fn run(
        mut self,
        m: &mut Maintenance,
        action: &Action,
        searcher: &mut Searcher<'_>,
    ) -> Result<Report> {
        // After a crash some of it is done already.
        let records = match action {
            Action::Drop => self.entry.records.max(self.found.total.hits),
            _ => self.found.total.marked + self.found.total.hits,
        };
        self.entry.records = records;
        redactions::put(m.logd_dir().as_ref(), &self.entry)?;
        self.seal(m, searcher)?;
        self.drop_indexes(m)?;
        for (segment, _) in &self.found.segments {
            rewrite(m, searcher, segment)?;
        }
        self.drop_lost(m)?;
        self.finish(m, searcher)
    }

    /// Rolls the active segment if it holds a hit. What appenders added since the search is searched
    /// then, too.
    fn seal(&mut self, m: &mut Maintenance, searcher: &mut Searcher<'_>) -> Result<()> {
        let before = m.segments()?;
        let is_hit = |s: &SegmentRef| self.found.segments.iter().any(|(hit, _)| hit == s);
        let Some(active) = before.last().filter(|s| is_hit(s)) else {
            return Ok(());
        };
        self.end = m.roll()?;
        let mut sealed = m.segments()?;
        sealed.retain(|s| s.base() >= active.base() && s.base() < self.end);
        for segment in sealed {
            let tally = searcher.segment(m.log(), &segment, self.end)?;
            if tally.hits > 0 && !self.found.segments.iter().any(|(s, _)| *s == segment) {
                self.found.segments.push((segment, tally.hits));
            }
        }
        Ok(())
    }

    /// Removes the look-up indexes of what will be replaced, and those that no segment vouches for:
    /// what they were made of may have held anything.
    fn drop_indexes(&self, m: &Maintenance) -> Result<()> {
        let keys = Keys::of(m.log())?;
        let Some(dir) = keys.dir() else {
            return Ok(());
        };
        let stays: Vec<SegmentRef> = m
            .segments()?
            .into_iter()
            .filter(|s| self.found.segments.iter().all(|(hit, _)| hit != s))
            .collect();
        let mut names = Vec::new();
        for (name, base, _) in keys.names()? {
            let of = stays.iter().find(|s| s.base() == base);
            if !of.is_some_and(|s| vouches(m, &keys, s, &name)) {
                names.push(name);
            }
        }
        keys::remove(dir.as_ref(), &names)
    }

    fn drop_lost(&self, m: &Maintenance) -> Result<()> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let names = LostFound::names(m.logd_dir().as_ref())?.into_iter();
        let held = |name: &String| self.kept.iter().any(|k| k.file == lost_path(name));
        let names: Vec<String> = names.filter(held).collect();
        LostFound::open(m.host().as_ref(), m.logd_dir().as_ref())?.remove(&names, &self.entry.id)
    }

    /// Searches everything again, and ends the entry if nothing is left.
    fn finish(mut self, m: &Maintenance, searcher: &mut Searcher<'_>) -> Result<Report> {
        m.empty_tmp()?;
        let left = sweep(m.log(), &m.segments()?, searcher, self.end)?;
        let kept = lost_files(m.logd_dir().as_ref(), searcher)?;
        let mut report = self.found.report(self.kept);
        report.id = self.entry.id.clone();
        report.outside = left.total.outside;
        report.left = left.total.hits + kept.len() as u64;
        report.first_left = left.total.first;
        self.entry.outside = report.outside;
        self.entry.finished_ms = (report.left == 0).then(|| m.host().wall_ms());
        redactions::put(m.logd_dir().as_ref(), &self.entry)?;
        Ok(report)
    }
}

/// Whether the look-up index of this name was made of the segment as it is.
fn vouches(m: &Maintenance, keys: &Keys, segment: &SegmentRef, name: &str) -> bool {
    let header = keys.header(name).ok().flatten();
    header.is_some_and(|(header, _)| {
        let found = keys.find(m.log(), segment, &header.field);
        matches!(found, Ok(keys::Found::Sound(_)))
    })
}

/// Replaces a sealed segment by one without what is to go.
fn rewrite(m: &Maintenance, searcher: &mut Searcher<'_>, segment: &SegmentRef) -> Result<()> {
    let mut out = Output::begin(m, segment.base())?;
    out.keep_txns(m.log(), segment)?;
    let mut changed: Option<Range<Offset>> = None;
    let mut bytes = Vec::new();
    search::each_batch(m.log(), segment, Offset::MAX, &mut |batch, at| {
        let defect = |d| search::defect(&d, batch.header(), at);
        if searcher.batch(batch).map_err(defect)?.hits == 0 {
            out.put(batch.header(), batch.bytes())?;
        } else {
            bytes.clear();
            let header = searcher.rewrite(batch, &mut bytes).map_err(defect)?;
            out.put(&header, &bytes)?;
            let start = changed.as_ref().map_or(header.base_offset, |c| c.start);
            changed = Some(start..header.last_offset.next());
        }
        searcher.moved(2 * batch.bytes().len())?;
        match out.bytes() > SEGMENT_BYTES_MAX {
            true => Err(grown(batch.header().base_offset)),
            false => Ok(()),
        }
    })?;
    let file = m.log().open_file(&segment.log_name())?;
    let meta = file
        .meta()
        .map_err(|e| m.error("cannot stat a segment", e))?;
    let built = out.finish(meta.mtime_ms)?;
    if let Some(changed) = changed {
        rewritten::add(m.logd_dir().as_ref(), Reason::Redact, changed)?;
        swap::replace(m, &built, std::slice::from_ref(segment))?;
    }
    Ok(())
}

/// Headers take room that short values did not.
fn grown(offset: Offset) -> Error {
    let why = "with a header in each record the segment would be larger than 2 GiB";
    Error::data(why)
        .at_offset(offset.0)
        .hint("--drop adds none")
}
