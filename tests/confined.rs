//! A key that is bound to `logd replicate --stdio DIR` tries to get out, through a real sshd.

mod common;
mod sshd;

use common::{Logs, Ran};
use sshd::{Sshd, user};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// A directory of logs that a key may see, and what lies around it.
struct Vault {
    all: Logs,
    sshd: Sshd,
    ssh: String,
}

impl Vault {
    fn new() -> Option<Vault> {
        let all = Logs::empty();
        let sshd = Sshd::start(all.root())?;
        for dir in ["vault", "vault/inner", "outside"] {
            std::fs::create_dir(all.path(dir)).unwrap();
        }
        for log in ["vault/orders", "vault/inner/deep", "outside/secret"] {
            all.init(log, &[]);
            all.append(log, &["-k", "k"], &format!("of {log}\n"));
        }
        let root = all.root();
        let link = |to: &Path, name: &str| symlink(to, all.path("vault").join(name)).unwrap();
        link(&root.join("outside"), "out");
        link(Path::new("../outside"), "side");
        link(&root.join("outside/secret-0"), "link-0");
        link(Path::new("../outside/secret-0"), "near-0");
        link(Path::new("/"), "root");
        link(Path::new("/proc/self/cwd"), "cwd");
        link(Path::new("orders-0"), "alias-0");
        let logd = env!("CARGO_BIN_EXE_logd");
        let dir = all.path("vault");
        let options = format!(
            "command=\"{logd} replicate --stdio {}\",restrict",
            dir.display()
        );
        let ssh = sshd.restricted("vault", &options);
        Some(Vault { all, sshd, ssh })
    }

    /// `logd WORDS` here, over the key that is bound.
    fn logd(&self, words: &[&str]) -> Ran {
        let mut logd = self.all.logd(words);
        ran(logd.env("LOGD_SSH", &self.ssh))
    }

    /// What the key answers to a line of a client.
    fn raw(&self, line: &str) -> Ran {
        let mut words = self.ssh.split(' ');
        let mut ssh = Command::new(words.next().unwrap());
        ssh.args(words).arg(at("")).arg("--").arg(line);
        ran(&mut ssh)
    }
}

