//! Records by key: the newest value, or every version.
//!
//! A key is looked for in every partition that was asked for, wherever the log's partitioner would
//! put it, as records may have been written by others. The newest is the one with the largest
//! timestamp; of equal ones that of the partition with the largest number, and within a partition the
//! largest offset decides alone. So `get` gives the last of what `merge` would print for the key,
//! where times rise within each partition.
//!
//! A key whose newest record is a tombstone is deleted: there is no value.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::cat::{Note, gone};
use super::emit::{Emitter, Flow, Sink};
use super::output::Meta;
use super::span;
use super::topic::Partition;
use super::words::Pos;
use crate::error::{Error, Result};
use crate::format::batch::Scratch;
use crate::format::{Defect, Limits, Offset, TimestampMs};
use crate::log::isolation::Isolation;
use crate::log::listing::LogDir;
use crate::log::reader::{Advance, Piece, ReadOptions, read_end};
use crate::log::reverse::Reverse;
use crate::log::versions::{Sought, Versions};
use crate::log::view::View;
use crate::sys::Host;

/// The word of the field that keys are looked up by.
const KEY: &str = "key";

/// How to look.
#[derive(Clone, Debug)]
pub struct GetOptions {
    /// As of then: what lies before this place.
    pub at: Option<Pos>,
    /// Places outside the log, and what retention removes meanwhile, are no error.
    pub clamp: bool,
    /// What is shown of transactions.
    pub isolation: Isolation,
    /// Stop at the durable offset.
    pub durable: bool,
    /// Go on behind damage.
    pub skip_corrupt: bool,
    /// Bounds of what is read.
    pub limits: Limits,
}

/// Partitions as of one moment, in which keys are looked for.
pub struct Getter<'a> {
    host: Arc<dyn Host>,
    options: &'a GetOptions,
    parts: Vec<Part<'a>>,
    /// Where a note was given that a transaction is open.
    told: Vec<PathBuf>,
    /// What was wrong with indexes, each told once.
    damaged: Vec<String>,
    scratch: Scratch,
}

struct Part<'a> {
    partition: &'a Partition,
    view: View,
    wanted: Range<Offset>,
}

/// Something to tell while looking.
pub enum Told {
    /// As reading in order tells it.
    Note(Note),
    /// An index that was not used, as it is damaged.
    Index(Error),
}

/// Where the newest record of a key is.
#[derive(Clone, Copy)]
struct Spot {
    part: usize,
    offset: Offset,
    timestamp: TimestampMs,
    is_tombstone: bool,
}

/// A record that was found, and the reader that stands at its batch.
struct Hit<'a> {
    part: usize,
    versions: Versions<'a>,
    offset: Offset,
    timestamp: TimestampMs,
    is_tombstone: bool,
}

