//! The sending half of a partition's channel: it compares, then sends what is missing.
//!
//! *Asked* until COPY, *comparing* until it is known where to begin, *sending*, *ending* between its
//! DONE and the copy's, *done*. Batches are never looked into: they go from the log into the frame.
//! What was sent and not yet written over there is bounded by a window; a batch of several frames is
//! always sent to its end, since only then it can be written.

use std::collections::VecDeque;
use std::ops::Range;

use super::compare::{ChangedRanges, Comparison, Difference, Verdict};
use super::ends::{Chunk, Reach, Read, SourceLog};
use super::outbox::Outbox;
use super::refusal::{refused, unexpected};
use crate::error::{Error, ErrorKind, Result};
use crate::format::checkpoint::EpochStart;
use crate::format::wire::{
    BatchId, CopyInfo, CopyState, Message, RAW_BYTES_MAX, REDACTED, Refuse, SourceInfo, State,
};
use crate::format::{Offset, TimestampMs};

/// Bytes that may be on their way: sent, and not known to be written.
pub const WINDOW_BYTES: usize = 64 << 20;
/// Status of a refusal because batches arrived damaged, with the offset: worth another try, unless it is
/// the source that is damaged.
const ARRIVED_DAMAGED: u8 = 69;
/// Bytes of batches in a frame, unless one batch is larger.
pub const FRAME_BYTES: usize = 512 << 10;

/// How a source sends.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// Go on as the log grows.
    pub follow: bool,
    /// Cut a copy that differs to what is common.
    pub truncate: bool,
    /// Begin where the log does, where the copy would need what is gone.
    pub clamp: bool,
    /// Compare, and send nothing.
    pub look: bool,
    /// Nobody answers.
    pub one_way: bool,
    /// Believe a copy that says it was promoted, and take no appends from then on.
    pub fences: bool,
    /// Where an empty copy begins; `None` is where the log does.
    pub from: Option<Offset>,
    /// Where to stop.
    pub upto: Option<Offset>,
    /// Bytes that may be on their way.
    pub window: usize,
}

impl Default for SourceOptions {
    fn default() -> SourceOptions {
        SourceOptions {
            follow: false,
            truncate: false,
            clamp: false,
            look: false,
            one_way: false,
            fences: true,
            from: None,
            upto: None,
            window: WINDOW_BYTES,
        }
    }
}

/// Something that people should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The source removed these offsets before the copy had them.
    Lost(Range<Offset>),
    /// The copy was cut to what is common; it went to its lost+found.
    Cut(Offset),
}

/// Whether there is more to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A frame was added to the outbox.
    Frame,
    /// Nothing now: the log has to grow, or the other side to answer.
    Nothing,
}

enum Stage {
    Asked,
    Comparing(Comparison),
    Sending,
    Ending,
    Done,
}

/// The sending half of a channel.
pub struct Source<L: SourceLog> {
    channel: u16,
    log: L,
    options: SourceOptions,
    stage: Stage,
    info: SourceInfo,
    copy: CopyInfo,
    reach: Reach,
    /// Smallest offset of what is sent next.
    position: Offset,
    /// Behind the last batch that was sent.
    sent_to: Offset,
    /// Where a run that does not follow stops.
    target: Offset,
    /// What was sent and is not known to be written: where it ends, and its bytes.
    on_way: VecDeque<(Offset, usize)>,
    on_way_bytes: usize,
    in_part: bool,
    epochs_sent: Vec<EpochStart>,
    newest: TimestampMs,
    acked: Offset,
    durable: Offset,
    bytes: u64,
    notes: Vec<Note>,
    /// The copy has said that it is over, or was told so.
    knows: bool,
}

