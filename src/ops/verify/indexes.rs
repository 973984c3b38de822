//! The three indexes of a segment, held against its batches as these come by.
//!
//! Owns what each entry promises, and says where one lies. An index may lag behind its log, may be
//! preallocated with zeros, and may be sparser or denser than ours: none of that is wrong.
//!
//! * An offset entry leads to the start of a batch; that one, or one behind it that was appended with
//!   it, ends at exactly the entry's offset.
//! * A time entry has the largest timestamp of the batch that holds its offset, and no batch before
//!   that has a larger one. In a sealed segment the last entry has the largest timestamp of all:
//!   retention goes by it.
//! * A transaction entry belongs to an abort marker of its producer. Every abort of a transaction that
//!   has data in the log has one; those whose data lies in earlier segments are joined up by
//!   [`Transactions`].

use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::control::{self, Control};
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry, TxnEntry};
use crate::format::{Defect, Limits, Offset, Position, TimestampMs};
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with an index: the byte of its file, and why.
pub type Lie = (u64, String);

/// The entries of an index and how many of them were held against the log.
struct Entries<E> {
    all: Vec<E>,
    at: usize,
    /// Lies found; after the first few the rest is no news.
    lies: Vec<Lie>,
}

/// Most lies of one index that are told.
const LIES_MAX: usize = 16;

impl<E: Entry> Entries<E> {
    fn new(bytes: &[u8], shape: Result<usize, Defect>) -> Entries<E> {
        let lies = match shape {
            Ok(_) => Vec::new(),
            Err(d) => vec![(d.at as u64, d.reason)],
        };
        Entries {
            all: index::entries(bytes).collect(),
            at: 0,
            lies,
        }
    }

    fn current(&self) -> Option<E> {
        self.all.get(self.at).copied()
    }

    fn lie(&mut self, why: String) {
        if self.lies.len() < LIES_MAX {
            self.lies.push(((self.at * E::BYTES) as u64, why));
        }
    }
}

/// An offset index.
pub struct Offsets {
    base: Offset,
    entries: Entries<OffsetEntry>,
    /// The batch that the current entry leads to was met.
    met: bool,
}

impl Offsets {
    /// The index of a segment whose log has `len` bytes.
    pub fn new(bytes: &[u8], base: Offset, len: u64) -> Offsets {
        let mut entries = Entries::new(bytes, index::check_offsets(bytes, base, len));
        // The only entry of a preallocated index that has none.
        if entries
            .current()
            .is_some_and(|e: OffsetEntry| e.relative == 0 && e.position == 0)
        {
            entries.at = 1;
        }
        Offsets {
            base,
            entries,
            met: false,
        }
    }

    /// A batch comes by.
    pub fn feed(&mut self, header: &BatchHeader, position: Position) {
        while let Some(entry) = self.entries.current() {
            let (at, offset) = (entry.position(), entry.offset(self.base));
            if !self.met && at > position {
                return;
            }
            if !self.met && at < position {
                let why = format!("offset {offset} indexed, but no batch begins at byte {at}");
                self.entries.lie(why);
            } else if header.last_offset < offset {
                self.met = true;
                return;
            } else if header.last_offset > offset {
                let last = header.last_offset;
                let why =
                    format!("offset {offset} indexed, but the batch at byte {at} ends at {last}");
                self.entries.lie(why);
            }
            self.met = false;
            self.entries.at += 1;
        }
    }

    /// A damaged stretch comes by: what the index says of it is neither right nor wrong.
    pub fn pass(&mut self, from: Position, bytes: u64) {
        self.met = false;
        let to = from + bytes;
        while self.entries.current().is_some_and(|e| e.position() < to) {
            self.entries.at += 1;
        }
    }

    /// The offset of the first entry behind the batches that came by.
    pub fn beyond(&self) -> Option<(u64, Offset)> {
        let entry = self.entries.current()?;
        let at = self.entries.at * OffsetEntry::BYTES;
        Some((at as u64, entry.offset(self.base)))
    }