impl<'a> Getter<'a> {
    /// The partitions as they are now.
    ///
    /// # Errors
    /// `NotFound` for a place outside the log; else what reading may meet.
    pub fn open(
        host: &Arc<dyn Host>,
        partitions: &'a [Partition],
        options: &'a GetOptions,
        tell: &mut dyn FnMut(Told),
    ) -> Result<Getter<'a>> {
        let mut parts = Vec::new();
        for partition in partitions {
            let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
            let mut end = match options.at {
                Some(pos) => span::place(&mut view, pos, options.clamp, options.limits)?,
                None => Offset::MAX,
            };
            if options.durable {
                let durable = read_end(&view)?.durable;
                if durable.is_none() {
                    tell(Told::Note(Note::NothingDurable(partition.path.clone())));
                }
                end = end.min(durable.unwrap_or(Offset::ZERO));
            }
            let start = view.start();
            parts.push(Part {
                partition,
                view,
                wanted: start..end.max(start),
            });
        }
        Ok(Getter {
            host: Arc::clone(host),
            options,
            parts,
            told: Vec::new(),
            damaged: Vec::new(),
            scratch: Scratch::new(),
        })
    }

    /// Shows the newest value of `key`. False if there is none.
    ///
    /// # Errors
    /// `Data` for damage that had to be passed, `ClosedPipe` when the reader is gone; else what reading
    /// and writing may meet.
    pub fn newest(
        &mut self,
        key: &[u8],
        emitter: &mut Emitter,
        sink: &mut dyn Sink,
        tell: &mut dyn FnMut(Told),
    ) -> Result<bool> {
        let mut best: Option<Hit<'_>> = None;
        for part in 0..self.parts.len() {
            let Some(hit) = self.newest_of(part, key, tell)? else {
                continue;
            };
            if best.as_ref().is_none_or(|b| hit.timestamp >= b.timestamp) {
                best = Some(hit);
            }
        }
        let Some(hit) = best.filter(|h| !h.is_tombstone) else {
            return Ok(false);
        };
        let (Some(part), Some(piece)) = (self.parts.get(hit.part), hit.versions.piece()) else {
            return Ok(false);
        };
        let piece = Piece {
            batch: piece.batch,
            wanted: hit.offset..hit.offset.next(),
        };
        emitter.select_key(key, false);
        match emitter.piece(&meta_of(part.partition), &piece, sink)? {
            Ok(_) => Ok(true),
            Err(defect) => Err(hit.versions.condemn(defect).error()),
        }
    }

    /// Shows the newest value of each of several keys, in their order, reading every partition once
    /// however many there are. False if one has none.
    ///
    /// # Errors
    /// As [`Getter::newest`], after what could be answered in spite of it was shown.
    pub fn newest_each(
        &mut self,
        keys: &[&[u8]],
        emitter: &mut Emitter,
        sink: &mut dyn Sink,
        tell: &mut dyn FnMut(Told),
    ) -> Result<bool> {
        let mut spots = BTreeMap::new();
        let (mut unknown, mut failed) = (BTreeSet::new(), None);
        for part in 0..self.parts.len() {
            let mut left: BTreeSet<&[u8]> = keys.iter().copied().collect();
            if let Err(e) = self.spots(part, &mut left, &mut spots, tell) {
                // What was not found before the error is known to be neither there nor absent.
                unknown.append(&mut left);
                failed.get_or_insert(e);
            }
        }
        let mut are_there = true;
        for key in keys.iter().filter(|k| !unknown.contains(*k)) {
            are_there &= match spots.get(key) {
                Some(spot) if !spot.is_tombstone => self.show(key, spot, emitter, sink, tell)?,
                _ => false,
            };
        }
        failed.map_or(Ok(are_there), Err)
    }

    /// Finds the newest record of each key of `left` in one partition; takes what it finds out of
    /// `left`, and into `spots` if that knows no newer one.
    fn spots<'k>(
        &mut self,
        part: usize,
        left: &mut BTreeSet<&'k [u8]>,
        spots: &mut BTreeMap<&'k [u8], Spot>,
        tell: &mut dyn FnMut(Told),
    ) -> Result<()> {
        let values: Vec<&[u8]> = left.iter().copied().collect();
        let mut versions = self.versions(part, &values)?;
        while !left.is_empty() && self.advance(part, &mut versions, tell)? {
            let Some(piece) = versions.piece() else {
                continue;
            };
            let here = last_of_each(&piece, left, &mut self.scratch, &self.options.limits);
            let here = match here {
                Ok(here) => here,
                Err(defect) => {
                    self.condemned(&versions, defect, tell)?;
                    continue;
                }
            };
            for (key, (offset, timestamp, is_tombstone)) in here {
                left.remove(key);
                versions.forget(key);
                if spots.get(key).is_none_or(|s| timestamp >= s.timestamp) {
                    let spot = Spot {
                        part,
                        offset,
                        timestamp,
                        is_tombstone,
                    };
                    spots.insert(key, spot);
                }
            }
        }
        Ok(())
    }

    /// Shows the record at a place. If it is gone by now, the key is looked for again.
    fn show(
        &mut self,
        key: &[u8],
        spot: &Spot,
        emitter: &mut Emitter,
        sink: &mut dyn Sink,
        tell: &mut dyn FnMut(Told),
    ) -> Result<bool> {
        let Some(part) = self.parts.get(spot.part) else {
            return Ok(false);
        };
        let wanted = spot.offset..spot.offset.next();
        // That it may be shown is known; what transactions did is not asked again.
        let mut reverse = Reverse::new(
            Arc::clone(&self.host),
            part.view.clone(),
            wanted.clone(),
            Isolation::Uncommitted,
            self.read_options(),
        );
        if let Ok(Advance::Batch) = reverse.advance()
            && let Some(piece) = reverse.piece()
        {
            let before = emitter.left();
            let batch = piece.batch;
            emitter.select_key(key, false);
            let shown = emitter.piece(&meta_of(part.partition), &Piece { batch, wanted }, sink)?;
            if shown.is_ok() && emitter.left() < before {
                return Ok(true);
            }
        }
        self.newest(key, emitter, sink, tell)
    }

    /// Shows every version of `key`, tombstones too: newest first, one partition after the other.
    /// False if there is none.
    ///
    /// # Errors
    /// As [`Getter::newest`].
    pub fn all(
        &mut self,
        key: &[u8],
        emitter: &mut Emitter,
        sink: &mut dyn Sink,
        tell: &mut dyn FnMut(Told),
    ) -> Result<bool> {
        emitter.select_key(key, true);
        let before = emitter.left();
        for i in 0..self.parts.len() {
            let sought = [key];
            let mut versions = self.versions(i, &sought)?;
            while self.advance(i, &mut versions, tell)? {
                let (Some(part), Some(piece)) = (self.parts.get(i), versions.piece()) else {
                    continue;
                };
                let shown = emitter.piece(&meta_of(part.partition), &piece, sink)?;
                match shown {
                    Ok(Flow::More) => {}
                    Ok(Flow::Full) => return Ok(true),
                    Err(defect) => self.condemned(&versions, defect, tell)?,
                }
            }
        }
        Ok(emitter.left() < before)
    }

    /// The newest record of a key in one partition.
    fn newest_of<'k>(
        &mut self,
        part: usize,
        key: &'k [u8],
        tell: &mut dyn FnMut(Told),
    ) -> Result<Option<Hit<'k>>> {
        let mut versions = self.versions(part, &[key])?;
        while self.advance(part, &mut versions, tell)? {
            let Some(piece) = versions.piece() else {
                continue;
            };
            match last_of(&piece, key, &mut self.scratch, &self.options.limits) {
                Ok(None) => {}
                Ok(Some((offset, timestamp, is_tombstone))) => {
                    return Ok(Some(Hit {
                        part,
                        versions,
                        offset,
                        timestamp,
                        is_tombstone,
                    }));
                }
                Err(defect) => self.condemned(&versions, defect, tell)?,
            }
        }
        Ok(None)
    }

    fn read_options(&self) -> ReadOptions {
        ReadOptions {
            limits: self.options.limits,
            skip_corrupt: self.options.skip_corrupt,
        }
    }

    fn versions<'k>(&self, part: usize, keys: &[&'k [u8]]) -> Result<Versions<'k>> {
        let Some(part) = self.parts.get(part) else {
            return Err(Error::new(crate::error::ErrorKind::Bug, "no such part"));
        };
        let sought = Sought {
            field: KEY,
            values: keys,
        };
        let read = self.read_options();
        let (view, wanted) = (part.view.clone(), part.wanted.clone());
        let host = Arc::clone(&self.host);
        Versions::new(host, view, sought, wanted, self.options.isolation, read)
    }

    /// Goes to the next batch, telling what there is to tell. False at the end.
    fn advance(
        &mut self,
        part: usize,
        versions: &mut Versions<'_>,
        tell: &mut dyn FnMut(Told),
    ) -> Result<bool> {
        let Some(partition) = self.parts.get(part).map(|p| p.partition) else {
            return Ok(false);
        };
        loop {
            let advance = versions.advance();
            for e in versions.take_damaged() {
                let text = e.to_string();
                if !self.damaged.contains(&text) {
                    self.damaged.push(text);
                    tell(Told::Index(e));
                }
            }
            if let Some(open) = versions.open()
                && !self.told.contains(&partition.path)
            {
                self.told.push(partition.path.clone());
                tell(Told::Note(Note::Open(partition.path.clone(), open)));
            }
            match advance? {
                Advance::Batch => return Ok(true),
                Advance::End => return Ok(false),
                Advance::Damage(damage) => tell(Told::Note(Note::Damage(damage))),
                Advance::Gone(range) if self.options.clamp => {
                    tell(Told::Note(Note::Gone(partition.path.clone(), range)));
                }
                Advance::Gone(range) => return Err(gone(partition, &range, None)),
            }
        }
    }

    /// A batch whose records cannot be decoded.
    fn condemned(
        &self,
        versions: &Versions<'_>,
        defect: Defect,
        tell: &mut dyn FnMut(Told),
    ) -> Result<()> {
        let damage = versions.condemn(defect);
        if !self.options.skip_corrupt {
            return Err(damage.error());
        }
        tell(Told::Note(Note::Damage(damage)));
        Ok(())
    }
}

