//! `logd split` and `logd merge` as processes: parts put together again are the original, in every
//! mode, and a failure leaves nothing.

mod common;

use common::{Logs, Ran};
use std::os::unix::fs::MetadataExt;

/// A log of small segments, batches of three, keys, headers, tombstones, times that go back.
fn sample(options: &[&str], records: usize) -> Logs {
    let logs = Logs::empty();
    logs.init("in", &[&["--segment-size", "2KiB"], options].concat());
    let mut lines = String::new();
    for i in 0..records {
        let key = match i % 5 {
            0 => "null".to_string(),
            n => format!("\"k{}\"", n * 7 + i % 3),
        };
        let value = match i % 11 {
            0 => "null".to_string(),
            _ => format!("\"{{\\\"t\\\":\\\"t{}\\\"}}\"", i % 4),
        };
        let ts = 1_763_625_600_000_i64 + (i as i64) * 3_600_000 - ((i % 4) as i64) * 600_000;
        lines.push_str(&format!(
            "{{\"ts\":{ts},\"key\":{key},\"value\":{value},\"headers\":[[\"h\",\"{i}\"],[\"h\",null]]}}\n"
        ));
    }
    let words = ["append", "-F", "json", "--batch-records", "3", "in"];
    ok(logs.run(&words, lines.as_bytes()));
    logs
}

fn ok(ran: Ran) -> String {
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    ran.out
}

fn cat(logs: &Logs, names: &[&str]) -> String {
    ok(logs.run(&[&["cat", "-F", "json"], names].concat(), b""))
}

/// The records without the name of the topic.
fn anonymous(json: &str) -> String {
    let body = |l: &str| {
        l.split_once(",\"partition\"")
            .map(|(_, b)| format!("{b}\n"))
    };
    json.lines().filter_map(body).collect()
}

fn partitions(logs: &Logs, prefix: &str) -> Vec<String> {
    let all = std::fs::read_dir(logs.root()).unwrap();
    let names = all.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.starts_with(prefix)).collect();
    names.sort();
    names
}

/// Splits, looks at every part, puts the parts together and compares.
fn round_trip(logs: &Logs, mode: &[&str]) -> Vec<String> {
    ok(logs.run(
        &[&["split", "--sync", "never"], mode, &["in", "out"]].concat(),
        b"",
    ));
    let parts = partitions(logs, "out");
    let names: Vec<&str> = parts.iter().map(String::as_str).collect();
    assert!(!names.is_empty(), "{mode:?}");
    ok(logs.run(&[&["verify"], &names[..]].concat(), b""));
    let merge = [
        "merge", "--sync", "never", "--order", "offset", "--to", "again-0",
    ];
    ok(logs.run(&[&merge[..], &names].concat(), b""));
    ok(logs.run(&["verify", "again-0"], b""));
    let again = cat(logs, &["again-0"]);
    let original = cat(logs, &["in-0"]);
    assert_eq!(anonymous(&again), anonymous(&original), "{mode:?}");
    let streamed = ["merge", "--order", "offset", "-F", "json"];
    let streamed = ok(logs.run(&[&streamed[..], &names].concat(), b""));
    assert_eq!(anonymous(&streamed), anonymous(&original), "{mode:?}");
    std::fs::remove_dir_all(logs.path("again-0")).unwrap();
    parts
}

fn clear(logs: &Logs, parts: &[String]) {
    for part in parts {
        std::fs::remove_dir_all(logs.path(part)).unwrap();
    }
}

#[test]
fn parts_put_together_are_the_original_in_every_mode() {
    let modes: &[&[&str]] = &[
        &["--max-records", "1"],
        &["--max-records", "7"],
        &["--max-records", "30"],
        &["--max-records", "100000"],
        &["--max-size", "1"],
        &["--max-size", "1500"],
        &["--max-size", "5KiB"],
        &["--at", "1,17", "--at", "40,41"],
        &["--at", "0,end"],
        &["--every", "1d"],
        &["--every", "7h"],
        &["--by", "key"],
        &["--by", "json:/t"],
        &["--by", "header:h"],
    ];
    for options in [&[][..], &["-z", "zstd"], &["--timestamps", "append"]] {
        let logs = sample(options, 60);
        for mode in modes {
            let parts = round_trip(&logs, mode);
            clear(&logs, &parts);
        }
    }
}

