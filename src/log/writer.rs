//! The append path: one partition as one process writes to it.
//!
//! Any number of processes append to a log. Each takes the append lock for as long as it has input
//! ready, 2 ms at most ([`Hold`]), writes whole batches behind the end, leaves the new end in
//! `.logd/end`, and frees the lock. Nothing is synced under the lock and nothing waits under it; what
//! must be durable is queued at the [`Syncer`] afterwards.
//!
//! Under the lock, in this order:
//!
//! 1. The lock and the directory are still the ones that the path leads to; no sync has failed; this
//!    is no copy and not fenced.
//! 2. The end is as this process left it (sequence, boot, length), or as another one says it left it
//!    (the hint, then the batches behind it), or else the log is [recovered](crate::log::recovery).
//! 3. Batches get their base offset and leader epoch, are written, counted, indexed. A batch that is
//!    full, old or out of range for the segment makes it roll.
//! 4. Before release: index entries, then the end hint.
//!
//! A write that fails is cut back to the last whole batch; if that fails too the tail is torn, and
//! the next holder cuts it.
//!
//! A roll seals the old segment (zeros cut, final time index entry), announces the new base in the
//! end hint, and only then makes the new files: a crash in between leaves the old segment active.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::builder::{Chunk, stamp};
use crate::format::names::{Kind, file_name};
use crate::format::snapshot::ProducerEntry;
use crate::format::{Limits, Offset};
use crate::log::broker::Parent;
use crate::log::end::{self, End, EndHint};
use crate::log::listing::LogDir;
use crate::log::lock::LockFile;
use crate::log::lost::Lost;
pub use crate::log::place::{check_place, open_end, open_logd_dir};
use crate::log::producers::{self, Producers};
use crate::log::recovery::{Recovery, is_full, tally_of};
use crate::log::sync::Syncer;
use crate::log::vigil::Vigil;
use crate::log::{epoch, failed, files, replica, txns};
use crate::segment::active::{ActiveSegment, Noted, RollLimits};
use crate::sys::{Dir, File, Host, Wait};

mod placed;
mod received;

/// Longest time the append lock is held while input keeps coming.
pub const HOLD_MAX: Duration = Duration::from_millis(2);

/// How long the end of a process waits for the append lock, signal or not.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// How a log is to be written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// How long to wait for the append lock.
    pub wait: Option<Duration>,
    /// Write on a network file system all the same.
    pub allow_network_fs: bool,
    /// Fill the active segment with zeros ahead of its data: for a sync after every batch.
    pub zero_fill: bool,
    /// When a segment is full.
    pub roll: RollLimits,
    /// This command, for who finds the lock taken.
    pub command: String,
}

/// One partition, open for appending.
pub struct Writer {
    host: Arc<dyn Host>,
    log: LogDir,
    logd_dir: Arc<dyn Dir>,
    parent: Parent,
    options: WriterOptions,
    lock: LockFile,
    end_file: Box<dyn File>,
    syncer: Arc<Syncer>,
    limits: Limits,
    /// `None` until the first hold.
    state: Option<WriteState>,
    lost: Vec<Lost>,
    /// A segment with producer batches was sealed and wants its snapshot.
    snapshot_due: Option<Offset>,
    producers: Option<Producers>,
    role: Role,
    /// Whoever opened this holds the maintenance lock.
    holds_maintenance: bool,
    names: Vigil,
}

/// What a log is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Appending records: not to a copy, nor to a fenced log.
    Append,
    /// Maintenance: a copy or a fenced log may be rolled too, since that appends nothing.
    Roll,
    /// Receiving what another log holds ([`crate::log::copy`]).
    Receive,
}

/// What this process knows of the log's end.
struct WriteState {
    active: ActiveSegment,
    /// Sequence of the end hint that says so.
    sequence: u64,
    epoch: i32,
    highest: Offset,
}

/// What an append did.
#[derive(Debug)]
pub struct Appended {
    /// Offset of the first record (the log end, if nothing was written).
    pub first: Offset,
    /// Log end offset afterwards.
    pub next: Offset,
    /// Whole batches that are in the log now.
    pub batches: usize,
    /// Why it stopped before all were.
    pub error: Option<Error>,
}

