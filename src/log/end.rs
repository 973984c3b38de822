//! `.logd/end`: where appends go on, and how much of the log is durable.
//!
//! Two pairs of 128-byte slots, all integers big-endian. A pair is written alternately (slot =
//! sequence mod 2), so a torn write spoils one slot and the other still holds the state before it.
//!
//! | at | what | written | meaning |
//! |---|---|---|---|
//! | 0, 128 | the *end* pair | under the append lock, before it is released | a hint where checking starts |
//! | 256, 384 | the *durable* pair | under the sync lock, after the sync | D: a promise |
//!
//! Every slot begins:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | `LGDE` (end) or `LGDD` (durable) |
//! | 4 | 4 | CRC-32 (IEEE) of bytes 8 to 127 |
//! | 8 | 8 | sequence, 1 and up; the larger valid one of a pair counts |
//! | 16 | 16 | boot id of the writer |
//!
//! An end slot goes on:
//!
//! | at | size | field |
//! |---|---|---|
//! | 32 | 8 | base offset of the active segment |
//! | 40 | 8 | position where its data ends |
//! | 48 | 8 | log end offset |
//! | 56 | 8 | highest log end offset ever given (no offset names two records) |
//! | 64 | 8 | wall clock, ms |
//! | 72 | 8 | clock of this boot, ms |
//! | 80 | 8 | inode of the active `.log`; 0 while it is being made |
//! | 88 | 8 | largest timestamp in the active segment; -1 none |
//! | 96 | 8 | max timestamp of its first batch; -1 none |
//! | 104 | 4 | offset of the largest timestamp, from the base offset |
//! | 108 | 4 | bytes since the last offset index entry |
//! | 112 | 4 | bytes of `.index` |
//! | 116 | 4 | bytes of `.timeindex` |
//! | 120 | 4 | leader epoch |
//! | 124 | 4 | bit 0: the active segment holds producer batches |
//!
//! A durable slot: 32: 8 bytes D; the rest zero.
//!
//! The end pair is a hint: wrong, stale, torn or of another boot it costs a scan, never an answer.
//! D is written after the sync it speaks of, so it never runs ahead of the truth and holds in every
//! boot; a log that ends below it is damaged. Neither pair is synced by itself: an older D is still
//! true. But whoever leaves a gap between two segments on purpose (compaction, repair) syncs this file
//! once D is past it: after a reboot a gap above D is taken for a lost tail. The file is 512 bytes and
//! never grows.

use std::io;

use crate::format::{Offset, Position, TimestampMs};
use crate::log::files;
use crate::sys::{Access, Dir, File};

/// Size of a slot in bytes.
pub const SLOT_BYTES: usize = 128;
/// Where the end pair lies.
pub const END_PAIR_AT: u64 = 0;
/// Where the durable pair lies.
pub const DURABLE_PAIR_AT: u64 = END_PAIR_AT + 2 * SLOT_BYTES as u64;
/// Size of the file.
pub const FILE_BYTES: u64 = DURABLE_PAIR_AT + 2 * SLOT_BYTES as u64;

const END_MAGIC: [u8; 4] = *b"LGDE";
const DURABLE_MAGIC: [u8; 4] = *b"LGDD";
const HAS_PRODUCERS: u32 = 1;

/// Where the last holder of the append lock left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndHint {
    /// Counts the writes of this pair.
    pub sequence: u64,
    /// Boot in which it was written.
    pub boot_id: [u8; 16],
    /// Base offset of the active segment.
    pub base: Offset,
    /// Where its data ends.
    pub position: Position,
    /// Log end offset.
    pub end: Offset,
    /// Highest log end offset ever given.
    pub highest: Offset,
    /// Wall clock, ms.
    pub wall_ms: i64,
    /// Clock of the boot, ms.
    pub boot_ms: i64,
    /// Inode of the active `.log`, 0 while unknown.
    pub inode: u64,
    /// Largest timestamp in the active segment.
    pub max_timestamp: TimestampMs,
    /// Max timestamp of its first batch.
    pub first_timestamp: TimestampMs,
    /// Offset that the largest timestamp belongs to, from the base offset.
    pub max_timestamp_relative: u32,
    /// Bytes since the last offset index entry.
    pub since_index_entry: u32,
    /// Bytes of `.index`.
    pub index_bytes: u32,
    /// Bytes of `.timeindex`.
    pub time_index_bytes: u32,
    /// Leader epoch.
    pub epoch: i32,
    /// The active segment holds producer batches.
    pub has_producers: bool,
}

