//! A partition directory as a source: chunks of whole batches, read from the file into the frame.
//!
//! Invariants:
//!
//! * What is sent is durable here and lies below the first open transaction. The log is synced first,
//!   through its sync queue where we may write there, else segment by segment through descriptors for
//!   reading.
//! * Only headers are looked at, to see where batches begin; whether a batch is sound is found out by
//!   who receives it. A frame that does not fit, or an offset that falls, is damage here.
//! * A segment that was replaced or removed while it is read is read to its end: older, never wrong.
//!   The next one is looked for by offset.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ends::{Chunk, Reach, Read, Records, SourceLog};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::crc32c::Crc32c;
use crate::format::frame::{Frame, HEADER_UP_TO_MAGIC, frame};
use crate::format::names::Kind;
use crate::format::wire::{
    BATCH_HEAD_BYTES, BatchId, Changed, RAW_BYTES_MAX, RecordId, RedactionId, SourceInfo,
};
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::log::replica::FencedBy;
use crate::log::rewritten::{Reason, Rewritten};
use crate::log::state::read_state_file;
use crate::log::sync::Syncer;
use crate::log::view::{View, scanner_at};
use crate::log::{compare, epoch, files, id, isolation, promote, redactions, replica, rewritten};
use crate::segment::scan::{Scanner, Span, Step, Walk};
use crate::sys::{Access, Dir, File, Host, Lock, Wait};

/// Records of one message: 1 MiB of them.
const RECORDS_MAX: usize = (1 << 20) / 16;
/// Largest settings file that is sent along.
const CONFIG_BYTES_MAX: usize = 1 << 20;
/// How often the next segment is looked for anew because it vanished.
const RELISTS_MAX: usize = 64;

/// How long a receiver of this very log is waited for.
const TAKEN_WAIT: Duration = Duration::from_secs(1);

/// A partition that is sent.
pub struct LogSource {
    host: Arc<dyn Host>,
    limits: Limits,
    view: View,
    own: Option<Arc<dyn Dir>>,
    syncs: Syncs,
    /// Finds the end, each batch looked at once.
    end: Option<(SegmentRef, Scanner)>,
    at: Option<At>,
    /// Smallest offset of what is read next.
    next: Offset,
    /// Of a batch larger than a frame: bytes in all, and read so far.
    part: Option<(usize, usize)>,
    /// Who the copy is, for the mark of a fence.
    peer: String,
}

/// The segment that is read.
struct At {
    segment: SegmentRef,
    file: Arc<dyn File>,
    position: u64,
    /// There is a successor, so nothing more comes.
    sealed: bool,
}

/// How the log is made durable before it is sent.
enum Syncs {
    /// Not at all.
    Never,
    /// With everybody else's.
    Queue(Syncer),
    /// Through descriptors for reading: which segments, to what length, and whether nothing came after.
    Files(BTreeMap<Offset, (u64, bool)>),
}