impl Writer {
    /// Opens the partition directory at `path` for appending. Makes `.logd` where there is none.
    /// Takes the broker's lock for as long as this lives, but not yet the append lock.
    ///
    /// # Errors
    /// `NotFound`, `Permission`, `Config` (a network file system), `Locked` (a broker runs here), or
    /// what the system answers.
    pub fn open(host: &Arc<dyn Host>, path: &Path, options: WriterOptions) -> Result<Writer> {
        let log = LogDir::open(host.as_ref(), path)?;
        check_place(log.dir().as_ref(), options.allow_network_fs)?;
        let parent = Parent::join(host.as_ref(), path)?;
        let logd_dir = open_logd_dir(log.dir().as_ref())?;
        let end_file = open_end(host.as_ref(), &log, logd_dir.as_ref())?;
        let lock = LockFile::open(logd_dir.as_ref(), files::APPEND_LOCK)?;
        let syncer = Syncer::open(host.clone(), log.dir().clone(), logd_dir.clone())?;
        Ok(Writer {
            host: host.clone(),
            log,
            logd_dir,
            parent,
            options,
            lock,
            end_file,
            syncer: Arc::new(syncer),
            limits: Limits::default(),
            state: None,
            lost: Vec::new(),
            snapshot_due: None,
            producers: None,
            role: Role::Append,
            holds_maintenance: false,
            names: Vigil::default(),
        })
    }

