//! `logd get` and `logd index` as processes: statuses, messages, and the same answers with any index.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::Logs;

/// Appends `key TAB value` lines, an empty value deleting its key.
fn put(logs: &Logs, log: &str, lines: &str) {
    logs.append(log, &["-K", "\\t", "-Z"], lines);
}

fn users() -> Logs {
    let logs = Logs::with("users", &[]);
    put(&logs, "users", "u1\tone\nu2\ttwo\nu3\tthree\n");
    put(&logs, "users", "u1\tONE\nu2\t\n");
    logs
}

#[test]
fn newest_values_are_printed_and_what_is_missing_or_deleted_exits_one() {
    let logs = users();
    assert_eq!(logs.output(&["get", "-k", "u1", "users"]), "ONE\n");
    let ran = logs.run(
        &[
            "get", "-k", "u3", "-k", "u2", "-k", "no", "-k", "u1", "users",
        ],
        b"",
    );
    assert_eq!(
        (ran.code, &*ran.out, &*ran.err),
        (Some(1), "three\nONE\n", "")
    );
    for gone in ["u2", "u", "u11", ""] {
        let ran = logs.run(&["get", "-k", gone, "users"], b"");
        assert_eq!(
            (ran.code, &*ran.out, &*ran.err),
            (Some(1), "", ""),
            "{gone}"
        );
    }
}

#[test]
fn all_versions_come_newest_first_and_at_answers_as_of_then() {
    let logs = users();
    let all = |key| logs.output(&["get", "-k", key, "--all", "-F", "%o=%s/%S\\n", "users"]);
    assert_eq!(all("u1"), "3=ONE/3\n0=one/3\n");
    assert_eq!(all("u2"), "4=/-1\n1=two/3\n");
    assert_eq!(
        logs.run(&["get", "-k", "x", "--all", "users"], b"").code,
        Some(1)
    );
    let at = |pos| logs.run(&["get", "-k", "u2", "--at", pos, "users"], b"");
    assert_eq!(at("4").out, "two\n");
    assert_eq!((at("5").code, at("1").code), (Some(1), Some(1)));
    let past = at("6");
    assert_eq!(past.code, Some(66));
    assert!(
        past.err.contains("offset 6 is past the end"),
        "{}",
        past.err
    );
}

#[test]
fn offsets_and_ranges_are_printed_one_after_the_other() {
    let logs = users();
    assert_eq!(
        logs.output(&["get", "-F", "%o ", "users-0", "1", "3..5", "end-1", "..1"]),
        "1 3 4 4 0 "
    );
    let ran = logs.run(&["get", "users-0", "0", "end"], b"");
    assert_eq!((ran.code, &*ran.out), (Some(1), "one\n"));
    let ran = logs.run(&["get", "users-0", "99"], b"");
    assert_eq!(ran.code, Some(66), "{ran:?}");
}

#[test]
fn wrong_usage_touches_nothing() {
    let logs = users();
    let no = |words: &[&str], code, why: &str| {
        let ran = logs.run(words, b"");
        assert_eq!(ran.code, Some(code), "{ran:?}");
        assert!(ran.err.contains(why), "{}", ran.err);
    };
    no(
        &["get", "users"],
        2,
        "logd get: what to get is missing: -k KEY, or offsets\nhint: logd get -k KEY users",
    );
    no(
        &["get", "-k", "u1", "users", "4"],
        2,
        "keys and offsets exclude each other",
    );
    no(&["get", "--all", "users"], 2, "");
    no(&["get", "-k", "u1", "nope"], 66, "nope: no such log");
    no(
        &["index", "--by", "nope", "users"],
        2,
        "--by nope: not a field",
    );
    no(&["index", "--by", "json:a", "users"], 2, "json:/a");
    no(&["index", "--by", "column:3", "users"], 2, "column:3");
    no(&["index", "--by", "key", "nope"], 66, "nope: no such log");
    assert!(!logs.path("users-0/.logd/keys").exists());
}