    /// All batches came by; `open` says that more may have been appended since.
    pub fn finish(mut self, open: bool) -> Vec<Lie> {
        if let Some(entry) = self.entries.current().filter(|_| !open) {
            let why = format!(
                "byte {} indexed, which is behind the last batch",
                entry.position()
            );
            self.entries.lie(why);
        }
        self.entries.lies
    }
}

/// A time index.
pub struct Times {
    base: Offset,
    entries: Entries<TimeEntry>,
    /// Largest timestamp of the batches so far.
    largest: TimestampMs,
    last: Option<TimestampMs>,
    damaged: bool,
}

impl Times {
    /// The index of a segment.
    pub fn new(bytes: &[u8], base: Offset) -> Times {
        let mut entries: Entries<TimeEntry> = Entries::new(bytes, index::check_times(bytes, base));
        let blank = |e: TimeEntry| e.relative == 0 && e.timestamp == TimestampMs(0);
        if entries.current().is_some_and(blank) {
            entries.at = 1;
        }
        let last = index::last::<TimeEntry>(bytes).or(index::entries(bytes).last());
        Times {
            base,
            entries,
            largest: TimestampMs::NONE,
            last: last.filter(|e| !blank(*e)).map(|e| e.timestamp),
            damaged: false,
        }
    }

    /// A batch comes by.
    pub fn feed(&mut self, header: &BatchHeader) {
        while let Some(entry) = self.entries.current() {
            let offset = entry.offset(self.base);
            if offset > header.last_offset {
                break;
            }
            // What a compressed magic 0 or 1 wrapper begins at is not in its header.
            let inside = offset >= header.base_offset || header.magic < 2;
            let (told, found) = (entry.timestamp, header.max_timestamp);
            if !self.damaged && !inside {
                let why =
                    format!("timestamp {told} indexed at offset {offset}, which no batch holds");
                self.entries.lie(why);
            } else if inside && told != found {
                let why =
                    format!("timestamp {told} indexed at offset {offset}, whose batch has {found}");
                self.entries.lie(why);
            } else if self.largest > told {
                let why = format!(
                    "timestamp {told} indexed at offset {offset}, after {}",
                    self.largest
                );
                self.entries.lie(why);
            }
            self.entries.at += 1;
        }
        self.largest = self.largest.max(header.max_timestamp);
    }

    /// A damaged stretch comes by.
    pub fn pass(&mut self) {
        self.damaged = true;
    }

    /// The offset of the first entry behind the batches that came by.
    pub fn beyond(&self) -> Option<(u64, Offset)> {
        let entry = self.entries.current()?;
        let at = self.entries.at * TimeEntry::BYTES;
        Some((at as u64, entry.offset(self.base)))
    }

    /// All batches came by.
    pub fn finish(mut self, open: bool) -> Vec<Lie> {
        if open || self.damaged {
            return self.entries.lies;
        }
        if let Some(entry) = self.entries.current() {
            let offset = entry.offset(self.base);
            self.entries.lie(format!(
                "offset {offset} indexed, which is behind the last batch"
            ));
        }
        let largest = (self.largest >= TimestampMs(0)).then_some(self.largest);
        if self.entries.lies.is_empty() && self.last < largest {
            let largest = self.largest;
            self.entries.at = self.entries.all.len();
            self.entries.lie(format!(
                "the largest timestamp of the segment, {largest}, is not indexed"
            ));
        }
        self.entries.lies
    }
}

/// An abort marker without an entry whose transaction did not begin in its segment.
#[derive(Clone, Copy, Debug)]
pub struct Unindexed {
    producer_id: i64,
    /// Its offset.
    pub marker: Offset,
}

/// The transaction index of one segment, and what the transactions of earlier ones have to do with it.
pub struct Txns {
    entries: Entries<TxnEntry>,
    /// First offset of what is open, by producer.
    open: BTreeMap<i64, Offset>,
    /// Producers of which a marker came by.
    ended: BTreeSet<i64>,
    unindexed: Vec<Unindexed>,
    scratch: Scratch,
    limits: Limits,
}

