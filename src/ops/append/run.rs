//! The reading side of a run: input to records to lanes, until it ends one way or another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::accept::Gatekeeper;
use super::kept::Kept;
use super::ledger::Ledger;
use super::origin::Span;
use super::pack::{Packer, Stopped};
use super::pipeline::Pipeline;
use super::rejects::Rejects;
use super::source::{Fill, Source};
use super::unique::Window;
use super::{End, Look, SyncWhen};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Batch;
use crate::format::builder::SealedBatch;
use crate::format::record::NewRecord;
use crate::format::{Offset, TimestampMs};
use crate::ops::input::{Bad, Input, InputRecord, Step};
use crate::sys::pipe::Ready;
use crate::sys::{Host, signals};

/// Bytes asked for in one read: as much as a pipe holds at most.
const READ_BYTES: usize = 1 << 20;
/// Most bytes of input that are kept for `-T` and `--spill`: past that a sync is waited for.
const KEPT_BYTES_MAX: usize = 4 << 20;
/// Most memory for knowing where unacknowledged records came from.
const ORIGIN_BYTES_MAX: usize = 4 << 20;

/// What does not change during a run.
pub(super) struct Conditions<'r> {
    pub host: &'r Arc<dyn Host>,
    pub ledger: &'r Ledger,
    pub sync: SyncWhen,
    pub linger: Duration,
    pub keep_offsets: bool,
    pub deadline: Option<Instant>,
    pub table_header: bool,
    pub skip: u64,
}

/// The reading side of a run.
pub(super) struct Run<'r, 'l, 'scope, 'env, 'w> {
    pub with: Conditions<'r>,
    pub source: &'r mut Source,
    pub input: Input,
    pub gate: Gatekeeper,
    pub rejects: Option<&'r mut Rejects>,
    pub progress: Option<&'r mut Look<'l>>,
    pub packer: Packer,
    pub pipeline: Pipeline<'scope, 'env, 'w>,
    pub state: Reading,
}

/// Where reading stands.
#[derive(Debug, Default)]
pub(super) struct Reading {
    buf: Vec<u8>,
    /// The bytes read and not yet used are `lo..hi`.
    lo: usize,
    hi: usize,
    /// `--keep-offsets`: the least offset the next record of each lane may have.
    next_offsets: Vec<Offset>,
    /// The header row of the first table.
    header: Vec<u8>,
    /// Input bytes that are no records: header rows, rejects, records skipped or dropped.
    settled_bytes: u64,
    /// When the oldest record arrived that is held back by `--linger`.
    lingering_since: Option<Instant>,
}

/// What is left of the reading side when it is done.
pub(super) struct After {
    pub unsent: Vec<Span>,
    pub header: Vec<u8>,
    pub settled_bytes: u64,
    pub skipped: u64,
    pub repeated: u64,
    pub forgot: bool,
}

/// Why taking records stops for good.
enum Stop {
    /// The run has failed elsewhere.
    Stopped,
    /// A record is malformed; everything before it counts.
    Bad(Error),
}

impl From<Stopped> for Stop {
    fn from(_: Stopped) -> Stop {
        Stop::Stopped
    }
}

