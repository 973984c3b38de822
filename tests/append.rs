//! `logd append` as a process: exit statuses, streams, signals, pipes, and other appenders.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

fn logd(dir: &TempDir, words: &[&str]) -> Command {
    let mut c = Command::new(assert_cmd::cargo::cargo_bin!("logd"));
    c.env_remove("LOGD_DIR").env_remove("LOGD_CONFIG");
    c.env("XDG_CONFIG_HOME", dir.path().join("none"));
    c.current_dir(dir.path()).args(words);
    c
}

fn scratch() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs `logd append WORDS` with `input` on a pipe.
fn append(dir: &TempDir, words: &[&str], input: &[u8]) -> Output {
    let mut child = start(dir, words);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || {
        // A command that stops early closes the pipe.
        let _ = stdin.write_all(&input);
    });
    let out = child.wait_with_output().unwrap();
    feed.join().unwrap();
    out
}

fn start(dir: &TempDir, words: &[&str]) -> Child {
    let mut c = logd(dir, &[&["append"], words].concat());
    c.stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    c.spawn().unwrap()
}

fn code(out: &Output) -> i32 {
    out.status
        .code()
        .unwrap_or(-out.status.signal().unwrap_or(0))
}

fn err(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn out(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The records of a log as `dump` shows them.
fn records(dir: &TempDir, log: &str) -> Vec<serde_json::Value> {
    let o = logd(dir, &["dump", "--records", log]).output().unwrap();
    assert_eq!(code(&o), 0, "{}", err(&o));
    let all = out(&o);
    let all = all
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    all.filter(|v| v["kind"] == "record").collect()
}

fn values(dir: &TempDir, log: &str) -> Vec<String> {
    let text = |v: &serde_json::Value| v["value"].as_str().unwrap_or("null").to_string();
    records(dir, log).iter().map(text).collect()
}

fn batches(dir: &TempDir, log: &str) -> Vec<serde_json::Value> {
    let o = logd(dir, &["dump", "--batches", log]).output().unwrap();
    let all = out(&o);
    let all = all
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    all.filter(|v| v["kind"] == "batch").collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn success_is_silent_and_stores_every_line_as_it_is() {
    let dir = scratch();
    let o = append(&dir, &["--create", "t"], b"a\n\nc\r\nlast");
    assert_eq!(
        (code(&o), out(&o), err(&o)),
        (0, String::new(), String::new())
    );
    assert_eq!(values(&dir, "t-0"), ["a", "", "c\r", "last"]);
}

#[test]
fn exit_66_without_create_and_the_hint_says_how() {
    let dir = scratch();
    let o = append(&dir, &["orders"], b"a\n");
    assert_eq!(code(&o), 66);
    assert_eq!(
        err(&o),
        "logd append: orders: no such log\n\
         hint: logd init orders            (or: logd append --create orders)\n"
    );
}

#[test]
fn malformed_record_stops_at_its_line_and_counts_what_is_before_it() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"x\ny\n");
    let o = append(
        &dir,
        &["-F", "json", "t"],
        b"{\"value\":\"a\"}\n{\"value\":\"b\"}\nnope\n{\"value\":\"c\"}\n",
    );
    assert_eq!(code(&o), 65);
    let first = err(&o).lines().next().unwrap().to_string();
    assert_eq!(
        first,
        "logd append: t-0: stdin:3: not JSON at column 1; 2 records were written, offsets 2..4"
    );
    assert!(
        err(&o)
            .lines()
            .last()
            .unwrap()
            .ends_with("; 19 bytes read and not acknowledged"),
        "{}",
        err(&o)
    );
    assert_eq!(values(&dir, "t-0"), ["x", "y", "a", "b"]);
}

#[test]
fn skipped_records_are_kept_with_their_reasons() {
    let dir = scratch();
    let words = [
        "--create",
        "-F",
        "json",
        "--on-error",
        "skip",
        "--rejects",
        "rejects",
        "t",
    ];
    let o = append(
        &dir,
        &words,
        b"{\"value\":\"a\"}\nnope\n\xff\n{\"value\":\"c\"}\n",
    );
    assert_eq!(code(&o), 65, "{}", err(&o));
    assert_eq!(values(&dir, "t-0"), ["a", "c"]);
    let text = fs::read_to_string(dir.path().join("rejects")).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines[0]["line"], 2);
    assert_eq!(lines[0]["record"], "nope\n");
    assert_eq!(lines[1]["record_b64"], "/wo=");
    assert_eq!(lines.len(), 2);
}

