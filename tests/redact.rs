//! `logd redact` as a process: what it prints, its exit status, and what is left on the disk.

mod common;

use common::{Logs, Ran};
use std::path::Path;

const WHY: [&str; 2] = ["--reason", "request 881"];

fn redact(logs: &Logs, words: &[&str]) -> Ran {
    logs.run(&[&["redact"], &WHY[..], words].concat(), b"")
}

/// Three records of ann among others, in two segments, compressed.
fn users() -> Logs {
    let logs = Logs::with("users-0", &["--segment-size", "1MiB"]);
    let lines = "ann\tsecret one\nbob\tplain\nann\tsecret two\n";
    logs.append("users", &["-K", "\\t", "-z", "zstd"], lines);
    logs.append("users", &["-K", "\\t"], "eve\tplain\nann\tsecret three\n");
    logs
}

/// Every file below `dir` that holds `text` as it is.
fn holders(dir: &Path, text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(holders(&path, text));
        } else if memchr_find(&std::fs::read(&path).unwrap(), text.as_bytes()) {
            out.push(path.display().to_string());
        }
    }
    out
}

fn memchr_find(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|w| w == text)
}

/// The names and bytes of the partition, but for locks.
fn files(logs: &Logs) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(logs.path("users-0")).unwrap();
    let paths = entries.map(|e| e.unwrap().path()).filter(|p| p.is_file());
    let mut all: Vec<_> = paths
        .map(|p| (p.display().to_string(), std::fs::read(p).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn without_yes_it_reports_and_changes_nothing() {
    let logs = users();
    let before = files(&logs);
    let table = "name\tfile\trecords\tredaction\n\
                 users-0\t00000000000000000000.log\t3\t-\n";
    for words in [
        &["-k", "ann", "users"][..],
        &["-k", "ann", "--dry-run", "users"],
    ] {
        let ran = redact(&logs, words);
        assert_eq!((ran.code, ran.out.as_str()), (Some(0), table), "{ran:?}");
    }
    let ran = redact(&logs, &["-k", "ann", "users"]);
    assert!(
        ran.err.contains("nothing was changed; --yes does it"),
        "{ran:?}"
    );
    let ran = redact(
        &logs,
        &["--match", "three$", "--json", "--dry-run", "users"],
    );
    let line = "{\"name\":\"users-0\",\"file\":\"00000000000000000000.log\",\"records\":1,\"redaction\":null}\n";
    assert_eq!((ran.out.as_str(), ran.err.as_str()), (line, ""));
    assert_eq!(files(&logs), before);
    assert!(!logs.path("users-0/.logd/redactions").exists());
}

#[test]
fn with_yes_the_content_is_gone_and_the_rest_is_as_it_was() {
    let logs = users();
    let ran = redact(&logs, &["-k", "ann", "--yes", "users"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (Some(0), "", ""),
        "{ran:?}"
    );
    assert!(holders(logs.root(), "secret").is_empty());
    let shown = logs.output(&["cat", "-F", "%o %k %S\\n", "users"]);
    assert_eq!(shown, "0 ann -1\n1 bob 5\n2 ann -1\n3 eve 5\n4 ann -1\n");
    let entry = std::fs::read_to_string(logs.path("users-0/.logd/redactions")).unwrap();
    let id = &entry[7..23];
    assert!(entry.contains("\"reason\":\"request 881\"") && entry.contains("\"records\":3"));
    assert!(
        !entry.contains("ann") && !entry.contains("\"finished\":null"),
        "{entry}"
    );
    let marks = logs.output(&["cat", "-F", "%h{redacted} ", "users"]);
    assert_eq!(marks, format!("{id}  {id}  {id} "));
    assert_eq!(logs.run(&["verify", "users"], b"").code, Some(0));
    // Again: nothing to do, nothing said, nothing written.
    let before = files(&logs);
    let ran = redact(&logs, &["-k", "ann", "--yes", "--json", "users"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    assert_eq!(files(&logs), before);
    logs.append("users", &[], "goes on\n");
    assert_eq!(logs.output(&["cat", "-o", "5", "users"]), "goes on\n");
}

#[test]
fn ranges_fields_and_drops() {
    let logs = users();
    let done = |words: &[&str]| {
        let ran = redact(&logs, &[words, &["--yes", "--json"]].concat());
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
        ran.out.matches("\"records\":1,").count()
    };
    assert_eq!(done(&["--drop", "users", "1"]), 1);
    assert_eq!(done(&["--only", "key", "-k", "eve", "users"]), 1);
    assert_eq!(done(&["-k", "ann", "users", "end-1.."]), 1);
    let shown = logs.output(&["cat", "-F", "%o %k %s\\n", "users"]);
    assert_eq!(
        shown,
        "0 ann secret one\n2 ann secret two\n3  plain\n4 ann \n"
    );
}

/// The index of a segment that holds nothing of it stays; others go, and so does what was made of a
/// segment that is no longer there.
#[test]
fn look_up_indexes_that_may_tell_of_it_are_removed() {
    let logs = Logs::with("users-0", &["--segment-size", "1KiB"]);
    for part in 0..6 {
        let key = if part == 2 { "ann" } else { "bob" };
        let lines = format!("{key}\t{}\n", "x".repeat(600));
        logs.append("users-0", &["-K", "\\t"], &lines);
    }
    logs.output(&["index", "--by", "key", "users-0"]);
    let name = |base: i32| format!("users-0/.logd/keys/{base:020}-key.lookup");
    let there = |base| logs.path(&name(base)).exists();
    assert!((0..5).all(there));
    std::fs::copy(logs.path(&name(2)), logs.path(&name(100))).unwrap();
    std::fs::copy(logs.path(&name(2)), logs.path(&name(4))).unwrap();
    let ran = redact(&logs, &["-k", "ann", "--yes", "--rate", "1GiB", "users"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let left: Vec<i32> = [0, 1, 2, 3, 4, 100]
        .into_iter()
        .filter(|b| there(*b))
        .collect();
    assert_eq!(left, [0, 1, 3]);
    assert_eq!(logs.output(&["verify", "users-0"]), "");
}

#[test]
fn content_outside_the_named_fields_is_told_and_65() {
    let logs = Logs::with("cards-0", &[]);
    logs.append(
        "cards",
        &[],
        "{\"card\":\"4111\",\"note\":\"ok\"}\n{\"card\":\"4111\",\"note\":\"4111\"}\n",
    );
    let ran = redact(
        &logs,
        &[
            "--match",
            "4[0-9]{3}",
            "--only",
            "json:/card",
            "--yes",
            "cards",
        ],
    );
    assert_eq!(ran.code, Some(65), "{ran:?}");
    let told = "cards-0: 1 records hold it outside of the fields that --only names, or are no JSON or row to find these in, first at offset 1";
    assert!(ran.err.contains(told), "{ran:?}");
    let shown = logs.output(&["cat", "cards"]);
    let expected = "{\"card\":null,\"note\":\"ok\"}\n{\"card\":null,\"note\":\"4111\"}\n";
    assert_eq!(shown, expected);
}

#[test]
fn wrong_usage_touches_nothing() {
    let logs = users();
    let before = files(&logs);
    for (words, told) in [
        (&["--yes", "users"][..], "what to redact is missing"),
        (
            &["-k", "ann", "--yes", "--dry-run", "users"],
            "exclude each other",
        ),
        (
            &["-k", "ann", "--drop", "--only", "key", "--yes", "users"],
            "exclude each other",
        ),
        (&["--in", "key", "--yes", "users"], "--match"),
        (
            &["--match", "a(", "--yes", "users"],
            "no regular expression",
        ),
        (
            &["-k", "ann", "--only", "column:name", "--yes", "users"],
            "by its number",
        ),
        (
            &["-k", "ann", "--only", "header:redacted", "--yes", "users"],
            "own mark",
        ),
    ] {
        let ran = redact(&logs, words);
        assert_eq!(ran.code, Some(2), "{words:?}: {ran:?}");
        assert!(ran.err.contains(told), "{words:?}: {ran:?}");
    }
    let ran = logs.run(&["redact", "-k", "ann", "--yes", "users"], b"");
    assert_eq!(ran.code, Some(2), "a reason is needed: {ran:?}");
    assert_eq!(
        redact(&logs, &["-k", "ann", "--yes", "nobody"]).code,
        Some(66)
    );
    assert_eq!(redact(&logs, &["--yes", "users", "99"]).code, Some(66));
    assert_eq!(files(&logs), before);
}

#[test]
fn verify_reports_an_unfinished_redaction_until_the_same_command_ends_it() {
    let logs = users();
    let command = ["-k", "ann", "--yes", "users"];
    assert_eq!(redact(&logs, &command).code, Some(0));
    let path = logs.path("users-0/.logd/redactions");
    let finished = std::fs::read_to_string(&path).unwrap();
    let at = finished.find("\"finished\":").unwrap();
    std::fs::write(&path, format!("{}\"finished\":null}}\n", &finished[..at])).unwrap();
    let told = logs.run(&["verify", "users"], b"");
    assert_eq!(told.code, Some(1), "{told:?}");
    let id = &finished[7..23];
    assert!(
        told.out.contains(&format!("redaction {id} by ")),
        "{told:?}"
    );
    // Another one is another one; the same one goes on under its own id.
    assert_eq!(
        redact(&logs, &["-k", "bob", "--yes", "users"]).code,
        Some(0)
    );
    assert_eq!(logs.run(&["verify", "users"], b"").code, Some(1));
    assert_eq!(redact(&logs, &command).code, Some(0));
    assert_eq!(logs.run(&["verify", "users"], b"").code, Some(0));
    let entries = std::fs::read_to_string(&path).unwrap();
    assert_eq!(entries.lines().count(), 2, "{entries}");
    assert!(entries.starts_with(&finished[..23]) && !entries.contains("finished\":null"));
}

#[test]
fn damage_is_named_and_65() {
    let logs = users();
    let path = logs.path("users-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let ran = redact(&logs, &["-k", "ann", "--yes", "users"]);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(
        ran.err.contains("CRC-32C") && ran.err.contains("hint: logd verify"),
        "{ran:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
