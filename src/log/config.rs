//! The settings of a log, as plain values.
//!
//! Owns their types, defaults and bounds. The words they are written in, and which of several layers
//! wins, are `ops::settings`'s matter: nothing here reads a file.

use crate::format::codec::Compression;
use crate::segment::active::RollLimits;
use std::num::NonZeroU32;

/// Largest segment in bytes: positions in `.index` are 32 bits wide and signed.
pub const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
/// Most partitions of a topic: what a handshake may name (durability contract, 10.7).
pub const PARTITIONS_MAX: u32 = 10_000;

/// Where a record's timestamp comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamps {
    /// From whoever made it; the moment it was read, if nobody says.
    Create,
    /// The moment its batch was appended.
    Append,
}

/// What a log forgets on its own when maintenance runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// Segments past an age or size limit.
    pub delete: bool,
    /// All but the newest value of each key.
    pub compact: bool,
}

/// Which partition a record with a key goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// Where the usual Kafka clients place it.
    Murmur2,
    /// Where librdkafka's default places it.
    Crc32,
    /// The next one, whatever the key.
    RoundRobin,
}

/// All settings of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Number of partitions the topic was made with.
    pub partitions: NonZeroU32,
    /// A segment is rolled before it exceeds this many bytes.
    pub segment_bytes: u64,
    /// A segment is rolled before a record this many milliseconds younger than its first; by
    /// record timestamps. No limit for `None`.
    pub segment_ms: Option<u64>,
    /// How new batches are compressed.
    pub compression: Compression,
    /// Where timestamps come from.
    pub timestamps: Timestamps,
    /// What maintenance removes.
    pub cleanup: Cleanup,
    /// Records older than this many milliseconds may go. No limit for `None`.
    pub age_ms_max: Option<u64>,
    /// The log is cut from its start to this many bytes. No limit for `None`.
    pub log_bytes_max: Option<u64>,
    /// Where records with a key go.
    pub partitioner: Partitioner,
}

impl Settings {
    /// When a segment is full.
    pub fn roll_limits(&self) -> RollLimits {
        RollLimits {
            segment_bytes: self.segment_bytes,
            segment_age_ms: self.segment_ms.and_then(|ms| i64::try_from(ms).ok()),
        }
    }
}

impl Default for Settings {
    /// Kafka's defaults for segments, and no limits: what was written stays until told otherwise.
    fn default() -> Settings {
        Settings {
            partitions: NonZeroU32::MIN,
            segment_bytes: 1 << 30,
            segment_ms: Some(7 * 24 * 3600 * 1000),
            compression: Compression::NONE,
            timestamps: Timestamps::Create,
            cleanup: Cleanup {
                delete: true,
                compact: false,
            },
            age_ms_max: None,
            log_bytes_max: None,
            partitioner: Partitioner::Murmur2,
        }
    }
}
