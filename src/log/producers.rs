//! What is known of each producer: its epoch, last sequence, last offset, open transaction.
//!
//! State as of an offset is the newest snapshot at or below it, and the batches from there on, headers
//! only (Kafka `ProducerStateManager`). logd keeps every producer, however idle: a broker forgets one
//! after a day, and with it that its records were written already.
//!
//! Who appends must know ([`Producers::load_whole`]): damage in the way is an error, since behind it may
//! lie the batch that says that a record was written already. Who reads goes as far as it can.
//!
//! A snapshot that does not decode is passed over for the next older one; without any the log is
//! walked from its start.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch, attributes};
use crate::format::control::{self, Control};
use crate::format::names::{self, Kind, State, file_name};
use crate::format::snapshot::{self, ProducerEntry};
use crate::format::{Defect, Limits, Offset, Position, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::state::write_state_file_by_way_of;
use crate::segment::scan::{Bad, HeaderWalk, Span, Tail, Walk};

/// Largest snapshot that is read: some 1.4 million producers.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// A marker batch is 78 bytes; whatever is much larger is none.
const MARKER_BYTES_MAX: usize = 4096;

/// What damage in the way is.
#[derive(Clone, Copy)]
enum Damage {
    /// The end of its segment: it is told where it is read.
    Passed,
    /// An error.
    Refused,
}

/// All producers of a partition as of one offset.
pub struct Producers {
    entries: BTreeMap<i64, ProducerEntry>,
    /// Everything below is in `entries`.
    through: Offset,
}

impl Producers {
    /// The state as of `at`, exclusive, as far as the log can be read.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn load(log: &LogDir, at: Offset, limits: &Limits) -> Result<Producers> {
        Producers::newest(log, at)?.replay_to(log, at, Damage::Passed, limits)
    }

    /// The state as of `at`, exclusive, and nothing less.
    ///
    /// # Errors
    /// The log cannot be read; `Data` for damage in it.
    pub fn load_whole(log: &LogDir, at: Offset, limits: &Limits) -> Result<Producers> {
        Producers::newest(log, at)?.advance_whole(log, at, limits)
    }

    /// The same with the batches from where it stands up to `at`.
    ///
    /// # Errors
    /// As [`Producers::load_whole`].
    pub fn advance_whole(self, log: &LogDir, at: Offset, limits: &Limits) -> Result<Producers> {
        self.replay_to(log, at, Damage::Refused, limits)
    }

    fn newest(log: &LogDir, at: Offset) -> Result<Producers> {
        let (entries, through) = newest_snapshot(log, at)?;
        Ok(Producers { entries, through })
    }

    fn replay_to(
        mut self,
        log: &LogDir,
        at: Offset,
        damage: Damage,
        limits: &Limits,
    ) -> Result<Producers> {
        let through = self.through;
        each_header(
            log,
            through..at,
            damage,
            limits,
            |header, position, walk| {
                if header.last_offset >= through && header.has_producer() {
                    self.replay(header, position, walk, limits)?;
                }
                Ok(())
            },
        )?;
        self.through = self.through.max(at);
        Ok(self)
    }

    /// What is known of one producer.
    pub fn get(&self, id: i64) -> Option<&ProducerEntry> {
        self.entries.get(&id)
    }

    /// Producers with an open transaction, and where each began.
    pub fn open_transactions(&self) -> impl Iterator<Item = (i64, Offset)> + '_ {
        let open = |e: &ProducerEntry| Some((e.producer_id, e.open_txn?));
        self.entries.values().filter_map(open)
    }

    /// Writes the state as the snapshot at `at`, durably: for who holds the maintenance lock.
    ///
    /// # Errors
    /// What the system answers.
    pub fn write_snapshot(&self, log: &LogDir, at: Offset) -> Result<()> {
        self.write_snapshot_by_way_of(log, at, ".kept.tmp")
    }

    /// The same for who has rolled the log at `at`. Maintenance may be at it, too: were the temporary
    /// file the same one, either could rename or remove what the other has half written.
    ///
    /// # Errors
    /// What the system answers.
    pub fn write_snapshot_of_roll(&self, log: &LogDir, at: Offset) -> Result<()> {
        self.write_snapshot_by_way_of(log, at, ".tmp")
    }

    fn write_snapshot_by_way_of(&self, log: &LogDir, at: Offset, suffix: &str) -> Result<()> {
        let name = file_name(at, Kind::Snapshot);
        let entries: Vec<ProducerEntry> = self.entries.values().copied().collect();
        let (tmp, bytes) = (format!("{name}{suffix}"), snapshot::encode(&entries));
        write_state_file_by_way_of(log.dir().as_ref(), &tmp, &name, &bytes)
            .map_err(|e| Error::io("cannot write", e).at_path(log.path_of(&name)))
    }

    fn replay(
        &mut self,
        header: &BatchHeader,
        position: Position,
        walk: &mut HeaderWalk,
        limits: &Limits,
    ) -> Result<()> {
        let entry = self
            .entries
            .entry(header.producer_id)
            .or_insert(ProducerEntry {
                producer_id: header.producer_id,
                epoch: header.producer_epoch,
                last_sequence: -1,
                last_offset: Offset(-1),
                offset_delta: 0,
                timestamp: TimestampMs::NONE,
                coordinator_epoch: -1,
                open_txn: None,
            });
        entry.timestamp = header.max_timestamp;
        if header.is_control() {
            entry.epoch = header.producer_epoch;
            if let Some(bytes) = walk.entry(header, position, MARKER_BYTES_MAX)?
                && let Some(coordinator_epoch) = end_marker(bytes, limits)
            {
                entry.coordinator_epoch = coordinator_epoch;
                entry.open_txn = None;
            }
            return Ok(());
        }
        entry.epoch = header.producer_epoch;
        entry.last_sequence = header.last_sequence();
        entry.last_offset = header.last_offset;
        let delta = header.last_offset - header.base_offset;
        entry.offset_delta = i32::try_from(delta).unwrap_or(i32::MAX);
        if header.attributes & attributes::TRANSACTIONAL != 0 {
            entry.open_txn.get_or_insert(header.base_offset);
        }
        Ok(())
    }
}

