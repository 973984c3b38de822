//! The replication protocol as bytes: frames, and the messages in them.
//!
//! Owns what travels between two hosts that keep a log equal, and nothing of when it is sent: the
//! state machines are `ops::replicate`'s. `man/logd-protocol.5` is the whole of it for whoever writes
//! a peer; here is the layout once more, since the constants below come from it.
//!
//! Integers are big-endian. A connection is a sequence of frames each way:
//!
//! | at | size | field |
//! |---|---|---|
//! | 0 | 4 | length of all that follows this field, 8 to 16 MiB |
//! | 4 | 4 | CRC-32C of byte 8 to the end of the body; of a DATA frame, of bytes 8 to 27 only |
//! | 8 | 1 | type |
//! | 9 | 1 | flags, of DATA only; otherwise 0 |
//! | 10 | 2 | channel: the number of the partition; 65535 is the session |
//! | 12 | | body |
//!
//! A DATA body is 8 bytes base offset of the segment at the source, 4 bytes CRC-32C of the first 21
//! bytes of every batch that begins in the frame (which the batch's own checksum does not cover),
//! 4 bytes size of what follows when unpacked, and then batches as stored. What follows is not under
//! the frame's checksum: every batch has its own, and whoever stores it checks that.
//!
//! In a body, *str* is two bytes length and UTF-8, *bytes* four bytes length and bytes, *list* four
//! bytes count and the items. A count or length that the bytes at hand cannot hold is a [`Defect`]
//! before anything is sized by it, so memory follows what was received and never what was announced.

mod decode;
mod encode;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::checkpoint::EpochStart;
use super::{Defect, Offset, TimestampMs};

pub use decode::{Framed, decode, frame};
pub use encode::{data_head, encode};

/// Version of the protocol that is spoken here.
pub const VERSION: u16 = 1;
/// Oldest version that is understood here.
pub const VERSION_LOWEST: u16 = 1;
/// First bytes of a HELLO's body.
pub const MAGIC: [u8; 4] = *b"LGDP";
/// Bytes of a frame before its body.
pub const HEAD_BYTES: usize = 12;
/// Bytes of a frame that its length field does not count: the field itself.
pub const LENGTH_BYTES: usize = 4;
/// Bytes of a DATA frame before the batches.
pub const DATA_HEAD_BYTES: usize = HEAD_BYTES + 8 + 4 + 4;
/// Largest value of the length field (durability contract, 10.7).
pub const LENGTH_MAX: usize = 16 << 20;
/// Smallest value of the length field: a frame without a body.
pub const LENGTH_MIN: usize = HEAD_BYTES - LENGTH_BYTES;
/// Most bytes of batches that one frame holds, as sent and unpacked.
pub const RAW_BYTES_MAX: usize = LENGTH_MAX + LENGTH_BYTES - DATA_HEAD_BYTES;
/// Bytes at the start of a batch that its own checksum does not cover, and what does.
pub const BATCH_HEAD_BYTES: usize = 21;
/// Bytes of a batch that a frame holds at least, unless the batch is smaller.
pub const PART_BYTES_MIN: usize = 61;
/// Most items of a list in a handshake.
pub const LIST_MAX: usize = 10_000;
/// Most of a copy's last batches that a COPY names.
pub const LAST_BATCHES_MAX: usize = 16;
/// The channel of the session itself.
pub const SESSION: u16 = 0xffff;
/// The largest partition that has a channel.
pub const PARTITION_MAX: u16 = SESSION - 1;

/// Flag of DATA: its last batch goes on in the channel's next DATA.
pub const FLAG_PART: u8 = 1;
/// Flag of DATA: the batches are one zstd frame.
pub const FLAG_ZSTD: u8 = 2;
/// Flag of DATA: the batches take the place of others, under a REWRITE.
pub const FLAG_REWRITE: u8 = 4;

/// Bits of the options in HELLO and WELCOME.
pub mod options {
    /// Go on as the log grows.
    pub const FOLLOW: u32 = 1;
    /// The copy forgets what the source has forgotten.
    pub const DELETE: u32 = 1 << 1;
    /// Positions of groups travel too.
    pub const GROUPS: u32 = 1 << 2;
    /// A copy that differs is cut to what is common.
    pub const TRUNCATE: u32 = 1 << 3;
    /// Batches may be sent as zstd frames.
    pub const ZSTD: u32 = 1 << 4;
    /// Written counts; the copy is not synced.
    pub const SYNC_NEVER: u32 = 1 << 5;
    /// A range that begins before the log does begins where the log does.
    pub const CLAMP: u32 = 1 << 6;
    /// The copy is synced whenever nothing more waits to be received.
    pub const SYNC_BATCH: u32 = 1 << 7;
    /// The copy is synced at the end only.
    pub const SYNC_EXIT: u32 = 1 << 8;
    /// All that have a meaning.
    pub const ALL: u32 = (1 << 9) - 1;
}

