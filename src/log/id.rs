//! The id of a log: what tells whether two directories hold the same one.
//!
//! It is the topic id in `partition.metadata`, where a broker wrote one, else `.logd/id`: a UUID in
//! its usual form and a newline, made with the log. A copy has its source's.

use crate::error::{Error, Result};
use crate::format::checkpoint::parse_metadata;
use crate::format::names::PARTITION_METADATA;
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::Dir;

/// Largest file that is read.
const FILE_BYTES_MAX: usize = 4096;

/// The id of the log in `dir`, whose `.logd` is `logd_dir`; `None` if it has none.
///
/// # Errors
/// `Data` for one that cannot be read; else what the system answers.
pub fn read(dir: &dyn Dir, logd_dir: Option<&dyn Dir>) -> Result<Option<[u8; 16]>> {
    if let Some(id) = of_broker(dir)? {
        return Ok(Some(id));
    }
    let Some(logd_dir) = logd_dir else {
        return Ok(None);
    };
    let place = || logd_dir.path().join(files::ID);
    let bytes = read_state_file(logd_dir, files::ID, FILE_BYTES_MAX);
    let Some(bytes) = bytes.map_err(|e| Error::io("cannot read", e).at_path(place()))? else {
        return Ok(None);
    };
    let id = std::str::from_utf8(&bytes).ok().and_then(parse_uuid);
    let unreadable = || Error::data("not a UUID").at_path(place());
    id.map(Some).ok_or_else(unreadable)
}

fn of_broker(dir: &dyn Dir) -> Result<Option<[u8; 16]>> {
    let place = || dir.path().join(PARTITION_METADATA);
    let bytes = read_state_file(dir, PARTITION_METADATA, FILE_BYTES_MAX);
    let Some(bytes) = bytes.map_err(|e| Error::io("cannot read", e).at_path(place()))? else {
        return Ok(None);
    };
    let id = parse_metadata(&bytes).map_err(|d| {
        let error = Error::data(d.reason).at_position(d.at as u64);
        error.at_path(place())
    })?;
    Ok(Some(id.0))
}

/// Gives a log an id, durably. One with a broker's keeps that.
///
/// # Errors
/// As [`read`], and what writing may meet.
pub fn write(dir: &dyn Dir, logd_dir: &dyn Dir, id: [u8; 16]) -> Result<()> {
    // One that cannot be read is replaced.
    if of_broker(dir)?.is_some() || matches!(read(dir, Some(logd_dir)), Ok(Some(i)) if i == id) {
        return Ok(());
    }
    let text = format!("{}\n", render_uuid(id));
    write_state_file(logd_dir, files::ID, text.as_bytes())
        .map_err(|e| Error::io("cannot write", e).at_path(logd_dir.path().join(files::ID)))
}

/// A UUID in its usual form.
pub fn render_uuid(id: [u8; 16]) -> String {
    let mut out = String::with_capacity(36);
    for (i, byte) in id.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

/// The 16 bytes of a UUID in its usual form, white space around it.
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let text = text.trim();
    let dashes = [8, 13, 18, 23];
    let fits = text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match b {
            b'-' => dashes.contains(&i),
            b => b.is_ascii_hexdigit() && !dashes.contains(&i),
        });
    let hex: String = text.split('-').collect();
    let bits = u128::from_str_radix(&hex, 16).ok().filter(|_| fits)?;
    Some(bits.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Host;
    use crate::sys::sim::SimHost;
    use std::path::Path;

    #[test]
    fn a_uuid_reads_as_it_was_written_and_nothing_else_does() {
        let id: [u8; 16] = std::array::from_fn(|i| i as u8 * 17);
        let text = render_uuid(id);
        assert_eq!(text, "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(parse_uuid(&format!(" {text}\n")), Some(id));
        for bad in [
            "",
            "00112233445566778899aabbccddeeff",
            "0011-22334455-6677-8899-aabbccddeeff",
            "00112233-4455-6677-8899-aabbccddeefg",
            "+0112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_brokers_id_counts_and_is_kept() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        let dir = dir.as_ref();
        assert_eq!(read(dir, Some(dir)).unwrap(), None);
        write(dir, dir, [7; 16]).unwrap();
        assert_eq!(read(dir, Some(dir)).unwrap(), Some([7; 16]));
        let calls = host.calls();
        write(dir, dir, [7; 16]).unwrap();
        assert_eq!(host.calls(), calls);
        let id = crate::format::checkpoint::TopicId([9; 16]);
        let text = crate::format::checkpoint::render_metadata(id);
        write_state_file(dir, PARTITION_METADATA, text.as_bytes()).unwrap();
        write(dir, dir, [8; 16]).unwrap();
        assert_eq!(read(dir, Some(dir)).unwrap(), Some([9; 16]));
        host.edit("/d/partition.metadata", |b| b[0] = b'x').unwrap();
        assert!(read(dir, None).is_err());
    }
}
