//! The entries of one `.log` file, front to back.
//!
//! Owns framing and checking while reading: [`Scanner`] yields whole batches whose checksum holds and
//! whose offsets fit, [`HeaderWalk`] yields headers without reading what is behind them, and
//! [`resync`] finds the next batch that proves itself behind damage. All three read a span of
//! positions, from one entry's start up to a bound that the caller took from the file's length.
//!
//! Invariants:
//!
//! * Nothing is read beyond the bound, and an entry that crosses it is never yielded.
//! * Memory is one window. It grows past [`READ_BYTES`] only for a batch that lies wholly below the
//!   bound, so a length field alone never sizes an allocation. Windows that were lent to others
//!   ([`Scanner::lend`]) are used again when they come back.
//! * A scan that ended, or found a bad entry, stands at that entry's position and may be asked again,
//!   with fresh bytes, once the file has grown or was cut ([`Scanner::extend`]).
//!
//! What an end or a bad entry means (not yet written, torn, damaged) depends on what is known of the
//! segment and is left to the caller, as is naming the file in an error.

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader};
use crate::format::frame::{
    BATCH_HEADER_BYTES, Frame, HEADER_UP_TO_MAGIC, frame, read_i32, read_i64,
};
use crate::format::{Defect, Limits, Offset, Position};
use crate::sys::File;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of one read in a long scan: larger ones are not faster, and mapping the file is slower.
pub const READ_BYTES: usize = 1 << 20;
/// Bytes of the first read: most scans end within it, and a fresh window costs a page fault each 4 KiB.
const READ_BYTES_FIRST: usize = 64 << 10;
/// Bytes of one read of a scanner that goes back and forth: what it reads again stays small.
pub const READ_BYTES_SHORT: usize = READ_BYTES_FIRST;
/// Bytes of one read of a header walk: many headers where batches are small, cheap where they are not.
const WALK_BYTES: usize = 8 << 10;
/// Bytes of a magic 0 entry without key and value, the smallest entry there is.
const ENTRY_BYTES_MIN: usize = 26;

/// What [`Scanner::next`] found.
#[derive(Debug)]
pub enum Scan<'a> {
    /// A whole batch; the scanner stands behind it.
    Batch(Batch<'a>, Position),
    /// No further entry; the scanner stands at the end.
    End(End),
    /// Bytes that are no valid batch; the scanner stands before them.
    Bad(Bad),
}

/// What [`Scanner::step`] found.
#[derive(Debug)]
pub enum Step {
    /// A whole batch here; the scanner stands behind it.
    Batch(Position),
    /// No further entry; the scanner stands at the end.
    End(End),
    /// Bytes that are no valid batch; the scanner stands before them.
    Bad(Bad),
}

/// What [`HeaderWalk::next`] found.
#[derive(Debug)]
pub enum Walk {
    /// The header of an entry that lies wholly below the bound. Its checksum was not looked at.
    Header(BatchHeader, Position),
    /// No further entry.
    End(End),
    /// Bytes that are no entry.
    Bad(Bad),
}

/// Where the entries end, and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Behind the last whole entry.
    pub position: Position,
    /// What follows.
    pub tail: Tail,
}

impl End {
    fn partial(position: Position) -> End {
        let tail = Tail::Partial;
        End { position, tail }
    }
}

/// What stands where an entry could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing: the bound.
    Clean,
    /// A length of 0: preallocated, or zeros left by a crash. What comes after was not looked at
    /// ([`is_zero`]).
    Zeros,
    /// The first bytes of an entry that runs past the bound.
    Partial,
}

/// An entry that is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Where it begins.
    pub position: Position,
    /// Why, counted in bytes from there.
    pub defect: Defect,
}

/// The stretch of a segment that is to be scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Base offset in the segment's name; no batch lies 2^31 offsets or more above it.
    pub base: Offset,
    /// Smallest offset that the first batch may begin at.
    pub next: Offset,
    /// Where the first entry begins.
    pub from: Position,
    /// Exclusive bound, at most the file's length.
    pub end: Position,
}