#[test]
fn exit_2_for_options_that_exclude_each_other_and_nothing_is_touched() {
    let dir = scratch();
    for words in [
        &["--create", "--once", "x", "--unique", "1h", "t"][..],
        &["--create", "--once", "x", "-F", "batch", "t"],
        &["--create", "--on-error", "skip", "t"],
        &["--create", "--batch-records", "0", "t"],
        &["--create", "--sync", "1", "t"],
        &["--create", "--once", "a/b", "t"],
        &["--create", "-F", "%k", "t"],
        &["--create", "--batch-size", "1GiB", "t"],
        &["--create", "-T", "--json", "t"],
    ] {
        let o = append(&dir, words, b"a\n");
        assert_eq!(code(&o), 2, "{words:?}: {}", err(&o));
    }
    let made: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    // A --once name is looked at when the log is there.
    assert!(made.len() <= 1 && values(&dir, "t-0").is_empty() || made.is_empty());
}

#[test]
fn a_line_is_in_the_log_while_the_input_stays_open() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "t"]);
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..3 {
        writeln!(stdin, "line {n}").unwrap();
        let path = dir.path().join("t-0");
        wait_until("line in the log", || {
            path.exists() && values(&dir, "t-0").len() == n + 1
        });
    }
    drop(stdin);
    assert_eq!(code(&child.wait_with_output().unwrap()), 0);
    assert_eq!(batches(&dir, "t-0").len(), 3);
}

#[test]
fn tee_shows_a_line_only_once_it_is_durable() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "-T", "--sync", "batch", "t"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for n in 0..3 {
        writeln!(stdin, "line {n}").unwrap();
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("line {n}\n"));
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn tee_that_nobody_reads_does_not_stop_the_log() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "-T", "--sync", "exit", "t"]);
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..200_000 {
        writeln!(stdin, "a line of some length, number {n}").unwrap();
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(
        batches(&dir, "t-0")
            .iter()
            .map(|b| b["count"].as_u64().unwrap())
            .sum::<u64>(),
        200_000
    );
}

#[test]
fn signal_ends_the_run_with_everything_whole_written() {
    for signal in [
        nix::sys::signal::SIGINT,
        nix::sys::signal::SIGTERM,
        nix::sys::signal::SIGHUP,
    ] {
        let dir = scratch();
        let mut child = start(&dir, &["--create", "--spill", "rest", "t"]);
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(b"one\ntwo\nhalf a li").unwrap();
        let path = dir.path().join("t-0");
        wait_until("lines in the log", || {
            path.exists() && values(&dir, "t-0").len() == 2
        });
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
        let mut text = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(signal as i32), "{text}");
        assert!(text.contains("t-0: 2 records safely written, from 8 bytes of input, offsets 0..2 (durable to 2); 9 bytes read and not acknowledged"), "{text}");
        assert_eq!(fs::read(dir.path().join("rest")).unwrap(), b"half a li");
        assert_eq!(values(&dir, "t-0"), ["one", "two"]);
    }
}

#[test]
fn spill_of_a_pipe_gets_what_was_not_taken() {
    let dir = scratch();
    let o = append(
        &dir,
        &["--create", "-F", "json", "--spill", "rest", "t"],
        b"{\"value\":\"a\"}\nnope\n{\"value\":\"b\"}\n",
    );
    assert_eq!(code(&o), 65);
    assert_eq!(
        fs::read(dir.path().join("rest")).unwrap(),
        b"nope\n{\"value\":\"b\"}\n"
    );
    // A success leaves it empty, so that it can always be fed in first.
    let o = append(&dir, &["--spill", "rest", "t"], b"x\n");
    assert_eq!(
        (code(&o), fs::read(dir.path().join("rest")).unwrap()),
        (0, vec![])
    );
}

