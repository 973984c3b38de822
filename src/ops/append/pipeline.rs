//! From the reading thread to the write stage: inline for a line now and then, over a bounded queue
//! in bulk.
//!
//! In bulk a thread of its own writes, so that encoding and the page cache are each kept busy by a
//! core; compression goes to a pool with as many threads as there are cores, and the queue keeps the
//! order of submission. Buffers come back and are used again, so memory does not follow the input.
//! A parcel is written inline when nothing is in flight and nothing more is ready: no other thread
//! is woken on the way of a single line.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::SyncWhen;
use super::ledger::Ledger;
use super::pack::{Outlet, PARCEL_BYTES, Parcel, Stopped};
use super::squeeze::Squeezer;
use super::stage::{Job, Stage, sync_all};
use crate::log::sync::Syncer;

/// Parcels that may wait for the write stage. More would only cost memory.
const QUEUE: usize = 3;
/// A parcel of more bytes than this travels alone.
const LARGE_BYTES: usize = 4 * PARCEL_BYTES;

/// The way to the log, as the reading thread has it.
pub struct Pipeline<'scope, 'env, 'w> {
    scope: &'scope Scope<'scope, 'env>,
    stage: &'env Mutex<Stage<'w>>,
    ledger: &'env Ledger,
    squeezer: Option<Arc<Squeezer>>,
    queue: Option<SyncSender<Job>>,
    blanks: (Sender<Parcel>, Receiver<Parcel>),
    /// More is ready than was packed.
    pub bulk: bool,
    /// Each parcel is written and synced before the next is packed.
    step: bool,
    background: Option<&'env Background>,
    background_runs: bool,
    /// Something was written on this thread and not yet synced.
    unsynced: bool,
}

impl<'scope, 'env, 'w> Pipeline<'scope, 'env, 'w> {
    /// A pipeline into `stage`. `step`: each parcel is synced before the next one is packed.
    pub fn new(
        scope: &'scope Scope<'scope, 'env>,
        stage: &'env Mutex<Stage<'w>>,
        ledger: &'env Ledger,
        squeezer: Option<Arc<Squeezer>>,
        background: Option<&'env Background>,
        step: bool,
    ) -> Pipeline<'scope, 'env, 'w> {
        Pipeline {
            scope,
            stage,
            ledger,
            squeezer,
            queue: None,
            blanks: channel(),
            bulk: false,
            step,
            background,
            background_runs: false,
            unsynced: false,
        }
    }

    /// Waits until everything submitted was written, or has failed.
    pub fn drain(&self) {
        self.ledger.wait_for_flight(0);
    }

    /// Everything that was ready was submitted: under `--sync batch`, written inline, it is synced
    /// now; under `--sync DURATION` its time begins to run.
    pub fn flushed(&mut self, sync: SyncWhen) {
        match sync {
            SyncWhen::Batch if std::mem::take(&mut self.unsynced) => self.stage().sync(),
            SyncWhen::Every(_) => self.arm(),
            _ => {}
        }
    }

    /// Syncs everything written, unless it is never to be synced.
    pub fn sync(&mut self, sync: SyncWhen) {
        if sync != SyncWhen::Never {
            self.stage().sync();
        }
    }

    /// Lets the background sync begin its wait, if something needs it.
    pub fn arm(&mut self) {
        let Some(background) = self.background else {
            return;
        };
        if background.is_armed() || !(self.ledger.has_waiting() || self.ledger.in_flight() > 0) {
            return;
        }
        if !self.background_runs {
            self.background_runs = true;
            let ledger = self.ledger;
            self.scope.spawn(move || background.run(ledger));
        }
        background.arm();
    }

    fn stage(&self) -> std::sync::MutexGuard<'env, Stage<'w>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a parcel on this thread; gives it back if the stage is busy.
    fn write_inline(&mut self, mut parcel: Parcel) -> Option<Parcel> {
        let mut stage = match self.stage.try_lock() {
            Ok(stage) => stage,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(parcel),
        };
        if let Some(squeezer) = &self.squeezer {
            squeezer.squeeze(&mut parcel);
        }
        let blanks = &self.blanks.0;
        stage.work(Job::Ready(parcel), &mut || None, &mut |p| {
            let _ = blanks.send(p);
        });
        match self.step {
            true => stage.sync(),
            false => self.unsynced = true,
        }
        None
    }

    fn enqueue(&mut self, parcel: Parcel) {
        let large = parcel.bytes() > LARGE_BYTES;
        if large {
            self.ledger.wait_for_flight(1);
        }
        let job = match &self.squeezer {
            Some(squeezer) => Squeezer::spawn(squeezer, parcel),
            None => Job::Ready(parcel),
        };
        let queue = match &self.queue {
            Some(queue) => queue,
            None => {
                let depth = self
                    .squeezer
                    .as_ref()
                    .map_or(QUEUE, |s| QUEUE + s.threads());
                let (queue, jobs) = sync_channel(depth);
                let (stage, back) = (self.stage, self.blanks.0.clone());
                self.scope.spawn(move || write_loop(stage, &jobs, &back));
                self.queue.insert(queue)
            }
        };
        // The receiver lives until the queue is dropped.
        let _ = queue.send(job);
        if large {
            self.ledger.wait_for_flight(0);
        }
    }
}