impl LogSource {
    /// Opens the partition at `path` for reading; with `sync` what is sent is durable first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(
        host: &Arc<dyn Host>,
        path: &Path,
        sync: bool,
        peer: &str,
        limits: Limits,
    ) -> Result<LogSource> {
        let log = LogDir::open(host.as_ref(), path)?;
        let own = match log.dir().open_dir(files::LOGD_DIR) {
            Ok(own) => Some(own),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("cannot open .logd", e).at_path(path)),
        };
        let queue = own.as_ref().and_then(|own| {
            let (dir, own) = (Arc::clone(log.dir()), Arc::clone(own));
            Syncer::open(Arc::clone(host), dir, own).ok()
        });
        let syncs = match (sync, queue) {
            (false, _) => Syncs::Never,
            (true, Some(queue)) => Syncs::Queue(queue),
            (true, None) => Syncs::Files(BTreeMap::new()),
        };
        Ok(LogSource {
            host: Arc::clone(host),
            limits,
            view: View::of(log)?,
            own,
            syncs,
            end: None,
            at: None,
            next: Offset::ZERO,
            part: None,
            peer: peer.to_string(),
        })
    }

    /// The log as of the last look.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Bytes of the segments from `offset` on, for showing how much there is to do.
    pub fn bytes_from(&self, offset: Offset) -> u64 {
        let segments = self.view.segments();
        let first = segments.partition_point(|s| s.base() <= offset);
        let wanted = segments.get(first.saturating_sub(1)..).unwrap_or_default();
        let size = |s: &SegmentRef| {
            let meta = self.view.log().dir().stat(&s.log_name()).ok().flatten();
            meta.map_or(0, |m| m.len)
        };
        wanted.iter().map(size).sum()
    }

    fn path(&self) -> &Path {
        self.view.log().dir().path()
    }

    /// Log end offset: behind the last valid batch.
    fn log_end(&mut self) -> Result<Offset> {
        let Some(tail) = self.view.tail().cloned() else {
            return Ok(self.view.start());
        };
        if self.end.as_ref().is_none_or(|(s, _)| *s != tail.segment) {
            let span = Span::whole(tail.segment.base(), tail.end.0);
            let mut scanner = Scanner::new(Arc::clone(&tail.file), span, self.limits);
            let index = self.view.index(&tail.segment, Kind::OffsetIndex)?;
            crate::segment::lookup::seek_last(&mut scanner, index.as_deref())
                .map_err(|e| e.at_path(self.view.path_of(&tail.segment)))?;
            self.end = Some((tail.segment, scanner));
        }
        let Some((_, scanner)) = &mut self.end else {
            return Ok(self.view.start());
        };
        if tail.end < scanner.position() {
            self.end = None; // it was cut: from the start again
            return self.log_end();
        }
        scanner.extend(tail.end);
        loop {
            match scanner.step() {
                Ok(Step::Batch(_)) => {}
                Ok(_) => return Ok(scanner.next_offset().max(self.view.start())),
                Err(e) => return Err(e.at_path(self.view.path_of(&tail.segment))),
            }
        }
    }

    /// Makes the log durable up to `end`, as far as it can be; how far it is.
    fn sync_to(&mut self, end: Offset) -> Result<Offset> {
        match &mut self.syncs {
            Syncs::Never => Ok(end),
            Syncs::Queue(queue) => Ok(queue.sync_to(end)?.min(end)),
            Syncs::Files(synced) => {
                let log = self.view.log();
                let failed = |e| Error::io("cannot sync", e).at_path(log.dir().path());
                let mut new = false;
                for segment in self.view.segments() {
                    let tail = self.view.tail().filter(|t| t.segment == *segment);
                    let sealed = tail.is_none();
                    let before = synced.get(&segment.base()).copied();
                    let file = match tail {
                        Some(tail) => Arc::clone(&tail.file),
                        // One that was active when it was synced may have grown before it was sealed.
                        None if matches!(before, Some((_, true))) => continue,
                        None => match log.open_optional(&segment.log_name())? {
                            Some(file) => file,
                            None => continue,
                        },
                    };
                    let len = end_of(&*file)?.0;
                    if before.is_none_or(|(synced, _)| synced != len) {
                        file.sync().map_err(failed)?;
                    }
                    synced.insert(segment.base(), (len, sealed));
                    new |= before.is_none();
                }
                if new {
                    log.dir().sync().map_err(failed)?;
                }
                Ok(end)
            }
        }
    }

    fn damaged(&self, at: &At, why: String, offset: Offset, position: u64) -> Error {
        Error::data(why)
            .at_path(self.view.path_of(&at.segment))
            .at_offset(offset.0)
            .at_position(position)
            .hint(format!("logd verify {}", self.path().display()))
    }

    /// Opens the segment in which to go on at the next offset; false if there is none yet, `Gone` if
    /// the log begins above it.
    fn open_next(&mut self) -> Result<Option<Read>> {
        for _ in 0..RELISTS_MAX {
            let (next, left) = (self.next, self.at.as_ref().map(|a| a.segment.base()));
            let start = self.view.start();
            if start > next {
                return Ok(Some(Read::Gone(start)));
            }
            let segments = self.view.segments();
            let holds = segments.iter().rfind(|s| s.base() <= next).copied();
            let behind = |base: Offset| segments.iter().find(|s| s.base() > base).copied();
            let found = match (holds, left) {
                // Read to its end already: it is the one behind it, across a gap. Unless it was
                // replaced meanwhile by one that holds more.
                (Some(s), Some(left)) if s.base() == left && self.is_same_file(&s)? => behind(left),
                (Some(s), _) => Some(s),
                (None, _) => segments.first().copied(),
            };
            let Some(segment) = found else {
                return Ok(Some(Read::End));
            };
            match self.open_at(&segment, next) {
                Err(e) if e.kind() == ErrorKind::NotFound => self.view.relist()?,
                Err(e) => return Err(e),
                Ok(()) => return Ok(None),
            }
        }
        let why = "segments vanish faster than they can be read";
        Err(Error::data(why).at_path(self.path()))
    }

    /// Whether the segment of that name is still the file that is open.
    fn is_same_file(&self, segment: &SegmentRef) -> Result<bool> {
        let Some(at) = &self.at else {
            return Ok(false);
        };
        let failed = |e| Error::io("cannot stat", e).at_path(self.view.path_of(segment));
        let there = self.view.log().dir().id_of(&segment.log_name());
        let there = there.map_err(failed)?;
        Ok(there == Some(at.file.id().map_err(failed)?))
    }

    /// A sealed segment was read to its end. There must be nothing left of it.
    fn check_end(&self) -> Result<()> {
        let Some(at) = &self.at else {
            return Ok(());
        };
        let mut rest = [0; HEADER_UP_TO_MAGIC];
        let read = at.file.read_full_at(&mut rest, at.position);
        let n = read.map_err(|e| Error::io("cannot read", e).at_path(self.path()))?;
        let rest = rest.get(..n).unwrap_or_default();
        match frame(rest, &self.limits) {
            Frame::Zero => Ok(()),
            _ if rest.iter().all(|b| *b == 0) => Ok(()),
            _ => Err(self.damaged(at, "a batch is cut short".into(), self.next, at.position)),
        }
    }

    /// Stands at the first batch of a segment that ends at `next` or above.
    fn open_at(&mut self, segment: &SegmentRef, next: Offset) -> Result<()> {
        let tail = self.view.tail().filter(|t| t.segment == *segment);
        let file = match tail {
            Some(tail) => Arc::clone(&tail.file),
            None => self.view.log().open_file(&segment.log_name())?,
        };
        let place = |e: Error| e.at_path(self.view.path_of(segment));
        file.advise_sequential();
        let end = end_of(&*file).map_err(place)?;
        let span = Span::whole(segment.base(), end.0);
        let mut scanner = Scanner::short(Arc::clone(&file), span, self.limits);
        scanner_at(&self.view, &mut scanner, segment, next).map_err(place)?;
        let mut position = scanner.position().0;
        if next > segment.base() {
            let mut walk = scanner.walk();
            while let Walk::Header(h, at) = walk.next().map_err(place)? {
                position = at.0;
                if h.last_offset >= next {
                    break;
                }
                position += h.size as u64;
            }
        }
        self.at = Some(At {
            segment: *segment,
            file,
            position,
            sealed: false,
        });
        Ok(())
    }

    /// Reads on where a batch larger than a frame was left.
    fn read_part(&mut self, buf: &mut [u8], size: usize, done: usize) -> Result<Read> {
        let Some(at) = &mut self.at else {
            return Ok(Read::End);
        };
        let n = buf.len().min(RAW_BYTES_MAX).min(size - done);
        let room = buf.get_mut(..n).unwrap_or_default();
        let path = self.view.path_of(&at.segment);
        let failed = |e| Error::io("cannot read", e).at_path(&path);
        at.file
            .read_exact_at(room, at.position + done as u64)
            .map_err(failed)?;
        let header = |bytes: &[u8]| {
            let parsed = BatchHeader::parse(bytes);
            parsed.map_err(|d| Error::data(d.reason).at_path(&path))
        };
        let mut heads = Crc32c::default();
        if done == 0 {
            heads.update(room.get(..BATCH_HEAD_BYTES).unwrap_or_default());
        }
        let part = done + n < size;
        let mut newest = TimestampMs(-1);
        if part {
            self.part = Some((size, done + n));
        } else {
            let mut first = [0; 61];
            at.file
                .read_exact_at(&mut first, at.position)
                .map_err(failed)?;
            let header = header(&first)?;
            (self.next, newest) = (header.last_offset.next(), header.max_timestamp);
            at.position += size as u64;
            self.part = None;
        }
        Ok(Read::Chunk(Chunk {
            bytes: n,
            segment: at.segment.base(),
            heads_crc: heads.value(),
            part,
            next: self.next,
            newest,
        }))
    }

    /// A batch larger than the buffer: all of it, once there is room, or its first part. `None` while
    /// the file does not hold it.
    fn read_large(&mut self, buf: &mut [u8], size: usize, position: u64) -> Result<Option<Read>> {
        let len = self.at.as_ref().map(|at| end_of(&*at.file)).transpose()?;
        if len.is_none_or(|len| len.0 < position + size as u64) {
            return Ok(None);
        }
        match buf.len() >= RAW_BYTES_MAX {
            true => self.read_part(buf, size, 0).map(Some),
            false => Ok(Some(Read::Larger(size))),
        }
    }

    /// Whole batches from where it stands; `None` where the segment has no more.
    fn read_here(&mut self, buf: &mut [u8], upto: Offset) -> Result<Option<Read>> {
        let Some(at) = &self.at else {
            return Ok(None);
        };
        let path = self.view.path_of(&at.segment);
        let read = at.file.read_full_at(buf, at.position);
        let filled = read.map_err(|e| Error::io("cannot read", e).at_path(&path))?;
        let bytes = buf.get(..filled).unwrap_or_default();
        let (mut taken, mut next, mut newest) = (0, self.next, TimestampMs(-1));
        let mut heads = Crc32c::default();
        while let Some(rest) = bytes.get(taken..).filter(|r| r.len() >= HEADER_UP_TO_MAGIC) {
            if next >= upto {
                break; // what follows is not durable, and may be anything
            }
            let position = at.position + taken as u64;
            let size = match frame(rest, &self.limits) {
                Frame::Entry(size) => size,
                Frame::NeedMore(size) if taken == 0 && size > buf.len() => {
                    let header = BatchHeader::parse(rest).ok();
                    if header.is_some_and(|h| h.base_offset >= upto) {
                        return Ok(Some(Read::End));
                    }
                    return self.read_large(buf, size, position);
                }
                Frame::NeedMore(_) | Frame::Zero => break,
                Frame::Bad(d) => {
                    return Err(self.damaged(at, d.reason, next, position + d.at as u64));
                }
            };
            let header = BatchHeader::parse(rest);
            let header = header.map_err(|d| self.damaged(at, d.reason, next, position))?;
            if header.base_offset >= upto {
                if taken == 0 {
                    return Ok(Some(Read::End));
                }
                break;
            }
            if header.last_offset < next || header.last_offset < header.base_offset {
                let (first, last) = (header.base_offset, header.last_offset);
                let why =
                    format!("a batch of offsets {first} to {last} where {next} or more must be");
                return Err(self.damaged(at, why, next, position));
            }
            heads.update(rest.get(..BATCH_HEAD_BYTES).unwrap_or_default());
            (taken, next) = (taken + size, header.last_offset.next());
            newest = newest.max(header.max_timestamp);
        }
        if taken == 0 {
            return Ok(None);
        }
        let chunk = Chunk {
            bytes: taken,
            segment: at.segment.base(),
            heads_crc: heads.value(),
            part: false,
            next,
            newest,
        };
        self.next = next;
        if let Some(at) = &mut self.at {
            at.position += taken as u64;
        }
        Ok(Some(Read::Chunk(chunk)))
    }
}

