//! `logd get` and `logd index` as processes: statuses, messages, and the same answers with any index.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use common::{Logs, Ran};

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
    let other = "{\"key\":\"x\",\"value\":\"another\",\"ts\":5}\n";
    logs.append("t", &["-F", "json", "-p", "1"], other);
    assert_eq!(
        logs.output(&["get", "-k", "k", "-k", "x", "t"]),
        "new\nanother\n"
    );
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
    let ran = logs.run(&["get", "-k", "k", "-k", "x", "t"], b"");
    assert_eq!((ran.code, &*ran.out), (Some(1), "another\n"));
}

#[test]
fn an_index_gets_the_part_that_it_lacks() {
    let (logs, newest) = settled();
    for (first, then) in [
        (&["--by", "key"][..], &["--by", "key", "--bloom"][..]),
        (&["--bloom"], &["--by", "value"]),
    ] {
        logs.output(&[&["index"], first, &["s-0"]].concat());
        logs.output(&[&["index"], then, &["s-0"]].concat());
    }
    let list = logs.output(&["index", "--list", "s-0"]);
    for field in ["key", "value"] {
        assert!(
            list.contains(&format!("s-0\t{field}\ttable,filter\t")),
            "{list}"
        );
    }
    check(&logs, &newest, "with more than before");
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

#[test]
fn several_keys_are_answered_as_each_alone_and_the_log_is_read_once() {
    let (logs, newest) = settled();
    let names: Vec<String> = (0..52).rev().map(|n| format!("k{n}")).collect();
    let mut words = vec!["get"];
    names.iter().for_each(|n| words.extend(["-k", n]));
    words.extend(["-k", "k7", "s-0"]);
    let value = |k: &String| newest.get(k).cloned().flatten();
    let mut expected: Vec<String> = names.iter().filter_map(value).collect();
    expected.extend(value(&"k7".to_string()));
    for when in ["without an index", "with one"] {
        let ran = logs.run(&words, b"");
        assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected, "{when}");
        assert_eq!((ran.code, &*ran.err), (Some(1), ""), "{when}");
        logs.output(&["index", "--by", "key", "s-0"]);
    }
    logs.output(&["index", "--drop", "s-0"]);
    let path = logs.path("s-0").join(&logs.segments("s-0")[0]);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, bytes).unwrap();
    let absent = [
        "get",
        "-k",
        "x",
        "-k",
        "y",
        "-k",
        "z",
        "--skip-corrupt",
        "s-0",
    ];
    let ran = logs.run(&absent, b"");
    assert_eq!(ran.code, Some(65));
    assert_eq!(ran.err.matches("CRC").count(), 1, "met once: {}", ran.err);
    let found = newest.iter().rev().find(|(_, v)| v.is_some()).unwrap();
    let ran = logs.run(&["get", "-k", "x", "-k", found.0, "s-0"], b"");
    assert_eq!(
        (ran.code, ran.out),
        (Some(65), format!("{}\n", found.1.clone().unwrap()))
    );
}

#[test]
fn bare_index_makes_wrong_or_missing_offset_and_time_indexes_anew() {
    let (logs, newest) = settled();
    let first = logs.path("s-0").join(&logs.segments("s-0")[0]);
    let second = logs.path("s-0").join(&logs.segments("s-0")[1]);
    let rebuilt = |n: usize| {
        let made = logs.output(&["index", "--json", "s-0"]);
        assert!(made.contains(&format!("\"rebuilt\":{n}}}")), "{made}");
    };
    rebuilt(0);
    let times = first.with_extension("timeindex");
    let sound = fs::read(&times).unwrap();
    fs::remove_file(&times).unwrap();
    fs::write(second.with_extension("index"), b"no entries").unwrap();
    rebuilt(2);
    assert_eq!(fs::read(&times).unwrap(), sound);
    fs::write(&times, b"").unwrap();
    rebuilt(1);
    assert_eq!(fs::read(&times).unwrap(), sound);
    rebuilt(0);
    let sealed = logs.segments("s-0").len() - 1;
    let made = logs.output(&["index", "--rebuild", "--json", "s-0"]);
    assert!(made.contains(&format!("\"rebuilt\":{sealed}}}")), "{made}");
    assert_eq!(fs::read(&times).unwrap(), sound);
    logs.output(&["verify", "s-0"]);
    check(&logs, &newest, "made anew");
    // Damage is told once, and the index stays.
    let mut bytes = fs::read(&first).unwrap();
    bytes[100] ^= 1;
    fs::write(&first, bytes).unwrap();
    fs::write(&times, b"").unwrap();
    logs.run(&["index", "--by", "key", "s-0"], b"");
    let ran = logs.run(&["index", "s-0"], b"");
    assert_eq!(
        (ran.code, ran.err.matches("CRC").count()),
        (Some(65), 1),
        "{}",
        ran.err
    );
}