    /// As [`Writer::open`], for maintenance: it recovers and rolls the log, a copy's too, and must
    /// append nothing.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub fn open_to_roll(
        host: &Arc<dyn Host>,
        path: &Path,
        options: WriterOptions,
    ) -> Result<Writer> {
        let role = Role::Roll;
        Writer::open(host, path, options).map(|w| Writer { role, ..w })
    }

    /// As [`Writer::open`], for whoever receives a copy, and holds its `receiver.lock`.
    ///
    /// # Errors
    /// As [`Writer::open`].
    pub(super) fn open_to_receive(
        host: &Arc<dyn Host>,
        path: &Path,
        options: WriterOptions,
    ) -> Result<Writer> {
        let role = Role::Receive;
        Writer::open(host, path, options).map(|w| Writer { role, ..w })
    }

    /// Says whether the caller holds the maintenance lock, so that recovery does not wait for it.
    pub fn maintenance_is_held(&mut self, held: bool) {
        self.holds_maintenance = held;
    }

    /// The partition as a list of segments.
    pub fn log(&self) -> &LogDir {
        &self.log
    }

    /// The directory above it, the broker's lock held.
    pub fn parent(&self) -> &Parent {
        &self.parent
    }

    /// The partition's directory.
    pub fn path(&self) -> &Path {
        self.log.dir().path()
    }

    /// The partition's `.logd` directory.
    pub fn logd_dir(&self) -> &Arc<dyn Dir> {
        &self.logd_dir
    }

    /// Who makes it durable; to be shared with a background thread.
    pub fn syncer(&self) -> Arc<Syncer> {
        self.syncer.clone()
    }

    /// What recovery had to take out since this was last asked: for a notice.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// Takes the append lock and makes sure of the end. See [`Hold`].
    ///
    /// # Errors
    /// `Locked` if the wait is over, `Data` for a damaged or fenced log, `Permission` for a copy,
    /// `Io` after a failed sync; else what the system answers.
    pub fn hold(&mut self) -> Result<Hold<'_>> {
        let wait = match self.options.wait {
            Some(d) => Wait::Until(Instant::now() + d),
            None => Wait::Forever,
        };
        self.hold_after(wait)
    }

    fn hold_after(&mut self, wait: Wait) -> Result<Hold<'_>> {
        let (names, dir) = (&mut self.names, self.logd_dir.as_ref());
        let mut must_look = true;
        let look = || {
            must_look = names.must_look(dir);
            must_look
        };
        if !self.lock.acquire_checked(dir, wait, look)? {
            return Err(Error::new(
                ErrorKind::NotFound,
                "the log was replaced by another directory",
            )
            .at_path(self.path()));
        }
        match self
            .prepare(must_look)
            .and_then(|()| self.refuse_last_offsets())
        {
            Ok(()) => {
                let next = self.state()?.active.tally().next_offset;
                Ok(Hold {
                    writer: self,
                    since: Instant::now(),
                    next,
                    dirty: false,
                    open: true,
                })
            }
            Err(e) => {
                let _ = self.lock.release();
                Err(e)
            }
        }
    }

    /// Cuts the zeros that were filled ahead and writes what snapshots are due. If somebody keeps the
    /// lock, the zeros are left: they are his now, and harm nobody.
    ///
    /// # Errors
    /// As [`Writer::hold`].
    pub fn close(mut self) -> Result<()> {
        let ahead = |s: &WriteState| s.active.file_len() > s.active.tally().position.0;
        if self.state.as_ref().is_some_and(ahead) {
            match self.hold_after(Wait::FirmlyUntil(Instant::now() + CLOSE_WAIT)) {
                Ok(mut hold) => {
                    hold.cut_zeros()?;
                    hold.release()?;
                }
                Err(e) if e.kind() == ErrorKind::Locked => {}
                Err(e) => return Err(e),
            }
        }
        self.write_due_snapshot()
    }

    /// Everything that must be true under the lock before a byte is written.
    fn prepare(&mut self, must_look: bool) -> Result<()> {
        if must_look {
            self.look_at_names()?;
        }
        let end = end::read_from(self.end_file.as_ref()).map_err(|e| self.io(e))?;
        if self.is_unchanged(&end)? || self.follow_hint(&end)? {
            return Ok(());
        }
        self.recover(end)
    }

    /// No mark forbids to write, and `end` is the file that is held here.
    fn look_at_names(&mut self) -> Result<()> {
        failed::refuse_if_failed(self.logd_dir.as_ref())?;
        if self.role == Role::Append {
            replica::refuse_appends(self.logd_dir.as_ref())?;
        }
        if !self.end_is_current().map_err(|e| self.io(e))? {
            // Removed: nobody knows what others did meanwhile.
            self.end_file = open_end(self.host.as_ref(), &self.log, self.logd_dir.as_ref())?;
            self.state = None;
        }
        self.names.settle();
        Ok(())
    }

    /// Offsets end at 2^63; a log that comes near takes no more, rather than count wrong.
    fn refuse_last_offsets(&mut self) -> Result<()> {
        let next = self.state()?.active.tally().next_offset;
        match next.0 > i64::MAX - (1 << 40) {
            true => Err(
                Error::data(format!("offset {next}: there are hardly any offsets left"))
                    .at_path(self.path()),
            ),
            false => Ok(()),
        }
    }

    fn end_is_current(&self) -> io::Result<bool> {
        let held = self.end_file.id()?;
        Ok(self.logd_dir.id_of(files::END)? == Some(held))
    }

    /// Whether nobody wrote since this process did, not even in part.
    fn is_unchanged(&mut self, end: &End) -> Result<bool> {
        let Some(state) = &mut self.state else {
            return Ok(false);
        };
        let Some(hint) = end.hint.filter(|h| h.sequence == state.sequence) else {
            return Ok(false);
        };
        if hint.boot_id != self.host.boot_id() || hint.base != state.active.base() {
            return Ok(false);
        }
        // A holder that was killed before it released has left batches, or a part of one, behind ours:
        // the file is longer, or something stands in the zeros. Another one may have cut the zeros.
        let active = &mut state.active;
        let (known, end) = (active.file_len(), active.tally().position.0);
        is_left_alone(active, known, end).map_err(|e| io_error(&self.log, e))
    }

    /// Takes over the end that another process left, if it is in the segment that is open here.
    fn follow_hint(&mut self, end: &End) -> Result<bool> {
        let boot = self.host.boot_id();
        let Some(state) = &mut self.state else {
            return Ok(false);
        };
        let Some(h) = end.hint.filter(|h| h.is_of(boot)) else {
            return Ok(false);
        };
        if h.base != state.active.base() || h.inode != state.active.inode() {
            return Ok(false);
        }
        let fail = |e| io_error(&self.log, e);
        let (i, t) = (u64::from(h.index_bytes), u64::from(h.time_index_bytes));
        if !state.active.adopt(tally_of(&h), i, t).map_err(fail)? {
            return Ok(false);
        }
        // Only an empty tail needs no look; anything else is recovery's to judge.
        let (position, len) = (h.position.0, state.active.file_len());
        if len < position
            || !starts_with_zeros(state.active.log().as_ref(), position, len).map_err(fail)?
        {
            return Ok(false);
        }
        (state.sequence, state.epoch, state.highest) = (h.sequence, h.epoch, h.highest);
        self.lock
            .write_note(self.host.as_ref(), &self.options.command);
        Ok(true)
    }

    /// First use, or nothing on record that can be believed.
    fn recover(&mut self, end: End) -> Result<()> {
        self.parent.spoil_clean_shutdown()?;
        self.lock
            .write_note(self.host.as_ref(), &self.options.command);
        self.state = None;
        self.producers = None;
        let mut recovery = self.recovery(end);
        let recovered = recovery.run()?;
        let has_markers = recovery.has_markers.get();
        let takes_over = end.durable.is_some_and(|d| recovery.flushed > Some(d));
        self.lost.extend(recovered.lost);
        let next = recovered.active.tally().next_offset;
        let unsettled = end.durable.unwrap_or(recovered.active.base());
        // After a power cut anything may stand in an index that was not synced.
        let is_known = end.hint.is_some_and(|h| h.is_of(self.host.boot_id()));
        if has_markers || (!is_known && txns::any_from(&self.log, unsettled)?) {
            self.mend_txns(unsettled)?;
        }
        let state = WriteState {
            epoch: self.current_epoch(next)?,
            highest: end.hint.map_or(next, |h| h.highest.max(next)),
            sequence: end.hint.map_or(0, |h| h.sequence),
            active: recovered.active,
        };
        self.state = Some(state);
        // Retention by a broker may have moved the log start past what is there.
        let start = self.log.start_offset(&self.log.segments()?)?;
        if next < start {
            self.roll(start)?;
        }
        if takes_over {
            // The hint makes the broker's recovery point the older one: D takes its place first.
            self.syncer.sync_to(next)?;
            self.end_file.sync().map_err(|e| self.io(e))?;
        }
        self.write_hint()?;
        if end.hint.is_none() && end.durable.is_none() {
            // From here on it must be known in which boot unsynced pages were written.
            let synced = self.end_file.sync().and_then(|()| self.logd_dir.sync());
            synced
                .and_then(|()| self.log.dir().sync())
                .map_err(|e| self.io(e))?;
        }
        Ok(())
    }

    fn recovery(&self, end: End) -> Recovery<'_> {
        Recovery {
            host: self.host.as_ref(),
            log: &self.log,
            logd_dir: self.logd_dir.as_ref(),
            end,
            recovery_point: self.parent.recovery_point(),
            flushed: self.parent.flushed_since(end.hint.map(|h| h.wall_ms)),
            holds_maintenance: self.holds_maintenance,
            limits: self.limits,
            has_markers: Cell::new(false),
        }
    }

    /// Makes transaction indexes anew of which a process that died may have written too little. They
    /// are derived: a full disk must not keep maintenance from making room.
    fn mend_txns(&self, from: Offset) -> Result<()> {
        match txns::mend(&self.log, from, &self.limits) {
            Err(e) if self.role == Role::Roll && is_full(&e) => Ok(()),
            mended => mended,
        }
    }

    /// The leader epoch of what is appended. Only who appends begins a history where there is none: a
    /// copy has its source's.
    fn current_epoch(&self, log_end: Offset) -> Result<i32> {
        let dir = self.log.dir().as_ref();
        match self.role {
            Role::Append => epoch::current(dir, log_end),
            Role::Roll | Role::Receive => Ok(epoch::read(dir)?.last().map_or(0, |e| e.epoch)),
        }
    }

    fn state(&mut self) -> Result<&mut WriteState> {
        let missing = || Error::new(ErrorKind::Bug, "append without a recovered log");
        self.state.as_mut().ok_or_else(missing)
    }

    /// Leaves the end for the next holder.
    fn write_hint(&mut self) -> Result<()> {
        let boot_id = self.host.boot_id();
        let (wall_ms, boot_ms) = self.clocks_of_last_append()?;
        let state = self.state()?;
        // Entries that cannot be written stay gathered; the hint then speaks of the shorter index.
        let _ = state.active.flush();
        let t = *state.active.tally();
        let (index, time_index) = state.active.index_bytes();
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        state.sequence += 1;
        state.highest = state.highest.max(t.next_offset);
        let hint = EndHint {
            sequence: state.sequence,
            boot_id,
            base: state.active.base(),
            position: t.position,
            end: t.next_offset,
            highest: state.highest,
            wall_ms,
            boot_ms,
            inode: state.active.inode(),
            max_timestamp: t.max_timestamp,
            first_timestamp: t.first_timestamp,
            max_timestamp_relative: small(
                (t.max_timestamp_offset - state.active.base()).max(0) as u64
            ),
            since_index_entry: small(t.since_index_entry),
            index_bytes: small(index),
            time_index_bytes: small(time_index),
            epoch: state.epoch,
            has_producers: t.has_producers,
        };
        end::write_hint(self.end_file.as_ref(), &hint).map_err(|e| self.io(e))
    }

    /// Wall and boot clock for the hint. Maintenance appends nothing: it leaves those of this boot, by
    /// which a jump of the clock since the last append is told.
    fn clocks_of_last_append(&self) -> Result<(i64, i64)> {
        if self.role == Role::Roll {
            let end = end::read_from(self.end_file.as_ref()).map_err(|e| self.io(e))?;
            if let Some(h) = end.hint.filter(|h| h.is_of(self.host.boot_id())) {
                return Ok((h.wall_ms, h.boot_ms));
            }
        }
        Ok((self.host.wall_ms(), self.host.boot_ms()))
    }

    /// Seals the active segment and begins the next at `base`.
    fn roll(&mut self, base: Offset) -> Result<()> {
        let dir = self.log.dir().clone();
        let place = self.log.path_of(&file_name(base, Kind::Log));
        let fail = |e| Error::io("cannot begin a new segment", e).at_path(&place);
        let state = self.state()?;
        state.active.seal(dir.as_ref()).map_err(fail)?;
        let had_producers = state.active.tally().has_producers;
        self.announce(base)?;
        let active = ActiveSegment::create(dir.as_ref(), base).map_err(fail)?;
        self.state()?.active = active;
        if had_producers {
            self.snapshot_due = Some(base);
        }
        self.write_hint()
    }

    /// Says in the hint that the next segment begins at `base`, before it is made.
    fn announce(&mut self, base: Offset) -> Result<()> {
        let end = end::read_from(self.end_file.as_ref()).map_err(|e| self.io(e))?;
        let state = self.state()?;
        state.sequence += 1;
        let sequence = state.sequence;
        let next = state.active.tally().next_offset;
        let Some(last) = end.hint else { return Ok(()) };
        let hint = EndHint {
            sequence,
            base,
            end: next,
            highest: last.highest.max(next),
            position: crate::format::Position(0),
            inode: 0,
            index_bytes: 0,
            time_index_bytes: 0,
            since_index_entry: 0,
            ..last
        };
        end::write_hint(self.end_file.as_ref(), &hint).map_err(|e| self.io(e))
    }

    /// Writes the producer snapshot that a roll left due. Without the lock: what it covers is sealed.
    fn write_due_snapshot(&mut self) -> Result<()> {
        let Some(at) = self.snapshot_due.take() else {
            return Ok(());
        };
        let producers = Producers::load_whole(&self.log, at, &self.limits)?;
        producers.write_snapshot_of_roll(&self.log, at)
    }

    fn io(&self, e: io::Error) -> Error {
        io_error(&self.log, e)
    }
}

