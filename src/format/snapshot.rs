//! Producer snapshots: what is known of each producer up to an offset, so that a start need not
//! replay the whole log.
//!
//! The name's offset is exclusive: the state after all records before it. One writer of these is
//! Kafka's hash map, so entries come in any order; ours are sorted by producer id.
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 2 | version, 1 |
//! | 2 | 4 | CRC-32C of bytes 6 to the end |
//! | 6 | 4 | number of entries |
//! | 10 | 46 each | entries |
//!
//! | at | size | field of an entry |
//! |---|---|---|
//! | 0 | 8 | producer id |
//! | 8 | 2 | producer epoch |
//! | 10 | 4 | last sequence |
//! | 14 | 8 | last offset |
//! | 22 | 4 | last offset - first offset of the last batch |
//! | 26 | 8 | timestamp of the last batch |
//! | 34 | 4 | coordinator epoch of the last end marker, -1 none |
//! | 38 | 8 | first offset of the open transaction, -1 none |

use super::crc32c::crc32c;
use super::fields::Reader;
use super::{Defect, Offset, TimestampMs};

const VERSION: i16 = 1;
const CRC_AT: usize = 2;
/// Where what the checksum covers begins.
const BODY_AT: usize = CRC_AT + 4;
const HEADER_BYTES: usize = BODY_AT + 4;
const ENTRY_BYTES: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;
const _: () = assert!(ENTRY_BYTES == 46 && HEADER_BYTES == 10);

/// What is known of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Sequence of its last record, -1 if it has none here.
    pub last_sequence: i32,
    /// Offset of its last record, -1 if it has none here.
    pub last_offset: Offset,
    /// `last_offset` minus the first offset of its last batch.
    pub offset_delta: i32,
    /// When it last wrote.
    pub timestamp: TimestampMs,
    /// Epoch of the coordinator that wrote its last end marker, -1 for none.
    pub coordinator_epoch: i32,
    /// First offset of its open transaction, if there is one.
    pub open_txn: Option<Offset>,
}

/// Decodes a snapshot, entries in the order of the file.
///
/// # Errors
/// An unknown version, a checksum that does not hold, a count that is not that of the bytes, the
/// same producer twice.
pub fn decode(bytes: &[u8]) -> Result<Vec<ProducerEntry>, Defect> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    if version != VERSION {
        let reason = format!("snapshot version {version}, {VERSION} is known");
        return Err(Defect::new(0, reason));
    }
    let (stored, body) = (r.u32()?, bytes.get(BODY_AT..).unwrap_or_default());
    let computed = crc32c(body);
    if stored != computed {
        let reason = format!("snapshot CRC-32C is {stored:08x}, computed {computed:08x}");
        return Err(Defect::new(CRC_AT, reason));
    }
    let entries = r.array_of(ENTRY_BYTES, decode_entry)?;
    r.end()?;
    distinct(&entries)?;
    Ok(entries)
}

fn decode_entry(r: &mut Reader<'_>) -> Result<ProducerEntry, Defect> {
    Ok(ProducerEntry {
        producer_id: r.i64()?,
        epoch: r.i16()?,
        last_sequence: r.i32()?,
        last_offset: Offset(r.i64()?),
        offset_delta: r.i32()?,
        timestamp: TimestampMs(r.i64()?),
        coordinator_epoch: r.i32()?,
        open_txn: Some(Offset(r.i64()?)).filter(|o| *o >= Offset::ZERO),
    })
}

fn distinct(entries: &[ProducerEntry]) -> Result<(), Defect> {
    let mut ids: Vec<i64> = entries.iter().map(|e| e.producer_id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|w| w.first() == w.last()) {
        None => Ok(()),
        Some(w) => {
            let reason = format!("producer {} appears twice", w.first().unwrap_or(&-1));
            Err(Defect::new(HEADER_BYTES, reason))
        }
    }
}