impl SourceLog for LogSource {
    fn info(&mut self) -> Result<SourceInfo> {
        let reach = self.reach()?;
        let dir = self.view.log().dir();
        let own = self.own.as_deref();
        let mut info = SourceInfo {
            id: id::read(dir.as_ref(), own)?.unwrap_or_default(),
            start: reach.start,
            end: reach.sendable,
            epochs: reach.epochs,
            ..SourceInfo::default()
        };
        if let Some(own) = own {
            let config = read_state_file(own, files::CONFIG, CONFIG_BYTES_MAX);
            let config = config.map_err(|e| Error::io("cannot read", e).at_path(dir.path()))?;
            info.config = config.unwrap_or_default();
            info.changed = changed_of(&rewritten::read(own)?);
            info.redactions = redactions_of(own)?;
        }
        Ok(info)
    }

    fn reach(&mut self) -> Result<Reach> {
        self.view.renew()?;
        let end = self.log_end()?;
        let durable = self.sync_to(end)?;
        let open = isolation::open_before(&self.view, durable, &self.limits)?;
        let open = open.iter().map(|o| o.offset).min();
        Ok(Reach {
            start: self.view.start(),
            end,
            sendable: open.map_or(durable, |o| o.min(durable)),
            epochs: epoch::read(self.view.log().dir().as_ref())?,
        })
    }

