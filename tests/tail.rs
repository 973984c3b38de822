//! `logd tail` as a process: what it shows of a log that grows, rolls, shrinks and changes under it,
//! and when it ends.

mod common;

use common::{LONG, Logs, Random, Running, numbers, seed, switches, wait};
use logd::format::builder::{BatchBuilder, Seal, stamp};
use logd::format::record::NewRecord;
use logd::format::{Offset, TimestampMs};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Long enough for a record that should not be there to come.
const SHORT: Duration = Duration::from_millis(150);
const SECOND: Duration = Duration::from_secs(1);
/// Offset and value.
const OFFSETS: [&str; 2] = ["-F", "%o %s\\n"];

fn follow<'a>(more: &[&'a str], log: &'a str) -> Vec<&'a str> {
    [&["tail", "-f"], more, &[log]].concat()
}

#[test]
fn shows_the_last_ten_or_as_many_as_asked_for() {
    let logs = Logs::with("l-0", &[]);
    assert_eq!(logs.output(&["tail", "l-0"]), "");
    logs.append("l-0", &["--batch-records", "3"], &numbers(0..3));
    assert_eq!(logs.output(&["tail", "l-0"]), numbers(0..3));
    logs.append("l-0", &["--batch-records", "7"], &numbers(3..40));
    assert_eq!(logs.output(&["tail", "l-0"]), numbers(30..40));
    for n in [0u64, 1, 2, 9, 39, 40, 41, u64::MAX] {
        let from = 40u64.saturating_sub(n);
        let n = n.to_string();
        assert_eq!(
            logs.output(&["tail", "-n", &n, "l-0"]),
            numbers(from..40),
            "{n}"
        );
        let csv = logs.output(&["tail", "-F", "csv", "-n", &n, "l-0"]);
        assert_eq!(csv.lines().count() as u64, 41 - from, "{n}");
    }
}

#[test]
fn shows_the_last_of_those_that_are_chosen() {
    let logs = Logs::with("l-0", &["--segment-size", "64KiB"]);
    logs.append("l-0", &["-k", "a"], &numbers(0..20));
    logs.append("l-0", &["-k", "b"], &numbers(20..9000));
    assert!(logs.segments("l-0").len() > 1);
    let last = |n| logs.output(&["tail", "-n", n, "-k", "a", "l-0"]);
    assert_eq!(last("5"), numbers(15..20));
    assert_eq!(last("100"), numbers(0..20));
    assert_eq!(logs.output(&["tail", "-n", "5", "-k", "none", "l-0"]), "");
}

#[test]
fn shows_the_last_of_several_partitions_by_time() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    let mut all = BTreeMap::new();
    let mut random = Random(seed());
    for i in 0..200u64 {
        let (ts, p) = (1_700_000_000_000 + random.next() % 60, random.below(3));
        let (at, part) = (format!("@{ts}ms"), p.to_string());
        logs.append(
            "t",
            &["-p", &part, "--timestamp", &at, "--sync", "never"],
            &numbers(i..i + 1),
        );
        all.insert((ts, p, i), i); // i rises with the offset
    }
    for n in [0, 1, 7, 100, 199, 200, 500] {
        // A partition's records keep the order of their offsets, so only the choice is by time alone.
        let mut chosen: Vec<u64> = all.values().rev().take(n).copied().collect();
        let shown = logs.output(&["tail", "-n", &n.to_string(), "t"]);
        let mut shown: Vec<u64> = shown.lines().map(|l| l.parse().unwrap()).collect();
        shown.sort_unstable();
        chosen.sort_unstable();
        assert_eq!(shown, chosen, "{n}");
    }
}

