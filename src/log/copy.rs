//! A partition as a copy of another log: batches arrive as that one stores them.
//!
//! Whoever receives holds `receiver.lock` for life and the append lock only while it writes. The mark
//! `.logd/replica` ([`super::replica`]) keeps all others from appending, also between runs; what
//! maintenance does is no append and goes on.
//!
//! * Not a byte of a batch is changed: base offset, leader epoch, control batches, producer fields,
//!   magic 0 and 1. A segment begins where the source's did ([`Copy::put`] is told), so its `.log` is
//!   equal to the source's byte for byte. Where the copy began one of its own (maintenance rolled it)
//!   batches go on in that until the source's next.
//! * Indexes, transaction indexes and producer snapshots are made here, as an appender and a broker
//!   make them.
//! * Checked before anything is written: framing, checksums, offsets that rise ([`Copy::check`]), and
//!   that they begin at or above the end ([`Copy::put`]).
//! * An error leaves whole batches: those that were written are counted, of the others nothing stays.
//!   A process that dies leaves what recovery knows how to mend. So a copy is always a prefix of its
//!   source, and D never runs ahead of it.
//!
//! The order of a copy's life: [`Copy::open`], [`Copy::state`] (is it a prefix?), [`Copy::adopt`] (the
//! mark, durable), then for each epoch [`Copy::set_epochs`] (durable) before its first
//! [`Copy::put`].
//!
//! A gap between two segments above D looks like a lost tail after a reboot, so where the source leaves
//! one (compaction, or a copy that comes too late) the gap is noted ([`super::rewritten`]) and D is
//! moved past it first.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::checkpoint::EpochStart;
use crate::format::frame::{Frame, frame};
use crate::format::index::TxnEntry;
use crate::format::names::{Kind, file_name};
use crate::format::{Limits, Offset};
use crate::log::broker::Parent;
use crate::log::compare::{self, BatchId};
use crate::log::listing::LogDir;
use crate::log::lock::LockFile;
use crate::log::lost::Lost;
use crate::log::redactions::{self, Redaction};
pub use crate::log::replica::ReplicaOf;
use crate::log::rewritten::{self, Reason, Rewritten};
use crate::log::state::unlink_if_there;
use crate::log::sync::Syncer;
use crate::log::txns::{OpenTxns, TxnBatch, TxnFile};
use crate::log::view::View;
use crate::log::writer::{Hold, Writer, WriterOptions};
use crate::log::{epoch, files, id, make, replica};
use crate::segment::active::{Noted, RELATIVE_OFFSET_MAX, RollLimits};
use crate::sys::{Dir, File, Host, Wait};

mod redact;
mod trim;

/// How many of its last batches a copy is known by.
pub const LAST_BATCHES: usize = 16;
/// Positions in an index have 31 bits.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// How a copy is to be opened.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// The settings to write down in a partition that is made; `None` makes none.
    pub create: Option<String>,
    /// How long to wait for another receiver to end.
    pub wait: Duration,
    /// Write on a network file system all the same.
    pub allow_network_fs: bool,
    /// Fill the active segment with zeros ahead of its data: for a sync after every piece.
    pub zero_fill: bool,
    /// Bounds on what is read and received.
    pub limits: Limits,
    /// This command, for who finds a lock taken.
    pub command: String,
}

/// What a partition is, for the other side to compare.
#[derive(Clone, Debug)]
pub struct CopyState {
    /// What it is a copy of; `None` for a log that is none.
    pub replica_of: Option<ReplicaOf>,
    /// A copy of it was promoted: it takes no appends.
    pub is_fenced: bool,
    /// Its id: that of its source, if it is a copy. `None` if it has none.
    pub id: Option<[u8; 16]>,
    /// Its history of leader epochs, oldest first.
    pub epochs: Vec<EpochStart>,
    /// Where it starts.
    pub start: Offset,
    /// Its end.
    pub end: Offset,
    /// How much is durable; `None` if that is not known yet.
    pub durable: Option<Offset>,
    /// Its last batches, oldest first, [`LAST_BATCHES`] at most. Empty for a log without any.
    pub last: Vec<BatchId>,
    /// What maintenance has rewritten here.
    pub rewritten: Vec<Rewritten>,
    /// Redactions on record here.
    pub redactions: Vec<Redaction>,
}