fn io_error(log: &LogDir, e: io::Error) -> Error {
    Error::io("cannot append", e).at_path(log.dir().path())
}

/// The append lock, held. Dropping it frees the lock as [`Hold::release`] does, errors unseen.
pub struct Hold<'a> {
    writer: &'a mut Writer,
    since: Instant,
    /// Log end offset; still right after a failure has made everything else unknown.
    next: Offset,
    dirty: bool,
    open: bool,
}

impl Hold<'_> {
    /// The partition as a list of segments.
    pub fn log(&self) -> &LogDir {
        &self.writer.log
    }

    /// Offset that the next record gets.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// Seals the active segment, if it holds anything, and begins the next at the log end. Returns
    /// the base offset of the segment that is active then.
    ///
    /// # Errors
    /// What the system answers.
    pub fn roll(&mut self) -> Result<Offset> {
        let active = &self.writer.state()?.active;
        let next = active.tally().next_offset;
        if active.tally().position.0 == 0 && active.base() == next {
            return Ok(next);
        }
        self.dirty = true;
        self.writer.roll(next)?;
        Ok(next)
    }

    /// Whether others should have a turn.
    pub fn expired(&self) -> bool {
        self.since.elapsed() >= HOLD_MAX
    }

    /// Appends the batches of a chunk in order: as few writes as segments allow, or, with
    /// `write_each`, one write a batch. Visible to readers on return; durable after a sync.
    ///
    /// What was written before an error stays and is counted; nothing of the batch that failed does.
    ///
    /// # Errors
    /// None by itself: see [`Appended::error`].
    pub fn append(&mut self, chunk: &mut Chunk, write_each: bool) -> Appended {
        let first = self.next_offset();
        let mut done = 0;
        let mut error = None;
        while done < chunk.batches.len() && error.is_none() {
            match self.append_run(chunk, done, write_each) {
                Ok((batches, e)) => {
                    done += batches;
                    error = e;
                }
                Err(e) => error = Some(e),
            }
        }
        Appended {
            first,
            next: self.next_offset(),
            batches: done,
            error,
        }
    }

    /// Appends from batch `from` on as many as go into the active segment with one write.
    fn append_run(
        &mut self,
        chunk: &mut Chunk,
        from: usize,
        write_each: bool,
    ) -> Result<(usize, Option<Error>)> {
        let roll = self.writer.options.roll;
        let zero_fill = self.writer.options.zero_fill;
        let state = self.writer.state()?;
        let mut next = state.active.tally().next_offset;
        let mut ahead = state.active.ahead();
        let Chunk { bytes, batches } = chunk;
        let run = batches.get(from..).unwrap_or_default();
        let Some(head) = run.first() else {
            return Ok((0, None));
        };
        if state.active.must_roll(
            &roll,
            &ahead,
            head,
            next + i64::from(head.last_offset_delta),
        ) {
            self.writer.roll(next)?;
            self.dirty = true;
            return Ok((0, None));
        }
        let epoch = state.epoch;
        let mut noted = Vec::new();
        let mut end = head.start;
        for batch in run {
            let last_offset = next + i64::from(batch.last_offset_delta);
            let full = state.active.must_roll(&roll, &ahead, batch, last_offset);
            if !noted.is_empty() && (write_each || full) {
                break;
            }
            ahead = ahead.behind(batch);
            stamp(
                bytes.get_mut(batch.start..).unwrap_or_default(),
                next,
                epoch,
            );
            noted.push(Noted {
                size: batch.size as u64,
                last_offset,
                max_timestamp: batch.max_timestamp,
                has_producer: batch.has_producer,
            });
            next = last_offset.next();
            end = batch.start + batch.size;
        }
        self.dirty = true;
        let run_bytes = bytes.get(head.start..end).unwrap_or_default();
        let (written, e) = state.active.write(run_bytes, zero_fill);
        let whole = count_whole(&mut state.active, &noted, written as u64);
        self.next = state.active.tally().next_offset;
        match e {
            None => Ok((whole, None)),
            Some(e) => Ok((whole, Some(self.cut_back(e)))),
        }
    }

    /// After a failed write: nothing of the batch that failed may stay.
    fn cut_back(&mut self, e: io::Error) -> Error {
        let error = self.writer.io(e);
        if let Some(state) = &mut self.writer.state
            && (state.active.refresh_len().is_err() || state.active.cut_tail().is_err())
        {
            // The tail is torn. Our hint speaks of the end before it, so the next holder finds it.
            let _ = self.writer.write_hint();
            self.writer.state = None;
            self.dirty = false;
        }
        error
    }

    /// The state of a producer as of the log end: from the newest snapshot and the batches after it.
    ///
    /// # Errors
    /// The log cannot be read; `Data` for damage behind the snapshot.
    pub fn producer(&mut self, id: i64) -> Result<Option<ProducerEntry>> {
        let end = self.next_offset();
        let w = &mut *self.writer;
        let fresh = match w.producers.take() {
            Some(p) => p.advance_whole(&w.log, end, &w.limits)?,
            None => Producers::load_whole(&w.log, end, &w.limits)?,
        };
        Ok(w.producers.insert(fresh).get(id).copied())
    }

    /// How many records of a producer the log holds, by the log alone; `None` if it lacks some.
    ///
    /// # Errors
    /// As [`Hold::producer`].
    pub fn count_records(&self, id: i64) -> Result<Option<u64>> {
        let w = &*self.writer;
        let segments = w.log.segments()?;
        if w.log.start_offset(&segments)? > Offset::ZERO {
            return Ok(None);
        }
        producers::count_records(&w.log, id, self.next_offset(), &w.limits)
    }

    fn cut_zeros(&mut self) -> Result<()> {
        let fail = |e| io_error(&self.writer.log, e);
        if let Some(state) = &mut self.writer.state {
            state.active.cut_tail().map_err(fail)?;
        }
        Ok(())
    }

    /// Leaves the end for the next holder and frees the lock; then writes what snapshot a roll left
    /// due.
    ///
    /// # Errors
    /// What the system answers; the batches are in the log all the same.
    pub fn release(mut self) -> Result<()> {
        self.let_go()?;
        self.writer.write_due_snapshot()
    }

    fn let_go(&mut self) -> Result<()> {
        self.open = false;
        let hint = match self.dirty && self.writer.state.is_some() {
            true => self.writer.write_hint(),
            false => Ok(()),
        };
        self.writer.lock.release().map_err(|e| self.writer.io(e))?;
        hint
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if self.open {
            let _ = self.let_go();
        }
    }
}

