//! `logd cat` as a process: which records it shows, how, and what it says about those it cannot.

mod common;

use common::{LONG, Logs, numbers, wait};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Timestamp of the first record of [`forty`], in seconds: 2023-11-14T22:13:20Z.
const T0: u64 = 1_700_000_000;

/// Offsets 0 to 39 a second apart, in batches of four and several segments. The key is the last digit;
/// every fourth record has a header.
fn forty() -> Logs {
    let logs = Logs::with("l-0", &["--segment-size", "300"]);
    let record = |n: u64| {
        let headers = match n % 4 {
            0 => "[[\"h\",\"x\"]]",
            _ => "[]",
        };
        let (ts, key) = ((T0 + n) * 1000, n % 10);
        format!("{{\"ts\":{ts},\"key\":\"{key}\",\"value\":\"{n}\",\"headers\":{headers}}}\n")
    };
    let all: String = (0..40).map(record).collect();
    logs.append("l-0", &["-F", "json", "--batch-records", "4"], &all);
    assert!(logs.segments("l-0").len() > 3);
    logs
}

fn cat<'a>(more: &[&'a str], log: &'a str) -> Vec<&'a str> {
    [&["cat"], more, &[log]].concat()
}

fn path_of_segment(logs: &Logs, n: usize) -> PathBuf {
    logs.path("l-0").join(&logs.segments("l-0")[n])
}

#[test]
fn every_form_of_a_range_shows_exactly_its_records() {
    let logs = forty();
    for (range, shown) in [
        ("0", 0..40),
        ("5", 5..40),
        ("40", 40..40),
        ("5..9", 5..9),
        ("..3", 0..3),
        ("38..", 38..40),
        ("0..40", 0..40),
        ("7..7", 7..7),
        ("earliest", 0..40),
        ("earliest+10", 10..40),
        ("earliest+10..earliest+12", 10..12),
        ("latest", 40..40),
        ("end-3", 37..40),
        ("latest-3..end-1", 37..39),
        ("end-1000", 0..40),
        ("..end-38", 0..2),
        ("@1700000010", 10..40),
        ("@1700000010001ms", 11..40),
        ("@2023-11-14T22:13:30Z..", 10..40),
        ("@1700000005..@1700000008", 5..8),
        ("..@1700000003", 0..3),
        ("@1700000005..8", 5..8),
        ("@2020-01-01", 0..40),
        ("@now", 40..40),
    ] {
        assert_eq!(
            logs.output(&cat(&["-o", range], "l-0")),
            numbers(shown.clone()),
            "{range}"
        );
        let backwards: String = shown.rev().map(|n| format!("{n}\n")).collect();
        assert_eq!(
            logs.output(&cat(&["-r", "-o", range], "l-0")),
            backwards,
            "-r {range}"
        );
    }
}

#[test]
fn limits_and_selections_combine() {
    let logs = forty();
    let shown = |words: &[&str]| logs.output(&cat(words, "l-0"));
    assert_eq!(shown(&["-n", "0"]), "");
    assert_eq!(shown(&["-n", "3"]), numbers(0..3));
    assert_eq!(shown(&["-n", "3", "-o", "6"]), numbers(6..9));
    assert_eq!(shown(&["-n", "100"]), numbers(0..40));
    assert_eq!(shown(&["-r", "-n", "2"]), "39\n38\n");
    assert_eq!(shown(&["-k", "7"]), "7\n17\n27\n37\n");
    assert_eq!(shown(&["-k", "7", "-n", "2", "-r"]), "37\n27\n");
    assert_eq!(shown(&["-k", "absent"]), "");
    assert_eq!(shown(&["-H", "h=x", "-o", "..9"]), "0\n4\n8\n");
    assert_eq!(shown(&["-H", "h=x", "-k", "8"]), "8\n28\n");
    assert_eq!(shown(&["-H", "h=y"]), "");
    assert_eq!(shown(&["--keys-only", "-o", "11..14"]), "1\n2\n3\n");
}

