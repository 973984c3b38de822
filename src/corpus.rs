//! Where tests find the corpus of files that real brokers wrote.
//!
//! `LOGD_CORPUS` names its directory; by default it is looked for beside the package. A test without
//! its corpus says so on stderr and passes.

use std::path::{Path, PathBuf};

/// The corpus, or `None` (said on stderr) where there is none.
pub fn root() -> Option<PathBuf> {
    let dir = match std::env::var_os("LOGD_CORPUS") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/corpus/kafka"),
    };
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: no corpus at {} (set LOGD_CORPUS)", dir.display());
    None
}

/// Every file below `dir`, in name order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        match path.is_dir() {
            true => out.extend(files(&path)),
            false => out.push(path),
        }
    }
    out
}

/// The last component of `path`.
pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// A record as `*.log.expected.ndjson` gives it.
pub struct Expected {
    /// File and line, for messages.
    pub place: String,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Whether it is a control record.
    pub is_control: bool,
}

/// Every expected record below `dir`.
pub fn records(dir: &Path) -> impl Iterator<Item = Expected> {
    let wanted = |p: &PathBuf| name(p).ends_with(".log.expected.ndjson");
    files(dir).into_iter().filter(wanted).flat_map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Expected> = text
            .lines()
            .enumerate()
            .map(|(i, line)| expected(format!("{}:{}", path.display(), i + 1), line))
            .collect();
        lines
    })
}

fn expected(place: String, line: &str) -> Expected {
    let json: serde_json::Value = serde_json::from_str(line).unwrap();
    let field = |name: &str| json[name].as_str().map(base64);
    Expected {
        place,
        key: field("key"),
        value: field("value"),
        is_control: json["isControl"].as_bool().unwrap(),
    }
}

/// Decodes standard base64.
pub fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut n, mut out) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        let value = DIGITS.iter().position(|d| *d == c).unwrap();
        bits = bits << 6 | u32::try_from(value).unwrap();
        n += 6;
        if n >= 8 {
            n -= 8;
            out.push((bits >> n) as u8);
        }
    }
    out
}
