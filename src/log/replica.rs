//! The marks `.logd/replica` and `.logd/fenced`: this log is a copy, or a copy of it took over.
//!
//! Both are sealed text ([`super::state`]), replaced whole, 4 KiB at most:
//!
//! | line | meaning |
//! |---|---|
//! | `1` | version |
//! | `id UUID` | `replica`: the id of the log that this is a copy of |
//! | `source NAME` | `replica`: what that log was called, for people; control bytes as `?` |
//! | `epoch N` | `fenced`: the leader epoch that the successor began |
//! | `successor NAME` | `fenced`: what the successor was called |
//! | `crc32 HHHHHHHH` | the seal |
//!
//! It is the file that makes the mark, not what stands in it: with an empty or a damaged one a log
//! takes no appends either.
//!
//! `replica` is durable before the first batch of a copy and goes last in a promotion. `fenced` is
//! durable before the source answers that it was refused; it goes when `replica` is durable, as a
//! fenced log comes back as a copy only.

use crate::error::{Error, ErrorKind, Result};
use crate::log::files;
use crate::log::id::{parse_uuid, render_uuid};
use crate::log::state::{read_state_file, seal, unlink_if_there, unseal, write_state_file};
use crate::sys::Dir;

/// Version of both files.
const VERSION: &str = "1";
/// Largest file that is read.
const FILE_BYTES_MAX: usize = 4096;
/// Most characters of a name that are kept.
const NAME_CHARS_MAX: usize = 512;

/// What a log is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaOf {
    /// The source's id; zeros if it has none.
    pub id: [u8; 16],
    /// What it was called, for people.
    pub source: String,
}

/// Who took over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FencedBy {
    /// The leader epoch that the successor began.
    pub epoch: i32,
    /// What it was called, for people.
    pub successor: String,
}

/// What the log is a copy of; `None` for no copy.
///
/// # Errors
/// `Data` if the mark cannot be understood; else what the system answers.
pub fn read(logd_dir: &dyn Dir) -> Result<Option<ReplicaOf>> {
    read_mark(logd_dir, files::REPLICA, |lines| {
        let id = parse_uuid(lines.next()?.strip_prefix("id ")?)?;
        let source = lines.next()?.strip_prefix("source ")?.to_string();
        Some(ReplicaOf { id, source })
    })
}

/// Who took over from the log; `None` if nobody did.
///
/// # Errors
/// As [`read`].
pub fn read_fence(logd_dir: &dyn Dir) -> Result<Option<FencedBy>> {
    read_mark(logd_dir, files::FENCED, |lines| {
        let epoch = lines.next()?.strip_prefix("epoch ")?.parse().ok()?;
        let successor = lines.next()?.strip_prefix("successor ")?.to_string();
        Some(FencedBy { epoch, successor })
    })
}

