//! Records by key: the newest value, or every version.
//!
//! A key is looked for in every partition that was asked for, wherever the log's partitioner would
//! put it, as records may have been written by others. The newest is the one with the largest
//! timestamp; of equal ones that of the partition with the largest number, and within a partition the
//! largest offset decides alone. So `get` gives the last of what `merge` would print for the key,
//! where times rise within each partition.
//!
//! A key whose newest record is a tombstone is deleted: there is no value.

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
            let mut versions = self.versions(i, key)?;
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
        let mut versions = self.versions(part, key)?;
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

    fn versions<'k>(&self, part: usize, key: &'k [u8]) -> Result<Versions<'k>> {
        let Some(part) = self.parts.get(part) else {
            return Err(Error::new(crate::error::ErrorKind::Bug, "no such part"));
        };
        let sought = Sought {
            field: KEY,
            value: key,
        };
        let read = ReadOptions {
            limits: self.options.limits,
            skip_corrupt: self.options.skip_corrupt,
        };
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

/// Offset and time of the last wanted record of a batch with this key, and whether it is a tombstone.
fn last_of(
    piece: &Piece<'_>,
    key: &[u8],
    scratch: &mut Scratch,
    limits: &Limits,
) -> std::result::Result<Option<(Offset, TimestampMs, bool)>, Defect> {
    let mut last = None;
    for record in piece.batch.records(scratch, limits)? {
        let record = record?;
        if record.key == Some(key) && piece.wanted.contains(&record.offset) {
            last = Some((record.offset, record.timestamp, record.value.is_none()));
        }
    }
    Ok(last)
}
