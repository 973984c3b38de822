//! From an offset or a time to a place in a segment, through its indexes.
//!
//! Owns the distrust: an index has no checksum, may be missing, stale, preallocated with zeros or
//! made by an enemy, so what it says is believed only if the log agrees.
//!
//! * An offset entry counts if a batch header stands at its position, and that batch, or one behind
//!   it, ends at exactly the entry's offset. (Where several batches were appended at once, the entry
//!   has the place of the first and the offset of the last.) Checksums are left to whoever reads on.
//! * A time entry counts if the batch that holds its offset has exactly its timestamp as the largest.
//!   That no *earlier* record is later, which is what the entry says, cannot be checked without
//!   reading them; an index that is right in everything else is taken at its word there.
//!
//! An entry that does not count leads to the one before it, at most [`ENTRIES_TRIED`] times, then to
//! the segment's start. So an index saves time and never decides an answer.
//!
//! Entries are read with pread: a bisection over blocks, then one block, together less than ten small
//! reads. A map would cost as much in page faults, and the active segment's indexes are cut while
//! others read them.

use super::scan::{Scan, Scanner, Step, Walk};
use crate::error::{Error, Result};
use crate::format::index::{self, Entry, OffsetEntry, TimeEntry};
use crate::format::{Offset, Position, TimestampMs};
use crate::sys::File;

/// Entries of one block: one page of offsets.
const BLOCK_ENTRIES: u64 = 512;
/// How many entries may fail before the index is given up.
const ENTRIES_TRIED: usize = 4;

/// Moves `scanner` to a batch of its segment from which a scan meets every batch that holds `target`
/// or more; usually to the one that holds it, or a few before. `index` is the segment's `.index`.
///
/// # Errors
/// A file cannot be read.
pub fn seek_offset(scanner: &mut Scanner, index: Option<&dyn File>, target: Offset) -> Result<()> {
    seek(scanner, index, target, true)
}

/// Moves `scanner` as near to the end of its span as the index knows, before a valid batch: a header
/// alone does not prove that all of it is there.
///
/// # Errors
/// A file cannot be read.
pub fn seek_last(scanner: &mut Scanner, index: Option<&dyn File>) -> Result<()> {
    seek(scanner, index, Offset(i64::MAX - 1), false)
}

/// As [`seek_offset`]; with `may_pass` behind the batches of an entry if `target` lies behind them.
fn seek(
    scanner: &mut Scanner,
    index: Option<&dyn File>,
    target: Offset,
    may_pass: bool,
) -> Result<()> {
    let base = scanner.base();
    let mut wanted = target;
    for _ in 0..ENTRIES_TRIED {
        let low = |e: &OffsetEntry| e.offset(base) <= wanted;
        let entry = match index {
            Some(file) => block(file, low)?.and_then(|b| index::lookup_offset(&b, base, wanted)),
            None => None,
        };
        let Some(entry) = entry else { break };
        let offset = entry.offset(base);
        if follows(scanner, &entry, may_pass && target > offset)?
            && (may_pass || is_valid(scanner, entry.position())?)
        {
            return Ok(());
        }
        wanted = Offset(offset.0.saturating_sub(1));
    }
    scanner.seek(Position(0), base);
    Ok(())
}

/// Whether the batch at `position`, where `scanner` stays, is valid.
fn is_valid(scanner: &mut Scanner, position: Position) -> Result<bool> {
    let valid = matches!(scanner.step()?, Step::Batch(_));
    scanner.seek(position, scanner.base());
    Ok(valid)
}

/// Whether the headers in the log bear an entry out. Moves `scanner`.
///
/// # Errors
/// The log cannot be read.
pub fn agrees(scanner: &mut Scanner, entry: &OffsetEntry) -> Result<bool> {
    follows(scanner, entry, false)
}