#[test]
fn each_format_is_as_the_contract_has_it() {
    let logs = Logs::with("t-0", &[]);
    let two = concat!(
        "{\"ts\":1700000000123,\"key\":\"k\",\"value\":\"a,\\\"b\",\"headers\":[[\"h\",\"1\"]]}\n",
        "{\"ts\":1700000000124,\"key\":null,\"value\":null}\n",
    );
    logs.append("t-0", &["-F", "json"], two);
    let shown = |format: &str| logs.output(&cat(&["-F", format], "t-0"));
    assert_eq!(shown("lines"), "a,\"b\n\n");
    assert_eq!(shown("nul"), "a,\"b\0\0");
    assert_eq!(logs.output(&["cat", "-0", "t-0"]), shown("nul"));
    assert_eq!(
        shown("json"),
        concat!(
            "{\"topic\":\"t\",\"partition\":0,\"offset\":0,\"ts\":1700000000123,",
            "\"key\":\"k\",\"value\":\"a,\\\"b\",\"headers\":[[\"h\",\"1\"]]}\n",
            "{\"topic\":\"t\",\"partition\":0,\"offset\":1,\"ts\":1700000000124,",
            "\"key\":null,\"value\":null,\"headers\":[]}\n",
        )
    );
    let csv = shown("csv");
    assert_eq!(csv.lines().next(), Some("offset,ts,key,value"));
    assert!(csv.contains(",k,\"a,\"\"b\""), "{csv}");
    assert_eq!(shown("tsv").lines().next(), Some("offset\tts\tkey\tvalue"));
    assert_eq!(shown("hex"), "612c2262\n\n");
    assert_eq!(shown("base64"), "YSwiYg==\n\n");
    assert_eq!(
        shown("%t-%p %o %k %K %S %T %D %h %h{h} %s{hex}\\n"),
        concat!(
            "t-0 0 k 1 4 1700000000123 2023-11-14T22:13:20.123Z h=1 1 612c2262\n",
            "t-0 1  -1 -1 1700000000124 2023-11-14T22:13:20.124Z   \n",
        )
    );
    let frames = logs.logd(&cat(&["-F", "frames"], "t-0")).output().unwrap();
    assert_eq!(frames.stdout, b"\0\0\0\x04a,\"b\xff\xff\xff\xff");
}

#[test]
fn offsets_outside_the_log_are_an_error_unless_clamped() {
    let logs = forty();
    let removed = logs.segments("l-0")[..2].to_vec();
    for name in &removed {
        for suffix in ["log", "index", "timeindex"] {
            let _ = fs::remove_file(logs.path("l-0").join(name.replace("log", suffix)));
        }
    }
    let first = logs.segments("l-0")[0]
        .trim_end_matches(".log")
        .parse::<u64>()
        .unwrap();
    assert!(first > 2);
    let below = logs.run(&cat(&["-o", "2"], "l-0"), b"");
    assert_eq!((below.code, below.out.as_str()), (Some(66), ""));
    assert_eq!(
        below.err,
        format!(
            "logd cat: l-0: offset 2 was removed by retention; earliest is {first}\n\
             hint: --clamp starts at {first}\n"
        )
    );
    for past in ["41", "41..", "39..41"] {
        let ran = logs.run(&cat(&["-o", past], "l-0"), b"");
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(66), ""),
            "{past}: {ran:?}"
        );
    }
    let clamped = |range| logs.output(&cat(&["--clamp", "-o", range], "l-0"));
    assert_eq!(clamped("2"), numbers(first..40));
    assert_eq!(clamped("41"), "");
    assert_eq!(clamped("39..1000"), "39\n");
    // What is relative clamps by itself.
    assert_eq!(
        logs.output(&cat(&["-o", "end-1000"], "l-0")),
        numbers(first..40)
    );
    assert_eq!(
        logs.output(&cat(&["-o", "earliest..earliest+1"], "l-0")),
        numbers(first..first + 1)
    );
}

/// Damages the second batch of the second segment. Its first offset and byte, and the file's name.
fn damage(logs: &Logs) -> (u64, u64, String) {
    let path = path_of_segment(logs, 1);
    let mut bytes = fs::read(&path).unwrap();
    let size =
        |at: usize| 12 + u32::from_be_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let second = size(0);
    let offset = u64::from_be_bytes(bytes[second..second + 8].try_into().unwrap());
    bytes[second + 70] ^= 1;
    fs::write(&path, bytes).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_string();
    (offset, second as u64, name)
}

/// Where the checksum lies in a batch.
const CRC_AT: u64 = 17;