#[test]
fn skip_bytes_goes_on_where_a_failed_run_said() {
    let dir = scratch();
    let file = dir.path().join("in.csv");
    fs::write(&file, "id,name\n1,a\n2,b\nbad\"row\"x,\"\n3,c\n").unwrap();
    let words = [
        "--create",
        "-F",
        "csv",
        "--key-from",
        "column:id",
        "t",
        "in.csv",
    ];
    let o = append(&dir, &words, b"");
    assert_eq!(code(&o), 65, "{}", err(&o));
    let at = err(&o)
        .split("--skip-bytes ")
        .nth(1)
        .unwrap()
        .trim()
        .to_string();
    assert_eq!(at, "16");
    fs::write(&file, "id,name\n1,a\n2,b\n4,d\n3,c\n").unwrap();
    let o = append(
        &dir,
        &[
            "-F",
            "csv",
            "--key-from",
            "column:id",
            "--skip-bytes",
            &at,
            "t",
            "in.csv",
        ],
        b"",
    );
    assert_eq!(code(&o), 0, "{}", err(&o));
    let keys: Vec<String> = records(&dir, "t-0")
        .iter()
        .map(|r| r["key"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(keys, ["1", "2", "4", "3"]);
    let o = append(&dir, &["--skip-bytes", "4", "t"], b"cut\nkept\n");
    assert_eq!(
        (code(&o), values(&dir, "t-0").pop().unwrap().as_str()),
        (0, "kept")
    );
}

#[test]
fn files_are_read_one_after_the_other_and_named_in_errors() {
    let dir = scratch();
    fs::write(dir.path().join("a"), "1\n2").unwrap();
    fs::write(dir.path().join("b"), "3\n").unwrap();
    fs::write(dir.path().join("c"), "k;4\nno key\n").unwrap();
    let o = append(&dir, &["--create", "t", "a", "-", "b"], b"from stdin\n");
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert_eq!(values(&dir, "t-0"), ["1", "2", "from stdin", "3"]);
    let o = append(&dir, &["-K", ";", "t", "c"], b"");
    assert_eq!(code(&o), 65);
    assert!(
        err(&o).starts_with("logd append: t-0: c:2: "),
        "{}",
        err(&o)
    );
    let o = append(&dir, &["--whole", "t", "a", "c"], b"");
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert_eq!(values(&dir, "t-0")[5..], ["1\n2", "k;4\nno key\n"]);
    let o = append(&dir, &["t", "a", "nowhere"], b"");
    assert_eq!(
        (code(&o), values(&dir, "t-0").len()),
        (66, 7),
        "{}",
        err(&o)
    );
}

#[test]
fn print_gives_one_bare_value() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"a\nb\n");
    for (what, want) in [
        ("first", "2"),
        ("last", "4"),
        ("count", "2"),
        ("next", "10"),
    ] {
        let o = append(&dir, &["--print", what, "t"], b"c\nd\n");
        assert_eq!(code(&o), 0);
        let base = values(&dir, "t-0").len() as i64 - 2;
        let want = match what {
            "first" => base,
            "last" => base + 1,
            "next" => base + 2,
            _ => want.parse().unwrap(),
        };
        assert_eq!(out(&o), format!("{want}\n"), "{what}");
    }
    assert_eq!(out(&append(&dir, &["--print", "next", "t"], b"")), "10\n");
    assert_eq!(out(&append(&dir, &["--print", "count", "t"], b"")), "0\n");
}

#[test]
fn json_report_accounts_for_every_partition() {
    let dir = scratch();
    logd(&dir, &["init", "--partitions", "3", "t"])
        .status()
        .unwrap();
    let input: String = (0..100).map(|n| format!("k{n}\tv{n}\n")).collect();
    let o = append(&dir, &["-K", "\\t", "--json", "t"], input.as_bytes());
    let report: serde_json::Value = serde_json::from_str(&out(&o)).unwrap();
    assert_eq!(report["records"], 100);
    assert_eq!(report["bytes"].as_u64().unwrap() as usize, input.len());
    for p in 0..3 {
        let n = records(&dir, &format!("t-{p}")).len() as u64;
        let part = &report["partitions"][p];
        assert_eq!(
            (part["records"].as_u64(), part["durable"].as_u64()),
            (Some(n), Some(n))
        );
        assert!(n > 10);
    }
}

#[test]
fn expect_offset_exits_1_and_writes_nothing() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"a\nb\n");
    let o = append(&dir, &["--expect-offset", "1", "t"], b"c\n");
    assert_eq!(code(&o), 1);
    assert!(
        err(&o).contains("the first record would get offset 2, not 1"),
        "{}",
        err(&o)
    );
    let o = append(&dir, &["--expect-offset", "2", "t"], b"c\n");
    assert_eq!((code(&o), values(&dir, "t-0").len()), (0, 3));
}

