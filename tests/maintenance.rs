//! `logd retain` and `logd compact` as processes: how cron sees them. Exit statuses, silence, and that
//! nothing is written where there is nothing to do.

mod common;

use common::{Logs, Running};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

/// Every file of a directory and below: its size and when it was changed.
fn files(dir: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (name, meta) = (
            entry.file_name().into_string().unwrap(),
            entry.metadata().unwrap(),
        );
        match meta.is_dir() {
            true => out.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|(n, m)| (format!("{name}/{n}"), m)),
            ),
            false => drop(out.insert(name, (meta.len(), meta.modified().unwrap()))),
        }
    }
    out
}

/// The same without lock files, into which their holder writes its name.
fn data(logs: &Logs) -> BTreeMap<String, (u64, SystemTime)> {
    let mut all = files(logs.root());
    all.retain(|name, _| !name.ends_with(".lock"));
    all
}

/// Sixty records of three keys in several segments of one partition.
fn users() -> Logs {
    let logs = Logs::with(
        "users-0",
        &["--segment-size", "1KiB", "--cleanup", "compact"],
    );
    for round in 0..20 {
        let lines: String = (0..3)
            .map(|k| format!("k{k}\tvalue {round} {:40}\n", ""))
            .collect();
        logs.append("users-0", &["-K", r"\t"], &lines);
    }
    assert!(logs.segments("users-0").len() > 3);
    logs
}

const KEYS: &str = "57 k0\n58 k1\n59 k2\n";

fn keys(logs: &Logs) -> String {
    logs.output(&["cat", "-F", r"%o %k\n", "users-0"])
}

#[test]
fn success_is_silent_and_a_second_run_writes_nothing() {
    let logs = users();
    assert_eq!(logs.output(&["compact", "users-0"]), "");
    assert_eq!(keys(&logs), KEYS);
    assert_eq!(logs.output(&["verify", "users-0"]), "");
    let before = data(&logs);
    for again in [
        &["compact", "users-0"][..],
        &["compact", "--min-dirty", "0.5", "users-0"],
        &["retain", "users-0"],
        &["retain", "--max-size", "1GiB", "users-0"],
        &[
            "retain",
            "--max-age",
            "7d",
            "--max-records",
            "100",
            "users-0",
        ],
        &["retain", "--before", "earliest", "--exact", "users-0"],
    ] {
        assert_eq!(logs.output(again), "", "{again:?}");
        assert_eq!(data(&logs), before, "{again:?}");
    }
}