impl Span {
    /// A whole segment of `len` bytes.
    pub fn whole(base: Offset, len: u64) -> Span {
        Span {
            base,
            next: base,
            from: Position(0),
            end: Position(len),
        }
    }
}

/// A batch in memory that outlives the step which found it.
#[derive(Clone, Debug)]
pub struct Lent {
    /// The window. Batches of one window share it; it is used again when all have given it back.
    pub window: Arc<Vec<u8>>,
    /// Where in it the batch lies.
    pub place: Range<usize>,
}

/// Walks the batches of a span, checking each.
pub struct Scanner {
    file: Arc<dyn File>,
    window: Window,
    span: Span,
    limits: Limits,
    /// The batch that the last step found, while the window holds it.
    last: Option<(BatchHeader, Position)>,
}

impl Scanner {
    /// A scanner over `span` of `file`. Nothing is read yet.
    pub fn new(file: Arc<dyn File>, span: Span, limits: Limits) -> Scanner {
        let window = Window::new(READ_BYTES_FIRST, READ_BYTES);
        Scanner {
            file,
            window,
            span,
            limits,
            last: None,
        }
    }

    /// A scanner that reads [`READ_BYTES_SHORT`] at a time: for going back and forth.
    pub fn short(file: Arc<dyn File>, span: Span, limits: Limits) -> Scanner {
        let window = Window::new(READ_BYTES_SHORT, READ_BYTES_SHORT);
        Scanner {
            window,
            ..Scanner::new(file, span, limits)
        }
    }

    /// Goes on in another file, keeping the window's memory.
    pub fn reopen(&mut self, file: Arc<dyn File>, span: Span) {
        self.file = file;
        self.span = span;
        self.last = None;
        self.window.filled = 0;
    }

    /// Sets the bound and makes the next call read afresh what is not yet yielded.
    pub fn extend(&mut self, end: Position) {
        self.span.end = end;
        self.window.forget(self.span.from.0);
    }

    /// Goes on at another entry's start; the batch there must begin at `next` or above.
    pub fn seek(&mut self, from: Position, next: Offset) {
        self.span.from = from;
        self.span.next = next;
    }

    /// A walk over the headers from here on.
    pub fn walk(&self) -> HeaderWalk {
        HeaderWalk::new(Arc::clone(&self.file), self.span, self.limits)
    }

    /// Where the next entry begins.
    pub fn position(&self) -> Position {
        self.span.from
    }

    /// Smallest offset the next batch may begin at: behind the last batch yielded.
    pub fn next_offset(&self) -> Offset {
        self.span.next
    }

    /// Base offset of the segment.
    pub fn base(&self) -> Offset {
        self.span.base
    }

    /// The bound.
    pub fn end(&self) -> Position {
        self.span.end
    }

