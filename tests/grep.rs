//! `logd grep` as a process, against GNU grep on the same text, and against jq where there is one.

mod common;

use common::{Logs, Random, numbers, seed};
use logd::format::builder::{BatchBuilder, Producer, Seal, stamp};
use logd::format::crc32c::crc32c;
use logd::format::record::NewRecord;
use logd::format::{Offset, TimestampMs};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// What a program of the system prints when it is given this, and its status; `None` without it.
fn peer(program: &str, words: &[&str], input: &str) -> Option<(String, i32)> {
    let mut command = Command::new(program);
    command.args(words).env("LC_ALL", "C.UTF-8");
    let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = spawned else {
        eprintln!("skipped: there is no {program} here");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_string();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    Some((text, out.status.code().unwrap()))
}

/// Lines of an access log, some of them empty, some alike.
fn access_log(random: &mut Random, lines: usize) -> String {
    let verbs = ["GET", "POST", "PUT", "DELETE"];
    let mut text = String::new();
    for n in 0..lines {
        match random.below(20) {
            0 => text.push('\n'),
            1 => text.push_str("same line\n"),
            _ => {
                let verb = verbs[random.below(4)];
                let status = [200, 201, 301, 404, 500, 503][random.below(6)];
                let ms = random.below(3000);
                text.push_str(&format!(
                    "10.0.{}.{} {verb} /item/{n} {status} {ms}ms Größe{}\n",
                    random.below(4),
                    random.below(250),
                    random.below(9)
                ));
            }
        }
    }
    text
}

#[test]
fn prints_what_grep_prints_of_the_same_text_in_every_codec() {
    let mut random = Random(seed());
    let text = access_log(&mut random, 4000);
    let logs = Logs::empty();
    let name = |codec: &str| format!("{codec}-0");
    for codec in CODECS {
        let log = name(codec);
        logs.init(&log, &["-z", codec, "--segment-size", "64KiB"]);
        logs.append(&log, &["--batch-size", "4KiB"], &text);
    }
    let patterns: &[&[&str]] = &[
        &["503"],
        &["-i", "post"],
        &["-v", "GET|POST"],
        &["^10\\.0\\.[12]"],
        &["ms Größe[1-3]$"],
        &["^$"],
        &["-v", "^$"],
        &[""],
        &["x*"],
        &["\\b50[03]\\b"],
        &["item/1.*9ms"],
        &["[^ ]*9 404"],
        &["-i", "grÖSSe|größE1"],
        &["no such thing"],
        &["/item/777 "],
        &["same line"],
    ];
    let more: &[&[&str]] = &[
        &[],
        &["-c"],
        &["-A", "2"],
        &["-B", "3"],
        &["-C", "1"],
        &["-A", "1", "-B", "40"],
    ];
    for pattern in patterns {
        for more in more {
            let Some(expected) = peer("grep", &[&["-E"], *more, *pattern].concat(), &text) else {
                return;
            };
            for codec in CODECS {
                let log = name(codec);
                let words = [&["grep"], *more, *pattern, &[&log]].concat();
                let ran = logs.run(&words, b"");
                assert_eq!(ran.err, "", "{words:?}");
                assert_eq!((ran.out, ran.code.unwrap()), expected, "{words:?}");
            }
        }
    }
}

#[test]
fn literals_and_limits_are_those_of_grep() {
    let mut random = Random(seed());
    let text = access_log(&mut random, 1500);
    let logs = Logs::with("l-0", &["-z", "lz4"]);
    logs.append("l-0", &["--batch-records", "100"], &text);
    for (ours, theirs) in [
        (&["-Q", "10.0.1"][..], &["-F", "10.0.1"][..]),
        (&["-Q", "-i", "ms GRÖSSE"], &["-F", "-i", "ms GRÖSSE"]),
        (&["-Q", ".*"], &["-F", ".*"]),
        (&["-n", "3", "POST"], &["-m", "3", "POST"]),
        (
            &["-n", "3", "-A", "5", "200"],
            &["-m", "3", "-A", "5", "200"],
        ),
        (
            &["-n", "2", "-C", "9", "503"],
            &["-m", "2", "-C", "9", "503"],
        ),
        (&["-n", "7", "-c", "503"], &["-m", "7", "-c", "503"]),
        (
            &["-n", "7000", "-c", "-v", "503"],
            &["-m", "7000", "-c", "-v", "503"],
        ),
    ] {
        let Some(expected) = peer("grep", theirs, &text) else {
            return;
        };
        let ran = logs.run(&[&["grep"], ours, &["l-0"]].concat(), b"");
        assert_eq!((ran.out, ran.code.unwrap()), expected, "{ours:?}");
    }
    // Line numbers are offsets that count from 1.
    let (expected, _) = peer("grep", &["-n", "404"], &text).unwrap();
    let found = logs.output(&["grep", "-F", "%o:%s\\n", "404", "l-0"]);
    let numbered = |line: &str| {
        let (offset, rest) = line.split_once(':').unwrap();
        format!("{}:{rest}\n", offset.parse::<u64>().unwrap() + 1)
    };
    assert_eq!(found.lines().map(numbered).collect::<String>(), expected);
}

#[test]
fn searching_backward_is_searching_the_text_turned_over() {
    let mut random = Random(seed());
    let text = access_log(&mut random, 1200);
    let logs = Logs::with("l-0", &["-z", "zstd", "--segment-size", "32KiB"]);
    logs.append("l-0", &["--batch-records", "70"], &text);
    let over: String = text.lines().rev().map(|l| format!("{l}\n")).collect();
    for words in [
        &["503"][..],
        &["-c", "503"],
        &["-C", "2", "404"],
        &["-A", "80", "-B", "1", "/item/6.. "],
    ] {
        let Some(expected) = peer("grep", words, &over) else {
            return;
        };
        let ran = logs.run(&[&["grep", "-r"], words, &["l-0"]].concat(), b"");
        assert_eq!((ran.out, ran.code.unwrap()), expected, "{words:?}");
    }
}

#[test]
fn fields_are_searched_as_jq_and_grep_would() {
    let mut random = Random(seed());
    let mut json = String::new();
    for n in 0..3000 {
        let status = [200, 404, 500, 503][random.below(4)];
        let user = ["u1", "ü2", "q\\\"3", "\\u0061b"][random.below(4)];
        let value = match random.below(12) {
            0 => "null".to_string(),
            1 => "\"no json\"".to_string(),
            _ => format!(
                "\"{{\\\"status\\\": {status}, \\\"user\\\": \\\"{}\\\", \\\"tags\\\": [1, {n}]}}\"",
                user.replace('\\', "\\\\").replace("\\\\\"", "\\\\\\\"")
            ),
        };
        let key = match random.below(5) {
            0 => "null".to_string(),
            k => format!("\"k{}-{n}\"", k % 3),
        };
        json.push_str(&format!(
            "{{\"offset\":{n},\"key\":{key},\"value\":{value},\"headers\":[[\"trace\",\"t{}\"],[\"trace\",\"x\"]]}}\n",
            random.below(50)
        ));
    }
    let logs = Logs::with("l-0", &["-z", "snappy"]);
    logs.append("l-0", &["-F", "json", "--batch-records", "50"], &json);
    let parsed = "(.value | if . == null then null else (try fromjson catch null) end)";
    let object = format!("({parsed} | if type == \"object\" then . else {{}} end)");
    for (field, filter) in [
        ("key", ".key".to_string()),
        ("value", ".value".to_string()),
        ("header:trace", ".headers[0][1]".to_string()),
        ("json:/status", format!("{object} | .status")),
        ("json:/user", format!("{object} | .user")),
        ("json:/tags", format!("{object} | .tags")),
    ] {
        for pattern in [
            "^5", "1", "k1.*7$", "^t3", "^u", "ü", "a", "\"", "1,2", "^[^5]", "0",
        ] {
            // Offsets of the records whose field matches, by jq alone and by logd.
            let test = format!(
                "({filter}) as $f | select($f != null) | \
                 select(($f | if type == \"string\" then . else tojson end) | test($p)) | .offset"
            );
            let words = ["-r", "--arg", "p", pattern, &test];
            let Some((expected, _)) = peer("jq", &words, &json) else {
                return;
            };
            let words = ["grep", "-F", "%o\\n", "--in", field, pattern, "l-0"];
            let ran = logs.run(&words, b"");
            assert_eq!(ran.err, "", "{words:?}");
            assert_eq!(ran.out, expected, "{words:?}");
        }
    }
}

#[test]
fn columns_are_counted_from_one() {
    let logs = Logs::with("l-0", &[]);
    let rows = "id,name,size\n1,\"a,b\",10\n2,\"say \"\"x\"\"\",20\n3,c,30\n";
    logs.append("l-0", &["-F", "csv"], rows);
    let find = |field, pattern| logs.run(&["grep", "--in", field, pattern, "l-0"], b"").out;
    assert_eq!(find("column:1", "^[12]$").lines().count(), 2);
    assert_eq!(find("column:2", "^a,b$"), "1,\"a,b\",10\n");
    assert_eq!(find("column:2", "\"x\""), "2,\"say \"\"x\"\"\",20\n");
    assert_eq!(find("column:3", "3"), "3,c,30\n");
    assert_eq!(find("column:4", ""), "");
}

#[test]
fn each_log_has_its_count_and_all_its_partitions_are_one() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    logs.append("t", &["--batch-records", "1"], &numbers(0..30));
    logs.init("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..12));
    assert_eq!(logs.output(&["grep", "-c", "1", "t"]), "12\n");
    assert_eq!(
        logs.output(&["grep", "-c", "1", "t", "l-0"]),
        "t:12\nl-0:3\n"
    );
    let ran = logs.run(&["grep", "-c", "x", "t", "none", "l-0"], b"");
    assert_eq!((ran.code, ran.out.as_str()), (Some(66), "t:0\nl-0:0\n"));
    let shown = logs.output(&["grep", "-F", "%t-%p %s\\n", "^7$", "t", "l-0"]);
    assert!(
        shown.starts_with("t-") && shown.ends_with(" 7\nl-0 7\n"),
        "{shown}"
    );
    // -n is a limit over all.
    assert_eq!(
        logs.output(&["grep", "-n", "13", "-c", "1", "t", "l-0"]),
        "t:12\nl-0:1\n"
    );
}

#[test]
fn exit_status_tells_whether_something_matched() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..30));
    let code = |words: &[&str]| {
        let ran = logs.run(&[&["grep"], words].concat(), b"");
        (ran.code.unwrap(), ran.out)
    };
    assert_eq!(code(&["7", "l-0"]), (0, "7\n17\n27\n".into()));
    assert_eq!(code(&["x", "l-0"]), (1, String::new()));
    assert_eq!(code(&["-q", "7", "l-0"]), (0, String::new()));
    assert_eq!(code(&["-q", "x", "l-0"]), (1, String::new()));
    assert_eq!(code(&["-q", "7", "none", "l-0"]), (0, String::new()));
    assert_eq!(code(&["-q", "x", "none", "l-0"]), (66, String::new()));
    assert_eq!(code(&["7", "none", "l-0"]), (66, "7\n17\n27\n".into()));
    assert_eq!(code(&["-n", "0", "7", "l-0"]), (1, String::new()));
    assert_eq!(code(&["-o", "5..18", "7", "l-0"]), (0, "7\n17\n".into()));
    assert_eq!(code(&["-o", "99", "7", "l-0"]).0, 66);
}

