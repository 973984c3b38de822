//! `logd replicate` as a process: copies are equal byte for byte, whatever happens meanwhile.

mod common;

use common::{Logs, Ran, Running, numbers};
use std::path::Path;
use std::time::Duration;

fn ok(ran: Ran) -> String {
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{ran:?}");
    ran.out
}

/// The names of a partition's segments.
fn segments(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).unwrap();
    let names = all.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.ends_with(".log")).collect();
    names.sort();
    names
}

/// Bytes of a segment up to where its batches end: a writer may have filled zeros ahead.
fn content(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    bytes.truncate(end);
    bytes
}

fn same_bytes(logs: &Logs, a: &str, b: &str) {
    let (a, b) = (logs.path(a), logs.path(b));
    let names = segments(&a);
    assert_eq!(names, segments(&b));
    for name in names {
        assert!(content(&a.join(&name)) == content(&b.join(&name)), "{name}");
    }
}

fn is_prefix(logs: &Logs, copy: &str, source: &str) {
    let (copy, source) = (logs.path(copy), logs.path(source));
    let names = segments(&copy);
    assert!(segments(&source).starts_with(&names), "{names:?}");
    for (i, name) in names.iter().enumerate() {
        let (c, s) = (content(&copy.join(name)), content(&source.join(name)));
        assert!(s.starts_with(&c), "{name}");
        assert!(i + 1 == names.len() || s == c, "{name}");
    }
}

#[test]
fn a_copy_has_the_same_segments_and_bytes_and_is_brought_up_to_date() {
    let logs = Logs::with("a", &["--segment-size", "4KiB"]);
    logs.append("a", &["--batch-records", "10"], &numbers(0..2000));
    assert_eq!(ok(logs.run(&["replicate", "a", "b"], b"")), "");
    same_bytes(&logs, "a-0", "b-0");
    assert!(segments(&logs.path("b-0")).len() > 3);
    ok(logs.run(&["verify", "b"], b""));
    logs.append(
        "a",
        &["--batch-records", "7", "-z", "zstd"],
        &numbers(2000..3000),
    );
    let told = ok(logs.run(&["replicate", "--json", "a", "b"], b""));
    assert!(
        told.starts_with("{\"name\":\"b-0\",\"from\":2000,\"end\":3000,\"durable\":3000,"),
        "{told}"
    );
    same_bytes(&logs, "a-0", "b-0");
    // Nothing new is nothing to do.
    ok(logs.run(&["replicate", "a", "b"], b""));
    same_bytes(&logs, "a-0", "b-0");
    let refused = logs.run(&["append", "b"], b"x\n");
    assert_eq!(refused.code, Some(77), "{refused:?}");
}

#[test]
fn a_topic_is_copied_partition_by_partition() {
    let logs = Logs::with("a", &["--partitions", "3"]);
    logs.append("a", &[], &numbers(0..300));
    ok(logs.run(&["replicate", "a", "b"], b""));
    for n in 0..3 {
        same_bytes(&logs, &format!("a-{n}"), &format!("b-{n}"));
    }
    ok(logs.run(&["replicate", "a-1", "c-7"], b""));
    same_bytes(&logs, "a-1", "c-7");
    let refused = logs.run(&["replicate", "a", "d-0"], b"");
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.err.contains("one partition cannot hold a topic"),
        "{refused:?}"
    );
}

#[test]
fn what_differs_is_refused_and_left_alone() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &["--batch-records", "5"], &numbers(0..100));
    logs.init("b", &[]);
    logs.append("b", &["--batch-records", "5"], &numbers(0..50));
    // Batches carry the time of their records, so that the same lines are not the same batches.
    let before = content(&logs.path("b-0").join("00000000000000000000.log"));
    let ran = logs.run(&["replicate", "a", "b"], b"");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(ran.err.contains("diverged at offset 0 (crc "), "{ran:?}");
    assert!(ran.err.contains("nothing was written"), "{ran:?}");
    let after = content(&logs.path("b-0").join("00000000000000000000.log"));
    assert!(before == after);
    logs.append("b", &[], "still no copy\n");
}

