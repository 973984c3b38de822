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
