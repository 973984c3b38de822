//! Whether two logs hold the same batches, and where they part: the same questions for a source and
//! for its copy.
//!
//! * A batch is known by its base offset, last offset, size and stored checksum ([`BatchId`]): the
//!   checksum covers all of it but those.
//! * Many batches are known by a digest of their identities ([`digest`]): one pass over headers. Two
//!   logs that differ are searched by halves for the first batch that does ([`Bisection`]).
//! * Where either side compacted or redacted, batches differ though nothing parted; there the records
//!   that both still have are compared ([`records`], [`first_difference`]).
//!
//! A batch belongs to the range that holds its base offset (of a compressed batch of magic 0 or 1,
//! whose first offset its header does not tell: its last). Memory is one window and what is returned.

use std::hash::Hasher;
use std::ops::{ControlFlow, Range};

use twox_hash::XxHash64;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{BatchHeader, Scratch};
use crate::format::names::Kind;
use crate::format::record::Record;
use crate::format::{Limits, Offset, Position};
use crate::log::listing::{SegmentRef, end_of};
use crate::log::view::View;
use crate::segment::lookup::seek_offset;
use crate::segment::scan::{Bad, Scanner, Span, Step, Tail, Walk};

/// How often a walk begins anew because a segment was replaced under it.
const RELISTS_MAX: usize = 64;

/// What tells a batch from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchId {
    /// First offset.
    pub base: Offset,
    /// Last offset.
    pub last: Offset,
    /// Size in bytes.
    pub size: u32,
    /// Checksum as stored.
    pub crc: u32,
}

impl BatchId {
    /// That of the batch with this header.
    pub fn of(header: &BatchHeader) -> BatchId {
        BatchId {
            base: header.base_offset,
            last: header.last_offset,
            size: u32::try_from(header.size).unwrap_or(u32::MAX),
            crc: header.crc,
        }
    }
}

/// What is in a range of offsets, batch by batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many batches.
    pub batches: u64,
    /// XXH64 of their identities: base offset, size (8 bytes each), leader epoch, checksum (4 bytes
    /// each) and magic (1 byte), big-endian, one after the other.
    pub hash: u64,
}

/// A record, by what compaction and redaction leave as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// Its offset.
    pub offset: Offset,
    /// XXH64 of timestamp, key, value and headers: each length (-1 for null, 4 bytes) and its bytes.
    pub hash: u64,
}