#[test]
fn an_index_damaged_anywhere_is_made_anew_by_the_next_index() {
    let (logs, newest) = settled();
    logs.output(&["index", "--by", "key", "s-0"]);
    let file = index_files(&logs).remove(0);
    let whole = fs::read(&file).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 7 + 1) {
        let mut harmed = whole.clone();
        harmed[at] ^= 0x10;
        fs::write(&file, &harmed).unwrap();
        logs.output(&["index", "s-0"]);
        assert_eq!(fs::read(&file).unwrap(), whole, "byte {at}");
    }
    check(&logs, &newest, "made anew");
}

#[test]
fn a_full_disk_is_74_and_the_indexes_there_stay_valid() {
    let logs = Logs::with("s-0", &["--segment-size", "64KiB"]);
    let lines: String = (0..9000).map(|n| format!("key-{n}\tvalue {n}\n")).collect();
    for part in lines.lines().collect::<Vec<_>>().chunks(1000) {
        put(&logs, "s-0", &(part.join("\n") + "\n"));
    }
    assert!(logs.segments("s-0").len() > 1);
    logs.output(&["index", "--by", "key", "s-0"]);
    let before: Vec<_> = index_files(&logs)
        .iter()
        .map(|f| fs::read(f).unwrap())
        .collect();
    let logd = assert_cmd::cargo::cargo_bin!("logd");
    let limited = format!("ulimit -f 20; exec {} index --rebuild s-0", logd.display());
    let mut c = Command::new("sh");
    c.args(["-c", &limited]).current_dir(logs.root());
    let out = c.output().unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(74), "{err}");
    assert!(
        err.contains("cannot write the index") && err.contains("file too large"),
        "{err}"
    );
    let after: Vec<_> = index_files(&logs)
        .iter()
        .map(|f| fs::read(f).unwrap())
        .collect();
    assert_eq!(after, before);
    let tmp = fs::read_dir(logs.path("s-0/.logd/tmp")).unwrap().count();
    assert_eq!(tmp, 0, "nothing half made is left");
    assert_eq!(logs.output(&["get", "-k", "key-7", "s-0"]), "value 7\n");
}

/// `logd WORDS` as a user whom permissions bind; `None` where there is no way to be one.
fn as_somebody(logs: &Logs, words: &[&str]) -> Option<Ran> {
    let mut logd = logs.logd(words);
    if nix::unistd::geteuid().is_root() {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        setpriv.arg(common::binary()).args(words);
        setpriv
            .current_dir(logs.root())
            .env("LOGD_CONFIG", "/dev/null");
        logd = setpriv;
    }
    let out = logd.stdin(Stdio::null()).output().ok()?;
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    Some(Ran {
        code: out.status.code(),
        out: text(&out.stdout),
        err: text(&out.stderr),
    })
}

