//! A throwaway sshd on loopback, for tests that go through it.
#![allow(dead_code)] // each test takes what it needs

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

/// An sshd with keys of its own, gone at the end, however the test ends.
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    keeper: Child,
    /// Closed with this process, which ends the keeper and with it sshd.
    _alive: ChildStdin,
}

fn sshd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = dirs.map(|d| d.join("sshd"));
    files.find(|f| f.is_file())
}

fn keygen(file: &Path) {
    let ran = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(file)
        .status();
    assert!(ran.unwrap().success());
}

/// Whom one logs in as.
pub fn user() -> String {
    let ran = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(ran.stdout).unwrap().trim().to_string()
}

impl Sshd {
    /// Starts it; `None`, and a word about it, where there is none. `base` becomes the `LOGD_DIR` of
    /// those who log in.
    pub fn start(base: &Path) -> Option<Sshd> {
        let logd = Path::new(env!("CARGO_BIN_EXE_logd")).parent().unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", logd.display());
        Sshd::start_with(base, &path)
    }

    /// As [`Sshd::start`], with this PATH for those who log in.
    pub fn start_with(base: &Path, path: &str) -> Option<Sshd> {
        let Some(sshd) = sshd() else {
            eprintln!("skipped: no sshd here (package openssh-server)");
            return None;
        };
        let _ = std::fs::create_dir_all("/run/sshd"); // as root, it wants one
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        keygen(&file("host"));
        keygen(&file("user"));
        std::fs::copy(file("user.pub"), file("keys")).unwrap();
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            std::fs::write(file("config"), config(dir.path(), port, base, path)).unwrap();
            // The keeper ends it when our side of its stdin is closed: with the test, by whatever end.
            let script = r#""$1" -D -e -f "$2" 2>&1 & trap 'kill $!' EXIT; read x"#;
            let mut keeper = Command::new("bash")
                .args(["-c", script, "keeper"])
                .arg(&sshd)
                .arg(file("config"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let alive = keeper.stdin.take().unwrap();
            let mut lines = BufReader::new(keeper.stdout.take().unwrap()).lines();
            let listening = lines.by_ref().map_while(Result::ok).find_map(|line| {
                let taken = line.contains("Cannot bind");
                (taken || line.contains("listening on")).then_some(!taken)
            });
            if listening != Some(true) {
                drop(alive);
                let _ = keeper.wait();
                continue; // somebody took the port
            }
            std::thread::spawn(move || lines.for_each(drop)); // so that it never waits for us
            let key = std::fs::read_to_string(file("host.pub")).unwrap();
            let known = format!("[127.0.0.1]:{port} {key}[::1]:{port} {key}");
            std::fs::write(file("known"), known).unwrap();
            return Some(Sshd {
                dir,
                port,
                keeper,
                _alive: alive,
            });
        }
        panic!("no port for sshd");
    }

    /// `$LOGD_SSH` that logs in with the key that may do anything.
    pub fn ssh(&self) -> String {
        self.ssh_with("user")
    }

    fn ssh_with(&self, key: &str) -> String {
        let dir = self.dir.path().display();
        format!(
            "ssh -F /dev/null -o UserKnownHostsFile={dir}/known -o IdentitiesOnly=yes \
             -o BatchMode=yes -o ConnectTimeout=20 -i {dir}/{key} -p {}",
            self.port
        )
    }

    /// `$LOGD_SSH` that logs in with a key of its own, restricted by `options` (authorized_keys).
    pub fn restricted(&self, name: &str, options: &str) -> String {
        let file = self.dir.path().join(name);
        keygen(&file);
        let key = std::fs::read_to_string(file.with_extension("pub")).unwrap();
        let keys = self.dir.path().join("keys");
        let all = std::fs::read_to_string(&keys).unwrap();
        std::fs::write(&keys, format!("{all}{options} {key}")).unwrap();
        self.ssh_with(name)
    }

    /// The processes of sshd that serve somebody.
    pub fn sessions(&self) -> Vec<u32> {
        let children = |pid: u32| -> Vec<u32> {
            let file = format!("/proc/{pid}/task/{pid}/children");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            text.split_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect()
        };
        let sshd = children(self.keeper.id());
        sshd.into_iter().flat_map(children).collect()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn config(dir: &Path, port: u16, base: &Path, path: &str) -> String {
    let dir = dir.display();
    format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/keys\n\
         PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n\
         MaxStartups 500\nMaxSessions 500\nLogLevel INFO\n\
         SetEnv PATH={path} LOGD_DIR={base} HOME={base} LOGD_CONFIG=/dev/null\n",
        base = base.display()
    )
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // Its stdin is closed with this; nothing waits for it.
        let _ = self.keeper.kill_by_eof();
    }
}

trait KillByEof {
    fn kill_by_eof(&mut self) -> std::io::Result<()>;
}

impl KillByEof for Child {
    fn kill_by_eof(&mut self) -> std::io::Result<()> {
        let pid = i32::try_from(self.id()).unwrap_or(0);
        // TERM runs the trap of the keeper, which KILL would not.
        let _ = Command::new("kill").arg(pid.to_string()).status();
        self.wait().map(drop)
    }
}

/// Waits until `done`, which it must be in the end.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(std::time::Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process of logd runs whose command line holds `word`.
pub fn runs(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    let lines = processes.filter_map(|p| std::fs::read(p.ok()?.path().join("cmdline")).ok());
    let mut words = lines.map(|l| String::from_utf8_lossy(&l).into_owned());
    words.any(|l| l.contains(word) && l.contains("logd"))
}