/// The batch that holds `offset`, or the first one behind it.
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn batch_at(view: &mut View, offset: Offset, limits: &Limits) -> Result<Option<BatchId>> {
    let mut found = None;
    each_header(view, offset, limits, &mut |h| {
        found = Some(BatchId::of(h));
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// The last `count` batches, oldest first.
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn last_batches(view: &mut View, count: usize, limits: &Limits) -> Result<Vec<BatchId>> {
    let end = view.end(*limits)?;
    let mut reach = 1;
    loop {
        let from = (end + -reach).max(Offset::ZERO);
        let mut ring = std::collections::VecDeque::with_capacity(count + 1);
        each_header(view, from, limits, &mut |h| {
            ring.push_back(BatchId::of(h));
            if ring.len() > count {
                ring.pop_front();
            }
            ControlFlow::Continue(())
        })?;
        if ring.len() >= count || from <= view.start().min(first_base(view)) {
            return Ok(ring.into());
        }
        reach = reach.saturating_mul(16);
    }
}

fn first_base(view: &View) -> Offset {
    view.segments()
        .first()
        .map_or(Offset::ZERO, SegmentRef::base)
}

/// What is in a range of offsets.
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn digest(view: &mut View, range: Range<Offset>, limits: &Limits) -> Result<Digest> {
    let (mut hash, mut batches) = (XxHash64::with_seed(0), 0);
    each_header(view, range.start, limits, &mut |h| {
        if h.base_offset >= range.end {
            return ControlFlow::Break(());
        }
        if h.base_offset >= range.start {
            feed(&mut hash, h);
            batches += 1;
        }
        ControlFlow::Continue(())
    })?;
    let hash = hash.finish();
    Ok(Digest { batches, hash })
}

fn feed(hash: &mut XxHash64, h: &BatchHeader) {
    let mut bytes = [0; 25];
    let fields: [&[u8]; 5] = [
        &h.base_offset.0.to_be_bytes(),
        &(h.size as u64).to_be_bytes(),
        &h.leader_epoch.to_be_bytes(),
        &h.crc.to_be_bytes(),
        &[h.magic],
    ];
    let mut at = 0;
    for field in fields {
        if let Some(place) = bytes.get_mut(at..at + field.len()) {
            place.copy_from_slice(field);
        }
        at += field.len();
    }
    hash.write(&bytes);
}

/// Hands `each` the records with offsets in `range`, in order, those of control batches too, until it
/// breaks.
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn records(
    view: &mut View,
    range: Range<Offset>,
    limits: &Limits,
    each: &mut dyn FnMut(RecordId) -> ControlFlow<()>,
) -> Result<()> {
    let mut next = range.start;
    retrying(view, |view| {
        let mut scratch = Scratch::new();
        each_scanner(view, next, limits, &mut |view, segment, scanner| {
            loop {
                match scanner.step()? {
                    Step::Batch(_) => {}
                    Step::End(end) => return ended(view, segment, end.tail, scanner),
                    Step::Bad(bad) => return Err(damaged(view, segment, &bad, scanner)),
                }
                let (Some(batch), at) = (scanner.batch(), scanner.found_at()) else {
                    return Ok(ControlFlow::Continue(()));
                };
                let (first, last) = (batch.header().base_offset, batch.header().last_offset);
                if first >= range.end && batch.header().magic >= 2 {
                    return Ok(ControlFlow::Break(()));
                }
                if last < next {
                    continue;
                }
                let place = |d: crate::format::Defect| {
                    let at = at.unwrap_or_default() + d.at as u64;
                    let error = Error::data(d.reason).at_offset(first.0).at_position(at.0);
                    error.at_path(view.path_of(segment))
                };
                for record in batch.records(&mut scratch, limits).map_err(place)? {
                    let record = record.map_err(place)?;
                    if record.offset >= range.end {
                        return Ok(ControlFlow::Break(()));
                    }
                    if record.offset >= next && each(identify(&record)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                next = last.next();
            }
        })
    })
}

fn identify(record: &Record<'_>) -> RecordId {
    let mut hash = XxHash64::with_seed(0);
    hash.write(&record.timestamp.0.to_be_bytes());
    let mut field = |bytes: Option<&[u8]>| {
        let len = bytes.map_or(-1, |b| i32::try_from(b.len()).unwrap_or(i32::MAX));
        hash.write(&len.to_be_bytes());
        hash.write(bytes.unwrap_or_default());
    };
    field(record.key);
    field(record.value);
    for (name, value) in record.headers.iter() {
        field(Some(name));
        field(value);
    }
    RecordId {
        offset: record.offset,
        hash: hash.finish(),
    }
}

/// The first offset at which both have a record, and not the same. Both are in order.
pub fn first_difference(a: &[RecordId], b: &[RecordId]) -> Option<Offset> {
    let mut b = b.iter().peekable();
    a.iter().find_map(|mine| {
        while b.next_if(|other| other.offset < mine.offset).is_some() {}
        let other = b.peek().filter(|other| other.offset == mine.offset)?;
        (other.hash != mine.hash).then_some(mine.offset)
    })
}

/// Searches a range in which two logs differ for the first batch that does, by halves.
///
/// It asks for the digest of a range and is told whether both sides gave the same.
#[derive(Clone, Debug)]
pub struct Bisection {
    /// Below its start all is equal; in it something is not.
    left: Range<Offset>,
}

impl Bisection {
    /// A search in `range`, whose digests were found to differ.
    pub fn new(range: Range<Offset>) -> Bisection {
        Bisection { left: range }
    }

    /// The range whose digests are to be compared next; `None` when the place is found.
    pub fn ask(&self) -> Option<Range<Offset>> {
        let half = (self.left.end - self.left.start) / 2;
        (half > 0).then(|| self.left.start..self.left.start + half)
    }

    /// The digests of what was asked for are equal, or not.
    pub fn answer(&mut self, equal: bool) {
        if let Some(asked) = self.ask() {
            match equal {
                true => self.left.start = asked.end,
                false => self.left.end = asked.end,
            }
        }
    }

    /// Where the logs part: the base offset of a batch that one of them has and the other has not.
    /// Final once [`Bisection::ask`] asks for nothing more.
    pub fn offset(&self) -> Offset {
        self.left.start
    }
}

/// Hands `each` the header of every batch from the one that holds `from` on.
fn each_header(
    view: &mut View,
    from: Offset,
    limits: &Limits,
    each: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
) -> Result<()> {
    let mut next = from;
    retrying(view, |view| {
        each_scanner(view, next, limits, &mut |view, segment, scanner| {
            let mut walk = scanner.walk();
            loop {
                match walk.next().map_err(|e| e.at_path(view.path_of(segment)))? {
                    Walk::Header(h, _) if h.last_offset < next => {}
                    Walk::Header(h, _) => {
                        next = h.last_offset.next();
                        if each(&h).is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    Walk::End(end) => return ended(view, segment, end.tail, scanner),
                    Walk::Bad(bad) => return Err(damaged(view, segment, &bad, scanner)),
                }
            }
        })
    })
}

type Each<'e> = dyn FnMut(&View, &SegmentRef, &mut Scanner) -> Result<ControlFlow<()>> + 'e;

/// Hands `each` a scanner on every segment from the one that holds `from` on, in the first at or
/// before its batch.
fn each_scanner(view: &View, from: Offset, limits: &Limits, each: &mut Each<'_>) -> Result<()> {
    let tail = view.tail();
    let mut sealed = view.sealed_at(from);
    while let Some(segment) = sealed {
        let file = view.log().open_file(&segment.log_name())?;
        let end = end_of(&*file).map_err(|e| e.at_path(view.path_of(&segment)))?;
        let flow = on_segment(view, &segment, file, end, from, limits, each)?;
        if flow.is_break() {
            return Ok(());
        }
        sealed = view.sealed_after(segment.base());
    }
    if let Some(t) = tail {
        let file = std::sync::Arc::clone(&t.file);
        on_segment(view, &t.segment, file, t.end, from, limits, each)?.is_break();
    }
    Ok(())
}

fn on_segment(
    view: &View,
    segment: &SegmentRef,
    file: std::sync::Arc<dyn crate::sys::File>,
    end: Position,
    from: Offset,
    limits: &Limits,
    each: &mut Each<'_>,
) -> Result<ControlFlow<()>> {
    let mut scanner = Scanner::short(file, Span::whole(segment.base(), end.0), *limits);
    if from > segment.base() {
        let index = view.index(segment, Kind::OffsetIndex)?;
        seek_offset(&mut scanner, index.as_deref(), from)?;
    }
    each(view, segment, &mut scanner)
}

/// Begins anew, at the next offset, when a segment was replaced.
fn retrying(view: &mut View, mut work: impl FnMut(&View) -> Result<()>) -> Result<()> {
    for _ in 0..RELISTS_MAX {
        match work(view) {
            Err(e) if e.kind() == ErrorKind::NotFound => view.relist()?,
            other => return other,
        }
    }
    let why = "segments vanish faster than they can be read";
    Err(Error::data(why).at_path(view.log().dir().path()))
}

/// The batches of a segment end: that is damage where more should be.
fn ended(
    view: &View,
    segment: &SegmentRef,
    tail: Tail,
    scanner: &Scanner,
) -> Result<ControlFlow<()>> {
    let is_tail = view.tail().is_some_and(|t| t.segment == *segment);
    match tail {
        Tail::Partial if !is_tail => {
            let error = Error::data("batch runs past the end of the file");
            Err(error
                .at_path(view.path_of(segment))
                .at_offset(scanner.next_offset().0))
        }
        _ => Ok(ControlFlow::Continue(())),
    }
}

fn damaged(view: &View, segment: &SegmentRef, bad: &Bad, scanner: &Scanner) -> Error {
    Error::data(bad.defect.reason.clone())
        .at_path(view.path_of(segment))
        .at_offset(scanner.next_offset().0)
        .at_position(bad.position.0.saturating_add(bad.defect.at as u64))
}
