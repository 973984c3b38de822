//! Small state files, replaced whole and never written in place: a crash at any moment leaves the
//! old content or the new. Those that must not be misread end in a checksum ([`seal`], [`unseal`]).

use std::io;

use crate::sys::Dir;

/// Replaces `name` in `dir` by `content`, durably: writes `name.tmp`, syncs it, renames it, syncs the
/// directory.
///
/// # Errors
/// What the system answers; the old file is then still in place (and perhaps a `.tmp` beside it,
/// which the next write replaces).
pub fn write_state_file(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<()> {
    write_state_file_by_way_of(dir, &format!("{name}.tmp"), name, content)
}

/// The same by way of another temporary name: where two may write the file at once, each needs its own.
///
/// # Errors
/// As [`write_state_file`].
pub fn write_state_file_by_way_of(
    dir: &dyn Dir,
    tmp: &str,
    name: &str,
    content: &[u8],
) -> io::Result<()> {
    // Left by a crash, or by a writer on a disk that was full.
    unlink_if_there(dir, tmp)?;
    let file = dir.create(tmp)?;
    file.write_all_at(content, 0)?;
    file.sync()?;
    dir.rename(tmp, name)?;
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

/// A text of whole lines, sealed: with the line `crc32 HHHHHHHH` behind it, the CRC-32 (IEEE) of all
/// lines above, their newlines included.
pub fn seal(mut text: String) -> Vec<u8> {
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc32 {crc:08x}\n"));
    text.into_bytes()
}

/// The lines of a sealed text, or what is wrong with it.
///
/// # Errors
/// It is no text, cut short, or the checksum does not hold.
pub fn unseal(bytes: &[u8]) -> Result<&str, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not text")?;
    let body = text.strip_suffix('\n').ok_or("it ends in mid-line")?;
    let (body, last) = body.rsplit_once('\n').ok_or("it ends early")?;
    let body = text.get(..body.len() + 1).unwrap_or_default();
    let crc = last.strip_prefix("crc32 ").ok_or("no checksum")?;
    match crc == format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        true => Ok(body),
        false => Err("the checksum does not match"),
    }
}