    fn seek(&mut self, offset: Offset, within: bool) -> Result<Offset> {
        self.next = offset;
        self.part = None;
        self.at = None;
        loop {
            match self.open_next()? {
                Some(Read::Gone(start)) => {
                    self.next = start;
                    continue;
                }
                Some(_) => return Ok(offset), // nothing there yet
                None => {}
            }
            let Some(at) = &mut self.at else {
                return Ok(offset);
            };
            let mut header = [0; 61];
            let read = at.file.read_full_at(&mut header, at.position);
            let n = read.map_err(|e| Error::io("cannot read", e).at_path(self.path()))?;
            let header = header.get(..n).unwrap_or_default();
            let found = match frame(header, &self.limits) {
                Frame::Entry(_) | Frame::NeedMore(_) if n > HEADER_UP_TO_MAGIC => {
                    BatchHeader::parse(header).ok()
                }
                _ => None,
            };
            match found {
                Some(h) if h.base_offset >= offset || within => {
                    self.next = h.base_offset;
                    return Ok(h.base_offset);
                }
                Some(h) => {
                    self.next = h.last_offset.next();
                    if let Some(at) = &mut self.at {
                        at.position += h.size as u64;
                    }
                    return Ok(self.next);
                }
                // Nothing behind the offset in this segment: what is behind the segment?
                None => {
                    let base = self.at.as_ref().map(|a| a.segment.base());
                    let is_last = |s: &SegmentRef| Some(s.base()) <= base;
                    if self.view.segments().last().is_none_or(is_last) {
                        return Ok(offset);
                    }
                }
            }
        }
    }

