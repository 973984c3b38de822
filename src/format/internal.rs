//! Records of the two topics that Kafka's coordinators keep their state in.
//!
//! Both are compacted: the newest value of a key counts, null deletes. Key and value each begin with
//! an int16 version; the key's version is also its type.
//!
//! `__consumer_offsets`:
//!
//! | key version | key | value |
//! |---|---|---|
//! | 0, 1 | group, topic, int32 partition | versions 0 to 4: int64 offset, \[3: int32 leader epoch\], metadata, int64 commit time, \[1 only: int64 expiry\] |
//! | 2 | group | versions 0 to 4: protocol type, int32 generation, protocol?, leader?, \[2: int64 time\], members |
//! | 3 to 8, 16 | group and more | state of the newer consumer protocol: named, and left as bytes |
//!
//! A member: id, \[3: instance id?\], client id, client host, \[1: int32 rebalance timeout\], int32
//! session timeout, subscription and assignment as bytes, which for consumers decode further
//! ([`subscription`], [`assignment`]).
//!
//! `__transaction_state`: key version 0, transactional id; value versions 0 and 1: int64 producer id,
//! int16 epoch, int32 timeout, int8 state, topics with partitions, int64 last update, int64 start.
//!
//! The highest value versions (4; of transactions 1) are flexible. Versions above these are
//! [`Unknown`](Value::Unknown), which is no defect: the record is whole, only newer than this.

use super::fields::Reader;
use super::{Defect, Offset, TimestampMs};

/// The topic of group offsets and metadata.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";
/// The topic of transactions.
pub const TRANSACTION_STATE: &str = "__transaction_state";

/// The value of a record of an internal topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<T> {
    /// Null: the key is deleted.
    Deleted,
    /// It decoded.
    Known(T),
    /// Of a version that is not known here.
    Unknown {
        /// The version.
        version: i16,
    },
}

impl<T> Value<T> {
    /// The value, where it decoded.
    pub fn known(&self) -> Option<&T> {
        match self {
            Value::Known(v) => Some(v),
            _ => None,
        }
    }
}

/// A record of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord<'a> {
    /// Where a group stands in a partition.
    Offset {
        /// Group.
        group: String,
        /// Topic.
        topic: String,
        /// Partition number.
        partition: i32,
        /// The commit.
        value: Value<OffsetCommit>,
    },
    /// Who is in a group.
    Group {
        /// Group.
        group: String,
        /// Its state.
        value: Value<GroupMetadata<'a>>,
    },
    /// State of a group of the newer consumer protocol.
    Consumer {
        /// What it is: Kafka's name of the key, without `Key`.
        name: &'static str,
        /// Group.
        group: String,
        /// The rest of the key and the value, as stored.
        value: Option<&'a [u8]>,
    },
    /// A key version that is not known here.
    Unknown {
        /// The version.
        version: i16,
    },
}

/// A committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Version of the value.
    pub version: i16,
    /// Next offset the group will read.
    pub offset: Offset,
    /// Leader epoch of the record before it, -1 if not told.
    pub leader_epoch: i32,
    /// Free text of the committer.
    pub metadata: String,
    /// When it was committed.
    pub commit_timestamp: TimestampMs,
    /// When it expires; -1 if by the broker's rule.
    pub expire_timestamp: TimestampMs,
}

/// A group of the classic protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMetadata<'a> {
    /// Version of the value.
    pub version: i16,
    /// `consumer`, `connect` or another; empty for none.
    pub protocol_type: String,
    /// Generation.
    pub generation: i32,
    /// Assignor chosen.
    pub protocol: Option<String>,
    /// Member that assigns.
    pub leader: Option<String>,
    /// When it came to this state; -1 if not told.
    pub state_timestamp: TimestampMs,
    /// Members.
    pub members: Vec<Member<'a>>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Id given by the coordinator.
    pub id: String,
    /// Id of its own, where membership is static.
    pub instance_id: Option<String>,
    /// Client id.
    pub client_id: String,
    /// Where it connected from.
    pub client_host: String,
    /// Rebalance timeout in ms; the session's in version 0.
    pub rebalance_timeout_ms: i32,
    /// Session timeout in ms.
    pub session_timeout_ms: i32,
    /// What it asked for, see [`subscription`].
    pub subscription: &'a [u8],
    /// What it got, see [`assignment`].
    pub assignment: &'a [u8],
}

/// Partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPartitions {
    /// Topic.
    pub topic: String,
    /// Partition numbers.
    pub partitions: Vec<i32>,
}

/// What a consumer asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// Topics.
    pub topics: Vec<String>,
    /// Partitions it held at the time (versions 1 and up).
    pub owned: Vec<TopicPartitions>,
}

/// A record of `__transaction_state`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionRecord {
    /// A transactional id and its state.
    Transaction {
        /// The id.
        id: String,
        /// Its state.
        value: Value<Transaction>,
    },
    /// A key version that is not known here.
    Unknown {
        /// The version.
        version: i16,
    },
}

/// The state of a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Version of the value.
    pub version: i16,
    /// Producer id.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// Transaction timeout in ms.
    pub timeout_ms: i32,
    /// State.
    pub state: TransactionState,
    /// Partitions that the open transaction wrote to.
    pub partitions: Vec<TopicPartitions>,
    /// When this was written.
    pub last_update: TimestampMs,
    /// When the open transaction began; -1 if none.
    pub start: TimestampMs,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// None open.
    Empty,
    /// Open.
    Ongoing,
    /// Commit decided, markers to be written.
    PrepareCommit,
    /// Abort decided, markers to be written.
    PrepareAbort,
    /// Committed.
    CompleteCommit,
    /// Aborted.
    CompleteAbort,
    /// The id expired.
    Dead,
    /// About to fence its producer.
    PrepareEpochFence,
    /// A number not known here.
    Unknown(i8),
}

impl TransactionState {
    fn from_id(id: i8) -> TransactionState {
        use TransactionState::*;
        match id {
            0 => Empty,
            1 => Ongoing,
            2 => PrepareCommit,
            3 => PrepareAbort,
            4 => CompleteCommit,
            5 => CompleteAbort,
            6 => Dead,
            7 => PrepareEpochFence,
            other => Unknown(other),
        }
    }

    /// Its name, as Kafka spells it.
    pub fn name(self) -> &'static str {
        use TransactionState::*;
        match self {
            Empty => "Empty",
            Ongoing => "Ongoing",
            PrepareCommit => "PrepareCommit",
            PrepareAbort => "PrepareAbort",
            CompleteCommit => "CompleteCommit",
            CompleteAbort => "CompleteAbort",
            Dead => "Dead",
            PrepareEpochFence => "PrepareEpochFence",
            Unknown(_) => "Unknown",
        }
    }
}

/// Decodes a record of `__consumer_offsets` that is not a control record.
///
/// # Errors
/// A missing or malformed key, a malformed value of a known version.
pub fn decode_group<'a>(
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
) -> Result<GroupRecord<'a>, Defect> {
    let mut r = Reader::new(key.ok_or_else(|| Defect::new(0, "record without a key"))?);
    let version = r.i16()?;
    let record = match version {
        0 | 1 => GroupRecord::Offset {
            group: r.string()?,
            topic: r.string()?,
            partition: r.i32()?,
            value: versioned(value, 4, 4, offset_commit)?,
        },
        2 => GroupRecord::Group {
            group: r.string()?,
            value: versioned(value, 4, 4, group_metadata)?,
        },
        _ => {
            let Some(name) = consumer_key_name(version) else {
                return Ok(GroupRecord::Unknown { version });
            };
            let group = r.string()?;
            return Ok(GroupRecord::Consumer { name, group, value });
        }
    };
    r.end()?;
    Ok(record)
}

/// Keys of the newer consumer protocol.
fn consumer_key_name(version: i16) -> Option<&'static str> {
    Some(match version {
        3 => "ConsumerGroupMetadata",
        4 => "ConsumerGroupPartitionMetadata",
        5 => "ConsumerGroupMemberMetadata",
        6 => "ConsumerGroupTargetAssignmentMetadata",
        7 => "ConsumerGroupTargetAssignmentMember",
        8 => "ConsumerGroupCurrentMemberAssignment",
        16 => "ConsumerGroupRegularExpression",
        _ => return None,
    })
}