/// What [`Copy::check`] found out about a piece: to be put together with the very bytes.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    bytes: usize,
    /// First offset of the first batch.
    first: Option<Offset>,
    noted: Vec<Noted>,
    /// Batches that have to do with transactions, by their number among `noted`.
    txns: Vec<(usize, TxnBatch)>,
}

impl Checked {
    /// First offset of the first batch (of a compressed one of magic 0 or 1: its last); `None` if there
    /// are none.
    pub fn first(&self) -> Option<Offset> {
        self.first
    }

    /// The offset behind the last batch; `None` if there are none.
    pub fn end(&self) -> Option<Offset> {
        self.noted.last().map(|n| n.last_offset.next())
    }

    /// How many batches.
    pub fn batches(&self) -> usize {
        self.noted.len()
    }
}

/// A partition that receives.
pub struct Copy {
    host: Arc<dyn Host>,
    writer: Writer,
    /// Freed with its file.
    _receiver: LockFile,
    options: CopyOptions,
    syncs: CopySync,
    /// Transactions open at the end; `None` until the first batch of one arrives.
    txns: Option<OpenTxns>,
    /// The transaction index of the active segment, once there is something to add.
    txn_file: Option<TxnFile>,
    /// Entries of it that could not be written yet.
    unwritten: Vec<TxnEntry>,
    /// A range whose batches are being swapped.
    rewriting: Option<redact::Rewriting>,
    /// Log end, as of the last look.
    end: Offset,
}

/// Makes a copy durable; to be used on another thread than the [`Copy`] if wanted.
#[derive(Clone)]
pub struct CopySync {
    syncer: Arc<Syncer>,
    /// Transaction indexes with entries that are not durable yet.
    pending: Arc<Mutex<Vec<Arc<dyn File>>>>,
    /// Held while they become durable and D passes what they speak of.
    gate: Arc<Mutex<()>>,
}

impl CopySync {
    fn new(syncer: Arc<Syncer>) -> CopySync {
        CopySync {
            syncer,
            pending: Arc::default(),
            gate: Arc::default(),
        }
    }

    /// Makes everything below `end` durable, which must have been written. Returns D, which may be more.
    ///
    /// # Errors
    /// As [`Syncer::sync_to`].
    pub fn sync_to(&self, end: Offset) -> Result<Offset> {
        // D must not pass a marker whose index entry could be lost.
        let _gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let files = std::mem::take(&mut *self.pending());
        for (i, file) in files.iter().enumerate() {
            if let Err(e) = file.sync() {
                self.pending().extend(files.iter().skip(i).cloned());
                let error = Error::io("cannot sync a transaction index", e);
                return Err(error.with_kind(ErrorKind::Io));
            }
        }
        self.syncer.sync_to(end)
    }

    /// D as published; `None` if it never was.
    ///
    /// # Errors
    /// What the system answers.
    pub fn durable(&self) -> Result<Option<Offset>> {
        self.syncer.durable()
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Arc<dyn File>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, file: &Arc<dyn File>) {
        let mut pending = self.pending();
        if !pending.iter().any(|p| Arc::ptr_eq(p, file)) {
            pending.push(Arc::clone(file));
        }
    }
}

