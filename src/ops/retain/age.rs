//! How old segments are.
//!
//! The newest record of a sealed segment is what the last entry of its time index says, if that is
//! borne out: the batch that holds the entry's offset has exactly its timestamp as the largest, and
//! none behind it has a larger one. What lies before it the index vouches for; a cut index only
//! makes the walk behind it longer. An entry that is not borne out costs a walk over all headers.
//!
//! A timestamp from the future, and a segment without any, count as the time its file was last
//! changed: the one would keep a segment for ever, the other would not keep it at all.

use super::edge::{Edge, Stretch, place, walk};
use crate::error::{Error, Result};
use crate::format::batch::Scratch;
use crate::format::index::{Entry, TimeEntry};
use crate::format::names::Kind;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::view::View;
use crate::segment::lookup::seek_offset;
use crate::segment::scan::{HeaderWalk, Scan, Scanner, Span, Walk};

/// A segment of so many bytes is walked as fast as its indexes are read.
const SMALL_BYTES: u64 = 64 << 10;
/// Clocks of several machines differ; what is further ahead is worth a word.
const FUTURE_MS: i64 = 3_600_000;

/// The clock that segments are compared with.
pub struct Ages<'a> {
    view: &'a View,
    now: TimestampMs,
    cutoff: TimestampMs,
}

impl<'a> Ages<'a> {
    /// Ages as of `now`; what is before `cutoff` is old.
    pub fn new(view: &'a View, now: TimestampMs, cutoff: TimestampMs) -> Ages<'a> {
        Ages { view, now, cutoff }
    }

    /// The edge before the first record that is not old. Timestamps far from the future are noted.
    pub fn edge(
        &self,
        stretches: &[Stretch],
        exact: bool,
        future: &mut Vec<(Offset, TimestampMs)>,
    ) -> Result<Edge> {
        for (i, s) in stretches.iter().enumerate() {
            let is_active = i + 1 == stretches.len();
            let newest = self.newest(s, is_active)?;
            if let Some(t) = newest.filter(|t| t.0 > self.now.0.saturating_add(FUTURE_MS)) {
                future.push((s.segment.base(), t));
            }
            if s.bytes > 0 && self.settled(newest, s) >= self.cutoff {
                return self.inside(i, s, exact);
            }
        }
        // An active segment without a batch is never old.
        let empty = stretches.last().is_some_and(|s| s.bytes == 0);
        Ok(Edge::before(
            stretches.len().saturating_sub(usize::from(empty)),
        ))
    }

    /// Whether nothing in a segment is younger than the cutoff.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub fn is_old(&self, s: &Stretch, is_active: bool) -> Result<bool> {
        let newest = self.newest(s, is_active)?;
        Ok(s.bytes == 0 || self.settled(newest, s) < self.cutoff)
    }

    /// A timestamp as an age is counted from it.
    fn settled(&self, timestamp: Option<TimestampMs>, s: &Stretch) -> TimestampMs {
        let believed = timestamp.filter(|t| *t <= self.now && *t >= TimestampMs(0));
        believed.unwrap_or(TimestampMs(s.mtime_ms))
    }

    /// The edge in a segment that has something to keep: inside if its first batch is old.
    fn inside(&self, i: usize, s: &Stretch, exact: bool) -> Result<Edge> {
        let mut walk = walk(self.view, s)?;
        let Walk::Header(first, _) = walk.next().map_err(place(self.view, s))? else {
            return Ok(Edge::before(i));
        };
        let is_old = self.settled(Some(first.max_timestamp), s) < self.cutoff;
        if !exact {
            return Ok(Edge {
                segment: i,
                is_inside: is_old,
                offset: None,
            });
        }
        let offset = self.first_kept(s)?;
        Ok(Edge {
            segment: i,
            is_inside: offset > s.segment.base() && offset > first.base_offset,
            offset: Some(offset),
        })
    }

