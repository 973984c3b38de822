//! What is known of each producer: its epoch, last sequence, last offset, open transaction.
//!
//! State as of an offset is the newest snapshot at or below it, and the batches from there on, headers
//! only (Kafka `ProducerStateManager`). logd keeps every producer, however idle: a broker forgets one
//! after a day, and with it that its records were written already.
//!
//! A snapshot that does not decode is passed over for the next older one; without any the log is
//! walked from its start.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch, attributes};
use crate::format::control::{self, Control};
use crate::format::names::{self, Kind, State, file_name};
use crate::format::snapshot::{self, ProducerEntry};
use crate::format::{Limits, Offset, Position, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, read_small};
use crate::log::state::write_state_file;
use crate::segment::scan::{HeaderWalk, Span, Walk};

/// Largest snapshot that is read: some 1.4 million producers.
const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;
/// A marker batch is 78 bytes; whatever is much larger is none.
const MARKER_BYTES_MAX: usize = 4096;

/// All producers of a partition as of one offset.
pub struct Producers {
    entries: BTreeMap<i64, ProducerEntry>,
    /// Everything below is in `entries`.
    through: Offset,
}

impl Producers {
    /// The state as of `at`, exclusive.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn load(log: &LogDir, at: Offset, limits: &Limits) -> Result<Producers> {
        let (entries, through) = newest_snapshot(log, at)?;
        Producers { entries, through }.advance(log, at, limits)
    }

    /// The same with the batches from where it stands up to `at`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn advance(mut self, log: &LogDir, at: Offset, limits: &Limits) -> Result<Producers> {
        let segments = log.segments()?;
        let first = segments
            .partition_point(|s| s.base() <= self.through)
            .saturating_sub(1);
        for segment in segments.iter().skip(first).filter(|s| s.base() < at) {
            let place = |e: Error| e.at_path(log.path_of(&segment.log_name()));
            let file = log.open_file(&segment.log_name())?;
            let len = file.len().map_err(|e| place(Error::io("cannot read", e)))?;
            let mut walk = HeaderWalk::new(file, Span::whole(segment.base(), len), *limits);
            while let Walk::Header(header, position) = walk.next().map_err(place)? {
                if header.base_offset >= at {
                    break;
                }
                if header.last_offset >= self.through && header.has_producer() {
                    self.replay(&header, position, &mut walk, limits)
                        .map_err(place)?;
                }
            }
        }
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

    /// Writes the state as the snapshot at `at`, durably.
    ///
    /// # Errors
    /// What the system answers.
    pub fn write_snapshot(&self, log: &LogDir, at: Offset) -> Result<()> {
        let name = file_name(at, Kind::Snapshot);
        let entries: Vec<ProducerEntry> = self.entries.values().copied().collect();
        write_state_file(log.dir().as_ref(), &name, &snapshot::encode(&entries))
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
/// snapshot before the segments `going` are deleted: no snapshot at `kept` or above says what they do.
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
    let newest = snapshot_bases(log, Offset::MAX)?.last().copied();
    if newest.is_some_and(|base| base >= kept) {
        return Ok(None);
    }
    // With a snapshot there were producers; without one, headers tell.
    if newest.is_none() && !any_producer(log, going, &limits)? {
        return Ok(None);
    }
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