#[test]
fn times_that_rise_are_shown_in_their_order_over_all_partitions() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    for i in 0..30u64 {
        let (at, part) = (
            format!("@{}ms", 1_700_000_000_000 + i),
            (i * 7 % 3).to_string(),
        );
        logs.append(
            "t",
            &["-p", &part, "--timestamp", &at, "--sync", "never"],
            &numbers(i..i + 1),
        );
    }
    assert_eq!(logs.output(&["tail", "t"]), numbers(20..30));
    assert_eq!(logs.output(&["tail", "-n", "30", "t"]), numbers(0..30));
    let mut f = logs.start(&follow(&["-n", "2"], "t"));
    assert_eq!(f.lines(2), ["28", "29"]);
    logs.append("t", &["-p", "1"], "30\n");
    assert_eq!(f.line(), "30");
    // Each partition's own are shown with -p.
    assert_eq!(
        logs.output(&["tail", "-n", "2", "-p", "0", "t"]),
        "24\n27\n"
    );
}

#[test]
fn from_an_offset_n_is_a_limit() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["--batch-records", "4"], &numbers(0..20));
    let out = |words: &[&str]| logs.output(&[&["tail"], words, &["l-0"]].concat());
    assert_eq!(out(&["-o", "3"]), numbers(3..20));
    assert_eq!(out(&["-o", "3..9"]), numbers(3..9));
    assert_eq!(out(&["-o", "3", "-n", "2"]), numbers(3..5));
    assert_eq!(out(&["-o", "end-3"]), numbers(17..20));
    assert_eq!(out(&["-o", "3", "-n", "0"]), "");
    // Following ends where the range or the limit does.
    let mut f = logs.start(&follow(&["-o", "18", "-n", "4"], "l-0"));
    assert_eq!(f.lines(2), ["18", "19"]);
    logs.append("l-0", &[], &numbers(20..30));
    assert_eq!(f.rest(), ["20", "21"]);
    assert_eq!(f.ended(LONG).code(), Some(0));
    let past = logs.run(&["tail", "-o", "100", "l-0"], b"");
    assert_eq!(past.code, Some(66), "{past:?}");
}

#[test]
fn reads_nothing_before_its_start() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..5));
    let mut f = logs.start(&follow(&["-n", "0"], "l-0"));
    f.wait_asleep();
    logs.append("l-0", &[], &numbers(5..7));
    assert_eq!(f.lines(2), ["5", "6"]);
}

#[test]
fn a_record_comes_at_once_while_its_writer_stays() {
    for sync in ["batch", "1s", "never"] {
        let logs = Logs::with("l-0", &[]);
        let mut f = logs.start(&follow(&[], "l-0"));
        let mut json = logs.start(&follow(&["-F", "json"], "l-0"));
        let mut w = logs.start(&["append", "--sync", sync, "l-0"]);
        for i in 0..20 {
            w.say(&format!("{i}\n"));
            assert_eq!(f.line(), i.to_string());
            assert!(json.line().contains(&format!("\"offset\":{i},")));
        }
        w.close_stdin();
        assert_eq!(w.ended(LONG).code(), Some(0)); // cuts the zeros ahead of the data
        logs.append("l-0", &["--sync", sync], "more\n");
        assert_eq!(f.line(), "more");
        assert_eq!(f.err(), "");
    }
}

#[test]
fn follows_through_rolls() {
    let logs = Logs::with("l-0", &["--segment-size", "16KiB"]);
    let mut f = logs.start(&follow(&OFFSETS, "l-0"));
    let mut w = logs.start(&["append", "--sync", "never", "l-0"]);
    for round in 0..40u64 {
        let range = round * 100..(round + 1) * 100;
        let lines: String = range.clone().map(|n| format!("{n:020}\n")).collect();
        w.say(&lines);
        for n in range {
            assert_eq!(f.line(), format!("{n} {n:020}"));
        }
    }
    assert!(logs.segments("l-0").len() > 4);
    assert_eq!(f.err(), "");
}