    fn read(&mut self, buf: &mut [u8], upto: Offset) -> Result<Read> {
        if let Some((size, done)) = self.part {
            return self.read_part(buf, size, done);
        }
        if self.next >= upto {
            return Ok(Read::End);
        }
        loop {
            if let Some(read) = self.read_here(buf, upto)? {
                return Ok(read);
            }
            // The segment has no more; is there one behind it? If so, this one is looked at once more,
            // since it may have grown before it was sealed.
            if let Some(at) = &mut self.at
                && !at.sealed
            {
                let base = at.segment.base();
                let behind = |v: &View| v.segments().iter().any(|s| s.base() > base);
                if !behind(&self.view) {
                    self.view.relist()?;
                }
                if !behind(&self.view) {
                    return Ok(Read::End);
                }
                at.sealed = true;
                continue;
            }
            match self.at.is_none() {
                true => self.view.relist()?,
                false => self.check_end()?,
            }
            if let Some(read) = self.open_next()? {
                return Ok(read);
            }
        }
    }

    fn digest(&mut self, offsets: Range<Offset>) -> Result<(u64, u64)> {
        let d = compare::digest(&mut self.view, offsets, &self.limits)?;
        Ok((d.batches, d.hash))
    }

    fn batch(&mut self, at: Offset) -> Result<Option<BatchId>> {
        let found = compare::batch_at(&mut self.view, at, &self.limits)?;
        Ok(found.map(|b| batch_id(&b)))
    }

