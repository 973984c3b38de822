//! Logs, commands and followers as processes: what the tests of the binary share.
#![allow(dead_code)] // each test takes what it needs

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Far longer than anything here takes, also on a machine that has other work.
pub const LONG: Duration = Duration::from_secs(20);

/// A directory with logs in it, gone at the end.
pub struct Logs(tempfile::TempDir);

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// `None`: by a signal.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Logs {
    /// Makes `log` by `logd init OPTIONS`.
    pub fn with(log: &str, options: &[&str]) -> Logs {
        let logs = Logs::empty();
        logs.init(log, options);
        logs
    }

    pub fn empty() -> Logs {
        Logs(tempfile::tempdir().unwrap())
    }

    pub fn init(&self, log: &str, options: &[&str]) {
        let ran = self.run(&[&["init"], options, &[log]].concat(), b"");
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// `logd WORDS`, to be run among the logs.
    pub fn logd(&self, words: &[&str]) -> Command {
        let mut logd = Command::new(binary());
        logd.args(words).current_dir(self.root());
        logd.env_remove("LOGD_DIR").env("LOGD_CONFIG", "/dev/null");
        logd
    }

    /// Runs `logd WORDS` with `input` on stdin.
    pub fn run(&self, words: &[&str], input: &[u8]) -> Ran {
        let mut logd = self.logd(words);
        logd.stdin(Stdio::piped());
        let mut child = logd.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.as_mut().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        std::thread::scope(|s| {
            s.spawn(|| {
                let _ = stdin.write_all(input); // it may have ended before it read all
                drop(stdin);
            });
            s.spawn(|| stderr.read_to_end(&mut err).unwrap());
            stdout.read_to_end(&mut out).unwrap();
        });
        let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
        Ran {
            code: child.wait().unwrap().code(),
            out: text(out),
            err: text(err),
        }
    }

    /// Output of a command that ends with 0 and says nothing.
    pub fn output(&self, words: &[&str]) -> String {
        let ran = self.run(words, b"");
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words:?}");
        ran.out
    }

    /// Appends lines, by `logd append OPTIONS LOG`.
    pub fn append(&self, log: &str, options: &[&str], lines: &str) {
        let ran = self.run(&[&["append"], options, &[log]].concat(), lines.as_bytes());
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }

    /// Starts `logd WORDS`, its output lines to be had one by one.
    pub fn start(&self, words: &[&str]) -> Running {
        Running::of(self.logd(words))
    }

    /// Names of the log files of a partition, in order.
    pub fn segments(&self, log: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.path(log)).unwrap();
        let names = names.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|n| n.ends_with(".log")).collect();
        names.sort();
        names
    }
}

/// The binary under test: `$LOGD_BIN`, as for long runs of a release build, else what cargo built.
pub fn binary() -> std::ffi::OsString {
    let given = std::env::var_os("LOGD_BIN");
    given.unwrap_or_else(|| env!("CARGO_BIN_EXE_logd").into())
}

/// A command that runs; killed at the end.
pub struct Running {
    pub child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    err: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    pub fn of(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (send, lines) = channel();
        let err = Arc::new(Mutex::new(String::new()));
        let said = err.clone();
        let out = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                if send.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        let err_reader = std::thread::spawn(move || {
            let mut buffer = [0; 1024];
            while let Ok(n @ 1..) = stderr.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                said.lock().unwrap().push_str(&text);
            }
        });
        Running {
            stdin: child.stdin.take(),
            child,
            lines,
            err,
            readers: vec![out, err_reader],
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of output.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(LONG) {
            Ok(line) => line,
            Err(e) => panic!("no line: {e}; stderr: {}", self.err()),
        }
    }

    /// The next line of output, if one comes within `time`.
    pub fn line_within(&mut self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    pub fn lines(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|_| self.line()).collect()
    }

    /// Whether no line comes for that long.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        match self.lines.recv_timeout(time) {
            Ok(line) => {
                eprintln!("not silent: {line}");
                false
            }
            Err(e) => e == RecvTimeoutError::Timeout,
        }
    }

    /// All lines up to its end.
    pub fn rest(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        loop {
            match self.lines.recv_timeout(LONG) {
                Ok(line) => out.push(line),
                Err(RecvTimeoutError::Disconnected) => return out,
                Err(e) => panic!("it does not end: {e}; stderr: {}", self.err()),
            }
        }
    }

    /// Writes to its stdin.
    pub fn say(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits until its stderr has `text`.
    pub fn wait_err(&self, text: &str) {
        let began = Instant::now();
        while !self.err().contains(text) {
            assert!(began.elapsed() < LONG, "stderr: {}", self.err());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it, with no chance to tidy up, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, which it must do within `time`.
    pub fn ended(&mut self, time: Duration) -> ExitStatus {
        match wait(&mut self.child, time) {
            Some(status) => {
                self.readers.drain(..).for_each(|r| r.join().unwrap());
                status
            }
            None => panic!("still there after {time:?}; stderr: {}", self.err()),
        }
    }

    /// Waits until the process sleeps: it has done what it can.
    pub fn wait_asleep(&self) {
        let began = Instant::now();
        loop {
            let before = switches(self.pid());
            std::thread::sleep(Duration::from_millis(100));
            if switches(self.pid()) == before && before.1 > 0 {
                return;
            }
            assert!(began.elapsed() < LONG, "it never sleeps");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for the end of a process, at most `time`.
pub fn wait(child: &mut Child, time: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if began.elapsed() > time {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Clock ticks a process has used, and how often it gave the processor away by itself.
pub fn switches(pid: u32) -> (u64, u64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |i: usize| fields[i].parse::<u64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|l| l.starts_with("voluntary_ctxt_switches"));
    let switches = line.unwrap().split_whitespace().last().unwrap();
    (ticks(11) + ticks(12), switches.parse().unwrap())
}

/// Numbers that look random and hang on the seed alone (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// A seed: `$LOGD_SEED`, else the time. It is printed.
pub fn seed() -> u64 {
    let given = std::env::var("LOGD_SEED").ok().map(|s| s.parse().unwrap());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = given.unwrap_or(now.unwrap().as_nanos() as u64);
    eprintln!("LOGD_SEED={seed}");
    seed
}

/// `from..to`, one number a line.
pub fn numbers(range: std::ops::Range<u64>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}
