//! `logd verify` as a process: its exit status and what goes to which stream.

mod common;

use common::Logs;

#[test]
fn exit_0_and_silence_for_a_sound_log() {
    let logs = Logs::with("orders", &["--partitions", "2"]);
    logs.append("orders", &["-p", "0"], "a\nb\nc\n");
    assert_eq!(logs.output(&["verify", "orders"]), "");
    assert_eq!(logs.output(&["verify", "--quick", "-q", "orders-0"]), "");
    let json = logs.output(&["verify", "--json", "orders-0"]);
    assert!(
        json.contains("\"records\":3") && json.contains("\"problems\":0"),
        "{json}"
    );
}

#[test]
fn exit_1_with_a_line_for_each_problem() {
    let logs = Logs::with("orders", &[]);
    for line in ["one\n", "two\n", "three\n"] {
        logs.append("orders", &[], line);
    }
    let path = logs.path("orders-0/00000000000000000000.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let (first, len) = (bytes.len() / 3, bytes.len());
    bytes[first + 65] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let ran = logs.run(&["verify", "orders"], b"");
    let start = "orders-0/00000000000000000000.log:";
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.out.starts_with(start), "{ran:?}");
    assert!(ran.out.contains("offset 1: batch CRC-32C is"), "{ran:?}");
    assert_eq!(ran.out.lines().count(), 1, "{ran:?}");
    let json = logs.run(&["verify", "--json", "orders"], b"");
    assert!(
        json.out
            .starts_with("{\"kind\":\"problem\",\"log\":\"orders-0\""),
        "{json:?}"
    );
    assert_eq!(len, std::fs::read(&path).unwrap().len());
}

#[test]
fn exit_66_for_what_is_not_there_and_2_for_wrong_words() {
    let logs = Logs::with("orders", &[]);
    assert_eq!(logs.run(&["verify", "nope", "orders"], b"").code, Some(66));
    assert_eq!(
        logs.run(&["verify", "--digest=keys", "orders"], b"").code,
        Some(2)
    );
    assert_eq!(
        logs.run(&["verify", "--rate", "fast", "orders"], b"").code,
        Some(2)
    );
}

#[test]
fn digests_of_two_logs_show_only_what_differs() {
    let logs = Logs::with("a", &[]);
    logs.init("b", &[]);
    for log in ["a", "b"] {
        logs.append(log, &["--timestamp", "@1"], "x\ny\n");
    }
    assert_eq!(logs.output(&["verify", "--digest", "a", "b"]), "");
    assert_eq!(logs.output(&["verify", "--digest=records", "a", "b"]), "");
    let one = logs.output(&["verify", "--digest", "a"]);
    assert!(
        one.ends_with("  a-0/00000000000000000000.log\n") && one.len() > 64,
        "{one}"
    );
    logs.append("b", &["--timestamp", "@2"], "z\n");
    let ran = logs.run(&["verify", "--digest=records", "a", "b"], b"");
    assert_eq!(ran.code, Some(1));
    let marks: Vec<&str> = ran.out.lines().map(|l| &l[..2]).collect();
    assert_eq!(marks, ["< ", "> "], "{ran:?}");
}

#[test]
fn digests_name_the_segments_that_differ_and_no_others() {
    let logs = Logs::with("a", &["--segment-size", "100"]);
    logs.init("b", &["--segment-size", "100"]);
    let options = ["--timestamp", "@1", "--batch-records", "1"];
    for (log, third) in [("a", "c"), ("b", "C")] {
        let input = format!("{0}a\n{0}b\n{0}{third}\n{0}d\n", "x".repeat(60));
        logs.append(log, &options, &input);
    }
    let ran = logs.run(&["verify", "--digest", "a", "b"], b"");
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    for (line, mark, log) in [(lines[0], "< ", "a-0"), (lines[1], "> ", "b-0")] {
        let named = line.contains(&format!("{log}/00000000000000000002.log"));
        assert!(line.starts_with(mark) && named, "{line}");
    }
}
