//! Named reader positions as processes: where readers start, what they store and when, how members
//! share a topic, and what is left when they are killed.

mod common;

use common::{LONG, Logs, Random, Running, numbers, seed};
use logd::log::{end, groups};
use logd::sys::{Host, RealHost};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Far less than any commit or look of a reader that is told to commit every minute.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// Position and mark of a group in a partition.
fn position(logs: &Logs, partition: &str, group: &str) -> Option<(i64, Option<i64>)> {
    let dir = RealHost
        .open_dir(&logs.path(partition).join(".logd"))
        .ok()?;
    let p = groups::read(&*dir, group).unwrap()?;
    Some((p.next.0, p.marked.map(|m| m.0)))
}

fn fails(logs: &Logs, words: &[&str], code: i32, says: &str) {
    let ran = logs.run(words, b"");
    assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
    assert!(ran.err.contains(says), "{words:?}: {ran:?}");
}

fn terminate(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
}

#[test]
fn each_read_goes_on_where_the_last_one_stopped() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    logs.append("t", &["--batch-records", "4"], &numbers(0..40));
    let read = |words: &[&str]| {
        let out = logs.output(&[&["cat", "-g", "g"], words, &["t"]].concat());
        let mut all: Vec<u64> = out.lines().map(|l| l.parse().unwrap()).collect();
        all.sort_unstable();
        all
    };
    let mut all = read(&["-n", "1"]);
    for n in ["6", "0", "13"] {
        let more = read(&["-n", n]);
        assert_eq!(more.len().to_string(), n);
        all.extend(more);
    }
    all.extend(read(&[]));
    assert!(read(&[]).is_empty());
    all.sort_unstable();
    assert_eq!(all, Vec::from_iter(0..40));
    // Another group begins at the start, or where it is told; that is kept before anything is read.
    assert_eq!(logs.output(&["cat", "-g", "h", "t"]).lines().count(), 40);
    assert_eq!(
        logs.output(&["tail", "-g", "i", "--start", "latest", "t"]),
        ""
    );
    logs.append("t", &[], &numbers(40..43));
    assert_eq!(logs.output(&["tail", "-g", "i", "t"]).lines().count(), 3);
    assert_eq!(logs.output(&["tail", "-g", "i", "t"]), "");
}

#[test]
fn a_commit_confirms_the_last_read_and_nothing_of_one_before_it() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    for p in ["0", "1", "2"] {
        logs.append("t", &["-p", p], &numbers(0..10));
    }
    let marks = || ["t-0", "t-1", "t-2"].map(|p| position(&logs, p, "g").unwrap());
    let read = |words: &[&str]| logs.output(&[&["cat", "-g", "g", "--no-commit"], words].concat());
    assert_eq!(read(&["t"]).lines().count(), 30);
    assert_eq!(marks(), [(0, Some(10)); 3]);
    // What was to be done with that failed. The next read ends before it comes to the other partitions.
    assert_eq!(read(&["-n", "4", "t"]).lines().count(), 4);
    logs.output(&["groups", "commit", "t", "g"]);
    assert_eq!(marks(), [(4, None), (0, None), (0, None)]);
    // Nor does one that came to no end leave a mark.
    read(&["t"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut cut = logs.logd(&["cat", "-g", "g", "--no-commit", "t-2"]);
    assert_eq!(cut.stdout(writer).status().unwrap().code(), Some(0));
    assert_eq!(marks(), [(4, Some(10)), (0, Some(10)), (0, None)]);
    // So it does where they are those of another log.
    read(&["t-0", "t-1"]);
    read(&["-n", "1", "t-0", "t-1"]);
    assert_eq!(marks(), [(4, Some(5)), (0, None), (0, None)]);
}

#[test]
fn filters_and_ends_of_ranges_move_the_position_over_what_they_leave_out() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["-k", "a", "--batch-records", "3"], &numbers(0..10));
    logs.append("l-0", &["-k", "b"], &numbers(10..20));
    let read = |words: &[&str]| logs.output(&[&["cat", "-g", "g"], words, &["l-0"]].concat());
    assert_eq!(read(&["-o", "..5"]), numbers(0..5));
    assert_eq!(position(&logs, "l-0", "g"), Some((5, None)));
    assert_eq!(read(&["-k", "b", "-n", "2"]), numbers(10..12));
    assert_eq!(position(&logs, "l-0", "g"), Some((12, None)));
    assert_eq!(read(&["-k", "a"]), "");
    assert_eq!(position(&logs, "l-0", "g"), Some((20, None)));
}

