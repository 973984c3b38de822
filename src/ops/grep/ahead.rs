//! Batches read, and searched on all cores, in order.
//!
//! Reading and checking a batch costs about as much as looking for a rare word in it, and both are
//! quickest in the cache of one core. So the thread that reads searches as well, until that takes
//! longer than reading does. From then on it reads and shows, and others lay open, search and decode.
//! What is read goes to them a window of some 1 MiB at a time, by turns and without a copy, and what
//! they found is taken back by the same turns, so order needs no other care. Bounds:
//!
//! * At most [`AHEAD`] windows a thread are under way, and a large batch is searched where it was read.
//! * Of what was decompressed a window keeps [`KEEP_BYTES`]; the rest is decompressed again if it is
//!   to be shown.
//!
//! A batch that cannot be decoded is left to the plain reader, which meets it again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::filter::Skips;
use super::find::{Finder, Found, Query};
use super::{Grep, Want};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::batch::{Batch, BatchHeader};
use crate::format::plain::Plain;
use crate::log::isolation::Feed;
use crate::log::reader::Advance;
use crate::ops::cat::{Cat, Note, meta};
use crate::ops::emit::Flow;
use crate::ops::topic::Partition;

/// Bytes that are read and searched alone before it is asked again which took longer.
const ALONE_BYTES: usize = 1 << 20;
/// How often in a row searching must take longer before threads are started: other work on the machine
/// makes either slow now and then.
const SLOW_MAX: u32 = 4;
/// Windows under way, for each thread.
const AHEAD: usize = 2;
/// Most threads: one that reads keeps no more busy.
const THREADS_MAX: usize = 4;
/// Larger batches are not handed on: several of them at a time would take too much memory.
const HANDED_BYTES_MAX: usize = 2 << 20;
/// Decompressed bytes that are kept of a window.
const KEEP_BYTES: usize = 2 << 20;

/// A window of batches, to be searched.
struct Job {
    window: Arc<Vec<u8>>,
    batches: Vec<Item>,
}

/// A batch of a window.
struct Item {
    header: BatchHeader,
    place: Range<usize>,
    wanted: Range<Offset>,
}

impl Item {
    fn batch<'a>(&self, window: &'a [u8]) -> Batch<'a> {
        let bytes = window.get(self.place.clone()).unwrap_or_default();
        Batch::checked(self.header.clone(), bytes)
    }
}

/// What was found in a window.
struct Done {
    job: Job,
    /// By batch, where there is something to show or to count.
    found: Vec<(usize, Found, Kept)>,
    /// The batch that could not be decoded; those behind it were not searched.
    failed: Option<usize>,
}

/// A batch laid open.
enum Kept {
    /// It lies so in the window.
    InPlace,
    /// Here, with its header.
    Here(BatchHeader, Vec<u8>),
    /// It would have taken too much memory.
    Not,
}

/// Where a search stands.
pub(super) enum Stand {
    /// At the end of what there is, or all is shown that was asked for.
    Ended(Flow),
    /// Before a batch that is to be read in the plain way.
    Before(Offset),
}

/// One that searches windows in a thread of its own.
struct Worker {
    jobs: Sender<Job>,
    done: Receiver<Done>,
}

/// A search that reads ahead.
struct Ahead<'a, 'c, 'scope, 'env> {
    grep: &'a mut Grep,
    cat: &'a mut Cat<'c>,
    log: usize,
    partition: &'a Partition,
    scope: &'scope Scope<'scope, 'env>,
    workers: Vec<Worker>,
    /// Turns of those that have a window, oldest first.
    turns: VecDeque<usize>,
    next: usize,
    alone: Option<Alone>,
}

/// How it goes alone.
struct Alone {
    since: Instant,
    bytes: usize,
    searching: Duration,
    slow: u32,
}

impl Alone {
    fn new(slow: u32) -> Alone {
        Alone {
            since: Instant::now(),
            bytes: 0,
            searching: Duration::ZERO,
            slow,
        }
    }

    /// Adds what one batch took. Tells whether it takes longer to search than to read.
    fn is_slow(&mut self, bytes: usize, began: Instant) -> bool {
        let now = Instant::now();
        self.searching += now - began;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < ALONE_BYTES {
            return false;
        }
        let reading = (now - self.since).saturating_sub(self.searching);
        let slow = if self.searching > reading {
            self.slow + 1
        } else {
            0
        };
        *self = Alone::new(slow);
        slow >= SLOW_MAX
    }
}