#[test]
fn retention_by_each_limit_is_silent_and_says_what_went_if_asked() {
    for limit in [
        &["--max-records", "10"][..],
        &["--max-size", "1KiB"],
        &["--before", "end-10"],
        &["--max-age", "0s"],
    ] {
        let logs = users();
        let run = |more: &[&str]| logs.output(&[&["retain"], limit, more, &["users-0"]].concat());
        let before = data(&logs);
        let would = run(&["--dry-run", "--json"]);
        assert_eq!(data(&logs), before, "a dry run of {limit:?}");
        assert!(
            would.starts_with(r#"{"name":"users-0","from":0,"to":"#),
            "{would}"
        );
        let did = run(&["--json"]);
        // Sealing the active segment may let one more go.
        assert!(did.starts_with(would.as_str()), "{limit:?}: {would} {did}");
        assert_eq!(run(&[]), "", "{limit:?}");
        assert_eq!(logs.output(&["verify", "users-0"]), "", "{limit:?}");
        assert_eq!(logs.output(&["info", "--print", "end", "users-0"]), "60\n");
        let first = logs.output(&["cat", "-n", "1", "--clamp", "-F", "%o", "users-0"]);
        assert!(
            first.is_empty() || first.parse::<u64>().unwrap() > 30,
            "{limit:?}: {first}"
        );
    }
}

#[test]
fn a_dry_run_of_compaction_changes_nothing_and_tells_what_would_go() {
    let logs = users();
    let before = files(logs.root());
    let out = logs.output(&["compact", "--dry-run", "--json", "users-0"]);
    assert!(
        out.starts_with(r#"{"name":"users-0","records":60,"removed":57,"#),
        "{out}"
    );
    assert_eq!(files(logs.root()), before);
    let out = logs.output(&["compact", "--json", "users-0"]);
    assert!(
        out.starts_with(r#"{"name":"users-0","records":60,"removed":57,"#),
        "{out}"
    );
}

#[test]
fn exit_2_with_a_hint_and_nothing_touched() {
    let logs = users();
    let before = files(logs.root());
    for (words, hint) in [
        (&["retain", "--max-age", "7", "users-0"][..], "--max-age 7d"),
        (
            &["retain", "--before", "current", "users-0"],
            "--respect-groups",
        ),
        (&["compact", "--min-age", "7", "users-0"], "--min-age 7h"),
        (
            &["compact", "--tombstone-age", "24", "users-0"],
            "--tombstone-age 24h",
        ),
        (&["compact", "--keep", "0", "users-0"], "--keep 1"),
    ] {
        let ran = logs.run(words, b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{ran:?}");
        assert!(
            ran.err.contains(&format!("hint: {hint}")),
            "{words:?}: {}",
            ran.err
        );
        assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    }
    for words in [
        &["retain", "--max-size", "seven", "users-0"][..],
        &["retain", "--max-records", "-1", "users-0"],
        &["compact", "--min-dirty", "2", "users-0"],
        &["compact", "--memory", "lots", "users-0"],
        &["compact"],
    ] {
        assert_eq!(logs.run(words, b"").code, Some(2), "{words:?}");
    }
    assert_eq!(files(logs.root()), before);
}

#[test]
fn a_limit_that_is_lifted_is_none() {
    let logs = Logs::with("app-0", &["--segment-size", "1KiB", "--max-size", "1KiB"]);
    for _ in 0..5 {
        logs.append("app-0", &[], &format!("{:900}\n", ""));
    }
    let before = data(&logs);
    assert_eq!(logs.output(&["retain", "--max-size", "none", "app-0"]), "");
    assert_eq!(data(&logs), before);
    assert_eq!(logs.output(&["retain", "app-0"]), "");
    assert!(logs.segments("app-0").len() < 4);
}

/// A `logd` that holds the maintenance lock for some seconds.
fn slow(logs: &Logs) -> Running {
    let mut held = logs.start(&[
        "compact",
        "--rate",
        "1KiB",
        "--tombstone-age",
        "1h",
        "users-0",
    ]);
    let lock = logs.path("users-0/.logd/maintenance.lock");
    while !std::fs::read_to_string(&lock).is_ok_and(|t| t.contains("compact")) {
        assert!(held.child.try_wait().unwrap().is_none(), "{}", held.err());
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    held
}

#[test]
fn exit_75_with_one_line_while_locked_or_0_silently_if_told() {
    let logs = Logs::with("users-0", &["--segment-size", "1MiB"]);
    let line = format!("k\t{:1000}\n", "");
    logs.append(
        "users-0",
        &["-K", r"\t", "--batch-size", "2KiB"],
        &line.repeat(4000),
    );
    let mut held = slow(&logs);
    for words in [
        &["compact", "users-0"][..],
        &["retain", "--max-records", "1", "users-0"],
    ] {
        let ran = logs.run(words, b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(75), ""), "{ran:?}");
        let who = format!("users-0: locked by 'logd compact' (pid {}", held.pid());
        assert!(
            ran.err.contains(&who) && ran.err.lines().count() == 1,
            "{ran:?}"
        );
        let skip = [words, &["--skip-if-locked"]].concat();
        assert_eq!(logs.output(&skip), "");
        let wait = [words, &["--wait", "50ms"]].concat();
        assert_eq!(logs.run(&wait, b"").code, Some(75));
    }
    // Readers, appenders and dry runs need no such lock.
    assert_eq!(
        logs.output(&["cat", "-o", "end-1", "-F", "%o", "users-0"]),
        "3999"
    );
    logs.append("users-0", &["-K", r"\t"], "l\tnew\n");
    logs.output(&["retain", "--max-records", "1", "--dry-run", "users-0"]);
    held.kill();
    // Locks go with their process.
    assert_eq!(logs.output(&["compact", "users-0"]), "");
    assert_eq!(
        logs.output(&["cat", "-F", r"%o %k\n", "users-0"]),
        "3999 k\n4000 l\n"
    );
}

#[test]
fn exit_65_names_the_damage_and_leaves_the_log_untouched() {
    let logs = users();
    let names = logs.segments("users-0");
    for name in [&names[1], names.last().unwrap()] {
        let path = logs.path("users-0").join(name);
        let sound = std::fs::read(&path).unwrap();
        let mut bytes = sound.clone();
        bytes[70] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let ran = logs.run(&["compact", "users-0"], b"");
        assert_eq!(
            (ran.code, ran.out.as_str()),
            (Some(65), ""),
            "{name}: {ran:?}"
        );
        assert!(ran.err.contains(name.as_str()), "{ran:?}");
        assert!(
            ran.err.lines().count() <= 2 && ran.err.contains("\nhint: logd "),
            "{ran:?}"
        );
        assert_eq!(logs.segments("users-0"), names);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        std::fs::write(&path, &sound).unwrap();
    }
    assert_eq!(logs.output(&["compact", "users-0"]), "");
    assert_eq!(keys(&logs), KEYS);
}

#[test]
fn exit_66_for_no_such_log_and_the_others_get_their_turn() {
    let logs = users();
    for command in ["compact", "retain"] {
        let ran = logs.run(&[command, "nothing", "users-0"], b"");
        assert_eq!((ran.code, ran.out.as_str()), (Some(66), ""), "{ran:?}");
        assert!(ran.err.contains("nothing: no such log"), "{ran:?}");
    }
    assert_eq!(keys(&logs), KEYS);
}

#[test]
fn what_is_appended_once_stays_once_after_retention_and_compaction() {
    let logs = Logs::with("jobs-0", &["--segment-size", "1KiB"]);
    let input: String = (0..60)
        .map(|i| format!("k{}\tjob {i} {:40}\n", i % 7, ""))
        .collect();
    let options = ["-K", r"\t", "--once", "nightly", "--batch-records", "3"];
    logs.append("jobs-0", &options, &input);
    logs.append("jobs-0", &["-K", r"\t"], &"x\tother\n".repeat(40));
    for look_after in [
        &["compact", "jobs-0"][..],
        &["retain", "--before", "end-1", "jobs-0"],
        &["retain", "--before", "end-1", "--exact", "jobs-0"],
        &["compact", "--tombstone-age", "0s", "jobs-0"],
        &["retain", "--max-records", "0", "jobs-0"],
    ] {
        assert_eq!(logs.output(look_after), "", "{look_after:?}");
        // The file that says so is only a short cut.
        let _ = std::fs::remove_file(logs.path("jobs-0/.logd/once/nightly"));
        logs.append("jobs-0", &options, &input);
        assert_eq!(
            logs.output(&["info", "--print", "end", "jobs-0"]),
            "100\n",
            "{look_after:?}"
        );
    }
}

/// Every crontab line of `logd help cron`, run by a shell as cron does, twice.
#[test]
fn crontab_lines_run_as_pasted_and_are_silent() {
    let logs = Logs::empty();
    for log in ["logs/app", "logs/users", "logs/heartbeat", "logs/orders"] {
        logs.init(log, &["--segment-size", "1KiB"]);
        logs.append(log, &["-K", r"\t"], &"k\tvalue\n".repeat(100));
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_logd")).parent().unwrap();
    let mut ran = 0;
    for topic in [
        &["help", "cron"][..],
        &["retain", "--help"],
        &["compact", "--help"],
    ] {
        let text = logs.output(topic);
        for line in text
            .lines()
            .filter(|l| l.trim_start().starts_with(['*', '0', '1', '3']))
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_line = words.len() > 6
                && words[..5]
                    .iter()
                    .all(|w| w.contains(['*', '0', '1', '3', '4']));
            let Some((_, command)) = line.split_once("  ").filter(|_| is_line) else {
                continue;
            };
            let command = command
                .trim_start()
                .split_once("  ")
                .map_or(command, |c| c.1);
            for _ in 0..2 {
                let mut shell = std::process::Command::new("/bin/sh");
                shell
                    .args(["-c", command])
                    .current_dir(logs.root())
                    .env_clear();
                let out = shell
                    .env("HOME", logs.root())
                    .env("PATH", format!("{}:/bin:/usr/bin", bin.display()))
                    .output()
                    .unwrap();
                let said = [out.stdout, out.stderr].concat();
                assert!(
                    out.status.success() && said.is_empty(),
                    "{command}: {}",
                    String::from_utf8_lossy(&said)
                );
            }
            ran += 1;
        }
    }
    assert_eq!(ran, 6);
    assert_eq!(logs.output(&["cat", "logs/users"]), "value\n");
}

/// A limit on the size of files stands for a full disk: `ulimit -f` counts in KiB.
#[test]
fn exit_74_on_a_full_disk_and_the_log_is_as_before() {
    let logs = Logs::with("users-0", &["--segment-size", "1MiB"]);
    let lines: String = (0..3000)
        .map(|i| format!("k{}\tvalue {i} {:60}\n", i % 2000, ""))
        .collect();
    logs.append("users-0", &["-K", r"\t", "--batch-size", "2KiB"], &lines);
    let all = logs.output(&["cat", "-F", r"%o %k %s\n", "users-0"]);
    let logs_of = |logs: &Logs| -> Vec<_> {
        let names = logs.segments("users-0").into_iter();
        names
            .map(|n| std::fs::read(logs.path("users-0").join(n)).unwrap())
            .collect()
    };
    let before = logs_of(&logs);
    let bin = env!("CARGO_BIN_EXE_logd");
    let script = format!("ulimit -f 60; exec {bin} compact users-0");
    let mut shell = std::process::Command::new("/bin/bash");
    let out = shell
        .args(["-c", &script])
        .current_dir(logs.root())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(
        (out.status.code(), out.stdout.len()),
        (Some(74), 0),
        "{err}"
    );
    assert_eq!(err.lines().count(), 1, "{err}");
    assert_eq!(logs_of(&logs)[0], before[0]);
    assert_eq!(logs.output(&["cat", "-F", r"%o %k %s\n", "users-0"]), all);
    assert_eq!(logs.output(&["verify", "users-0"]), "");
    // What somebody who was killed has left goes with the next run, whatever it has to do.
    std::fs::write(
        logs.path("users-0/.logd/tmp/00000000000000000000.log"),
        "left",
    )
    .unwrap();
    assert_eq!(
        logs.output(&["retain", "--max-records", "9999", "users-0"]),
        ""
    );
    assert_eq!(files(&logs.path("users-0/.logd/tmp")), BTreeMap::new());
    assert_eq!(logs.output(&["compact", "users-0"]), "");
    assert_eq!(logs.output(&["cat", "users-0"]).lines().count(), 2000);
}

/// The last append of this boot is made to lie two hours further back for the wall clock only.
#[test]
fn exit_78_after_a_jump_of_the_clock_and_force_deletes() {
    let logs = Logs::with("app-0", &["--segment-size", "1KiB"]);
    for _ in 0..5 {
        logs.append("app-0", &[], &format!("{:900}\n", ""));
    }
    let path = logs.path("app-0/.logd/end");
    let mut end = std::fs::read(&path).unwrap();
    for slot in end.chunks_mut(128).take(2) {
        let wall = i64::from_be_bytes(slot[64..72].try_into().unwrap()) - 7_200_000;
        slot[64..72].copy_from_slice(&wall.to_be_bytes());
        let crc = crc32fast::hash(&slot[8..]);
        slot[4..8].copy_from_slice(&crc.to_be_bytes());
    }
    std::fs::write(&path, &end).unwrap();
    let before = data(&logs);
    let by_age = ["retain", "--max-age", "0s", "app-0"];
    let ran = logs.run(&by_age, b"");
    assert_eq!((ran.code, ran.out.as_str()), (Some(78), ""), "{ran:?}");
    assert!(ran.err.contains("the clock has jumped 2h ahead"), "{ran:?}");
    assert_eq!(data(&logs), before);
    // Other work on the log does not make it forgotten; other limits do not ask.
    assert_eq!(logs.output(&["retain", "--max-records", "2", "app-0"]), "");
    assert_eq!(logs.run(&by_age, b"").code, Some(78));
    assert_eq!(
        logs.output(&["retain", "--max-age", "0s", "--force", "app-0"]),
        ""
    );
    assert_eq!(logs.output(&["cat", "app-0"]), "");
}