#[test]
fn damage_ends_the_good_part_and_is_named_by_file_offset_and_byte() {
    let logs = forty();
    let (offset, byte, name) = damage(&logs);
    // The byte is that of the field that does not fit, the batch's checksum.
    let place = format!("{name}: offset {offset}, byte {}: ", byte + CRC_AT);
    let named = |err: &str| {
        assert!(err.contains(&place), "{err}");
    };
    let ran = logs.run(&["cat", "l-0"], b"");
    assert_eq!((ran.code, ran.out), (Some(65), numbers(0..offset)));
    named(&ran.err);
    let ran = logs.run(&["cat", "--skip-corrupt", "l-0"], b"");
    let rest = numbers(0..offset) + &numbers(offset + 4..40);
    assert_eq!((ran.code, ran.out), (Some(65), rest));
    named(&ran.err);
    let ran = logs.run(&["cat", "-r", "l-0"], b"");
    let behind: String = (offset + 4..40).rev().map(|n| format!("{n}\n")).collect();
    assert_eq!((ran.code, ran.out), (Some(65), behind));
    named(&ran.err);
    // What is asked for lies elsewhere.
    let after = (offset + 4).to_string();
    assert_eq!(
        logs.output(&cat(&["-o", &after], "l-0")),
        numbers(offset + 4..40)
    );
    // The other logs are read all the same.
    logs.init("m-0", &[]);
    logs.append("m-0", &[], "other\n");
    let ran = logs.run(&["cat", "l-0", "m-0"], b"");
    assert_eq!(
        (ran.code, ran.out),
        (Some(65), numbers(0..offset) + "other\n")
    );
}

#[test]
fn a_reader_that_leaves_ends_it_silently() {
    let logs = Logs::with("l-0", &[]);
    let line = "x".repeat(1000) + "\n";
    logs.append("l-0", &["--sync", "never"], &line.repeat(20_000));
    for format in ["lines", "json", "batch", "%s{hex}\\n"] {
        for reverse in [false, true] {
            let mut words = cat(&["-F", format], "l-0");
            if reverse && format != "batch" {
                words.push("-r");
            }
            let mut logd = logs.logd(&words);
            logd.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = logd.spawn().unwrap();
            let mut out = BufReader::new(child.stdout.take().unwrap());
            out.fill_buf().unwrap();
            drop(out);
            let status = wait(&mut child, LONG).expect("it ends");
            let said = child.wait_with_output().unwrap().stderr;
            assert_eq!((status.code(), said), (Some(0), Vec::new()), "{format}");
        }
    }
}

#[test]
fn a_full_output_is_74() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..5));
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = logs.logd(&["cat", "l-0"]).stdout(full).output().unwrap();
    assert_eq!(ran.status.code(), Some(74));
    let err = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.starts_with("logd cat: "), "{err}");
}

#[test]
fn batches_go_round_as_they_are_stored() {
    let logs = Logs::with("a-0", &["--segment-size", "2KiB"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        logs.append(
            "a-0",
            &["-z", codec, "-k", codec, "-H", "h=1"],
            &numbers(0..60),
        );
    }
    logs.append("a-0", &["-Z", "-k", "gone"], "\n");
    let batches = logs.logd(&["cat", "-F", "batch", "a-0"]).output().unwrap();
    assert_eq!((batches.status.code(), batches.stderr.len()), (Some(0), 0));
    logs.init("b-0", &[]);
    let ran = logs.run(&["append", "-F", "batch", "b-0"], &batches.stdout);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let json = |log| {
        logs.output(&cat(&["-F", "json"], log))
            .replace("\"topic\":\"b\"", "\"topic\":\"a\"")
    };
    assert_eq!(json("a-0"), json("b-0"));
    let again = logs.logd(&["cat", "-F", "batch", "b-0"]).output().unwrap();
    assert!(again.stdout == batches.stdout, "not the same bytes");
}

fn corpus(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("LOGD_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/kafka"),
        PathBuf::from,
    );
    let path = root.join(name);
    if !path.is_dir() {
        eprintln!(
            "skipped: no corpus at {}; set LOGD_CORPUS to its directory",
            root.display()
        );
        return None;
    }
    Some(path)
}

/// Expected rows of a corpus partition that are no control records, as `OFFSET PRODUCER VALUE`.
fn expected(partition: &Path) -> Vec<(i64, i64, String)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(partition).unwrap().map(|e| e.unwrap().path()) {
        if !entry.to_str().unwrap().ends_with(".log.expected.ndjson") {
            continue;
        }
        for line in fs::read_to_string(entry).unwrap().lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            if row["isControl"] == false {
                let value = row["value"].as_str().unwrap_or_default().to_string();
                let id = row["producerId"].as_i64().unwrap();
                out.push((row["offset"].as_i64().unwrap(), id, value));
            }
        }
    }
    out.sort();
    out
}

