//! What is stored, as stored: every batch, record and index entry of a log or of single files.
//!
//! Owns the walk over the files of a partition and the judgement of what is damaged; how an
//! [`Item`] looks is `cli`'s. The walk goes past damage: it is reported in its place, and what comes
//! next is the next batch that proves itself. Memory follows the batch in hand, whatever the files
//! hold.
//!
//! | module | owns |
//! |---|---|
//! | [`segment`] | `.log` files: batches, records, damage |
//! | [`beside`] | indexes, snapshots, checkpoints |
//! | [`range`] | what a RANGE means where nothing but headers can be relied on |
//!
//! What is *not* damage: zeros up to the end of a file (preallocated), and a last batch that is cut
//! short in the last segment (it may be being written): these are a [`Item::Tail`].

mod beside;
mod range;
mod segment;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::checkpoint::{EpochStart, PartitionOffset, TopicId};
use crate::format::control::Control;
use crate::format::index::TxnEntry;
use crate::format::internal::{GroupRecord, TransactionRecord};
use crate::format::names::{self, FileName, Kind, State};
use crate::format::record::Record;
use crate::format::snapshot::ProducerEntry;
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::ops::topic::{self, Partition};
use crate::ops::words;
use crate::sys::{Access, Dir, File, Host};
use range::Logs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to show.
#[derive(Clone, Debug)]
pub struct Options {
    /// Batch headers.
    pub batches: bool,
    /// Records, decoded where Kafka wrote them.
    pub records: bool,
    /// Indexes, snapshots and checkpoints.
    pub indexes: bool,
    /// Only what has offsets in here, and no file that has none. A lone POS is from there on.
    pub range: Option<words::Range>,
    /// As kafka-dump-log looks at things: records of batches whose checksum is wrong, blank index
    /// entries, time indexes held against the log; and no files that it does not know.
    pub as_kafka: bool,
    /// Bounds on what is read.
    pub limits: Limits,
}

impl Default for Options {
    /// Everything.
    fn default() -> Options {
        Options {
            batches: true,
            records: true,
            indexes: true,
            range: None,
            as_kafka: false,
            limits: Limits::default(),
        }
    }
}

/// A file that is being shown.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Where it is, as the user named it.
    pub path: PathBuf,
    /// What it holds.
    pub kind: FileKind,
    /// Base offset in its name.
    pub base: Offset,
    /// Its length in bytes when it was opened.
    pub len: u64,
    /// Whether records may still be added to it.
    active: bool,
    /// Topic of the directory it is in.
    topic: Option<String>,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// One of a segment's five.
    Segment(Kind),
    /// `leader-epoch-checkpoint`.
    Epochs,
    /// `partition.metadata`.
    Metadata,
    /// A checkpoint of a log directory.
    Checkpoint,
}

/// One thing that is stored. It belongs to the last [`Item::File`].
#[derive(Debug)]
pub enum Item<'a> {
    /// A file begins.
    File(&'a FileInfo),
    /// A batch.
    Batch {
        /// Where it begins.
        position: Position,
        /// Its header.
        header: &'a BatchHeader,
        /// Whether its checksum holds.
        valid: bool,
    },
    /// A record.
    Record(RecordItem<'a>),
    /// Entry of an offset index.
    OffsetEntry {
        /// Offset indexed.
        offset: Offset,
        /// Where its batch begins.
        position: Position,
        /// What is there.
        found: Found,
    },
    /// Entry of a time index.
    TimeEntry {
        /// Timestamp indexed.
        timestamp: TimestampMs,
        /// Offset it leads to.
        offset: Offset,
        /// What the log says, if it was asked ([`Options::as_kafka`]).
        check: TimeCheck,
    },
    /// Entry of a transaction index.
    TxnEntry(TxnEntry),
    /// A producer in a snapshot.
    Producer(ProducerEntry),
    /// A leader epoch.
    Epoch(EpochStart),
    /// The topic's id.
    TopicId(TopicId),
    /// A partition in a checkpoint of a log directory.
    Checkpoint(PartitionOffset),
    /// Bytes behind the last batch that are no damage.
    Tail {
        /// Where they begin.
        position: Position,
        /// How many there are.
        bytes: u64,
        /// They are zeros; else the beginning of a batch.
        zeros: bool,
    },
    /// What should not be.
    Damage {
        /// Where it was noticed.
        position: Position,
        /// Bytes that were passed over; 0 if what was found there is shown all the same.
        skipped: u64,
        /// What is wrong.
        reason: String,
    },
}

/// A record and what surrounds it.
#[derive(Debug)]
pub struct RecordItem<'a> {
    /// Its batch.
    pub batch: &'a BatchHeader,
    /// Where its batch begins.
    pub position: Position,
    /// The record.
    pub record: &'a Record<'a>,
    /// Checksum of its own, in magic 0 and 1.
    pub crc: Option<u32>,
    /// Whether its batch's checksum holds.
    pub valid: bool,
    /// What it means, if Kafka wrote it.
    pub content: Content<'a>,
}

