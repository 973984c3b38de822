//! The receiving half of a partition's channel: frames in, frames out, a log that grows.
//!
//! It answers what the source asks, then takes what the source sends. Nothing is written before START
//! (the source has compared by then), nothing that was not checked, and nothing that does not follow
//! the end. A batch that was begun and not finished is memory only: it is forgotten with the channel.
//!
//! States: *waiting* for SOURCE, *asked* until START, *receiving* until DONE, *done*. In a one-way
//! stream there is nobody to answer: what overlaps is compared here, batch by batch, before the rest is
//! appended.

use std::time::Instant;

use super::ends::CopyLog;
use super::outbox::Outbox;
use super::refusal::{refused, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::checkpoint::EpochStart;
use crate::format::crc32c::Crc32c;
use crate::format::frame::{Frame, HEADER_UP_TO_MAGIC, frame};
use crate::format::wire::{
    Answer, Ask, BATCH_HEAD_BYTES, CopyState, Data, FLAG_PART, FLAG_REWRITE, FLAG_ZSTD, Found,
    Message, Question, Refuse, SourceInfo, State,
};
use crate::format::{Limits, Offset};
use crate::ops::append::SyncWhen;

/// Bytes received after which the source is told how far the copy is, though more is coming.
const ACK_BYTES: usize = 4 << 20;

/// How a copy receives.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// When what is received becomes durable.
    pub sync: SyncWhen,
    /// Forget what the source has forgotten.
    pub delete: bool,
    /// Be cut where the source says that it differs.
    pub truncate: bool,
    /// Nobody hears an answer.
    pub one_way: bool,
    /// Bounds on what is received.
    pub limits: Limits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Asked,
    Receiving,
    Done,
}

/// The receiving half of a channel.
pub struct Copy<L: CopyLog> {
    channel: u16,
    log: L,
    options: CopyOptions,
    stage: Stage,
    /// What the source said of itself, until the log is its copy.
    source: Option<SourceInfo>,
    /// Epochs that wait for that.
    epochs: Option<Vec<EpochStart>>,
    /// A batch of which not all parts are here.
    parts: Vec<u8>,
    parts_segment: Option<Offset>,
    written: Offset,
    durable: Offset,
    acked: Option<(Offset, Offset)>,
    unacked_bytes: usize,
    /// When what is written must be durable at the latest.
    sync_at: Option<Instant>,
    bytes: u64,
    state: Option<State>,
    /// Where a one-way stream begins to be new.
    overlap_until: Offset,
    /// Where a log that is no copy begins, which a stream has to hold wholly.
    log_start: Option<Offset>,
    /// The source has said that it is over, or was told so.
    knows: bool,
    /// What arrived was not what a sound source sends.
    damaged: bool,
}

impl<L: CopyLog> Copy<L> {
    /// One that waits for a source.
    pub fn new(channel: u16, log: L, options: CopyOptions) -> Copy<L> {
        Copy {
            channel,
            log,
            options,
            stage: Stage::Waiting,
            source: None,
            epochs: None,
            parts: Vec::new(),
            parts_segment: None,
            written: Offset::ZERO,
            durable: Offset::ZERO,
            acked: None,
            unacked_bytes: 0,
            sync_at: None,
            bytes: 0,
            state: None,
            overlap_until: Offset::ZERO,
            log_start: None,
            knows: false,
            damaged: false,
        }
    }

    /// The log.
    pub fn log(&self) -> &L {
        &self.log
    }

    /// Gives the log back.
    pub fn into_log(self) -> L {
        self.log
    }

    /// Behind what is written.
    pub fn written(&self) -> Offset {
        self.written
    }

    /// Behind what is durable.
    pub fn durable(&self) -> Offset {
        self.durable
    }

    /// Bytes of batches received.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the source said last of itself.
    pub fn state(&self) -> Option<State> {
        self.state
    }

    /// After an error: whether the source knows of it.
    pub fn peer_knows(&self) -> bool {
        self.knows
    }

    /// After an error: whether batches arrived damaged. It was the way, or the source.
    pub fn arrived_damaged(&self) -> bool {
        self.damaged
    }

