//! Where a log may be written, and the files that its first writer makes there.

use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::log::listing::LogDir;
use crate::log::{end, files};
use crate::sys::{Dir, File, FsKind, Host};

/// Refuses where writing would not be safe.
///
/// # Errors
/// `Permission` for root where others may write, `Config` on a network file system.
pub fn check_place(dir: &dyn Dir, allow_network_fs: bool) -> Result<()> {
    let fail = |e| Error::io("cannot examine the directory", e).at_path(dir.path());
    if !dir.is_safe_for_root().map_err(fail)? {
        let why = "others may write in this directory; as root that is not safe";
        return Err(Error::new(ErrorKind::Permission, why)
            .at_path(dir.path())
            .hint(format!("chmod o-w {}", dir.path().display())));
    }
    match dir.kind_of_fs().map_err(fail)? {
        FsKind::Network(name) if !allow_network_fs => {
            let why =
                format!("on a network file system ({name}) locks and syncs cannot be relied on");
            Err(Error::new(ErrorKind::Config, why)
                .at_path(dir.path())
                .hint("--allow-network-fs writes all the same"))
        }
        _ => Ok(()),
    }
}

/// Opens `.logd`, making it where there is none; its name is durable on return.
pub fn open_logd_dir(dir: &dyn Dir) -> Result<Arc<dyn Dir>> {
    let fail = |e| Error::io("cannot open .logd", e).at_path(dir.path());
    match dir.open_dir(files::LOGD_DIR) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other.map_err(fail),
    }
    match dir.make_dir(files::LOGD_DIR) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(fail)?,
    }
    dir.sync().map_err(fail)?;
    dir.open_dir(files::LOGD_DIR).map_err(fail)
}

/// Opens `.logd/end`, making it, durably, where there is none, after every name on the way to it: who
/// made those may have been killed before they were durable. An empty log is durable as it is, and
/// D says so from the start; otherwise D is unknown until the first sync.
///
/// # Errors
/// What the system answers.
pub fn open_end(host: &dyn Host, log: &LogDir, logd_dir: &dyn Dir) -> Result<Box<dyn File>> {
    let fail = |e| Error::io("cannot make .logd/end", e).at_path(log.dir().path());
    match logd_dir.open(files::END, crate::sys::Access::Write) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other.map_err(fail),
    }
    let empty = empty_log(log)?;
    log.dir().sync().map_err(fail)?;
    // A parent that may not be read cannot be synced by us; whoever made the partition there could.
    if let Some(parent) = log.parent() {
        parent.sync().map_err(fail)?;
    }
    let file = logd_dir.open_or_create(files::END).map_err(fail)?;
    file.set_len(end::FILE_BYTES).map_err(fail)?;
    if let Some(base) = empty {
        end::write_durable(file.as_ref(), 1, host.boot_id(), base).map_err(fail)?;
    }
    file.sync().and_then(|()| logd_dir.sync()).map_err(fail)?;
    Ok(file)
}

/// Where an empty log begins; `None` if it is not empty.
fn empty_log(log: &LogDir) -> Result<Option<Offset>> {
    let segments = log.segments()?;
    for s in &segments {
        if log
            .open_file(&s.log_name())?
            .len()
            .map_err(|e| Error::io("cannot read", e).at_path(log.dir().path()))?
            > 0
        {
            return Ok(None);
        }
    }
    match segments.last() {
        Some(s) => Ok(Some(s.base())),
        None => log.start_offset(&[]).map(Some),
    }
}