fn read_mark<T>(
    logd_dir: &dyn Dir,
    name: &str,
    parse: impl Fn(&mut std::str::Lines<'_>) -> Option<T>,
) -> Result<Option<T>> {
    let place = || logd_dir.path().join(name);
    let bytes = read_state_file(logd_dir, name, FILE_BYTES_MAX);
    let Some(bytes) = bytes.map_err(|e| Error::io("cannot read", e).at_path(place()))? else {
        return Ok(None);
    };
    let text = unseal(&bytes).map_err(|why| Error::data(why).at_path(place()))?;
    let mut lines = text.lines();
    let mark = match lines.next() == Some(VERSION) {
        true => parse(&mut lines),
        false => None,
    };
    let unknown = || Error::data("not a mark of this version").at_path(place());
    mark.map(Some).ok_or_else(unknown)
}

/// Marks the log as a copy, durably. Nothing is written if the mark says so already.
///
/// # Errors
/// What the system answers.
pub fn write(logd_dir: &dyn Dir, of: &ReplicaOf) -> Result<()> {
    let of = ReplicaOf {
        source: name_of(&of.source),
        ..of.clone()
    };
    if matches!(read(logd_dir), Ok(Some(there)) if there == of) {
        return Ok(());
    }
    let (id, source) = (render_uuid(of.id), &of.source);
    let text = format!("{VERSION}\nid {id}\nsource {source}\n");
    put(logd_dir, files::REPLICA, text)
}

/// Marks the log as fenced, durably: from now on it takes no appends.
///
/// # Errors
/// What the system answers.
pub fn write_fence(logd_dir: &dyn Dir, by: &FencedBy) -> Result<()> {
    let by = FencedBy {
        successor: name_of(&by.successor),
        ..by.clone()
    };
    if matches!(read_fence(logd_dir), Ok(Some(there)) if there == by) {
        return Ok(());
    }
    let (epoch, successor) = (by.epoch, &by.successor);
    let text = format!("{VERSION}\nepoch {epoch}\nsuccessor {successor}\n");
    put(logd_dir, files::FENCED, text)
}

fn put(logd_dir: &dyn Dir, name: &str, text: String) -> Result<()> {
    write_state_file(logd_dir, name, &seal(text))
        .map_err(|e| Error::io("cannot write", e).at_path(logd_dir.path().join(name)))
}

/// Removes a mark that may be absent, durably.
///
/// # Errors
/// What the system answers.
pub fn remove(logd_dir: &dyn Dir, name: &'static str) -> Result<()> {
    let remove = || match logd_dir.stat(name)? {
        None => Ok(()),
        Some(_) => unlink_if_there(logd_dir, name).and_then(|()| logd_dir.sync()),
    };
    remove().map_err(|e| Error::io("cannot remove", e).at_path(logd_dir.path().join(name)))
}

/// Whether a mark is there, whatever it says.
///
/// # Errors
/// What the system answers.
pub fn is_marked(logd_dir: &dyn Dir, name: &'static str) -> Result<bool> {
    let there = logd_dir.id_of(name);
    let fail = |e| Error::io("cannot look for", e).at_path(logd_dir.path().join(name));
    Ok(there.map_err(fail)?.is_some())
}

/// Refuses a log that takes no appends: a copy, or one that is fenced.
///
/// # Errors
/// `Permission` for a copy, `Data` for a fenced log; else what the system answers.
pub fn refuse_appends(logd_dir: &dyn Dir) -> Result<()> {
    let log = logd_dir.path().parent().unwrap_or(logd_dir.path());
    if is_marked(logd_dir, files::REPLICA)? {
        let of = read(logd_dir)
            .ok()
            .flatten()
            .filter(|r| !r.source.is_empty());
        let of = of.map_or("another log".to_string(), |r| r.source);
        let why = format!("this is a copy of {of} and takes no appends until it is promoted");
        return Err(Error::new(ErrorKind::Permission, why)
            .at_path(log)
            .hint(format!("logd promote {}", log.display())));
    }
    if is_marked(logd_dir, files::FENCED)? {
        let by = read_fence(logd_dir).ok().flatten();
        let by = by.map_or_else(
            || "a copy of this log was promoted and takes the appends now".to_string(),
            |f| {
                let (name, epoch) = (f.successor, f.epoch);
                format!("{name} was promoted (epoch {epoch}) and takes the appends now")
            },
        );
        return Err(Error::data(format!("fenced: {by}"))
            .at_path(log)
            .hint(format!(
                "logd replicate --truncate-divergent SUCCESSOR {}",
                log.display()
            )));
    }
    Ok(())
}

/// A name as it is kept: one line, of bounded length.
fn name_of(name: &str) -> String {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    name.chars().take(NAME_CHARS_MAX).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Host;
    use crate::sys::sim::SimHost;
    use std::path::Path;
    use std::sync::Arc;

    fn dir(host: &SimHost) -> Arc<dyn Dir> {
        host.make_dir(Path::new("/x-0")).unwrap();
        host.make_dir(Path::new("/x-0/.logd")).unwrap();
        host.open_dir(Path::new("/x-0/.logd")).unwrap()
    }

    #[test]
    fn marks_say_what_was_written_and_are_written_once() {
        let host = SimHost::new();
        let dir = dir(&host);
        let dir = dir.as_ref();
        refuse_appends(dir).unwrap();
        let of = ReplicaOf {
            id: [3; 16],
            source: "web1:a\nb".to_string(),
        };
        write(dir, &of).unwrap();
        let calls = host.calls();
        write(dir, &of).unwrap();
        assert_eq!(host.calls(), calls);
        let read_back = read(dir).unwrap().unwrap();
        assert_eq!(
            (read_back.id, read_back.source.as_str()),
            ([3; 16], "web1:a?b")
        );
        let e = refuse_appends(dir).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Permission);
        assert!(e.to_string().contains("a copy of web1:a?b"), "{e}");
        remove(dir, files::REPLICA).unwrap();
        let by = FencedBy {
            epoch: 4,
            successor: "dr1:x".to_string(),
        };
        write_fence(dir, &by).unwrap();
        assert_eq!(read_fence(dir).unwrap(), Some(by));
        let e = refuse_appends(dir).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        assert!(
            e.to_string().contains("dr1:x was promoted (epoch 4)"),
            "{e}"
        );
        remove(dir, files::FENCED).unwrap();
        refuse_appends(dir).unwrap();
        assert_eq!(read(dir).unwrap(), None);
    }

    #[test]
    fn a_damaged_mark_is_a_mark() {
        let host = SimHost::new();
        let dir = dir(&host);
        let dir = dir.as_ref();
        for name in [files::REPLICA, files::FENCED] {
            dir.create(name).unwrap();
            assert!(refuse_appends(dir).is_err());
            assert!(read(dir).is_err() || read_fence(dir).is_err());
            dir.unlink(name).unwrap();
        }
        let of = ReplicaOf {
            id: [0; 16],
            source: String::new(),
        };
        write(dir, &of).unwrap();
        for i in 0..host.read_file("/x-0/.logd/replica").unwrap().len() {
            host.edit("/x-0/.logd/replica", |b| b[i] ^= 1).unwrap();
            assert!(read(dir).is_err(), "byte {i}");
            host.edit("/x-0/.logd/replica", |b| b[i] ^= 1).unwrap();
        }
        assert_eq!(read(dir).unwrap(), Some(of));
    }
}