/// Moves `scanner` to the place of an entry, or `pass`es the batches it speaks of, if the headers
/// from there on bear it out.
fn follows(scanner: &mut Scanner, entry: &OffsetEntry, pass: bool) -> Result<bool> {
    let (base, offset) = (scanner.base(), entry.offset(scanner.base()));
    let position = entry.position();
    if position >= scanner.end() {
        return Ok(false);
    }
    scanner.seek(position, base);
    let mut walk = scanner.walk();
    while let Walk::Header(_, _) = walk.next()? {
        if walk.next_offset() <= offset {
            continue;
        }
        if pass {
            scanner.seek(walk.position(), offset.next());
        }
        return Ok(walk.next_offset() == offset.next());
    }
    Ok(false)
}

/// Moves `scanner` to a batch of its segment before which no record is as late as `time`, as far as
/// the indexes can be believed. `offsets` is the segment's `.index`, `times` its `.timeindex`.
///
/// # Errors
/// A file cannot be read.
pub fn seek_time(
    scanner: &mut Scanner,
    offsets: Option<&dyn File>,
    times: Option<&dyn File>,
    time: TimestampMs,
) -> Result<()> {
    let base = scanner.base();
    let mut wanted = TimestampMs(time.0.saturating_sub(1));
    for _ in 0..ENTRIES_TRIED {
        let low = |e: &TimeEntry| e.timestamp <= wanted;
        let entry = match times {
            Some(file) => block(file, low)?.and_then(|b| index::lookup_time(&b, wanted)),
            None => None,
        };
        let Some(entry) = entry else { break };
        if holds_time(scanner, offsets, &entry)? {
            return Ok(());
        }
        wanted = TimestampMs(entry.timestamp.0.saturating_sub(1));
    }
    scanner.seek(Position(0), base);
    Ok(())
}

/// Moves `scanner` to the batch that holds the entry's offset, if its largest timestamp is the
/// entry's.
fn holds_time(
    scanner: &mut Scanner,
    offsets: Option<&dyn File>,
    entry: &TimeEntry,
) -> Result<bool> {
    let offset = entry.offset(scanner.base());
    seek_offset(scanner, offsets, offset)?;
    loop {
        let before = scanner.next_offset();
        let (header, position) = match scanner.next()? {
            Scan::Batch(batch, position) => (batch.header().clone(), position),
            Scan::End(_) | Scan::Bad(_) => return Ok(false),
        };
        if header.last_offset >= offset {
            scanner.seek(position, before);
            return Ok(header.base_offset <= offset && header.max_timestamp == entry.timestamp);
        }
    }
}

/// The block of an index in which the last entry lies for which `low` holds, with its neighbours;
/// `None` if there is no whole entry. An index in disorder gives some block.
fn block<E: Entry>(file: &dyn File, low: impl Fn(&E) -> bool) -> Result<Option<Vec<u8>>> {
    let size = E::BYTES as u64;
    let entries = file.len().map_err(|e| Error::io("cannot stat", e))? / size;
    let mut bytes = Vec::new();
    let read = |from: u64, count: u64, out: &mut Vec<u8>| -> Result<()> {
        let len = usize::try_from(count.min(entries.saturating_sub(from)) * size).unwrap_or(0);
        out.resize(len, 0);
        let n = file.read_full_at(out, from * size);
        out.truncate(n.map_err(|e| Error::io("cannot read", e))?);
        Ok(())
    };
    // Blocks whose first entry is low come first, as blanks of a preallocated tail come last.
    let (mut from, mut to) = (0, entries.div_ceil(BLOCK_ENTRIES));
    while to - from > 1 {
        let middle = from + (to - from) / 2;
        read(middle * BLOCK_ENTRIES, 1, &mut bytes)?;
        match index::get::<E>(&bytes, 0) {
            Some(e) if !e.is_blank() && low(&e) => from = middle,
            _ => to = middle,
        }
    }
    let first = (from * BLOCK_ENTRIES).saturating_sub(1);
    read(first, BLOCK_ENTRIES + 2, &mut bytes)?;
    Ok((!bytes.is_empty()).then_some(bytes))
}
