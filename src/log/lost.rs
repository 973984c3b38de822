//! `.logd/lost+found`: what recovery takes out of a log is kept, one file each, with a list.
//!
//! The list is `list.ndjson`: one JSON object a line with `file`, `segment`, `position`, `bytes`,
//! `offset` (the first one lost), `reason`, and `redacted`, the id of the redaction that removed the
//! file. Nothing else reads files there again; a person decides.

use std::io;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::names::{Kind, file_name};
use crate::format::{Offset, Position};
use crate::log::files;
use crate::log::state::{read_state_file, unlink_if_there, write_state_file};
use crate::sys::{Access, Dir, File, Host};

const LIST: &str = "list.ndjson";
/// The list is small text; past this it is started anew beside the old one.
const LIST_BYTES_MAX: usize = 16 << 20;
/// Bytes copied at once.
const COPY_BYTES: usize = 256 << 10;

/// Something taken out of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Base offset of the segment it was in.
    pub segment: Offset,
    /// Where it began.
    pub position: Position,
    /// How many bytes.
    pub bytes: u64,
    /// First offset that is no longer there.
    pub offset: Offset,
    /// Why it was taken out.
    pub reason: String,
}

/// The lost+found of one partition.
pub struct LostFound<'a> {
    host: &'a dyn Host,
    dir: Arc<dyn Dir>,
}

impl<'a> LostFound<'a> {
    /// Opens it, making it if it is absent.
    ///
    /// # Errors
    /// What the system answers.
    pub fn open(host: &'a dyn Host, logd_dir: &dyn Dir) -> Result<LostFound<'a>> {
        let fail = |e| Error::io("cannot open .logd/lost+found", e).at_path(logd_dir.path());
        match logd_dir.make_dir(files::LOST_FOUND) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.and_then(|()| logd_dir.sync()),
        }
        .map_err(fail)?;
        let dir = logd_dir.open_dir(files::LOST_FOUND).map_err(fail)?;
        Ok(LostFound { host, dir })
    }

    /// Copies bytes of a segment's log from `lost.position` on, durably on return.
    ///
    /// # Errors
    /// What the system answers; a file may then be there without an entry in the list.
    pub fn keep_bytes(&self, log: &dyn File, lost: &Lost) -> Result<()> {
        if self.is_kept(log, lost).map_err(|e| self.error(e))? {
            return Ok(());
        }
        let stamp = self.host.wall_ms();
        let name = format!("{:020}.log.{}.{stamp}", lost.segment.0, lost.position);
        let copy = || -> io::Result<()> {
            // A copy that a crash cut short is in no list; it is made again.
            unlink_if_there(self.dir.as_ref(), &name)?;
            let file = self.dir.create(&name)?;
            let mut buf = vec![0; COPY_BYTES];
            let mut done = 0;
            while done < lost.bytes {
                let want = usize::try_from(lost.bytes - done)
                    .unwrap_or(COPY_BYTES)
                    .min(COPY_BYTES);
                let part = buf.get_mut(..want).unwrap_or_default();
                let n = log.read_full_at(part, lost.position.0 + done)?;
                file.write_all_at(part.get(..n).unwrap_or_default(), done)?;
                done += n as u64;
                if n < want {
                    break;
                }
            }
            file.sync()
        };
        copy()
            .and_then(|()| self.add(&name, lost))
            .map_err(|e| self.error(e))
    }

    /// Moves a whole segment, its indexes and its snapshot here, durably on return.
    ///
    /// # Errors
    /// What the system answers. What was moved stays moved, and a second call finishes.
    pub fn keep_segment(&self, from: &dyn Dir, lost: &Lost) -> Result<()> {
        let stamp = self.host.wall_ms();
        let log = file_name(lost.segment, Kind::Log);
        let moved = || -> io::Result<()> {
            let name = match self.promised(lost)? {
                Some(name) => name,
                None => {
                    let name = format!("{log}.{stamp}");
                    self.add(&name, lost)?;
                    name
                }
            };
            // Derived from the log; worthless without it.
            for kind in [
                Kind::OffsetIndex,
                Kind::TimeIndex,
                Kind::TxnIndex,
                Kind::Snapshot,
            ] {
                unlink_if_there(from, &file_name(lost.segment, kind))?;
            }
            from.rename_to(&log, self.dir.as_ref(), &name)?;
            self.dir.sync()?;
            from.sync()
        };
        moved().map_err(|e| self.error(e))
    }

