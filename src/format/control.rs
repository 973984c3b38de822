//! Control records: what brokers write between the records of users.
//!
//! A control batch (attribute bit 5) holds one record, in snapshots of the metadata log several.
//! Consumers are never shown them; each takes an offset, so the gap is normal.
//!
//! | key at | size | field |
//! |---|---|---|
//! | 0 | 2 | version, 0 |
//! | 2 | 2 | type |
//!
//! | type | | value |
//! |---|---|---|
//! | 0, 1 | abort, commit: an end marker | int16 version 0, int32 coordinator epoch |
//! | 2 | leader change | int16 version, leader, voters, voters that granted |
//! | 3 | snapshot header | int16 version, int64 timestamp of the last record contained |
//! | 4 | snapshot footer | int16 version |
//! | 5 | KRaft version | int16 version, int16 KRaft version |
//! | 6 | KRaft voters | int16 version, the voters (left as bytes here) |
//!
//! Types 2 to 6 occur in `__cluster_metadata-0`; their values are flexible messages. Types and
//! versions above these are kept and shown, not refused.

use super::fields::Reader;
use super::{Defect, TimestampMs};

/// What a control record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// The end of its producer's transaction.
    EndTxn {
        /// Committed, or aborted.
        commit: bool,
        /// Epoch of the coordinator that decided it.
        coordinator_epoch: i32,
    },
    /// A new leader of a KRaft quorum.
    LeaderChange {
        /// The leader.
        leader_id: i32,
        /// Who could vote.
        voters: Vec<i32>,
        /// Who voted for it.
        granting: Vec<i32>,
    },
    /// The first record of a metadata snapshot.
    SnapshotHeader {
        /// Time of the last record that the snapshot covers.
        last_contained: TimestampMs,
    },
    /// The last record of a metadata snapshot.
    SnapshotFooter,
    /// The version of the KRaft protocol in force from here on.
    KRaftVersion(i16),
    /// The voters in force from here on, as stored.
    KRaftVoters(&'a [u8]),
    /// A type that is not known here.
    Unknown {
        /// The type.
        kind: i16,
        /// Its value as stored.
        value: Option<&'a [u8]>,
    },
}

const KEY_VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const MARKER_VERSION: i16 = 0;

impl Control<'_> {
    /// The type's name as kafka-dump-log prints it (`COMMIT`, `ABORT`), or like it.
    pub fn name(&self) -> &'static str {
        match self {
            Control::EndTxn { commit: true, .. } => "COMMIT",
            Control::EndTxn { commit: false, .. } => "ABORT",
            Control::LeaderChange { .. } => "LEADER_CHANGE",
            Control::SnapshotHeader { .. } => "SNAPSHOT_HEADER",
            Control::SnapshotFooter => "SNAPSHOT_FOOTER",
            Control::KRaftVersion(_) => "KRAFT_VERSION",
            Control::KRaftVoters(_) => "KRAFT_VOTERS",
            Control::Unknown { .. } => "UNKNOWN",
        }
    }
}

/// Decodes a control record.
///
/// # Errors
/// A key of under four bytes or of a negative version; a value that is missing, cut short or of a
/// negative version, in a type that is known.
pub fn decode<'a>(key: Option<&[u8]>, value: Option<&'a [u8]>) -> Result<Control<'a>, Defect> {
    let mut r = Reader::new(key.unwrap_or_default());
    let (version, kind) = (r.i16()?, r.i16()?);
    if version < 0 {
        return Err(Defect::new(0, format!("control key version {version}")));
    }
    if !(ABORT..=6).contains(&kind) {
        return Ok(Control::Unknown { kind, value });
    }
    let value = value.ok_or_else(|| Defect::new(0, "control record without a value"))?;
    let mut r = Reader::new(value);
    let version = r.i16()?;
    if version < 0 {
        return Err(Defect::new(0, format!("control value version {version}")));
    }
    // What later versions append is left over and ignored.
    decode_value(kind, version, value, r)
}

