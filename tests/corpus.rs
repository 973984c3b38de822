//! Golden test: every segment of the corpus, decoded by [`logd::format`] alone, gives exactly the
//! records that independent decoders agreed on, and stops where they stop.
//!
//! Beside every `X.log` of the corpus stand `X.log.expected.ndjson`, one JSON object per record of
//! the complete batches before the first bad byte, and `X.log.expected-status.json` with that byte
//! (`validBytes`) and why decoding stopped there (`error`, null at a clean end).
//!
//! The corpus is looked for in `$LOGD_CORPUS`, else in `../shared/corpus/kafka` beside the package.

use std::path::{Path, PathBuf};

use logd::format::batch::{Batch, BatchHeader, Scratch, TimestampType};
use logd::format::frame::{Frame, frame};
use logd::format::record::Record;
use logd::format::{Defect, Limits};
use serde_json::{Value, json};

#[test]
fn every_segment_of_the_corpus_decodes_as_expected() {
    let Some(logs) = corpus() else { return };
    let mut scratch = Scratch::new();
    let (mut records, mut stopped, mut wrong) = (0, 0, Vec::new());
    for log in &logs {
        match check(log, &mut scratch) {
            Ok(checked) => {
                records += checked.records;
                stopped += usize::from(checked.stopped);
            }
            Err(why) => wrong.push(format!("{}: {why}", log.display())),
        }
    }
    println!(
        "{} segments checked: {records} records, {stopped} segments that stop before their end",
        logs.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        logs.len() >= 425 && stopped >= 28 && records >= 98_858,
        "the corpus has shrunk"
    );
}

/// Damage behind the checksum, which only `Batch::trusted` lets through: real batches with a few
/// bytes changed reach every decoder in places that random bytes do not.
#[test]
fn damaged_batches_of_the_corpus_never_panic() {
    const MAGIC_AT: usize = 16;
    let Some(logs) = corpus() else { return };
    let limits = Limits {
        body_bytes_max: 4 << 20,
        ..Limits::default()
    };
    let mut scratch = Scratch::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as usize % bound
    };
    let (mut damaged, mut refused) = (0, 0);
    for log in &logs {
        let file = std::fs::read(log).expect("read segment");
        let mut at = 0;
        let mut batches = 0;
        while let Frame::Entry(size) = frame(&file[at..], &limits) {
            let mut batch = file[at..at + size].to_vec();
            at += size;
            batches += 1;
            if batches > 40 {
                break;
            }
            for _ in 0..1 + below(3) {
                batch[MAGIC_AT + 1 + below(size - MAGIC_AT - 1)] ^= 1 << below(8);
                damaged += 1;
                let Ok(batch) = Batch::trusted(&batch) else {
                    continue;
                };
                refused += usize::from(batch.check_records(&mut scratch, &limits).is_err());
            }
        }
    }
    println!("{damaged} damaged batches read, {refused} refused");
    assert!(damaged > 5_000 && refused > 1_000);
}

/// The segments of the corpus; none, and a word about it, if there is no corpus.
fn corpus() -> Option<Vec<PathBuf>> {
    let root = std::env::var_os("LOGD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/kafka"),
        PathBuf::from,
    );
    if !root.is_dir() {
        println!(
            "skipped: no corpus at {}; set LOGD_CORPUS to its directory",
            root.display()
        );
        return None;
    }
    let mut logs = Vec::new();
    find_logs(&root, &mut logs);
    logs.sort();
    Some(logs)
}

/// The `.log` files below `dir` that have an expected status.
fn find_logs(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("read corpus directory") {
        let path = entry.expect("read corpus directory").path();
        if path.is_dir() {
            find_logs(&path, found);
        } else if path.extension().is_some_and(|e| e == "log") && beside(&path, STATUS).exists() {
            found.push(path);
        }
    }
}

const STATUS: &str = ".expected-status.json";
const RECORDS: &str = ".expected.ndjson";

fn beside(log: &Path, suffix: &str) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

struct Checked {
    records: usize,
    stopped: bool,
}