#[test]
fn follows_new_partitions_of_a_topic() {
    let logs = Logs::with("t", &[]);
    let mut f = logs.start(&follow(&["-F", "%p %s\\n"], "t"));
    f.wait_asleep();
    // At once one after the other, so that nothing is missed between the name and the look.
    for p in 1..25u64 {
        logs.init(&format!("t-{p}"), &[]);
        logs.append(&format!("t-{p}"), &["--sync", "never"], &numbers(p..p + 1));
        assert_eq!(f.line(), format!("{p} {p}"));
    }
    logs.append("t-0", &[], "zero\n");
    assert_eq!(f.line(), "0 zero");
    // Other topics, and a partition that was not asked for, are none of ours.
    logs.init("other-0", &[]);
    logs.append("other-0", &[], "x\n");
    logs.append("t-3", &[], "y\n");
    assert_eq!(f.line(), "3 y");
    let mut one = logs.start(&follow(&["-p", "0", "-n", "0"], "t"));
    one.wait_asleep();
    logs.init("t-25", &[]);
    logs.append("t-25", &[], "z\n");
    assert_eq!(f.line(), "25 z");
    assert!(one.is_silent(SHORT));
}

/// A log of `n` records of about 100 bytes in segments of 64 KiB.
fn long_log(n: u64) -> Logs {
    let logs = Logs::with("l-0", &["--segment-size", "64KiB"]);
    let lines: String = (0..n).map(|i| format!("{i:0100}\n")).collect();
    logs.append("l-0", &["--sync", "never", "--batch-size", "4KiB"], &lines);
    logs
}

/// A follower whose output is not read: it stands still in the middle of a long log.
struct Stalled {
    child: std::process::Child,
}

impl Stalled {
    #[allow(clippy::zombie_processes)] // go_on waits
    fn on(logs: &Logs, words: &[&str]) -> Stalled {
        let mut logd = logs.logd(words);
        let child = logd
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut before = (0, 0);
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let now = switches(child.id());
            if now == before && now.1 > 0 {
                return Stalled { child };
            }
            before = now;
        }
    }

    /// Reads what comes: offsets, up to and with `last`; then stderr.
    fn go_on(mut self, last: u64) -> (Vec<u64>, String) {
        let out = BufReader::new(self.child.stdout.take().unwrap());
        let mut offsets = Vec::new();
        for line in out.lines() {
            let line = line.unwrap();
            let (offset, value) = line.split_once(' ').unwrap();
            let offset: u64 = offset.parse().unwrap();
            assert_eq!(value, format!("{offset:0100}"));
            offsets.push(offset);
            if offset == last {
                break;
            }
        }
        self.child.kill().unwrap();
        let mut err = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        self.child.wait().unwrap();
        (offsets, err)
    }
}

fn base(name: &str) -> u64 {
    name.trim_end_matches(".log").parse().unwrap()
}

