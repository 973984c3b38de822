//! What Kafka makes of a log after `compact`, `retain`, `redact` and `repair`.
//!
//! A broker is given records at random: few keys, tombstones, records without a key, every codec,
//! transactions side by side, committed and aborted. Copies of that partition are looked after by
//! logd, and:
//!
//! * kafka-dump-log finds every batch valid, and no fault in an index;
//! * a broker takes the directory as it is after a clean stop, saying nothing; after an unclean one it
//!   makes the indexes anew, and they are ours, byte for byte (transaction indexes: ours hide as
//!   much);
//! * a consumer reads what `logd cat` does, and that is what the commands promise of the records that
//!   were there before;
//! * the broker's own cleaner, on a copy that was not compacted, leaves the records that `logd
//!   compact` leaves (but for those without a key, which it drops).
//!
//! `LOGD_SEED` for another course of events.

#[path = "peers/mod.rs"]
mod peers;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use peers::{
    Broker, Row, assert_same, base64, cat, files, kafka, logd, ready, sealed_indexes, segments,
    stdout, told,
};
use serde_json::Value;

/// Of the topic, so that there are some twenty segments.
const SEGMENT_BYTES: usize = 16 << 10;

fn offset(row: &Row) -> i64 {
    row["offset"].as_i64().expect("an offset")
}

/// The records that stay when only the newest value of each key does.
fn compacted(rows: &[Row], keyless: bool) -> Vec<Row> {
    let newest: BTreeMap<String, i64> = rows
        .iter()
        .map(|r| (r["key"].to_string(), offset(r)))
        .collect();
    let stays = |r: &&Row| match r["key"].is_null() {
        true => keyless,
        false => newest.get(&r["key"].to_string()) == Some(&offset(r)),
    };
    rows.iter().filter(stays).cloned().collect()
}

/// The records as they are when those with `key` were redacted.
fn redacted(rows: &[Row], key: &str, got: &[Row]) -> Vec<Row> {
    let key = Value::from(base64(key.as_bytes()));
    let id = got
        .iter()
        .filter_map(|r| r["headers"].as_array()?.last())
        .find(|h| h[0] == "redacted")
        .expect("a record that is redacted");
    let change = |row: &Row| {
        let mut row = row.clone();
        if row["key"] == key && !row["value"].is_null() {
            row["value"] = Value::Null;
            let headers = row["headers"].as_array_mut().expect("headers");
            headers.push(id.clone());
        }
        row
    };
    rows.iter().map(change).collect()
}

/// A copy of `from` named `topic`-0 in `dir`.
fn copy(from: &Path, dir: &Path, topic: &str) -> PathBuf {
    let to = dir.join(format!("{topic}-0"));
    stdout(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(from)
            .arg(&to),
    );
    std::fs::remove_file(to.join("partition.metadata")).expect("remove partition.metadata");
    to
}

/// Every batch valid and every index in order, as kafka-dump-log sees it.
fn check_dump(log: &Path) {
    let text = kafka("dump", &segments(log));
    let batches = text.lines().filter(|l| l.starts_with("baseOffset:"));
    for line in batches {
        assert!(line.contains("isvalid: true"), "{log:?}: {line}");
    }
    let indexes = files(log, &[".index", ".timeindex"]);
    for verb in [&["--indexes"][..], &[]] {
        let mut operands: Vec<PathBuf> = verb.iter().map(PathBuf::from).collect();
        operands.extend(indexes.iter().cloned());
        let text = kafka("dump", &operands);
        let fault = [
            "Mismatches",
            "not passed",
            "out of order",
            "unable",
            "Corrupt",
        ];
        assert!(
            !fault.iter().any(|word| text.contains(word)),
            "{log:?}: {text}"
        );
    }
    let others = files(log, &[".txnindex", ".snapshot"]);
    kafka("dump", &others);
}

/// Damages two sealed segments, removes an index, and tears the end.
fn damage(log: &Path, seed: u64) {
    let segments = segments(log);
    let mut random = common_random(seed);
    let sealed = segments.len() - 1;
    for _ in 0..2 {
        let path = &segments[random(sealed)];
        let mut bytes = std::fs::read(path).expect("read a segment");
        let at = random(bytes.len());
        bytes[at] ^= 1 << random(8);
        std::fs::write(path, bytes).expect("damage a segment");
    }
    let index = segments[random(sealed)].with_extension("index");
    std::fs::write(index, b"no index").expect("damage an index");
    let last = &segments[sealed];
    let mut bytes = std::fs::read(last).expect("read a segment");
    bytes.extend_from_slice(&bytes.clone()[..50.min(bytes.len())]);
    std::fs::write(last, bytes).expect("tear the end");
}

/// Numbers below a bound, by the seed.
fn common_random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed | 1;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    }
}