#[test]
fn bad_words_are_told_with_their_place() {
    let logs = Logs::with("l-0", &[]);
    let no = |words: &[&str]| {
        let ran = logs.run(&[&["grep"], words].concat(), b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}");
        ran.err
    };
    let said = no(&["ab(c", "l-0"]);
    assert!(said.contains("column 3: unclosed group"), "{said}");
    assert!(no(&["--in", "json:status", "x", "l-0"]).contains("hint: --in json:/status"));
    assert!(no(&["--in", "valeu", "x", "l-0"]).contains("--in valeu"));
    assert!(no(&["--in", "column:size", "x", "l-0"]).contains("hint: --in column:3"));
    assert!(no(&["-c", "-f", "x", "l-0"]).contains("--count and --follow"));
    assert!(no(&["-C", "1", "-F", "batch", "x", "l-0"]).contains("-F batch"));
}

#[test]
fn fingers_that_know_grep_get_a_hint() {
    let logs = Logs::with("l-0", &[]);
    let hint = |words: &[&str]| {
        let ran = logs.run(&[&["grep"], words].concat(), b"");
        assert_eq!(ran.code, Some(2), "{words:?}");
        let hint = ran.err.lines().nth(1).unwrap_or_default();
        hint.split("    ").next().unwrap().to_string()
    };
    assert_eq!(
        hint(&["-F", "a.b c", "l-0"]),
        "hint: logd grep -Q 'a.b c' l-0"
    );
    assert_eq!(hint(&["-F", "a.b", "x", "l-0"]), "hint: logd grep -Q x l-0");
    assert_eq!(
        hint(&["-o", "a[0-9]", "l-0"]),
        "hint: logd grep 'a[0-9]' l-0 | grep -o 'a[0-9]'"
    );
    assert_eq!(
        hint(&["-n", "x", "l-0"]),
        "hint: logd grep -F '%o:%s\\n' x l-0"
    );
    assert_eq!(hint(&["x"]), "hint: logd grep --help");
}

