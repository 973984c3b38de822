//! Reading commands on other hosts, through a real sshd on loopback.

mod common;
mod sshd;

use common::{Logs, Ran};
use sshd::{Sshd, eventually, runs, user};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

/// Logs here, logs elsewhere, and the way there.
struct Hosts {
    here: Logs,
    there: Logs,
    sshd: Sshd,
    host: String,
}

impl Hosts {
    fn new() -> Option<Hosts> {
        let there = Logs::empty();
        let sshd = Sshd::start(there.root())?;
        Some(Hosts {
            here: Logs::empty(),
            there,
            sshd,
            host: format!("{}@127.0.0.1", user()),
        })
    }

    fn at(&self, log: &str) -> String {
        format!("{}:{log}", self.host)
    }

    fn logd(&self, words: &[&str]) -> Command {
        let mut logd = self.here.logd(words);
        logd.env("LOGD_SSH", self.sshd.ssh()).stdin(Stdio::null());
        logd
    }

    fn run(&self, words: &[&str]) -> Ran {
        ran(self.logd(words))
    }

    fn output(&self, words: &[&str]) -> String {
        let ran = self.run(words);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        ran.out
    }
}

fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Records with odd keys and values.
fn fill(logs: &Logs, log: &str) {
    logs.init(log, &[]);
    let records = r#"{"key":"u1","value":"first","ts":1000}
{"key":"it's","value":"a\tb","ts":2000}
{"key":"-k","value":"two\nlines","ts":3000}
{"key":"\\d \"x\" $(id)","value":"\\d 100% é","ts":4000}
{"key":null,"value":"last","headers":[["h","1"]],"ts":5000}
"#;
    logs.append(log, &["-F", "json"], records);
}

#[test]
fn what_is_read_elsewhere_is_what_is_read_there() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "orders");
    hosts.there.init("empty", &[]);
    let commands: &[&[&str]] = &[
        &["cat", "orders"],
        &["cat", "-0", "orders"],
        &["cat", "-F", "batch", "orders"],
        &[
            "cat",
            "-F",
            "%o %k{json} %s{hex}\\n",
            "-o",
            "1..4",
            "orders",
        ],
        &["cat", "-r", "-n", "2", "-F", "csv", "orders"],
        &["cat", "-F", "csv", "empty"],
        &["tail", "-n", "2", "orders"],
        &["grep", "-c", "a|s", "orders"],
        &["grep", "-i", "-C", "1", "FIRST", "orders"],
        &["grep", "nothing", "orders"],
        &["grep", "-Q", "\\d 100%", "orders"],
        &["grep", "--in", "key", "it's", "orders"],
        &["get", "orders", "1", "3..5"],
        &["get", "-k", "it's", "orders"],
        &["get", "-k", "-k", "-F", "json", "orders"],
        &["get", "-k", "\\d \"x\" $(id)", "orders"],
        &["get", "-k", "none", "orders"],
        &["info", "orders"],
        &["info", "--print", "end", "orders"],
        &["info", "--segments", "--json", "orders"],
        &["verify", "orders"],
        &["cat", "-o", "99", "orders"],
        &["cat", "nope"],
        &["cat", "--sample", "x", "orders"],
    ];
    for words in commands {
        let mut local = hosts.there.logd(words);
        local.env("LOGD_DIR", hosts.there.root());
        let local = ran(local);
        let at = hosts.at(words.last().unwrap());
        let mut remote: Vec<&str> = words.to_vec();
        if let Some(log) = remote
            .iter_mut()
            .find(|w| ["orders", "empty", "nope"].contains(w))
        {
            *log = &at;
        }
        let at = hosts.at("orders");
        if words[0] == "get" {
            let log = remote.iter_mut().find(|w| w.contains('@')).unwrap();
            *log = &at;
        }
        let remote = hosts.run(&remote);
        assert_eq!(
            (&remote.out, remote.code),
            (&local.out, local.code),
            "{words:?}: {remote:?}"
        );
        // Its words name the host, and are those otherwise.
        let before = format!("{}:", hosts.host);
        let words_there: Vec<&str> = local.err.split_whitespace().collect();
        for word in remote
            .err
            .replace(&before, "")
            .replace("hint: on", "hint:")
            .split_whitespace()
        {
            assert!(words_there.contains(&word), "{word}: {remote:?} {local:?}");
        }
    }
}