#[test]
fn parts_are_what_was_asked_for() {
    let logs = sample(&[], 100);
    let parts = round_trip(&logs, &["--max-records", "40"]);
    assert_eq!(parts, ["out-0-0", "out-40-0", "out-80-0"]);
    let count = |part: &str| cat(&logs, &[part]).lines().count();
    assert_eq!(
        parts.iter().map(|p| count(p)).collect::<Vec<_>>(),
        [40, 40, 20]
    );
    clear(&logs, &parts);
    let parts = round_trip(&logs, &["--at", "10,20"]);
    assert_eq!(parts, ["out-0-0", "out-10-0", "out-20-0"]);
    // The next append goes on where the part ends.
    let next = ok(logs.run(&["append", "--print", "first", "out-10-0"], b"x\n"));
    assert_eq!(next, "20\n");
    clear(&logs, &parts);
    let parts = round_trip(&logs, &["--every", "1d"]);
    assert_eq!(parts[0], "out-2025-11-20-0");
    clear(&logs, &parts);
    ok(logs.run(
        &["split", "--max-records", "40", "--renumber", "in", "out"],
        b"",
    ));
    let dense = cat(&logs, &["out-40-0"]);
    let offsets = ok(logs.run(&["cat", "-F", "%o\n", "out-40-0"], b""));
    assert_eq!(
        offsets,
        (0..40).map(|i| format!("{i}\n")).collect::<String>()
    );
    assert!(dense.contains("[\"h\",\"79\"]"));
}

#[test]
fn whole_sealed_segments_are_linked_and_stay_as_they_are() {
    let logs = sample(&[], 300);
    let segments = logs.segments("in-0");
    assert!(segments.len() > 4, "{segments:?}");
    let before = cat(&logs, &["in-0"]);
    let parts = round_trip(&logs, &["--at", "150"]);
    let mut linked = 0;
    for part in &parts {
        for entry in std::fs::read_dir(logs.path(part)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            linked += usize::from(name.ends_with(".log") && entry.metadata().unwrap().nlink() > 1);
        }
        // The active segment is never a linked one.
        ok(logs.run(&["append", part], b"more\n"));
    }
    assert!(linked + 3 >= segments.len(), "{linked} of {segments:?}");
    assert_eq!(cat(&logs, &["in-0"]), before);
    ok(logs.run(&["verify", "in-0"], b""));
}

#[test]
fn keys_go_where_java_puts_them_and_keep_their_order() {
    let logs = sample(&["--partitions", "3"], 200);
    ok(logs.run(&["split", "--partitions", "5", "in", "out"], b""));
    let parts = partitions(&logs, "out");
    assert_eq!(parts, ["out-0", "out-1", "out-2", "out-3", "out-4"]);
    // The partitioner that append uses, which has vectors of Java's, agrees.
    logs.init("peer", &["--partitions", "5"]);
    let keyed = |json: &str| -> Vec<String> {
        let lines = json.lines().filter(|l| !l.contains("\"key\":null"));
        lines.map(|l| format!("{l}\n")).collect()
    };
    let all = keyed(&cat(&logs, &["in"]));
    ok(logs.run(&["append", "-F", "json", "peer"], all.concat().as_bytes()));
    let place = |json: &str| -> std::collections::BTreeMap<String, String> {
        let of = |l: &str| {
            let (head, tail) = l.split_once("\"key\":").unwrap();
            let partition = head.split("\"partition\":").nth(1).unwrap();
            let partition = partition.split(',').next().unwrap();
            let key = tail.split(',').next().unwrap();
            (key.to_string(), partition.to_string())
        };
        keyed(json).iter().map(|l| of(l)).collect()
    };
    assert_eq!(place(&cat(&logs, &["out"])), place(&cat(&logs, &["peer"])));
    assert_eq!(cat(&logs, &["out"]).lines().count(), 200);
    // Each partition is numbered from 0, and its times rise as far as those of the source did.
    for part in &parts {
        let offsets = ok(logs.run(&["cat", "-F", "%o\n", part], b""));
        let n = offsets.lines().count();
        assert_eq!(
            offsets,
            (0..n).map(|i| format!("{i}\n")).collect::<String>()
        );
    }
}

