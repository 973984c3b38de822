//! Aborted transactions as their markers arrive: what goes into `.txnindex`.
//!
//! Only a copy receives transactions; an appender of ours writes none. The rules are Kafka's
//! (`ProducerStateManager.completeTxn`, `LogSegment.updateTxnIndex`): the marker that aborts a
//! transaction adds an entry to the index of the segment it is in.
//!
//! Readers of ours never ask this index, but a broker believes it. So an entry is written after its
//! marker and before the end hint, and synced before D passes the marker; and recovery has the index
//! made anew ([`mend`]) when it meets a marker that the hint does not know of, and after a power cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::control::{self, Control};
use crate::format::index::{self, Entry, TxnEntry};
use crate::format::names::{Kind, file_name};
use crate::format::{Limits, Offset, Position};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::producers::Producers;
use crate::log::state::write_state_file;
use crate::segment::scan::{HeaderWalk, Span, Walk};
use crate::sys::{Dir, File};

/// A marker batch is 78 bytes; whatever is much larger is none.
const MARKER_BYTES_MAX: usize = 4096;
/// Largest index that is read: a million aborted transactions.
const INDEX_BYTES_MAX: u64 = 34 << 20;

/// A batch that has to do with transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnBatch {
    /// Its producer.
    pub producer_id: i64,
    /// Its first offset.
    pub base: Offset,
    /// Its last offset.
    pub last: Offset,
    /// For a marker whether it commits; `None` for records.
    pub commit: Option<bool>,
}

impl TxnBatch {
    /// What a sound batch says of transactions; `None` if nothing.
    pub fn of(batch: &Batch<'_>, scratch: &mut Scratch, limits: &Limits) -> Option<TxnBatch> {
        let h = batch.header();
        if !h.is_transactional() && !h.is_control() {
            return None;
        }
        let commit = match h.is_control() {
            true => Some(end_marker(batch, scratch, limits)?),
            // An empty one stands for a producer whose records compaction removed.
            false if h.count == 0 => return None,
            false => None,
        };
        Some(TxnBatch {
            producer_id: h.producer_id,
            base: h.base_offset,
            last: h.last_offset,
            commit,
        })
    }
}

/// Whether an end marker commits; `None` for other batches.
fn end_marker(batch: &Batch<'_>, scratch: &mut Scratch, limits: &Limits) -> Option<bool> {
    let record = batch.records(scratch, limits).ok()?.next()?.ok()?;
    match control::decode(record.key, record.value).ok()? {
        Control::EndTxn { commit, .. } => Some(commit),
        _ => None,
    }
}

/// The transactions that are open at an offset.
#[derive(Debug)]
pub struct OpenTxns {
    /// First offset of each, by producer.
    open: BTreeMap<i64, Offset>,
}

impl OpenTxns {
    /// Those open at `at`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn load(log: &LogDir, at: Offset, limits: &Limits) -> Result<OpenTxns> {
        let producers = Producers::load(log, at, limits)?;
        let open = producers.open_transactions().collect();
        Ok(OpenTxns { open })
    }

    /// Takes in the next batch; the transaction that it aborts.
    pub fn note(&mut self, batch: &TxnBatch) -> Option<TxnEntry> {
        let Some(commit) = batch.commit else {
            self.open.entry(batch.producer_id).or_insert(batch.base);
            return None;
        };
        let first_offset = self.open.remove(&batch.producer_id)?;
        let stable = self.open.values().min().copied();
        (!commit).then_some(TxnEntry {
            producer_id: batch.producer_id,
            first_offset,
            last_offset: batch.last,
            last_stable_offset: stable.unwrap_or(batch.last.next()),
        })
    }
}

/// A segment's transaction index, open for adding to it.
pub struct TxnFile {
    base: Offset,
    file: Arc<dyn File>,
    len: u64,
}

