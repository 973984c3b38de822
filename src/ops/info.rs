//! What is in a log, told from batch headers: counts, sizes, times, and how much is not compacted.
//!
//! Bodies are not read and checksums not looked at (that is `verify`'s work), with two exceptions
//! where a header does not tell the number of records: a compressed magic 0 or 1 wrapper, and a batch
//! that begins below the log start. Takes no lock: a log that is written to meanwhile is shown as it
//! was when its segments were listed, or a little later.

use super::topic::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::names;
use crate::format::{Defect, Limits, Offset, Position, TimestampMs};
use crate::log::broker::checkpointed;
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::rewritten::{self, Reason};
use crate::log::view::View;
use crate::log::{end, files};
use crate::segment::scan::{HeaderWalk, Resync, Span, Tail, Walk, resync};
use crate::sys::{File, Host};
use std::sync::Arc;

/// How often a survey begins anew because a segment vanished under it; each time somebody else
/// finished a whole replacement or retention.
const SURVEYS_MAX: usize = 16;

/// One segment.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentInfo {
    /// Base offset, which names its files.
    pub base: Offset,
    /// Behind its last batch; its base where it holds none.
    pub end: Offset,
    /// Records, without control records.
    pub records: u64,
    /// Batches, control batches and empty ones too.
    pub batches: u64,
    /// Bytes of its batches.
    pub bytes: u64,
    /// Smallest timestamp that a header names.
    pub oldest: Option<TimestampMs>,
    /// Largest timestamp.
    pub newest: Option<TimestampMs>,
    /// It takes the appends.
    pub active: bool,
    /// Where it stopped making sense, if it did: nothing behind that is counted.
    pub damage: Option<(Position, String)>,
    /// Bytes of batches at or above the first offset that no compaction has been over.
    dirty: u64,
}

/// One partition.
#[derive(Clone, Debug, PartialEq)]
pub struct LogInfo {
    /// Log start offset.
    pub earliest: Offset,
    /// Log end offset.
    pub end: Offset,
    /// Its segments in order.
    pub segments: Vec<SegmentInfo>,
}

impl LogInfo {
    /// Records from the log start on, without control records; of aborted transactions too.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|s| s.records).sum()
    }

    /// Bytes of batches.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// Smallest timestamp that a header names.
    pub fn oldest(&self) -> Option<TimestampMs> {
        self.segments.iter().filter_map(|s| s.oldest).min()
    }

    /// Largest timestamp.
    pub fn newest(&self) -> Option<TimestampMs> {
        self.segments.iter().filter_map(|s| s.newest).max()
    }

    /// The share of bytes that no compaction has been over, 0 to 1; 0 for an empty log.
    pub fn dirty_ratio(&self) -> f64 {
        let dirty: u64 = self.segments.iter().map(|s| s.dirty).sum();
        match self.bytes() {
            0 => 0.0,
            bytes => dirty as f64 / bytes as f64,
        }
    }
}

/// Looks at every batch header of a partition.
///
/// # Errors
/// `NotFound` if there is no such directory, else what the system answers. Damage is no error; it
/// is told in the segment that has it.
pub fn survey(host: &dyn Host, partition: &Partition) -> Result<LogInfo> {
    for _ in 0..SURVEYS_MAX {
        match survey_once(host, partition) {
            Err(Interrupted::Vanished) => {}
            Err(Interrupted::Failed(e)) => return Err(e),
            Ok(info) => return Ok(info),
        }
    }
    let why = "segments vanish faster than they can be looked at";
    Err(Error::new(ErrorKind::Locked, why).at_path(&partition.path))
}

/// Why a survey stopped.
enum Interrupted {
    /// A segment that was listed is gone.
    Vanished,
    Failed(Error),
}

impl From<Error> for Interrupted {
    fn from(e: Error) -> Interrupted {
        Interrupted::Failed(e)
    }
}

fn survey_once(
    host: &dyn Host,
    partition: &Partition,
) -> std::result::Result<LogInfo, Interrupted> {
    let log = LogDir::open(host, &partition.path)?;
    let refs = log.segments()?;
    let earliest = log.start_offset(&refs)?;
    let cleaned = log
        .parent()
        .and_then(|p| checkpointed(&**p, names::CLEANER_CHECKPOINT, log.name()));
    let cleaned = cleaned.max(compacted(&log));
    let mut segments: Vec<SegmentInfo> = Vec::with_capacity(refs.len());
    let mut counter = Counter::new(earliest, cleaned.unwrap_or(earliest).max(earliest));
    for (i, segment) in refs.iter().enumerate() {
        let next = segments.last().map_or(segment.base(), |s| s.end);
        let active = i + 1 == refs.len();
        segments.push(counter.segment(&log, segment, next, active)?);
    }
    let end = segments.iter().map(|s| s.end).max().unwrap_or(earliest);
    Ok(LogInfo {
        earliest,
        end: end.max(earliest),
        segments,
    })
}