    fn records(&mut self, offsets: Range<Offset>) -> Result<Records> {
        records_in(&mut self.view, offsets, &self.limits)
    }

    fn prove(&mut self, offset: Offset) -> Result<()> {
        // Reading records checks the batch.
        compare::records(
            &mut self.view,
            offset..offset.next(),
            &self.limits,
            &mut |_| ControlFlow::Break(()),
        )
    }

    fn fence(&mut self, epoch: i32) -> Result<()> {
        let successor = self.peer.clone();
        let by = FencedBy { epoch, successor };
        promote::fence(self.host.as_ref(), self.path(), &by)
    }

    fn is_taken(&mut self) -> Result<bool> {
        let Some(own) = self.own.as_deref() else {
            return Ok(false);
        };
        if replica::is_marked(own, files::REPLICA)? {
            return Ok(false); // a copy may be received into and sent on at once
        }
        let failed = |e| Error::io("cannot look at the receiver lock", e).at_path(own.path());
        let lock = match own.open(files::RECEIVER_LOCK, Access::Read) {
            Ok(lock) => lock,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        let wait = Wait::Until(Instant::now() + TAKEN_WAIT); // one that is promoted is free soon
        let free = lock.lock(Lock::Shared, wait).map_err(failed)?;
        if free {
            lock.unlock().map_err(failed)?;
        }
        Ok(!free)
    }
}

/// A batch's identity as it travels.
pub fn batch_id(b: &compare::BatchId) -> BatchId {
    BatchId {
        base: b.base,
        last: b.last,
        size: b.size,
        crc: b.crc,
    }
}

/// The records of a range, at most as many as are worth a message, and how far they reach.
///
/// # Errors
/// The log cannot be read, or is damaged there.
pub fn records_in(view: &mut View, offsets: Range<Offset>, limits: &Limits) -> Result<Records> {
    let (mut all, mut upto) = (Vec::new(), offsets.end);
    compare::records(view, offsets, limits, &mut |r| {
        if all.len() >= RECORDS_MAX {
            upto = r.offset;
            return ControlFlow::Break(());
        }
        all.push(RecordId {
            offset: r.offset,
            hash: r.hash,
        });
        ControlFlow::Continue(())
    })?;
    Ok((all, upto))
}

/// Rewritten ranges as they travel.
pub fn changed_of(all: &[Rewritten]) -> Vec<Changed> {
    let kind = |r: Reason| match r {
        Reason::Compact => 0,
        Reason::Redact => 1,
        Reason::Repair => 2,
        Reason::Retain => 3,
        Reason::Gap => 4,
    };
    let one = |r: &Rewritten| Changed {
        kind: kind(r.reason),
        offsets: r.offsets.clone(),
    };
    all.iter().map(one).collect()
}

fn redactions_of(own: &dyn Dir) -> Result<Vec<RedactionId>> {
    let all = redactions::read(own)?;
    Ok(all
        .into_iter()
        .map(|r| RedactionId {
            id: r.id,
            finished: r.finished_ms.is_some(),
        })
        .collect())
}