impl Run<'_, '_, '_, '_, '_> {
    /// Reads to the end of the input, or to whatever comes first. What is packed is not flushed.
    pub fn run(&mut self) -> Result<End> {
        self.state.buf = vec![0; READ_BYTES];
        self.pass_over()?;
        loop {
            if let Some(end) = self.asked_to_end() {
                return Ok(end);
            }
            let fill = self.fill()?;
            if fill == Fill::End {
                return Ok(End::Input);
            }
            let end_of_one = fill == Fill::EndOfOne;
            let ready = end_of_one || self.source.wait(Some(Duration::ZERO))? == Ready::Yes;
            self.pipeline.bulk = ready && !end_of_one;
            match self.take(end_of_one) {
                Ok(()) => {}
                Err(Stop::Stopped) => return Ok(End::Input),
                Err(Stop::Bad(e)) => return Ok(End::BadInput(e)),
            }
            self.account();
            self.look();
            match ready {
                true => self.pipeline.arm(),
                false => self.idle()?,
            }
            self.make_room();
        }
    }

    fn asked_to_end(&self) -> Option<End> {
        if let Some(signal) = signals::stop_requested() {
            return Some(End::Signal(signal));
        }
        if self.with.deadline.is_some_and(|d| Instant::now() >= d) {
            return Some(End::Timeout);
        }
        self.with.ledger.has_failed().then_some(End::Input)
    }

    /// `--skip-bytes`: begins that far into the input; a table's header row is read all the same.
    fn pass_over(&mut self) -> Result<()> {
        let skip = self.with.skip;
        if skip == 0 {
            return Ok(());
        }
        while self.with.table_header && self.state.header.is_empty() {
            let fill = self.fill()?;
            let data = self.state.buf.get(..self.state.hi).unwrap_or_default();
            match self.input.next(data, fill == Fill::EndOfOne) {
                Step::Header { used } if used as u64 <= skip => {
                    let header = data.get(..used).unwrap_or_default().to_vec();
                    self.state.header = header;
                }
                Step::Header { used } => {
                    let why = format!("--skip-bytes {skip}: the header row alone takes {used}");
                    return Err(Error::usage(why));
                }
                Step::Bad(bad) => return Err(bad.error(&self.source.name())),
                Step::NeedMore if fill != Fill::End => self.state.grow(),
                _ => return Ok(()),
            }
        }
        let read = self.state.hi as u64;
        let from_buf = skip.min(read);
        let from_buf_len = usize::try_from(from_buf).unwrap_or(0);
        self.state.buf.copy_within(from_buf_len..self.state.hi, 0);
        self.state.hi -= from_buf_len;
        self.source.skip(skip - from_buf)?;
        if !self.with.table_header {
            let start = self.source.start_of_part();
            self.input.restart(skip.saturating_sub(start));
        }
        if let Some(kept) = self.with.ledger.kept() {
            kept.restart(skip);
            kept.push(self.state.buf.get(..self.state.hi).unwrap_or_default());
        }
        self.with.ledger.consumed(skip, None);
        Ok(())
    }

    /// Reads what there is behind what is in the buffer.
    fn fill(&mut self) -> Result<Fill> {
        let state = &mut self.state;
        let room = state.buf.get_mut(state.hi..).unwrap_or_default();
        let fill = self.source.read(room)?;
        if let Fill::Bytes(n) = fill {
            if let Some(kept) = self.with.ledger.kept() {
                kept.push(room.get(..n).unwrap_or_default());
            }
            state.hi += n;
        }
        Ok(fill)
    }

    /// Packs every whole record in the buffer; at the end of an input, all that is left.
    fn take(&mut self, eof: bool) -> std::result::Result<(), Stop> {
        let now = TimestampMs(self.with.host.wall_ms());
        let base = self.source.position() - self.state.hi as u64;
        let mut buf = std::mem::take(&mut self.state.buf);
        let result = self.take_from(&buf, base, eof, now);
        buf.copy_within(self.state.lo..self.state.hi, 0);
        self.state.hi -= self.state.lo;
        self.state.lo = 0;
        self.state.buf = buf;
        if self.state.hi == self.state.buf.len() {
            self.state.grow();
        }
        if eof && result.is_ok() {
            self.input.restart(0);
        }
        result
    }

    fn take_from(
        &mut self,
        buf: &[u8],
        base: u64,
        eof: bool,
        now: TimestampMs,
    ) -> std::result::Result<(), Stop> {
        let data = buf.get(..self.state.hi).unwrap_or_default();
        let open = self.gate.is_open() && !self.with.keep_offsets;
        loop {
            let rest = data.get(self.state.lo..).unwrap_or_default();
            let start = base + self.state.lo as u64;
            let span = |used: usize| Span {
                start,
                end: start + used as u64,
            };
            let (packer, out) = (&mut self.packer, &mut self.pipeline);
            let (used, packed) = match self.input.next(rest, eof) {
                Step::Record { used, record } => {
                    let lane = match open {
                        true => Some(0),
                        false => self.gate.admit(&record, now, packer.turn()),
                    };
                    let Some(lane) = lane else {
                        self.state.settle(used);
                        continue;
                    };
                    let offset = match self.with.keep_offsets {
                        true => Some(self.state.offset(lane, &record, self.source)?),
                        false => None,
                    };
                    let timestamp = record.timestamp.map_or(now, TimestampMs);
                    let span = span(used);
                    (
                        used,
                        push(packer, lane, offset, timestamp, &record, span, out),
                    )
                }
                Step::Batch { used, bytes } => {
                    let place = start - self.source.start_of_part();
                    let keep = self.with.keep_offsets;
                    let lane = packer.turn();
                    let stored = self.state.stored(lane, bytes, keep, self.source, place)?;
                    let (sealed, base) = stored;
                    (
                        used,
                        packer.push_stored(lane, bytes, sealed, base, span(used), out),
                    )
                }
                Step::Header { used } => {
                    if self.state.header.is_empty() {
                        self.state.header = rest.get(..used).unwrap_or_default().to_vec();
                    }
                    self.state.settle(used);
                    continue;
                }
                Step::Bad(bad) => {
                    reject(self.rejects.as_deref_mut(), &self.source.name(), &bad)?;
                    if let Some(kept) = self.with.ledger.kept() {
                        kept.leave_out(span(bad.used));
                    }
                    self.state.settle(bad.used);
                    continue;
                }
                Step::NeedMore | Step::End => return Ok(()),
            };
            // Packed in any case: if the run has failed, the ledger has it among what is lost.
            self.state.lo += used;
            packed?;
        }
    }

    /// Tells the ledger how far the input was looked at.
    fn account(&self) {
        let unused = (self.state.hi - self.state.lo) as u64;
        let consumed = self.source.position() - unused;
        self.with.ledger.consumed(consumed, self.packer.start());
        self.with.ledger.settle();
    }

    /// Tells how far it is; when to tell again though nothing comes.
    fn look(&mut self) -> Option<Duration> {
        let look = self.progress.as_mut()?;
        let read = self.source.position().saturating_sub(self.with.skip);
        let records = self.with.ledger.tallies().iter().map(|t| t.records).sum();
        look(read, records)
    }

    /// Nothing more is ready: writes what there is, and waits for more.
    fn idle(&mut self) -> Result<()> {
        if !self.packer.is_empty() && !self.lingers()? {
            return Ok(());
        }
        self.state.lingering_since = None;
        if self.flush().is_err() {
            return Ok(());
        }
        loop {
            let now = Instant::now();
            let look = self.look();
            let end = self.with.deadline.map(|d| d.saturating_duration_since(now));
            let left = end.map_or(look, |end| Some(look.map_or(end, |look| look.min(end))));
            // A signal, or a background sync that failed, ends the wait too; others go on.
            if self.source.wait(left)? == Ready::Yes || self.asked_to_end().is_some() {
                return Ok(());
            }
        }
    }

    /// Waits for `--linger`. False if more has come meanwhile; true if what is there is to be written.
    fn lingers(&mut self) -> Result<bool> {
        if self.with.linger.is_zero() {
            return Ok(true);
        }
        // Unacknowledged input is never older than the duration of `--sync`.
        let since = *self.state.lingering_since.get_or_insert_with(Instant::now);
        let left = match self.with.sync {
            SyncWhen::Every(d) => d.saturating_sub(since.elapsed()).min(self.with.linger),
            _ => self.with.linger,
        };
        Ok(left.is_zero() || self.source.wait(Some(left))? != Ready::Yes)
    }

    /// Writes everything packed.
    fn flush(&mut self) -> std::result::Result<(), Stopped> {
        let now = TimestampMs(self.with.host.wall_ms());
        self.packer.flush(now, &mut self.pipeline)?;
        self.pipeline.flushed(self.with.sync);
        self.account();
        Ok(())
    }

    /// Waits for a sync if what is held for unacknowledged input has become too much.
    fn make_room(&mut self) {
        let kept = self.with.ledger.kept().map_or(0, Kept::len);
        let unread = self.state.hi - self.state.lo;
        let too_much = kept.saturating_sub(unread) > KEPT_BYTES_MAX
            || self.with.ledger.memory() > ORIGIN_BYTES_MAX;
        if !too_much || self.flush().is_err() {
            return;
        }
        self.pipeline.drain();
        self.pipeline.sync(self.with.sync);
        self.account();
    }

    /// Writes what is packed, unless the run has failed, and waits until it is written.
    pub fn finish(mut self) -> After {
        if !self.with.ledger.has_failed() {
            // An error is in the ledger.
            let _ = self.flush();
        }
        self.pipeline.drain();
        self.account();
        After {
            unsent: self.unsent(),
            header: std::mem::take(&mut self.state.header),
            settled_bytes: self.state.settled_bytes,
            skipped: self.gate.skipped,
            repeated: self.gate.repeated,
            forgot: self.gate.unique.as_ref().is_some_and(Window::forgot),
        }
    }

    /// The input spans that were read and never handed to the write stage.
    fn unsent(&self) -> Vec<Span> {
        let unused = (self.state.hi - self.state.lo) as u64;
        let end = self.source.position();
        let rest = Span {
            start: end - unused,
            end,
        };
        let packed = self.packer.unsent().flat_map(|o| o.spans());
        packed.chain((!rest.is_empty()).then_some(rest)).collect()
    }
}