#[test]
fn a_slow_follower_names_what_retention_took_and_goes_on() {
    let logs = long_log(60_000);
    let f = Stalled::on(
        &logs,
        &follow(&[&OFFSETS[..], &["-o", "earliest"]].concat(), "l-0"),
    );
    let segments = logs.segments("l-0");
    let kept = segments[segments.len() * 3 / 4].clone();
    for name in segments.iter().take_while(|n| **n < kept) {
        for suffix in ["log", "index", "timeindex"] {
            let from = logs.path("l-0").join(name.replace("log", suffix));
            if from.exists() {
                let to = from.with_extension(format!("{suffix}.deleted"));
                std::fs::rename(&from, &to).unwrap();
                std::fs::remove_file(to).unwrap();
            }
        }
    }
    let (offsets, err) = f.go_on(59_999);
    let gap = offsets
        .windows(2)
        .position(|w| w[1] != w[0] + 1)
        .expect("it was too fast");
    assert!(offsets[..=gap].iter().copied().eq(0..=gap as u64));
    assert!(offsets[gap + 1..].iter().copied().eq(base(&kept)..60_000));
    let named = format!(
        "offsets {}..{} were removed by retention",
        gap + 1,
        base(&kept)
    );
    assert!(err.contains(&named), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    // Others stop there.
    let ran = logs.run(&["tail", "-o", "5", "l-0"], b"");
    assert_eq!(ran.code, Some(66), "{ran:?}");
}

/// A segment of those offsets of `range` that are kept, one batch a hundred, none empty.
fn compacted(range: std::ops::Range<u64>, keep: impl Fn(u64) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    let all: Vec<u64> = range
        .clone()
        .filter(|n| keep(*n) || *n == range.end - 1)
        .collect();
    for part in all.chunks(100) {
        let mut builder = BatchBuilder::begin(Vec::new());
        for n in part {
            let value = format!("{n:0100}");
            let record = NewRecord {
                key: None,
                value: Some(value.as_bytes()),
                headers: &[],
            };
            let delta = i32::try_from(n - part[0]).unwrap();
            builder.push_at(delta, TimestampMs(1_700_000_000_000), &record);
        }
        let (mut batch, _) = builder.seal(&Seal::default());
        stamp(&mut batch, Offset(part[0] as i64), 0);
        out.extend_from_slice(&batch);
    }
    out
}

#[test]
fn compaction_under_a_follower_neither_repeats_nor_hides() {
    let keep = |n: u64| n.is_multiple_of(10);
    // How far the swap has come when the follower goes on.
    for step in 3..=5 {
        let logs = long_log(60_000);
        let f = Stalled::on(
            &logs,
            &follow(&[&OFFSETS[..], &["-o", "earliest"]].concat(), "l-0"),
        );
        let dir = logs.path("l-0");
        let segments = logs.segments("l-0");
        let (first, behind) = (segments.len() / 2, segments.len() - 3);
        let range = base(&segments[first])..base(&segments[behind]);
        let s1 = segments[first].clone();
        std::fs::write(
            dir.join(format!("{s1}.cleaned")),
            compacted(range.clone(), keep),
        )
        .unwrap();
        std::fs::rename(
            dir.join(format!("{s1}.cleaned")),
            dir.join(format!("{s1}.swap")),
        )
        .unwrap();
        if step >= 4 {
            for name in &segments[first + 1..behind] {
                for suffix in ["log", "index", "timeindex"] {
                    let _ = std::fs::remove_file(dir.join(name.replace("log", suffix)));
                }
            }
        }
        if step >= 5 {
            let _ = std::fs::remove_file(dir.join(s1.replace("log", "index")));
            let _ = std::fs::remove_file(dir.join(s1.replace("log", "timeindex")));
            std::fs::rename(dir.join(format!("{s1}.swap")), dir.join(&s1)).unwrap();
        }
        let (offsets, err) = f.go_on(59_999);
        assert_eq!(err, "");
        assert!(offsets.windows(2).all(|w| w[0] < w[1]));
        let shown = |n: u64| offsets.binary_search(&n).is_ok();
        let must = |n: u64| !range.contains(&n) || keep(n);
        let lost: Vec<u64> = (0..60_000).filter(|n| must(*n) && !shown(*n)).collect();
        assert_eq!(lost, [0u64; 0], "step {step}");
        assert!(
            step == 3 || offsets.len() < 60_000,
            "it never saw the new segment"
        );
        let all = logs.output(&["cat", "-F", "%o\\n", "l-0"]);
        let expected: String = (0..60_000)
            .filter(|n| must(*n) || *n == range.end - 1)
            .map(|n| format!("{n}\n"))
            .collect();
        assert!(
            all == expected,
            "step {step}: cat shows {} records",
            all.lines().count()
        );
    }
}

#[test]
fn after_a_cut_it_says_so_and_offsets_still_rise() {
    let logs = Logs::with("l-0", &[]);
    let never = ["--sync", "never", "--batch-records", "1"];
    logs.append("l-0", &never, &numbers(0..10));
    let mut f = logs.start(&follow(&OFFSETS, "l-0"));
    f.lines(10);
    f.wait_asleep();
    let log = logs.path("l-0/00000000000000000000.log");
    let length = std::fs::metadata(&log).unwrap().len();
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.set_len(length / 2).unwrap(); // ten batches of one size
    f.wait_err("cut back");
    logs.append("l-0", &never, &numbers(100..103));
    assert!(f.is_silent(SHORT));
    logs.append("l-0", &never, &numbers(103..108));
    assert_eq!(f.lines(3), ["10 105", "11 106", "12 107"]);
}

#[test]
fn a_torn_batch_is_not_there_yet() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], &numbers(0..3));
    let log = logs.path("l-0/00000000000000000000.log");
    let whole = std::fs::read(&log).unwrap();
    let mut f = logs.start(&follow(&[], "l-0"));
    f.lines(3);
    for cut in [1, 11, 12, 60, 61, whole.len() - 1] {
        let mut file = std::fs::File::options().append(true).open(&log).unwrap();
        // A writer dies in mid-write; what it wrote would be the next batch.
        let offset = logs.output(&["info", "--print", "end", "l-0"]);
        let mut torn = whole.clone();
        stamp(&mut torn, Offset(offset.trim().parse().unwrap()), 0);
        std::io::Write::write_all(&mut file, &torn[..cut]).unwrap();
        assert!(f.is_silent(SHORT), "{cut}");
        logs.append("l-0", &[], &format!("{cut}\n"));
        assert_eq!(f.line(), cut.to_string());
    }
    assert_eq!(f.err(), "");
}

