//! One JSON object per line, each with its `kind` and the `file` it is from.
//!
//! Numbers are JSON numbers with all their digits (offsets and timestamps are 64-bit: a reader that
//! keeps 53 bits must mind offsets of 2^53 and up). Bytes are strings, or base64 in a field whose
//! name ends in `_b64` when they are not UTF-8. `position` is a byte of the file; in an `index` entry
//! it is the byte of the log that the entry leads to.

use super::Lines;
use crate::format::batch::{BatchHeader, TimestampType};
use crate::format::control::Control;
use crate::format::internal::{
    GroupMetadata, GroupRecord, Member, OffsetCommit, Transaction, TransactionRecord, Value,
    assignment, subscription,
};
use crate::format::record::{Headers, Record};
use crate::format::snapshot::ProducerEntry;
use crate::format::{Offset, Position, TimestampMs};
use crate::ops::dump::{Content, Item, RecordItem};
use crate::ops::output::{encode, json};

/// Writes items as JSON.
pub struct Json {
    /// Escape what a terminal would act on.
    visible: bool,
    /// The file of the items that come, as text.
    file: String,
    /// The base offset in its name.
    base: Offset,
}

impl Json {
    pub fn new(visible: bool) -> Json {
        Json {
            visible,
            file: String::new(),
            base: Offset::ZERO,
        }
    }

