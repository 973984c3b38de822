//! Several logs in one order: by time or by offset, ties by partition, then offset.
//!
//! Each log stays in its own order: always the first unread record of some log comes next, the one
//! with the smallest key. Memory is one batch a log. Records come in runs of one batch, as long as no
//! other log has its turn, so that a whole batch can be moved as it is stored.
//!
//! Logs that grow are mixed too (`mix/follow.rs`): one that has nothing more holds the others back.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use super::cat::{self, CatOptions, Note};
use super::span;
use super::topic::Partition;
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::plain::Plain;
use crate::format::{Defect, Limits, Offset, TimestampMs};
use crate::log::isolation::Feed;
use crate::log::listing::LogDir;
use crate::log::reader::{Advance, ReadOptions, read_end};
use crate::log::view::View;
use crate::sys::Host;
use follow::Growth;
pub use follow::{Due, Following};

mod follow;

/// What decides which record comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its timestamp.
    Time,
    /// Its offset.
    Offset,
}

/// Where a record stands: time or offset, then partition, offset, and the log's place among the
/// operands.
pub type Key = (i64, i32, i64, usize);

/// A record of a batch laid open.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Where it begins in the batch's body.
    pub position: u32,
    /// Its time.
    pub timestamp: TimestampMs,
    /// Its offset.
    pub offset: Offset,
}

/// The batch of a log that records are taken from.
#[derive(Default)]
pub struct Laid {
    /// As stored.
    raw: Vec<u8>,
    header: Option<BatchHeader>,
    /// Its records, where they do not lie open as stored, and the header that goes with them.
    open: Vec<u8>,
    open_header: Option<BatchHeader>,
    /// The wanted records, in order.
    pub places: Vec<Place>,
    /// The first of them that was not taken.
    at: usize,
    /// All of its records are wanted.
    is_whole: bool,
}

/// Records of one batch that come next.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Which log.
    pub log: usize,
    /// The first of its [places](Laid::places).
    pub from: usize,
    /// Behind the last of them.
    pub to: usize,
    /// It is all of a batch, and nothing that comes later lies among its offsets.
    pub is_batch: bool,
}

struct Source {
    partition: Partition,
    feed: Feed,
    laid: Laid,
    /// Where the range ends that was asked for, durable or not.
    end: Offset,
    /// What following it takes.
    growth: Option<Growth>,
}

/// Reads several logs as one.
pub struct Mixer {
    sources: Vec<Source>,
    heads: BinaryHeap<Reverse<Key>>,
    order: Order,
    clamp: bool,
    limits: Limits,
    scratch: Scratch,
    following: Option<Following>,
}

impl Mixer {
    /// A mixer of these partitions, each as it is now, in the range that `read` says.
    ///
    /// # Errors
    /// As [`super::cat::cat`].
    pub fn open(
        host: &Arc<dyn Host>,
        partitions: &[Partition],
        order: Order,
        read: &CatOptions,
        note: &mut dyn FnMut(Note),
    ) -> Result<Mixer> {
        let mut mixer = Mixer {
            sources: Vec::new(),
            heads: BinaryHeap::new(),
            order,
            clamp: read.clamp,
            limits: read.limits,
            scratch: Scratch::new(),
            following: None,
        };
        for partition in partitions {
            let (view, wanted, end) = resolved(host, partition, read, note)?;
            let feed = feed(host, view, wanted, read)?;
            mixer.sources.push(Source {
                partition: partition.clone(),
                feed,
                laid: Laid::default(),
                end,
                growth: None,
            });
        }
        for log in 0..mixer.sources.len() {
            mixer.load(log, note)?;
        }
        Ok(mixer)
    }

    /// The records that come next; `None` behind the last.
    pub fn next_run(&mut self) -> Option<Run> {
        let Reverse(head) = self.heads.pop()?;
        let log = head.3;
        let until = self.heads.peek().map(|Reverse(key)| *key);
        let source = self.sources.get(log)?;
        let laid = &source.laid;
        let rest = laid.places.get(laid.at..)?;
        let comes_before = |p: &Place| {
            let key = key(self.order, source.partition.number, p, log);
            until.is_none_or(|until| key <= until)
        };
        let n = rest.iter().take_while(|p| comes_before(p)).count().max(1);
        let (from, to) = (laid.at, laid.at + n);
        let last = laid.header.as_ref().map(|h| h.last_offset);
        let is_alone = self.order == Order::Time
            || until.is_none_or(|until| last.is_some_and(|l| l.0 < until.0));
        let is_batch = laid.is_whole && from == 0 && to == laid.places.len() && is_alone;
        Some(Run {
            log,
            from,
            to,
            is_batch,
        })
    }

    /// The records of a run were taken: goes on behind them.
    ///
    /// # Errors
    /// As [`super::cat::cat`].
    pub fn took(&mut self, run: &Run, note: &mut dyn FnMut(Note)) -> Result<()> {
        let Some(source) = self.sources.get_mut(run.log) else {
            return Ok(());
        };
        source.laid.at = run.to;
        match source.laid.places.get(run.to) {
            Some(place) => {
                let key = key(self.order, source.partition.number, place, run.log);
                self.heads.push(Reverse(key));
                Ok(())
            }
            None => self.load(run.log, note),
        }
    }

    /// The partition that a run is of.
    pub fn partition(&self, log: usize) -> Option<&Partition> {
        self.sources.get(log).map(|s| &s.partition)
    }

    /// The batch that a run is of.
    pub fn laid(&self, log: usize) -> Option<&Laid> {
        self.sources.get(log).map(|s| &s.laid)
    }