    /// The file.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// The next batch, the end, or what is wrong.
    ///
    /// # Errors
    /// The file cannot be read.
    #[allow(clippy::should_implement_trait)] // it lends from the window
    pub fn next(&mut self) -> Result<Scan<'_>> {
        Ok(match self.step()? {
            Step::Batch(position) => match self.batch() {
                Some(batch) => Scan::Batch(batch, position),
                None => Scan::End(End::partial(position)),
            },
            Step::End(end) => Scan::End(end),
            Step::Bad(bad) => Scan::Bad(bad),
        })
    }

    /// As [`Scanner::next`] without lending: the batch is had from [`Scanner::batch`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn step(&mut self) -> Result<Step> {
        let position = self.span.from;
        self.last = None;
        let size = match locate(&mut self.window, &*self.file, &self.span, &self.limits)? {
            Place::Entry(size) => size,
            Place::End(tail) => return Ok(Step::End(End { position, tail })),
            Place::Bad(defect) => return Ok(Step::Bad(Bad { position, defect })),
        };
        let bytes = self
            .window
            .read(&*self.file, position.0, size, self.span.end.0)?;
        let Some(bytes) = bytes.get(..size) else {
            return Ok(Step::End(End::partial(position))); // the file was cut below the bound
        };
        let checked = Batch::check(bytes).and_then(|batch| {
            check_order(batch.header(), &self.span)?;
            Ok(batch.header().clone())
        });
        match checked {
            Ok(header) => {
                self.span.from = position + size as u64;
                self.span.next = header.last_offset.next();
                self.last = Some((header, position));
                Ok(Step::Batch(position))
            }
            Err(defect) => Ok(Step::Bad(Bad { position, defect })),
        }
    }

    /// Header of the batch that the last step found.
    pub fn header(&self) -> Option<&BatchHeader> {
        self.last.as_ref().map(|(header, _)| header)
    }

    /// Where the batch that the last step found begins.
    pub fn found_at(&self) -> Option<Position> {
        self.last.as_ref().map(|(_, position)| *position)
    }

    /// The batch that the last step found, in memory that outlives the next step.
    pub fn lend(&self) -> Option<Lent> {
        let (header, position) = self.last.as_ref()?;
        Some(Lent {
            place: self.window.place(position.0, header.size)?,
            window: Arc::clone(&self.window.buf),
        })
    }

    /// The batch that the last step found.
    pub fn batch(&self) -> Option<Batch<'_>> {
        let (header, position) = self.last.as_ref()?;
        let bytes = self.window.held(position.0, header.size)?;
        Some(Batch::checked(header.clone(), bytes))
    }
}

/// Walks the headers of a span without reading bodies or checking checksums: for finding one's way,
/// never for delivering.
pub struct HeaderWalk {
    file: Arc<dyn File>,
    window: Window,
    span: Span,
    limits: Limits,
}

impl HeaderWalk {
    /// A walk over `span` of `file`. Nothing is read yet.
    pub fn new(file: Arc<dyn File>, span: Span, limits: Limits) -> HeaderWalk {
        let window = Window::new(WALK_BYTES, WALK_BYTES);
        HeaderWalk {
            file,
            window,
            span,
            limits,
        }
    }

    /// Sets the bound and makes the next call read afresh what is not yet yielded.
    pub fn extend(&mut self, end: Position) {
        self.span.end = end;
        self.window.forget(self.span.from.0);
    }

    /// Where the next entry begins.
    pub fn position(&self) -> Position {
        self.span.from
    }

    /// Smallest offset the next batch may begin at: behind the last one yielded.
    pub fn next_offset(&self) -> Offset {
        self.span.next
    }

    /// The next header, the end, or what is wrong.
    ///
    /// # Errors
    /// The file cannot be read.
    #[allow(clippy::should_implement_trait)] // fallible, and may go on after an end
    pub fn next(&mut self) -> Result<Walk> {
        let position = self.span.from;
        let size = match locate(&mut self.window, &*self.file, &self.span, &self.limits)? {
            Place::Entry(size) => size,
            Place::End(tail) => return Ok(Walk::End(End { position, tail })),
            Place::Bad(defect) => return Ok(Walk::Bad(Bad { position, defect })),
        };
        let need = size.min(BATCH_HEADER_BYTES);
        let bytes = self
            .window
            .read(&*self.file, position.0, need, self.span.end.0)?;
        let checked = BatchHeader::parse(bytes).and_then(|header| {
            check_order(&header, &self.span)?;
            Ok(header)
        });
        match checked {
            Ok(header) => {
                self.span.from = position + size as u64;
                self.span.next = header.last_offset.next();
                Ok(Walk::Header(header, position))
            }
            Err(defect) => Ok(Walk::Bad(Bad { position, defect })),
        }
    }

    /// The bytes of the entry at `position`, for an entry small enough to be worth it (a marker);
    /// `None` if it is larger than `size_max`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn entry(
        &mut self,
        header: &BatchHeader,
        position: Position,
        size_max: usize,
    ) -> Result<Option<&[u8]>> {
        if header.size > size_max {
            return Ok(None);
        }
        let bytes = self
            .window
            .read(&*self.file, position.0, header.size, self.span.end.0)?;
        Ok(bytes.get(..header.size))
    }
}