    /// `{"kind":KIND,"file":FILE`, to be ended.
    fn begin<'o>(&self, kind: &str, out: &'o mut Vec<u8>) -> Object<'o> {
        let visible = self.visible;
        out.push(b'{');
        let mut object = Object { out, visible };
        object.text("kind", kind);
        object.text("file", &self.file);
        object
    }

    fn batch(&self, position: Position, header: &BatchHeader, valid: bool, out: &mut Vec<u8>) {
        let mut o = self.begin("batch", out);
        o.int("position", position.0);
        o.int("size", header.size);
        o.int("magic", header.magic);
        o.int("base_offset", header.base_offset.0);
        o.int("last_offset", header.last_offset.0);
        o.optional("count", (header.count != -1).then_some(header.count));
        o.int("leader_epoch", header.leader_epoch);
        match header.codec() {
            Ok(codec) => o.text("codec", codec.name()),
            Err(id) => o.text("codec", &format!("unknown {id}")),
        }
        o.text(
            "timestamp_type",
            match header.timestamp_type() {
                TimestampType::None => "none",
                TimestampType::Create => "create",
                TimestampType::Append => "append",
            },
        );
        o.bool("transactional", header.is_transactional());
        o.bool("control", header.is_control());
        o.optional("delete_horizon", header.delete_horizon().map(|t| t.0));
        o.int("base_ts", header.base_timestamp.0);
        o.int("max_ts", header.max_timestamp.0);
        o.int("producer_id", header.producer_id);
        o.int("producer_epoch", header.producer_epoch);
        o.int("base_sequence", header.base_sequence);
        o.int("last_sequence", header.last_sequence());
        o.int("attributes", header.attributes);
        o.int("crc", header.crc);
        o.bool("valid", valid);
        o.end();
    }

    fn record(&self, item: &RecordItem<'_>, out: &mut Vec<u8>) {
        match &item.content {
            Content::User => self.user(item, out),
            Content::Control(control) => self.control(item, control, out),
            Content::Group(record) => self.group(item, record, out),
            Content::Transaction(record) => self.transaction(item, record, out),
        }
    }

    fn user(&self, item: &RecordItem<'_>, out: &mut Vec<u8>) {
        let Record {
            offset,
            timestamp,
            sequence,
            key,
            value,
            headers,
        } = item.record;
        let mut o = self.begin("record", out);
        o.int("position", item.position.0);
        o.int("offset", offset.0);
        o.int("ts", timestamp.0);
        o.int("sequence", *sequence);
        o.bytes("key", *key);
        o.bytes("value", *value);
        o.headers(headers);
        o.end();
    }

    fn control(&self, item: &RecordItem<'_>, control: &Control<'_>, out: &mut Vec<u8>) {
        let mut o = self.begin("control", out);
        o.int("position", item.position.0);
        o.int("offset", item.record.offset.0);
        o.int("ts", item.record.timestamp.0);
        o.text("type", &control.name().to_ascii_lowercase());
        match control {
            Control::EndTxn {
                coordinator_epoch, ..
            } => {
                o.int("producer_id", item.batch.producer_id);
                o.int("producer_epoch", item.batch.producer_epoch);
                o.int("coordinator_epoch", *coordinator_epoch);
            }
            Control::LeaderChange {
                leader_id,
                voters,
                granting,
            } => {
                o.int("leader_id", *leader_id);
                o.ints("voters", voters);
                o.ints("granting_voters", granting);
            }
            Control::SnapshotHeader { last_contained } => {
                o.int("last_contained_ts", last_contained.0);
            }
            Control::SnapshotFooter => {}
            Control::KRaftVersion(version) => o.int("kraft_version", *version),
            Control::KRaftVoters(value) => o.bytes("value", Some(value)),
            Control::Unknown { kind, value } => {
                o.int("type_id", *kind);
                o.bytes("value", *value);
            }
        }
        o.end();
    }

    /// The fields that every record of an internal topic has. `offset` is left to what is committed.
    fn internal<'o>(&self, kind: &str, item: &RecordItem<'_>, out: &'o mut Vec<u8>) -> Object<'o> {
        let mut o = self.begin(kind, out);
        o.int("position", item.position.0);
        o.int("record_offset", item.record.offset.0);
        o.int("ts", item.record.timestamp.0);
        o
    }

    fn group(&self, item: &RecordItem<'_>, record: &GroupRecord<'_>, out: &mut Vec<u8>) {
        match record {
            GroupRecord::Offset {
                group,
                topic,
                partition,
                value,
            } => {
                let mut o = self.internal("offset_commit", item, out);
                o.text("group", group);
                o.text("topic", topic);
                o.int("partition", *partition);
                o.state(value);
                o.commit(value.known());
                o.end();
            }
            GroupRecord::Group { group, value } => {
                let mut o = self.internal("group_metadata", item, out);
                o.text("group", group);
                o.state(value);
                if let Some(metadata) = value.known() {
                    o.group_metadata(metadata);
                }
                o.end();
            }
            GroupRecord::Consumer { name, group, value } => {
                let mut o = self.internal("group_metadata", item, out);
                o.text("group", group);
                o.text("type", name);
                o.bytes("value", *value);
                o.end();
            }
            GroupRecord::Unknown { .. } => self.user(item, out),
        }
    }

    fn transaction(&self, item: &RecordItem<'_>, record: &TransactionRecord, out: &mut Vec<u8>) {
        let TransactionRecord::Transaction { id, value } = record else {
            return self.user(item, out);
        };
        let mut o = self.internal("transaction", item, out);
        o.text("transactional_id", id);
        o.state(value);
        if let Some(transaction) = value.known() {
            o.transaction(transaction);
        }
        o.end();
    }

    fn producer(&self, p: &ProducerEntry, out: &mut Vec<u8>) {
        let mut o = self.begin("snapshot", out);
        o.int("offset", self.base.0);
        o.int("producer_id", p.producer_id);
        o.int("producer_epoch", p.epoch);
        o.int("last_sequence", p.last_sequence);
        o.int("last_offset", p.last_offset.0);
        o.int("offset_delta", p.offset_delta);
        o.int("ts", p.timestamp.0);
        o.int("coordinator_epoch", p.coordinator_epoch);
        o.optional("open_txn_first_offset", p.open_txn.map(|t| t.0));
        o.end();
    }
}

