//! Commands under limits of time and memory, and directories as they were before and after.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A run that takes longer hangs, also on a machine that has other work.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Address space of a run, in KiB: what was announced and never touched counts too.
const ADDRESS_KIB_MAX: u64 = 3 << 20;
/// The longest file a run may write, in blocks of 512 bytes.
const FILE_BLOCKS_MAX: u64 = 2 << 20;
/// What is kept of stdout.
const OUT_BYTES_MAX: usize = 1 << 20;

/// How a run ended, and the most memory it had.
#[derive(Debug)]
pub struct Ended {
    pub words: Vec<String>,
    /// Exit status, or minus the signal; `None` if it had to be killed.
    pub code: Option<i32>,
    /// Its first part.
    pub out: Vec<u8>,
    pub err: String,
    pub peak_kib: u64,
}

impl Ended {
    /// What is wrong with how it ended, if anything is.
    pub fn complaint(&self, peak_kib_max: u64) -> Option<String> {
        let lawful = [0, 1, 65, 66, 73, 74, 75, 77, 78];
        let what = match self.code {
            None => format!("still there after {TIME_MAX:?}"),
            Some(code) if !lawful.contains(&code) => format!("ended with {code}"),
            _ if self.peak_kib > peak_kib_max => {
                format!("took {} KiB, more than {peak_kib_max}", self.peak_kib)
            }
            _ if self.err.contains("panicked") => "panicked".to_string(),
            _ if self.err.chars().any(|c| c.is_control() && c != '\n') => {
                "control characters on stderr".to_string()
            }
            _ => return None,
        };
        let err: String = self.err.chars().take(2000).collect();
        Some(format!("logd {}: {what}\n{err}", self.words.join(" ")))
    }
}

/// Runs `logd WORDS` in `dir` with `input` on stdin.
pub fn run(dir: &Path, words: &[&str], input: &[u8]) -> Ended {
    let limits = format!(
        "ulimit -c 0; ulimit -v {ADDRESS_KIB_MAX}; ulimit -f {FILE_BLOCKS_MAX}; exec \"$@\""
    );
    let mut logd = Command::new("sh");
    logd.args(["-c", &limits, "sh", env!("CARGO_BIN_EXE_logd")])
        .args(words)
        .current_dir(dir)
        .env_remove("LOGD_DIR")
        .env("LOGD_CONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = logd.spawn().expect("sh");
    let (mut stdin, stdout, stderr) = (
        child.stdin.take().unwrap(),
        child.stdout.take().unwrap(),
        child.stderr.take().unwrap(),
    );
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (code, peak_kib) = std::thread::scope(|s| {
        s.spawn(move || {
            let _ = stdin.write_all(input); // it may have ended before it read all
        });
        s.spawn(|| keep_first(stdout, &mut out));
        s.spawn(|| keep_first(stderr, &mut err));
        watch(&mut child)
    });
    Ended {
        words: words.iter().map(|w| w.to_string()).collect(),
        code,
        out,
        err: String::from_utf8_lossy(&err).into_owned(),
        peak_kib,
    }
}

/// Reads all and keeps the beginning.
fn keep_first(mut from: impl Read, kept: &mut Vec<u8>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let room = OUT_BYTES_MAX.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
    }
}

/// Waits for the end of a process. The kernel keeps the peak of its memory, so looking every
/// millisecond misses only what was touched in the last one.
fn watch(child: &mut Child) -> (Option<i32>, u64) {
    let began = Instant::now();
    let mut peak = 0;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            let code = status.code().or(status.signal().map(|s| -s));
            return (code, peak);
        }
        peak = peak.max(peak_kib(child.id()).unwrap_or(0));
        if began.elapsed() > TIME_MAX {
            let _ = child.kill();
            let _ = child.wait();
            return (None, peak);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Every name below a directory with all that a write would change.
pub type Listing = BTreeMap<PathBuf, Entry>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    mode: u32,
    inode: u64,
    len: u64,
    /// Nanoseconds since 1970.
    modified: i128,
    /// A hash of the content of a small file; where a link leads.
    content: Option<(u32, OsString)>,
}

/// Lists `root` and all below it.
pub fn list(root: &Path) -> Listing {
    let mut out = Listing::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            let names = std::fs::read_dir(&path).unwrap();
            left.extend(names.map(|e| e.unwrap().path()));
        }
        let content = if meta.is_file() && meta.len() <= 1 << 20 {
            let bytes = std::fs::read(&path).unwrap();
            Some((crc32fast::hash(&bytes), OsString::new()))
        } else {
            let target = std::fs::read_link(&path).ok();
            target.map(|t| (0, t.into_os_string()))
        };
        let entry = Entry {
            mode: meta.mode(),
            inode: meta.ino(),
            len: if meta.is_dir() { 0 } else { meta.len() },
            modified: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            content,
        };
        out.insert(path, entry);
    }
    out
}

/// What differs between two listings, of names that `count`.
pub fn difference(
    before: &Listing,
    after: &Listing,
    count: impl Fn(&Path) -> bool,
) -> Option<String> {
    let names = before.keys().chain(after.keys()).filter(|p| count(p));
    let mut differing = names.filter(|p| before.get(*p) != after.get(*p));
    let path = differing.next()?;
    Some(format!(
        "{}: {:?} became {:?}",
        path.display(),
        before.get(path),
        after.get(path)
    ))
}