fn at(log: &str) -> String {
    match log {
        "" => format!("{}@127.0.0.1", user()),
        log => format!("{}@127.0.0.1:{log}", user()),
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

#[test]
fn a_bound_key_reads_below_its_directory() {
    let Some(vault) = Vault::new() else { return };
    let (orders, deep) = (at("orders"), at("inner/deep"));
    for (words, want) in [
        (&["cat", &orders][..], "of vault/orders\n"),
        (&["tail", "-n1", &deep], "of vault/inner/deep\n"),
        (&["get", "-k", "k", &orders], "of vault/orders\n"),
        (&["grep", "-c", "vault", &orders, &deep], ""),
        (&["info", "--print", "end", &orders], "1\n"),
        (&["verify", "--digest=records", "vault/orders", &orders], ""),
        (&["cat", &at("alias-0")], "of vault/orders\n"),
    ] {
        let ran = vault.logd(words);
        assert_eq!(ran.code, Some(0), "{words:?} {ran:?}");
        assert!(ran.out == want || want.is_empty(), "{words:?} {ran:?}");
    }
    let ran = vault.logd(&["ls", &at(".")]);
    assert!(
        ran.out.contains("orders\t1\t") && !ran.out.contains("secret"),
        "{ran:?}"
    );
    assert_eq!(vault.logd(&["cat", &at("nope")]).code, Some(66));
    assert_eq!(vault.logd(&["info", "--settings", &orders]).code, Some(0));
    assert_eq!(vault.raw("logd cat orders").out, "of vault/orders\n");
    assert_eq!(vault.raw("logd cat -h").code, Some(0));
}

#[test]
fn a_bound_key_does_not_get_out() {
    let Some(vault) = Vault::new() else { return };
    let secret = vault.all.path("outside/secret-0").display().to_string();
    let made = vault.all.path("made");
    let touch = format!("touch {}", made.display());
    let mut lines: Vec<String> = Vec::new();
    // By name.
    for log in [
        "../outside/secret",
        "../outside/secret-0",
        "inner/../../outside/secret",
        "out/secret",
        "out/secret-0",
        "side/secret",
        "link-0",
        "link",
        "near-0",
        "near",
        "root",
        "cwd/../outside/secret",
        "./../outside/secret",
        "root/etc",
        "..",
        "/",
        "/etc",
        &secret,
        "//etc",
        "../vault/../outside/secret",
    ] {
        for command in [
            "cat",
            "tail",
            "grep secret",
            "info",
            "verify",
            "ls",
            "cat -F batch",
        ] {
            if command == "ls" && ["root", "link", "near"].contains(&log) {
                continue; // below
            }
            lines.push(format!("logd {command} -- {log}"));
        }
        lines.push(format!("logd get {log} 0"));
        lines.push(format!("logd grep -c secret orders {log} inner/deep"));
    }
    for dir in ["root", "out", "side", "cwd"] {
        lines.push(format!("logd ls {dir}"));
    }
    // By option.
    for option in [
        "-g x",
        "--group=x",
        "--pid 1",
        "--no-commit -g x",
        "--start latest -g x",
        "--allow-network-fs",
        "--wait 1s",
        "--commit-every 1s",
        "--skip-if-locked",
    ] {
        lines.push(format!("logd tail {option} orders"));
    }
    // By shell.
    for line in [
        "logd cat orders; $T",
        "logd cat orders && $T",
        "logd cat orders | $T",
        "$T",
        "sh -c '$T'",
        "logd cat `$T`",
        "logd cat $($T)",
        "logd cat orders\n$T",
        "logd cat orders > x",
        "logd cat <x",
        "'logd' 'cat' 'orders'; '$T'",
        "logd cat 'orders",
        "logd cat orders\\",
        "logd cat ~",
        "logd cat *",
        "logd 'cat' \"orders\"",
        "exec $T",
        "",
        " ",
        "bash",
        "/bin/sh",
        "scp -t /",
        "internal-sftp",
        "rsync --server -vlogDtpre.iLsfxC . /",
        "/usr/bin/logd cat orders",
        "./logd cat orders",
    ] {
        lines.push(line.replace("$T", &touch));
    }
    // By command.
    for line in [
        "append orders",
        "append --create new",
        "init new",
        "retain --max-records 0 orders",
        "repair orders",
        "compact orders",
        "redact -k k --reason x --yes orders",
        "index orders",
        "groups ls orders",
        "groups commit orders x",
        "dump orders",
        "merge orders",
        "merge --to new orders",
        "split --at 1 orders new",
        "man cat",
        "man --all x",
        "completions bash",
        "help",
        "--help",
        "-V",
        "__complete cat",
        "bench cat",
        "replicate",
        "replicate orders new",
        "replicate --stdio /",
        "replicate --peer orders",
        "replicate --peer --stdio /",
        "promote orders",
        "cat x@127.0.0.1:orders",
        "verify --digest orders h:orders",
    ] {
        lines.push(format!("logd {line}"));
    }
    let ssh: Vec<Ran> = lines.iter().map(|line| vault.forced(line)).collect();
    for (line, ran) in lines.iter().zip(ssh) {
        assert_ne!(ran.code, Some(0), "{line:?}: {ran:?}");
        assert!(
            !ran.out.contains("secret") && !ran.err.contains("of outside"),
            "{line:?}: {ran:?}"
        );
        assert!(!ran.out.contains("etc"), "{line:?}: {ran:?}");
    }
    assert!(!made.exists());
    // As sshd hands them over, too: a few, since each costs a connection.
    for line in [
        "logd cat ../outside/secret",
        "logd cat link-0",
        "",
        "id; id",
        "logd append orders",
    ] {
        let ran = vault.raw(line);
        assert!(
            ran.code != Some(0) && ran.out.is_empty(),
            "{line:?} {ran:?}"
        );
    }
    for operand in [
        "../outside/secret",
        "out/secret",
        "a:b",
        "-",
        "--help",
        "/etc",
    ] {
        let ran = vault.logd(&["cat", &at(operand)]);
        assert!(
            ran.code != Some(0) && ran.out.is_empty(),
            "{operand:?} {ran:?}"
        );
    }
    // Nothing was written.
    let mut names: Vec<String> = std::fs::read_dir(vault.all.path("vault"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let want = [
        "alias-0", "cwd", "inner", "link-0", "near-0", "orders-0", "out", "root", "side",
    ];
    assert_eq!(names, want);
    assert!(!vault.all.path("vault/orders-0/.logd/groups").exists());
    drop(vault.sshd);
}

impl Vault {
    /// What sshd would run for this line, without the way there.
    fn forced(&self, line: &str) -> Ran {
        let dir = self.all.path("vault").display().to_string();
        let mut logd = self.all.logd(&["replicate", "--stdio", &dir]);
        ran(logd.env("SSH_ORIGINAL_COMMAND", line))
    }
}

#[test]
fn what_is_refused_is_told_and_is_77() {
    let Some(vault) = Vault::new() else { return };
    for (line, want) in [
        (
            "logd cat /etc",
            "logd cat: /etc: an absolute name: this key sees one directory, and names are below it\n",
        ),
        (
            "logd cat ../x",
            "logd cat: ../x: a name with .. : not with this key\n",
        ),
        (
            "logd tail -g x orders",
            "logd tail: --group: not with this key\n",
        ),
        (
            "logd append x",
            "logd replicate: logd append: this key may only replicate and read logs\n",
        ),
        (
            "id; id",
            "logd replicate: the command holds ; outside single quotes\n",
        ),
        (
            "logd cat out/secret",
            "logd cat: out/secret: cannot open: leads out of the directory that may be seen\n",
        ),
    ] {
        let ran = vault.forced(line);
        assert_eq!((ran.code, ran.err.as_str()), (Some(77), want), "{line}");
    }
    let mut logd = vault.all.logd(&["replicate", "--stdio", "vault"]);
    assert_eq!(ran(logd.env_remove("SSH_ORIGINAL_COMMAND")).code, Some(2));
    let mut logd = vault.all.logd(&["replicate", "--stdio", "nowhere"]);
    assert_eq!(
        ran(logd.env("SSH_ORIGINAL_COMMAND", "logd cat x")).code,
        Some(66)
    );
}