enum Place {
    Entry(usize),
    End(Tail),
    Bad(Defect),
}

/// Frames the entry at the start of `span`.
#[inline]
fn locate(window: &mut Window, file: &dyn File, span: &Span, limits: &Limits) -> Result<Place> {
    let left = span.end - span.from;
    let bytes = window.read(file, span.from.0, HEADER_UP_TO_MAGIC, span.end.0)?;
    if bytes.is_empty() {
        return Ok(Place::End(Tail::Clean));
    }
    Ok(match frame(bytes, limits) {
        Frame::Zero => Place::End(Tail::Zeros),
        Frame::Entry(size) | Frame::NeedMore(size) if size as u64 <= left => Place::Entry(size),
        Frame::Entry(_) | Frame::NeedMore(_) => {
            match bytes.len() < HEADER_UP_TO_MAGIC && bytes.iter().all(|b| *b == 0) {
                true => Place::End(Tail::Zeros),
                false => Place::End(Tail::Partial),
            }
        }
        Frame::Bad(defect) => Place::Bad(defect),
    })
}

/// Checks that a batch's offsets follow what came before and fit the segment.
fn check_order(header: &BatchHeader, span: &Span) -> std::result::Result<(), Defect> {
    let (first, last) = (header.base_offset, header.last_offset);
    if first < span.next {
        let why = format!("base offset {first} where {} or more must be", span.next);
        return Err(Defect::new(0, why));
    }
    if last < first || last == Offset::MAX {
        let why = format!("last offset {last} of a batch from {first}");
        return Err(Defect::new(0, why));
    }
    if last - span.base > i64::from(i32::MAX) {
        let why = format!(
            "offset {last} is 2^31 or more above the segment's base {}",
            span.base
        );
        return Err(Defect::new(0, why));
    }
    Ok(())
}

/// The part of a file that is in memory.
struct Window {
    /// Shared while it is lent; then it is left as it is, and another takes its place.
    buf: Arc<Vec<u8>>,
    /// Windows that were lent.
    lent: Vec<Arc<Vec<u8>>>,
    /// Position of `buf[0]` in the file.
    start: u64,
    /// Bytes of `buf` that hold the file's.
    filled: usize,
    /// Bytes of the next read; it grows from read to read.
    read_bytes: usize,
    read_bytes_max: usize,
}

impl Window {
    fn new(read_bytes: usize, read_bytes_max: usize) -> Window {
        Window {
            buf: Arc::default(),
            lent: Vec::new(),
            start: 0,
            filled: 0,
            read_bytes,
            read_bytes_max,
        }
    }

    /// Drops what it holds of position `from` and behind.
    fn forget(&mut self, from: u64) {
        let keep = from.saturating_sub(self.start);
        self.filled = self.filled.min(usize::try_from(keep).unwrap_or(usize::MAX));
    }