/// The state of all producers as of `at`, the base of the active segment, if it must be written as a
/// snapshot before the segments `going` are deleted: no sound snapshot at `kept` or above says what they
/// do.
///
/// # Errors
/// The log cannot be read.
pub fn to_keep_before_deletion(
    log: &LogDir,
    going: &[SegmentRef],
    kept: Offset,
    at: Offset,
) -> Result<Option<Producers>> {
    let limits = Limits::default();
    // One that does not decode says nothing.
    let (entries, newest) = newest_snapshot(log, at)?;
    if newest >= kept && newest > Offset::ZERO {
        return Ok(None);
    }
    // With entries there were producers; without, headers tell.
    if entries.is_empty() && !any_producer(log, going, &limits)? {
        return Ok(None);
    }
    // Damage must not keep what is old for ever: as far as can be told.
    Producers::load(log, at, &limits).map(Some)
}

fn any_producer(log: &LogDir, segments: &[SegmentRef], limits: &Limits) -> Result<bool> {
    for segment in segments {
        let place = |e: Error| e.at_path(log.path_of(&segment.log_name()));
        let file = log.open_file(&segment.log_name())?;
        let len = file.len().map_err(|e| place(Error::io("cannot read", e)))?;
        let mut walk = HeaderWalk::new(file, Span::whole(segment.base(), len), *limits);
        while let Walk::Header(header, _) = walk.next().map_err(place)? {
            if header.has_producer() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// How many records of a producer lie below `at`, told by nothing but the log: every one is there, from
/// sequence 0 on. `None` if some are not, so that the number cannot be told.
///
/// # Errors
/// The log cannot be read; `Data` for damage in it.
pub fn count_records(log: &LogDir, id: i64, at: Offset, limits: &Limits) -> Result<Option<u64>> {
    let mut count = Some(0u64);
    let all = Offset::ZERO..at;
    each_header(log, all, Damage::Refused, limits, |header, _, _| {
        if header.producer_id == id && !header.is_control() {
            let fits = |n: &u64| sequence(*n) == header.base_sequence;
            let records = header.last_offset.next() - header.base_offset;
            let behind = |n| u64::try_from(records).ok().map(|records| n + records);
            count = count.filter(fits).and_then(behind);
        }
        Ok(())
    })?;
    Ok(count)
}

/// The sequence of the record after `count` others.
fn sequence(count: u64) -> i32 {
    i32::try_from(count % (1 << 31)).unwrap_or(0)
}

/// Hands `seen` every header from the segment of `range.start` on that begins below `range.end`.
fn each_header(
    log: &LogDir,
    range: Range<Offset>,
    damage: Damage,
    limits: &Limits,
    mut seen: impl FnMut(&BatchHeader, Position, &mut HeaderWalk) -> Result<()>,
) -> Result<()> {
    let segments = log.segments()?;
    let first = segments
        .partition_point(|s| s.base() <= range.start)
        .saturating_sub(1);
    for segment in segments.iter().skip(first).filter(|s| s.base() < range.end) {
        let place = |e: Error| e.at_path(log.path_of(&segment.log_name()));
        let file = log.open_file(&segment.log_name())?;
        let len = file.len().map_err(|e| place(Error::io("cannot read", e)))?;
        let mut walk = HeaderWalk::new(file, Span::whole(segment.base(), len), *limits);
        loop {
            let bad = match walk.next().map_err(place)? {
                Walk::Header(header, _) if header.base_offset >= range.end => break,
                Walk::Header(header, position) => {
                    seen(&header, position, &mut walk).map_err(place)?;
                    continue;
                }
                Walk::Bad(bad) => bad,
                Walk::End(end) if end.tail == Tail::Partial => Bad {
                    position: end.position,
                    defect: Defect::new(0, "batch runs past the end of the file"),
                },
                Walk::End(_) => break,
            };
            match damage {
                // What is not yet whole lies behind all that is asked for.
                Damage::Refused if walk.next_offset() < range.end => {
                    return Err(place(untold(&bad, walk.next_offset())));
                }
                _ => break,
            }
        }
    }
    Ok(())
}

fn untold(bad: &Bad, next: Offset) -> Error {
    let why = format!(
        "{}; which producers wrote behind it cannot be told",
        bad.defect.reason
    );
    Error::data(why)
        .at_offset(next.0)
        .at_position(bad.position.0.saturating_add(bad.defect.at as u64))
}

/// The coordinator epoch of an end marker, if that is what the batch is.
fn end_marker(bytes: &[u8], limits: &Limits) -> Option<i32> {
    let batch = Batch::check(bytes).ok()?;
    let mut scratch = Scratch::new();
    let record = batch.records(&mut scratch, limits).ok()?.next()?.ok()?;
    match control::decode(record.key, record.value).ok()? {
        Control::EndTxn {
            coordinator_epoch, ..
        } => Some(coordinator_epoch),
        _ => None,
    }
}

/// Where there are snapshots, `at` and below, ascending.
fn snapshot_bases(log: &LogDir, at: Offset) -> Result<Vec<Offset>> {
    let names = log.dir().list();
    let names = names.map_err(|e| Error::io("cannot list", e).at_path(log.dir().path()))?;
    let snapshot_at = |n: &String| {
        let f = names::parse(n)?;
        (f.kind == Kind::Snapshot && f.state == State::Plain && f.base <= at).then_some(f.base)
    };
    let mut bases: Vec<Offset> = names.iter().filter_map(snapshot_at).collect();
    bases.sort_unstable();
    Ok(bases)
}

fn newest_snapshot(log: &LogDir, at: Offset) -> Result<(BTreeMap<i64, ProducerEntry>, Offset)> {
    let bases = snapshot_bases(log, at)?;
    for base in bases.into_iter().rev() {
        let Some(file) = log.open_optional(&file_name(base, Kind::Snapshot))? else {
            continue;
        };
        let Ok(bytes) = read_small(file.as_ref(), SNAPSHOT_BYTES_MAX) else {
            continue;
        };
        if let Ok(entries) = snapshot::decode(&bytes) {
            return Ok((
                entries.into_iter().map(|e| (e.producer_id, e)).collect(),
                base,
            ));
        }
    }
    Ok((BTreeMap::new(), Offset::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::builder::{BatchBuilder, Producer, Seal, stamp};
    use crate::format::record::NewRecord;
    use crate::log::testing::TestLog;

    /// An appender that rolled and maintenance may write the same one at once.
    #[test]
    fn writers_of_a_snapshot_leave_each_others_half_written_file_alone() {
        let log = TestLog::new("t-0");
        let name = file_name(Offset(5), Kind::Snapshot);
        for (theirs, maintenance) in [(".tmp", true), (".kept.tmp", false)] {
            let half = format!("{name}{theirs}");
            log.file(&half, b"half");
            let producers = Producers::load(&log.open(), Offset(0), &Limits::default()).unwrap();
            match maintenance {
                true => producers.write_snapshot(&log.open(), Offset(5)),
                false => producers.write_snapshot_of_roll(&log.open(), Offset(5)),
            }
            .unwrap();
            assert_eq!(std::fs::read(log.path().join(&half)).unwrap(), b"half");
            log.remove(&half);
            log.remove(&name);
        }
    }

    /// A batch of `count` records of producer 7 from this offset and sequence on.
    fn batch(offset: i64, sequence: i32, count: i32) -> Vec<u8> {
        let mut builder = BatchBuilder::begin(Vec::new());
        for _ in 0..count {
            let record = NewRecord {
                key: None,
                value: Some(b"v"),
                headers: &[],
            };
            builder.push(TimestampMs(1), &record);
        }
        let producer = Some(Producer {
            id: 7,
            epoch: 0,
            base_sequence: sequence,
        });
        let (mut bytes, _) = builder.seal(&Seal {
            producer,
            ..Seal::default()
        });
        stamp(&mut bytes, Offset(offset), 0);
        bytes
    }

    fn last_sequence(state: Result<Producers>) -> Result<Option<i32>> {
        Ok(state?.get(7).map(|e| e.last_sequence))
    }

    #[test]
    fn damage_is_an_error_for_writers_only() {
        let log = TestLog::new("t-0");
        let limits = Limits::default();
        let passing = |at| last_sequence(Producers::load(&log.open(), Offset(at), &limits));
        let whole = |at| last_sequence(Producers::load_whole(&log.open(), Offset(at), &limits));
        let [a, b, c] = [batch(0, 0, 2), batch(2, 2, 2), batch(4, 4, 2)];
        for harm in [8, 23] {
            let mut bad = b.clone();
            bad[harm] ^= 0x80; // the signs of the length and of the last offset delta
            let bytes = [&a[..], &bad, &c].concat();
            log.segment(0).raw(&bytes).write();
            assert_eq!(passing(6).unwrap(), Some(1));
            let e = whole(6).unwrap_err();
            assert_eq!(e.kind(), crate::error::ErrorKind::Data);
            assert_eq!(e.offset(), Some(2));
            let (from, to) = (a.len() as u64, (a.len() + b.len()) as u64);
            assert!((from..to).contains(&e.position().unwrap()), "{e}");
            assert!(e.path().unwrap().ends_with("00000000000000000000.log"));
            // It lies behind all that is asked for.
            assert_eq!(whole(2).unwrap(), Some(1));
        }
        log.segment(0).raw(&[&a[..], &b, &c].concat()).write();
        assert_eq!(whole(6).unwrap(), Some(5));
    }

    #[test]
    fn records_are_counted_by_the_log_alone_past_the_wrap_of_sequences() {
        let log = TestLog::new("t-0");
        let count = |at| count_records(&log.open(), 7, Offset(at), &Limits::default()).unwrap();
        log.segment(0)
            .raw(&batch(0, 0, 3))
            .raw(&batch(9, 3, 1))
            .write();
        assert_eq!(count(3), Some(3));
        assert_eq!(count(10), Some(4));
        assert_eq!(
            count_records(&log.open(), 8, Offset(10), &Limits::default()).unwrap(),
            Some(0)
        );
        // One is missing: they may be any number.
        log.segment(20).raw(&batch(20, 5, 1)).write();
        assert_eq!(count(21), None);
        assert_eq!(sequence((1 << 31) - 1), i32::MAX);
        assert_eq!(sequence(1 << 31), 0);
        assert_eq!(sequence((1 << 32) + 5), 5);
    }
}
