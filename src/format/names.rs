//! Names: of the files in a partition directory, of the directories of partitions, and of topics.
//!
//! Owns every spelling, so that no other module builds or cuts a name. Strict both ways: a name that
//! [`parse`] takes is exactly what [`FileName`] prints.
//!
//! ```text
//! 00000000000000000368.timeindex.swap
//! base offset, 20 digits . kind [. state]
//!
//! orders-eu-3                                           topic "orders-eu", partition 3
//! orders-eu-3.0123456789abcdef0123456789abcdef-delete   the same, being deleted (-future, -stray)
//! ```
//!
//! A broker judges files by suffix alone and does not start when one of its suffixes follows
//! anything but a number: such names are [foreign](is_foreign), to be reported and never made.

use super::Offset;
use std::fmt;

/// Per partition: leader epochs and where each began.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// Per partition: the topic id.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Per log directory: below this offset everything is on disk.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// Per log directory: high watermarks.
pub const REPLICATION_OFFSET_CHECKPOINT: &str = "replication-offset-checkpoint";
/// Per log directory: log start offsets above the first segment's base.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// Per log directory: first dirty offsets of compaction.
pub const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// Per log directory: present after a clean stop only.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// Per log directory: locked while a broker runs.
pub const LOCK: &str = ".lock";
/// Per log directory: cluster and node ids.
pub const META_PROPERTIES: &str = "meta.properties";

/// The checkpoints of a log directory that hold `topic partition offset` lines.
pub const DIR_CHECKPOINTS: [&str; 4] = [
    RECOVERY_POINT_CHECKPOINT,
    REPLICATION_OFFSET_CHECKPOINT,
    LOG_START_CHECKPOINT,
    CLEANER_CHECKPOINT,
];

/// Digits of a base offset in a file name: 2^63-1 has 19, Kafka pads to 20.
const OFFSET_DIGITS: usize = 20;

/// Longest topic name: with `-`, ten digits and a deletion suffix it must fit a file name's 255.
const TOPIC_LEN_MAX: usize = 249;

/// What a segment file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Record batches.
    Log,
    /// Offset to position.
    OffsetIndex,
    /// Timestamp to offset.
    TimeIndex,
    /// Aborted transactions.
    TxnIndex,
    /// Producer state.
    Snapshot,
}

impl Kind {
    /// Every kind, the log first.
    pub const ALL: [Kind; 5] = [
        Kind::Log,
        Kind::OffsetIndex,
        Kind::TimeIndex,
        Kind::TxnIndex,
        Kind::Snapshot,
    ];

    /// The suffix, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::Log => ".log",
            Kind::OffsetIndex => ".index",
            Kind::TimeIndex => ".timeindex",
            Kind::TxnIndex => ".txnindex",
            Kind::Snapshot => ".snapshot",
        }
    }
}

/// Where a segment file is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// In use.
    Plain,
    /// Waiting to be removed.
    Deleted,
    /// Output of an unfinished compaction or split: worthless.
    Cleaned,
    /// Finished output, to be renamed into place.
    Swap,
}

impl State {
    /// Every state but the plain one.
    pub const SUFFIXED: [State; 3] = [State::Deleted, State::Cleaned, State::Swap];

    /// The suffix, with its dot; empty for a plain file.
    pub fn suffix(self) -> &'static str {
        match self {
            State::Plain => "",
            State::Deleted => ".deleted",
            State::Cleaned => ".cleaned",
            State::Swap => ".swap",
        }
    }
}

/// Name of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// Base offset of the segment; of a snapshot, the (exclusive) end of what it covers.
    pub base: Offset,
    /// What it holds.
    pub kind: Kind,
    /// Where it is in its life.
    pub state: State,
}

impl FileName {
    /// The same segment's plain file of another kind.
    pub fn sibling(self, kind: Kind) -> FileName {
        FileName { kind, ..self }
    }

    /// The same file in another state.
    pub fn in_state(self, state: State) -> FileName {
        FileName { state, ..self }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, state) = (self.kind.suffix(), self.state.suffix());
        write!(f, "{:0OFFSET_DIGITS$}{kind}{state}", self.base.0)
    }
}

/// The plain name of a segment's file. `base` must not be negative.
pub fn file_name(base: Offset, kind: Kind) -> String {
    let state = State::Plain;
    FileName { base, kind, state }.to_string()
}

/// Takes a segment file's name apart; `None` for any other name, [foreign](is_foreign) or not.
pub fn parse(name: &str) -> Option<FileName> {
    let (digits, suffix) = name.split_at_checked(OFFSET_DIGITS)?;
    let base = Offset(decimal(digits)?);
    let (rest, state) = split_state(suffix);
    let kind = Kind::ALL.into_iter().find(|k| k.suffix() == rest)?;
    Some(FileName { base, kind, state })
}

/// Whether a name ends in one of Kafka's suffixes without being a segment file's name: a broker
/// refuses to start on such a file, or removes it.
pub fn is_foreign(name: &str) -> bool {
    let (rest, state) = split_state(name);
    let has_suffix = state != State::Plain || Kind::ALL.iter().any(|k| rest.ends_with(k.suffix()));
    has_suffix && parse(name).is_none()
}

fn split_state(name: &str) -> (&str, State) {
    State::SUFFIXED
        .into_iter()
        .find_map(|s| Some((name.strip_suffix(s.suffix())?, s)))
        .unwrap_or((name, State::Plain))
}

/// Digits only, within i64.
fn decimal(digits: &str) -> Option<i64> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// Whether a topic may have this name: `[A-Za-z0-9._-]{1,249}`, not `.` or `..`.
pub fn valid_topic(name: &str) -> bool {
    let chars = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=TOPIC_LEN_MAX).contains(&name.len()) && name.bytes().all(chars) && !is_dots(name)
}