/// `logd WORDS LOG`, silent, with one of these exit codes.
fn look_after(words: &[&str], log: &Path, codes: &[i32]) -> String {
    let out = logd(words).arg(log).output().expect("run logd");
    let code = out.status.code().unwrap_or(-1);
    assert!(codes.contains(&code), "{words:?}: {}", told(&out));
    String::from_utf8(out.stdout).expect("utf-8 output")
}

/// The offsets that `repair --json` says are lost.
fn lost(text: &str) -> Vec<(i64, i64)> {
    let lines = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON of repair"));
    let range = |line: Value| {
        Some((
            line["first"].as_i64()?,
            line["end"].as_i64().unwrap_or(i64::MAX),
        ))
    };
    lines.filter_map(range).collect()
}

struct Made {
    topic: &'static str,
    path: PathBuf,
    want: Vec<Row>,
    indexes: Vec<(String, Vec<u8>)>,
}

/// Each command at work on its own copy of `source`, and what must be left.
fn look_after_each(source: &Path, dir: &Path, rows: &[Row], seed: u64) -> Vec<Made> {
    let mut all = Vec::new();
    let mut made = |topic: &'static str, path: PathBuf, want: Vec<Row>| {
        assert_eq!(look_after(&["verify"], &path, &[0]), "", "{topic}");
        assert_same(&format!("logd cat of {topic}"), &cat(&path), &want);
        check_dump(&path);
        let indexes = sealed_indexes(&path);
        all.push(Made {
            topic,
            path,
            want,
            indexes,
        });
    };
    let middle = offset(&rows[rows.len() / 2]);

    let path = copy(source, dir, "compacted");
    look_after(&["compact"], &path, &[0]);
    made("compacted", path, compacted(rows, true));

    let path = copy(source, dir, "retained");
    look_after(&["retain", "--before", &middle.to_string()], &path, &[0]);
    let first = segments(&path)[0].file_stem().map(|n| n.to_owned());
    let first: i64 = first
        .and_then(|n| n.to_str()?.parse().ok())
        .expect("a base offset");
    assert!(first > 0 && first <= middle);
    let kept = |from: i64| {
        rows.iter()
            .filter(|r| offset(r) >= from)
            .cloned()
            .collect::<Vec<Row>>()
    };
    made("retained", path, kept(first));

    let path = copy(source, dir, "exact");
    look_after(
        &["retain", "--exact", "--before", &middle.to_string()],
        &path,
        &[0],
    );
    made("exact", path, kept(middle));

    let path = copy(source, dir, "redacted");
    let words = ["redact", "-k", "k3", "--reason", "test", "--yes"];
    look_after(&words, &path, &[0]);
    let want = redacted(rows, "k3", &cat(&path));
    made("redacted", path, want);

    let path = copy(source, dir, "repaired");
    damage(&path, seed);
    let lost = lost(&look_after(&["repair", "--json"], &path, &[1]));
    let now = cat(&path);
    let offsets: BTreeSet<i64> = now.iter().map(offset).collect();
    let is_lost = |o: i64| lost.iter().any(|(from, to)| (*from..*to).contains(&o));
    for row in rows {
        let there = offsets.contains(&offset(row));
        assert!(there || is_lost(offset(row)), "repair: {row} is missing");
    }
    let want: Vec<Row> = rows
        .iter()
        .filter(|r| offsets.contains(&offset(r)))
        .cloned()
        .collect();
    made("repaired", path, want);

    let path = copy(source, dir, "everything");
    look_after(&words, &path, &[0]);
    look_after(&["compact"], &path, &[0]);
    look_after(
        &["retain", "--exact", "--before", &middle.to_string()],
        &path,
        &[0],
    );
    damage(&path, seed + 1);
    look_after(&["repair"], &path, &[1]);
    look_after(&["compact"], &path, &[0]);
    let want = cat(&path);
    made("everything", path, want);
    all
}