#[test]
fn keep_offsets_must_rise_past_the_end() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"a\nb\n");
    let input = b"{\"offset\":5,\"value\":\"x\"}\n{\"offset\":9,\"value\":\"y\"}\n{\"offset\":9,\"value\":\"z\"}\n";
    let o = append(&dir, &["-F", "json", "--keep-offsets", "t"], input);
    assert_eq!(code(&o), 65, "{}", err(&o));
    let offsets: Vec<i64> = records(&dir, "t-0")
        .iter()
        .map(|r| r["offset"].as_i64().unwrap())
        .collect();
    assert_eq!(offsets, [0, 1, 5, 9]);
    let o = append(
        &dir,
        &["-F", "json", "--keep-offsets", "t"],
        b"{\"offset\":3,\"value\":\"x\"}\n",
    );
    assert_eq!(code(&o), 65);
    assert!(
        err(&o).contains("offset 3 is not past 10, the end"),
        "{}",
        err(&o)
    );
}

#[test]
fn stored_batches_keep_everything_but_their_place() {
    let dir = scratch();
    append(
        &dir,
        &[
            "--create",
            "-z",
            "zstd",
            "-H",
            "a=b",
            "-k",
            "key",
            "--timestamp",
            "@1000",
            "s",
        ],
        b"1\n2\n3\n",
    );
    append(&dir, &["--create", "t"], b"x\n");
    let stored = fs::read(dir.path().join("s-0/00000000000000000000.log")).unwrap();
    let o = append(&dir, &["-F", "batch", "t"], &stored);
    assert_eq!(code(&o), 0, "{}", err(&o));
    let all = records(&dir, "t-0");
    assert_eq!(all.len(), 4);
    assert_eq!(
        (
            all[3]["offset"].as_i64(),
            all[3]["value"].as_str(),
            all[3]["key"].as_str()
        ),
        (Some(3), Some("3"), Some("key"))
    );
    assert_eq!(batches(&dir, "t-0")[1]["codec"], "zstd");
    let mut torn = stored.clone();
    torn[70] ^= 1;
    let o = append(&dir, &["-F", "batch", "t"], &torn);
    assert_eq!(
        (code(&o), records(&dir, "t-0").len()),
        (65, 4),
        "{}",
        err(&o)
    );
}

#[test]
fn once_goes_on_after_a_kill() {
    let dir = scratch();
    let input: String = (0..50_000).map(|n| format!("record {n}\n")).collect();
    fs::write(dir.path().join("in"), &input).unwrap();
    let words = [
        "--create",
        "--once",
        "job",
        "--batch-records",
        "10",
        "t",
        "in",
    ];
    for _ in 0..4 {
        let mut child = start(&dir, &words);
        std::thread::sleep(Duration::from_millis(15));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for _ in 0..2 {
        let o = append(&dir, &words, b"");
        assert_eq!(code(&o), 0, "{}", err(&o));
        let all = values(&dir, "t-0");
        assert_eq!(all.len(), 50_000);
        assert!(all.iter().zip(input.lines()).all(|(a, b)| a == b));
    }
}

#[test]
fn unique_drops_repeats_of_an_id() {
    let dir = scratch();
    let input = b"a;1\nb;2\na;3\n";
    let o = append(
        &dir,
        &["--create", "-K", ";", "--unique", "1h", "--json", "t"],
        input,
    );
    let report: serde_json::Value = serde_json::from_str(&out(&o)).unwrap();
    assert_eq!(
        (report["records"].as_u64(), report["repeated"].as_u64()),
        (Some(2), Some(1))
    );
    assert_eq!(values(&dir, "t-0"), ["1", "2"]);
    // The next run knows what the last one took.
    append(&dir, &["-K", ";", "--unique", "1h", "t"], b"b;4\nc;5\n");
    assert_eq!(values(&dir, "t-0"), ["1", "2", "5"]);
    append(&dir, &["-K", ";", "--unique", "1ms", "t"], b"b;6\n");
    assert_eq!(values(&dir, "t-0"), ["1", "2", "5", "6"]);
    let json = |id: u32| format!("{{\"value\":\"{{\\\"id\\\":{id}}}\"}}\n");
    let words = ["-F", "json", "--unique", "1h", "--id-from", "json:/id", "t"];
    for id in [1, 2, 1, 2] {
        append(&dir, &words, json(id).as_bytes());
    }
    assert_eq!(values(&dir, "t-0").len(), 6);
}

#[test]
fn appenders_interleave_batches_and_never_break_one() {
    let dir = scratch();
    logd(&dir, &["init", "--segment-size", "256KiB", "t"])
        .status()
        .unwrap();
    let mut children = Vec::new();
    for w in 0..4 {
        let mut child = start(&dir, &["--sync", "never", "--batch-records", "7", "t"]);
        let mut stdin = child.stdin.take().unwrap();
        let feed = std::thread::spawn(move || {
            for n in 0..5000 {
                writeln!(stdin, "{w} {n}").unwrap();
            }
        });
        children.push((child, feed));
    }
    for (child, feed) in children {
        feed.join().unwrap();
        assert_eq!(code(&child.wait_with_output().unwrap()), 0);
    }
    let all = values(&dir, "t-0");
    assert_eq!(all.len(), 20_000);
    for w in 0..4 {
        let own: Vec<u32> = all
            .iter()
            .filter_map(|v| v.strip_prefix(&format!("{w} ")))
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(own.iter().copied().eq(0..5000), "writer {w} is in order");
    }
}

#[test]
fn exclusive_keeps_others_out() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "--exclusive", "t"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    let path = dir.path().join("t-0");
    wait_until("line in the log", || {
        path.exists() && values(&dir, "t-0").len() == 1
    });
    let o = append(&dir, &["--wait", "0s", "t"], b"b\n");
    assert_eq!(code(&o), 75, "{}", err(&o));
    assert!(
        err(&o).contains("locked by 'logd append' (pid "),
        "{}",
        err(&o)
    );
    let o = append(&dir, &["--wait", "0s", "--skip-if-locked", "t"], b"b\n");
    assert_eq!((code(&o), err(&o)), (0, String::new()));
    stdin.write_all(b"c\n").unwrap();
    drop(stdin);
    assert_eq!(code(&child.wait_with_output().unwrap()), 0);
    assert_eq!(values(&dir, "t-0"), ["a", "c"]);
}