#[test]
fn follows_appenders_that_are_killed() {
    let mut random = Random(seed());
    let logs = Logs::with("l-0", &["--segment-size", "256KiB"]);
    let mut f = logs.start(&follow(
        &[&OFFSETS[..], &["-o", "earliest"]].concat(),
        "l-0",
    ));
    let lines: String = (0..200_000).map(|n| format!("{n:050}\n")).collect();
    for round in 0..12 {
        let sync = ["batch", "1s", "never"][round % 3];
        let mut w = logs.logd(&["append", "--sync", sync, "--batch-size", "8KiB", "l-0"]);
        let mut w = w
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = w.stdin.take().unwrap();
        std::thread::scope(|s| {
            s.spawn(|| std::io::Write::write_all(&mut stdin, lines.as_bytes()).is_ok());
            std::thread::sleep(Duration::from_millis(5 + random.next() % 60));
            w.kill().unwrap();
            w.wait().unwrap();
        });
    }
    logs.append("l-0", &[], "end\n");
    let all = logs.output(&["cat", "-F", "%o %s\\n", "l-0"]);
    for line in all.lines() {
        assert_eq!(f.line(), line);
    }
    assert!(f.is_silent(SHORT));
    assert!(all.lines().count() > 100);
    assert_eq!(f.err(), "");
}

#[test]
fn ends_when_its_reader_is_gone() {
    let logs = Logs::with("l-0", &[]);
    // Before anything was written, and after a record.
    for records in [0, 1] {
        logs.append("l-0", &[], &numbers(0..records));
        let mut logd = logs.logd(&["tail", "-f", "l-0"]);
        let mut child = logd
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        if records > 0 {
            out.read_line(&mut String::new()).unwrap();
        } else {
            std::thread::sleep(SHORT);
        }
        drop(out);
        let status = wait(&mut child, SECOND);
        let _ = child.kill();
        assert_eq!(status.and_then(|s| s.code()), Some(0), "{records}");
        let mut err = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut err)
            .unwrap();
        assert_eq!(err, "");
    }
}

#[test]
fn head_takes_one_and_no_process_is_left() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], "one\n");
    let script = format!(
        "set -o pipefail; {} tail -f l-0 | head -1; echo status $?",
        env!("CARGO_BIN_EXE_logd")
    );
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(logs.root());
    let began = Instant::now();
    let out = bash.stdin(Stdio::null()).output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "one\nstatus 0\n");
}