    /// Whether all that was to come is here.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Takes a message, and `checked` if its batches were checked elsewhere.
    ///
    /// # Errors
    /// The peer refuses, breaks the protocol or sends what is damaged; or the log cannot be written.
    pub fn receive(
        &mut self,
        message: &Message<'_>,
        checked: Option<L::Checked>,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<()> {
        match (self.stage, message) {
            (_, Message::Beat) => {}
            (_, Message::Refuse(r)) => {
                self.knows = true;
                return Err(refused(r));
            }
            (_, Message::State(s)) => self.heard(*s)?,
            (Stage::Waiting, Message::Source(info)) => self.meet(info, out)?,
            (Stage::Asked, Message::Ask(ask)) => self.asked(ask, out)?,
            (Stage::Asked, Message::Start { offset, cut }) => self.begin(*offset, *cut)?,
            // Not before the log is a copy, which it becomes when all that overlaps was equal.
            (Stage::Receiving, Message::Epochs(epochs)) => match self.source.is_some() {
                true => self.epochs = Some(epochs.clone()),
                false => self.log.set_epochs(epochs)?,
            },
            // Only to compare.
            (Stage::Asked, Message::Done { end }) => {
                self.say(out, &Message::Done { end: *end });
                self.stage = Stage::Done;
            }
            (Stage::Receiving, Message::Data(data)) => self.data(data, checked, now, out)?,
            (Stage::Receiving, Message::Done { end }) => self.finish(*end, out)?,
            (_, other) => {
                let why = format!("{} where none can be", other.kind().word());
                return Err(unexpected(why));
            }
        }
        Ok(())
    }

    /// SOURCE: what the other side has. The answer is what this one has, or that it was promoted.
    fn meet(&mut self, info: &SourceInfo, out: &mut Outbox) -> Result<()> {
        let own = self.log.info()?;
        let (mine, theirs) = (own.epochs.last(), info.epochs.last());
        if own.state != CopyState::None
            && mine.map_or(-1, |e| e.epoch) > theirs.map_or(-1, |e| e.epoch)
        {
            let epoch = mine.map_or(-1, |e| e.epoch);
            let source = theirs.map_or(-1, |e| e.epoch);
            // A wrong DEST must not fence a source that has nothing to do with it.
            let known = own.id != [0; 16] && info.id != [0; 16];
            let other = known && own.id != info.id;
            let why = match other {
                true => format!(
                    "another log than the source, and ahead of it: epoch {epoch}, the source is at {source}"
                ),
                false => format!(
                    "fenced: the copy was promoted to epoch {epoch}, the source is at {source}"
                ),
            };
            self.say(
                out,
                &Message::Refuse(Refuse {
                    status: 65,
                    offset: None,
                    epoch: (!other).then_some(epoch),
                    why: why.clone(),
                }),
            );
            self.knows = true;
            return Err(Error::data(why));
        }
        self.written = own.end;
        self.durable = own.durable.unwrap_or(own.start).min(own.end);
        self.stage = Stage::Asked;
        self.source = Some(info.clone());
        self.overlap_until = match own.state {
            CopyState::None => Offset::ZERO,
            _ => own.end,
        };
        self.log_start = (own.state == CopyState::Log).then_some(own.start);
        self.say(out, &Message::Copy(own));
        Ok(())
    }

    fn asked(&mut self, ask: &Ask, out: &mut Outbox) -> Result<()> {
        let (upto, found) = self.log.answer(ask)?;
        let offsets = ask.offsets.start..upto.clamp(ask.offsets.start, ask.offsets.end);
        self.say(out, &Message::Answer(Answer { found, offsets }));
        Ok(())
    }

    /// START: from here on what comes is written.
    fn begin(&mut self, offset: Offset, cut: bool) -> Result<()> {
        if cut {
            if !self.options.truncate || offset > self.written {
                return Err(unexpected(format!("to be cut at {offset}")));
            }
            self.log.truncate(offset)?;
            self.written = offset;
            self.durable = self.durable.min(offset);
        } else if self.options.one_way {
            if let Some(start) = self.log_start.filter(|start| offset > *start) {
                let why = format!(
                    "this is no copy, and the stream begins at offset {offset}, above its start {start}"
                );
                return Err(Error::data(why));
            }
            if self.overlap_until > Offset::ZERO && offset > self.overlap_until {
                let why = format!(
                    "the stream begins at offset {offset}, the copy ends at {}",
                    self.overlap_until
                );
                return Err(Error::not_found(why));
            }
        } else if offset < self.written {
            return Err(unexpected(format!(
                "START at {offset}, below {}",
                self.written
            )));
        }
        self.stage = Stage::Receiving;
        // A stream is compared first; what differs leaves the log as it was.
        match self.options.one_way && self.overlap_until > Offset::ZERO {
            true => Ok(()),
            false => self.adopt(),
        }
    }

    fn adopt(&mut self) -> Result<()> {
        if let Some(source) = self.source.take() {
            self.log.adopt(&source)?;
        }
        match self.epochs.take() {
            Some(epochs) => self.log.set_epochs(&epochs),
            None => Ok(()),
        }
    }

    fn data(
        &mut self,
        data: &Data<'_>,
        checked: Option<L::Checked>,
        now: Instant,
        out: &mut Outbox,
    ) -> Result<()> {
        if data.flags & (FLAG_REWRITE | FLAG_ZSTD) != 0 {
            return Err(unexpected(format!("DATA with flags {:#x}", data.flags)));
        }
        let goes_on = data.flags & FLAG_PART != 0;
        let begun = !self.parts.is_empty();
        let heads = check_heads(data, begun, &self.options.limits);
        self.damaged |= heads.is_err();
        heads?;
        self.bytes += data.raw.len() as u64;
        self.unacked_bytes += data.raw.len();
        if goes_on || begun {
            if begun && self.parts_segment != Some(data.segment) {
                return Err(unexpected("a batch that goes on in another segment"));
            }
            if self.parts.len() + data.raw.len() > self.options.limits.batch_bytes_max {
                return Err(unexpected("a batch over the limit"));
            }
            self.parts_segment = Some(data.segment);
            self.parts.extend_from_slice(data.raw);
            if goes_on {
                return Ok(());
            }
            let whole = std::mem::take(&mut self.parts);
            self.store(data.segment, &whole, None, now)?;
        } else {
            self.store(data.segment, data.raw, checked, now)?;
        }
        if self.unacked_bytes >= ACK_BYTES {
            self.ack(out);
        }
        Ok(())
    }

    fn store(
        &mut self,
        segment: Offset,
        raw: &[u8],
        checked: Option<L::Checked>,
        now: Instant,
    ) -> Result<()> {
        let (raw, checked) = match self.overlap_until > Offset::ZERO && self.options.one_way {
            true => (self.overlap(raw)?, None),
            false => (raw, checked),
        };
        if raw.is_empty() {
            return Ok(());
        }
        let checked = match checked {
            Some(checked) => checked,
            None => {
                let checked = L::check(raw, &self.options.limits);
                self.damaged |= checked.is_err();
                checked?
            }
        };
        self.written = self.log.put(segment, raw, &checked)?;
        if let SyncWhen::Every(every) = self.options.sync {
            self.sync_at.get_or_insert(now + every);
            if self.sync_at.is_some_and(|at| at <= now) {
                self.sync()?;
            }
        }
        Ok(())
    }

    /// Compares the batches of a one-way stream that are here already; what is left of `raw`.
    fn overlap<'a>(&mut self, raw: &'a [u8]) -> Result<&'a [u8]> {
        let mut rest = raw;
        while let Some(header) = next_header(rest, &self.options.limits)? {
            if header.base_offset >= self.overlap_until {
                // All of it was equal: now it may become a copy.
                self.overlap_until = Offset::ZERO;
                self.adopt()?;
                break;
            }
            let ask = Ask {
                what: Question::Batch,
                offsets: header.base_offset..header.last_offset.next(),
            };
            let (_, found) = self.log.answer(&ask)?;
            let equal = match found {
                Found::Batch(Some(b)) => {
                    (b.base, b.last, b.crc) == (header.base_offset, header.last_offset, header.crc)
                        && usize::try_from(b.size) == Ok(header.size)
                }
                _ => false,
            };
            if !equal {
                let crc = match found {
                    Found::Batch(Some(b)) => format!("{:08x}", b.crc),
                    _ => "none".to_string(),
                };
                let why = format!(
                    "diverged at offset {} (crc {crc} here, {:08x} in the stream); nothing was written",
                    header.base_offset, header.crc
                );
                return Err(Error::data(why));
            }
            rest = rest.get(header.size..).unwrap_or_default();
        }
        Ok(rest)
    }

    fn heard(&mut self, state: State) -> Result<()> {
        self.state = Some(state);
        let forget = self.options.delete && self.stage == Stage::Receiving;
        match forget {
            true => self.log.forget_before(state.start.min(self.written)),
            false => Ok(()),
        }
    }

    /// DONE: all was sent.
    fn finish(&mut self, end: Offset, out: &mut Outbox) -> Result<()> {
        if !self.parts.is_empty() {
            return Err(unexpected("DONE in the middle of a batch"));
        }
        match self.options.one_way && self.overlap_until > Offset::ZERO {
            true => self.all_was_here(end)?,
            false => self.adopt()?,
        }
        if self.options.sync != SyncWhen::Never {
            self.sync()?;
        }
        self.ack(out);
        self.say(out, &Message::Done { end: self.written });
        self.stage = Stage::Done;
        Ok(())
    }

    /// A one-way stream ended before it came to anything new. A log that is no copy stays what it was:
    /// it may well be the one that the stream is of.
    fn all_was_here(&self, end: Offset) -> Result<()> {
        if self.log_start.is_some() && end < self.overlap_until {
            let why = format!(
                "this is no copy: it goes on to offset {}, behind the stream's end {end}",
                self.overlap_until
            );
            return Err(Error::data(why));
        }
        Ok(())
    }

    /// Nothing more waits to be received now: syncs what is due, and tells how far the copy is. When to
    /// call again, at the latest.
    ///
    /// # Errors
    /// The sync failed.
    pub fn idle(&mut self, now: Instant, out: &mut Outbox) -> Result<Option<Instant>> {
        if self.stage != Stage::Receiving {
            return Ok(None);
        }
        match self.options.sync {
            SyncWhen::Batch if self.durable < self.written => self.sync()?,
            SyncWhen::Every(_) if self.sync_at.is_some_and(|at| at <= now) => self.sync()?,
            _ => {}
        }
        self.ack(out);
        Ok(self.sync_at)
    }

    /// The channel ends before all was sent: what is here becomes durable.
    ///
    /// # Errors
    /// The sync failed.
    pub fn stop(&mut self, out: &mut Outbox) -> Result<()> {
        if self.stage == Stage::Receiving && self.options.sync != SyncWhen::Never {
            self.sync()?;
            self.ack(out);
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.sync_at = None;
        if self.durable < self.written {
            self.durable = self.log.sync()?.min(self.written).max(self.durable);
        }
        Ok(())
    }

    fn ack(&mut self, out: &mut Outbox) {
        let (written, durable) = (self.written, self.durable.min(self.written));
        self.unacked_bytes = 0;
        if self.acked.replace((written, durable)) != Some((written, durable)) {
            self.say(out, &Message::Ack { written, durable });
        }
    }

    fn say(&self, out: &mut Outbox, message: &Message<'_>) {
        if !self.options.one_way {
            out.message(self.channel, message);
        }
    }
}