#[test]
fn what_stdout_did_not_take_is_not_committed() {
    let logs = Logs::with("l-0", &[]);
    // More than any pipe holds.
    logs.append("l-0", &["--batch-records", "100"], &numbers(0..500_000));
    for command in ["cat", "tail"] {
        let mut reader = logs.logd(&[command, "-g", command, "l-0"]);
        let mut child = reader.stdout(Stdio::piped()).spawn().unwrap();
        let mut some = [0; 1000];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(position(&logs, "l-0", command), Some((0, None)));
    }
    // Nor what would have gone through, had there been a reader.
    logs.init("s-0", &[]);
    logs.append("s-0", &[], &numbers(0..3));
    for (group, words) in [
        ("a", &["cat"][..]),
        ("b", &["tail"]),
        ("c", &["tail", "-f"]),
        ("d", &["cat", "--no-commit"]),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut child = logs.logd(&[words, &["-g", group, "s-0"]].concat());
        let mut child = child.stdout(writer).spawn().unwrap();
        let ended = common::wait(&mut child, LONG).expect("it hangs");
        assert_eq!(ended.code(), Some(0), "{words:?}");
        assert_eq!(position(&logs, "s-0", group), Some((0, None)), "{words:?}");
    }
    // A reader that goes away while nothing comes may not have seen to what it got last.
    let mut follower = logs.logd(&["tail", "-f", "-g", "idle", "--commit-every", "60s", "s-0"]);
    let mut child = follower.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 6];
    child.stdout.take().unwrap().read_exact(&mut line).unwrap();
    let ended = common::wait(&mut child, LONG).expect("it hangs");
    assert_eq!((ended.code(), &line), (Some(0), b"0\n1\n2\n"));
    assert_eq!(position(&logs, "s-0", "idle"), Some((0, None)));
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut follower = logs.logd(&["tail", "-f", "-g", "full", "l-0"]);
    let ran = follower
        .stdout(full)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(ran.code(), Some(74));
    assert_eq!(position(&logs, "l-0", "full"), Some((0, None)));
}

#[test]
fn a_follower_commits_as_it_goes_and_when_it_is_stopped() {
    let logs = Logs::with("l-0", &[]);
    let reaches = |n| {
        let began = Instant::now();
        while position(&logs, "l-0", "g") != Some((n, None)) {
            assert!(began.elapsed() < LONG, "{:?}", position(&logs, "l-0", "g"));
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let words = ["tail", "-f", "-g", "g", "--commit-every", "50ms", "l-0"];
    let mut f = logs.start(&words);
    logs.append("l-0", &[], &numbers(0..3));
    assert_eq!(f.lines(3), ["0", "1", "2"]);
    reaches(3);
    f.kill();
    let mut f = logs.start(&["tail", "-f", "-g", "g", "--commit-every", "60s", "l-0"]);
    logs.append("l-0", &[], &numbers(3..5));
    assert_eq!(f.lines(2), ["3", "4"]);
    assert_eq!(position(&logs, "l-0", "g"), Some((3, None)));
    terminate(f.pid());
    let status = f.ended(LONG);
    assert_eq!(
        status.code().or(status.signal().map(|s| 128 + s)),
        Some(143)
    );
    assert_eq!(position(&logs, "l-0", "g"), Some((5, None)));
}

#[test]
fn a_follower_that_cannot_write_ends_all_the_same_when_it_is_stopped() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["--batch-records", "100"], &numbers(0..500_000));
    let mut follower = logs.logd(&["tail", "-f", "-g", "g", "l-0"]);
    let mut child = follower.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminate(child.id());
    let ended = common::wait(&mut child, LONG).expect("it hangs");
    assert_eq!(ended.signal(), Some(15));
}