#[test]
fn what_is_there_is_refused_and_nothing_is_left() {
    let logs = sample(&[], 20);
    let before = partitions(&logs, "");
    let refused = |words: &[&str], code: i32, text: &str| {
        let ran = logs.run(words, b"");
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.err.contains(text), "{ran:?}");
        assert_eq!(partitions(&logs, ""), before, "{words:?}");
    };
    refused(
        &["split", "--max-records", "5", "in", "in"],
        73,
        "exists already",
    );
    refused(
        &["split", "--partitions", "2", "in", "in"],
        73,
        "exists already",
    );
    refused(&["merge", "--to", "in-0", "in"], 73, "exists already");
    refused(
        &[
            "split",
            "--max-records",
            "1",
            "--max-parts",
            "3",
            "in",
            "out",
        ],
        73,
        "more than 3",
    );
    refused(
        &["split", "--max-records", "0", "in", "out"],
        2,
        "--max-records",
    );
    refused(&["split", "in", "out"], 2, "");
    refused(
        &["split", "--every", "1d", "nope", "out"],
        66,
        "no such log",
    );
    refused(
        &["split", "--every", "1d", "in", "in-0/out"],
        73,
        "inside it",
    );
    refused(
        &["split", "--every", "1d", "-o", "500", "in", "out"],
        66,
        "past the end",
    );
    refused(&["split", "--by", "column:3", "in", "out"], 2, "--by");
    refused(&["merge", "in-0", "in"], 2, "named twice");
    refused(&["merge", "--to", "out", "-F", "json", "in"], 2, "--to");
}

#[test]
fn values_that_meet_in_one_name_are_refused() {
    let logs = Logs::with("in", &[]);
    ok(logs.run(&["append", "-K", ":", "in"], b"a/b:1\na_b:2\n"));
    let ran = logs.run(&["split", "--by", "key", "in", "out"], b"");
    assert_eq!(ran.code, Some(73), "{ran:?}");
    assert!(ran.err.contains("'a/b' and 'a_b'"), "{ran:?}");
    assert_eq!(partitions(&logs, "out"), Vec::<String>::new());
    ok(logs.run(&["split", "-o", "..1", "--by", "key", "in", "out"], b""));
    assert_eq!(partitions(&logs, "out"), ["out-a_b-0"]);
}