impl Copy {
    /// Opens the partition directory at `path` for receiving, making it if that is asked for, and
    /// recovers it if it must be. Nothing in it says yet that it is a copy.
    ///
    /// # Errors
    /// `NotFound` where there is none and none is to be made, `Locked` while another process receives or
    /// a broker runs, `Config` on a network file system, `Data` for a damaged log; else what the system
    /// answers.
    pub fn open(host: &Arc<dyn Host>, path: &Path, options: CopyOptions) -> Result<Copy> {
        if let Some(settings) = &options.create {
            make_if_absent(host, path, settings)?;
        }
        let writer = Writer::open_to_receive(
            host,
            path,
            WriterOptions {
                wait: None,
                allow_network_fs: options.allow_network_fs,
                zero_fill: options.zero_fill,
                roll: RollLimits {
                    segment_bytes: u64::MAX, // the source says where
                    segment_age_ms: None,
                },
                command: options.command.clone(),
            },
        )?;
        let receiver = take_receiver_lock(host.as_ref(), &writer, &options)?;
        let syncs = CopySync::new(writer.syncer());
        let mut copy = Copy {
            host: Arc::clone(host),
            writer,
            _receiver: receiver,
            options,
            syncs,
            txns: None,
            txn_file: None,
            unwritten: Vec::new(),
            rewriting: None,
            end: Offset::ZERO,
        };
        copy.finish_moves()?;
        copy.settle()?;
        copy.drop_empty_first()?;
        copy.note_txn_files()?;
        Ok(copy)
    }

    /// What a process that died wrote into transaction indexes may not be durable.
    fn note_txn_files(&self) -> Result<()> {
        let Some(durable) = self.syncs.durable()? else {
            return Ok(()); // the first sync is of everything
        };
        let log = self.writer.log();
        let segments = log.segments()?;
        let first = segments.partition_point(|s| s.base() <= durable);
        for segment in segments.iter().skip(first.saturating_sub(1)) {
            if let Some(file) = log.open_optional(&segment.index_name(Kind::TxnIndex))? {
                self.syncs.note(&file);
            }
        }
        Ok(())
    }

    /// Recovers the log, if it must be; its end.
    fn settle(&mut self) -> Result<Offset> {
        let hold = self.writer.hold()?;
        self.end = hold.next_offset();
        hold.release()?;
        Ok(self.end)
    }

    /// A copy that begins above 0 had an empty segment at 0; whoever was to remove it was killed.
    fn drop_empty_first(&self) -> Result<()> {
        let log = self.writer.log();
        let segments = log.segments()?;
        let mut left = segments.as_slice();
        while let [first, rest @ ..] = left
            && !rest.is_empty()
        {
            let file = log.open_file(&first.log_name())?;
            if file
                .len()
                .map_err(|e| self.error("cannot stat a segment", e))?
                > 0
            {
                break;
            }
            let remove = || -> io::Result<()> {
                for kind in [
                    Kind::OffsetIndex,
                    Kind::TimeIndex,
                    Kind::TxnIndex,
                    Kind::Log,
                ] {
                    unlink_if_there(log.dir().as_ref(), &file_name(first.base(), kind))?;
                }
                Ok(())
            };
            remove().map_err(|e| self.error("cannot remove an empty segment", e))?;
            left = rest;
        }
        Ok(())
    }