/// What a record means.
#[derive(Debug)]
pub enum Content<'a> {
    /// A user's: whatever it does.
    User,
    /// A control record.
    Control(Control<'a>),
    /// Of `__consumer_offsets`.
    Group(GroupRecord<'a>),
    /// Of `__transaction_state`.
    Transaction(TransactionRecord),
}

/// What an offset index entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no log beside the index.
    NoLog,
    /// No batch begins there.
    Nothing,
    /// A batch with this last offset.
    Batch(Offset),
}

/// What the log says of a time index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeCheck {
    /// It was not asked, or agrees.
    Fine,
    /// The offset is no batch's last one; the batch that holds it ends here, if there is one.
    NotLast(Option<Offset>),
    /// The batch's largest timestamp is another.
    Differs(TimestampMs),
}

/// What a dump came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Places that are damaged.
    pub damages: u64,
}

/// Where items go.
pub type Sink<'s> = dyn FnMut(Item<'_>) -> Result<()> + 's;

/// Shows a file, or every file of a partition directory in name order, or of every partition of a
/// topic. Takes no lock; shows each file up to its length when it is opened.
///
/// # Errors
/// Not found, or a file that no log has; reading fails; the sink's own. Damage is no error.
pub fn dump(
    host: &dyn Host,
    path: &Path,
    options: &Options,
    sink: &mut Sink<'_>,
) -> Result<Summary> {
    let mut job = Job {
        options,
        range: None,
        sink,
        summary: Summary::default(),
    };
    if is_file(host, path) {
        job.single(host, path)?;
    } else {
        let partitions = topic::find(host, path)?;
        if partitions.is_empty() {
            return Err(Error::not_found("no such log or file").at_path(path));
        }
        for Partition { path, .. } in &partitions {
            let dir = host.open_dir(path);
            let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(path))?;
            job.partition(&*dir, path)?;
        }
    }
    Ok(job.summary)
}

/// Whether `path` leads to something that is no directory.
fn is_file(host: &dyn Host, path: &Path) -> bool {
    let opened = host.open_dir(path);
    opened.is_err_and(|e| e.kind() == io::ErrorKind::NotADirectory)
}

/// One call of [`dump`].
struct Job<'o, 's, 'k> {
    options: &'o Options,
    /// What [`Options::range`] means in the partition at hand.
    range: Option<Range<Offset>>,
    sink: &'k mut Sink<'s>,
    summary: Summary,
}