/// A log of several segments with keys `k0`..`k49`, some deleted; its newest values.
fn settled() -> (Logs, BTreeMap<String, Option<String>>) {
    let logs = Logs::with("s-0", &["--segment-size", "4KiB"]);
    let mut newest = BTreeMap::new();
    let mut x = 7u64;
    for round in 0..30 {
        let mut lines = String::new();
        for _ in 0..20 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = format!("k{}", (x >> 33) % 50);
            let value = format!("round {round} {}", x >> 40);
            match (x >> 50) % 5 {
                0 => {
                    lines.push_str(&format!("{key}\t\n"));
                    newest.insert(key, None);
                }
                _ => {
                    lines.push_str(&format!("{key}\t{value}\n"));
                    newest.insert(key, Some(value));
                }
            }
        }
        put(&logs, "s-0", &lines);
    }
    assert!(logs.segments("s-0").len() > 3);
    (logs, newest)
}

fn check(logs: &Logs, newest: &BTreeMap<String, Option<String>>, when: &str) {
    for n in 0..52 {
        let key = format!("k{n}");
        let ran = logs.run(&["get", "-k", &key, "s-0"], b"");
        let expected = newest.get(&key).cloned().flatten();
        let code = if expected.is_some() { 0 } else { 1 };
        let line = expected.map(|v| v + "\n").unwrap_or_default();
        assert_eq!(
            (ran.code, ran.out, &*ran.err),
            (Some(code), line, ""),
            "{when}: {key}"
        );
    }
}