/// Counts the batches that lie wholly in the first `written` bytes.
fn count_whole(active: &mut ActiveSegment, run: &[Noted], written: u64) -> usize {
    let (mut end, mut whole) = (0, 0);
    for batch in run {
        end += batch.size;
        if end > written {
            break;
        }
        active.note(batch);
        whole += 1;
    }
    whole
}

/// Whether the bytes that would be the next batch's length are zero (or not there).
fn starts_with_zeros(log: &dyn File, position: u64, len: u64) -> io::Result<bool> {
    if position == len {
        return Ok(true);
    }
    let mut head = [0; crate::format::frame::HEADER_UP_TO_MAGIC];
    let n = log.read_full_at(&mut head, position)?;
    Ok(head.iter().take(n).all(|b| *b == 0))
}

/// Whether nothing stands behind `end` in a file that was `known` bytes long: zeros, or its end.
fn is_left_alone(active: &mut ActiveSegment, known: u64, end: u64) -> io::Result<bool> {
    let mut head = [0; crate::format::frame::HEADER_UP_TO_MAGIC];
    if end < known && active.log().read_full_at(&mut head, end)? == head.len() {
        return Ok(head.iter().all(|b| *b == 0)); // the length does not matter then
    }
    let now = active.refresh_len()?;
    Ok((now == known || now == end) && starts_with_zeros(active.log().as_ref(), end, now)?)
}