fn decode_value<'a>(
    kind: i16,
    version: i16,
    value: &'a [u8],
    mut r: Reader<'a>,
) -> Result<Control<'a>, Defect> {
    Ok(match kind {
        ABORT | COMMIT => Control::EndTxn {
            commit: kind == COMMIT,
            coordinator_epoch: r.i32()?,
        },
        2 => leader_change(version, r.flexible(true))?,
        3 => Control::SnapshotHeader {
            last_contained: TimestampMs(r.i64()?),
        },
        4 => Control::SnapshotFooter,
        5 => Control::KRaftVersion(r.i16()?),
        _ => Control::KRaftVoters(value),
    })
}

fn leader_change<'a>(version: i16, mut r: Reader<'_>) -> Result<Control<'a>, Defect> {
    // From version 1 on a directory id of 16 bytes follows each voter's id.
    let voter = |r: &mut Reader<'_>| {
        let id = r.i32()?;
        if version > 0 {
            r.take(16)?;
        }
        r.no_tags()?;
        Ok(id)
    };
    Ok(Control::LeaderChange {
        leader_id: r.i32()?,
        voters: r.array_of(5, voter)?,
        granting: r.array_of(5, voter)?,
    })
}

/// Key of an end marker.
pub fn end_marker_key(commit: bool) -> [u8; 4] {
    let kind = if commit { COMMIT } else { ABORT };
    let ([a, b], [c, d]) = (KEY_VERSION.to_be_bytes(), kind.to_be_bytes());
    [a, b, c, d]
}

/// Value of an end marker.
pub fn end_marker_value(coordinator_epoch: i32) -> [u8; 6] {
    let ([a, b], [c, d, e, f]) = (
        MARKER_VERSION.to_be_bytes(),
        coordinator_epoch.to_be_bytes(),
    );
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use proptest::prelude::*;

    #[test]
    fn end_markers_round_trip() {
        for commit in [false, true] {
            let (key, value) = (end_marker_key(commit), end_marker_value(7));
            let want = Control::EndTxn {
                commit,
                coordinator_epoch: 7,
            };
            assert_eq!(decode(Some(&key), Some(&value)), Ok(want));
        }
    }

    #[test]
    fn unknown_types_are_kept_and_short_ones_refused() {
        let value = Some(&b"xy"[..]);
        let unknown = decode(Some(&[0, 0, 0, 99]), value).unwrap();
        assert_eq!(unknown, Control::Unknown { kind: 99, value });
        for (key, value) in [
            (&[0, 0, 0][..], Some(&[0; 6][..])),
            (&[255, 255, 0, 0], Some(&[0; 6])),
            (&[0, 0, 0, 1], Some(&[0; 5])),
            (&[0, 0, 0, 1], Some(&[255; 6])),
            (&[0, 0, 0, 1], None),
        ] {
            assert!(decode(Some(key), value).is_err(), "{key:?} {value:?}");
        }
        assert!(decode(None, None).is_err());
    }

    #[test]
    fn corpus_control_records_are_known() {
        let Some(root) = corpus::root() else { return };
        let mut seen = std::collections::BTreeMap::new();
        for record in corpus::records(&root) {
            if !record.is_control {
                continue;
            }
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            let control = decode(key, value).unwrap_or_else(|d| panic!("{}: {d}", record.place));
            *seen.entry(control.name()).or_insert(0) += 1;
            if let Control::LeaderChange {
                leader_id,
                voters,
                granting,
            } = control
            {
                assert!(voters.contains(&leader_id) && granting.contains(&leader_id));
            }
        }
        assert!(seen["COMMIT"] > 100 && seen["ABORT"] > 50, "{seen:?}");
        assert!(seen["LEADER_CHANGE"] > 2, "{seen:?}");
        assert!(!seen.contains_key("UNKNOWN"), "{seen:?}");
    }

    proptest! {
        #[test]
        fn anything_decodes_or_not(kind in -1i16..9, v in -1i16..3, rest in prop::collection::vec(any::<u8>(), 0..60)) {
            let key = [[0, 0], kind.to_be_bytes()].concat();
            let value = [&v.to_be_bytes()[..], &rest].concat();
            let _ = decode(Some(&key), Some(&value));
            let _ = decode(Some(&rest), None);
        }
    }
}