/// Behind the last offset that a compaction of ours wrote again; whatever is before it was judged.
fn compacted(log: &LogDir) -> Option<Offset> {
    let own = log.dir().open_dir(files::LOGD_DIR).ok()?;
    let all = rewritten::read(own.as_ref()).ok()?;
    let ours = all.into_iter().filter(|r| r.reason == Reason::Compact);
    ours.map(|r| r.offsets.end).max()
}

/// Log start and log end offset, found by the last segment's index.
///
/// # Errors
/// As [`survey`].
pub fn ends(host: &dyn Host, partition: &Partition) -> Result<(Offset, Offset)> {
    let view = View::of(LogDir::open(host, &partition.path)?)?;
    Ok((view.start(), view.end(Limits::default())?))
}

/// The durable offset D, if one was ever published here.
///
/// # Errors
/// What the system answers.
pub fn durable(host: &dyn Host, partition: &Partition) -> Result<Option<Offset>> {
    let cannot = |e| Error::io("cannot read .logd/end", e).at_path(&partition.path);
    let dir = host.open_dir(&partition.path).map_err(cannot)?;
    match dir.open_dir(files::LOGD_DIR) {
        Ok(own) => Ok(end::read(&*own).map_err(cannot)?.durable),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot(e)),
    }
}

/// Walks segments and adds up.
struct Counter {
    earliest: Offset,
    dirty_from: Offset,
    scratch: Scratch,
}

impl Counter {
    fn new(earliest: Offset, dirty_from: Offset) -> Counter {
        Counter {
            earliest,
            dirty_from,
            scratch: Scratch::new(),
        }
    }

    fn segment(
        &mut self,
        log: &LogDir,
        segment: &SegmentRef,
        next: Offset,
        active: bool,
    ) -> std::result::Result<SegmentInfo, Interrupted> {
        let name = segment.log_name();
        let at = |e: Error| e.at_path(log.path_of(&name));
        let file = match log.open_file(&name) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Interrupted::Vanished),
            file => file?,
        };
        let len = file.len();
        let len = len.map_err(|e| at(Error::io("cannot stat", e)))?;
        let mut span = Span::whole(segment.base(), len);
        span.next = span.next.max(next);
        let mut info = SegmentInfo {
            base: segment.base(),
            end: segment.base(),
            records: 0,
            batches: 0,
            bytes: 0,
            oldest: None,
            newest: None,
            active,
            damage: None,
            dirty: 0,
        };
        let limits = Limits::default();
        let mut walk = HeaderWalk::new(Arc::clone(&file), span, limits);
        loop {
            match walk.next().map_err(at)? {
                Walk::Header(header, position) => {
                    let count = self.count(&mut walk, &header, position, &limits);
                    match count.map_err(at)? {
                        Ok(n) => self.add(&mut info, &header, n),
                        Err(defect) => {
                            self.add(&mut info, &header, 0);
                            info.damage = Some((position + defect.at as u64, defect.reason));
                        }
                    }
                }
                Walk::End(end) => {
                    if end.tail == Tail::Partial && !active {
                        info.damage = Some((end.position, "a batch that is cut short".into()));
                    }
                    return Ok(info);
                }
                Walk::Bad(bad) => {
                    span.from = bad.position;
                    span.next = info.end;
                    if active && is_torn(&*file, &span, &limits).map_err(at)? {
                        return Ok(info);
                    }
                    info.damage = Some((bad.position + bad.defect.at as u64, bad.defect.reason));
                    return Ok(info);
                }
            }
        }
    }

    fn add(&self, info: &mut SegmentInfo, header: &BatchHeader, records: u64) {
        info.batches += 1;
        info.records += records;
        info.bytes += header.size as u64;
        info.end = header.last_offset.next();
        if header.last_offset >= self.dirty_from {
            info.dirty += header.size as u64;
        }
        let known = |t: TimestampMs| (t != TimestampMs::NONE).then_some(t);
        let newest = known(header.max_timestamp);
        // With a delete horizon the base timestamp is a deadline, and the largest must do.
        let base = match header.delete_horizon() {
            None if header.count != 0 => known(header.base_timestamp),
            _ => newest,
        };
        let oldest = match (base, newest) {
            (Some(b), Some(n)) => Some(b.min(n)),
            (b, n) => b.or(n),
        };
        if records > 0 {
            info.oldest = info.oldest.into_iter().chain(oldest).min();
            info.newest = info.newest.into_iter().chain(newest).max();
        }
    }

    /// Records of a batch from the log start on; the inner result tells a body that had to be
    /// decoded and could not.
    fn count(
        &mut self,
        walk: &mut HeaderWalk,
        header: &BatchHeader,
        position: Position,
        limits: &Limits,
    ) -> Result<std::result::Result<u64, Defect>> {
        if header.is_control() || header.last_offset < self.earliest {
            return Ok(Ok(0));
        }
        match u64::try_from(header.count) {
            Ok(n) if header.base_offset >= self.earliest => Ok(Ok(n)),
            _ => {
                let bytes = walk.entry(header, position, limits.batch_bytes_max)?;
                Ok(self.decode(bytes.unwrap_or_default(), limits))
            }
        }
    }

    fn decode(&mut self, bytes: &[u8], limits: &Limits) -> std::result::Result<u64, Defect> {
        let batch = Batch::check(bytes)?;
        let mut n = 0;
        for record in batch.records(&mut self.scratch, limits)? {
            n += u64::from(record?.offset >= self.earliest);
        }
        Ok(n)
    }
}