#[test]
fn one_reader_a_partition_and_no_change_while_it_reads() {
    let logs = Logs::with("t", &["--partitions", "2"]);
    for p in ["0", "1"] {
        logs.append("t", &["-p", p], &numbers(0..4));
    }
    let mut f = logs.start(&["tail", "-f", "-g", "g", "-p", "1", "t"]);
    f.line();
    let who = format!("t-1: group g: locked by 'logd tail' (pid {})", f.pid());
    for words in [
        &["cat", "-g", "g", "t-1"][..],
        &["tail", "-g", "g", "t-1"],
        &["cat", "-g", "g", "--wait", "20ms", "t-1"],
        &["groups", "seek", "t", "g", "end"],
        &["groups", "reset", "t", "g"],
        &["groups", "commit", "t", "g"],
    ] {
        fails(&logs, words, 75, &who);
    }
    assert_eq!(position(&logs, "t-0", "g"), None, "changed in part");
    assert_eq!(
        logs.output(&["cat", "-g", "g", "--skip-if-locked", "t-1"]),
        ""
    );
    // Looking, other groups and other partitions are free.
    let out = logs.output(&["groups", "ls", "t"]);
    assert_eq!(out.lines().nth(1), Some("t-1\tg\t0\t-"));
    logs.output(&["cat", "-g", "h", "t"]);
    assert!(!logs.output(&["cat", "-g", "g", "t"]).is_empty());
    f.kill();
    logs.output(&["groups", "reset", "t", "g"]);
    fails(&logs, &["groups", "ls", "t", "g"], 66, "no such group: g");
}

#[test]
fn seek_goes_where_it_says_and_a_dry_run_nowhere() {
    let logs = Logs::with("t", &["--partitions", "2"]);
    logs.append("t", &["-p", "0"], &numbers(0..10));
    logs.append("t", &["-p", "1"], &numbers(0..4));
    logs.output(&["cat", "-g", "g", "t"]);
    let seek = |words: &[&str]| logs.output(&[&["groups", "seek"], words].concat());
    let now = || {
        (
            position(&logs, "t-0", "g").unwrap().0,
            position(&logs, "t-1", "g").unwrap().0,
        )
    };
    let moved = "name\tgroup\told\tnew\nt-0\tg\t10\t5\nt-1\tg\t4\t0\n";
    assert_eq!(seek(&["--dry-run", "t", "g", "end-5"]), moved);
    assert_eq!(now(), (10, 4));
    assert_eq!(seek(&["t", "g", "end-5"]), moved);
    assert_eq!(now(), (5, 0));
    seek(&["t", "g", "current+3"]);
    assert_eq!(now(), (8, 3));
    seek(&["t", "g", "current+3"]);
    assert_eq!(now(), (10, 4));
    seek(&["t-0", "g", "7"]);
    assert_eq!(logs.output(&["cat", "-g", "g", "t"]), numbers(7..10));
    fails(
        &logs,
        &["groups", "seek", "t", "g", "7"],
        66,
        "t-1: offset 7 is past the end",
    );
    assert_eq!(now(), (10, 4), "changed in part");
    let json = logs.output(&["groups", "seek", "--json", "--clamp", "t", "g", "7"]);
    let want = r#"{"name":"t-1","group":"g","old":4,"new":4}"#;
    assert_eq!(json.lines().nth(1), Some(want));
    fails(
        &logs,
        &["groups", "seek", "t", "no", "7"],
        66,
        "no such group: no",
    );
    fails(
        &logs,
        &["groups", "seek", "t", "a/b", "7"],
        2,
        "a group's name",
    );
}

