//! Replacing a run of sealed segments S1..Sn by one: compaction, redaction, repair, exact retention.
//!
//! No file that is in use is ever changed. The replacement is built aside ([`Output`]), and put in
//! place by [`replace`], in steps that each leave the old log or the new one to whoever comes next, a
//! broker included:
//!
//! | step | on disk | a crash here: the next holder of the maintenance lock, and a broker, do |
//! |---|---|---|
//! | 1 build S1 and its indexes in `.logd/tmp`, read back, sync, mtime of Sn | old | empty tmp |
//! | 2 rename them into the directory as `.cleaned`, sync it | old + `.cleaned` | remove `.cleaned` |
//! | 3 rename the indexes, then the log, to `.swap` (commit), sync | old + `.swap` | while a `.cleaned` is left: remove both; else go on |
//! | 4 unlink S2..Sn with indexes and snapshots, sync | some old + `.swap` | unlink the rest in its range |
//! | 5 rename S1.log.swap to S1.log, then its indexes, sync | new | rename the rest |
//!
//! The range of a `.swap` is its base offset to its last offset, so the output must end in a batch
//! (an empty one, if need be) that carries the last offset of Sn. One replacement at a time: a broker
//! takes all `.swap` files in a directory for one.
//!
//! S1 keeps its producer snapshot, which speaks of what is before it. If any source had a
//! `.txnindex` the output has one too, perhaps empty: else the old one would stay beside the new log.

use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry, TxnEntry};
use crate::format::names::{self, FileName, Kind, State, file_name};
use crate::format::{Limits, Offset};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::maintenance::Maintenance;
use crate::log::state::unlink_if_there;
use crate::segment::active::{ActiveSegment, INDEX_BYTES_MAX, Noted, Tally};
use crate::segment::scan::{Scanner, Span, Step, Tail};
use crate::sys::{Dir, File};

/// Largest transaction index that is copied, in bytes: a million aborted transactions.
const TXN_INDEX_BYTES_MAX: u64 = 34 << 20;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Kinds a replacement may have, the log last: its rename is what commits.
const KINDS: [Kind; 4] = [
    Kind::OffsetIndex,
    Kind::TimeIndex,
    Kind::TxnIndex,
    Kind::Log,
];

/// A segment under construction in `.logd/tmp`: batches go in in order, indexes come along.
pub struct Output {
    tmp: Arc<dyn Dir>,
    segment: ActiveSegment,
    base: Offset,
    buf: Vec<u8>,
    /// The batches in `buf`.
    noted: Vec<Noted>,
    batches: u64,
    last: Option<Offset>,
    /// Entries of the transaction index; `None` for no such file.
    txns: Option<Vec<TxnEntry>>,
}

impl Output {
    /// Begins a segment named after `base`. What a failed attempt left under that name goes.
    ///
    /// # Errors
    /// What the system answers.
    pub fn begin(maintenance: &Maintenance, base: Offset) -> Result<Output> {
        let tmp = maintenance.tmp()?;
        let make = || -> io::Result<ActiveSegment> {
            for kind in KINDS {
                unlink_if_there(tmp.as_ref(), &file_name(base, kind))?;
            }
            ActiveSegment::create(tmp.as_ref(), base)
        };
        let segment = make().map_err(|e| failed(tmp.as_ref(), e))?;
        Ok(Output {
            segment,
            base,
            buf: Vec::new(),
            noted: Vec::new(),
            batches: 0,
            last: None,
            txns: None,
            tmp,
        })
    }