impl Txns {
    /// The index of a segment; `bytes` is empty where there is none.
    pub fn new(bytes: &[u8], base: Offset, limits: Limits) -> Txns {
        Txns {
            entries: Entries::new(bytes, index::check_txns(bytes, base)),
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            unindexed: Vec::new(),
            scratch: Scratch::new(),
            limits,
        }
    }

    /// A transactional batch comes by.
    pub fn feed(&mut self, batch: &Batch<'_>) {
        let header = batch.header();
        let (id, offset) = (header.producer_id, header.base_offset);
        if !header.is_control() {
            // An empty one stands for a producer whose records compaction removed.
            if header.count > 0 {
                self.open.entry(id).or_insert(offset);
            }
            return;
        }
        let Some(commit) = self.end_marker(batch) else {
            return;
        };
        let begun = self.open.remove(&id);
        let first = self.ended.insert(id);
        self.skip_to(offset);
        match self.entries.current().filter(|e| e.last_offset == offset) {
            Some(entry) => {
                if commit
                    || entry.producer_id != id
                    || begun.is_some_and(|b| entry.first_offset > b)
                {
                    let why = format!(
                        "aborted transaction of producer {} from {} to {offset}, where the log says otherwise",
                        entry.producer_id, entry.first_offset
                    );
                    self.entries.lie(why);
                }
                self.entries.at += 1;
            }
            None if commit => {}
            None if begun.is_some() => {
                self.entries.lie(unindexed(id, offset));
            }
            None if first => self.unindexed.push(Unindexed {
                producer_id: id,
                marker: offset,
            }),
            None => {}
        }
    }

    /// Whether the batch is a commit or an abort marker.
    fn end_marker(&mut self, batch: &Batch<'_>) -> Option<bool> {
        let record = batch
            .records(&mut self.scratch, &self.limits)
            .ok()?
            .next()?
            .ok()?;
        match control::decode(record.key, record.value).ok()? {
            Control::EndTxn { commit, .. } => Some(commit),
            _ => None,
        }
    }

    /// Passes over entries whose marker is not there.
    fn skip_to(&mut self, offset: Offset) {
        while let Some(entry) = self.entries.current().filter(|e| e.last_offset < offset) {
            let why = format!(
                "abort marker {} indexed, which is not there",
                entry.last_offset
            );
            self.entries.lie(why);
            self.entries.at += 1;
        }
    }

    /// A damaged stretch comes by, up to where offset `next` is.
    pub fn pass(&mut self, next: Offset) {
        while self.entries.current().is_some_and(|e| e.last_offset < next) {
            self.entries.at += 1;
        }
    }

    /// All batches below `end` came by.
    pub fn finish(mut self, end: Offset) -> (Vec<Lie>, Ended) {
        self.skip_to(end);
        let ended = Ended {
            open: self.open,
            ended: self.ended,
            unindexed: self.unindexed,
        };
        (self.entries.lies, ended)
    }
}

fn unindexed(id: i64, marker: Offset) -> String {
    format!("the transaction of producer {id} aborted at {marker} is not indexed")
}

/// What one segment says of transactions that began before it.
#[derive(Default)]
pub struct Ended {
    open: BTreeMap<i64, Offset>,
    ended: BTreeSet<i64>,
    unindexed: Vec<Unindexed>,
}

/// Transactions that are open at the end of the segments so far.
#[derive(Default)]
pub struct Transactions(BTreeMap<i64, Offset>);

impl Transactions {
    /// Takes in the next segment; aborts in it that should be indexed and are not.
    pub fn join(&mut self, segment: Ended) -> Vec<String> {
        let open = &mut self.0;
        let lies = segment
            .unindexed
            .iter()
            .filter(|u| open.contains_key(&u.producer_id));
        let lies = lies.map(|u| unindexed(u.producer_id, u.marker)).collect();
        open.retain(|id, _| !segment.ended.contains(id));
        for (id, first) in segment.open {
            open.entry(id).or_insert(first);
        }
        lies
    }
}
