//! What has become of the input: read, on its way, written, acknowledged, or never to be written.
//!
//! Every parcel of records goes one way, and is in exactly one place of the ledger at any time:
//!
//! ```text
//! submitted -> in flight -> waiting -> syncing -> acknowledged
//!                    \-> lost (its write failed, or came after one that failed)
//! ```
//!
//! *Acknowledged* is durable, or written under `--sync never`. Nothing but what is acknowledged is
//! ever counted, printed or copied to stdout. The *frontier* is the input position below which
//! everything is settled: acknowledged, or rejected, skipped or dropped on purpose.
//!
//! The ledger is shared by the threads of one run; each call is short and none waits for a disk.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::kept::Kept;
use super::origin::{Origin, Span};
use crate::error::Error;
use crate::format::Offset;

/// Records of one partition that share a fate.
#[derive(Debug, Default)]
struct Pile {
    records: u64,
    first: Option<Offset>,
    /// Offset after the last of them.
    next: Offset,
    origin: Origin,
}

impl Pile {
    fn empty(exact: bool) -> Pile {
        Pile {
            origin: Origin::new(exact),
            ..Pile::default()
        }
    }

    /// Whether there is nothing in it. A batch without records is something.
    fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn absorb(&mut self, other: &Pile) {
        if other.is_empty() {
            return;
        }
        self.records += other.records;
        self.first = self.first.or(other.first);
        self.next = other.next;
        self.origin.absorb(&other.origin);
    }
}

/// What was acknowledged in one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records acknowledged.
    pub records: u64,
    /// Input bytes they came from.
    pub bytes: u64,
    /// First and last offset of them, and one more; other writers' records may lie between.
    pub offsets: Option<(Offset, Offset)>,
    /// The durable offset as of the last sync of ours.
    pub durable: Option<Offset>,
}

#[derive(Debug, Default)]
struct Account {
    waiting: Pile,
    syncing: Pile,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Books {
    accounts: Vec<Account>,
    /// Where each submitted parcel that is not yet written begins, oldest first.
    in_flight: VecDeque<u64>,
    /// Somebody waits until no more than this are.
    awaited: Option<usize>,
    lost: Vec<Origin>,
    failure: Option<Error>,
    /// Everything below was looked at; records of it not yet submitted begin at `unpacked`.
    consumed: u64,
    unpacked: u64,
}

/// The shared account of one run.
pub struct Ledger {
    books: Mutex<Books>,
    changed: Condvar,
    failed: AtomicBool,
    exact: bool,
    kept: Option<Arc<Kept>>,
}

impl Ledger {
    /// An empty one for this many partitions, for input that begins at position `start`. `exact`:
    /// the bytes that are lost will be asked for. `kept`: input to be let go as it is settled.
    pub fn new(partitions: usize, start: u64, exact: bool, kept: Option<Arc<Kept>>) -> Ledger {
        let account = || Account {
            waiting: Pile::empty(exact),
            syncing: Pile::empty(exact),
            tally: Tally::default(),
        };
        Ledger {
            books: Mutex::new(Books {
                accounts: std::iter::repeat_with(account).take(partitions).collect(),
                consumed: start,
                unpacked: u64::MAX,
                ..Books::default()
            }),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
            exact,
            kept,
        }
    }

    /// The input that is kept until it is settled.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_deref()
    }

    /// Lets go of kept input that is settled: `-T` copies it to stdout. To be called after every
    /// acknowledgement, without a lock held.
    pub fn settle(&self) {
        if let Some(kept) = &self.kept
            && let Err(e) = kept.settle(self.frontier())
        {
            self.fail(e);
        }
    }