#[test]
fn a_log_is_not_copied_into_itself() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &[], "x\n");
    let refused = |dest: &str| {
        let src = if dest == "a" { "a" } else { "a-0" };
        let ran = logs.run(&["replicate", src, dest], b"");
        assert_eq!(ran.code, Some(2), "{ran:?}");
        ran.err
    };
    assert!(refused("a").contains("the same log as"));
    assert!(refused("./a-0").contains("the same log as"));
    assert!(refused("a-0/inside").contains("lies inside"));
    assert!(refused("a-0/new/deeper").contains("lies inside"));
    std::os::unix::fs::symlink(logs.path("a-0"), logs.path("link-0")).unwrap();
    assert!(refused("link-0").contains("the same log as"));
    assert!(!logs.path("a-0/inside-0").exists());
}

#[test]
fn a_refused_run_leaves_no_new_log_behind() {
    let logs = Logs::empty();
    let ran = logs.run(&["replicate", "nowhere", "b"], b"");
    assert_eq!(ran.code, Some(66), "{ran:?}");
    assert!(!logs.path("b-0").exists());
}

#[test]
fn a_stream_carries_a_log_and_half_a_stream_half_of_it() {
    let logs = Logs::with("a", &["--partitions", "2", "--segment-size", "4KiB"]);
    logs.append("a", &["--batch-records", "10"], &numbers(0..2000));
    let stream = logs.logd(&["replicate", "a", "-"]).output().unwrap();
    assert!(stream.status.success());
    let bytes = stream.stdout;
    for cut in [
        0,
        1,
        11,
        100,
        bytes.len() / 3,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        let ran = logs.run(&["replicate", "-", "b"], &bytes[..cut]);
        assert_eq!(ran.code, Some(65), "{ran:?}");
        assert!(ran.err.contains("ends early"), "{ran:?}");
        for n in 0..2 {
            if logs.path(&format!("b-{n}")).exists() {
                is_prefix(&logs, &format!("b-{n}"), &format!("a-{n}"));
            }
        }
    }
    for _ in 0..2 {
        ok(logs.run(&["replicate", "-", "b"], &bytes));
        same_bytes(&logs, "a-0", "b-0");
        same_bytes(&logs, "a-1", "b-1");
    }
    // A bit that flips on the way.
    let mut spoilt = bytes.clone();
    let at = bytes.len() - 200;
    spoilt[at] ^= 4;
    let ran = logs.run(&["replicate", "-", "c"], &spoilt);
    assert_eq!(ran.code, Some(65), "{ran:?}");
    is_prefix(&logs, "c-0", "a-0");
    let ran = logs.run(&["replicate", "-", "d"], b"SSH-2.0-OpenSSH_9.6\r\n");
    assert_eq!(ran.code, Some(65), "{ran:?}");
    assert!(!logs.path("d-0").exists());
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}");
}

#[test]
fn a_follower_keeps_up_with_live_writers_and_ends_by_its_signal() {
    let logs = Logs::with("a", &["--segment-size", "64KiB", "--partitions", "2"]);
    let mut follower = Running::of(logs.logd(&["replicate", "-f", "a", "b"]));
    std::thread::scope(|s| {
        for n in 0..3u64 {
            let logs = &logs;
            s.spawn(move || {
                for i in 0..6 {
                    let from = (n * 6 + i) * 400;
                    logs.append("a", &["--batch-records", "9"], &numbers(from..from + 400));
                }
            });
        }
    });
    for n in 0..2 {
        let end = |log: &str| {
            logs.run(&["info", "--json", &format!("{log}-{n}")], b"")
                .out
        };
        let wanted = ok(logs.run(&["cat", "-F", "%o %s\\n", &format!("a-{n}")], b""));
        wait_until(&format!("{} {}", end("a"), end("b")), || {
            logs.run(&["cat", "-F", "%o %s\\n", &format!("b-{n}")], b"")
                .out
                == wanted
        });
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(follower.pid() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    let status = follower.ended(Duration::from_secs(10));
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    assert!(follower.err().contains("stopped: "), "{}", follower.err());
    same_bytes(&logs, "a-0", "b-0");
    same_bytes(&logs, "a-1", "b-1");
}

#[test]
fn killed_at_any_moment_a_copy_is_a_prefix_and_goes_on() {
    let logs = Logs::with("a", &["--segment-size", "256KiB"]);
    logs.append("a", &["--batch-records", "50"], &numbers(0..200_000));
    let mut random = common::Random(common::seed());
    for _ in 0..12 {
        let words = ["replicate", "--sync", "batch", "--rate", "4MiB", "a", "b"];
        let mut run = Running::of(logs.logd(&words));
        std::thread::sleep(Duration::from_millis(10 + random.next() % 60));
        run.kill();
        if logs.path("b-0").exists() {
            is_prefix(&logs, "b-0", "a-0");
        }
    }
    let ran = logs.run(&["replicate", "a", "b"], b"");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    same_bytes(&logs, "a-0", "b-0");
    ok(logs.run(&["verify", "b"], b""));
}

#[test]
fn directories_above_a_copy_are_made() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &[], &numbers(0..10));
    ok(logs.run(&["replicate", "a", "not/there/b"], b""));
    same_bytes(&logs, "a-0", "not/there/b-0");
}

