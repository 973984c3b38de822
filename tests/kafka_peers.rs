//! What other people's Kafka code makes of our directories, and we of theirs: kafka-python, aiokafka
//! and kafka-dump-log read the same records as `logd cat`; a real broker (KRaft, on loopback) starts
//! on directories of ours, rebuilds no index and serves every record; `logd` reads on what it adds.
//!
//! `tests/peers/setup.sh` gets the peers; a test without its peers says on stderr that it is
//! skipped, and why. How a broker is brought to adopt a directory is told in `peers/kafka.sh`.

#[path = "peers/mod.rs"]
mod peers;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use peers::{
    Broker, Row, as_kcat, assert_same, base64, cat, files, kafka, logd, python, ready, row,
    sealed_indexes, segments, stdout, told,
};
use serde_json::{Value, json};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// Runs `logd append ARGS LOG` on `input`.
fn append(log: &Path, args: &[&str], input: &str) -> std::process::Output {
    let mut child = logd(&["append"])
        .args(args)
        .arg(log)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start logd append");
    let mut pipe = child.stdin.take().expect("its stdin");
    // A refusal comes before all input is read, and closes the pipe.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    child.wait_with_output().expect("logd append")
}

fn append_ok(log: &Path, args: &[&str], input: &str) {
    let out = append(log, args, input);
    assert!(out.status.success(), "append {args:?}: {}", told(&out));
}

/// Records that are easily got wrong, as input lines and as the rows they must become from offset
/// `first` on: no key, empty key, tombstone, empty value, repeated and null headers, bytes that are
/// not UTF-8, sizes about the limits of a varint, timestamps that go back.
fn odd_records(first: i64) -> (String, Vec<Row>) {
    let large = noise(20_000);
    let parts: Vec<(Option<&str>, Option<&str>, Value)> = vec![
        (None, Some("no key"), json!([])),
        (Some(""), Some("empty key"), json!([["trace", "ab12"]])),
        (Some("u1"), None, json!([])),
        (
            Some("u1"),
            Some(""),
            json!([["n", "1"], ["n", "2"], ["n", null], ["empty", ""]]),
        ),
        (
            Some("näme"),
            Some("ünïcode\nand a newline"),
            json!([["größe", "ß"]]),
        ),
        (Some("k63"), Some(&large[..63]), json!([])),
        (Some("k64"), Some(&large[..64]), json!([])),
        (Some("k8191"), Some(&large[..8191]), json!([])),
        (Some("k8192"), Some(&large[..8192]), json!([])),
        (Some("large"), Some(&large), json!([["a", "b"]])),
    ];
    let (mut input, mut rows) = (String::new(), Vec::new());
    for (offset, (key, value, headers)) in (first..).zip(parts) {
        let ts = 1_763_600_000_000 + (offset - first) * 7919 % 1000;
        input += &format!(
            "{}\n",
            json!({"ts": ts, "key": key, "value": value, "headers": headers})
        );
        let pair = |h: &Value| json!([h[0], h[1].as_str().map(|text| base64(text.as_bytes()))]);
        let headers: Vec<Value> = headers
            .as_array()
            .expect("pairs")
            .iter()
            .map(pair)
            .collect();
        rows.push(row(
            offset,
            ts,
            key.map(str::as_bytes),
            value.map(str::as_bytes),
            headers.into(),
        ));
    }
    let offset = first + next(&rows);
    let raw = [0xff, 0, 0x80];
    input += &format!(
        "{}\n",
        json!({"ts": 1, "key_b64": base64(&raw), "value_b64": base64(&raw)})
    );
    rows.push(row(offset, 1, Some(&raw), Some(&raw), json!([])));
    (input, rows)
}

/// Text that no codec makes much smaller than half, so that segments fill up.
fn noise(length: usize) -> String {
    let mut state = 1u64;
    let mut digit = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        char::from_digit((state >> 60) as u32, 16).expect("four bits")
    };
    (0..length).map(|_| digit()).collect()
}

/// A log of several small segments in `codec`: plain appends, then a `--once` producer run twice.
fn make_log(dir: &Path, codec: &str) -> (PathBuf, Vec<Row>) {
    let log = dir.join(format!("{codec}-0"));
    stdout(logd(&["init", "--segment-size", "16KiB", "-z", codec]).arg(&log));
    let mut want = Vec::new();
    for _ in 0..12 {
        let (input, rows) = odd_records(next(&want));
        append_ok(&log, &["-F", "json"], &input);
        want.extend(rows);
    }
    let (input, rows) = odd_records(next(&want));
    for _ in 0..2 {
        append_ok(&log, &["-F", "json", "--once", "import"], &input);
    }
    want.extend(rows);
    (log, want)
}