/// What the initiator of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has the log and sends it.
    Push,
    /// It receives the log.
    Pull,
    /// It compares, and nothing is changed.
    Look,
    /// It sends, and never hears an answer.
    OneWay,
}

/// HELLO: the first frame of who opened the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version it wants.
    pub version: u16,
    /// The lowest version it also speaks.
    pub lowest: u16,
    /// What it is.
    pub role: Role,
    /// Bits of [`options`].
    pub options: u32,
    /// Silence after which it gives up, in milliseconds.
    pub idle_ms: u32,
    /// Name of the log.
    pub name: String,
    /// A RANGE in words, resolved at the source; empty is all.
    pub range: String,
    /// The group that keeps the copy's durable position at the source; empty is none.
    pub group: String,
    /// The partitions wanted; empty is all.
    pub partitions: Vec<u32>,
}

/// WELCOME: the answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub version: u16,
    /// The options granted: of those asked for, the ones this side knows and allows.
    pub options: u32,
    /// Silence after which this side gives up, in milliseconds.
    pub idle_ms: u32,
    /// The partitions this side has, or will have.
    pub partitions: Vec<u32>,
}

/// [`Changed::kind`] of a redaction.
pub const REDACTED: u8 = 1;

/// A range of offsets whose batches were changed after they had been written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// By what: 0 compaction, 1 redaction, 2 repair, 3 retention at an exact limit.
    pub kind: u8,
    /// Which offsets.
    pub offsets: Range<Offset>,
}

/// A redaction that a side has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactionId {
    /// Its name.
    pub id: String,
    /// Whether a search has shown that nothing is left.
    pub finished: bool,
}

/// What tells a batch from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchId {
    /// First offset.
    pub base: Offset,
    /// Last offset.
    pub last: Offset,
    /// Bytes as stored.
    pub size: u32,
    /// Checksum as stored.
    pub crc: u32,
}

/// SOURCE: what the source has of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SourceInfo {
    /// Id of the log; zeros if it has none.
    pub id: [u8; 16],
    /// First offset kept.
    pub start: Offset,
    /// Behind what may be sent now.
    pub end: Offset,
    /// The history of leader epochs.
    pub epochs: Vec<EpochStart>,
    /// The log's settings, for a copy that is made.
    pub config: Vec<u8>,
    /// Ranges changed after they had been written.
    pub changed: Vec<Changed>,
    /// Redactions on record.
    pub redactions: Vec<RedactionId>,
}

/// What the receiving side has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CopyState {
    /// No log, or an empty one.
    #[default]
    None,
    /// A copy.
    Copy,
    /// A log that is nobody's copy.
    Log,
}

/// COPY: what the receiving side has of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CopyInfo {
    /// What it is.
    pub state: CopyState,
    /// Id of the log it is, or is a copy of; zeros if unknown.
    pub id: [u8; 16],
    /// First offset kept.
    pub start: Offset,
    /// Log end offset.
    pub end: Offset,
    /// Durable offset; `None` if unknown.
    pub durable: Option<Offset>,
    /// The history of leader epochs.
    pub epochs: Vec<EpochStart>,
    /// The last batches, ascending.
    pub last: Vec<BatchId>,
    /// Ranges changed after they had been written.
    pub changed: Vec<Changed>,
    /// Redactions on record.
    pub redactions: Vec<RedactionId>,
}

/// What an ASK asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// A digest of the batches in the range.
    Digest,
    /// The batch that holds the first offset.
    Batch,
    /// The records in the range, as digests.
    Records,
}

/// ASK: a question of the source about what the copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What is asked.
    pub what: Question,
    /// About which offsets.
    pub offsets: Range<Offset>,
}

/// One record as a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordId {
    /// Its offset.
    pub offset: Offset,
    /// XXH64 of its timestamp, key, value and headers.
    pub hash: u64,
}

/// What an ANSWER holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// How many batches there are in the range, and their digest.
    Digest {
        /// Batches.
        batches: u64,
        /// XXH64 of what identifies each.
        hash: u64,
    },
    /// The batch that holds the offset, or the first one behind it within the range.
    Batch(Option<BatchId>),
    /// The records.
    Records(Vec<RecordId>),
}

/// ANSWER: what was asked for, for as much of the range as it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was found.
    pub found: Found,
    /// The offsets it is about; the end may be below the one asked for.
    pub offsets: Range<Offset>,
}

/// DATA: batches as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a> {
    /// [`FLAG_PART`], [`FLAG_ZSTD`] and [`FLAG_REWRITE`].
    pub flags: u8,
    /// Base offset of the segment that the batches lie in at the source.
    pub segment: Offset,
    /// CRC-32C of the first [`BATCH_HEAD_BYTES`] bytes of every batch that begins here.
    pub heads_crc: u32,
    /// Bytes of the batches.
    pub unpacked: u32,
    /// The batches, or the zstd frame that they are in.
    pub raw: &'a [u8],
}