#[test]
fn records_with_one_offset_are_refused() {
    let logs = Logs::with("a", &[]);
    logs.init("b", &[]);
    ok(logs.run(&["append", "a"], b"1\n2\n3\n"));
    ok(logs.run(&["append", "b"], b"x\n"));
    let ran = logs.run(&["merge", "--order", "offset", "--to", "c", "a", "b"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(ran.err.contains("offset 0"), "{ran:?}");
    assert_eq!(partitions(&logs, "c"), Vec::<String>::new());
}

#[test]
fn what_a_killed_run_left_is_cleared_or_finished() {
    let logs = sample(&[], 20);
    let left = logs.path("out.unfinished-0");
    std::fs::create_dir_all(left.join("out-0-0/.logd")).unwrap();
    std::fs::write(left.join("lock"), b"").unwrap();
    std::fs::write(left.join("out-0-0/00000000000000000000.log"), b"half").unwrap();
    let parts = round_trip(&logs, &["--max-records", "12"]);
    assert_eq!(parts, ["out-0-0", "out-12-0"]);
    // All was built and one part had its name: the rest gets theirs.
    std::fs::create_dir(&left).unwrap();
    std::fs::rename(logs.path("out-12-0"), left.join("out-12-0")).unwrap();
    std::fs::write(left.join("commit"), b"out-0-0\nout-12-0\n").unwrap();
    let ran = logs.run(&["split", "--max-records", "12", "in", "out"], b"");
    assert_eq!(ran.code, Some(73), "{ran:?}");
    assert_eq!(partitions(&logs, "out"), ["out-0-0", "out-12-0"]);
    assert_eq!(cat(&logs, &["out-0-0", "out-12-0"]).lines().count(), 20);
}

#[test]
fn order_of_time_is_that_of_the_heads() {
    let logs = Logs::with("in", &["--partitions", "3"]);
    let record = |p: &str, ts: i64, v: &str| {
        let line = format!("{{\"ts\":{ts},\"key\":null,\"value\":\"{v}\",\"headers\":[]}}\n");
        ok(logs.run(&["append", "-F", "json", p], line.as_bytes()));
    };
    for (p, ts, v) in [
        ("in-0", 10, "a"),
        ("in-0", 30, "b"),
        ("in-0", 20, "c"),
        ("in-1", 10, "d"),
        ("in-1", 25, "e"),
        ("in-2", 5, "f"),
        ("in-2", 30, "g"),
    ] {
        record(p, ts, v);
    }
    let merged = ok(logs.run(&["merge", "in"], b""));
    assert_eq!(merged, "f\na\nd\ne\nb\nc\ng\n");
    ok(logs.run(&["merge", "--to", "out", "in"], b""));
    let out = ok(logs.run(&["cat", "-F", "%o %s\n", "out"], b""));
    assert_eq!(out, "0 f\n1 a\n2 d\n3 e\n4 b\n5 c\n6 g\n");
}

#[test]
fn closed_pipe_ends_merge_in_silence() {
    let logs = sample(&[], 2000);
    let mut merge = logs.logd(&["merge", "-F", "json", "in"]);
    let mut child = merge
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(
        (ended.status.code(), ended.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

/// What is there of `out`, as `cat` shows it: nothing, half of it and so refused, or all.
fn cat_of_out(logs: &Logs) -> Option<String> {
    let ran = logs.run(&["cat", "-F", "json", "out"], b"");
    match ran.code {
        Some(66 | 75) => None,
        _ => Some(ok(ran)),
    }
}

#[test]
fn killed_at_random_or_told_to_end_it_leaves_nothing_that_looks_whole() {
    let logs = sample(&["--partitions", "2"], 6000);
    let split = ["split", "--partitions", "5", "--sync", "never", "in", "out"];
    ok(logs.run(&split, b""));
    let (source, whole) = (cat(&logs, &["in"]), cat(&logs, &["out"]));
    let begun = std::time::Instant::now();
    clear(&logs, &partitions(&logs, "out"));
    ok(logs.run(&split, b""));
    let usual = begun.elapsed();
    clear(&logs, &partitions(&logs, "out"));
    let mut interrupted = 0;
    for round in 0..24u32 {
        let is_kill = round % 3 != 0;
        let mut child = logs
            .logd(&split)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // Where it is by then is chance; what must hold does not depend on it.
        std::thread::sleep(usual * ((round * 7) % 24) / 24);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let signal = match is_kill {
            true => nix::sys::signal::Signal::SIGKILL,
            false => nix::sys::signal::Signal::SIGTERM,
        };
        nix::sys::signal::kill(pid, signal).unwrap();
        let ended = child.wait().unwrap();
        interrupted += usize::from(!ended.success());
        let seen = cat_of_out(&logs);
        assert!(seen.is_none_or(|seen| seen == whole), "round {round}");
        assert_eq!(cat(&logs, &["in"]), source, "round {round}");
        let left = partitions(&logs, "out");
        if !is_kill {
            assert!(
                left.is_empty() || left.len() == 5,
                "round {round}: {left:?}"
            );
        }
        let again = logs.run(&split, b"");
        assert!(
            matches!(again.code, Some(0 | 73)),
            "round {round}: {again:?}"
        );
        assert_eq!(partitions(&logs, "out").len(), 5, "round {round}");
        assert_eq!(cat(&logs, &["out"]), whole, "round {round}");
        clear(&logs, &partitions(&logs, "out"));
    }
    assert!(interrupted > 0);
}

#[test]
fn a_topic_with_some_of_its_partitions_is_refused_until_the_rest_is_there() {
    let logs = sample(&[], 40);
    let split = ["split", "--partitions", "3", "in", "out"];
    ok(logs.run(&split, b""));
    let whole = cat(&logs, &["out"]);
    let site = logs.path("out.unfinished-0");
    std::fs::create_dir(&site).unwrap();
    std::fs::rename(logs.path("out-2"), site.join("out-2")).unwrap();
    std::fs::write(site.join("commit"), "out-0\nout-1\nout-2\n").unwrap();
    for words in [&["cat", "out"][..], &["append", "out"], &["verify", "out"]] {
        let ran = logs.run(words, b"");
        assert_eq!(ran.code, Some(75), "{ran:?}");
        assert!(
            ran.err.contains("out.unfinished-0") && ran.err.contains("once more"),
            "{ran:?}"
        );
    }
    // A partition that is named is whole, and other topics are none of its business.
    ok(logs.run(&["cat", "out-1"], b""));
    ok(logs.run(&["cat", "in"], b""));
    let again = logs.run(&split, b"");
    assert_eq!(again.code, Some(73), "{again:?}");
    assert!(again.err.contains("whole now"), "{again:?}");
    assert_eq!(cat(&logs, &["out"]), whole);
}

#[test]
fn a_damaged_source_and_a_place_inside_a_log_leave_nothing() {
    let logs = sample(&[], 60);
    let before = partitions(&logs, "");
    std::fs::create_dir_all(logs.path("in-0/.logd/tmp/deep")).unwrap();
    for dest in [
        "in-0/out",
        "in-0/.logd/out",
        "in-0/.logd/tmp/deep/out",
        "in-0/../in-0/out",
    ] {
        let ran = logs.run(&["split", "--by", "key", "in", dest], b"");
        assert_eq!(ran.code, Some(73), "{ran:?}");
        assert!(ran.err.contains("is a log itself"), "{ran:?}");
        let ran = logs.run(&["merge", "--to", dest, "in"], b"");
        assert_eq!(ran.code, Some(73), "{ran:?}");
    }
    let segment = logs.path("in-0").join(&logs.segments("in-0")[1]);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[200] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let modes = [
        &["--partitions", "2"][..],
        &["--by", "key"],
        &["--every", "1h"],
    ];
    for mode in modes {
        let ran = logs.run(&[&["split"], mode, &["in", "out"]].concat(), b"");
        assert_eq!(ran.code, Some(65), "{ran:?}");
        assert_eq!(partitions(&logs, ""), before, "{mode:?}");
    }
    let ran = logs.run(&["merge", "--to", "out", "in"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert_eq!(partitions(&logs, ""), before);
}

#[test]
fn a_thousand_parts_hold_few_files_and_little_memory() {
    let logs = Logs::with("in", &[]);
    let lines: String = (0..30_000)
        .map(|i| format!("k{}:{i:0200}\n", i * 7919 % 1000))
        .collect();
    ok(logs.run(&["append", "-K", ":", "in"], lines.as_bytes()));
    let mut split = logs.logd(&["split", "--by", "key", "--sync", "never", "in", "out"]);
    let mut child = split.stderr(std::process::Stdio::null()).spawn().unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    let (mut files, mut memory) = (0, 0);
    while child.try_wait().unwrap().is_none() {
        let open = std::fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
        files = files.max(open);
        let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse().ok());
        memory = memory.max(peak.unwrap_or(0));
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(partitions(&logs, "out").len(), 1000);
    // 128 parts of four files each, and memory for batches of 64 MiB.
    assert!(files < 700, "{files} files");
    assert!(memory < 200_000, "{memory} KiB");
    assert_eq!(cat(&logs, &["out-k7-0"]).lines().count(), 30);
}