fn is_dots(name: &str) -> bool {
    name == "." || name == ".."
}

/// Splits `orders-eu-3` into topic and partition, at the last `-`.
///
/// `None` when the topic is not a [valid](valid_topic) one, or the number has a sign, a superfluous
/// leading zero (Kafka would take `a-03` for a second `a-3`) or exceeds 2^31-1.
pub fn parse_partition(name: &str) -> Option<(&str, i32)> {
    let (topic, digits) = name.rsplit_once('-')?;
    let canonical = digits == "0" || !digits.starts_with('0');
    let partition = i32::try_from(decimal(digits)?).ok()?;
    (canonical && valid_topic(topic)).then_some((topic, partition))
}

/// The directory of a partition.
pub fn partition_name(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}

/// What a broker does with a partition directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirState {
    /// A partition in use.
    Plain,
    /// Being deleted.
    Delete,
    /// Being filled, to replace the copy in another log directory.
    Future,
    /// A replica the broker should not have.
    Stray,
}

/// Name of a partition directory in any of its states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirName<'a> {
    /// Topic; in a deletion name possibly cut at its end, to fit 255 bytes.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
    /// What is being done with it.
    pub state: DirState,
}

/// Takes a partition directory's name apart, with or without `.<32 hex>-delete` and its kin.
pub fn parse_dir(name: &str) -> Option<DirName<'_>> {
    let states = [
        ("-delete", DirState::Delete),
        ("-future", DirState::Future),
        ("-stray", DirState::Stray),
    ];
    let suffixed = states.into_iter().find_map(|(suffix, state)| {
        let (partition, id) = name.strip_suffix(suffix)?.rsplit_once('.')?;
        let hex = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        hex.then_some((partition, state))
    });
    let (plain, state) = suffixed.unwrap_or((name, DirState::Plain));
    let (topic, partition) = parse_partition(plain)?;
    Some(DirName {
        topic,
        partition,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_padded_to_twenty_digits() {
        assert_eq!(
            file_name(Offset(368), Kind::Log),
            "00000000000000000368.log"
        );
        let max = file_name(Offset::MAX, Kind::TimeIndex);
        assert_eq!(max, "09223372036854775807.timeindex");
        assert_eq!(parse(&max).unwrap().base, Offset::MAX);
    }

    #[test]
    fn every_kind_and_state_round_trips() {
        for kind in Kind::ALL {
            for state in State::SUFFIXED.into_iter().chain([State::Plain]) {
                let name = FileName {
                    base: Offset(7),
                    kind,
                    state,
                };
                assert_eq!(parse(&name.to_string()), Some(name));
                assert!(!is_foreign(&name.to_string()));
            }
        }
    }

    #[test]
    fn names_a_broker_chokes_on_are_foreign() {
        let foreign = [
            "foo.log",
            "7.log",
            "0000000000000000000x.index",
            "+0000000000000000007.log",
            "99999999999999999999.log",
            "000000000000000000007.log",
            "00000000000000000000.log.log",
            "foo.snapshot",
            "foo.deleted",
            "00000000000000000000.swap",
            ".log",
            "é000000000000000000.log",
        ];
        for name in foreign {
            assert_eq!(parse(name), None, "{name}");
            assert!(is_foreign(name), "{name}");
        }
        for name in ["notes.txt", "00000000000000000000.bak", "log", "", ".logd"] {
            assert_eq!(parse(name), None, "{name}");
            assert!(!is_foreign(name), "{name}");
        }
    }

    #[test]
    fn partitions_split_at_the_last_dash() {
        assert_eq!(parse_partition("a-b-3"), Some(("a-b", 3)));
        assert_eq!(parse_partition("a--3"), Some(("a-", 3)));
        assert_eq!(parse_partition("a-2147483647"), Some(("a", i32::MAX)));
        for bad in [
            "a",
            "-3",
            "a-",
            "a-+3",
            "a-03",
            "a-2147483648",
            "a-x",
            "a b-3",
            ".-1",
            "..-1",
        ] {
            assert_eq!(parse_partition(bad), None, "{bad}");
        }
        assert_eq!(parse_partition(&partition_name("x.y", 0)), Some(("x.y", 0)));
    }

    #[test]
    fn topics_are_249_safe_characters() {
        assert!(valid_topic(&"x".repeat(249)) && valid_topic("...") && valid_topic("A_b-9.c"));
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(250)] {
            assert!(!valid_topic(bad), "{bad}");
        }
    }

    #[test]
    fn directories_on_their_way_out_are_recognised() {
        let id = "0123456789abcdef0123456789abcdef";
        for (suffix, state) in [
            ("delete", DirState::Delete),
            ("future", DirState::Future),
            ("stray", DirState::Stray),
        ] {
            let name = format!("a.b-c-3.{id}-{suffix}");
            let dir = parse_dir(&name).unwrap();
            assert_eq!((dir.topic, dir.partition, dir.state), ("a.b-c", 3, state));
        }
        assert_eq!(parse_dir("a-3").unwrap().state, DirState::Plain);
        assert_eq!(parse_dir("a-3.123-delete"), None);
    }

    proptest! {
        #[test]
        fn parse_takes_only_what_display_makes(name in "[0-9.a-z]{0,40}") {
            if let Some(n) = parse(&name) {
                prop_assert_eq!(n.to_string(), name);
            }
        }

        #[test]
        fn parsers_take_any_text(name in ".{0,60}") {
            let _ = (parse(&name), is_foreign(&name), parse_dir(&name), valid_topic(&name));
        }
    }
}