    /// The partition's directory.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    /// What recovery had to take out since this was last asked: for a notice.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        self.writer.take_lost()
    }

    /// Log end offset, as of the last call that wrote or looked.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Who makes it durable, to be used elsewhere.
    pub fn syncs(&self) -> CopySync {
        self.syncs.clone()
    }

    /// What the partition is, for the other side to compare.
    ///
    /// # Errors
    /// `Data` for damage; else what the system answers.
    pub fn state(&mut self) -> Result<CopyState> {
        self.settle()?;
        let (log, own) = (self.writer.log(), self.writer.logd_dir().as_ref());
        let mut view = View::of(log.clone())?;
        let replica_of = replica::read(own)?;
        let id = match &replica_of {
            Some(of) => Some(of.id),
            None => id::read(log.dir().as_ref(), Some(own))?,
        };
        Ok(CopyState {
            is_fenced: replica::is_marked(own, files::FENCED)?,
            id,
            replica_of,
            epochs: epoch::read(log.dir().as_ref())?,
            start: view.start(),
            end: self.end,
            durable: self.syncs.durable()?,
            last: compare::last_batches(&mut view, LAST_BATCHES, &self.options.limits)?,
            rewritten: rewritten::read(own)?,
            redactions: redactions::read(own)?,
        })
    }

    /// The log as it is now, for [`compare`].
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn view(&self) -> Result<View> {
        View::of(self.writer.log().clone())
    }

    /// Makes the partition a copy of `source`, durably: it takes no appends any more. It gets the
    /// source's id (unless a broker gave it one), and is no longer fenced. Nothing is written where all
    /// that is so.
    ///
    /// # Errors
    /// `Locked` if somebody has appended since [`Copy::state`] was asked: it is then as it was. Else
    /// what the system answers.
    pub fn adopt(&mut self, source: &ReplicaOf) -> Result<()> {
        let own = Arc::clone(self.writer.logd_dir());
        let dir = Arc::clone(self.writer.log().dir());
        let seen = self.end;
        // Appenders look for the mark under this lock.
        let hold = self.writer.hold()?;
        if hold.next_offset() != seen {
            let why = format!("somebody appended meanwhile, from offset {seen} on");
            return Err(Error::new(ErrorKind::Locked, why).at_path(dir.path()));
        }
        replica::write(own.as_ref(), source)?;
        hold.release()?;
        if source.id != [0; 16] {
            id::write(dir.as_ref(), own.as_ref(), source.id)?;
        }
        replica::remove(own.as_ref(), files::FENCED)
    }

    /// Makes the history of leader epochs the source's, durably: before the first batch of an epoch.
    ///
    /// # Errors
    /// What the system answers.
    pub fn set_epochs(&mut self, epochs: &[EpochStart]) -> Result<()> {
        self.refuse_unmarked()?;
        epoch::write(self.writer.log().dir().as_ref(), epochs)?;
        self.writer.note_epoch(epochs.last().map_or(0, |e| e.epoch));
        Ok(())
    }

    /// Checks a piece of a segment, whole batches one after the other: that each is one, its checksum,
    /// and that offsets rise. Needs no copy, and may run on another thread.
    ///
    /// # Errors
    /// `Data`, with the offset expected and the byte in `bytes`.
    pub fn check(bytes: &[u8], limits: &Limits) -> Result<Checked> {
        let mut out = Checked {
            bytes: bytes.len(),
            ..Checked::default()
        };
        let mut scratch = Scratch::new();
        let (mut at, mut next) = (0, Offset::ZERO);
        while let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) {
            let bad = |place: usize, why: String| {
                Error::data(why)
                    .at_offset(next.0)
                    .at_position((at + place) as u64)
            };
            let size = match frame(rest, limits) {
                Frame::Entry(size) => size,
                Frame::Bad(d) => return Err(bad(d.at, d.reason)),
                Frame::Zero => return Err(bad(8, "a batch of length 0".to_string())),
                Frame::NeedMore(_) => return Err(bad(0, "a batch is cut short".to_string())),
            };
            let batch = Batch::check(rest.get(..size).unwrap_or_default());
            let batch = batch.map_err(|d| bad(d.at, d.reason))?;
            let h = batch.header();
            let (first, last) = (h.base_offset, h.last_offset);
            if first < next || last < first || last >= Offset::MAX {
                let why =
                    format!("a batch of offsets {first} to {last} where {next} or more must be");
                return Err(bad(0, why));
            }
            if let Some(txn) = TxnBatch::of(&batch, &mut scratch, limits) {
                out.txns.push((out.noted.len(), txn));
            }
            out.first.get_or_insert(first);
            out.noted.push(Noted {
                size: size as u64,
                last_offset: last,
                max_timestamp: h.max_timestamp,
                has_producer: h.has_producer(),
            });
            (at, next) = (at + size, last.next());
        }
        Ok(out)
    }

    /// Writes a piece of the source's segment named after `segment`, that [`Copy::check`] has found
    /// sound. Readers see it on return; it is durable after a sync. Returns the new end.
    ///
    /// # Errors
    /// `Data` if it does not lie behind the end, or not in such a segment; `Permission` if this is no
    /// copy any more; else what the system answers. [`Copy::end`] then says what is there.
    pub fn put(&mut self, segment: Offset, bytes: &[u8], checked: &Checked) -> Result<Offset> {
        let (Some(first), Some(last)) = (checked.first, checked.noted.last()) else {
            return Ok(self.end);
        };
        if bytes.len() != checked.bytes {
            return Err(Error::new(ErrorKind::Bug, "a piece that was not checked"));
        }
        if segment < Offset::ZERO || segment > first {
            let why = format!("a batch from offset {first} in a segment that begins at {segment}");
            return Err(Error::data(why).at_path(self.path()).at_offset(first.0));
        }
        self.refuse_unmarked()?;
        let mut hold = self.writer.hold()?;
        self.end = hold.next_offset();
        if first < self.end {
            let why = format!(
                "a batch from offset {first}, but the copy ends at {}",
                self.end
            );
            return Err(misplaced(hold.log(), why, first));
        }
        if segment > hold.active()?.0 && segment >= self.end {
            hold.release()?;
            self.begin_segment(segment)?;
            hold = self.writer.hold()?;
        }
        let (active, tally) = hold.active()?;
        let size = tally.position.0.saturating_add(bytes.len() as u64);
        if last.last_offset - active > RELATIVE_OFFSET_MAX
            || (tally.position.0 > 0 && size > SEGMENT_BYTES_MAX)
        {
            let why = format!(
                "the segment from offset {active} has no room for offset {}",
                last.last_offset
            );
            return Err(misplaced(hold.log(), why, first));
        }
        let mut place = Placing {
            limits: &self.options.limits,
            txns: &mut self.txns,
            file: &mut self.txn_file,
            unwritten: &mut self.unwritten,
            syncs: &self.syncs,
        };
        let placed = place.place(&mut hold, active, bytes, checked);
        self.end = hold.next_offset();
        let released = hold.release();
        placed.and(released).map(|()| self.end)
    }

    /// Begins a segment at the log end or above.
    fn begin_segment(&mut self, base: Offset) -> Result<()> {
        self.flush_txns()?;
        self.txn_file = None;
        let mut hold = self.writer.hold()?;
        let (_, tally) = hold.active()?;
        let gap = hold.next_offset()..base;
        // Below the first segment nothing is missing.
        let is_fresh = tally.position.0 == 0 && hold.log().segments()?.len() < 2;
        if !gap.is_empty() && !is_fresh {
            hold.release()?;
            rewritten::add(self.writer.logd_dir().as_ref(), Reason::Gap, gap.clone())?;
            hold = self.writer.hold()?;
        }
        hold.begin_segment(base)?;
        self.end = hold.next_offset();
        hold.release()?;
        match gap.is_empty() {
            true => Ok(()),
            false => self.writer.settle_gap(base),
        }
    }

    fn flush_txns(&mut self) -> Result<()> {
        write_txns(&mut self.txn_file, &mut self.unwritten, &self.syncs)
            .map_err(|e| self.error("cannot write a transaction index", e))
    }

    /// Makes everything that was put durable. Returns D.
    ///
    /// # Errors
    /// As [`CopySync::sync_to`].
    pub fn sync(&mut self) -> Result<Offset> {
        self.flush_txns()?;
        self.syncs.sync_to(self.end)
    }

    /// Ends receiving: cuts zeros that were filled ahead. Syncs nothing.
    ///
    /// # Errors
    /// What the system answers.
    pub fn close(mut self) -> Result<()> {
        self.flush_txns()?;
        self.writer.close()
    }

    fn refuse_unmarked(&self) -> Result<()> {
        match replica::is_marked(self.writer.logd_dir().as_ref(), files::REPLICA)? {
            true => Ok(()),
            false => {
                let why = "this is no copy any more";
                Err(Error::new(ErrorKind::Permission, why).at_path(self.path()))
            }
        }
    }

    fn error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, e).at_path(self.path())
    }
}