#[test]
fn lag_is_told_and_too_much_of_it_is_a_no() {
    let logs = Logs::with("t", &["--partitions", "2"]);
    logs.append(
        "t",
        &["-p", "0", "--timestamp", "-2h", "--batch-records", "1"],
        &numbers(0..6),
    );
    logs.output(&["cat", "-g", "g", "-n", "2", "t-0"]);
    let lag = |max: &str| {
        logs.run(
            &["groups", "lag", "--json", "--max-lag", max, "t", "g"],
            b"",
        )
    };
    for (max, code) in [("3", 1), ("4", 0), ("1h", 1), ("3h", 0)] {
        assert_eq!(lag(max).code, Some(code), "{max}");
    }
    let rows = lag("4").out;
    let row: serde_json::Value = serde_json::from_str(rows.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&row["records"], &row["position"], &row["end"]),
        (&4.into(), &2.into(), &6.into())
    );
    assert!(
        (7_200_000..7_300_000).contains(&row["age"].as_i64().unwrap()),
        "{row}"
    );
    let bytes: i64 = logs
        .output(&["info", "--print", "bytes", "t-0"])
        .trim()
        .parse()
        .unwrap();
    assert_eq!(row["bytes"], bytes * 4 / 6);
    assert_eq!(
        logs.output(&["info", "--json", "--groups", "t-0"])
            .lines()
            .count(),
        1
    );
    fails(&logs, &["groups", "lag", "t", "h"], 66, "no such group: h");
    fails(
        &logs,
        &["groups", "lag", "--max-lag", "3q", "t"],
        2,
        "--max-lag 3q",
    );
}

#[test]
fn a_group_that_retention_has_overtaken_is_told_what_it_lost() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["--batch-records", "2"], &numbers(0..10));
    logs.output(&["cat", "-g", "g", "-n", "2", "l-0"]);
    std::fs::write(logs.path("log-start-offset-checkpoint"), "0\n1\nl 0 6\n").unwrap();
    let lost = "l-0: offsets 2..6 were removed by retention before group g read them";
    for words in [&["cat"][..], &["tail"], &["tail", "-f"]] {
        fails(&logs, &[words, &["-g", "g", "l-0"]].concat(), 66, lost);
    }
    assert_eq!(position(&logs, "l-0", "g"), Some((2, None)));
    let ran = logs.run(&["cat", "-g", "g", "--clamp", "l-0"], b"");
    assert_eq!((ran.code, ran.out), (Some(0), numbers(6..10)));
    assert!(ran.err.contains("offsets 2..6 were removed"), "{}", ran.err);
    assert_eq!(position(&logs, "l-0", "g"), Some((10, None)));
}

#[test]
fn damage_stops_a_group_and_its_position_stays_before_it() {
    let logs = Logs::with("l-0", &[]);
    logs.append("l-0", &["--batch-records", "2"], &numbers(0..10));
    let file = logs.path("l-0").join(&logs.segments("l-0")[0]);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.len() / 5 * 2 + 65; // in the third of five batches
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    fails(
        &logs,
        &["cat", "-g", "g", "l-0"],
        65,
        "offsets 4..6 are lost",
    );
    assert_eq!(position(&logs, "l-0", "g"), Some((0, None)));
    fails(
        &logs,
        &["tail", "-f", "-g", "g", "l-0"],
        65,
        "offsets 4..6 are lost",
    );
    assert_eq!(position(&logs, "l-0", "g"), Some((4, None)));
    // Nor does a group go on elsewhere in a log that ends before its position.
    logs.init("s-0", &[]);
    logs.append("s-0", &["--batch-records", "5"], &numbers(0..10));
    logs.output(&["cat", "-g", "g", "s-0"]);
    std::fs::remove_file(logs.path("s-0/.logd/end")).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(logs.path("s-0").join(&logs.segments("s-0")[0]));
    let file = file.unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let says = "s-0: group g is at offset 10; the log ends at 5";
    fails(&logs, &["cat", "-g", "g", "s-0"], 66, says);
    assert_eq!(position(&logs, "s-0", "g"), Some((10, None)));
    // A damaged position is told, not taken for none.
    std::fs::write(logs.path("l-0/.logd/groups/g"), "1\nposition 4\n").unwrap();
    fails(&logs, &["cat", "-g", "g", "l-0"], 65, "damaged position");
    fails(&logs, &["groups", "ls", "l-0"], 65, "damaged position");
    let moved = logs.output(&["groups", "seek", "l-0", "g", "6"]);
    assert_eq!(moved.lines().nth(1), Some("l-0\tg\tdamaged\t6"));
    assert_eq!(logs.output(&["cat", "-g", "g", "l-0"]), numbers(6..10));
}