#[test]
fn formats_carry_what_they_carry_everywhere() {
    let logs = Logs::with("l-0", &["-z", "gzip"]);
    logs.append("l-0", &["-k", "a", "-H", "h=1"], &numbers(0..20));
    logs.append("l-0", &["-k", "b"], &numbers(20..40));
    let offsets = |words: &[&str]| {
        let words = [&["grep", "-F", "json"], words, &["l-0"]].concat();
        let out = logs.run(&words, b"").out;
        let offset = |l: &str| {
            l.split("\"offset\":")
                .nth(1)
                .unwrap()
                .split(',')
                .next()
                .unwrap()
                .to_string()
        };
        out.lines().map(offset).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(offsets(&["7"]), "7 17 27 37");
    assert_eq!(offsets(&["-k", "b", "7"]), "27 37");
    assert_eq!(offsets(&["-H", "h=1", "-v", "1|2|3|4|5|6|7|8"]), "0 9");
    assert_eq!(offsets(&["-C", "1", "-k", "a", "^1?9"]), "8 9 10 18 19");
    let csv = logs.output(&["grep", "-F", "csv", "^39", "l-0"]);
    assert!(csv.starts_with("offset,ts,key,value\n39,"), "{csv}");
    let mut cat = logs.logd(&["grep", "-F", "batch", "3", "l-0"]);
    let batches = cat.output().unwrap().stdout;
    logs.init("copy-0", &[]);
    let ran = logs.run(&["append", "-F", "batch", "copy-0"], &batches);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let all = logs.output(&["cat", "-F", "%k %s\\n", "copy-0"]);
    assert_eq!(all, logs.output(&["grep", "-F", "%k %s\\n", "3", "l-0"]));
}

#[test]
fn follows_as_tail_does() {
    let logs = Logs::with("t", &["--partitions", "2", "--segment-size", "32KiB"]);
    logs.append("t", &["-p", "0"], "a1\nb1\n");
    let mut grep = logs.start(&["grep", "-f", "-B", "1", "^a", "t"]);
    assert_eq!(grep.line(), "a1");
    logs.append("t", &["-p", "1"], "x\na2\n");
    assert_eq!(grep.lines(3), ["--", "x", "a2"]);
    logs.append("t", &["-p", "0"], "c\na3\nd\n");
    assert_eq!(grep.lines(3), ["--", "c", "a3"]);
    assert!(grep.is_silent(Duration::from_millis(100)));
    drop(grep);
    // Waiting for a match, and for no match.
    let mut waiting = logs.start(&["grep", "-f", "-q", "-o", "end", "ready", "t"]);
    assert!(waiting.is_silent(Duration::from_millis(100)));
    logs.append("t", &["-p", "1"], "not yet\nready\n");
    assert_eq!(waiting.rest(), Vec::<String>::new());
    assert_eq!(waiting.child.wait().unwrap().code(), Some(0));
    // Records around it are nothing to wait for.
    let words = ["grep", "-f", "-q", "-C", "3", "ready", "t"];
    let mut found = logs.start(&words);
    assert_eq!(found.ended(common::LONG).code(), Some(0));
    // A limit ends it, and so does a reader that is gone while nothing matches.
    let mut first = logs.start(&["grep", "-f", "-n", "2", "a", "t"]);
    assert_eq!(first.rest().len(), 2);
    assert_eq!(first.ended(common::LONG).code(), Some(0));
    let mut lonely = logs.logd(&["grep", "-f", "never", "t"]);
    let mut lonely = lonely.stdout(Stdio::piped()).spawn().unwrap();
    drop(lonely.stdout.take());
    let ended = common::wait(&mut lonely, common::LONG).expect("it hangs");
    assert_eq!(ended.code(), Some(0));
    // New partitions, rolls and records of any codec are met.
    let mut grep = logs.start(&["grep", "-f", "-F", "%p %s\\n", "-o", "end", "late", "t"]);
    assert!(grep.is_silent(Duration::from_millis(100)));
    logs.append(
        "t",
        &["-p", "0", "-z", "zstd"],
        &(numbers(0..20_000) + "late1\n"),
    );
    assert_eq!(grep.line(), "0 late1");
    logs.init("t-2", &[]);
    logs.append("t", &["-p", "2"], "x\nlate2\n");
    assert_eq!(grep.line(), "2 late2");
    let ran = logs.run(&["grep", "-f", "--timeout", "100ms", "never", "t"], b"");
    assert_eq!(ran.code, Some(124));
}

#[test]
fn damage_stops_the_search_or_is_told_and_passed_over() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["--batch-records", "10"], &numbers(0..100));
    let path = logs.path("l-0").join(&logs.segments("l-0")[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() / 2 + 60;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let ran = logs.run(&["grep", "7$", "l-0"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(
        ran.out.starts_with("7\n17\n") && !ran.out.contains("97"),
        "{ran:?}"
    );
    assert!(
        ran.err.contains("CRC-32C") && ran.err.lines().count() == 1,
        "{ran:?}"
    );
    let ran = logs.run(&["grep", "--skip-corrupt", "7$", "l-0"], b"");
    assert_eq!(
        (ran.code, ran.out.lines().count()),
        (Some(65), 9),
        "{ran:?}"
    );
    // What was not asked for is not met.
    assert_eq!(logs.output(&["grep", "-n", "2", "7$", "l-0"]), "7\n17\n");
    assert_eq!(logs.run(&["grep", "-q", "17", "l-0"], b"").code, Some(0));
}

#[test]
fn a_reader_that_goes_away_ends_it_without_a_word() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..200_000));
    let script = format!(
        "set -o pipefail; {} grep 1 l-0 | head -n 2",
        env!("CARGO_BIN_EXE_logd")
    );
    let mut bash = Command::new("bash");
    let out = bash
        .args(["-c", &script])
        .current_dir(logs.root())
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert_eq!(
        (out.stdout.as_slice(), out.stderr.as_slice()),
        (&b"1\n10\n"[..], &b""[..])
    );
}