#[test]
fn names_mean_themselves_whatever_they_hold() {
    let Some(hosts) = Hosts::new() else { return };
    let dirs: [&[u8]; 16] = [
        b"a b",
        b"it's",
        b"\\",
        b"\\'",
        b"'\\''",
        b"\"q\"",
        b"$(touch x)",
        b"`touch x`",
        b"a\nb",
        b"-o",
        b"a:b",
        b"*",
        "é\u{202e}".as_bytes(),
        b"caf\xe9",
        b"~",
        b"a;b&c|d>e",
    ];
    for dir in dirs {
        let dir = OsStr::from_bytes(dir);
        std::fs::create_dir(hosts.there.root().join(dir)).unwrap();
        let mut log = OsString::from("./");
        log.push(dir);
        log.push("/x");
        let mut made = hosts.there.logd(&["append", "-0", "--create"]);
        let words = [OsStr::new("-k"), dir, OsStr::new("--"), &log];
        let mut child = made.args(words).stdin(Stdio::piped()).spawn().unwrap();
        use std::io::Write;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(dir.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success());
        let mut operand = OsString::from(hosts.at(""));
        operand.push(dir);
        operand.push("/x");
        let want = dir.as_bytes();
        for words in [
            &["cat", "-0"][..],
            &["get", "-0", "-k"],
            &["grep", "-Q", "-0", "--in=key"],
        ] {
            let mut logd = hosts.logd(words);
            match words[0] {
                "get" => logd.arg(dir).arg("--").arg(&operand),
                "grep" => logd.arg("--").arg(dir).arg(&operand),
                _ => logd.arg("--").arg(&operand),
            };
            let got = logd.output().unwrap();
            let shown = String::from_utf8_lossy(&got.stderr).into_owned();
            assert!(got.status.success(), "{dir:?} {words:?}: {shown}");
            assert_eq!(got.stdout, [want, b"\0"].concat(), "{dir:?} {words:?}");
        }
    }
    assert!(!hosts.there.path("x").exists() && !hosts.here.path("x").exists());
}

#[test]
fn hosts_that_ssh_would_take_for_options_never_reach_it() {
    let here = Logs::empty();
    for (operand, code) in [
        ("-oProxyCommand=touch${IFS}x:orders", 2),
        ("-l@h:orders", 2),
        ("u@-oProxyCommand=x:orders", 2),
        ("[-h]:orders", 2),
        ("a b:orders", 2),
        (":orders", 2),
        ("h:", 2),
        ("@h:x", 2),
    ] {
        let mut logd = here.logd(&["cat", "--", operand]);
        logd.env("LOGD_SSH", "touch called");
        assert_eq!(ran(logd).code, Some(code), "{operand}");
    }
    assert!(!here.path("called").exists() && !here.path("x").exists());
}

#[test]
fn ssh_gets_the_host_as_one_word_behind_its_options() {
    let here = Logs::empty();
    let tell = here.path("tell");
    std::fs::write(&tell, "#!/bin/sh\nprintf '%s|' \"$@\"\ncat\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&tell, PermissionsExt::from_mode(0o755)).unwrap();
    for (host, word) in [
        ("web1", "web1"),
        ("ops@web1", "ops@web1"),
        ("[fe80::1]", "fe80::1"),
        ("me@[::1]", "me@::1"),
        ("$(id)", "$(id)"),
    ] {
        let mut logd = here.logd(&["cat", &format!("{host}:a b")]);
        // What is on our stdin is not for ssh.
        let mut logd = logd
            .env("LOGD_SSH", format!(" {} -p  7 ", tell.display()))
            .env("TZ", "UTC")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        use std::io::Write;
        logd.stdin
            .take()
            .unwrap()
            .write_all(b"not for ssh")
            .unwrap();
        let out = logd.wait_with_output().unwrap();
        let out = String::from_utf8(out.stdout).unwrap();
        assert_eq!(
            out,
            format!(
                "-p|7|-T|--|{word}|'logd' 'cat' '--color=never' '--caller=host={host} zone=UTC' '--' 'a b'|"
            )
        );
    }
}

#[test]
fn statuses_are_those_of_the_logd_there_and_69_is_for_the_way() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "orders");
    let (orders, nope) = (hosts.at("orders"), hosts.at("nope"));
    let code = |words: &[&str]| hosts.run(words).code;
    assert_eq!(code(&["cat", &nope]), Some(66));
    assert_eq!(code(&["grep", "zzz", &orders]), Some(1));
    assert_eq!(code(&["cat", "-o", "x", &orders]), Some(2));
    assert_eq!(
        code(&["cat", "--timeout", "10ms", "--wait-for", "99", &orders]),
        Some(124)
    );

    let refused = hosts.sshd.ssh().replace("/known", "/nobody");
    let cases = [
        (refused, "no connection, or it was lost"),
        (
            "false 255".replace("false", &exiting(&hosts, 255)),
            "no connection",
        ),
        (exiting(&hosts, 127), "no logd there"),
        (exiting(&hosts, 126), "the logd there cannot be run"),
        (exiting(&hosts, 3), "what ran there ended with 3"),
        (
            "/nonesuch/ssh".into(),
            "cannot run /nonesuch/ssh: no such file",
        ),
    ];
    for (ssh, what) in cases {
        let mut logd = hosts.logd(&["cat", &orders]);
        let ran = ran({
            logd.env("LOGD_SSH", &ssh);
            logd
        });
        assert_eq!(ran.code, Some(69), "{ssh}: {ran:?}");
        let line = format!("logd cat: {}: {what}", hosts.host);
        assert!(
            ran.err.contains(&line) && ran.err.contains("\nhint: "),
            "{ran:?}"
        );
    }
    let ran = ran({
        let mut logd = hosts.logd(&["cat", &orders]);
        logd.env("LOGD_SSH", exiting(&hosts, 143));
        logd
    });
    assert_eq!(ran.code, None, "ended by TERM, as what ran there");
}