/// Decodes a value that begins with its version: up to `known`, flexible from `flexible` on.
fn versioned<'a, T>(
    value: Option<&'a [u8]>,
    known: i16,
    flexible: i16,
    decode: impl FnOnce(i16, &mut Reader<'a>) -> Result<T, Defect>,
) -> Result<Value<T>, Defect> {
    let Some(bytes) = value else {
        return Ok(Value::Deleted);
    };
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    if !(0..=known).contains(&version) {
        return Ok(Value::Unknown { version });
    }
    let mut r = r.flexible(version >= flexible);
    let decoded = decode(version, &mut r)?;
    r.no_tags()?;
    r.end()?;
    Ok(Value::Known(decoded))
}

fn offset_commit(version: i16, r: &mut Reader<'_>) -> Result<OffsetCommit, Defect> {
    Ok(OffsetCommit {
        version,
        offset: Offset(r.i64()?),
        leader_epoch: if version >= 3 { r.i32()? } else { -1 },
        metadata: r.string()?,
        commit_timestamp: TimestampMs(r.i64()?),
        expire_timestamp: TimestampMs(if version == 1 { r.i64()? } else { -1 }),
    })
}

fn group_metadata<'a>(version: i16, r: &mut Reader<'a>) -> Result<GroupMetadata<'a>, Defect> {
    Ok(GroupMetadata {
        version,
        protocol_type: r.string()?,
        generation: r.i32()?,
        protocol: r.nullable_string()?,
        leader: r.nullable_string()?,
        state_timestamp: TimestampMs(if version >= 2 { r.i64()? } else { -1 }),
        members: r.array_of(MEMBER_BYTES_MIN, |r| member(version, r))?,
    })
}

/// Five empty strings or byte strings of one byte each at least, and a timeout.
const MEMBER_BYTES_MIN: usize = 5 + 4;

fn member<'a>(version: i16, r: &mut Reader<'a>) -> Result<Member<'a>, Defect> {
    let id = r.string()?;
    let instance_id = match version {
        ..3 => None,
        _ => r.nullable_string()?,
    };
    let (client_id, client_host) = (r.string()?, r.string()?);
    let first = r.i32()?;
    let session_timeout_ms = if version >= 1 { r.i32()? } else { first };
    let member = Member {
        id,
        instance_id,
        client_id,
        client_host,
        rebalance_timeout_ms: first,
        session_timeout_ms,
        subscription: r.bytes()?,
        assignment: r.bytes()?,
    };
    r.no_tags()?;
    Ok(member)
}

/// Decodes a consumer's subscription. Later versions only append, so they are read as far as known.
///
/// # Errors
/// Bytes that end early, as those of protocol types other than `consumer` may.
pub fn subscription(bytes: &[u8]) -> Result<Subscription, Defect> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    let topics = r.array_of(2, Reader::string)?;
    r.nullable_bytes()?;
    let owned = match version {
        1.. => r.array_of(TOPIC_BYTES_MIN, topic_partitions)?,
        _ => Vec::new(),
    };
    Ok(Subscription { topics, owned })
}

/// Decodes a consumer's assignment; no bytes are no partitions.
///
/// # Errors
/// As for [`subscription`].
pub fn assignment(bytes: &[u8]) -> Result<Vec<TopicPartitions>, Defect> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let mut r = Reader::new(bytes);
    r.i16()?;
    r.array_of(TOPIC_BYTES_MIN, topic_partitions)
}

/// An empty name and an empty array, compact.
const TOPIC_BYTES_MIN: usize = 2;

fn topic_partitions(r: &mut Reader<'_>) -> Result<TopicPartitions, Defect> {
    let topic = r.string()?;
    let partitions = r.array_of(4, Reader::i32)?;
    r.no_tags()?;
    Ok(TopicPartitions { topic, partitions })
}

