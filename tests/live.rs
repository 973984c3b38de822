//! Compaction and retention in a loop, killed at random, beside appenders and followers.
//!
//! Three appenders write numbered values of their own keys; three followers read on all the while; a
//! loop of `compact` and one of `retain` look after the log, and each of their processes is killed
//! (SIGKILL) after some milliseconds. One appender is killed too, and run again (`--once`); so is
//! a follower now and then, which goes on where it was. `verify` runs beside all that. Then:
//!
//! * no follower saw an offset twice or out of order, nor an older value of a key after a newer one;
//! * every follower saw the newest value of every key;
//! * `verify` told of nothing but what a killed process left half done;
//! * the log is sound, and its newest values are what the appenders acknowledged.
//!
//! `LOGD_LIVE_ROUNDS` rounds (8), `LOGD_SEED` for another course of events.

mod common;

use common::{LONG, Logs, Random, Running, seed};
use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const WRITERS: usize = 3;
const FOLLOWERS: usize = 3;
/// Keys of each writer.
const KEYS: usize = 7;
/// Records that each writer adds in a round.
const BURST: usize = 40;
/// Retention keeps so many records: far more than there are live keys and records of a round.
const KEPT: &str = "900";

/// What `verify` may say while nobody has cleared up behind a process that was killed.
const LEFT_BEHIND: [&str; 4] = [
    "a replacement of segments that",
    "output of a replacement of segments",
    "an index without a log",
    "the file ends inside a batch",
];

/// Starts a follower at this offset.
fn follow(logs: &Logs, from: u64) -> Running {
    let from = from.to_string();
    let words = ["-f", "-o", &from, "--clamp", "-F", r"%o %k %s\n", "users-0"];
    logs.start(&[&["tail"], &words[..]].concat())
}

/// What a follower saw.
#[derive(Default)]
struct Seen {
    offset: Option<u64>,
    newest: BTreeMap<String, usize>,
}

impl Seen {
    fn take(&mut self, line: &str, who: usize) {
        let mut words = line.split(' ');
        let offset: u64 = words.next().unwrap().parse().unwrap();
        let key = words.next().unwrap().to_string();
        let value: usize = words.next().unwrap().parse().unwrap();
        assert!(
            self.offset.is_none_or(|o| o < offset),
            "follower {who}: {line} after {:?}",
            self.offset
        );
        self.offset = Some(offset);
        let before = self.newest.insert(key, value);
        assert!(
            before.is_none_or(|b| b < value),
            "follower {who}: {line} after value {before:?}"
        );
    }
}

/// Starts a command again and again, and kills most of them.
fn look_after(
    logs: &Logs,
    words: &[&[&str]],
    seed: u64,
    stop: &AtomicBool,
    kills: &AtomicUsize,
) -> usize {
    let mut random = Random(seed);
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let words = words[random.below(words.len())];
        let mut command = logs.logd(words);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Once in a while one may end by itself.
        let time = match random.below(4) {
            0 => Duration::from_secs(20),
            _ => Duration::from_millis(random.next() % 40),
        };
        match common::wait(&mut child, time) {
            None => {
                kills.fetch_add(1, Ordering::Relaxed);
                let _ = child.kill();
                child.wait().unwrap();
            }
            Some(status) => {
                let out = child.wait_with_output().unwrap();
                let err = String::from_utf8_lossy(&out.stderr);
                // 75: the other one is at work.
                assert!(
                    matches!(status.code(), Some(0 | 75)),
                    "{words:?}: {status}: {err}"
                );
                done += usize::from(status.success());
            }
        }
    }
    done
}

/// Checks the log again and again, and asks what maintenance would do; how often.
fn watch(logs: &Logs, stop: &AtomicBool) -> usize {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        for words in [
            &["compact", "--dry-run"][..],
            &["retain", "--max-records", KEPT, "--exact", "--dry-run"],
        ] {
            let ran = logs.run(&[words, &["users-0"]].concat(), b"");
            assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        }
        let ran = logs.run(&["verify", "users-0"], b"");
        let is_left = |line: &&str| LEFT_BEHIND.iter().any(|why| line.contains(why));
        let other: Vec<&str> = ran.out.lines().filter(|line| !is_left(line)).collect();
        let told = ran.code == Some(1) && !ran.out.is_empty();
        assert!(other.is_empty() && (told || ran.code == Some(0)), "{ran:?}");
        done += 1;
    }
    done
}

/// Runs an appender that is killed after some milliseconds, and then again to its end. True if it was
/// killed.
fn write_once(logs: &Logs, name: &str, options: &[&str], lines: &str, random: &mut Random) -> bool {
    let words = [&["append", "--once", name], options, &["users-0"]].concat();
    let mut command = logs.logd(&words);
    let command = command.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, lines.as_bytes()); // it may be gone
    drop(stdin);
    let time = Duration::from_millis(random.next() % 30);
    let killed = common::wait(&mut child, time).is_none();
    let _ = child.kill();
    child.wait().unwrap();
    let again = [&["--once", name], options].concat();
    logs.append("users-0", &again, lines);
    killed
}