/// An ssh that only ends, with this status.
fn exiting(hosts: &Hosts, code: u8) -> String {
    let path = hosts.here.path(&format!("exit{code}"));
    std::fs::write(&path, format!("#!/bin/sh\nexit {code}\n")).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_host_without_logd_is_told_so() {
    let there = Logs::empty();
    let Some(sshd) = Sshd::start_with(there.root(), "/usr/bin:/bin") else {
        return;
    };
    let host = format!("{}@127.0.0.1", user());
    let mut logd = there.logd(&["cat", &format!("{host}:orders")]);
    let ran = ran({
        logd.env("LOGD_SSH", sshd.ssh());
        logd
    });
    assert_eq!(ran.code, Some(69));
    assert!(
        ran.err.contains(&format!(
            "logd cat: {host}: no logd there\nhint: install logd"
        )),
        "{ran:?}"
    );
}

#[test]
fn nothing_is_left_behind_when_the_reader_goes_away() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "quiet-log");
    let at = hosts.at("quiet-log");
    let mut logd = hosts.logd(&["tail", "-f", &at]);
    let mut child = logd
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = child.stdout.take().unwrap();
    use std::io::BufRead;
    let mut lines = std::io::BufReader::new(stdout).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    assert!(runs("quiet-log"));
    drop(lines); // no record arrives any more
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    eventually("all are gone", || !runs("quiet-log"));
}

#[test]
fn a_signal_ends_both_sides_and_is_what_a_shell_sees() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "signal-log");
    let at = hosts.at("signal-log");
    for signal in ["TERM", "INT", "HUP"] {
        let mut logd = hosts.logd(&["tail", "-f", &at]);
        let mut child = logd.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        use std::io::BufRead;
        let mut lines = std::io::BufReader::new(stdout).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "first");
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        use std::os::unix::process::ExitStatusExt;
        let number = match signal {
            "TERM" => 15,
            "INT" => 2,
            _ => 1,
        };
        assert_eq!(child.wait().unwrap().signal(), Some(number), "{signal}");
        eventually("all are gone", || !runs("signal-log"));
    }
}

#[test]
fn records_that_come_are_shown_at_once() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.there.init("live", &[]);
    let at = hosts.at("live");
    let mut logd = hosts.logd(&["tail", "-f", "-F", "%o %s\\n", &at]);
    logd.stdin(Stdio::null());
    let mut running = common::Running::of(logd);
    eventually("it runs", || runs("--follow"));
    for n in 0..3 {
        hosts.there.append("live", &[], &format!("record {n}\n"));
        assert_eq!(running.line(), format!("{n} record {n}"));
    }
}

