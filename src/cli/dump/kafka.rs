//! The lines of `kafka-dump-log --deep-iteration`, as Kafka 3.6.1 prints them.
//!
//! Where Kafka stops with a stack trace this goes on, with the next batch that proves itself. Its
//! reports (mismatches, gaps), which it prints to stderr at the end, come last here as well, on
//! stdout; of very long ones only the beginning is kept, since a compacted log has a gap at every
//! turn and memory must not follow.

use super::Lines;
use crate::format::batch::{BatchHeader, TimestampType, sequence_at};
use crate::format::control::Control;
use crate::format::frame::HEADER_UP_TO_MAGIC;
use crate::format::names::Kind;
use crate::format::snapshot::ProducerEntry;
use crate::format::{Offset, Position};
use crate::ops::dump::{Content, FileInfo, FileKind, Found, Item, RecordItem, TimeCheck};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;

/// Lines of a report on one file that are kept.
const REPORT_LINES_MAX: usize = 10_000;

/// Writes items as kafka-dump-log does.
#[derive(Default)]
pub struct Kafka {
    file: String,
    name: String,
    len: u64,
    base: Offset,
    /// Offset of the record before, in this file.
    last: Option<Offset>,
    /// Timestamp of the time index entry before.
    last_time: i64,
    mismatches: Reports,
    wrong_times: Reports,
    unordered_times: Reports,
    not_found: Reports,
    gaps: Reports,
}

/// Pairs of numbers by file.
#[derive(Default)]
struct Reports(BTreeMap<String, Vec<(i64, i64)>>);

impl Reports {
    fn add(&mut self, file: &str, a: i64, b: i64) {
        let pairs = self.0.entry(file.to_string()).or_default();
        if pairs.len() < REPORT_LINES_MAX {
            pairs.push((a, b));
        }
    }
}

/// Appends a formatted line.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{
        // Writing to memory cannot fail.
        let _ = writeln!($out, $($arg)*);
    }};
}

impl Kafka {
    fn begin(&mut self, info: &FileInfo, out: &mut Vec<u8>) {
        self.file = info.path.to_string_lossy().into_owned();
        let name = info.path.file_name().unwrap_or_default();
        self.name = name.to_string_lossy().into_owned();
        (self.len, self.base) = (info.len, info.base);
        (self.last, self.last_time) = (None, -1);
        line!(out, "Dumping {}", self.file);
        match info.kind {
            FileKind::Segment(Kind::Log) => line!(out, "Log starting offset: {}", info.base),
            FileKind::Segment(Kind::OffsetIndex) if info.len < 8 => {
                line!(out, "{} is empty.", self.file);
            }
            _ => {}
        }
    }

    fn record(&mut self, item: &RecordItem<'_>, out: &mut Vec<u8>) {
        let (record, batch) = (item.record, item.batch);
        if let Some(last) = self.last.filter(|l| record.offset != l.next()) {
            self.gaps.add(&self.file, last.0, record.offset.0);
        }
        self.last = Some(record.offset);
        let size = |b: Option<&[u8]>| b.map_or(-1, |b| b.len() as i64);
        let _ = write!(
            out,
            "| offset: {} {}: {} keySize: {} valueSize: {}",
            record.offset,
            timestamp_type(batch),
            record.timestamp,
            size(record.key),
            size(record.value)
        );
        match item.crc {
            Some(crc) => {
                // A wrapper is opened only if the messages in it are sound.
                let valid = item.valid || batch.count == -1;
                let _ = write!(out, " isValid: {valid} crc: {crc}}}");
            }
            None => {
                let _ = write!(out, " sequence: {} headerKeys: [", record.sequence);
                for (i, (name, _)) in record.headers.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    let _ = write!(out, "{comma}{}", String::from_utf8_lossy(name));
                }
                out.push(b']');
            }
        }
        if let Content::Control(control) = &item.content {
            control_words(control, out);
        }
        out.push(b'\n');
    }

    fn time_entry(&mut self, ts: i64, offset: Offset, check: TimeCheck, out: &mut Vec<u8>) {
        match check {
            TimeCheck::NotLast(found) => {
                let found = found.map_or(-1, |o| o.0);
                self.not_found.add(&self.file, offset.0, found);
            }
            TimeCheck::Fine | TimeCheck::Differs(_) => {
                if let TimeCheck::Differs(log) = check {
                    self.wrong_times.add(&self.file, ts, log.0);
                }
                if self.last_time >= ts {
                    self.unordered_times.add(&self.file, ts, self.last_time);
                }
            }
        }
        self.last_time = ts;
        line!(out, "timestamp: {ts} offset: {offset}");
    }
}

fn control_words(control: &Control<'_>, out: &mut Vec<u8>) {
    let _ = match control {
        Control::EndTxn {
            coordinator_epoch, ..
        } => write!(
            out,
            " endTxnMarker: {} coordinatorEpoch: {coordinator_epoch}",
            control.name()
        ),
        Control::SnapshotHeader { last_contained } => write!(
            out,
            " SnapshotHeader {{\"version\":0,\"lastContainedLogTimestamp\":{last_contained}}}"
        ),
        Control::SnapshotFooter => write!(out, " SnapshotFooter {{\"version\":0}}"),
        Control::LeaderChange { .. } => write!(out, " controlType: LEADER_CHANGE(2)"),
        Control::KRaftVersion(_) => write!(out, " controlType: KRAFT_VERSION(5)"),
        Control::KRaftVoters(_) => write!(out, " controlType: KRAFT_VOTERS(6)"),
        Control::Unknown { kind, .. } => write!(out, " controlType: UNKNOWN({kind})"),
    };
}