/// Decodes a record of `__transaction_state`.
///
/// # Errors
/// A missing or malformed key, a malformed value of a known version.
pub fn decode_transaction(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Result<TransactionRecord, Defect> {
    let mut r = Reader::new(key.ok_or_else(|| Defect::new(0, "record without a key"))?);
    let version = r.i16()?;
    if version != 0 {
        return Ok(TransactionRecord::Unknown { version });
    }
    let id = r.string()?;
    r.end()?;
    let value = versioned(value, 1, 1, transaction)?;
    Ok(TransactionRecord::Transaction { id, value })
}

fn transaction(version: i16, r: &mut Reader<'_>) -> Result<Transaction, Defect> {
    Ok(Transaction {
        version,
        producer_id: r.i64()?,
        producer_epoch: r.i16()?,
        timeout_ms: r.i32()?,
        state: TransactionState::from_id(r.i8()?),
        partitions: r.array_of(TOPIC_BYTES_MIN, topic_partitions)?,
        last_update: TimestampMs(r.i64()?),
        start: TimestampMs(r.i64()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use proptest::prelude::*;

    fn string(s: &str) -> Vec<u8> {
        let len = i16::try_from(s.len()).unwrap();
        [&len.to_be_bytes()[..], s.as_bytes()].concat()
    }

    #[test]
    fn offset_commits_decode_in_every_version() {
        let key = [vec![0, 1], string("g"), string("t"), vec![0, 0, 0, 9]].concat();
        let (offset, time) = (7i64.to_be_bytes().to_vec(), 8i64.to_be_bytes().to_vec());
        let (epoch, expire) = (vec![0, 0, 0, 5], 9i64.to_be_bytes().to_vec());
        let (m, compact) = (string("m"), vec![2, b'm']);
        let values = [
            [vec![0, 0], offset.clone(), m.clone(), time.clone()].concat(),
            [vec![0, 1], offset.clone(), m.clone(), time.clone(), expire].concat(),
            [vec![0, 2], offset.clone(), m.clone(), time.clone()].concat(),
            [vec![0, 3], offset.clone(), epoch.clone(), m, time.clone()].concat(),
            [vec![0, 4], offset, epoch, compact, time, vec![0]].concat(),
        ];
        for (version, value) in values.iter().enumerate() {
            let record = decode_group(Some(&key), Some(value)).unwrap();
            let want = OffsetCommit {
                version: version as i16,
                offset: Offset(7),
                leader_epoch: if version >= 3 { 5 } else { -1 },
                metadata: "m".into(),
                commit_timestamp: TimestampMs(8),
                expire_timestamp: TimestampMs(if version == 1 { 9 } else { -1 }),
            };
            let GroupRecord::Offset {
                group,
                topic,
                partition,
                value,
            } = record
            else {
                panic!("{record:?}")
            };
            assert_eq!((&*group, &*topic, partition), ("g", "t", 9));
            assert_eq!(value, Value::Known(want));
        }
    }

    #[test]
    fn flexible_transactions_decode_past_tagged_fields() {
        let key = [vec![0, 0], string("tx")].concat();
        let mut value = vec![0, 1];
        value.extend(4000i64.to_be_bytes());
        value.extend([0, 2, 0, 0, 0, 99, 1]);
        value.extend([2, 2, b't', 2, 0, 0, 0, 3, 0]);
        value.extend(5i64.to_be_bytes());
        value.extend(6i64.to_be_bytes());
        value.extend([1, 2, 2, 0, 2]);
        let TransactionRecord::Transaction { id, value } =
            decode_transaction(Some(&key), Some(&value)).unwrap()
        else {
            panic!()
        };
        let t = value.known().unwrap();
        assert_eq!((&*id, t.producer_id, t.producer_epoch), ("tx", 4000, 2));
        assert_eq!((t.state, t.timeout_ms), (TransactionState::Ongoing, 99));
        assert_eq!(
            (
                t.partitions[0].topic.as_str(),
                &t.partitions[0].partitions[..]
            ),
            ("t", &[3][..])
        );
        assert_eq!((t.last_update, t.start), (TimestampMs(5), TimestampMs(6)));
    }

    #[test]
    fn newer_versions_are_unknown_not_wrong() {
        let unknown = GroupRecord::Unknown { version: 77 };
        assert_eq!(decode_group(Some(&[0, 77, 1]), None), Ok(unknown));
        let key = [vec![0, 2], string("g")].concat();
        let GroupRecord::Group { value, .. } = decode_group(Some(&key), Some(&[0, 5])).unwrap()
        else {
            panic!()
        };
        assert_eq!(value, Value::Unknown { version: 5 });
        assert_eq!(
            decode_transaction(Some(&[0, 1]), None),
            Ok(TransactionRecord::Unknown { version: 1 })
        );
        let key = [vec![0, 3], string("g")].concat();
        let record = decode_group(Some(&key), None).unwrap();
        assert!(matches!(
            record,
            GroupRecord::Consumer {
                name: "ConsumerGroupMetadata",
                ..
            }
        ));
    }

    #[test]
    fn trailing_bytes_and_counts_that_lie_are_defects() {
        let key = [vec![0, 2], string("g")].concat();
        let mut group = vec![0, 0];
        group.extend(string("consumer"));
        group.extend([0, 0, 0, 1, 255, 255, 255, 255]);
        let with =
            |tail: &[u8]| decode_group(Some(&key), Some(&[&group[..], tail].concat())).map(|_| ());
        assert_eq!(with(&[0, 0, 0, 0]), Ok(()));
        assert!(with(&[0, 0, 0, 0, 0]).is_err());
        assert!(with(&[127, 255, 255, 255]).is_err());
        assert!(decode_group(None, None).is_err());
        assert!(decode_group(Some(&[&key[..], &[0]].concat()), None).is_err());
    }

    #[test]
    fn corpus_group_records_all_decode() {
        let Some(root) = corpus::root() else { return };
        let (mut commits, mut groups, mut deleted, mut assigned) = (0, 0, 0, 0);
        for record in corpus::records(&root) {
            if !record.place.contains("__consumer_offsets-") {
                continue;
            }
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            match decode_group(key, value).unwrap_or_else(|d| panic!("{}: {d}", record.place)) {
                GroupRecord::Offset {
                    value: Value::Known(c),
                    ..
                } => {
                    assert!(c.offset >= Offset::ZERO && c.commit_timestamp > TimestampMs(0));
                    commits += 1;
                }
                GroupRecord::Group {
                    value: Value::Known(g),
                    ..
                } => {
                    for m in &g.members {
                        assert!(!m.id.is_empty() && m.session_timeout_ms > 0);
                        if g.protocol_type == "consumer" {
                            assert!(!subscription(m.subscription).unwrap().topics.is_empty());
                            assigned += assignment(m.assignment).unwrap().len();
                        }
                    }
                    groups += 1;
                }
                GroupRecord::Offset {
                    value: Value::Deleted,
                    ..
                }
                | GroupRecord::Group {
                    value: Value::Deleted,
                    ..
                } => deleted += 1,
                other => panic!("{}: {other:?}", record.place),
            }
        }
        assert!(
            commits > 5000 && groups > 100 && deleted > 10 && assigned > 50,
            "{commits} {groups} {deleted} {assigned}"
        );
    }

    #[test]
    fn corpus_transactions_all_decode() {
        let Some(root) = corpus::root() else { return };
        let mut seen = std::collections::BTreeMap::new();
        for record in corpus::records(&root) {
            if !record.place.contains("__transaction_state-") {
                continue;
            }
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            match decode_transaction(key, value).unwrap_or_else(|d| panic!("{}: {d}", record.place))
            {
                TransactionRecord::Transaction {
                    value: Value::Known(t),
                    ..
                } => {
                    assert!(t.producer_id >= 0 && t.timeout_ms > 0);
                    *seen.entry(t.state.name()).or_insert(0) += 1;
                }
                other => panic!("{}: {other:?}", record.place),
            }
        }
        assert!(
            seen["Ongoing"] > 50 && seen["CompleteCommit"] > 50 && seen["CompleteAbort"] > 10,
            "{seen:?}"
        );
        assert!(!seen.contains_key("Unknown"));
    }

    proptest! {
        #[test]
        fn anything_decodes_or_not(k in 0u8..18, v in 0u8..6, rest in prop::collection::vec(any::<u8>(), 0..120)) {
            let key = [&[0, k][..], &rest].concat();
            let value = [&[0, v][..], &rest].concat();
            let good = [vec![0, k.min(2)], string("g")].concat();
            for key in [&key[..], &good, &rest] {
                let _ = decode_group(Some(key), Some(&value));
                let _ = decode_transaction(Some(key), Some(&value));
            }
            let _ = (subscription(&value), assignment(&value));
        }
    }
}
