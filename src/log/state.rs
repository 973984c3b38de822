//! Small state files, replaced whole and never written in place: a crash at any moment leaves the
//! old content or the new.

use std::io;

use crate::sys::Dir;

/// Replaces `name` in `dir` by `content`, durably: writes `name.tmp`, syncs it, renames it, syncs the
/// directory.
///
/// # Errors
/// What the system answers; the old file is then still in place (and perhaps a `.tmp` beside it,
/// which the next write replaces).
pub fn write_state_file(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<()> {
    let tmp = format!("{name}.tmp");
    // Left by a crash, or by a writer on a disk that was full.
    unlink_if_there(dir, &tmp)?;
    let file = dir.create(&tmp)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    dir.rename(&tmp, name)?;
    dir.sync()
}

/// Reads a whole file of at most `bytes_max` bytes; `None` if there is none.
///
/// # Errors
/// `InvalidData` for a larger one; else what the system answers.
pub fn read_state_file(dir: &dyn Dir, name: &str, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match dir.open(name, crate::sys::Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    // A writer may replace the file meanwhile, but what was opened stays whole.
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > bytes_max {
        let why = format!("{len} bytes are more than the {bytes_max} such a file may have");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut content = vec![0; len];
    let n = file.read_full_at(&mut content, 0)?;
    content.truncate(n);
    Ok(Some(content))
}

/// Removes a name that may be absent.
///
/// # Errors
/// What the system answers, except that there is no such name.
pub fn unlink_if_there(dir: &dyn Dir, name: &str) -> io::Result<()> {
    match dir.unlink(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
