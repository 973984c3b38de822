//! Frames on their way out: one buffer that batches are read into and written from, never copied.
//!
//! The memory stays as it was between frames, so that nothing is cleared before it is read into.

use super::ends::{Chunk, Read};
use crate::error::Result;
use crate::format::wire::{self, DATA_HEAD_BYTES, Data, FLAG_PART, Message};

/// Encoded frames that were not sent yet.
#[derive(Default)]
pub struct Outbox {
    buf: Vec<u8>,
    /// What of `buf` was sent, and where its frames end.
    sent: usize,
    filled: usize,
    /// For messages that are small.
    small: Vec<u8>,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Outbox {
        Outbox::default()
    }

    /// Adds a message.
    pub fn message(&mut self, channel: u16, message: &Message<'_>) {
        let mut small = std::mem::take(&mut self.small);
        small.clear();
        wire::encode(channel, message, &mut small);
        if let Some(room) = self.room(small.len()) {
            room.copy_from_slice(&small);
            self.filled += small.len();
        }
        small.shrink_to(64 << 10);
        self.small = small;
    }

    /// Adds a DATA frame with up to `max` bytes that `read` reads into place.
    ///
    /// # Errors
    /// What `read` meets.
    pub fn data(
        &mut self,
        channel: u16,
        max: usize,
        read: impl FnOnce(&mut [u8]) -> Result<Read>,
    ) -> Result<Read> {
        let Some(room) = self.room(DATA_HEAD_BYTES + max) else {
            return Ok(Read::End);
        };
        let (head, batches) = room.split_at_mut(DATA_HEAD_BYTES);
        let found = read(batches)?;
        if let Read::Chunk(chunk) = &found {
            let raw = batches.get(..chunk.bytes).unwrap_or_default();
            head.copy_from_slice(&wire::data_head(channel, &frame_of(chunk, raw)));
            self.filled += DATA_HEAD_BYTES + raw.len();
        }
        Ok(found)
    }

    /// `bytes` of room behind the last frame.
    fn room(&mut self, bytes: usize) -> Option<&mut [u8]> {
        if self.sent == self.filled {
            (self.sent, self.filled) = (0, 0);
        }
        let end = self.filled + bytes;
        if self.buf.len() < end {
            self.buf.resize(end, 0);
        }
        self.buf.get_mut(self.filled..end)
    }

    /// What was not sent yet.
    pub fn pending(&self) -> &[u8] {
        self.buf.get(self.sent..self.filled).unwrap_or_default()
    }

    /// Takes note that so many bytes were sent.
    pub fn consume(&mut self, bytes: usize) {
        self.sent = (self.sent + bytes).min(self.filled);
    }

    /// Whether all was sent.
    pub fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    /// Drops everything, and memory beyond `keep` bytes.
    pub fn clear(&mut self, keep: usize) {
        (self.sent, self.filled) = (0, 0);
        self.buf.truncate(self.buf.len().min(keep));
        self.buf.shrink_to(keep);
    }
}

/// The frame that carries a chunk.
pub fn frame_of<'a>(chunk: &Chunk, raw: &'a [u8]) -> Data<'a> {
    Data {
        flags: if chunk.part { FLAG_PART } else { 0 },
        segment: chunk.segment,
        heads_crc: chunk.heads_crc,
        unpacked: u32::try_from(raw.len()).unwrap_or(u32::MAX),
        raw,
    }
}