/// What placing a piece needs beside the lock.
struct Placing<'p> {
    limits: &'p Limits,
    txns: &'p mut Option<OpenTxns>,
    file: &'p mut Option<TxnFile>,
    unwritten: &'p mut Vec<TxnEntry>,
    syncs: &'p CopySync,
}

impl Placing<'_> {
    /// Writes the batches, then what they add to the transaction index.
    fn place(
        &mut self,
        hold: &mut Hold<'_>,
        active: Offset,
        bytes: &[u8],
        checked: &Checked,
    ) -> Result<()> {
        let before = hold.next_offset();
        if !checked.txns.is_empty() && self.txns.is_none() {
            *self.txns = Some(OpenTxns::load(hold.log(), before, self.limits)?);
        }
        let (whole, mut failed) = hold.receive(bytes, &checked.noted)?;
        if let Some(txns) = &mut self.txns {
            let there = checked.txns.iter().take_while(|(i, _)| *i < whole);
            self.unwritten
                .extend(there.filter_map(|(_, t)| txns.note(t)));
        }
        if !self.unwritten.is_empty() {
            let dir = Arc::clone(hold.log().dir());
            let opened = match &self.file {
                Some(file) if file.base() == active => Ok(()),
                _ => TxnFile::open(dir.as_ref(), active, before).map(|f| *self.file = Some(f)),
            };
            let written = opened.and_then(|()| write_txns(self.file, self.unwritten, self.syncs));
            if let Err(e) = written {
                // Whoever comes next, should this process die, finds a marker that the hint does not
                // know of.
                hold.keep_hint();
                let error = Error::io("cannot write a transaction index", e);
                failed.get_or_insert(error.at_path(dir.path()));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn misplaced(log: &LogDir, why: String, offset: Offset) -> Error {
    Error::data(why)
        .at_path(log.dir().path())
        .at_offset(offset.0)
}

/// Writes the entries that are not in the index yet.
fn write_txns(
    file: &mut Option<TxnFile>,
    unwritten: &mut Vec<TxnEntry>,
    syncs: &CopySync,
) -> io::Result<()> {
    if let Some(file) = file
        && !unwritten.is_empty()
    {
        file.add(unwritten)?;
        unwritten.clear();
        syncs.note(file.file());
    }
    Ok(())
}

fn make_if_absent(host: &Arc<dyn Host>, path: &Path, settings: &str) -> Result<()> {
    let name = path.file_name().and_then(|n| n.to_str());
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let Some(name) = name else { return Ok(()) };
    let open = |e| Error::io("cannot open", e).at_path(parent);
    let parent = host.open_dir(parent).map_err(open)?;
    let there = parent.stat(name).map_err(open)?;
    if there.is_some() && make::is_finished(host.open_dir(path).map_err(open)?.as_ref())? {
        return Ok(());
    }
    let _broker = Parent::enter(host.as_ref(), parent.path())?;
    make::make_partition(host.as_ref(), parent.as_ref(), name, settings)
}

pub(super) fn take_receiver_lock(
    host: &dyn Host,
    writer: &Writer,
    options: &CopyOptions,
) -> Result<LockFile> {
    let own: &dyn Dir = writer.logd_dir().as_ref();
    let lock = LockFile::open(own, files::RECEIVER_LOCK)?;
    let wait = match options.wait {
        Duration::ZERO => Wait::No,
        wait => Wait::Until(Instant::now() + wait),
    };
    if !lock.acquire(own, wait)? {
        let why = "the log was replaced by another directory";
        return Err(Error::new(ErrorKind::NotFound, why).at_path(writer.path()));
    }
    lock.write_note(host, &options.command);
    Ok(lock)
}

#[cfg(test)]
#[path = "copy_tests.rs"]
pub(crate) mod tests;