    /// Adds a whole batch, as it is to be stored. `header` is its own.
    ///
    /// # Errors
    /// `Bug` for one that does not follow the batch before it or does not fit the segment; else what
    /// the system answers.
    pub fn put(&mut self, header: &BatchHeader, bytes: &[u8]) -> Result<()> {
        let fits = header.last_offset - self.base <= crate::segment::active::RELATIVE_OFFSET_MAX;
        let follows = self.last.map_or(self.base, Offset::next) <= header.base_offset;
        if !fits || !follows || header.size != bytes.len() {
            let why = "a batch that does not fit the segment being built";
            return Err(Error::new(ErrorKind::Bug, why).at_offset(header.base_offset.0));
        }
        self.buf.extend_from_slice(bytes);
        self.noted.push(Noted {
            size: bytes.len() as u64,
            last_offset: header.last_offset,
            max_timestamp: header.max_timestamp,
            has_producer: header.has_producer(),
        });
        self.batches += 1;
        self.last = Some(header.last_offset);
        match self.buf.len() >= WRITE_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Gives the segment a transaction index, if only an empty one.
    pub fn want_txn_index(&mut self) {
        self.txns.get_or_insert_default();
    }

    /// Adds an aborted transaction whose marker was put in.
    pub fn add_txn(&mut self, entry: TxnEntry) {
        self.txns.get_or_insert_default().push(entry);
    }

    /// Takes over the transaction index of the segment that it will replace: markers and offsets stay.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn keep_txns(&mut self, log: &LogDir, segment: &SegmentRef) -> Result<()> {
        let name = segment.index_name(Kind::TxnIndex);
        let Some(file) = log.open_optional(&name)? else {
            return Ok(());
        };
        let bytes = read_small(&*file, TXN_INDEX_BYTES_MAX);
        let bytes = bytes.map_err(|e| e.at_path(log.path_of(&name)))?;
        self.want_txn_index();
        index::entries::<TxnEntry>(&bytes).for_each(|e| self.add_txn(e));
        Ok(())
    }

    /// Base offset in its name.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Last offset so far.
    pub fn last_offset(&self) -> Option<Offset> {
        self.last
    }

    /// Where it stands, to come back to with [`Output::rewind`].
    ///
    /// # Errors
    /// What the system answers.
    pub fn mark(&mut self) -> Result<Mark> {
        self.write()?;
        let flushed = self.segment.flush();
        flushed.map_err(|e| failed(self.tmp.as_ref(), e))?;
        Ok(Mark {
            tally: *self.segment.tally(),
            index_bytes: self.segment.index_bytes(),
            batches: self.batches,
            last: self.last,
            txns: self.txns.as_ref().map(Vec::len),
        })
    }

    /// Cuts off what was put in since the mark.
    ///
    /// # Errors
    /// What the system answers.
    pub fn rewind(&mut self, mark: Mark) -> Result<()> {
        self.write()?;
        let mut cut = || -> io::Result<()> {
            self.segment.flush()?;
            let (index, times) = mark.index_bytes;
            self.segment.adopt(mark.tally, index, times)?;
            self.segment.cut_tail()
        };
        cut().map_err(|e| failed(self.tmp.as_ref(), e))?;
        (self.batches, self.last) = (mark.batches, mark.last);
        match (&mut self.txns, mark.txns) {
            (Some(txns), Some(n)) => txns.truncate(n),
            (txns, _) => *txns = None,
        }
        Ok(())
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.segment.tally().position.0 + self.buf.len() as u64
    }