/// Searches all that `feed` has.
///
/// # Errors
/// As [`Feed::advance`] and of the sink; what was found before is shown.
pub(super) fn search(
    feed: &mut Feed,
    partition: &Partition,
    cat: &mut Cat<'_>,
    (grep, log): (&mut Grep, usize),
) -> Result<Stand> {
    std::thread::scope(|scope| {
        let mut ahead = Ahead {
            grep,
            cat,
            log,
            partition,
            scope,
            workers: Vec::new(),
            turns: VecDeque::new(),
            next: 0,
            alone: Some(Alone::new(0)),
        };
        ahead.run(feed)
    })
}

impl<'scope> Ahead<'_, '_, 'scope, '_> {
    fn run(&mut self, feed: &mut Feed) -> Result<Stand> {
        let mut job: Option<Job> = None;
        let query = Arc::clone(&self.grep.query);
        let mut skips = Skips::of(&query, feed.reader().view(), self.cat.options.isolation)?;
        let read = loop {
            if let Some(skips) = &mut skips {
                let next = feed.reader().next_offset();
                match skips.from(feed.reader().view(), next) {
                    Ok(next) => feed.skip_to(next),
                    Err(e) => break Err(e),
                }
                let damaged = skips.take_damaged().map(Note::Index);
                damaged.for_each(|note| (self.cat.note)(note));
            }
            match feed.advance() {
                Ok(Advance::Batch) => {}
                Ok(Advance::End) => break Ok(()),
                Ok(missing) => match self.cat.missing(self.partition, missing, None) {
                    Ok(()) => continue,
                    Err(e) => break Err(e),
                },
                Err(e) => break Err(e),
            }
            if self.alone.is_some() {
                match self.alone(feed)? {
                    None => continue,
                    stand => return Ok(stand.unwrap_or(Stand::Ended(Flow::More))),
                }
            }
            let Some((window, item)) = lend(feed) else {
                continue;
            };
            let is_other = |j: &Job| !Arc::ptr_eq(&j.window, &window);
            if let Some(full) = job.take_if(|j| is_other(j))
                && let Some(stand) = self.hand_on(full)?
            {
                return Ok(stand);
            }
            let new = || Job {
                window,
                batches: Vec::new(),
            };
            job.get_or_insert_with(new).batches.push(item);
        };
        // What was read before an error is good, and goes out before it is told.
        if let Some(last) = job
            && let Some(stand) = self.hand_on(last)?
        {
            return Ok(stand);
        }
        if let Some(stand) = self.take_all_back()? {
            return Ok(stand);
        }
        read.map(|()| Stand::Ended(Flow::More))
    }

    /// Searches a batch in this thread. Tells if that was the end.
    fn alone(&mut self, feed: &Feed) -> Result<Option<Stand>> {
        let Some(piece) = feed.piece() else {
            return Ok(None);
        };
        let began = Instant::now();
        let stand = self.here(&piece.batch, &piece.wanted)?;
        let bytes = piece.batch.bytes().len();
        if self.alone.as_mut().is_some_and(|a| a.is_slow(bytes, began)) && self.start_all() {
            self.alone = None;
        }
        Ok(stand)
    }

    /// Gives a window to the next thread, or searches it here. Tells if that was the end.
    fn hand_on(&mut self, job: Job) -> Result<Option<Stand>> {
        let largest = job.batches.iter().map(|b| b.place.len()).max();
        if largest.is_some_and(|n| n > HANDED_BYTES_MAX) {
            if let Some(stand) = self.take_all_back()? {
                return Ok(Some(stand));
            }
            for item in &job.batches {
                let stand = self.here(&item.batch(&job.window), &item.wanted)?;
                if stand.is_some() {
                    return Ok(stand);
                }
            }
            return Ok(None);
        }
        let threads = self.workers.len().max(1);
        let turn = self.next % threads;
        if let Some(worker) = self.workers.get(turn) {
            worker.jobs.send(job).map_err(|_| gone())?;
            self.turns.push_back(turn);
            self.next = self.next.wrapping_add(1);
        }
        match self.turns.len() >= threads * AHEAD {
            true => self.take_back(),
            false => Ok(None),
        }
    }

    /// Starts a thread for each core. False where there is but one.
    fn start_all(&mut self) -> bool {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let most = if cores > 1 { cores.min(THREADS_MAX) } else { 0 };
        self.workers = (0..most).map_while(|_| self.start()).collect();
        !self.workers.is_empty()
    }

    fn start(&self) -> Option<Worker> {
        let query = Arc::clone(&self.grep.query);
        let (jobs, work) = channel();
        let (send, done) = channel();
        let run = move || {
            let mut finder = Finder::new(&query);
            for job in work {
                if send.send(window(&query, &mut finder, job)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().spawn_scoped(self.scope, run);
        thread.ok().map(|_| Worker { jobs, done })
    }

    fn here(&mut self, batch: &Batch<'_>, wanted: &Range<Offset>) -> Result<Option<Stand>> {
        let (emitter, sink) = (&mut *self.cat.emitter, &mut *self.cat.sink);
        let (meta, piece) = (meta(self.partition), (batch, wanted));
        Ok(
            match self.grep.piece(emitter, self.log, &meta, piece, sink)? {
                Ok(Flow::More) => None,
                Ok(Flow::Full) => Some(Stand::Ended(Flow::Full)),
                Err(_) => Some(Stand::Before(wanted.start)),
            },
        )
    }

    /// Shows what was found in all windows that were handed on. Tells if that was the end.
    fn take_all_back(&mut self) -> Result<Option<Stand>> {
        while !self.turns.is_empty() {
            if let Some(stand) = self.take_back()? {
                return Ok(Some(stand));
            }
        }
        Ok(None)
    }

    /// Shows what was found in the window that was handed on first. Tells if that was the end.
    fn take_back(&mut self) -> Result<Option<Stand>> {
        let turn = self.turns.pop_front();
        let Some(worker) = turn.and_then(|turn| self.workers.get(turn)) else {
            return Ok(None);
        };
        let done = worker.done.recv().map_err(|_| gone())?;
        for (number, found, kept) in &done.found {
            let Some(item) = done.job.batches.get(*number) else {
                continue;
            };
            let batch = item.batch(&done.job.window);
            if self.show(&batch, found, kept)? == Flow::Full {
                return Ok(Some(Stand::Ended(Flow::Full)));
            }
        }
        let failed = done.failed.and_then(|n| done.job.batches.get(n));
        Ok(failed.map(|item| Stand::Before(item.wanted.start)))
    }

    fn show(&mut self, batch: &Batch<'_>, found: &Found, kept: &Kept) -> Result<Flow> {
        let mut open = std::mem::take(&mut self.grep.open);
        let plain = match kept {
            Kept::InPlace => Some(Plain::in_place(batch)),
            Kept::Here(header, body) => Some(Plain::of(header.clone(), body)),
            Kept::Not => self
                .grep
                .finder
                .open(&self.grep.query, batch, &mut open)
                .ok(),
        };
        let flow = match plain {
            Some(plain) => {
                let (emitter, sink) = (&mut *self.cat.emitter, &mut *self.cat.sink);
                let meta = meta(self.partition);
                self.grep
                    .found(emitter, self.log, &meta, &plain, found, sink)
            }
            None => Ok(Flow::More),
        };
        self.grep.open = open;
        flow
    }
}

/// The error of a thread that ended, which none does while there is work.
fn gone() -> Error {
    Error::new(ErrorKind::Bug, "a thread that searches is gone")
}

/// The batch that a feed found last.
fn lend(feed: &Feed) -> Option<(Arc<Vec<u8>>, Item)> {
    let header = feed.reader().header()?.clone();
    let (lent, wanted) = feed.reader().lend()?;
    let item = Item {
        header,
        place: lent.place,
        wanted,
    };
    Some((lent.window, item))
}

/// Searches the batches of a window.
fn window(query: &Query, finder: &mut Finder, job: Job) -> Done {
    let mut done = Done {
        job,
        found: Vec::new(),
        failed: None,
    };
    let (mut out, mut kept_bytes) = (Vec::new(), 0);
    for (number, item) in done.job.batches.iter().enumerate() {
        let batch = item.batch(&done.job.window);
        let mut found = Found::default();
        let laid = finder.find(query, &batch, &item.wanted, &mut out, &mut found);
        let (header, len) = match laid {
            Ok(plain) => (plain.header().clone(), plain.body().len()),
            Err(_) => {
                done.failed = Some(number);
                break;
            }
        };
        if found.matches == 0 && query.want != Want::All {
            super::give_back(&mut out);
            continue;
        }
        let kept = match () {
            () if Plain::lies_open(&batch) || query.want == Want::Count => Kept::InPlace,
            () if kept_bytes + len > KEEP_BYTES => Kept::Not,
            () => {
                kept_bytes += len;
                Kept::Here(header, std::mem::take(&mut out))
            }
        };
        done.found.push((number, found, kept));
        super::give_back(&mut out);
    }
    done
}