fn index_files(logs: &Logs) -> Vec<std::path::PathBuf> {
    let dir = fs::read_dir(logs.path("s-0/.logd/keys")).unwrap();
    let mut all: Vec<_> = dir.map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

#[test]
fn an_index_changes_no_answer_whatever_happens_to_it() {
    let (logs, newest) = settled();
    check(&logs, &newest, "without an index");
    assert_eq!(logs.output(&["index", "--by", "key", "s-0"]), "");
    check(&logs, &newest, "with a fresh one");
    let files = index_files(&logs);
    assert_eq!(files.len(), logs.segments("s-0").len() - 1);
    let stamps = |files: &[std::path::PathBuf]| -> Vec<_> {
        files
            .iter()
            .map(|f| fs::metadata(f).unwrap().modified().unwrap())
            .collect()
    };
    let before = stamps(&files);
    let made = logs.output(&["index", "--json", "s-0"]);
    assert!(made.contains("\"made\":0"), "{made}");
    assert_eq!(stamps(&files), before, "a second run makes nothing");
    let (a, b) = (fs::read(&files[0]).unwrap(), fs::read(&files[1]).unwrap());
    fs::write(&files[0], &b).unwrap();
    fs::write(&files[1], &a[..a.len() / 2]).unwrap();
    check(&logs, &newest, "swapped and cut");
    let verbose = logs.run(&["get", "-k", "absent", "--verbose", "s-0"], b"");
    let named = files[1].file_name().unwrap().to_str().unwrap();
    assert_eq!(verbose.err.matches(named).count(), 1, "{}", verbose.err);
    fs::write(&files[0], b"").unwrap();
    fs::remove_file(&files[2]).unwrap();
    check(&logs, &newest, "emptied and removed");
    let made = logs.output(&["index", "--json", "s-0"]);
    assert!(made.contains("\"made\":3"), "{made}");
    assert_eq!(fs::read(&files[0]).unwrap(), a);
    check(&logs, &newest, "made anew");
    assert_eq!(logs.output(&["index", "--drop", "s-0"]), "");
    assert!(index_files(&logs).is_empty());
    check(&logs, &newest, "dropped");
}

#[test]
fn indexes_are_listed_and_only_new_segments_are_indexed() {
    let (logs, _) = settled();
    logs.output(&["index", "--by", "key", "--by", "header:x", "s-0"]);
    let sealed = logs.segments("s-0").len() - 1;
    let list = logs.output(&["index", "--list", "s-0"]);
    let row = format!("s-0\tkey\ttable\t{sealed}\t{sealed}\t");
    assert!(list.contains(&row), "{list}");
    let info = logs.output(&["info", "--indexes", "s-0"]);
    assert_eq!(info.matches("\tsound").count(), 2 * sealed, "{info}");
    put(&logs, "s-0", &"k1\tmore of it\n".repeat(500));
    let new = logs.segments("s-0").len() - 1 - sealed;
    assert!(new > 0);
    let made = logs.output(&["index", "--json", "s-0"]);
    let counts = format!("\"made\":{},", 2 * new);
    assert!(
        made.contains(&counts) && made.contains(&format!("\"kept\":{}", 2 * sealed)),
        "{made}"
    );
    logs.output(&["index", "--drop", "--by", "header:x", "s-0"]);
    let list = logs.output(&["index", "--list", "s-0"]);
    assert!(!list.contains("header:x") && list.contains("key"), "{list}");
}

#[test]
fn all_partitions_of_a_topic_are_searched_and_the_latest_time_wins() {
    let logs = Logs::with("t", &["--partitions", "3"]);
    for (partition, time, value) in [
        ("0", "10", "old"),
        ("2", "30", "new"),
        ("1", "20", "middle"),
    ] {
        let line = format!("{{\"key\":\"k\",\"value\":\"{value}\",\"ts\":{time}}}\n");
        logs.append("t", &["-F", "json", "-p", partition], &line);
    }
    assert_eq!(logs.output(&["get", "-k", "k", "t"]), "new\n");
    assert_eq!(
        logs.output(&["get", "-k", "k", "-p", "0,1", "t"]),
        "middle\n"
    );
    assert_eq!(
        logs.output(&["get", "-k", "k", "--all", "t"]),
        "old\nmiddle\nnew\n"
    );
    let gone = "{\"key\":\"k\",\"value\":null,\"ts\":40}\n";
    logs.append("t", &["-F", "json", "-p", "0"], gone);
    assert_eq!(logs.run(&["get", "-k", "k", "t"], b"").code, Some(1));
}

#[test]
fn a_damaged_segment_is_told_by_index_and_by_get() {
    let (logs, _) = settled();
    let name = logs.segments("s-0")[1].clone();
    let path = logs.path("s-0").join(&name);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let ran = logs.run(&["index", "--by", "key", "s-0"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(
        ran.err.contains(&name) && ran.err.contains("CRC"),
        "{}",
        ran.err
    );
    assert_eq!(index_files(&logs).len(), logs.segments("s-0").len() - 2);
    let ran = logs.run(&["get", "-k", "absent", "s-0"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    let ran = logs.run(&["get", "-k", "absent", "--skip-corrupt", "s-0"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
}

#[test]
fn sqlite_finds_the_same_newest_values() {
    let Ok(child) = Command::new("sqlite3")
        .arg(":memory:")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        eprintln!("skipped: sqlite3 is not installed");
        return;
    };
    let (logs, _) = settled();
    logs.output(&["index", "--by", "key", "s-0"]);
    let mut script = String::from("create table r(o integer, k text, v text);\n");
    for line in logs
        .output(&["cat", "-F", "%o\\t%k\\t%S\\t%s\\n", "s-0"])
        .lines()
    {
        let part: Vec<&str> = line.split('\t').collect();
        let value = if part[2] == "-1" {
            "null".into()
        } else {
            format!("'{}'", part[3])
        };
        script.push_str(&format!(
            "insert into r values({},'{}',{value});\n",
            part[0], part[1]
        ));
    }
    for n in 0..52 {
        script.push_str(&format!("select coalesce((select coalesce(v,'-') from r where k='k{n}' order by o desc limit 1),'-');\n"));
    }
    let mut child = child;
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    let expected = String::from_utf8(out.stdout).unwrap();
    let ours: String = (0..52)
        .map(|n| {
            let ran = logs.run(&["get", "-k", &format!("k{n}"), "s-0"], b"");
            if ran.code == Some(1) {
                "-\n".to_string()
            } else {
                ran.out
            }
        })
        .collect();
    assert_eq!(ours, expected);
    assert!(expected.matches("-\n").count() > 3 && expected.contains("round"));
}