    /// Writes what is gathered, reads everything back, sets the time of the last change to
    /// `mtime_ms` and makes the files durable.
    ///
    /// # Errors
    /// What the system answers; `Io` if what is read back is not what was written.
    pub fn finish(mut self, mtime_ms: i64) -> Result<Built> {
        self.write()?;
        self.read_back()?;
        let has_txns = self.txns.is_some();
        let mut kinds = vec![Kind::OffsetIndex, Kind::TimeIndex];
        kinds.extend(has_txns.then_some(Kind::TxnIndex));
        kinds.push(Kind::Log);
        let mut seal = || -> io::Result<()> {
            self.segment.seal(self.tmp.as_ref())?;
            if let Some(txns) = &self.txns {
                let mut bytes = Vec::new();
                txns.iter().for_each(|t| t.encode(&mut bytes));
                let file = self.tmp.create(&file_name(self.base, Kind::TxnIndex))?;
                file.write_all_at(&bytes, 0)?;
            }
            for kind in &kinds {
                // An index that found no room was removed by the seal; a replacement needs it.
                let name = file_name(self.base, *kind);
                let file = self.tmp.open(&name, crate::sys::Access::Write);
                let file = file.map_err(|e| match e.kind() {
                    io::ErrorKind::NotFound => io::Error::from_raw_os_error(nix::libc::ENOSPC),
                    _ => e,
                })?;
                file.set_mtime_ms(mtime_ms)?;
                file.sync()?;
            }
            Ok(())
        };
        seal().map_err(|e| failed(self.tmp.as_ref(), e))?;
        Ok(Built {
            tmp: self.tmp,
            base: self.base,
            last: self.last,
            bytes: self.segment.tally().position.0,
            kinds,
        })
    }

    fn write(&mut self) -> Result<()> {
        let (_, error) = self.segment.write(&self.buf, false);
        if let Some(e) = error {
            return Err(failed(self.tmp.as_ref(), e));
        }
        for noted in &self.noted {
            self.segment.note(noted);
        }
        self.noted.clear();
        self.buf.clear();
        Ok(())
    }

    fn read_back(&self) -> Result<()> {
        let span = Span::whole(self.base, self.segment.tally().position.0);
        let mut scanner = Scanner::new(self.segment.log().clone(), span, Limits::default());
        let mut batches = 0;
        while let Step::Batch(_) = scanner.step()? {
            batches += 1;
        }
        if batches != self.batches || scanner.position() != span.end {
            let why = "what was written does not read back";
            return Err(Error::new(ErrorKind::Io, why)
                .at_path(self.tmp.path().join(file_name(self.base, Kind::Log)))
                .at_position(scanner.position().0));
        }
        Ok(())
    }
}

/// A place in an [`Output`].
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    tally: Tally,
    index_bytes: (u64, u64),
    batches: u64,
    last: Option<Offset>,
    txns: Option<usize>,
}

fn failed(tmp: &dyn Dir, e: io::Error) -> Error {
    let error = Error::io("cannot build a segment", e);
    error.with_kind(ErrorKind::Io).at_path(tmp.path())
}

/// A finished, durable segment in `.logd/tmp`, ready to [`replace`] others.
pub struct Built {
    tmp: Arc<dyn Dir>,
    base: Offset,
    last: Option<Offset>,
    bytes: u64,
    kinds: Vec<Kind>,
}

impl Built {
    /// Base offset in its name.
    pub fn base(&self) -> Offset {
        self.base
    }