#[test]
fn words_that_do_not_go_together_are_refused() {
    let logs = Logs::with("l-0", &[]);
    for (words, says) in [
        (
            &["cat", "--no-commit"][..],
            "--no-commit: only with -g GROUP",
        ),
        (&["cat", "--start", "latest"], "--start: only with -g GROUP"),
        (
            &["tail", "--commit-every", "5s"],
            "--commit-every: only with -g GROUP",
        ),
        (&["cat", "-g", "g", "-o", "3"], "-o: with -g"),
        (&["cat", "-g", "g", "-r"], "a group reads forward"),
        (&["cat", "-g", "x.lock"], "--group x.lock"),
        (&["groups", "seek"], "POS is missing"),
        (&["groups", "ls", "--clamp"], "--clamp: only with seek"),
        (&["groups", "commit"], "GROUP is missing"),
    ] {
        fails(&logs, &[words, &["l-0"]].concat(), 2, says);
    }
    assert!(!logs.path("l-0/.logd/groups").exists());
}

/// Kills a reader, or waits for its end, and starts it anew at random.
struct Workers<'a> {
    logs: &'a Logs,
    delivered: &'a Path,
    running: Vec<Child>,
    kills: usize,
    stops: usize,
}

impl Workers<'_> {
    fn start(&mut self) {
        let words = [
            "tail",
            "-f",
            "-g",
            "g",
            "--commit-every",
            "30ms",
            "-F",
            "<%p %o %k %s>\\n",
            "t",
        ];
        let mut worker = self.logs.logd(&words);
        // A write to a file opened for appending is one piece, and so all lines have one order.
        let out = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.delivered);
        worker.stdin(Stdio::null()).stdout(out.unwrap());
        self.running.push(worker.spawn().unwrap());
    }

    /// How many run. None ends by itself.
    fn alive(&mut self) -> usize {
        for child in &mut self.running {
            assert_eq!(child.try_wait().unwrap(), None, "a worker ended by itself");
        }
        self.running.len()
    }

    fn stop(&mut self, i: usize, softly: bool) {
        let mut child = self.running.swap_remove(i);
        if softly {
            terminate(child.id());
            assert!(common::wait(&mut child, LONG).is_some(), "it does not stop");
            self.stops += 1;
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            self.kills += 1;
        }
    }
}

/// What was delivered, in order, and what must hold of it at any moment.
struct Ledger {
    file: File,
    /// Of the line that is not whole yet.
    rest: Vec<u8>,
    /// Per partition: the smallest offset never seen.
    next: BTreeMap<u32, i64>,
    /// Per partition: what was committed when this was asked last.
    committed: BTreeMap<u32, i64>,
    /// Last number of each key, by its first delivery.
    last: BTreeMap<String, u64>,
    first: usize,
    again: usize,
}

impl Ledger {
    fn open(path: &Path) -> Ledger {
        Ledger {
            file: File::open(path).unwrap(),
            rest: Vec::new(),
            next: BTreeMap::new(),
            committed: BTreeMap::new(),
            last: BTreeMap::new(),
            first: 0,
            again: 0,
        }
    }

    /// Looks at what is committed and takes in what was delivered up to then, and a little more. What
    /// is delivered after this must not lie below what is committed now.
    fn check(&mut self, logs: &Logs, partitions: u32) {
        let committed: Vec<i64> = (0..partitions).map(|p| committed(logs, p)).collect();
        self.read();
        for (p, c) in (0..).zip(committed) {
            let next = self.next.get(&p).copied().unwrap_or(0);
            assert!(
                c <= next,
                "partition {p}: {c} is committed, {next} delivered"
            );
            let before = self.committed.insert(p, c).unwrap_or(0);
            assert!(before <= c, "partition {p}: committed {before}, then {c}");
        }
    }

