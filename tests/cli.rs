//! What needs a process to be seen: exit statuses, streams, environment.

use assert_cmd::Command;
use std::fs;
use std::path::Path;
use std::process::Stdio;

/// A directory of logs, and the binary with it as `$LOGD_DIR`.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(tempfile::Builder::new().prefix(name).tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn logd(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("logd").unwrap();
        command.args(args).current_dir(self.path());
        command
            .env("LOGD_DIR", self.path())
            .env("HOME", self.path());
        for name in [
            "LOGD_CONFIG",
            "XDG_CONFIG_HOME",
            "NO_COLOR",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// Runs it; status, stdout, stderr.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let out = self.logd(args).output().unwrap();
        let text = |b| String::from_utf8(b).unwrap();
        (
            out.status.code().unwrap(),
            text(out.stdout),
            text(out.stderr),
        )
    }
}

#[test]
fn version_and_help_are_told_on_stdout() {
    let s = Scratch::new("version");
    let version = format!("logd {}\n", env!("CARGO_PKG_VERSION"));
    for args in [
        &["--version"][..],
        &["-V"],
        &["init", "-V"],
        &["cat", "--version"],
    ] {
        assert_eq!(s.run(args), (0, version.clone(), String::new()), "{args:?}");
    }
    for args in [&["-h"][..], &["--help"], &["help"]] {
        let (status, out, err) = s.run(args);
        assert!(
            status == 0 && err.is_empty() && out.contains("append"),
            "{args:?}"
        );
    }
    for topic in [
        "positions",
        "formats",
        "cron",
        "exit-codes",
        "durability",
        "init",
    ] {
        let (status, out, _) = s.run(&["help", topic]);
        assert!(status == 0 && out.lines().count() > 10, "{topic}");
    }
}

#[test]
fn wrong_usage_is_2_in_one_line_and_a_hint() {
    let s = Scratch::new("usage");
    for (args, want) in [
        (&[][..], "logd: no command given\nhint: logd help\n"),
        (&["inti"], "logd: inti: no such command\nhint: logd init\n"),
        (
            &["-q", "ls"],
            "logd: -q: options come after the command\nhint: logd help\n",
        ),
        (
            &["init"],
            "logd init: LOG is missing\nhint: logd init --help\n",
        ),
        (
            &["init", "a", "b"],
            "logd init: b: one operand too many\nhint: logd init --help\n",
        ),
        (
            &["init", "--max-age", "7", "x"],
            "logd init: --max-age 7: a duration needs a unit\nhint: --max-age 7d\n",
        ),
        (
            &["info", "--prnt", "end", "x"],
            "logd info: --prnt: no such option\nhint: --print\n",
        ),
    ] {
        assert_eq!(s.run(args), (2, String::new(), want.into()), "{args:?}");
    }
    assert!(
        fs::read_dir(s.path()).unwrap().next().is_none(),
        "something was touched"
    );
}

#[test]
fn each_kind_of_failure_has_its_status() {
    let s = Scratch::new("status");
    assert_eq!(s.run(&["init", "orders"]).0, 0);
    assert_eq!(s.run(&["init", "orders"]).0, 73);
    assert_eq!(s.run(&["info", "nope"]).0, 66);
    fs::write(s.path().join("orders-0/.logd/config.toml"), "max-age = 7\n").unwrap();
    let (status, _, err) = s.run(&["info", "--settings", "orders"]);
    assert_eq!(status, 78, "{err}");
    assert!(
        err.contains("orders-0/.logd/config.toml: max-age 7: a duration needs a unit"),
        "{err}"
    );
    assert!(err.ends_with("hint: max-age 7d\n"), "{err}");
}

#[test]
fn one_bad_log_of_several_does_not_hide_the_others() {
    let s = Scratch::new("several");
    s.run(&["init", "a"]);
    s.run(&["init", "b"]);
    let (status, out, err) = s.run(&["info", "--print", "end", "a", "nope", "b"]);
    assert_eq!((status, out.as_str()), (66, "0\n0\n"));
    assert!(err.starts_with("logd info: nope: no such log\n"), "{err}");
}