    /// Whether origins must know their runs.
    pub fn exact(&self) -> bool {
        self.exact
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Each change is one statement or harmless when cut short; a panic elsewhere ends the run.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The input was looked at up to `consumed`, and of that what begins at `unpacked` is still
    /// being packed (`None`: nothing is).
    pub fn consumed(&self, consumed: u64, unpacked: Option<u64>) {
        let mut books = self.books();
        books.consumed = consumed;
        books.unpacked = unpacked.unwrap_or(u64::MAX);
    }

    /// A parcel that begins at `start` was handed to the write stage. Parcels are written in order.
    pub fn submitted(&self, start: u64) {
        self.books().in_flight.push_back(start);
    }

    /// Parcels submitted and not yet done.
    pub fn in_flight(&self) -> usize {
        self.books().in_flight.len()
    }

    /// Waits until at most `n` parcels are in flight.
    pub fn wait_for_flight(&self, n: usize) {
        let mut books = self.books();
        while books.in_flight.len() > n {
            books.awaited = Some(n);
            books = self
                .changed
                .wait(books)
                .unwrap_or_else(PoisonError::into_inner);
        }
        books.awaited = None;
    }

    /// Records of the oldest parcel in flight are in the log, at offsets from `first` up to `next`.
    /// They wait for a sync, unless `acknowledged` says that writing is enough.
    pub fn written(
        &self,
        lane: usize,
        records: u64,
        (first, next): (Offset, Offset),
        origins: &[Origin],
        acknowledged: bool,
    ) {
        let mut books = self.books();
        let Some(account) = books.accounts.get_mut(lane) else {
            return;
        };
        account.waiting.records += records;
        account.waiting.first.get_or_insert(first);
        account.waiting.next = next;
        for o in origins {
            account.waiting.origin.absorb(o);
        }
        if acknowledged {
            let pile = std::mem::replace(&mut account.waiting, Pile::empty(self.exact));
            account.tally.add(&pile);
        }
    }

    /// The oldest parcel in flight will go no further; `rest` is what of it was not written.
    pub fn done(&self, rest: &[Origin]) {
        let mut books = self.books();
        books.in_flight.pop_front();
        books.lost.extend(rest.iter().cloned());
        // Waking nobody would cost a system call all the same.
        if books.awaited.is_some_and(|n| books.in_flight.len() <= n) {
            self.changed.notify_all();
        }
    }

    /// Everything written so far is about to be synced: how far, for each partition that needs it.
    pub fn begin_sync(&self) -> Vec<(usize, Offset)> {
        let mut books = self.books();
        let mut todo = Vec::new();
        for (lane, account) in books.accounts.iter_mut().enumerate() {
            let pile = std::mem::replace(&mut account.waiting, Pile::empty(self.exact));
            account.syncing.absorb(&pile);
            if !account.syncing.is_empty() {
                todo.push((lane, account.syncing.next));
            }
        }
        todo
    }

    /// Whether something written waits for a sync.
    pub fn has_waiting(&self) -> bool {
        self.books().accounts.iter().any(|a| !a.waiting.is_empty())
    }

    /// A partition is durable up to `durable`.
    pub fn synced(&self, lane: usize, durable: Offset) {
        let mut books = self.books();
        let Some(account) = books.accounts.get_mut(lane) else {
            return;
        };
        let before = account.tally.durable.unwrap_or(durable);
        account.tally.durable = Some(before.max(durable));
        if !account.syncing.is_empty() && account.syncing.next <= durable {
            let pile = std::mem::replace(&mut account.syncing, Pile::empty(self.exact));
            account.tally.add(&pile);
        }
    }

    /// Something failed that ends the run. The first failure counts.
    pub fn fail(&self, error: Error) {
        self.books().failure.get_or_insert(error);
        self.failed.store(true, Ordering::SeqCst);
    }

    /// Whether the run has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// The failure, once.
    pub fn take_failure(&self) -> Option<Error> {
        self.books().failure.take()
    }

    /// Input position below which everything is settled.
    pub fn frontier(&self) -> u64 {
        let books = self.books();
        let piles = books.accounts.iter().flat_map(|a| [&a.waiting, &a.syncing]);
        piles
            .filter_map(|p| p.origin.start())
            .chain(books.lost.iter().filter_map(Origin::start))
            .chain(books.in_flight.iter().copied())
            .chain([books.consumed, books.unpacked])
            .min()
            .unwrap_or(0)
    }

    /// Memory that is held for what is not acknowledged, in bytes.
    pub fn memory(&self) -> usize {
        let books = self.books();
        let piles = books.accounts.iter().flat_map(|a| [&a.waiting, &a.syncing]);
        piles.map(|p| p.origin.memory()).sum()
    }

    /// What was acknowledged, partition by partition.
    pub fn tallies(&self) -> Vec<Tally> {
        self.books().accounts.iter().map(|a| a.tally).collect()
    }

    /// The input bytes that were submitted and are not acknowledged, merged and in order. Complete
    /// only if origins are exact and nothing is in flight.
    pub fn unacknowledged(&self) -> Vec<Span> {
        let books = self.books();
        let piles = books.accounts.iter().flat_map(|a| [&a.waiting, &a.syncing]);
        let mut spans: Vec<Span> = piles
            .flat_map(|p| p.origin.spans())
            .chain(books.lost.iter().flat_map(Origin::spans))
            .collect();
        merge(&mut spans);
        spans
    }
}

impl Tally {
    fn add(&mut self, pile: &Pile) {
        let Some(first) = pile.first else { return };
        self.records += pile.records;
        self.bytes += pile.origin.bytes();
        self.offsets = Some((self.offsets.map_or(first, |o| o.0), pile.next));
    }
}

/// Sorts spans and joins those that touch.
pub fn merge(spans: &mut Vec<Span>) {
    spans.sort_unstable();
    spans.dedup_by(|next, last| {
        let touch = next.start <= last.end;
        if touch {
            last.end = last.end.max(next.end);
        }
        touch
    });
}