#[test]
fn ends_after_a_time_without_records() {
    let logs = Logs::with("l-0", &[]);
    let began = Instant::now();
    let mut f = logs.start(&follow(&["--idle", "400ms"], "l-0"));
    for i in 0..4u64 {
        std::thread::sleep(Duration::from_millis(200));
        logs.append("l-0", &["--sync", "never"], &numbers(i..i + 1));
    }
    assert_eq!(f.rest(), ["0", "1", "2", "3"]);
    assert_eq!(f.ended(LONG).code(), Some(0));
    assert!(began.elapsed() >= Duration::from_millis(1200));
}

#[test]
fn ends_with_a_process_also_while_records_come() {
    let logs = Logs::with("l-0", &[]);
    for busy in [false, true] {
        let mut other = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = other.id().to_string();
        let mut f = logs.start(&follow(&["--pid", &pid, "-n", "0"], "l-0"));
        let mut w = logs.start(&["append", "--sync", "never", "l-0"]);
        let mut turns = 0;
        let mut ended_within = |f: &mut Running, time: Duration| {
            let began = Instant::now();
            while began.elapsed() < time {
                turns += 1;
                if busy {
                    w.say(&format!("{turns}\n"));
                }
                if wait(&mut f.child, Duration::from_millis(50)).is_some() {
                    return true;
                }
            }
            false
        };
        assert!(!ended_within(&mut f, Duration::from_millis(1200)));
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(ended_within(&mut f, 2 * SECOND), "busy: {busy}");
        assert_eq!(f.ended(SECOND).code(), Some(0), "busy: {busy}");
    }
}

#[test]
fn ends_with_124_when_its_time_is_over() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &[], "a\n");
    let began = Instant::now();
    let mut f = logs.start(&follow(&["--timeout", "300ms"], "l-0"));
    assert_eq!(f.rest(), ["a"]);
    assert_eq!(f.ended(LONG).code(), Some(124));
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert!(f.err().contains("--timeout passed"), "{}", f.err());
}

#[test]
fn waits_for_an_offset_first() {
    let logs = Logs::with("l-0", &[]);
    let mut f = logs.start(&["tail", "--wait-for", "5", "l-0"]);
    logs.append("l-0", &[], &numbers(0..4));
    assert!(f.is_silent(SHORT));
    logs.append("l-0", &[], &numbers(4..6));
    assert_eq!(f.rest(), ["0", "1", "2", "3", "4", "5"]);
    assert_eq!(f.ended(LONG).code(), Some(0));
    let late = logs.run(
        &["tail", "--wait-for", "7", "--timeout", "100ms", "l-0"],
        b"",
    );
    assert_eq!((late.code, late.out.as_str()), (Some(124), ""), "{late:?}");
}

#[test]
fn waiting_for_an_offset_is_idle_and_ends_with_its_reader() {
    let logs = Logs::with("l-0", &[]);
    for durable in [false, true] {
        let words = ["tail", "--wait-for", "500", "l-0", "--durable"];
        let mut logd = logs.logd(&words[..if durable { 5 } else { 4 }]);
        let mut child = logd.stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(SHORT);
        logs.append("l-0", &[], &numbers(0..3));
        std::thread::sleep(SHORT);
        let before = switches(child.id());
        std::thread::sleep(SECOND);
        let after = switches(child.id());
        assert!(
            after.0 <= before.0 && after.1 <= before.1 + 3,
            "{before:?} {after:?}"
        );
        drop(child.stdout.take());
        let status = wait(&mut child, SECOND);
        let _ = child.kill();
        assert_eq!(status.and_then(|s| s.code()), Some(0));
    }
}

#[test]
fn durable_is_waited_for_in_a_log_that_was_never_written() {
    let logs = Logs::with("l-0", &[]);
    let mut f = logs.start(&["tail", "--durable", "--wait-for", "3", "l-0"]);
    f.wait_asleep();
    logs.append("l-0", &[], &numbers(0..3));
    assert_eq!(f.rest(), ["0", "1", "2"]);
}

