//! The three indexes beside a `.log`: offset, time and aborted transactions.
//!
//! Owns their entries, the search in them and the judgement whether one can be believed. No header
//! and no checksum: an index is derived from its log and rebuilt rather than repaired, so a reader
//! checks what it finds here against the batch header it leads to, and scans when they disagree.
//!
//! All integers are big-endian; `relative` is an offset minus the base offset in the file's name.
//!
//! | `.index`    | 8 bytes  | | `.timeindex` | 12 bytes  | | `.txnindex`        | 34 bytes |
//! |-------------|----------|-|--------------|-----------|-|--------------------|----------|
//! | relative    | u32 at 0 | | timestamp    | i64 at 0  | | version (0)        | i16 at 0 |
//! | position    | u32 at 4 | | relative     | u32 at 8  | | producer id        | i64 at 2 |
//! |             |          | |              |           | | first offset       | i64 at 10 |
//! |             |          | |              |           | | last offset        | i64 at 18 |
//! |             |          | |              |           | | last stable offset | i64 at 26 |
//!
//! * An offset entry holds the *last* offset of the batch that *starts* at `position`. Offsets
//!   strictly increase, positions do not decrease.
//! * A time entry says that no record up to its offset has a larger timestamp. Timestamps strictly
//!   increase, offsets do not decrease.
//! * A transaction entry is written for each abort marker, in the order of the markers.
//!
//! The active segment's offset and time index are preallocated with zeros, and after a crash nothing
//! says where the entries end: they end before the first entry but the first whose relative offset
//! is 0 ([`valid_entries`]). The first entry may be such a zero too; believing it is harmless for
//! searching (it leads to the segment's start) but not for asking the largest timestamp ([`last`]
//! leaves it out).

use super::fields::Reader;
use super::{Defect, Offset, Position, TimestampMs};

/// Largest relative offset and largest position: both are int32 in Kafka.
pub const RELATIVE_MAX: u32 = i32::MAX as u32;

/// An entry of fixed size.
pub trait Entry: Copy + PartialEq {
    /// Size in bytes.
    const BYTES: usize;

    /// Decodes an entry from exactly [`Entry::BYTES`] bytes.
    ///
    /// # Errors
    /// A slice of another length; in a transaction index also an unknown version.
    fn decode(bytes: &[u8]) -> Result<Self, Defect>;

    /// Appends the entry's bytes.
    fn encode(&self, out: &mut Vec<u8>);

    /// Whether this looks like a preallocated entry.
    fn is_blank(&self) -> bool;

    /// Why this entry cannot follow `before`, if so.
    fn misfit(&self, before: &Self) -> Option<String>;
}

/// Entry of an offset index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetEntry {
    /// Last offset of the batch, from the segment's base offset.
    pub relative: u32,
    /// Byte at which the batch starts.
    pub position: u32,
}

/// Entry of a time index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// No record up to the offset is later than this.
    pub timestamp: TimestampMs,
    /// The offset, from the segment's base offset.
    pub relative: u32,
}

/// Entry of a transaction index: one aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnEntry {
    /// Whose transaction it was.
    pub producer_id: i64,
    /// Its first record.
    pub first_offset: Offset,
    /// Its abort marker.
    pub last_offset: Offset,
    /// Last stable offset (exclusive) when the marker was written.
    pub last_stable_offset: Offset,
}

impl OffsetEntry {
    /// The entry for a batch, or `None` where the difference or the position exceeds 31 bits.
    pub fn new(base: Offset, last: Offset, position: Position) -> Option<OffsetEntry> {
        Some(OffsetEntry {
            relative: relative(base, last)?,
            position: u32::try_from(position.0)
                .ok()
                .filter(|p| *p <= RELATIVE_MAX)?,
        })
    }

    /// The batch's last offset.
    pub fn offset(&self, base: Offset) -> Offset {
        base + i64::from(self.relative)
    }

    /// Where the batch starts.
    pub fn position(&self) -> Position {
        Position(u64::from(self.position))
    }
}

impl TimeEntry {
    /// The entry, or `None` where the difference exceeds 31 bits.
    pub fn new(base: Offset, timestamp: TimestampMs, offset: Offset) -> Option<TimeEntry> {
        let relative = relative(base, offset)?;
        Some(TimeEntry {
            timestamp,
            relative,
        })
    }

    /// The offset.
    pub fn offset(&self, base: Offset) -> Offset {
        base + i64::from(self.relative)
    }
}