    /// Bytes of its log.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Puts `built` in the place of `sources`: sealed segments, one after the other, in the directory's
/// own order, whose last offset is that of `built`. Durable on return.
///
/// # Errors
/// `Bug` for sources that it does not replace, `Data` if their offsets run into the next segment; else
/// what the system answers: the log is then the old one or the new one, as readers see it, and
/// [`Maintenance::clear_leftovers`] makes it so.
pub fn replace(maintenance: &Maintenance, built: &Built, sources: &[SegmentRef]) -> Result<()> {
    let all = maintenance.segments()?;
    let at = all.iter().position(|s| Some(s) == sources.first());
    let run = at.and_then(|at| all.get(at..at + sources.len()));
    let next = at.and_then(|at| all.get(at + sources.len()));
    let last = sources.last().map_or(built.base, SegmentRef::base);
    let last = built.last.unwrap_or(last).max(last);
    let (Some(first), Some(next)) = (sources.first(), next) else {
        return Err(Error::new(
            ErrorKind::Bug,
            "only sealed segments are replaced",
        ));
    };
    if last >= next.base() {
        // What the sources hold is not ours to vouch for.
        let why = format!(
            "offset {last} lies in the next segment, which begins at {}",
            next.base()
        );
        let path = maintenance.log().path_of(&first.log_name());
        return Err(Error::data(why).at_path(path));
    }
    if run != Some(sources) || first.base() != built.base {
        let why = "a segment that does not take the place of these";
        return Err(Error::new(ErrorKind::Bug, why).at_offset(built.base.0));
    }
    maintenance.make_durable(next.base())?;
    maintenance.spoil_clean_shutdown()?;
    let dir = maintenance.log().dir().as_ref();
    commit(dir, built)
        .and_then(|()| finish(dir, built.base, last))
        .map_err(|e| maintenance.error("cannot replace segments", e))
}

/// Steps 2 and 3.
fn commit(dir: &dyn Dir, built: &Built) -> io::Result<()> {
    let name = |kind: Kind, state: State| {
        let base = built.base;
        FileName { base, kind, state }.to_string()
    };
    for kind in &built.kinds {
        let plain = name(*kind, State::Plain);
        built
            .tmp
            .rename_to(&plain, dir, &name(*kind, State::Cleaned))?;
    }
    dir.sync()?;
    // `kinds` ends in the log.
    for kind in &built.kinds {
        dir.rename(&name(*kind, State::Cleaned), &name(*kind, State::Swap))?;
    }
    dir.sync()
}

/// Steps 4 and 5 for the committed replacement named after `base` that ends at `last`: also what is
/// left of them after a crash.
pub(super) fn finish(dir: &dyn Dir, base: Offset, last: Offset) -> io::Result<()> {
    let swaps: Vec<Kind> = KINDS
        .into_iter()
        .filter_map(|kind| {
            let state = State::Swap;
            let there = dir.stat(&FileName { base, kind, state }.to_string());
            there.map(|m| m.map(|_| kind)).transpose()
        })
        .collect::<io::Result<_>>()?;
    for name in dir.list()?.iter().filter_map(|n| names::parse(n)) {
        let covered = name.base > base && name.base <= last;
        // An old index that the replacement has none for.
        let stale = name.base == base
            && !swaps.contains(&name.kind)
            && matches!(
                name.kind,
                Kind::OffsetIndex | Kind::TimeIndex | Kind::TxnIndex
            );
        if name.state == State::Plain && (covered || stale) {
            unlink_if_there(dir, &name.to_string())?;
        }
    }
    dir.sync()?;
    for kind in swaps.into_iter().rev() {
        let swap = FileName {
            base,
            kind,
            state: State::Swap,
        };
        dir.rename(&swap.to_string(), &file_name(base, kind))?;
    }
    dir.sync()
}

/// The last offset of a segment's log, `None` for an empty one, every batch checked.
///
/// # Errors
/// `Data` for anything but whole, sound batches.
pub fn last_offset_checked(file: Arc<dyn File>, base: Offset) -> Result<Option<Offset>> {
    let len = file.len().map_err(|e| Error::io("cannot stat", e))?;
    let mut scanner = Scanner::new(file, Span::whole(base, len), Limits::default());
    let mut last = None;
    loop {
        match scanner.step()? {
            Step::Batch(_) => last = scanner.header().map(|h| h.last_offset),
            Step::End(end) if end.tail == Tail::Clean => return Ok(last),
            Step::End(end) => {
                let why = "the data ends before the file";
                return Err(Error::data(why).at_position(end.position.0));
            }
            Step::Bad(bad) => {
                let at = bad.position.0 + bad.defect.at as u64;
                return Err(Error::data(bad.defect.reason).at_position(at));
            }
        }
    }
}

/// Gives the sealed segment named after `from`, whose first batch begins at `to` or above, the name
/// `to`, so that the log starts there. Durable on return.
///
/// Its indexes count from the base offset, so they are written anew first, under the new name; until
/// the log has it they are indexes without a log, which a broker and the next maintenance remove. So
/// are the old ones afterwards.
///
/// # Errors
/// What the system answers; the log has the one name or the other.
pub fn rename_base(maintenance: &Maintenance, from: Offset, to: Offset) -> Result<()> {
    let dir = maintenance.log().dir().as_ref();
    let tmp = maintenance.tmp()?;
    let shift = u32::try_from(to - from).unwrap_or(u32::MAX);
    let work = || -> io::Result<()> {
        move_index::<OffsetEntry>(dir, tmp.as_ref(), from, to, |e| {
            let relative = e.relative.checked_sub(shift)?;
            Some(OffsetEntry { relative, ..e })
        })?;
        move_index::<TimeEntry>(dir, tmp.as_ref(), from, to, |e| {
            let relative = e.relative.checked_sub(shift)?;
            Some(TimeEntry { relative, ..e })
        })?;
        move_index::<TxnEntry>(dir, tmp.as_ref(), from, to, Some)?;
        dir.sync()?;
        dir.rename(&file_name(from, Kind::Log), &file_name(to, Kind::Log))?;
        dir.sync()?;
        for kind in [
            Kind::OffsetIndex,
            Kind::TimeIndex,
            Kind::TxnIndex,
            Kind::Snapshot,
        ] {
            unlink_if_there(dir, &file_name(from, kind))?;
        }
        dir.sync()
    };
    work().map_err(|e| maintenance.error("cannot rename the first segment", e))
}

/// Writes the entries of an index of the segment `from`, each changed by `map`, as that of `to`.
fn move_index<E: Entry + Indexed>(
    dir: &dyn Dir,
    tmp: &dyn Dir,
    from: Offset,
    to: Offset,
    map: impl Fn(E) -> Option<E>,
) -> io::Result<()> {
    let name = file_name(from, E::KIND);
    let old = match dir.open(&name, crate::sys::Access::Read) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let len = usize::try_from(old.len()?)
        .unwrap_or(0)
        .min(INDEX_BYTES_MAX);
    let mut bytes = vec![0; len];
    let n = old.read_full_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let mut moved = Vec::with_capacity(n);
    for entry in index::entries::<E>(&bytes).filter_map(map) {
        entry.encode(&mut moved);
    }
    let name = file_name(to, E::KIND);
    unlink_if_there(tmp, &name)?;
    let file = tmp.create(&name)?;
    file.write_all_at(&moved, 0)?;
    file.sync()?;
    tmp.rename_to(&name, dir, &name)
}

/// An index entry that knows its file.
trait Indexed {
    const KIND: Kind;
}

impl Indexed for OffsetEntry {
    const KIND: Kind = Kind::OffsetIndex;
}

impl Indexed for TimeEntry {
    const KIND: Kind = Kind::TimeIndex;
}

impl Indexed for TxnEntry {
    const KIND: Kind = Kind::TxnIndex;
}

/// Removes the oldest sealed segments with all that goes with them: renamed to `.deleted`, oldest
/// first, the directory synced, then unlinked. What is left after a crash is a log that starts later.
///
/// # Errors
/// What the system answers.
pub fn delete_oldest(maintenance: &Maintenance, gone: &[SegmentRef]) -> Result<()> {
    let dir = maintenance.log().dir().as_ref();
    let bases: std::collections::BTreeSet<Offset> = gone.iter().map(SegmentRef::base).collect();
    let work = || -> io::Result<()> {
        let listed = dir.list()?;
        let mut names: Vec<FileName> = listed
            .iter()
            .filter_map(|n| names::parse(n))
            .filter(|n| n.state == State::Plain && bases.contains(&n.base))
            .collect();
        // By base, the log of each first: an index without a log is nothing, a log without is slow.
        names.sort_unstable();
        for name in &names {
            let deleted = name.in_state(State::Deleted);
            dir.rename(&name.to_string(), &deleted.to_string())?;
        }
        dir.sync()?;
        for name in &names {
            unlink_if_there(dir, &name.in_state(State::Deleted).to_string())?;
        }
        Ok(())
    };
    maintenance.spoil_clean_shutdown()?;
    work().map_err(|e| maintenance.error("cannot delete segments", e))
}