#[test]
fn timeout_exits_124_with_what_came_written() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "--timeout", "300ms", "t"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"a\n").unwrap();
    let o = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(
        (code(&o), values(&dir, "t-0").len()),
        (124, 1),
        "{}",
        err(&o)
    );
}

#[test]
fn the_log_itself_is_no_input() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"a\n");
    let o = append(&dir, &["t", "t-0/00000000000000000000.log"], b"");
    assert_eq!(code(&o), 2, "{}", err(&o));
    assert_eq!(values(&dir, "t-0"), ["a"]);
}

#[test]
fn compressed_batches_keep_the_order_of_the_input() {
    let dir = scratch();
    let input: String = (0..200_000)
        .map(|n| format!("a line that compresses, {n}\n"))
        .collect();
    for codec in ["gzip", "snappy", "lz4", "zstd:1"] {
        let name = codec.replace(':', "");
        fs::write(dir.path().join("in"), &input).unwrap();
        let o = append(
            &dir,
            &["--create", "-z", codec, "--sync", "never", &name, "in"],
            b"",
        );
        assert_eq!(code(&o), 0, "{}", err(&o));
        let all = values(&dir, &format!("{name}-0"));
        assert!(all.iter().map(String::as_str).eq(input.lines()), "{codec}");
        let size = fs::metadata(
            dir.path()
                .join(format!("{name}-0/00000000000000000000.log")),
        )
        .unwrap()
        .len();
        assert!((size as usize) < input.len() / 2, "{codec}: {size}");
    }
}