#[test]
fn logs_of_several_hosts_come_one_after_the_other() {
    let Some(hosts) = Hosts::new() else { return };
    for log in ["a", "b"] {
        hosts.there.init(log, &[]);
        hosts
            .there
            .append(log, &[], &format!("{log}1\n{log}2\n{log}3\n"));
    }
    hosts.here.init("c", &[]);
    hosts.here.append("c", &[], "c1\nc2\n");
    let (a, b, nope) = (hosts.at("a"), hosts.at("b"), hosts.at("nope"));
    let template = "%s ";
    let cat = |words: &[&str]| hosts.output(&[&["cat", "-F", template], words].concat());
    assert_eq!(cat(&[&a, "c", &b]), "a1 a2 a3 c1 c2 b1 b2 b3 ");
    assert_eq!(cat(&["-n", "4", &a, "c", &b]), "a1 a2 a3 c1 ");
    assert_eq!(cat(&["-n", "6", "c", &a, &b, "c"]), "c1 c2 a1 a2 a3 b1 ");
    let csv = hosts.output(&["cat", "-F", "csv", "--columns", "value", "c", &a, "c"]);
    assert_eq!(csv, "value\nc1\nc2\na1\na2\na3\nc1\nc2\n");

    let host = &hosts.host;
    let counts = hosts.output(&["grep", "-c", "2", &a, "c"]);
    assert_eq!(counts, format!("{host}:a:1\nc:1\n"));
    assert_eq!(hosts.output(&["grep", "-n", "2", ".", "c", &a]), "c1\nc2\n");
    assert_eq!(
        hosts.output(&["grep", "-n", "3", ".", "c", &a]),
        "c1\nc2\na1\n"
    );
    assert_eq!(
        hosts.output(&["grep", "-A1", "1", &a, "c"]),
        "a1\na2\n--\nc1\nc2\n"
    );
    let code = |words: &[&str]| hosts.run(words).code;
    assert_eq!(code(&["grep", "c1", &a, "c"]), Some(0));
    assert_eq!(code(&["grep", "zz", &a, "c"]), Some(1));
    assert_eq!(code(&["grep", "-q", "c1", &nope, "c"]), Some(0));
    assert_eq!(code(&["grep", "c1", &nope, "c"]), Some(66));

    let ran = hosts.run(&["cat", "c", &nope, &a]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (Some(66), "c1\nc2\na1\na2\na3\n")
    );
    assert!(!ran.err.contains('\x1e'), "{ran:?}");
    assert_eq!(code(&["tail", "-f", &a, "c"]), Some(2));
    assert_eq!(code(&["grep", "-f", "x", &a, "c"]), Some(2));
    assert_eq!(code(&["cat", "-g", "x", &a, "c"]), Some(2));
    assert_eq!(hosts.output(&["verify", "c", &a]), "");
}

#[test]
fn tables_of_several_hosts_are_one() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.there.init("a", &["--partitions", "2"]);
    hosts.here.init("c", &[]);
    hosts.here.append("c", &[], "x\n");
    let here = hosts.output(&["ls"]);
    let there = ran(hosts.there.logd(&["ls"])).out;
    let mut want: Vec<String> = here.lines().map(str::to_string).collect();
    want.push(format!("{}:{}", hosts.host, there.lines().nth(1).unwrap()));
    let both = hosts.output(&["ls", ".", &hosts.at(".")]);
    assert_eq!(both.lines().collect::<Vec<_>>(), want);

    let (c, a) = (hosts.output(&["info", "--json", "c"]), hosts.at("a"));
    let there = ran(hosts.there.logd(&["info", "--json", "a"])).out;
    assert_eq!(hosts.output(&["info", "--json", "c", &a]), c + &there);
    assert_eq!(
        hosts.output(&["info", "--print", "end", &a, "c"]),
        "0\n0\n1\n"
    );
}

#[test]
fn two_logs_are_compared_wherever_they_are() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "orders");
    hosts.there.init("empty", &[]);
    hosts.here.init("empty", &[]);
    fill(&hosts.here, "other");
    hosts.here.append("other", &[], "more\n");
    let copy = |to: &str| {
        let from = hosts.there.path("orders-0");
        let made = Command::new("cp")
            .arg("-r")
            .arg(from)
            .arg(hosts.here.path(to))
            .status();
        assert!(made.unwrap().success());
    };
    copy("same-0");
    let (orders, empty) = (hosts.at("orders"), hosts.at("empty"));
    assert_eq!(hosts.output(&["verify", "--digest", "same", &orders]), "");
    assert_eq!(
        hosts.output(&["verify", "--digest=records", &orders, "same-0"]),
        ""
    );
    assert_eq!(hosts.output(&["verify", "--digest", "empty", &empty]), "");
    let ran = hosts.run(&["verify", "--digest=records", "other", &orders]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(1), 2), "{ran:?}");
    assert!(ran.out.contains(&format!("  {}:", hosts.host)), "{ran:?}");
    let nope = hosts.at("nope");
    assert_eq!(
        hosts.run(&["verify", "--digest", "same", &nope]).code,
        Some(66)
    );
    // Of three there is nothing to compare.
    let ran = hosts.run(&["verify", "--digest", &orders, &empty, "same"]);
    assert_eq!((ran.code, ran.out.lines().count()), (Some(0), 2), "{ran:?}");
}

