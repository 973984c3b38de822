//! What the two state machines need of a log, so that a model can stand in for one.

use std::ops::Range;

use crate::error::Result;
use crate::format::checkpoint::EpochStart;
use crate::format::wire::{BatchId, CopyInfo, Found, RecordId, SourceInfo};
use crate::format::{Limits, Offset, TimestampMs};

/// How far a source is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reach {
    /// First offset kept.
    pub start: Offset,
    /// Log end offset.
    pub end: Offset,
    /// Behind what may be sent: durable, and below the first open transaction.
    pub sendable: Offset,
    /// The history of leader epochs.
    pub epochs: Vec<EpochStart>,
}

/// Batches that were read into a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// How many bytes.
    pub bytes: usize,
    /// Base offset of the segment they lie in.
    pub segment: Offset,
    /// CRC-32C of the first 21 bytes of every batch that begins in them.
    pub heads_crc: u32,
    /// The batch goes on in the next chunk.
    pub part: bool,
    /// Behind the last batch; of a part, behind the one before it.
    pub next: Offset,
    /// Largest timestamp in them; -1 is none.
    pub newest: TimestampMs,
}

/// What reading from a source gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// Batches.
    Chunk(Chunk),
    /// The next batch has this many bytes, more than the buffer holds.
    Larger(usize),
    /// What would come next was removed; the log begins here now.
    Gone(Offset),
    /// Nothing more below the bound.
    End,
}

/// Records of a range, and how far into it they reach.
pub type Records = (Vec<RecordId>, Offset);

/// A log that is sent.
pub trait SourceLog {
    /// Syncs the log, then tells what there is.
    ///
    /// # Errors
    /// The log cannot be read or synced.
    fn info(&mut self) -> Result<SourceInfo>;

    /// Looks again, syncing what is new; how far it is now.
    ///
    /// # Errors
    /// The log cannot be read or synced.
    fn reach(&mut self) -> Result<Reach>;

    /// Goes to the first batch that begins at `offset` or above; with `within`, to the one that holds
    /// `offset` if there is one. The offset that batch begins at, or `offset` if there is none yet.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn seek(&mut self, offset: Offset, within: bool) -> Result<Offset>;

    /// Reads batches that begin below `upto` from where it stands into `buf`, all of one segment.
    /// A part only where `buf` is as large as a frame can be.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn read(&mut self, buf: &mut [u8], upto: Offset) -> Result<Read>;

    /// Number and digest of the batches that begin in a range.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn digest(&mut self, offsets: Range<Offset>) -> Result<(u64, u64)>;

    /// The batch that holds an offset, or the first one behind it.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn batch(&mut self, at: Offset) -> Result<Option<BatchId>>;

    /// The records of a range, as many as are worth one message.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn records(&mut self, offsets: Range<Offset>) -> Result<Records>;

    /// Notes durably that a copy of this log was promoted to `epoch`: it takes no appends any more.
    ///
    /// # Errors
    /// That cannot be written.
    fn fence(&mut self, epoch: i32) -> Result<()>;

    /// Whether somebody receives into this log, though it is no copy: it is its own destination.
    ///
    /// # Errors
    /// That cannot be found out.
    fn is_taken(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Whether the batch that holds an offset is sound here: what arrived of it was not.
    ///
    /// # Errors
    /// `Data`, with the place, if it is not.
    fn prove(&mut self, _offset: Offset) -> Result<()> {
        Ok(())
    }

    /// Takes note of how far the copy is durable, for who waits for that.
    ///
    /// # Errors
    /// That cannot be written.
    fn confirm(&mut self, _durable: Offset) -> Result<()> {
        Ok(())
    }
}

/// A log that receives.
pub trait CopyLog {
    /// What a check finds out, for [`CopyLog::put`].
    type Checked: Send;

    /// Checks whole batches: framing, checksums, order. On any thread.
    ///
    /// # Errors
    /// `Data` for what is wrong with them.
    fn check(bytes: &[u8], limits: &Limits) -> Result<Self::Checked>;

    /// The offset behind the last batch that was checked; `None` if there are none.
    fn end_of(checked: &Self::Checked) -> Option<Offset>;

    /// What there is.
    ///
    /// # Errors
    /// The log cannot be read.
    fn info(&mut self) -> Result<CopyInfo>;

    /// The answer to a question of the source: about how much of the range, and what.
    ///
    /// # Errors
    /// The log cannot be read, or is damaged there.
    fn answer(&mut self, ask: &crate::format::wire::Ask) -> Result<(Offset, Found)>;

    /// Marks the log durably as a copy of that source.
    ///
    /// # Errors
    /// That cannot be written, or somebody appended since [`CopyLog::info`].
    fn adopt(&mut self, source: &SourceInfo) -> Result<()>;

    /// Makes the history of leader epochs that of the source, durably.
    ///
    /// # Errors
    /// That cannot be written.
    fn set_epochs(&mut self, epochs: &[EpochStart]) -> Result<()>;

    /// Cuts the log at an offset, keeping what is cut in lost+found.
    ///
    /// # Errors
    /// That cannot be done.
    fn truncate(&mut self, at: Offset) -> Result<()>;

    /// Writes whole batches of the source's segment of that name. Returns the new end.
    ///
    /// # Errors
    /// They do not fit, or cannot be written.
    fn put(&mut self, segment: Offset, bytes: &[u8], checked: &Self::Checked) -> Result<Offset>;

    /// Makes durable what was put. Returns the durable offset.
    ///
    /// # Errors
    /// What the system answers.
    fn sync(&mut self) -> Result<Offset>;

    /// Removes whole segments below an offset.
    ///
    /// # Errors
    /// What the system answers.
    fn forget_before(&mut self, start: Offset) -> Result<()>;
}