/// A log of some 15 MB, far more than is searched before threads are started, of small batches and
/// large ones, and its text.
fn large(logs: &Logs, codec: &str) -> String {
    let mut random = Random(seed());
    let log = format!("{codec}-0");
    logs.init(&log, &["-z", codec, "--segment-size", "4MiB"]);
    let mut all = String::new();
    for size in ["500", "4KiB", "300KiB", "3MiB"] {
        let text = access_log(&mut random, 80_000);
        logs.append(&log, &["--batch-size", size], &text);
        all.push_str(&text);
    }
    all
}

#[test]
fn reading_ahead_keeps_order_limits_and_context() {
    let logs = Logs::empty();
    for codec in ["none", "lz4"] {
        let text = large(&logs, codec);
        let log = format!("{codec}-0");
        for (ours, theirs) in [
            (&["503"][..], &["503"][..]),
            (&["-c", "503"], &["-c", "503"]),
            (&["-v", "[0-9]"], &["-v", "[0-9]"]),
            (&["-C", "2", "item/7777 "], &["-C", "2", "item/7777 "]),
            (&["-B", "500", "item/77.77 "], &["-B", "500", "item/77.77 "]),
            (&["-n", "30000", "50"], &["-m", "30000", "50"]),
            (
                &["-n", "3", "-A", "2", "item/7999."],
                &["-m", "3", "-A", "2", "item/7999."],
            ),
            (&["-n", "200000", "-c", ""], &["-m", "200000", "-c", ""]),
        ] {
            let Some(expected) = peer("grep", theirs, &text) else {
                return;
            };
            let ran = logs.run(&[&["grep"], ours, &[&log]].concat(), b"");
            let same = (&ran.out, ran.code.unwrap()) == (&expected.0, expected.1);
            assert!(same && ran.err.is_empty(), "{log} {ours:?} {}", ran.err);
        }
    }
}