    /// Takes in lines that were written after the last look at what is committed.
    fn read(&mut self) {
        self.file.read_to_end(&mut self.rest).unwrap();
        let whole = self
            .rest
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |n| n + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        for line in String::from_utf8(lines).unwrap().lines() {
            // A line that a killed worker did not finish has the next one behind it.
            let line = &line[line.rfind('<').unwrap() + 1..];
            let Some(line) = line.strip_suffix('>') else {
                continue;
            };
            let words: Vec<&str> = line.split(' ').collect();
            let [p, offset, key, number] = words[..] else {
                continue;
            };
            self.line(p.parse().unwrap(), offset.parse().unwrap(), key, number);
        }
    }

    fn line(&mut self, p: u32, offset: i64, key: &str, number: &str) {
        let next = self.next.entry(p).or_default();
        assert!(
            offset <= *next,
            "partition {p}: {offset} after {next}: passed over"
        );
        let done = self.committed.get(&p).copied().unwrap_or(0);
        assert!(
            offset >= done,
            "partition {p}: {offset} again, though {done} was committed"
        );
        if offset < *next {
            self.again += 1;
            return;
        }
        *next += 1;
        self.first += 1;
        let number: u64 = number.parse().unwrap();
        let last = self.last.insert(key.to_string(), number);
        assert!(
            last.is_none_or(|l| l < number),
            "{key}: {number} after {last:?}"
        );
    }
}

/// The committed position of partition `p`, which must be durable.
fn committed(logs: &Logs, p: u32) -> i64 {
    let Ok(dir) = RealHost.open_dir(&logs.path(&format!("t-{p}/.logd"))) else {
        return 0;
    };
    let position = groups::read(&*dir, "g").unwrap().map_or(0, |p| p.next.0);
    let durable = end::read(&*dir).unwrap().durable.unwrap_or_default().0;
    assert!(
        position <= durable,
        "partition {p}: {position} of {durable}"
    );
    position
}

/// Appends keyed records until told to stop; returns how many.
fn write_until(logs: &Logs, stop: &AtomicBool, writer: u64, seed: u64) -> usize {
    let mut random = Random(seed ^ writer << 20);
    let words = [
        "append",
        "-K",
        "\\t",
        "--sync",
        ["never", "50ms"][writer as usize % 2],
        "t",
    ];
    let mut append = logs.logd(&words).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = append.stdin.take().unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let burst = 1 + random.below(60);
        let lines = (count..count + burst).map(|n| format!("w{writer}k{}\t{n}\n", n % 17));
        stdin
            .write_all(lines.collect::<String>().as_bytes())
            .unwrap();
        count += burst;
        std::thread::sleep(Duration::from_millis(random.next() % 12));
    }
    drop(stdin);
    assert_eq!(append.wait().unwrap().code(), Some(0));
    count
}

/// Has the writers stop, also when a check has failed.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `$LOGD_GROUP_ROUNDS`, or so many.
fn rounds(usual: usize) -> usize {
    let given = std::env::var("LOGD_GROUP_ROUNDS").ok();
    given.map_or(usual, |r| r.parse().unwrap())
}

#[test]
fn four_workers_killed_and_replaced_at_random_deliver_everything_in_order() {
    workers_killed_at_random(|_| WORKERS);
}

#[test]
fn workers_that_come_and_go_at_random_deliver_everything_in_order() {
    workers_killed_at_random(|random| 1 + random.below(WORKERS));
}

/// Most workers that run at once.
const WORKERS: usize = 4;