#[test]
fn aborted_transactions_are_shown_only_uncommitted() {
    let logs = Logs::empty();
    for name in ["broker/txn-0", "broker/txn-lz4-0"] {
        let Some(path) = corpus(name) else { return };
        let log = path.to_str().unwrap();
        let rows = |isolation: &[&str]| -> Vec<(i64, String)> {
            let words = [&["-F", "%o %s{base64}\\n"], isolation].concat();
            let ran = logs.run(&cat(&words, log), b"");
            assert_eq!(ran.code, Some(0), "{ran:?}");
            let row = |l: &str| {
                let (offset, value) = l.split_once(' ').unwrap();
                (offset.parse().unwrap(), value.to_string())
            };
            ran.out.lines().map(row).collect()
        };
        let all: Vec<_> = expected(&path)
            .into_iter()
            .map(|(o, _, v)| (o, v))
            .collect();
        assert_eq!(rows(&["--isolation", "uncommitted"]), all, "{name}");
        let committed = rows(&[]);
        assert_eq!(committed, rows(&["--isolation", "committed"]), "{name}");
        assert!(
            !committed.is_empty() && committed.len() < all.len(),
            "{name}"
        );
        assert!(committed.iter().all(|row| all.contains(row)), "{name}");
        let says_aborted = |v: &str| {
            let bytes = data_encoding::BASE64.decode(v.as_bytes()).unwrap();
            String::from_utf8_lossy(&bytes).contains("abort")
        };
        let aborted = committed.iter().filter(|(_, v)| says_aborted(v));
        assert_eq!(aborted.count(), 0, "{name}");
        let mut backwards = rows(&["-r"]);
        backwards.reverse();
        assert_eq!(backwards, committed, "{name}");
    }
}

#[test]
fn logs_come_one_after_another_and_topics_partition_by_partition() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    for p in 0..3u64 {
        let part = p.to_string();
        logs.append("t", &["-p", &part], &numbers(p * 10..p * 10 + 3));
    }
    logs.init("u-0", &[]);
    logs.append("u-0", &[], "u\n");
    let shown = |words: &[&str]| logs.output(&[&["cat"], words].concat());
    assert_eq!(shown(&["t"]), "0\n1\n2\n10\n11\n12\n20\n21\n22\n");
    assert_eq!(shown(&["-p", "2,0", "-n", "4", "t"]).lines().count(), 4);
    assert_eq!(shown(&["-p", "1", "t"]), "10\n11\n12\n");
    assert_eq!(shown(&["-o", "end-1", "t", "u"]), "2\n12\n22\nu\n");
    assert_eq!(shown(&["u-0", "t-1"]), "u\n10\n11\n12\n");
    assert_eq!(shown(&["-n", "2", "u-0", "t-1"]), "u\n10\n");
    assert_eq!(shown(&["-F", "csv", "u-0", "t-1"]).lines().count(), 5);
    // What is not there is said, and the rest is read.
    let ran = logs.run(&["cat", "absent", "u-0"], b"");
    assert_eq!((ran.code, ran.out.as_str()), (Some(66), "u\n"));
    assert!(
        ran.err.starts_with("logd cat: absent: no such log"),
        "{}",
        ran.err
    );
}

#[test]
fn relative_names_are_looked_up_in_logd_dir() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], "here\n");
    let elsewhere = tempfile::tempdir().unwrap();
    let run = |log: &str, base: Option<&Path>| {
        let mut logd = logs.logd(&["cat", log]);
        logd.current_dir(elsewhere.path());
        base.map(|b| logd.env("LOGD_DIR", b));
        let out = logd.output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    assert_eq!(
        run("l-0", Some(logs.root())),
        (Some(0), "here\n".to_string())
    );
    assert_eq!(run("l", Some(logs.root())).0, Some(0));
    assert_eq!(run("l-0", None).0, Some(66));
    let absolute = logs.path("l-0");
    assert_eq!(
        run(absolute.to_str().unwrap(), Some(elsewhere.path())).0,
        Some(0)
    );
}

/// Everything below a directory, with what a write would change.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            out.extend(listing(&entry.path()));
        }
        out.push((entry.path(), meta.len(), meta.modified().unwrap()));
    }
    out.sort();
    out
}