/// Writes numbers `from..from + BURST` to the keys of writer `w`; on return they are acknowledged. True
/// if the appender was killed in between.
fn write(logs: &Logs, w: usize, from: usize, random: &mut Random) -> bool {
    let lines: String = (from..from + BURST)
        .map(|n| format!("{w}-{}\t{n} {:2$}\n", n % KEYS, "", n % 50))
        .collect();
    let options = [
        "-K",
        r"\t",
        "--batch-records",
        "5",
        "--wait",
        "60s",
        "--sync",
        "exit",
    ];
    if w > 0 {
        logs.append("users-0", &options, &lines);
        return false;
    }
    write_once(logs, &format!("w{w}.{from}"), &options, &lines, random)
}

fn newest(rounds: usize) -> BTreeMap<String, usize> {
    let numbers = 0..rounds * BURST;
    let of = |w: usize| {
        numbers
            .clone()
            .map(move |n| (format!("{w}-{}", n % KEYS), n))
    };
    (0..WRITERS).flat_map(of).collect()
}

#[test]
fn no_follower_sees_a_repeat_a_wrong_order_or_misses_a_newest_value() {
    let rounds = std::env::var("LOGD_LIVE_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(8);
    let seed = seed();
    let logs = Logs::with("users-0", &["--segment-size", "4KiB"]);
    let mut followers: Vec<Running> = (0..FOLLOWERS).map(|_| follow(&logs, 0)).collect();
    let mut random = Random(seed ^ 3);
    let mut ended = 0;
    let mut seen: Vec<Seen> = (0..FOLLOWERS).map(|_| Seen::default()).collect();
    let (stop, kills) = (AtomicBool::new(false), AtomicUsize::new(0));
    let compact: [&[&str]; 2] = [
        &["compact", "users-0"],
        &[
            "compact",
            "--memory",
            "1MiB",
            "--min-dirty",
            "0.1",
            "users-0",
        ],
    ];
    let retain: [&[&str]; 2] = [
        &["retain", "--max-records", KEPT, "users-0"],
        &["retain", "--max-records", KEPT, "--exact", "users-0"],
    ];
    let done = std::thread::scope(|s| {
        let (logs, stop, kills) = (&logs, &stop, &kills);
        let guard = Guard(stop);
        let c = s.spawn(move || look_after(logs, &compact, seed ^ 1, stop, kills));
        let r = s.spawn(move || look_after(logs, &retain, seed ^ 2, stop, kills));
        let v = s.spawn(move || watch(logs, stop));
        for round in 0..rounds {
            std::thread::scope(|s| {
                for w in 0..WRITERS {
                    let mut random = Random(random.next());
                    s.spawn(move || {
                        let killed = write(logs, w, round * BURST, &mut random);
                        kills.fetch_add(usize::from(killed), Ordering::Relaxed);
                    });
                }
                // In the middle of it, as often as not.
                let i = random.below(2 * FOLLOWERS);
                if let Some(follower) = followers.get_mut(i) {
                    let next = seen[i].offset.map_or(0, |o| o + 1);
                    assert_eq!(follower.err(), "", "follower {i}");
                    follower.kill();
                    *follower = follow(logs, next);
                    ended += 1;
                }
            });
            let want = newest(round + 1);
            for (i, follower) in followers.iter_mut().enumerate() {
                let began = Instant::now();
                while seen[i].newest != want {
                    assert!(
                        began.elapsed() < LONG,
                        "round {round}: follower {i} misses {:?}",
                        missing(&want, &seen[i].newest)
                    );
                    if let Some(line) = follower.line_within(Duration::from_millis(200)) {
                        seen[i].take(&line, i);
                    }
                }
            }
        }
        drop(guard);
        (c.join().unwrap(), r.join().unwrap(), v.join().unwrap())
    });
    for follower in &mut followers {
        assert_eq!(
            follower.err(),
            "",
            "a follower that keeps up is told nothing"
        );
        follower.kill();
    }
    for last in [
        &["compact", "users-0"][..],
        &["retain", "--max-records", KEPT, "users-0"],
    ] {
        assert_eq!(logs.output(last), "");
    }
    assert_eq!(logs.output(&["verify", "users-0"]), "");
    let mut left = Seen::default();
    for line in logs
        .output(&["cat", "-o", "0", "--clamp", "-F", r"%o %k %s\n", "users-0"])
        .lines()
    {
        left.take(line, FOLLOWERS);
    }
    assert_eq!(left.newest, newest(rounds));
    let end = logs.output(&["info", "--print", "end", "users-0"]);
    assert_eq!(
        end.trim(),
        (rounds * WRITERS * BURST).to_string(),
        "each record once"
    );
    println!(
        "{rounds} rounds: {} commands and {ended} followers killed, {} compact, {} retain and {} verify \
         ended by themselves; seed {seed}",
        kills.load(Ordering::Relaxed),
        done.0,
        done.1,
        done.2
    );
}

/// Ends the loops, also when a check fails.
struct Guard<'a>(&'a AtomicBool);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn missing(want: &BTreeMap<String, usize>, seen: &BTreeMap<String, usize>) -> Vec<String> {
    let is_missing = |(k, v): &(&String, &usize)| seen.get(*k) != Some(v);
    want.iter()
        .filter(is_missing)
        .map(|(k, v)| format!("{k}={v}"))
        .collect()
}
