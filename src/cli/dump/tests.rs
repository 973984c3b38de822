use super::*;
use crate::corpus;
use crate::sys::RealHost;
use std::path::Path;

/// Directories of the corpus where our lines differ from kafka-dump-log's, and why.
const DIFFERENCES: &[(&str, Why)] = &[
    (
        "crash/badindex/before",
        Stops("at an index entry beyond the log"),
    ),
    (
        "crash/count-lie/after",
        Stops("before the last record counted: it reads ahead"),
    ),
    (
        "crash/count-lie/before",
        Stops("before the last record counted: it reads ahead"),
    ),
    (
        "crash/empty/before",
        Stops("at an index entry beyond the log"),
    ),
    (
        "crash/flip-first/before",
        Stops("at a record of a batch with a wrong checksum"),
    ),
    (
        "crash/flip-last/before",
        Stops("at a body that does not decompress"),
    ),
    (
        "crash/len-huge/before",
        Stops("at an index entry of a batch cut short"),
    ),
    ("crash/len-zero/before", Stops("at a length below 14")),
    ("crash/strays/before", Stops("at an index without a log")),
    (
        "crash/trunc-16/before",
        Stops("at an index entry of a batch cut short"),
    ),
    (
        "crash/trunc-header/before",
        Stops("at an index entry of a batch cut short"),
    ),
    (
        "crash/txn-badsnap/before",
        Words("the checksums of a snapshot are in the damage reported"),
    ),
    (
        "crash/v1-flip/before",
        Stops("at a body that does not decompress"),
    ),
    (
        "crash/zerotail/before",
        Stops("at a length below 14: zeros are no damage here"),
    ),
    (
        "generated/edge-codec5",
        Stops("in mid-line at an unknown codec"),
    ),
    (
        "generated/edge-codec7",
        Stops("in mid-line at an unknown codec"),
    ),
    (
        "generated/edge-count-too-big",
        Stops("behind the last record"),
    ),
    (
        "generated/edge-count-too-small",
        Stops("before the last record counted: it reads ahead"),
    ),
    ("generated/edge-len-13", Stops("at a length below 14")),
    ("generated/edge-len-negative", Stops("at a length below 14")),
    (
        "generated/edge-lz4-two-frames",
        Stops("behind the first of two frames"),
    ),
    ("generated/edge-neg-count", Stops("at a negative count")),
    (
        "generated/edge-null-header-key",
        Stops("at a null header key"),
    ),
    (
        "generated/edge-trailing-in-batch",
        Stops("before the last record counted: it reads ahead"),
    ),
    (
        "generated/edge-trailing-in-gzip",
        Stops("before the last record counted: it reads ahead"),
    ),
    (
        "generated/edge-trailing-in-record",
        Stops("at a record longer than its fields"),
    ),
    (
        "generated/edge-zero-file",
        Stops("at a length below 14: zeros are no damage here"),
    ),
    (
        "unclean/prealloc-0",
        Stops("at a length below 14: zeros are no damage here"),
    ),
];

/// Why lines differ.
#[derive(Debug)]
enum Why {
    /// Kafka ends with a stack trace here; what it printed before is what we print.
    Stops(#[allow(dead_code)] &'static str),
    /// The same is said in other words, or elsewhere.
    Words(#[allow(dead_code)] &'static str),
}
use Why::{Stops, Words};

/// What kafka-dump-log printed in a directory: the files in its order, the lines about them, and the
/// reports at the end.
struct Expected {
    files: Vec<String>,
    lines: Vec<String>,
    reports: Vec<String>,
}

fn expected(dir: &Path) -> Expected {
    let text = std::fs::read(dir.join("dump-log.txt")).unwrap();
    let text = String::from_utf8_lossy(&text);
    let (lines, reports) = text.split_once("--- stderr\n").unwrap_or((&text, ""));
    let lines: Vec<String> = lines.lines().map(str::to_string).collect();
    let files = lines.iter().filter_map(|l| l.strip_prefix("Dumping "));
    Expected {
        files: files.map(str::to_string).collect(),
        reports: blocks(reports),
        lines,
    }
}

/// Reports, each with its lines sorted: Kafka prints them in the order of a hash map, some backwards.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        let inside = line.starts_with("  ") || line.starts_with("Indexed offset");
        match blocks.last_mut() {
            Some(block) if inside => block.push(line),
            _ => blocks.push(vec![line]),
        }
    }
    let sorted = blocks.into_iter().map(|mut b| {
        b[1..].sort_unstable();
        b.join("\n")
    });
    let mut out: Vec<String> = sorted.collect();
    out.sort();
    out
}

/// Our lines about `files` of `dir`, file names without the directory, and our reports.
fn ours(dir: &Path, files: &[String]) -> (Vec<String>, Vec<String>) {
    let mut kafka = kafka::Kafka::default();
    let (mut out, mut reports) = (Vec::new(), Vec::new());
    let options = Options {
        as_kafka: true,
        ..Options::default()
    };
    for file in files {
        let path = dir.join(file);
        let shown = dump(&RealHost, &path, &options, &mut |item| {
            kafka.item(&item, &mut out);
            Ok(())
        });
        shown.unwrap_or_else(|e| panic!("{e:?}"));
    }
    kafka.end(&mut reports);
    let prefix = format!("{}/", dir.display());
    let text = String::from_utf8_lossy(&out).replace(&prefix, "");
    let reports = String::from_utf8_lossy(&reports).replace(&prefix, "<DIR>/");
    (text.lines().map(str::to_string).collect(), blocks(&reports))
}