/// Encodes a snapshot, sorted by producer id.
pub fn encode(entries: &[ProducerEntry]) -> Vec<u8> {
    let mut sorted = entries.to_vec();
    sorted.sort_by_key(|e| e.producer_id);
    let mut body = Vec::with_capacity(4 + sorted.len() * ENTRY_BYTES);
    // More than 2^31 producers would be 100 GB of entries.
    let count = i32::try_from(sorted.len()).unwrap_or(i32::MAX);
    body.extend_from_slice(&count.to_be_bytes());
    for e in &sorted {
        encode_entry(e, &mut body);
    }
    let mut out = Vec::with_capacity(BODY_AT + body.len());
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&crc32c(&body).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

fn encode_entry(e: &ProducerEntry, out: &mut Vec<u8>) {
    out.extend_from_slice(&e.producer_id.to_be_bytes());
    out.extend_from_slice(&e.epoch.to_be_bytes());
    out.extend_from_slice(&e.last_sequence.to_be_bytes());
    out.extend_from_slice(&e.last_offset.0.to_be_bytes());
    out.extend_from_slice(&e.offset_delta.to_be_bytes());
    out.extend_from_slice(&e.timestamp.0.to_be_bytes());
    out.extend_from_slice(&e.coordinator_epoch.to_be_bytes());
    out.extend_from_slice(&e.open_txn.map_or(-1, |o| o.0).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::format::names::{self, Kind};
    use proptest::prelude::*;

    #[test]
    fn an_empty_snapshot_is_ten_bytes() {
        assert_eq!(encode(&[]).len(), 10);
        assert_eq!(decode(&encode(&[])), Ok(vec![]));
    }

    #[test]
    fn another_version_is_a_defect() {
        let mut bytes = encode(&[]);
        bytes[1] = 2;
        let d = decode(&bytes).unwrap_err();
        assert_eq!(d.to_string(), "byte 0: snapshot version 2, 1 is known");
    }

    /// The bytes with `count` in place of theirs and the checksum made right.
    fn with_count(mut bytes: Vec<u8>, count: i32) -> Vec<u8> {
        bytes[6..10].copy_from_slice(&count.to_be_bytes());
        let crc = crc32c(&bytes[6..]);
        bytes[2..6].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    #[test]
    fn a_count_that_lies_is_a_defect_and_sizes_nothing() {
        let one = [entry(1)];
        for count in [-2, 0, 2, i32::MAX] {
            let d = decode(&with_count(encode(&one), count)).unwrap_err();
            assert!(d.at == 6 || count == 0, "{count}: {d}");
        }
        assert!(decode(&with_count(encode(&one), 1)).is_ok());
    }

    #[test]
    fn a_producer_may_appear_once() {
        assert!(decode(&encode(&[entry(1), entry(1)])).is_err());
    }

    fn entry(producer_id: i64) -> ProducerEntry {
        ProducerEntry {
            producer_id,
            epoch: 1,
            last_sequence: 2,
            last_offset: Offset(3),
            offset_delta: 4,
            timestamp: TimestampMs(5),
            coordinator_epoch: 6,
            open_txn: None,
        }
    }

    #[test]
    fn corpus_snapshots_hold_and_round_trip() {
        let Some(root) = corpus::root() else { return };
        let (mut good, mut bad) = (0, 0);
        for path in corpus::files(&root) {
            match names::parse(&corpus::name(&path)) {
                Some(n) if n.kind == Kind::Snapshot => {}
                _ => continue,
            }
            let shown = path.display().to_string();
            let bytes = std::fs::read(&path).unwrap();
            if shown.contains("badsnap/before") || shown.contains("strays/before") {
                assert!(decode(&bytes).is_err(), "{shown}");
                bad += 1;
                continue;
            }
            let entries = decode(&bytes).unwrap_or_else(|d| panic!("{shown}: {d}"));
            let mut sorted = entries.clone();
            sorted.sort_by_key(|e| e.producer_id);
            assert_eq!(decode(&encode(&entries)).unwrap(), sorted, "{shown}");
            if sorted == entries {
                assert_eq!(encode(&entries), bytes, "{shown}");
            }
            good += 1;
        }
        assert!(good > 200 && bad > 0, "{good} {bad}");
    }

    proptest! {
        #[test]
        fn anything_decodes_or_not(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let mut framed = vec![0, 1];
            framed.extend(crc32c(&bytes).to_be_bytes());
            framed.extend(&bytes);
            let _ = decode(&framed);
        }

        #[test]
        fn one_flipped_bit_is_found(n in 0i64..5, at in 0usize..10_000) {
            let entries: Vec<_> = (0..n).map(entry).collect();
            let mut bytes = encode(&entries);
            let bit = at % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
