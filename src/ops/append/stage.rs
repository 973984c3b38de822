//! The write stage: parcels into the log, in order, under the append lock.
//!
//! * The lock of a partition is taken when something is ready to be written there, kept while more
//!   of it is ready, at most 2 ms at a time, and never while waiting for input, for a compressor or
//!   for a disk to sync. At most one partition's lock is held at a time, so that two appenders to a
//!   topic cannot wait for each other; `--exclusive` takes all of them, in order, for the whole run.
//! * Under `--sync batch` everything that was ready is written before one sync serves it all.
//! * A write that fails leaves whole batches: those are accounted for, the rest of the parcel is
//!   lost, and so is every later one. On a full disk with `--on-full wait` the rest is kept, the lock
//!   released, and the write tried again after growing pauses.
//!
//! The stage runs on whichever thread has the work: its own in bulk, the reading one for a line now
//! and then.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use super::pack::Parcel;
use super::{OnFull, SyncWhen};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::log::sync::Syncer;
use crate::log::writer::{Hold, Writer};
use crate::sys::signals;

/// Under `--sync batch` a sync is due after so many bytes even if more are ready.
const GROUP_BYTES: usize = 4 << 20;
/// First and longest pause between two tries on a full disk.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How the stage writes.
#[derive(Clone, Debug)]
pub struct StageOptions {
    /// When what is written reaches the disk.
    pub sync: SyncWhen,
    /// What to do on a full disk.
    pub on_full: OnFull,
    /// Each batch is a write of its own.
    pub write_each: bool,
    /// The offset the first record must get.
    pub expect: Option<Offset>,
    /// No waiting for room past this moment.
    pub deadline: Option<Instant>,
}

/// A parcel that is ready, or will be.
#[derive(Debug)]
pub enum Job {
    /// Ready to be written.
    Ready(Parcel),
    /// Being compressed.
    Pending(Receiver<Parcel>),
}

impl Job {
    /// The parcel, waiting for it if need be; `None` if its maker died.
    fn wait(self) -> Option<Parcel> {
        match self {
            Job::Ready(parcel) => Some(parcel),
            Job::Pending(from) => from.recv().ok(),
        }
    }

    /// The same, ready if it is by now.
    fn look(self) -> Job {
        match self {
            Job::Pending(from) => from.try_recv().map_or(Job::Pending(from), Job::Ready),
            ready => ready,
        }
    }
}

/// A partition's way in.
enum Gate<'w> {
    /// Its lock is taken when needed.
    Free(&'w mut Writer),
    /// Its lock is held for the whole run.
    Held(Hold<'w>),
}

/// The write stage of one run.
pub struct Stage<'w> {
    gates: Vec<Gate<'w>>,
    syncers: Vec<Arc<Syncer>>,
    ledger: &'w Ledger,
    options: StageOptions,
    unsynced: usize,
}