#[test]
fn durable_stops_there_and_goes_on_when_it_moves() {
    let logs = Logs::with("l-0", &[]);
    let mut f = logs.start(&follow(&["--durable"], "l-0"));
    let mut ranged = logs.start(&follow(&["--durable", "-o", "0..4", "--clamp"], "l-0"));
    logs.append("l-0", &["--sync", "never"], &numbers(0..3));
    assert!(f.is_silent(SHORT));
    let now = logs.run(&["tail", "--durable", "l-0"], b"");
    assert_eq!((now.code, now.out.as_str()), (Some(0), ""), "{now:?}");
    logs.append("l-0", &["--sync", "exit"], &numbers(3..6));
    assert_eq!(f.lines(6), ["0", "1", "2", "3", "4", "5"]);
    logs.append("l-0", &["--sync", "never"], &numbers(6..7));
    assert!(f.is_silent(SHORT));
    let mut w = logs.start(&["append", "--sync", "batch", "l-0"]);
    w.say("7\n");
    assert_eq!(f.lines(2), ["6", "7"]);
    let _ = ranged.child.kill();
    // A range keeps its end.
    let mut ranged = logs.start(&follow(&["--durable", "-o", "0..4"], "l-0"));
    assert_eq!(ranged.rest(), ["0", "1", "2", "3"]);
    assert_eq!(ranged.ended(LONG).code(), Some(0));
}

#[test]
fn idle_followers_use_no_processor() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    logs.append("t", &[], &numbers(0..30));
    let followers = [
        logs.start(&follow(&[], "t")),
        logs.start(&follow(&["--durable"], "t-1")),
    ];
    followers.iter().for_each(|f| f.wait_asleep());
    let before = followers.each_ref().map(|f| switches(f.pid()));
    std::thread::sleep(Duration::from_secs(3));
    for (f, before) in followers.iter().zip(before) {
        let after = switches(f.pid());
        assert_eq!(after.0, before.0, "ticks");
        assert!(after.1 - before.1 <= 3, "{} switches", after.1 - before.1);
    }
}

/// What `logd WORDS` writes to a terminal, and its status; `None` (said) where script(1) is not.
fn on_terminal(logs: &Logs, words: &str) -> Option<(Option<i32>, String)> {
    let logd = format!("{} {words}", env!("CARGO_BIN_EXE_logd"));
    let mut script = Command::new("script");
    script
        .args(["-qec", &logd, "/dev/null"])
        .current_dir(logs.root());
    match script.stdin(Stdio::null()).output() {
        Ok(out) => Some((
            out.status.code(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
        )),
        Err(e) => {
            eprintln!("skipped: no terminal to be had: script(1): {e}");
            None
        }
    }
}

#[test]
fn a_terminal_is_shown_no_control_bytes() {
    let logs = Logs::with("l-0", &[]);
    let ran = logs.run(
        &["append", "-F", "nul", "l-0"],
        b"a\x1b[31mb\nc\xff\0plain\0",
    );
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let Some((code, out)) = on_terminal(&logs, "tail l-0") else {
        return;
    };
    assert_eq!(
        (code, out.as_str()),
        (Some(0), "a\\x1b[31mb\\x0ac\\xff\r\nplain\r\n")
    );
    for format in ["frames", "batch", "%R"] {
        let (code, out) = on_terminal(&logs, &format!("tail -F {format} l-0")).unwrap();
        assert_eq!(code, Some(2), "{format}");
        assert!(out.contains("binary output to a terminal"), "{out}");
    }
    let (code, out) = on_terminal(&logs, "tail --raw l-0").unwrap();
    assert_eq!(code, Some(0));
    assert!(out.contains("\x1b[31m"), "{out:?}");
}
