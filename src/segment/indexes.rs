//! The offset and the time index of a sealed segment: made anew from its log, and whether those that
//! are there can stay.
//!
//! Owns the cheap look ([`are_current`]), which reads the indexes and a few dozen headers: it sees one
//! that is missing, cut short, of another segment, or left behind, and by samples one that is altered.
//! That *every* entry holds is what `verify` finds out, with the whole log read. An index that passes
//! and lies all the same costs a reader time: it checks each entry that it uses
//! ([`lookup`](super::lookup)).

use super::active::{INDEX_BYTES_MAX, INDEX_INTERVAL_BYTES};
use super::lookup::agrees;
use super::scan::{Scanner, Walk};
use crate::error::Result;
use crate::format::batch::BatchHeader;
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry};
use crate::format::{Offset, Position, TimestampMs};

/// Entries that are held against the log, beside the last one.
const SAMPLES: usize = 16;
/// How far an offset index may end before its log does; one of a broker may be sparser than ours.
const LAG_BYTES_MAX: u64 = 1 << 20;

/// The bytes of an offset and a time index, by the rules of [`active`](super::active), for a segment
/// that is sealed.
#[derive(Default)]
pub struct Indexes {
    base: Offset,
    offsets: Vec<u8>,
    times: Vec<u8>,
    since: u64,
    largest: Option<(TimestampMs, Offset)>,
    indexed: TimestampMs,
}

impl Indexes {
    /// Those of a segment without batches.
    pub fn new(base: Offset) -> Indexes {
        Indexes {
            base,
            indexed: TimestampMs::NONE,
            ..Indexes::default()
        }
    }

    /// Takes in the next batch.
    pub fn note(&mut self, header: &BatchHeader, at: Position) {
        let (time, last) = (header.max_timestamp, header.last_offset);
        if time > self.largest.map_or(TimestampMs::NONE, |l| l.0) {
            self.largest = Some((time, last));
        }
        let room = self.offsets.len() + OffsetEntry::BYTES <= INDEX_BYTES_MAX;
        if self.since > INDEX_INTERVAL_BYTES && room {
            if let Some(entry) = OffsetEntry::new(self.base, last, at) {
                entry.encode(&mut self.offsets);
                self.since = 0;
            }
            self.add_time();
        }
        self.since += header.size as u64;
    }

    fn add_time(&mut self) {
        let Some((time, offset)) = self.largest.filter(|l| l.0 > self.indexed) else {
            return;
        };
        if let Some(entry) = TimeEntry::new(self.base, time, offset) {
            entry.encode(&mut self.times);
            self.indexed = time;
        }
    }

    /// The bytes of the offset index and of the time index.
    pub fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        self.add_time();
        (self.offsets, self.times)
    }
}

/// Whether the bytes of a segment's `.index` and `.timeindex` can stay. `scanner` is over the whole of
/// the sealed segment, and is moved.
///
/// # Errors
/// The log cannot be read.
pub fn are_current(scanner: &mut Scanner, offsets: &[u8], times: &[u8]) -> Result<bool> {
    let base = scanner.base();
    let (Ok(count), Ok(_)) = (
        index::check_offsets(offsets, base, scanner.end().0),
        index::check_times(times, base),
    ) else {
        return Ok(false);
    };
    let samples = (0..count).step_by(count.div_ceil(SAMPLES).max(1));
    for i in samples.chain(count.checked_sub(1)) {
        // What a preallocated index without entries begins with is no lie.
        let entry = index::get(offsets, i);
        let entry = entry.filter(|e: &OffsetEntry| e.relative > 0 || e.position > 0);
        if let Some(entry) = entry
            && !agrees(scanner, &entry)?
        {
            return Ok(false);
        }
    }
    let latest = index::last(times).or(index::entries(times).last());
    let latest = latest.filter(|e: &TimeEntry| e.relative > 0 || e.timestamp > TimestampMs(0));
    if let Some(entry) = &latest
        && !has_time(scanner, offsets, entry)?
    {
        return Ok(false);
    }
    let last = index::get(offsets, count.wrapping_sub(1));
    let (lag, largest) = rest(
        scanner,
        last.map_or(Position(0), |e: OffsetEntry| e.position()),
    )?;
    let is_full = offsets.len() + OffsetEntry::BYTES > INDEX_BYTES_MAX;
    let latest = latest.map_or(TimestampMs(0), |e| e.timestamp);
    Ok((lag <= LAG_BYTES_MAX || is_full) && latest >= largest)
}

