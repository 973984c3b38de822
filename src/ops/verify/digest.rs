//! Hashes of a log, to hold copies against each other without moving them.
//!
//! * *Batches*: one SHA-256 a segment, over its batches as stored, so up to the last whole one.
//! * *Records*: one a log, over what a reader is given, whatever batches, segments and compression
//!   hold it. Each record goes in as (integers big-endian):
//!
//! | size | field |
//! |---|---|
//! | 8 | offset |
//! | 8 | timestamp |
//! | 4 + n | key length (-1 null), key |
//! | 4 + n | value length (-1 null), value |
//! | 4 | number of headers |
//! | 4 + n, 4 + n | each header: name; value as above |
//!
//! Control records and those of aborted transactions are left out of neither: what is stored counts,
//! but for control batches, which are the log's own.

use super::Options;
use crate::error::{Error, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::{Limits, Offset};
use crate::log::listing::LogDir;
use crate::log::reader::{Event, ReadOptions, Reader};
use crate::log::view::View;
use crate::ops::span;
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::sys::Host;
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::sync::Arc;

/// Over what a hash goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Batches as stored.
    Batches,
    /// Records as read.
    Records,
}

/// One hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Base offset of the segment; none for a whole log.
    pub segment: Option<Offset>,
    /// The first offset behind what it covers.
    pub end: Offset,
    /// SHA-256.
    pub hash: [u8; 32],
}

/// The hashes of one partition, as of now.
///
/// # Errors
/// `Data` for damage; else what reading may meet.
pub fn digest(
    host: &Arc<dyn Host>,
    partition: &Partition,
    over: Over,
    options: &Options,
    throttle: &Throttle,
) -> Result<Vec<Line>> {
    let log = LogDir::open(host.as_ref(), &partition.path)?;
    let mut view = View::of(log)?;
    let wanted = match &options.range {
        Some(range) => span::resolve(&mut view, range, false, options.limits)?,
        None => view.start()..Offset::MAX,
    };
    let bases = bases(&view, over);
    let read = ReadOptions {
        limits: options.limits,
        skip_corrupt: false,
    };
    let mut reader = Reader::new(host.clone(), view, wanted.clone(), read);
    let mut hasher = Hasher::new(bases, options.limits);
    loop {
        match reader.next()? {
            Event::Batch(piece) => {
                throttle.spend(piece.batch.header().size as u64);
                match over {
                    Over::Batches => hasher.batch(&piece.batch),
                    Over::Records => hasher.records(&piece.batch, &piece.wanted)?,
                }
            }
            Event::End => return Ok(hasher.finish(over)),
            Event::Gone(_) => {}
            Event::Damage(damage) => return Err(damage.error()),
        }
    }
}

/// Where segments begin, if that matters.
fn bases(view: &View, over: Over) -> Vec<Offset> {
    match over {
        Over::Batches => view.segments().iter().map(|s| s.base()).collect(),
        Over::Records => Vec::new(),
    }
}

struct Hasher {
    /// Base offsets of the segments, ascending; by now all but the first `at` lie ahead.
    bases: Vec<Offset>,
    at: usize,
    hash: Sha256,
    end: Offset,
    any: bool,
    out: Vec<Line>,
    scratch: Scratch,
    limits: Limits,
}

impl Hasher {
    fn new(bases: Vec<Offset>, limits: Limits) -> Hasher {
        Hasher {
            bases,
            at: 0,
            hash: Sha256::new(),
            end: Offset::ZERO,
            any: false,
            out: Vec::new(),
            scratch: Scratch::new(),
            limits,
        }
    }

    fn batch(&mut self, batch: &Batch<'_>) {
        let header = batch.header();
        while self
            .bases
            .get(self.at + 1)
            .is_some_and(|b| *b <= header.base_offset)
        {
            self.close();
            self.at += 1;
        }
        self.hash.update(batch.bytes());
        (self.end, self.any) = (header.last_offset.next(), true);
    }

    fn close(&mut self) {
        let hash = self.hash.finalize_reset().into();
        if self.any {
            let segment = self.bases.get(self.at).copied();
            let end = self.end;
            self.out.push(Line { segment, end, hash });
        }
        self.any = false;
    }

    fn records(&mut self, batch: &Batch<'_>, wanted: &Range<Offset>) -> Result<()> {
        let header = batch.header();
        if header.is_control() {
            return Ok(());
        }
        let bad = |d: crate::format::Defect| Error::data(d.reason).at_offset(header.base_offset.0);
        for record in batch
            .records(&mut self.scratch, &self.limits)
            .map_err(bad)?
        {
            let record = record.map_err(bad)?;
            if !wanted.contains(&record.offset) {
                continue;
            }
            let h = &mut self.hash;
            h.update(record.offset.0.to_be_bytes());
            h.update(record.timestamp.0.to_be_bytes());
            field(h, record.key);
            field(h, record.value);
            h.update(
                i32::try_from(record.headers.len())
                    .unwrap_or(i32::MAX)
                    .to_be_bytes(),
            );
            for (name, value) in record.headers.iter() {
                field(h, Some(name));
                field(h, value);
            }
            self.end = record.offset.next();
        }
        Ok(())
    }

    fn finish(mut self, over: Over) -> Vec<Line> {
        if over == Over::Records {
            let (hash, end) = (self.hash.finalize().into(), self.end);
            return vec![Line {
                segment: None,
                end,
                hash,
            }];
        }
        self.close();
        self.out
    }
}

fn field(hash: &mut Sha256, bytes: Option<&[u8]>) {
    let len = bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX));
    hash.update(len.to_be_bytes());
    hash.update(bytes.unwrap_or_default());
}
