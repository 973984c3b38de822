//! Many writers and followers on one log at once.

mod common;

use common::{LONG, Logs, Random, Running, seed};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

const WRITERS: usize = 8;
const RECORDS: usize = 1500;

/// Eight appenders, each with its own batch size and `--sync`. Each writes records `WRITER NUMBER
/// PADDING`, some at once and some in small bursts.
fn write_all(logs: &Logs, log: &str, seed: u64) {
    let sizes = ["1", "2", "7", "100", "1000"];
    let syncs = ["batch", "never", "10ms", "exit"];
    std::thread::scope(|s| {
        for w in 0..WRITERS {
            s.spawn(move || {
                let mut random = Random(seed ^ (w as u64) << 32);
                let options = ["--batch-records", sizes[w % 5], "--sync", syncs[w % 4]];
                let mut logd = logs.logd(&[&["append", log], &options[..]].concat());
                logd.args(["--wait", "60s"]);
                let mut child = logd.stdin(Stdio::piped()).spawn().unwrap();
                let mut stdin = child.stdin.take().unwrap();
                let mut i = 0;
                while i < RECORDS {
                    let burst = (1 + random.below(200)).min(RECORDS - i);
                    let lines: String = (i..i + burst)
                        .map(|n| format!("{w} {n} {:1$}\n", "", random.below(120)))
                        .collect();
                    stdin.write_all(lines.as_bytes()).unwrap();
                    i += burst;
                    if w % 2 == 0 {
                        std::thread::sleep(Duration::from_millis(random.next() % 10));
                    }
                }
                drop(stdin);
                assert_eq!(child.wait().unwrap().code(), Some(0), "writer {w}");
            });
        }
    });
}

/// Writer and number of a record.
fn who(value: &str) -> (usize, usize) {
    let mut words = value.split(' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    (number(), number())
}

/// Every record once; in each partition each writer's in its order.
fn check_complete(all: &[(i64, i64, String)]) {
    let mut seen = BTreeMap::new();
    let mut last = BTreeMap::new();
    for (partition, offset, value) in all {
        let (w, n) = who(value);
        let other = seen.insert((w, n), (partition, offset));
        assert_eq!(other, None, "{w} {n} is twice");
        let before = last.insert((partition, w), n);
        assert!(
            before.is_none_or(|b| b < n),
            "{w}: {n} comes after {before:?}"
        );
    }
    assert_eq!(seen.len(), WRITERS * RECORDS);
}

/// Partition, offset and value of every line of `%p %o %s`.
fn parse(lines: impl Iterator<Item = impl AsRef<str>>) -> Vec<(i64, i64, String)> {
    let parse = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().unwrap().parse().unwrap();
        (number(), number(), words.next().unwrap().to_string())
    };
    lines.map(|l| parse(l.as_ref())).collect()
}

/// Batches hold records of one writer, follow each other without a gap, and add up.
fn check_batches(logs: &Logs, partition: &str, all: &BTreeMap<i64, String>) {
    let dump = logs.output(&["dump", "--batches", partition]);
    let mut next = 0;
    for line in dump.lines().filter(|l| l.contains("\"kind\":\"batch\"")) {
        let field = |name: &str| -> i64 {
            let at = line.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
            let end = line[at..].find([',', '}']).unwrap();
            line[at..at + end].parse().unwrap()
        };
        let (base, last) = (field("base_offset"), field("last_offset"));
        assert_eq!(base, next, "{line}");
        assert_eq!(field("count"), last - base + 1, "{line}");
        let (writer, first) = who(&all[&base]);
        for offset in base..=last {
            let expected = (writer, first + (offset - base) as usize);
            assert_eq!(who(&all[&offset]), expected, "{line}");
        }
        next = last + 1;
    }
    assert_eq!(next, all.len() as i64);
}

fn run(log: &str, partitions: usize) {
    let seed = seed();
    let options = [
        "--segment-size",
        "64KiB",
        "--partitions",
        &partitions.to_string(),
    ];
    let logs = Logs::with(log, &options);
    let words = ["tail", "-f", "-F", "%p %o %s\\n", "-o", "earliest", log];
    let mut followers: Vec<Running> = (0..2).map(|_| logs.start(&words)).collect();
    write_all(&logs, log, seed);
    let all = parse(logs.output(&["cat", "-F", "%p %o %s\\n", log]).lines());
    check_complete(&all);
    let mut parts: BTreeMap<i64, BTreeMap<i64, String>> = BTreeMap::new();
    for (p, o, v) in &all {
        parts.entry(*p).or_default().insert(*o, v.clone());
    }
    assert_eq!(parts.len(), partitions);
    for (p, records) in &parts {
        let name = format!("{}-{p}", log.trim_end_matches("-0"));
        if partitions == 1 {
            check_batches(&logs, &name, records);
        }
        assert_eq!(
            logs.output(&["info", "--print", "end", &name]).trim(),
            records.len().to_string()
        );
    }
    for f in &mut followers {
        let mut seen = parse(f.lines(all.len()).into_iter());
        assert!(f.is_silent(Duration::from_millis(100)));
        assert_eq!(f.err(), "");
        // Each partition's own in order; among partitions as they came.
        seen.sort_by_key(|(p, _, _)| *p);
        assert!(seen == all, "a follower saw something else");
        f.kill();
        assert!(!f.ended(LONG).success());
    }
}

#[test]
fn many_writers_and_followers_share_a_log() {
    run("l-0", 1);
}

#[test]
fn many_writers_and_followers_share_a_topic() {
    run("t", 3);
}