/// Whether the batch that holds the entry's offset has the entry's timestamp as its largest.
fn has_time(scanner: &mut Scanner, offsets: &[u8], entry: &TimeEntry) -> Result<bool> {
    let (base, offset) = (scanner.base(), entry.offset(scanner.base()));
    let before = index::lookup_offset(offsets, base, Offset(offset.0 - 1));
    let before = before.map_or(Position(0), |e| e.position());
    scanner.seek(before, base);
    let mut walk = scanner.walk();
    while let Walk::Header(header, _) = walk.next()? {
        if header.last_offset >= offset {
            return Ok(header.max_timestamp == entry.timestamp);
        }
    }
    Ok(false)
}

/// Bytes of the batches behind the one at `from`, and the largest timestamp from there on.
fn rest(scanner: &mut Scanner, from: Position) -> Result<(u64, TimestampMs)> {
    let base = scanner.base();
    scanner.seek(from, base);
    let mut walk = scanner.walk();
    let (mut first, mut lag, mut largest) = (None, 0, TimestampMs::NONE);
    while let Walk::Header(header, _) = walk.next()? {
        largest = largest.max(header.max_timestamp);
        lag = walk.position().0 - first.get_or_insert(walk.position()).0;
        if lag > LAG_BYTES_MAX {
            break;
        }
    }
    Ok((lag, largest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Limits;
    use crate::format::names::{Kind, file_name};
    use crate::log::testing::TestLog;
    use crate::segment::scan::{Span, Step};
    use std::sync::Arc;

    /// A segment of 40 batches of some 300 bytes, later and later.
    fn segment() -> (TestLog, Scanner) {
        let log = TestLog::new("t-0");
        let value = "v".repeat(250);
        let mut segment = log.segment(7);
        for i in 0..40 {
            segment = segment.batch(7 + i, &format!("k={value}@{}", 1000 + i));
        }
        segment.write();
        let name = file_name(Offset(7), Kind::Log);
        let file = log.open().open_file(&name).unwrap();
        let len = file.len().unwrap();
        let scanner = Scanner::short(Arc::clone(&file), Span::whole(Offset(7), len), LIMITS);
        (log, scanner)
    }

    const LIMITS: Limits = Limits {
        batch_bytes_max: 1 << 20,
        body_bytes_max: 1 << 20,
        zstd_window_log_max: 27,
    };

    fn made(scanner: &mut Scanner) -> (Vec<u8>, Vec<u8>) {
        let mut indexes = Indexes::new(Offset(7));
        scanner.seek(Position(0), Offset(7));
        while let Step::Batch(at) = scanner.step().unwrap() {
            indexes.note(scanner.header().unwrap(), at);
        }
        indexes.finish()
    }

    #[test]
    fn what_is_made_can_stay_and_what_is_altered_cannot() {
        let (_log, mut scanner) = segment();
        let (offsets, times) = made(&mut scanner);
        assert!(offsets.len() >= 2 * OffsetEntry::BYTES && times.len() > TimeEntry::BYTES);
        let mut ok = |o: &[u8], t: &[u8]| are_current(&mut scanner, o, t).unwrap();
        assert!(ok(&offsets, &times));
        let zeros = [&offsets[..], &[0; 80]].concat();
        assert!(ok(&zeros, &times), "preallocated");
        assert!(ok(&offsets[..8], &times), "sparser than ours");
        for i in 0..offsets.len() {
            let mut lie = offsets.clone();
            lie[i] = lie[i].wrapping_sub(1);
            assert!(!ok(&lie, &times), "byte {i} of the offset index");
        }
        assert!(
            !ok(&offsets[..9], &times) && !ok(&offsets, &times[..13]),
            "cut"
        );
        assert!(
            !ok(&offsets, &times[..times.len() - 12]),
            "the latest time is absent"
        );
        assert!(
            !ok(&offsets, &[]) && !ok(&offsets, &[0; 12]),
            "no time at all"
        );
        for i in times.len() - 12..times.len() {
            let mut lie = times.clone();
            lie[i] = lie[i].wrapping_sub(1);
            assert!(!ok(&offsets, &lie), "byte {i} of the time index");
        }
    }
}
