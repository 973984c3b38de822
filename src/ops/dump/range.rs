//! What a RANGE means in a partition that may be damaged: by the batch headers that can be reached.
//!
//! No index, checkpoint or end file is asked, since dump is for looking at logs in which those are
//! wrong. Where headers end early, so does what is counted from the end: then more is shown, not less.

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::names;
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::ops::words::{self, Pos};
use crate::segment::scan::{HeaderWalk, Span, Walk};
use crate::sys::{Access, Dir, File};
use std::ops::Range;
use std::sync::Arc;

/// The logs of a partition, by name and in order.
pub(super) struct Logs<'a> {
    pub dir: &'a dyn Dir,
    pub names: Vec<&'a str>,
    pub limits: &'a Limits,
}

impl Logs<'_> {
    /// The offsets that `range` means here.
    ///
    /// # Errors
    /// Usage, for a group's position; a file cannot be read.
    pub fn resolve(&self, range: &words::Range) -> Result<Range<Offset>> {
        let from = range.from.map(|pos| self.offset(pos)).transpose()?;
        let to = range.to.map(|pos| self.offset(pos)).transpose()?;
        Ok(from.unwrap_or(Offset::ZERO)..to.unwrap_or(Offset::MAX))
    }

    fn offset(&self, pos: Pos) -> Result<Offset> {
        match pos {
            Pos::Offset(n) => Ok(Offset(n)),
            Pos::Earliest(n) => Ok(self.earliest()? + n),
            Pos::Latest(n) => Ok(self.end()? + n.saturating_neg()),
            Pos::Time(t) => self.at_time(t),
            Pos::Current(_) => Err(Error::usage(
                "current: a position in a group, only in groups",
            )),
        }
    }

    fn earliest(&self) -> Result<Offset> {
        for name in &self.names {
            if let Some((_, mut walk)) = self.open(name)?
                && let Walk::Header(header, _) = walk.next()?
            {
                return Ok(header.base_offset);
            }
        }
        self.end()
    }

    /// Behind the last batch; of a log without any, the last base offset.
    fn end(&self) -> Result<Offset> {
        for name in self.names.iter().rev() {
            let Some((_, mut walk)) = self.open(name)? else {
                continue;
            };
            let mut end = None;
            while let Walk::Header(header, _) = walk.next()? {
                end = Some(header.last_offset.next());
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
        let last = self.names.last().and_then(|n| names::parse(n));
        Ok(last.map_or(Offset::ZERO, |n| n.base))
    }

    /// The first record at or after `time`; the end if there is none.
    fn at_time(&self, time: TimestampMs) -> Result<Offset> {
        for name in &self.names {
            let Some((file, mut walk)) = self.open(name)? else {
                continue;
            };
            while let Walk::Header(header, position) = walk.next()? {
                if header.max_timestamp >= time {
                    return self.record_at_time(&*file, &header, position, time);
                }
            }
        }
        self.end()
    }

    fn record_at_time(
        &self,
        file: &dyn File,
        header: &BatchHeader,
        position: Position,
        time: TimestampMs,
    ) -> Result<Offset> {
        let mut bytes = vec![0; header.size];
        let read = file.read_full_at(&mut bytes, position.0);
        read.map_err(|e| Error::io("cannot read", e).at_position(position.0))?;
        let mut scratch = Scratch::new();
        let found = Batch::trusted(&bytes).and_then(|batch| {
            let mut records = batch.records(&mut scratch, self.limits)?;
            Ok(records.find_map(|r| r.ok().filter(|r| r.timestamp >= time).map(|r| r.offset)))
        });
        // A batch that cannot be read is shown whole.
        Ok(found.ok().flatten().unwrap_or(header.base_offset))
    }

    /// A log and a walk over its headers; `None` if it is gone.
    fn open(&self, name: &str) -> Result<Option<(Arc<dyn File>, HeaderWalk)>> {
        let Ok(file) = self.dir.open(name, Access::Read) else {
            return Ok(None);
        };
        let file: Arc<dyn File> = Arc::from(file);
        let len = file.len().map_err(|e| Error::io("cannot read", e))?;
        let base = names::parse(name).map_or(Offset::ZERO, |n| n.base);
        let span = Span::whole(base, len);
        let walk = HeaderWalk::new(file.clone(), span, *self.limits);
        Ok(Some((file, walk)))
    }
}