/// Whether nothing valid follows what is wrong: then it is not written yet, or torn.
fn is_torn(file: &dyn File, span: &Span, limits: &Limits) -> Result<bool> {
    Ok(!matches!(resync(file, span, limits)?, Resync::Found(..)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::format::names::Kind;
    use crate::format::names::file_name;
    use crate::sys::RealHost;
    use std::path::Path;

    /// Offsets of the data records of a segment, where all of it is sound.
    fn expected(log: &Path) -> Option<Vec<i64>> {
        let beside = |suffix| log.with_file_name(format!("{}{suffix}", corpus::name(log)));
        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let status = std::fs::read_to_string(beside(".expected-status.json")).ok()?;
        let rows = std::fs::read_to_string(beside(".expected.ndjson")).ok()?;
        let rows = rows.lines().map(json).filter(|r| r["isControl"] != true);
        let offsets: Vec<i64> = rows.map(|r| r["offset"].as_i64().unwrap()).collect();
        let sound = json(&status)["error"].is_null() && offsets.is_sorted();
        sound.then_some(offsets)
    }

    #[test]
    fn corpus_records_are_counted_from_headers() {
        let Some(root) = corpus::root() else { return };
        let mut seen = 0;
        for log in corpus::files(&root) {
            let Some(offsets) = expected(&log) else {
                continue;
            };
            let partition = Partition::at(log.parent().unwrap());
            let info = survey(&RealHost, &partition).unwrap();
            let is_it = |s: &&SegmentInfo| file_name(s.base, Kind::Log) == corpus::name(&log);
            let Some(segment) = info.segments.iter().find(is_it) else {
                continue;
            };
            if segment.damage.is_some() {
                continue; // overlaps the one before: judged as a log, not as a file
            }
            let kept = offsets.iter().filter(|o| **o >= info.earliest.0);
            assert_eq!(segment.records, kept.count() as u64, "{}", log.display());
            seen += 1;
        }
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn corpus_ends_are_told_from_the_last_segment_alone() {
        let Some(root) = corpus::root() else { return };
        let mut seen = 0;
        for log in corpus::files(&root) {
            if corpus::name(&log).ends_with(".log") {
                let partition = Partition::at(log.parent().unwrap());
                let info = survey(&RealHost, &partition).unwrap();
                let of = |s: &SegmentInfo| log.with_file_name(file_name(s.base, Kind::Log));
                let sound = info.segments.iter().all(|s| expected(&of(s)).is_some());
                let (earliest, end) = ends(&RealHost, &partition).unwrap();
                assert_eq!(earliest, info.earliest);
                assert!(!sound || end == info.end, "{}", log.display());
                seen += usize::from(sound);
            }
        }
        assert!(seen > 300, "{seen}");
    }

    #[test]
    fn the_dirty_ratio_is_the_share_of_bytes_behind_the_last_compaction() {
        let log = crate::log::testing::TestLog::new("x-0");
        let a = log.segment(0).batch(0, "a=1").batch(1, "b=22").write();
        let b = log.segment(2).batch(2, "a=333").batch(3, "b=4444").write();
        log.segment(4).write();
        let sizes: Vec<usize> = a.batches.iter().chain(&b.batches).map(|b| b.size).collect();
        let ratio = || {
            survey(&RealHost, &Partition::at(&log.path()))
                .unwrap()
                .dirty_ratio()
        };
        let share = |from: usize| {
            let dirty: usize = sizes[from..].iter().sum();
            dirty as f64 / sizes.iter().sum::<usize>() as f64
        };
        assert_eq!(ratio(), 1.0);
        let cleaned = |offset| {
            let text = format!("0\n1\nx 0 {offset}\n");
            std::fs::write(log.parent().join(names::CLEANER_CHECKPOINT), text).unwrap();
        };
        cleaned(1);
        assert_eq!(ratio(), share(1));
        let own = crate::log::writer::open_logd_dir(log.open().dir().as_ref()).unwrap();
        rewritten::add(own.as_ref(), Reason::Redact, Offset(0)..Offset(4)).unwrap();
        assert_eq!(ratio(), share(1), "others change bytes, too");
        rewritten::add(own.as_ref(), Reason::Compact, Offset(0)..Offset(3)).unwrap();
        assert_eq!(ratio(), share(3));
        cleaned(4);
        assert_eq!(ratio(), 0.0);
        let empty = crate::log::testing::TestLog::new("x-0");
        empty.segment(0).write();
        let empty = survey(&RealHost, &Partition::at(&empty.path())).unwrap();
        assert_eq!(empty.dirty_ratio(), 0.0);
    }
}