/// Workers share a topic that others write to. In each round up to two of them are killed, or told to
/// stop, and then there are at least as many as `at_least` says, at once.
fn workers_killed_at_random(at_least: impl Fn(&mut Random) -> usize) {
    const PARTITIONS: u32 = 8;
    let rounds = rounds(15);
    let seed = seed();
    let mut random = Random(seed);
    let logs = Logs::with("t", &["--partitions", "8", "--segment-size", "64KiB"]);
    let delivered = logs.path("delivered");
    let mut workers = Workers {
        logs: &logs,
        delivered: &delivered,
        running: Vec::new(),
        kills: 0,
        stops: 0,
    };
    (0..WORKERS).for_each(|_| workers.start());
    let mut ledger = Ledger::open(&delivered);
    let stop = AtomicBool::new(false);
    let mut alive = 0;
    let written: usize = std::thread::scope(|s| {
        let (logs, stop) = (&logs, &stop);
        let writers = (0..2).map(|w| s.spawn(move || write_until(logs, stop, w, seed)));
        let writers: Vec<_> = writers.collect();
        let stopped = Stop(stop);
        for _ in 0..rounds {
            let until = Instant::now() + Duration::from_millis(random.next() % 120);
            while Instant::now() < until {
                ledger.check(logs, PARTITIONS);
                std::thread::sleep(Duration::from_millis(3));
            }
            for _ in 0..random.below(3).min(workers.running.len()) {
                let i = random.below(workers.running.len());
                workers.stop(i, random.below(4) == 0);
                while workers.running.len() < at_least(&mut random) {
                    workers.start();
                }
            }
            alive += workers.alive();
        }
        drop(stopped);
        writers.into_iter().map(|w| w.join().unwrap()).sum()
    });
    let began = Instant::now();
    while ledger.first < written
        || (0..PARTITIONS).map(|p| committed(&logs, p)).sum::<i64>() < written as i64
    {
        assert!(
            began.elapsed() < LONG,
            "{} of {written} delivered",
            ledger.first
        );
        ledger.check(&logs, PARTITIONS);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(ledger.first, written);
    println!(
        "{rounds} rounds, {:.1} workers on average, {} kills, {} stops: \
         {written} records delivered, {} of them again",
        alive as f64 / rounds as f64,
        workers.kills,
        workers.stops,
        ledger.again
    );
    while !workers.running.is_empty() {
        workers.stop(0, true);
    }
}

#[test]
fn a_dead_reader_s_partitions_are_taken_over_at_once() {
    let logs = Logs::with("t", &["--partitions", "4"]);
    let follow = |every| {
        logs.start(&[
            "tail",
            "-f",
            "-g",
            "g",
            "--commit-every",
            every,
            "-F",
            "%p\\n",
            "t",
        ])
    };
    let write = |n: &str| {
        for p in ["0", "1", "2", "3"] {
            logs.append("t", &["-p", p, "--sync", "never"], n);
        }
    };
    let sorted = |r: &mut Running, n| {
        let mut lines = r.lines(n);
        lines.sort();
        lines
    };
    // The one waits for all that the other has.
    let mut a = follow("60s");
    write("x\n");
    assert_eq!(sorted(&mut a, 4), ["0", "1", "2", "3"]);
    let mut b = follow("60s");
    b.wait_asleep();
    let died = Instant::now();
    a.kill();
    assert_eq!(sorted(&mut b, 4), ["0", "1", "2", "3"]);
    let waited = died.elapsed();
    // Both have a share; neither is anywhere near its next commit.
    b.kill();
    let mut a = follow("200ms");
    assert_eq!(sorted(&mut a, 4), ["0", "1", "2", "3"]);
    let mut b = follow("60s");
    let began = Instant::now();
    let mut of_b = BTreeSet::new();
    while of_b.len() < 2 {
        assert!(began.elapsed() < LONG, "nothing was given up");
        write("y\n");
        of_b.extend(b.line_within(Duration::from_millis(100)));
    }
    b.wait_asleep();
    a.wait_asleep();
    while b.line_within(Duration::ZERO).is_some() {}
    let died = Instant::now();
    a.kill();
    write("z\n");
    let mut of_a = BTreeSet::from(["0", "1", "2", "3"].map(str::to_string));
    while !of_a.is_empty() {
        of_a.remove(&b.line());
    }
    let shared = died.elapsed();
    println!("taken over after {waited:?}, and {shared:?} with four appends");
    assert!(
        waited < AT_ONCE && shared < 2 * AT_ONCE,
        "{waited:?}, {shared:?}"
    );
}

#[test]
fn a_partition_that_is_made_meanwhile_is_shared_too() {
    let logs = Logs::with("t", &["--partitions", "1"]);
    let mut f = logs.start(&["tail", "-f", "-g", "g", "t"]);
    logs.append("t", &[], "a\n");
    assert_eq!(f.line(), "a");
    logs.init("t-1", &[]);
    logs.append("t-1", &[], "b\n");
    assert_eq!(f.line(), "b");
}

/// A command of the recipe, killed at random moments of the time that it takes.
struct Step<'a> {
    logs: &'a Logs,
    words: &'a [&'a str],
    /// What it took when it was left alone last.
    took: Duration,
    kills: usize,
}