fn timestamp_type(batch: &BatchHeader) -> &'static str {
    match batch.timestamp_type() {
        TimestampType::None => "NoTimestampType",
        TimestampType::Create => "CreateTime",
        TimestampType::Append => "LogAppendTime",
    }
}

/// As Java prints an OptionalLong.
fn optional(value: Option<impl Display>) -> String {
    match value {
        Some(v) => format!("OptionalLong[{v}]"),
        None => "OptionalLong.empty".to_string(),
    }
}

fn batch(h: &BatchHeader, position: Position, valid: bool, out: &mut Vec<u8>) {
    let _ = match h.magic {
        0 | 1 => write!(out, "offset: {}", h.last_offset),
        _ => write!(
            out,
            "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} \
             producerId: {} producerEpoch: {} partitionLeaderEpoch: {} isTransactional: {} \
             isControl: {} deleteHorizonMs: {}",
            h.base_offset,
            h.last_offset,
            h.count,
            h.base_sequence,
            h.last_sequence(),
            h.producer_id,
            h.producer_epoch,
            h.leader_epoch,
            h.is_transactional(),
            h.is_control(),
            optional(h.delete_horizon())
        ),
    };
    let codec = match h.codec() {
        Ok(codec) => codec.name().to_string(),
        Err(id) => format!("unknown({id})"),
    };
    line!(
        out,
        " position: {position} {}: {} size: {} magic: {} compresscodec: {codec} crc: {} isvalid: {valid}",
        timestamp_type(h),
        h.max_timestamp,
        h.size,
        h.magic,
        h.crc
    );
}

fn producer(p: &ProducerEntry, out: &mut Vec<u8>) {
    let _ = write!(
        out,
        "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {} \
         lastTimestamp: {} ",
        p.producer_id,
        p.epoch,
        p.coordinator_epoch,
        optional(p.open_txn),
        p.timestamp
    );
    if p.last_offset >= Offset::ZERO {
        let first = sequence_at(p.last_sequence, p.offset_delta.wrapping_neg());
        let _ = write!(
            out,
            "firstSequence: {first} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
            p.last_sequence, p.last_offset, p.offset_delta, p.timestamp
        );
    }
    out.push(b'\n');
}

impl Lines for Kafka {
    fn item(&mut self, item: &Item<'_>, out: &mut Vec<u8>) {
        match item {
            Item::File(info) => self.begin(info, out),
            Item::Batch {
                position,
                header,
                valid,
            } => batch(header, *position, *valid, out),
            Item::Record(record) => self.record(record, out),
            Item::OffsetEntry {
                offset,
                position,
                found,
            } => {
                if let Found::Batch(last) = found
                    && last != offset
                {
                    self.mismatches.add(&self.file, offset.0, last.0);
                }
                line!(out, "offset: {offset} position: {position}");
            }
            Item::TimeEntry {
                timestamp,
                offset,
                check,
            } => self.time_entry(timestamp.0, *offset, *check, out),
            Item::TxnEntry(t) => line!(
                out,
                "version: 0 producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
                t.producer_id,
                t.first_offset,
                t.last_offset,
                t.last_stable_offset
            ),
            Item::Producer(p) => producer(p, out),
            // Kafka stops at zeros, but too few of them to hold a length are a tail like any other.
            Item::Tail { bytes, zeros, .. } if !zeros || *bytes <= HEADER_UP_TO_MAGIC as u64 => {
                self.invalid(*bytes, out);
            }
            Item::Damage {
                position, skipped, ..
            } if self.name.ends_with(Kind::Log.suffix())
                && *skipped > 0
                && position.0.saturating_add(*skipped) >= self.len =>
            {
                self.invalid(*skipped, out);
            }
            _ => {}
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        report(out, &self.mismatches, "Mismatches in :", |out, a, b| {
            line!(out, "  Index offset: {a}, log offset: {b}");
        });
        let title = "Found timestamp mismatch in :";
        report(out, &self.wrong_times, title, |out, a, b| {
            line!(out, "  Index timestamp: {a}, log timestamp: {b}");
        });
        let title = "Found out of order timestamp in :";
        report(out, &self.unordered_times, title, |out, a, b| {
            line!(
                out,
                "  Index timestamp: {a}, Previously indexed timestamp: {b}"
            );
        });
        for pairs in self.not_found.0.values() {
            line!(
                out,
                "The following indexed offsets are not found in the log."
            );
            for (a, b) in pairs {
                line!(out, "Indexed offset: {a}, found log offset: {b}");
            }
        }
        let title = "Non-consecutive offsets in ";
        report(out, &self.gaps, title, |out, a, b| {
            line!(out, "  {a} is followed by {b}");
        });
    }
}

impl Kafka {
    fn invalid(&self, bytes: u64, out: &mut Vec<u8>) {
        let name = &self.name;
        line!(out, "Found {bytes} invalid bytes at the end of {name}");
    }
}

fn report(
    out: &mut Vec<u8>,
    reports: &Reports,
    title: &str,
    each: impl Fn(&mut Vec<u8>, i64, i64),
) {
    for (file, pairs) in &reports.0 {
        line!(out, "{title}{file}");
        for (a, b) in pairs {
            each(out, *a, *b);
        }
    }
}