impl<'w> Stage<'w> {
    /// A stage over these partitions; with `exclusive` it holds their locks from here on.
    ///
    /// # Errors
    /// As [`Writer::hold`].
    pub fn new(
        writers: &'w mut [Writer],
        ledger: &'w Ledger,
        options: StageOptions,
        exclusive: bool,
    ) -> Result<Stage<'w>> {
        let syncers = writers.iter().map(Writer::syncer).collect();
        let gates = writers.iter_mut().map(|w| match exclusive {
            false => Ok(Gate::Free(w)),
            true => w.hold().map(Gate::Held),
        });
        Ok(Stage {
            gates: gates.collect::<Result<_>>()?,
            syncers,
            ledger,
            options,
            unsynced: 0,
        })
    }

    /// What syncs each partition.
    pub fn syncers(&self) -> Vec<Arc<Syncer>> {
        self.syncers.clone()
    }

    /// Number of partitions.
    pub fn lanes(&self) -> usize {
        self.gates.len()
    }

    /// Writes a parcel and whatever `next` has ready; gives emptied parcels `back`.
    pub fn work(
        &mut self,
        first: Job,
        next: &mut dyn FnMut() -> Option<Job>,
        back: &mut dyn FnMut(Parcel),
    ) {
        let mut current = Some(first);
        while let Some(job) = current.take() {
            let Some(parcel) = job.wait() else {
                self.ledger.fail(Error::new(
                    ErrorKind::Bug,
                    "a compressor ended without a result",
                ));
                self.ledger.done(&[]);
                current = next();
                continue;
            };
            if self.ledger.has_failed() {
                self.ledger.done(&parcel.origins);
                current = next();
                continue;
            }
            current = self.write_run(parcel, next, back);
            if self.options.sync == SyncWhen::Batch && self.unsynced >= GROUP_BYTES {
                self.sync();
            }
        }
    }

    /// Syncs what was written and not synced, and acknowledges it.
    pub fn sync(&mut self) {
        self.unsynced = 0;
        sync_all(self.ledger, &self.syncers);
    }

    /// Under `--sync batch`, as [`Stage::sync`].
    pub fn sync_if_due(&mut self) {
        if self.options.sync == SyncWhen::Batch {
            self.sync();
        }
    }

    /// Frees locks that were held for the whole run.
    ///
    /// # Errors
    /// As [`Hold::release`].
    pub fn close(self) -> Result<()> {
        self.gates.into_iter().try_for_each(|gate| match gate {
            Gate::Free(_) => Ok(()),
            Gate::Held(hold) => hold.release(),
        })
    }

    /// Writes one parcel, and those for the same partition that are ready, under one lock. Returns
    /// the first job that was not part of it.
    fn write_run(
        &mut self,
        parcel: Parcel,
        next: &mut dyn FnMut() -> Option<Job>,
        back: &mut dyn FnMut(Parcel),
    ) -> Option<Job> {
        let Some(gate) = self.gates.get_mut(parcel.lane) else {
            self.ledger.done(&parcel.origins);
            return next();
        };
        let mut run = Run {
            ledger: self.ledger,
            options: &mut self.options,
            unsynced: &mut self.unsynced,
            parcel: Some(parcel),
            following: None,
        };
        let mut pause = PAUSE.0;
        loop {
            let result = gate.with_hold(|hold| run.write_ready(hold, next, back));
            let Err(error) = result else {
                return run.following;
            };
            let wait = run.options.on_full == OnFull::Wait && is_full(&error);
            if !(wait && run.parcel.is_some() && sleep(pause, run.options.deadline)) {
                self.ledger.fail(error);
                if let Some(rest) = run.parcel {
                    self.ledger.done(&rest.origins);
                }
                return run.following;
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

impl Gate<'_> {
    /// Does `work` under the lock.
    fn with_hold(&mut self, work: impl FnOnce(&mut Hold<'_>) -> Result<()>) -> Result<()> {
        match self {
            Gate::Held(hold) => work(hold),
            Gate::Free(writer) => {
                let mut hold = writer.hold()?;
                let result = work(&mut hold);
                let released = hold.release();
                result.and(released)
            }
        }
    }
}

/// The writing of parcels of one partition under one holding of its lock.
struct Run<'r> {
    ledger: &'r Ledger,
    options: &'r mut StageOptions,
    unsynced: &'r mut usize,
    /// What is to be written; after an error, what was not.
    parcel: Option<Parcel>,
    /// The first job that does not belong to this run.
    following: Option<Job>,
}

impl Run<'_> {
    fn write_ready(
        &mut self,
        hold: &mut Hold<'_>,
        next: &mut dyn FnMut() -> Option<Job>,
        back: &mut dyn FnMut(Parcel),
    ) -> Result<()> {
        if let Some(wanted) = self.options.expect {
            expect(hold.next_offset(), wanted)?;
            self.options.expect = None;
        }
        while let Some(parcel) = &mut self.parcel {
            let lane = parcel.lane;
            while !parcel.chunk.batches.is_empty() {
                *self.unsynced += write_some(hold, parcel, self.ledger, self.options)?;
            }
            self.ledger.done(&[]);
            self.parcel.take().into_iter().for_each(&mut *back);
            match next().map(Job::look) {
                Some(Job::Ready(next)) if next.lane == lane && !hold.expired() => {
                    self.parcel = Some(next);
                }
                following => self.following = following,
            }
        }
        Ok(())
    }
}

/// Writes as many batches of a parcel as one append takes, accounts for them, and takes them off
/// the parcel. Returns their bytes.
fn write_some(
    hold: &mut Hold<'_>,
    parcel: &mut Parcel,
    ledger: &Ledger,
    options: &StageOptions,
) -> Result<usize> {
    let appended = match parcel.base {
        _ if parcel.stored => hold.append_stored(&mut parcel.chunk.bytes, parcel.base.is_some()),
        Some(base) => hold.append_chunk_at(&mut parcel.chunk, base)?,
        None => hold.append(&mut parcel.chunk, options.write_each),
    };
    let n = appended.batches.min(parcel.chunk.batches.len());
    let written = parcel.chunk.batches.get(..n).unwrap_or_default();
    let records = written.iter().map(|b| u64::from(b.count.cast_unsigned()));
    let bytes = written.iter().map(|b| b.size).sum();
    if n > 0 {
        ledger.written(
            parcel.lane,
            records.sum(),
            (appended.first, appended.next),
            parcel.origins.get(..n).unwrap_or_default(),
            options.sync == SyncWhen::Never,
        );
    }
    match appended.error {
        None if n == 0 => Err(Error::new(ErrorKind::Bug, "nothing was written")),
        None if n == parcel.chunk.batches.len() => {
            parcel.chunk.batches.clear();
            Ok(bytes)
        }
        error => {
            parcel.drop_first(n);
            error.map_or(Ok(bytes), Err)
        }
    }
}

fn expect(next: Offset, wanted: Offset) -> Result<()> {
    if next == wanted {
        return Ok(());
    }
    let what = format!("the first record would get offset {next}, not {wanted}");
    Err(Error::new(ErrorKind::No, what))
}

/// Syncs each partition that has something waiting, and acknowledges what a sync covered. A failure
/// is left in the ledger; the other partitions get their sync all the same.
pub fn sync_all(ledger: &Ledger, syncers: &[Arc<Syncer>]) {
    for (lane, end) in ledger.begin_sync() {
        let Some(syncer) = syncers.get(lane) else {
            continue;
        };
        match syncer.sync_to(end) {
            Ok(durable) => ledger.synced(lane, durable),
            Err(e) => ledger.fail(e),
        }
    }
    ledger.settle();
}

/// Whether there was no room.
fn is_full(error: &Error) -> bool {
    use nix::errno::Errno;
    let full = [Errno::ENOSPC as i32, Errno::EDQUOT as i32];
    error.raw_os_error().is_some_and(|n| full.contains(&n))
}

/// Pauses; false if a signal asked to end, or the deadline has passed.
fn sleep(pause: Duration, deadline: Option<Instant>) -> bool {
    let until = Instant::now() + pause;
    let over =
        || signals::stop_requested().is_some() || deadline.is_some_and(|d| Instant::now() >= d);
    while !over() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(10)));
    }
    false
}