#[test]
fn reading_ahead_meets_damage_where_plain_reading_does() {
    let logs = Logs::empty();
    large(&logs, "none");
    let segments = logs.segments("none-0");
    let path = logs.path("none-0").join(&segments[segments.len() / 2]);
    let good = std::fs::read(&path).unwrap();
    let mut at = 0;
    while at < good.len() / 2 {
        at += 12 + u32::from_be_bytes(good[at + 8..at + 12].try_into().unwrap()) as usize;
    }
    let end = at + 12 + u32::from_be_bytes(good[at + 8..at + 12].try_into().unwrap()) as usize;
    for is_sealed in [false, true] {
        let mut bytes = good.clone();
        bytes[end - 1] ^= 0x40; // the last record's count of headers
        if is_sealed {
            let crc = crc32c(&bytes[at + 21..end]);
            bytes[at + 17..at + 21].copy_from_slice(&crc.to_be_bytes());
        }
        std::fs::write(&path, &bytes).unwrap();
        for more in [&[][..], &["--skip-corrupt"]] {
            let read = |words: &[&str]| logs.run(&[words, more, &["none-0"]].concat(), b"");
            let (cat, grep) = (read(&["cat"]), read(&["grep", ""]));
            assert_eq!(cat.code, Some(65));
            assert!(!cat.err.is_empty() && cat.out.len() > 2 << 20);
            assert_eq!(grep.err, cat.err.replace("logd cat", "logd grep"));
            assert!(
                grep.out == cat.out && grep.code == cat.code,
                "{is_sealed} {more:?}"
            );
        }
    }
}