#[test]
fn kafka_lines_are_those_of_kafka_dump_log() {
    let Some(root) = corpus::root() else { return };
    let (mut same, mut named) = (0, 0);
    for path in corpus::files(&root) {
        if corpus::name(&path) != "dump-log.txt" {
            continue;
        }
        let dir = path.parent().unwrap();
        let place = dir.strip_prefix(&root).unwrap().display().to_string();
        let want = expected(dir);
        let (lines, reports) = ours(dir, &want.files);
        let equal = lines == want.lines && reports == want.reports;
        match DIFFERENCES.iter().find(|(p, _)| *p == place) {
            None => {
                for (i, line) in want.lines.iter().enumerate() {
                    assert_eq!(lines.get(i), Some(line), "{place}: line {}", i + 1);
                }
                assert_eq!(lines.len(), want.lines.len(), "{place}");
                assert_eq!(reports, want.reports, "{place}");
                same += 1;
            }
            Some((_, Stops(_))) => {
                assert!(!equal, "{place} does not differ");
                let all = (want.lines.join("\n"), lines.join("\n"));
                let whole = match all.0.find("Exception in thread") {
                    // Then the line before is one that Kafka did not finish.
                    Some(at) => all.0[..at].trim_end(),
                    None => &all.0,
                };
                assert!(all.1.starts_with(whole), "{place}");
                named += 1;
            }
            Some((_, Words(_))) => {
                assert!(lines == want.lines && reports != want.reports, "{place}");
                named += 1;
            }
        }
    }
    assert_eq!(named, DIFFERENCES.len());
    assert!(same > 200, "{same}");
}

/// The JSON lines of a file or log.
fn json_lines(path: &Path, options: &Options) -> (Vec<serde_json::Value>, u64) {
    let (mut json, mut out) = (json::Json::new(false), Vec::new());
    let mut sink = |item: Item<'_>| {
        json.item(&item, &mut out);
        Ok(())
    };
    let summary = dump(&RealHost, path, options, &mut sink).unwrap();
    let text = String::from_utf8(out).unwrap();
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", path.display()))
    };
    (text.lines().map(parse).collect(), summary.damages)
}

#[test]
fn json_records_are_those_expected() {
    let Some(root) = corpus::root() else { return };
    let options = Options {
        batches: false,
        ..Options::default()
    };
    let mut compared = 0;
    for path in corpus::files(&root) {
        if !corpus::name(&path).ends_with(".log.expected.ndjson") {
            continue;
        }
        let log = path.with_file_name(corpus::name(&path).replace(".expected.ndjson", ""));
        if !log.exists() {
            continue;
        }
        let (lines, _) = json_lines(&log, &options);
        let of_log = |v: &&serde_json::Value| v["kind"] != "damage" && v["kind"] != "tail";
        let mut ours = lines.iter().filter(of_log);
        let text = std::fs::read_to_string(&path).unwrap();
        for (i, line) in text.lines().enumerate() {
            let want: serde_json::Value = serde_json::from_str(line).unwrap();
            let got = ours
                .next()
                .unwrap_or_else(|| panic!("{}:{}", path.display(), i + 1));
            let offset = got.get("record_offset").unwrap_or(&got["offset"]);
            assert_eq!(offset, &want["offset"], "{}", path.display());
            assert_eq!(got["ts"], want["timestamp"], "{}", path.display());
            assert_eq!(got["kind"] == "control", want["isControl"] == true);
            if got["kind"] == "record" {
                same_bytes(got, &want, "key");
                same_bytes(got, &want, "value");
                compared += 1;
            }
        }
    }
    assert!(compared > 30_000, "{compared}");
}

/// Holds a field of a record against base64.
fn same_bytes(got: &serde_json::Value, want: &serde_json::Value, field: &str) {
    let want = want[field].as_str().map(corpus::base64);
    let encoded = got.get(format!("{field}_b64"));
    let got = match encoded.and_then(|v| v.as_str()) {
        Some(text) => Some(corpus::base64(text)),
        None => got[field].as_str().map(|s| s.as_bytes().to_vec()),
    };
    assert_eq!(got, want);
}

#[test]
fn json_shows_what_kafka_wrote_for_itself() {
    let Some(root) = corpus::root() else { return };
    let kinds = |dir: &str| {
        let (lines, damages) = json_lines(&root.join(dir), &Options::default());
        assert_eq!(damages, 0, "{dir}");
        let mut kinds = std::collections::BTreeMap::<String, usize>::new();
        for line in &lines {
            *kinds
                .entry(line["kind"].as_str().unwrap().to_string())
                .or_default() += 1;
        }
        (kinds, lines)
    };
    let (seen, lines) = kinds("broker/__consumer_offsets-0");
    assert_eq!(
        (seen["offset_commit"], seen["group_metadata"]),
        (4, 6),
        "{seen:?}"
    );
    let commit = lines.iter().find(|l| l["kind"] == "offset_commit").unwrap();
    for field in [
        "group",
        "topic",
        "partition",
        "offset",
        "commit_ts",
        "record_offset",
    ] {
        assert!(commit.get(field).is_some(), "{field} in {commit}");
    }
    let (seen, lines) = kinds("broker/__transaction_state-0");
    assert_eq!(seen["transaction"], 616);
    assert!(
        lines
            .iter()
            .any(|l| l["state"] == "CompleteCommit" && l["transactional_id"] != "")
    );
    let (seen, _) = kinds("broker/txn-0");
    for kind in [
        "batch",
        "record",
        "control",
        "index",
        "timeindex",
        "txnindex",
        "snapshot",
        "epoch",
        "metadata",
    ] {
        assert!(seen.contains_key(kind), "{kind} in {seen:?}");
    }
    let (lines, _) = json_lines(
        &root.join("broker/cleaner-offset-checkpoint"),
        &Options::default(),
    );
    assert_eq!(lines[0]["kind"], "checkpoint");
}
