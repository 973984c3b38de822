//! `logd merge -f` as a process: the order, what a quiet log holds back, and the end.

mod common;

use common::Logs;
use std::time::{Duration, Instant};

/// Long enough for a record that should not be there to come.
const SHORT: Duration = Duration::from_millis(150);

/// Three logs, and nothing in them.
fn three() -> Logs {
    let logs = Logs::empty();
    for log in ["a-0", "b-1", "c-2"] {
        logs.init(log, &["--segment-size", "4KiB"]);
    }
    logs
}

fn record(time: i64, value: &str) -> String {
    format!("{{\"ts\":{time},\"key\":null,\"value\":\"{value}\",\"headers\":[]}}\n")
}

fn put(logs: &Logs, log: &str, time: i64, value: &str) {
    let options = ["-F", "json", "--sync", "never"];
    logs.append(log, &options, &record(time, value));
}

#[test]
fn a_quiet_log_holds_the_others_until_it_speaks() {
    let logs = three();
    let mut merge = logs.start(&["merge", "-f", "--lateness", "none", "a-0", "b-1", "c-2"]);
    merge.wait_asleep();
    put(&logs, "a-0", 10, "a10");
    put(&logs, "b-1", 5, "b5");
    assert_eq!(merge.line_within(SHORT), None);
    put(&logs, "c-2", 7, "c7");
    assert_eq!(merge.line(), "b5");
    // Now b holds c back, though c's is the first of those that are there.
    assert_eq!(merge.line_within(SHORT), None);
    put(&logs, "b-1", 7, "b7");
    assert_eq!(merge.line(), "b7");
    assert_eq!(merge.line_within(SHORT), None);
    put(&logs, "b-1", 20, "b20");
    assert_eq!(merge.line(), "c7");
    put(&logs, "c-2", 30, "c30");
    assert_eq!(merge.line(), "a10");
    assert_eq!(merge.line_within(SHORT), None);
}

#[test]
fn after_the_lateness_a_quiet_log_is_not_waited_for() {
    let logs = three();
    let mut merge = logs.start(&["merge", "-f", "--lateness", "400ms", "a-0", "b-1", "c-2"]);
    merge.wait_asleep();
    let begun = Instant::now();
    put(&logs, "a-0", 10, "a10");
    put(&logs, "b-1", 5, "b5");
    // Held at least until then, and in order. (How long after it depends on the machine.)
    assert_eq!(merge.line(), "b5");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert_eq!(merge.line(), "a10");
    // What is later than that comes behind what was shown.
    put(&logs, "c-2", 1, "c1");
    assert_eq!(merge.line(), "c1");
    let all = ["merge", "-f", "--lateness", "0ms", "a-0", "b-1", "c-2"];
    let mut merge = logs.start(&all);
    assert_eq!(
        (merge.line(), merge.line(), merge.line()),
        ("c1".into(), "b5".into(), "a10".into())
    );
}

#[test]
fn the_order_is_the_same_however_the_writers_take_turns() {
    const EACH: i64 = 150;
    let logs = three();
    let names = ["a-0", "b-1", "c-2"];
    let words = |more: &[&'static str]| [&["merge"], more, &names[..]].concat();
    let mut merge = logs.start(&words(&["-f", "--lateness", "none", "-F", "%p %o %t\\n"]));
    let mut writers = names.map(|n| logs.start(&["append", "-F", "json", "--sync", "never", n]));
    // Times rise, with ties within and between logs; who writes how many at a time is different in
    // each round.
    let mut next = [0; 3];
    let mut round = 1usize;
    while next.iter().any(|n| *n < EACH) {
        round += 1;
        let log = (round * round / 3) % 3;
        let until = (next[log] + (round as i64 * 7) % 11).min(EACH);
        let lines: String = (next[log]..until)
            .map(|n| record(n * (log as i64 + 1) / 2, "v"))
            .collect();
        writers[log].say(&lines);
        next[log] = until;
    }
    // What no log can come before any more was shown.
    let mut expected: Vec<(i64, usize, i64)> = (0..3)
        .flat_map(|log| (0..EACH).map(move |n| (n * (log as i64 + 1) / 2, log, n)))
        .collect();
    expected.sort_unstable();
    let last = (EACH - 1) / 2; // of a-0, behind which nothing is certain
    let expected = expected.iter().filter(|(time, ..)| *time < last);
    let mut shown = String::new();
    for (_, log, offset) in expected {
        let line = merge.line();
        assert!(line.starts_with(&format!("{log} {offset} ")), "{line}");
        shown.push_str(&format!("{line}\n"));
    }
    // As without following, when all is there.
    let all = logs.output(&words(&["-F", "%p %o %t\\n"]));
    assert!(all.starts_with(&shown));
}

#[test]
fn new_partitions_of_a_topic_are_mixed_in() {
    let logs = Logs::with("t", &[]);
    let words = ["merge", "-f", "--lateness", "0s", "-F", "%p %s\\n", "t"];
    let mut merge = logs.start(&words);
    merge.wait_asleep();
    for p in 1..6 {
        logs.init(&format!("t-{p}"), &[]);
        logs.append(&format!("t-{p}"), &["--sync", "never"], "x\n");
        assert_eq!(merge.line(), format!("{p} x"));
    }
    logs.append("t-0", &[], "zero\n");
    assert_eq!(merge.line(), "0 zero");
}

#[test]
fn it_ends_at_once_when_nobody_reads() {
    let logs = three();
    for lateness in ["none", "1h"] {
        let mut merge = logs.logd(&["merge", "-f", "--lateness", lateness, "a-0", "b-1"]);
        merge.stdout(std::process::Stdio::piped());
        let mut child = merge.stderr(std::process::Stdio::piped()).spawn().unwrap();
        put(&logs, "a-0", 1, "held back");
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        let (code, err) = (ended.status.code(), ended.stderr.as_slice());
        assert_eq!((code, err), (Some(0), &b""[..]));
    }
}

#[test]
fn a_range_that_ends_ends_it() {
    let logs = three();
    for n in 0..5 {
        put(&logs, "a-0", n, &format!("a{n}"));
        put(&logs, "b-1", n, &format!("b{n}"));
    }
    let words = [
        "merge",
        "-f",
        "--lateness",
        "none",
        "-o",
        "1..3",
        "a-0",
        "b-1",
    ];
    assert_eq!(logs.output(&words), "a1\nb1\na2\nb2\n");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let logs = three();
    let refused = |words: &[&str], text: &str| {
        let ran = logs.run(words, b"");
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(text), "{ran:?}");
    };
    refused(&["merge", "-f", "--to", "d", "a-0"], "logd append");
    refused(&["merge", "--lateness", "1s", "a-0"], "--follow");
    refused(&["merge", "-f", "--lateness", "1", "a-0"], "--lateness");
    assert!(!logs.path("d-0").exists());
}