#[test]
fn filters_pass_over_segments_and_never_change_an_answer() {
    let mut random = Random(seed());
    let logs = Logs::with("l-0", &["--segment-size", "16KiB"]);
    for part in 0..8 {
        let text = access_log(&mut random, 400);
        let text = text.replace("/item/", &format!("/item{part}part/"));
        logs.append(
            "l-0",
            &["--batch-records", "40", "-k", &format!("key-{part}")],
            &text,
        );
    }
    let searches = [
        &["item3part"][..],
        &["-i", "ITEM3PART/1[0-9]"],
        &["-Q", "item5part/77 "],
        &["-v", "item3part"],
        &["-C", "2", "item3part/7. "],
        &["-c", "item.part"],
        &["nothing at all"],
        &["--in", "key", "-c", "^key-6$"],
        &["--in", "key", "-c", "^key-9$"],
        &["-n", "5", "part"],
        &["-r", "-n", "5", "item4part"],
        &["-o", "100..900", "-c", "item1part"],
    ];
    let all = || {
        searches.map(|words| {
            let ran = logs.run(&[&["grep"], words, &["l-0"]].concat(), b"");
            assert_eq!(ran.err, "", "{words:?}");
            (ran.out, ran.code)
        })
    };
    let plain = all();
    assert_eq!(plain[7].0, "400\n");
    let ran = logs.run(
        &["index", "--by", "value", "--by", "key", "--bloom", "l-0"],
        b"",
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(all(), plain);
    // A segment that cannot match is not read: damage in it is not met.
    let segments = logs.segments("l-0");
    assert!(segments.len() > 8);
    let damaged = logs.path("l-0").join(&segments[1]);
    let good = std::fs::read(&damaged).unwrap();
    let mut bad = good.clone();
    bad[90] ^= 1;
    std::fs::write(&damaged, &bad).unwrap();
    let code = |pattern| logs.run(&["grep", "-c", pattern, "l-0"], b"").code;
    assert_eq!((code("item6part"), code("item0part")), (Some(0), Some(65)));
    std::fs::write(&damaged, &good).unwrap();
    // Damaged filters, or those of other segments, know nothing.
    let keys = logs.path("l-0").join(".logd/keys");
    let names = || std::fs::read_dir(&keys).unwrap().map(|e| e.unwrap().path());
    let flipped = names().next().unwrap();
    let good = std::fs::read(&flipped).unwrap();
    std::fs::write(&flipped, [&[good[0] ^ 1], &good[1..]].concat()).unwrap();
    let name = flipped.file_name().unwrap().to_str().unwrap();
    let field = ["value", "key"][usize::from(name.contains("key"))];
    let words = ["grep", "-c", "--verbose", "--in", field, "nothing", "l-0"];
    let told = logs.run(&words, b"").err;
    assert!(told.lines().count() == 1 && told.contains(name), "{told}");
    std::fs::write(&flipped, good).unwrap();
    assert_eq!(logs.run(&words, b"").err, "");
    for (n, path) in names().enumerate() {
        let mut bytes = std::fs::read(&path).unwrap();
        let at = random.below(bytes.len());
        match n % 3 {
            0 => bytes[at] ^= 0x10,
            1 => bytes.truncate(at),
            _ => bytes = std::fs::read(names().next().unwrap()).unwrap(),
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(all(), plain);
}

/// Appends a batch to the file of a segment: a value, or how the transaction of `producer` ended.
fn batch(segment: &mut Vec<u8>, offset: i64, producer: Option<i64>, what: Result<&str, bool>) {
    let marker = [0, 0, 0, u8::from(what == Err(true))];
    let record = match &what {
        Ok(value) => (None, value.as_bytes()),
        Err(_) => (Some(&marker[..]), &[0; 6][..]),
    };
    let mut builder = BatchBuilder::begin(std::mem::take(segment));
    let new = NewRecord {
        key: record.0,
        value: Some(record.1),
        headers: &[],
    };
    builder.push(TimestampMs(1000), &new);
    let (bytes, sealed) = builder.seal(&Seal {
        producer: producer.map(|id| Producer {
            id,
            epoch: 0,
            base_sequence: if what.is_ok() { 0 } else { -1 },
        }),
        transactional: producer.is_some(),
        control: what.is_err(),
        ..Seal::default()
    });
    *segment = bytes;
    stamp(&mut segment[sealed.start..], Offset(offset), 0);
}

/// A log as a broker leaves it: few transactions under way at a time, segments of six batches, and a
/// word in each segment that most others lack.
fn transactions(random: &mut Random, partition: &std::path::Path) {
    std::fs::create_dir(partition).unwrap();
    let mut open = [false; 3];
    for number in 0..6 {
        let mut segment = Vec::new();
        for offset in number * 6..number * 6 + 6 {
            let id = random.below(4);
            let value = format!("someword{} at {offset}", random.below(2) as i64 + number);
            match open.get_mut(id) {
                None => batch(&mut segment, offset, None, Ok(&value)),
                Some(is_open) => {
                    let ends = *is_open && (random.below(2) == 0 || number == 4);
                    *is_open = !ends;
                    let what = if ends {
                        Err(random.below(3) > 0)
                    } else {
                        Ok(&*value)
                    };
                    batch(&mut segment, offset, Some(id as i64), what);
                }
            }
        }
        let name = format!("{:020}.log", number * 6);
        std::fs::write(partition.join(name), segment).unwrap();
    }
}

#[test]
fn filters_never_change_what_is_seen_of_transactions() {
    let mut random = Random(seed());
    let logs = Logs::empty();
    let (mut waited, mut matched) = (0, 0);
    for n in 0..8 {
        let log = format!("l{n}-0");
        transactions(&mut random, &logs.path(&log));
        let starts = [0, 1, 2 + random.below(9), 12, 13 + random.below(10)].map(|n| n.to_string());
        let all = || {
            let mut all = Vec::new();
            for start in &starts {
                for pattern in ["someword2", "someword5", "anotherword"] {
                    let ran = logs.run(&["grep", "-o", start, pattern, &log], b"");
                    all.push((start, pattern, ran.out, ran.err, ran.code));
                }
            }
            all
        };
        let plain = all();
        waited += plain.iter().filter(|a| a.3.contains("is open")).count();
        matched += plain.iter().filter(|a| a.4 == Some(0)).count();
        let ran = logs.run(&["index", "--by", "value", "--bloom", &log], b"");
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(all(), plain, "{log}");
    }
    assert!(waited > 0 && matched > 0);
}

/// Letters that equal others, in ASCII and out of it, and what GNU grep and ripgrep find of them.
const FOLDED: &str = "taſk\ntask\nTASK\nta\u{212a}\nTas\u{212a}\nstraße\nSTRASSE\nSTRA\u{1e9e}E\n\
    \u{130}stanbul\nistanbul\nISTANBUL\n\u{131}stanbul\nÄrger\närger\nÅ\u{212b}å\nσςΣ\nǆ ǅ Ǆ\n";

#[test]
fn letters_equal_each_other_as_unicode_folds_them_one_by_one() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], FOLDED);
    // GNU grep asks the C library, which knows of the long s, but not of the kelvin sign, thinks that
    // the Turkish i without a dot is an i, and that a sharp s has no capital letter.
    let in_both = [
        "s",
        "ſ",
        "S",
        "å",
        "\u{212b}",
        "Σ",
        "ς",
        "ǅ",
        "ÄRGER",
        "\u{130}STANBUL",
    ];
    let in_rg = [
        "k",
        "K",
        "\u{212a}",
        "task",
        "TA\u{17f}K",
        "ß",
        "\u{1e9e}",
        "STRASSE",
        "straße",
        "i",
        "\u{131}",
        "istanbul",
    ];
    for literal in [&[][..], &["-Q"]] {
        for (peers, patterns) in [(&["grep", "rg"][..], &in_both[..]), (&["rg"], &in_rg)] {
            for (pattern, name) in patterns
                .iter()
                .flat_map(|p| peers.iter().map(move |n| (p, n)))
            {
                let Some(expected) = peer(name, &["-i", pattern], FOLDED) else {
                    continue;
                };
                let words = [&["grep", "-i"], literal, &[*pattern, "l-0"]].concat();
                let ran = logs.run(&words, b"");
                assert_eq!((ran.out, ran.code.unwrap()), expected, "{name}: {words:?}");
            }
        }
    }
    let count = |p| logs.run(&["grep", "-i", "-c", p, "l-0"], b"").out;
    let counts = ["task", "ß", "i", "\u{130}"].map(count);
    assert_eq!(counts, ["4\n", "2\n", "2\n", "1\n"], "without a peer too");
}