/// Decodes one segment and compares; the error says what differs first.
fn check(log: &Path, scratch: &mut Scratch) -> Result<Checked, String> {
    let read = |path: &Path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()));
    let status: Value = serde_json::from_slice(&read(&beside(log, STATUS))?)
        .map_err(|e| format!("expected status: {e}"))?;
    let expected = String::from_utf8(read(&beside(log, RECORDS))?)
        .map_err(|e| format!("expected records: {e}"))?;
    let decoded = decode(&read(log)?, scratch);

    let mut lines = expected.lines();
    for (n, got) in decoded.records.iter().enumerate() {
        let line = lines
            .next()
            .ok_or_else(|| format!("record {n} too many: {got}"))?;
        let want: Value = serde_json::from_str(line).map_err(|e| format!("line {n}: {e}"))?;
        if *got != want {
            return Err(format!("record {n}\n   is {got}\n want {want}"));
        }
    }
    let why = decoded.stopped.as_deref().unwrap_or("end of file");
    let missing = lines.count();
    if missing > 0 {
        return Err(format!("{missing} records missing; stopped by: {why}"));
    }
    if status["validBytes"] != json!(decoded.valid_bytes) {
        let valid = decoded.valid_bytes;
        return Err(format!(
            "valid bytes {valid}, want {}; {why}",
            status["validBytes"]
        ));
    }
    if status["error"].is_null() == decoded.stopped.is_some() {
        return Err(format!("stopped by: {why}, want {}", status["error"]));
    }
    Ok(Checked {
        records: decoded.records.len(),
        stopped: decoded.stopped.is_some(),
    })
}

struct Decoded {
    records: Vec<Value>,
    valid_bytes: usize,
    /// Why decoding stopped before the end of the file, if it did.
    stopped: Option<String>,
}

/// Decodes batch after batch, each whole or not at all.
fn decode(file: &[u8], scratch: &mut Scratch) -> Decoded {
    let limits = Limits::default();
    let mut records = Vec::new();
    let mut at = 0;
    let stopped = loop {
        let rest = &file[at..];
        if rest.is_empty() {
            break None;
        }
        let size = match frame(rest, &limits) {
            Frame::Entry(size) => size,
            Frame::Bad(defect) => break Some(defect.to_string()),
            other => break Some(format!("{other:?}")),
        };
        match decode_batch(&rest[..size], scratch, &limits) {
            Ok(batch) => records.extend(batch),
            Err(defect) => break Some(defect.to_string()),
        }
        at += size;
    };
    Decoded {
        records,
        valid_bytes: at,
        stopped,
    }
}

fn decode_batch(
    bytes: &[u8],
    scratch: &mut Scratch,
    limits: &Limits,
) -> Result<Vec<Value>, Defect> {
    let batch = Batch::check(bytes)?;
    let header = batch.header();
    let mut base_offset = header.base_offset;
    let mut rows = Vec::new();
    for record in batch.records(scratch, limits)? {
        let record = record?;
        // The header of a magic 0 or 1 wrapper does not tell its first offset.
        if rows.is_empty() && header.magic < 2 {
            base_offset = record.offset;
        }
        rows.push(row(header, base_offset.0, &record));
    }
    Ok(rows)
}

fn row(header: &BatchHeader, base_offset: i64, record: &Record<'_>) -> Value {
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|(key, value)| json!([String::from_utf8_lossy(key), base64(value)]))
        .collect();
    json!({
        "offset": record.offset.0,
        "timestamp": record.timestamp.0,
        "timestampType": match header.timestamp_type() {
            TimestampType::None => "NoTimestampType",
            TimestampType::Create => "CreateTime",
            TimestampType::Append => "LogAppendTime",
        },
        "key": base64(record.key),
        "value": base64(record.value),
        "headers": headers,
        "producerId": header.producer_id,
        "producerEpoch": header.producer_epoch,
        "sequence": record.sequence,
        "isControl": header.is_control(),
        "transactional": header.is_transactional(),
        "codec": header.codec().map_or("unknown", |codec| codec.name()),
        "batchBaseOffset": base_offset,
        "magic": header.magic,
    })
}

/// Base64 of RFC 4648 with padding; null stays null.
fn base64(bytes: Option<&[u8]>) -> Option<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes?.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for digit in 0..4 {
            if digit <= group.len() {
                let index = bits >> (18 - 6 * digit) & 63;
                text.push(char::from(DIGITS[index as usize]));
            } else {
                text.push('=');
            }
        }
    }
    Some(text)
}