fn next(rows: &[Row]) -> i64 {
    i64::try_from(rows.len()).expect("a short log")
}

#[test]
fn python_clients_and_kafka_dump_log_read_what_cat_reads() {
    let name = "python_clients_and_kafka_dump_log_read_what_cat_reads";
    if !ready(name, "all") {
        return;
    }
    let dir = tempfile::tempdir().expect("scratch directory");
    for codec in CODECS {
        let (log, want) = make_log(dir.path(), codec);
        assert_same("logd cat", &cat(&log), &want);
        for client in ["kafka-python", "aiokafka"] {
            let mut operands = vec![PathBuf::from(client)];
            operands.extend(segments(&log));
            assert_same(client, &python("read.py", &operands), &want);
        }
        check_dump(&log, codec, &want);
    }
}

/// kafka-dump-log finds every batch valid, in `codec`, the same records, and no fault in an index.
fn check_dump(log: &Path, codec: &str, want: &[Row]) {
    let text = kafka("dump", &segments(log));
    let mut seen: Vec<[i64; 4]> = Vec::new();
    for line in text.lines() {
        let field = |name: &str| {
            let mut words = line.split(' ').skip_while(|word| *word != name);
            words.nth(1).unwrap_or_default().to_owned()
        };
        if line.starts_with("baseOffset:") {
            assert_eq!(
                (field("isvalid:"), field("compresscodec:")),
                ("true".into(), codec.into()),
                "{line}"
            );
        } else if line.starts_with("| offset:") {
            let names = ["offset:", "CreateTime:", "keySize:", "valueSize:"];
            seen.push(names.map(|name| field(name).parse().expect("a number")));
        }
    }
    let want: Vec<[i64; 4]> = want.iter().map(as_kcat).collect();
    assert_eq!(seen, want, "kafka-dump-log of {codec}");

    let all = files(log, &[".log", ".index", ".timeindex", ".snapshot"]);
    let ours = stdout(logd(&["dump", "--kafka"]).args(&all));
    assert_eq!(ours, kafka("dump", &all), "logd dump --kafka of {codec}");

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
        assert!(!fault.iter().any(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn broker_takes_our_directories_as_they_are_and_we_read_on() {
    let name = "broker_takes_our_directories_as_they_are_and_we_read_on";
    if !ready(name, "all") {
        return;
    }
    let dir = tempfile::tempdir().expect("scratch directory");
    let broker = Broker::with_topics(dir.path(), &CODECS);
    let mut logs = Vec::new();
    for codec in CODECS {
        let (log, want) = make_log(dir.path(), codec);
        broker.adopt(&log, codec, false);
        logs.push((codec, sealed_indexes(&log), want));
    }
    broker.start();
    for (topic, indexes, want) in &mut logs {
        assert_eq!(
            broker.verdicts(topic),
            [""; 0],
            "what the broker said of {topic}"
        );
        check_consumers(&broker, topic, want);
        want.extend(broker.produce_every_way(topic));
        assert_same(
            "logd cat beside a broker",
            &cat(&broker.partition(topic)),
            want,
        );
        let out = append(&broker.partition(topic), &["--wait", "0s"], "x\n");
        assert_eq!(
            out.status.code(),
            Some(75),
            "append beside a broker: {}",
            told(&out)
        );
        let now = sealed_indexes(&broker.partition(topic));
        assert_eq!(
            now[..indexes.len()],
            indexes[..],
            "sealed indexes of {topic}"
        );
    }
    broker.stop();
    for (topic, _, mut want) in logs {
        assert_same("logd cat", &cat(&broker.partition(topic)), &want);
        append_after_broker(&broker.partition(topic), &mut want);
        assert_same(
            "logd cat after our append",
            &cat(&broker.partition(topic)),
            &want,
        );
    }
}

/// librdkafka, kafka-python and kcat consume every record, with its offset.
fn check_consumers(broker: &Broker, topic: &str, want: &[Row]) {
    for client in ["confluent", "kafka-python"] {
        assert_same(client, &broker.consume(client, topic), want);
    }
    let seen = broker.kcat(topic);
    assert_eq!(
        seen,
        want.iter().map(as_kcat).collect::<Vec<_>>(),
        "kcat of {topic}"
    );
}

/// We write behind the broker's records: offsets go on after its last, control records included.
fn append_after_broker(partition: &Path, want: &mut Vec<Row>) {
    let out = append(
        partition,
        &["-F", "json", "--print", "first"],
        &odd_records(0).0,
    );
    assert!(
        out.status.success(),
        "append after a broker: {}",
        told(&out)
    );
    let first: i64 = String::from_utf8_lossy(&out.stdout)
        .trim()
        .parse()
        .expect("an offset");
    assert!(
        first
            >= want
                .last()
                .map_or(0, |row| row["offset"].as_i64().unwrap_or(0) + 1)
    );
    want.extend(odd_records(first).1);
}

#[test]
fn broker_recovers_nothing_else_than_we_would_after_kill_9() {
    let name = "broker_recovers_nothing_else_than_we_would_after_kill_9";
    if !ready(name, "all") {
        return;
    }
    let dir = tempfile::tempdir().expect("scratch directory");
    let topics = ["a", "b", "c", "d"];
    let broker = Broker::with_topics(dir.path(), &topics);
    let logs: Vec<Killed> = (0..)
        .step_by(3)
        .zip(topics)
        .map(|(millis, topic)| Killed::new(dir.path(), topic, Duration::from_millis(millis)))
        .collect();

    for unclean in [false, true] {
        for log in &logs {
            broker.adopt(&log.path, log.topic, unclean);
        }
        broker.start();
        for log in &logs {
            log.check(&broker, unclean);
        }
        broker.stop();
    }
}

/// A log whose last three sets of appenders were killed in mid-write, and what it then was.
struct Killed {
    topic: &'static str,
    path: PathBuf,
    records: Vec<Row>,
    indexes: Vec<(String, Vec<u8>)>,
}

impl Killed {
    fn new(dir: &Path, topic: &'static str, time: Duration) -> Self {
        let path = dir.join(format!("{topic}-0"));
        stdout(logd(&["init", "--segment-size", "256KiB", "-z", "lz4"]).arg(&path));
        for _ in 0..3 {
            kill_appenders(&path, time);
        }
        let (records, indexes) = (cat(&path), sealed_indexes(&path));
        assert!(indexes.len() > 2, "{path:?}: several segments");
        Self {
            topic,
            path,
            records,
            indexes,
        }
    }

    /// The broker found nothing to mend: after its own clean stop nothing at all to say; else it
    /// reads every segment and makes the indexes anew, which must then be ours, byte for byte, and
    /// the only damage it may find is the tail that was torn by the kill.
    fn check(&self, broker: &Broker, unclean: bool) {
        let torn = format!("truncating to offset {}", self.records.len());
        for line in broker.verdicts(self.topic) {
            let recovery = line.contains("Recovering unflushed segment") || line.contains(&torn);
            assert!(unclean && recovery, "the broker says: {line}");
        }
        check_consumers(broker, self.topic, &self.records);
        let partition = broker.partition(self.topic);
        let same = sealed_indexes(&partition) == self.indexes;
        assert!(same, "the broker changed sealed indexes of {partition:?}");
        assert_same("logd cat", &cat(&partition), &self.records);
    }
}

/// Three appenders at once, killed with SIGKILL `time` after they began a new segment, in mid-write
/// as often as not.
fn kill_appenders(log: &Path, time: Duration) {
    let before = files(log, &[".log"]).len();
    let mut children: Vec<Child> = (0..3).map(|_| endless_appender(log)).collect();
    let late = Instant::now() + Duration::from_secs(20);
    while files(log, &[".log"]).len() == before && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(time);
    for child in &mut children {
        child.kill().expect("kill -9");
    }
    for child in &mut children {
        child.wait().expect("wait");
    }
}

/// `logd append` fed faster than it writes.
fn endless_appender(log: &Path) -> Child {
    let mut child = logd(&["append", "--sync", "never", "--batch-size", "64KiB"])
        .arg(log)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start logd append");
    let mut pipe = child.stdin.take().expect("its stdin");
    let text = noise(600);
    std::thread::spawn(move || {
        for length in (0..text.len()).cycle() {
            if writeln!(pipe, "line {}", &text[..length]).is_err() {
                break; // killed
            }
        }
    });
    child
}
