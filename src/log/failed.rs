//! `.logd/failed`: the mark that a sync failed.
//!
//! The kernel reports a write-back error once and then calls the pages clean; a second fsync succeeds
//! without them. So after a failed sync nobody may append or acknowledge anything until `repair` has
//! read back from the device what is really there. The mark is written while the sync lock is held,
//! and everybody looks for it under the append lock and under the sync lock.

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::{Dir, Host};

/// Refuses if a sync has failed here.
///
/// # Errors
/// `Io`, naming what the mark says and the way out.
pub fn refuse_if_failed(logd_dir: &dyn Dir) -> Result<()> {
    let there = logd_dir
        .stat(files::FAILED)
        .map_err(|e| Error::io("cannot look for .logd/failed", e).at_path(logd_dir.path()))?;
    match there {
        None => Ok(()),
        Some(_) => Err(refusal(logd_dir)),
    }
}

fn refusal(logd_dir: &dyn Dir) -> Error {
    let said = read_state_file(logd_dir, files::FAILED, 4096)
        .ok()
        .flatten();
    let said = said.map(|b| String::from_utf8_lossy(&b).trim().replace('\n', "; "));
    let log = logd_dir.path().parent().unwrap_or(logd_dir.path());
    let why = format!(
        "an earlier sync failed ({}); nothing can be acknowledged until it is repaired",
        said.as_deref()
            .filter(|s| !s.is_empty())
            .unwrap_or("no details")
    );
    Error::new(ErrorKind::Io, why)
        .at_path(log)
        .hint(format!("logd repair {}", log.display()))
}

/// Leaves the mark. Errors do not matter: the disk may be gone altogether, and this process
/// acknowledges nothing further in any case.
pub fn mark(host: &dyn Host, logd_dir: &dyn Dir, durable: Option<Offset>, cause: &std::io::Error) {
    let durable = durable.map_or_else(|| "unknown".to_string(), |d| d.to_string());
    let text = format!(
        "durable offset {durable}\n{cause}\nat {} ms\n",
        host.wall_ms()
    );
    if write_state_file(logd_dir, files::FAILED, text.as_bytes()).is_ok() {
        return;
    }
    // In place then, or no more than the name: that it is there says the most.
    if let Ok(file) = logd_dir.open_or_create(files::FAILED) {
        if file.len().is_ok_and(|len| len == 0) {
            let _ = file.write_all_at(text.as_bytes(), 0);
        }
        let _ = file.sync();
    }
    let _ = logd_dir.sync();
}