/// STATE: how far the source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// First offset kept.
    pub start: Offset,
    /// Log end offset.
    pub end: Offset,
    /// Behind what may be sent now.
    pub sendable: Offset,
    /// The source's clock.
    pub now: TimestampMs,
    /// Timestamp of the newest record; -1 is none.
    pub newest: TimestampMs,
}

/// REFUSE: the end of a channel or of the session, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// Exit status that the other side should end with.
    pub status: u8,
    /// The offset it is about.
    pub offset: Option<Offset>,
    /// The epoch it is about; of who was promoted, his.
    pub epoch: Option<i32>,
    /// Why, in words.
    pub why: String,
}

/// REWRITE: the batches of a range follow, to take the place of the copy's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Which offsets.
    pub offsets: Range<Offset>,
    /// Whether it is the last one of this redaction.
    pub last: bool,
}

/// A group and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPosition {
    /// Its name.
    pub name: String,
    /// The next offset it will read.
    pub position: Offset,
}

/// One message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// Who I am and what I want.
    Hello(Hello),
    /// What you get.
    Welcome(Welcome),
    /// What the source has.
    Source(SourceInfo),
    /// What the copy has.
    Copy(CopyInfo),
    /// A question about the copy.
    Ask(Ask),
    /// The answer.
    Answer(Answer),
    /// Batches follow, from this offset on.
    Start {
        /// Smallest offset of the next batch.
        offset: Offset,
        /// Whether the copy is to be cut there first.
        cut: bool,
    },
    /// Batches.
    Data(Data<'a>),
    /// The history of leader epochs from now on.
    Epochs(Vec<EpochStart>),
    /// How far the copy is.
    Ack {
        /// Behind what is written.
        written: Offset,
        /// Behind what is durable.
        durable: Offset,
    },
    /// How far the source is.
    State(State),
    /// I am here.
    Beat,
    /// All was sent; or, from the copy: all of it is stored.
    Done {
        /// The end of the log.
        end: Offset,
    },
    /// No, and why.
    Refuse(Refuse),
    /// A redaction: its entry in `.logd/redactions`.
    Redaction(&'a [u8]),
    /// Batches that take the place of others follow.
    Rewrite(Rewrite),
    /// Positions of groups.
    Groups(Vec<GroupPosition>),
}

impl Message<'_> {
    /// The type byte.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Hello(_) => Kind::Hello,
            Message::Welcome(_) => Kind::Welcome,
            Message::Source(_) => Kind::Source,
            Message::Copy(_) => Kind::Copy,
            Message::Ask(_) => Kind::Ask,
            Message::Answer(_) => Kind::Answer,
            Message::Start { .. } => Kind::Start,
            Message::Data(_) => Kind::Data,
            Message::Epochs(_) => Kind::Epochs,
            Message::Ack { .. } => Kind::Ack,
            Message::State(_) => Kind::State,
            Message::Beat => Kind::Beat,
            Message::Done { .. } => Kind::Done,
            Message::Refuse(_) => Kind::Refuse,
            Message::Redaction(_) => Kind::Redaction,
            Message::Rewrite(_) => Kind::Rewrite,
            Message::Groups(_) => Kind::Groups,
        }
    }
}

macro_rules! kinds {
    ($($name:ident = $n:literal, $word:literal;)*) => {
        /// The type byte of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $word] $name = $n,)*
        }

        impl Kind {
            /// Every type there is.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The type with this number.
            pub fn from_byte(n: u8) -> Option<Kind> {
                match n {
                    $($n => Some(Kind::$name),)*
                    _ => None,
                }
            }

            /// Its name in the protocol's description.
            pub fn word(self) -> &'static str {
                match self {
                    $(Kind::$name => $word,)*
                }
            }
        }
    };
}
kinds! {
    Hello = 1, "HELLO";
    Welcome = 2, "WELCOME";
    Source = 3, "SOURCE";
    Copy = 4, "COPY";
    Ask = 5, "ASK";
    Answer = 6, "ANSWER";
    Start = 7, "START";
    Data = 8, "DATA";
    Epochs = 9, "EPOCHS";
    Ack = 10, "ACK";
    State = 11, "STATE";
    Beat = 12, "BEAT";
    Done = 13, "DONE";
    Refuse = 14, "REFUSE";
    Redaction = 15, "REDACTION";
    Rewrite = 16, "REWRITE";
    Groups = 17, "GROUPS";
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The partition, or [`SESSION`].
    pub channel: u16,
    /// What it says.
    pub message: Message<'a>,
}

/// Why what a peer sent is not to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It speaks other versions than we do.
    Version {
        /// The newest it speaks.
        version: u16,
        /// The oldest.
        lowest: u16,
    },
    /// It is no frame of this protocol.
    Defect(Defect),
}

impl From<Defect> for Bad {
    fn from(defect: Defect) -> Bad {
        Bad::Defect(defect)
    }
}