impl Lines for Json {
    fn item(&mut self, item: &Item<'_>, out: &mut Vec<u8>) {
        match item {
            Item::File(info) => {
                self.file = info.path.to_string_lossy().into_owned();
                self.base = info.base;
            }
            Item::Batch {
                position,
                header,
                valid,
            } => self.batch(*position, header, *valid, out),
            Item::Record(record) => self.record(record, out),
            Item::OffsetEntry {
                offset, position, ..
            } => self.pair("index", ("offset", offset.0), ("position", position.0), out),
            Item::TimeEntry {
                timestamp, offset, ..
            } => self.pair("timeindex", ("ts", timestamp.0), ("offset", offset.0), out),
            Item::TxnEntry(t) => {
                let mut o = self.begin("txnindex", out);
                o.int("producer_id", t.producer_id);
                o.int("first_offset", t.first_offset.0);
                o.int("last_offset", t.last_offset.0);
                o.int("last_stable_offset", t.last_stable_offset.0);
                o.end();
            }
            Item::Producer(p) => self.producer(p, out),
            Item::Epoch(e) => {
                self.pair(
                    "epoch",
                    ("epoch", e.epoch),
                    ("start_offset", e.start.0),
                    out,
                );
            }
            Item::TopicId(id) => {
                let mut o = self.begin("metadata", out);
                o.text("topic_id", &id.to_string());
                o.end();
            }
            Item::Checkpoint(c) => {
                let mut o = self.begin("checkpoint", out);
                o.text("topic", &c.topic);
                o.int("partition", c.partition);
                o.int("offset", c.offset.0);
                o.end();
            }
            Item::Tail {
                position,
                bytes,
                zeros,
            } => {
                let mut o = self.begin("tail", out);
                o.int("position", position.0);
                o.int("bytes", *bytes);
                o.bool("zeros", *zeros);
                o.end();
            }
            Item::Damage {
                position,
                skipped,
                reason,
            } => {
                let mut o = self.begin("damage", out);
                o.int("position", position.0);
                o.int("skipped_bytes", *skipped);
                o.text("reason", reason);
                o.end();
            }
        }
    }

    fn end(&mut self, _: &mut Vec<u8>) {}
}

impl Json {
    /// An item of two numbers.
    fn pair(
        &self,
        kind: &str,
        (a, x): (&str, impl itoa::Integer),
        (b, y): (&str, impl itoa::Integer),
        out: &mut Vec<u8>,
    ) {
        let mut o = self.begin(kind, out);
        o.int(a, x);
        o.int(b, y);
        o.end();
    }
}

/// An object being written; its first field is there.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    visible: bool,
}