impl Step<'_> {
    /// Runs it. True if it ended with 0, also where the kill came too late.
    fn run(&mut self, out: Stdio, kill: bool, random: &mut Random) -> bool {
        let began = Instant::now();
        let mut child = self.logs.logd(self.words).stdout(out).spawn().unwrap();
        if kill {
            std::thread::sleep(self.took.mul_f64(random.below(1000) as f64 / 1000.0));
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        if !kill {
            self.took = began.elapsed();
        }
        self.kills += usize::from(status.signal().is_some());
        assert!(kill || status.code() == Some(0), "{:?}", self.words);
        status.code() == Some(0)
    }
}

#[test]
fn two_phases_killed_at_any_step_lose_nothing() {
    let rounds = rounds(25);
    let mut random = Random(seed());
    let logs = Logs::with("t", &["--partitions", "2"]);
    let part = logs.path("part");
    let step = |words| Step {
        logs: &logs,
        words,
        took: Duration::from_millis(5),
        kills: 0,
    };
    let mut read = step(&["cat", "-g", "n", "--no-commit", "-F", "%p %o\\n", "t"]);
    let mut commit = step(&["groups", "commit", "t", "n"]);
    let mut loaded: BTreeSet<(usize, i64)> = BTreeSet::new();
    let (mut written, mut again, mut idle) = (0, 0, [0; 2]);
    for round in 0..=rounds {
        let last = round == rounds;
        let burst = if last { 0 } else { random.next() % 3000 };
        logs.append(
            "t",
            &["--batch-records", "50", "--sync", "never"],
            &numbers(0..burst),
        );
        written += burst as usize;
        // 0: cat is killed, 1: nothing more is done after it, 2: load, no more, 3: commit is killed.
        let killed = if last { 4 } else { random.below(6) };
        let out = File::create(&part).unwrap();
        let done = read.run(out.into(), killed == 0, &mut random);
        if done && killed != 1 {
            let text = std::fs::read_to_string(&part).unwrap();
            for line in text.lines() {
                let (p, o) = line.split_once(' ').unwrap();
                again += usize::from(!loaded.insert((p.parse().unwrap(), o.parse().unwrap())));
            }
            match killed {
                2 => idle[1] += 1,
                _ => drop(commit.run(Stdio::null(), killed == 3, &mut random)),
            }
        } else if killed == 1 {
            idle[0] += 1;
        }
        for p in 0..2 {
            let at = position(&logs, &format!("t-{p}"), "n").map_or(0, |p| p.0);
            let all = (0..at).all(|o| loaded.contains(&(p, o)));
            assert!(
                all,
                "round {round}, killed at {killed}: {at} of {p} confirmed"
            );
        }
    }
    assert_eq!(loaded.len(), written);
    println!(
        "{rounds} rounds, {} reads killed, {} stopped before and {} after the load, {} commits \
         killed: {written} records loaded, {again} times one again",
        read.kills, idle[0], idle[1], commit.kills
    );
}
