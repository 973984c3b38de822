//! Offsets and times of wrappers, and messages nobody would write. What real brokers and clients
//! wrote is in the corpus test.

use proptest::prelude::*;

use super::super::batch::{Batch, Scratch};
use super::super::codec::{Compression, Compressor};
use super::*;

const LOG_APPEND_TIME: u8 = 0x08;

/// One message with the right length and CRC-32.
fn message(
    magic: u8,
    offset: i64,
    attributes: u8,
    timestamp: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Vec<u8> {
    let mut rest = vec![magic, attributes];
    if magic == 1 {
        rest.extend_from_slice(&timestamp.to_be_bytes());
    }
    for field in [key, value] {
        let len = field.map_or(-1, |bytes| bytes.len() as i32);
        rest.extend_from_slice(&len.to_be_bytes());
        rest.extend_from_slice(field.unwrap_or_default());
    }
    seal(offset, &rest)
}

/// Offset, length and CRC-32 before `rest`, which begins with the magic.
fn seal(offset: i64, rest: &[u8]) -> Vec<u8> {
    let length = (rest.len() + 4) as i32;
    let mut bytes = offset.to_be_bytes().to_vec();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&crc32fast::hash(rest).to_be_bytes());
    bytes.extend_from_slice(rest);
    bytes
}

/// A wrapper around `inner`, a row of messages.
pub(in crate::format) fn wrapper(
    magic: u8,
    offset: i64,
    attributes: u8,
    codec: Codec,
    inner: &[u8],
) -> Vec<u8> {
    let mut value = Vec::new();
    Compressor::new(&Compression::from(codec)).compress(inner, &mut value);
    message(
        magic,
        offset,
        attributes | codec.id(),
        500,
        None,
        Some(&value),
    )
}

/// Messages of `magic` at these offsets; the time is 1000 and the offset.
pub(in crate::format) fn row(magic: u8, offsets: &[i64]) -> Vec<u8> {
    let each = offsets.iter().map(|&offset| {
        message(
            magic,
            offset,
            0,
            1000_i64.wrapping_add(offset),
            None,
            Some(b"value"),
        )
    });
    each.flatten().collect()
}

/// Offset and time of every record.
fn times(bytes: &[u8]) -> Result<Vec<(i64, i64)>, Defect> {
    let mut scratch = Scratch::new();
    Batch::check(bytes)?
        .records(&mut scratch, &Limits::default())?
        .map(|record| record.map(|r| (r.offset.0, r.timestamp.0)))
        .collect()
}

fn reason(bytes: &[u8]) -> String {
    times(bytes).expect_err("should be a defect").reason
}

#[test]
fn plain_message_keeps_null_and_empty_apart() {
    for magic in [0, 1] {
        for (key, value) in [
            (None, Some(&b""[..])),
            (Some(&b""[..]), None),
            (Some(&b"k"[..]), Some(&b"v"[..])),
        ] {
            let bytes = message(magic, 7, 0, 99, key, value);
            let batch = Batch::check(&bytes).unwrap();
            assert_eq!(batch.header().count, 1);
            assert_eq!(batch.header().base_offset, Offset(7));
            let mut scratch = Scratch::new();
            let mut records = batch.records(&mut scratch, &Limits::default()).unwrap();
            let record = records.next().unwrap().unwrap();
            assert_eq!((record.key, record.value), (key, value));
            assert_eq!(record.timestamp.0, if magic == 0 { -1 } else { 99 });
            assert_eq!((record.offset, record.sequence), (Offset(7), -1));
            assert!(record.headers.is_empty() && records.next().is_none());
        }
    }
}

#[test]
fn wrapper_header_tells_only_the_last_offset() {
    let bytes = wrapper(1, 12, 0, Codec::Gzip, &row(1, &[0, 1, 2]));
    // Not even the compressed bytes are needed for it.
    let header = BatchHeader::parse(&bytes[..26]).unwrap();
    assert_eq!(header.last_offset, Offset(12));
    assert_eq!((header.count, header.size), (-1, bytes.len()));
    assert_eq!(header.max_timestamp, TimestampMs(500));
    assert_eq!((header.producer_id, header.leader_epoch), (-1, -1));
    assert!(!header.is_control() && !header.is_transactional());
}

#[test]
fn magic_0_wrapper_has_absolute_offsets() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
        let bytes = wrapper(0, 12, 0, codec, &row(0, &[10, 12]));
        assert_eq!(times(&bytes).unwrap(), [(10, -1), (12, -1)]);
    }
    // Whatever the wrapper's own offset is.
    let bytes = wrapper(0, 90, 0, Codec::Gzip, &row(0, &[10, 12]));
    assert_eq!(times(&bytes).unwrap(), [(10, -1), (12, -1)]);
}

#[test]
fn magic_1_wrapper_has_offsets_relative_to_its_last() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
        // 1 and 3 went with a compaction.
        let bytes = wrapper(1, 104, 0, codec, &row(1, &[0, 2, 4]));
        let want = [(100, 1000), (102, 1002), (104, 1004)];
        assert_eq!(times(&bytes).unwrap(), want);
    }
}

#[test]
fn magic_1_wrapper_offset_0_counts_from_0() {
    let bytes = wrapper(1, 0, 0, Codec::Gzip, &row(1, &[0, 1, 2]));
    assert_eq!(times(&bytes).unwrap(), [(0, 1000), (1, 1001), (2, 1002)]);
}