#[test]
fn filters_pass_over_no_letter_that_equals_one_of_the_pattern() {
    let mut random = Random(seed());
    let logs = Logs::with("l-0", &["--segment-size", "4KiB"]);
    let letters = [
        "k", "K", "\u{212a}", "s", "S", "\u{17f}", "i", "\u{130}", "ß", "\u{1e9e}", "E",
    ];
    let word = |random: &mut Random, from: &[&str]| -> String {
        (0..4 + random.below(5))
            .map(|_| *random.pick(from))
            .collect()
    };
    let words: Vec<String> = (0..60).map(|_| word(&mut random, &letters)).collect();
    for n in 0..60 {
        // The same word in other letters; in most segments none of those that are looked for.
        let text: String = (0..20)
            .map(|i| match (n % 4, i % 5) {
                (0, 0) => format!("line {n}.{i} <{}>\n", random.pick(&words)),
                (_, 1) => format!("line {n}.{i} <{}>\n", word(&mut random, &letters)),
                _ => format!("line {n}.{i} <nothing of it, at all>\n"),
            })
            .collect();
        logs.append("l-0", &["--batch-records", "10"], &text);
    }
    let swap = |word: &str, random: &mut Random| -> String {
        let other = |c: char| match c {
            'k' | 'K' | '\u{212a}' => ["k", "K", "\u{212a}"],
            's' | 'S' | '\u{17f}' => ["s", "S", "\u{17f}"],
            'ß' | '\u{1e9e}' => ["ß", "\u{1e9e}", "ß"],
            'i' => ["i", "I", "i"],
            'E' => ["e", "E", "e"],
            _ => ["\u{130}"; 3],
        };
        word.chars().map(|c| *random.pick(&other(c))).collect()
    };
    let mut asked = vec!["unheard".to_string(), "<\u{131}>".to_string()];
    for word in &words {
        let text = swap(word, &mut random);
        asked.extend([format!("<{text}>"), text]);
    }
    let all = || -> Vec<_> {
        let grep = |p: &String| {
            let ran = logs.run(&["grep", "-i", "-F", "%o ", p, "l-0"], b"");
            assert_eq!(ran.err, "", "{p}");
            (p.clone(), ran.out, ran.code)
        };
        asked.iter().map(grep).collect()
    };
    let plain = all();
    assert!(plain.iter().filter(|a| a.2 == Some(0)).count() > 10);
    logs.output(&["index", "--bloom", "l-0"]);
    assert!(logs.segments("l-0").len() > 5);
    assert_eq!(all(), plain);
}