impl Reading {
    /// Nothing read yet.
    pub fn new(next_offsets: Vec<Offset>) -> Reading {
        Reading {
            next_offsets,
            ..Reading::default()
        }
    }

    /// Passes over bytes of the input that are no record of this run.
    fn settle(&mut self, used: usize) {
        self.lo += used;
        self.settled_bytes += used as u64;
    }

    /// More room for a record larger than the buffer; the input's own limit bounds it.
    fn grow(&mut self) {
        if self.hi == self.buf.len() {
            self.buf.resize(self.buf.len() * 2, 0);
        }
    }

    /// `--keep-offsets`: the offset a record carries, if it lies past those before it.
    fn offset(
        &mut self,
        lane: usize,
        record: &InputRecord<'_>,
        source: &Source,
    ) -> std::result::Result<Offset, Stop> {
        let bad = |why: String| Stop::Bad(Error::data(format!("{}: {why}", source.name())));
        let Some(offset) = record.offset.map(Offset) else {
            return Err(bad(
                "a record without an offset, under --keep-offsets".into()
            ));
        };
        let next = self.next_offsets.get_mut(lane);
        match next {
            Some(next) if offset >= *next => {
                *next = offset.next();
                Ok(offset)
            }
            Some(next) => Err(bad(format!(
                "offset {offset} is not past {}, the end",
                *next
            ))),
            None => Err(Stop::Stopped),
        }
    }