impl EndHint {
    /// Whether it was written in this boot. A host that does not tell its boots apart (all zeros)
    /// has no hint that can be believed.
    pub fn is_of(&self, boot_id: [u8; 16]) -> bool {
        boot_id != [0; 16] && self.boot_id == boot_id
    }
}

/// Both pairs as they were at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The newest valid end slot.
    pub hint: Option<EndHint>,
    /// The durable offset D (exclusive), if one was ever published.
    pub durable: Option<Offset>,
    /// Sequence of the newest valid durable slot, 0 without one.
    pub durable_sequence: u64,
    /// Boot in which it was written.
    pub durable_boot_id: Option<[u8; 16]>,
}

impl End {
    /// Whether the host rebooted since the last write that is on record here; false if nothing is.
    /// The end slots are not synced, so a crash may leave only the durable one to tell.
    pub fn rebooted(&self, boot_id: [u8; 16]) -> bool {
        let written = self.hint.map(|h| h.boot_id).or(self.durable_boot_id);
        written.is_some_and(|w| w != boot_id)
    }
}

/// Reads `.logd/end` of a partition's `.logd` directory; empty if there is none.
///
/// # Errors
/// What the system answers. Bad content is no error.
pub fn read(logd_dir: &dyn Dir) -> io::Result<End> {
    match logd_dir.open(files::END, Access::Read) {
        Ok(file) => read_from(file.as_ref()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(End::default()),
        Err(e) => Err(e),
    }
}

/// Reads both pairs from the open file.
///
/// # Errors
/// What the system answers.
pub fn read_from(file: &dyn File) -> io::Result<End> {
    let mut bytes = [0; FILE_BYTES as usize];
    file.read_full_at(&mut bytes, 0)?;
    let mut slots = bytes.chunks_exact(SLOT_BYTES);
    let mut next = || slots.next().unwrap_or_default();
    let hint = newest(decode_hint(next()), decode_hint(next()), |h| h.sequence);
    let durable = newest(decode_durable(next()), decode_durable(next()), |d| d.0);
    Ok(End {
        hint,
        durable: durable.map(|d| d.2),
        durable_sequence: durable.map_or(0, |d| d.0),
        durable_boot_id: durable.map(|d| d.1),
    })
}

fn newest<T>(a: Option<T>, b: Option<T>, sequence: impl Fn(&T) -> u64) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if sequence(&a) > sequence(&b) { a } else { b }),
        (a, b) => a.or(b),
    }
}

/// Writes an end slot. The caller holds the append lock.
///
/// # Errors
/// What the system answers.
pub fn write_hint(file: &dyn File, hint: &EndHint) -> io::Result<()> {
    write_slot(file, END_PAIR_AT, hint.sequence, &encode_hint(hint))
}

/// Publishes D. The caller holds the sync lock, and has synced everything below `durable`.
///
/// # Errors
/// What the system answers.
pub fn write_durable(
    file: &dyn File,
    sequence: u64,
    boot_id: [u8; 16],
    durable: Offset,
) -> io::Result<()> {
    let mut slot = Slot::new(DURABLE_MAGIC, sequence, boot_id);
    slot.put(&durable.0.to_be_bytes());
    write_slot(file, DURABLE_PAIR_AT, sequence, &slot.finish())
}

fn write_slot(file: &dyn File, pair: u64, sequence: u64, slot: &[u8]) -> io::Result<()> {
    file.write_all_at(slot, pair + (sequence % 2) * SLOT_BYTES as u64)
}

fn encode_hint(h: &EndHint) -> [u8; SLOT_BYTES] {
    let mut slot = Slot::new(END_MAGIC, h.sequence, h.boot_id);
    slot.put(&h.base.0.to_be_bytes());
    slot.put(&h.position.0.to_be_bytes());
    slot.put(&h.end.0.to_be_bytes());
    slot.put(&h.highest.0.to_be_bytes());
    slot.put(&h.wall_ms.to_be_bytes());
    slot.put(&h.boot_ms.to_be_bytes());
    slot.put(&h.inode.to_be_bytes());
    slot.put(&h.max_timestamp.0.to_be_bytes());
    slot.put(&h.first_timestamp.0.to_be_bytes());
    slot.put(&h.max_timestamp_relative.to_be_bytes());
    slot.put(&h.since_index_entry.to_be_bytes());
    slot.put(&h.index_bytes.to_be_bytes());
    slot.put(&h.time_index_bytes.to_be_bytes());
    slot.put(&h.epoch.to_be_bytes());
    slot.put(&(if h.has_producers { HAS_PRODUCERS } else { 0 }).to_be_bytes());
    slot.finish()
}