    /// Whether these very bytes are in the list: whoever took them out was stopped before it was done.
    fn is_kept(&self, log: &dyn File, lost: &Lost) -> io::Result<bool> {
        for name in self.listed(lost)? {
            match self.dir.open(&name, Access::Read) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                file => {
                    if is_equal(&*file?, log, lost)? {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Files of the list that were taken from the same place.
    fn listed(&self, lost: &Lost) -> io::Result<Vec<String>> {
        let list = match read_state_file(self.dir.as_ref(), LIST, LIST_BYTES_MAX) {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => None, // it is started anew
            list => list?,
        };
        let list = list.unwrap_or_default();
        let entries = list.split(|b| *b == b'\n').filter_map(|line| {
            let entry: serde_json::Value = serde_json::from_slice(line).ok()?;
            let same = entry.get("segment")?.as_i64()? == lost.segment.0
                && entry.get("position")?.as_u64()? == lost.position.0
                && entry.get("bytes")?.as_u64()? == lost.bytes;
            let name = entry.get("file")?.as_str()?;
            // What a redaction took away is no longer kept under that name.
            let kept = entry.get("redacted").is_none();
            (same && kept && !name.contains('/')).then(|| name.to_string())
        });
        Ok(entries.collect())
    }

    /// The name under which a segment is in the list without being there yet.
    fn promised(&self, lost: &Lost) -> io::Result<Option<String>> {
        let log = file_name(lost.segment, Kind::Log);
        for name in self.listed(lost)? {
            let whole = name.strip_prefix(&log).and_then(|n| n.strip_prefix('.'));
            let whole = whole.is_some_and(|stamp| stamp.bytes().all(|b| b.is_ascii_digit()));
            if whole && self.dir.stat(&name)?.is_none() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    fn add(&self, name: &str, lost: &Lost) -> io::Result<()> {
        let mut list = match read_state_file(self.dir.as_ref(), LIST, LIST_BYTES_MAX) {
            Ok(list) => list.unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                self.dir
                    .rename(LIST, &format!("{LIST}.{}", self.host.wall_ms()))?;
                Vec::new()
            }
            Err(e) => return Err(e),
        };
        let line = serde_json::json!({
            "file": name, "segment": lost.segment.0, "position": lost.position.0,
            "bytes": lost.bytes, "offset": lost.offset.0, "reason": lost.reason,
        });
        list.extend_from_slice(line.to_string().as_bytes());
        list.push(b'\n');
        write_state_file(self.dir.as_ref(), LIST, &list)
    }

    /// The files kept here, without the list; in order.
    ///
    /// # Errors
    /// What the system answers.
    pub fn names(logd_dir: &dyn Dir) -> Result<Vec<String>> {
        let fail = |e| Error::io("cannot list .logd/lost+found", e).at_path(logd_dir.path());
        let names = match logd_dir.open_dir(files::LOST_FOUND) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            opened => opened.and_then(|dir| dir.list()).map_err(fail)?,
        };
        let is_list = |n: &String| n.starts_with(LIST);
        let mut names: Vec<String> = names.into_iter().filter(|n| !is_list(n)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Opens one of [`LostFound::names`].
    ///
    /// # Errors
    /// What the system answers.
    pub fn open_file(logd_dir: &dyn Dir, name: &str) -> Result<Arc<dyn File>> {
        let dir = logd_dir.open_dir(files::LOST_FOUND);
        let opened = dir.and_then(|dir| dir.open(name, Access::Read));
        let place = || logd_dir.path().join(files::LOST_FOUND).join(name);
        let file = opened.map_err(|e| Error::io("cannot open", e).at_path(place()))?;
        Ok(Arc::from(file))
    }

    /// Removes kept files for good, durably on return. The list tells by which redaction.
    ///
    /// # Errors
    /// What the system answers. What was removed stays removed, and a second call finishes.
    pub fn remove(&self, names: &[String], redaction: &str) -> Result<()> {
        let remove = || -> io::Result<()> {
            let list = read_state_file(self.dir.as_ref(), LIST, LIST_BYTES_MAX)?;
            if let Some(list) = list {
                let marked = mark(&list, names, redaction);
                write_state_file(self.dir.as_ref(), LIST, &marked)?;
            }
            for name in names {
                unlink_if_there(self.dir.as_ref(), name)?;
            }
            self.dir.sync()
        };
        remove().map_err(|e| {
            let error = Error::io("cannot remove what was kept", e);
            error.at_path(self.dir.path())
        })
    }

    fn error(&self, e: io::Error) -> Error {
        Error::io("cannot keep what is taken out of the log", e).at_path(self.dir.path())
    }
}

/// The list with a word in the entries of these files. What is no entry stays as it is.
fn mark(list: &[u8], names: &[String], redaction: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in list.split_inclusive(|b| *b == b'\n') {
        let entry = serde_json::from_slice::<serde_json::Map<_, _>>(line).ok();
        let named = |e: &serde_json::Map<String, serde_json::Value>| {
            let name = e.get("file").and_then(|f| f.as_str());
            name.is_some_and(|name| names.iter().any(|n| n == name))
        };
        match entry.filter(named) {
            Some(mut entry) => {
                entry.insert("redacted".to_string(), redaction.into());
                out.extend(serde_json::Value::Object(entry).to_string().into_bytes());
                out.push(b'\n');
            }
            None => out.extend_from_slice(line),
        }
    }
    out
}

/// Whether `kept` is what stands in `log` at the place of `lost`.
fn is_equal(kept: &dyn File, log: &dyn File, lost: &Lost) -> io::Result<bool> {
    if kept.len()? != lost.bytes {
        return Ok(false);
    }
    let (mut a, mut b) = (vec![0; COPY_BYTES], vec![0; COPY_BYTES]);
    let mut done = 0;
    while done < lost.bytes {
        let n = kept.read_full_at(&mut a, done)?;
        if n == 0 {
            return Ok(false); // cut meanwhile
        }
        let mine = b.get_mut(..n).unwrap_or_default();
        if log.read_full_at(mine, lost.position.0 + done)? != n || a.get(..n) != Some(&*mine) {
            return Ok(false);
        }
        done += n as u64;
    }
    Ok(true)
}
