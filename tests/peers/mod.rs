//! The third parties of `kafka_peers.rs` and `kafka_care.rs`, driven through the scripts beside this file: a Kafka
//! broker and its dump tool ([`Broker`], [`kafka`]) and clients in Python ([`python`]).
//!
//! A record is compared as one line of JSON, [`Row`]s as every script prints them: offset,
//! timestamp, key and value in base64 or null, headers. So a difference is a difference of text.
#![allow(dead_code)] // each test takes what it needs

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A record as read by anybody.
pub type Row = Value;

/// Whether the peers of `kind` (`kafka`, `python` or `all`) can be had; if not, says why on stderr,
/// past the test harness, so that a run that compared nothing does not look like one that did.
pub fn ready(test: &str, kind: &str) -> bool {
    let out = script("setup.sh").arg(kind).output().expect("run setup.sh");
    match out.status.code() {
        Some(0) => true,
        Some(3) => {
            skip(test, String::from_utf8_lossy(&out.stderr).trim());
            false
        }
        _ => panic!("{}", told(&out)),
    }
}

/// Says that `test` is skipped, and why.
pub fn skip(test: &str, why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{test}: skipped: {why}");
}

fn script(name: &str) -> Command {
    Command::new(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers")
            .join(name),
    )
}

/// What a finished process said, for a failed assertion.
pub fn told(out: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", out.status, text(&out.stdout), text(&out.stderr))
}

/// Runs to the end and returns stdout; anything but exit 0 fails the test.
pub fn stdout(command: &mut Command) -> String {
    let out = command.stdin(Stdio::null()).output().expect("run command");
    assert!(out.status.success(), "{command:?}: {}", told(&out));
    String::from_utf8(out.stdout).expect("utf-8 output")
}

/// A verb of `kafka.sh`.
pub fn kafka<S: AsRef<std::ffi::OsStr>>(verb: &str, operands: &[S]) -> String {
    stdout(script("kafka.sh").arg(verb).args(operands))
}

/// A script of ours under the Python that has the clients; returns its rows.
pub fn python<S: AsRef<std::ffi::OsStr>>(name: &str, operands: &[S]) -> Vec<Row> {
    let python = cache().join("venv/bin/python");
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/peers")
        .join(name);
    rows(&stdout(Command::new(python).arg(file).args(operands)))
}

/// Where the scripts keep the peers, by the rule of `env.sh`.
fn cache() -> PathBuf {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from);
    named("LOGD_PEERS").unwrap_or_else(|| {
        named("CARGO_TARGET_DIR")
            .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"))
            .join("peers")
    })
}

/// One row a line.
pub fn rows(text: &str) -> Vec<Row> {
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row of JSON"))
        .collect()
}

/// Fails at the first row that differs, and shows only that.
pub fn assert_same(who: &str, got: &[Row], want: &[Row]) {
    let place = got.iter().zip(want).position(|(got, want)| got != want);
    if let Some(at) = place {
        panic!("{who}: row {at} is {}, not {}", got[at], want[at]);
    }
    assert_eq!(got.len(), want.len(), "{who}: number of rows");
}

/// `logd OPERANDS`.
pub fn logd<S: AsRef<std::ffi::OsStr>>(operands: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_logd"));
    command.args(operands);
    command
}

/// Every record of `log` as `logd cat` prints it.
pub fn cat(log: &Path) -> Vec<Row> {
    let text = stdout(logd(&["cat", "-F", "json"]).arg(log));
    text.lines()
        .map(|line| row_of(&serde_json::from_str(line).expect("JSON of logd cat")))
        .collect()
}

/// The row of a record in `-F json`, where bytes that are not UTF-8 are under `NAME_b64`.
pub fn row_of(record: &Value) -> Row {
    let bytes = |name: &str| match record.get(format!("{name}_b64")) {
        Some(text) => text.clone(),
        None => record[name]
            .as_str()
            .map_or(Value::Null, |text| base64(text.as_bytes()).into()),
    };
    let headers: Vec<Value> = record["headers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| {
            json!([
                pair[0],
                pair[1].as_str().map(|text| base64(text.as_bytes()))
            ])
        })
        .collect();
    json!({"offset": record["offset"], "timestamp": record["ts"], "key": bytes("key"),
        "value": bytes("value"), "headers": headers})
}

/// The segments of `log`, and a check that there are several.
pub fn segments(log: &Path) -> Vec<PathBuf> {
    let segments = files(log, &[".log"]);
    assert!(segments.len() > 1, "{log:?} has one segment only");
    segments
}

/// Names and bytes of the sealed segments' indexes: all but those of the highest base offset, which
/// a broker preallocates while it runs.
pub fn sealed_indexes(log: &Path) -> Vec<(String, Vec<u8>)> {
    let active = files(log, &[".log"])
        .pop()
        .expect("a segment")
        .with_extension("");
    files(log, &[".index", ".timeindex", ".txnindex"])
        .into_iter()
        .filter(|path| path.with_extension("") != active)
        .map(|path| {
            (
                format!("{:?}", path.file_name()),
                std::fs::read(&path).expect("read index"),
            )
        })
        .collect()
}

/// A broker on loopback with a data directory of its own; killed when dropped.
pub struct Broker {
    /// `log.dirs`: partitions, checkpoints, `.lock`, `.kafka_cleanshutdown`.
    pub data: PathBuf,
}