fn decode_hint(bytes: &[u8]) -> Option<EndHint> {
    let mut s = Fields::open(bytes, END_MAGIC)?;
    Some(EndHint {
        sequence: s.sequence()?,
        boot_id: s.take()?,
        base: Offset(s.i64()?),
        position: Position(s.u64()?),
        end: Offset(s.i64()?),
        highest: Offset(s.i64()?),
        wall_ms: s.i64()?,
        boot_ms: s.i64()?,
        inode: s.u64()?,
        max_timestamp: TimestampMs(s.i64()?),
        first_timestamp: TimestampMs(s.i64()?),
        max_timestamp_relative: s.u32()?,
        since_index_entry: s.u32()?,
        index_bytes: s.u32()?,
        time_index_bytes: s.u32()?,
        epoch: i32::from_be_bytes(s.take()?),
        has_producers: s.u32()? & HAS_PRODUCERS != 0,
    })
}

/// Sequence, boot id, D.
fn decode_durable(bytes: &[u8]) -> Option<(u64, [u8; 16], Offset)> {
    let mut s = Fields::open(bytes, DURABLE_MAGIC)?;
    Some((s.sequence()?, s.take()?, Offset(s.i64()?)))
}

/// A slot being written.
struct Slot {
    bytes: [u8; SLOT_BYTES],
    at: usize,
}

impl Slot {
    fn new(magic: [u8; 4], sequence: u64, boot_id: [u8; 16]) -> Slot {
        let mut slot = Slot {
            bytes: [0; SLOT_BYTES],
            at: 0,
        };
        slot.put(&magic);
        slot.put(&[0; 4]);
        slot.put(&sequence.to_be_bytes());
        slot.put(&boot_id);
        slot
    }

    fn put(&mut self, field: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.at..self.at + field.len()) {
            place.copy_from_slice(field);
            self.at += field.len();
        }
    }

    fn finish(mut self) -> [u8; SLOT_BYTES] {
        let crc = crc32fast::hash(&self.bytes[8..]);
        self.bytes[4..8].copy_from_slice(&crc.to_be_bytes());
        self.bytes
    }
}

/// A slot being read, after its magic and checksum were found right.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn open(slot: &'a [u8], magic: [u8; 4]) -> Option<Fields<'a>> {
        let mut s = Fields(slot);
        let right = s.take()? == magic && s.u32()? == crc32fast::hash(slot.get(8..SLOT_BYTES)?);
        right.then_some(s)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    /// One that leaves room to count on.
    fn sequence(&mut self) -> Option<u64> {
        self.u64().filter(|s| *s < 1 << 62)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(sequence: u64) -> EndHint {
        EndHint {
            sequence,
            boot_id: [7; 16],
            base: Offset(1 << 40),
            position: Position(u64::MAX - 1),
            end: Offset(5),
            highest: Offset(6),
            wall_ms: 7,
            boot_ms: 8,
            inode: 9,
            max_timestamp: TimestampMs(-1),
            first_timestamp: TimestampMs(10),
            max_timestamp_relative: 11,
            since_index_entry: 12,
            index_bytes: 13,
            time_index_bytes: 14,
            epoch: -1,
            has_producers: true,
        }
    }

    #[test]
    fn hint_round_trips_and_fills_its_slot() {
        let bytes = encode_hint(&hint(3));
        assert_eq!(decode_hint(&bytes), Some(hint(3)));
        assert_eq!(bytes[124..], [0, 0, 0, 1]);
    }

    #[test]
    fn a_torn_slot_is_no_slot() {
        let bytes = encode_hint(&hint(3));
        for i in 0..SLOT_BYTES {
            let mut torn = bytes;
            torn[i] ^= 0x10;
            assert_eq!(decode_hint(&torn), None, "byte {i}");
        }
        assert_eq!(decode_hint(&[0; SLOT_BYTES]), None);
        assert_eq!(decode_durable(&bytes), None);
    }

    #[test]
    fn a_hint_of_another_or_an_unknown_boot_is_not_believed() {
        assert!(hint(1).is_of([7; 16]));
        assert!(!hint(1).is_of([8; 16]));
        let unknown = EndHint {
            boot_id: [0; 16],
            ..hint(1)
        };
        assert!(!unknown.is_of([0; 16]));
    }

    #[test]
    fn the_newer_slot_counts() {
        assert_eq!(newest(Some(1), Some(2), |n| *n), Some(2));
        assert_eq!(newest(Some(2), Some(1), |n| *n), Some(2));
        assert_eq!(newest(None, Some(1), |n| *n), Some(1));
    }
}