#[test]
fn a_read_only_directory_is_read_and_what_would_write_there_is_77() {
    use std::os::unix::fs::PermissionsExt;
    let (logs, newest) = settled();
    logs.output(&["index", "--by", "key", "--bloom", "s-0"]);
    logs.output(&["cat", "-g", "g", "-n", "3", "s-0"]);
    // Readable for everybody, writable for nobody: all below, and the way there.
    let mut paths = vec![logs.root().to_path_buf()];
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        let is_dir = path.is_dir();
        if is_dir {
            paths.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let mode = if is_dir { 0o555 } else { 0o444 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let run = |words: &[&str]| as_somebody(&logs, words);
    let Some(ran) = run(&["get", "-k", "k7", "s-0"]) else {
        eprintln!("skipped: there is no setpriv to be another user than root with");
        return;
    };
    let value = newest["k7"].clone();
    assert_eq!((ran.out.lines().next(), &*ran.err), (value.as_deref(), ""));
    for words in [
        &["cat", "s-0"][..],
        &["grep", "-c", "round 3", "s-0"],
        &["groups", "ls", "s-0"],
        &["groups", "lag", "s-0", "g"],
        &["groups", "seek", "--dry-run", "s-0", "g", "5"],
        &["index", "--list", "s-0"],
        &["info", "--indexes", "s-0"],
        &["info", "--groups", "s-0"],
    ] {
        let ran = run(words).unwrap();
        assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{words:?}");
        assert!(!ran.out.is_empty(), "{words:?}");
    }
    for words in [
        &["cat", "-g", "g", "s-0"][..],
        &["cat", "-g", "new", "--no-commit", "s-0"],
        &["tail", "-f", "-g", "g", "s-0"],
        &["groups", "commit", "s-0", "g"],
        &["groups", "seek", "s-0", "g", "5"],
        &["groups", "reset", "s-0", "g"],
        &["index", "--rebuild", "s-0"],
        &["index", "--drop", "s-0"],
    ] {
        let ran = run(words).unwrap();
        assert_eq!(
            (ran.code, &*ran.out),
            (Some(77), ""),
            "{words:?}: {}",
            ran.err
        );
        assert!(ran.err.contains("s-0"), "{words:?}: {}", ran.err);
    }
    for path in paths {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_damaged_index_is_named_by_verify_and_an_outdated_one_made_anew() {
    let (logs, newest) = settled();
    logs.output(&["index", "--by", "key", "--bloom", "s-0"]);
    assert_eq!(logs.output(&["verify", "s-0"]), "");
    let files = index_files(&logs);
    let sound = fs::read(&files[1]).unwrap();
    let mut harmed = sound.clone();
    harmed[5000] ^= 4;
    fs::write(&files[1], &harmed).unwrap();
    let ran = logs.run(&["verify", "s-0"], b"");
    let name = files[1].file_name().unwrap().to_str().unwrap();
    assert_eq!((ran.code, ran.out.lines().count()), (Some(1), 1), "{ran:?}");
    assert!(
        ran.out.contains(name) && ran.out.contains("CRC-32"),
        "{ran:?}"
    );
    check(&logs, &newest, "with a damaged one");
    logs.output(&["index", "s-0"]);
    assert_eq!(fs::read(&files[1]).unwrap(), sound);
    // As version 1 had it: eight bytes for the blocks of one filter.
    let blocks = |at| u32::from_be_bytes(sound[at..at + 4].try_into().unwrap());
    let mut old = sound.clone();
    old[8..12].copy_from_slice(&1u32.to_be_bytes());
    old[80..88].copy_from_slice(&u64::from(blocks(80) + blocks(84)).to_be_bytes());
    let mut salt = [0; 4];
    for (number, block) in old.chunks_mut(4096).enumerate() {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&salt);
        crc.update(&(number as u64).to_be_bytes());
        crc.update(&block[..4092]);
        block[4092..].copy_from_slice(&crc.finalize().to_be_bytes());
        if number == 0 {
            salt.copy_from_slice(&block[4092..]);
        }
    }
    fs::write(&files[1], &old).unwrap();
    assert_eq!(logs.output(&["verify", "s-0"]), "");
    check(&logs, &newest, "with one of version 1");
    let ran = logs.run(
        &["grep", "-c", "--in", "key", "^k7$", "--verbose", "s-0"],
        b"",
    );
    assert_eq!((ran.code, &*ran.err), (Some(0), ""));
    let list = logs.output(&["info", "--indexes", "s-0"]);
    assert_eq!(list.matches("void").count(), 1, "{list}");
    assert!(
        logs.output(&["index", "--json", "s-0"])
            .contains("\"made\":1,")
    );
    assert_eq!(fs::read(&files[1]).unwrap(), sound);
}

#[test]
fn filters_are_made_listed_and_change_no_answer() {
    let (logs, newest) = settled();
    let grep = |what: &str| logs.run(&["grep", "-Q", what, "s-0"], b"");
    let asked = ["round 17", "nowhere at all", "round", "7"];
    let before: Vec<_> = asked
        .iter()
        .map(|w| grep(w))
        .map(|r| (r.code, r.out))
        .collect();
    logs.output(&["index", "--bloom", "s-0"]);
    let list = logs.output(&["index", "--list", "s-0"]);
    assert!(list.contains("s-0\tvalue\tfilter\t"), "{list}");
    let after: Vec<_> = asked
        .iter()
        .map(|w| grep(w))
        .map(|r| (r.code, r.out))
        .collect();
    assert_eq!(after, before);
    // One damaged filter is no wish for tables of all.
    fs::write(&index_files(&logs)[0], b"damaged").unwrap();
    let made = logs.output(&["index", "--json", "s-0"]);
    assert!(made.contains("\"made\":1,"), "{made}");
    let list = logs.output(&["index", "--list", "s-0"]);
    assert!(list.contains("s-0\tvalue\tfilter\t"), "{list}");
    logs.output(&["index", "--by", "key", "--bloom", "s-0"]);
    let list = logs.output(&["index", "--list", "s-0"]);
    assert!(list.contains("s-0\tkey\ttable,filter\t"), "{list}");
    check(&logs, &newest, "with filters");
}