#[test]
fn a_wrong_dest_that_was_promoted_once_does_not_fence_the_source() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &[], &numbers(0..10));
    ok(logs.run(&["init", "other"], b""));
    logs.append("other", &[], &numbers(50..53));
    ok(logs.run(&["replicate", "other", "spare"], b""));
    logs.run(&["promote", "spare"], b"");
    let refused = logs.run(&["replicate", "a", "spare"], b"");
    assert_eq!(refused.code, Some(65), "{refused:?}");
    logs.append("a", &[], &numbers(10..20));
}

/// A redaction does not reach a copy by itself yet; so a copy that still holds what was removed is told
/// from one that does not, and never passes for a copy.
#[test]
fn a_copy_that_still_holds_what_was_redacted_is_refused_until_it_is_made_anew() {
    let logs = Logs::empty();
    logs.append("a", &["--create", "-K", ":"], "u1:secret\nu2:fine\n");
    ok(logs.run(&["replicate", "a", "b"], b""));
    ok(logs.run(&["redact", "-k", "u1", "--reason", "r", "--yes", "a"], b""));
    logs.append("a", &["-K", ":"], "u3:later\n");
    let refused = logs.run(&["replicate", "a", "b"], b"");
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(refused.err.contains("diverged at offset 0"), "{refused:?}");
    assert!(
        refused
            .err
            .contains("redacted records there, which the copy still holds"),
        "{refused:?}"
    );
    // One made since is a copy, again and again.
    for _ in 0..2 {
        ok(logs.run(&["replicate", "a", "c"], b""));
        same_bytes(&logs, "a-0", "c-0");
    }
    logs.append("a", &["-K", ":"], "u4:later still\n");
    ok(logs.run(&["replicate", "a", "c"], b""));
    same_bytes(&logs, "a-0", "c-0");
    // And so is one that was cut.
    let cut = logs.run(&["replicate", "--truncate-divergent", "a", "b"], b"");
    assert_eq!(cut.code, Some(0), "{cut:?}");
    let b = ok(logs.run(&["cat", "-F", "%k:%s\n", "b"], b""));
    assert_eq!(b, "u1:\nu2:fine\nu3:later\nu4:later still\n");
    ok(logs.run(&["replicate", "a", "b"], b""));
}

#[test]
fn an_old_stream_into_the_log_that_it_is_of_changes_nothing() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &[], &numbers(0..10));
    let stream = logs.logd(&["replicate", "a", "-"]).output().unwrap().stdout;
    logs.append("a", &[], &numbers(10..20));
    let refused = logs.run(&["replicate", "-", "a"], &stream);
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(refused.err.contains("goes on to offset 20"), "{refused:?}");
    logs.append("a", &[], &numbers(20..30));
    let whole = logs.logd(&["replicate", "a", "-"]).output().unwrap().stdout;
    ok(logs.run(&["replicate", "-", "a"], &whole));
    logs.append("a", &[], &numbers(30..40));
    // A copy takes an old one again and again.
    ok(logs.run(&["replicate", "-", "b"], &whole));
    ok(logs.run(&["replicate", "-", "b"], &stream));
    ok(logs.run(&["replicate", "a", "b"], b""));
    same_bytes(&logs, "a-0", "b-0");
}

#[test]
fn settings_that_no_appender_could_use_are_not_taken_over() {
    let logs = Logs::with("a", &[]);
    logs.append("a", &[], &numbers(0..10));
    let config = logs.path("a-0").join(".logd/config.toml");
    std::fs::write(&config, "segment-size = \"huge\"\n").unwrap();
    let refused = logs.run(&["replicate", "a", "b"], b"");
    assert_eq!(refused.code, Some(65), "{refused:?}");
    assert!(refused.err.contains("config.toml"), "{refused:?}");
    assert!(!logs.path("b-0").exists());
}
