//! Where a limit lets a log begin.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::batch::{BatchHeader, Scratch};
use crate::format::{Limits, Offset};
use crate::log::listing::SegmentRef;
use crate::log::view::View;
use crate::segment::scan::{HeaderWalk, Scan, Scanner, Span, Walk};
use crate::sys::File;

/// One segment of the log as of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The segment.
    pub segment: SegmentRef,
    /// Base offset of the next one; the log end for the active one.
    pub end: Offset,
    /// Bytes of its log.
    pub bytes: u64,
    /// When it was last changed.
    pub mtime_ms: i64,
}

/// A place that a log may begin at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// This many segments lie wholly before it.
    pub segment: usize,
    /// It falls into the next one.
    pub is_inside: bool,
    /// The first offset to keep, where it is known to the record.
    pub offset: Option<Offset>,
}

impl Edge {
    /// Between two segments.
    pub fn before(segment: usize) -> Edge {
        Edge {
            segment,
            is_inside: false,
            offset: None,
        }
    }

    fn inside(segment: usize, offset: Option<Offset>) -> Edge {
        Edge {
            segment,
            is_inside: true,
            offset,
        }
    }

    fn key(&self) -> (usize, bool, Option<Offset>) {
        (self.segment, self.is_inside, self.offset)
    }

    /// The later of the two.
    pub fn max(self, other: Edge) -> Edge {
        if other.key() > self.key() {
            other
        } else {
            self
        }
    }

    /// The earlier of the two.
    pub fn min(self, other: Edge) -> Edge {
        // An edge that is inside somewhere unknown is not after one that is known.
        let unknown = self.is_inside && self.offset.is_none() && self.segment == other.segment;
        if other.key() < self.key() && !unknown {
            other
        } else {
            self
        }
    }
}

/// The segments of a view, each with its end.
pub fn stretches(view: &View, limits: &Limits) -> Result<Vec<Stretch>> {
    let segments = view.segments();
    let mut out = Vec::with_capacity(segments.len());
    for (i, segment) in segments.iter().enumerate() {
        let end = match segments.get(i + 1) {
            Some(next) => next.base(),
            None => view.end(*limits)?,
        };
        let place = view.path_of(segment);
        let fail = |e| Error::io("cannot stat", e).at_path(&place);
        let meta = view.log().dir().stat(&segment.log_name()).map_err(fail)?;
        let Some(meta) = meta else {
            return Err(Error::not_found("the segment is gone").at_path(&place));
        };
        out.push(Stretch {
            segment: *segment,
            end,
            bytes: meta.len,
            mtime_ms: meta.mtime_ms,
        });
    }
    Ok(out)
}

/// The edge at an offset. With `cut` it may fall into a segment.
pub fn at_offset(stretches: &[Stretch], at: Offset, cut: bool) -> Edge {
    let segment = stretches.iter().take_while(|s| s.end <= at).count();
    // The end of an empty active segment is its base.
    match stretches.get(segment) {
        Some(s) if cut && s.segment.base() < at => Edge::inside(segment, Some(at)),
        _ => Edge::before(segment),
    }
}

/// Keeps the newest segments that hold `bytes` together.
pub fn by_bytes(view: &View, stretches: &[Stretch], bytes: u64, exact: bool) -> Result<Edge> {
    let mut left = bytes;
    for (i, s) in stretches.iter().enumerate().rev() {
        if s.bytes <= left {
            left -= s.bytes;
            continue;
        }
        if left == 0 {
            return Ok(Edge::before(i + 1));
        }
        let over = s.bytes - left;
        let offset = match exact {
            true => first_at_byte(view, s, over)?,
            false => None,
        };
        return Ok(match offset {
            // Not even the last batch fits.
            Some(offset) if offset >= s.end => Edge::before(i + 1),
            offset => Edge::inside(i, offset),
        });
    }
    Ok(Edge::before(0))
}

/// Base offset of the first batch that stands at byte `at` or behind.
fn first_at_byte(view: &View, s: &Stretch, at: u64) -> Result<Option<Offset>> {
    let mut walk = walk(view, s)?;
    let mut last = s.segment.base();
    while let Walk::Header(header, position) = walk.next().map_err(place(view, s))? {
        if position.0 >= at {
            return Ok(Some(last));
        }
        last = header.last_offset.next();
    }
    Ok(Some(s.end))
}

/// Keeps the newest `records` records; control records do not count.
pub fn by_records(view: &View, stretches: &[Stretch], records: u64, exact: bool) -> Result<Edge> {
    let mut left = records;
    for (i, s) in stretches.iter().enumerate().rev() {
        if left == 0 {
            return Ok(Edge::before(i + 1));
        }
        let count = count(view, s)?;
        if count <= left {
            left -= count;
            continue;
        }
        let offset = match exact {
            true => Some(nth_record(view, s, count - left)?),
            false => None,
        };
        return Ok(Edge::inside(i, offset));
    }
    Ok(Edge::before(0))
}

/// Records of a segment, by its headers; wrappers of magic 0 and 1 are opened.
fn count(view: &View, s: &Stretch) -> Result<u64> {
    let mut walk = walk(view, s)?;
    let mut count = 0;
    while let Walk::Header(header, _) = walk.next().map_err(place(view, s))? {
        match u64::try_from(header.count) {
            Ok(n) if is_data(&header) => count += n,
            Ok(_) => {}
            Err(_) => return count_all(view, s),
        }
    }
    Ok(count)
}

fn count_all(view: &View, s: &Stretch) -> Result<u64> {
    let mut count = 0;
    each_record(view, s, |_| {
        count += 1;
        true
    })?;
    Ok(count)
}

/// Offset of the record that `n` others come before.
fn nth_record(view: &View, s: &Stretch, n: u64) -> Result<Offset> {
    let (mut left, mut found) = (n, s.end);
    each_record(view, s, |offset| {
        found = offset;
        let more = left > 0;
        left = left.saturating_sub(1);
        more
    })?;
    Ok(found)
}

/// Calls `each` with the offset of every data record, until it says that it has enough.
fn each_record(view: &View, s: &Stretch, mut each: impl FnMut(Offset) -> bool) -> Result<()> {
    let file = view.log().open_file(&s.segment.log_name())?;
    let mut scanner = Scanner::new(
        file,
        Span::whole(s.segment.base(), s.bytes),
        Limits::default(),
    );
    let mut scratch = Scratch::new();
    while let Scan::Batch(batch, position) = scanner.next().map_err(place(view, s))? {
        if !is_data(batch.header()) {
            continue;
        }
        let bad = |d: crate::format::Defect| {
            let at = position.0 + d.at as u64;
            place(view, s)(Error::data(d.reason).at_position(at))
        };
        for record in batch
            .records(&mut scratch, &Limits::default())
            .map_err(bad)?
        {
            if !each(record.map_err(bad)?.offset) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn is_data(header: &BatchHeader) -> bool {
    !header.is_control()
}

/// A walk over the headers of a segment.
pub fn walk(view: &View, s: &Stretch) -> Result<HeaderWalk> {
    let file: Arc<dyn File> = view.log().open_file(&s.segment.log_name())?;
    let span = Span::whole(s.segment.base(), s.bytes);
    Ok(HeaderWalk::new(file, span, Limits::default()))
}

/// Names the segment in an error.
pub fn place<'a>(view: &'a View, s: &'a Stretch) -> impl Fn(Error) -> Error + 'a {
    |e| e.at_path(view.path_of(&s.segment))
}
