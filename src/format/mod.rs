//! Bytes to values and back, without I/O: every byte of a Kafka partition directory.
//!
//! Nothing here opens a file or knows of a terminal. A decoder takes a slice and says "here is a
//! value, it took n bytes", "I need n bytes" or "bad at byte p" ([`Defect`]), so the same code serves
//! a file, a map, a pipe and a socket. Every length is checked against its bound and against the
//! bytes at hand before it sizes or indexes anything ([`Limits`]).
//!
//! | module | owns |
//! |---|---|
//! | [`ids`] | [`Offset`], [`Position`], [`TimestampMs`]: integers that must not be swapped |
//! | [`varint`], [`crc32c`], [`codec`] | zigzag varints; the checksum of magic 2; the five codecs |
//! | [`frame`] | where one batch ends and the next begins, in every magic |
//! | [`batch`], [`record`], [`builder`] | RecordBatch v2: header, records, headers; writing them |
//! | [`rewrite`] | a batch again with some of its records |
//! | `legacy` | magic 0 and 1, plain and wrapped |
//! | [`plain`] | a batch laid open, for who searches bytes |
//! | [`control`] | control records: end markers and their kin |
//! | [`index`], [`snapshot`], [`checkpoint`], [`names`] | the files beside the `.log` |
//! | [`lookup`], [`lookup_filter`] | look-up indexes: from the value of a field to batches |
//! | [`internal`] | records of `__consumer_offsets` and `__transaction_state` |
//! | [`partitioner`] | which partition a key belongs to |
//! | [`wire`] | the replication protocol: frames and messages |
//!
//! Source of every rule: Apache Kafka 3.6.1 as written down in `man/logd-format.5`.
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))]

pub mod batch;
pub mod builder;
pub mod checkpoint;
pub mod codec;
pub mod control;
pub mod crc32c;
mod fields;
pub mod frame;
pub mod ids;
pub mod index;
pub mod internal;
mod legacy;
pub mod lookup;
pub mod lookup_filter;
pub mod names;
pub mod partitioner;
pub mod plain;
pub mod record;
pub mod rewrite;
pub mod snapshot;
pub mod varint;
pub mod wire;

pub use ids::{Offset, Position, TimestampMs};

/// Why bytes are not what they should be, and where.
///
/// `at` counts from the start of the slice that the decoder was given; the layer that knows the
/// file turns it into a position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Byte at which decoding could not go on, from the start of the decoder's input.
    pub at: usize,
    /// What is wrong, in words (lower case, no full stop), with the values found and wanted.
    pub reason: String,
}

impl Defect {
    /// A defect at byte `at`.
    pub fn new(at: usize, reason: impl Into<String>) -> Defect {
        Defect {
            at,
            reason: reason.into(),
        }
    }

    /// The same defect for a decoder whose input began `base` bytes into a larger one.
    pub fn shifted(mut self, base: usize) -> Defect {
        self.at = self.at.saturating_add(base);
        self
    }
}

impl std::fmt::Display for Defect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "byte {}: {}", self.at, self.reason)
    }
}

/// Upper bounds that are checked before memory or work follows a length.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest batch as stored, header included, in bytes.
    pub batch_bytes_max: usize,
    /// Largest batch body after decompression, in bytes.
    pub body_bytes_max: usize,
    /// Largest zstd window, as a power of two (27 is 128 MiB).
    pub zstd_window_log_max: u32,
}

impl Default for Limits {
    /// 128 MiB stored, 256 MiB decompressed, 128 MiB zstd window (durability contract, 10.7).
    fn default() -> Limits {
        Limits {
            batch_bytes_max: 128 << 20,
            body_bytes_max: 256 << 20,
            zstd_window_log_max: 27,
        }
    }
}