#[test]
fn magic_1_wrapper_below_its_last_inner_offset_is_a_defect() {
    let bytes = wrapper(1, 1, 0, Codec::Gzip, &row(1, &[0, 1, 2]));
    assert_eq!(
        reason(&bytes),
        "message offset 1 is below its last inner offset 2"
    );
    for (outer, inner) in [(i64::MAX, i64::MIN), (i64::MIN, i64::MAX)] {
        assert!(times(&wrapper(1, outer, 0, Codec::Gzip, &row(1, &[inner]))).is_err());
    }
}

#[test]
fn log_append_time_of_a_wrapper_replaces_inner_times() {
    let inner = [row(1, &[0, 1]), row(0, &[2])].concat();
    let bytes = wrapper(1, 2, LOG_APPEND_TIME, Codec::Gzip, &inner);
    // Magic 0 has no time to replace.
    assert_eq!(times(&bytes).unwrap(), [(0, 500), (1, 500), (2, -1)]);
}

#[test]
fn offsets_go_by_the_wrappers_magic_when_the_inner_one_differs() {
    let bytes = wrapper(0, 11, 0, Codec::Gzip, &row(1, &[10, 11]));
    assert_eq!(times(&bytes).unwrap(), [(10, 1010), (11, 1011)]);
    let bytes = wrapper(1, 11, 0, Codec::Gzip, &row(0, &[0, 1]));
    assert_eq!(times(&bytes).unwrap(), [(10, -1), (11, -1)]);
}

#[test]
fn wrapper_in_a_wrapper_is_a_defect() {
    let inner = wrapper(1, 0, 0, Codec::Gzip, &row(1, &[0]));
    let bytes = wrapper(1, 0, 0, Codec::Gzip, &inner);
    assert!(reason(&bytes).starts_with("compressed message in a compressed one"));
}

#[test]
fn wrapper_needs_a_value_a_message_and_a_codec_of_its_time() {
    let null = message(1, 0, Codec::Gzip.id(), 0, None, None);
    assert_eq!(reason(&null), "compressed message without a value");
    let empty = wrapper(1, 0, 0, Codec::Gzip, b"");
    assert!(reason(&empty).starts_with("no message in a compressed message"));
    for id in [Codec::Zstd.id(), 5, 6, 7] {
        let unknown = message(1, 0, id, 0, None, Some(b""));
        assert_eq!(reason(&unknown), format!("unknown codec {id} for magic 1"));
    }
}

#[test]
fn inner_messages_are_checked_before_any_is_delivered() {
    let good = row(1, &[0, 1]);
    let half = good.len() / 2;
    for (at, want) in [
        (half + 12, "inner message CRC-32"),
        (half + 16, "magic "),
        (half + 11, "message of"),
    ] {
        let mut inner = good.clone();
        inner[at] ^= 0x20;
        let why = reason(&wrapper(1, 1, 0, Codec::Gzip, &inner));
        assert!(
            why.starts_with(want) && why.contains("of the decompressed"),
            "{why}"
        );
    }
    let cut = &good[..good.len() - 1];
    assert!(reason(&wrapper(1, 1, 0, Codec::Gzip, cut)).starts_with("message of"));
}

#[test]
fn message_fields_fill_it_exactly() {
    let mut rest = vec![0, 0];
    for length in [2_i32, 1] {
        rest.extend_from_slice(&length.to_be_bytes());
        rest.extend_from_slice(b"ab");
    }
    assert_eq!(
        reason(&seal(0, &rest)),
        "message is 1 bytes longer than its fields"
    );
    rest[9..12].copy_from_slice(&[0, 0, 9]);
    assert!(reason(&seal(0, &rest)).contains("value length 9 runs past the message"));
}

#[test]
fn crc_32_is_checked() {
    let good = message(1, 3, 0, 4, Some(b"key"), Some(b"value"));
    for at in 12..good.len() {
        // The magic says how to check the rest, and is checked with it.
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(times(&bad).is_err(), "byte {at}");
    }
}

#[test]
fn every_prefix_is_a_defect() {
    for bytes in [
        row(0, &[1]),
        row(1, &[1]),
        wrapper(1, 1, 0, Codec::Lz4, &row(1, &[0, 1])),
    ] {
        for len in 0..bytes.len() {
            assert!(Batch::check(&bytes[..len]).is_err(), "cut at {len}");
        }
    }
}

proptest! {
    /// With a CRC that holds, so that what is behind it is reached; plain and inside a wrapper.
    #[test]
    fn mutated_messages_never_panic(
        magic in 0_u8..2, wrapped in any::<bool>(), offset in any::<i64>(),
        rest in prop::collection::vec(any::<u8>(), 0..80),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        codec in prop::sample::select(vec![Codec::Gzip, Codec::Snappy, Codec::Lz4]),
    ) {
        let mut plain = [&[magic, 0], &rest[..]].concat();
        for (at, byte) in edits {
            let at = at.index(plain.len());
            plain[at] = byte;
        }
        let mut bytes = seal(offset, &plain);
        if wrapped {
            let inner = [row(magic, &[0]), bytes].concat();
            bytes = wrapper(magic, offset, 0, codec, &inner);
        }
        let _ = times(&bytes);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), magic in 0_u8..2) {
        let mut bytes = bytes;
        if let Some(at) = bytes.get_mut(MAGIC_AT) {
            *at = magic;
        }
        let _ = Batch::check(&bytes);
        let Ok(batch) = Batch::trusted(&bytes) else { return Ok(()) };
        let mut scratch = Scratch::new();
        if let Ok(records) = batch.records(&mut scratch, &Limits::default()) {
            for _ in records {}
        }
    }
}