fn meta_of(partition: &Partition) -> Meta<'_> {
    Meta {
        topic: &partition.topic,
        partition: partition.number,
    }
}

/// A record's offset and time, and whether it is a tombstone.
type Newest = (Offset, TimestampMs, bool);

/// The last wanted record of each of the keys that a batch holds.
fn last_of_each<'k>(
    piece: &Piece<'_>,
    keys: &BTreeSet<&'k [u8]>,
    scratch: &mut Scratch,
    limits: &Limits,
) -> std::result::Result<BTreeMap<&'k [u8], Newest>, Defect> {
    let mut last = BTreeMap::new();
    for record in piece.batch.records(scratch, limits)? {
        let record = record?;
        if let Some(key) = record.key.and_then(|k| keys.get(k))
            && piece.wanted.contains(&record.offset)
        {
            let newest = (record.offset, record.timestamp, record.value.is_none());
            last.insert(*key, newest);
        }
    }
    Ok(last)
}

/// Offset and time of the last wanted record of a batch with this key, and whether it is a tombstone.
fn last_of(
    piece: &Piece<'_>,
    key: &[u8],
    scratch: &mut Scratch,
    limits: &Limits,
) -> std::result::Result<Option<Newest>, Defect> {
    let mut last = None;
    for record in piece.batch.records(scratch, limits)? {
        let record = record?;
        if record.key == Some(key) && piece.wanted.contains(&record.offset) {
            last = Some((record.offset, record.timestamp, record.value.is_none()));
        }
    }
    Ok(last)
}