#[test]
fn local_times_are_those_of_whoever_asks() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.there.init("t", &[]);
    // 2026-01-01 00:30 in Tokyo is 15:30 the day before in UTC.
    let records =
        "{\"value\":\"old\",\"ts\":1767194999000}\n{\"value\":\"new\",\"ts\":1767195000000}\n";
    hosts.there.append("t", &["-F", "json"], records);
    let at = hosts.at("t");
    for zone in ["Asia/Tokyo", "JST-9", ":Asia/Tokyo"] {
        let mut logd = hosts.logd(&["cat", "-o", "@2026-01-01 00:30", &at]);
        logd.env("TZ", zone);
        let ran = ran(logd);
        assert_eq!(
            (ran.out.as_str(), ran.code),
            ("new\n", Some(0)),
            "{zone} {ran:?}"
        );
    }
}

#[test]
fn a_terminal_here_has_its_rules_there() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.there.init("t", &[]);
    hosts.there.append("t", &["-0"], "a\x1b[2Jb\nc\0");
    let script = |command: &str| {
        let mut script = Command::new("script");
        script.args(["-qec", command, "/dev/null"]);
        script
            .current_dir(hosts.here.root())
            .env("LOGD_SSH", hosts.sshd.ssh());
        script.env("NO_COLOR", "1").stdin(Stdio::null());
        match script.output() {
            Ok(output) => Some(String::from_utf8_lossy(&output.stdout).replace('\r', "")),
            Err(_) => None,
        }
    };
    let (bin, at) = (env!("CARGO_BIN_EXE_logd"), hosts.at("t"));
    let Some(shown) = script(&format!("{bin} cat {at}")) else {
        return eprintln!("skipped: no script(1) here");
    };
    assert_eq!(shown, "a\\x1b[2Jb\\x0ac\n");
    let shown = script(&format!("{bin} cat -F batch {at}")).unwrap();
    assert!(shown.contains("binary output to a terminal"), "{shown}");
    let shown = script(&format!("{bin} info {at}")).unwrap();
    assert!(
        !shown.contains('\t') && shown.contains("durable"),
        "{shown}"
    );
    let shown = script(&format!("{bin} verify {at}")).unwrap();
    assert!(shown.contains("sound; 1 records"), "{shown}");
}

#[test]
fn a_loop_around_keeps_its_input() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "orders");
    let mut shell = Command::new("sh");
    let script = r#"printf '0\n4\n' | while read n; do "$1" get "$2" "$n"; done"#;
    shell.args([
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_logd"),
        &hosts.at("orders"),
    ]);
    shell.env("LOGD_SSH", hosts.sshd.ssh());
    assert_eq!(ran(shell).out, "first\nlast\n");
}

#[test]
fn any_login_shell_reads_the_same_words() {
    let Some(hosts) = Hosts::new() else { return };
    fill(&hosts.there, "orders");
    for shell in ["dash", "bash", "zsh", "fish"] {
        let there = Command::new(shell).args(["-c", "true"]).status();
        if !there.is_ok_and(|s| s.success()) {
            eprintln!("skipped: no {shell} here");
            continue;
        }
        let options = format!("command=\"exec {shell} -c \\\"$SSH_ORIGINAL_COMMAND\\\"\"");
        let ssh = hosts.sshd.restricted(shell, &options);
        for key in ["it's", "\\d \"x\" $(id)", "-k"] {
            let at = hosts.at("orders");
            let want = hosts.output(&["get", "-k", key, "-F", "json", &at]);
            let mut logd = hosts.logd(&["get", "-k", key, "-F", "json", &at]);
            logd.env("LOGD_SSH", &ssh);
            let ran = ran(logd);
            assert_eq!((ran.out, ran.code), (want, Some(0)), "{shell} {key}");
        }
    }
}