    /// Offset of the first record that is not old.
    fn first_kept(&self, s: &Stretch) -> Result<Offset> {
        let file = self.view.log().open_file(&s.segment.log_name())?;
        let span = Span::whole(s.segment.base(), s.bytes);
        let mut scanner = Scanner::new(file, span, Limits::default());
        let mut scratch = Scratch::new();
        while let Scan::Batch(batch, position) = scanner.next().map_err(place(self.view, s))? {
            let header = batch.header();
            // A wrapper's own time may be that of any of its messages.
            if header.magic >= 2 && self.settled(Some(header.max_timestamp), s) < self.cutoff {
                continue;
            }
            let bad = |d: crate::format::Defect| {
                let at = position.0 + d.at as u64;
                place(self.view, s)(Error::data(d.reason).at_position(at))
            };
            for record in batch
                .records(&mut scratch, &Limits::default())
                .map_err(bad)?
            {
                let record = record.map_err(bad)?;
                if self.settled(Some(record.timestamp), s) >= self.cutoff {
                    return Ok(record.offset);
                }
            }
        }
        Ok(s.end)
    }

    /// The largest timestamp in a segment; `None` where there is none, or damage hides it.
    fn newest(&self, s: &Stretch, is_active: bool) -> Result<Option<TimestampMs>> {
        if !is_active
            && s.bytes > SMALL_BYTES
            && let Some(newest) = self.indexed(s)?
        {
            return Ok(Some(newest));
        }
        largest(&mut walk(self.view, s)?).map_err(place(self.view, s))
    }

    /// What the time index says, borne out.
    fn indexed(&self, s: &Stretch) -> Result<Option<TimestampMs>> {
        let Some(times) = self.view.index(&s.segment, Kind::TimeIndex)? else {
            return Ok(None);
        };
        let mut bytes = [0; TimeEntry::BYTES];
        let len = times.len().map_err(|e| Error::io("cannot stat", e))?;
        let at = len.checked_sub(TimeEntry::BYTES as u64);
        let Some(at) = at.filter(|_| len % TimeEntry::BYTES as u64 == 0) else {
            return Ok(None);
        };
        let read = times.read_full_at(&mut bytes, at);
        read.map_err(|e| place(self.view, s)(Error::io("cannot read", e)))?;
        let Some(entry) = TimeEntry::decode(&bytes).ok().filter(|e| !e.is_blank()) else {
            return Ok(None);
        };
        self.borne_out(s, &entry).map_err(place(self.view, s))
    }

    fn borne_out(&self, s: &Stretch, entry: &TimeEntry) -> Result<Option<TimestampMs>> {
        let offset = entry.offset(s.segment.base());
        let file = self.view.log().open_file(&s.segment.log_name())?;
        let span = Span::whole(s.segment.base(), s.bytes);
        let mut scanner = Scanner::short(file, span, Limits::default());
        let offsets = self.view.index(&s.segment, Kind::OffsetIndex)?;
        seek_offset(&mut scanner, offsets.as_deref(), offset)?;
        let mut walk = scanner.walk();
        loop {
            match walk.next()? {
                Walk::Header(h, _) if h.last_offset < offset => {}
                Walk::Header(h, _) if h.base_offset > offset => return Ok(None),
                Walk::Header(h, _) if h.max_timestamp == entry.timestamp => break,
                _ => return Ok(None),
            }
        }
        let behind = largest(&mut walk)?;
        Ok(behind
            .map(|t| t.max(entry.timestamp))
            .or(Some(entry.timestamp)))
    }
}

/// The largest timestamp from here on. Damage ends the walk: what is behind it is not known to be old.
fn largest(walk: &mut HeaderWalk) -> Result<Option<TimestampMs>> {
    let mut largest = None;
    loop {
        match walk.next()? {
            Walk::Header(h, _) => largest = largest.max(Some(h.max_timestamp)),
            Walk::End(_) => return Ok(largest),
            Walk::Bad(_) => return Ok(None),
        }
    }
}