impl Job<'_, '_, '_> {
    /// Every file of a partition.
    fn partition(&mut self, dir: &dyn Dir, path: &Path) -> Result<()> {
        let listed = dir.list();
        let mut names = listed.map_err(|e| Error::io("cannot list", e).at_path(path))?;
        names.sort();
        self.resolve(dir, names.iter().filter(|n| plain_log(n).is_some()))?;
        let topic = topic_of(path);
        for (i, name) in names.iter().enumerate() {
            let Some((kind, base)) = known(name).filter(|_| !is_suffixed(name)) else {
                continue;
            };
            let next = names.iter().skip(i + 1).find_map(|n| plain_log(n));
            if self.passes_over(kind, base, next) {
                continue;
            }
            let last_log = names.iter().rev().find_map(|n| plain_log(n));
            let info = FileInfo {
                path: path.join(name),
                kind,
                base,
                len: 0,
                active: last_log == Some(base),
                topic: topic.clone(),
            };
            match self.file(dir, name, info) {
                // Retention or compaction took it between the listing and here.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// A file that was named itself.
    fn single(&mut self, host: &dyn Host, path: &Path) -> Result<()> {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        let Some((kind, base)) = known(name) else {
            return Err(Error::usage("not a file of a log").at_path(path));
        };
        let parent = topic::parent(path);
        let dir = host.open_dir(&parent);
        let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&parent))?;
        let names = dir.list();
        let names = names.map_err(|e| Error::io("cannot list", e).at_path(&parent))?;
        let log = names::parse(name).map(|n| n.sibling(Kind::Log).to_string());
        self.resolve(&*dir, log.iter())?;
        let later = names.iter().filter_map(|n| plain_log(n)).any(|b| b > base);
        let info = FileInfo {
            path: path.to_path_buf(),
            kind,
            base,
            len: 0,
            active: !later,
            topic: topic_of(&parent),
        };
        self.file(&*dir, name, info)
    }

    /// Sets the range for the partition whose logs are these.
    fn resolve<'n>(&mut self, dir: &dyn Dir, logs: impl Iterator<Item = &'n String>) -> Result<()> {
        let Some(range) = &self.options.range else {
            return Ok(());
        };
        let logs = Logs {
            dir,
            names: logs.map(String::as_str).collect(),
            limits: &self.options.limits,
        };
        let resolved = logs.resolve(range);
        self.range = Some(resolved.map_err(|e| e.at_path(dir.path()))?);
        Ok(())
    }

    /// Whether any of `first..=last` is wanted.
    fn wants(&self, first: Offset, last: Offset) -> bool {
        let range = self.range.as_ref();
        range.is_none_or(|r| first < r.end && last >= r.start)
    }

    fn wants_offset(&self, offset: Offset) -> bool {
        self.wants(offset, offset)
    }

    /// Whether a file of a log is not wanted. `next` is the base offset of the segment after it.
    fn passes_over(&self, kind: FileKind, base: Offset, next: Option<Offset>) -> bool {
        let last = next.map_or(Offset::MAX, |n| n + -1);
        match kind {
            FileKind::Segment(Kind::Log) => {
                let wanted = self.options.batches || self.options.records;
                !wanted || !self.wants(base, last)
            }
            FileKind::Segment(Kind::Snapshot) => {
                !self.options.indexes || self.options.range.is_some()
            }
            FileKind::Segment(_) => !self.options.indexes || !self.wants(base, last),
            _ => {
                let none = self.options.range.is_some() || self.options.as_kafka;
                !self.options.indexes || none
            }
        }
    }

    fn file(&mut self, dir: &dyn Dir, name: &str, mut info: FileInfo) -> Result<()> {
        let path = info.path.clone();
        let opened = dir.open(name, Access::Read);
        let file = opened.map_err(|e| Error::io("cannot open", e).at_path(&path))?;
        let file: Arc<dyn File> = Arc::from(file);
        let len = file.len();
        info.len = len.map_err(|e| Error::io("cannot read", e).at_path(&path))?;
        (self.sink)(Item::File(&info))?;
        let shown = match info.kind {
            FileKind::Segment(Kind::Log) => self.segment(&file, &info),
            FileKind::Segment(Kind::OffsetIndex) => {
                let log = log_beside(dir, name);
                self.offset_index(&*file, log.as_deref(), &info)
            }
            FileKind::Segment(Kind::TimeIndex) => {
                let log = log_beside(dir, name).filter(|_| self.options.as_kafka);
                let index = read_beside(dir, name, Kind::OffsetIndex);
                self.time_index(&*file, log, &index, &info)
            }
            FileKind::Segment(Kind::TxnIndex) => self.txn_index(&*file, &info),
            _ => self.small_file(&*file, &info),
        };
        shown.map_err(|e| e.at_path(&path))
    }

    fn put(&mut self, item: Item<'_>) -> Result<()> {
        (self.sink)(item)
    }

    fn damage(&mut self, at: u64, skipped: u64, reason: impl Into<String>) -> Result<()> {
        self.summary.damages += 1;
        let (position, reason) = (Position(at), reason.into());
        (self.sink)(Item::Damage {
            position,
            skipped,
            reason,
        })
    }
}

/// What a file is by its name, and its base offset. A `.log` of any name may be shown: a copy keeps
/// its content but not always its name.
fn known(name: &str) -> Option<(FileKind, Offset)> {
    if let Some(n) = names::parse(name) {
        return Some((FileKind::Segment(n.kind), n.base));
    }
    let kind = match name {
        names::LEADER_EPOCH_CHECKPOINT => FileKind::Epochs,
        names::PARTITION_METADATA => FileKind::Metadata,
        _ if names::DIR_CHECKPOINTS.contains(&name) => FileKind::Checkpoint,
        _ if name.ends_with(Kind::Log.suffix()) => FileKind::Segment(Kind::Log),
        _ => return None,
    };
    Some((kind, Offset::ZERO))
}

/// Names of a segment on its way in or out, and names that a broker would choke on: shown only when
/// asked for by name.
fn is_suffixed(name: &str) -> bool {
    names::is_foreign(name) || names::parse(name).is_some_and(|n| n.state != State::Plain)
}

fn plain_log(name: &str) -> Option<Offset> {
    let n = names::parse(name)?;
    (n.kind == Kind::Log && n.state == State::Plain).then_some(n.base)
}

fn topic_of(dir: &Path) -> Option<String> {
    let full = std::path::absolute(dir).ok()?;
    let name = full.file_name()?.to_str()?.to_string();
    names::parse_dir(&name).map(|d| d.topic.to_string())
}

/// The file of the same segment and state.
fn open_beside(dir: &dyn Dir, name: &str, kind: Kind) -> Option<Box<dyn File>> {
    let name: FileName = names::parse(name)?.sibling(kind);
    dir.open(&name.to_string(), Access::Read).ok()
}

fn log_beside(dir: &dyn Dir, name: &str) -> Option<Arc<dyn File>> {
    open_beside(dir, name, Kind::Log).map(Arc::from)
}

fn read_beside(dir: &dyn Dir, name: &str, kind: Kind) -> Vec<u8> {
    let file = open_beside(dir, name, kind);
    file.and_then(|f| beside::read_all(&*f).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