#[test]
fn a_broker_opens_what_compact_retain_redact_and_repair_leave() {
    let name = "a_broker_opens_what_compact_retain_redact_and_repair_leave";
    if !ready(name, "all") {
        return;
    }
    let seed: u64 = std::env::var("LOGD_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20);
    println!("LOGD_SEED={seed}");
    let dir = tempfile::tempdir().expect("scratch directory");
    let topics = [
        "compacted",
        "retained",
        "exact",
        "redacted",
        "repaired",
        "everything",
    ];
    let broker = Broker::with_topics(dir.path(), &topics);
    broker.start();
    let bytes = format!("segment.bytes={SEGMENT_BYTES}");
    broker.create("source", &[&bytes]);
    broker.create(
        "cleaned",
        &[
            &bytes,
            "cleanup.policy=compact",
            "min.cleanable.dirty.ratio=0",
        ],
    );
    broker.produce_at_random("source", seed, SEGMENT_BYTES);
    let rows = broker.consume("confluent", "source");
    broker.stop();

    let source = broker.partition("source");
    assert_same("logd cat of the source", &cat(&source), &rows);
    let logs = look_after_each(&source, dir.path(), &rows, seed);
    let raw = copy(&source, dir.path(), "raw");
    broker.adopt(&raw, "cleaned", false);
    for unclean in [false, true] {
        for log in &logs {
            broker.adopt(&log.path, log.topic, unclean);
        }
        broker.start();
        for log in &logs {
            check(&broker, log, unclean);
        }
        if !unclean {
            let cleaned = await_cleaner(&broker, "cleaned");
            assert_same("the broker's cleaner", &cleaned, &compacted(&rows, false));
        }
        broker.stop();
    }
    in_place(&broker, &rows);
}

/// The broker has nothing to mend; consumers read what is wanted.
fn check(broker: &Broker, log: &Made, unclean: bool) {
    let topic = log.topic;
    for line in broker.verdicts(topic) {
        let recovery = line.contains("Recovering unflushed segment");
        assert!(unclean && recovery, "{topic}: the broker says: {line}");
    }
    for client in ["confluent", "kafka-python"] {
        let got = broker.consume(client, topic);
        assert_same(&format!("{client} of {topic}"), &got, &log.want);
    }
    let now = sealed_indexes(&broker.partition(topic));
    let named = |all: &[(String, Vec<u8>)]| all.iter().map(|i| i.0.clone()).collect::<Vec<_>>();
    assert_eq!(named(&now), named(&log.indexes), "{topic}: sealed indexes");
    for ((name, now), (_, ours)) in now.iter().zip(&log.indexes) {
        if !name.contains(".txnindex") {
            assert_eq!(now, ours, "{topic}: the broker changed {name}");
            continue;
        }
        let filled = filled(&log.path);
        for entry in aborted(now).difference(&aborted(ours)) {
            let (id, first, last) = *entry;
            let hides = filled
                .iter()
                .find(|(p, at)| *p == id && (first..last).contains(at));
            assert_eq!(hides, None, "{topic}: {name}: {entry:?} is missing");
        }
    }
}

/// Producer, first and last offset of each aborted transaction in an index. One whose batches were all
/// compacted away is still in ours while its marker is in the log, and not in what a broker makes of
/// that log; the last stable offset of the others hangs on it. A broker has one for a batch without
/// records, too.
fn aborted(index: &[u8]) -> BTreeSet<(i64, i64, i64)> {
    let number = |b: &[u8]| i64::from_be_bytes(b.try_into().expect("8 bytes"));
    let entries = index.chunks(34);
    entries
        .map(|e| (number(&e[2..10]), number(&e[10..18]), number(&e[18..26])))
        .collect()
}

/// Producer and base offset of each transactional batch that has records.
fn filled(log: &Path) -> Vec<(i64, i64)> {
    let text = stdout(logd(&["dump", "--batches"]).arg(log));
    let lines = text
        .lines()
        .map(|l| serde_json::from_str(l).expect("JSON of dump"));
    let batches = lines
        .filter(|b: &Value| b["transactional"] == true && b["control"] == false && b["count"] != 0);
    let pair = |b: Value| Some((b["producer_id"].as_i64()?, b["base_offset"].as_i64()?));
    batches.filter_map(pair).collect()
}

/// What consumers read once the cleaner has been over all but the active segment.
fn await_cleaner(broker: &Broker, topic: &str) -> Vec<Row> {
    let active = files(&broker.partition(topic), &[".log"])
        .pop()
        .expect("a segment");
    let active: i64 = active
        .file_stem()
        .and_then(|n| n.to_str()?.parse().ok())
        .expect("a base offset");
    let checkpoint = broker.data.join("cleaner-offset-checkpoint");
    let late = Instant::now() + Duration::from_secs(60);
    let wanted = format!("{topic} 0 {active}");
    while !std::fs::read_to_string(&checkpoint).is_ok_and(|t| t.lines().any(|l| l == wanted)) {
        assert!(Instant::now() < late, "the cleaner did not get to {active}");
        std::thread::sleep(Duration::from_millis(50));
    }
    broker.consume("confluent", topic)
}

/// In the broker's own directory, while it is down: it starts with the log start that we left.
fn in_place(broker: &Broker, rows: &[Row]) {
    let source = broker.partition("source");
    let middle = offset(&rows[rows.len() / 2]);
    look_after(
        &["retain", "--exact", "--before", &middle.to_string()],
        &source,
        &[0],
    );
    look_after(&["compact"], &source, &[0]);
    let kept: Vec<Row> = rows
        .iter()
        .filter(|r| offset(r) >= middle)
        .cloned()
        .collect();
    let want = compacted(&kept, true);
    assert_same("logd cat in place", &cat(&source), &want);
    broker.start();
    for line in broker.verdicts("source") {
        let recovery = line.contains("Recovering unflushed segment");
        assert!(recovery, "in place: the broker says: {line}");
    }
    assert_same("in place", &broker.consume("confluent", "source"), &want);
    broker.stop();
}
