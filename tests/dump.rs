//! `logd dump` as a process: its exit status and what goes to which stream.

use assert_cmd::Command;
use std::path::{Path, PathBuf};

/// The corpus, or `None` (said on stderr) where there is none.
fn corpus() -> Option<PathBuf> {
    let dir = match std::env::var_os("LOGD_CORPUS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/kafka"),
    };
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: no corpus at {} (set LOGD_CORPUS)", dir.display());
    None
}

/// Status, stdout and stderr of `logd dump WORDS`, run in `dir`.
fn dump(dir: &Path, words: &[&str]) -> (i32, String, String) {
    let mut logd = Command::cargo_bin("logd").unwrap();
    logd.env_remove("LOGD_DIR").current_dir(dir);
    let out = logd.arg("dump").args(words).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    (
        out.status.code().unwrap(),
        text(out.stdout),
        text(out.stderr),
    )
}

#[test]
fn exit_0_and_silence_for_a_sound_log() {
    let Some(root) = corpus() else { return };
    let (code, out, err) = dump(&root.join("broker"), &["txn-0"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("{\"kind\":\"batch\",\"file\":\"txn-0/00000000000000000000.log\""));
}

#[test]
fn exit_65_past_damage_with_everything_behind_it() {
    let Some(root) = corpus() else { return };
    let dir = root.join("crash/flip-midseg");
    let (code, out, err) = dump(&dir, &["--batches", "before"]);
    assert_eq!(
        (code, err.as_str()),
        (65, "logd dump: before: 1 place is damaged\n")
    );
    let damage = out
        .lines()
        .position(|l| l.contains("\"kind\":\"damage\""))
        .unwrap();
    assert!(out.lines().count() > damage + 100);
    let (code, out, err) = dump(&dir, &["--kafka", "before/00000000000000000239.log"]);
    assert_eq!(code, 65);
    assert!(out.contains("isvalid: false") && !out.contains("damage"));
    assert!(
        err.contains("00000000000000000239.log: byte 32542: batch CRC-32C is"),
        "{err}"
    );
}

#[test]
fn exit_66_for_what_is_not_there_and_the_rest_is_shown() {
    let Some(root) = corpus() else { return };
    let (code, out, err) = dump(&root.join("broker"), &["nope", "empty-topic-0"]);
    assert_eq!(code, 66);
    assert!(
        err.starts_with("logd dump: nope: no such log or file"),
        "{err}"
    );
    assert!(out.contains("\"kind\":\"metadata\""));
}

#[test]
fn exit_2_for_words_that_exclude_each_other() {
    let (code, out, _) = dump(Path::new("."), &["--batches", "--records", "x"]);
    assert_eq!((code, out.as_str()), (2, ""));
    let (code, _, _) = dump(Path::new("."), &["--batches", "--kafka", "x"]);
    assert_eq!(code, 2);
}
