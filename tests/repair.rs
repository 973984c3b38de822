//! `logd repair` as a process: its exit status, what goes to which stream, and what is left alone.

mod common;

use common::Logs;

/// Three batches, the second damaged.
fn damaged() -> Logs {
    let logs = Logs::with("orders", &[]);
    for line in ["one\n", "two\n", "three\n"] {
        logs.append("orders", &[], line);
    }
    let path = logs.path("orders-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(3).position(|w| w == b"two").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    logs
}

#[test]
fn exit_0_and_silence_for_a_sound_log() {
    let logs = Logs::with("orders", &[]);
    logs.append("orders", &[], "one\n");
    assert_eq!(logs.output(&["repair", "orders"]), "");
    assert_eq!(logs.output(&["repair", "--dry-run", "orders"]), "");
}

#[test]
fn exit_1_with_each_range_that_is_lost() {
    let logs = damaged();
    let path = logs.path("orders-0/00000000000000000000.log");
    let before = std::fs::read(&path).unwrap();
    let dry = logs.run(&["repair", "--dry-run", "orders"], b"");
    assert_eq!((dry.code, dry.err.as_str()), (Some(1), ""), "{dry:?}");
    assert!(
        dry.out.contains("set aside bytes") && dry.out.contains("lost offsets 1..2"),
        "{dry:?}"
    );
    assert_eq!(before, std::fs::read(&path).unwrap());
    let ran = logs.run(&["repair", "orders"], b"");
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    let start = "orders-0/00000000000000000000.log: lost offsets 1..2: batch CRC-32C is";
    assert!(
        ran.out.starts_with(start) && ran.out.lines().count() == 1,
        "{ran:?}"
    );
    assert_eq!(logs.output(&["verify", "orders"]), "");
    assert_eq!(logs.output(&["repair", "orders"]), "");
    assert_eq!(logs.output(&["cat", "orders"]), "one\nthree\n");
    logs.append("orders", &[], "four\n");
    assert_eq!(
        logs.output(&["cat", "-F", "%o %s\n", "orders"]),
        "0 one\n2 three\n3 four\n"
    );
}

#[test]
fn json_tells_what_was_done_and_what_is_lost() {
    let logs = damaged();
    let ran = logs.run(&["repair", "--json", "orders"], b"");
    assert_eq!(ran.code, Some(1));
    let lines: Vec<serde_json::Value> = ran
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert!(lines.iter().any(|l| l["kind"] == "did"));
    let lost = lines.iter().find(|l| l["kind"] == "lost").unwrap();
    assert_eq!((&lost["first"], &lost["end"]), (&1.into(), &2.into()));
}

#[test]
fn exit_66_for_what_is_not_there() {
    let logs = Logs::empty();
    assert_eq!(logs.run(&["repair", "nope"], b"").code, Some(66));
}

/// A log of many segments, one record each.
fn many(count: usize) -> Logs {
    let logs = Logs::with("orders", &["--segment-size", "100"]);
    let input: String = (0..count)
        .map(|i| format!("k{i}\tvalue {i:040}\n"))
        .collect();
    logs.append("orders", &["-K", "\\t", "--batch-records", "1"], &input);
    logs
}

#[test]
fn a_log_may_have_more_segments_than_a_process_has_files() {
    let logs = many(80);
    let path = logs.path("orders-0/00000000000000000040.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let script = format!(
        "ulimit -n 40; exec '{}' repair orders",
        env!("CARGO_BIN_EXE_logd")
    );
    let mut sh = std::process::Command::new("sh");
    sh.args(["-c", &script]).current_dir(logs.root());
    let ran = sh.env("LOGD_CONFIG", "/dev/null").output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.code() == Some(1) && out.contains("lost offsets 40..41"),
        "{ran:?}"
    );
    assert_eq!(logs.output(&["verify", "orders"]), "");
}

#[test]
fn a_damaged_look_up_index_is_told_and_removed_and_a_void_one_is_neither() {
    let logs = many(6);
    let base = |n: usize| logs.path(&format!("orders-0/.logd/keys/{n:020}-key.lookup"));
    logs.output(&["index", "--by", "key", "orders"]);
    assert_eq!(logs.output(&["verify", "orders"]), "");
    std::fs::copy(base(1), base(2)).unwrap();
    assert_eq!(logs.output(&["verify", "orders"]), "");
    assert_eq!(logs.output(&["repair", "orders"]), "");
    assert!(base(2).exists());
    for at in [10, 5000] {
        logs.output(&["index", "orders"]);
        let mut bytes = std::fs::read(base(3)).unwrap();
        bytes[at] ^= 1;
        std::fs::write(base(3), &bytes).unwrap();
        let ran = logs.run(&["verify", "orders"], b"");
        assert_eq!(ran.code, Some(1), "{ran:?}");
        assert!(ran.out.contains("3-key.lookup:"), "{ran:?}");
        assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
        let dry = logs.output(&["repair", "--dry-run", "orders"]);
        assert!(dry.contains("3-key.lookup: remove"), "{dry}");
        assert!(base(3).exists());
        assert_eq!(logs.output(&["repair", "orders"]), "");
        assert!(!base(3).exists() && base(2).exists() && base(4).exists());
        assert_eq!(logs.output(&["verify", "orders"]), "");
    }
}