    /// What is known of a batch as it is stored, if it is sound.
    fn stored(
        &mut self,
        lane: usize,
        bytes: &[u8],
        keep_offsets: bool,
        source: &Source,
        place: u64,
    ) -> std::result::Result<(SealedBatch, Option<Offset>), Stop> {
        let bad = |at: usize, why: String| {
            let (name, byte) = (source.name(), place + at as u64);
            Stop::Bad(Error::data(format!("{name}: byte {byte}: {why}")))
        };
        let batch = Batch::check(bytes).map_err(|d| bad(d.at, d.reason))?;
        let header = batch.header();
        let delta = i32::try_from(header.last_offset - header.base_offset).ok();
        let (Some(last_offset_delta), 2) = (delta.filter(|d| *d >= 0), header.magic) else {
            return Err(bad(
                0,
                format!("a batch of magic {} cannot be written", header.magic),
            ));
        };
        if keep_offsets && let Some(next) = self.next_offsets.get_mut(lane) {
            if header.base_offset < *next {
                let why = format!("offset {} is not past {next}, the end", header.base_offset);
                return Err(bad(0, why));
            }
            *next = header.last_offset.next();
        }
        let sealed = SealedBatch {
            start: 0,
            size: bytes.len(),
            count: header.count,
            last_offset_delta,
            max_timestamp: header.max_timestamp,
            has_producer: header.has_producer(),
        };
        Ok((sealed, keep_offsets.then_some(header.base_offset)))
    }
}

/// Packs a record, with the offset it must get if there is one.
#[inline]
fn push(
    packer: &mut Packer,
    lane: usize,
    offset: Option<Offset>,
    timestamp: TimestampMs,
    record: &InputRecord<'_>,
    span: Span,
    out: &mut Pipeline<'_, '_, '_>,
) -> std::result::Result<(), Stopped> {
    let headers = match record.headers.is_empty() {
        true => Vec::new(),
        false => record.headers.to_vec(),
    };
    let new = NewRecord {
        key: record.key,
        value: record.value,
        headers: &headers,
    };
    match offset {
        None => packer.push(lane, timestamp, &new, span, out),
        Some(offset) => packer.push_at(lane, offset, timestamp, &new, span, out),
    }
}

/// Puts a malformed record aside, or stops at it.
fn reject(
    rejects: Option<&mut Rejects>,
    name: &str,
    bad: &Bad<'_>,
) -> std::result::Result<(), Stop> {
    match rejects {
        Some(rejects) if !bad.fatal => {
            let added = rejects.add(name, bad);
            added.map_err(|e| Stop::Bad(e.with_kind(ErrorKind::Io)))
        }
        _ => Err(Stop::Bad(bad.error(name))),
    }
}