    /// Lays the next batch of a log open that holds a wanted record.
    fn load(&mut self, log: usize, note: &mut dyn FnMut(Note)) -> Result<()> {
        let Some(source) = self.sources.get_mut(log) else {
            return Ok(());
        };
        let path = source.partition.path.clone();
        loop {
            match source.feed.advance().map_err(|e| e.at_path(&path))? {
                Advance::Batch => {}
                Advance::Gone(range) if self.clamp || source.growth.is_some() => {
                    note(Note::Gone(path.clone(), range));
                    continue;
                }
                Advance::Gone(range) => return Err(cat::gone(&source.partition, &range, None)),
                Advance::Damage(damage) => return Err(damage.error()),
                Advance::End => return source.end(note),
            }
            source.lay(&mut self.scratch, &self.limits)?;
            if let Some(place) = source.laid.places.first() {
                if let Some(growth) = &mut source.growth {
                    growth.loaded(&source.feed);
                }
                let key = key(self.order, source.partition.number, place, log);
                self.heads.push(Reverse(key));
                return Ok(());
            }
        }
    }
}

impl Source {
    /// Lays the batch open that the feed has found.
    fn lay(&mut self, scratch: &mut Scratch, limits: &Limits) -> Result<()> {
        let Some(piece) = self.feed.piece() else {
            return Ok(());
        };
        let laid = &mut self.laid;
        laid.is_whole = piece.is_whole();
        let done = laid.fill(&piece.batch, &piece.wanted, scratch, limits);
        done.map_err(|defect| self.feed.reader().condemn(defect).error())
    }

    /// Tells at what the log ended, where that is not its end.
    fn end(&mut self, note: &mut dyn FnMut(Note)) -> Result<()> {
        self.laid.places.clear();
        self.laid.at = 0;
        let path = &self.partition.path;
        if let Some(growth) = &mut self.growth {
            if let Some(open) = growth.drained(&self.feed) {
                note(Note::Open(path.clone(), open));
            }
            return Ok(());
        }
        if let Some(open) = self.feed.open() {
            note(Note::Open(path.clone(), open));
        } else if let Some((path, position)) = self.feed.reader_mut().torn_tail()? {
            note(Note::TornTail(path, position));
        }
        Ok(())
    }
}

impl Laid {
    fn fill(
        &mut self,
        batch: &Batch<'_>,
        wanted: &Range<Offset>,
        scratch: &mut Scratch,
        limits: &Limits,
    ) -> std::result::Result<(), Defect> {
        self.raw.clear();
        self.raw.extend_from_slice(batch.bytes());
        self.header = Some(batch.header().clone());
        self.open_header = None;
        self.places.clear();
        self.at = 0;
        if !Plain::lies_open(batch) {
            let plain = Plain::open(batch, scratch, limits, &mut self.open)?;
            self.open_header = Some(plain.header().clone());
        }
        let Some(plain) = plain_of(&self.header, &self.raw, &self.open_header, &self.open) else {
            return Ok(());
        };
        let mut records = plain.records();
        loop {
            let at = records.position();
            let Some(record) = records.next() else { break };
            let record = record?;
            if wanted.contains(&record.offset) {
                self.places.push(Place {
                    position: u32::try_from(at)
                        .map_err(|_| Defect::new(0, "a batch of 4 GiB or more"))?,
                    timestamp: record.timestamp,
                    offset: record.offset,
                });
            }
        }
        Ok(())
    }

    /// Whether nothing was taken from it yet.
    pub fn is_new(&self) -> bool {
        self.at == 0
    }

    /// The batch, its records to be had by position.
    pub fn plain(&self) -> Option<Plain<'_>> {
        plain_of(&self.header, &self.raw, &self.open_header, &self.open)
    }

    /// The batch as it is stored.
    pub fn batch(&self) -> Option<Batch<'_>> {
        let header = self.header.clone()?;
        Some(Batch::checked(header, &self.raw))
    }
}

fn plain_of<'a>(
    header: &Option<BatchHeader>,
    raw: &'a [u8],
    open_header: &Option<BatchHeader>,
    open: &'a [u8],
) -> Option<Plain<'a>> {
    match open_header {
        Some(header) => Some(Plain::of(header.clone(), open)),
        None => Some(Plain::in_place(&Batch::checked(header.clone()?, raw))),
    }
}

fn key(order: Order, partition: i32, place: &Place, log: usize) -> Key {
    let first = match order {
        Order::Time => place.timestamp.0,
        Order::Offset => place.offset.0,
    };
    (first, partition, place.offset.0, log)
}

/// A partition as it is now, what is read of it, and where that would end if it were durable.
fn resolved(
    host: &Arc<dyn Host>,
    partition: &Partition,
    read: &CatOptions,
    note: &mut dyn FnMut(Note),
) -> Result<(View, Range<Offset>, Offset)> {
    let at = |e: Error| e.at_path(&partition.path);
    let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?).map_err(at)?;
    let wanted = span::resolve(&mut view, &read.range, read.clamp, read.limits);
    let mut wanted = wanted.map_err(at)?;
    let range_end = wanted.end;
    if read.durable {
        let durable = read_end(&view)?.durable;
        if durable.is_none() {
            note(Note::NothingDurable(partition.path.clone()));
        }
        let end = durable.unwrap_or(wanted.start);
        wanted.end = wanted.end.min(end).max(wanted.start);
    }
    Ok((view, wanted, range_end))
}

fn feed(
    host: &Arc<dyn Host>,
    view: View,
    wanted: Range<Offset>,
    read: &CatOptions,
) -> Result<Feed> {
    let options = ReadOptions {
        limits: read.limits,
        skip_corrupt: false,
    };
    Feed::new(host.clone(), view, wanted, read.isolation, options)
}

#[cfg(test)]
mod tests;