#[test]
fn a_broker_s_directory_is_read_as_it_is_also_where_nothing_may_be_written() {
    let Some(from) = corpus("broker/aio-zstd-0") else {
        return;
    };
    let logs = Logs::empty();
    let to = logs.path("aio-zstd-0");
    fs::create_dir(&to).unwrap();
    for entry in fs::read_dir(&from).unwrap().map(|e| e.unwrap()) {
        let name = entry.file_name().into_string().unwrap();
        if !name.contains(".expected") && name != "dump-log.txt" {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
    let mut modes = fs::metadata(&to).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut modes, 0o555);
    fs::set_permissions(&to, modes).unwrap();
    let before = listing(logs.root());
    let all: Vec<String> = expected(&from).into_iter().map(|(_, _, v)| v).collect();
    for words in [
        &["cat", "-F", "base64", "aio-zstd-0"][..],
        &["cat", "-F", "base64", "aio-zstd"],
    ] {
        let shown = logs.output(words);
        assert_eq!(shown.lines().collect::<Vec<_>>(), all);
    }
    let ran = logs.run(&["cat", "--durable", "aio-zstd-0"], b"");
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    assert!(
        ran.err.contains("nothing is known to be durable"),
        "{}",
        ran.err
    );
    assert_eq!(listing(logs.root()), before);
    assert!(!to.join(".logd").exists());
}

#[test]
fn it_ends_where_the_log_ended_when_it_began() {
    let logs = Logs::with("l-0", &["--segment-size", "64KiB"]);
    let line = "x".repeat(500) + "\n";
    logs.append("l-0", &["--sync", "never"], &line.repeat(4000));
    let mut logd = logs.logd(&["cat", "l-0"]);
    let mut child = logd.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::sleep(Duration::from_millis(200)); // its pipe is full now
    logs.append("l-0", &["--sync", "never"], &line.repeat(1000));
    assert_eq!(out.lines().count(), 4000);
    assert_eq!(wait(&mut child, LONG).unwrap().code(), Some(0));
}

/// What `logd WORDS` writes to a terminal, and its status; `None` (said) where script(1) is not.
fn on_terminal(logs: &Logs, words: &str) -> Option<(Option<i32>, String)> {
    let logd = format!("{} {words}", env!("CARGO_BIN_EXE_logd"));
    let mut script = Command::new("script");
    script
        .args(["-qec", &logd, "/dev/null"])
        .current_dir(logs.root());
    match script.stdin(Stdio::null()).output() {
        Ok(out) => {
            let shown = String::from_utf8_lossy(&out.stdout).into_owned();
            Some((out.status.code(), shown))
        }
        Err(e) => {
            eprintln!("skipped: no terminal to be had: script(1): {e}");
            None
        }
    }
}

#[test]
fn a_terminal_is_shown_one_line_a_record_and_no_control_bytes() {
    let logs = Logs::with("l-0", &[]);
    let input = "a\x1b[2J\nb\u{9b}c\u{202e}d\x07\0plain\0";
    logs.append("l-0", &["-F", "nul", "-k", "k\x1b"], input);
    let Some((code, out)) = on_terminal(&logs, "cat l-0") else {
        return;
    };
    assert_eq!(code, Some(0));
    assert_eq!(out.lines().count(), 2, "{out:?}");
    assert!(out.starts_with("a\\x1b[2J\\x0ab"), "{out:?}");
    let (_, json) = on_terminal(&logs, "cat -F json l-0").unwrap();
    for shown in [&out, &json] {
        let steers = |c: char| c.is_control() && c != '\r' && c != '\n' || c == '\u{202e}';
        assert!(!shown.contains(steers), "{shown:?}");
    }
    for format in ["frames", "batch", "%R"] {
        let (code, out) = on_terminal(&logs, &format!("cat -F {format} l-0")).unwrap();
        assert_eq!(code, Some(2), "{format}");
        assert!(out.contains("binary output to a terminal"), "{out}");
    }
    let (code, out) = on_terminal(&logs, "cat --raw l-0").unwrap();
    assert_eq!(code, Some(0));
    assert!(out.contains("\x1b[2J"), "{out:?}");
    // A pipe gets the bytes as they are.
    let ran = logs.run(&["cat", "-0", "l-0"], b"");
    assert_eq!(ran.out, input);
}