impl Broker {
    /// Starts a broker in `dir` and makes `topics` (one partition each), then stops it: a data
    /// directory that knows the topics and waits for their files.
    pub fn with_topics(dir: &Path, topics: &[&str]) -> Self {
        let broker = Self {
            data: dir.join("data"),
        };
        broker.start();
        for topic in topics {
            broker.create(topic, &[]);
        }
        broker.stop();
        broker
    }

    /// Makes a topic with one partition and these settings, `NAME=VALUE`; the broker runs.
    pub fn create(&self, topic: &str, settings: &[&str]) {
        let mut operands: Vec<&std::ffi::OsStr> = vec![self.data.as_os_str(), topic.as_ref()];
        operands.extend(settings.iter().map(|s| std::ffi::OsStr::new(*s)));
        kafka("create", &operands);
    }

    /// Starts it, and waits until it answers.
    pub fn start(&self) {
        kafka("start", &[&self.data]);
    }

    /// Stops it cleanly.
    pub fn stop(&self) {
        kafka("stop", &[&self.data]);
    }

    /// Its port on loopback.
    pub fn port(&self) -> String {
        kafka("port", &[&self.data]).trim().to_owned()
    }

    /// Puts the files of `log` in the place of `topic`'s; after an `unclean` end of the broker it
    /// will check them, else it takes them as they are.
    pub fn adopt(&self, log: &Path, topic: &str, unclean: bool) {
        let mut operands = vec![log.as_os_str(), topic.as_ref(), self.data.as_os_str()];
        if unclean {
            operands.insert(0, "--unclean".as_ref());
        }
        kafka("adopt", &operands);
    }

    /// The lines of its log that tell of recovery, rebuilding or damage.
    pub fn verdicts(&self, topic: &str) -> Vec<String> {
        let text = kafka("verdicts", &[self.data.as_os_str(), topic.as_ref()]);
        text.lines().map(str::to_owned).collect()
    }

    /// The directory of `topic`'s only partition.
    pub fn partition(&self, topic: &str) -> PathBuf {
        self.data.join(format!("{topic}-0"))
    }

    /// Every record of `topic`, as `client` (`confluent` or `kafka-python`) consumes it.
    pub fn consume(&self, client: &str, topic: &str) -> Vec<Row> {
        python("consume.py", &[client, &self.port(), topic])
    }

    /// What kcat consumes of `topic`: offset, timestamp, and the lengths of key and value.
    pub fn kcat(&self, topic: &str) -> Vec<[i64; 4]> {
        let broker = format!("127.0.0.1:{}", self.port());
        let mut command = Command::new("kcat");
        command.args([
            "-C",
            "-b",
            &broker,
            "-t",
            topic,
            "-p",
            "0",
            "-o",
            "beginning",
        ]);
        command.args(["-e", "-q", "-f", "%o %T %K %S\n"]);
        let numbers = |line: &str| {
            let fields: Vec<i64> = line
                .split(' ')
                .map(|n| n.parse().expect("a number"))
                .collect();
            fields.try_into().expect("four numbers")
        };
        stdout(&mut command).lines().map(numbers).collect()
    }

    /// Appends at random to `topic`, by `seed`, in every way a producer can, then one record that
    /// nearly fills a segment of `segment_bytes`.
    pub fn produce_at_random(&self, topic: &str, seed: u64, segment_bytes: usize) {
        let bytes = (segment_bytes * 9 / 10).to_string();
        let (port, seed) = (self.port(), seed.to_string());
        python("produce.py", &[&port, topic, "random", "60", &seed]);
        python("produce.py", &[&port, topic, "large", &bytes]);
    }

    /// Appends to `topic` in every way a producer can; returns what a committed reader must see.
    pub fn produce_every_way(&self, topic: &str) -> Vec<Row> {
        python("produce.py", &[&self.port(), topic, "every"])
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Not `kafka`: a panic here would end the whole test run.
        let _ = script("kafka.sh").arg("kill").arg(&self.data).status();
    }
}

/// Length of a base64 text's bytes, -1 for null: what kcat and kafka-dump-log print.
pub fn length(text: &Value) -> i64 {
    let Some(text) = text.as_str() else { return -1 };
    let padding = text.bytes().rev().take_while(|&b| b == b'=').count();
    i64::try_from(text.len() / 4 * 3 - padding).expect("a short record")
}

/// A row as kcat shows it.
pub fn as_kcat(row: &Row) -> [i64; 4] {
    let number = |name: &str| row[name].as_i64().expect("a number");
    let (key, value) = (length(&row["key"]), length(&row["value"]));
    [number("offset"), number("timestamp"), key, value]
}

/// The files of `dir` that end in one of `suffixes`, by name.
pub fn files(dir: &Path, suffixes: &[&str]) -> Vec<PathBuf> {
    let names: BTreeSet<PathBuf> = std::fs::read_dir(dir)
        .expect("read partition")
        .map(|entry| entry.expect("read partition").path())
        .filter(|path| {
            let name = path.to_string_lossy();
            suffixes.iter().any(|suffix| name.ends_with(suffix))
        })
        .collect();
    names.into_iter().collect()
}

/// A row from parts, as the scripts print it.
pub fn row(
    offset: i64,
    timestamp: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Value,
) -> Row {
    json!({"offset": offset, "timestamp": timestamp, "key": key.map(base64), "value": value.map(base64), "headers": headers})
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word =
            group.iter().fold(0u32, |word, &b| word << 8 | u32::from(b)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = usize::try_from(word >> (18 - 6 * digit) & 63).expect("six bits");
            text.push(if digit <= group.len() {
                DIGITS[index].into()
            } else {
                '='
            });
        }
    }
    text
}