impl Object<'_> {
    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        if self.out.last() != Some(&b'{') {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn int(&mut self, name: &str, n: impl itoa::Integer) {
        self.name(name);
        self.out
            .extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
    }

    fn null(&mut self, name: &str) {
        self.name(name);
        self.out.extend_from_slice(b"null");
    }

    fn optional(&mut self, name: &str, n: Option<impl itoa::Integer>) {
        match n {
            Some(n) => self.int(name, n),
            None => self.null(name),
        }
    }

    fn bool(&mut self, name: &str, value: bool) {
        self.name(name);
        self.out
            .extend_from_slice(if value { b"true" } else { b"false" });
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        json::string(text, self.visible, self.out);
    }

    fn optional_text(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.out.push(b'"');
        encode::base64(bytes, self.out);
        self.out.push(b'"');
    }

    fn bytes(&mut self, name: &str, bytes: Option<&[u8]>) {
        match bytes.map(|b| (b, std::str::from_utf8(b))) {
            None => self.null(name),
            Some((_, Ok(text))) => self.text(name, text),
            Some((bytes, Err(_))) => {
                self.name(&format!("{name}_b64"));
                self.base64(bytes);
            }
        }
    }

    /// `[…]` with each element written by `each`.
    fn list<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.name(name);
        self.out.push(b'[');
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(b',');
            }
            each(self, item);
        }
        self.out.push(b']');
    }

    fn ints(&mut self, name: &str, items: &[i32]) {
        self.list(name, items, |o, n| {
            o.out
                .extend_from_slice(itoa::Buffer::new().format(*n).as_bytes());
        });
    }

    fn headers(&mut self, headers: &Headers<'_>) {
        let utf8 = |b: &[u8]| std::str::from_utf8(b).is_ok();
        let plain = headers
            .iter()
            .all(|(name, value)| utf8(name) && value.is_none_or(utf8));
        let field = |o: &mut Self, bytes: &[u8]| match std::str::from_utf8(bytes) {
            Ok(text) if plain => json::string(text, o.visible, o.out),
            _ => o.base64(bytes),
        };
        let name = if plain { "headers" } else { "headers_b64" };
        self.list(name, headers.iter(), |o, (name, value)| {
            o.out.push(b'[');
            field(o, name);
            o.out.push(b',');
            match value {
                Some(value) => field(o, value),
                None => o.out.extend_from_slice(b"null"),
            }
            o.out.push(b']');
        });
    }

    /// Whether the key is deleted, and the version of a value that is not known here.
    fn state<T>(&mut self, value: &Value<T>) {
        self.bool("deleted", matches!(value, Value::Deleted));
        if let Value::Unknown { version } = value {
            self.int("unknown_version", *version);
        }
    }

    fn commit(&mut self, commit: Option<&OffsetCommit>) {
        self.optional("offset", commit.map(|c| c.offset.0));
        let Some(c) = commit else { return };
        self.int("leader_epoch", c.leader_epoch);
        self.text("metadata", &c.metadata);
        self.int("commit_ts", c.commit_timestamp.0);
        self.time("expire_ts", c.expire_timestamp);
    }

    /// A time, null where there is none.
    fn time(&mut self, name: &str, t: TimestampMs) {
        self.optional(name, (t != TimestampMs::NONE).then_some(t.0));
    }

    fn group_metadata(&mut self, g: &GroupMetadata<'_>) {
        self.text("protocol_type", &g.protocol_type);
        self.int("generation", g.generation);
        self.optional_text("protocol", g.protocol.as_deref());
        self.optional_text("leader", g.leader.as_deref());
        self.time("state_ts", g.state_timestamp);
        let consumer = g.protocol_type == "consumer";
        self.list("members", &g.members, |o, m| o.member(m, consumer));
    }

    fn member(&mut self, m: &Member<'_>, consumer: bool) {
        self.out.push(b'{');
        self.text("id", &m.id);
        self.optional_text("instance_id", m.instance_id.as_deref());
        self.text("client_id", &m.client_id);
        self.text("client_host", &m.client_host);
        self.int("rebalance_timeout_ms", m.rebalance_timeout_ms);
        self.int("session_timeout_ms", m.session_timeout_ms);
        match subscription(m.subscription) {
            Ok(s) if consumer => self.list("topics", &s.topics, |o, t| {
                json::string(t, o.visible, o.out);
            }),
            _ => self.bytes("subscription", Some(m.subscription)),
        }
        match assignment(m.assignment) {
            Ok(partitions) if consumer => self.list(
                "assignment",
                partitions
                    .iter()
                    .flat_map(|t| t.partitions.iter().map(move |p| (&t.topic, *p))),
                |o, (topic, partition)| o.partition(topic, partition),
            ),
            _ => self.bytes("assignment_bytes", Some(m.assignment)),
        }
        self.out.push(b'}');
    }

    /// `["topic",partition]`.
    fn partition(&mut self, topic: &str, partition: i32) {
        self.out.push(b'[');
        json::string(topic, self.visible, self.out);
        self.out.push(b',');
        self.out
            .extend_from_slice(itoa::Buffer::new().format(partition).as_bytes());
        self.out.push(b']');
    }

    fn transaction(&mut self, t: &Transaction) {
        self.int("producer_id", t.producer_id);
        self.int("producer_epoch", t.producer_epoch);
        self.int("timeout_ms", t.timeout_ms);
        self.text("state", t.state.name());
        let partitions = t
            .partitions
            .iter()
            .flat_map(|t| t.partitions.iter().map(move |p| (&t.topic, *p)));
        self.list("partitions", partitions, |o, (topic, partition)| {
            o.partition(topic, partition);
        });
        self.time("last_update_ts", t.last_update);
        self.time("start_ts", t.start);
    }
}