/// `offset - base` where it is 0..=2^31-1: what an index, and hence a segment, can hold.
pub fn relative(base: Offset, offset: Offset) -> Option<u32> {
    let n = offset.0.checked_sub(base.0)?;
    u32::try_from(n).ok().filter(|n| *n <= RELATIVE_MAX)
}

impl Entry for OffsetEntry {
    const BYTES: usize = 8;

    fn decode(bytes: &[u8]) -> Result<OffsetEntry, Defect> {
        let mut r = Reader::new(bytes);
        let (relative, position) = (r.u32()?, r.u32()?);
        r.end()?;
        Ok(OffsetEntry { relative, position })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.relative.to_be_bytes());
        out.extend_from_slice(&self.position.to_be_bytes());
    }

    fn is_blank(&self) -> bool {
        self.relative == 0
    }

    fn misfit(&self, before: &OffsetEntry) -> Option<String> {
        if self.relative <= before.relative {
            let (a, b) = (before.relative, self.relative);
            return Some(format!("relative offset {b} follows {a}"));
        }
        let (a, b) = (before.position, self.position);
        (b < a).then(|| format!("position {b} follows {a}"))
    }
}

impl Entry for TimeEntry {
    const BYTES: usize = 12;

    fn decode(bytes: &[u8]) -> Result<TimeEntry, Defect> {
        let mut r = Reader::new(bytes);
        let (timestamp, relative) = (TimestampMs(r.i64()?), r.u32()?);
        r.end()?;
        Ok(TimeEntry {
            timestamp,
            relative,
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.timestamp.0.to_be_bytes());
        out.extend_from_slice(&self.relative.to_be_bytes());
    }

    fn is_blank(&self) -> bool {
        self.relative == 0
    }

    fn misfit(&self, before: &TimeEntry) -> Option<String> {
        if self.timestamp <= before.timestamp {
            let (a, b) = (before.timestamp, self.timestamp);
            return Some(format!("timestamp {b} follows {a}"));
        }
        let (a, b) = (before.relative, self.relative);
        (b < a).then(|| format!("relative offset {b} follows {a}"))
    }
}

impl Entry for TxnEntry {
    const BYTES: usize = 34;

    fn decode(bytes: &[u8]) -> Result<TxnEntry, Defect> {
        let mut r = Reader::new(bytes);
        let version = r.i16()?;
        if version != 0 {
            return Err(Defect::new(
                0,
                format!("version {version} of a transaction entry, 0 is known"),
            ));
        }
        let entry = TxnEntry {
            producer_id: r.i64()?,
            first_offset: Offset(r.i64()?),
            last_offset: Offset(r.i64()?),
            last_stable_offset: Offset(r.i64()?),
        };
        r.end()?;
        Ok(entry)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&0i16.to_be_bytes());
        for field in [
            self.producer_id,
            self.first_offset.0,
            self.last_offset.0,
            self.last_stable_offset.0,
        ] {
            out.extend_from_slice(&field.to_be_bytes());
        }
    }

    /// Never: this index is not preallocated.
    fn is_blank(&self) -> bool {
        false
    }

    fn misfit(&self, before: &TxnEntry) -> Option<String> {
        let (a, b) = (before.last_offset, self.last_offset);
        (b <= a).then(|| format!("abort marker {b} follows {a}"))
    }
}

/// Entry `i`; `None` past the end or where it does not decode.
pub fn get<E: Entry>(bytes: &[u8], i: usize) -> Option<E> {
    let at = i.checked_mul(E::BYTES)?;
    let entry = bytes.get(at..at.checked_add(E::BYTES)?)?;
    E::decode(entry).ok()
}

/// How many entries come before a preallocated tail: all that precede the first *i > 0* whose
/// relative offset is 0. A partial last entry does not count.
///
/// Takes the logarithm of the file's length, as lookups need it; in an index that is out of order
/// anyway the boundary found is some such entry, not necessarily the first ([`check_offsets`] and
/// [`check_times`] look at each).
pub fn valid_entries<E: Entry>(bytes: &[u8]) -> usize {
    let n = bytes.len() / E::BYTES;
    let blank = |i| get::<E>(bytes, i).is_some_and(|e| e.is_blank());
    n.min(1) + first_where(1, n, blank)
}