#[test]
fn reader_of_stdout_that_goes_away_is_a_normal_end() {
    let s = Scratch::new("pipe");
    s.run(&["init", "orders"]);
    for args in [&["info", "--json", "orders"][..], &["help", "formats"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_logd"));
        command.args(args).env("LOGD_DIR", s.path());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let out = command
            .stdout(writer)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert_eq!(
            (out.status.code(), out.stderr.as_slice()),
            (Some(0), &b""[..]),
            "{args:?}"
        );
    }
}

#[test]
fn full_stdout_is_told() {
    let s = Scratch::new("full");
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        eprintln!("skipped: no /dev/full");
        return;
    };
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_logd"));
    let out = command
        .arg("help")
        .stdout(full)
        .env("LOGD_DIR", s.path())
        .output()
        .unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(74));
    assert_eq!(
        err,
        "logd help: stdout: cannot write: no space left on device\n"
    );
}

#[test]
fn names_in_messages_cannot_steer_the_terminal() {
    let s = Scratch::new("escape");
    let (status, _, err) = s.run(&["info", "x\x1b[2J\ny"]);
    assert_eq!(status, 66);
    assert!(
        err.starts_with("logd info: x\\x1b[2J\\x0ay: no such log\n"),
        "{err}"
    );
}

#[test]
fn changing_commands_are_silent_where_nobody_watches() {
    let s = Scratch::new("silent");
    assert_eq!(s.run(&["init", "a"]), (0, String::new(), String::new()));
    assert_eq!(
        s.run(&["init", "--set", "--max-age", "1d", "a"]),
        (0, String::new(), String::new())
    );
    let (_, out, _) = s.run(&["init", "--json", "b-3"]);
    assert!(out.starts_with(r#"{"topic":"b","partition":3,"#), "{out}");
}

#[test]
fn settings_come_from_the_log_before_the_user() {
    let s = Scratch::new("layers");
    s.run(&["init", "--max-age", "1d", "a"]);
    let user = s.path().join("user.toml");
    fs::write(&user, "max-age = '2d'\nmax-size = '1GiB'\nfuture = 1\n").unwrap();
    let out = s
        .logd(&["info", "--settings", "a"])
        .env("LOGD_CONFIG", &user)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    for row in [
        "a-0\tmax-age\t1d\tlog\n",
        "a-0\tmax-size\t1GiB\tuser\n",
        "a-0\tcleanup\tdelete\tdefault\n",
    ] {
        assert!(text.contains(row), "{text}");
    }
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(
        err,
        format!("logd info: {}: unknown settings: future\n", user.display())
    );
    let missing = s
        .logd(&["info", "--settings", "a"])
        .env("LOGD_CONFIG", "nope.toml")
        .output();
    assert_eq!(missing.unwrap().status.code(), Some(78));
}

#[test]
fn info_counts_records_of_a_log_with_gaps() {
    let s = Scratch::new("gaps");
    s.run(&["init", "a"]);
    let json = "{\"offset\":5,\"value\":\"x\"}\n{\"offset\":90,\"value\":\"y\"}\n";
    let mut append = s.logd(&["append", "-F", "json", "--keep-offsets", "a"]);
    append.write_stdin(json).assert().success();
    let print = |field| s.run(&["info", "--print", field, "a"]).1;
    assert_eq!(
        (print("records").as_str(), print("end").as_str()),
        ("2\n", "91\n")
    );
    assert_eq!(print("dirty-ratio"), "1.000\n");
    let (_, out, _) = s.run(&["ls", "--json"]);
    let row: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&row["name"], &row["records"], &row["end"]),
        (&"a".into(), &2.into(), &91.into())
    );
}