impl<L: SourceLog> Source<L> {
    /// A source that says what it has.
    ///
    /// # Errors
    /// The log cannot be read or synced.
    pub fn new(
        channel: u16,
        mut log: L,
        options: SourceOptions,
        out: &mut Outbox,
    ) -> Result<Source<L>> {
        let info = log.info()?;
        let reach = log.reach()?;
        out.message(channel, &Message::Source(info.clone()));
        let mut source = Source {
            channel,
            log,
            stage: Stage::Asked,
            copy: CopyInfo::default(),
            position: info.start,
            sent_to: Offset::ZERO,
            target: info.end,
            on_way: VecDeque::new(),
            on_way_bytes: 0,
            in_part: false,
            epochs_sent: Vec::new(),
            newest: TimestampMs(-1),
            acked: Offset::ZERO,
            durable: Offset::ZERO,
            bytes: 0,
            notes: Vec::new(),
            knows: false,
            info,
            reach,
            options,
        };
        if source.options.one_way {
            let from = source.options.from.unwrap_or(source.info.start);
            source.begin(from, true, false, out)?;
        }
        Ok(source)
    }

    /// The log.
    pub fn log(&self) -> &L {
        &self.log
    }

    /// Gives the log back.
    pub fn into_log(self) -> L {
        self.log
    }