/// The header of the batch at the start of `raw`; `None` if there is nothing.
fn next_header(raw: &[u8], limits: &Limits) -> Result<Option<BatchHeader>> {
    if raw.is_empty() {
        return Ok(None);
    }
    match frame(raw, limits) {
        Frame::Entry(_) => BatchHeader::parse(raw)
            .map(Some)
            .map_err(|d| Error::data(d.reason)),
        Frame::Bad(d) => Err(Error::data(d.reason)),
        Frame::Zero | Frame::NeedMore(_) => Err(Error::data("a batch is cut short")),
    }
}

/// Checks the first bytes of every batch that begins in a frame, which no batch's own checksum covers.
fn check_heads(data: &Data<'_>, begun: bool, limits: &Limits) -> Result<()> {
    let mut crc = Crc32c::default();
    let mut rest = if begun { &[][..] } else { data.raw };
    while rest.len() >= HEADER_UP_TO_MAGIC {
        crc.update(
            rest.get(..BATCH_HEAD_BYTES.min(rest.len()))
                .unwrap_or_default(),
        );
        rest = match frame(rest, limits) {
            Frame::Entry(size) => rest.get(size..).unwrap_or_default(),
            Frame::NeedMore(_) if data.flags & FLAG_PART != 0 => &[],
            _ => return Err(damaged("a frame holds no whole batches")),
        };
    }
    match rest.is_empty() && crc.value() == data.heads_crc {
        true => Ok(()),
        false => Err(damaged("batches arrive with damaged headers")),
    }
}

fn damaged(why: &str) -> Error {
    Error::new(ErrorKind::Data, why)
}
