//! `.logd/lost+found`: what recovery takes out of a log is kept, one file each, with a list.
//!
//! The list is `list.ndjson`: one JSON object a line with `file`, `segment`, `position`, `bytes`,
//! `offset` (the first one lost) and `reason`. Files there are never read by logd again; a person
//! decides.

use std::io;

use crate::error::{Error, Result};
use crate::format::names::{Kind, file_name};
use crate::format::{Offset, Position};
use crate::log::files;
use crate::log::state::{read_state_file, unlink_if_there, write_state_file};
use crate::sys::{Dir, File, Host};

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
    dir: std::sync::Arc<dyn Dir>,
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
        let name = format!("{log}.{stamp}");
        let moved = || -> io::Result<()> {
            self.add(&name, lost)?;
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

    fn error(&self, e: io::Error) -> Error {
        Error::io("cannot keep what is taken out of the log", e).at_path(self.dir.path())
    }
}