impl Outlet for Pipeline<'_, '_, '_> {
    fn put(&mut self, parcel: Parcel) -> Result<(), Stopped> {
        let start = parcel.origins.first().and_then(|o| o.start());
        self.ledger.submitted(start.unwrap_or(u64::MAX));
        let inline = self.step || (!self.bulk && self.ledger.in_flight() == 1);
        let left = match inline {
            true => self.write_inline(parcel),
            false => Some(parcel),
        };
        if let Some(parcel) = left {
            self.enqueue(parcel);
        }
        match self.ledger.has_failed() {
            true => Err(Stopped),
            false => Ok(()),
        }
    }

    fn blank(&mut self) -> Option<Parcel> {
        let mut parcel = self.blanks.1.try_recv().ok()?;
        parcel.recycle();
        Some(parcel)
    }
}

/// The writing thread: takes jobs until the queue is closed and empty.
fn write_loop(stage: &Mutex<Stage<'_>>, jobs: &Receiver<Job>, back: &Sender<Parcel>) {
    while let Ok(job) = jobs.recv() {
        let mut stage = stage.lock().unwrap_or_else(PoisonError::into_inner);
        stage.work(job, &mut || jobs.try_recv().ok(), &mut |p| {
            let _ = back.send(p);
        });
        stage.sync_if_due();
    }
}

/// `--sync DURATION`: a thread that syncs what was written, that long after the first of it. It never
/// stops the writer.
pub struct Background {
    state: Mutex<State>,
    changed: Condvar,
    every: Duration,
    syncers: Vec<Arc<Syncer>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    due: Option<Instant>,
    stop: bool,
}

impl Background {
    /// One that syncs these partitions.
    pub fn new(every: Duration, syncers: Vec<Arc<Syncer>>) -> Background {
        Background {
            state: Mutex::default(),
            changed: Condvar::new(),
            every,
            syncers,
        }
    }

    fn is_armed(&self) -> bool {
        self.lock().due.is_some()
    }

    fn arm(&self) {
        let mut state = self.lock();
        if state.due.is_none() {
            state.due = Instant::now().checked_add(self.every);
            self.changed.notify_all();
        }
    }

    /// Ends the thread, after the sync under way.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, ledger: &Ledger) {
        while self.wait_until_due() {
            sync_all(ledger, &self.syncers);
            if ledger.has_failed() {
                // The reading thread may be waiting for input that never comes.
                crate::sys::signals::wake();
                return;
            }
        }
    }

    /// Waits for the next sync to be due; false if there is to be none. From then on new writes
    /// begin a new wait.
    fn wait_until_due(&self) -> bool {
        let mut state = self.lock();
        loop {
            let left = match state.due {
                _ if state.stop => return false,
                Some(due) => due.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            if left.is_zero() {
                state.due = None;
                return true;
            }
            state = match state.due {
                None => (self.changed.wait(state)).unwrap_or_else(PoisonError::into_inner),
                Some(_) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}