/// How many of `from..to` come before the first `i` for which `is` holds, given that it then holds
/// for all that follow.
fn first_where(from: usize, to: usize, is: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (from, to.max(from));
    while low < high {
        let middle = low + (high - low) / 2;
        if is(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low - from
}

/// The entries before a preallocated tail, one by one; ends early where one does not decode.
pub fn entries<E: Entry>(bytes: &[u8]) -> impl Iterator<Item = E> + '_ {
    bytes
        .chunks_exact(E::BYTES)
        .map_while(|b| E::decode(b).ok())
        .enumerate()
        .take_while(|(i, e)| *i == 0 || !e.is_blank())
        .map(|(_, e)| e)
}

/// The last entry, unless the only one is blank: of a time index, the segment's largest timestamp.
pub fn last<E: Entry>(bytes: &[u8]) -> Option<E> {
    let n = valid_entries::<E>(bytes);
    let entry = get::<E>(bytes, n.checked_sub(1)?)?;
    (n > 1 || !entry.is_blank()).then_some(entry)
}

/// The last entry whose offset is at most `target`: the batch to start scanning at.
///
/// `None` when there is no such entry, or its neighbours show the index to be out of order: scan
/// from the segment's start. The caller still compares the entry with the batch header it finds.
pub fn lookup_offset(bytes: &[u8], base: Offset, target: Offset) -> Option<OffsetEntry> {
    let wanted = target.0.checked_sub(base.0).filter(|n| *n >= 0)?;
    lookup(bytes, |e: &OffsetEntry| i64::from(e.relative) <= wanted)
}

/// The last entry whose timestamp is at most `target`: no record before its offset is later than
/// `target`, so the scan for the first record at or after it may start there.
///
/// `None` as for [`lookup_offset`].
pub fn lookup_time(bytes: &[u8], target: TimestampMs) -> Option<TimeEntry> {
    lookup(bytes, |e: &TimeEntry| e.timestamp <= target)
}

/// The last entry for which `low` holds, if it and its neighbours are in order.
fn lookup<E: Entry>(bytes: &[u8], low: impl Fn(&E) -> bool) -> Option<E> {
    let n = valid_entries::<E>(bytes);
    let high = |i| get::<E>(bytes, i).is_some_and(|e| !low(&e));
    let i = first_where(0, n, high).checked_sub(1)?;
    let entry = get::<E>(bytes, i)?;
    let before = i.checked_sub(1).and_then(|i| get::<E>(bytes, i));
    let after = (i + 1 < n).then(|| get::<E>(bytes, i + 1)).flatten();
    let fits = before.is_none_or(|b| entry.misfit(&b).is_none())
        && after.is_none_or(|a| a.misfit(&entry).is_none() && !low(&a));
    (fits && low(&entry)).then_some(entry)
}

/// Checks an offset index throughout: whole entries, in order, within 31 bits, each position inside
/// a log of `log_len` bytes, nothing behind the entries but zeros. Gives the number of entries.
///
/// # Errors
/// The first entry that is wrong.
pub fn check_offsets(bytes: &[u8], base: Offset, log_len: u64) -> Result<usize, Defect> {
    check(bytes, |e: &OffsetEntry| {
        check_relative(base, e.relative).or_else(|| {
            // The entry of an empty preallocated index is (0, 0), also beside an empty log.
            let inside = u64::from(e.position) < log_len || *e == BLANK_OFFSET;
            (!inside).then(|| format!("position {} in a log of {log_len} bytes", e.position))
        })
    })
}

const BLANK_OFFSET: OffsetEntry = OffsetEntry {
    relative: 0,
    position: 0,
};

/// Checks a time index in the same way.
///
/// # Errors
/// The first entry that is wrong.
pub fn check_times(bytes: &[u8], base: Offset) -> Result<usize, Defect> {
    check(bytes, |e: &TimeEntry| {
        let none = e.timestamp < TimestampMs(0);
        check_relative(base, e.relative)
            .or_else(|| none.then(|| format!("timestamp {}", e.timestamp)))
    })
}

/// Checks a transaction index: whole entries of a known version, in order, each with its marker
/// after its first record, from `base` on, and its data not before the log. Gives their number.
///
/// # Errors
/// The first entry that is wrong.
pub fn check_txns(bytes: &[u8], base: Offset) -> Result<usize, Defect> {
    check(bytes, |e: &TxnEntry| {
        let (first, last) = (e.first_offset, e.last_offset);
        let sound = Offset::ZERO <= first && first <= last && base <= last && e.producer_id >= 0;
        (!sound).then(|| {
            let id = e.producer_id;
            format!("producer {id} aborted {first} to {last} in a segment from {base}")
        })
    })
}

fn check_relative(base: Offset, relative: u32) -> Option<String> {
    let fits = relative <= RELATIVE_MAX && base.0.checked_add(i64::from(relative)).is_some();
    (!fits).then(|| format!("relative offset {relative} from base offset {base}"))
}

fn check<E: Entry>(bytes: &[u8], wrong: impl Fn(&E) -> Option<String>) -> Result<usize, Defect> {
    let (chunks, partial) = (bytes.chunks_exact(E::BYTES), bytes.len() % E::BYTES);
    if partial != 0 {
        let at = bytes.len() - partial;
        return Err(Defect::new(at, format!("{partial} bytes of an entry")));
    }
    let mut before: Option<E> = None;
    for (i, chunk) in chunks.enumerate() {
        let at = i * E::BYTES;
        let entry = E::decode(chunk).map_err(|d| d.shifted(at))?;
        if i > 0 && entry.is_blank() {
            let tail = bytes.get(at..).unwrap_or_default();
            return match tail.iter().position(|b| *b != 0) {
                None => Ok(i),
                Some(p) => Err(Defect::new(at + p, "data behind the last entry")),
            };
        }
        let reason = wrong(&entry).or_else(|| entry.misfit(before.as_ref()?));
        if let Some(reason) = reason {
            return Err(Defect::new(at, reason));
        }
        before = Some(entry);
    }
    Ok(bytes.len() / E::BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::format::names::{self, Kind};
    use proptest::prelude::*;

    fn offsets(pairs: &[(u32, u32)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (relative, position) in pairs.iter().copied() {
            OffsetEntry { relative, position }.encode(&mut out);
        }
        out
    }

    fn encoded<E: Entry>(entries: &[E]) -> Vec<u8> {
        let mut out = Vec::new();
        entries.iter().for_each(|e| e.encode(&mut out));
        out
    }

    #[test]
    fn entries_end_at_the_preallocated_tail() {
        let mut bytes = offsets(&[(0, 0), (5, 100), (9, 200)]);
        assert_eq!(valid_entries::<OffsetEntry>(&bytes), 3);
        bytes.extend([0; 8 * 100 + 3]);
        assert_eq!(valid_entries::<OffsetEntry>(&bytes), 3);
        assert_eq!(entries::<OffsetEntry>(&bytes).count(), 3);
        assert_eq!(valid_entries::<OffsetEntry>(&[0; 80]), 1);
        assert_eq!(valid_entries::<OffsetEntry>(&[0; 7]), 0);
        assert_eq!(last::<OffsetEntry>(&bytes).unwrap().relative, 9);
        assert_eq!(last::<TimeEntry>(&[0; 120]), None);
    }

    #[test]
    fn lookup_never_leads_past_the_target() {
        let bytes = offsets(&[(5, 100), (9, 200), (20, 200), (21, 300)]);
        let at = |t| lookup_offset(&bytes, Offset(1000), Offset(t)).map(|e| e.relative);
        assert_eq!([at(999), at(1000), at(1004)], [None; 3]);
        assert_eq!([at(1005), at(1008), at(1009)], [Some(5), Some(5), Some(9)]);
        assert_eq!(
            [at(1020), at(1021), at(i64::MAX)],
            [Some(20), Some(21), Some(21)]
        );
        assert_eq!(at(i64::MIN), None);
    }

    #[test]
    fn lookup_in_a_disordered_index_gives_nothing() {
        let bytes = offsets(&[(5, 100), (9, 50), (20, 200)]);
        assert_eq!(lookup_offset(&bytes, Offset(0), Offset(10)), None);
    }

    #[test]
    fn check_names_the_first_bad_entry() {
        let wrong = |pairs: &[(u32, u32)]| {
            let d = check_offsets(&offsets(pairs), Offset(0), 300).unwrap_err();
            d.to_string()
        };
        assert_eq!(
            wrong(&[(5, 100), (5, 200)]),
            "byte 8: relative offset 5 follows 5"
        );
        assert_eq!(
            wrong(&[(5, 100), (6, 99)]),
            "byte 8: position 99 follows 100"
        );
        assert_eq!(
            wrong(&[(5, 300)]),
            "byte 0: position 300 in a log of 300 bytes"
        );
        assert_eq!(
            wrong(&[(1 << 31, 0)]),
            "byte 0: relative offset 2147483648 from base offset 0"
        );
        assert_eq!(
            wrong(&[(5, 9), (0, 0), (6, 20)]),
            "byte 19: data behind the last entry"
        );
        assert_eq!(check_offsets(&[0; 80], Offset(0), 0), Ok(1));
        assert!(check_offsets(&[0; 7], Offset(0), 9).is_err());
        assert!(check_offsets(&offsets(&[(5, 9)]), Offset(i64::MAX), 99).is_err());
    }

    #[test]
    fn transaction_entries_of_another_version_are_refused() {
        let mut bytes = vec![0; 34];
        assert!(TxnEntry::decode(&bytes).is_ok());
        bytes[1] = 1;
        assert_eq!(check_txns(&bytes, Offset(0)).unwrap_err().at, 0);
    }

    /// Index files that the corpus damaged on purpose.
    fn damaged(path: &std::path::Path) -> bool {
        path.to_string_lossy().contains("badindex/before")
    }

    #[test]
    fn corpus_indexes_are_sound_and_round_trip() {
        let Some(root) = corpus::root() else { return };
        let mut seen = [0; 3];
        for path in corpus::files(&root) {
            let Some(name) = names::parse(&corpus::name(&path)) else {
                continue;
            };
            let slot = match name.kind {
                Kind::OffsetIndex => 0,
                Kind::TimeIndex => 1,
                Kind::TxnIndex => 2,
                _ => continue,
            };
            let bytes = std::fs::read(&path).unwrap();
            let log = path.with_file_name(name.sibling(Kind::Log).to_string());
            let log_len = std::fs::metadata(log).map_or(u64::MAX, |m| m.len());
            let (checked, again) = match slot {
                0 => (
                    check_offsets(&bytes, name.base, log_len),
                    encoded(&entries::<OffsetEntry>(&bytes).collect::<Vec<_>>()),
                ),
                1 => (
                    check_times(&bytes, name.base),
                    encoded(&entries::<TimeEntry>(&bytes).collect::<Vec<_>>()),
                ),
                _ => (
                    check_txns(&bytes, name.base),
                    encoded(&entries::<TxnEntry>(&bytes).collect::<Vec<_>>()),
                ),
            };
            if damaged(&path) {
                assert!(checked.is_err(), "{}", path.display());
                continue;
            }
            if let Err(d) = &checked {
                panic!("{}: {d}", path.display());
            }
            assert!(bytes.starts_with(&again), "{}", path.display());
            assert!(bytes[again.len()..].iter().all(|b| *b == 0));
            seen[slot] += 1;
        }
        assert!(seen.iter().all(|n| *n > 20), "{seen:?}");
    }

    proptest! {
        #[test]
        fn anything_may_be_searched(bytes in prop::collection::vec(any::<u8>(), 0..200), t: i64, b: i64) {
            let (base, log_len) = (Offset(b), 1000);
            let _ = check_offsets(&bytes, base, log_len);
            let _ = (check_times(&bytes, base), check_txns(&bytes, base));
            if let Some(e) = lookup_offset(&bytes, base, Offset(t)) {
                prop_assert!(e.offset(base).0 <= t);
            }
            if let Some(e) = lookup_time(&bytes, TimestampMs(t)) {
                prop_assert!(e.timestamp.0 <= t);
            }
            let _ = (last::<TimeEntry>(&bytes), entries::<TxnEntry>(&bytes).count());
        }

        #[test]
        fn lookup_agrees_with_a_scan(gaps in prop::collection::vec((1u32..9, 0u32..9), 0..60), t in 0i64..300, zeros in 0usize..20) {
            let mut at = (0, 0);
            let pairs: Vec<(u32, u32)> = gaps
                .iter()
                .map(|(o, p)| { at = (at.0 + o, at.1 + p); at })
                .collect();
            let mut bytes = offsets(&pairs);
            let scan = pairs.iter().copied().rfind(|(o, _)| i64::from(*o) <= t);
            if !pairs.is_empty() { bytes.extend(vec![0; zeros * 8]); }
            let found = lookup_offset(&bytes, Offset(0), Offset(t)).map(|e| (e.relative, e.position));
            prop_assert_eq!(found, scan);
        }

        #[test]
        fn entries_round_trip(a: u32, b: u32, c: i64, d: i64) {
            let (mut o, mut t, mut x) = (Vec::new(), Vec::new(), Vec::new());
            let oe = OffsetEntry { relative: a, position: b };
            let te = TimeEntry { timestamp: TimestampMs(c), relative: a };
            let xe = TxnEntry {
                producer_id: c,
                first_offset: Offset(d),
                last_offset: Offset(c),
                last_stable_offset: Offset(d),
            };
            oe.encode(&mut o);
            te.encode(&mut t);
            xe.encode(&mut x);
            prop_assert_eq!(OffsetEntry::decode(&o), Ok(oe));
            prop_assert_eq!(TimeEntry::decode(&t), Ok(te));
            prop_assert_eq!(TxnEntry::decode(&x), Ok(xe));
        }
    }
}