    /// The log.
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log
    }

    /// What people should know of, since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Whether it has begun to send, and not ended.
    pub fn is_sending(&self) -> bool {
        matches!(self.stage, Stage::Sending)
    }

    /// Whether it goes on as the log grows.
    pub fn follows(&self) -> bool {
        self.options.follow && self.is_sending()
    }

    /// After an error: whether the copy knows of it.
    pub fn peer_knows(&self) -> bool {
        self.knows
    }

    /// Whether all is over.
    pub fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// What the copy said of itself.
    pub fn copy(&self) -> &CopyInfo {
        &self.copy
    }

    /// How far the log was at the last look.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Behind what was sent.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Behind what the copy has written, and what is durable there.
    pub fn acked(&self) -> (Offset, Offset) {
        (self.acked, self.durable)
    }

    /// Bytes of batches sent.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes a message.
    ///
    /// # Errors
    /// The copy refuses or breaks the protocol, it is no prefix, or the log cannot be read.
    pub fn receive(&mut self, message: &Message<'_>, out: &mut Outbox) -> Result<()> {
        match message {
            Message::Beat => return Ok(()),
            Message::Refuse(r) => return self.refused(r),
            Message::Ack { written, durable } => return self.acknowledged(*written, *durable),
            _ => {}
        }
        match (&mut self.stage, message) {
            (Stage::Asked, Message::Copy(info)) => {
                self.copy = info.clone();
                self.meet(out)
            }
            (Stage::Comparing(comparison), Message::Answer(answer)) => {
                comparison.answer(&mut self.log, answer)?;
                self.go_on(out)
            }
            (Stage::Ending, Message::Done { end }) => {
                if *end < self.sent_to {
                    return Err(unexpected(format!("DONE at {end}, not {}", self.sent_to)));
                }
                self.stage = Stage::Done;
                Ok(())
            }
            (_, other) => {
                let why = format!("{} where none can be", other.kind().word());
                Err(unexpected(why))
            }
        }
    }

    /// A copy that was promoted fences its source.
    fn refused(&mut self, refuse: &Refuse) -> Result<()> {
        self.knows = true;
        let mine = self.reach.epochs.last().map_or(-1, |e| e.epoch);
        if let Some(epoch) = refuse.epoch.filter(|e| *e > mine)
            && self.options.fences
            && !self.options.look
        {
            self.log.fence(epoch)?;
        }
        if let Some(offset) = refuse.offset.filter(|_| refuse.status == ARRIVED_DAMAGED) {
            self.log.prove(offset)?;
        }
        Err(refused(refuse))
    }

    fn acknowledged(&mut self, written: Offset, durable: Offset) -> Result<()> {
        let sending = matches!(self.stage, Stage::Sending | Stage::Ending);
        if !sending || written > self.position || durable > written || written < self.acked {
            return Err(unexpected(format!("ACK of {written}, durable {durable}")));
        }
        while let Some((end, bytes)) = self.on_way.front().copied()
            && end <= written
        {
            self.on_way.pop_front();
            self.on_way_bytes -= bytes;
        }
        self.acked = written;
        if durable > self.durable {
            self.durable = durable;
            self.log.confirm(durable)?;
        }
        Ok(())
    }

    /// COPY: finds out what is to be compared.
    fn meet(&mut self, out: &mut Outbox) -> Result<()> {
        let copy = &self.copy;
        let common = self.info.start.max(copy.start)..self.reach.end.min(copy.end);
        if !self.options.look && self.log.is_taken()? {
            let why = "DEST is SRC itself, or SRC is about to become a copy of another log";
            return Err(Error::usage(why));
        }
        let changed = self.changed();
        let comparison = if copy.state == CopyState::None || copy.end <= copy.start {
            Comparison::nothing()
        } else if common.start >= common.end
            && (copy.state == CopyState::Log || copy.id != self.info.id)
        {
            let difference = Difference {
                offset: copy.start.max(self.info.start),
                source: None,
                copy: None,
            };
            // There is nothing that a cut could keep.
            return self.refuse(&difference, out);
        } else if let Some(last) = self.known_last()? {
            // Only what was changed since needs more than that.
            match changed.holds(last.base) {
                true => {
                    let end = last.last.next().min(common.end);
                    Comparison::new(last.base.max(common.start)..end, &changed)
                }
                false => Comparison::nothing(),
            }
        } else {
            Comparison::new(common, &changed)
        };
        self.stage = Stage::Comparing(comparison);
        self.go_on(out)
    }

    /// The last batch of a copy of this very log, if it is the same here (or may differ, as it was
    /// changed on either side).
    fn known_last(&mut self) -> Result<Option<BatchId>> {
        let ours = self.copy.state == CopyState::Copy
            && self.copy.id == self.info.id
            && self.same_redactions();
        let Some(last) = self.copy.last.last().copied().filter(|_| ours) else {
            return Ok(None);
        };
        if last.last.next() > self.reach.end {
            return Ok(None);
        }
        if last.base >= self.info.start && self.changed().holds(last.base) {
            return Ok(Some(last));
        }
        let mine = self.log.batch(last.base)?;
        Ok(mine.filter(|mine| *mine == last))
    }

    /// Ranges in which batches may differ though nothing parted. Where the two do not have the same
    /// redactions, what those changed is to be equal all the same: a copy that was made afterwards has
    /// the batches as they are now, and one that still holds what was removed may not pass for a copy.
    fn changed(&self) -> ChangedRanges {
        let same = self.same_redactions();
        let all = self.info.changed.iter().chain(&self.copy.changed);
        let by_records = all
            .filter(|c| same || c.kind != REDACTED)
            .map(|c| c.offsets.clone())
            .collect();
        ChangedRanges { by_records }
    }

    fn same_redactions(&self) -> bool {
        self.info.redactions == self.copy.redactions
    }

    /// Whether the copy differs there because something was removed here that it still has.
    fn holds_redacted(&self, offset: Offset) -> bool {
        let mut removed = self.info.changed.iter().filter(|c| c.kind == REDACTED);
        !self.same_redactions() && removed.any(|c| c.offsets.contains(&offset))
    }

    /// Goes on comparing, or begins to send.
    fn go_on(&mut self, out: &mut Outbox) -> Result<()> {
        let Stage::Comparing(comparison) = &self.stage else {
            return Ok(());
        };
        match comparison.verdict() {
            Verdict::Ask(ask) => {
                out.message(self.channel, &Message::Ask(ask));
                Ok(())
            }
            Verdict::Differs(difference) => self.differs(&difference, out),
            Verdict::Equal
                if self.copy.state != CopyState::None && self.copy.end > self.reach.end =>
            {
                let difference = Difference {
                    offset: self.reach.end,
                    source: None,
                    copy: None,
                };
                self.differs(&difference, out)
            }
            Verdict::Equal => self.agree(out),
        }
    }

    fn differs(&mut self, d: &Difference, out: &mut Outbox) -> Result<()> {
        if self.options.truncate && !self.options.look {
            let mut at = d.offset;
            if let Some(mine) = self.log.batch(at)?.filter(|b| b.base < at) {
                at = mine.base; // of a batch only all can stay
            }
            self.notes.push(Note::Cut(at));
            return self.begin(at.max(self.info.start), false, true, out);
        }
        self.refuse(d, out)
    }

    fn refuse(&mut self, d: &Difference, out: &mut Outbox) -> Result<()> {
        let (mut there, mut why) = (d.words(d.copy, d.source), d.words(d.source, d.copy));
        if self.holds_redacted(d.offset) {
            let why_not = "; the source redacted records there, which the copy still holds";
            there.push_str(why_not);
            why.push_str(why_not);
        }
        let refuse = Refuse {
            status: 65,
            offset: Some(d.offset),
            epoch: None,
            why: there,
        };
        out.message(self.channel, &Message::Refuse(refuse));
        self.knows = true;
        Err(Error::data(why))
    }

    /// The copy is a prefix.
    fn agree(&mut self, out: &mut Outbox) -> Result<()> {
        if self.options.look {
            let end = self.reach.sendable;
            out.message(self.channel, &Message::Done { end });
            self.stage = Stage::Ending;
            return Ok(());
        }
        if self.copy.state == CopyState::None || self.copy.end <= self.copy.start {
            let from = self.options.from.unwrap_or(self.info.start);
            let from = from.max(self.info.start).max(self.copy.end);
            return self.begin(from, true, false, out);
        }
        let end = self.copy.end;
        if let Some(from) = self.options.from.filter(|from| *from > end) {
            let why = format!("the copy ends at offset {end}; from {from} on would leave a gap");
            return Err(Error::data(why));
        }
        if end < self.info.start {
            self.lost(end..self.info.start)?;
            return self.begin(self.info.start, true, false, out);
        }
        let within = self.log.batch(end)?;
        if let Some(b) = within.filter(|b| b.base < end && b.last >= end) {
            let difference = Difference {
                offset: end,
                source: Some(b.crc),
                copy: None,
            };
            return self.differs(&difference, out);
        }
        self.begin(end, false, false, out)
    }

    fn lost(&mut self, offsets: Range<Offset>) -> Result<()> {
        if !self.options.follow && !self.options.clamp {
            let why = format!(
                "offsets {} to {} were removed at the source before the copy had them",
                offsets.start,
                offsets.end.0 - 1
            );
            let error = Error::new(ErrorKind::NotFound, why);
            return Err(error.hint(format!("--clamp goes on at {}", offsets.end)));
        }
        self.notes.push(Note::Lost(offsets));
        Ok(())
    }

    fn begin(&mut self, from: Offset, within: bool, cut: bool, out: &mut Outbox) -> Result<()> {
        let offset = self.log.seek(from, within)?;
        self.position = offset;
        self.acked = Offset::ZERO;
        let start = if cut { from } else { offset };
        out.message(self.channel, &Message::Start { offset: start, cut });
        self.epochs_sent = self.copy.epochs.clone();
        self.stage = Stage::Sending;
        Ok(())
    }

    /// The log may have changed. Tells the copy how far it is, if that is new.
    ///
    /// # Errors
    /// The log cannot be read or synced.
    pub fn wake(&mut self, now: TimestampMs, out: &mut Outbox) -> Result<()> {
        if !matches!(self.stage, Stage::Sending) || !self.options.follow {
            return Ok(());
        }
        let before = (self.reach.start, self.reach.end, self.reach.sendable);
        self.reach = self.log.reach()?;
        if self.reach.end < self.sent_to {
            let (end, sent) = (self.reach.end, self.sent_to);
            let why = format!("the source was cut: it ends at offset {end}, the copy at {sent}");
            return Err(Error::data(why));
        }
        if before != (self.reach.start, self.reach.end, self.reach.sendable) {
            self.tell(now, out);
        }
        Ok(())
    }

    /// A sign of life, once there is something to tell.
    pub fn tell(&mut self, now: TimestampMs, out: &mut Outbox) {
        if self.options.one_way || !matches!(self.stage, Stage::Sending | Stage::Ending) {
            return;
        }
        let state = State {
            start: self.reach.start,
            end: self.reach.end,
            sendable: self.reach.sendable,
            now,
            newest: self.newest,
        };
        out.message(self.channel, &Message::State(state));
    }

    /// Sends the next frame, if there is one and the window has room.
    ///
    /// # Errors
    /// The log cannot be read, or has lost what the copy needs.
    pub fn send(&mut self, out: &mut Outbox) -> Result<Sent> {
        if !matches!(self.stage, Stage::Sending) {
            return Ok(Sent::Nothing);
        }
        if self.on_way_bytes >= self.options.window && !self.in_part {
            return Ok(Sent::Nothing);
        }
        let bound = match self.options.follow {
            true => self.reach.sendable,
            false => self.target,
        };
        let bound = self.options.upto.map_or(bound, |upto| upto.min(bound));
        if self.send_epochs(bound, out) {
            return Ok(Sent::Frame);
        }
        let mut room = FRAME_BYTES;
        loop {
            let log = &mut self.log;
            match out.data(self.channel, room, |buf| log.read(buf, bound))? {
                Read::Chunk(chunk) => {
                    self.sent(&chunk);
                    return Ok(Sent::Frame);
                }
                Read::Gone(start) => self.skip_to(start)?,
                Read::Larger(size) if room < RAW_BYTES_MAX => room = size.min(RAW_BYTES_MAX),
                Read::Larger(_) | Read::End => break,
            }
        }
        let stops = self.options.upto.is_some_and(|upto| upto <= bound);
        if self.options.follow && !stops {
            return Ok(Sent::Nothing);
        }
        let end = self.position;
        out.message(self.channel, &Message::Done { end });
        self.stage = if self.options.one_way {
            Stage::Done
        } else {
            Stage::Ending
        };
        Ok(Sent::Frame)
    }

    fn sent(&mut self, chunk: &Chunk) {
        self.bytes += chunk.bytes as u64;
        self.in_part = chunk.part;
        self.newest = self.newest.max(chunk.newest);
        self.position = self.position.max(chunk.next);
        if !chunk.part {
            self.sent_to = chunk.next;
        }
        if !self.options.one_way {
            // A part counts with the batch's end, which is not before the next frame's.
            let end = match chunk.part {
                true => self.position.next(),
                false => self.position,
            };
            self.on_way.push_back((end, chunk.bytes));
            self.on_way_bytes += chunk.bytes;
        }
    }

    /// Tells of epochs that begin below `bound`, if the copy does not know them.
    fn send_epochs(&mut self, bound: Offset, out: &mut Outbox) -> bool {
        let due = |e: &&EpochStart| e.start < bound;
        let epochs: Vec<EpochStart> = self.reach.epochs.iter().filter(due).copied().collect();
        if epochs == self.epochs_sent || epochs.is_empty() {
            return false;
        }
        out.message(self.channel, &Message::Epochs(epochs.clone()));
        self.epochs_sent = epochs;
        true
    }

    /// The log no longer has what would come next, but begins at `start`.
    fn skip_to(&mut self, start: Offset) -> Result<()> {
        if start > self.position {
            self.lost(self.position..start)?;
            self.position = self.log.seek(start, true)?.max(self.position);
        }
        Ok(())
    }
}