impl TxnFile {
    /// Opens that of the segment `base`, making it if it is absent. What it says of offsets from `end`
    /// on was left by a crash, and goes.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(dir: &dyn Dir, base: Offset, end: Offset) -> io::Result<TxnFile> {
        let file: Arc<dyn File> = Arc::from(dir.open_or_create(&file_name(base, Kind::TxnIndex))?);
        let bytes = read_small(file.as_ref(), INDEX_BYTES_MAX).map_err(io::Error::other)?;
        let known = index::entries(&bytes).take_while(|e: &TxnEntry| e.last_offset < end);
        let len = (known.count() * TxnEntry::BYTES) as u64;
        if bytes.len() as u64 != len {
            file.set_len(len)?;
        }
        Ok(TxnFile { base, file, len })
    }

    /// Base offset of its segment.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Adds entries: all of them, or none.
    ///
    /// # Errors
    /// What the system answers.
    pub fn add(&mut self, entries: &[TxnEntry]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(entries.len() * TxnEntry::BYTES);
        entries.iter().for_each(|e| e.encode(&mut bytes));
        if let Err(e) = self.file.write_all_at(&bytes, self.len) {
            let _ = self.file.set_len(self.len);
            return Err(e);
        }
        self.len += bytes.len() as u64;
        Ok(())
    }
}

/// Whether a segment from the one that holds `from` on has a transaction index with anything in it.
///
/// # Errors
/// What the system answers.
pub fn any_from(log: &LogDir, from: Offset) -> Result<bool> {
    let segments = log.segments()?;
    let first = segments.partition_point(|s| s.base() <= from);
    for segment in segments.iter().skip(first.saturating_sub(1)) {
        let name = segment.index_name(Kind::TxnIndex);
        let meta = log.dir().stat(&name);
        let meta = meta.map_err(|e| Error::io("cannot stat", e).at_path(log.path_of(&name)))?;
        if meta.is_some_and(|m| m.len > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the transaction indexes of the segments from the one that holds `from` on say what the log
/// says, durably. One that does already is left as it is.
///
/// # Errors
/// What the system answers.
pub fn mend(log: &LogDir, from: Offset, limits: &Limits) -> Result<()> {
    let segments = log.segments()?;
    let first = segments
        .partition_point(|s| s.base() <= from)
        .saturating_sub(1);
    let Some(base) = segments.get(first).map(SegmentRef::base) else {
        return Ok(());
    };
    let mut open = OpenTxns::load(log, base, limits)?;
    for segment in segments.iter().skip(first) {
        let entries = entries_of(log, segment, &mut open, limits)?;
        let mut right = Vec::new();
        entries.iter().for_each(|e| e.encode(&mut right));
        let name = segment.index_name(Kind::TxnIndex);
        let there = log.open_optional(&name)?;
        let there = there.map(|f| read_small(&*f, INDEX_BYTES_MAX)).transpose();
        // One that cannot be read is wrong.
        let there = there.unwrap_or_default();
        if there.unwrap_or_default() != right {
            write_state_file(log.dir().as_ref(), &name, &right)
                .map_err(|e| Error::io("cannot write", e).at_path(log.path_of(&name)))?;
        }
    }
    Ok(())
}

fn entries_of(
    log: &LogDir,
    segment: &SegmentRef,
    open: &mut OpenTxns,
    limits: &Limits,
) -> Result<Vec<TxnEntry>> {
    let place = |e: Error| e.at_path(log.path_of(&segment.log_name()));
    let file = log.open_file(&segment.log_name())?;
    let len = file.len().map_err(|e| place(Error::io("cannot read", e)))?;
    let mut walk = HeaderWalk::new(file, Span::whole(segment.base(), len), *limits);
    let (mut out, mut scratch) = (Vec::new(), Scratch::new());
    while let Walk::Header(header, position) = walk.next().map_err(place)? {
        let batch = noted(&mut walk, &header, position, &mut scratch, limits);
        out.extend(batch.map_err(place)?.and_then(|b| open.note(&b)));
    }
    Ok(out)
}

/// As [`TxnBatch::of`], of a batch whose body is read only where it must be.
fn noted(
    walk: &mut HeaderWalk,
    header: &BatchHeader,
    position: Position,
    scratch: &mut Scratch,
    limits: &Limits,
) -> Result<Option<TxnBatch>> {
    if !header.is_control() {
        let data = Batch::checked(header.clone(), &[]);
        return Ok(TxnBatch::of(&data, scratch, limits));
    }
    let bytes = walk.entry(header, position, MARKER_BYTES_MAX)?;
    let batch = bytes.and_then(|b| Batch::check(b).ok());
    Ok(batch.and_then(|b| TxnBatch::of(&b, scratch, limits)))
}