    /// The bytes from `pos` on: `need` or more, or fewer if the file or the bound ends before.
    #[inline]
    fn read(&mut self, file: &dyn File, pos: u64, need: usize, end: u64) -> Result<&[u8]> {
        let at = usize::try_from(pos.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        if self.filled.checked_sub(at).is_some_and(|have| have >= need) {
            return Ok(self.buf.get(at..self.filled).unwrap_or_default());
        }
        self.fill(file, pos, need, end)?;
        Ok(self.buf.get(..self.filled).unwrap_or_default())
    }

    /// The `size` bytes from `pos` on, if all are in memory.
    fn held(&self, pos: u64, size: usize) -> Option<&[u8]> {
        self.buf.get(self.place(pos, size)?)
    }

    /// Where in the buffer they are.
    fn place(&self, pos: u64, size: usize) -> Option<Range<usize>> {
        let at = usize::try_from(pos.checked_sub(self.start)?).ok()?;
        let end = at.checked_add(size)?;
        (end <= self.filled).then_some(at..end)
    }

    /// The buffer, `len` bytes or more, what it held from `kept` on moved to its start. One that is
    /// lent is left alone.
    fn room(&mut self, kept: Range<usize>, len: usize) -> &mut [u8] {
        if Arc::get_mut(&mut self.buf).is_none() {
            let back = self.lent.iter().position(|b| Arc::strong_count(b) == 1);
            let mut fresh = back.map(|i| self.lent.swap_remove(i)).unwrap_or_default();
            let bytes = self.buf.get(kept.clone()).unwrap_or_default();
            if let Some(fresh) = Arc::get_mut(&mut fresh) {
                fresh.resize(fresh.len().max(len).max(bytes.len()), 0);
                fresh
                    .iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
            }
            self.lent.push(std::mem::replace(&mut self.buf, fresh));
        } else if let Some(buf) = Arc::get_mut(&mut self.buf) {
            buf.copy_within(kept, 0);
        }
        let Some(buf) = Arc::get_mut(&mut self.buf) else {
            return &mut []; // nobody else has it
        };
        if buf.len() < len {
            buf.resize(len, 0);
        }
        buf
    }

    /// Moves the window to `pos` and reads on until it holds `need` bytes.
    fn fill(&mut self, file: &dyn File, pos: u64, need: usize, end: u64) -> Result<()> {
        let at = usize::try_from(pos.wrapping_sub(self.start)).unwrap_or(usize::MAX);
        let kept = at.min(self.filled)..self.filled;
        self.filled = kept.len();
        self.start = pos;
        let left = usize::try_from(end.saturating_sub(pos)).unwrap_or(usize::MAX);
        let need = need.min(left);
        let want = need.max(self.read_bytes).min(left);
        self.read_bytes = (self.read_bytes * 2).min(self.read_bytes_max);
        let mut filled = self.filled;
        let buf = self.room(kept, want);
        let read = loop {
            if filled >= need {
                break Ok(());
            }
            let free = buf.get_mut(filled..want).unwrap_or_default();
            match file.read_at(free, pos + filled as u64) {
                Ok(0) => break Ok(()),
                Ok(n) => filled += n,
                Err(e) => break Err(Error::io("cannot read", e).at_position(pos)),
            }
        };
        self.filled = filled;
        read
    }
}

/// Whether `file` holds only zeros from `from` up to `end` (or its end, if that comes first). Holes are
/// passed over unread.
///
/// # Errors
/// The file cannot be read.
pub fn is_zero(file: &dyn File, from: Position, end: Position) -> Result<bool> {
    let mut window = Window::new(READ_BYTES_FIRST, READ_BYTES_FIRST);
    let mut pos = from.0;
    while let Some(data) = next_data(file, pos)?.filter(|p| *p < end.0) {
        pos = data;
        let bytes = window.read(file, pos, 1, end.0)?;
        if bytes.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        if bytes.is_empty() {
            break;
        }
        pos += bytes.len() as u64;
    }
    Ok(true)
}

fn next_data(file: &dyn File, pos: u64) -> Result<Option<u64>> {
    let data = file.next_data(pos);
    data.map_err(|e| Error::io("cannot read", e).at_position(pos))
}

/// What [`resync`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resync {
    /// A valid batch, with its base offset.
    Found(Position, Offset),
    /// There is none.
    None,
    /// So many bytes pretend to be batches that looking at each would take too long; from this
    /// position on nothing is known.
    GaveUp(Position),
}

/// Finds the next position, from `span.from` on, at which a valid batch stands whose base offset is
/// `span.next` or more: a plausible header first, then the checksum.
///
/// Work is bounded by a few times the span, whatever the bytes: a file may be made of headers that
/// each announce a large batch.
///
/// # Errors
/// The file cannot be read.
pub fn resync(file: &dyn File, span: &Span, limits: &Limits) -> Result<Resync> {
    let mut budget = (span.end - span.from).saturating_mul(4) + READ_BYTES as u64;
    resync_within(file, span, limits, &mut budget)
}