#[test]
fn batch_limits_shape_the_batches() {
    let dir = scratch();
    let input: String = (0..1000).map(|n| format!("line {n:05}\n")).collect();
    fs::write(dir.path().join("in"), &input).unwrap();
    append(&dir, &["--create", "--batch-records", "64", "a", "in"], b"");
    let counts: Vec<u64> = batches(&dir, "a-0")
        .iter()
        .map(|b| b["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts.iter().sum::<u64>(), 1000);
    assert!(counts[..15].iter().all(|n| *n == 64), "{counts:?}");
    append(&dir, &["--create", "--batch-size", "2KiB", "b", "in"], b"");
    let sizes: Vec<u64> = batches(&dir, "b-0")
        .iter()
        .map(|b| b["size"].as_u64().unwrap())
        .collect();
    assert!(
        sizes.iter().all(|n| *n <= 2048) && sizes[0] > 1900,
        "{sizes:?}"
    );
}

#[test]
fn unkeyed_records_go_round_robin_batch_by_batch() {
    let dir = scratch();
    logd(&dir, &["init", "--partitions", "2", "t"])
        .status()
        .unwrap();
    let input: String = (0..40).map(|n| format!("{n}\n")).collect();
    fs::write(dir.path().join("in"), &input).unwrap();
    append(&dir, &["--batch-records", "10", "t", "in"], b"");
    let want = |from: usize| -> Vec<String> {
        (from..from + 10)
            .chain(from + 20..from + 30)
            .map(|n| n.to_string())
            .collect()
    };
    assert_eq!(values(&dir, "t-0"), want(0));
    assert_eq!(values(&dir, "t-1"), want(10));
    append(&dir, &["-p", "1", "t", "in"], b"");
    assert_eq!(
        (values(&dir, "t-0").len(), values(&dir, "t-1").len()),
        (20, 60)
    );
}

#[test]
fn append_time_logs_stamp_their_own_time() {
    let dir = scratch();
    logd(&dir, &["init", "--timestamps", "append", "t"])
        .status()
        .unwrap();
    append(&dir, &["--timestamp", "@1000", "t"], b"a\n");
    let b = &batches(&dir, "t-0")[0];
    assert_eq!(b["timestamp_type"], "append");
    assert!(b["max_ts"].as_i64().unwrap() > 1_600_000_000_000);
}

#[test]
fn a_limit_on_file_sizes_is_an_error_that_leaves_whole_batches() {
    let dir = scratch();
    append(&dir, &["--create", "t"], b"first\n");
    let logd = assert_cmd::cargo::cargo_bin!("logd");
    let limited = format!("ulimit -f 100; exec {} append t", logd.display());
    let mut c = Command::new("sh");
    c.args(["-c", &limited]).current_dir(dir.path());
    c.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = c.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let feed = std::thread::spawn(move || {
        let _ = stdin.write_all(format!("{}\n", "x".repeat(99)).repeat(20_000).as_bytes());
    });
    let o = child.wait_with_output().unwrap();
    feed.join().unwrap();
    assert_eq!(code(&o), 74, "{}", err(&o));
    assert!(err(&o).contains("file too large"), "{}", err(&o));
    let o = append(&dir, &["t"], b"last\n");
    assert_eq!((code(&o), err(&o)), (0, String::new()));
    assert_eq!(values(&dir, "t-0").last().unwrap(), "last");
}

#[test]
fn usr1_asks_for_one_line_also_while_nothing_comes() {
    let dir = scratch();
    let mut child = start(&dir, &["--create", "t"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    wait_until("records in the log", || {
        dir.path().join("t-0").exists() && values(&dir, "t-0").len() == 2
    });
    let pid = child.id().to_string();
    let kill = Command::new("kill").args(["-USR1", &pid]).status();
    assert!(kill.unwrap().success());
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    stderr.read_line(&mut line).unwrap();
    assert!(line.starts_with("logd append: 8 B, "), "{line}");
    drop(stdin);
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), child.wait().unwrap().code()), ("", Some(0)));
}

#[test]
fn tee_to_a_terminal_steers_nothing_unless_raw() {
    let dir = scratch();
    fs::write(dir.path().join("in"), b"a\x1b[2Jb\nc\xff\n").unwrap();
    let on_terminal = |words: &str| {
        let command = format!("{} append {words} t in", env!("CARGO_BIN_EXE_logd"));
        let mut script = Command::new("script");
        script.args(["-qec", &command, "/dev/null"]);
        let out = script.current_dir(dir.path()).stdin(Stdio::null()).output();
        out.map(|o| (code(&o), String::from_utf8_lossy(&o.stdout).into_owned()))
    };
    let Ok((status, shown)) = on_terminal("--create -T") else {
        eprintln!("skipped: no terminal to be had: script(1)");
        return;
    };
    assert_eq!(status, 0, "{shown}");
    assert!(shown.starts_with("a\\x1b[2Jb\r\nc\\xff\r\n"), "{shown:?}");
    let (_, shown) = on_terminal("-T --raw").unwrap();
    assert!(shown.starts_with("a\x1b[2Jb\r\n"), "{shown:?}");
    let (status, shown) = on_terminal("-T -F frames").unwrap();
    assert_eq!(status, 2, "{shown}");
}
