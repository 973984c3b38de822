//! The records of batches whose checksum holds: does each decode, and are its offsets in order.
//!
//! Batches are gathered in chunks and looked at on another core while the next chunk is read.

use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::{Limits, Offset, Position};

/// Bytes of a chunk: enough that handing it over costs nothing beside it.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Batches one after the other.
#[derive(Default)]
pub struct Chunk {
    bytes: Vec<u8>,
    batches: Vec<(Position, BatchHeader)>,
}

impl Chunk {
    /// Adds a batch.
    pub fn push(&mut self, batch: &Batch<'_>, position: Position) {
        self.bytes.extend_from_slice(batch.bytes());
        self.batches.push((position, batch.header().clone()));
    }

    /// Whether it is to be handed over.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= CHUNK_BYTES
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Empties it, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.batches.clear();
    }

    /// Checks every record.
    pub fn check(&self, limits: &Limits) -> Checked {
        let (mut scratch, mut at, mut out) = (Scratch::new(), 0, Checked::default());
        for (position, header) in &self.batches {
            let bytes = self.bytes.get(at..at + header.size).unwrap_or_default();
            at += header.size;
            match check_batch(header, bytes, &mut scratch, limits) {
                Ok(records) => out.records += records,
                Err(bad) => out.bad.push(BadRecords {
                    position: *position,
                    at: bad.0,
                    reason: bad.1,
                    offsets: header.base_offset..header.last_offset.next(),
                }),
            }
        }
        out
    }
}

/// What a chunk came to.
#[derive(Default)]
pub struct Checked {
    /// Records that are sound.
    pub records: u64,
    /// Batches whose records are not.
    pub bad: Vec<BadRecords>,
}

/// A batch whose checksum holds and whose records are not what its header says.
pub struct BadRecords {
    /// Where it begins.
    pub position: Position,
    /// The byte of it at which that shows.
    pub at: usize,
    /// Why.
    pub reason: String,
    /// Its offsets.
    pub offsets: std::ops::Range<Offset>,
}

/// Checks the records of one batch; how many there are, or the byte and the reason.
pub fn check_batch(
    header: &BatchHeader,
    bytes: &[u8],
    scratch: &mut Scratch,
    limits: &Limits,
) -> Result<u64, (usize, String)> {
    let batch = Batch::checked(header.clone(), bytes);
    if header.magic >= 2 && header.count < 0 {
        return Err((57, format!("record count {}", header.count)));
    }
    let records = batch
        .records(scratch, limits)
        .map_err(|d| (d.at, d.reason))?;
    // The first offset of a compressed magic 0 or 1 wrapper is not in its header.
    let mut next = match header.magic {
        0 | 1 => Offset::ZERO,
        _ => header.base_offset,
    };
    // A magic 0 or 1 wrapper at offset 0 need not tell its last one: some producers left it unset.
    let last = match header.magic {
        0 | 1 if header.last_offset == Offset::ZERO => Offset::MAX,
        _ => header.last_offset,
    };
    let mut count = 0;
    for record in records {
        let record = record.map_err(|d| (d.at, d.reason))?;
        if record.offset < next || record.offset > last {
            let (first, last) = (header.base_offset, header.last_offset);
            let why = format!(
                "record offset {} in a batch from {first} to {last}, {next} or more expected",
                record.offset
            );
            return Err((0, why));
        }
        next = record.offset.next();
        count += 1;
    }
    Ok(count)
}