/// As [`resync`], spending at most `budget` bytes on what pretends to be a batch: for a walk that
/// searches again and again in one file.
///
/// # Errors
/// The file cannot be read.
pub fn resync_within(
    file: &dyn File,
    span: &Span,
    limits: &Limits,
    budget: &mut u64,
) -> Result<Resync> {
    let mut window = Window::new(READ_BYTES, READ_BYTES);
    let mut candidate = Vec::new();
    let mut pos = span.from.0;
    loop {
        let bytes = window.read(file, pos, BATCH_HEADER_BYTES, span.end.0)?;
        if bytes.len() < ENTRY_BYTES_MIN {
            return Ok(Resync::None);
        }
        // Near the bound a smaller entry may still fit.
        let last = match bytes.len() >= BATCH_HEADER_BYTES {
            true => bytes.len() - BATCH_HEADER_BYTES,
            false => bytes.len() - ENTRY_BYTES_MIN,
        };
        let plausible = |i: &usize| {
            let left = span.end.0 - (pos + *i as u64);
            plausible(bytes.get(*i..).unwrap_or_default(), span, left, limits)
        };
        let Some(i) = (0..=last).find(plausible) else {
            pos += last as u64 + 1;
            // Behind a hole an entry may begin with its last zeros.
            let Some(data) = next_data(file, pos)? else {
                return Ok(Resync::None);
            };
            pos = pos.max(data.saturating_sub(BATCH_HEADER_BYTES as u64));
            continue;
        };
        pos += i as u64;
        let size = match frame(bytes.get(i..).unwrap_or_default(), limits) {
            Frame::Entry(size) | Frame::NeedMore(size) => size,
            Frame::Zero | Frame::Bad(_) => 0,
        };
        let Some(rest) = budget.checked_sub(size as u64) else {
            return Ok(Resync::GaveUp(Position(pos)));
        };
        *budget = rest;
        if let Some(base) = prove(file, &mut candidate, pos, size, span)? {
            return Ok(Resync::Found(Position(pos), base));
        }
        pos += 1;
    }
}

/// Whether the fields of an entry's header could be right; `left` bytes are there for it.
#[inline]
fn plausible(bytes: &[u8], span: &Span, left: u64, limits: &Limits) -> bool {
    // The offset first: hardly any eight bytes that are not one pass.
    let offset = read_i64(bytes, 0).unwrap_or(-1);
    if offset < span.next.0 || offset - span.base.0 > i64::from(i32::MAX) {
        return false;
    }
    let size = match frame(bytes, limits) {
        Frame::Entry(size) | Frame::NeedMore(size) => size,
        Frame::Zero | Frame::Bad(_) => return false,
    };
    let magic = bytes
        .get(HEADER_UP_TO_MAGIC - 1)
        .copied()
        .unwrap_or(u8::MAX);
    let delta = if magic == 2 {
        read_i32(bytes, 23).unwrap_or(-1)
    } else {
        0
    };
    magic <= 2 && delta >= 0 && size as u64 <= left
}

/// Reads the entry and checks it; its base offset if it is a valid batch.
fn prove(
    file: &dyn File,
    buf: &mut Vec<u8>,
    pos: u64,
    size: usize,
    span: &Span,
) -> Result<Option<Offset>> {
    buf.resize(size, 0);
    let read = file.read_full_at(buf, pos);
    let n = read.map_err(|e| Error::io("cannot read", e).at_position(pos))?;
    let batch = Batch::check(buf.get(..n).unwrap_or_default());
    let valid = batch.ok().filter(|b| check_order(b.header(), span).is_ok());
    Ok(valid.map(|b| b.header().base_offset))
}

/// The offsets between the one expected and the one found next: what a damaged stretch has lost.
pub fn lost(expected: Offset, found: Offset) -> Range<Offset> {
    expected..found.max(expected)
}

#[cfg(test)]
mod tests;
